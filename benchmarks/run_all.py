"""All benchmarks, one after the other: every table and figure of the paper, and how long ours takes.

What: `law_long_context`, `law_phonebook`, `memft_long_context`, `memft_phonebook`, `phase_transition`, `linear_rule`,
`exact_scenarios`, `throughput` and `makespan`, each in a process of its own and in its own folder. One that fails stops
no other. What of the paper each repeats, its hardware, time and expected result stand in its docstring.
Hardware: any CPU. Time: the sum of theirs, some hours on 2 cores (`--dry-run` asks each); `--scale tiny` half an hour.
Expected: every script ends with code 0. Whether the paper's claims hold at this scale stands in `claims.md`.
Command:

    python benchmarks/run_all.py --out runs/benchmarks                            # a laptop; the same command goes on
    python benchmarks/run_all.py --only law_long_context throughput --out runs/benchmarks
    python benchmarks/run_all.py --scale tiny --out runs/benchmarks_tiny          # shows that all work
    python benchmarks/run_all.py --dry-run

On a GPU or a TPU pod give each script its own `--scale paper`, with `--model` and `--hardware`: their grids take days.
OUT gets a folder a script and `claims.md`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from throughput_machine import Mistake, Parser, guarded

HERE = Path(__file__).resolve().parent
SCRIPTS = (
    "law_long_context", "law_phonebook", "memft_long_context", "memft_phonebook", "phase_transition", "linear_rule",
    "exact_scenarios", "throughput", "makespan",
)  # fmt: skip
INTERRUPTED = 130  # the shell's code for Ctrl-C
PATIENCE = 10.0  # seconds that a child has to end by itself


def parser() -> Parser:
    """Everything else is the scripts' own."""
    made = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("--scale", choices=("embedded", "tiny"), default="embedded")
    add("--only", nargs="+", choices=SCRIPTS, metavar="NAME", help=f"which scripts, of {', '.join(SCRIPTS)}")
    add("--dry-run", action="store_true", help="have each script say what it would do")
    add("--out", type=Path, default=Path("runs/benchmarks"), metavar="DIR")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """0; 1 if a script failed; 2 for a user's mistake; 130 after Ctrl-C."""
    return guarded(_main, arguments)


def _main(arguments: Sequence[str] | None) -> int:
    given = parser().parse_args(arguments)
    names = [name for name in SCRIPTS if name in (given.only or SCRIPTS)]
    return run_all(HERE, names, given.scale, given.out, dry_run=given.dry_run)


def run_all(folder: Path, names: Sequence[str], scale: str, out: Path, *, dry_run: bool = False) -> int:
    """Runs `folder/NAME.py` of each name and prints how each ended; the exit code."""
    if not dry_run:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Mistake(f"cannot write to {out}: {error.strerror}; choose another --out.") from None
    rows: list[dict[str, Any]] = []
    interrupted = False
    for place, name in enumerate(names, start=1):
        print(f"\n== {name} ({place} of {len(names)})", flush=True)
        command = [sys.executable, str(folder / f"{name}.py"), "--scale", scale, "--out", str(out / name)]
        begun = time.perf_counter()
        code = _run([*command, *(["--dry-run"] if dry_run else [])])
        minutes = (time.perf_counter() - begun) / 60
        rows.append({"name": name, "code": code, "minutes": minutes, "table": out / name / "table.md"})
        print(f"== {name} {_ended(code)} after {minutes:.1f} minutes", flush=True)
        if interrupted := code == INTERRUPTED:
            break
    print(f"\n{summary(rows)}")
    if not dry_run and (claims := collected(names, out)):
        (out / "claims.md").write_text(claims)
        print(f"\n{claims}\nwrote {out / 'claims.md'}")
    if interrupted:
        print("Stopped; the same command goes on.", file=sys.stderr)
        return INTERRUPTED
    return 1 if any(row["code"] for row in rows) else 0


def _run(command: list[str]) -> int:
    """The code of a child, which ends with us when we are interrupted."""
    child = subprocess.Popen(command)
    try:
        return child.wait()
    except KeyboardInterrupt:  # the terminal has told the child, too
        try:
            child.wait(PATIENCE)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            child.terminate()
            try:
                child.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        return INTERRUPTED


def _ended(code: int) -> str:
    if code == INTERRUPTED:
        return "was stopped"
    return "ended well" if code == 0 else f"FAILED (code {code})"


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line a script."""
    lines = ["| script | ended | minutes | table |", "|---|---|---|---|"]
    for row in rows:
        table = row["table"] if row["table"].exists() else "none"
        lines.append(f"| {row['name']} | {_ended(row['code'])} | {row['minutes']:.1f} | {table} |")
    return "\n".join(lines)


def collected(names: Sequence[str], out: Path) -> str:
    """The verdicts on the paper's claims in the scripts' `result.json`, in one table; empty where there are none."""
    lines = []
    for name in names:
        place = out / name / "result.json"
        if not place.exists():
            continue
        try:
            claims = json.loads(place.read_text()).get("claims", [])
            lines += [f"| {_cell(c['claim'])} | {c['verdict']} | {_cell(c['evidence'])} | {name} |" for c in claims]
        except (ValueError, KeyError, AttributeError, TypeError):
            print(f"{place} is not as a benchmark writes it; it is left out.", file=sys.stderr)
    return "\n".join(["| claim | verdict | evidence | script |", "|---|---|---|---|", *lines, ""]) if lines else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    sys.exit(main())
