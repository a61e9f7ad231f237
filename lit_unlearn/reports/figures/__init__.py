"""Figures as SVG text that sits in a page: real text, colours that follow the page's light or dark scheme."""

from lit_unlearn.reports.figures.bars import hidden_states, recovery_bars
from lit_unlearn.reports.figures.curves import curve_groups, curves
from lit_unlearn.reports.figures.frontier import Stop, Track, frontier
from lit_unlearn.reports.figures.intervals import interval_plot
from lit_unlearn.reports.figures.maps import MAX_POINTS, feature_map
from lit_unlearn.reports.figures.power import power_lines
from lit_unlearn.reports.figures.stages import stage_groups, stage_lines
from lit_unlearn.reports.figures.svg import standalone
from lit_unlearn.reports.figures.tradeoff import Point, spread, tradeoff

__all__ = [
    "MAX_POINTS",
    "Point",
    "Stop",
    "Track",
    "curve_groups",
    "curves",
    "feature_map",
    "frontier",
    "hidden_states",
    "interval_plot",
    "power_lines",
    "recovery_bars",
    "spread",
    "stage_groups",
    "stage_lines",
    "standalone",
    "tradeoff",
]
