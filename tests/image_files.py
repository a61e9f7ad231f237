"""Writes small files in the formats of the real data sets."""

import pickle
from pathlib import Path

import numpy as np
from scipy.io import savemat


def pixels(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *shape), dtype=np.uint8)


def write_cifar(folder: Path, batches: dict[str, int], label: str, meta: tuple[str, str], classes: list[str]) -> None:
    folder.mkdir()
    for name, count in batches.items():
        entry = {"data": pixels(count, 3 * 32 * 32), label: [index % len(classes) for index in range(count)]}
        (folder / name).write_bytes(pickle.dumps(entry))
    (folder / meta[0]).write_bytes(pickle.dumps({meta[1]: classes}))


def write_cifar10(root: Path, batch: int, test: int) -> list[str]:
    """Five training batches and a test batch; returns the class names."""
    batches = {f"data_batch_{number}": batch for number in range(1, 6)} | {"test_batch": test}
    names = [f"name{index}" for index in range(10)]
    write_cifar(root / "cifar-10-batches-py", batches, "labels", ("batches.meta", "label_names"), names)
    return names


def write_svhn(root: Path, train: int, test: int) -> None:
    """The zeros have label 10, as in the real files."""
    for part, count in (("train", train), ("test", test)):
        labels = np.array([[10 if index % 10 == 0 else index % 10] for index in range(count)], dtype=np.uint8)
        savemat(root / f"{part}_32x32.mat", {"X": pixels(count, 3, 32, 32).transpose(2, 3, 1, 0), "y": labels})
