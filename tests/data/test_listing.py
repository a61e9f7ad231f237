"""Images below folders, and lists of them that are kept while nothing changes."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from lit_unlearn.data import ImageFolder, image_folder, listing
from lit_unlearn.data.listing import Listing
from lit_unlearn.errors import UsageError

NAMES = ("b.png", "a/2.JPG", "a/1.png", "a-b/x.gif", "a/c/d.webp", "a.png", "z/0.bmp", "a/.hidden.png", "a/notes.txt")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder whose last change lies a minute back."""
    for name in NAMES:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    settle(tmp_path / "images")
    return tmp_path / "images"


def settle(root: Path, seconds: float = 60) -> None:
    for folder, _, _ in os.walk(root):
        changed = Path(folder).stat().st_mtime - seconds
        os.utime(folder, (changed, changed))


def expected(root: Path) -> list[str]:
    """In the order of paths, by their parts."""
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in listing.SUFFIXES and path.is_file())
    return [str(path) for path in paths if not path.name.startswith(".")]


def test_images_are_found_in_the_order_of_their_parts(root: Path, tmp_path: Path) -> None:
    assert Listing().images(root) == expected(root)
    assert len(expected(root)) == 7
    (root / "z/away").symlink_to(tmp_path)
    assert Listing().images(root) == expected(root), "a link to a folder may lead in a circle"
    (root / "linked.png").symlink_to(root / "b.png")
    (root / "gone.png").symlink_to(root / "nowhere.png")
    found = Listing().images(root)
    assert found == expected(root)
    assert str(root / "linked.png") in found
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="has no images"):
        Listing().images(tmp_path / "empty")


def test_what_has_not_changed_is_not_listed_again(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, scanned = tmp_path / "kept.json", []
    scan = listing._scanned
    monkeypatch.setattr(listing, "_scanned", lambda folder: scanned.append(Path(folder).name) or scan(folder))

    def images() -> list[str]:
        scanned.clear()
        one = Listing(kept)
        found = one.images(root)
        one.save()
        return found

    assert images() == expected(root)
    assert sorted(scanned) == ["a", "a-b", "c", "images", "z"]
    written = kept.read_bytes()
    assert images() == expected(root)
    assert scanned == []
    assert kept.read_bytes() == written
    (root / "a/c/new.png").touch()
    settle(root / "a/c", 30)
    assert images() == expected(root)
    assert scanned == ["c"]
    (root / "a/1.png").unlink()
    settle(root / "a", 30)
    (root / "later").mkdir()
    (root / "later/first.png").touch()
    assert images() == expected(root)
    assert {"a", "images", "later"} <= set(scanned)


def test_a_folder_that_has_just_changed_is_listed_again(root: Path, tmp_path: Path) -> None:
    """Its time of change may be that of a change that comes after the list."""
    kept = tmp_path / "kept.json"
    os.utime(root / "a")
    one = Listing(kept)
    one.images(root)
    one.save()
    assert {Path(folder).name for folder in json.loads(kept.read_text())["folders"]} == {"images", "a-b", "c", "z"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 9, "folders": {}}', '{"format": 2, "folders": {"a": 3}}'])
def test_a_broken_list_counts_as_none(root: Path, tmp_path: Path, text: str) -> None:
    kept = tmp_path / "kept.json"
    kept.write_text(text)
    one = Listing(kept)
    assert one.images(root) == expected(root)
    one.save()
    assert json.loads(kept.read_text())["format"] == 2


def test_a_list_that_cannot_be_written_is_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    one = Listing(tmp_path / "file/kept.json")
    one.images(root)
    with pytest.raises(UsageError, match=r"cannot write the listing .*kept\.json"):
        one.save()


def test_an_image_folder_keeps_a_list(tmp_path: Path) -> None:
    for name in ("train/cat/0.png", "train/dog/1.png", "test/cat/2.png", "test/dog/3.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    settle(tmp_path / "images")
    found = [ImageFolder(tmp_path / "images", listing=tmp_path / "kept.json").load() for _ in range(2)]
    assert found[0].train_names == found[1].train_names == ImageFolder(tmp_path / "images").load().train_names
    assert (tmp_path / "kept.json").is_file()


def test_broken_images_are_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train/cat/0.png", "train/cat/1.png", "train/dog/1.png", "test/cat/2.png", "test/dog/3.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    broken = tmp_path / "images/train/cat/1.png"
    broken.write_bytes(b"no picture")
    looked = []
    look = image_folder.broken_among
    monkeypatch.setattr(image_folder, "broken_among", lambda *args: looked.append(1) or look(*args))

    def warnings() -> list[str]:
        source = ImageFolder(tmp_path / "images", leave_out_broken=True, listing=tmp_path / "kept.json")
        return list(source.load().warnings)

    first = warnings()
    assert "1 of 5 images cannot be decoded" in first[0]
    assert warnings() == first
    assert len(looked) == 1
    Image.new("RGB", (4, 4)).save(broken)
    assert warnings() == []
    assert len(looked) == 2
