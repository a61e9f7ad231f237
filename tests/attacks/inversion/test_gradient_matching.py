import math

import pytest
import torch
from torch import nn

from lit_unlearn.attacks.inversion.batchable import FrozenNorm, batchable
from lit_unlearn.attacks.inversion.directions import infer_features, infer_label, inner, log_odds_against, unit
from lit_unlearn.attacks.inversion.gradient_matching import GradientMatching
from lit_unlearn.errors import UsageError

ENGINES = ("loop", "vmap", "two_pass")


def network(seed=0, norm=True, dtype=torch.float64):
    """Convolutions with a batch norm whose statistics are not the default's, and activations in place."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4) if norm else nn.Identity(),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, 2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(54, 5),
    ).to(dtype)
    if norm:
        net[1].running_mean.normal_()
        net[1].running_var.uniform_(0.5, 2)
        nn.init.normal_(net[1].weight)
    return net.eval()


def batch(count=6, seed=1, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, 8, 8, generator=draw, dtype=dtype), torch.arange(count) % 5


def plain_gradient(net, image, label):
    net.requires_grad_(True)
    loss = nn.functional.cross_entropy(net(image[None]), label[None])
    return dict(zip(dict(net.named_parameters()), torch.autograd.grad(loss, list(net.parameters())), strict=True))


def test_the_log_odds_against_the_label_are_cross_entropy_before_softplus():
    logits = torch.randn(7, 5, dtype=torch.float64) * 10
    labels = torch.arange(7) % 5
    expected = nn.functional.cross_entropy(logits, labels, reduction="none")
    found = torch.logaddexp(log_odds_against(logits, labels), torch.zeros(7, dtype=torch.float64))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_directions_and_lengths_are_those_of_cross_entropy():
    net, (images, labels) = network(), batch()
    directions, lengths = GradientMatching(net).gradients(images, labels)
    for one, image in enumerate(images):
        expected = plain_gradient(net, image, labels[one])
        norm = math.sqrt(sum(float(value.square().sum()) for value in expected.values()))
        assert float(lengths[one]) == pytest.approx(norm, rel=1e-9)
        for name, value in expected.items():
            torch.testing.assert_close(directions[name][one] * norm, value, rtol=1e-8, atol=1e-12)


def test_the_total_gradient_is_the_sum_of_cross_entropies():
    net, (images, labels) = network(), batch()
    total = GradientMatching(net).total_gradient(images, labels)
    for name, value in total.items():
        expected = sum(plain_gradient(net, image, label)[name] for image, label in zip(images, labels, strict=True))
        torch.testing.assert_close(value, expected)


def test_a_confident_image_keeps_its_direction_in_single_precision():
    net, (images, labels) = network(dtype=torch.float32), batch(dtype=torch.float32)
    with torch.no_grad():
        net[-1].bias[labels[0]] += 40
    plain, _ = unit(plain_gradient(net, images[0], labels[0]))
    found, _ = GradientMatching(net).gradients(images[:1], labels[:1])
    exact, _ = GradientMatching(net.double()).gradients(images[:1].double(), labels[:1])
    exact, found = ({name: value[0] for name, value in one.items()} for one in (exact, found))
    assert float(inner(exact, found)) == pytest.approx(1, abs=1e-6)
    assert float(inner(exact, plain)) < 0.95


@pytest.mark.parametrize("engine", ENGINES)
def test_zero_at_the_truth_and_two_when_the_sign_flips(engine):
    images, labels = batch()
    matching = GradientMatching(network(), engine=engine)
    targets, _ = matching.gradients(images, labels)
    for sign, expected in ((1.0, 0.0), (-1.0, 2.0)):
        distances, _ = matching(images, labels, targets, torch.full((6,), sign, dtype=images.dtype))
        torch.testing.assert_close(distances, torch.full_like(distances, expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-18, 1e-6, 1e12])
def test_a_direction_has_no_scale(scale):
    gradients = {"a": torch.randn(3, 2), "b": torch.randn(4)}
    direction, length = unit(gradients)
    scaled, long = unit({name: value * scale for name, value in gradients.items()})
    assert float(long) == pytest.approx(float(length) * scale, rel=1e-5)
    torch.testing.assert_close(scaled, direction)
    assert float(inner(scaled, scaled)) == pytest.approx(1, abs=1e-6)


def test_no_gradient_has_no_direction_and_makes_no_nan():
    direction, length = unit({"a": torch.zeros(3)})
    assert not direction["a"].any()
    assert length == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_slopes_are_what_finite_differences_say(engine):
    images, labels = batch(2)
    matching = GradientMatching(network(), engine=engine)
    targets, _ = matching.gradients(*batch(2, seed=5))
    signs = torch.tensor([1.0, -1.0], dtype=images.dtype)
    _, slopes = matching(images, labels, targets, signs)
    move = torch.randn(images.shape, dtype=images.dtype, generator=torch.Generator().manual_seed(2))
    ahead, behind = (matching(images + h * move, labels, targets, signs)[0] for h in (1e-5, -1e-5))
    torch.testing.assert_close((slopes * move).sum((1, 2, 3)), (ahead - behind) / 2e-5, rtol=1e-5, atol=1e-8)


def test_engines_agree_in_single_precision():
    images, labels = batch(dtype=torch.float32)
    net = network(dtype=torch.float32)
    targets, _ = GradientMatching(net).gradients(*batch(seed=5, dtype=torch.float32))
    found = [
        GradientMatching(net, engine=engine)(images, labels, targets, torch.ones(len(images))) for engine in ENGINES
    ]
    for distances, slopes in found[1:]:
        assert float(((slopes - found[0][1]).abs() / found[0][1].abs().clamp(min=1e-9)).median()) <= 1e-5
        torch.testing.assert_close(distances, found[0][0], rtol=1e-5, atol=1e-6)


def test_only_the_named_parameters_are_matched():
    images, labels = batch()
    matching = GradientMatching(network(), names=["6.weight"])
    targets, _ = matching.gradients(images, labels)
    assert list(targets) == ["6.weight"]
    distances, _ = matching(images, labels, targets, torch.ones(6, dtype=images.dtype))
    assert float(distances.abs().max()) < 1e-12


def test_what_cannot_be_batched_runs_image_by_image():
    class Branching(nn.Linear):
        def forward(self, x):
            x = x.flatten(1)
            return super().forward(x if x.sum() > -1 else 2 * x)

    images, labels = batch()
    matching = GradientMatching(Branching(64, 5).double(), engine="auto")
    targets, _ = matching.gradients(images, labels)
    matching(images, labels, targets, torch.ones(6, dtype=images.dtype))
    assert set(matching.chosen.values()) == {"loop"}


def test_auto_never_takes_what_was_slower_than_the_loop(monkeypatch):
    images, labels = batch()
    matching = GradientMatching(network(), engine="auto")
    targets, _ = matching.gradients(images, labels)
    cost = {"loop": 1.0, "vmap": 20.0, "two_pass": 30.0}
    monkeypatch.setattr(
        matching, "_timed", lambda engine, part, *rest: cost[engine] * (len(part) if engine == "loop" else 1)
    )
    for least, expected in ((20.0, "loop"), (3.0, "vmap")):
        cost["vmap"] = least
        matching.chosen.clear()
        matching(images, labels, targets, torch.ones(6, dtype=images.dtype))
        assert list(matching.chosen.values()) == [expected]


def test_a_batchable_copy_computes_the_same_and_leaves_no_trace():
    net, (images, _) = network(), batch()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    copy = batchable(net)
    torch.testing.assert_close(copy(images), net(images))
    assert isinstance(copy[1], FrozenNorm)
    assert [name for name, _ in copy.named_parameters()] == [name for name, _ in net.named_parameters()]
    assert isinstance(net[1], nn.BatchNorm2d)
    assert net[2].inplace
    assert not copy[2].inplace
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_batch_norm_of_one_dimension_and_without_parameters():
    for norm, x in (
        (nn.BatchNorm1d(4), torch.randn(3, 4)),
        (nn.BatchNorm3d(4, affine=False), torch.randn(2, 4, 3, 3, 3)),
    ):
        norm.running_mean.normal_()
        torch.testing.assert_close(FrozenNorm(norm)(x), norm.eval()(x))


def test_batch_norm_without_statistics_stays():
    net = nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False))
    assert isinstance(batchable(net)[0], nn.BatchNorm2d)


def test_softmax_regression_gives_its_image_away():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 5)).double()
    images, labels = batch(5)
    found, _ = GradientMatching(net).gradients(images, labels)
    weight, bias = found["1.weight"], found["1.bias"]
    for sign in (1, -1):
        torch.testing.assert_close(infer_features(sign * weight, sign * bias), images.flatten(1), rtol=0, atol=1e-12)
    assert torch.equal(infer_label(weight, bias), labels)
    assert torch.equal(infer_label(weight, None), labels)  # the pixels are positive


def test_exact_unlearning_of_ridge_regression_points_along_the_image():
    """G(W0 − Wu), with G the Gram matrix that stays, has rank 1, and its rows are multiples of x."""
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn(40, width, generator=draw, dtype=torch.float64) for width in (7, 3))
    penalty = 0.1 * torch.eye(7, dtype=torch.float64)

    def fit(rows):
        return torch.linalg.solve(x[rows].T @ x[rows] + penalty, x[rows].T @ y[rows])

    kept = x[1:].T @ x[1:] + penalty
    change = kept @ (fit(slice(None)) - fit(slice(1, None)))
    left, singular, _ = torch.linalg.svd(change)
    assert singular[1] < 1e-12 * singular[0]
    assert float(torch.cosine_similarity(left[:, 0], x[0], dim=0).abs()) == pytest.approx(1, abs=1e-12)
    # The general solution reads the same: the residual of the forgotten sample stands for db.
    residual = x[0] @ fit(slice(None)) - y[0]
    found = infer_features(change.T[None], -residual[None])[0]
    torch.testing.assert_close(found, x[0], rtol=0, atol=1e-12)


def test_an_unknown_engine():
    with pytest.raises(UsageError, match=r"unknown engine 'vmpa'.*allowed: auto, loop, two_pass, vmap"):
        GradientMatching(network(), engine="vmpa")
