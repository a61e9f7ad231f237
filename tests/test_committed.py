"""The script that keeps the committed rows, on a copy of some."""

import importlib
import shutil
from pathlib import Path

import pytest

from lit_unlearn.benchmark.gathering import kept_rows
from lit_unlearn.reports import read_rows, write_rows

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
