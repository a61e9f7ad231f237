"""Files from strangers: their code does not run, they lead to no other place, and their names stay text."""

import json
import os
import pickle
import re
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Outcome, experiment, lit_unlearn

from lit_unlearn.data import CIFAR10
from lit_unlearn.errors import UsageError
from lit_unlearn.reports import Row, read_artifacts, read_rows, write_rows
from lit_unlearn.reports.rows import FORMAT, VERSION

ROOT = Path(__file__).resolve().parents[1]
EVIL = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "</td></tr>",
    "\x1b]0;owned\x07\x1b[2J",
    "[red]a[/]",
)
NAME = "".join(EVIL)


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "it-ran"


def refused(outcome: Outcome, *says: str) -> None:
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome
    assert all(part in outcome.err for part in says), outcome.err


@pytest.mark.parametrize("word", ["last", "path"])
def test_a_run_does_not_go_on_from_a_checkpoint_that_holds_code(tmp_path: Path, mark: Path, word: str) -> None:
    path = Path("runs/FineTune/version_0/checkpoints/epoch=0-step=9.ckpt")
    (tmp_path / path).parent.mkdir(parents=True)
    content = {"pytorch-lightning_version": "2.6.0", "state_dict": {}, "optimizer_states": [], "loops": Bomb(mark)}
    torch.save(content, tmp_path / path)
    given = path if word == "path" else word
    outcome = lit_unlearn(tmp_path, "fit", *experiment("finetune"), "--evaluation.retrain=null", "--ckpt_path", given)
    refused(outcome, str(path), "refused: it holds", "could run code")
    assert not mark.exists()
    torch.load(tmp_path / path, weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize("scheme", ["http://127.0.0.1:9", "file://", "s3://bucket"])
def test_a_checkpoint_is_a_file_and_not_an_address(tmp_path: Path, scheme: str) -> None:
    """Lightning reads what comes over the network without asking whether it is code."""
    torch.save({}, tmp_path / "x.ckpt")
    address = f"{scheme}{tmp_path}/x.ckpt"
    refused(lit_unlearn(tmp_path, "validate", *experiment("finetune"), "--ckpt_path", address), "no such checkpoint")


def test_artifacts_and_cifar_batches_that_hold_code_are_refused(tmp_path: Path, mark: Path) -> None:
    np.savez(tmp_path / "artifacts.npz", index=np.array([Bomb(mark)], dtype=object))
    with pytest.raises(UsageError, match="not a file of artifacts"):
        read_artifacts(tmp_path / "artifacts.npz")
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("batches.meta", "test_batch", *(f"data_batch_{number}" for number in range(1, 6))):
        (folder / name).write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(UsageError, match="CIFAR-10 cannot be read"):
        CIFAR10(tmp_path).load()
    assert not mark.exists()


def test_no_call_that_unpickles_is_in_the_package() -> None:
    calls = re.compile(
        r"\bpickle\.load|\bUnpickler|joblib|allow_pickle=True|weights_only=(False|None)|yaml\.(load|unsafe_load|full_load)\("
        r"|\beval\(\w|\bexec\("
    )
    for path in (ROOT / "lit_unlearn").rglob("*.py"):
        code = path.read_text()
        assert not calls.search(code.replace(".eval(", ".e(")), path
        for call in re.findall(r"torch\.load\([^)]*\)", code):
            assert "weights_only=True" in call, path
        for call in re.findall(r"np\.load\([^)]*\)", code):
            assert "allow_pickle=False" in call, path


def document(rows: list[Any]) -> str:
    return json.dumps({"format": FORMAT, "version": VERSION, "rows": rows})


def evil_row(**fields: Any) -> Row:
    told = {"key": "x/../outside", "scenario": "..", "experiment": "..", "seeds": {"original": 0}}
    metrics = {"forget_acc": 0.5, "retain_acc": 0.9, "test_forget_acc": 0.5, "test_retain_acc": 0.9}
    given: dict[str, Any] = {
        "reason": NAME,
        "split": {"hash": NAME, "forgotten_classes": [0, 1]},
        "skipped": {NAME: NAME},
        "hyperparameters": {NAME: NAME},
        "attacks": {f"recovery/{NAME}/test_forget_acc": 0.7, "recovery/worst/test_forget_acc": 0.7},
        "commit": NAME,
        "benchmark": told,
    }
    return Row(**{"method": NAME, "status": "ok", "metrics": metrics, **given, **fields})


def test_a_results_file_reads_and_writes_nothing_outside_the_places_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "a/b/benchmark"
    write_rows(home / "rows.json", [evil_row(), evil_row(method="Original"), evil_row(method="Retrain")])
    (tmp_path / "a/outside").mkdir()
    np.savez(tmp_path / "a/outside/artifacts.npz", index=np.array("{}"))
    opened: list[Path] = []
    monkeypatch.setattr("lit_unlearn.benchmark.reading.read_artifacts", lambda path: opened.append(path) or {})
    before = set(tmp_path.rglob("*"))
    outcome = lit_unlearn(home, "report", "rows.json", "--html=page.html", "--csv=table.csv", "--figures=figures")
    assert outcome.status == 0, outcome
    written = set(tmp_path.rglob("*")) - before
    assert {path.relative_to(home).parts[0] for path in written} <= {"page.html", "table.csv", "figures"}
    assert len(list((home / "figures").iterdir())) <= 1
    assert opened == []


def test_names_of_a_results_file_stay_text_wherever_they_are_shown(tmp_path: Path) -> None:
    rows = [evil_row(benchmark={**evil_row().benchmark, "scenario": "class", "experiment": NAME})]
    write_rows(tmp_path / "rows.json", rows)
    (tmp_path / "page.md").write_text("<!-- table: class -->\n<!-- /table -->\n")
    outcome = lit_unlearn(tmp_path, "report", "rows.json", "--html=page.html", "--markdown=page.md", "--title", NAME)
    assert outcome.status == 0, outcome
    assert "\x1b]0;" not in outcome.out + outcome.err
    assert "[red]a[/]" in re.sub(r"[\s│]", "", outcome.out)  # a long name goes over several lines
    for name in ("page.html", "page.md"):
        text = (tmp_path / name).read_text()
        assert "<script>alert" not in text, name
        assert "<img src=x" not in text, name
        assert "&lt;script&gt;alert" in text, name
    table = (tmp_path / "page.md").read_text().splitlines()
    assert len({line.count("|") - line.count("\\|") for line in table if line.startswith("|")}) == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[" * 100_000, "not a results file"),
        (document(["DEEP"]).replace('"DEEP"', "[" * 100_000 + "]" * 100_000), "not JSON"),
        (document([{**asdict(evil_row()), "seed": "MANY"}]).replace('"MANY"', "9" * 5000), "seed"),
        (document([{**asdict(evil_row()), "metrics": {"forget_acc": "BIG"}}]).replace('"BIG"', "1e999"), "metrics"),
        (document([{**asdict(evil_row()), "metrics": {"forget_acc": 10**400}}]), "metrics"),
        (document([{"method": "\x1b[2J"}]), "lacks"),
    ],
)
def test_a_results_file_that_would_break_its_reader_is_refused(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "rows.json").write_text(content)
    with pytest.raises(UsageError, match=says):
        read_rows(tmp_path / "rows.json")
    outcome = lit_unlearn(tmp_path, "report", "rows.json")
    assert (outcome.status, "\x1b" in outcome.err) == (2, False)


def requirements() -> list[str]:
    """The lines of pyproject.toml that name a dependency."""
    text = (ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    named = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith('"')]
    return [line for each in named for line in lines if line.startswith(f'"{each}"') and "lit_unlearn[" not in each]


def test_every_dependency_has_a_bound_and_says_why() -> None:
    assert len(requirements()) > 15
    for line in requirements():
        name, bound, reason = re.fullmatch(r'"([\w.\[\],-]+?)((?:[<>=!]=?[^"]+)?)",\s*(#.*)?', line).groups()  # type: ignore[union-attr]
        assert ">=" in bound, name
        assert reason is not None, name
        first = bound.split(">=")[1].split(",")[0]
        assert first in reason, f"{name}: the reason names another version"


def test_versions_of_lightning_that_carried_malware_are_excluded() -> None:
    (line,) = (line for line in requirements() if line.startswith('"lightning'))
    assert "!=2.6.2" in line
    assert "!=2.6.3" in line
