"""``report`` on folders of runs of ``fit``, which are of no benchmark."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lit_unlearn.artifacts import ImageGrid
from lit_unlearn.benchmark.command import report
from lit_unlearn.benchmark.reading import read_all
from lit_unlearn.benchmark.summary import Summary, summarise
from lit_unlearn.errors import UsageError
from lit_unlearn.reports import Row, read_rows, write_rows
from lit_unlearn.reports.gallery import write_artifacts
from lit_unlearn.run_files import ARTIFACTS, RESULTS

ATTACKS = {"recovery/worst/test_forget_acc": 0.7}


def run(folder: Path, method: str, seed: int = 0, retain: float = 0.9, split: str = "a" * 16, **told: Any) -> Path:
    """The folder of a run of ``fit``, with a row of the method and of both references."""
    spec = told.pop("spec", {"classes": ["one"]})
    data = {"source": "ImageFolder", "train": 100, **told.pop("data", {})}
    backbone = told.pop("backbone", {"class": "Net"})
    attacks = told.pop("attacks", ATTACKS)
    own: dict[str, Any] = {"weights": {"sha256": "0" * 64}, "optimizer": {"lr": 0.1}, "epochs": 5, **told}

    def row(name: str, kept: float, **more: Any) -> Row:
        return Row(
            name, "ok", seed=seed, backbone=backbone, attacks=attacks, data=data,
            metrics={"forget_acc": 0.0, "retain_acc": 1.0, "test_retain_acc": kept, "test_forget_acc": 0.0},
            split={"hash": split, "spec": spec, "forgotten_classes": [1], "counts": {"forget": 20}}, **more,
        )  # fmt: skip

    rows = [row("Original", 0.95), row("Retrain", 0.94), row(method, retain, **own)]
    write_rows(folder / RESULTS, rows)
    return folder


def tables(*places: Path) -> list[Summary]:
    return summarise([row for row, _ in read_all(places, [])])


def sizes(summary: Summary) -> dict[str, int]:
    return {line.label: len(line.rows) for line in summary.lines}


def test_runs_of_one_split_are_one_table_and_references_count_once(tmp_path):
    run(tmp_path / "OPC/version_0", "OPC")
    run(tmp_path / "OPC/version_1", "OPC", seed=1, retain=0.8)
    run(tmp_path / "SalUn/version_0", "SalUn", attacks={})
    run(tmp_path / "SalUn/version_1", "SalUn", spec={"index_file": "my/forget.txt"}, split="b" * 16)
    classes, listed = tables(tmp_path)
    assert classes.title == "ImageFolder (100 images), class one"
    assert sizes(classes) == {"Original": 2, "Retrain": 2, "OPC": 2, "SalUn": 1}
    opc = next(line for line in classes.lines if line.label == "OPC")
    assert classes.value(opc, "utility").mean == pytest.approx(85)
    assert classes.value(opc, "gap") is not None
    assert next(line for line in classes.lines if line.label == "Retrain").rows[0].attacks == ATTACKS
    assert (listed.title, sizes(listed)["SalUn"]) == ("ImageFolder (100 images), 20 images of forget.txt", 1)


@pytest.mark.parametrize(
    "place", ["runs", "runs/OPC", "runs/OPC/version_0", "runs/OPC/version_0/results.json"], ids=lambda place: place
)
def test_a_run_is_found_from_its_own_folder_and_from_those_above(tmp_path, place):
    run(tmp_path / "runs/OPC/version_0", "OPC")
    assert [row.method for row, _ in read_all([tmp_path / place], [])] == ["Original", "Retrain", "OPC"]


def test_runs_of_a_benchmark_are_those_of_its_own_file_alone(tmp_path):
    run(tmp_path / "runs/OPC/version_0", "OPC")
    run(tmp_path / "runs/bench/pretrain/run-1", "Pretrain")
    told = {"key": "1", "scenario": "class", "experiment": "opc", "seeds": {"original": 0}}
    write_rows(tmp_path / "runs/bench/rows.json", [Row("OPC", "ok", benchmark=told)])
    assert [row.method for row, _ in read_all([tmp_path / "runs"], [])] == ["Original", "Retrain", "OPC"]
    twice = [tmp_path / "runs/bench", tmp_path / "runs/bench"]
    assert [row.benchmark for row, _ in read_all(twice, [])] == [told], "a folder that is named twice is read once"


def test_the_same_model_counts_once_with_most_of_what_is_known_of_it(tmp_path):
    run(tmp_path / "a", "OPC", attacks={})
    run(tmp_path / "b", "OPC", optimizer={}, epochs=None)  # validate, with attacks
    (summary,) = tables(tmp_path)
    assert sizes(summary) == {"Original": 1, "Retrain": 1, "OPC": 1}
    (row,) = next(line.rows for line in summary.lines if line.label == "OPC")
    assert (row.attacks, row.optimizer, row.epochs) == (ATTACKS, {"lr": 0.1}, 5)


@pytest.mark.parametrize("other", [{"epochs": 3}, {"weights": {"result": {"sha256": "b"}}}], ids=["epochs", "weights"])
def test_models_with_the_same_accuracies_are_two_if_they_were_made_otherwise(tmp_path, other):
    run(tmp_path / "a", "OPC", weights={"result": {"sha256": "a"}})
    run(tmp_path / "b", "OPC", **{"weights": {}, **other})
    (summary,) = tables(tmp_path)
    assert sum(count for label, count in sizes(summary).items() if label.startswith("OPC")) == 2


def test_runs_of_a_method_that_differ_in_settings_are_never_averaged(tmp_path):
    run(tmp_path / "a", "OPC", hyperparameters={"contract": "features", "weight": 1.0})
    run(tmp_path / "b", "OPC", hyperparameters={"contract": "logits", "weight": 1.0})
    run(tmp_path / "c", "SalUn", optimizer={"lr": 0.1})
    run(tmp_path / "d", "SalUn", optimizer={"lr": 0.2})
    run(tmp_path / "e", "SCRUB", optimizer={"betas": [1, 2]})
    run(tmp_path / "f", "SCRUB", optimizer={"betas": [1, 3]})
    (summary,) = tables(tmp_path)
    assert sizes(summary) == {
        "Original": 1, "Retrain": 1, "OPC (contract=features)": 1, "OPC (contract=logits)": 1, "SalUn (lr=0.1)": 1,
        "SalUn (lr=0.2)": 1, "SCRUB (#1)": 1, "SCRUB (#2)": 1,
    }  # fmt: skip


def test_a_label_names_another_optimizer_and_not_the_options_that_only_one_of_them_has(tmp_path):
    sgd = {"class": "SGD", "dampening": 0, "foreach": False, "fused": None, "lr": 0.1, "momentum": 0.9}
    run(tmp_path / "a", "OPC", optimizer=sgd)
    run(tmp_path / "b", "OPC", optimizer={"class": "Adam", "amsgrad": False, "capturable": False, "lr": 0.01})
    run(tmp_path / "c", "SalUn", optimizer=sgd)
    run(tmp_path / "d", "SalUn", optimizer={**sgd, "foreach": True, "lr": 0.2})
    (summary,) = tables(tmp_path)
    assert sizes(summary) == {
        "Original": 1, "Retrain": 1, "OPC (SGD, lr=0.1)": 1, "OPC (Adam, lr=0.01)": 1, "SalUn (lr=0.1)": 1,
        "SalUn (lr=0.2)": 1,
    }  # fmt: skip


def test_other_networks_originals_and_splits_have_tables_of_their_own(tmp_path):
    run(tmp_path / "a", "OPC")
    run(tmp_path / "b", "OPC", backbone={"class": "ResNet8"})
    assert {table.scenario for table in tables(tmp_path)} == {"class one, Net", "class one, ResNet8"}
    run(tmp_path / "b", "OPC", weights={"sha256": "1" * 64})
    run(tmp_path / "c", "Audit", weights={"sha256": "2" * 64})
    assert {table.scenario for table in tables(tmp_path / "a", tmp_path / "c")} == {"class one"}
    assert {table.scenario for table in tables(tmp_path / "a", tmp_path / "b")} == {
        "class one, original 00000000", "class one, original 11111111",
    }  # fmt: skip
    run(tmp_path / "b", "OPC", split="b" * 16)
    assert {table.scenario for table in tables(tmp_path / "a", tmp_path / "b")} == {
        "class one, split aaaaaaaa", "class one, split bbbbbbbb",
    }  # fmt: skip
    for name in "cd":
        run(tmp_path / name, "OPC", data={"sha256": name * 64})
    others = tables(tmp_path / "c", tmp_path / "d")
    assert {table.scenario for table in others} == {"class one, images cccccccc", "class one, images dddddddd"}
    assert [sizes(table) for table in others] == [{"Original": 1, "Retrain": 1, "OPC": 1}] * 2


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"classes": [0, 1, 2]}, "classes 0, 1, 2"),
        ({"fraction": 0.1}, "10 % of all images"),
        ({"classes": [3], "fraction": 0.25}, "25 % of class 3"),
        ({}, "nothing forgotten"),
    ],
)
def test_a_scenario_says_what_was_forgotten(tmp_path, spec, said):
    run(tmp_path / "a", "OPC", spec=spec)
    assert [table.scenario for table in tables(tmp_path)] == [said]


def test_the_page_shows_the_artifacts_of_runs(tmp_path, capsys):
    folder = run(tmp_path / "OPC/version_0", "OPC")
    grid = ImageGrid(torch.rand(1, 3, 1, 2, 2), ["image"])
    write_artifacts(folder / ARTIFACTS, {"OPC": {"inversion/delta/pictures": grid}})
    report([str(tmp_path), "--html", str(tmp_path / "page.html")])
    assert (tmp_path / "page.html").read_text().count("<img") == 3
    assert "class one" in capsys.readouterr().out


def test_a_folder_without_results_is_one_line(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"looked for rows\.json of a benchmark, for results\.json of a run, and"):
        report([str(tmp_path)])
    with pytest.raises(UsageError, match=r"nowhere: cannot be read"):
        report([str(tmp_path / "nowhere")])


def test_a_copied_benchmark_is_no_second_one(tmp_path):
    place = {"scenario": "class", "experiment": "opc", "variant": {}}
    rows = [Row("OPC", "ok", benchmark={**place, "key": f"{seed}", "seeds": {"original": seed}}) for seed in (0, 1)]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name / "rows.json", rows)
    assert len(read_all([tmp_path / "one", tmp_path / "two"], [])) == 2


def test_a_file_without_a_row_is_one_line(tmp_path):
    write_rows(tmp_path / "rows.json", [])
    with pytest.raises(UsageError, match="there is no row to report"):
        report([str(tmp_path / "rows.json"), "--html", str(tmp_path / "page.html")])
    assert not (tmp_path / "page.html").exists()


def test_two_retrains_that_tie_in_accuracy_are_two(tmp_path):
    for seed, weights in ((0, "one"), (1, "other")):
        path = run(tmp_path / f"OPC/version_{seed}", "OPC", seed=seed) / RESULTS
        rows = read_rows(path)
        rows[1].weights, rows[1].seed = {"sha256": weights}, 0
        write_rows(path, rows)
    (summary,) = tables(tmp_path)
    assert sizes(summary)["Retrain"] == 2
