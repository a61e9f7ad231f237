"""The paper's figure: accuracy on forgotten data without an attack and after each attack, as bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lit_unlearn.reports.figures.svg import INK, PALETTE, STYLE, as_svg, colour_of, cut, new_figure
from lit_unlearn.reports.rows import NO_ATTACK, ORIGINAL, RETRAIN, Row, chance, in_order, labels, reference

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_BARS = 42
MAX_ATTACKS = 6


def recovery_bars(rows: Sequence[Row]) -> str:
    """Bars of the accuracy on forgotten data, without an attack and after each one, one group a model.

    Unseen images of the forgotten classes where they were measured, else the forget images. A tick on a bar is
    Retrain under the same attack; a dashed line is the chance level. Of many attacks the strongest are drawn.

    Returns:
        SVG text, or an empty string where nothing was measured.
    """
    rows = [row for row in in_order(rows) if forgotten(row, rows)]
    if not rows:
        return ""
    import matplotlib

    states = _states(rows)
    with matplotlib.rc_context(STYLE):
        bars = sum(sum(state in forgotten(row, rows) for state in states) for row in rows)
        figure = new_figure(0.235 * bars + 0.44 * len(rows) + 0.75)
        _draw_bars(figure.subplots(), rows, states)
        return as_svg(figure, "Accuracy on forgotten data, without an attack and after each one, by model")


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
    """No attack, then the attacks by the largest accuracy on any method; as many as stay readable."""
    methods = [row for row in rows if row.method not in (ORIGINAL, RETRAIN)] or list(rows)
    strength: dict[str, float] = {}
    for row in methods:
        for state, value in forgotten(row, rows).items():
            strength[state] = max(value, strength.get(state, 0.0))
    attacks = sorted((state for state in strength if state != NO_ATTACK), key=lambda state: -strength[state])
    return [NO_ATTACK, *attacks[: max(1, min(MAX_ATTACKS, MAX_BARS // len(rows) - 1))]]


def _draw_bars(axes: Axes, rows: Sequence[Row], states: Sequence[str]) -> None:
    y, ticks = 0.0, []
    for row, name in zip(rows, labels(rows), strict=True):
        y += 1.15
        axes.text(0, y - 0.3, cut(name, 46), fontweight="bold", va="center", ha="left")
        retrained = reference(row, rows, RETRAIN)
        beside = forgotten(retrained, rows) if retrained and row.method not in (ORIGINAL, RETRAIN) else {}
        known = forgotten(row, rows)
        for state in filter(known.__contains__, states):
            y += 1.0
            ticks.append((y - 0.45, state))
            _draw_bar(axes, y - 0.45, 100 * known[state], colour_of(row), state == NO_ATTACK, beside.get(state))
        y += 0.4
    for level in {value for row in rows if (value := chance(row)) is not None}:
        axes.axvline(100 * level, color=INK, linestyle=(0, (4, 3)), linewidth=1, zorder=3)
    axes.set_yticks([position for position, _ in ticks], [cut(state, 26) for _, state in ticks])
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
