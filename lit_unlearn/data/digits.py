"""The 1,797 handwritten digits of 8x8 pixels that scikit-learn carries: no download, trains in seconds."""

import torch

from lit_unlearn.data.sources import Dataset, Source

TEST_EVERY = 5
"""In each class every fifth digit is a test digit."""


class Digits(Source):
    """Optical recognition of handwritten digits (UCI), as shipped with scikit-learn.

    Pixels 0 to 16 become 0 to 255. The original has no test set: here every fifth digit of each class is one.
    """

    def load(self) -> Dataset:
        """Read the digits out of scikit-learn."""
        from sklearn.datasets import load_digits

        pixels, digits = load_digits(return_X_y=True)
        images = torch.from_numpy(pixels).reshape(-1, 1, 8, 8).mul(255 / 16).round().to(torch.uint8)
        labels = torch.from_numpy(digits).to(torch.int64)
        rank_in_class = torch.nn.functional.one_hot(labels).cumsum(0).gather(1, labels[:, None]).flatten() - 1
        test = rank_in_class % TEST_EVERY == TEST_EVERY - 1
        names = [str(digit) for digit in range(10)]
        return Dataset(images[~test], labels[~test], images[test], labels[test], names)
