"""What all figures share: their style, and SVG text for a page.

Ink is ``currentColor`` and every other colour a CSS variable ``--c0`` … ``--c7`` with a fallback, so that one drawing
serves light, dark and print. Drawn with matplotlib's objects, without pyplot: no window system, no figure kept alive.
"""

from __future__ import annotations

import hashlib
import html
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lit_unlearn.reports.rows import ORIGINAL, RETRAIN, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colour-blind safe set, its yellow and black replaced by what reads on white and on black.
PALETTE = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8b6db3", "#8a8f98")
GREY = PALETTE[7]
INK = "#010203"
MARKERS = "os^DvPX*"
WIDTH = 4.6
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lit_unlearn",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "xtick.bottom": False,
    "ytick.left": False,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
}


def colour_of(row: Row) -> str:
    """Grey for Original, blue for Retrain, orange for methods."""
    return {ORIGINAL: GREY, RETRAIN: PALETTE[1]}.get(row.method, PALETTE[0])


def cut(text: str, length: int) -> str:
    """At most so many characters, an ellipsis where there were more."""
    return text if len(text) <= length else text[: length - 1] + "…"


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """A figure of this size in inches, on no window system."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def as_svg(figure: Figure, label: str) -> str:
    """The figure as SVG for a page: scalable, labelled, with ids of its own and colours from CSS."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    svg = re.sub(r"<metadata>.*?</metadata>", "", text.getvalue()[text.getvalue().index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\s(width|height)="[^"]*pt"', "", svg, count=2)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    svg = _small(svg).replace(INK, "currentColor")
    for i, colour in enumerate(PALETTE):
        svg = svg.replace(colour, f"var(--c{i}, {colour})")
    svg = _named(svg)
    told = f'role="img" aria-label="{html.escape(label)}" stroke-linejoin="round" font-family="system-ui, sans-serif"'
    return svg.replace("<svg ", f"<svg {told} ", 1)


def standalone(svg: str) -> str:
    """The drawing as a file of its own, whose text colour follows light and dark mode."""
    style = "<style>svg{color:#1a1f26}@media (prefers-color-scheme:dark){svg{color:#e6eaef}}</style>"
    return svg.replace(">", f">{style}", 1) + "\n" if svg else ""


def _small(svg: str) -> str:
    """The same drawing in a third of the bytes: no ids that nothing refers to, hundredths of a point, no line ends.

    A page holds hundreds of drawings.
    """
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    replacements = (
        (r"font-family: [^;\"]*;? ?", ""),
        (r' transform="rotate\(-?0 [^)]*\)"', ""),
        (r"(\.\d\d)\d+", r"\1"),
        (r"\s+", " "),
    )

    def shortened(tag: str) -> str:
        for pattern, text in replacements:
            tag = re.sub(pattern, text, tag)
        return re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", tag)

    return re.sub(r">\s+<", "><", _in_tags(svg.strip(), shortened))


def _named(svg: str) -> str:
    """The same drawing with ids that no other drawing of the page has."""
    prefix = "f" + hashlib.sha256(svg.encode()).hexdigest()[:8]
    return _in_tags(svg, lambda tag: re.sub(r'(\bid="|url\(#|href="#)', rf"\1{prefix}-", tag))


def _in_tags(svg: str, change: Callable[[str], str]) -> str:
    """The drawing with each tag changed, and text as it is."""
    return re.sub(r"<[^<>]*>", lambda tag: change(tag[0]), svg)
