"""Contraction of representations: the loss, its points, the entropy bound and the depth."""

import math

import pytest
import torch
from torch import Tensor

from lit_unlearn.errors import UsageError
from lit_unlearn.methods.contraction import contraction_loss, depth, entropy_floor, target_point


def entropy(logits: Tensor) -> Tensor:
    log_p = logits.double().log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


@pytest.mark.parametrize(("norm", "floor"), [(1, 2.219), (2, 1.840), (4, 0.619)])
def test_published_values_of_the_floor(norm: float, floor: float) -> None:
    assert round(entropy_floor(norm, 10).item(), 3) == floor


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_random_logits_never_break_the_floor(classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(20_000, classes, generator=generator, dtype=torch.float64)
    logits = logits.sign() * logits.abs() ** torch.rand(20_000, 1, generator=generator).mul(8)
    norms = torch.logspace(-3, 2, 20_000, dtype=torch.float64)
    logits *= (norms / logits.norm(dim=1))[:, None]
    assert (entropy(logits) >= entropy_floor(norms, classes) - 1e-12).all()


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_one_against_the_rest_meets_the_floor(classes: int) -> None:
    norms = torch.logspace(-4, 2, 50, dtype=torch.float64)
    direction = torch.full((classes,), -1.0 / classes, dtype=torch.float64)
    direction[0] += 1
    logits = norms[:, None] * direction / direction.norm()
    torch.testing.assert_close(entropy_floor(norms, classes), entropy(logits), rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_floor_at_the_ends(dtype: torch.dtype) -> None:
    floors = entropy_floor(torch.tensor([0.0, 1e-4, 5e4, math.inf], dtype=dtype), 10)
    assert floors[:2].tolist() == pytest.approx([math.log(10)] * 2, abs=1e-6)
    assert floors[2:].tolist() == [0, 0]


def test_floor_needs_two_classes() -> None:
    with pytest.raises(UsageError, match="num_classes is 1"):
        entropy_floor(1.0, 1)


def test_loss_by_hand() -> None:
    z = torch.tensor([[3.0, 4.0], [1.0, 1.0]])
    assert contraction_loss(z, torch.zeros(2)) == pytest.approx((5 + math.sqrt(2)) / 2)
    assert contraction_loss(z, torch.zeros(2), squared=True) == pytest.approx((25 + 2) / 2)
    assert contraction_loss(z, torch.tensor([[3.0, 1.0]])) == pytest.approx((3 + 2) / 2)
    assert contraction_loss(z, z + torch.tensor([0.0, 2.0])) == 2
    assert contraction_loss(z, torch.tensor(1.0)) == pytest.approx(math.sqrt(13) / 2)


@pytest.mark.parametrize("squared", [True, False])
def test_gradient_on_the_target_is_zero(squared: bool) -> None:
    z = torch.tensor([[1.0, 2.0], [1.0, 4.0]], requires_grad=True)
    contraction_loss(z, torch.tensor([1.0, 2.0]), squared).backward()
    assert z.grad is not None
    assert z.grad.tolist() == [[0, 0], [0, 2.0 if squared else 0.5]]


def test_empty_batch_costs_nothing_and_keeps_its_graph() -> None:
    z = torch.zeros(0, 3, requires_grad=True)
    loss = contraction_loss(z, torch.zeros(3))
    loss.backward()
    assert loss == 0


def test_half_precision_does_not_overflow() -> None:
    z = torch.full((2, 100), 1e4, dtype=torch.float16)
    assert contraction_loss(z, torch.zeros(100, dtype=torch.float16)).item() == pytest.approx(1e5)


@pytest.mark.parametrize("shape", [(3,), (4, 1), (4,), (2, 2), (1, 4, 2)])
def test_target_of_another_shape_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"shapes \(4, 2\) and"):
        contraction_loss(torch.zeros(4, 2), torch.zeros(shape))


def test_feature_maps_are_an_error() -> None:
    with pytest.raises(UsageError, match=r"\(4, 2, 3, 3\)"):
        contraction_loss(torch.zeros(4, 2, 3, 3), torch.zeros(()))


def test_the_points_to_contract_to() -> None:
    forget, retain = torch.tensor([[1.0, 3.0], [5.0, 7.0]]), torch.tensor([[0.0, 4.0], [2.0, 0.0], [1.0, 2.0]])
    assert target_point("origin", forget, retain, 0).tolist() == [0, 0]
    assert target_point("retain_mean", forget, retain, 0).tolist() == [1, 2]
    assert target_point("uniform", forget, retain, 0).tolist() == [[2, 2], [6, 6]]
    with pytest.raises(UsageError, match=r"unknown target 'orign'; did you mean 'origin'\? \(allowed: origin, random_"):
        target_point("orign", forget, retain, 0)  # type: ignore[arg-type]


def test_the_random_point_is_a_unit_point_that_a_relu_can_reach_and_depends_on_the_seed_alone() -> None:
    forget = torch.rand(3, 7)
    point = target_point("random_point", forget, forget, 0)
    assert float(point.norm()) == pytest.approx(1, abs=1e-6)
    assert (point > 0).all()
    assert torch.equal(point, target_point("random_point", forget + 1, forget, 0))
    doubled = target_point("random_point", forget.double(), forget, 0)
    torch.testing.assert_close(doubled, point.double(), rtol=0, atol=1e-7)
    assert not torch.equal(point, target_point("random_point", forget, forget, 1))


def test_depth_of_samples_in_one_direction() -> None:
    logits = torch.tensor([[3.0, 4.0], [0.0, 1.0]], dtype=torch.bfloat16)
    features = torch.tensor([[1.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
    found = {name: float(value) for name, value in depth(logits, features).items()}
    wanted = {"logit_norm": 3.0, "feature_norm": 2.0, "feature_variance": 1 / 3, "effective_rank": 1.0}
    assert found == pytest.approx(wanted)
