import copy
import math

import pytest
import torch
from attacked import Keeps, attacked
from torch import nn

from lit_unlearn.attacks import Evaluation, FeatureMap
from lit_unlearn.backbones.gate import add_gate
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import FineTune


def shown(attack, target):
    return attacked(attack, target).artifacts[f"{attack.title}/map"]


def test_the_map_is_the_two_principal_components(make_target, vectors, four_splits):
    target = make_target(vectors(nn.Identity(), 5, 4), **four_splits)
    attack = FeatureMap(points=1000)
    drawn, (features, _, _) = shown(attack, target), attack.choose(target.model)
    centred = features - features.mean(0)
    values, axes = torch.linalg.eigh(centred.T @ centred)
    expected = centred @ axes[:, [-1, -2]]
    torch.testing.assert_close(drawn.points.double().abs(), expected.abs(), rtol=1e-4, atol=1e-5)
    explained = float(values[-2:].sum() / values.sum())
    assert attacked(attack, target).attacks == {"representation/map/explained": pytest.approx(explained)}


def test_classes_are_groups_and_the_forgotten_are_marked(make_target, vectors, four_splits):
    drawn = shown(FeatureMap(points=20), make_target(vectors(nn.Identity(), 5, 4), **four_splits))
    assert drawn.names == ["kind 0 (forgotten)", "kind 1 (forgotten)", "kind 2", "kind 3"]
    assert drawn.groups.tolist() == [g for g in range(4) for _ in range(5)]
    assert drawn.points.shape == (20, 2)


def test_all_models_show_the_same_images(make_target, vectors, four_splits):
    nets = vectors(nn.Identity(), 5, 4), vectors(nn.Linear(5, 5), 5, 4, seed=1)
    chosen = [FeatureMap(points=12).choose(make_target(net, **four_splits).model) for net in nets]
    with torch.no_grad():
        torch.testing.assert_close(nets[1].encoder(chosen[0][0].float()).double(), chosen[1][0])
    assert torch.equal(chosen[0][1], chosen[1][1])
    other = FeatureMap(points=12, seed=1).choose(make_target(nets[0], **four_splits).model)
    assert not torch.equal(other[0], chosen[0][0])


def test_a_map_is_turned_onto_the_originals_and_never_stretched(make_target, vectors, four_splits):
    """A network whose features are the original's, turned and mirrored, has the original's map."""
    turned = nn.Linear(5, 5, bias=False)
    with torch.no_grad():
        turned.weight.copy_(-torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0))).Q)
    original = vectors(nn.Identity(), 5, 4)
    before = shown(FeatureMap(), make_target(original, original, **four_splits))
    after = shown(FeatureMap(), make_target(vectors(turned, 5, 4), original, **four_splits))
    torch.testing.assert_close(after.points, before.points, rtol=0, atol=1e-4)
    with torch.no_grad():
        turned.weight.mul_(0.01)
    small = shown(FeatureMap(), make_target(vectors(turned, 5, 4), original, **four_splits))
    torch.testing.assert_close(small.points, before.points / 100, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_one_point_is_one_point(make_target, vectors, four_splits, method):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 6), 0.7)

    attack = FeatureMap(method=method)
    seen = attacked(attack, make_target(vectors(Constant(), 6, 4), vectors(nn.Identity(), 5, 4), **four_splits))
    assert seen.artifacts[f"{attack.title}/map"].points.eq(0).all()
    assert seen.skipped == ({attack.title: "undefined: representation/map/explained"} if method == "pca" else {})


def test_one_dimension_is_a_line(make_target, vectors, four_splits):
    drawn = shown(FeatureMap(), make_target(vectors(nn.Linear(5, 1), 1, 4), **four_splits))
    assert drawn.points[:, 0].std() > 0
    assert drawn.points[:, 1].eq(0).all()


def test_single_images_that_are_forgotten_stand_beside_the_test_images(make_target, vectors, four_splits):
    del four_splits["test_forget"]
    drawn = shown(FeatureMap(points=9), make_target(vectors(nn.Identity(), 5, 4), **four_splits))
    assert drawn.names == ["kind 2", "kind 3", "forget images (forgotten)"]
    assert drawn.groups.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_neighbours_stay_neighbours_in_a_map_by_tsne(digits):
    attack = FeatureMap(method="tsne", points=200)
    drawn = shown(attack, digits.make_target(digits.original))
    assert torch.equal(drawn.points, shown(attack, digits.make_target(digits.original)).points)
    near = torch.cdist(drawn.points, drawn.points).fill_diagonal_(math.inf).argmin(1)
    assert (drawn.groups[near] == drawn.groups).double().mean() > 0.9
    assert attack.evaluate(digits.make_target(digits.original)).numbers == {}


def test_contraction_shows_on_the_digits(digits):
    rescaled = copy.deepcopy(digits.original.backbone)
    add_gate(rescaled, [0, 1, 2], 1e-3)
    before, after = (shown(FeatureMap(), digits.make_target(net)) for net in (digits.original, rescaled))
    assert before.names == [f"{i} (forgotten)" for i in range(3)] + [str(i) for i in range(3, 10)]
    assert torch.equal(before.groups, after.groups)
    gone = before.groups < 3
    spreads = [drawn.points[gone].std(0).sum() for drawn in (before, after)]
    assert spreads[1] < 0.3 * spreads[0]
    assert after.points[~gone].std(0).sum() > 0.5 * before.points[~gone].std(0).sum()


def test_in_a_run_it_is_shown_for_each_subject(make_backbone, make_data, fit):
    keeps = Keeps()
    fit(FineTune(make_backbone()), make_data(), Evaluation(), FeatureMap(), keeps)
    assert {subject: list(found.artifacts) for subject, found in keeps.results.models.items()} == {
        "original": ["representation/map/map"],
        "unlearned": ["representation/map/map"],
    }


def test_options_out_of_range():
    with pytest.raises(UsageError, match=r"unknown method of the feature map 't-sne'.*did you mean 'tsne'"):
        FeatureMap(method="t-sne")
    with pytest.raises(UsageError, match="points is 1"):
        FeatureMap(points=1)
