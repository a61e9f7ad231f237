import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import fake_runs
import pytest
import yaml

from lit_unlearn.benchmark import Grid, Launcher, Seeds, execute, make_cells
from lit_unlearn.benchmark.gathering import collect
from lit_unlearn.errors import UsageError
from lit_unlearn.reports import read_rows, write_rows


def go(cells, root, workers=2):
    told = []
    failed = execute(cells, root, fake_runs.run, Launcher(workers), lambda p: told.append((p.done, tuple(p.running))))
    return failed, told


def test_every_cell_runs_once_and_its_rows_are_gathered(experiments, tmp_path):
    cells = make_cells(Grid(str(experiments(opc={}, ga={})), seeds=Seeds(originals=2)))
    failed, told = go(cells, tmp_path)
    assert failed == {}
    assert told[-1] == (len(cells), ())
    assert max(len(running) for _, running in told) == 2
    assert Counter((tmp_path / "journal").read_text().split()) == {cell.key: 1 for cell in cells}
    rows = read_rows(tmp_path / "rows.json")
    assert [(r.method, r.benchmark["scenario"], r.benchmark["seeds"]["original"]) for r in rows] == [
        (method, scenario, seed)
        for seed in (0, 1)
        for scenario in ("class", "random")
        for method in ("Original", "Retrain", "GA", "OPC")
    ]
    assert all(row.seconds == {"unlearn": 1.5, "attack": 2.0} for row in rows)
    assert all(row.epochs == 3 for row in rows)


def test_finished_cells_are_not_run_again_even_if_only_their_rows_are_left(experiments, tmp_path):
    folder = experiments(opc={}, ga={})
    cells = make_cells(Grid(str(folder)))
    go(cells, tmp_path / "a")
    before = (tmp_path / "a/journal").read_text()
    go(cells, tmp_path / "a")
    assert (tmp_path / "a/journal").read_text() == before
    write_rows(tmp_path / "b/rows.json", read_rows(tmp_path / "a/rows.json"))
    go(cells, tmp_path / "b")
    assert not (tmp_path / "b/journal").exists()
    settings = yaml.safe_load((folder / "class/opc.yaml").read_text())
    settings["model"]["init_args"]["weight"] = 2
    (folder / "class/opc.yaml").write_text(yaml.safe_dump(settings))
    changed = make_cells(Grid(str(folder)))
    go(changed, tmp_path / "b")
    again = {
        cell.key for cell in changed if cell.scenario in ("", "class") and cell.name in ("pretrain", "retrain", "opc")
    }
    assert set((tmp_path / "b/journal").read_text().split()) == again
    rows = read_rows(tmp_path / "b/rows.json")
    assert len(rows) == 8
    assert {row.benchmark["key"] for row in rows} == {c.key for c in changed if c.reports}


def test_a_run_that_fails_is_told_and_tried_again_and_the_others_go_on(experiments, tmp_path):
    folder = experiments(("class",), opc={"wish": "fail"}, ga={})
    cells = make_cells(Grid(str(folder)))
    failed, _ = go(cells, tmp_path)
    key, attack = (cell.key for cell in cells if cell.name == "opc")
    why = f"as it was told (see {tmp_path}/class/opc/run-{key}/log.txt)"
    assert failed == {key: why, attack: f"what it needs has failed: {key}"}
    assert "ValueError" in (tmp_path / f"class/opc/run-{key}/log.txt").read_text()
    assert [row.method for row in read_rows(tmp_path / "rows.json")] == ["Original", "Retrain", "GA"]
    assert go(cells, tmp_path)[0] == failed


def test_what_builds_on_a_failed_cell_is_not_run(experiments, tmp_path):
    folder = experiments(("class",), opc={})
    settings = yaml.safe_load((folder / "class/retrain.yaml").read_text())
    settings["model"]["init_args"]["wish"] = "fail"
    (folder / "class/retrain.yaml").write_text(yaml.safe_dump(settings))
    cells = make_cells(Grid(str(folder)))
    failed, _ = go(cells, tmp_path)
    lost = [(cell.name, failed[cell.key].partition(":")[0]) for cell in cells if cell.key in failed]
    assert lost[0][0] == "retrain"
    assert lost[1:] == [(name, "what it needs has failed") for name in ("yardsticks", "opc")]


def test_a_worker_that_is_killed_is_replaced_and_a_cell_that_kills_two_has_failed(experiments, tmp_path):
    cells = make_cells(Grid(str(experiments(("class",), opc={"wish": "die once"}, ga={}))))
    assert go(cells, tmp_path / "a")[0] == {}
    cells = make_cells(Grid(str(experiments(("class",), opc={"wish": "die"}, ga={}))))
    failed, _ = go(cells, tmp_path / "b", workers=1)
    key, attack = (cell.key for cell in cells if cell.name == "opc")
    assert failed == {key: "its process was killed", attack: f"what it needs has failed: {key}"}
    assert [row.method for row in read_rows(tmp_path / "b/rows.json")] == ["Original", "Retrain", "GA"]


def killed_at_random(folder: Path, output: Path, times: int, seed: int) -> None:
    """Runs the grid in a process of its own, killed so many times, and then to its end."""
    draw = random.Random(seed)
    command = [sys.executable, fake_runs.__file__, str(folder), str(output)]
    for _ in range(times):
        process = subprocess.Popen(command, start_new_session=True)
        time.sleep(draw.uniform(1.5, 6))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True)


def test_kill_9_loses_no_row_and_runs_nothing_that_was_finished_twice(experiments, tmp_path):
    folder = experiments(opc={"pause": 0.3}, ga={"pause": 0.3}, ft={"pause": 0.3})
    killed_at_random(folder, tmp_path / "out", times=3, seed=0)
    cells = make_cells(Grid(str(folder), seeds=Seeds(originals=2)))
    assert len(read_rows(tmp_path / "out/rows.json")) == 2 * 2 * 5
    runs = Counter((tmp_path / "out/journal").read_text().split())
    assert set(runs.values()) == {1}
    assert runs.keys() <= {cell.key for cell in cells}
    assert not list((tmp_path / "out").rglob("*.part"))


def test_a_run_that_diverged_is_a_row_and_is_not_attacked(experiments, tmp_path):
    cells = make_cells(Grid(str(experiments(("class",), opc={"wish": "diverge"}, ga={}))))
    assert go(cells, tmp_path)[0] == {}
    rows = read_rows(tmp_path / "rows.json")
    assert [(row.method, row.status) for row in rows] == [
        ("Original", "ok"), ("Retrain", "ok"), ("GA", "ok"), ("OPC", "diverged"),
    ]  # fmt: skip
    before = (tmp_path / "journal").read_text()
    assert len(before.split()) == len(cells) - 1
    go(cells, tmp_path)
    assert (tmp_path / "journal").read_text() == before


def test_a_run_that_was_interrupted_has_not_ended(experiments, tmp_path):
    cells = make_cells(Grid(str(experiments(("class",), opc={"wish": "interrupted once"}))))
    failed, _ = go(cells, tmp_path)
    assert [cell.reports for cell in cells if cell.key in failed] == [False, True]
    assert go(cells, tmp_path)[0] == {}
    runs = Counter((tmp_path / "journal").read_text().split())
    assert [runs[cell.key] for cell in cells] == [1, 1, 1, 2, 1]
    assert {row.status for row in read_rows(tmp_path / "rows.json")} == {"ok"}


def test_two_benchmarks_cannot_work_in_one_folder(experiments, tmp_path):
    cells = make_cells(Grid(str(experiments(("class",), opc={}))))

    def tell(progress):
        with pytest.raises(UsageError, match="another benchmark is at work"):
            go(cells, tmp_path)

    execute(cells, tmp_path, fake_runs.run, Launcher(), tell)


def test_a_broken_rows_file_is_told_and_left_alone(experiments, tmp_path):
    cells = make_cells(Grid(str(experiments(("class",), opc={}))))
    (tmp_path / "rows.json").write_text("{")
    with pytest.raises(UsageError, match=r"rows\.json: not JSON"):
        go(cells, tmp_path)
    assert (tmp_path / "rows.json").read_text() == "{"


def test_a_row_of_a_cell_that_stands_elsewhere_stays(experiments, tmp_path):
    folder = str(experiments(opc={}, ga={}))
    go(make_cells(Grid(folder)), tmp_path)
    rows = collect(make_cells(Grid(folder, methods=["opc"], scenarios=["class"])), tmp_path)
    assert len(rows) == 8


@pytest.mark.parametrize("launcher", [{"workers": 0}, {"threads": 0}])
def test_a_launcher_out_of_range_is_one_line(launcher):
    with pytest.raises(UsageError, match="must be at least 1"):
        Launcher(**launcher)
