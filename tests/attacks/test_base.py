import copy
import html
import math
import random
import re
import warnings
from pathlib import Path

import numpy
import pytest
import torch
from attacked import Keeps
from blobs import Blobs
from lightning.pytorch import Callback
from torch import nn

from lit_unlearn import attacks
from lit_unlearn.attacks import Attack, Evaluation, FeatureMapping, HeadRecovery
from lit_unlearn.attacks.base import FAMILIES
from lit_unlearn.data import UnlearnDataModule
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import OPC, FineTune, GradientAscent, Pretrain, Retrain
from lit_unlearn.reports import plain_table
from lit_unlearn.reports.report import Report
from lit_unlearn.results import AttackResult


class Probe(Attack):
    """As a user would write one: trains a readout and takes gradients in the weights and the pixels."""

    family = "other"

    def __init__(self, name="probe", steps=3):
        super().__init__(name)
        self.steps = steps

    def evaluate(self, target):
        torch.rand(5)  # draws, as any attack may
        numpy.random.seed(0)
        random.seed(0)
        readout = nn.Linear(target.model.backbone.num_features, target.num_classes)
        optimizer = torch.optim.SGD(readout.parameters(), lr=0.1)
        for _ in range(self.steps):
            for batch in target.model.batches("retain"):
                optimizer.zero_grad()
                nn.functional.cross_entropy(readout(batch.features), batch.labels).backward()
                optimizer.step()
        network = target.model.backbone.requires_grad_(True)
        images, labels = next(target.data.evaluation_batches("forget", target.device))
        images = images.clone().requires_grad_(True)
        nn.functional.cross_entropy(network(images), labels).backward()
        slope = float(images.grad.norm() + network.head.weight.grad.norm())
        network.zero_grad(set_to_none=True)
        network.requires_grad_(False)
        return AttackResult({**target.accuracies(lambda batch: readout(batch.features).detach()), "slope": slope})


class Fails(Attack):
    family = "relearn"  # attacks run in the order of their titles

    def evaluate(self, target):
        raise RuntimeError("the attack broke")


class Nosy(Callback):
    """Compares everything of a module before and after the attacks of a hook."""

    def __init__(self):
        self.before, self.after = [], []

    @staticmethod
    def look(module):
        return {
            "weights": copy.deepcopy({name: value.detach().clone() for name, value in module.state_dict().items()}),
            "identities": [id(parameter) for parameter in module.parameters()],
            "modes": [part.training for part in module.modules()],
            "learns": [parameter.requires_grad for parameter in module.parameters()],
            "gradients": [None if p.grad is None else p.grad.clone() for p in module.parameters()],
            "random": (torch.get_rng_state(), numpy.random.get_state()[1].tolist(), random.getstate()),
            "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        }


class First(Nosy):
    def on_train_end(self, trainer, pl_module):
        self.before.append(self.look(pl_module))

    def on_validation_end(self, trainer, pl_module):
        if trainer.state.fn == "validate":
            self.before.append(self.look(pl_module))


class Last(Nosy):
    def on_attacks_end(self, trainer, pl_module, results):
        self.after.append(self.look(pl_module))


def same(left, right):
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[name], right[name]) for name in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return left == right


def suite():
    return [Evaluation(), HeadRecovery(), FeatureMapping(calibration="heldout"), Probe()]


@pytest.mark.parametrize("how", ["fit", "validate in inference mode", "validate without it"])
def test_attacks_leave_the_module_and_the_random_state_bit_identical(make_backbone, make_data, make_trainer, how):
    module = OPC(make_backbone(), freeze_head=True, distill=1.0)
    with torch.no_grad():
        module.backbone.head.bias += 0.1  # no longer the original
    first, last = First(), Last()
    settings = {"inference_mode": how == "validate in inference mode"}
    trainer = make_trainer(first, *suite(), last, **settings)
    if how == "fit":
        trainer.fit(module, datamodule=make_data())
    else:
        trainer.validate(module, datamodule=make_data(), verbose=False)
    assert len(first.before) == len(last.after) == 1
    for before, after in zip(first.before, last.after, strict=True):
        for name in before:
            assert same(before[name], after[name]), name


def test_attacks_do_not_change_what_is_trained(make_backbone, make_data, fit):
    modules = [OPC(make_backbone()) for _ in range(2)]
    fit(modules[0], make_data(), max_epochs=2)
    fit(modules[1], make_data(), *suite(), max_epochs=2)
    assert same(dict(modules[0].state_dict()), dict(modules[1].state_dict()))


def test_a_user_written_attack_takes_gradients_and_finds_the_same_in_fit_and_validate(
    make_backbone, make_data, fit, make_trainer
):
    module, report = FineTune(make_backbone()), Report(page=False)
    fit(module, make_data(), *suite(), report)
    torch.manual_seed(77)
    row = report.rows[-1]
    splits = {f"{name}_acc" for name in ("forget", "retain", "test_forget", "test_retain")}
    assert {name for name in row.attacks if name.startswith("other/")} == {
        f"other/probe/{name}" for name in (*splits, "slope")
    }
    assert row.attacks["other/probe/slope"] > 0
    assert row.seconds["other/probe"] > 0
    assert row.accuracies()["other/probe"].keys() == splits
    assert any(name.startswith("other/") for name in report.rows[0].attacks)  # the Original is attacked as well
    for inference_mode in (True, False):
        audit = Report(page=False)
        trainer = make_trainer(*suite(), audit, inference_mode=inference_mode)
        trainer.validate(module, datamodule=make_data(), verbose=False)
        found = audit.rows[-1].attacks
        assert found["other/probe/slope"] == pytest.approx(row.attacks["other/probe/slope"], rel=1e-5)
        assert found["recovery/hr/forget_acc"] == row.attacks["recovery/hr/forget_acc"]


def test_an_attack_alone_works_without_evaluation(make_backbone, make_data, make_trainer):
    keeps = Keeps()
    trainer = make_trainer(Probe(), keeps, inference_mode=True)
    trainer.validate(FineTune(make_backbone()), datamodule=make_data(), verbose=False)
    assert keeps.results.models["unlearned"].attacks["other/probe/slope"] > 0


def test_numbers_reach_the_logger(make_backbone, make_data, fit):
    keeps = Keeps()
    trainer = fit(FineTune(make_backbone()), make_data(), HeadRecovery(name="mine"), keeps)
    lines = (Path(trainer.logger.log_dir) / "metrics.csv").read_text().splitlines()
    logged = dict(zip(lines[0].split(","), lines[-1].split(","), strict=True))
    found = keeps.results.models["unlearned"].attacks
    assert len(found) == 4
    assert {name: float(logged[name]) for name in found} == found


def test_two_attacks_of_one_name_are_refused(make_backbone, make_data, fit, make_trainer):
    with pytest.raises(UsageError, match="two attacks are called 'recovery/hr': give one of them another name"):
        fit(FineTune(make_backbone()), make_data(), HeadRecovery(), HeadRecovery(ridge=0.1))
    with pytest.raises(UsageError, match="two attacks are called 'recovery/hr'"):
        make_trainer(HeadRecovery(), HeadRecovery()).validate(FineTune(make_backbone()), datamodule=make_data())


def test_two_attacks_of_one_class_and_two_names_are_both_run(make_backbone, make_data, fit):
    pair, keeps = (HeadRecovery(), HeadRecovery(calibration="retain", name="hr-retain")), Keeps()
    fit(FineTune(make_backbone()), make_data(), *pair, keeps)
    assert pair[0].state_key != pair[1].state_key
    assert {attack.title for attack in pair} <= keeps.results.models["unlearned"].seconds.keys()


@pytest.mark.parametrize(
    "name", sorted(set(attacks.__all__) - {"Attack", "AttackResult", "Evaluation", "OwnRetrain", "Target"})
)
def test_an_attack_of_the_forgotten_is_skipped_with_a_reason_where_there_is_nothing_to_forget(make_backbone, name):
    data = UnlearnDataModule(Blobs(), batch_size=8, eval_batch_size=10)
    own = "nothing to forget", "samples in forget", "images to be forgotten", "several Retrains", "a pool"
    attack = getattr(attacks, name)()
    try:
        found = attack(make_backbone(seed=3), data, original=make_backbone())
    except UsageError as error:
        assert any(reason in str(error) for reason in own)  # noqa: PT017 - the others find something
        assert attack.needs_forget == ("nothing to forget" in str(error))  # noqa: PT017
    else:
        assert any(math.isfinite(value) for value in found.numbers.values())


def test_a_run_with_nothing_to_forget_has_the_other_attacks(make_backbone, fit):
    keeps, data = Keeps(), UnlearnDataModule(Blobs(), batch_size=8, eval_batch_size=10)
    fit(Pretrain(make_backbone()), data, HeadRecovery(), attacks.WorstRecovery(), attacks.Relearn(), keeps)
    found = keeps.results.models["unlearned"]
    assert set(found.skipped) == {"recovery/worst", "relearn/few"}
    assert all(reason == "there is nothing to forget: data.forget is not given" for reason in found.skipped.values())
    assert "recovery/hr/retain_acc" in found.attacks


@pytest.mark.parametrize("attack", [FeatureMapping(), HeadRecovery(target="logits", name="hr-logits")])
def test_an_attack_that_needs_the_original_is_skipped_with_a_reason_where_there_is_none(
    make_backbone, make_data, fit, attack
):
    report = Report(page=False)
    fit(Retrain(make_backbone(seed=3)), make_data(), Evaluation(), HeadRecovery(), attack, report)
    (row,) = report.rows
    assert row.skipped == {attack.title: "it needs the original model, which this run does not have"}
    assert {name.rpartition("/")[0] for name in row.attacks} == {"recovery/hr"}
    assert attack.title not in row.seconds


def test_attacks_run_once_unlearning_is_over_and_not_in_the_validation_of_a_fit(make_backbone, make_data, fit):
    calls = []

    class Counts(HeadRecovery):
        def evaluate(self, target):
            calls.append(target)
            return AttackResult({})

    module = FineTune(make_backbone())
    fit(module, make_data(), Counts(), max_epochs=3, num_sanity_val_steps=2)
    assert [target.model is target.original for target in calls] == [False, True]  # the unlearned one, then Original
    assert same(dict(calls[0].model.backbone.state_dict()), dict(module.backbone.state_dict()))


def test_nothing_of_a_run_stays_on_an_attack(make_backbone, make_data, fit, make_trainer):
    attack, keeps = HeadRecovery(), Keeps()
    before = dict(vars(attack))
    fit(FineTune(make_backbone()), make_data(), Evaluation(), attack, keeps)
    assert set(keeps.results.models) == {"original", "unlearned"}
    lightnings = {"log", "log_dict"}  # which it gives to every callback
    assert {name: value for name, value in vars(attack).items() if name not in lightnings} == before
    fit(
        GradientAscent(make_backbone(), optimizer=lambda p: torch.optim.SGD(p, lr=1e6, momentum=0.9)),
        make_data(),
        attack,
        keeps,
        max_epochs=5,
    )
    assert keeps.results.status == "diverged"
    assert keeps.results.models["unlearned"].attacks == {}
    assert keeps.results.models["unlearned"].skipped[attack.title] == "the run diverged"


class RaisesThere(HeadRecovery):
    """Breaks on one kind of model."""

    def __init__(self, subject):
        super().__init__(name=f"breaks-{subject}")
        self.subject = subject

    def evaluate(self, target):
        if target.subject == self.subject:
            raise KeyError("stage9")
        return super().evaluate(target)


def test_an_attack_that_raises_is_left_out_where_the_run_is_to_go_on(make_backbone, make_data, fit):
    report, driver, keeps = Report(), Evaluation(retrain=make_backbone(seed=5)), Keeps()
    driver.goes_on = True
    attacks = HeadRecovery(), RaisesThere("unlearned"), RaisesThere("original")
    with pytest.warns(UserWarning, match="was left out: it raised KeyError: 'stage9'"):
        fit(FineTune(make_backbone()), make_data(), driver, *attacks, report, keeps)
    row = {each.method: each for each in report.rows}
    assert [each.method for each in report.rows] == ["Original", "Retrain", "FineTune"]
    assert all(each.status == "ok" for each in report.rows)
    reason = row["FineTune"].skipped["recovery/breaks-unlearned"]
    assert re.fullmatch(r"it raised KeyError: 'stage9' \(test_base\.py, line \d+\)", reason)
    line = int(re.search(r"line (\d+)", reason)[1])
    assert 'raise KeyError("stage9")' in Path(__file__).read_text().splitlines()[line - 1]
    assert len(row["FineTune"].attacks) == len(row["Original"].attacks) == 8
    assert len(row["Retrain"].attacks) == 12
    assert set(driver.raised) == {"recovery/breaks-unlearned", "recovery/breaks-original"}
    text, page = plain_table(report.rows), (report.directory / "report.html").read_text()
    page = page.partition("Settings of each run")[0]
    for found in (text, html.unescape(page)):
        assert f"recovery/breaks-unlearned was not run: {reason}." in found
        assert "Original: recovery/breaks-original was not run: it raised KeyError" in found


@pytest.mark.parametrize("place", ["lacks", "evaluate"])
def test_an_attack_that_was_typed_in_and_raises_is_left_out_as_well(make_backbone, make_data, fit, monkeypatch, place):
    typed: dict[str, type[HeadRecovery]] = {}
    exec(  # as in a notebook: its code is in no file
        f"class Typed(Base):\n    def {place}(self, target):\n        raise KeyError('stage9')",
        {"Base": HeadRecovery},
        typed,
    )
    report, driver = Report(), Evaluation(retrain=make_backbone(seed=5))
    driver.goes_on = True
    monkeypatch.setattr(typed["Typed"], "__module__", "__main__")
    with pytest.warns(UserWarning, match="was left out: it raised KeyError: 'stage9'"):
        fit(FineTune(make_backbone()), make_data(), driver, typed["Typed"](), report)
    assert all("recovery/hr" in row.skipped for row in report.rows)


def test_a_usage_error_of_an_attack_ends_the_run_all_the_same(make_backbone, make_data, fit):
    class Refuses(HeadRecovery):
        def evaluate(self, target):
            raise UsageError("no such stage")

    driver = Evaluation()
    driver.goes_on = True
    with pytest.raises(UsageError, match="no such stage"):
        fit(FineTune(make_backbone()), make_data(), driver, Refuses())


def test_the_random_state_is_restored_after_an_attack_that_raises(make_backbone, make_data):
    class Seeds(Fails):
        def evaluate(self, target):
            torch.manual_seed(0)
            numpy.random.seed(0)
            random.seed(0)
            return super().evaluate(target)

    network, before = make_backbone(), First.look(nn.Identity())["random"]
    with pytest.raises(RuntimeError, match="the attack broke"):
        Seeds("seeds")(network, make_data())
    assert same(First.look(nn.Identity())["random"], before)


class Trains(HeadRecovery):
    """Changes a network that it got, in one way, and runs before the attacks of other families."""

    family = "compression"

    def __init__(self, change, of="model"):
        super().__init__(name="trains")
        self.change, self.of = change, of

    def evaluate(self, target):
        self.change(getattr(target, self.of).backbone)
        getattr(target, self.of).gather("forget")  # kept for the attacks after it, unless somebody forgets it
        return super().evaluate(target)


def steps(network):
    network.requires_grad_(True)
    optimizer = torch.optim.SGD(network.parameters(), lr=10.0)
    sum(parameter.sum() for parameter in network.parameters()).backward()
    optimizer.step()


def writes(network):
    network.head.weight.data.zero_()


def replaces(network):
    network.head = nn.Linear(network.num_features, network.num_classes)


def moves_statistics(network):
    network.train()(torch.rand(8, 1, 8, 8))


def breaks(network):
    steps(network)
    raise KeyError("stage9")


def passes(network):
    network.requires_grad_(True).train()
    network.eval()(torch.rand(8, 1, 8, 8)).sum().backward()


@pytest.mark.parametrize(
    ("change", "of"),
    [
        *((change, "model") for change in (steps, writes, replaces, moves_statistics, breaks, passes)),
        *((steps, other) for other in ("original", "retrain")),
    ],
)
def test_an_attack_that_changes_the_networks_is_left_out_and_changes_no_later_one(
    make_backbone, make_data, fit, change, of
):
    found = []
    for first in ([], [Trains(change, of)]):
        keeps, driver = Keeps(), Evaluation(retrain=make_backbone(seed=5))
        driver.goes_on = True
        later = HeadRecovery(), FeatureMapping(), attacks.Relearn(steps=2, learning_rates=[0.1])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*compression/trains was left out")
            fit(FineTune(make_backbone()), make_data(), driver, *first, *later, keeps)
        found.append(keeps.results.models)
    for subject, without in found[0].items():
        later = {name: value for name, value in found[1][subject].attacks.items() if "trains" not in name}
        assert later == without.attacks, subject
    reason = found[1]["unlearned"].skipped.get("compression/trains", "")
    if change is passes:
        assert reason == ""
    elif change is breaks:
        assert "KeyError: 'stage9'" in reason
    else:
        assert f"Trains.evaluate changed the weights of target.{of}.backbone in place" in reason


def test_an_attack_that_changes_the_network_is_refused_alone_too(make_backbone, make_data):
    with pytest.raises(UsageError, match="changed the weights of target"):
        Trains(steps)(make_backbone(), make_data())


def test_an_attack_that_breaks_leaves_what_was_measured_before(make_backbone, make_data, fit):
    report = Report(page=False)
    with pytest.raises(RuntimeError, match="the attack broke"):
        fit(Retrain(make_backbone(seed=3)), make_data(), Evaluation(), HeadRecovery(), Fails("x"), report)
    (row,) = report.rows
    assert row.status == "interrupted"
    assert row.reason.startswith("RuntimeError: the attack broke")
    assert len(row.metrics) == 4
    assert len(row.attacks) == 4


def test_a_family_that_no_verdict_reads_is_refused_with_those_that_there_are(make_backbone, make_data, fit):
    class Misspelt(Probe):
        family = "recovry"

    with pytest.raises(UsageError, match="unknown family of Misspelt: 'recovry'; did you mean 'recovery'") as refusal:
        fit(FineTune(make_backbone()), make_data(), Misspelt())
    assert all(name in str(refusal.value) for name in FAMILIES)


def test_every_family_is_on_the_page_for_writers_of_attacks_and_every_attack_has_one():
    text = (Path(__file__).resolve().parents[2] / "docs/add-an-attack.md").read_text()
    assert [name for name in FAMILIES if f"`{name}`" not in text] == []
    kinds = [getattr(attacks, name) for name in attacks.__all__]
    families = {kind.family for kind in kinds if issubclass(kind, Attack) and kind is not Attack}
    assert families == FAMILIES.keys() - {"other"}


def test_every_attack_that_is_imported_is_in_the_list_of_the_package():
    found = {name for name, kind in vars(attacks).items() if isinstance(kind, type) and issubclass(kind, Attack)}
    assert found <= set(attacks.__all__), "else neither --help nor the tests of all attacks know it"
