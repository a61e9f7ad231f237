"""What is checked of the options of a run before anything is made, and what the Trainer itself refuses."""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

from lit_unlearn.errors import UsageError, check_at_least, check_seed

_AT_LEAST = {
    "trainer.accumulate_grad_batches": 1,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.gradient_clip_val": 0,
}


def check_values(given: Mapping[str, Any]) -> None:
    """Refuses values that Lightning or torch would take, or refuse at length.

    Raises:
        UsageError: naming option and value.
    """
    for option, value in given.items():
        if isinstance(value, float) and (math.isnan(value) or (option.endswith(".lr") and math.isinf(value))):
            raise UsageError(f"{option} is {value}, but must be finite")
    for option, least in _AT_LEAST.items():
        if isinstance(given.get(option), int | float):
            check_at_least(option, given[option], least)
    if isinstance(interval := given.get("trainer.val_check_interval"), int | float):
        check_at_least("trainer.val_check_interval", interval, 0, strict=True)
    seed = given.get("seed_everything")
    if not isinstance(seed, bool | None):
        check_seed("seed_everything", seed)
    if given.get("trainer.barebones"):
        raise UsageError("trainer.barebones is true, but a run needs the logger and the callbacks that it switches off")


@contextmanager
def refused_by_trainer(options: Mapping[str, Any]) -> Iterator[None]:
    """Says in one line what the Trainer refuses while the block makes it.

    Args:
        options: of the Trainer.

    Raises:
        UsageError: naming the option, as far as the Trainer names it, and the value.
    """
    try:
        yield
    except UsageError:
        raise
    except (ValueError, TypeError, MisconfigurationException) as error:
        said = " ".join(str(error).split())
        named = next((name for name in re.findall(r"`(\w+)", said) if name in options), None)
        raise UsageError(f"trainer.{named} is {options[named]!r}: {said}" if named else f"trainer: {said}") from error
