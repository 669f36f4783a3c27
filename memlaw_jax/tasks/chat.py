"""How a query is put to the model: its chat template where it has one, the plain text otherwise."""

from __future__ import annotations

import re
from datetime import date
from typing import TYPE_CHECKING, cast

from memlaw_jax.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_SYSTEM = "You are a helpful assistant."
_SENTINEL = "The-assistant's-answer-stands-here"
# Llama 3.2's template and others print today's date, which would change the prompt, and so what the adapter was trained
# on, overnight. They get the day that Llama 3.1's prints by default. transformers lets no function of ours through to a
# template, so the call is replaced in its text.
_DAY = date(2024, 7, 26)
_TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")


def has_chat_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether queries go through a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def prompt_text(tokenizer: PreTrainedTokenizerBase, query: str, system: str | None) -> str:
    """Everything the model reads before the answer: thinking off, generation prompt included.

    It is what `tokenizer.apply_chat_template` makes of the same messages with `add_generation_prompt=True` and
    `enable_thinking=False`, so inference starts where training did; only today's date stays at 26 July 2024.
    """
    text = _render(tokenizer, [*_system(system), {"role": "user", "content": query}], system, generation=True)
    if system and system.strip() not in text:
        raise UserError(
            "The tokenizer's chat template leaves the system message out of the prompt; set `system: null` for this "
            "model."
        )
    return text


def suffix_text(tokenizer: PreTrainedTokenizerBase, system: str | None) -> str:
    """What the template writes after the assistant's words, such as "<|im_end|>\\n"."""
    turns = [{"role": "user", "content": "query"}, {"role": "assistant", "content": _SENTINEL}]
    text = _render(tokenizer, [*_system(system), *turns], system, generation=False)
    _, found, suffix = text.rpartition(_SENTINEL)
    if not found:
        raise UserError("The tokenizer's chat template does not print the assistant's message; use another template.")
    return suffix


def _system(system: str | None) -> list[dict[str, str]]:
    return [] if system is None else [{"role": "system", "content": system}]


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], system: str | None, *, generation: bool
) -> str:
    try:
        from jinja2 import TemplateError

        template = _TODAY.sub(lambda call: repr(_DAY.strftime(call[2])), tokenizer.get_chat_template())
        text = tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=generation, enable_thinking=False
        )
    except ImportError:
        raise UserError(
            "This tokenizer has a chat template, which needs jinja2 3.1.6 or later; run `pip install -U jinja2`."
        ) from None
    except (TemplateError, TypeError, ValueError) as error:
        advice = "use another template" if system is None else "set `system: null` if it takes no system message"
        raise UserError(f"The tokenizer's chat template refuses the conversation ({error}); {advice}.") from None
    return cast(str, text)
