"""The sdist and the wheel: what is in them, and that the installed wheel works away from the checkout."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from lit_unlearn import __version__

ROOT = Path(__file__).resolve().parents[1]
NEEDED = {
    *(f"lit_unlearn/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.*")),
    *("lit_unlearn/py.typed", "lit_unlearn/checkpoints/manifest.json", "lit_unlearn/checkpoints/digits_resnet8.pt"),
    *(str(path.relative_to(ROOT)) for end in ("j2", "css", "js") for path in (ROOT / "lit_unlearn").rglob(f"*.{end}")),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment with the wheel; what it depends on is lent by this one."""
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    (wheel,) = built.glob("*.whl")
    install = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(install, check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def run(program: Path, *words: object, folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(program), *map(str, words)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_wheel_has_what_is_read_at_run_time_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert len(NEEDED) >= 7
    assert names >= NEEDED
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "lit_unlearn").rglob("*.py")}
    assert names >= modules
    info = f"lit_unlearn-{__version__}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"lit_unlearn", info}
    assert f"{info}/licenses/LICENSE" in names
    assert not [name for name in names if name.endswith(".pyc") or "__pycache__" in name]


@pytest.mark.slow
def test_the_sdist_has_the_tests_the_configs_and_the_papers(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= {"LICENSE", "CITATION.cff", "README.md", "CHANGELOG.md", "pyproject.toml", "tests/conftest.py"}
    assert names >= {"configs/quickstart.yaml", "checkpoints/manifest.json", "docs/benchmark.md"}
    assert not [name for name in names if name.startswith((".", "runs")) and name != ".gitignore"]


@pytest.mark.slow
def test_the_installed_wheel_runs_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    where = run(installed / "python", "-c", "import lit_unlearn; print(lit_unlearn.__file__)", folder=tmp_path)
    assert Path(where.splitlines()[-1]).is_relative_to(installed.parent)
    assert "usage: lit-unlearn" in run(installed / "lit-unlearn", "--help", folder=tmp_path)
    printed = run(installed / "lit-unlearn", "fit", "--config", "quickstart", "--print_config", folder=tmp_path)
    assert "class_path: lit_unlearn.OPC" in printed
    assert not list(tmp_path.iterdir())
    fit = ("fit", "--config", "quickstart", "--trainer.max_epochs=1", "--trainer.accelerator=cpu")
    run(installed / "lit-unlearn", *fit, folder=tmp_path)
    assert (tmp_path / "runs/OPC/version_0/report.html").stat().st_size > 10_000
    rows = ROOT / "docs/results/digits/rows.json"
    run(installed / "lit-unlearn", "report", rows, "--html", "leaderboard.html", folder=tmp_path)
    assert (tmp_path / "leaderboard.html").stat().st_size > 10_000
