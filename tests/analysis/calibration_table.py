"""The calibration of the law's fit as a table: what `test_calibration.py` holds to bounds, measured.

    python -m tests.analysis.calibration_table --out benchmarks/results/law

About 10 minutes on one core. Writes `calibration.json` and `calibration.md`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from .simulate import BASE, EMBEDDED, LONG, NARROW, NOISY, OUTLIERS
from .test_calibration import study

SIMULATIONS, RESAMPLES = 200, 400
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "base": (BASE, {}),
    "noisy": (NOISY, {}),
    "long context": (LONG, {}),
    "the embedded base's own noise": (EMBEDDED, {}),
    "5 % outliers, least squares": (OUTLIERS, {}),
    "5 % outliers, Huber": (OUTLIERS, {"loss": "huber"}),
    "base, Huber": (BASE, {"loss": "huber"}),
    "base, censored": (BASE, {"filter": "tobit"}),
    "noisy, censored": (NOISY, {"filter": "tobit"}),
    "noisy, the paper's filter": (NOISY, {"filter": "paper"}),
    "narrow": (NARROW, {}),
}


def main() -> None:
    """Measures all cases and writes the table."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--out", type=Path, required=True, metavar="DIR")
    out = given.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    rows = {name: measure(design, options) for name, (design, options) in CASES.items()}
    told = {
        "command": f"python -m tests.analysis.calibration_table --out {out}",
        "date": datetime.date.today().isoformat(),
        "simulations": SIMULATIONS,
        "resamples": RESAMPLES,
        "versions": {"python": platform.python_version(), "numpy": metadata.version("numpy")},
        "cases": rows,
    }
    (out / "calibration.json").write_text(json.dumps(told, indent=1) + "\n")
    (out / "calibration.md").write_text("\n".join(table(rows)) + "\n")


def measure(design: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Bias, RMSE, coverage and width of α and β, and how often each flag was raised."""
    found = study(design, SIMULATIONS, bootstrap=RESAMPLES, **options)
    flags = [law.flags for law in found["laws"]]
    numbers = {name: np.asarray(found[name]).tolist() for name in ("bias", "rmse", "cover", "width")}
    raised = {
        name: float(np.mean([getattr(flag, name) for flag in flags]))
        for name in ("weakly_identified", "outliers_suspected", "at_bound")
    }
    return numbers | raised


def table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Markdown."""
    lines = [
        "| case | bias of α, β | RMSE of α, β | 95 % interval holds α, β | its mean width for α | weakly identified | "
        "outliers suspected |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        bias, rmse, cover = (", ".join(f"{x:{form}}" for x in row[key]) for key, form in
                             (("bias", "+.4f"), ("rmse", ".3f"), ("cover", ".3f")))  # fmt: skip
        lines.append(
            f"| {name} | {bias} | {rmse} | {cover} | {row['width'][0]:.3f} | {row['weakly_identified']:.0%} | "
            f"{row['outliers_suspected']:.1%} |"
        )
    return lines


if __name__ == "__main__":
    main()
