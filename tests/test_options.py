"""Arguments of the wrong type are named in one line, of whatever class they are, and also where none parses them."""

import copy
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

import lit_unlearn as lu
from lit_unlearn.errors import UsageError, shown
from lit_unlearn.options import TypedOptions, check_names


class Mine(TypedOptions):
    """All kinds of types."""

    checks_itself = ("free",)

    def __init__(
        self,
        *rest: int,
        number: float = 0.0,
        count: int | None = None,
        name: str = "",
        rates: Sequence[float] = (),
        names: list[str] | None = None,
        how: Literal["a", "b"] = "a",
        make: Callable[[], int] | None = None,
        data: lu.Augment | None = None,
        source: lu.Source | None = None,
        free: int = 0,
        anything: Any = None,
        **others: int,
    ) -> None:
        self.count = count


class Duck:
    """Has what a source has."""

    def load(self) -> None:
        """Does nothing."""


@pytest.mark.parametrize(
    "options",
    [
        {"number": 1, "count": 2, "rates": [1, 0.5], "names": ("a",), "make": int, "data": lu.Augment(1)},
        {"number": np.float32(1), "count": np.int64(2), "rates": np.array([0.1]), "names": None, "name": Path("x")},
        {"rates": torch.tensor([0.1]), "source": Duck(), "free": "x", "anything": "x", "how": "b", "others": "x"},
    ],
    ids=["plain", "of numpy", "left to the class"],
)
def test_what_fits_is_taken(options: dict[str, Any]) -> None:
    assert Mine("x", "y", **options).count == options.get("count")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"number": "1"}, "option number of Mine is '1', but must be a number"),
        ({"number": True}, "option number of Mine is True, but must be a number"),
        ({"count": 1.5}, "option count of Mine is 1.5, but must be a whole number or None"),
        ({"count": "x" * 1000}, "option count of Mine is …, but must be a whole number or None"),
        ({"name": 1}, "option name of Mine is 1, but must be a text"),
        ({"rates": 0.1}, "option rates of Mine is 0.1, but must be a list of numbers"),
        ({"rates": ["a"]}, "option rates of Mine is ['a'], but must be a list of numbers"),
        ({"rates": "0.1"}, "option rates of Mine is '0.1', but must be a list of numbers"),
        ({"names": "a"}, "option names of Mine is 'a', but must be a list of texts or None"),
        ({"make": 3}, "option make of Mine is 3, but must be a function"),
        ({"data": 3}, "option data of Mine is 3, but must be of class Augment or None"),
    ],
    ids=lambda value: str(value)[:25],
)
def test_what_does_not_fit_is_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as refusal:
        Mine(**options)
    assert str(refusal.value).startswith(said)
    assert "\n" not in str(refusal.value)


def test_a_function_that_takes_any_option_gets_any_but_a_backbone() -> None:
    def make(backbone: object, **options: object) -> None: ...

    check_names(make, {"anything": 1})
    with pytest.raises(UsageError, match="unknown option of make 'backbone'"):
        check_names(make, {"anything": 1, "backbone": 2})


def test_a_class_whose_types_cannot_be_found_is_made() -> None:
    class Strange(TypedOptions):
        def __init__(self, count: "Nowhere") -> None:  # type: ignore[name-defined]  # noqa: F821
            self.count = count

    assert Strange("x").count == "x"


def test_a_default_of_another_type_may_be_given() -> None:
    class Sloppy(TypedOptions):
        def __init__(self, count: int = None) -> None:  # type: ignore[assignment]  # noqa: RUF013
            self.count = count

    assert Sloppy(count=None).count is None  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="count of Sloppy is 'x'"):
        Sloppy("x")  # type: ignore[arg-type]


def test_an_argument_that_there_is_not_is_pythons_own_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'no'"):
        lu.Relearn(no=1)  # type: ignore[call-arg]


def test_a_value_is_shown_in_one_short_line() -> None:
    assert shown({"a": 1}) == "{'a': 1}"
    long = shown(torch.zeros(2000, 2) + torch.arange(2000).reshape(-1, 1))
    assert len(long) <= 200
    assert "\n" not in long


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: lu.Relearn(steps=1.5), "steps of Relearn is 1.5"),  # type: ignore[arg-type]
        (lambda: lu.HeadRecovery(ridge="a"), "ridge of HeadRecovery is 'a'"),  # type: ignore[arg-type]
        (lambda: lu.ImageFolder(None), "root of ImageFolder is None"),  # type: ignore[arg-type]
        (lambda: lu.ImageFolder("x", image_size="32"), "image_size of ImageFolder is '32'"),  # type: ignore[arg-type]
        (lambda: lu.Augment("4"), "crop of Augment is '4'"),  # type: ignore[arg-type]
        (lambda: lu.Transforms("ab"), "train of Transforms is 'ab'"),  # type: ignore[arg-type]
        (lambda: lu.ResNet8(num_classes="3"), "num_classes of ResNet8 is '3'"),  # type: ignore[arg-type]
        (lambda: lu.OPC(lu.ResNet8(3), blend="x"), "blend of OPC is 'x'"),  # type: ignore[arg-type]
        (lambda: lu.OPC(torch.nn.Linear(1, 1)), "backbone of OPC is Linear("),  # type: ignore[arg-type]
        (lambda: lu.Evaluation(retrains="5"), "retrains of Evaluation is '5'"),  # type: ignore[arg-type]
    ],
)
def test_attacks_data_backbones_and_methods_check_theirs(make: Callable[[], object], said: str) -> None:
    with pytest.raises(UsageError) as refusal:
        make()
    assert said in str(refusal.value)


def test_copies_are_made_without_arguments() -> None:
    attack = lu.Relearn(steps=7)
    assert copy.deepcopy(attack).steps == 7
    assert pickle.loads(pickle.dumps(attack)).steps == 7
    data = lu.UnlearnDataModule(lu.Digits(), lu.ForgetSpec(classes=[3]), batch_size=17)
    assert copy.deepcopy(data).batch_size == 17


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"batch_size": 1}, "batch_size is 1, but must be at least 2"),
        ({"forget_batch_size": 1}, "forget_batch_size is 1, but must be at least 2"),
        ({"eval_batch_size": 0}, "eval_batch_size is 0, but must be at least 1"),
        ({"batch_size": 2**70}, "batch_size is 1180591620717411303424, but must be at most 2147483647"),
        ({"eval_batch_size": 2**31}, "eval_batch_size is 2147483648, but must be at most 2147483647"),
    ],
    ids=str,
)
def test_batches_have_a_smallest_and_a_largest_size(sizes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=f"^{said}$"):
        lu.UnlearnDataModule(lu.Digits(), lu.ForgetSpec(classes=[3]), **sizes)
