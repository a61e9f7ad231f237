"""How often an excess over Retrain is found."""

from __future__ import annotations

from collections.abc import Mapping

from lit_unlearn.reports.figures.svg import MARKERS, PALETTE, STYLE, as_svg, new_figure


def power_lines(power: Mapping[tuple[int, float], float]) -> str:
    """A line for each number of models of a method: the share that is said to leak, over the excess.

    Args:
        power: (number of models, excess over Retrain as a fraction) → share that is said to leak, in [0, 1].

    Returns:
        SVG text, or an empty string where nothing was measured.
    """
    if not power:
        return ""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = new_figure(2.5)
        axes = figure.subplots()
        for place, count in enumerate(sorted({count for count, _ in power})):
            excesses = sorted(excess for known, excess in power if known == count)
            shares = [100 * power[count, excess] for excess in excesses]
            label = f"{count} model{'s' if count > 1 else ''} of the method"
            axes.plot(
                [100 * excess for excess in excesses],
                shares,
                color=PALETTE[place % 7],
                marker=MARKERS[place % len(MARKERS)],
                markersize=4,
                linewidth=1.6,
                label=label,
            )
        axes.set(ylim=(-3, 103), xlabel="true excess over Retrain, points", ylabel="said to leak, %")
        axes.set_xticks(sorted({100 * excess for _, excess in power}))
        axes.legend(fontsize=8.5, frameon=False)
        return as_svg(figure, "Share of attacks that are said to leak, over their excess")
