"""Which samples are to be forgotten: a pure function from labels, a ``ForgetSpec`` and a seed to disjoint sets."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lit_unlearn.data.forget_spec import ForgetSpec, Images, described, given, listed, members, none, others
from lit_unlearn.data.matching import matched
from lit_unlearn.errors import UsageError

SPLIT_NAMES = (
    "forget",
    "retain",
    "validation",
    "forgotten_before",
    "images_before",
    "test_forget",
    "test_retain",
    "test_matched",
    "test_forgotten_before",
)
"""All splits, in the order of the evaluation loaders."""

TRAINING_SPLITS = SPLIT_NAMES[:5]
"""The splits of training images."""

MAIN_SPLITS = ("forget", "retain", "test_forget", "test_retain")
"""The splits that a row counts even where they are empty."""


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
        forgotten_class_names: their names.
        validation: training indices held out to choose settings by, int64; nothing is trained on them.
        forgotten_before: training indices that earlier requests forgot, int64; nothing is trained on them.
        images_before: those of ``forgotten_before`` whose class no request forgets as a whole, int64.
        test_forgotten_before: test indices of the classes that earlier requests forgot as a whole, int64.
        request: 16 hex digits that name what is forgotten now; earlier requests do not change it.
        left_out: 16 hex digits that name all that must never be learnt: this forget set and the earlier ones.
        before: the earlier requests, oldest first, each as its ``request`` and its specification.
        test_matched: where single images are forgotten whose class shares differ from the test set's, those of
            ``test_retain`` that they are compared with, see :func:`~lit_unlearn.data.matching.matched`, int64.
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
    forgotten_class_names: tuple[str, ...] = ()
    validation: Tensor = field(default_factory=none)
    forgotten_before: Tensor = field(default_factory=none)
    images_before: Tensor = field(default_factory=none)
    test_forgotten_before: Tensor = field(default_factory=none)
    request: str = ""
    left_out: str = ""
    before: tuple[dict[str, object], ...] = ()
    test_matched: Tensor = field(default_factory=none)
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
            "spec": {} if self.spec is None else given(self.spec),
            "forgotten_classes": list(self.forgotten_classes),
            **({"forgotten_class_names": list(self.forgotten_class_names)} if self.forgotten_classes else {}),
            "counts": self.counts(),
            "left_out": self.left_out,
            **({"before": list(self.before)} if self.before else {}),
        }

    def __str__(self) -> str:
        """One line for the terminal."""
        sizes = ", ".join(f"{name} {count:,}" for name, count in self.counts().items())
        whole = f", forgets {listed(self.forgotten_class_names)}" if self.forgotten_classes else ""
        return f"split {self.hash} (seed {self.seed}){whole}: {sizes}"


def make_split(
    train_labels: Tensor,
    test_labels: Tensor,
    spec: ForgetSpec | None,
    seed: int,
    class_names: Sequence[str],
    image_names: Sequence[str] | None = None,
    before: Sequence[ForgetSpec] = (),
    validation: float | None = None,
    folder: str | None = None,
) -> ForgetSplit:
    """Split a training and a test set; the same arguments always give the same split.

    Args:
        train_labels: int64 (N,).
        test_labels: int64 (M,).
        spec: what to forget; None forgets nothing.
        seed: decides which samples a ``fraction`` and ``validation`` draw.
        class_names: one name per class index.
        image_names: one name per training image, so that a list can name images.
        before: what earlier requests forgot, oldest first. Each takes from what the ones before it left.
        validation: share of what is retained to hold out of training; None holds nothing out.
        folder: that the names of images are paths in, so that a list can name them by other paths.

    Raises:
        UsageError: for an unknown, repeated or empty specification, or one that leaves nothing to forget or to retain.
    """
    images = Images(train_labels, test_labels, seed, class_names, image_names, folder)
    gone, gone_classes, earlier = none(), list[int](), list[dict[str, object]]()
    for number, each in enumerate(before):
        found, whole = images.chosen(each, gone, f"forgotten_before: request {number + 1}")
        earlier.append({"request": _split_hash(found, train_labels), **described(each, seed)})
        gone, gone_classes = torch.cat([gone, found]).sort().values, gone_classes + whole
    forget, classes = (none(), list[int]()) if spec is None else images.chosen(spec, gone, "forget")
    left_out = torch.cat([gone, forget]).sort().values
    retain, held = images.held_out(others(left_out, len(train_labels)), validation)
    test_forget = members(test_labels, classes)
    test_before = members(test_labels, [label for label in gone_classes if label not in classes])
    test_retain = others(torch.cat([test_forget, test_before]), len(test_labels))
    alike, lacking = matched(train_labels[forget], test_labels, test_retain, seed)
    return ForgetSplit(
        forget=forget,
        retain=retain,
        test_forget=test_forget,
        test_retain=test_retain,
        spec=spec,
        seed=seed,
        hash=_split_hash(forget, train_labels, gone, held),
        forgotten_classes=tuple(sorted(classes)),
        forgotten_class_names=tuple(class_names[label] for label in sorted(classes)),
        validation=held,
        forgotten_before=gone,
        images_before=gone[~torch.isin(train_labels[gone], torch.tensor(classes + gone_classes, dtype=torch.int64))],
        test_forgotten_before=test_before,
        request=_split_hash(forget, train_labels),
        left_out=_split_hash(left_out, train_labels),
        before=tuple(earlier),
        test_matched=alike,
        warnings=tuple(images.warnings(spec, forget, lacking)),
    )


def indices_of(
    spec: ForgetSpec,
    train_labels: Tensor,
    seed: int,
    class_names: Sequence[str],
    image_names: Sequence[str] | None = None,
    folder: str | None = None,
) -> Tensor:
    """The training indices that a specification names, sorted, int64.

    Raises:
        UsageError: as :func:`make_split`.
    """
    images = Images(train_labels, none(), seed, class_names, image_names, folder)
    return images.chosen(spec, none(), "trained_without")[0]


def left_out_hash(indices: Tensor, train_labels: Tensor) -> str:
    """The name that :attr:`ForgetSplit.left_out` has where exactly these training indices are left out."""
    return _split_hash(indices.sort().values, train_labels)


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
