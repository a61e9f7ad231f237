"""A Slurm for all tests of this folder, and somebody who works on it."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_here import Slurm, Unavailable, User, unpack


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    try:
        packages = unpack()
    except Unavailable as error:
        pytest.skip(str(error))
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a short path: it holds a socket
    cluster = Slurm(folder, packages)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def user(slurm: Slurm, tmp_path: Path) -> User:
    return User(slurm, tmp_path)
