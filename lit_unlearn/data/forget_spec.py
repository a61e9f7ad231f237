"""What is to be forgotten, as a specification, and which images of a training set it chooses."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_unlearn.data.forget_list import ImageList, TrainingImages, checked_list, composed, is_list, size_of_list
from lit_unlearn.errors import UsageError, check_fraction, shown, unknown


@dataclass(frozen=True)
class ForgetSpec:
    """What is to be forgotten: all of some classes, a random share, a share of some classes, or a list of images.

    ``ForgetSpec(images=[3, 17])`` forgets two training images by their indices in the training set.

    Args:
        classes: class indices or class names. A text is a name, or an index where no class is called so.
        fraction: share in (0, 1) of the training set drawn at random, or, together with ``classes``, of those classes.
        index_file: text file with one training index or one image name per line; ``#`` starts a comment.
        images: the list itself: training indices as a list, range, array or tensor; a mask of booleans, one for each
            training image; or, of image folders, a list of paths, such as ``cat/001.png``. It is kept in plain types.

    Give ``classes``, ``fraction`` or both, or ``index_file`` alone, or ``images`` alone.

    Raises:
        UsageError: for values of another type, or an empty list. What does not go together, and a fraction out of
            range, are refused when the data are split.
    """

    classes: list[str | int] | None = None
    fraction: float | None = None
    index_file: str | Path | None = None
    images: ImageList = None

    def __post_init__(self) -> None:
        """Checks types, which a call from Python may get wrong: a text would be read as its letters.

        Numbers of numpy become Python's own, which a row can hold.
        """
        listed = self.classes is None or isinstance(self.classes, list | tuple)
        named = self.classes or ()
        if not listed or any(isinstance(each, bool) or not isinstance(each, str | Integral) for each in named):
            raise UsageError(
                f"forget: classes is {self.classes!r}, but must be a list of names or indices, such as ['cat', 3]"
            )
        fraction: Any = self.fraction
        if isinstance(fraction, bool) or not isinstance(fraction, Real | None):
            raise UsageError(f"forget: fraction is {fraction!r}, but must be a number")
        if self.classes is not None:
            object.__setattr__(self, "classes", [each if isinstance(each, str) else int(each) for each in self.classes])
        if fraction is not None:
            object.__setattr__(self, "fraction", float(fraction))
        if not isinstance(self.index_file, str | Path | None):
            raise UsageError(f"forget: index_file is {self.index_file!r}, but must be a file")
        if self.images is not None:
            object.__setattr__(self, "images", checked_list(self.images))

    @property
    def lists(self) -> bool:
        """Whether it is a list of images, in a file or not."""
        return self.index_file is not None or self.images is not None


def as_spec(given: object) -> ForgetSpec:
    """A specification that may be given from Python as a list of images.

    Raises:
        UsageError: if it is neither.
    """
    if isinstance(given, ForgetSpec):
        return given
    if not is_list(given):
        example = "ForgetSpec(classes=['cat']), or a list of images"
        raise UsageError(f"forget is {shown(given)}, but must be a ForgetSpec, such as {example}")
    return ForgetSpec(images=given)


def spec_of(rule: str | Mapping[str, Any] | ImageList) -> ForgetSpec:
    """A specification from an index file, from its arguments by name, or from a list of images.

    Raises:
        UsageError: for an unknown argument, or another type.
    """
    if is_list(rule):
        return ForgetSpec(images=rule)
    if isinstance(rule, str):
        return ForgetSpec(index_file=rule)
    if not isinstance(rule, Mapping):
        raise UsageError(f"a forget rule is {shown(rule)}, but must be a file, arguments by name, or a list of images")
    names = [each.name for each in fields(ForgetSpec)]
    if strange := sorted(rule.keys() - set(names)):
        raise unknown("option of a forget rule", strange[0], names)
    return ForgetSpec(**rule)


def described(spec: ForgetSpec, seed: int) -> dict[str, object]:
    """A specification as plain values; the seed counts where it draws."""
    return {"spec": given(spec), **({"seed": seed} if spec.fraction is not None else {})}


def given(spec: ForgetSpec) -> dict[str, object]:
    """What a specification names, as plain values; of a list given from Python, how many images it names."""
    values = {name: value for name, value in asdict(spec).items() if value is not None}
    if spec.images is not None:
        values["images"] = size_of_list(spec.images)
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


@dataclass(frozen=True, eq=False)
class Images:
    """The labels and names that specifications choose from."""

    train_labels: Tensor
    test_labels: Tensor
    seed: int
    class_names: Sequence[str]
    image_names: Sequence[str] | None
    folder: str | None = None

    def chosen(self, spec: ForgetSpec, gone: Tensor, where: str) -> tuple[Tensor, list[int]]:
        """What a specification takes of the images that are not gone yet, and the classes that it takes as a whole."""
        _check_combination(spec, where)
        classes = _class_indices(spec.classes, self.class_names)
        count = len(self.train_labels)
        listed = TrainingImages(count, self.image_names, self.folder)
        if spec.index_file is not None:
            found = listed.of_file(Path(spec.index_file))
        elif spec.images is not None:
            found = listed.of_list(spec.images)
        else:
            found = members(self.train_labels, classes) if classes else torch.arange(count)
        left = found[~torch.isin(found, gone)]
        if spec.fraction is not None:
            left = _draw(left, spec.fraction, self.seed)
        self._check_size(left, found, gone, spec, where)
        return left, classes if spec.fraction is None else []

    def held_out(self, retained: Tensor, share: float | None) -> tuple[Tensor, Tensor]:
        """Retained indices without, and with nothing but, a random share of each of their classes."""
        if share is None:
            return retained, none()
        generator, held = torch.Generator().manual_seed(self.seed), [none()]
        for label in sorted(set(self.train_labels[retained].tolist())):
            pool = retained[self.train_labels[retained] == label]
            held.append(pool[torch.randperm(len(pool), generator=generator)[: round(share * len(pool))]])
        validation = torch.cat(held).sort().values
        if not len(validation):
            raise UsageError(f"val_from_train {share} of {len(retained)} retained images is none of any class")
        if len(validation) == len(retained):
            raise UsageError(
                f"val_from_train {share} holds out all {len(retained)} retained images: none is left to train"
            )
        return retained[~torch.isin(retained, validation)], validation

    def warnings(self, spec: ForgetSpec | None, forget: Tensor, lacking: Sequence[int]) -> Iterator[str]:
        """What the user should know: classes without test images, and a class that a list names as a whole.

        Args:
            spec: what is to be forgotten.
            forget: its indices.
            lacking: classes of which test images are only in the half that attacks learn from.
        """
        tested = set(self.test_labels.tolist())
        if missing := [name for index, name in enumerate(self.class_names) if index not in tested]:
            yield f"no test image of {listed(missing)}: nothing is known of unseen images of it"
        if lacking:
            which = listed([self.class_names[label] for label in lacking])
            yield (
                f"forget images of {which} are compared with no unseen image of it: attacks learn from every other "
                "test image, and the rest has none"
            )
        if spec is None or not spec.lists:
            return
        named = self.train_labels[forget]
        counts = [(label, int((self.train_labels == label).sum())) for label in sorted(set(named.tolist()))]
        whole = [self.class_names[label] for label, count in counts if int((named == label).sum()) == count]
        if whole:
            yield (
                f"{spec.index_file or 'the list of images'} names every training image of {listed(whole)}, whose test "
                f"images count as retained: to forget the class, give forget.classes [{', '.join(whole)}]"
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


def listed(names: Sequence[str]) -> str:
    """A class, or some, in words."""
    shown = ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"class{'es' if len(names) > 1 else ''} {shown}"


def none() -> Tensor:
    """No indices."""
    return torch.empty(0, dtype=torch.int64)


def _check_combination(spec: ForgetSpec, where: str) -> None:
    if spec.index_file is not None and spec.images is not None:
        raise UsageError(f"{where}: index_file {str(spec.index_file)!r} cannot be combined with images")
    if spec.lists and (spec.classes is not None or spec.fraction is not None):
        listed = "images" if spec.index_file is None else f"index_file {str(spec.index_file)!r}"
        raise UsageError(f"{where}: {listed} cannot be combined with classes or fraction")
    if spec.fraction is not None:
        check_fraction(f"{where}: fraction", spec.fraction)
    if not spec.classes and spec.fraction is None and not spec.lists:
        raise UsageError(f"{where}: nothing is named to be forgotten; give classes, fraction or index_file, or images")


def _class_indices(classes: Sequence[int | str] | None, class_names: Sequence[str]) -> list[int]:
    indices: list[int] = []
    for name in classes or []:
        index = _class_index(name, list(class_names))
        if index in indices:
            raise UsageError(f"forget: class {name!r} is named twice (index {index}, {class_names[index]!r})")
        indices.append(index)
    return indices


def _class_index(name: int | str, class_names: list[str]) -> int:
    if isinstance(name, str):
        for names, wanted in ((class_names, name), ([composed(each) for each in class_names], composed(name))):
            if wanted in names:
                return names.index(wanted)
    # The command line hands over a number as text where it appends to a list.
    if isinstance(name, str) and not re.fullmatch(r"[+-]?\d+", name, flags=re.ASCII):
        raise unknown("class", name, class_names)
    index = int(name)
    if not 0 <= index < len(class_names):
        raise UsageError(f"forget: class index {name} is out of range (allowed: 0 to {len(class_names) - 1})")
    if str(index) in class_names and class_names[index] != str(index):
        raise UsageError(f"forget: class {name} may mean the index or the name '{index}'; put the name in quotes")
    if padded := next((each for each in class_names if _read_as(each, index)), None):
        raise UsageError(
            f"forget: class {name} may mean the index or a name with leading zeros, such as '{padded}', which YAML "
            "takes for a number; put the name in quotes"
        )
    return index


def _read_as(name: str, number: int) -> bool:
    """Whether YAML reads a name with leading zeros as a number: as an octal one, where all digits are below 8."""
    octal = re.fullmatch(r"0[0-7]+", name) is not None and int(name, 8) == number
    return octal or (re.fullmatch(r"0\d+", name, flags=re.ASCII) is not None and int(name) == number)


def members(labels: Tensor, classes: Sequence[int]) -> Tensor:
    """The indices of some classes' samples, sorted, int64."""
    return torch.isin(labels, torch.tensor(list(classes), dtype=torch.int64)).nonzero().flatten()


def others(indices: Tensor, count: int) -> Tensor:
    """All other indices below ``count``, sorted, int64."""
    keep = torch.ones(count, dtype=torch.bool)
    keep[indices] = False
    return keep.nonzero().flatten()


def _draw(pool: Tensor, fraction: float, seed: int) -> Tensor:
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
    return pool[order[: round(fraction * len(pool))]].sort().values


def _wording(spec: ForgetSpec) -> str:
    if spec.images is not None:
        return f"a list of {size_of_list(spec.images)} images"
    return " and ".join(f"{name} {value}" for name, value in given(spec).items())
