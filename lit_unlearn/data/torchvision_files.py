"""Calls to torchvision's data sets, with complaints that say what to do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from lit_unlearn.data.source import Dataset
from lit_unlearn.errors import UsageError

Made = TypeVar("Made")


def run_torchvision(name: str, root: str | Path, make: Callable[[], Made]) -> Made:
    """Make a torchvision data set.

    Args:
        name: name of the data, for the complaint.
        root: folder in which torchvision looks for it.
        make: constructs the data set.

    Raises:
        UsageError: if files are missing or broken, or the download fails.
    """
    try:
        return make()
    # Unpickling and parsing a broken file raise what they like, and a failed download is an OSError.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(
            f"{name} cannot be read from {str(root)!r} ({reason}); name its folder with root, or set download: true"
        ) from error


def load_cifar(kind: Callable[..., Any], name: str, root: str | Path, download: bool) -> Dataset:
    """Read both sets of CIFAR-10 or CIFAR-100.

    Args:
        kind: torchvision's class.
        name: name of the data, for the complaint.
        root: folder in which torchvision looks for it.
        download: fetch it if it is not there.

    Raises:
        UsageError: if files are missing or broken, or the download fails.
    """
    train = run_torchvision(name, root, lambda: kind(root, train=True, download=download))
    test = run_torchvision(name, root, lambda: kind(root, train=False, download=download))
    images = [torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous() for part in (train, test)]
    labels = [torch.tensor(part.targets) for part in (train, test)]
    return Dataset(images[0], labels[0], images[1], labels[1], list(train.classes))
