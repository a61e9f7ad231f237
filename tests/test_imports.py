"""What the command line costs to start, and who imports whom."""

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lit_unlearn import cli
from lit_unlearn.run_command import UnlearnCLI
from lit_unlearn.usage import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    "torchvision.datasets",
    "sklearn",
    "matplotlib",
    "timm",
    "jinja2",
    "scipy",
    "PIL.Image",
    "rich.table",
    "tensorboard",
)


def python(*args: str) -> str:
    return subprocess.run([sys.executable, *args], cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.ci
def test_the_command_line_imports_nothing_heavy_beyond_lightning() -> None:
    program = "import sys, lightning.pytorch.cli; before = set(sys.modules); import lit_unlearn.cli"
    extra = python("-c", f"{program}; print(*(set(sys.modules) - before), sep='\\n')").split()
    assert "lit_unlearn.methods" in extra
    assert {name for name in HEAVY if any(f"{found}.".startswith(f"{name}.") for found in extra)} == set()


@pytest.mark.ci  # it measures time
def test_the_command_line_costs_little_more_than_importing_lightning() -> None:
    def seconds(*args: str) -> float:
        """Of processor time, which other processes do not lengthen as they do the time on the wall."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        python(*args)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    rounds = [(seconds("-c", "import lightning"), seconds("-m", "lit_unlearn", "fit", "--help")) for _ in range(2)]
    lightning, shown = (min(times) for times in zip(*rounds, strict=True))
    assert shown <= 1.5 * lightning


def test_help_names_every_command_and_imports_nothing_large() -> None:
    shown = python("-m", "lit_unlearn", "--help")
    assert set(COMMANDS) == {*UnlearnCLI.subcommands(), *cli._COMMANDS}
    assert all(f"\n  {name} " in shown for name in COMMANDS)
    program = "import sys, lit_unlearn.__main__; print(*sys.modules, sep='\\n')"
    assert {"torch", "lightning", "jsonargparse", "numpy"}.isdisjoint(python("-c", program).split())


@pytest.mark.ci  # it measures time
def test_the_import_alone_takes_less_than_a_fifth_of_a_second() -> None:
    program = "import time; start = time.process_time(); import lit_unlearn; print(time.process_time() - start)"
    assert min(float(python("-c", program)) for _ in range(3)) < 0.2


def test_without_a_command_the_usage_is_shown_as_an_error() -> None:
    done = subprocess.run([sys.executable, "-m", "lit_unlearn"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: lit-unlearn COMMAND")


def test_the_floors_of_the_house_hold() -> None:
    beside = Path(sys.executable).with_name("lint-imports")
    program = str(beside) if beside.exists() else shutil.which("lint-imports")
    if program is None:
        pytest.skip("import-linter is not installed")
    done = subprocess.run([program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
