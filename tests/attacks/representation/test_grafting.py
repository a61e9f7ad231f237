import copy
import math
from dataclasses import replace

import pytest
import torch
from attacked import attacked
from torch import nn
from torchvision.models import VisionTransformer

from lit_unlearn.attacks import Grafting
from lit_unlearn.attacks.representation.grafting import depth_score, graft, stage_outputs
from lit_unlearn.attacks.shared import Shared
from lit_unlearn.backbones import Custom, ResNet8
from lit_unlearn.backbones.gate import add_gate
from lit_unlearn.errors import UsageError
from lit_unlearn.reports.rows import SPLITS

STAGES = ("stem", "stage1", "stage2", "stage3")


def copied(net):
    return copy.deepcopy(net.backbone)


def retrain_of(target):
    return replace(target, retrain=target.model)


@pytest.fixture(scope="module")
def found(digits):
    """The attack on the digits' models; that of Retrain of another seed, too."""
    head_only, rescaled = copied(digits.original), copied(digits.original)
    nn.init.normal_(head_only.head.weight, generator=torch.Generator().manual_seed(0))
    add_gate(rescaled, [0, 1, 2], 1e-5)
    nets = {"original": digits.original, "retrain": digits.retrain, "head_only": head_only, "rescale": rescaled}
    nets["other_retrain"] = digits.network("digits_resnet8_retrain_classes_0_1_2_seed_1")
    shared = Shared()
    return {
        name: Grafting().evaluate(replace(digits.make_target(net), shared=shared)).numbers for name, net in nets.items()
    }


@pytest.mark.parametrize("name", ["original", "head_only", "rescale"])
def test_what_leaves_the_encoder_alone_grafts_fully_at_every_stage(digits, found, name):
    plain = digits.make_target(digits.original).accuracies(lambda batch: batch.logits)
    assert found[name]["depth"] == 0
    assert {found[name][f"{stage}/forgotten"] for stage in STAGES} == {plain["test_forget_acc"]}
    assert {found[name][f"{stage}/retained"] for stage in STAGES} == {plain["test_retain_acc"]}
    assert found[name]["useful"] == min(plain["test_forget_acc"], plain["test_retain_acc"])


def test_retrain_is_the_one_and_its_grafts_are_useless(found):
    assert found["retrain"]["depth"] == 1
    for name in ("retrain", "other_retrain"):
        assert found[name]["useful"] < 0.3 < found["original"]["useful"]
    assert 0.8 < found["other_retrain"]["depth"] <= 1


def test_an_early_stage_that_stayed_grafts_and_the_later_ones_do_not(digits):
    mixed = copied(digits.retrain)
    mixed.encoder.stem.load_state_dict(digits.original.backbone.encoder.stem.state_dict())
    result = Grafting().evaluate(digits.make_target(mixed))
    plain = digits.make_target(digits.original).accuracies(lambda batch: batch.logits)
    assert result.numbers["stem/forgotten"] == plain["test_forget_acc"]
    assert result.numbers["stage3/forgotten"] < 0.6
    assert 0 < result.numbers["depth"] < 1
    assert result.notes == {"strongest": "stem"}


class Nothing(nn.Module):
    def __init__(self, stage):
        super().__init__()
        self.stage = stage

    def forward(self, x):
        return torch.zeros_like(self.stage(x))


def test_a_stage_of_zeros_gives_one_answer_for_all(digits):
    collapsed = copied(digits.original)
    collapsed.encoder.stage2 = Nothing(collapsed.encoder.stage2)
    numbers = Grafting().evaluate(digits.make_target(collapsed)).numbers
    original = digits.original.backbone
    answer = int(original.head(original.encoder[3:](torch.zeros(1, 32, 4, 4))).argmax())
    for split, name in (("test_forget", "forgotten"), ("test_retain", "retained")):
        labels = digits.original.gather(split).labels
        assert numbers[f"stage2/{name}"] == float((labels == answer).double().mean())
    assert numbers["stage1/forgotten"] > 0.9


def test_the_depth_is_the_share_of_what_retrain_loses():
    score, reason = depth_score({"a": 0.8, "b": 0.4, "c": -0.1}, {"a": 0.4, "b": 0.9, "c": 1.0})
    assert (score, reason) == (pytest.approx((0.4 + 0.4) / 1.2), None)
    assert depth_score({"a": 0.5}, {"a": -0.5}) == (0, None)
    score, reason = depth_score({"a": 0.0, "b": -0.1}, {"a": 0.5, "b": 0.5})
    assert math.isnan(score)
    assert "no graft of Retrain loses accuracy" in reason


def test_the_depth_is_undefined_without_retrain_and_where_its_grafts_lose_nothing(digits):
    target = digits.make_target(digits.original)
    for retrain, said in ((None, "needs Retrain"), (digits.original, "no graft of Retrain loses")):
        seen = attacked(Grafting(), replace(target, retrain=retrain))
        assert seen.skipped == {"representation/grafting": "undefined: representation/grafting/depth"}
        assert said in seen.notes["representation/grafting/depth"]
        assert len(seen.attacks) == 2 * len(STAGES) + 1


def test_without_stages_the_features_are_grafted_and_without_test_images_the_forget_set_counts(make_target, vectors):
    draw = torch.Generator().manual_seed(0)
    splits = {name: (torch.randn(30, 5, generator=draw), torch.arange(30) % 4) for name in ("forget", "test_retain")}
    original, scaled = vectors(nn.Identity(), 5, 4), vectors(nn.Hardtanh(), 5, 4, seed=1)
    target = make_target(scaled, original, **splits)
    numbers = Grafting().evaluate(retrain_of(target)).numbers
    for split, name in (("forget", "forgotten"), ("test_retain", "retained")):
        x, y = splits[split]
        logits = original.head(x.clamp(-1, 1))
        assert numbers[f"features/{name}"] == float((logits.argmax(1) == y).double().mean())
    assert set(numbers) == {"depth", "useful", "features/forgotten", "features/retained"}


class Twice(nn.Module):
    """A stage that runs twice, and an activation in place after it."""

    def __init__(self):
        super().__init__()
        self.shared, self.last = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.shared(x.flatten(1)).relu_().sub_(0.1)
        return self.last(self.shared(x).relu_().sub_(0.1))


def transformer():
    return VisionTransformer(8, 4, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8, num_classes=4)


@pytest.mark.parametrize(("make", "shape"), [(Twice, (1, 2, 3)), (transformer, (3, 8, 8))])
def test_a_graft_of_any_network_goes_on_from_what_it_is_given(make, shape):
    pair = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        pair.append(Custom(make(), num_classes=4, in_channels=shape[0]).eval().requires_grad_(False))
        nn.init.normal_(pair[-1].head.weight)
    one, two = pair
    images = torch.rand(3, *shape)
    outputs = stage_outputs(one, images)
    for stage in one.stages:
        kept = [output.clone() for output in outputs[stage]]
        assert torch.equal(graft(one, images, stage, outputs[stage]), one(images))
        assert not torch.equal(graft(two, images, stage, kept), two(images))
    last = one.stages[-1]
    expected = two.head(one.features(images))  # after the last stage nothing has weights
    torch.testing.assert_close(graft(two, images, last, stage_outputs(one, images)[last]), expected)
    assert torch.equal(two(images), two(images))
    assert not any(module._forward_hooks for net in pair for module in net.modules())


def test_stages_that_do_not_fit_are_one_line(digits):
    narrow = ResNet8(num_classes=10, in_channels=1, width=8).eval().requires_grad_(False)
    seen = attacked(Grafting(), digits.make_target(narrow))
    assert seen.attacks == {}
    assert seen.skipped["representation/grafting"] == (
        "its stage 'stem' gives 8×8×8 for an image, but Original's gives 16×8×8"
    )
    other = Custom(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), num_classes=10, in_channels=1)
    seen = attacked(Grafting(), digits.make_target(other.requires_grad_(False)))
    assert "its stages are none, but Original's are stem, stage1" in seen.skipped["representation/grafting"]
    misfitting = attacked(
        Grafting(), replace(digits.make_target(digits.original), retrain=digits.make_target(narrow).model)
    )
    assert "Retrain: its stage 'stem'" in misfitting.notes["representation/grafting/depth"]


def test_no_number_is_one_that_the_verdict_compares(found):
    assert not any(name.rpartition("/")[2] in SPLITS for name in found["retrain"])


def test_it_needs_the_original_and_a_tensor(make_target, vectors, four_splits):
    alone = make_target(vectors(nn.Identity(), 5, 4), **four_splits)
    assert "needs the original" in Grafting().lacks(alone)

    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    class Splitting(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = Pair()

        def forward(self, x):
            return self.pair(x)[0]

    broken = vectors(Splitting(), 5, 4, stages={"pair": "pair"})
    with pytest.raises(UsageError, match="'pair' gives a tuple"):
        stage_outputs(broken, torch.zeros(2, 5))


def test_what_concerns_original_and_retrain_is_measured_once_on_so_many_images(digits, monkeypatch):
    from lit_unlearn.attacks.representation import grafting

    seen, given = [], grafting.graft_accuracies
    monkeypatch.setattr(grafting, "graft_accuracies", lambda *args: seen.append(args) or given(*args))
    shared = Shared()
    for net in (digits.original, digits.retrain, digits.original):
        Grafting(images=30, seed=1).evaluate(replace(digits.make_target(net), shared=shared))
    sources = [source for source, _, ((_, labels),) in seen if len(labels) == 30]
    assert sources == [net.backbone for net in (digits.original, digits.retrain) for _ in range(2)]
    Grafting(images=30).evaluate(digits.make_target(digits.original))
    assert not torch.equal(seen[0][2][0][0], seen[-4][2][0][0])
    with pytest.raises(UsageError, match="images is 0"):
        Grafting(images=0)
