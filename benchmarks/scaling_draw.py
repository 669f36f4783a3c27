"""Tables and the figure of `scaling.py`, from the JSON of its cases."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from etils import epath
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator
from scaling_cases import BESIDE
from scaling_grid import GRIDS
from scaling_meshes import MESHES

from memlaw_jax.analysis.figures import style

GIB = 2**30
NAMES = {"Qwen/Qwen3-8B": "Qwen3-8B", "meta-llama/Llama-3.1-8B-Instruct": "Llama-3.1-8B"}
TASKS = {"long_context": "long context", "phonebook": "phone book"}
COLOURS = {"Qwen/Qwen3-8B": style.ACCENT, "meta-llama/Llama-3.1-8B-Instruct": "#4338ca"}

Told = dict[str, Any]
Columns = Sequence[tuple[str, Callable[[Told], str]]]


def draw(out: Path) -> list[Path]:
    """Writes `tables.md` and, of slices of v5e, `scaling.png`; what it wrote."""
    found = [json.loads(path.read_text()) for path in sorted(out.glob("*.json")) if path.name not in (GRIDS, MESHES)]
    found.sort(key=_order)
    grids = sorted((told for told in json.loads((out / GRIDS).read_text()) if told["model"] in NAMES), key=_order)
    meshes = json.loads((out / MESHES).read_text())
    parts = [
        "Memory a chip in GiB and time of a step, from the compiler (GPUs: reckoned)",
        _table([told for told in found if told["group"] in ("file", "chips")], MEMORY),
        "The whole grid, predicted", _table(grids, GRID),
        "Meshes of 16 chips of v5e, Qwen3-8B, from the compiler",
        _table([told for told in found if told["group"] == "mesh" or told["case"] in BESIDE], MESH),
        "The same and others, reckoned from shapes", _table(meshes, MESH),
    ]  # fmt: skip
    tables = out / "tables.md"
    tables.write_text("\n\n".join(parts) + "\n")
    return [tables, *_figure([told for told in grids if told["hardware"].startswith("v5e-")], out)]


def _order(told: Told) -> Any:
    return told["model"], told["task"], told["hardware"].split("-")[0], told.get("chips", 0)


def _table(found: Iterable[Told], columns: Columns) -> str:
    head = [" | ".join(name for name, _ in columns), "|".join("---" for _ in columns)]
    rows = [" | ".join(read(told) for _, read in columns) for told in found]
    return "\n".join(f"| {row} |" for row in [*head, *rows]).replace("| ---|", "|---|").replace("--- |", "---|")


def _part(name: str) -> Callable[[Told], str]:
    return lambda told: f"{told['memory_a_chip'][name] / GIB:.2f}" if "memory_a_chip" in told else ""


def _seconds(told: Told) -> str:
    return f"{told['predicted']['seconds']:.3g}" if "predicted" in told else "refused"


def _bound(told: Told) -> str:
    if "predicted" not in told:
        return ""
    return told["predicted"]["bound"]


def _ratio(told: Told) -> str:
    ratio = told.get("predicted", {}).get("compute_to_communication")
    return f"{ratio:.2g}" if ratio else "nothing is sent" if told.get("collectives") == [] else ""


def _lane_seconds(told: Told) -> str:
    """Chip-seconds that one step of one lane takes, with all chips of the mesh counted."""
    if "predicted" not in told:
        return ""
    return f"{told['predicted']['seconds'] * told['chips'] / told['step']['lanes']:.3g}"


def _sent(told: Told) -> str:
    kinds = {one["kind"]: one for one in told.get("collectives") or ()}
    return ", ".join(kinds) or "none"


def _mesh(told: Told) -> str:
    return ", ".join(f"{axis} {size}" for axis, size in told["mesh"].items() if size > 1) if "mesh" in told else ""


WHAT: Columns = [
    ("model", lambda told: NAMES[told["model"]]),
    ("task", lambda told: TASKS[told["task"]]),
    ("slice", lambda told: told["hardware"]),
]
MEMORY: Columns = [
    *WHAT,
    ("frozen weights", _part("frozen_weights")),
    ("adapters, moments", _part("adapters")),
    ("features", _part("features")),
    ("temporaries", _part("temporaries")),
    ("total", _part("total")),
    ("usable", _part("usable")),
    ("computed again", lambda told: told["step"]["remat"] if "step" in told else ""),
    ("s a step", _seconds),
    ("bound by", _bound),
]
GRID: Columns = [
    *WHAT,
    ("chips", lambda told: str(told["chips"])),
    ("lanes", lambda told: str(told["lanes"])),
    ("cells", lambda told: str(told["cells"])),
    ("laws", lambda told: str(told["laws"])),
    ("loading", lambda told: f"{told['loading_a_chip'] / GIB:.2f}" + ("" if told["loads"] else ", does not fit")),
    ("s a step", lambda told: f"{told['step_seconds']:.3g}"),
    ("hours", lambda told: f"{told['seconds'] / 3600:.2f}"),
    ("US$", lambda told: f"{told['usd']:.0f}" if told["usd"] else ""),
    ("US$ a law", lambda told: f"{told['usd'] / told['laws']:.0f}" if told["usd"] else ""),
]
MESH: Columns = [
    ("task", lambda told: TASKS[told["task"]]),
    ("mesh", _mesh),
    ("lanes", lambda told: str(told["step"]["lanes"]) if "step" in told else ""),
    ("frozen weights", _part("frozen_weights")),
    ("temporaries", _part("temporaries")),
    ("total", _part("total")),
    ("computed again", lambda told: told["step"]["remat"] if "step" in told else ""),
    ("collectives", _sent),
    ("GB sent", lambda told: f"{told['predicted']['sent'] / 1e9:.3g}" if "predicted" in told else ""),
    ("arithmetic to communication", _ratio),
    ("s a step", _seconds),
    ("chip-seconds a lane", _lane_seconds),
]


def _figure(found: Sequence[Told], out: Path) -> list[Path]:
    panels: list[tuple[str, Callable[[Told], float]]] = [
        ("seconds a step", lambda told: told["step_seconds"]),
        ("laws an hour", lambda told: told["laws"] / told["seconds"] * 3600),
        ("US$ a law, list price", lambda told: told["usd"] / told["laws"]),
    ]
    sizes = sorted({told["chips"] for told in found})
    with style.look():
        figure = style.figure(10, 3.4)
        for index, (title, value) in enumerate(panels):
            axes = figure.add_subplot(1, 3, index + 1)
            for model in NAMES:
                for task, dash in (("long_context", "-"), ("phonebook", "--")):
                    points = [told for told in found if (told["model"], told["task"]) == (model, task)]
                    far = [told for told in points if not told["loads"]]
                    axes.plot(
                        [told["chips"] for told in far], [value(told) for told in far], "o", markersize=4,
                        markerfacecolor="white", color=COLOURS[model], zorder=3,
                    )  # fmt: skip
                    axes.plot(
                        [told["chips"] for told in points], [value(told) for told in points], dash, marker="o",
                        markersize=4, color=COLOURS[model], label=f"{NAMES[model]}, {TASKS[task]}",
                    )  # fmt: skip
            axes.set(xscale="log", yscale="log", xlabel="chips of v5e", title=title)
            axes.xaxis.set_major_locator(FixedLocator(sizes))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:.0f}"))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.grid(color=style.GRID)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
        figure.suptitle(
            "Predicted at 40 % of peak, not measured. Hollow: the model does not load there",
            fontsize=10,
        )
        return [Path(path) for path in style.save(figure, epath.Path(out), "scaling") if str(path).endswith(".png")]
