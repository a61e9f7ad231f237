"""The controls under the suite: what each attack says of models of which it is known what they have forgotten.

Digits, classes 0 to 2 forgotten; Original and Retrain are the shipped weights. Left to their own tests: relearning,
gradient inversion, IDI, the map of features, readouts of positions and of transformed images, both perturbations.
"""

import copy
import math
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from attacked import attacked
from lightning.pytorch import Trainer
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

from lit_unlearn import attacks
from lit_unlearn.attacks.recovery import worst as worst_case
from lit_unlearn.backbones.gate import add_gate
from lit_unlearn.data import Digits, ForgetSpec, UnlearnDataModule
from lit_unlearn.methods import OPC, HeadOnly

SUITE = Path(__file__).resolve().parents[2] / "configs/attack/suite.yaml"
ELSEWHERE = {
    *("Relearn", "AdaptiveRelearn", "GradientInversion", "IDI", "FeatureMap"),
    *("SpatialRecovery", "TransformedRecovery", "PerturbedImages", "UniversalPerturbation"),
}
GATES = {"rescale 1e-3": 1e-3, "rescale 1e-5": 1e-5, "collapsed": 0.0}
SHALLOW = ("head only", "rescale 1e-3", "rescale 1e-5")
OPCS = ("opc logits", "opc features")


def suite():
    """The attacks that the suite names, with its settings."""
    for item in yaml.safe_load(SUITE.read_text())["trainer"]["callbacks"]:
        if item["class_path"] not in ELSEWHERE:
            yield getattr(attacks, item["class_path"])(**item.get("init_args", {}))


def sgd(lr):
    return lambda params: SGD(params, lr=lr, momentum=0.9, weight_decay=5e-4)


@pytest.fixture(scope="module")
def networks(digits, tmp_path_factory):
    """Original, Retrain, and whatever only seems to forget, or does."""
    start = digits.original.backbone

    def unlearn(method, epochs):
        torch.manual_seed(0)
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "limit_val_batches": 0}
        trainer = Trainer(
            accelerator="cpu", devices=1, max_epochs=epochs, default_root_dir=tmp_path_factory.mktemp("runs"), **quiet
        )
        trainer.fit(method, UnlearnDataModule(Digits(), ForgetSpec(classes=[0, 1, 2]), batch_size=64))
        return method.backbone.eval().requires_grad_(False)

    def fresh():
        return copy.deepcopy(start).requires_grad_(True)

    made = {"original": digits.original, "retrain": digits.retrain}
    for name, factor in GATES.items():
        made[name] = copy.deepcopy(start)
        add_gate(made[name], [0, 1, 2], factor)
    made["head only"] = unlearn(HeadOnly(fresh(), optimizer=sgd(0.1)), 3)
    for contract in ("logits", "features"):
        method = OPC(fresh(), None, sgd(0.02), lambda optimizer: CosineAnnealingLR(optimizer, 5), contract=contract)
        made[f"opc {contract}"] = unlearn(method, 5)
    return made


@pytest.fixture(scope="module")
def monkeymodule():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def found(digits, networks, monkeymodule):
    """For each model, all numbers of the suite, and what it left undefined, by name."""
    light = partial(attacks.CapacityRecovery, dimensions=128)  # random features are most of the time
    monkeymodule.setattr(worst_case, "CapacityRecovery", light)
    numbers, undefined = {name: {} for name in networks}, dict.fromkeys(networks, "")
    targets = {name: digits.make_target(network) for name, network in networks.items()}
    for attack in suite():
        for name, target in targets.items():
            seen = attacked(attack, target)
            numbers[name] |= seen.attacks
            undefined[name] += seen.skipped.get(attack.title, "")
    for name, target in targets.items():
        accuracies = target.accuracies(lambda batch: batch.logits)
        numbers[name] |= {f"accuracy/{split}": value for split, value in accuracies.items()}
    return numbers, undefined


@pytest.mark.parametrize("name", SHALLOW)
def test_what_accuracy_membership_and_compression_pass_recovery_exposes(found, name):
    original, retrain, own = (found[0][each] for each in ("original", "retrain", name))
    assert own["accuracy/test_forget_acc"] == retrain["accuracy/test_forget_acc"] == 0
    assert own["accuracy/test_retain_acc"] >= original["accuracy/test_retain_acc"] - 0.02
    assert own["membership/svc/efficacy"] >= 0.95
    for kind in ("int8", "int4", "prune50"):
        assert own[f"compression/{kind}/test_forget_acc"] <= 0.02 < original[f"compression/{kind}/test_forget_acc"]
    for group in ("", "stages/", "within_forget_classes/", "within_forget_classes/stages/"):
        key = f"recovery/worst/{group}test_forget_acc"
        assert own[key] >= original[key] - 0.03, group
    plain = [own[f"recovery/{attack}/test_forget_acc"] for attack in ("hr", "fm")]
    assert min(plain) >= 0.95 if name == "head only" else max(plain) <= 0.4


def test_retrain_recovers_less_than_the_original_and_that_is_its_baseline(found):
    original, retrain = found[0]["original"], found[0]["retrain"]
    for key in ("recovery/hr", "recovery/fm"):
        assert 0.85 < retrain[f"{key}/test_forget_acc"] < original[f"{key}/test_forget_acc"] - 0.03
    assert 0.9 < retrain["recovery/worst/test_forget_acc"] < original["recovery/worst/test_forget_acc"]


def test_opc_by_logits_comes_back_and_by_features_not_from_there_but_from_the_stages(found):
    baseline = found[0]["retrain"]
    logits, features = (found[0][name] for name in OPCS)
    for own in (logits, features):
        assert own["accuracy/test_forget_acc"] <= 0.3
        assert own["accuracy/test_retain_acc"] >= 0.95
        assert own["recovery/worst/stages/test_forget_acc"] >= baseline["recovery/worst/stages/test_forget_acc"] - 0.03
    assert logits["recovery/worst/test_forget_acc"] >= baseline["recovery/worst/test_forget_acc"] - 0.03
    assert features["recovery/worst/test_forget_acc"] <= 0.5  # a constant answer gives a third
    assert features["recovery/worst/within_forget_classes/test_forget_acc"] <= 0.6


def test_no_readout_finds_what_is_not_there(found):
    numbers = found[0]["collapsed"]
    for key in ("", "within_forget_classes/"):
        assert numbers[f"recovery/worst/{key}test_forget_acc"] <= 0.4


@pytest.mark.parametrize("name", [*SHALLOW, *OPCS])
@pytest.mark.parametrize("score", ["margin", "m_entropy"])
def test_no_single_image_of_a_class_that_is_hidden_is_remembered(found, name, score):
    allowed = 3 * math.sqrt((1 / 215 + 1 / 53) / 12)
    assert abs(found[0][name][f"membership/{score}/auc"] - 0.5) < allowed


def test_hiding_is_detected_more_surely_than_never_having_learnt(found):
    auc = {name: numbers["detectability/samples/test_forget_auc"] for name, numbers in found[0].items()}
    assert abs(auc["original"] - 0.5) < 0.12
    assert 0.85 < auc["retrain"] < 0.97 < min(auc[name] for name in (*SHALLOW, *OPCS))
    norms = {name: numbers["detectability/samples/test_forget_feature_norm_auc"] for name, numbers in found[0].items()}
    assert norms["head only"] == norms["original"] < 0.6  # its features are the original's
    assert min(norms[name] for name in (*SHALLOW[1:], *OPCS)) > 0.97
    for name in (*SHALLOW, *OPCS):  # which classes, from unlabelled images
        assert found[0][name]["detectability/classes/frequency_auc"] == 1
    assert found[0]["original"]["detectability/classes/frequency_auc"] < 0.7


def test_contraction_shows_in_the_variance_and_a_collapse_is_undefined_and_no_similarity_of_nought(found):
    numbers, undefined = found
    spread = {name: numbers[name]["representation/stages/features/forget_variance"] for name in numbers}
    assert spread["opc features"] < 1e-2 * spread["original"]
    assert spread["collapsed"] == 0
    own, about = numbers["collapsed"], "representation/stages/features"
    for other in ("original", "retrain"):
        assert f"{about}/forget_cka_{other}" not in own
        assert f"{about}/forget_cka_{other}" in undefined["collapsed"]
        assert own[f"{about}/retain_cka_{other}"] > 0.9
    for name in (*SHALLOW, *OPCS, "retrain"):
        assert "forget_cka" not in undefined[name]


def test_grafts_into_the_original_show_which_stages_stayed(found):
    depth = {name: numbers["representation/grafting/depth"] for name, numbers in found[0].items()}
    assert {depth[name] for name in ("original", *SHALLOW)} == {0}
    assert depth["retrain"] == 1
    assert 0 < depth["opc features"] < 0.9
    assert found[0]["head only"]["representation/distance/barrier_original/retained"] < 0.05
    assert found[0]["retrain"]["representation/distance/barrier_original/retained"] > 1
