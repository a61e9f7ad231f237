import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from lit_unlearn.artifacts import ImageGrid, PointMap
from lit_unlearn.errors import UsageError
from lit_unlearn.reports.gallery import grids, maps, read_artifacts, write_artifacts


def grid(seed: int = 0, channels: int = 1) -> ImageGrid:
    """Two images, the same for every seed, and what was made of them."""
    truth, guess = (torch.rand(2, channels, 4, 3, generator=torch.Generator().manual_seed(s)) for s in (99, seed))
    return ImageGrid(torch.stack([truth, guess]), ["image", "reconstruction"], [["", ""], ["9 dB", "8 dB"]])


def points(count: int = 4) -> PointMap:
    return PointMap(
        torch.arange(2.0 * count).view(count, 2), torch.arange(count) % 2, ["class 0 (forgotten)", "class 1"]
    )


def test_artifacts_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "artifacts.npz"
    write_artifacts(
        path, {"Original": {"a/b/map": points()}, "GA \N{GREEK SMALL LETTER EPSILON}": {"a/c/pictures": grid()}}
    )
    read = read_artifacts(path)
    assert {model: list(shown) for model, shown in read.items()} == {
        "Original": ["a/b/map"],
        "GA \N{GREEK SMALL LETTER EPSILON}": ["a/c/pictures"],
    }
    drawn, pictures = read["Original"]["a/b/map"], read["GA \N{GREEK SMALL LETTER EPSILON}"]["a/c/pictures"]
    assert isinstance(drawn, PointMap)
    assert torch.equal(drawn.points, points().points)
    assert torch.equal(drawn.groups, points().groups)
    assert drawn.names == points().names
    assert isinstance(pictures, ImageGrid)
    torch.testing.assert_close(pictures.images, grid().images, rtol=0, atol=0.5 / 255 + 1e-6)
    assert (pictures.rows, pictures.captions) == (grid().rows, grid().captions)
    assert [found.name for found in path.parent.iterdir()] == ["artifacts.npz"]


def test_the_file_holds_no_pickle_and_the_same_artifacts_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.npz", "two.npz"):
        write_artifacts(tmp_path / name, {"GA": {"a": points(), "b": grid()}})
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    with np.load(tmp_path / "one.npz", allow_pickle=False) as file:
        assert {name: file[name].dtype.kind for name in file.files} == {
            "index": "U",
            "0.points": "f",
            "0.groups": "i",
            "1.images": "u",
        }


def test_files_that_are_no_artifacts_are_named(tmp_path: Path) -> None:
    missing, text, other, alien = (tmp_path / name for name in ("none.npz", "text.npz", "other.npz", "alien.npz"))
    text.write_text("no archive")
    np.savez(other, x=np.zeros(2))
    np.savez(alien, index=np.array('{"format": "lit_unlearn artifacts", "version": 2, "artifacts": []}'))
    for path, said in (
        (missing, "none.npz: cannot be read"),
        (text, "text.npz: not a file of artifacts"),
        (other, "other.npz: not a file of artifacts"),
        (alien, "alien.npz: not artifacts of version 1"),
    ):
        with pytest.raises(UsageError, match=said):
            read_artifacts(path)
    np.savez(other, index=np.array([object()]))
    with pytest.raises(UsageError, match="not a file of artifacts"):
        read_artifacts(other)


def decode(source: str) -> np.ndarray:
    head, _, data = source.partition(",")
    assert head == "data:image/png;base64"
    pixels = np.atleast_3d(imread(io.BytesIO(base64.b64decode(data))))
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_the_images(channels: int) -> None:
    ((_, truth), (label, guess)) = grids({"GA": {"g": grid(channels=channels)}})["g"]
    assert label == "reconstruction"
    assert [picture.caption for picture in (*truth, *guess)] == ["", "", "9 dB", "8 dB"]
    expected = grid(channels=channels).images[1, 0].permute(1, 2, 0).expand(4, 3, 3).numpy()
    np.testing.assert_allclose(decode(guess[0].source), expected, atol=0.5 / 255 + 1e-6)
    assert guess[0].small
    header = base64.b64decode(guess[0].source.partition(",")[2])
    assert header[25] == {1: 0, 3: 2}[channels], "a grey image needs one channel, not three"


def test_the_true_images_are_shown_once_and_the_rest_by_model() -> None:
    shown = {"Original": {"g": grid(1)}, "Retrain": {"g": grid(1)}, "GA": {"g": grid(2), "other": grid(3)}}
    found = grids(shown)
    assert [label for label, _ in found["g"]] == ["image", "Original, Retrain: reconstruction", "GA: reconstruction"]
    assert [label for label, _ in found["other"]] == ["image", "reconstruction"]


def test_what_is_no_number_is_black_and_values_are_clipped() -> None:
    odd = ImageGrid(torch.tensor([float("nan"), -3, 7, 0.5]).view(1, 1, 1, 2, 2), ["image"])
    ((_, (picture,)),) = grids({"GA": {"g": odd}})["g"]
    np.testing.assert_allclose(decode(picture.source)[..., 0], [[0, 0], [1, 128 / 255]], atol=1e-6)


def test_maps_put_before_first_and_retrain_last_and_leave_out_what_is_not_finite() -> None:
    broken = points()
    broken.points[1, 0] = torch.inf
    found = maps({"Retrain": {"m": points()}, "GA": {"m": broken, "g": grid()}, "Original": {"m": points()}})
    assert list(found) == ["m"]
    assert list(found["m"]) == ["Original", "GA", "Retrain"]
    kept, names = found["m"]["GA"]
    assert kept.tolist() == [[0, 1], [4, 5], [6, 7]]
    assert names == ["class 0 (forgotten)", "class 0 (forgotten)", "class 1"]
