"""Rows as a run on three forgotten classes would leave them."""

from collections.abc import Callable, Mapping

import pytest

from lit_unlearn.reports.rows import Row

SPLITS = ("forget_acc", "retain_acc", "test_forget_acc", "test_retain_acc")

SPLIT = {
    "hash": "3fa81c09e2d47b55",
    "seed": 0,
    "spec": {"classes": [0, 1, 2]},
    "forgotten_classes": [0, 1, 2],
    "counts": {"forget": 6000, "retain": 14000, "test_forget": 3000, "test_retain": 7000},
}


def _row(
    method: str,
    as_is: tuple[float, ...] = (),
    attacks: Mapping[str, tuple[float, ...]] | None = None,
    **fields: object,
) -> Row:
    """A row from accuracies in the order forget, retain, test-forgotten, test-retained."""
    found = {
        f"{name}/{split}": value
        for name, values in (attacks or {}).items()
        for split, value in zip(SPLITS, values, strict=False)
    }
    given = {"status": "ok", "split": SPLIT, "seed": 42, "backbone": {"class_path": "ResNet8"}} | fields
    return Row(method=method, metrics=dict(zip(SPLITS, as_is, strict=False)), attacks=found, **given)  # type: ignore[arg-type]


@pytest.fixture
def make_row() -> Callable[..., Row]:
    return _row


@pytest.fixture
def original() -> Row:
    return _row("Original", (0.93, 0.94, 0.91, 0.926), {"recovery/worst": (0.93, 0.94, 0.917, 0.92)})


@pytest.fixture
def retrain() -> Row:
    attacks = {"recovery/worst": (0.33, 0.93, 0.33, 0.92), "relearn": (0.25, 0.93, 0.24, 0.92)}
    return _row("Retrain", (0.0, 0.95, 0.0, 0.937), attacks, seconds={"unlearn": 200.0})


@pytest.fixture
def shallow() -> Row:
    attacks = {"recovery/worst": (0.9, 0.9, 0.91, 0.9), "relearn": (0.25, 0.93, 0.24, 0.92)}
    curves = {"forget_acc": [[0, 0.9], [1, 0.1]], "train_loss": [[0, 2.0], [1, 0.5]]}
    return _row("GA", (0.0, 0.93, 0.0, 0.92), attacks, curves=curves, seconds={"unlearn": 50.0})
