"""What attacks measured from the first stage of a network to the last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lit_unlearn.reports.figures.svg import GREY, MARKERS, PALETTE, STYLE, as_svg, colour_of, cut, new_figure
from lit_unlearn.reports.rows import FORGOTTEN, ORIGINAL, RETRAIN, SPLITS, Row, reference

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
        figure = new_figure(2.1, width=3.4)
        axes = figure.subplots()
        for i, (name, known) in enumerate(lines.items()):
            values = [known.get(stage, np.nan) for stage in stages]
            colour = colour_of(row) if name == row.method else GREY if name == ORIGINAL else PALETTE[1]
            axes.plot(values, color=colour, marker=MARKERS[i], markersize=4, linewidth=1.6, label=name)
        _scale(axes, [value for known in lines.values() for value in known.values()])
        turned: Any = {"rotation": 30, "ha": "right"} if len(stages) > 5 else {}
        axes.set_xticks(range(len(stages)), [cut(stage, 12) for stage in stages], **turned)
        axes.set_title(cut(quantity, 40), fontsize=9.5, loc="left", fontweight="bold")
        return as_svg(figure, f"{attack}, {quantity}, by stage: {', '.join(lines)}")


def _staged(row: Row, rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, dict[str, float]]]:
    """(attack, quantity) → model → stage → value; of several readouts at a stage the largest value."""
    beside = {name: reference(row, rows, name) for name in (ORIGINAL, RETRAIN)}
    found: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for name, each in (beside | {row.method: row}).items():
        for key, value in each.attacks.items() if each else ():
            if parts := _parts(key):
                attack, quantity, stage = parts
                line = found.setdefault((attack, quantity), {}).setdefault(name, {})
                line[stage] = max(value, line.get(stage, value))
    return found


def _parts(key: str) -> tuple[str, str, str] | None:
    """Attack, quantity and stage of a number of family/name/stage/quantity, or of a suite's probes of a stage.

    The latter are family/name/split/member/stage; family/name/split/member is a readout of the features, and no stage.
    """
    names = key.split("/")
    if len(names) == 4 and names[2] not in SPLITS:
        return "/".join(names[:2]), names[3], names[2]
    if len(names) == 5 and names[2] in FORGOTTEN and names[3].startswith("stage"):
        return "/".join(names[:2]), f"strongest readout, {names[2]}", names[4]
    return None


def _scale(axes: Axes, values: Sequence[float]) -> None:
    if min(values) > 0 and max(values) > 100 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    elif min(values) >= 0 and max(values) <= 1 + 1e-6:
        axes.set_ylim(-0.03, 1.03)
