import math

import pytest
import torch
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from lit_unlearn.attacks.inversion.reconstruction import (
    descend,
    mean_colour,
    psnr,
    squared_error,
    ssim,
    total_variation,
)


def pictures(count=4, size=(3, 16, 16), seed=0):
    return torch.rand(count, *size, generator=torch.Generator().manual_seed(seed))


def towards(goal):
    """Squared distances to a goal, and their slopes."""

    def slopes(images, index):
        gap = images - goal[index]
        return gap.square().mean((1, 2, 3)), 2 * gap / gap[0].numel()

    return slopes


@pytest.mark.parametrize("size", [(3, 16, 16), (1, 28, 28), (1, 8, 8)])
def test_psnr_and_ssim_are_those_of_torchmetrics(size):
    images, found = pictures(size=size), pictures(size=size, seed=1)
    for one in range(len(images)):
        pair = found[one : one + 1], images[one : one + 1]
        assert float(psnr(*pair)) == pytest.approx(float(PeakSignalNoiseRatio(data_range=1.0)(*pair)), rel=1e-5)
        expected = float(StructuralSimilarityIndexMeasure(data_range=1.0)(*pair))
        assert float(ssim(*pair)) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    for score in (psnr, ssim, squared_error):
        each = torch.cat([score(found[one : one + 1], images[one : one + 1]) for one in range(len(images))])
        torch.testing.assert_close(score(found, images), each, rtol=1e-4, atol=1e-5)


def test_psnr_by_hand():
    images = torch.zeros(2, 1, 8, 8)
    found = images + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    torch.testing.assert_close(psnr(found, images), torch.tensor([20.0, 40.0]))
    torch.testing.assert_close(squared_error(found, images), torch.tensor([1e-2, 1e-4]))


def test_an_exact_image_has_a_finite_score():
    images = pictures()
    assert psnr(images, images).tolist() == [100.0] * 4
    torch.testing.assert_close(ssim(images, images), torch.ones(4))


def test_ssim_is_undefined_where_its_window_does_not_fit():
    images = pictures(size=(1, 5, 9))
    assert ssim(images, images).isnan().all()


def test_the_mean_colour_is_the_best_of_plain_areas():
    images = pictures()
    floor = squared_error(mean_colour(images), images)
    torch.testing.assert_close(floor, images.var((2, 3), correction=0).mean(1))
    assert (floor < squared_error(mean_colour(images) + 0.01, images)).all()


def test_total_variation_by_hand():
    stripes = torch.tensor([0.0, 1.0, 0.0, 1.0]).expand(1, 2, 3, 4)
    assert total_variation(torch.cat([stripes, 0.5 * stripes, 0 * stripes])).tolist() == [1.0, 0.5, 0.0]
    assert total_variation(torch.rand(2, 1, 1, 1)).tolist() == [0.0, 0.0]


def test_descent_is_adam_on_the_sign_with_a_rate_that_falls_in_three():
    start, goal = pictures(1, (1, 2, 2)), pictures(1, (1, 2, 2), seed=1)
    visited = []

    def slopes(images, index):
        visited.append(images.clone())
        return towards(goal)(images, index)

    descend(slopes, start, steps=16, lr=0.01, tv=0.0)
    weight = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=0.01)
    expected = []
    for step in range(17):
        expected.append(weight.detach().clone())
        optimizer.param_groups[0]["lr"] = 0.01 * 0.1 ** sum(step >= cut for cut in (6, 10, 14))
        weight.grad = (weight.detach() - goal).sign()
        optimizer.step()
        weight.data.clamp_(0, 1)
    torch.testing.assert_close(torch.cat(visited), torch.cat(expected))


def test_descent_finds_the_goal_within_the_range_of_pixels():
    goal = pictures() * 2 - 0.5
    found, distances = descend(towards(goal), pictures(seed=1), steps=200, lr=0.1, tv=0.0)
    torch.testing.assert_close(found, goal.clamp(0, 1), rtol=0, atol=2e-3)
    torch.testing.assert_close(distances, squared_error(found, goal))


def test_the_best_iterate_is_kept():
    start = pictures()

    def worse_and_worse(images, index):
        return (images - start[index]).square().mean((1, 2, 3)), start[index] - images - 1e-9

    found, distances = descend(worse_and_worse, start, steps=30, lr=0.1, tv=0.0)
    assert torch.equal(found, start)
    assert not distances.any()


def test_total_variation_smooths():
    goal, start = pictures(), pictures(seed=1)
    rough, smooth = (descend(towards(goal), start, steps=100, lr=0.1, tv=tv)[0] for tv in (0.0, 1.0))
    assert (total_variation(smooth) < 0.3 * total_variation(rough)).all()


def test_images_that_have_converged_are_left_alone_and_the_others_find_what_they_would():
    goal, start, sizes = pictures(), pictures(seed=1), []

    def slopes(images, index):
        sizes.append(len(images))
        distances, gradient = towards(goal)(images, index)
        return distances + (index == 0), gradient * (index > 0).view(-1, 1, 1, 1)

    dropped = descend(slopes, start, steps=400, lr=0.1, tv=0.0)
    assert sizes[0] == 4
    assert min(sizes) < 4
    sizes.clear()
    kept = descend(slopes, start, steps=400, lr=0.1, tv=0.0, drop=False)
    assert set(sizes) == {4}
    torch.testing.assert_close(dropped[0], kept[0], rtol=0, atol=1e-3)
    assert torch.equal(dropped[0][0], start[0])


def test_images_do_not_depend_on_each_other():
    goal, start = pictures(), pictures(seed=1)
    together, _ = descend(towards(goal), start, steps=50, lr=0.1, tv=0.01)
    alone, _ = descend(towards(goal[2:3]), start[2:3], steps=50, lr=0.1, tv=0.01)
    torch.testing.assert_close(together[2:3], alone, rtol=0, atol=1e-6)


def test_a_slope_that_is_not_finite_is_never_the_best():
    start = pictures()
    found, distances = descend(lambda x, i: (x.sum((1, 2, 3)) * math.nan, x * math.nan), start, 3, 0.1, 0.0)
    assert torch.equal(found, start)
    assert distances.isinf().all()
