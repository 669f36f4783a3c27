"""`write_report`: everything that results say, on one page that stands alone."""

from __future__ import annotations

import datetime
import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jinja2
import pandas as pd
from etils import epath
from markupsafe import Markup

from memlaw_jax.analysis import files
from memlaw_jax.analysis.frame import Source, read_frame
from memlaw_jax.analysis.law.fit import fit_law
from memlaw_jax.analysis.law.law import Law
from memlaw_jax.analysis.run import uniform_loss
from memlaw_jax.errors import UserError
from memlaw_jax.paths import absolute, as_path
from memlaw_jax.version import __version__

__all__ = ["write_report"]
_PAGE = epath.resource_path("memlaw_jax") / "analysis" / "report" / "page"


@dataclass(frozen=True, kw_only=True)
class Group:
    """The parts about one law; under a heading of their own where there are several methods."""

    id: str
    title: str
    parts: tuple[Any, ...]


def write_report(
    paths: Source | Iterable[Source],
    out: str | os.PathLike[str],
    *,
    filter: str = "predicted",
    method: str | None = None,
    loss: str = "squared",
    bootstrap: int = 400,
    seed: int = 0,
) -> tuple[list[Law], epath.Path, str]:
    """Fit every method's law to results and write one self-contained HTML page about it.

    The page holds what was found in words, the figures, all tables and where they come from; nothing in it is loaded
    from elsewhere. `method` reports on one method only; the other arguments are those of `fit_law`. A method whose law
    cannot be fitted gets a sentence that says why. Returns the laws, the file, and what was found in plain words.

    Raises `UserError` for a user's mistake, or when no law can be fitted at all, and then writes nothing.
    """
    from memlaw_jax.analysis.report import parts, tables
    from memlaw_jax.analysis.report.pictures import Pictures

    place = as_path(out)
    if place.is_dir():
        raise UserError(f"{place} is a folder; name the file to write, such as {place / 'report.html'}")
    sources: list[Any] = [paths] if isinstance(paths, str | os.PathLike | pd.DataFrame) else list(paths)
    _keep(sources, place)
    frame = read_frame(sources)
    options: dict[str, Any] = {"filter": filter, "loss": loss, "bootstrap": bootstrap, "seed": seed}
    fitted = _laws(frame, method, options)
    laws = [law for law in fitted.values() if isinstance(law, Law)]
    if not laws:
        raise UserError(" ".join(str(problem) for problem in fitted.values()))
    files.folder(place.parent)
    pictures, groups = Pictures(), []
    for number, (name, law) in enumerate(fitted.items()):
        id_ = f"m{number}-" if len(fitted) > 1 else ""
        title = (name or "without a method") if len(fitted) > 1 else ""
        if isinstance(law, Law):
            groups.append(Group(id=id_ + "law", title=title, parts=_about(law, _of(frame, name), pictures, id_)))
        else:
            said = parts.Part(id=f"{id_}finding", title="What was found", words=(f"No law: {parts.sentence(law)}",))
            groups.append(Group(id=id_ + "law", title=title, parts=(said,)))
    common = [parts.side_by_side(frame, pictures)] if len(fitted) > 1 else []
    common.append(parts.phase(sources, pictures))
    made_from = parts.Part(
        id="provenance",
        title="Where this comes from",
        words=tuple(_provenance(laws[0], sources, out, options, method)),
        tables=(tables.settings(_of(frame, method)),),
    )
    heading = _heading(frame, method)
    light, dark = pictures.sheet()
    page = _template().render(
        title=f"Memory law: {heading}",
        heading=heading,
        asked=_asked(frame, laws),
        groups=groups,
        common=[*common, made_from],
        css=Markup((_PAGE / "report.css").read_text()),
        js=Markup((_PAGE / "report.js").read_text()),
        glyphs=pictures.glyphs(),
        light=light,
        dark=dark,
        version=__version__,
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    words = [parts.describe(law, uniform_loss(_of(frame, law.method))) for law in laws]
    return laws, files.write(place, page), "\n\n".join(words)


def _keep(sources: list[Any], place: epath.Path) -> None:
    """Refuses to write the page over the results that it is about."""
    for part in sources:
        if isinstance(part, str | os.PathLike):
            results = as_path(part)
            if absolute(place) in (absolute(results), absolute(results / "results.jsonl")):
                raise UserError(f"{place} holds the results and would be lost; name another file for the page")


def _laws(frame: pd.DataFrame, method: str | None, options: dict[str, Any]) -> dict[str | None, Law | UserError]:
    """A law for each method, or why there is none; a single method's mistake is raised."""
    names = [str(name) for name in frame["method"].dropna().unique()] if "method" in frame else []
    if method is not None or len(names) < 2:
        law = fit_law(frame, method=method, **options)
        return {law.method: law}
    fitted: dict[str | None, Law | UserError] = {}
    for name in names:
        try:
            fitted[name] = fit_law(frame, method=name, **options)
        except UserError as problem:
            fitted[name] = problem
    return fitted


def _of(frame: pd.DataFrame, method: str | None) -> pd.DataFrame:
    """The runs of one method, with its own diverged ones."""
    if method is None or "method" not in frame.columns:
        return frame
    mine = frame[frame["method"] == method]
    lost = [run for run in frame.attrs["diverged"] if run.get("method", method) == method]
    mine.attrs = frame.attrs | {"diverged": tuple(lost)}
    return mine


def _about(law: Law, frame: pd.DataFrame, pictures: Any, id_: str) -> tuple[Any, ...]:
    from memlaw_jax.analysis.report import parts

    ln_vocab = uniform_loss(frame)
    found = [
        parts.finding(law, pictures, frame, ln_vocab, id_),
        parts.fit(law, pictures, frame, id_),
        parts.certainty(law, pictures, id_),
        parts.rivalry(law, pictures, id_),
        parts.capacity(law, pictures, frame, id_),
        parts.maps(pictures, frame, ln_vocab, id_),
        parts.everything(law, frame, id_),
    ]
    return tuple(part for part in found if part is not None)


def _template() -> jinja2.Template:
    # Names of methods, models and files are other people's text, so everything that is not marked safe is escaped.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.fspath(_PAGE)), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html.j2")


def _heading(frame: pd.DataFrame, method: str | None) -> str:
    """What the results are about, in a line."""

    def kinds(name: str) -> list[str]:
        return list(dict.fromkeys(str(value) for value in frame[name].dropna())) if name in frame else []

    tasks, models, methods = (kinds(name) for name in ("task", "model", "method"))
    what = " and ".join(task.replace("_", " ") for task in tasks) or "results"
    who = f", {', '.join([method] if method else methods)}" if method or methods else ""
    where = f" on {', '.join(models)}" if models else ""
    return f"{what[0].upper()}{what[1:]}{where}{who}"


def _asked(frame: pd.DataFrame, laws: list[Law]) -> list[str]:
    ranks, lengths = ({getattr(cell, name) for law in laws for cell in law.cells} for name in ("rank", "length"))
    runs = sum(cell.runs for law in laws for cell in law.cells)
    return [
        "How much can a LoRA adapter remember word for word? Adapters of many ranks were trained on texts of many "
        "lengths; ΔL is how far each lowered the loss on its text, in nats per answer token. The question is whether "
        "ΔL = C · rank^α · length^(−β) + b describes that, how sure its numbers are, and whether another form does it "
        "better.",
        f"Here: {runs} runs, {len(ranks)} ranks from {min(ranks)} to {max(ranks)}, {len(lengths)} lengths from "
        f"{min(lengths)} to {max(lengths)} answer tokens.",
    ]


def _provenance(
    law: Law, sources: list[Any], out: str | os.PathLike[str], options: dict[str, Any], method: str | None
) -> list[str]:
    from memlaw_jax.analysis.report import tables

    named = [os.fspath(part) for part in sources if not isinstance(part, pd.DataFrame)]
    versions = ", ".join(f"{name} {version}" for name, version in law.versions.items())
    words = [f"Results: {', '.join(law.source)}.", f"Fitted on {tables.moment(law.created)} with {versions}."]
    if len(named) == len(sources):
        command = ["memlaw", "report", *named, "--out", os.fspath(out)]
        for name, usual in (("filter", "predicted"), ("loss", "squared")):
            command += [f"--{name}", options[name]] if options[name] != usual else []
        words.append(f"Command: {shlex.join(command + (['--method', method] if method else []))}")
    return words
