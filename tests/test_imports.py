"""What the command line costs to start, and who imports whom."""

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
def test_help_costs_little_more_than_importing_lightning() -> None:
    def seconds(*args: str) -> float:
        """Of processor time, which other processes do not lengthen as they do the time on the wall."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        python(*args)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    rounds = [(seconds("-c", "import lightning"), seconds("-m", "lit_unlearn", "--help")) for _ in range(2)]
    lightning, shown = (min(times) for times in zip(*rounds, strict=True))
    assert shown <= 1.5 * lightning


@pytest.mark.ci  # it measures time
def test_the_import_alone_takes_less_than_a_fifth_of_a_second() -> None:
    program = "import time; start = time.process_time(); import lit_unlearn; print(time.process_time() - start)"
    assert min(float(python("-c", program)) for _ in range(3)) < 0.2


def test_the_floors_of_the_house_hold() -> None:
    beside = Path(sys.executable).with_name("lint-imports")
    program = str(beside) if beside.exists() else shutil.which("lint-imports")
    if program is None:
        pytest.skip("import-linter is not installed")
    done = subprocess.run([program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
