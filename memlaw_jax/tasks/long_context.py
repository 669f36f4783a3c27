"""Long context: one long target, a share ρ of its tokens replaced by random ones (paper, section 3)."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from etils import epath
from pydantic import Field

from memlaw_jax.errors import UserError
from memlaw_jax.settings import Count, PathText, Seed, settings
from memlaw_jax.tasks.chat import DEFAULT_SYSTEM
from memlaw_jax.tasks.encoding import Encoder, Sample, special_ids
from memlaw_jax.tasks.fingerprint import digest
from memlaw_jax.tasks.length import check_length
from memlaw_jax.tasks.records import read_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUERY = "Please output the content of the vector memory injected into the activations."
PAPER_TOKENS = 29_709
TEXT_BESIDE_TOKENIZER = "heldout.txt"


def replaced_positions(ratio: float, tokens: int) -> list[int]:
    """Where the random tokens go: ⌊(i + ½) · n / count⌋ for i below count = round(ρ · n)."""
    count = round(ratio * tokens)
    return [(2 * i + 1) * tokens // (2 * count) for i in range(count)]


def ordinary_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the vocabulary that text is made of: no special and no added tokens, ascending."""
    kept = set(tokenizer.get_vocab().values()) - special_ids(tokenizer) - set(tokenizer.added_tokens_decoder)
    if not kept:
        raise UserError("The tokenizer has no ordinary tokens to draw random ones from; use another model.")
    return sorted(kept)


def random_tokens(vocabulary: Sequence[int], tokens: int, seed: int) -> list[int]:
    """Uniform draws; position i gets the same token however many are drawn."""
    stream = random.Random(f"long context {seed}")
    return [vocabulary[int(stream.random() * len(vocabulary))] for _ in range(tokens)]


@settings
class LongContext:
    """One target of n tokens, of which a length ℓ takes the first ℓ. Token ids throughout, never re-tokenised.

    There is no suffix, because its place would depend on ℓ and every length must be a causal prefix of the longest.

    Attributes:
      ratio: share ρ of random tokens, 0 to 1 (the paper's r100 is 1). At one position every ratio draws the same token.
      text: a UTF-8 file for the rest; None looks for `heldout.txt` beside the tokenizer.
      tokens: n; None means the whole text, or the paper's 29,709 where no text is used.
      seed: of the random tokens.
      system: the system message of chat models; None for none.
    """

    ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    text: PathText | None = None
    tokens: Count | None = None
    seed: Seed = 0
    system: str | None = DEFAULT_SYSTEM

    name: ClassVar[str] = "long_context"
    label: ClassVar[str] = "Task long_context"

    def fingerprint(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """Hash of the prompt's and the whole target's token ids."""
        prompt = Encoder(tokenizer, system=self.system).prompt(QUERY)
        return digest({"prompt": prompt, "target": self._target(tokenizer, None)})

    def samples(
        self, tokenizer: PreTrainedTokenizerBase, length: int | None, *, max_length: int | None = None
    ) -> list[Sample]:
        """One sample with the first `length` target tokens, or with all of them."""
        check_length(length)
        prompt = Encoder(tokenizer, system=self.system).prompt(QUERY)
        answer = tuple(self._target(tokenizer, length))
        if max_length is not None and len(prompt) + len(answer) > max_length:
            raise UserError(
                f"length is {len(answer)}, which with the prompt's {len(prompt)} tokens is more than the model's "
                f"{max_length}; ask for at most {max(0, max_length - len(prompt))}."
            )
        return [Sample(key=self.name, prompt=prompt, answer=answer)]

    def source_bits(self, tokenizer: PreTrainedTokenizerBase, length: int, samples: int) -> float | None:
        """Of tokens that are all drawn at random; None at other ratios, for nobody knows the entropy of the text."""
        return length * math.log2(len(ordinary_ids(tokenizer))) if self.ratio == 1 else None

    def _target(self, tokenizer: PreTrainedTokenizerBase, length: int | None) -> list[int]:
        """The first `length` target tokens, at no more work than they need."""
        path = self._text_path(tokenizer)
        source: Sequence[int] | None = None
        total = self.tokens or PAPER_TOKENS
        if path is not None:
            source = Encoder(tokenizer, system=None).text(read_text(path, "a text to remember"), str(path))
            total = self.tokens or len(source)
            if total > len(source):
                raise UserError(f"tokens is {total}, but {path} has only {len(source)} tokens; use a longer text.")
        if length is not None and length > total:
            origin = f"from {path}" if path is not None else "(`tokens`)"
            raise UserError(f"length is {length}, but the long context has {total} tokens {origin}; ask for less.")
        wanted = total if length is None else length
        noise = random_tokens(ordinary_ids(tokenizer), wanted, self.seed) if self.ratio > 0 else []
        if source is None:
            return noise
        target = list(source[:wanted])
        for position in replaced_positions(self.ratio, total):
            if position >= wanted:
                break
            target[position] = noise[position]
        return target

    def _text_path(self, tokenizer: PreTrainedTokenizerBase) -> str | None:
        if self.text is not None or self.ratio == 1:
            return self.text
        beside = epath.Path(tokenizer.name_or_path) / TEXT_BESIDE_TOKENIZER if tokenizer.name_or_path else None
        if beside is None or not beside.is_file():
            raise UserError(
                f"ratio is {self.ratio}, so {1 - self.ratio:.0%} of the target are text; name a file with `text:`, or "
                "set `ratio: 1.0` for random tokens only."
            )
        return str(beside)
