"""What a method costs against what it leaves: utility and depth of many models in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lit_unlearn.reports.figures.svg import GREY, PALETTE, STYLE, as_svg, cut, new_figure
from lit_unlearn.reports.rows import ORIGINAL, RETRAIN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SPACING = 0.047


@dataclass(frozen=True)
class Point:
    """A model in the picture.

    Attributes:
        label: what stands beside it.
        x: mean utility, and ``y``, what is left, in percent.
        x_std: standard deviation over seeds, and ``y_std``; None where it is unknown.
        held: whether it withstood the attacks as Retrain does, and is of use.
    """

    label: str
    x: float
    y: float
    x_std: float | None = None
    y_std: float | None = None
    held: bool = False


def tradeoff(points: Sequence[Point], x: str, y: str) -> str:
    """A scatter plot with every label at the right, joined to its point, and dashed lines through Retrain.

    Args:
        points: the models; those called Original and Retrain are the references.
        x: what the horizontal axis shows.
        y: what the vertical axis shows.

    Returns:
        SVG text, or an empty string without points.
    """
    if not points:
        return ""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = new_figure(max(3.2, 0.185 * len(points) + 1), width=6.6)
        axes = figure.subplots()
        for point in points:
            look: Any = {"color": _colour(point), "marker": _marker(point), "markersize": 6, "zorder": 4}
            axes.errorbar(point.x, point.y, point.y_std, point.x_std, elinewidth=1, linestyle="none", **look)
            if point.label == RETRAIN:
                for draw, value in ((axes.axhline, point.y), (axes.axvline, point.x)):
                    draw(value, color=PALETTE[1], linestyle=(0, (4, 3)), linewidth=1, zorder=1)
        axes.margins(0.06)
        axes.set(xlabel=x, ylabel=y)
        _write_labels(axes, points)
        return as_svg(figure, f"{y} against {x}: {', '.join(point.label for point in points)}")


def _write_labels(axes: Axes, points: Sequence[Point]) -> None:
    """Puts the labels below one another in the order of their points, each as near to its point's height as it can."""
    low, high = axes.get_ylim()
    ordered = sorted(points, key=lambda point: (point.y, -point.x))
    heights = spread([(point.y - low) / (high - low) for point in ordered], SPACING * 20 / max(20, len(points)))
    for point, height in zip(ordered, heights, strict=True):
        axes.annotate(
            cut(point.label, 24),
            (point.x, point.y),
            xytext=(1.03, height),
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "alpha": 0.6, "relpos": (0, 0.5)},
        )


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Places in ascending order, ``gap`` apart at least, whose squared distance to the wanted ones is least.

    Args:
        wanted: ascending places.
        gap: the least distance of two.
    """
    from sklearn.isotonic import isotonic_regression

    offsets = gap * np.arange(len(wanted))
    placed: list[float] = (isotonic_regression(np.asarray(wanted) - offsets) + offsets).tolist()
    return placed


def _colour(point: Point) -> str:
    references = {ORIGINAL: GREY, RETRAIN: PALETTE[1]}
    return references.get(point.label, PALETTE[2] if point.held else PALETTE[0])


def _marker(point: Point) -> str:
    return "s" if point.label in (ORIGINAL, RETRAIN) else "o" if point.held else "X"
