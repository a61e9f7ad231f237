import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lit_unlearn.data import Augment
from lit_unlearn.data.augment import crop_and_flip
from lit_unlearn.errors import UsageError


def one_by_one(x: Tensor, top: Tensor, left: Tensor, mirrored: Tensor, padding: int) -> Tensor:
    height, width = x.shape[2:]
    made = []
    for image, row, column, mirror in zip(x, top.tolist(), left.tolist(), mirrored.tolist(), strict=True):
        window = functional.pad(image, (padding,) * 4)[:, row : row + height, column : column + width]
        made.append(window.flip(2) if mirror else window)
    return torch.stack(made)


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("shape", [(64, 3, 8, 8), (7, 1, 5, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_equals_the_sample_by_sample_way(padding: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randint(1, 256, shape).to(dtype)
    top, left = torch.randint(2 * padding + 1, (2, shape[0]))
    mirrored = torch.rand(shape[0]) < 0.5
    made = crop_and_flip(x, top, left, mirrored, padding)
    assert made.dtype == dtype
    assert torch.equal(made, one_by_one(x, top, left, mirrored, padding))


def test_every_offset_comes_up_and_half_the_images_are_mirrored() -> None:
    torch.manual_seed(0)
    x = torch.zeros(4000, 1, 7, 7)
    x[:, 0, 3, 2] = 1
    positions = Augment(crop=1, flip=True)(x).flatten(1).argmax(1)
    assert set((positions // 7).tolist()) == {2, 3, 4}
    assert set((positions % 7).tolist()) == {1, 2, 3, 4, 5}
    assert 0.45 < (Augment(flip=True)(x)[:, 0, 3, 4] == 1).float().mean() < 0.55
    assert Augment(crop=1)(x)[:, 0, :, 4].sum() == 0


def test_the_border_is_black_and_the_input_stays() -> None:
    x = torch.ones(200, 3, 4, 4)
    made = Augment(crop=4)(x)
    assert made.min() == 0
    assert torch.equal(x, torch.ones_like(x))


def test_draws_from_the_global_generator() -> None:
    x = torch.rand(16, 3, 8, 8)
    torch.manual_seed(3)
    first, second = Augment(4, True)(x), Augment(4, True)(x)
    torch.manual_seed(3)
    assert torch.equal(first, Augment(4, True)(x))
    assert not torch.equal(first, second)


def test_without_crop_and_flip_nothing_changes_and_an_empty_batch_is_fine() -> None:
    x = torch.rand(3, 3, 8, 8)
    assert Augment()(x) is x
    assert Augment(4, True)(x[:0]).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("crop", [-1, 65])
def test_a_crop_out_of_range_is_refused(crop: int) -> None:
    with pytest.raises(UsageError, match=f"crop is {crop}"):
        Augment(crop=crop)
