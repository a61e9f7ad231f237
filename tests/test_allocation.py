"""The allocator keeps what a step frees."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from lit_unlearn.allocation import keep_freed_memory

print({keeps})
for _ in range(2):  # the first round takes the memory
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's allocator that hands memory back")


def faults(keeps: str, **environment: str) -> tuple[bool, int]:
    """What the program prints, and how many pages of 5 tensors of 64 MiB, one after the other, were asked for anew."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", PROGRAM.format(keeps=keeps)]
    done = subprocess.run(command, env=ours | environment, capture_output=True, text=True, check=True)
    kept, count = done.stdout.split()
    return kept == "True", int(count)


@glibc
def test_what_is_freed_is_used_again() -> None:
    kept, count = faults("keep_freed_memory()")
    assert kept
    _, without = faults("False")
    assert count < 1000 < without  # a tensor has 16,384 pages; up to 32 MiB glibc learns to keep them by itself


@glibc
def test_the_environment_comes_first() -> None:
    kept, _ = faults("keep_freed_memory()", MALLOC_MMAP_THRESHOLD_="4096")
    assert not kept
