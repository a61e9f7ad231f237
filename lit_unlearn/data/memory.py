"""How much memory is free on this machine, and how many processes share it."""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_MEMINFO, _OWN_GROUPS, _GROUPS = "/proc/meminfo", "/proc/self/cgroup", "/sys/fs/cgroup"
_LIMIT_AND_USED = {
    "": ("memory.max", "memory.current"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes"),
}
"""Controllers, as ``/proc/self/cgroup`` names them, of the second and the first version of control groups → files."""


def free_memory() -> int:
    """Bytes that this process may still take, of machine and container; where they are unknown, all of the machine."""
    found = list(_of_groups())
    for line in _lines(_MEMINFO):
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    return max(0, min(found, default=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))


def local_processes() -> int:
    """How many processes of this run share this machine, as torchrun, Lightning or Slurm say; 1 where none does.

    Lightning says how many there are on all machines, which is more than needed only where it starts several by itself.
    """
    launched = os.environ.get("WORLD_SIZE") if "LOCAL_RANK" in os.environ else None
    for told in (os.environ.get("LOCAL_WORLD_SIZE"), launched, os.environ.get("SLURM_STEP_TASKS_PER_NODE")):
        if told and (number := re.match(r"\d+", told)):  # Slurm's may be 8(x2)
            return max(1, int(number[0]))
    return 1


def _of_groups() -> Iterator[int]:
    """What is left in the control group of this process and in each around it."""
    own = dict.fromkeys(_LIMIT_AND_USED, "/")
    for line in _lines(_OWN_GROUPS):
        _, controllers, path = line.split(":", 2)
        own |= {name: path for name in controllers.split(",") if name in own}
    for controller, path in own.items():
        mounted = PurePosixPath(_GROUPS, controller)
        inner = mounted / path.strip("/")
        for folder in (inner, *inner.parents) if ".." not in inner.parts else (mounted,):
            limit, used = (_lines(f"{folder}/{name}") for name in _LIMIT_AND_USED[controller])
            if limit and used and limit[0].isdigit():
                yield int(limit[0]) - int(used[0])


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
