"""Runs the command line in the process of a test."""

import contextlib
import io
import logging
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from lightning.pytorch.utilities import rank_zero_only
from lightning_utilities.core import rank_zero

from lit_unlearn.cli import main
from lit_unlearn.shipped import read_config, shipped_names


@dataclass
class Outcome:
    status: int
    out: str
    err: str
    log: str


BASES = {
    ("digits", "class"): "base/digits_class",
    ("digits", "random"): "base/digits_random",
    ("fashion_mnist", "class"): "base/fashion_mnist_class",
    ("fashion_mnist", "random"): "base/fashion_mnist_memorised",
}
SETTINGS = {
    ("digits", "class"): "tuned/digits",
    ("digits", "random"): "experiments/digits",  # not searched yet
    ("fashion_mnist", "class"): "tuned/fashion_mnist_attack",
    ("fashion_mnist", "random"): "tuned/fashion_mnist_attack",
}


def experiment(method: str, data: str = "digits", scenario: str = "class") -> list[str]:
    """The words that compose an experiment: its base, its reference where there is one, and its tuned values."""
    settings = SETTINGS[data, scenario]
    section = method if method in read_config(settings) else f"{scenario}/{method}"
    reference = [f"model/{method}"] if f"model/{method}" in shipped_names() else []
    names = [BASES[data, scenario], *reference, f"{settings}#{section}"]
    return [word for name in names for word in ("--config", name)]


def lit_unlearn(folder: Path, *args: object) -> Outcome:
    """Runs the command line in this process, in a folder, as if alone in it."""
    out, err, log = io.StringIO(), io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(log)
    logger = logging.getLogger("lightning.pytorch")
    logger.addHandler(handler)
    said = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    status = 0
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        patch.object(sys, "argv", ["lit-unlearn"]),
        patch.object(rank_zero_only, "rank", 0),  # whatever tests before this one have left
        patch.object(rank_zero, "log", said),
        patch.object(said, "disabled", False),
        patch.object(said, "propagate", True),
        patch.object(said, "level", logging.NOTSET),
        patch.object(logger, "disabled", False),
        patch.dict(os.environ),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        level = logger.level
        logging.disable(logging.NOTSET)
        logger.setLevel(logging.INFO)  # which also forgets what was found to be enabled before
        os.environ.pop("PL_GLOBAL_SEED", None)
        try:
            main([str(arg) for arg in args])
        except SystemExit as exit:
            status = int(exit.code or 0)
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
    return Outcome(status, out.getvalue(), err.getvalue(), log.getvalue())
