"""Depth and utility against cost: what more epochs buy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lit_unlearn.reports.figures.svg import MARKERS, PALETTE, STYLE, as_svg, cut, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Stop:
    """One method after so many epochs.

    Attributes:
        cost: images seen, in percent of Retrain's.
        utility: accuracy on retained test images, in percent.
        excess: lower bound of the worst excess over Retrain, in points.
        damaged: whether its utility is damaged.
    """

    cost: float
    utility: float
    excess: float
    damaged: bool = False


@dataclass(frozen=True)
class Track:
    """One method over its numbers of epochs.

    Attributes:
        label: of the method.
        stops: in any order.
    """

    label: str
    stops: Sequence[Stop]


def frontier(tracks: Sequence[Track], retrain: float | None) -> str:
    """Two panels over the cost, a line a method: utility above, and below what the worst attack proves.

    The panels span the stops whose utility is not damaged; others are drawn hollow, at the edge where they lie beyond.

    Args:
        tracks: the methods.
        retrain: utility of Retrain in percent, a dashed line; None where it is unknown.

    Returns:
        SVG text, or an empty string without a method of several stops.
    """
    if not any(len(track.stops) > 1 for track in tracks):
        return ""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = new_figure(max(4.6, 0.24 * len(tracks) + 1), width=7)
        panels = figure.subplots(2, 1, sharex=True)
        for axes, name in zip(panels, ("utility", "excess"), strict=True):
            _draw(axes, tracks, name, [] if retrain is None or name == "excess" else [retrain])
        dashed: Any = {"color": PALETTE[1], "linestyle": (0, (4, 3)), "linewidth": 1, "zorder": 1}
        if retrain is not None:
            panels[0].axhline(retrain, **dashed)
        panels[1].axhline(0, **dashed)
        panels[0].set_ylabel("TA, %: ↑")
        panels[1].set_ylabel("worst excess, points: ↓")
        panels[1].set_xlabel("images seen, % of Retrain's: ← cheaper")
        panels[0].legend(loc="upper left", bbox_to_anchor=(1.01, 1.03), fontsize=8.5, frameon=False)
        names = ", ".join(track.label for track in tracks)
        return as_svg(figure, f"Utility, and the worst excess over Retrain, against cost: {names}")


def _draw(axes: Axes, tracks: Sequence[Track], name: str, above: Sequence[float]) -> None:
    """The tracks in one panel, which reaches up to what is given, too."""
    useful = [getattr(stop, name) for track in tracks for stop in track.stops if not stop.damaged]
    low, high = (min(useful), max(useful)) if useful else (0.0, 100.0)
    high = max([high, *above])
    margin = 0.06 * (high - low) or 1
    axes.set_ylim(low - margin, high + margin)
    for place, track in enumerate(tracks):
        stops = sorted(track.stops, key=lambda stop: stop.cost)
        colour, marker = PALETTE[place % 7], MARKERS[place % len(MARKERS)]
        x = [stop.cost for stop in stops]
        y = [min(max(getattr(stop, name), low - margin), high + margin) for stop in stops]
        line: Any = {"color": colour, "linewidth": 1.4, "linestyle": "-" if place < 7 else (0, (4, 2))}
        axes.plot(x, y, label=cut(track.label, 24), marker=marker, markersize=5, **line)
        hollow = [(a, b) for a, b, stop in zip(x, y, stops, strict=True) if stop.damaged]
        if hollow:
            look: Any = {"markerfacecolor": "white", "markeredgecolor": colour, "linestyle": "none", "zorder": 3}
            axes.plot(*zip(*hollow, strict=True), marker=marker, markersize=5, **look)
