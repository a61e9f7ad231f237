"""The order of a Trainer's callbacks changes nothing, and an attack alone finds what it finds in a run."""

from collections.abc import Iterator
from dataclasses import asdict
from itertools import permutations

import pytest
import torch
from attacked import Keeps
from blobs import CLASSES
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from lit_unlearn.attacks import Evaluation, FeatureMap, FeatureMapping, HeadRecovery, Representation
from lit_unlearn.backbones import Custom
from lit_unlearn.data import UnlearnDataModule
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import FineTune
from lit_unlearn.reports.report import Report

MODEL = ["unlearned.ckpt", "unlearned.safetensors"]
FILES = ["artifacts.npz", "report.html", "results.json", *MODEL]


class Shifts(Callback):
    """A user's own callback: changes the weights when training ends, as one that averages them does, and logs."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("mine", 1.5)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with torch.no_grad():
            pl_module.backbone.head.bias[0] += 100


class Ends(FineTune):
    """Training that ends in one of four ways."""

    def __init__(self, backbone: Custom, end: str) -> None:
        super().__init__(backbone, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
        self.end = end

    def training_step(self, batch, batch_idx):
        if self.end == "interrupted":
            raise RuntimeError("no memory")
        loss = super().training_step(batch, batch_idx)
        return loss * torch.nan if self.end == "diverged" else loss

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        if self.end == "overflow":
            with torch.no_grad():
                for parameter in self.backbone.head.parameters():
                    parameter.fill_(3e38)


def linear(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, CLASSES))


def orders() -> Iterator[tuple[Callback, ...]]:
    for order in permutations(range(5)):
        callbacks = [Evaluation(), HeadRecovery(), FeatureMap(points=8), Report(), Shifts()]
        yield tuple(callbacks[place] for place in order)


@pytest.mark.parametrize("end", ["ok", "diverged", pytest.param("overflow", marks=pytest.mark.ci), "interrupted"])
def test_the_order_of_callbacks_changes_nothing(make_data, make_trainer, tmp_path, monkeypatch, caplog, end):
    caplog.set_level("ERROR", "lightning.pytorch")
    # These take most of a run's time and know no callback; a page is a function of rows and artifacts.
    monkeypatch.setattr("lit_unlearn.reports.run_metadata._commit", lambda: None)
    monkeypatch.setattr("lit_unlearn.reports.run_metadata.version", lambda name: "1")
    monkeypatch.setattr(
        "lit_unlearn.reports.page.render", lambda rows, artifacts, margins: f"{len(rows)} {list(artifacts)}"
    )
    monkeypatch.setattr("lit_unlearn.reports.table.results_table", len)
    data, outcomes = make_data(batch_size=24), []
    for number, callbacks in enumerate(orders()):
        (report,) = (callback for callback in callbacks if isinstance(callback, Report))
        module = Ends(Custom(linear(), CLASSES, in_channels=1), end)
        folder = tmp_path / str(number)
        trainer = make_trainer(*callbacks, logger=False, default_root_dir=folder, limit_val_batches=0)
        try:
            trainer.fit(module, datamodule=data)
        except RuntimeError as error:
            assert str(error) == "no memory"  # noqa: PT017 - it is only raised where the run is interrupted
        rows = [asdict(row) | {"seconds": set(row.seconds), "started": ""} for row in report.rows]
        artifacts = {label: list(each) for label, each in report.artifacts.items()}
        outcomes.append((rows, artifacts, sorted(file.name for file in folder.iterdir())))
    assert len(outcomes) == 120
    assert all(outcome == outcomes[0] for outcome in outcomes)
    rows, artifacts, files = outcomes[0]
    own = rows[-1]
    assert own["status"] == {"overflow": "diverged"}.get(end, end)
    assert [row["method"] for row in rows] == (["Ends"] if end == "interrupted" else ["Original", "Ends"])
    assert len(own["attacks"]) == (5 if end == "ok" else 0)
    assert len(own["metrics"]) == (4 if end == "ok" else 0)
    assert list(artifacts) == {"ok": ["Original", "Ends"], "interrupted": []}.get(end, ["Original"])
    left_out = {"diverged": MODEL, "overflow": MODEL, "interrupted": [*MODEL, "artifacts.npz"]}.get(end, [])
    assert files == [name for name in FILES if name not in left_out]
    if end == "ok":
        assert own["curves"]["mine"] == [[0, 1.5]]


def test_the_evaluation_sees_what_other_callbacks_changed_when_training_ended(make_data, make_trainer):
    for callbacks in ((Shifts(), HeadRecovery()), (HeadRecovery(), Shifts())):
        keeps, module = Keeps(), Ends(Custom(linear(), CLASSES, in_channels=1), "ok")
        trainer = make_trainer(Evaluation(), *callbacks, keeps)
        trainer.fit(module, datamodule=make_data())
        metrics = keeps.results.models["unlearned"].metrics
        assert (metrics["test_forget_acc"], metrics["test_retain_acc"]) == (0.5, 0.0)  # all are called class 0


@pytest.mark.parametrize("wrap", [False, True])
def test_an_attack_alone_finds_what_it_finds_in_a_run(make_data, make_trainer, wrap):
    data, attacks, keeps = make_data(), [HeadRecovery(), FeatureMapping(), Representation()], Keeps()
    original, retrain, unlearned = linear(), linear(1), Ends(Custom(linear(), CLASSES, in_channels=1), "ok")
    make_trainer(Evaluation(retrain=retrain), *attacks, keeps).fit(unlearned, datamodule=data)
    network = linear()
    network.load_state_dict(_native(unlearned.backbone))
    given = unlearned.backbone if wrap else network
    before = {name: value.clone() for name, value in given.state_dict().items()}
    for attack in attacks:
        result = attack(given, make_data(), original=original, retrain=retrain)
        found = {f"{attack.title}/{name}": value for name, value in result.numbers.items()}
        in_the_run = keeps.results.models["unlearned"].attacks
        known = {name: value for name, value in in_the_run.items() if name.startswith(f"{attack.title}/")}
        assert len(known) > 1
        assert {name: found[name] for name in known} == pytest.approx(known, abs=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())
    assert given.training
    assert all(parameter.requires_grad for parameter in given.parameters())


def _native(backbone: Custom) -> dict[str, torch.Tensor]:
    """The weights under the names of :func:`linear`."""
    state = backbone.state_dict()
    return {
        **{name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")},
        **{name.replace("head.", "3."): value for name, value in state.items() if name.startswith("head.")},
    }


def test_an_attack_alone_says_what_it_lacks_and_refuses_a_network_that_does_not_fit(make_data):
    with pytest.raises(UsageError, match="recovery/fm"):
        FeatureMapping()(linear(), make_data())
    with pytest.raises(UsageError):
        HeadRecovery()(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), make_data())
    with pytest.raises(UsageError):
        HeadRecovery()(nn.Sequential(nn.Flatten(), nn.ReLU()), make_data())


def test_a_result_prints_a_number_a_line(make_data):
    lines = str(HeadRecovery()(linear(), make_data())).splitlines()
    assert [line.partition(": ")[0] for line in lines] == [f"{split}_acc" for split in make_data().split_names]


def test_two_evaluations_are_refused(make_data, make_trainer):
    with pytest.raises(UsageError, match="two Evaluations"):
        make_trainer(Evaluation(), HeadRecovery(), Evaluation()).fit(
            Ends(Custom(linear(), CLASSES, in_channels=1), "ok"), datamodule=make_data()
        )


def test_a_second_run_of_a_trainer_has_the_same_evaluation(make_data, make_trainer):
    keeps = Keeps()
    trainer, module = make_trainer(HeadRecovery(), keeps), Ends(Custom(linear(), CLASSES, in_channels=1), "ok")
    trainer.fit(module, datamodule=make_data())
    trainer.validate(module, datamodule=make_data(), verbose=False)
    assert len(keeps.all) == 2
    assert len([callback for callback in trainer.callbacks if isinstance(callback, Evaluation)]) == 1
    assert keeps.all[0].models["unlearned"].attacks == keeps.all[1].models["unlearned"].attacks


def test_a_network_of_another_shape_is_no_retrain(make_data: object, make_trainer: object) -> None:
    data: UnlearnDataModule = make_data()  # type: ignore[operator]
    wrong = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES + 1))
    with pytest.raises(UsageError):
        make_trainer(Evaluation(retrain=wrong)).fit(  # type: ignore[operator]
            Ends(Custom(linear(), CLASSES, in_channels=1), "ok"), datamodule=data
        )
