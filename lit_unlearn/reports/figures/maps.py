"""Features in two dimensions, before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lit_unlearn.artifacts import FORGOTTEN
from lit_unlearn.errors import UsageError
from lit_unlearn.reports.figures.svg import GREY, MARKERS, PALETTE, STYLE, WIDTH, as_svg, cut, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_POINTS = 1500


def feature_map(maps: Mapping[str, tuple[Any, Sequence[object]]]) -> str:
    """Scatter plots of 2-D features, one panel a model, all on the same scale so that contraction shows.

    Args:
        maps: model → (points of shape (N, 2), a group label a point). Where labels end in "(forgotten)", the other
            groups are grey, with their label at their median; so are groups whose label starts with "retain".

    Returns:
        SVG text, or an empty string without maps. Of more than 1,500 points every k-th is drawn.

    Raises:
        UsageError: points are not (N, 2), are not finite, or labels are more or fewer.
    """
    if not maps:
        return ""
    import matplotlib

    checked = {name: _checked(name, *panel) for name, panel in maps.items()}
    grey = _retained({label for _, names in checked.values() for label in names})
    groups = sorted(
        {label for _, names in checked.values() for label in names}, key=lambda name: (name not in grey, name)
    )
    style = {group: _group_style(group in grey, i) for i, group in enumerate(groups, -len(grey))}
    columns = min(2, len(checked))
    lines = -(-len(checked) // columns)
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = new_figure(2.3 * lines + 0.3, width=WIDTH if columns == 2 else 3.4)
        panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for axes, (name, (points, names)) in zip(panels, checked.items(), strict=False):
            _draw_map(axes, name, points, names, style)
        look: Any = {"fontsize": 9, "frameon": False, "handletextpad": 0.2, "markerscale": 1.8}
        handles, names = _legend(panels[0], grey)
        wide = 1 + len(names) // 8
        for axes in panels[len(checked) :]:
            axes.set_axis_off()
            axes.legend(handles, names, loc="center", ncols=wide, **look)
        if len(panels) == len(checked):
            figure.legend(handles, names, loc="outside lower center", ncols=max(columns, wide), **look)
        return as_svg(figure, f"Feature maps of {', '.join(checked)}")


def _checked(name: str, points: Any, names: Sequence[object]) -> tuple[np.ndarray, list[str]]:
    array = np.asarray(points, dtype=float)
    if array.ndim != 2 or array.shape[1] != 2 or not np.isfinite(array).all():
        raise UsageError(f"feature map {name!r} must be finite points of shape (N, 2), not {array.shape}")
    if len(names) != len(array):
        raise UsageError(f"feature map {name!r} has {len(array)} points but {len(names)} labels")
    step = max(1, -(-len(array) // MAX_POINTS))
    return array[::step], [str(label) for label in names][::step]


def _retained(groups: set[str]) -> set[str]:
    """The groups that stay in the background."""
    forgotten = {group for group in groups if group.endswith(FORGOTTEN)}
    return groups - forgotten if forgotten else {group for group in groups if group.lower().startswith("retain")}


def _group_style(grey: bool, index: int) -> dict[str, Any]:
    """Retained groups are small grey dots under the others, which differ by colour and by marker."""
    if grey:
        return {"color": GREY, "marker": "o", "s": 7, "alpha": 0.35}
    return {"color": PALETTE[index % 7], "marker": MARKERS[index % 8], "s": 14, "alpha": 0.75}


def _draw_map(axes: Axes, title: str, points: np.ndarray, names: list[str], style: dict[str, dict[str, Any]]) -> None:
    for group, look in style.items():
        chosen = points[[name == group for name in names]]
        axes.scatter(*chosen.T, label=group, linewidths=0, **look)
    for group in [name for name in style if style[name]["color"] == GREY and len(style) > 2]:
        if len(chosen := points[[name == group for name in names]]):
            axes.annotate(cut(group, 12), np.median(chosen, axis=0), fontsize=7, ha="center", va="center", zorder=4)
    axes.set_title(cut(title, 34), fontsize=9.5, fontweight="bold")
    axes.tick_params(length=0, labelbottom=False, labelleft=False)
    axes.spines[["left", "bottom"]].set_color(GREY)


def _legend(axes: Axes, grey: set[str]) -> tuple[list[Any], list[str]]:
    """A handle a group, the grey ones together as one."""
    handles, names = axes.get_legend_handles_labels()
    together = min(grey) if len(grey) == 1 else "retained"
    shown = {together if name in grey else name: handle for handle, name in zip(handles, names, strict=True)}
    return list(shown.values()), [_in_legend(name) for name in shown]


def _in_legend(name: str) -> str:
    """A group's name, cut before what says that it is forgotten."""
    mark = FORGOTTEN if name.endswith(FORGOTTEN) else ""
    return cut(name.removesuffix(mark), 23 - len(mark)) + mark
