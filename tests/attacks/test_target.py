import copy
import tempfile
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lit_unlearn.attacks import (
    IDI,
    Evaluation,
    FeatureMap,
    FeatureMapping,
    HeadRecovery,
    SVCEfficacy,
    scratch,
)
from lit_unlearn.attacks.target import EncodedData, frozen_backbone, make_targets
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import FineTune
from lit_unlearn.reports.report import Report

CPU = torch.device("cpu")


class Counting(nn.Module):
    """An identity that counts the samples that pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, x):
        self.seen += len(x)
        return x.clone()


def total(splits):
    return sum(len(labels) for _, labels in splits.values())


def test_several_attacks_share_one_pass_over_each_split(make_target, vectors, four_splits):
    nets = vectors(Counting(), 5, 4), vectors(Counting(), 5, 4, seed=1)
    target = make_target(*nets, **four_splits)
    target.accuracies(lambda batch: batch.logits)
    for attack in (HeadRecovery(), FeatureMapping(), HeadRecovery(target="logits", name="hl"), HeadRecovery(ridge=0.1)):
        attack.evaluate(target)
    assert nets[0].encoder.seen == total(four_splits)
    assert nets[1].encoder.seen == len(four_splits["forget"][1]) + len(four_splits["retain"][1])


def test_a_model_that_is_its_own_original_is_encoded_once(make_target, vectors, four_splits):
    net = vectors(Counting(), 5, 4)
    target = make_target(net, net, **four_splits)
    own = type(target)(target.model, target.model, target.data, 4)
    FeatureMapping().evaluate(own)
    assert net.encoder.seen == total(four_splits)


@pytest.mark.parametrize(
    ("budget", "free", "again"),
    [(0, 2**40, True), (700, 2**40, False), (700, 2**30 + 100, True)],
    ids=["nothing is kept", "on disk", "the disk is full"],
)
def test_a_small_budget_costs_passes_or_disk_and_no_number(
    make_target, vectors, four_splits, budget, free, again, monkeypatch, tmp_path
):
    """Of 700 bytes the first split takes 600 (30 × 5 floats)."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(scratch.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))

    def numbers(budget):
        nets = vectors(Counting(), 5, 4), vectors(Counting(), 5, 4, seed=1)
        target = make_target(*nets, budget=budget, **four_splits)
        found = [
            attack.evaluate(target).numbers
            for attack in (HeadRecovery(), FeatureMapping(), HeadRecovery(calibration="heldout"))
        ]
        return found, nets[0].encoder.seen, target.model.room

    plenty, small = numbers(2**20), numbers(budget)
    assert small[0] == plenty[0]
    assert (small[1] > plenty[1]) == again
    assert small[2] == (0 if budget == 0 or not again else 100)  # of a split that is not whole nothing is kept
    assert list(tmp_path.iterdir()) == [], "the file has no name"


def test_batches_come_in_the_same_order_from_memory_and_afresh(make_target, vectors, four_splits):
    net = vectors(nn.Identity(), 5, 4)
    for budget in (0, 300, 2**20):
        target = make_target(net, budget=budget, **four_splits)
        first, second = (list(target.model.batches("retain")) for _ in range(2))
        assert torch.equal(torch.cat([b.features for b in first]), four_splits["retain"][0])
        for one, two in zip(first, second, strict=True):
            assert torch.equal(one.features, two.features)
            assert torch.equal(one.labels, two.labels)
            torch.testing.assert_close(one.logits, two.logits)  # a product depends on where its factors begin
        logits = four_splits["retain"][0] @ net.head.weight.T + net.head.bias
        torch.testing.assert_close(torch.cat([b.logits for b in first]), logits)
        assert not any(tensor.requires_grad for batch in first for tensor in batch[:3])
        whole = target.model.gather("retain")
        assert torch.equal(whole.features, torch.cat([b.features for b in first]))
        assert torch.equal(whole.labels, four_splits["retain"][1])


def test_the_halves_are_the_even_and_the_odd_positions_of_the_one_pass(make_target, vectors, four_splits):
    features, labels = four_splits["retain"]
    for budget in (0, 300, 2**20):
        target = make_target(vectors(nn.Identity(), 5, 4), budget=budget, **four_splits)
        for part, first in (("calibration", 0), ("evaluation", 1)):
            batches = list(target.model.batches("retain", part))
            assert torch.equal(torch.cat([batch.features for batch in batches]), features[first::2])
            assert torch.equal(torch.cat([batch.labels for batch in batches]), labels[first::2])
            assert torch.equal(target.model.gather("retain", part).features, features[first::2])


@pytest.mark.parametrize("part", ["all", "calibration", "evaluation"])
@pytest.mark.parametrize("budget", [0, 300, 2**20])
def test_chosen_samples_are_those_of_the_whole_in_the_order_asked_for(make_target, vectors, four_splits, part, budget):
    """Of what is not asked for nothing is there."""
    target = make_target(
        vectors(nn.Sequential(nn.Identity()), 5, 4, stages={"last": "0"}), budget=budget, **four_splits
    )
    index = torch.tensor([11, 3, 19, 0])
    whole = target.model.gather("retain", part)
    for what in (["features"], ["logits"], ["stages"], ["features", "logits", "stages"]):
        some = target.model.gather("retain", part, index, what)
        assert torch.equal(some.labels, whole.labels[index])
        for name in ("features", "logits"):
            asked = index if name in what else index[:0]
            torch.testing.assert_close(getattr(some, name), getattr(whole, name)[asked])
        assert set(some.stages) == ({"last"} if "stages" in what else set())
        assert all(torch.equal(value, whole.stages[name][index]) for name, value in some.stages.items())
    assert target.model.gather("retain", part, what=["logits"]).logits.shape == whole.logits.shape
    assert target.model.gather("retain", part, index[:0]).features.shape == (0, 5)


def test_of_batches_that_are_not_kept_no_memory_stays_behind_what_is_gathered(make_target, vectors, four_splits):
    target = make_target(vectors(nn.Identity(), 5, 4), budget=0, **four_splits)
    some = target.model.gather("retain", index=torch.tensor([2, 30]), what=["logits"])
    assert [tensor.untyped_storage().nbytes() for tensor in some[:3]] == [0, 2 * 4 * 4, 2 * 8]


def test_what_is_measured_of_each_sample_comes_in_the_order_of_the_split(make_target, vectors, four_splits):
    target = make_target(vectors(nn.Identity(), 5, 4), **four_splits)
    sums = target.model.per_sample("retain", lambda batch: batch.features.sum(1))
    torch.testing.assert_close(sums, four_splits["retain"][0].sum(1))


def test_an_empty_half_is_whole_too(make_target, vectors):
    net = vectors(nn.Identity(), 5, 4)
    target = make_target(net, forget=(torch.zeros(1, 5), torch.zeros(1, dtype=torch.int64)))
    target.data.evaluation_batches = lambda split, device: iter(())
    whole = target.model.gather("forget", "evaluation")
    assert (whole.features.shape, whole.logits.shape, whole.labels.shape) == ((0, 5), (0, 4), (0,))


def test_a_look_at_the_first_batch_alone_spends_no_budget(make_target, vectors, four_splits):
    target = make_target(vectors(nn.Identity(), 5, 4), budget=1000, **four_splits)
    for _ in range(20):
        next(target.model.batches("retain"))
    assert target.model.room == 1000
    list(target.model.batches("retain"))
    assert target.model.room == 1000 - 40 * 5 * 4


def test_a_target_is_a_frozen_copy(make_backbone, make_data):
    data, network = make_data(), make_backbone().train()
    copied = make_targets(data, 4, CPU, {"unlearned": frozen_backbone(network, data)})["unlearned"].model.backbone
    before = copy.deepcopy(copied.state_dict())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in copied.state_dict().items())
    assert not copied.training
    assert not any(p.requires_grad for p in copied.parameters())
    assert network.training
    assert all(p.requires_grad for p in network.parameters())


def test_the_models_of_a_run_share_the_passes_of_the_reference_models(make_backbone, make_data):
    original, retrain, other = (make_backbone(seed=seed) for seed in (3, 4, 5))
    backbones = {"original": original, "retrain": retrain, "unlearned": other}
    targets = make_targets(make_data(), 4, CPU, backbones)
    assert targets["original"].model is targets["original"].original is targets["unlearned"].original
    assert targets["retrain"].model is targets["unlearned"].retrain
    assert targets["unlearned"].model.backbone is other
    assert targets["original"].shared is targets["unlearned"].shared
    unchanged = make_targets(make_data(), 4, CPU, {"original": original, "unlearned": original})
    assert unchanged["unlearned"].model is unchanged["original"].model


def test_a_network_that_does_not_fit_the_data_is_refused(make_data):
    for network in (nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), nn.Sequential(nn.Flatten(), nn.Linear(65, 4))):
        with pytest.raises(UsageError):
            frozen_backbone(network, make_data())


def test_one_fit_encodes_every_split_once_for_each_model(make_backbone, make_data, fit, monkeypatch):
    from lit_unlearn.backbones import Backbone

    seen = []
    given = Backbone.features

    def counted(self, x):
        seen.append(
            (id(self), float(self.head.weight.detach().sum()), len(x))
        )  # each attack gets a copy: known by its weights
        return given(self, x)

    monkeypatch.setattr(Backbone, "features", counted)
    data, report = make_data(), Report(page=False)
    module = FineTune(make_backbone())
    fit(module, data, Evaluation(), HeadRecovery(), FeatureMapping(), report, limit_val_batches=0)
    own = id(module.backbone)
    counts = {}
    for network, weights, count in seen:
        if network != own:
            counts[weights] = counts.get(weights, 0) + count
    # A look at retained images of the original before the run, and a pass when it is measured; the unlearned model,
    # which is asked a batch of 8 of each of the four splits, by itself, with the others and image by image, before its
    # own pass.
    assert list(counts.values()) == [24 + 48 + 24, 48 + 24 + 3 * 4 * 8]


@pytest.mark.parametrize(
    ("attack", "most"),
    [(IDI(samples=6, steps=1), 6), (SVCEfficacy(max_samples=5), 5), (FeatureMap(points=8), 4)],
    ids=["idi", "svc", "map"],
)
def test_of_large_splits_no_more_is_gathered_than_is_used(make_target, vectors, four_splits, monkeypatch, attack, most):
    gather, counts = EncodedData.gather, {}

    def counted(self, split, *given, **named):
        found = gather(self, split, *given, **named)
        counts[split] = max(counts.get(split, 0), *(len(tensor) for tensor in (*found[:3], *found.stages.values())))
        return found

    monkeypatch.setattr(EncodedData, "gather", counted)
    attack.evaluate(make_target(vectors(nn.Identity(), 5, 4), **four_splits))
    assert counts
    assert all(count <= most for split, count in counts.items() if (split, attack.name) != ("forget", "svc"))
