"""A long text in pieces: cut where a reader would pause, so that the pieces joined are the text again."""

from __future__ import annotations

import re

from memlaw_jax.errors import UserError

# Ends of paragraphs, of lines and sentences, of words: the first kind that leaves no short piece is taken.
_BORDERS = tuple(re.compile(border) for border in (r"\n\s*\n", r"\n|(?<=[.!?])\s", r"\s"))
_BLANKS = re.compile(r"\s*")


def cut_text(text: str, characters: int) -> list[str]:
    """Consecutive pieces of at most `characters` characters, not counting the blanks around a piece.

    Blanks stay with the piece before them (at the start of the text with the one after), so no piece is blank. A word
    is cut only if it is longer than half of `characters`.

    Raises:
      UserError: `characters` is below 1.
    """
    if characters < 1:
        raise UserError(f"characters is {characters}; give the length of the pieces, 1 or more.")
    pieces: list[str] = []
    start, words, end = 0, _next_word(text, 0), len(text.rstrip())
    while words < end:
        stop = len(text) if end - words <= characters else _next_word(text, _border(text, words, words + characters))
        pieces.append(text[start:stop])
        start = words = stop
    return pieces


def _border(text: str, start: int, limit: int) -> int:
    """The last place of the best kind to end a piece in the latter half of start … limit, or `limit` itself."""
    for border in _BORDERS:
        # One character more, so that blanks right behind the limit count.
        ends = [found.start() for found in border.finditer(text, start, limit + 1)]
        if ends and ends[-1] >= start + (limit - start + 1) // 2:
            return ends[-1]
    return limit


def _next_word(text: str, position: int) -> int:
    found = _BLANKS.match(text, position)
    return found.end() if found else position
