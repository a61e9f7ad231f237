"""Logged quantities over the epochs of unlearning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lit_unlearn.errors import UsageError
from lit_unlearn.reports.figures.svg import PALETTE, STYLE, WIDTH, as_svg, cut, new_figure
from lit_unlearn.reports.rows import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def curve_groups(row: Row) -> dict[str, list[str]]:
    """Title → logged quantities that share an axis: the accuracies, then every other quantity by itself."""
    accuracies = sorted(name for name in row.curves if name.endswith("_acc"))
    groups = {"accuracy": accuracies} if accuracies else {}
    return groups | {name: [name] for name in sorted(row.curves) if name not in accuracies}


def curves(row: Row, title: str | None = None) -> str:
    """Logged quantities over epochs.

    Args:
        row: the row.
        title: one of :func:`curve_groups`; all of them in a grid when None.

    Returns:
        SVG text, or an empty string where nothing was logged.

    Raises:
        UsageError: a curve is not a list of ``[epoch, value]``.
    """
    groups = curve_groups(row) if title is None else {title: curve_groups(row)[title]}
    if not groups:
        return ""
    import matplotlib

    columns = min(2, len(groups))
    lines = -(-len(groups) // columns)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(2.3 * lines, width=WIDTH if columns == 2 else 3.4)
        panels = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes, (name, quantities) in zip(panels, groups.items(), strict=False):
            _draw_curves(axes, row, name, quantities)
        for axes in panels[len(groups) :]:
            axes.set_axis_off()
        return as_svg(figure, f"Curves over epochs: {', '.join(groups)}")


def _draw_curves(axes: Axes, row: Row, title: str, quantities: Sequence[str]) -> None:
    for i, name in enumerate(quantities):
        points = np.asarray(row.curves[name], dtype=float)
        if points.ndim != 2 or points.shape[1] != 2:
            raise UsageError(f"curve {name!r} must be a list of [epoch, value], not of shape {points.shape}")
        dashes = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))[i % 4]
        marker = "o" if len(points) < 2 else None
        label = name.removesuffix("_acc").rpartition("/")[2].replace("_", "-")
        axes.plot(*points.T, color=PALETTE[i % 7], linestyle=dashes, linewidth=1.6, marker=marker, label=label)
    axes.set_title(cut(title, 34), fontsize=9.5, loc="left", fontweight="bold")
    axes.set_xlabel("epoch")
    if len(quantities) > 1:
        axes.set_ylim(-0.02, 1.02)
        axes.legend(fontsize=8.5, frameon=False, handlelength=2.6, labelspacing=0.25)
