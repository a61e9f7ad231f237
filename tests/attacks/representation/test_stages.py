import copy
import dataclasses
import math

import pytest
import torch
from attacked import Keeps, attacked
from torch import nn

from lit_unlearn.attacks import Evaluation, Representation, Target
from lit_unlearn.attacks.target import EncodedData
from lit_unlearn.backbones import Backbone
from lit_unlearn.backbones.gate import add_gate
from lit_unlearn.methods import FineTune
from lit_unlearn.metrics.effective_rank import effective_rank
from lit_unlearn.reports.report import Report

STAGES = ("stem", "stage1", "stage2", "stage3", "features")


class Staged(Backbone):
    """Two layers on vectors of five; the first is a stage."""

    def __init__(self, seed, width=6):
        torch.manual_seed(seed)
        encoder = nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 4))
        super().__init__(encoder, nn.Linear(4, 4), [0.0], [1.0], {"first": "1"})

    def features(self, x):
        return self.encoder(x)


def with_retrain(target, retrain):
    frozen = retrain.eval().requires_grad_(False)
    return dataclasses.replace(target, retrain=EncodedData(frozen, target.data, target.device))


@pytest.fixture
def target(make_target, four_splits):
    return with_retrain(make_target(Staged(0), Staged(1, width=9), **four_splits), Staged(2))


def test_every_number_has_its_name(target):
    quantities = [f"{s}_{q}" for s in ("forget", "retain") for q in ("cka_original", "cka_retrain", "variance", "rank")]
    found = Representation().evaluate(target).numbers
    assert set(found) == {f"{stage}/{name}" for stage in ("first", "features") for name in [*quantities, "norm_ratio"]}
    assert [name.partition("/")[0] for name in found] == ["first"] * 9 + ["features"] * 9  # in order of depth


@pytest.mark.parametrize("budget", [0, 2**20])
def test_numbers_are_those_of_all_samples_at_once(make_target, four_splits, budget):
    nets = Staged(0), Staged(1, width=9), Staged(2)
    found = (
        Representation().evaluate(with_retrain(make_target(*nets[:2], budget=budget, **four_splits), nets[2])).numbers
    )
    at = {"first": lambda net, x: net.encoder[:2](x), "features": lambda net, x: net.encoder(x)}
    for stage, read in at.items():
        for split in ("forget", "retain"):
            own, original, retrain = (read(net, four_splits[split][0]).double() for net in nets)
            assert found[f"{stage}/{split}_cka_original"] == pytest.approx(unbiased(own, original), abs=1e-6)
            assert found[f"{stage}/{split}_cka_retrain"] == pytest.approx(unbiased(own, retrain), abs=1e-6)
            assert found[f"{stage}/{split}_variance"] == pytest.approx(float(own.var(0, correction=0).sum()))
            assert found[f"{stage}/{split}_rank"] == pytest.approx(float(effective_rank(own)))
        norms = [read(nets[0], four_splits[split][0]).norm(dim=1).mean() for split in ("forget", "retain")]
        assert found[f"{stage}/norm_ratio"] == pytest.approx(float(norms[0] / norms[1]))


def unbiased(x, y):
    """CKA from U-centred kernels (Székely and Rizzo): another way to the same estimator."""

    def centred(z):
        n, k = len(z), (z @ z.T).fill_diagonal_(0)
        rows = k.sum(1, keepdim=True) / (n - 2)
        return (k - rows - rows.T + k.sum() / ((n - 1) * (n - 2))).fill_diagonal_(0)

    k, m = centred(x), centred(y)
    return float((k * m).sum() / (k.norm() * m.norm()))


def test_a_collapsed_split_is_undefined_and_not_flattering(make_target, four_splits):
    class Collapsed(Staged):
        def features(self, x):
            return self.encoder(x * (x == four_splits["retain"][0][:, None]).all(-1).any(0)[:, None])

    attack = Representation()
    seen = attacked(attack, make_target(Collapsed(0), Staged(1), **four_splits))
    found = seen.attacks
    for stage in ("first", "features"):
        assert f"representation/stages/{stage}/forget_cka_original" not in found
        assert found[f"representation/stages/{stage}/forget_variance"] == 0
        assert found[f"representation/stages/{stage}/forget_rank"] == 0
        assert found[f"representation/stages/{stage}/retain_cka_original"] > 0
    said = (
        "undefined: representation/stages/first/forget_cka_original, representation/stages/features/forget_cka_original"
    )
    assert seen.skipped[attack.title] == said


def test_without_reference_models_the_rest_is_measured(make_target, four_splits):
    found = Representation().evaluate(make_target(Staged(0), **four_splits)).numbers
    assert not [name for name in found if "cka" in name]
    assert len(found) == 10
    del four_splits["forget"]
    assert {
        name.partition("/")[2] for name in Representation().evaluate(make_target(Staged(0), **four_splits)).numbers
    } == {
        "retain_variance",
        "retain_rank",
    }


def test_the_model_that_is_its_own_original_is_encoded_once(target):
    own = Target(target.original, target.original, target.data, 4, target.retrain)
    asked, given = [], target.original.batches
    target.original.batches = lambda *which: asked.append(which) or given(*which)
    found = Representation().evaluate(own).numbers
    assert found["first/forget_cka_original"] == pytest.approx(1, abs=1e-12)
    assert len(asked) == 2 * 3  # spread, CKA to itself, CKA to Retrain; on two splits


def test_controls_on_the_digits(digits):
    attack = Representation()
    head_only = copy.deepcopy(digits.original.backbone)
    nn.init.normal_(head_only.head.weight, generator=torch.Generator().manual_seed(0))
    rescaled = copy.deepcopy(digits.original.backbone)
    add_gate(rescaled, [0, 1, 2], 1e-5)
    nets = {"original": digits.original, "retrain": digits.retrain, "head": head_only, "rescale": rescaled}
    found = {
        name: attack.evaluate(digits.make_target(net)).numbers
        for name, net in (nets | {"fresh": digits.network()}).items()
    }
    assert all(math.isfinite(value) for numbers in found.values() for value in numbers.values())
    for stage in STAGES:
        for split in ("forget", "retain"):
            name = f"{stage}/{split}_cka_original"
            # What leaves the encoder alone, or only shrinks its output, cannot pass for change.
            assert found["original"][name] == found["head"][name] == pytest.approx(1, abs=1e-6)
            assert found["rescale"][name] == pytest.approx(1, abs=1e-6)
            assert found["retrain"][f"{stage}/{split}_cka_retrain"] == pytest.approx(1, abs=1e-6)
            symmetric = found["original"][f"{stage}/{split}_cka_retrain"]
            assert found["retrain"][name] == pytest.approx(symmetric, abs=1e-6)
            assert found["fresh"][name] < 0.95
    # Retrain learned the retained classes as Original did, and the forgotten ones not at all.
    last = found["retrain"]
    assert last["features/forget_cka_original"] < 0.7 < 0.9 < last["features/retain_cka_original"]
    assert found["rescale"]["features/norm_ratio"] == pytest.approx(1e-5, rel=0.1)
    assert found["rescale"]["features/forget_rank"] == pytest.approx(
        found["original"]["features/forget_rank"], abs=1e-3
    )


def test_in_a_run_it_is_evaluated_on_every_model(make_backbone, make_data, fit):
    keeps, report = Keeps(), Report(page=False, checkpoint=False)
    fit(FineTune(make_backbone()), make_data(), Evaluation(), Representation(), keeps, report)
    assert all(not found.skipped for found in keeps.results.models.values())
    assert set(keeps.results.models) == {"original", "unlearned"}
    original, row = report.rows
    names = [name for name in row.attacks if "cka" in name]
    assert len(names) == 5 * 2
    assert all(original.attacks[name] == pytest.approx(1) for name in names)
    assert any(row.attacks[name] < 0.999 for name in names)
