"""Kills a benchmark at random moments and looks whether anything was lost: ``python performance/kill.py [--times N]``.

``lit-unlearn benchmark`` on handwritten digits, with two methods and an epoch each, is ended by SIGKILL so many times,
each time so many seconds after its start as chance has it, and then runs to its end; where it has ended before it is
killed, another one begins. After every kill, each results file and ``rows.json`` must be whole, and all that was
finished at one kill must be the same file at the next one and at the end: no row was lost, no run was made twice.
"""

import argparse
import itertools
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lit_unlearn.reports import read_rows

ROOT = Path(__file__).resolve().parents[1]
GRID = ("--grid.scenarios=[class]", "--grid.methods=[opc,head_only]", "--grid.attacks=attack/recovery")
SETTINGS = ("--grid.overrides={trainer: {max_epochs: 1}}", "--launcher.workers=2", "--launcher.threads=1")
METHODS = ["Original", "Retrain", "OPC", "HeadOnly"]
RUNS = 7

Files = dict[Path, tuple[int, int]]
"""Results file → which one it is, and when it was written."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill a benchmark at random moments and look what was lost.")
    parser.add_argument("--times", type=int, default=10, help="how often")
    parser.add_argument("--longest", type=float, default=12.0, help="seconds after which it is killed at the latest")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    draw = random.Random(given.seed)
    kills = 0
    with tempfile.TemporaryDirectory() as folder:
        for number in itertools.count(1):
            output, finished = Path(folder, str(number)), Files()
            output.mkdir()
            while kills < given.times and not run(output, moment := draw.uniform(0, given.longest)):
                kills += 1
                finished = look(output, finished)
                rows = len(read_rows(output / "rows.json")) if (output / "rows.json").exists() else 0
                whole = f"{len(finished)} of {RUNS} runs complete, {rows} rows"
                print(f"kill {kills}, at {moment:.1f} s, in benchmark {number}: {whole}", flush=True)
            run(output, None)
            check(output, finished)
            print(f"benchmark {number} has ended: none lost, none half, none run twice", flush=True)
            if kills == given.times:
                return


def check(output: Path, finished: Files) -> None:
    """What there must be at the end of a benchmark."""
    finished = look(output, finished)
    rows = read_rows(output / "rows.json")
    methods = [row.method for row in rows]
    assert sorted(methods) == sorted(METHODS), f"rows are of {methods}"
    assert len(finished) == RUNS, f"{len(finished)} runs left results"
    assert all(row.status == "ok" and row.attacks for row in rows), "a row is not whole"
    rest = [path.name for path in output.rglob("*.part")]
    assert not rest, f"left behind: {rest}"


def run(output: Path, moment: float | None) -> bool:
    """Runs the benchmark to its end, or until it is killed; returns whether it ended."""
    command = [sys.executable, "-m", "lit_unlearn", "benchmark", "--config", "configs/benchmark/digits.yaml"]
    with (output / "out.txt").open("a") as out:
        process = subprocess.Popen(
            [*command, *GRID, *SETTINGS, f"--output={output}"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=out,
            stderr=out,
        )
    try:
        status = process.wait(moment)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        time.sleep(1)  # its workers see that it has gone
        return False
    assert status == 0, (output / "out.txt").read_text()[-2000:]
    return True


def look(output: Path, before: Files) -> Files:
    """Every results file there is, which must be whole, and the same as before if it was there then."""
    found: Files = {}
    for path in output.rglob("results.json"):
        assert all(row.status == "ok" for row in read_rows(path)), f"{path} is of a run that did not end"
        found[path] = (path.stat().st_ino, path.stat().st_mtime_ns)
    changed = [str(path) for path, mark in before.items() if found.get(path) != mark]
    assert not changed, f"lost, or run twice: {changed}"
    return found


if __name__ == "__main__":
    main()
