"""Colours for both lights: what a colour that was chosen on white must become on a dark page."""

from __future__ import annotations

import numpy as np

from memlaw_jax.analysis.figures import style

# The page's own colours, which its style sheet defines for both lights.
NAMED = {
    style.INK: "ink",
    style.MUTED: "muted",
    style.GRID: "grid",
    style.SHADE: "shade",
    style.ACCENT: "accent",
    "#ffffff": "paper",
}
# Björn Ottosson's OKLab: linear light to cone responses, and their cube roots to lightness and two opponent colours.
_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_GREY = 0.03  # chroma below which a colour counts as a grey
_PAPER, _INK = 0.22, 0.93  # lightness of the dark page and of the ink on it
_DIMMEST, _BRIGHTEST = 0.62, 0.88


def variable(colour: str) -> str:
    """The name of the page's variable for a hex colour: `--ink`, or `--c-4338ca`."""
    return f"--{NAMED.get(colour, 'c-' + colour[1:])}"


def dark(colour: str) -> str:
    """The hex colour's twin for a dark page: greys are turned over, hues kept and lifted to where they can be seen.

    The order of lightness within a palette stays, so a scale from dark to bright still reads as one.
    """
    lightness, a, b = _to_lab(colour)
    if np.hypot(a, b) < _GREY:
        return _to_hex(_INK - (_INK - _PAPER) * min(lightness, 1.0), 0.0, 0.0)
    lifted = _DIMMEST + (_BRIGHTEST - _DIMMEST) * lightness
    for fade in np.linspace(1.0, 0.0, 21):  # a lighter colour may not exist at full chroma
        light = _to_light(lifted, a * fade, b * fade)
        if light.min() > -1e-3 and light.max() < 1 + 1e-3:
            break
    return _to_hex(lifted, a * fade, b * fade)


def _to_lab(colour: str) -> tuple[float, float, float]:
    share = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    light = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    lightness, a, b = _LAB @ np.cbrt(_CONES @ light)
    return float(lightness), float(a), float(b)


def _to_light(lightness: float, a: float, b: float) -> np.ndarray:
    return np.linalg.solve(_CONES, np.linalg.solve(_LAB, np.array([lightness, a, b])) ** 3)


def _to_hex(lightness: float, a: float, b: float) -> str:
    light = np.clip(_to_light(lightness, a, b), 0, 1)
    share = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return "#" + "".join(f"{round(255 * value):02x}" for value in share)
