"""Lines of Lightning and Pillow that would mislead a user of this package, each with the reason why it is left out."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch.utilities import rank_zero_only

_LOGGER = "lightning.pytorch.utilities.rank_zero"
_PROGRESS = logging.getLogger(f"{_LOGGER}.progress")
"""Below Lightning's own, so that its lines go where that one's go, and can be kept where those are left out."""

_WARNINGS = (
    ".*isinstance.treespec, LeafSpec.*",  # Lightning 2.6 on torch 2.13: about its own code
    # Accuracies are those of all processes; curves of training are of the first one's share, which costs no exchange.
    r"It is recommended to use `self\.log\(.*sync_dist=True",
    "Found .* in eval mode at the start",  # frozen teachers should be, and the student is put into train mode
    "`torch.jit.script` is ",  # torch 2.15, of its own code: forward differentiation of gradient inversion asks for it
    "Image size .* exceeds limit",  # from half of the pixels on that Pillow refuses; what it refuses is told by name
)


def leave_out_known_lines() -> None:
    """Filters these warnings and Lightning's tips, once however often it is called."""
    logging.getLogger(_LOGGER).addFilter(_no_tip)  # the same filter is added once
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message=message)


@rank_zero_only
def tell_progress(line: str) -> None:
    """Prints, on one process, what a run of attacks is at."""
    _PROGRESS.info(line)


@contextmanager
def warnings_alone(progress: bool) -> Iterator[None]:
    """Leaves out what Lightning and this package print about the course of a run, but no warning.

    Args:
        progress: whether the lines of :func:`tell_progress` are kept.
    """
    levels = {logging.getLogger(_LOGGER): logging.WARNING, _PROGRESS: logging.INFO if progress else logging.WARNING}
    before = {logger: logger.level for logger in levels}
    for logger, level in levels.items():
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)


def _no_tip(record: logging.LogRecord) -> bool:
    return "Tip:" not in record.getMessage()
