"""The committed rows: the script that keeps them, on a copy of some, and the search that goes on from them."""

import importlib
import shutil
from pathlib import Path

import pytest

from lit_unlearn.benchmark import Grid
from lit_unlearn.benchmark.gathering import kept_rows
from lit_unlearn.benchmark.search import Tuning
from lit_unlearn.benchmark.tuning import Trials, searches_of
from lit_unlearn.cli import declared_ranges
from lit_unlearn.reports import read_rows, write_rows
from lit_unlearn.shipped import read_config

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def committed(monkeypatch, tmp_path):
    """The script, with the page of other classes and its rows in another folder."""
    monkeypatch.syspath_prepend(str(ROOT / "docs/results"))
    script = importlib.import_module("committed")
    monkeypatch.setattr(script, "RESULTS", tmp_path / "results")
    shutil.copytree(ROOT / "docs/results/elsewhere", tmp_path / "results/elsewhere")
    shutil.copy(ROOT / "docs/results/elsewhere.md", tmp_path / "results")
    return script


def test_rows_of_a_benchmark_come_among_the_committed_ones_in_its_order(committed, tmp_path):
    folder = committed.RESULTS / "elsewhere"
    before, content = kept_rows(folder), (folder / "rows.json.xz").read_bytes()
    found = [row for row in before if row.benchmark["experiment"] in ("ct", "opc_deep")]
    committed.write(folder, [row for row in before if row not in found])
    assert len(kept_rows(folder)) == len(before) - len(found)
    write_rows(tmp_path / "run/rows.json", found[::-1])
    committed.add(kept_rows(tmp_path / "run"), "elsewhere")
    assert (folder / "rows.json.xz").read_bytes() == content
    found[0].metrics["forget_acc"] = 0.5
    committed.add(found[:1], "elsewhere")
    after = kept_rows(folder)
    assert len(after) == len(before)
    assert [row.metrics["forget_acc"] for row in after].count(0.5) == 1


def test_rows_of_earlier_settings_keep_their_place(committed):
    folder = committed.RESULTS / "elsewhere"
    rows = kept_rows(folder)
    for number, row in enumerate(rows[::3]):
        row.benchmark["key"] = f"of an earlier suite, {number}"
    committed.write(folder, rows)
    committed.add(rows[5:7], "elsewhere")
    assert [row.benchmark for row in kept_rows(folder)] == [row.benchmark for row in rows]


def test_verdicts_and_tables_are_made_of_the_rows(committed):
    folder, page = committed.RESULTS / "elsewhere", committed.RESULTS / "elsewhere.md"
    text, rows = page.read_text(), kept_rows(folder)
    judged = [row for row in rows if row.verdict]
    for row in judged:
        row.verdict = {**row.verdict, "level": "as Retrain"}
    committed.write(folder, rows)
    page.write_text(text.replace("| CT |", "| CTX |"))
    committed.remake(folder)
    assert page.read_text() == text
    assert [row.verdict for row in kept_rows(folder) if row.verdict] == [
        row.verdict for row in read_rows(ROOT / "docs/results/elsewhere/rows.json.xz") if row.verdict
    ]
    assert not list(folder.glob("*.svg")), "this page has no figure"


def test_pending_rows_are_those_of_todays_benchmark(committed, tmp_path):
    pending = ROOT / "docs/results/pending"
    for folder in sorted(pending.iterdir()) if pending.exists() else []:
        todays = {run.key for run in committed.runs_of(folder.name) if run.reports}
        assert {row.benchmark["key"] for row in kept_rows(folder)} <= todays
    rows = kept_rows(ROOT / "docs/results/elsewhere")[:3]
    write_rows(tmp_path / "run/rows.json", rows)
    committed.add(kept_rows(tmp_path / "run"), "pending/elsewhere")
    assert kept_rows(committed.RESULTS / "pending/elsewhere") == rows
    assert len(kept_rows(committed.RESULTS / "elsewhere")) > len(rows), "the page's own rows stay"


OPEN_SEARCHES = ()


@pytest.mark.ci
@pytest.mark.parametrize(
    ("search", "folder", "scenario", "skip"),
    [
        ("fashion_mnist", "tuning", "class", OPEN_SEARCHES),
        ("fashion_mnist", "tuning", "random", ()),
        ("digits", "tuning/digits", "class", ()),
    ],
)
def test_the_committed_search_goes_on_where_it_stands(search, folder, scenario, skip):
    config, rows = read_config(f"tune/{search}"), kept_rows(ROOT / "docs/results" / folder)
    grid = Grid(**config["grid"], scenarios=[scenario], skip={scenario: list(skip)})
    searches = searches_of(grid, tuning := Tuning(**config["tuning"]), declared_ranges)
    trials = Trials(grid, tuning, searches)
    known = {row.benchmark["key"] for row in rows}
    while trials.grow(rows, {}):
        pass
    assert [run.name for run in trials.runs if run.reports and run.key not in known] == []
    assert trials.ended
