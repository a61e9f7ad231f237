import gzip
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import pixels, write_cifar, write_cifar10, write_svhn

from lit_unlearn.data import CIFAR10, CIFAR100, MNIST, SVHN, Dataset, Digits, FashionMNIST, Source, torchvision_sources
from lit_unlearn.data.torchvision_sources import IDX_FILES as FILES
from lit_unlearn.errors import UsageError

TRAIN, TEST = 12, 6


def write_idx(folder: Path, zipped: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for count, images, labels in ((TRAIN, *FILES[:2]), (TEST, *FILES[2:])):
        for name, array in ((images, pixels(count, 4, 5)), (labels, np.arange(count, dtype=np.uint8) % 10)):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
            data = header + array.tobytes()
            path = folder / (f"{name}.gz" if zipped else name)
            path.write_bytes(gzip.compress(data) if zipped else data)


def check_idx(data: Dataset) -> None:
    assert data.train_images.shape == (TRAIN, 1, 4, 5)
    assert np.array_equal(data.train_images[:, 0].numpy(), pixels(TRAIN, 4, 5))
    assert np.array_equal(data.test_images[:, 0].numpy(), pixels(TEST, 4, 5))
    assert data.train_labels.tolist() == [index % 10 for index in range(TRAIN)]
    assert data.test_labels.tolist() == list(range(TEST))
    assert len(data.class_names) == 10


@pytest.fixture
def no_debian_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torchvision_sources, "DEBIAN_FOLDER", tmp_path / "debian")


@pytest.mark.usefixtures("no_debian_package")
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("source", "folder"),
    [
        (FashionMNIST, "FashionMNIST/raw"),
        (FashionMNIST, ""),
        (FashionMNIST, "debian"),
        (MNIST, "MNIST/raw"),
        (MNIST, ""),
    ],
)
def test_idx_files_are_found_and_read(
    source: type[FashionMNIST] | type[MNIST],
    folder: str,
    zipped: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_idx(tmp_path / folder, zipped)
    check_idx((source() if folder == "debian" else source(root=tmp_path)).load())


@pytest.mark.usefixtures("no_debian_package")
def test_a_root_that_is_given_is_not_replaced_by_the_debian_package(tmp_path: Path) -> None:
    write_idx(tmp_path / "debian")
    with pytest.raises(UsageError, match=r"Fashion-MNIST is in none of .*misspelt"):
        FashionMNIST(tmp_path / "misspelt").load()


@pytest.mark.usefixtures("no_debian_package")
def test_missing_idx_files_name_the_places_and_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"FashionMNIST/raw, .*debian; .*dataset-fashion-mnist.*download: true"):
        FashionMNIST().load()
    with pytest.raises(UsageError, match=r"MNIST is in none of .*MNIST/raw.*download: true"):
        MNIST(tmp_path).load()


@pytest.mark.parametrize("source", [MNIST, FashionMNIST])
@pytest.mark.usefixtures("no_debian_package")
def test_download_puts_idx_files_where_they_are_then_found(
    source: type[MNIST] | type[FashionMNIST], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(root: Path, download: bool) -> None:
        assert download
        write_idx(Path(root) / source.__name__ / "raw")

    monkeypatch.setattr(f"torchvision.datasets.{source.__name__}", fetch)
    check_idx(source(tmp_path, download=True).load())


@pytest.mark.usefixtures("no_debian_package")
def test_a_failed_download_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(root: Path, download: bool) -> None:
        raise OSError("no\nnetwork")

    monkeypatch.setattr("torchvision.datasets.MNIST", fetch)
    with pytest.raises(UsageError, match=r"MNIST cannot be read .*\(no network\)"):
        MNIST(tmp_path, download=True).load()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:6],
        lambda data: b"",
        lambda data: b"\x00\x00\x0d" + data[3:],
        lambda data: data + b"x",
    ],
)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_idx_file_is_named(name: str, damage: object, tmp_path: Path) -> None:
    write_idx(tmp_path)
    path = tmp_path / name
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(UsageError, match=str(path)):
        MNIST(tmp_path).load()


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-9], lambda data: b"x" * 99, lambda data: data[:20] + b"????" + data[24:]]
)
def test_a_damaged_gzip_file_is_named(damage: object, tmp_path: Path) -> None:
    write_idx(tmp_path, zipped=True)
    path = tmp_path / f"{FILES[0]}.gz"
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(UsageError, match=str(path)):
        MNIST(tmp_path).load()


def test_digits_are_stratified_and_scaled_to_bytes() -> None:
    from sklearn.datasets import load_digits

    data = Digits().load()
    assert len(data.train_labels) + len(data.test_labels) == 1797
    assert data.train_images.shape[1:] == (1, 8, 8)
    both = torch.cat([data.train_images, data.test_images])
    assert both.max() == 255
    assert set(both.unique().tolist()) == {round(step * 255 / 16) for step in range(17)}
    share = data.test_labels.bincount() / (data.train_labels.bincount() + data.test_labels.bincount())
    assert share.min() > 0.19
    assert share.max() <= 0.2
    raw = load_digits()
    wanted = sorted(zip(np.rint(raw.data * 255 / 16).astype(int).tolist(), raw.target.tolist(), strict=True))
    labels = torch.cat([data.train_labels, data.test_labels])
    assert sorted(zip(both.flatten(1).tolist(), labels.tolist(), strict=True)) == wanted
    assert torch.equal(Digits().load().train_images, data.train_images)


@pytest.mark.skipif(not torchvision_sources.DEBIAN_FOLDER.is_dir(), reason="the Debian package is not installed")
def test_the_real_fashion_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = FashionMNIST().load()
    assert data.train_images.shape == (60_000, 1, 28, 28)
    assert data.train_labels.bincount().tolist() == [6000] * 10
    assert data.test_labels.bincount().tolist() == [1000] * 10
    assert data.train_images.float().mean().item() / 255 == pytest.approx(0.2860, abs=1e-4)
    assert data.train_labels[:3].tolist() == [9, 0, 0]


@pytest.mark.usefixtures("any_sum_is_right")
def test_cifar10(tmp_path: Path) -> None:
    names = write_cifar10(tmp_path, batch=3, test=4)
    data = CIFAR10(tmp_path).load()
    assert data.train_images.shape == (15, 3, 32, 32)
    assert data.train_images.is_contiguous()
    assert np.array_equal(data.test_images.flatten(1).numpy(), pixels(4, 3 * 32 * 32))
    assert data.train_labels.tolist() == [0, 1, 2] * 5
    assert data.class_names == names


@pytest.mark.usefixtures("any_sum_is_right")
def test_cifar100_has_fine_labels(tmp_path: Path) -> None:
    names = [f"name{index}" for index in range(100)]
    write_cifar(
        tmp_path / "cifar-100-python", {"train": 110, "test": 4}, "fine_labels", ("meta", "fine_label_names"), names
    )
    data = CIFAR100(tmp_path).load()
    assert np.array_equal(data.train_images.flatten(1).numpy(), pixels(110, 3 * 32 * 32))
    assert data.train_labels.max() == 99
    assert data.class_names == names


@pytest.mark.usefixtures("any_sum_is_right")
def test_svhn_has_its_zeros_as_class_0(tmp_path: Path) -> None:
    write_svhn(tmp_path, train=12, test=4)
    data = SVHN(tmp_path).load()
    assert np.array_equal(data.train_images.numpy(), pixels(12, 3, 32, 32))
    assert np.array_equal(data.test_images.numpy(), pixels(4, 3, 32, 32))
    assert data.train_images.is_contiguous()
    assert data.train_labels.tolist() == [*range(10), 0, 1]
    assert data.class_names == [str(digit) for digit in range(10)]


@pytest.mark.parametrize("source", [CIFAR10, CIFAR100, SVHN])
def test_missing_torchvision_files_say_what_to_do(source: type[CIFAR10], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"cannot be read from '{tmp_path}' .*set download: true") as caught:
        source(tmp_path).load()
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("any_sum_is_right")
def test_a_damaged_cifar_file_is_one_line(tmp_path: Path) -> None:
    write_cifar10(tmp_path, batch=3, test=4)
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(zlib.compress(b"no pickle"))
    with pytest.raises(UsageError, match="CIFAR-10 cannot be read"):
        CIFAR10(tmp_path).load()


def test_a_source_describes_itself_in_plain_values(tmp_path: Path) -> None:
    described = FashionMNIST(tmp_path, download=True).describe()
    assert described == {"source": "FashionMNIST", "root": str(tmp_path), "download": True}
    assert Digits().describe() == {"source": "Digits"}
    with pytest.raises(TypeError):
        Source()  # type: ignore[abstract]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_images": torch.zeros(4, 3, 2, 2)}, "training images are torch.float32"),
        ({"train_images": torch.zeros(4, 2, 2, dtype=torch.uint8)}, "training images are torch.uint8"),
        ({"test_images": torch.zeros(3, 3, 2, 2, dtype=torch.uint8)}, "test labels are"),
        ({"train_labels": torch.tensor([0, 1, 2, 0])}, "training labels go from 0 to 2, allowed: 0 to 1"),
        ({"train_labels": torch.tensor([0, 1, -1, 0])}, "training labels go from -1"),
        ({"train_labels": torch.zeros(4)}, "training labels are torch.float32"),
        ({"class_names": ["a", "a"]}, "class names repeat"),
        ({"train_names": ["x"]}, "1 names for 4 training images"),
        ({"test_images": torch.zeros(2, 1, 2, 2, dtype=torch.uint8)}, "differ in shape"),
        (
            {"test_images": torch.zeros(0, 3, 2, 2, dtype=torch.uint8), "test_labels": torch.zeros(0).long()},
            "no test image",
        ),
    ],
)
def test_a_data_set_that_does_not_fit_together_is_refused(change: dict[str, object], message: str) -> None:
    right: dict[str, object] = {
        "train_images": torch.zeros(4, 3, 2, 2, dtype=torch.uint8),
        "train_labels": torch.tensor([0, 1, 1, 0]),
        "test_images": torch.zeros(2, 3, 2, 2, dtype=torch.uint8),
        "test_labels": torch.tensor([0, 1]),
        "class_names": ["a", "b"],
    }
    Dataset(**right)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=message):
        Dataset(**{**right, **change})  # type: ignore[arg-type]
