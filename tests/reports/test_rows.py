import json
import lzma
import os
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from lit_unlearn.errors import UsageError
from lit_unlearn.reports.rows import (
    Row,
    chance,
    labels,
    read_rows,
    reference,
    without_repeats,
    write_rows,
)


def test_rows_survive_the_file(tmp_path: Path, original: Row, shallow: Row) -> None:
    path = tmp_path / "new" / "results.json"
    write_rows(path, [original, shallow])
    assert read_rows(path) == [original, shallow]
    assert json.loads(path.read_text())["version"] == 1


def test_packed_rows_are_read_and_broken_packs_are_named(
    tmp_path: Path, original: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "rows.json", [original])
    packed = tmp_path / "rows.json.xz"
    packed.write_bytes(lzma.compress((tmp_path / "rows.json").read_bytes()))
    assert read_rows(packed) == [original]
    with monkeypatch.context() as patch:
        patch.setattr("lit_unlearn.reports.rows._UNPACKED", 100)
        with pytest.raises(UsageError, match=r"rows\.json\.xz: unpacked it has more than"):
            read_rows(packed)
    for broken in (b"no archive", packed.read_bytes()[:-20]):
        packed.write_bytes(broken)
        with pytest.raises(UsageError, match=r"rows\.json\.xz: cannot be unpacked"):
            read_rows(packed)


def test_values_of_other_types_become_json(tmp_path: Path) -> None:
    row = Row("GA", "ok", hyperparameters={"path": Path("a/b"), "n": np.int64(3), "pair": (1, 2)})
    write_rows(tmp_path / "r.json", [row])
    assert read_rows(tmp_path / "r.json")[0].hyperparameters == {"path": "a/b", "n": 3, "pair": [1, 2]}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float32("nan")])
@pytest.mark.parametrize("field", ["metrics", "hyperparameters", "curves"])
def test_a_number_that_is_not_finite_is_refused_and_the_old_file_stays(
    tmp_path: Path, bad: float, field: str, original: Row
) -> None:
    path = tmp_path / "r.json"
    write_rows(path, [original])
    with pytest.raises(UsageError, match=rf"row 0 \(GA\): {field}: x is '(nan|inf)'"):
        write_rows(path, [Row("GA", "ok", **{field: {"x": [[0, bad]] if field == "curves" else bad}})])  # type: ignore[arg-type]
    assert read_rows(path) == [original]
    assert os.listdir(tmp_path) == ["r.json"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_part(
    tmp_path: Path, original: Row, shallow: Row, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "r.json"
    write_rows(path, [original])

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="no space"):
        write_rows(path, [shallow])
    assert read_rows(path) == [original]
    assert os.listdir(tmp_path) == ["r.json"]


def test_a_row_that_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"r\.json: row 0 \(GA\): .*str.*seed"):
        write_rows(tmp_path / "r.json", [Row("GA", "ok", seed="x")])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"r\.json: row 0 \(GA\): hyperparameters: x is .*object"):
        write_rows(tmp_path / "r.json", [Row("GA", "ok", hyperparameters={"x": object()})])
    assert not list(tmp_path.iterdir())


def _document(**changes: object) -> str:
    row = asdict(Row("GA", "ok")) | changes
    row = {name: value for name, value in row.items() if value != "DROP"}
    return json.dumps({"format": "lit_unlearn results", "version": 1, "rows": [row]})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "not a results file"),
        ('{"format": "other", "version": 1, "rows": []}', "not a results file"),
        ('{"format": "lit_unlearn results", "version": 2, "rows": []}', "version 2 of the format"),
        ('{"format": "lit_unlearn results", "version": 1}', "`rows`"),
        ('{"format": "lit_unlearn results", "version": 1, "rows": [3]}', "row 0: Expected `object`, got `int`"),
        (_document(metrics="DROP"), r"row 0 \(GA\): lacks metrics"),
        (_document(extra=1), r"unknown field extra"),
        (_document(status="fine"), r"row 0 \(GA\): .*'fine'.*status"),
        (_document(seed=True), "bool.*seed"),
        (_document(seed=1.5), "float.*seed"),
        (_document(metrics={"forget_acc": "0.5"}), r"row 0 \(GA\): .*str.*metrics"),
        (_document(metrics={"forget_acc": None}), "null.*metrics"),
        (_document(curves={"loss": [1.0]}), "float.*curves"),
        (_document(reason=None), "null.*reason"),
        (_document(benchmark={"key": "a"}), r"row 0 \(GA\): its benchmark lacks experiment, scenario, seeds"),
        (
            _document(benchmark={"key": 1, "scenario": "a", "experiment": "b", "seeds": {}}),
            "benchmark.key is 1, but must be a text",
        ),
        (
            _document(benchmark={"key": "k", "scenario": "a", "experiment": "b", "seeds": 0}),
            "benchmark.seeds is 0, but must be an object",
        ),
        (_document(split={"spec": 5}), "split.spec is 5, but must be an object"),
        (_document(weights={"result": "x"}), r"weights\.result is 'x', but must be an object"),
        (_document(metrics={"forget_acc": 97.0}), r"forget_acc is 97\.0, but must lie in \[0, 1\]"),
        (_document(attacks={"a/hr/forget_acc": -1.0}), r"a/hr/forget_acc is -1\.0, but must lie in \[0, 1\]"),
        (_document(metrics={"forget_acc": float("nan")}), "not JSON"),
    ],
)
def test_each_mistake_in_a_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=said) as error:
        read_rows(path)
    assert "bad.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_accuracy_that_a_sum_has_left_above_one_is_kept(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.json", [Row("GA", "ok", attacks={"a/own/forget_acc": 1 + 1e-7})])
    assert read_rows(tmp_path / "rows.json")[0].attacks == {"a/own/forget_acc": 1 + 1e-7}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.json: cannot be read"):
        read_rows(tmp_path / "none.json")


def test_accuracies_hold_what_is_known_only() -> None:
    row = Row("GA", "ok", metrics={"forget_acc": 0.1, "loss": 2.0}, attacks={"a/b/retain_acc": 0.9, "a/auc": 0.5})
    assert row.accuracies() == {"no attack": {"forget_acc": 0.1}, "a/b": {"retain_acc": 0.9}}


def test_chance_needs_several_whole_classes() -> None:
    assert chance(Row("GA", "ok", split={"forgotten_classes": [1, 2, 5]})) == pytest.approx(1 / 3)
    assert chance(Row("GA", "ok", split={"forgotten_classes": [1]})) is None
    assert chance(Row("GA", "ok", split={"forgotten_classes": []})) is None
    assert chance(Row("GA", "ok")) is None


def test_a_reference_shares_the_split_and_ended_well(retrain: Row, shallow: Row) -> None:
    other = Row("Retrain", "ok", split={"hash": "other"})
    failed = Row("Retrain", "diverged", split=shallow.split)
    assert reference(shallow, [other, failed, shallow], "Retrain") is None
    assert reference(shallow, [other, failed, retrain], "Retrain") is retrain


def test_among_references_the_one_of_the_same_backbone_counts(retrain: Row, shallow: Row) -> None:
    bigger = Row("Retrain", "ok", split=shallow.split, backbone={"class_path": "ResNet18"}, seed=42)
    bare, elder = replace(retrain, attacks={}), replace(retrain, seed=1)
    assert reference(shallow, [bigger, bare, elder, retrain], "Retrain") is retrain
    assert reference(shallow, [bigger, bare, elder], "Retrain") is elder


def test_a_reference_that_two_files_hold_is_shown_once(original: Row, shallow: Row) -> None:
    again, changed = replace(original, seconds={"evaluate": 1.0}), replace(original, metrics={"forget_acc": 0.5})
    rows = [original, shallow, again, changed, shallow]
    assert without_repeats(rows) == [original, shallow, changed, shallow]


def test_labels_tell_rows_of_one_method_apart() -> None:
    rows = [
        Row("OPC", "ok", hyperparameters={"contract": "logits", "weight": 1.0}, seed=1),
        Row("OPC", "ok", hyperparameters={"contract": "features", "weight": 1.0}, seed=1),
        Row("GA", "ok", seed=1),
        Row("FT", "ok", seed=1),
        Row("FT", "ok", seed=2),
        Row("RL", "ok"),
        Row("RL", "ok"),
    ]
    expected = [
        "OPC (contract=logits)",
        "OPC (contract=features)",
        "GA",
        "FT (seed 1)",
        "FT (seed 2)",
        "RL #1",
        "RL #2",
    ]
    assert labels(rows) == expected


def test_a_damaged_row_is_named_and_hides_no_other(tmp_path: Path) -> None:
    row = asdict(Row("GA", "ok"))
    rows = [row, row | {"metrics": {"forget_acc": 10**400}}, row | {"seed": "x"}, row]
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"format": "lit_unlearn results", "version": 1, "rows": rows}))
    damaged: list[str] = []
    assert read_rows(path, damaged) == [Row("GA", "ok")] * 2
    assert [re.search(r"r\.json: row \d \(GA\)", line) is not None for line in damaged] == [True, True]
    assert ["metrics" in damaged[0], "seed" in damaged[1]] == [True, True]
