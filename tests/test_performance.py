"""The scripts in performance: they run, and keep what they measured in its place on the page."""

import importlib
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "performance"
FASHION = Path("/usr/share/datasets/fashion-mnist")
TABLE = """# Speed

| What | Against | Plain | lit_unlearn | Ratio | Wanted | On |
|---|---|---|---|---|---|---|
| one | a | 1 s | 2 s | 2 × |  | here |
| two | a |  |  | not measured |  | GPU |

Text | with a bar.

| Network | Images |
|---|---|
| another table | 3 |
"""


@pytest.fixture
def script(monkeypatch):
    """A module of the folder; its number of threads is not kept."""
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    torch.set_num_threads(threads)


def result(script, what, on, against="a"):
    return script("measuring").Result(what, against, "3 s", "1 s", 1 / 3, "≤ 1", on)


@pytest.mark.parametrize(
    ("what", "on", "line", "kept"),
    [("one", "here", 4, 1), ("one", "there", 5, 2), ("two", "GPU", 5, 1), ("three", "here", 6, 0)],
)
def test_a_row_takes_the_place_of_the_same_measure_on_the_same_machine(script, what, on, line, kept):
    page = script("measuring").with_row(TABLE, result(script, what, on))
    lines = page.splitlines()
    assert lines[line] == f"| {what} | a | 3 s | 1 s | 0.333 × | ≤ 1 | {on} |"
    assert page.count(f"| {what} |") == max(kept, 1)
    others = [text for text in TABLE.splitlines() if not text.startswith(f"| {what} |")]
    assert [text for text in lines if not text.startswith(f"| {what} |")] == others


def test_a_row_against_something_else_is_another_row(script):
    page = script("measuring").with_row(TABLE, result(script, "one", "here", "b"))
    assert [line[:12] for line in page.splitlines() if line.startswith("| one |")] == ["| one | a | ", "| one | b | "]


def test_a_page_without_a_table_is_refused(script):
    with pytest.raises(ValueError, match="no table"):
        script("measuring").with_row("# Speed\n", result(script, "one", "here"))


def test_a_trial_is_not_kept(script, capsys):
    with pytest.raises(SystemExit):
        script("pipeline").main(["--trial", "--write"])
    assert "--write keeps a measurement, which a --trial is not" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("allocation", marks=pytest.mark.ci),
        "formats",
        "pipeline",
        "streaming",
        "inversion",
        "recovery",
        pytest.param("epoch", marks=pytest.mark.slow),
    ],
)
def test_a_trial_prints_a_row(script, capsys, name):
    if name == "epoch" and not FASHION.is_dir():
        pytest.skip("no Fashion-MNIST here")
    script(name).main(["--trial"])
    row = capsys.readouterr().out.splitlines()[-1].strip("| ").split(" | ")
    assert len(row) == 7
    assert float(row[4].removesuffix(" ×")) > 0


def test_a_trial_of_mixed_precision_prints_a_line(script, capsys):
    script("mixed").main(["--trial"])
    network, batch, _, *ratios = capsys.readouterr().out.splitlines()[-1].strip("| ").split(" | ")
    assert (network, batch) == ("ViT", "4")
    assert len(ratios) == 2
    assert min(map(float, ratios)) > 0


def test_the_figures_of_a_gpu_take_less_than_nine_minutes(script, monkeypatch, capsys):
    """Each script has its share; what takes longer is stopped and named, and nothing begins after the end."""
    module = script("on_gpu")
    assert all((FOLDER / name.split()[0]).is_file() for name, _ in module.SCRIPTS)
    assert sum(share for _, share in module.SCRIPTS) <= module.SECONDS < 540
    clock, ran = [0.0], []

    def run(command, timeout, check):
        ran.append((Path(command[1]).name, *command[2:]))
        clock[0] += timeout if "suite.py" in command[1] else 60
        if "suite.py" in command[1]:
            raise module.subprocess.TimeoutExpired(command, timeout)
        return module.subprocess.CompletedProcess(command, int("compiled" in command[1]))

    monkeypatch.setattr(module.subprocess, "run", run)
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    missed = module.main(["--write"])
    assert clock[0] < 600
    assert ran[0] == ("epoch.py", "--device", "cuda", "--write")
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "epoch.py: 60 s"
    assert told[1] == "suite.py: stopped after 70 s"
    assert told[3] == "compiled.py: failed with status 1 after 60 s"
    assert told[-1] == "inversion.py: no time left"
    assert missed == 2 + sum("no time left" in line for line in told)
