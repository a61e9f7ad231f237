"""What one call from Python measured, and how it is shown, written and saved."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lit_unlearn.artifacts import Artifact
from lit_unlearn.backbones import save_weights
from lit_unlearn.errors import UsageError, shown
from lit_unlearn.methods import UnlearnModule
from lit_unlearn.reports import Row, write_page, write_rows
from lit_unlearn.reports.page import fragment
from lit_unlearn.reports.table import plain_table


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """What a run measured. ``print(result)`` shows table and verdict; a notebook shows the first part of the page.

    Attributes:
        rows: one row a model: Original, Retrain where it is known, and the unlearned model last.
        artifacts: pictures and maps of attacks, by the ``method`` of a row.
        module: the method, with the unlearned backbone.
    """

    rows: list[Row]
    artifacts: Mapping[str, Mapping[str, Artifact]]
    module: UnlearnModule

    def __str__(self) -> str:
        return plain_table(self.rows)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return fragment(self.rows)

    def to_html(self, path: str | Path) -> None:
        """Writes the report: one HTML page that needs no other file.

        Raises:
            UsageError: if it cannot be written, such as where a folder is named.
        """
        with _writing(path, "report.html"):
            write_page(path, self.rows, self.artifacts)

    def to_json(self, path: str | Path) -> None:
        """Writes the rows, with all settings, seeds and versions.

        Raises:
            UsageError: as for :meth:`to_html`.
        """
        with _writing(path, "results.json"):
            write_rows(path, self.rows)

    @property
    def verdict(self) -> Mapping[str, Any]:
        """The verdict on the unlearned model, as in ``Row.verdict``: ``level``, ``utility``, ``worst`` and more.

        Its numbers are fractions. That of a reference model has ``level``, *not judged*, and ``reason`` alone.
        """
        row = self.rows[-1]
        return row.verdict or {"level": "not judged", "reason": f"{row.method} is what methods are compared with"}

    @property
    def network(self) -> nn.Module:
        """A copy of the unlearned network: a module of the given network's own class, with its own names, in eval mode.

        Raises:
            UsageError: if the method changes the architecture.
        """
        if change := self.module.architecture_change():
            name = type(self.module).__name__
            raise UsageError(f"{name} changes the architecture ({change}): take result.module.backbone")
        return self.module.backbone.to_network().cpu()

    def save(self, path: str | Path) -> None:
        """Writes the weights with what is known of them, so that they can serve as ``retrain`` or ``weights``.

        A ``.safetensors`` file has the names of the user's own network, any other those of the backbone.

        Raises:
            UsageError: as for :meth:`to_html`.
        """
        _check_file(path, "retrain.pt")
        cost = {"seconds": self.module.seconds, "images_seen": self.module.images_seen}
        save_weights(self.module.backbone, path, {**self.module.provenance(), **cost})


@contextmanager
def _writing(path: str | Path, usual: str) -> Iterator[None]:
    """Tells in one line why a file cannot be written."""
    _check_file(path, usual)
    try:
        yield
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error


def _check_file(path: object, usual: str) -> None:
    """Refuses what names no file; of a folder it says which file may be meant."""
    if not isinstance(path, str | Path):
        raise UsageError(f"path is {shown(path)}, but must be a file, such as {usual!r}")
    if Path(path).is_dir():
        raise UsageError(f"{path} is a folder: name a file, such as {Path(path) / usual}")
