"""Page and leaderboard have one gap to Retrain, of which tuning takes the accuracies."""

import re
from types import SimpleNamespace

import pytest

from lit_unlearn.benchmark.grid_runs import REFERENCES
from lit_unlearn.benchmark.search import Search, Tuning
from lit_unlearn.benchmark.summary import summarise
from lit_unlearn.benchmark.tables import markdown
from lit_unlearn.benchmark.tuning import judge
from lit_unlearn.reports import Row
from lit_unlearn.reports.page import render
from lit_unlearn.reports.scores import MIA_EFFICACY

SEEDS = {"original": 0, "unlearning": 0}


def row(method: str, forget: float, retain: float, test: float, mia: float | None) -> Row:
    return Row(
        method,
        "ok",
        metrics={"forget_acc": forget, "retain_acc": retain, "test_retain_acc": test},
        attacks={} if mia is None else {MIA_EFFICACY: mia},
        split={"hash": "class", "forgotten_classes": [0]},
        benchmark={"key": method, "scenario": "class", "experiment": method, "seeds": SEEDS},
    )


@pytest.mark.parametrize(
    ("mia", "of_retrain", "gap", "terms"),
    [
        (0.6, 1.0, (10 + 20 + 6 + 40) / 4, "UA, RA, TA, MIA"),
        (None, 1.0, (10 + 20 + 6) / 3, "UA, RA, TA"),
        (0.6, None, (10 + 20 + 6) / 3, "UA, RA, TA"),
    ],
)
def test_page_and_leaderboard_have_the_same_gap_and_tuning_that_of_accuracies(
    mia: float | None, of_retrain: float | None, gap: float, terms: str
) -> None:
    rows = [row("Retrain", 0.0, 1.0, 0.9, of_retrain), row("GA", 0.1, 0.8, 0.84, mia)]
    page = re.sub(r"(<[^>]+>|\s)+", " ", render(rows))
    assert (f" {gap:.1f} UA, RA, TA " if terms == "UA, RA, TA" else f" 60.0 {gap:.1f} ") in page
    (summary,) = summarise(rows)
    (line,) = (line for line in summary.lines if line.label == "GA")
    value = summary.value(line, "gap")
    assert value is not None
    assert value.mean == pytest.approx(gap)
    run = SimpleNamespace(scenario="class", name="GA", key="GA", seeds=SEEDS, variant={})
    rows[0].benchmark["experiment"] = REFERENCES
    search = Search("GA", (), 1, ("GA",), Tuning())
    (trial,) = judge([run], rows, {("class", "GA"): search})  # type: ignore[list-item]
    assert trial.gap == pytest.approx((10 + 20 + 6) / 3)


def test_a_gap_of_three_terms_has_its_terms_in_its_heading_or_in_a_note() -> None:
    without = [row("Retrain", 0.0, 1.0, 0.9, None), row("GA", 0.1, 0.8, 0.84, None)]
    assert "| Gap (UA, RA, TA) \N{DOWNWARDS ARROW} |" in markdown(summarise(without)[0])
    mixed = [row("Retrain", 0.0, 1.0, 0.9, 1.0), row("GA", 0.1, 0.8, 0.84, None), row("FT", 0.1, 0.8, 0.84, 0.5)]
    (summary,) = summarise(mixed)
    assert "| Gap \N{DOWNWARDS ARROW} |" in markdown(summary)
    (note,) = (note for note in summary.notes if "gap is" in note)
    assert re.search(r"UA, RA, TA for GA,", note)
