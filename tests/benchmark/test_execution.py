import json
import lzma
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from multiprocessing import active_children, get_context
from pathlib import Path

import fake_runs
import pytest
import yaml

from lit_unlearn.benchmark import Grid, Launcher, Seeds, execute, local, make_runs
from lit_unlearn.benchmark.execution import _start_ready
from lit_unlearn.benchmark.failures import failures, with_failures
from lit_unlearn.benchmark.gathering import Gathered, collect, finished
from lit_unlearn.benchmark.local import visible_gpus
from lit_unlearn.benchmark.reading import read_all
from lit_unlearn.benchmark.summary import summarise
from lit_unlearn.errors import UsageError
from lit_unlearn.reports import Row, read_rows, write_rows


def go(runs, root, workers=2):
    seen = []
    failed = execute(runs, root, fake_runs.run, Launcher(workers), lambda p: seen.append((p.done, tuple(p.running))))
    return failed, seen


def change(grid, sections):
    """Adds sections to the experiments file of a grid."""
    path = Path(grid["experiments"])
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | sections))


def test_every_run_is_executed_once_and_its_rows_are_gathered(experiments, tmp_path):
    runs = make_runs(Grid(**experiments(opc={}, ga={}), seeds=Seeds(originals=2)))
    failed, seen = go(runs, tmp_path)
    assert failed == {}
    assert seen[-1] == (len(runs), ())
    assert max(len(running) for _, running in seen) == 2
    assert Counter((tmp_path / "journal").read_text().split()) == {run.key: 1 for run in runs}
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
    runs = make_runs(Grid(**folder))
    go(runs, tmp_path / "a")
    before = (tmp_path / "a/journal").read_text()
    go(runs, tmp_path / "a")
    assert (tmp_path / "a/journal").read_text() == before
    write_rows(tmp_path / "b/rows.json", read_rows(tmp_path / "a/rows.json"))
    go(runs, tmp_path / "b")
    assert not (tmp_path / "b/journal").exists()
    section = {"model": {"class_path": "OPC", "init_args": {"weight": 2}}, "trainer": {"max_epochs": 2}}
    change(folder, {"class": {"opc": section}})
    changed = make_runs(Grid(**folder))
    go(changed, tmp_path / "b")
    again = {r.key for r in changed if r.scenario in ("", "class") and r.name in ("pretrain", "retrain", "opc")}
    assert set((tmp_path / "b/journal").read_text().split()) == again
    rows = read_rows(tmp_path / "b/rows.json")
    assert len(rows) == 8
    assert {row.benchmark["key"] for row in rows} == {c.key for c in changed if c.reports}


def test_each_run_has_one_device_whatever_the_machine_has(experiments, tmp_path):
    runs = make_runs(Grid(**experiments(("class",), opc={})))
    assert {run.config(tmp_path)["trainer"]["devices"] for run in runs} == {1}
    assert all("devices" not in run.settings["trainer"] for run in runs), "the key stays"


@pytest.mark.parametrize(("named", "gpus"), [("GPU-a,GPU-b", ["GPU-a", "GPU-b"]), (None, ["0", "1"]), ("", [])])
def test_workers_take_the_gpus_in_turn(monkeypatch, named, gpus):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0 if named == "" else 2)
    there = visible_gpus()
    assert there == gpus
    monkeypatch.setattr(local, "_exit_with_benchmark", lambda reader: None)
    begun, given = get_context("spawn").Value("i", 0), []
    for _ in range(3):
        local._begin_worker(None, begun, there)
        given.append(os.environ.get("CUDA_VISIBLE_DEVICES"))
    assert given == ([gpus[0], gpus[1], gpus[0]] if gpus else [named] * 3)


def test_rows_are_written_while_runs_go_on_and_not_after_each_of_them(experiments, tmp_path, monkeypatch):
    written, write = [], Gathered.write
    monkeypatch.setattr(Gathered, "write", lambda self, runs: written.append(len(self.ordered())) or write(self, runs))
    runs = make_runs(Grid(**experiments(("class",), opc={}, ga={})))
    assert go(runs, tmp_path)[0] == {}
    assert written == [0, 4], "at the beginning and at the end, since the runs between take no time"
    monkeypatch.setattr("lit_unlearn.benchmark.execution._LEAST_SECONDS", 0.0)
    again = make_runs(Grid(**experiments(("class",), opc={"pause": 1}, ga={"pause": 1})))
    assert go(again, tmp_path / "slow")[0] == {}
    assert len(written) > 4
    assert written[-1] == 4


def test_a_run_that_fails_is_told_and_tried_again_and_the_others_go_on(experiments, tmp_path):
    folder = experiments(("class",), opc={"wish": "fail"}, ga={})
    runs = make_runs(Grid(**folder))
    failed, _ = go(runs, tmp_path)
    key, attack = (run.key for run in runs if run.name == "opc")
    why = f"as it was told (see {tmp_path}/class/opc/run-{key}/log.txt)"
    assert failed == {key: why, attack: f"what it needs has failed: {key}"}
    assert "ValueError" in (tmp_path / f"class/opc/run-{key}/log.txt").read_text()
    assert [row.method for row in read_rows(tmp_path / "rows.json")] == ["Original", "Retrain", "GA"]
    assert go(runs, tmp_path)[0] == failed


def test_what_builds_on_a_failed_cell_is_not_run(experiments, tmp_path):
    folder = experiments(("class",), opc={})
    change(folder, {"retrain": {"model": {"init_args": {"wish": "fail"}}}})
    runs = make_runs(Grid(**folder))
    failed, _ = go(runs, tmp_path)
    lost = [(run.name, failed[run.key].partition(":")[0]) for run in runs if run.key in failed]
    assert lost[0][0] == "retrain"
    assert lost[1:] == [(name, "what it needs has failed") for name in ("references", "opc")]


def test_a_failed_model_of_a_pool_fails_no_attack_but_its_own(experiments, tmp_path):
    """As one that diverged: the others are attacked with the rest of the pool."""

    class Full:
        has_room, running = False, {}

    given_up = {}
    for pool in (True, False):
        runs = make_runs(Grid(**experiments(("class",), opc={}, ga={}), seeds=Seeds(originals=2), pool=pool))
        (lost,) = (run for run in runs if run.name == "retrain" and run.seeds["original"] == 1)
        waiting = {run.key: run for run in runs if run.reports}
        failed = {lost.key: "out of memory"}
        _start_ready(waiting, failed, Full(), tmp_path, {})
        given_up[pool] = sorted((run.name, run.seeds["original"]) for run in runs if run.key in failed and run.reports)
    assert given_up[True] == given_up[False] == [("ga", 1), ("opc", 1), ("references", 1)]


def test_a_run_whose_results_cannot_be_read_is_executed_again_and_ends_nothing(experiments, tmp_path):
    runs = make_runs(Grid(**experiments(("class",), opc={})))
    assert go(runs, tmp_path)[0] == {}
    (damaged,) = (run for run in runs if run.name == "opc" and run.subcommand == "fit")
    for content in ('{"rows": [', '{"format": "lit_unlearn results", "version": 1, "rows": [{"method": "OPC"}]}'):
        (tmp_path / damaged.folder / "results.json").write_text(content)
        (tmp_path / "rows.json").unlink()
        assert go(runs, tmp_path)[0] == {}
        assert [row.method for row in read_rows(tmp_path / "rows.json")] == ["Original", "Retrain", "OPC"]


def test_a_worker_that_is_killed_is_replaced_and_a_cell_that_kills_two_has_failed(experiments, tmp_path):
    runs = make_runs(Grid(**experiments(("class",), opc={"wish": "die once"}, ga={})))
    assert go(runs, tmp_path / "a")[0] == {}
    runs = make_runs(Grid(**experiments(("class",), opc={"wish": "die"}, ga={})))
    failed, _ = go(runs, tmp_path / "b", workers=1)
    key, attack = (run.key for run in runs if run.name == "opc")
    assert failed == {key: "its process was killed", attack: f"what it needs has failed: {key}"}
    assert [row.method for row in read_rows(tmp_path / "b/rows.json")] == ["Original", "Retrain", "GA"]


def test_a_run_beside_one_that_kills_its_process_is_tried_again_alone(experiments, tmp_path):
    folder = experiments(("class",), opc={"wish": "die beside it"})
    change(folder, {"retrain": {"model": {"init_args": {"wish": "ignore SIGTERM", "pause": 2}}}})
    runs = make_runs(Grid(**folder))
    failed, seen = go(runs, tmp_path)
    key, attack = (run.key for run in runs if run.name == "opc")
    assert failed == {key: "its process was killed", attack: f"what it needs has failed: {key}"}
    assert [row.method for row in read_rows(tmp_path / "rows.json")] == ["Original", "Retrain"]
    executed = Counter((tmp_path / "journal").read_text().split())
    assert set(executed.values()) == {1}, "a worker does not go on when its pool is broken"
    assert all(running for done, running in seen if done < len(runs) - 1), "what is tried alone is shown"


@pytest.mark.parametrize("edits", [{"mine_later": "import mine_part\nrate = 2\n"}, {"mine_part": "rate = 3\n"}])
def test_code_that_changes_while_a_benchmark_runs_is_not_taken_for_the_old_one(
    experiments, tmp_path, monkeypatch, edits
):
    """Also a module that was not there when it began."""
    (tmp_path / "code").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "code")
    for name in ("mine_now", "mine_later"):
        (tmp_path / "code" / f"{name}.py").write_text(f"{'import mine_part' * (name == 'mine_later')}\nrate = 1\n")
    sections = {name: {"part": {"class_path": f"mine_{name}.Part"}} for name in ("now", "later")}
    runs = make_runs(Grid(**experiments(("class",), **sections)))
    for name, text in edits.items():
        (tmp_path / "code" / f"{name}.py").write_text(text)
    failed, _ = go(runs, tmp_path)
    (own,) = (run.key for run in runs if run.name == "later" and run.subcommand == "fit")
    assert failed[own] == f"the code of {next(iter(edits))} has changed since the benchmark began: start it again"
    assert len(failed) == 2, "and the attacks on it"
    assert [row.method for row in read_rows(tmp_path / "rows.json")] == ["Original", "Retrain", "NOW"]


def test_a_run_whose_folder_cannot_be_written_fails_alone(experiments, tmp_path):
    runs = make_runs(Grid(**experiments(("class",), opc={})))
    (lost,) = (run for run in runs if run.name == "opc" and run.subcommand == "fit")
    (tmp_path / lost.folder).parent.mkdir(parents=True)
    (tmp_path / lost.folder).write_text("a file")
    failed, _ = go(runs, tmp_path)
    assert "File exists" in failed.pop(lost.key)
    assert [why.startswith("what it needs has failed") for why in failed.values()] == [True]
    assert [row.method for row in read_rows(tmp_path / "rows.json")] == ["Original", "Retrain"]


def test_a_worker_that_dies_between_runs_is_replaced(experiments, tmp_path):
    first, second, third = (
        run for run in make_runs(Grid(**experiments(("class",), opc={}), seeds=Seeds(originals=3))) if not run.needs
    )
    with local.LocalPool(fake_runs.run, tmp_path, 2, 1) as pool:
        pool.submit(first)
        assert pool.wait() == [(first, None)]
        second.settings["model"]["init_args"]["pause"] = 60
        pool.submit(second)
        for worker in active_children():
            worker.kill()
        while not pool._executor._broken:
            time.sleep(0.01)
        second.settings["model"]["init_args"]["pause"] = 0
        pool.submit(third)
        assert not pool.has_room
        assert [*pool.wait(), *pool.wait()] == [(third, None), (second, None)]
        assert pool.has_room


@pytest.mark.parametrize(
    ("wish", "said"), [("exit", "it ended with SystemExit 3"), ("be terminated", "it ended with Terminated")]
)
def test_a_run_that_exits_has_failed_and_the_others_go_on(experiments, tmp_path, wish, said):
    runs = make_runs(Grid(**experiments(("class",), opc={"wish": wish}, ga={})))
    failed, _ = go(runs, tmp_path, workers=1)
    key, attack = (run.key for run in runs if run.name == "opc")
    log = tmp_path / f"class/opc/run-{key}/log.txt"
    assert failed == {key: f"{said} (see {log})", attack: f"what it needs has failed: {key}"}
    assert "in run" in log.read_text(), "where it did"
    assert [row.method for row in read_rows(tmp_path / "rows.json")] == ["Original", "Retrain", "GA"]


def test_a_run_that_is_interrupted_interrupts_the_benchmark(experiments, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        go(make_runs(Grid(**experiments(("class",), opc={"wish": "interrupt"}))), tmp_path)


@pytest.mark.ci
def test_kill_9_loses_no_row_and_runs_nothing_that_was_finished_twice(experiments, tmp_path):
    grid = experiments(**{name: {"wish": "kill the benchmark once"} for name in ("opc", "ga", "ft")})
    command = [sys.executable, fake_runs.__file__, json.dumps(grid), str(tmp_path / "out")]
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.rows.json.1.part").touch()  # as a kill in the middle of writing leaves it
    ended = [subprocess.run(command).returncode]
    while ended[-1] != 0:
        ended.append(subprocess.run(command).returncode)
    assert set(ended[:-1]) == {-signal.SIGKILL}
    assert len(ended) >= 3, "of three runs that kill, at most two do so at once"
    runs = make_runs(Grid(**grid, seeds=Seeds(originals=2)))
    assert len(read_rows(tmp_path / "out/rows.json")) == 2 * 2 * 5
    executed = Counter((tmp_path / "out/journal").read_text().split())
    assert set(executed.values()) == {1}
    assert executed.keys() <= {run.key for run in runs}
    assert not list((tmp_path / "out").rglob("*.part"))


def test_a_run_that_diverged_is_a_row_and_is_not_attacked(experiments, tmp_path):
    runs = make_runs(Grid(**experiments(("class",), opc={"wish": "diverge"}, ga={})))
    assert go(runs, tmp_path)[0] == {}
    rows = read_rows(tmp_path / "rows.json")
    assert [(row.method, row.status) for row in rows] == [
        ("Original", "ok"), ("Retrain", "ok"), ("GA", "ok"), ("OPC", "diverged"),
    ]  # fmt: skip
    before = (tmp_path / "journal").read_text()
    assert len(before.split()) == len(runs) - 1
    go(runs, tmp_path)
    assert (tmp_path / "journal").read_text() == before
    diverged = [run for run in runs if run.subcommand == "fit" and not run.weights(tmp_path).exists()]
    assert [run.name for run in diverged] == ["opc"]
    assert finished(diverged[0], tmp_path, {}), "a job of a cluster that is put back does not run it again"


def test_a_method_that_leaves_the_original_as_it_was_keeps_its_name(experiments, tmp_path):
    go(make_runs(Grid(**experiments(("class",), ssd={"wish": "change nothing"}))), tmp_path)
    assert [row.method for row in read_rows(tmp_path / "rows.json")] == ["Original", "Retrain", "SSD"]


def test_a_run_that_was_interrupted_has_not_ended(experiments, tmp_path):
    runs = make_runs(Grid(**experiments(("class",), opc={"wish": "interrupted once"})))
    failed, _ = go(runs, tmp_path)
    assert [run.reports for run in runs if run.key in failed] == [False, True]
    assert go(runs, tmp_path)[0] == {}
    executed = Counter((tmp_path / "journal").read_text().split())
    assert [executed[run.key] for run in runs] == [1, 1, 1, 2, 1]
    assert {row.status for row in read_rows(tmp_path / "rows.json")} == {"ok"}


def test_two_benchmarks_cannot_work_in_one_folder(experiments, tmp_path):
    runs = make_runs(Grid(**experiments(("class",), opc={})))

    def tell(progress):
        with pytest.raises(UsageError, match=re.escape(str(tmp_path))):
            go(runs, tmp_path)

    execute(runs, tmp_path, fake_runs.run, Launcher(), tell)


def test_a_broken_rows_file_is_told_and_left_alone(experiments, tmp_path):
    runs = make_runs(Grid(**experiments(("class",), opc={})))
    (tmp_path / "rows.json").write_text("{")
    with pytest.raises(
        UsageError, match=r"rows\.json: not JSON .*; without this file the same command gathers the rows again"
    ):
        go(runs, tmp_path)
    assert (tmp_path / "rows.json").read_text() == "{"


def test_rows_of_no_benchmark_are_told_and_left_alone(experiments, tmp_path):
    write_rows(tmp_path / "rows.json", [Row("OPC", "ok", benchmark={})])
    before = (tmp_path / "rows.json").read_bytes()
    with pytest.raises(UsageError, match=r"rows\.json: holds rows that are of no benchmark: give another --output"):
        go(make_runs(Grid(**experiments(("class",), opc={}))), tmp_path)
    assert (tmp_path / "rows.json").read_bytes() == before


def test_packed_rows_are_finished_too(experiments, tmp_path):
    runs = make_runs(Grid(**experiments(("class",), opc={})))
    assert go(runs, tmp_path / "a")[0] == {}
    (tmp_path / "b").mkdir()
    packed = tmp_path / "b/rows.json.xz"
    packed.write_bytes(lzma.compress((tmp_path / "a/rows.json").read_bytes()))
    assert go(runs, tmp_path / "b")[0] == {}
    assert not (tmp_path / "b/journal").exists()
    assert [row for row, _ in read_all([tmp_path / "b"], [])] == read_rows(packed)


def test_a_row_of_a_cell_that_stands_elsewhere_stays(experiments, tmp_path):
    folder = experiments(opc={}, ga={})
    go(make_runs(Grid(**folder)), tmp_path)
    rows = collect(make_runs(Grid(**folder, methods=["opc"], scenarios=["class"])), tmp_path)
    assert len(rows) == 8


def test_a_row_of_other_settings_does_not_stand_in_for_a_run_that_failed(experiments, tmp_path):
    before = make_runs(Grid(**experiments(opc={}, ga={})))
    assert go(before, tmp_path)[0] == {}
    elsewhere = [row for row in read_rows(tmp_path / "rows.json") if row.benchmark["scenario"] == "random"]
    runs = make_runs(Grid(**experiments(("class",), opc={"wish": "fail"}, ga={})))
    failed, _ = go(runs, tmp_path)
    rows = read_rows(tmp_path / "rows.json")
    assert [row.method for row in rows if row.benchmark["scenario"] == "class"] == ["Original", "Retrain", "GA"]
    assert [row for row in rows if row.benchmark["scenario"] == "random"] == elsewhere
    (summary,) = (each for each in summarise(rows) if each.scenario == "class")
    (told,) = with_failures([summary], failures(runs, failed), rows)
    assert told.without_rows == ["opc"]
    assert collect(runs, tmp_path) == rows
    journal = (tmp_path / "journal").read_text()
    assert go(before, tmp_path)[0] == {}
    assert len(read_rows(tmp_path / "rows.json")) == 2 * 4, "the runs of the old settings are there"
    assert (tmp_path / "journal").read_text() == journal


def test_of_a_grid_of_which_all_has_failed_no_row_of_other_settings_is_left(experiments, tmp_path):
    folder = experiments(("class",), opc={})
    (tmp_path / "b").mkdir()
    assert go(make_runs(Grid(**folder)), tmp_path / "a")[0] == {}
    (tmp_path / "b/rows.json.xz").write_bytes(lzma.compress((tmp_path / "a/rows.json").read_bytes()))
    change(folder, {"pretrain": {"model": {"init_args": {"wish": "fail"}}}})
    runs = make_runs(Grid(**folder))
    assert go(runs, tmp_path / "b")[0].keys() == {run.key for run in runs}
    assert read_all([tmp_path / "b"], []) == []


@pytest.mark.parametrize("launcher", [{"workers": 0}, {"threads": 0}])
def test_a_launcher_out_of_range_is_one_line(launcher):
    with pytest.raises(UsageError, match="must be at least 1"):
        Launcher(**launcher)


def test_a_grid_with_a_pool_makes_all_models_of_a_pool_before_it_attacks_and_runs_nothing_twice(experiments, tmp_path):
    folder = experiments(("class",), ga={"wish": "diverge"}, opc={"pause": 0.3})
    runs = make_runs(Grid(**folder, seeds=Seeds(originals=2), pool=True))
    assert go(runs, tmp_path)[0] == {}
    journal = (tmp_path / "journal").read_text().split()
    for run in (run for run in runs if run.reports and run.name == "opc"):
        config = yaml.safe_load((tmp_path / run.folder / "run.yaml").read_text())
        assert len(config["evaluation"]["pool"]) == 2 + 2 + 2
    assert [row.method for row in read_rows(tmp_path / "rows.json")].count("OPC") == 2
    go(runs, tmp_path)
    assert (tmp_path / "journal").read_text().split() == journal
