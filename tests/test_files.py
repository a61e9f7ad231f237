"""Files that are complete or absent, and values in JSON's own types."""

import errno
import io
import os
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch

from lit_unlearn.errors import UsageError
from lit_unlearn.files import plain, replaced, write_atomically


@pytest.mark.parametrize("content", ["é\n", b"\x00\xff"])
def test_a_file_holds_what_was_written(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "new" / "file"
    write_atomically(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert os.listdir(path.parent) == ["file"]


def test_a_file_is_the_old_one_until_the_block_ends_and_stays_it_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write(fail: bool) -> None:
        with replaced(path) as file:
            file.write(b"new")
            file.flush()
            assert path.read_text() == "old"
            if fail:
                raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write(fail=True)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]
    write(fail=False)
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


def test_processes_of_several_machines_that_share_a_folder_and_a_number_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replaced(path) as one, replaced(path) as other:  # the same number here, too
        one.write(b"one")
        other.write(b"two")
        names = set(os.listdir(tmp_path))
    assert len(names) == 2
    assert all(name.startswith(".file.") and name.endswith(".part") for name in names)
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["file"]


class Full(io.BytesIO):
    """A file on a disk that is full."""

    def write(self, content: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_told_with_the_file_the_disk_and_what_is_free(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model.pt"
    with pytest.raises(OSError, match=r"No space left on device \(disk /.*: \d+\.\d MB free\)") as told, replaced(path):
        torch.save({"weights": torch.ones(100_000)}, Full())
    assert (told.value.errno, told.value.filename) == (errno.ENOSPC, str(path))
    assert os.listdir(path.parent) == []


def test_another_error_of_the_system_names_the_file_too(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(IsADirectoryError) as told:
        write_atomically(tmp_path / "file", "text")
    assert (told.value.strerror, told.value.filename) == ("Is a directory", str(tmp_path / "file"))
    assert os.listdir(tmp_path) == ["file"]


def test_values_get_types_of_json() -> None:
    value = {
        1: (np.int64(3), np.float32(0.5), np.bool_(True)),
        "tensor": torch.ones(2, dtype=torch.int64),
        "array": np.eye(2),
        "path": PurePosixPath("a/b"),
        "set": {4},
        "none": None,
    }
    found = plain(value)
    assert found == {
        "1": [3, 0.5, True],
        "tensor": [1, 1],
        "array": [[1.0, 0.0], [0.0, 1.0]],
        "path": "a/b",
        "set": [4],
        "none": None,
    }
    assert [type(item) for item in found["1"]] == [int, float, bool]
    assert plain(value, strict=True) == found


@pytest.mark.parametrize("value", [float("nan"), np.float32("inf"), np.float64("-inf"), object(), torch.float32])
def test_what_has_no_place_in_json_is_text_or_refused_by_its_name(value: object) -> None:
    text = plain({"a": [value]})["a"][0]
    assert isinstance(text, str)
    with pytest.raises(UsageError, match="row: a: b is "):
        plain({"a": {"b": [value]}}, strict=True, where="row")
