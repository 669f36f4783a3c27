"""Numbers as print has them: a true minus, and powers of ten instead of e-05."""

from __future__ import annotations

import re

_HYPHEN = re.compile(r"(?<![\w.,/\-−–])-(?=\.?\d)")  # before a number; not within names, dates, paths or options
_POWER = re.compile(r"\b(\d(?:\.\d+)?)e([+\-−]?)0*(\d+)\b")
_RAISED = str.maketrans("0123456789-−", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁻")


def signs(said: str) -> str:
    """The text with its negative numbers and powers of ten set; everything else stays as it is."""
    return _POWER.sub(_power, _HYPHEN.sub("−", said))


def _power(found: re.Match[str]) -> str:
    sign = "" if found[2] == "+" else found[2]
    return f"{found[1]} × 10{(sign + found[3]).translate(_RAISED)}"
