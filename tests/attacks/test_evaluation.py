import gc
import re
from functools import partial

import pytest
import torch
from attacked import Keeps
from lightning.pytorch import Callback

from lit_unlearn.attacks import IDI, Attack, Distance, Evaluation, FeatureMapping, Grafting, HeadRecovery
from lit_unlearn.attacks.target import EncodedData
from lit_unlearn.backbones.saving import save_weights
from lit_unlearn.data import ForgetSpec
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import FineTune, Retrain
from lit_unlearn.reports.averages import one_a_model
from lit_unlearn.reports.report import Report
from lit_unlearn.results import AttackResult
from lit_unlearn.run_files import CHECKPOINT

SPLITS = ("forget", "retain", "test_forget", "test_retain")


def counted(network, data):
    """Accuracy of a network on each split, without batches."""
    found = {}
    network.eval()
    for split in data.split_names:
        images, labels = map(torch.cat, zip(*data.evaluation_batches(split, "cpu"), strict=True))
        with torch.no_grad():
            found[f"{split}_acc"] = float((network(images).argmax(1) == labels).double().mean())
    return found


@pytest.fixture
def retrained(make_backbone, make_data, tmp_path):
    """A file of weights that says it belongs to the split of ``make_data()``."""
    network = make_backbone(seed=5)
    save_weights(network, tmp_path / "retrain.pt", {"split": make_data().split.hash})
    return network, tmp_path / "retrain.pt"


def test_original_retrain_and_unlearned_are_scored_and_attacked_alike(make_backbone, make_data, fit, retrained):
    data, module = make_data(), FineTune(make_backbone())
    keeps, report = Keeps(), Report(page=False)
    fit(module, data, Evaluation(retrain=retrained[1]), HeadRecovery(), keeps, report)
    models = keeps.results.models
    assert {subject: found.metrics for subject, found in models.items()} == {
        "original": counted(make_backbone(), data),
        "retrain": counted(retrained[0], data),
        "unlearned": counted(module.backbone, data),
    }
    assert models["retrain"].attacks != models["original"].attacks
    assert all(len(found.attacks) == 4 for found in models.values())
    assert [row.method for row in report.rows] == ["Original", "Retrain", "FineTune"]
    for row, subject in zip(report.rows, ("original", "retrain", "unlearned"), strict=True):
        assert row.metrics == models[subject].metrics
        assert row.attacks == models[subject].attacks
    assert report.rows[1].weights["source"] == str(retrained[1])


def test_several_retrains_are_rows_of_their_own_and_attacks_that_compare_take_the_first(
    make_backbone, make_data, fit, retrained, tmp_path
):
    data, files = make_data(), [str(retrained[1])]
    for seed in (6, 7):
        save_weights(make_backbone(seed=seed), tmp_path / f"{seed}.pt", {"split": data.split.hash})
        files.append(str(tmp_path / f"{seed}.pt"))
    keeps, report = Keeps(), Report(page=False)
    fit(FineTune(make_backbone()), data, Evaluation(retrain=files), HeadRecovery(), SeesRetrain(), keeps, report)
    assert [row.method for row in report.rows] == ["Original", *["Retrain"] * 3, "FineTune"]
    assert [row.weights["source"] for row in report.rows[1:4]] == files
    assert [row.attacks["other/sees/is_it"] for row in report.rows[1:4]] == [1, 0, 0]
    assert report.rows[2].metrics == counted(make_backbone(seed=6), data)
    assert len({row.attacks["recovery/hr/test_forget_acc"] for row in report.rows[1:4]}) > 1
    assert report.rows[-1].verdict["retrains"] == 3
    assert report.rows[-1].verdict["intervals"]["recovery/hr"]["excess"] is not None
    assert not any(row.verdict for row in report.rows[:-1])


def test_the_same_retrain_twice_is_one_line(make_backbone, make_data, fit, retrained):
    files = [str(retrained[1])] * 2
    with pytest.raises(UsageError, match="is given twice"):
        fit(FineTune(make_backbone()), make_data(), Evaluation(retrain=files))
    nets = [make_backbone(seed=5), make_backbone(seed=5)]
    with pytest.raises(UsageError, match="'a network given from Python' is given twice"):
        fit(FineTune(make_backbone()), make_data(), Evaluation(retrain=nets))
    with pytest.raises(UsageError, match="has the weights of the original, which has seen the forget set"):
        fit(FineTune(make_backbone()), make_data(), Evaluation(retrain=make_backbone()))
    with pytest.raises(UsageError, match="has the weights of the original"):
        fit(FineTune(make_backbone()), make_data(), Evaluation(retrain=make_backbone().bfloat16()))
    with pytest.raises(UsageError, match=r"evaluation\.retrains is 0"):
        Evaluation(retrains=0)


def test_retrains_given_as_networks_are_told_apart_in_a_table_of_many_runs(make_backbone, make_data, fit):
    """No file has their hash; with equal accuracies and one place in a benchmark they would count as one."""
    report = Report(page=False, checkpoint=False, write=False)
    fit(
        FineTune(make_backbone()),
        make_data(),
        Evaluation(retrain=[make_backbone(seed=5), make_backbone(seed=6)]),
        report,
    )
    retrains = [row for row in report.rows if row.method == "Retrain"]
    for row in retrains:
        row.benchmark, row.metrics = {"seeds": {"original": 0}}, {}
    assert len(one_a_model(retrains)) == 2
    assert len(one_a_model([retrains[0], retrains[0]])) == 1


def test_of_further_retrains_only_numbers_stay_in_memory(make_backbone, make_data, fit):
    def living():
        gc.collect()
        return sum(type(each) is EncodedData for each in gc.get_objects())

    class Counts(Callback):
        def on_attacks_end(self, trainer, pl_module, results):
            self.living, self.more = living(), len(results.more_retrains)

    counts, before = Counts(), living()
    attacks = [IDI(steps=1), Grafting(), Distance(points=3)]
    retrains = [make_backbone(seed=seed) for seed in range(5, 10)]
    fit(FineTune(make_backbone()), make_data(), *attacks, Evaluation(retrain=retrains), counts)
    assert counts.more == 4
    assert counts.living - before == 3, "Original, the first Retrain and the model itself"


class SeesRetrain(Attack):
    """Whether the target carries Retrain, and is it."""

    family = "other"

    def __init__(self):
        super().__init__("sees")

    def evaluate(self, target):
        return AttackResult({"given": target.retrain is not None, "is_it": target.model is target.retrain})


@pytest.mark.parametrize("how", ["fit", "validate"])
def test_every_target_carries_retrain_that_attacks_are_measured_by(
    make_backbone, make_data, fit, make_trainer, retrained, how
):
    keeps = Keeps()
    trainer = make_trainer(SeesRetrain(), Evaluation(retrain=retrained[1]), keeps)
    getattr(trainer, how)(FineTune(make_backbone()), datamodule=make_data())
    subjects = ("retrain", "unlearned") if how == "validate" else ("original", "retrain", "unlearned")
    assert {subject: found.attacks for subject, found in keeps.results.models.items()} == {
        subject: {"other/sees/given": 1.0, "other/sees/is_it": float(subject == "retrain")} for subject in subjects
    }


def test_without_reference_models_only_the_model_of_the_run_is_measured(make_backbone, make_data, fit, retrained):
    keeps = Keeps()
    evaluation = Evaluation(retrain=retrained[1], reference_models=False)
    fit(FineTune(make_backbone()), make_data(), SeesRetrain(), evaluation, keeps)
    (found,) = keeps.results.models.values()
    assert found.attacks["other/sees/given"] == 1


def test_the_checkpoint_of_a_retrain_run_is_retrain(make_backbone, make_data, fit, trained_file):
    report = Report(page=False)
    retrain = Retrain(make_backbone(seed=3), weights=trained_file)
    fit(retrain, make_data(), Evaluation(), HeadRecovery(), FeatureMapping(), report)
    again = Report(page=False)
    evaluation = Evaluation(retrain=report.directory / CHECKPOINT)
    fit(FineTune(make_backbone()), make_data(), evaluation, HeadRecovery(), FeatureMapping(), again)
    assert again.rows[1].method == "Retrain"
    assert again.rows[1].metrics == report.rows[-1].metrics
    assert again.rows[1].attacks == report.rows[-1].attacks


@pytest.mark.parametrize("how", ["fit", "validate"])
@pytest.mark.parametrize("metadata", [{}, {"split": "0123456789abcdef"}])
def test_weights_of_another_or_of_an_unknown_split_are_no_reference_model(
    make_backbone, make_data, make_trainer, tmp_path, metadata, how
):
    save_weights(make_backbone(seed=5), tmp_path / "other.pt", metadata)
    said = ("trained on split 0123456789abcdef", f"split {make_data().split.hash}")
    said = said if metadata else ("do not say what they were trained without", "trained_without: forget.txt")
    trainer = make_trainer(Evaluation(retrain=tmp_path / "other.pt"))
    with pytest.raises(UsageError) as refusal:
        getattr(trainer, how)(FineTune(make_backbone()), datamodule=make_data())
    line = str(refusal.value)
    assert all(words in line for words in said)
    assert "other.pt" in line
    assert "\n" not in line


def test_a_retrain_of_other_images_with_the_same_labels_is_refused(
    make_backbone, make_data, fit, trained_file, tmp_path
):
    module = Retrain(make_backbone(seed=3), weights=trained_file)
    fit(module, make_data())
    save_weights(module.backbone, tmp_path / "retrain.pt", module.provenance())
    fit(FineTune(make_backbone()), make_data(), Evaluation(retrain=tmp_path / "retrain.pt"))
    others, tested = make_data(), make_data()
    others.data.train_images[0, 0, 0, 0] += 1
    tested.data.test_images[0, 0, 0, 0] += 1  # what it is tested on changes nothing of a Retrain
    fit(FineTune(make_backbone()), tested, Evaluation(retrain=tmp_path / "retrain.pt"))
    with pytest.raises(UsageError, match="trained on other images than those of this run, though with the same labels"):
        fit(FineTune(make_backbone()), others, Evaluation(retrain=tmp_path / "retrain.pt"))


def test_weights_that_do_not_fit_are_refused_in_one_line(make_backbone, make_data, fit, tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.pt"):
        fit(FineTune(make_backbone()), make_data(), Evaluation(retrain=tmp_path / "nowhere.pt"))


def test_validate_of_the_original_has_one_row_for_it(make_backbone, make_data, make_trainer, trained_file, retrained):
    report = Report(page=False)
    module = FineTune(make_backbone(seed=3), weights=trained_file)
    trainer = make_trainer(Evaluation(retrain=retrained[1]), FeatureMapping(), report)
    trainer.validate(module, datamodule=make_data(), verbose=False)
    assert [row.method for row in report.rows] == ["Original", "Retrain"]
    assert report.rows[0].metrics == counted(make_backbone(), make_data())
    assert report.rows[0].epochs is None  # nothing was unlearned: unknown, not 0
    assert "unlearn" not in report.rows[0].seconds


def test_test_scores_without_an_attack(make_backbone, make_data, make_trainer, retrained):
    report = Report(page=False)
    module = FineTune(make_backbone())
    with torch.no_grad():
        module.backbone.head.bias[0] += 5
    make_trainer(Evaluation(retrain=retrained[1]), HeadRecovery(), report).test(
        module, datamodule=make_data(), verbose=False
    )
    assert [row.method for row in report.rows] == ["Original", "Retrain", "FineTune"]
    assert all(len(row.metrics) == 4 and row.attacks == {} for row in report.rows)


def test_without_retrain_nothing_stands_for_it(make_backbone, make_data, fit):
    keeps = Keeps()
    fit(FineTune(make_backbone()), make_data(), Evaluation(), keeps)
    assert set(keeps.results.models) == {"original", "unlearned"}
    assert all(found.weights == {} for found in keeps.results.models.values())


def test_every_sample_counts_once_whatever_the_batch_size(make_backbone, make_data, fit):
    found = []
    for size in (1, 7, 1000):
        keeps = Keeps()
        data = make_data(forget=ForgetSpec(fraction=0.3), eval_batch_size=size)
        fit(FineTune(make_backbone()), data, Evaluation(), keeps, limit_val_batches=0)
        found.append(keeps.results.models["original"].metrics)
    assert found[0] == found[1] == found[2]


class Returns(Attack):
    """Returns what it is given."""

    family = "recovery"

    def __init__(self, result):
        super().__init__("given")
        self.result = result

    def evaluate(self, target):
        return self.result


WRONG = {
    "percent": (
        AttackResult({"test_forget_acc": 93.5}),
        "Returns.evaluate returned test_forget_acc = 93.5, but an acc",
    ),
    "below": (
        AttackResult({"stage/x_auc": -0.1}),
        "Returns.evaluate returned stage/x_auc = -0.1, but an accuracy or AUC",
    ),
    "auc": (AttackResult({"auc": float("inf")}), r"returned auc = inf, but an accuracy or AUC must lie in \[0, 1\]"),
    "plain": ({"test_forget_acc": 0.9}, "Returns.evaluate returned a dict, but must return an AttackResult"),
    "nothing": (None, "Returns.evaluate returned a NoneType, but must return an AttackResult"),
    "two": (AttackResult({"x": torch.rand(2)}), r"returned values that are not numbers: x \("),
    "list": (AttackResult([0.5]), "returned numbers of type list, but must return a dict"),
    "text": (AttackResult({"x": "high"}), r"returned values that are not numbers: x \(could not convert"),
    "notes": (AttackResult({"x": 1.0}, notes=None), "returned notes of type NoneType, but must return a dict"),
    "pictures": (AttackResult({"x": 1.0}, artifacts=[]), "returned artifacts of type list, but must return a dict"),
}


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("what", WRONG)
def test_what_no_attack_may_return_is_refused_in_one_line(make_backbone, make_data, fit, what, alone):
    result, says = WRONG[what]
    attack = Returns(result)
    run = partial(attack, make_backbone()) if alone else lambda data: fit(FineTune(make_backbone()), data, attack)
    with pytest.raises(UsageError, match=says) as refusal:
        run(make_data())
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("what", ["percent", "two", "notes", "pictures"])
def test_an_attack_with_a_wrong_result_is_left_out_with_all_its_numbers(make_backbone, make_data, fit, what):
    result, says = WRONG[what]
    keeps, driver = Keeps(), Evaluation()
    driver.goes_on = True
    with pytest.warns(UserWarning, match="recovery/given was left out"):
        fit(FineTune(make_backbone()), make_data(), driver, Returns(result), keeps)
    found = keeps.results.models["unlearned"]
    assert found.attacks == {}
    assert re.search(says, found.skipped["recovery/given"])
    assert ".py, line" not in found.skipped["recovery/given"], "of the package, where nothing is wrong"


def test_a_number_of_its_own_scale_nan_and_a_rounded_one_are_taken(make_backbone, make_data):
    given = {"forget_acc": torch.tensor(1.0), "auc": float("nan"), "retain_acc": 1 + 1e-7, "psnr": 31.5, "auc_std": 2.0}
    found = Returns(AttackResult(given))(make_backbone(), make_data())
    assert found.numbers.keys() == given.keys()
    assert all(type(value) is float for value in found.numbers.values())
    assert found.numbers["psnr"] == 31.5
