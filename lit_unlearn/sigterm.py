"""SIGTERM while models are attacked: Lightning only notes it, for the loop that trains."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.utilities.exceptions import SIGTERMException


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the block at once, where the process has a handler that would go on; that handler is called first.

    Raises:
        SIGTERMException: as Lightning does in its loops.
    """
    before = signal.getsignal(signal.SIGTERM)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: Any) -> None:
        before(number, frame)
        raise SIGTERMException

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
