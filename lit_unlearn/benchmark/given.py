"""Weights that a grid takes as they are, in place of those that a run of its own would make."""

from dataclasses import dataclass
from pathlib import Path

from lit_unlearn.errors import UsageError
from lit_unlearn.files import file_sha256
from lit_unlearn.shipped import is_own


@dataclass(frozen=True)
class Given:
    """Weights that are there.

    Attributes:
        weights: a name in the manifest, or the absolute path of the user's own file.
        path: the file itself.
        key: sha256 of the file, which says what they are wherever they lie.
    """

    weights: str
    path: Path
    key: str


def given(option: str, weights: str) -> Given:
    """Weights by file or name, once they are known to be readable.

    Args:
        option: that names them, for an error.
        weights: a file, or a name in the manifest.

    Raises:
        UsageError: if they are neither, or the file holds no weights.
    """
    # A worker that is told to run a command line needs no torch before that.
    from lit_unlearn.backbones.reading import read_state
    from lit_unlearn.backbones.weights import resolve

    try:
        path = resolve(weights)
        read_state(path)
    except UsageError as error:
        raise UsageError(f"{option}: {error}") from error
    path = path.absolute()
    return Given(str(path) if is_own(weights) else weights, path, file_sha256(path))


def file_key(path: str | None) -> str | None:
    """What names the content of a file that settings mention; None where there is none."""
    return None if path is None or not Path(path).is_file() else file_sha256(Path(path))
