"""Random crop and horizontal flip of a batch at once, on its device."""

import torch
from torch import Tensor
from torch.nn import functional

from lit_unlearn.errors import UsageError
from lit_unlearn.options import TypedOptions


class Augment(TypedOptions):
    """Shift each image by up to ``crop`` pixels over a black border and mirror half of them.

    Offsets come from torch's global generator of the batch's device.

    Args:
        crop: width of the black border in pixels, 0 to 64; 4 is usual for 32x32 images. 0 means no crop.
        flip: mirror each image left to right with probability 1/2.

    Raises:
        UsageError: for a crop outside the range.
    """

    def __init__(self, crop: int = 0, flip: bool = False) -> None:
        if not 0 <= crop <= 64:
            raise UsageError(f"augment: crop is {crop}, it must lie between 0 and 64 pixels")
        self.crop = crop
        self.flip = flip

    def __call__(self, x: Tensor) -> Tensor:
        """Augment images of shape (B, C, H, W) and any dtype; the result is new, of the same shape and dtype."""
        if not self.crop and not self.flip:
            return x
        count = len(x)
        top, left = torch.randint(2 * self.crop + 1, (2, count), device=x.device)
        mirrored = torch.rand(count, device=x.device) < (0.5 if self.flip else 0.0)
        return crop_and_flip(x, top, left, mirrored, self.crop)


def crop_and_flip(x: Tensor, top: Tensor, left: Tensor, mirrored: Tensor, padding: int) -> Tensor:
    """Pad every image with zeros, cut a window of the old size out of it and mirror it where asked.

    Args:
        x: images (B, C, H, W).
        top: first row of the window in the padded image, int64 (B,), 0 to 2 * padding.
        left: first column, int64 (B,), 0 to 2 * padding.
        mirrored: bool (B,).
        padding: width of the border in pixels.
    """
    _, _, height, width = x.shape
    padded = functional.pad(x, (padding,) * 4)
    row = top[:, None] + torch.arange(height, device=x.device)
    column = torch.arange(width, device=x.device).expand(len(x), -1)
    column = left[:, None] + torch.where(mirrored[:, None], width - 1 - column, column)
    inside = (row[:, :, None] * padded.shape[3] + column[:, None, :]).flatten(1)
    planes = padded.flatten(2)
    return planes.gather(2, inside[:, None].expand(-1, planes.shape[1], -1)).view_as(x)
