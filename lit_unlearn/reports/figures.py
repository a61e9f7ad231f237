"""Figures as SVG text that sits in a page: real text, colours that follow the page's light or dark scheme.

Drawn with matplotlib's objects, without pyplot: no window system, no figure kept alive. Ink is ``currentColor`` and
every other colour a CSS variable ``--c0`` … ``--c7`` with a fallback, so that one drawing serves light, dark and print.
"""

from __future__ import annotations

import hashlib
import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lit_unlearn.errors import UsageError
from lit_unlearn.exhibits import FORGOTTEN
from lit_unlearn.reports.rows import AS_IS, ORIGINAL, RETRAIN, SPLITS, Row, chance, in_order, labels, reference

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colour-blind safe set, its yellow and black replaced by what reads on white and on black.
PALETTE = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8b6db3", "#8a8f98")
GREY = PALETTE[7]
INK = "#010203"
MARKERS = "os^DvPX*"
WIDTH = 4.6
MAX_POINTS = 1500
MAX_BARS = 42
MAX_ATTACKS = 6
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lit_unlearn",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
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


def recovery_bars(rows: Sequence[Row]) -> str:
    """Bars of the accuracy on forgotten data, as is and after each attack, one group a model.

    Unseen images of the forgotten classes where they were measured, else the forget images. A tick on a bar is
    Retrain under the same attack; a dashed line is the accuracy of a constant answer. Of many attacks the strongest are
    shown.

    Returns:
        SVG text, or an empty string where nothing was measured.
    """
    rows = [row for row in in_order(rows) if forgotten(row, rows)]
    if not rows:
        return ""
    import matplotlib

    shown = _states(rows)
    with matplotlib.rc_context(STYLE):
        bars = sum(sum(state in forgotten(row, rows) for state in shown) for row in rows)
        figure = _figure(0.235 * bars + 0.44 * len(rows) + 0.75)
        _draw_bars(figure.subplots(), rows, shown)
        return _svg(figure, "Accuracy on forgotten data, as is and after each attack, by model")


def forgotten(row: Row, rows: Sequence[Row]) -> dict[str, float]:
    """State → accuracy on forgotten data: unseen images where any of the rows has them, else the forget images."""
    unseen = any("test_forget_acc" in known for other in rows for known in other.accuracies().values())
    split = "test_forget_acc" if unseen else "forget_acc"
    return {state: known[split] for state, known in row.accuracies().items() if split in known}


def hidden_states(rows: Sequence[Row]) -> int:
    """How many attacks :func:`recovery_bars` leaves out."""
    rows = [row for row in in_order(rows) if forgotten(row, rows)]
    return len({state for row in rows for state in forgotten(row, rows)} - set(_states(rows))) if rows else 0


def _states(rows: Sequence[Row]) -> list[str]:
    """As is, then the attacks by the most that any method gives away; as many as stay readable."""
    methods = [row for row in rows if row.method not in (ORIGINAL, RETRAIN)] or list(rows)
    strength: dict[str, float] = {}
    for row in methods:
        for state, value in forgotten(row, rows).items():
            strength[state] = max(value, strength.get(state, 0.0))
    attacks = sorted((state for state in strength if state != AS_IS), key=lambda state: -strength[state])
    return [AS_IS, *attacks[: max(1, min(MAX_ATTACKS, MAX_BARS // len(rows) - 1))]]


def _draw_bars(axes: Axes, rows: Sequence[Row], shown: Sequence[str]) -> None:
    y, ticks = 0.0, []
    for row, name in zip(rows, labels(rows), strict=True):
        y += 1.15
        axes.text(0, y - 0.3, _cut(name, 46), fontweight="bold", va="center", ha="left")
        retrained = reference(row, rows, RETRAIN)
        beside = forgotten(retrained, rows) if retrained and row.method not in (ORIGINAL, RETRAIN) else {}
        known = forgotten(row, rows)
        for state in filter(known.__contains__, shown):
            y += 1.0
            ticks.append((y - 0.45, state))
            _draw_bar(axes, y - 0.45, 100 * known[state], _colour(row), state == AS_IS, beside.get(state))
        y += 0.4
    for level in {value for row in rows if (value := chance(row)) is not None}:
        axes.axvline(100 * level, color=INK, linestyle=(0, (4, 3)), linewidth=1, zorder=3)
    axes.set_yticks([position for position, _ in ticks], [_cut(state, 26) for _, state in ticks])
    axes.set(xlim=(0, 100), ylim=(y + 0.1, 0.2), xlabel="accuracy on forgotten data, %")
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _draw_bar(axes: Axes, y: float, value: float, colour: str, hollow: bool, retrained: float | None) -> None:
    face = {"facecolor": "none", "edgecolor": colour, "linewidth": 1.4} if hollow else {"facecolor": colour}
    axes.barh(y, value, height=0.68, **face)
    where: Any = {"textcoords": "offset points", "va": "center", "annotation_clip": False, "zorder": 5}
    axes.annotate(f"{value:.1f}", (value, y), (4, 0), **where)
    if retrained is not None:
        axes.plot([100 * retrained] * 2, [y - 0.46, y + 0.46], color=PALETTE[1], linewidth=2.6, zorder=4)


def _colour(row: Row) -> str:
    return {ORIGINAL: GREY, RETRAIN: PALETTE[1]}.get(row.method, PALETTE[0])


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
        figure = _figure(2.3 * lines, width=WIDTH if columns == 2 else 3.4)
        panels = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes, (name, quantities) in zip(panels, groups.items(), strict=False):
            _draw_curves(axes, row, name, quantities)
        for axes in panels[len(groups) :]:
            axes.set_axis_off()
        return _svg(figure, f"Curves over epochs: {', '.join(groups)}")


def _draw_curves(axes: Axes, row: Row, title: str, quantities: Sequence[str]) -> None:
    for i, name in enumerate(quantities):
        points = np.asarray(row.curves[name], dtype=float)
        if points.ndim != 2 or points.shape[1] != 2:
            raise UsageError(f"curve {name!r} must be a list of [epoch, value], not of shape {points.shape}")
        dashes = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))[i % 4]
        marker = "o" if len(points) < 2 else None
        label = name.removesuffix("_acc").rpartition("/")[2].replace("_", "-")
        axes.plot(*points.T, color=PALETTE[i % 7], linestyle=dashes, linewidth=1.6, marker=marker, label=label)
    axes.set_title(_cut(title, 34), fontsize=9.5, loc="left", fontweight="bold")
    axes.set_xlabel("epoch")
    if len(quantities) > 1:
        axes.set_ylim(-0.02, 1.02)
        axes.legend(fontsize=8.5, frameon=False, handlelength=2.6, labelspacing=0.25)


def stage_groups(row: Row, rows: Sequence[Row]) -> dict[str, list[str]]:
    """Attack → quantities that it measured at three or more stages of this row or of its references."""
    found: dict[str, dict[str, set[str]]] = {}
    for (attack, quantity), values in _staged(row, rows).items():
        found.setdefault(attack, {})[quantity] = {stage for line in values.values() for stage in line}
    groups = {a: [q for q, stages in quantities.items() if len(stages) > 2] for a, quantities in found.items()}
    return {attack: quantities for attack, quantities in groups.items() if quantities}


def stage_lines(row: Row, rows: Sequence[Row], attack: str, quantity: str) -> str:
    """One quantity of an attack over the stages, in the order measured: this row beside its Original and Retrain.

    A stage at which it is unknown, or undefined, leaves a gap. Values that are all positive and span a factor of 100
    are on a logarithmic axis.

    Args:
        row: the row.
        rows: all rows, with the references.
        attack: one of :func:`stage_groups`.
        quantity: one of those of the attack.

    Returns:
        SVG text.
    """
    import matplotlib

    lines = _staged(row, rows)[attack, quantity]
    stages = list(dict.fromkeys(stage for name in reversed(lines) for stage in lines[name]))
    with matplotlib.rc_context(STYLE):
        figure = _figure(2.1, width=3.4)
        axes = figure.subplots()
        for i, (name, known) in enumerate(lines.items()):
            values = [known.get(stage, np.nan) for stage in stages]
            colour = _colour(row) if name == row.method else GREY if name == ORIGINAL else PALETTE[1]
            axes.plot(values, color=colour, marker=MARKERS[i], markersize=4, linewidth=1.6, label=name)
        _scale(axes, [value for known in lines.values() for value in known.values()])
        turned: Any = {"rotation": 30, "ha": "right"} if len(stages) > 5 else {}
        axes.set_xticks(range(len(stages)), [_cut(stage, 12) for stage in stages], **turned)
        axes.set_title(_cut(quantity, 40), fontsize=9.5, loc="left", fontweight="bold")
        return _svg(figure, f"{attack}, {quantity}, by stage: {', '.join(lines)}")


def _staged(row: Row, rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, dict[str, float]]]:
    """(attack, quantity) → model → stage → value, of the numbers that are named family/name/stage/quantity.

    Those of family/name/split/readout are of the members of a suite, and are no stages.
    """
    beside = {name: reference(row, rows, name) for name in (ORIGINAL, RETRAIN)}
    found: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for name, each in (beside | {row.method: row}).items():
        for key, value in each.attacks.items() if each else ():
            if len(parts := key.split("/")) == 4 and parts[2] not in SPLITS:
                found.setdefault(("/".join(parts[:2]), parts[3]), {}).setdefault(name, {})[parts[2]] = value
    return found


def _scale(axes: Axes, values: Sequence[float]) -> None:
    if min(values) > 0 and max(values) > 100 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    elif min(values) >= 0 and max(values) <= 1 + 1e-6:
        axes.set_ylim(-0.03, 1.03)


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
        figure = _figure(2.3 * lines + 0.3, width=WIDTH if columns == 2 else 3.4)
        panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for axes, (name, (points, names)) in zip(panels, checked.items(), strict=False):
            _draw_map(axes, name, points, names, style)
        look: Any = {"fontsize": 9, "frameon": False, "handletextpad": 0.2, "markerscale": 1.8}
        handles, names = _legend(panels[0], grey)
        for axes in panels[len(checked) :]:
            axes.set_axis_off()
            axes.legend(handles, names, loc="center", ncols=1 + len(names) // 8, **look)
        if len(panels) == len(checked):
            figure.legend(handles, names, loc="outside lower center", ncols=3, **look)
        return _svg(figure, f"Feature maps of {', '.join(checked)}")


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
            axes.annotate(_cut(group, 12), np.median(chosen, axis=0), fontsize=7, ha="center", va="center", zorder=4)
    axes.set_title(_cut(title, 34), fontsize=9.5, fontweight="bold")
    axes.tick_params(length=0, labelbottom=False, labelleft=False)
    axes.spines[["left", "bottom"]].set_color(GREY)


def _legend(axes: Axes, grey: set[str]) -> tuple[list[Any], list[str]]:
    """A handle a group, the grey ones together as one."""
    handles, names = axes.get_legend_handles_labels()
    together = min(grey) if len(grey) == 1 else "retained"
    shown = {together if name in grey else name: handle for handle, name in zip(handles, names, strict=True)}
    return list(shown.values()), [_cut(name, 22) for name in shown]


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _figure(height: float, width: float = WIDTH) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure, label: str) -> str:
    """Serialise, and make it fit a page: scalable, labelled, ids of its own, colours from CSS."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    svg = re.sub(r"<metadata>.*?</metadata>", "", text.getvalue()[text.getvalue().index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\s(width|height)="[^"]*pt"', "", svg, count=2)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", svg)
    svg = svg.replace(INK, "currentColor")
    for i, colour in enumerate(PALETTE):
        svg = svg.replace(colour, f"var(--c{i}, {colour})")
    prefix = "f" + hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{prefix}-", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(label)}" stroke-linejoin="round" ', 1)
