import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lit_unlearn.data import ForgetSpec, HuggingFace, Source, UnlearnDataModule
from lit_unlearn.errors import UsageError

datasets = pytest.importorskip("datasets", reason="pip install 'lit_unlearn[datasets]'")


def pixels(part: str, name: str, index: int) -> np.ndarray[Any, Any]:
    drawn = np.random.default_rng([len(part), len(name), index])
    return drawn.integers(0, 256, (6, 7, 3), dtype=np.uint8)


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    for part, count in (("train", 5), ("test", 2)):
        for name in ("cat", "horse"):
            (tmp_path / "pictures" / part / name).mkdir(parents=True)
            for index in range(count):
                path = tmp_path / "pictures" / part / name / f"{index}.png"
                Image.fromarray(pixels(part, name, index)).save(path)
    return tmp_path / "pictures"


def horses(source: Source, workers: int = 2) -> torch.Tensor:
    data = UnlearnDataModule(source, ForgetSpec(classes=["horse"]), workers=workers)
    assert (data.class_names, data.image_shape) == (["cat", "horse"], (3, 6, 7))
    assert data.describe()["source"] == "HuggingFace"
    return torch.cat([images for images, _ in data.evaluation_batches("forget", "cpu")])


def test_a_folder_of_pictures_and_one_of_arrow_give_the_same_images(pictures: Path, tmp_path: Path) -> None:
    wanted = np.stack([pixels("train", "horse", index) for index in range(5)])
    found = horses(HuggingFace(str(pictures)))
    assert torch.equal((found * 255).round().to(torch.uint8), torch.from_numpy(wanted).permute(0, 3, 1, 2))
    datasets.load_dataset("imagefolder", data_dir=str(pictures)).save_to_disk(tmp_path / "arrow")
    assert torch.equal(horses(HuggingFace(str(tmp_path / "arrow"))), found)
    assert torch.equal(horses(HuggingFace(str(tmp_path / "arrow")), workers=0), found)


def test_pictures_of_sixteen_bits_are_refused(pictures: Path, tmp_path: Path, deep_png: Callable[[int], bytes]) -> None:
    (pictures / "train/cat/0.png").write_bytes(deep_png(2))
    datasets.load_dataset("imagefolder", data_dir=str(pictures)).save_to_disk(tmp_path / "arrow")
    for path in (pictures, tmp_path / "arrow"):
        with pytest.raises(UsageError, match=r"sample 0 of .*: mode RGB;16 has more than 8 bits a channel"):
            HuggingFace(str(path)).load()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"train": "training"}, "unknown split 'training'"),
        ({"label": "lable"}, "unknown column 'lable'; did you mean 'label'"),
        ({"path": "nowhere/at-all"}, "HuggingFace cannot read 'nowhere/at-all': "),
    ],
)
def test_what_is_not_there_is_one_line(pictures: Path, options: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says) as error:
        HuggingFace(**{"path": str(pictures), **options}).load()
    assert "\n" not in str(error.value)


def test_without_the_library_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    known = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return known(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"pip install 'lit_unlearn\[datasets\]'"):
        HuggingFace("pictures").load()
