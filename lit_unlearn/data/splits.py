"""Which samples are to be forgotten: a pure function from labels, a ``ForgetSpec`` and a seed to four sets."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from lit_unlearn.errors import UsageError, check_fraction, unknown

SPLIT_NAMES = ("forget", "retain", "test_forget", "test_retain")


@dataclass(frozen=True)
class ForgetSpec:
    """What is to be forgotten: all of some classes, a random share, a share of some classes, or a list of images.

    Args:
        classes: class indices or class names. A text is a name, or an index where no class is called so.
        fraction: share of the training set drawn at random, or, together with ``classes``, of those classes.
        index_file: text file with one training index or one image name per line; ``#`` starts a comment.
    """

    classes: list[str | int] | None = None
    fraction: float | None = None
    index_file: str | Path | None = None


@dataclass(frozen=True, eq=False)
class ForgetSplit:
    """The training and test set cut in two.

    Args:
        forget: sorted training indices to forget, int64 (Nf,).
        retain: all other training indices, sorted, int64 (Nr,).
        test_forget: test indices of the classes forgotten as a whole, int64; empty for every other kind of spec.
        test_retain: all other test indices, int64.
        spec: what was asked for, None when there is nothing to forget.
        seed: seed of the random share.
        hash: 16 hex digits that name this split of this training set.
        forgotten_classes: indices of the classes of which all samples are forgotten, sorted.
    """

    forget: Tensor
    retain: Tensor
    test_forget: Tensor
    test_retain: Tensor
    spec: ForgetSpec | None
    seed: int
    hash: str
    forgotten_classes: tuple[int, ...] = ()

    def counts(self) -> dict[str, int]:
        """Number of samples in each of the four sets."""
        return {name: len(getattr(self, name)) for name in SPLIT_NAMES}

    def describe(self) -> dict[str, object]:
        """The split as plain values, for a result row."""
        spec = {} if self.spec is None else {k: v for k, v in asdict(self.spec).items() if v is not None}
        if "index_file" in spec:
            spec["index_file"] = str(spec["index_file"])
        return {
            "hash": self.hash,
            "seed": self.seed,
            "spec": spec,
            "forgotten_classes": list(self.forgotten_classes),
            "counts": self.counts(),
        }

    def __str__(self) -> str:
        """One line for the terminal."""
        sizes = ", ".join(f"{name} {count:,}" for name, count in self.counts().items())
        return f"split {self.hash} (seed {self.seed}): {sizes}"


def make_split(
    train_labels: Tensor,
    test_labels: Tensor,
    spec: ForgetSpec | None,
    seed: int,
    class_names: Sequence[str],
    image_names: Sequence[str] | None = None,
) -> ForgetSplit:
    """Split a training and a test set; the same arguments always give the same split.

    Args:
        train_labels: int64 (N,).
        test_labels: int64 (M,).
        spec: what to forget; None forgets nothing.
        seed: decides which samples a ``fraction`` draws.
        class_names: one name per class index.
        image_names: one name per training image, so that an index file can name images.

    Raises:
        UsageError: for an unknown, repeated or empty ``spec``, or one that leaves nothing to forget or to retain.
    """
    forget = torch.empty(0, dtype=torch.int64)
    forgotten_classes: list[int] = []
    if spec is not None:
        _check_combination(spec)
        classes = _class_indices(spec.classes, class_names)
        forgotten_classes = classes if spec.fraction is None else []
        forget = _chosen(spec, classes, train_labels, seed, image_names)
        _check_size(forget, len(train_labels), spec)
    test_forget = _members(test_labels, forgotten_classes)
    return ForgetSplit(
        forget=forget,
        retain=_others(forget, len(train_labels)),
        test_forget=test_forget,
        test_retain=_others(test_forget, len(test_labels)),
        spec=spec,
        seed=seed,
        hash=_split_hash(forget, train_labels),
        forgotten_classes=tuple(sorted(forgotten_classes)),
    )


def hold_out(split: ForgetSplit, train_labels: Tensor, share: float, class_names: Sequence[str]) -> Tensor:
    """A part of the retain set that has every class of the forget set, drawn by the split's seed.

    Args:
        split: what is forgotten and what is retained.
        train_labels: int64 (N,).
        share: how much of the retained samples of each such class, at least one sample; 0 holds nothing out.
        class_names: one name per class index.

    Returns:
        Training indices, sorted, int64.

    Raises:
        UsageError: if no retained sample of a class would be left to train on.
    """
    held = [torch.empty(0, dtype=torch.int64)]
    for label in sorted(set(train_labels[split.forget].tolist())) if share else ():
        pool = split.retain[train_labels[split.retain] == label]
        count = max(1, round(share * len(pool)))
        if count >= len(pool):
            raise UsageError(
                f"no validation part of class {class_names[label]!r} can be held out: {len(pool)} of its training "
                f"images are retained; forget a part of a class that leaves more than {count}"
            )
        held.append(pool[torch.randperm(len(pool), generator=torch.Generator().manual_seed(split.seed))[:count]])
    return torch.cat(held).sort().values


def _check_combination(spec: ForgetSpec) -> None:
    if spec.index_file is not None and (spec.classes is not None or spec.fraction is not None):
        raise UsageError(f"forget: index_file {str(spec.index_file)!r} cannot be combined with classes or fraction")
    if spec.fraction is not None:
        check_fraction("forget: fraction", spec.fraction)
    if not spec.classes and spec.fraction is None and spec.index_file is None:
        raise UsageError("forget: nothing is named to be forgotten; give classes, fraction or index_file")


def _chosen(
    spec: ForgetSpec, classes: list[int], train_labels: Tensor, seed: int, image_names: Sequence[str] | None
) -> Tensor:
    if spec.index_file is not None:
        return _read_index_file(Path(spec.index_file), len(train_labels), image_names)
    pool = _members(train_labels, classes) if classes else torch.arange(len(train_labels))
    return _draw(pool, spec.fraction, seed)


def _class_indices(classes: Sequence[int | str] | None, class_names: Sequence[str]) -> list[int]:
    indices: list[int] = []
    for name in classes or []:
        index = _class_index(name, list(class_names))
        if index in indices:
            raise UsageError(f"forget: class {name!r} is named twice (index {index}, {class_names[index]!r})")
        indices.append(index)
    return indices


def _class_index(name: int | str, class_names: list[str]) -> int:
    if isinstance(name, str) and name in class_names:
        return class_names.index(name)
    # The command line hands over a number as text where it appends to a list.
    if isinstance(name, str) and not re.fullmatch(r"[+-]?\d+", name, flags=re.ASCII):
        raise unknown("class", name, class_names)
    index = int(name)
    if not 0 <= index < len(class_names):
        raise UsageError(f"forget: class index {name} is out of range (allowed: 0 to {len(class_names) - 1})")
    if str(index) in class_names and class_names[index] != str(index):
        raise UsageError(f"forget: class {name} may mean the index or the name '{index}'; put the name in quotes")
    return index


def _members(labels: Tensor, classes: Sequence[int]) -> Tensor:
    return torch.isin(labels, torch.tensor(list(classes), dtype=torch.int64)).nonzero().flatten()


def _others(indices: Tensor, count: int) -> Tensor:
    keep = torch.ones(count, dtype=torch.bool)
    keep[indices] = False
    return keep.nonzero().flatten()


def _draw(pool: Tensor, fraction: float | None, seed: int) -> Tensor:
    if fraction is None:
        return pool
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
    return pool[order[: round(fraction * len(pool))]].sort().values


def _check_size(forget: Tensor, count: int, spec: ForgetSpec) -> None:
    if len(forget) == 0:
        raise UsageError(f"forget: {_wording(spec)} selects none of the {count} training images")
    if len(forget) == count:
        raise UsageError(f"forget: {_wording(spec)} selects all {count} training images, nothing is left to retain")


def _wording(spec: ForgetSpec) -> str:
    given = {"classes": spec.classes, "fraction": spec.fraction, "index_file": spec.index_file}
    return " and ".join(f"{name} {value}" for name, value in given.items() if value is not None)


def _split_hash(forget: Tensor, train_labels: Tensor) -> str:
    digest = hashlib.sha256(forget.to(torch.int64).numpy().astype("<i8").tobytes())
    digest.update(len(train_labels).to_bytes(8, "little"))
    digest.update(train_labels.to(torch.int64).numpy().astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def _read_index_file(path: Path, count: int, image_names: Sequence[str] | None) -> Tensor:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"forget: cannot read index_file {str(path)!r}: {error}") from error
    positions = {name: index for index, name in enumerate(image_names or [])}
    seen: dict[int, int] = {}
    for number, line in enumerate(lines, start=1):
        text = re.sub(r"(^|\s)#.*", "", line).strip()
        if not text:
            continue
        index = _index_of(text, f"line {number} of {path}", count, positions)
        if index in seen:
            raise UsageError(f"line {number} of {path}: {text!r} was already named in line {seen[index]}")
        seen[index] = number
    return torch.tensor(sorted(seen), dtype=torch.int64)


def _index_of(text: str, where: str, count: int, positions: Mapping[str, int]) -> int:
    for name in (text, text.removeprefix("./"), text.removeprefix("./").removeprefix("train/")):
        if name in positions:
            return positions[name]
    if re.fullmatch(r"[+-]?\d+", text, flags=re.ASCII):
        if not 0 <= int(text) < count:
            raise UsageError(f"{where}: index {text} is out of range (allowed: 0 to {count - 1})")
        return int(text)
    if positions:
        raise UsageError(f"{where}: {unknown('training image', text, positions)}")
    raise UsageError(f"{where}: {text!r} is not a number (this data has no image names, allowed: 0 to {count - 1})")
