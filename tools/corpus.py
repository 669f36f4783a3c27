"""The embedded base model's corpus: the Python sources of the CPython that runs this script (PSF licence).

Files are ordered by a hash of their path: the first of them, up to 320 kB, are held out, whole, and never seen by the
tokenizer or the model. Machine-made tables (codec maps and the like) are left out on both sides, since they flatter
everybody.
"""

from __future__ import annotations

import hashlib
import sysconfig
from pathlib import Path

LEFT_OUT = ("site-packages", "encodings", "__pycache__", "lib2to3/tests/data", "test/cjkencodings", "bad_coding")
HELD_OUT_BYTES = 320_000


def read_files(root: Path | None = None) -> dict[str, str]:
    """`{path relative to the library: text}` of every UTF-8 source file that is no table."""
    root = root or Path(sysconfig.get_paths()["stdlib"])
    files = {}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if any(part in name for part in LEFT_OUT):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if text.strip() and not _is_table(text):
            files[name] = text
    return files


def split(files: dict[str, str]) -> tuple[list[str], list[str]]:
    """`(training texts, held-out texts)`; held-out files are drawn by hash until they hold `HELD_OUT_BYTES`."""
    order = sorted(files, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    held, size = [], 0
    for name in order:
        if size < HELD_OUT_BYTES and len(files[name]) < 60_000:
            held.append(name)
            size += len(files[name].encode())
    chosen = set(held)
    return [files[name] for name in order if name not in chosen], [files[name] for name in held]


def _is_table(text: str) -> bool:
    """More digits, escapes and punctuation than words: data, not prose or code."""
    letters = sum(c.isalpha() or c.isspace() for c in text)
    return letters / len(text) < 0.55
