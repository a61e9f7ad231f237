"""A later forget rule replaces an earlier one whole, in each form in which the command line takes it."""

import json
from pathlib import Path

import pytest
import yaml
from command_line import lit_unlearn

CLASSES = {"classes": [0, 1, 2]}
SHARE = {"fraction": 0.1}
FILE = {"index_file": "list.txt"}
BASE = (
    "--model=FineTune",
    "--model.weights=fresh",
    "--model.backbone=ResNet8",
    "--model.backbone.in_channels=1",
    "--data.source=Digits",
)


def resolved(folder: Path, *words: str, before: tuple[str, ...] = ()) -> dict[str, object]:
    """What is not null of the forget rule that the words lead to."""
    for name, rule in {"classes": CLASSES, "share": SHARE, "file": "list.txt"}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"data": {"init_args": {"forget": rule}}}))
    (folder / "short.yaml").write_text(yaml.safe_dump({"data": {"forget": SHARE}}))
    (folder / "fit.yaml").write_text(yaml.safe_dump({"fit": {"data": {"init_args": {"forget": SHARE}}}}))
    outcome = lit_unlearn(folder, *before, "fit", *BASE, *words, "--print_config")
    assert outcome.status == 0, outcome.err
    rule = yaml.safe_load(outcome.out)["data"]["init_args"]["forget"]
    return {name: value for name, value in (rule or {}).items() if value is not None}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--data.forget", json.dumps(SHARE)], SHARE),
        ([f"--data.forget={json.dumps(SHARE)}"], SHARE),
        (["--data.init_args.forget", json.dumps(SHARE)], SHARE),
        (["--data", json.dumps({"init_args": {"forget": SHARE}})], SHARE),
        (["--config", "share.yaml"], SHARE),
        (["-c", "share.yaml"], SHARE),
        (["--config=short.yaml"], SHARE),
        (["--config", json.dumps({"data": {"init_args": {"forget": SHARE}}})], SHARE),
        (["--config=share.yaml", "--config=classes.yaml"], CLASSES),
        (["--config=share.yaml", "--data.forget", "list.txt"], FILE),
        (["--data.forget=list.txt"], FILE),
        (["--config", "file.yaml"], FILE),
        (["--data.forget.classes", "null", "--data.forget.fraction", "0.2"], {"fraction": 0.2}),
        (["--data.init_args.forget.classes=null", "--data.forget.fraction=0.2"], {"fraction": 0.2}),
        (["--data.forget.fraction", "0.2"], {**CLASSES, "fraction": 0.2}),
        (["--data.forget", json.dumps(SHARE), "--data.forget.classes=[4]"], {**SHARE, "classes": [4]}),
        (["--data.forget=null"], {}),
        (["--data.batch_size=7"], CLASSES),
    ],
)
def test_the_last_rule_counts_whole(tmp_path: Path, words: list[str], expected: dict[str, object]) -> None:
    assert resolved(tmp_path, "--config", "classes.yaml", *words) == expected
    assert resolved(tmp_path, f"--data.forget.classes={CLASSES['classes']}", *words) == expected


def test_a_rule_before_the_subcommand_is_replaced_too(tmp_path: Path) -> None:
    before = ("--config", "fit.yaml")
    assert resolved(tmp_path, before=before) == SHARE
    assert resolved(tmp_path, "--config=classes.yaml", before=before) == CLASSES
    assert resolved(tmp_path, "--data.forget=list.txt", before=before) == FILE
    inline = ("--config", json.dumps({"fit": {"data": {"init_args": {"forget": CLASSES}}}}))
    assert resolved(tmp_path, before=(*before, *inline)) == CLASSES
    assert resolved(tmp_path, before=(*inline, *before)) == SHARE


def test_an_index_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    outcome = lit_unlearn(tmp_path, "fit", *BASE, "--data.forget", "good.txt")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert "good.txt" in outcome.err
    assert "No such file" in outcome.err or "no such" in outcome.err


def test_a_list_of_images_as_the_rule_runs(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("5\n6\n7\n")
    words = ("--data.forget", "good.txt", "--trainer.fast_dev_run=1")
    outcome = lit_unlearn(tmp_path, "fit", *BASE, "--data.forget.classes=[4]", *words)
    assert outcome.status == 0, outcome.err
    assert "forget 3, retain 1,439" in outcome.log
