"""Small real tokenizers, made here so that every id can be counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

if TYPE_CHECKING:
    from memlaw_jax.models import Base

CORPUS = [
    "The telephone book of the town lists every name with ten digits: 9100672710, 6780438158, 6491980034.",
    "Jerry Becerra, Francisco Laramee and Christian Becker are friends of the family and friends of the town.",
    "A system prompt reads: You are a helpful assistant. The user asks and the assistant answers.",
]

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = CHATML.replace(
    "assistant\n{%",
    "assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{%",
)


def wrap(tokenizer: Tokenizer, template: str | None = None, **special: str) -> PreTrainedTokenizerFast:
    names = {"eos_token": "<|im_end|>", "pad_token": "<|pad|>", **special}
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
        **names,
    )
    made.chat_template = template
    return made


def byte_level(corpus: list[str], *, vocabulary: int, split: pre_tokenizers.PreTokenizer | None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is not None)
    tokenizer.pre_tokenizer = last if split is None else pre_tokenizers.Sequence([split, last])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(corpus * 20, trainer)
    return tokenizer


@pytest.fixture(scope="session")
def plain() -> PreTrainedTokenizerFast:
    """Merges words, never digits; no chat template."""
    return wrap(byte_level(CORPUS, vocabulary=400, split=pre_tokenizers.Digits(individual_digits=True)))


@pytest.fixture(scope="session")
def chat() -> PreTrainedTokenizerFast:
    """The same with ChatML and an empty thought where thinking is off."""
    split = pre_tokenizers.Digits(individual_digits=True)
    return wrap(byte_level(CORPUS, vocabulary=400, split=split), THINKING)


@pytest.fixture(scope="session")
def bytes_only() -> PreTrainedTokenizerFast:
    """One token a byte, so that token counts are character counts."""
    return wrap(byte_level(["x"], vocabulary=256, split=None))


@pytest.fixture(scope="session")
def bytes_chat() -> PreTrainedTokenizerFast:
    return wrap(byte_level(["x"], vocabulary=256, split=None), CHATML)


@pytest.fixture(scope="session")
def greedy_merges() -> PreTrainedTokenizerFast:
    """Merges across anything: 'Ada: 42' is a single token."""
    return wrap(byte_level(["Ada: 42", "Bob: 42"], vocabulary=300, split=None))


@pytest.fixture(scope="session")
def with_bos() -> PreTrainedTokenizerFast:
    """Writes <s> before and </s> after a text by itself, as Llama and T5 do."""
    tokenizer = byte_level(["x"], vocabulary=256, split=None)
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A $B </s>",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")],
    )
    return wrap(tokenizer, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def composing() -> PreTrainedTokenizerFast:
    """Composes accents (NFC) before it reads, as Qwen's does, and drops line breaks."""
    tokenizer = byte_level(["x"], vocabulary=256, split=None)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex("\n"), "")])
    return wrap(tokenizer)


@pytest.fixture(scope="session")
def words() -> PreTrainedTokenizerFast:
    """Knows three words and reads nothing else."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "one": 1, "two": 2, "three": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return wrap(tokenizer, unk_token="[UNK]")


@pytest.fixture(scope="session")
def stubborn() -> PreTrainedTokenizerFast:
    """Its end token is an ordinary word of the vocabulary, so no option keeps it out of a text."""
    tokenizer = Tokenizer(models.WordLevel({"one": 0, "two": 1, "END": 2, "[UNK]": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken("END", special=True)])
    return wrap(tokenizer, unk_token="[UNK]", eos_token="END")


@pytest.fixture(scope="session")
def embedded() -> Base:
    """The model that comes with the package."""
    from memlaw_jax.models import load_base

    return load_base("embedded")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The release's files, which lie beside the repository."""
    folder = Path(__file__).parents[2] / ".." / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return folder
