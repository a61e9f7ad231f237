import errno
import os
import re
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lit_unlearn.data import ForgetSpec, ImageFolder, UnlearnDataModule, decoding
from lit_unlearn.errors import UsageError


def picture(path: Path, size: tuple[int, int] = (6, 6), mode: str = "RGB") -> None:
    """A picture whose pixels depend on its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32(path.as_posix().encode())
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        for index in range(5):
            picture(tmp_path / "train" / name / f"{index:03d}.png")
        for index in range(2):
            picture(tmp_path / "test" / name / f"{index:03d}.png")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / "cat" / ".hidden.png").write_text("not an image")
    (tmp_path / "train" / ".git").mkdir()
    return tmp_path


def test_images_labels_and_names_belong_together(root: Path) -> None:
    data = ImageFolder(root, image_size=6).load()
    assert data.class_names == ["cat", "dog"]
    assert data.train_labels.tolist() == [0] * 5 + [1] * 5
    assert data.test_labels.tolist() == [0, 0, 1, 1]
    assert data.train_names is not None
    assert data.train_names[6] == "dog/001.png"
    for image, name in zip(data.train_images, data.train_names, strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.array(Image.open(root / "train" / name)))
    assert np.array_equal(data.test_images[3].permute(1, 2, 0).numpy(), np.array(Image.open(root / "test/dog/001.png")))


@pytest.mark.parametrize("size", [(20, 9), (9, 20), (13, 13), (3, 4)])
@pytest.mark.parametrize("channels", [1, 3])
def test_resizes_the_shorter_side_and_cuts_the_centre_as_torchvision_does(
    root: Path, size: tuple[int, int], channels: int
) -> None:
    from torchvision.transforms import v2

    path = root / "train/cat/000.png"
    picture(path, size)
    data = ImageFolder(root, image_size=7, channels=channels).load()
    wanted = v2.Compose([v2.Resize(7), v2.CenterCrop(7), v2.PILToTensor()])(
        Image.open(path).convert("L" if channels == 1 else "RGB")
    )
    assert torch.equal(data.train_images[0], wanted)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_every_eight_bit_picture_is_read(root: Path, mode: str) -> None:
    path = root / "train/cat/000.png"
    picture(path, mode=mode)
    wanted = np.array(Image.open(path).convert("RGB"))
    assert np.array_equal(ImageFolder(root, image_size=6).load().train_images[0].permute(1, 2, 0).numpy(), wanted)


@pytest.mark.parametrize("size", [(6, 6), (9, 4)])
@pytest.mark.parametrize("cached", [False, True])
def test_without_a_size_images_of_one_size_are_taken_as_they_are(
    root: Path, size: tuple[int, int], cached: bool
) -> None:
    for path in root.rglob("0*.png"):
        picture(path, size)
    module = UnlearnDataModule(ImageFolder(root, cache=root / "x.u8" if cached else None), ForgetSpec(classes=["cat"]))
    assert module.image_shape == (3, size[1], size[0])
    ((images, labels),) = module.evaluation_batches("forget", "cpu")
    wanted = np.array(Image.open(root / "train/cat/001.png"))
    assert np.array_equal((images[1] * 255).round().permute(1, 2, 0).numpy(), wanted)
    assert labels.tolist() == [0] * 5


def test_without_a_size_images_of_two_sizes_are_refused(root: Path) -> None:
    path = root / "test/dog/001.png"
    picture(path, (6, 7))
    with pytest.raises(UsageError, match=f"image_size is None.*{path}"):
        ImageFolder(root).load()


def test_jpegs_and_deeper_folders_are_found(root: Path) -> None:
    picture(root / "train/dog/more/photo.JPG")
    data = ImageFolder(root, image_size=6).load()
    assert data.train_names is not None
    assert "dog/more/photo.JPG" in data.train_names
    assert len(data.train_images) == 11


def test_val_stands_in_for_test_and_may_lack_a_class(root: Path) -> None:
    (root / "test").rename(root / "val")
    for path in (root / "val/cat").iterdir():
        path.unlink()
    (root / "val/cat").rmdir()
    assert ImageFolder(root, image_size=6).load().test_labels.tolist() == [1, 1]


def test_a_share_of_every_class_is_held_out_by_seed(root: Path) -> None:
    (root / "test").rename(root / "elsewhere")
    data = ImageFolder(root, image_size=6, test_fraction=0.4).load()
    assert data.train_labels.tolist() == [0] * 3 + [1] * 3
    assert data.test_labels.tolist() == [0, 0, 1, 1]
    assert data.train_names is not None
    for image, name in zip(data.train_images, data.train_names, strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.array(Image.open(root / "train" / name)))
    everything = {tuple(image.flatten().tolist()) for image in torch.cat([data.train_images, data.test_images])}
    assert len(everything) == 10
    assert ImageFolder(root, image_size=6, test_fraction=0.4).load().train_names == data.train_names
    others = [
        ImageFolder(root, image_size=6, test_fraction=0.4, test_seed=seed).load().train_names for seed in range(1, 4)
    ]
    assert any(names != data.train_names for names in others)


def test_a_list_of_paths_names_images(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    paths = root / "train/dog/001.png", Path("train/dog/002.png"), "dog/003.png", str(root / "train/cat/../dog/004.png")
    for source in ImageFolder(root), ImageFolder("."):
        assert UnlearnDataModule(source, list(paths)).split.forget.tolist() == [6, 7, 8, 9]  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=r"unknown training image .*test/dog/001\.png"):
            _ = UnlearnDataModule(source, [root / "test/dog/001.png"]).split  # type: ignore[arg-type]


def test_an_index_file_names_images(root: Path, tmp_path: Path) -> None:
    (tmp_path / "forget.txt").write_text("dog/001.png\ntrain/cat/004.png\n")
    module = UnlearnDataModule(ImageFolder(root), ForgetSpec(index_file=tmp_path / "forget.txt"))
    assert module.split.forget.tolist() == [4, 6]


def test_the_cache_gives_the_same_images_without_decoding_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = root / "images.u8"
    plain = ImageFolder(root, image_size=6).load()
    first = ImageFolder(root, image_size=6, cache=cache).load()
    assert cache.stat().st_size == 14 * 3 * 6 * 6 + 32
    monkeypatch.setattr(decoding, "open_image", None)
    again = ImageFolder(root, image_size=6, cache=cache).load()
    for data in (first, again):
        assert torch.equal(data.train_images, plain.train_images)
        assert torch.equal(data.test_images, plain.test_images)
    assert sorted(path.name for path in root.iterdir()) == ["images.u8", "test", "train"]


def test_writing_to_cached_images_does_not_reach_the_file(root: Path) -> None:
    source = ImageFolder(root, image_size=6, cache=root / "images.u8")
    source.load()
    source.load().train_images.zero_()
    assert source.load().train_images.sum() > 0


def _touch(root: Path) -> None:
    os.utime(root / "train/cat/000.png", ns=(1, 1))


def _add(root: Path) -> None:
    picture(root / "train/cat/zzz.png")


def _truncate(root: Path) -> None:
    cache = root / "images.u8"
    cache.write_bytes(cache.read_bytes()[:-40])


def _lengthen(root: Path) -> None:
    cache = root / "images.u8"
    cache.write_bytes(cache.read_bytes() + b"x")


@pytest.mark.parametrize("change", [_touch, _add, _truncate, _lengthen])
def test_a_cache_that_is_out_of_date_is_made_anew(root: Path, change: object, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = root / "images.u8"
    ImageFolder(root, image_size=6, cache=cache).load()
    change(root)  # type: ignore[operator]
    calls: list[Path] = []
    known = decoding.open_image
    monkeypatch.setattr(decoding, "open_image", lambda path, channels: calls.append(path) or known(path, channels))
    data = ImageFolder(root, image_size=6, cache=cache).load()
    assert len(calls) == len(data.train_images) + len(data.test_images)
    assert torch.equal(data.train_images, ImageFolder(root, image_size=6).load().train_images)


def test_a_cache_of_other_settings_is_made_anew(root: Path) -> None:
    cache = root / "images.u8"
    ImageFolder(root, image_size=6, channels=3, cache=cache).load()
    assert ImageFolder(root, image_size=6, channels=1, cache=cache).load().train_images.shape == (10, 1, 6, 6)


def test_a_failed_decode_leaves_no_cache(root: Path) -> None:
    (root / "train/cat/000.png").write_bytes(b"junk")
    with pytest.raises(UsageError, match=r"cannot decode the image .*cat/000\.png"):
        ImageFolder(root, image_size=6, cache=root / "images.u8").load()
    assert sorted(path.name for path in root.iterdir()) == ["test", "train"]


def test_a_cache_that_cannot_be_written_is_named(root: Path) -> None:
    (root / "nowhere").touch()
    with pytest.raises(UsageError, match=r"cannot use the image cache .*nowhere"):
        ImageFolder(root, image_size=6, cache=root / "nowhere" / "images.u8").load()


def test_a_disk_without_room_for_the_cache_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, size: int) -> None:
        assert (offset, size) == (0, 14 * 3 * 6 * 6 + 32)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UsageError, match=r"cannot use the image cache .*No space left on device .*MB free\)"):
        ImageFolder(root, image_size=6, cache=root / "images.u8").load()
    assert not list(root.glob("*images.u8*"))


def test_broken_pictures_are_named(root: Path) -> None:
    path = root / "train/dog/002.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UsageError, match=r"cannot decode the image .*dog/002\.png"):
        ImageFolder(root, image_size=6).load()


def test_sixteen_bit_pictures_are_refused_rather_than_clipped(root: Path) -> None:
    Image.fromarray(np.full((6, 6), 4096, dtype=np.uint16)).save(root / "train/cat/000.png")
    with pytest.raises(UsageError, match=r"000\.png: mode I;16 has more than 8 bits"):
        ImageFolder(root, image_size=6, channels=1).load()


@pytest.mark.parametrize(("colour", "mode"), [(2, "RGB;16B"), (4, "LA;16B"), (6, "RGBA;16B")])
def test_colour_pictures_of_sixteen_bits_are_refused_too(
    root: Path, colour: int, mode: str, deep_png: Callable[[int], bytes]
) -> None:
    path = root / "train/cat/000.png"
    path.write_bytes(deep_png(colour))
    for options in ({}, {"memory": 0.0, "check": True}):
        with pytest.raises(UsageError, match=rf"000\.png: mode {mode} has more than 8 bits a channel"):
            ImageFolder(root, **options).load()
    data = ImageFolder(root, memory=0.0, leave_out_broken=True).load()
    assert len(data.train_labels) == 9
    assert f"mode {mode} has more than 8 bits" in data.warnings[0]


def deep_tiff() -> bytes:
    """RGB of 6×6 pixels."""
    tags = [(256, 3, 1, 6), (257, 3, 1, 6), (258, 3, 3, 126), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 132)]
    tags += [(277, 3, 1, 3), (278, 3, 1, 6), (279, 4, 1, 216)]
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return (head + bytes(4)).ljust(126, b"\0") + struct.pack("<HHH", 16, 16, 16) + bytes(range(216))


def opened(content: bytes, load: bool) -> Image.Image:
    image = Image.open(BytesIO(content))
    if load:
        image.load()
    return image


def test_the_bits_of_other_formats_are_known_as_well() -> None:
    for load in (False, True):
        with pytest.raises(ValueError, match=r"mode RGB;16L? has more than 8 bits"):
            decoding.converted(opened(deep_tiff(), load), 3)
    for kind, pixel in ((b"P6", bytes(6)), (b"P3", b"1000 0 3 ")):
        with pytest.raises(ValueError, match="mode RGB up to 1023 has more than 8 bits"):
            decoding.converted(opened(kind + b" 2 2 1023\n" + 4 * pixel, False), 3)
        assert decoding.converted(opened(kind + b" 2 2 200\n" + 4 * pixel.replace(b"1000", b"100"), False), 3)
    assert decoding.converted(opened(b"P1 2 2\n1 0 0 1", False), 3)
    head = struct.pack("<2sIIIIiiHHIIiiII", b"BM", 78, 0, 66, 40, 2, 2, 1, 16, 3, 8, 0, 0, 0, 0)
    sixteen_a_pixel = head + struct.pack("<III", 0xF800, 0x7E0, 0x1F) + bytes(range(8))
    for load in (False, True):
        assert decoding.converted(opened(sixteen_a_pixel, load), 3).size == (2, 2)


def test_a_check_looks_at_sizes(root: Path) -> None:
    path = root / "train/dog/001.png"
    picture(path, (7, 6))
    says = f"image_size is None, so that all images must have one size: {path} has 7x6 pixels, but others have 6x6"
    for options in ({}, {"memory": 0.0, "check": True}, {"memory": 0.0, "check": True, "leave_out_broken": True}):
        with pytest.raises(UsageError, match=says):
            ImageFolder(root, **options).load()
    assert len(ImageFolder(root, memory=0.0).load().train_labels) == 10, "met when it is read"
    assert len(ImageFolder(root, 6, memory=0.0, check=True).load().train_labels) == 10
    assert len(ImageFolder(root, check=True).load_raw().train_labels) == 10, "transforms may make them alike"


def test_files_with_other_endings_are_told(root: Path) -> None:
    endings = r"\.bmp, \.gif, \.jfif, .*\.webp"
    says = rf"1 file in class folders is left out, such as {root}/train/cat/notes\.txt: images end in {endings}"
    (warning,) = ImageFolder(root, listing=root / "kept.json").load().warnings
    assert re.fullmatch(says, warning)
    for name in ("train/dog/more/0.heic", "train/dog/1.JPE", "test/dog/2.avif"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
        (root / "train/dog" / name).touch()
    for _ in range(2):
        long_ago = (1, 1)
        for folder, _, _ in os.walk(root):
            os.utime(folder, ns=long_ago)
        (warning,) = ImageFolder(root, listing=root / "kept.json").load().warnings
        assert warning.startswith(f"4 files in class folders are left out, such as {root}/train/cat/notes.txt: ")
    (root / "train/cat/notes.txt").unlink()
    (warning,) = ImageFolder(root).load().warnings
    assert warning.startswith(f"3 files in class folders are left out, such as {root}/train/dog/1.JPE: ")


def test_a_jpeg_may_end_in_jfif(root: Path) -> None:
    Image.new("RGB", (6, 6)).save(root / "train/dog/more.jfif", format="JPEG")
    names = ImageFolder(root).load().train_names
    assert names is not None
    assert "dog/more.jfif" in names


def test_layouts_that_do_not_fit_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no folder .*nowhere/train"):
        ImageFolder(tmp_path / "nowhere").load()
    with pytest.raises(UsageError, match="test already: give the one or the other"):
        ImageFolder(root, test_fraction=0.5).load()
    picture(root / "test/owl/000.png")
    with pytest.raises(UsageError, match="classes that train has not: owl"):
        ImageFolder(root).load()
    (root / "test").rename(root / "elsewhere")
    with pytest.raises(UsageError, match="test_fraction is None and there is no"):
        ImageFolder(root).load()
    (root / "train" / "empty").mkdir()
    with pytest.raises(UsageError, match="empty has no images"):
        ImageFolder(root, test_fraction=0.5).load()
    (tmp_path / "bare" / "train").mkdir(parents=True)
    with pytest.raises(UsageError, match="has no class folders"):
        ImageFolder(tmp_path / "bare").load()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "image_size is 0"),
        ({"channels": 4}, "channels is 4"),
        ({"test_fraction": 1.0}, "test_fraction is 1.0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ImageFolder("x", **arguments)  # type: ignore[arg-type]


def test_images_far_larger_than_what_is_kept_of_them_are_said_to_be(tmp_path: Path) -> None:
    for place in ("train/cat/1.png", "train/cat/2.png", "train/dog/1.png", "test/cat/1.png", "test/dog/1.png"):
        picture(tmp_path / place, (40, 32))
    (warning,) = ImageFolder(tmp_path, image_size=8).load().warnings
    assert "image_size is 8" in warning
    assert "32 pixels" in warning
    assert ImageFolder(tmp_path, image_size=16).load().warnings == []
    assert ImageFolder(tmp_path).load().warnings == []
