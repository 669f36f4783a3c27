"""Chat templates as transformers renders them, and the border between prompt and answer.

The templates are our own; for these conversations Qwen3's and Llama's print what the models' do, letter by letter.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from memlaw_jax.errors import UserError
from memlaw_jax.tasks import Encoder, Record, Sample, encode_prompt, pad
from memlaw_jax.tasks.chat import prompt_text, suffix_text

SYSTEM = "You are a helpful assistant."
QWEN_TOKENS = ["<|im_start|>", "<|im_end|>"]
LLAMA_TOKENS = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]

CHATML_TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role ~ '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}ANSWER{% else %}{{ m.content }}{% endif %}<|im_end|>{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{{ 'assistant\n' }}OPENING{% endif %}"
)
THOUGHT = "{{ '<think>\n\n</think>\n\n' }}"
# Qwen3-8B: an empty thought closes the generation prompt, and the last answer has one before it and loses the line
# breaks in front.
QWEN3 = CHATML_TURNS.replace("ANSWER", THOUGHT + "{{ m.content.lstrip('\n') }}").replace(
    "OPENING", "{% if enable_thinking is defined and not enable_thinking %}" + THOUGHT + "{% endif %}"
)
# Qwen3-4B-Instruct-2507 knows no thoughts.
QWEN3_2507 = CHATML_TURNS.replace("ANSWER", "{{ m.content }}").replace("OPENING", "")
# As Qwen2.5's, with a system message of its own where none is given.
QWEN25 = (
    "{% if messages[0].role != 'system' %}<|im_start|>{{ 'system\nBe Qwen.' }}<|im_end|>{{ '\n' }}{% endif %}"
    + QWEN3_2507
)
# As DeepSeek-R1's: the answer is to begin with a thought, whatever is asked for, and later shows none.
OPEN_THOUGHT = CHATML_TURNS.replace("ANSWER", "{{ m.content }}").replace("OPENING", "{{ '<think>\n' }}")
# Llama 3.1: always a system turn, which tells the date; every content trimmed.
_LLAMA = (
    "{% macro turn(role, text) %}<|start_header_id|>{{ role }}<|end_header_id|>{{ '\n\n' ~ text }}{% endmacro %}"
    "{% set first = messages[0] %}{% set has_system = first.role == 'system' %}"
    "{{ bos_token ~ turn('system', 'Cutting Knowledge Date: December 2023\nToday Date: ') }}"
    "{{ date_string if date_string is defined else DAY }}{{ '\n\n' ~ (first.content | trim if has_system else '') }}"
    "<|eot_id|>{% for m in messages if m.role != 'system' %}{{ turn(m.role, m.content | trim) }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}{{ turn('assistant', '') }}{% endif %}"
)
LLAMA31 = _LLAMA.replace("DAY", "'26 Jul 2024'")
LLAMA32 = _LLAMA.replace("DAY", "strftime_now('%d %b %Y')")
# Mistral 7B v0.3: the system message opens the user's turn, and the end of the text ends the answer.
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {% if messages[0].role == 'system' %}"
    "{{ messages[0].content ~ '\n\n' }}{% endif %}{{ m.content }}[/INST]"
    "{% elif m.role == 'assistant' %}{{ ' ' ~ m.content | trim ~ eos_token }}{% endif %}{% endfor %}"
)


def wrap(tokenizer: Tokenizer, special: list[str], template: str | None = None, **names: str):
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        additional_special_tokens=special,
        clean_up_tokenization_spaces=False,
        chat_template=template,
        **names,
    )


def byte_level(merges: list[str], bos: str | None = None) -> Tokenizer:
    """One token a byte, but for merges written as "left right"."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [tuple(merge.split()) for merge in merges]
    pieces = dict.fromkeys([*alphabet, *("".join(pair) for pair in pairs)])
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos is not None:
        tokenizer.add_special_tokens([bos])
        ids = [(bos, tokenizer.token_to_id(bos))]
        tokenizer.post_processor = processors.TemplateProcessing(f"{bos} $A", f"{bos} $A {bos} $B", ids)
    return tokenizer


def qwen(template: str | None) -> PreTrainedTokenizerFast:
    # As in Qwen3, the thought's tags are single tokens, but no control tokens.
    tokenizer = byte_level(["Ċ Ċ", "a s", "e r", "1 0"])
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in ("<think>", "</think>")])
    return wrap(tokenizer, QWEN_TOKENS, template, eos_token="<|im_end|>")


def llama(template: str | None) -> PreTrainedTokenizerFast:
    """Adds its beginning of text by itself, which the template prints too."""
    tokenizer = byte_level(["Ċ Ċ", "a s", "e r", "1 0"], bos=LLAMA_TOKENS[0])
    return wrap(tokenizer, LLAMA_TOKENS, template, bos_token=LLAMA_TOKENS[0], eos_token="<|eot_id|>")


def messages(query: str, system: str | None, answer: str | None = None) -> list[dict[str, str]]:
    turns = [("system", system), ("user", query), ("assistant", answer)]
    return [{"role": role, "content": content} for role, content in turns if content is not None]


def template_ids(tokenizer: PreTrainedTokenizerFast, chat: list[dict[str, str]], **options) -> tuple[int, ...]:
    """What transformers gives the model at inference."""
    options = {"enable_thinking": False, "return_dict": False, **options}
    return tuple(tokenizer.apply_chat_template(chat, tokenize=True, **options))


def sample(tokenizer: PreTrainedTokenizerFast, query: str, target: str, system: str | None = SYSTEM) -> Sample:
    return Encoder(tokenizer, system=system).sample(Record(key=query, query=query, target=target))


QWEN_HEAD = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
LLAMA_HEAD = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
    "Today Date: 26 Jul 2024\n\n"
)
LLAMA_ASK = (
    "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nJerry Becerra:<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
RENDERED = {
    "qwen3": (
        *(qwen, QWEN3, SYSTEM, "Jerry Becerra:"),
        QWEN_HEAD + "<|im_start|>user\nJerry Becerra:<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "<|im_end|>\n",
    ),
    "qwen3, no system, spaces around": (
        *(qwen, QWEN3, None, "\n Jerry Becerra: \n"),
        "<|im_start|>user\n\n Jerry Becerra: \n<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "<|im_end|>\n",
    ),
    "qwen3-2507": (
        *(qwen, QWEN3_2507, SYSTEM, "Jerry Becerra:"),
        QWEN_HEAD + "<|im_start|>user\nJerry Becerra:<|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|>\n",
    ),
    "qwen2.5, its own system": (
        *(qwen, QWEN25, None, "Jerry Becerra:"),
        "<|im_start|>system\nBe Qwen.<|im_end|>\n<|im_start|>user\nJerry Becerra:<|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|>\n",
    ),
    "llama3.1": (
        *(llama, LLAMA31, SYSTEM, "Jerry Becerra:"),
        LLAMA_HEAD + "You are a helpful assistant." + LLAMA_ASK,
        "<|eot_id|>",
    ),
    "llama3.1, spaces around": (
        *(llama, LLAMA31, "\n You are a helpful assistant. ", "\n Jerry Becerra: \n"),
        LLAMA_HEAD + "You are a helpful assistant." + LLAMA_ASK,
        "<|eot_id|>",
    ),
    "llama3.1, no system": (*(llama, LLAMA31, None, "Jerry Becerra:"), LLAMA_HEAD + LLAMA_ASK, "<|eot_id|>"),
}


@pytest.mark.parametrize(
    ("make", "template", "system", "query", "prompt", "suffix"), RENDERED.values(), ids=RENDERED.keys()
)
def test_prompt_and_suffix_are_what_the_models_template_prints(make, template, system, query, prompt, suffix):
    tokenizer = make(template)
    assert prompt_text(tokenizer, query, system) == prompt
    assert suffix_text(tokenizer, system) == suffix
    got = sample(tokenizer, query, "9100672710", system)
    assert got.prompt == encode_prompt(tokenizer, query, system=system)
    assert got.prompt == template_ids(tokenizer, messages(query, system), add_generation_prompt=True)
    # Nothing merges across a control token or a digit here, so the parts are the finished conversation, token by token.
    whole = template_ids(tokenizer, messages(query, system, "9100672710"))
    assert got.prompt + got.answer + got.suffix == whole
    assert tokenizer.decode(whole) == prompt + "9100672710" + suffix


def test_control_tokens_are_single_ids_and_the_beginning_of_text_comes_once():
    for make, template, written in [
        (qwen, QWEN3, ["<|im_start|>", "<|im_end|>"] * 2 + ["<|im_start|>", "<think>", "</think>"]),
        (
            *(llama, LLAMA31),
            ["<|begin_of_text|>", *["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"] * 3][:-1],
        ),
    ]:
        tokenizer = make(template)
        got = sample(tokenizer, "Ada:", "42")
        tokens = tokenizer.convert_ids_to_tokens(list(got.prompt))
        assert [token for token in tokens if token.startswith("<") and len(token) > 1] == written
        assert tokenizer.convert_ids_to_tokens(got.suffix[0]) == tokenizer.eos_token
    assert llama(None)("a").input_ids == [llama(None).bos_token_id, llama(None).get_vocab()["a"]]


def test_a_system_message_may_open_the_users_turn():
    tokenizer = wrap(byte_level([], bos="<s>"), ["[INST]", "[/INST]"], MISTRAL, bos_token="<s>", eos_token="</s>")
    assert prompt_text(tokenizer, "Ada:", None) == "<s>[INST] Ada:[/INST]"
    assert prompt_text(tokenizer, "Ada:", SYSTEM) == "<s>[INST] You are a helpful assistant.\n\nAda:[/INST]"
    assert sample(tokenizer, "Ada:", "42").suffix == (tokenizer.eos_token_id,)
    chat = messages("Ada:", SYSTEM)
    assert encode_prompt(tokenizer, "Ada:") == template_ids(tokenizer, chat, add_generation_prompt=True)


def test_a_thought_that_cannot_be_switched_off_stays_in_the_prompt():
    tokenizer = qwen(OPEN_THOUGHT)
    got = sample(tokenizer, "Ada:", "42", None)
    assert tokenizer.decode(got.prompt) == "<|im_start|>user\nAda:<|im_end|>\n<|im_start|>assistant\n<think>\n"
    assert got.prompt == template_ids(tokenizer, messages("Ada:", None), add_generation_prompt=True)
    assert tokenizer.decode(got.suffix) == "<|im_end|>\n"


@pytest.mark.parametrize(("make", "template"), [(qwen, QWEN3), (llama, LLAMA31)])
def test_control_tokens_count_in_a_query_as_at_inference_and_never_in_a_target(make, template):
    tokenizer = make(template)
    text = f"a{tokenizer.eos_token}</think>{{{{ bos_token }}}}{{% if %}}<|begin_of_text|>"
    got = sample(tokenizer, text, text)
    assert got.prompt == template_ids(tokenizer, messages(text, SYSTEM), add_generation_prompt=True)
    assert got.prompt.count(tokenizer.eos_token_id) == 3  # two turns, and the query's own
    assert tokenizer.decode(got.answer) == text
    assert not set(tokenizer.all_special_ids) & set(got.answer)


def test_a_template_that_changes_the_answer_does_not_change_the_target():
    for make, template, suffix in [(qwen, QWEN3, "<|im_end|>\n"), (llama, LLAMA31, "<|eot_id|>")]:
        tokenizer = make(template)
        got = sample(tokenizer, "Ada:", "\n\n </think> 42 \n")
        assert tokenizer.decode(got.answer) == "\n\n </think> 42 \n"
        assert tokenizer.decode(got.suffix) == suffix


def test_the_day_stands_still():
    tokenizer = llama(LLAMA32)
    assert prompt_text(tokenizer, "Jerry Becerra:", None) == LLAMA_HEAD + LLAMA_ASK
    chat = messages("Jerry Becerra:", None)
    told = template_ids(tokenizer, chat, add_generation_prompt=True, date_string="26 Jul 2024")
    assert encode_prompt(tokenizer, "Jerry Becerra:", system=None) == told
    clock = (
        "{% if strftime_now is defined %}{{ strftime_now(\"%Y-%m-%d\") }}, {{strftime_now( '%B %d, %Y' )}}{% endif %}"
    )
    assert prompt_text(qwen(clock), "Ada:", None) == "2024-07-26, July 26, 2024"


def test_templates_that_break_are_refused_in_one_sentence():
    with pytest.raises(UserError, match="refuses the conversation"):
        Encoder(qwen("{{ messages[0].content + 1 }}"))
    tokenizer = qwen(None)
    tokenizer.chat_template = {"default": QWEN3, "tool_use": "tools"}
    assert encode_prompt(tokenizer, "Ada:") == encode_prompt(qwen(QWEN3), "Ada:")
    tokenizer.chat_template = {"rag": "a", "tool_use": "b"}
    with pytest.raises(UserError, match="no default"):
        Encoder(tokenizer)


# The border.

CROSSING = ["Ċ Ċ", "ĊĊ 9", ": 9", "Ġ 9", "2 [", "9 1"]
PLAIN_END = CHATML_TURNS.replace("ANSWER", "{{ m.content }}").replace("OPENING", "").replace("<|im_end|>", "[end]")


def crossing(template: str | None) -> PreTrainedTokenizerFast:
    tokenizer = byte_level(CROSSING)
    return wrap(tokenizer, QWEN_TOKENS, template, eos_token="<|im_end|>")


def masked(tokenizer: PreTrainedTokenizerFast, got: Sample) -> str:
    encoded = pad([got], pad_id=0)
    where = encoded.answer_index[0][encoded.answer_mask[0]]
    labels = encoded.labels[0][encoded.answer_mask[0]]
    assert (encoded.tokens[0][where + 1] == labels).all()
    assert where.tolist() == list(range(len(got.prompt) - 1, len(got.prompt) - 1 + len(got.answer)))
    return tokenizer.decode(labels)


@pytest.mark.parametrize(
    ("template", "query", "target", "merged"),
    [
        (None, "Ada:", "91", ":9"),
        (None, "Ada: ", "91", "Ġ9"),
        (QWEN3, "Ada:", "91", "ĊĊ9"),  # after the empty thought
        (PLAIN_END, "Ada:", "42", "2["),  # into the suffix
    ],
)
def test_a_merge_across_the_border_moves_neither_prompt_nor_mask(template, query, target, merged):
    tokenizer = crossing(template)
    got = sample(tokenizer, query, target, None)
    if template is None:
        text, prompt = query + target, tuple(tokenizer(query).input_ids)
    else:
        text = tokenizer.apply_chat_template(messages(query, None, target), tokenize=False)
        prompt = template_ids(tokenizer, messages(query, None), add_generation_prompt=True)
    # The trap: read as one text, a token holds characters of both sides.
    assert merged in tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)
    assert got.prompt == prompt
    assert masked(tokenizer, got) == target
    assert tokenizer.decode(got.suffix) == (
        "[end]\n" if template == PLAIN_END else "<|im_end|>" + "\n" * bool(template)
    )
    assert merged not in tokenizer.convert_ids_to_tokens(list(got.prompt + got.answer + got.suffix))


def metaspace(merges: list[tuple[str, str]], template: str | None = None) -> PreTrainedTokenizerFast:
    """Sentencepiece's way: a space before the first word of a text, taken away when it is decoded."""
    pieces = dict.fromkeys(["▁", "\n", *map(chr, range(33, 127)), *("".join(pair) for pair in merges)])
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    return wrap(tokenizer, QWEN_TOKENS, template, eos_token="<|im_end|>")


def test_sentencepieces_first_space_is_no_token_of_the_answer():
    tokenizer = metaspace([("▁", "4"), (":", "4"), ("4", "2")])
    assert tokenizer.convert_ids_to_tokens(tokenizer("42").input_ids) == ["▁4", "2"]  # the trap
    for target, tokens in [("42", ["42"]), (" 42", ["▁4", "2"]), ("9 42", ["9", "▁4", "2"]), ("\n4", ["\n", "4"])]:
        got = sample(tokenizer, "Ada:", target, None)
        assert tokenizer.convert_ids_to_tokens(list(got.answer)) == tokens
        assert got.prompt == tuple(tokenizer("Ada:").input_ids)
        assert tokenizer.decode(got.prompt + got.answer) == "Ada:" + target
    template = "{% for m in messages %}{{ m.role ~ ': ' ~ m.content ~ ' (end) ' }}{% endfor %}"
    got = sample(metaspace([], template), "Ada:", "42", None)
    # Read by itself, the suffix would begin with two spaces.
    assert tokenizer.convert_ids_to_tokens(list(got.suffix)) == ["▁", *"(end)", "▁"]


def test_a_space_that_is_written_even_inside_a_text_is_forgiven_and_no_other_change():
    tokenizer = byte_level(["Ġ Ċ"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    spaced = wrap(tokenizer, [], eos_token="<|im_end|>")
    assert spaced.convert_ids_to_tokens(list(sample(spaced, "Ada:", "42", None).answer)) == ["Ġ", "4", "2"]
    lossy = byte_level([])
    lossy.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "removed"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    with pytest.raises(UserError, match="cannot be recalled verbatim"):
        sample(wrap(lossy, [], eos_token="<|im_end|>"), "Ada:", "\n42", None)


WORDS = st.text(st.sampled_from("a:94[ \n"), min_size=1, max_size=8).filter(str.strip)


@pytest.mark.parametrize(
    ("template", "spaced"),
    [(None, False), (QWEN3, False), (PLAIN_END, False), (None, True), (PLAIN_END, True)],
    ids=["plain", "qwen3", "plain_end", "metaspace", "metaspace-plain_end"],
)
def test_against_the_offsets_of_the_whole_text(template: str | None, spaced: bool):
    """Where no token lies across a border, the parts are the whole text's tokens; elsewhere they still spell it."""
    seen = Counter()
    letters = "a:94[▁" if spaced else "a:94[ĠĊ"  # Sentencepiece keeps line breaks out of its merges.
    one, more = st.sampled_from(letters), st.text(st.sampled_from(letters), min_size=1, max_size=2)

    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(
        first=st.lists(st.tuples(one, one), min_size=12, max_size=24, unique=True),
        later=st.lists(st.tuples(more, more), max_size=12),
        query=WORDS,
        target=WORDS,
    )
    def check(first: list[tuple[str, str]], later: list[tuple[str, str]], query: str, target: str):
        known = set(letters)
        usable = []
        for left, right in first + later:  # A merge joins what an earlier one made.
            if left in known and right in known and left + right not in known:
                usable.append((left, right))
                known.add(left + right)
        if spaced:
            tokenizer = metaspace(usable, template)
        else:
            tokenizer = wrap(
                byte_level([" ".join(pair) for pair in usable]), QWEN_TOKENS, template, eos_token="<|im_end|>"
            )
        got = sample(tokenizer, query, target, None)
        if template is None:
            before, after = query, "<|im_end|>"
            prompt = tuple(tokenizer(query, add_special_tokens=False).input_ids)
        else:
            before, after = prompt_text(tokenizer, query, None), suffix_text(tokenizer, None)
            prompt = template_ids(tokenizer, messages(query, None), add_generation_prompt=True)
        assert got.prompt == prompt
        assert tokenizer.decode(got.prompt + got.answer).removeprefix(tokenizer.decode(prompt)) == target
        alone = masked(tokenizer, got)
        # Decoded by itself, sentencepiece's first token loses its spaces.
        assert alone.replace(" ", "") == target.replace(" ", "") if spaced else alone == target

        whole = tokenizer(before + target + after, add_special_tokens=False, return_offsets_mapping=True)
        start, end = len(before), len(before) + len(target)
        offsets = np.array(whole.offset_mapping)
        if any(((offsets[:, 0] < border) & (border < offsets[:, 1])).any() for border in (start, end)):
            seen["across"] += 1
            return
        seen["apart"] += 1
        assert tuple(whole.input_ids) == got.prompt + got.answer + got.suffix
        inside = (offsets[:, 0] >= start) & (offsets[:, 1] <= end)
        assert tuple(np.array(whole.input_ids)[inside].tolist()) == got.answer

    check()
    assert min(seen["apart"], seen["across"]) >= 20, seen
