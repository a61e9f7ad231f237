"""What is found of reference models is kept for the runs that compare with the same, and only for these."""

import dataclasses
import hashlib
import importlib
import io
import os
import random
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from attacked import attacked
from blobs import CLASSES
from torch import nn

from lit_unlearn.artifacts import ImageGrid, PointMap
from lit_unlearn.attacks import Attack, Evaluation, GradientInversion, HeadRecovery
from lit_unlearn.attacks import kept as kept_module
from lit_unlearn.attacks.kept import accuracies_of, found_by
from lit_unlearn.attacks.pool import Pool
from lit_unlearn.attacks.shared import Shared
from lit_unlearn.attacks.target import frozen_backbone, make_targets
from lit_unlearn.backbones import Custom
from lit_unlearn.backbones.memory_format import memory_format_of, set_memory_format
from lit_unlearn.backbones.saving import save_weights
from lit_unlearn.methods import FineTune, GradientAscent
from lit_unlearn.named import listed_attacks
from lit_unlearn.reports.report import Report
from lit_unlearn.results import AttackResult

CPU = torch.device("cpu")


class Counts(Attack):
    """Counts how often it was run, and shows what it may return."""

    family = "other"
    runs = 0

    def __init__(self, option=1.0, name="counts"):
        super().__init__(name)
        self.option = option

    def evaluate(self, target):
        type(self).runs += 1
        grid = ImageGrid(torch.rand(1, 2, 1, 3, 3), ("image",), (("a", "b"),))
        points = PointMap(torch.zeros(2, 2), torch.tensor([0, 1]), ["ant", "bee"])
        artifacts = {"grid": grid, "points": points}
        return AttackResult({"runs": self.runs, "undefined": float("nan")}, {"note": "as it is"}, artifacts)


@pytest.fixture(autouse=True)
def _count_anew():
    Counts.runs = 0


@pytest.fixture
def world(make_backbone, make_data, tmp_path):
    """Makes the target of a Retrain in a run of its own, whose cache is the same."""

    def make(subject="retrain", pool=None, folder=tmp_path / "cache", data=None, **networks):
        if data is None:
            data = make_data()
        data.setup("fit")
        given = {"original": make_backbone(), "retrain": make_backbone(seed=5), "unlearned": make_backbone(seed=6)}
        backbones = {name: frozen_backbone(each, data) for name, each in (given | networks).items()}
        targets = make_targets(data, CLASSES, CPU, backbones, Shared(folder), pool)
        return targets[subject]

    return make


def test_a_second_run_takes_over_all_that_was_found(world):
    first, again = (found_by(Counts(), world()) for _ in range(2))
    assert Counts.runs == 1
    assert not first.measured
    assert again.measured.endswith("+00:00")
    assert again.seconds == first.seconds
    assert again.result.notes == {"note": "as it is"}
    assert again.result.numbers["runs"] == 1
    assert again.result.numbers["undefined"] != again.result.numbers["undefined"], "NaN stays NaN"
    for name, artifact in first.result.artifacts.items():
        other = again.result.artifacts[name]
        assert type(other) is type(artifact)
        for field in dataclasses.fields(artifact):
            one, two = getattr(artifact, field.name), getattr(other, field.name)
            assert (
                torch.equal(one, two)
                if isinstance(one, torch.Tensor)
                else str(list(one)) == str(list(two)).replace("['a', 'b']", "('a', 'b')")
            )


def test_numbers_and_notes_of_numpy_are_kept_as_pythons_own(world, monkeypatch):
    result = AttackResult({"x": np.float64(0.5)}, {"best": np.str_("stage3"), "share": np.float64(0.3)})
    monkeypatch.setattr(Counts, "evaluate", lambda self, target: setattr(Counts, "runs", Counts.runs + 1) or result)
    found = [found_by(Counts(), world()).result for _ in range(2)]
    assert Counts.runs == 1
    assert found[1].numbers == {"x": 0.5}
    assert found[1].notes == {"best": "stage3", "share": 0.3}
    assert {type(each) for each in found[1].notes.values()} == {str, float}


def test_what_cannot_be_read_is_computed_anew(world, tmp_path):
    found_by(Counts(), world())
    (file,) = (tmp_path / "cache").glob("*.kept")
    torch.save(Path("a class that is not read"), buffer := io.BytesIO())
    for content in (buffer.getvalue(), b"no archive"):
        file.write_bytes(hashlib.sha256(content).digest() + content)
        runs = Counts.runs
        found_by(Counts(), world())
        found_by(Counts(), world())
        assert Counts.runs == runs + 1


def test_a_measurement_says_which_numbers_are_of_an_earlier_run(world):
    for measured in ([], ["recovery/hr"]):
        found = attacked(HeadRecovery(), world())
        assert list(found.kept) == measured
        assert found.attacks["recovery/hr/test_forget_acc"] >= 0
        assert "recovery/hr" in found.seconds


def test_accuracies_are_kept_as_well(world, monkeypatch):
    first = accuracies_of(world())
    monkeypatch.setattr("lit_unlearn.attacks.target.Target.accuracies", None)
    assert accuracies_of(world()).result.numbers == first.result.numbers
    assert len(first.result.numbers) == 4


@pytest.mark.parametrize("subject", ["unlearned", "original", "retrain"])
def test_the_model_of_the_run_itself_is_always_attacked(world, subject):
    for _ in range(2):
        found_by(Counts(), world(subject))
    assert Counts.runs == (2 if subject == "unlearned" else 1)


def test_without_a_cache_nothing_is_kept(world, tmp_path):
    for _ in range(2):
        found_by(Counts(), world(folder=None))
    assert Counts.runs == 2
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "change",
    [
        "model",
        "original",
        "its absence",
        "image",
        "label",
        "classes",
        "names",
        "option",
        "file",
        "pool",
        "packages",
        "seed",
        "drawn",
        "drawn by numpy",
        "drawn by random",
    ],
)
def test_whatever_a_result_depends_on_makes_another(world, make_data, make_backbone, tmp_path, monkeypatch, change):
    save_weights(make_backbone(seed=8), tmp_path / "8.pt", {})
    pool, attack, networks, data = Pool("OPC", (str(tmp_path / "8.pt"),)), Counts(), {}, make_data()
    if change == "file":
        (tmp_path / "words.txt").write_text("one")
        attack = Counts(option=str(tmp_path / "words.txt"))
    found_by(attack, world(pool=pool))
    found_by(attack, world(pool=Pool("SCRUB", (str(tmp_path / "8.pt"),))))
    assert Counts.runs == 1, "the run's method is not among them"
    data.setup("fit")
    images, _ = data._loaded
    if change == "model":
        networks["retrain"] = make_backbone(seed=5)
        networks["retrain"].head.bias.data[0] += 1e-6
    if change == "original":
        networks["original"] = make_backbone(seed=7)
    if change == "image":
        images.test_images[0, 0, 0, 0] ^= 1
    if change == "label":
        images.train_labels[[0, 4, 1, 5]] = images.train_labels[[1, 5, 0, 4]]
    if change == "names":
        images.class_names[0] = "fly"
    if change == "classes":
        data = make_data(classes=[1])
    if change == "option":
        attack = Counts(option=2.0)
    if change == "file":
        (tmp_path / "words.txt").write_text("two")
    if change == "pool":
        save_weights(make_backbone(seed=9), tmp_path / "8.pt", {})
    if change == "packages":
        monkeypatch.setattr("lit_unlearn.attacks.shared.installed_code", lambda: "another version of torch")
    if change == "seed":
        monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    target = world(pool=pool, data=data, **networks)
    if change == "drawn":
        torch.rand(1)
    if change == "drawn by numpy":
        np.random.rand()
    if change == "drawn by random":
        random.random()
    if change == "its absence":
        target = dataclasses.replace(target, original=None)
    found_by(attack, target)
    assert Counts.runs == 2


def test_code_of_the_users_own_makes_another_and_code_of_a_notebook_is_never_kept(world, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    text = (
        "from lit_unlearn.attacks import Attack\nfrom lit_unlearn.results import AttackResult\n\n\n"
        "class Mine(Attack):\n    family = 'other'\n    runs = []\n\n    def __init__(self):\n"
        "        super().__init__('mine')\n\n    def evaluate(self, target):\n        self.runs.append(1)\n"
        "        return AttackResult({'x': NUMBER})\n"
    )
    numbers = []
    for number in (1, 2, 1):
        (tmp_path / "own_attack.py").write_text(text.replace("NUMBER", str(number)))
        os.utime(tmp_path / "own_attack.py", (number, number))
        sys.modules.pop("own_attack", None)
        importlib.invalidate_caches()
        mine = importlib.import_module("own_attack").Mine
        numbers.append([found_by(mine(), world()).result.numbers["x"], len(mine.runs)])
    assert numbers == [[1, 1], [2, 1], [1, 0]]
    (tmp_path / "own_attack.py").touch()  # while this process runs: it may hold other code than what was imported
    assert [found_by(mine(), world()) and len(mine.runs) for _ in range(2)] == [1, 2]
    sys.modules.pop("own_attack")
    monkeypatch.setattr(Counts, "__module__", "__main__")
    for _ in range(2):
        found_by(Counts(), world())
    assert Counts.runs == 2


def test_a_class_whose_code_is_in_no_file_is_never_kept(world, monkeypatch):
    made = types.ModuleType("made_here")
    monkeypatch.setitem(sys.modules, "made_here", made)
    monkeypatch.setattr(Counts, "__module__", "made_here")
    for _ in range(2):
        found_by(Counts(), world())
    assert Counts.runs == 2


def test_a_file_below_the_home_folder_is_named_by_its_content(world, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for content in ("one", "two", "one"):
        (tmp_path / "words.txt").write_text(content)
        found_by(Counts("~/words.txt"), world())
    assert Counts.runs == 2


class Grid(ImageGrid):
    """An artifact of the user's own."""


@pytest.mark.parametrize(
    ("artifact", "runs"),
    [
        (ImageGrid(torch.rand(1, 1, 1, 3, 3), ("image",), ((None, 1.5),)), 1),
        (ImageGrid(torch.rand(1, 1, 1, 3, 3).numpy(), ("image",)), 2),
        (Grid(torch.rand(1, 1, 1, 3, 3), ("image",)), 2),
    ],
)
def test_a_result_that_no_file_takes_is_used_and_not_kept(world, monkeypatch, artifact, runs):
    result = AttackResult({"x": 1.0}, artifacts={"grid": artifact})
    monkeypatch.setattr(Counts, "evaluate", lambda self, target: setattr(Counts, "runs", Counts.runs + 1) or result)
    for _ in range(2):
        assert found_by(Counts(), world()).result.numbers == {"x": 1.0}
    assert Counts.runs == runs


@pytest.mark.parametrize(
    "option", [nn.ReLU(), lambda x: x, object(), "zoo:one", "hf-hub:one", str(Path(__file__).parent)]
)
def test_an_option_that_no_text_names_is_never_kept(world, option):
    for _ in range(2):
        found_by(Counts(option), world())
    assert Counts.runs == 2


class Scaled(nn.Module):
    """Its weights and its layers do not say what it computes."""

    def __init__(self, scale):
        super().__init__()
        torch.manual_seed(0)
        self.scale, self.flat, self.fc = scale, nn.Flatten(), nn.Linear(64, CLASSES)

    def forward(self, x):
        return self.fc(self.flat(x) * self.scale)


@pytest.mark.parametrize("module", [__name__, "__main__"])
def test_a_network_is_named_by_what_it_answers_too(world, monkeypatch, module):
    """Also one of a notebook, whose code is in no file."""
    monkeypatch.setattr(Scaled, "__module__", module)
    for scale in (1, 2, 1):
        networks = {name: Custom(Scaled(scale), in_channels=1) for name in ("original", "retrain", "unlearned")}
        found_by(Counts(), world(**networks))
    assert Counts.runs == 2


def test_a_network_whose_file_was_written_since_it_was_imported_is_not_kept(world, tmp_path, monkeypatch):
    """It may run other code than the file has now, which its answers in eval mode need not show."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "own_net.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Sequential):\n    def __init__(self):\n"
        f"        super().__init__(nn.Flatten(), nn.Linear(64, {CLASSES}))\n"
    )
    os.utime(tmp_path / "own_net.py", (1, 1))
    importlib.invalidate_caches()
    torch.manual_seed(0)
    network = Custom(importlib.import_module("own_net").Net(), in_channels=1)
    networks = dict.fromkeys(("original", "retrain", "unlearned"), network)
    runs = []
    for touched in (False, False, True, True):
        if touched:
            (tmp_path / "own_net.py").touch()
        found_by(Counts(), world(**networks))
        runs.append(Counts.runs)
    sys.modules.pop("own_net")
    assert runs == [1, 1, 2, 3]


def test_weights_of_the_manifest_that_an_option_names_are_named_by_their_content(world, monkeypatch):
    for content in ("one", "two", "one"):
        monkeypatch.setattr(kept_module, "manifest", lambda content=content: {"shipped": {"sha256": content}})
        found_by(Counts("shipped"), world())
    assert Counts.runs == 2


def test_the_memory_format_which_a_probe_chooses_makes_no_other(world):
    """It changes numbers by rounding alone, and may differ from run to run."""
    for name in ("contiguous", "channels_last"):
        target = world()
        for model in (target.model, target.original):
            set_memory_format(model.backbone, name)
            assert memory_format_of(model.backbone) == name
        found_by(Counts(), target)
    assert Counts.runs == 1


def test_what_raises_is_not_kept(world, monkeypatch):
    monkeypatch.setattr(Counts, "evaluate", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        found_by(Counts(), world())
    monkeypatch.undo()
    assert not found_by(Counts(), world()).measured


def attacks_of(suite):
    return [pytest.param(attack, id=attack.title) for attack in listed_attacks(suite)[0]]


@pytest.mark.parametrize("attack", attacks_of("suite"))
def test_every_attack_of_the_suite_can_be_named(world, attack):
    assert kept_module._key(world(), attack) is not None


@pytest.mark.ci
@pytest.mark.parametrize("attack", attacks_of("suite"))
def test_no_attack_of_the_suite_draws_from_what_a_run_has_left(world, attack, monkeypatch):
    """What is kept would otherwise depend on the run that came first."""
    found = []
    if isinstance(attack, GradientInversion):
        few = dataclasses.replace(attack.search, steps=10)  # of a thousand, which draw nothing
        monkeypatch.setattr(attack, "search", few)
    for seed in ("1", "2"):
        target = world(folder=None)
        if attack.lacks(target):
            pytest.skip("it needs a pool")
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        torch.manual_seed(int(seed))
        numbers = found_by(attack, target).result.numbers
        found.append({name: str(value) for name, value in numbers.items()})  # NaN is no number
    assert found[0] == found[1]


def test_rows_and_page_say_what_was_taken_over(make_backbone, make_data, fit, tmp_path):
    files = []
    for seed in (5, 6):
        save_weights(make_backbone(seed=seed), tmp_path / f"{seed}.pt", {"split": make_data().split.hash})
        files.append(str(tmp_path / f"{seed}.pt"))
    found = []
    for method in (FineTune, FineTune, GradientAscent):
        report = Report(page=False, checkpoint=False)
        evaluation = Evaluation(retrain=files, cache=tmp_path / "cache")
        fit(method(make_backbone()), make_data(), evaluation, HeadRecovery(), report)
        found.append(report.rows)
    for rows, kept in zip(found, (False, True, True), strict=True):
        assert [row.method for row in rows[:3]] == ["Original", "Retrain", "Retrain"]
        assert [set(row.kept) == {"evaluate", "recovery/hr"} for row in rows] == [kept, kept, kept, False]
        for row, first in zip(rows[:3], found[0], strict=False):
            assert (row.metrics, row.attacks, row.weights) == (first.metrics, first.attacks, first.weights)
    assert found[0][-1].verdict == found[1][-1].verdict
