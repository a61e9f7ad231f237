"""Utility against depth of many models in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

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
        x: mean utility, and ``y``, mean accuracy on forgotten data under the strongest attack, in percent.
        x_std: standard deviation over seeds, and ``y_std``; None where it is unknown.
        held: whether it withstood the attacks, and its utility is not damaged.
        damaged: whether its utility is damaged, so that the axes need not reach it.
    """

    label: str
    x: float
    y: float
    x_std: float | None = None
    y_std: float | None = None
    held: bool = False
    damaged: bool = False


def tradeoff(points: Sequence[Point], x: str, y: str) -> str:
    """A scatter plot with every label at the right, joined to its point, and dashed lines through Retrain.

    The axes span the models with undamaged utility. A damaged model beyond them is drawn at the edge, as a triangle
    that points to its place, with the place in its label.

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
        axes.margins(0.06)
        useful = [point for point in points if not point.damaged] or points
        for point in useful:
            _draw(axes, point, _marker(point))
        limits = axes.get_xlim(), axes.get_ylim()
        placed = [(point, *_inside(point, *limits)) for point in points]
        for point, (left, bottom), edge in placed:
            if edge:
                _draw(axes, replace(point, x=left, y=bottom, x_std=None, y_std=None), edge)
            elif point not in useful:
                _draw(axes, point, _marker(point))
            if point.label == RETRAIN:
                for draw, value in ((axes.axhline, point.y), (axes.axvline, point.x)):
                    draw(value, color=PALETTE[1], linestyle=(0, (4, 3)), linewidth=1, zorder=1)
        axes.set(xlim=limits[0], ylim=limits[1], xlabel=x, ylabel=y)
        labels = [(_label(point, bool(edge)), *place) for point, place, edge in placed]
        _write_labels(axes, labels)
        return as_svg(figure, f"{y} against {x}: {', '.join(point.label for point in points)}")


def _draw(axes: Axes, point: Point, marker: str) -> None:
    look: Any = {"color": _colour(point), "marker": marker, "markersize": 6, "zorder": 4}
    axes.errorbar(point.x, point.y, point.y_std, point.x_std, elinewidth=1, linestyle="none", **look)


def _inside(
    point: Point, x: tuple[float, float], y: tuple[float, float]
) -> tuple[tuple[float, float], Literal["", "<", ">", "v", "^"]]:
    """The place in the picture nearest to the point, and the marker that shows where it lies from there, if beyond."""
    inset = [0.02 * (high - low) for low, high in (x, y)]
    left = min(max(point.x, x[0] + inset[0]), x[1] - inset[0])
    bottom = min(max(point.y, y[0] + inset[1]), y[1] - inset[1])
    if left != point.x:
        return (left, bottom), "<" if point.x < left else ">"
    if bottom != point.y:
        return (left, bottom), "v" if point.y < bottom else "^"
    return (left, bottom), ""


def _label(point: Point, beyond: bool) -> str:
    return cut(point.label, 24) + (f" ({round(point.x)}, {round(point.y)})" if beyond else "")


def _write_labels(axes: Axes, labels: Sequence[tuple[str, float, float]]) -> None:
    """Puts the labels below one another in the order of their points, each as near to its point's height as it can."""
    low, high = axes.get_ylim()
    ordered = sorted(labels, key=lambda label: (label[2], -label[1]))
    heights = spread([(y - low) / (high - low) for _, _, y in ordered], SPACING * 20 / max(20, len(labels)))
    for (text, x, y), height in zip(ordered, heights, strict=True):
        axes.annotate(
            text,
            (x, y),
            xytext=(1.03, height),
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "alpha": 0.6, "relpos": (0, 0.5)},
        )


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Places between 0 and 1, ``gap`` apart at least, whose squared distance to the wanted ones is least.

    Args:
        wanted: ascending places.
        gap: the least distance of two; all of them together are below 1.
    """
    from sklearn.isotonic import isotonic_regression

    offsets = gap * np.arange(len(wanted))
    fitted = isotonic_regression(np.asarray(wanted) - offsets, y_min=0, y_max=1 - gap * (len(wanted) - 1))
    placed: list[float] = (fitted + offsets).tolist()
    return placed


def _colour(point: Point) -> str:
    references = {ORIGINAL: GREY, RETRAIN: PALETTE[1]}
    return references.get(point.label, PALETTE[2] if point.held else PALETTE[0])


def _marker(point: Point) -> str:
    return "s" if point.label in (ORIGINAL, RETRAIN) else "o" if point.held else "X"
