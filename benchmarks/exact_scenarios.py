"""The paper's eight exact-memory scenarios (Table 4) and a page of text: which rank recalls each word for word?

Runs `memlaw remember` as a user would, with `--rank auto`, on each file in `examples/`, then `memlaw recall --decode
greedy` on the adapter that it kept.
Hardware: any CPU; the results in the repository are from 2 cores of an Intel Xeon.
Time: about 10 minutes.
Expected: every scenario is recalled word for word, most at rank 8 or below; the page needs rank 32 or 64.
Command:

    python benchmarks/exact_scenarios.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from memlaw_jax.results import commit, now, versions

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
SCENARIOS = ("credentials", "gdpr", "icd10", "watermark", "s3_endpoint", "latex", "nonce", "licence_key")


def main() -> None:
    """Remembers and recalls each example (or goes on), and writes the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, default=Path("runs/exact_scenarios"))
    arguments.add_argument("--results", type=Path, default=HERE / "results" / "exact_scenarios")
    arguments.add_argument("--only", action="append", help="a file's name without its ending (may be repeated)")
    arguments.add_argument("--steps", type=int, default=400)
    args = arguments.parse_args()
    files = [EXAMPLES / "exact_memory" / f"{name}.jsonl" for name in SCENARIOS] + [EXAMPLES / "page.txt"]
    rows = []
    for data in [file for file in files if not args.only or file.stem in args.only]:
        out = args.out / data.stem
        remembered = memlaw("remember", str(data), "--out", str(out), "--steps", str(args.steps))
        recalled = memlaw("recall", remembered["adapter"], "--data", str(data), "--decode", "greedy")
        rows.append({"file": data.name, **remembered, "exact_match_free": recalled["exact_match_free"]})
        print(line(rows[-1]), flush=True)
    args.results.mkdir(parents=True, exist_ok=True)
    told = {"command": " ".join(["python", *sys.argv]), "date": now(), "git": commit(), "versions": versions()}
    for row in rows:
        del row["out"], row["adapter"]
    (args.results / "exact_scenarios.json").write_text(json.dumps(told | {"rows": rows}, indent=1) + "\n")
    head = ["file", "records", "answer tokens", "rank", "ranks tried", "steps", "exact match", "decoded", "p_min", "s"]
    table = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *map(line, rows)]
    (args.results / "table.md").write_text("\n".join(table) + "\n")


def memlaw(*words: str) -> dict[str, Any]:
    """One command's JSON."""
    command = [sys.executable, "-m", "memlaw_jax.cli.main", *words, "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    tried = ", ".join(map(str, row["ranks_tried"]))
    cells = [
        row["file"], row["records"], row["answer_tokens"], row["rank"], tried, row["steps"],
        f"{row['exact_match']:.0%}", f"{row['exact_match_free']:.0%}", f"{row['p_min']:.2f}", f"{row['seconds']:.0f}",
    ]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
