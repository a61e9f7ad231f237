"""A pool: models of the same data that are there already, as references for the attacks that need many.

Any file of weights below a folder counts whose provenance says one of three things: Retrain of exactly this run's
split, Original of the same training images, or a model of this run's method on this split. The rest is left out, and
counted in one line. Of equal weights, such as a checkpoint and its export, one counts.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lit_unlearn.backbones.reading import check_checkpoint, read_state
from lit_unlearn.backbones.saving import tensors_sha256
from lit_unlearn.backbones.weights import LoadedWeights, load_weights
from lit_unlearn.errors import UsageError, shown

ENDINGS = (".ckpt", ".pt", ".pth", ".safetensors")
"""Of files that may hold weights, in the order in which equal weights count."""

Kind = Literal["retrains", "originals", "unlearned"]


@dataclass(frozen=True)
class Pool:
    """Weights of models that fit a run, as files.

    Attributes:
        method: of the models that unlearned, which is the run's.
        retrains: Retrains of the run's split.
        originals: models trained on all training images.
        unlearned: models of the same method that unlearned this split.
    """

    method: str
    retrains: tuple[str, ...] = ()
    originals: tuple[str, ...] = ()
    unlearned: tuple[str, ...] = ()

    def __str__(self) -> str:
        """What there is, in words."""
        return (
            f"{_counted(len(self.retrains), 'Retrain')} of this split, {_counted(len(self.originals), 'Original')} and "
            f"{_counted(len(self.unlearned), 'unlearned model')} of {self.method}"
        )


def check_pool(given: object) -> list[Path]:
    """The folders and files of a pool; none without a pool.

    Raises:
        UsageError: for what is neither a path nor a list of paths.
    """
    if given is None:
        return []
    places = [given] if isinstance(given, str | Path) else given
    if not isinstance(places, Sequence) or not all(isinstance(place, str | Path) for place in places):
        raise UsageError(f"pool is {shown(given)}, but must be a folder of weights, or a list of folders and files")
    return [Path(place).expanduser() for place in places]


def find_pool(places: Sequence[Path], module: Any, data: Any) -> Pool:
    """Looks at every file of weights in the places of a pool, and says in one line what it found.

    Args:
        places: folders, searched to any depth, and files.
        module: the method of the run; each model must fit its backbone.
        data: the data module of the run.

    Raises:
        UsageError: if a place is missing, weights that belong to the run do not fit its backbone, or there is no
            Retrain of this split.
    """
    search = _Search(_method(module), data.split, data.split_of_nothing)
    for path in _files(places):
        search.look_at(path, module.reference_copy())
    where = str(places[0]) if len(places) == 1 else f"{places[0]} and {len(places) - 1} more"
    for path, reason in search.unreadable:
        rank_zero_warn(f"the pool's {path} cannot be read and is left out: {reason}")
    pool = search.pool()
    if not pool.retrains:
        raise UsageError(f"evaluation.pool {where!r} holds no Retrain of split {data.split.hash}: {search}")
    rank_zero_info(f"The pool {where} has {pool}{f'; left out: {search.others()}' if search.rest else ''}")
    return pool


@dataclass
class _Search:
    """What was found so far."""

    method: str
    split: Any
    split_of_nothing: str
    found: dict[Kind, list[str]] = field(default_factory=lambda: {"retrains": [], "originals": [], "unlearned": []})
    rest: Counter[str] = field(default_factory=Counter)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)
    _known: set[str] = field(default_factory=set)

    def look_at(self, path: Path, backbone: Any) -> None:
        """Adds one file to what it belongs to."""
        try:
            _, said = read_state(path)
            unfinished = path.suffix == ".ckpt" and bool(check_checkpoint(path).get("optimizer_states"))
        except UsageError as error:
            self.unreadable.append((path, str(error).removeprefix(f"{path}: ")))
            return
        if unfinished:
            self.rest["checkpoints to resume from"] += 1
            return
        try:
            loaded = load_weights(backbone, path)
        except UsageError as error:
            if said.get("split") != self.split.hash or said.get("architecture_change"):
                self.rest["of another backbone"] += 1
                return
            raise UsageError(f"evaluation.pool: {error}") from error
        kind = self._kind(loaded)
        if kind is None:
            self.rest[f"of {loaded.method or 'an unknown method'} on split {loaded.split or 'unknown'}"] += 1
        elif (weights := tensors_sha256(backbone.state_dict())) not in self._known:
            self._known.add(weights)
            self.found[kind].append(str(path))

    def _kind(self, loaded: LoadedWeights) -> Kind | None:
        here = loaded.split == self.split.hash
        if here and loaded.left_out == self.split.left_out and loaded.method in (None, "Retrain"):
            return "retrains"
        # Pretrain is trained on all images, whatever is to be forgotten.
        if loaded.method == "Pretrain" and (here or loaded.split == self.split_of_nothing):
            return "originals"
        return "unlearned" if here and loaded.method == self.method else None

    def pool(self) -> Pool:
        return Pool(self.method, **{kind: tuple(files) for kind, files in self.found.items()})

    def others(self) -> str:
        """What is left out, in words."""
        return ", ".join(f"{count} {what}" for what, count in sorted(self.rest.items())) or "nothing"

    def __str__(self) -> str:
        count = len(self._known) + sum(self.rest.values())
        kept = {kind: len(files) for kind, files in self.found.items() if files}
        own = "".join(f", {count} {kind}" for kind, count in kept.items())
        return f"{_counted(count, 'file')} of weights can be read{own}; left out: {self.others()}"


def _method(module: Any) -> str:
    """The class that made the model under attack, which for Audit is what its weights say."""
    name = type(module).__name__
    return name if name != "Audit" else (module.loaded and module.loaded.method) or "an unknown method"


def _files(places: Sequence[Path]) -> Iterator[Path]:
    for place in places:
        if place.is_dir():
            below = (path for path in place.rglob("*") if path.suffix in ENDINGS and path.is_file())
            yield from sorted(below, key=lambda path: (str(path.parent), ENDINGS.index(path.suffix), path.name))
        elif place.is_file():
            yield place
        else:
            raise UsageError(f"evaluation.pool: there is no folder or file {str(place)!r}")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
