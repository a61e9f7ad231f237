"""Memory that a step frees stays with the process, so that the next step need not ask the kernel for it again.

glibc hands large blocks back as soon as they are free, and every page that is asked for anew costs a page fault. A step
of training on a CPU frees and allocates the same blocks again and again (docs/performance.md has measurements).
"""

import ctypes
import os
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Names of ``mallopt`` in glibc's malloc.h."""

_MOST_KEPT = 2**31 - 1
"""Bytes that may lie free at the end of the heap: the largest number that ``mallopt`` takes."""


def keep_freed_memory() -> bool:
    """Tells the allocator of this process to keep what is freed, for all that it allocates from now on.

    Returns:
        Whether it does: not where the allocator is another than glibc's, or the environment has settings of its own
        (``MALLOC_…`` or ``GLIBC_TUNABLES``).
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    option = ctypes.CDLL(None).mallopt
    return bool(option(_MMAP_MAX, 0)) and bool(option(_TRIM_THRESHOLD, _MOST_KEPT))
