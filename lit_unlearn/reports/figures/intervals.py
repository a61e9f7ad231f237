"""The excess of every attack over Retrain, with its bounds, beside the margins that decide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lit_unlearn.reports.figures.svg import GREY, INK, PALETTE, STYLE, as_svg, cut, new_figure

if TYPE_CHECKING:
    from lit_unlearn.reports.verdict import Verdict

_HEIGHT, _AROUND = 0.24, 0.75
_LEAST, _MOST = -20.0, 40.0
"""Points beyond which a bar is cut."""


def interval_plot(verdict: Verdict) -> str:
    """A bar from the lower to the upper bound for each number that the verdict compares, the most severe first.

    In points: of accuracy, of AUC times 100, of IDI and masked answers a fifth, so that all have the same margins. A
    bar that is cut ends in an arrow, and its excess and bounds stand beside it.

    Returns:
        SVG text, or an empty string where nothing is compared.
    """
    if not verdict.comparisons:
        return ""
    import matplotlib

    margins = verdict.comparisons[0].margins
    with matplotlib.rc_context(STYLE):
        figure = new_figure(_HEIGHT * len(verdict.comparisons) + _AROUND)
        axes = figure.subplots()
        for place, each in enumerate(verdict.comparisons):
            low, excess, high = (100 * value / each.scale for value in (each.low, each.excess, each.high))
            colour = PALETTE[0] if each.leaks else PALETTE[2] if each.as_retrain else GREY
            ends = [_cut(low), _cut(high)]
            axes.plot(ends, [place, place], color=colour, linewidth=3.2, solid_capstyle="butt", zorder=3)
            if _cut(excess) == excess:
                axes.plot([excess], [place], marker="o", markersize=5, color=colour, zorder=4)
            for is_cut, edge, arrow in ((low < _LEAST, _LEAST, "<"), (high > _MOST, _MOST, ">")):
                if is_cut:
                    axes.plot([edge], [place], marker=arrow, markersize=7, color=colour, zorder=4)
            if ends != [low, high]:
                where: Any = {"textcoords": "offset points", "va": "center", "annotation_clip": False, "fontsize": 8}
                text = f"{excess:+.0f} [{low:+.0f}, {high:+.0f}]".replace("-", "\N{MINUS SIGN}")
                axes.annotate(text, (ends[1], place), (7, 0), **where)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.axvline(100 * margins.leak, color=INK, linewidth=1.2)
        axes.axvline(100 * margins.same, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
        names = [cut(f"{each.attack}{' (AUC)' if each.unit == 'AUC' else ''}", 34) for each in verdict.comparisons]
        axes.set_yticks(range(len(names)), names)
        axes.set(ylim=(len(names) - 0.4, -0.6), xlabel="excess over Retrain, points")
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        return as_svg(figure, "Excess of every attack over Retrain, with its lower and upper bound")


def _cut(points: float) -> float:
    return min(max(points, _LEAST), _MOST)
