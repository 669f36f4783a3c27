"""Matplotlib figures as inline SVG that lives in a page: unique ids, the page's colours, nothing from outside."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from memlaw_jax.analysis.figures import style
from memlaw_jax.analysis.report import colour

_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_LINK = re.compile(r"url\(#([^)]*)\)")
_GLYPH = re.compile("DejaVu")  # how the ids of letters begin
_KEPT = "kept-"  # the id of what does not follow the light
_DROPPED = {"metadata", "style"}
_COORDINATES = {"d", "x", "y"}
_PIXELS = 96 / 72  # of a typographic point
_HALF = 760  # pixels that half of a wide page can show well


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure of the page. `wide` ones take the whole width."""

    svg: Markup
    title: str
    caption: str
    wide: bool


@dataclass(kw_only=True)
class Pictures:
    """Turns figures into pictures, and remembers the colours that the page must define."""

    colours: set[str] = field(default_factory=set)
    shapes: dict[str, str] = field(default_factory=dict)
    count: int = 0

    def take(self, made: Figure, title: str, caption: str) -> Picture:
        """The figure as a picture; `caption` says what to see in it, `title` is its name for whoever cannot see."""
        self.count += 1
        root = ElementTree.fromstring(_svg(made))
        width = float(root.attrib["width"].removesuffix("pt")) * _PIXELS
        for name in ("width", "height", "version"):
            root.attrib.pop(name, None)
        _bare(root)
        self._share_glyphs(root)
        _prefix(root, f"f{self.count}-")
        self._recolour(root)
        least = min(round(width), 660 if width > _HALF else 430)  # narrower, its words cannot be read
        root.attrib |= {"role": "img", "aria-label": title, "style": f"max-width:{width:.0f}px;min-width:{least}px"}
        root.attrib["preserveAspectRatio"] = "xMidYMid meet"
        svg = Markup(ElementTree.tostring(root, encoding="unicode"))  # figures hold shapes, and it escapes names
        return Picture(svg=svg, title=title, caption=caption, wide=width > _HALF)

    def paired(self, shown: Iterable[tuple[Figure, str, str]]) -> tuple[Picture, ...]:
        """Several figures; one that has no neighbour to stand beside gets the whole width."""
        taken = [self.take(*one) for one in shown]
        place = 0
        while place < len(taken):
            narrow = [picture.wide for picture in taken[place : place + 2]] == [False, False]
            taken[place] = replace(taken[place], wide=not narrow)
            place += 2 if narrow else 1
        return tuple(taken)

    def sheet(self) -> tuple[Markup, Markup]:
        """The declarations of the colours on a light and on a dark page."""
        own = sorted(self.colours - set(colour.NAMED))
        light = "".join(f"{colour.variable(name)}:{name};" for name in own)
        return Markup(light), Markup("".join(f"{colour.variable(name)}:{colour.dark(name)};" for name in own))

    def glyphs(self) -> Markup:
        """The shapes of the letters, which the figures share: they are most of what a figure weighs."""
        return Markup("".join(self.shapes[name] for name in sorted(self.shapes)))

    def _share_glyphs(self, root: ElementTree.Element) -> None:
        for parent in root.iter("defs"):
            for child in [child for child in parent if _GLYPH.match(child.attrib.get("id", ""))]:
                parent.remove(child)
                self.shapes[child.attrib["id"]] = ElementTree.tostring(child, encoding="unicode")

    def _recolour(self, element: ElementTree.Element) -> None:
        if element.attrib.get("id", "").partition("-")[2].startswith(_KEPT):
            return
        for name in ("style", "fill", "stroke"):
            if name in element.attrib:
                element.attrib[name] = _COLOUR.sub(self._variable, element.attrib[name])
        for child in element:
            self._recolour(child)

    def _variable(self, found: re.Match[str]) -> str:
        self.colours.add(found[0])
        return f"var({colour.variable(found[0])})"


def _svg(made: Figure) -> bytes:
    """Numbers upon a heat map were given the ink that shows on their cell, so both keep their colours."""
    for place, axes in enumerate(made.axes):
        meshes = [item for item in axes.collections if isinstance(item, QuadMesh)]
        if meshes and axes.get_label() != "<colorbar>":
            for number, item in enumerate([*meshes, *axes.texts]):
                item.set_gid(f"{_KEPT}{place}-{number}")
    buffer = io.BytesIO()
    with style.look():
        made.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None})
    return buffer.getvalue()


def _bare(root: ElementTree.Element) -> None:
    """Without name spaces, which HTML's own SVG does not need, and without what names the outside."""
    for parent in root.iter():
        for child in [child for child in parent if child.tag.rpartition("}")[2] in _DROPPED]:
            parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for name in [name for name in element.attrib if "}" in name]:
            element.attrib[name.rpartition("}")[2]] = element.attrib.pop(name)
        for name in _COORDINATES & set(element.attrib):
            element.attrib[name] = _NUMBER.sub(_rounded, element.attrib[name])
        if element.text is not None and not element.text.strip():
            element.text = None
        element.tail = None if element.tail is None or not element.tail.strip() else element.tail


def _prefix(root: ElementTree.Element, prefix: str) -> None:
    """Every figure counts its clip paths and glyphs from 1, and all figures are one document now."""
    used = _used(root.iter())
    for element in root.iter():
        if "id" in element.attrib:
            name = element.attrib["id"]
            if name in used or name.startswith(_KEPT):
                element.attrib["id"] = prefix + name
            else:
                del element.attrib["id"]
        link = element.attrib.get("href", "")
        if link.startswith("#") and not _GLYPH.match(link[1:]):
            element.attrib["href"] = f"#{prefix}{link[1:]}"
        for name, value in element.attrib.items():
            if "url(#" in value:
                element.attrib[name] = _LINK.sub(rf"url(#{prefix}\1)", value)


def _used(elements: Iterable[ElementTree.Element]) -> set[str]:
    names: set[str] = set()
    for element in elements:
        for value in element.attrib.values():
            names.update(_LINK.findall(value))
        if element.attrib.get("href", "").startswith("#"):
            names.add(element.attrib["href"][1:])
    return names


def _rounded(found: re.Match[str]) -> str:
    """Two decimals of a point are finer than any screen, and half the size."""
    return f"{float(found[0]):.2f}".rstrip("0").rstrip(".")
