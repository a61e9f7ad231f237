"""What all rows of a run have in common: data, seed, devices, versions and commit, so that it can be repeated."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from lit_unlearn import __version__

_CPUINFO = Path("/proc/cpuinfo")
_VERSIONS = ("torchvision", "lightning", "torchmetrics", "numpy", "scikit-learn")


def run_metadata(trainer: Trainer, started: str, suite: str | None = None) -> dict[str, Any]:
    """What all rows of a run have in common.

    Args:
        trainer: of the run.
        started: ISO time in UTC.
        suite: name and version of the suite of attacks.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    seed = os.environ.get("PL_GLOBAL_SEED")
    accelerator = type(trainer.accelerator).__name__.removesuffix("Accelerator").lower()
    return {
        "data": data.describe(),
        "split": data.split.describe(),
        "seed": int(seed) if seed is not None else None,
        "batch_size": {
            "per_device": data.batch_size,
            "forget_per_device": data.forget_batch_size or data.batch_size,
            "global": data.batch_size * trainer.world_size * trainer.accumulate_grad_batches,
        },
        "devices": {
            "accelerator": accelerator,
            "name": device_name(trainer.strategy.root_device),  # its kernels round in their own way
            "devices": trainer.num_devices,
            "nodes": trainer.num_nodes,
            "threads": torch.get_num_threads(),  # on a CPU, sums and so results depend on it
        },
        "precision": str(trainer.precision),
        "versions": {
            "lit_unlearn": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),  # with its build, such as +cu124, which a package's metadata may lack
            **{name: version(name) for name in _VERSIONS},
            **({"suite": suite} if suite else {}),
        },
        "commit": _commit(),
        "started": started,
    }


def device_name(device: torch.device) -> str:
    """The name of a GPU; of a processor its name, family and model, as far as the system tells them."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    try:
        lines = _CPUINFO.read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    known = (("model name", ""), ("cpu family", "family "), ("model", "model "))
    return ", ".join(word + told[name] for name, word in known if told.get(name)) or platform.machine()


def _commit() -> str | None:
    """The commit of the checkout that this package runs from, with a mark if it has changes; None when installed."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    lines = []
    for command in (["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        lines.append(done.stdout.strip())
    head, changes = lines
    return head + ("+changes" if changes else "")
