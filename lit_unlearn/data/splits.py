"""Which samples are to be forgotten: a pure function from labels, a ``ForgetSpec`` and a seed to four sets."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_unlearn.errors import UsageError, check_fraction, unknown

SPLIT_NAMES = (
    "forget",
    "retain",
    "validation",
    "forgotten_before",
    "test_forget",
    "test_retain",
    "test_forgotten_before",
)
"""All splits, in the order of the evaluation loaders."""

TRAINING_SPLITS = SPLIT_NAMES[:4]
"""The splits of training images."""

MAIN_SPLITS = ("forget", "retain", "test_forget", "test_retain")
"""The splits that a row counts even where they are empty."""


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


def spec_of(rule: str | Mapping[str, Any]) -> ForgetSpec:
    """A specification from an index file, or from its arguments by name.

    Raises:
        UsageError: for an unknown argument.
    """
    if isinstance(rule, str):
        return ForgetSpec(index_file=rule)
    names = [each.name for each in fields(ForgetSpec)]
    if strange := sorted(rule.keys() - set(names)):
        raise unknown("option of a forget rule", strange[0], names)
    return ForgetSpec(**rule)


def described(spec: ForgetSpec, seed: int) -> dict[str, object]:
    """A specification as plain values; the seed counts where it draws."""
    return {"spec": _given(spec), **({"seed": seed} if spec.fraction is not None else {})}


def _given(spec: ForgetSpec) -> dict[str, object]:
    values = {name: value for name, value in asdict(spec).items() if value is not None}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def _none() -> Tensor:
    return torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True, eq=False)
class ForgetSplit:
    """The training and test set cut in two.

    Args:
        forget: sorted training indices to forget, int64 (Nf,).
        retain: all other training indices, sorted, int64 (Nr,).
        test_forget: test indices of the classes forgotten as a whole, int64; empty for every other kind of spec.
        test_retain: all other test indices, int64.
        spec: what was asked for, None when there is nothing to forget.
        seed: seed of the random shares.
        hash: 16 hex digits that name this split of this training set.
        forgotten_classes: indices of the classes of which all samples are forgotten, sorted.
        validation: training indices held out to choose settings by, int64; nothing is trained on them.
        forgotten_before: training indices that earlier requests forgot, int64; nothing is trained on them.
        test_forgotten_before: test indices of the classes that earlier requests forgot as a whole, int64.
        request: 16 hex digits that name what is forgotten, whatever was forgotten before.
        left_out: 16 hex digits that name all that must never be learnt: this forget set and the earlier ones.
        before: the earlier requests, oldest first, each as its ``request`` and its specification.
        warnings: what the user should know of this split, one sentence each.
    """

    forget: Tensor
    retain: Tensor
    test_forget: Tensor
    test_retain: Tensor
    spec: ForgetSpec | None
    seed: int
    hash: str
    forgotten_classes: tuple[int, ...] = ()
    validation: Tensor = field(default_factory=_none)
    forgotten_before: Tensor = field(default_factory=_none)
    test_forgotten_before: Tensor = field(default_factory=_none)
    request: str = ""
    left_out: str = ""
    before: tuple[dict[str, object], ...] = ()
    warnings: tuple[str, ...] = ()

    def counts(self) -> dict[str, int]:
        """Number of samples in each set; of the seldom ones, only where there are any."""
        found = {name: len(getattr(self, name)) for name in SPLIT_NAMES}
        return {name: count for name, count in found.items() if count or name in MAIN_SPLITS}

    def requests(self) -> list[dict[str, object]]:
        """All that a model of this split has forgotten, oldest first: each request's hash and specification."""
        own = [] if self.spec is None else [{"request": self.request, **described(self.spec, self.seed)}]
        return [*self.before, *own]

    def describe(self) -> dict[str, object]:
        """The split as plain values, for a result row."""
        return {
            "hash": self.hash,
            "seed": self.seed,
            "spec": {} if self.spec is None else _given(self.spec),
            "forgotten_classes": list(self.forgotten_classes),
            "counts": self.counts(),
            "left_out": self.left_out,
            **({"before": list(self.before)} if self.before else {}),
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
    before: Sequence[ForgetSpec] = (),
    validation: float | None = None,
) -> ForgetSplit:
    """Split a training and a test set; the same arguments always give the same split.

    Args:
        train_labels: int64 (N,).
        test_labels: int64 (M,).
        spec: what to forget; None forgets nothing.
        seed: decides which samples a ``fraction`` and ``validation`` draw.
        class_names: one name per class index.
        image_names: one name per training image, so that an index file can name images.
        before: what earlier requests forgot, oldest first. Each takes from what the ones before it left.
        validation: share of what is retained to hold out of training; None holds nothing out.

    Raises:
        UsageError: for an unknown, repeated or empty specification, or one that leaves nothing to forget or to retain.
    """
    images = _Images(train_labels, test_labels, seed, class_names, image_names)
    gone, gone_classes, earlier = _none(), list[int](), list[dict[str, object]]()
    for number, each in enumerate(before):
        members, whole = images.chosen(each, gone, f"forgotten_before: request {number + 1}")
        earlier.append({"request": _split_hash(members, train_labels), **described(each, seed)})
        gone, gone_classes = torch.cat([gone, members]).sort().values, gone_classes + whole
    forget, classes = (_none(), list[int]()) if spec is None else images.chosen(spec, gone, "forget")
    left_out = torch.cat([gone, forget]).sort().values
    retain, held = images.held_out(_others(left_out, len(train_labels)), validation)
    test_forget = _members(test_labels, classes)
    test_before = _members(test_labels, [label for label in gone_classes if label not in classes])
    return ForgetSplit(
        forget=forget,
        retain=retain,
        test_forget=test_forget,
        test_retain=_others(torch.cat([test_forget, test_before]), len(test_labels)),
        spec=spec,
        seed=seed,
        hash=_split_hash(forget, train_labels, gone, held),
        forgotten_classes=tuple(sorted(classes)),
        validation=held,
        forgotten_before=gone,
        test_forgotten_before=test_before,
        request=_split_hash(forget, train_labels),
        left_out=_split_hash(left_out, train_labels),
        before=tuple(earlier),
        warnings=tuple(images.warnings(spec, forget)),
    )


def indices_of(
    spec: ForgetSpec,
    train_labels: Tensor,
    seed: int,
    class_names: Sequence[str],
    image_names: Sequence[str] | None = None,
) -> Tensor:
    """The training indices that a specification names, sorted, int64.

    Raises:
        UsageError: as :func:`make_split`.
    """
    images = _Images(train_labels, _none(), seed, class_names, image_names)
    return images.chosen(spec, _none(), "trained_without")[0]


def left_out_hash(indices: Tensor, train_labels: Tensor) -> str:
    """The name that :attr:`ForgetSplit.left_out` has where exactly these training indices are left out."""
    return _split_hash(indices.sort().values, train_labels)


@dataclass(frozen=True, eq=False)
class _Images:
    """The labels and names that specifications choose from."""

    train_labels: Tensor
    test_labels: Tensor
    seed: int
    class_names: Sequence[str]
    image_names: Sequence[str] | None

    def chosen(self, spec: ForgetSpec, gone: Tensor, where: str) -> tuple[Tensor, list[int]]:
        """What a specification takes of the images that are not gone yet, and the classes that it takes as a whole."""
        _check_combination(spec, where)
        classes = _class_indices(spec.classes, self.class_names)
        if spec.index_file is not None:
            found = _read_index_file(Path(spec.index_file), len(self.train_labels), self.image_names)
        else:
            count = len(self.train_labels)
            found = _members(self.train_labels, classes) if classes else torch.arange(count)
        left = found[~torch.isin(found, gone)]
        if spec.fraction is not None:
            left = _draw(left, spec.fraction, self.seed)
        self._check_size(left, found, gone, spec, where)
        return left, classes if spec.fraction is None else []

    def held_out(self, retained: Tensor, share: float | None) -> tuple[Tensor, Tensor]:
        """Retained indices without, and with nothing but, a random share of each of their classes."""
        if share is None:
            return retained, _none()
        generator, held = torch.Generator().manual_seed(self.seed), [_none()]
        for label in sorted(set(self.train_labels[retained].tolist())):
            pool = retained[self.train_labels[retained] == label]
            held.append(pool[torch.randperm(len(pool), generator=generator)[: round(share * len(pool))]])
        validation = torch.cat(held).sort().values
        if not len(validation):
            raise UsageError(f"val_from_train {share} of {len(retained)} retained images is none of any class")
        return retained[~torch.isin(retained, validation)], validation

    def warnings(self, spec: ForgetSpec | None, forget: Tensor) -> Iterator[str]:
        """What the user should know: classes without test images, and a class that a list names as a whole."""
        tested = set(self.test_labels.tolist())
        if missing := [name for index, name in enumerate(self.class_names) if index not in tested]:
            yield f"no test image of {_listed(missing)}: nothing is known of unseen images of it"
        if spec is None or spec.index_file is None:
            return
        named = self.train_labels[forget]
        counts = [(label, int((self.train_labels == label).sum())) for label in sorted(set(named.tolist()))]
        whole = [self.class_names[label] for label, count in counts if int((named == label).sum()) == count]
        if whole:
            yield (
                f"{spec.index_file} names every training image of {_listed(whole)}, whose test images count as "
                f"retained: to forget the class, give forget.classes [{', '.join(whole)}]"
            )

    def _check_size(self, left: Tensor, found: Tensor, gone: Tensor, spec: ForgetSpec, where: str) -> None:
        count = len(self.train_labels)
        if len(found) and not len(left) and len(gone):
            raise UsageError(f"{where}: all images that {_wording(spec)} selects were forgotten before")
        if len(left) == 0:
            raise UsageError(f"{where}: {_wording(spec)} selects none of the {count} training images")
        if len(left) + len(gone) == count:
            what = _wording(spec)
            raise UsageError(f"{where}: {what} selects all {count} training images, nothing is left to retain")


def _listed(names: Sequence[str]) -> str:
    """A class, or some, in words."""
    shown = ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"class{'es' if len(names) > 1 else ''} {shown}"


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


def _check_combination(spec: ForgetSpec, where: str) -> None:
    if spec.index_file is not None and (spec.classes is not None or spec.fraction is not None):
        raise UsageError(f"{where}: index_file {str(spec.index_file)!r} cannot be combined with classes or fraction")
    if spec.fraction is not None:
        check_fraction(f"{where}: fraction", spec.fraction)
    if not spec.classes and spec.fraction is None and spec.index_file is None:
        raise UsageError(f"{where}: nothing is named to be forgotten; give classes, fraction or index_file")


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


def _draw(pool: Tensor, fraction: float, seed: int) -> Tensor:
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
    return pool[order[: round(fraction * len(pool))]].sort().values


def _wording(spec: ForgetSpec) -> str:
    given = {"classes": spec.classes, "fraction": spec.fraction, "index_file": spec.index_file}
    return " and ".join(f"{name} {value}" for name, value in given.items() if value is not None)


def _split_hash(forget: Tensor, train_labels: Tensor, *others: Tensor) -> str:
    """Names a forget set; of others, such as those of earlier requests, only those that have samples count."""
    digest = hashlib.sha256(_bytes(forget))
    digest.update(len(train_labels).to_bytes(8, "little"))
    digest.update(_bytes(train_labels))
    for number, indices in enumerate(others):
        digest.update(bytes([number]) + _bytes(indices) if len(indices) else b"")
    return digest.hexdigest()[:16]


def _bytes(values: Tensor) -> bytes:
    found: bytes = values.to(torch.int64).numpy().astype("<i8").tobytes()
    return found


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
