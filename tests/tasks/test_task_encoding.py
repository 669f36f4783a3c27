from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from memlaw_jax.errors import UserError
from memlaw_jax.tasks import Encoder, Record, Sample, encode_prompt, encode_records, make_records, pad
from memlaw_jax.tasks.chat import suffix_text

# Ordinary text, control tokens, digits and spaces at the edges: everything that could move the mask.
piece = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(["<|im_end|>", "<|im_start|>", "<|pad|>", "Ada: 42", ": 4", "9100672710", " ", "\n"]),
)
text = st.lists(piece, min_size=1, max_size=4).map("".join).filter(str.strip)
TOKENIZERS = ["plain", "chat", "bytes_only", "bytes_chat", "greedy_merges"]


def record(query: str, target: str) -> Record:
    return Record(key=query, query=query, target=target, where="data.jsonl, line 7")


def ids(tokenizer: PreTrainedTokenizerFast, *parts: str) -> list[int]:
    """One id a character, or a part that is one token by name."""
    vocabulary = tokenizer.get_vocab()
    return [i for part in parts for i in ([vocabulary[part]] if part in vocabulary else tokenizer(part).input_ids)]


def test_plain_arrays_against_a_hand_count(bytes_only: PreTrainedTokenizerFast):
    encoded = pad(encode_records(bytes_only, make_records([("ab:", "12"), ("c:", "345")])), pad_id=77, multiple=4)
    a, b, c, colon, one, two, three, four, five = (bytes_only.get_vocab()[letter] for letter in "abc:12345")
    end = bytes_only.eos_token_id
    # Longest is 3 + 2 + 1 = 6 tokens, and 2 + 3 + 1 = 6: rounded up to 8. Slots: 3 + 1.
    assert encoded.tokens.tolist() == [
        [a, b, colon, one, two, end, 77, 77],
        [c, colon, three, four, five, end, 77, 77],
    ]
    assert encoded.lengths.tolist() == [6, 6]
    assert encoded.answer_index.tolist() == [[2, 3, 4, 0], [1, 2, 3, 4]]
    assert encoded.labels.tolist() == [[one, two, end, 0], [three, four, five, end]]
    assert encoded.answer_mask.tolist() == [[True, True, False, False], [True, True, True, False]]
    assert encoded.train_mask.tolist() == [[True, True, True, False], [True, True, True, True]]
    assert encoded.keys == ("ab:", "c:")
    assert encoded.answer_tokens == 5
    dtypes = {encoded.tokens.dtype, encoded.lengths.dtype, encoded.answer_index.dtype, encoded.labels.dtype}
    assert dtypes == {np.dtype(np.int32)}


def test_chat_sample_against_a_hand_count(bytes_chat: PreTrainedTokenizerFast):
    (sample,) = encode_records(bytes_chat, make_records([("ab:", "12")]))
    turn = [
        *("<|im_start|>", "system\nYou are a helpful assistant.", "<|im_end|>", "\n"),
        *("<|im_start|>", "user\nab:", "<|im_end|>", "\n", "<|im_start|>", "assistant\n"),
    ]
    assert list(sample.prompt) == ids(bytes_chat, *turn)
    # 1 + 35 + 2 for the system's turn, 1 + 8 + 2 for the user's, 1 + 10 to open the assistant's.
    assert len(sample.prompt) == 60
    assert list(sample.answer) == ids(bytes_chat, "12")
    assert list(sample.suffix) == ids(bytes_chat, "<|im_end|>", "\n")
    encoded = pad([sample], pad_id=0)
    assert encoded.tokens.shape == (1, 64)
    assert encoded.answer_index.tolist() == [[59, 60, 61, 62]]
    assert encoded.answer_mask.tolist() == [[True, True, False, False]]
    assert encoded.train_mask.all()


def test_chat_without_system_message_and_with_another(bytes_chat: PreTrainedTokenizerFast):
    assert bytes_chat.decode(encode_prompt(bytes_chat, "q", system=None)).startswith("<|im_start|>user\nq<|im_end|>")
    assert "system\nBe brief.<|im_end|>" in bytes_chat.decode(encode_prompt(bytes_chat, "q", system="Be brief."))


def test_thinking_is_switched_off(chat: PreTrainedTokenizerFast):
    assert chat.decode(encode_prompt(chat, "q")).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert suffix_text(chat, None) == "<|im_end|>\n"


def test_the_prompt_is_what_inference_renders(chat: PreTrainedTokenizerFast):
    messages = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "Ada: "}]
    rendered = chat.apply_chat_template(
        messages, add_generation_prompt=True, enable_thinking=False, tokenize=True, return_dict=False
    )
    assert encode_prompt(chat, "Ada: ") == tuple(rendered)
    (sample,) = encode_records(chat, make_records([("Ada: ", "42")]))
    assert sample.prompt == tuple(rendered)


def test_a_merge_across_the_border_does_not_blur_the_mask(greedy_merges: PreTrainedTokenizerFast):
    assert len(greedy_merges("Ada: 42").input_ids) == 1  # The trap: joined as text, prompt and answer are one token.
    (sample,) = encode_records(greedy_merges, make_records([("Ada:", " 42")]))
    assert greedy_merges.decode(list(sample.prompt)) == "Ada:"
    assert greedy_merges.decode(list(sample.answer)) == " 42"


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(items=st.dictionaries(text, text, min_size=1, max_size=3), multiple=st.integers(1, 9))
def test_masked_tokens_are_the_target_and_nothing_else(
    request: pytest.FixtureRequest, name: str, items: dict[str, str], multiple: int
):
    tokenizer = request.getfixturevalue(name)
    samples = encode_records(tokenizer, make_records(items.items()))
    encoded = pad(samples, pad_id=tokenizer.pad_token_id, multiple=multiple)
    assert encoded.tokens.shape[1] % multiple == 0
    assert 0 <= encoded.tokens.shape[1] - encoded.lengths.max() < multiple
    assert encoded.answer_tokens == sum(len(sample.answer) for sample in samples)
    assert not (encoded.answer_mask & ~encoded.train_mask).any()
    for row, (query, target) in enumerate(items.items()):
        tokens, index, length = encoded.tokens[row], encoded.answer_index[row], encoded.lengths[row]
        trained, counted = encoded.train_mask[row], encoded.answer_mask[row]
        assert tokenizer.decode(tokens[index[counted] + 1]) == target
        assert not set(tokens[index[counted] + 1].tolist()) & set(tokenizer.all_special_ids)
        # Trained tokens are the last ones of the sample, in order, right after a prompt that holds the query.
        assert (index[trained] == np.arange(length - trained.sum(), length) - 1).all()
        assert (encoded.labels[row][trained] == tokens[index[trained] + 1]).all()
        assert query in tokenizer.decode(tokens[: index[0] + 1])
        assert (tokens[length:] == tokenizer.pad_token_id).all()
        assert not index[~trained].any() and not encoded.labels[row][~trained].any()


def test_control_tokens_in_a_target_are_ordinary_text(bytes_chat: PreTrainedTokenizerFast):
    (sample,) = encode_records(bytes_chat, make_records([("q", "<|im_end|>")]))
    assert len(sample.answer) == len("<|im_end|>")
    assert bytes_chat.eos_token_id not in sample.answer
    # The tokenizer is left as it was: a template's own control tokens are still single ids.
    assert bytes_chat("<|im_end|>", add_special_tokens=False).input_ids == [bytes_chat.eos_token_id]


def test_bos_follows_the_tokenizers_own_convention(
    with_bos: PreTrainedTokenizerFast, bytes_only: PreTrainedTokenizerFast
):
    (sample,) = encode_records(with_bos, make_records([("q", "12")]))
    assert sample.prompt == (with_bos.bos_token_id, with_bos.get_vocab()["q"])
    assert sample.answer == tuple(with_bos.get_vocab()[digit] for digit in "12")
    assert sample.suffix == (with_bos.eos_token_id,)
    assert encode_prompt(bytes_only, "q") == (bytes_only.get_vocab()["q"],)


def test_a_template_keeps_the_target_verbatim_and_its_day_fixed(bytes_only: PreTrainedTokenizerFast):
    template = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "{% for message in messages %}[{{ message['role'] }} {{ date_string }}]{{ message['content'] | trim }}<e>"
        "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    tokenizer = with_template(bytes_only, template)
    (sample,) = encode_records(tokenizer, make_records([("q", "  12\n")]))
    assert tokenizer.decode(list(sample.answer)) == "  12\n"
    assert tokenizer.decode(list(sample.suffix)) == "<e>"
    assert "[user 26 Jul 2024]q<e>[assistant]" in tokenizer.decode(list(sample.prompt))


def with_template(tokenizer: PreTrainedTokenizerFast, template: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, chat_template=template)


def test_templates_that_will_not_do_are_refused(
    bytes_only: PreTrainedTokenizerFast, bytes_chat: PreTrainedTokenizerFast
):
    chatml = bytes_chat.chat_template
    no_system = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role') }}{% endif %}" + chatml
    refusing = with_template(bytes_only, no_system)
    with pytest.raises(UserError, match=r"No system role.*`system: null`"):
        Encoder(refusing)
    assert bytes_only.decode(list(encode_prompt(refusing, "q", system=None))).startswith("<|im_start|>user")
    deaf = with_template(
        bytes_only,
        chatml.replace("<|im_start|>{{", "{% if message.role != 'system' %}{{").replace(
            "<|im_end|>\n{% endfor", "{% endif %}{% endfor"
        ),
    )
    with pytest.raises(UserError, match="leaves the system message out"):
        encode_prompt(deaf, "q")
    with pytest.raises(UserError, match="does not print the assistant's message"):
        Encoder(with_template(bytes_only, "{{ messages[0]['content'] }}"))
    with pytest.raises(UserError, match="no chat template"):
        Encoder(bytes_only, system="Be brief.")


def test_targets_that_cannot_be_recalled_are_named(
    words: PreTrainedTokenizerFast, stubborn: PreTrainedTokenizerFast, composing: PreTrainedTokenizerFast
):
    assert encode_records(words, [record("one", "two three")])[0].answer == (2, 3)
    with pytest.raises(UserError, match=r"data\.jsonl, line 7: record 'one': .*characters that the tokenizer lacks"):
        encode_records(words, [record("one", "two four")])
    with pytest.raises(UserError, match=r"line 7: .*END.*only as a special token"):
        encode_records(stubborn, [record("one", "two END")])
    with pytest.raises(UserError, match=r"line 7: .*no token at all"):
        encode_records(composing, [record("one", "\n")])
    with pytest.raises(UserError, match=r"line 7: .*the query .* becomes no token"):
        encode_records(composing, [record("\n", "one")])
    with pytest.raises(UserError, match=r"line 7: .*recalled verbatim"):
        encode_records(composing, [record("one", "e\u0301")])


def test_a_record_longer_than_the_model_is_named(bytes_only: PreTrainedTokenizerFast):
    fits = record("ab:", "1234")  # 3 + 4 + 1 tokens
    assert encode_records(bytes_only, [fits], max_length=8)
    with pytest.raises(UserError, match=r"data\.jsonl, line 7: record 'ab:': 8 tokens .* more than the model's 7"):
        encode_records(bytes_only, [fits], max_length=7)


def test_pad_refuses_what_it_cannot_encode():
    with pytest.raises(UserError, match="no samples"):
        pad([], pad_id=0)
    with pytest.raises(UserError, match="'k' has an empty prompt"):
        pad([Sample(key="k", prompt=(), answer=(1,))], pad_id=0)
    with pytest.raises(UserError, match="multiple is 0"):
        pad([Sample(key="k", prompt=(1,), answer=(1,))], pad_id=0, multiple=0)
