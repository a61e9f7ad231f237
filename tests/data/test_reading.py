"""Images that are streamed or transformed: the same batches as from memory, in any number of processes."""

import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.datasets import FakeData
from torchvision.transforms import v2

from lit_unlearn.data import (
    Batches,
    Digits,
    ForgetSpec,
    ImageFolder,
    ImageNetTransforms,
    MapStyle,
    Order,
    OrderSampler,
    Streamed,
    Transforms,
    UnlearnDataModule,
    datamodule,
    memory,
)
from lit_unlearn.data.reading import Reading
from lit_unlearn.errors import UsageError

FORGET, RETAIN = torch.arange(0, 40, 3), torch.tensor([i for i in range(40) if i % 3])


class Numbered:
    """Images whose pixels are their index; the one numbered ``broken`` cannot be read."""

    def __init__(self, count: int = 40, broken: int = -1) -> None:
        self.count, self.broken = count, broken

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        if index == self.broken:
            raise UsageError(f"image {index} is broken")
        return torch.full((3, 6, 6), index, dtype=torch.uint8)


def in_memory() -> Tensor:
    return torch.stack([Numbered()[index] for index in range(40)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    drawn = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 4)):
        for name in ("cat", "dog", "owl"):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = drawn.integers(0, 256, (9, 11, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{index}.png")
    return tmp_path


def alike(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    return len(one) == len(other) and all(map(alike, one, other))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("rank", "world"), [(0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize("order", get_args(Order))
def test_streamed_batches_of_every_order_are_those_from_memory(
    order: Order, rank: int, world: int, workers: int
) -> None:
    sampler = OrderSampler(order, FORGET, RETAIN, 7, 5, seed=3, rank=rank, world=world)
    labels = torch.arange(40) % 10
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        whole = list(Batches(in_memory(), labels, sampler))
        streamed = list(Batches(Streamed(Numbered(), (3, 6, 6)), labels, sampler, Reading(workers=workers)))
        assert alike(whole, streamed)


def test_three_ways_to_load_a_folder_give_one_split_and_the_same_images(folder: Path) -> None:
    found = []
    for options in ({}, {"cache": folder / "images.u8"}, {"memory": 0.0}):
        source = ImageFolder(folder, image_size=8, **options)
        data = UnlearnDataModule(source, ForgetSpec(fraction=0.25), batch_size=4, eval_batch_size=5, workers=2)
        assert isinstance(data.data.train_images, Streamed) == ("memory" in options)
        assert data.image_shape == (3, 8, 8)
        assert data.describe().get("streamed", False) == ("memory" in options)
        passes = [list(data.evaluation_batches(split, "cpu")) for split in data.split_names]
        shuffled = list(data.shuffled_batches("retain", "cpu", 20))
        found.append((data.split.hash, passes, shuffled))
    for hash_, passes, shuffled in found[1:]:
        assert hash_ == found[0][0]
        assert alike(passes, found[0][1])
        assert alike(shuffled, found[0][2])


def test_a_part_of_what_is_streamed_is_streamed(folder: Path) -> None:
    settings: dict[str, Any] = {"train_limit": 20, "test_from_train": 0.25}
    whole, streamed = (
        UnlearnDataModule(ImageFolder(folder, image_size=8, memory=share), **settings).data for share in (1.0, 0.0)
    )
    for name in ("train", "test"):
        of, other = getattr(whole, f"{name}_images"), getattr(streamed, f"{name}_images")
        assert torch.equal(of, torch.stack(other.read(torch.arange(len(other)))))
    assert whole.train_names == streamed.train_names


RANDOM = Transforms([v2.RandomCrop(6, padding=2), v2.RandomHorizontalFlip()], [v2.CenterCrop(6)])


def transformed(workers: int, epoch: int = 0, seed: int = 0) -> list[Any]:
    sampler = OrderSampler("paired", FORGET, RETAIN, 7, seed=seed)
    sampler.set_epoch(epoch)
    images = torch.randint(256, (40, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return list(Batches(images, torch.arange(40), sampler, Reading(RANDOM.of(training=True), workers)))


def test_random_transforms_draw_alike_in_any_number_of_processes_and_nothing_else_of_the_run() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    alone = transformed(0)
    for workers in (1, 2):
        assert alike(transformed(workers), alone)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert alike(transformed(0), alone)
    assert not alike(transformed(0, epoch=1), alone)
    assert not alike(transformed(0, seed=1), alone)
    pixels = torch.cat([batch["retain"][0] for batch in alone])
    assert len({tuple((image == 0).all(0).nonzero().flatten().tolist()) for image in pixels}) > 5, "each its own crop"


def test_transforms_of_training_and_of_evaluation_are_two() -> None:
    transforms = Transforms([v2.Resize(20), v2.RandomCrop(16)], [v2.Resize(20), v2.CenterCrop(16)])
    data = UnlearnDataModule(Digits(), ForgetSpec(classes=[1]), transforms=transforms, workers=0)
    assert data.image_shape == (1, 16, 16)
    images, _ = next(data.evaluation_batches("forget", "cpu"))
    assert isinstance(data.data.train_images, Tensor)
    first = data.data.train_images[data.split.forget[0]]
    assert torch.equal(images[0], v2.CenterCrop(16)(v2.Resize(20)(first)) / 255)
    assert data.describe()["transforms"] == transforms.describe()
    assert "RandomCrop" in str(transforms.describe()["train"])


def test_photographs_of_all_sizes_become_one_size(folder: Path) -> None:
    Image.fromarray(np.zeros((40, 17, 3), dtype=np.uint8)).save(folder / "train/cat/0.png")
    data = UnlearnDataModule(ImageFolder(folder), ForgetSpec(classes=["cat"]), transforms=ImageNetTransforms(8, 10))
    assert data.image_shape == (3, 8, 8)
    found = torch.cat([images for images, _ in data.evaluation_batches("forget", "cpu")])
    assert found.shape == (12, 3, 8, 8)
    assert 0 < float(found.mean()) < 1
    with pytest.raises(UsageError, match="all images must have one size"):
        ImageFolder(folder).load()
    bare = UnlearnDataModule(ImageFolder(folder), transforms=Transforms(), workers=0)
    with pytest.raises(UsageError, match=r"shapes \(3, 9, 11\) and \(3, 40, 17\): the last transform must give"):
        list(bare.evaluation_batches("retain", "cpu"))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_read_is_one_line(workers: int) -> None:
    sampler = OrderSampler("full", FORGET, RETAIN, 8)
    batches = Batches(Streamed(Numbered(broken=11), (3, 6, 6)), torch.arange(40), sampler, Reading(workers=workers))
    with pytest.raises(UsageError, match=r"^image 11 is broken$"):
        list(batches)


class Fails(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        raise ValueError("no such thing")


@pytest.mark.parametrize(
    ("transform", "says"),
    [
        (Fails(), r"transforms: Fails\(\) failed on \(1, 8, 8\): no such thing"),
        (v2.ToPILImage(), "transforms return Image"),
        (v2.ToDtype(torch.int64), r"transforms return torch\.int64 \(1, 8, 8\), allowed: uint8 or float \(C, H, W\)"),
    ],
)
def test_a_transform_that_does_not_fit_is_one_line(transform: nn.Module, says: str) -> None:
    data = UnlearnDataModule(Digits(), transforms=Transforms(evaluation=[transform]), workers=0)
    with pytest.raises(UsageError, match=says):
        next(data.evaluation_batches("retain", "cpu"))


def test_options_that_exclude_each_other_or_are_out_of_range_are_refused() -> None:
    from lit_unlearn.data import Augment

    with pytest.raises(UsageError, match="augment and transforms both change training images"):
        UnlearnDataModule(Digits(), augment=Augment(1), transforms=Transforms())
    with pytest.raises(UsageError, match="workers is -1"):
        UnlearnDataModule(Digits(), workers=-1)
    with pytest.raises(UsageError, match="resize, for a size of 8, is 7"):
        ImageNetTransforms(8, 7)
    with pytest.raises(UsageError, match="memory is 2"):
        ImageFolder("x", memory=2)


def test_decoded_images_that_would_not_fit_are_streamed_and_said_to_be(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("lit_unlearn.data.image_folder.rank_zero_info", said.append)
    needed = 48 * 3 * 8 * 8
    for free, streamed in ((2 * needed, False), (2 * needed - 2, True)):
        monkeypatch.setattr("lit_unlearn.data.image_folder.free_memory", lambda free=free: free)
        assert isinstance(ImageFolder(folder, image_size=8).load().train_images, Streamed) is streamed
    assert said == [
        "48 decoded images take 0.00 GiB, more than a share of 0.5 (memory) of the 0.00 GiB that are free: each is "
        "decoded when it is needed"
    ]


def test_files_that_cannot_be_decoded_are_named_together_or_left_out(folder: Path) -> None:
    broken = [folder / "train/cat/3.png", folder / "train/owl/0.png", folder / "test/dog/1.png"]
    for path in broken:
        path.write_bytes(b"junk")
    listed = r"3 of 48 images cannot be decoded: .*dog/1\.png \(.*cat/3\.png \(.*owl/0\.png \(.*; leave_out_broken"
    for options in ({"image_size": 8}, {"image_size": 8, "memory": 0.0, "check": True}):
        with pytest.raises(UsageError, match=listed):
            ImageFolder(folder, **options).load()
    assert len(ImageFolder(folder, image_size=8, memory=0.0).load().train_labels) == 36, "met when it is read"
    for share in (1.0, 0.0):
        data = ImageFolder(folder, image_size=8, memory=share, leave_out_broken=True).load()
        assert (len(data.train_labels), len(data.test_labels)) == (34, 11)
        assert data.train_names is not None
        assert "cat/3.png" not in data.train_names
        (warning,) = data.warnings
        assert warning.startswith("3 of 48 images cannot be decoded and are left out: ")


def test_a_picture_of_too_many_pixels_is_refused_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.fromarray(np.zeros((20, 20, 3), dtype=np.uint8)).save(folder / "train/dog/5.png")
    with pytest.raises(UsageError, match=r"cannot decode the image .*dog/5\.png: .*decompression bomb"):
        ImageFolder(folder, image_size=8).load()
    assert len(ImageFolder(folder, image_size=8, leave_out_broken=True).load().train_labels) == 35


def picture(index: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(index).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


class Pairs(torch.utils.data.Dataset[Any]):
    """Samples with labels, and with their labels kept together or not."""

    def __init__(self, make: Callable[[int], Any], labels: list[Any], **kept: Any) -> None:
        self.make, self.own = make, labels
        for name, value in kept.items():
            setattr(self, name, value)

    def __len__(self) -> int:
        return len(self.own)

    def __getitem__(self, index: int) -> Any:
        return self.make(index), self.own[index]


class Mappings(Pairs):
    def __getitem__(self, index: int) -> Any:
        return {"picture": self.make(index), "kind": self.own[index]}


def rgb(index: int) -> Tensor:
    return torch.from_numpy(np.array(picture(index))).permute(2, 0, 1)


@pytest.mark.parametrize(
    "make", [picture, rgb, lambda index: np.array(picture(index))], ids=["Pillow", "tensor", "array"]
)
@pytest.mark.parametrize("kind", ["pairs", "kept", "mappings"])
def test_a_data_set_of_any_make_gives_images_and_labels(make: Callable[[int], Any], kind: str) -> None:
    labels = [0, 1, 2, 1, 0, 2, 2, 0]
    options: dict[str, Any] = {"image": "picture", "label": "kind"} if kind == "mappings" else {}
    made = {
        "pairs": lambda: Pairs(make, labels),
        "kept": lambda: Pairs(make, labels, targets=torch.tensor(labels), classes=["a", "b", "c"]),
        "mappings": lambda: Mappings(make, labels),
    }[kind]()
    data = UnlearnDataModule(MapStyle(made, made, **options), ForgetSpec(classes=[1]), workers=0)
    assert data.class_names == (["a", "b", "c"] if kind == "kept" else ["0", "1", "2"])
    assert data.image_shape == (3, 6, 7)
    ((images, found),) = data.evaluation_batches("forget", "cpu")
    assert found.tolist() == [1, 1]
    assert torch.equal(images, torch.stack([rgb(1), rgb(3)]) / 255)
    assert data.describe()["source"] == "MapStyle"


class Changed(Pairs):
    """Keeps ``targets``, and its samples have what ``target_transform`` makes of them, as in torchvision."""

    def __getitem__(self, index: int) -> Any:
        return self.make(index), self.target_transform(self.targets[index])


@pytest.mark.parametrize(
    ("samples", "read"),
    [
        (lambda kept, own: Pairs(picture, own, targets=kept, classes=["a", "b", "c", "d"]), True),
        (
            lambda kept, own: Changed(
                picture, own, targets=kept, target_transform=lambda kind: kind // 2, classes=["a", "b", "c", "d"]
            ),
            False,
        ),
        (
            lambda kept, own: Changed(
                picture,
                own,
                targets=torch.tensor(kept),
                target_transform=lambda kind: kind.item() // 2,
                classes=["a", "b", "c", "d"],
            ),
            True,
        ),
    ],
    ids=["of the user's own", "target_transform", "target_transform of tensors"],
)
def test_labels_are_those_of_the_samples_where_targets_are_others(
    samples: Callable[[list[int], list[int]], Any], read: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("lit_unlearn.data.map_style.rank_zero_info", said.append)
    kept = [0] * 100 + [1] * 3 + [2, 2, 3] * 4
    own = [kind // 2 for kind in kept]
    made = samples(kept, own)
    data = UnlearnDataModule(MapStyle(made, made), ForgetSpec(classes=[1]), workers=0)
    assert data.data.train_labels.tolist() == data.data.test_labels.tolist() == own
    assert len(data.split.forget) == 12
    assert len(said) == 2 * read
    assert data.class_names == ["0", "1"], "classes are the names of other labels"
    assert "give class_names" in data.warnings[0]
    assert MapStyle(made, made, class_names=["x", "y"]).load().class_names == ["x", "y"]


@pytest.mark.parametrize("classes", [None, lambda: ["a", "b"], "ab"])
def test_classes_that_are_no_names_are_numbers(classes: Any) -> None:
    made = Pairs(picture, [0, 1], classes=classes)
    assert MapStyle(made, made).load().class_names == ["0", "1"]


def test_targets_are_taken_where_samples_have_no_number_for_a_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_unlearn.data.map_style.rank_zero_info", pytest.fail)
    for own in (["cat", "dog"], [torch.zeros(4, 4), torch.ones(4, 4)]):
        made = Pairs(picture, own, targets=[0, 1], classes=["cat", "dog"])
        data = MapStyle(made, made).load()
        assert (data.train_labels.tolist(), data.class_names, data.warnings) == ([0, 1], ["cat", "dog"], [])


def test_random_images_of_a_data_set_are_said_to_be() -> None:
    flip = v2.RandomHorizontalFlip()
    drawn, still = Pairs(lambda index: flip(rgb(index)), [0, 1] * 20), Pairs(rgb, [0, 1] * 20)
    torch.manual_seed(0)
    for transforms in (None, Transforms()):
        (warning,) = UnlearnDataModule(MapStyle(drawn, still), workers=0, transforms=transforms).warnings
        assert warning.startswith("training images of Pairs are others each time they are read")
    assert UnlearnDataModule(MapStyle(drawn, still), workers=0).train_sha256 is None, (
        "it would name no other run's images"
    )
    assert UnlearnDataModule(MapStyle(still, still), workers=0).train_sha256 is not None
    (warning,) = MapStyle(still, drawn).load().warnings
    assert warning.startswith("test images of Pairs")
    assert MapStyle(still, still).load().warnings == []


def test_float_images_and_grey_pictures_are_taken_as_they_are() -> None:
    for kind in (torch.float32, torch.float64):
        half = Pairs(lambda index, kind=kind: torch.full((1, 4, 4), 0.5, dtype=kind), [0, 1, 0, 1])
        data = UnlearnDataModule(MapStyle(half, half), ForgetSpec(classes=[1]), workers=0)
        ((images, _),) = data.evaluation_batches("forget", "cpu")
        assert torch.equal(images, torch.full((2, 1, 4, 4), 0.5))
        assert images.dtype == torch.float32
    grey = Pairs(picture, [0, 1, 0, 1])
    data = UnlearnDataModule(MapStyle(grey, grey, channels=1), workers=0)
    assert data.image_shape == (1, 6, 7)
    ((images, _),) = data.evaluation_batches("test_retain", "cpu")
    assert torch.equal(images[2, 0], torch.from_numpy(np.array(picture(2, "L"))) / 255)


def test_a_data_set_of_torchvision_is_read() -> None:
    made = FakeData(20, (3, 8, 8), 4)  # type: ignore[no-untyped-call]
    data = UnlearnDataModule(MapStyle(made, made), ForgetSpec(fraction=0.5), workers=2)
    assert sum(len(labels) for _, labels in data.evaluation_batches("retain", "cpu")) == 10


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        (Pairs(picture, [0.5, 1.5]), r"labels of Pairs are torch\.float32 \(2,\), allowed: whole numbers"),
        (Pairs(picture, [0, -1]), "a label of Pairs is -1, allowed: whole numbers from 0 on"),
        (Pairs(picture, []), "Pairs has no samples"),
        (Pairs(lambda index: 1 / 0, [0, 1]), "sample 0 of Pairs cannot be read: division by zero"),
        (
            Pairs(lambda index: Image.fromarray(np.full((4, 4), 300, np.uint16)), [0, 1]),
            "mode I;16 has more than 8 bits",
        ),
        (Pairs(lambda index: Image.fromarray(np.full((4, 4), 0.5, np.float32)), [0, 1]), "mode F has more than 8 bits"),
        (Pairs(picture, ["cat", "dog"]), "labels of Pairs are not whole numbers: that of sample 0 is 'cat'"),
        (Pairs(picture, [0, None]), "labels of Pairs are not whole numbers: that of sample 1 is None"),
        (Pairs(picture, [0, 1], targets=[0, None]), "labels of Pairs are not whole numbers: that of sample 1 is None"),
        (Pairs(picture, [0, 2**70]), "labels of Pairs are not whole numbers"),
        (Pairs(lambda index: "cat.png", [0, 1]), "sample 0 of Pairs holds str, which is no image"),
        (Pairs(lambda index: torch.zeros(2, 3), [0, 1]), r"holds torch\.float32 \(2, 3\), which is no image"),
        (Pairs(lambda index: 1 / 0, [0, 1], targets=[0, 1]), "sample 0 of Pairs cannot be read: division by zero"),
        (Mappings(picture, [0, 1]), "sample 0 has no 'image': it has picture, kind"),
    ],
)
def test_a_data_set_that_does_not_fit_is_one_line(samples: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        MapStyle(samples, samples).load()


@pytest.mark.parametrize(("by_name", "load"), [(False, False), (False, True), (True, True)])
@pytest.mark.parametrize("colour", [2, 4, 6])
def test_pictures_of_sixteen_bits_are_refused_decoded_or_not(
    tmp_path: Path, colour: int, by_name: bool, load: bool, deep_png: Callable[[int], bytes]
) -> None:
    path = tmp_path / "some.png"

    def opened(index: int) -> Image.Image:
        image = Image.open(path if by_name else BytesIO(path.read_bytes()))
        if load:
            image.load()
        return image

    samples = Pairs(opened, [0, 1])
    path.write_bytes(deep_png(colour))
    with pytest.raises(UsageError, match=r"sample 0 of Pairs: mode \w+;16B? has more than 8 bits a channel"):
        MapStyle(samples, samples).load()
    picture(0, "RGBA").save(path)
    assert MapStyle(samples, samples).load().train_images.shape == (3, 6, 7)


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 4, 4)])
def test_test_images_of_another_shape_are_refused_at_once(shape: tuple[int, int, int]) -> None:
    train, test = (Pairs(lambda index, size=size: torch.zeros(size), [0, 1]) for size in ((3, 4, 4), shape))
    says = f"data: training and test images differ in shape: (3, 4, 4) and {shape}"
    with pytest.raises(UsageError, match=re.escape(says)):
        MapStyle(train, test).load()
    crop = Transforms(evaluation=[v2.CenterCrop(3)])
    data = UnlearnDataModule(MapStyle(train, test), transforms=crop, workers=0)
    if shape[0] == 3:
        data.prepare_data()
    else:
        with pytest.raises(UsageError, match=r"differ in shape after the transforms: \(3, 3, 3\) and \(1, 3, 3\)"):
            data.prepare_data()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"class_path": "torchvision.datasets.Food"}, r"train cannot be made of .*torchvision\.datasets\.Food"),
        ({"class_path": "torchvision.datasets.FakeData", "init_args": {"sise": 3}}, "train cannot be made of .*sise"),
        ({"path": "here"}, "train cannot be made of .*'path': 'here'"),
        (None, r"train is None, but must be a data set with len\(\) and samples by index"),
        (iter([]), "train is of the class list_iterator, but must be a data set"),
        (
            {"class_path": "datetime.timedelta"},
            "train is of the class timedelta, but must be a data set",
        ),
    ],
)
def test_a_data_set_that_cannot_be_made_is_one_line(given: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says) as error:
        MapStyle(given, [])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("groups", ["0::/job/step\n", "5:cpu,memory:/job/step\n0::/\n"])
def test_free_memory_is_that_of_the_machine_or_of_a_group_around_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str
) -> None:
    files = {name: tmp_path / name for name in ("_MEMINFO", "_OWN_GROUPS", "_GROUPS")}
    for name, path in files.items():
        monkeypatch.setattr(memory, name, str(path))
    assert memory.free_memory() > 2**28, "all of the machine, where nothing is known"
    files["_MEMINFO"].write_text("MemTotal: 9 kB\nMemAvailable: 5000 kB\n")
    assert memory.free_memory() == 5000 * 1024
    files["_OWN_GROUPS"].write_text(groups)
    assert memory.free_memory() == 5000 * 1024
    second = groups.startswith("0")
    names = ("memory.max", "memory.current") if second else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    place = files["_GROUPS"] / ("job" if second else "memory/job")
    for folder, limit in ((place / "step", "max" if second else "9223372036854771712"), (place, "3000")):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in zip(names, (limit, "1000"), strict=True):
            (folder / name).write_text(f"{content}\n")
    assert memory.free_memory() == 2000


@pytest.mark.parametrize(
    ("said", "count"),
    [
        ({}, 1),
        ({"WORLD_SIZE": "16"}, 1),
        ({"WORLD_SIZE": "8", "LOCAL_RANK": "0"}, 8),
        ({"WORLD_SIZE": "16", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "8"}, 8),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, 4),
    ],
)
def test_processes_of_a_run_on_a_machine_share_its_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch, said: dict[str, str], count: int
) -> None:
    for name in ("WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "SLURM_STEP_TASKS_PER_NODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    needed = 48 * 3 * 8 * 8
    for free, streamed in ((2 * count * needed, False), (2 * count * needed - 2, True)):
        monkeypatch.setattr("lit_unlearn.data.image_folder.free_memory", lambda free=free: free)
        assert isinstance(ImageFolder(folder, image_size=8).load().train_images, Streamed) is streamed


def test_an_empty_batch_has_size_and_type_of_the_others(folder: Path) -> None:
    none = torch.empty(0, dtype=torch.int64)
    resized = Reading(lambda image: v2.functional.resize(image, [5, 5]).float() / 255)
    streamed = ImageFolder(folder, memory=0.0).load_raw().train_images
    for images in (streamed, in_memory()):
        batch = resized.take(images, none, none)
        assert (batch.shape, batch.dtype) == ((0, 3, 5, 5), torch.float32)


@pytest.mark.parametrize("at_once", [False, True])
def test_images_that_are_normalised_are_refused(at_once: bool) -> None:
    usual = v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    pixels = (torch.arange(4 * 3 * 8 * 8).view(4, 3, 8, 8) * 37 % 256) / 255

    def data(change: Callable[[Tensor], Tensor]) -> UnlearnDataModule:
        samples = [(change(image) if at_once else image, number % 2) for number, image in enumerate(pixels)]
        transforms = None if at_once else Transforms(evaluation=[change], train=[])
        return UnlearnDataModule(MapStyle(samples, samples), workers=0, transforms=transforms)

    says = r"images have values from -2\.1.* to 2\.\d+, but must lie in \[0, 1\]: leave out Normalize; mean and"
    with pytest.raises(UsageError, match=says):
        list(data(usual).evaluation_batches("retain", "cpu"))
    cubic = v2.Resize([15, 15], interpolation=v2.InterpolationMode.BICUBIC)
    ((images, _),) = data(cubic).evaluation_batches("retain", "cpu")
    assert images.max() > 1, "what overshoots a little is taken as it is"


@pytest.mark.parametrize("shift", [0.5, 0.45])
def test_images_shifted_to_the_middle_are_refused(shift: float) -> None:
    pixels = torch.arange(48).view(3, 4, 4) / 47 - shift
    samples = Pairs(lambda index: pixels, [0, 1])
    data = UnlearnDataModule(MapStyle(samples, samples), workers=0)
    with pytest.raises(UsageError, match=rf"images have values from -{shift} to {1 - shift}, but must lie in \[0, 1\]"):
        list(data.evaluation_batches("retain", "cpu"))


def test_the_values_of_a_checkerboard_resized_by_a_cubic_kernel_are_in_range() -> None:
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2
    for size in (11, 15, 31, 64):
        resize = v2.Resize([size, size], interpolation=v2.InterpolationMode.BICUBIC, antialias=False)
        taken = Reading(resize).take(board.expand(1, 3, 16, 16).float(), torch.tensor([0]), torch.tensor([0]))
        assert taken.shape == (1, 3, size, size)


@pytest.mark.parametrize(("given", "workers"), [(None, 2), ("8", 8), ("4", 2)])
def test_processors_that_slurm_gave_to_one_task_are_not_shared_among_the_devices(
    monkeypatch: pytest.MonkeyPatch, given: str | None, workers: int
) -> None:
    monkeypatch.setattr(datamodule, "_processors", lambda: 8)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    if given is not None:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", given)
    data = UnlearnDataModule(Digits(), ForgetSpec(classes=[1]), transforms=RANDOM)
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        num_devices=4, strategy=SimpleNamespace(root_device=torch.device("cpu"))
    )
    assert data._reading(training=True).workers == workers
