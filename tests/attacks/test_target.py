import copy

import pytest
import torch
from torch import nn

from lit_unlearn.attacks import Evaluation, FeatureMapping, HeadRecovery
from lit_unlearn.attacks.target import release, target_for, target_of
from lit_unlearn.methods import FineTune
from lit_unlearn.reports.report import Report


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


def test_several_attacks_share_one_pass_over_each_split(aim, vectors, four_splits):
    nets = vectors(Counting(), 5, 4), vectors(Counting(), 5, 4, seed=1)
    target = aim(*nets, **four_splits)
    target.accuracies(lambda batch: batch.logits)
    for attack in (HeadRecovery(), FeatureMapping(), HeadRecovery(target="logits", name="hl"), HeadRecovery(ridge=0.1)):
        attack.run(target)
    assert nets[0].encoder.seen == total(four_splits)
    assert nets[1].encoder.seen == len(four_splits["forget"][1]) + len(four_splits["retain"][1])


def test_a_model_that_is_its_own_original_is_encoded_once(aim, vectors, four_splits):
    net = vectors(Counting(), 5, 4)
    target = aim(net, net, **four_splits)
    own = type(target)(target.model, target.model, target.data, 4)
    FeatureMapping().run(own)
    assert net.encoder.seen == total(four_splits)


@pytest.mark.parametrize("budget", [0, 700])  # nothing is kept, or the first split alone (30 x 5 floats)
def test_a_small_budget_costs_passes_and_no_number(aim, vectors, four_splits, budget):
    def numbers(budget):
        nets = vectors(Counting(), 5, 4), vectors(Counting(), 5, 4, seed=1)
        target = aim(*nets, budget=budget, **four_splits)
        found = [
            attack.run(target) for attack in (HeadRecovery(), FeatureMapping(), HeadRecovery(calibration="heldout"))
        ]
        return found, nets[0].encoder.seen, target.model.room

    plenty, small = numbers(2**20), numbers(budget)
    assert small[0] == plenty[0]
    assert small[1] > plenty[1]
    kept = 600 if budget else 0
    assert small[2] == budget - kept  # what did not fit is given back


def test_batches_come_in_the_same_order_from_memory_and_afresh(aim, vectors, four_splits):
    net = vectors(nn.Identity(), 5, 4)
    for budget in (0, 2**20):
        target = aim(net, budget=budget, **four_splits)
        first, second = (list(target.model.batches("retain")) for _ in range(2))
        assert torch.equal(torch.cat([b.features for b in first]), four_splits["retain"][0])
        for one, two in zip(first, second, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one[:3], two[:3], strict=True))
        logits = four_splits["retain"][0] @ net.head.weight.T + net.head.bias
        torch.testing.assert_close(torch.cat([b.logits for b in first]), logits)
        assert not any(tensor.requires_grad for batch in first for tensor in batch[:3])
        whole = target.model.whole("retain")
        assert torch.equal(whole.features, torch.cat([b.features for b in first]))
        assert torch.equal(whole.labels, four_splits["retain"][1])


def test_the_halves_are_the_even_and_the_odd_positions_of_the_one_pass(aim, vectors, four_splits):
    features, labels = four_splits["retain"]
    for budget in (0, 2**20):
        target = aim(vectors(nn.Identity(), 5, 4), budget=budget, **four_splits)
        for part, first in (("calibration", 0), ("evaluation", 1)):
            batches = list(target.model.batches("retain", part))
            assert torch.equal(torch.cat([batch.features for batch in batches]), features[first::2])
            assert torch.equal(torch.cat([batch.labels for batch in batches]), labels[first::2])
            assert torch.equal(target.model.whole("retain", part).features, features[first::2])


def test_an_empty_half_is_whole_too(aim, vectors):
    net = vectors(nn.Identity(), 5, 4)
    target = aim(net, forget=(torch.zeros(1, 5), torch.zeros(1, dtype=torch.int64)))
    target.data.evaluation_batches = lambda split, device: iter(())
    whole = target.model.whole("forget", "evaluation")
    assert (whole.features.shape, whole.logits.shape, whole.labels.shape) == ((0, 5), (0, 4), (0,))


def test_a_look_at_the_first_batch_alone_spends_no_budget(aim, vectors, four_splits):
    target = aim(vectors(nn.Identity(), 5, 4), budget=1000, **four_splits)
    for _ in range(20):
        next(target.model.batches("retain"))
    assert target.model.room == 1000
    list(target.model.batches("retain"))
    assert target.model.room == 1000 - 40 * 5 * 4


@pytest.fixture
def module_and_trainer(make_backbone, make_data, make_trainer):
    """A module and a Trainer that have gone through validate, so that they know each other and the data."""
    module, trainer = FineTune(make_backbone()), make_trainer()
    trainer.validate(module, datamodule=make_data(), verbose=False)
    return module, trainer


def test_the_target_is_shared_until_a_weight_or_a_buffer_changes(module_and_trainer):
    module, trainer = module_and_trainer
    target = target_of(trainer, module)
    assert target_of(trainer, module) is target
    assert target.model is target.original  # nothing was unlearned yet
    with torch.no_grad():
        module.backbone.head.bias += 1
    changed = target_of(trainer, module)
    assert changed is not target
    assert changed.model is not changed.original
    assert changed.original is target.original
    assert torch.equal(changed.model.backbone.head.bias, module.backbone.head.bias)
    module.backbone.encoder.stem.bn.running_mean.add_(1)
    again = target_of(trainer, module)
    assert again is not changed
    assert torch.equal(again.model.backbone.encoder.stem.bn.running_mean, module.backbone.encoder.stem.bn.running_mean)
    with torch.no_grad():
        module.backbone.head.bias = nn.Parameter(module.backbone.head.bias.clone())
    assert target_of(trainer, module) is not again


def test_a_target_is_a_frozen_copy(module_and_trainer):
    module, trainer = module_and_trainer
    with torch.no_grad():
        module.backbone.head.bias += 1
    copied = target_of(trainer, module).model.backbone
    before = copy.deepcopy(copied.state_dict())
    with torch.no_grad():
        for parameter in module.backbone.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in copied.state_dict().items())
    assert not copied.training
    assert not any(p.requires_grad for p in copied.parameters())


def test_yardsticks_share_the_original(module_and_trainer, make_backbone):
    module, trainer = module_and_trainer
    other = target_for(trainer, module, make_backbone(seed=5).eval())
    original = target_for(trainer, module, None)
    assert other.original is original.original is original.model is target_of(trainer, module).original
    first = target_of(trainer, module)
    release(module)
    assert target_of(trainer, module) is not first


def test_one_fit_encodes_every_split_once_for_each_model(make_backbone, make_data, fit, monkeypatch):
    from lit_unlearn.backbones import Backbone

    seen = []
    given = Backbone.features
    monkeypatch.setattr(Backbone, "features", lambda self, x: seen.append((id(self), len(x))) or given(self, x))
    data, report = make_data(), Report(page=False)
    module = FineTune(make_backbone())
    fit(module, data, Evaluation(), HeadRecovery(), FeatureMapping(), report, limit_val_batches=0)
    own = id(module.backbone)
    counts = {}
    for who, count in seen:
        if who != own:
            counts[who] = counts.get(who, 0) + count
    assert list(counts.values()) == [48 + 24] * 2  # the original and the unlearned model
