"""Runs functions in processes of their own, forked from a server that has imported the package once and has no threads.

Starting an interpreter that imports torch and Lightning costs seconds; a fork of one that has done so costs nothing.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from lit_unlearn.methods import callbacks

Job = Callable[[Path], Any]
"""From a folder of the test's own to something that ``torch.save`` can write as plain values."""

_SECONDS = 240


def together(job: Job, folder: Path, world: int) -> list[Any]:
    """What a job returns on each of ``world`` processes, which find each other as those of torchrun do."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [folder / f"{rank}-of-{world}" for rank in range(world)]
    started = []
    for rank, place in enumerate(ranks):
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
        started.append(start(job, folder, place, {**own, **meeting} if world > 1 else {}))
    _wait(started)
    for process, place in zip(started, ranks, strict=True):
        assert process.exitcode == 0, place.with_suffix(".log").read_text()
    return [torch.load(place.with_suffix(".pt"), weights_only=True) for place in ranks]


def start(job: Job, folder: Path, place: Path, environment: Mapping[str, object]) -> BaseProcess:
    """Begins a job; ``<place>.log`` takes what it says, ``<place>.pt`` what it returns."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["lit_unlearn.cli", "torch.distributed.nn", "sklearn.svm", "sklearn.linear_model"])
    process = context.Process(target=_run, args=(job, folder, place, environment), daemon=True)
    process.start()
    return process


def _wait(started: list[BaseProcess]) -> None:
    """Waits for all, but for none once one has failed: the others would wait for it."""
    deadline = time.monotonic() + _SECONDS
    try:
        while any(process.exitcode is None for process in started):
            if any(process.exitcode for process in started) or time.monotonic() > deadline:
                return
            time.sleep(0.02)
    finally:
        for process in started:
            process.kill()
            process.join()


def _run(job: Job, folder: Path, place: Path, environment: Mapping[str, object]) -> None:
    with place.with_suffix(".log").open("w", buffering=1) as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    os.environ.pop("PL_GLOBAL_SEED", None)
    os.environ.update({name: str(value) for name, value in environment.items()})
    os.chdir(folder)
    torch.set_num_threads(1)
    callbacks.faster_format = lambda *_: "contiguous"  # as in the process of a test
    torch.save(job(folder), place.with_suffix(".pt"))
