"""The committed rows, and what is made of them: ``python docs/results/committed.py [--add FOLDER PAGE]``.

Every committed row is judged anew, and the tables and figures of all pages are written from them. With ``--add`` the
rows that a benchmark left in FOLDER come first into ``docs/results/PAGE``: a row takes the place of one of the same
scenario, experiment, seeds and variant, and the order is that of ``configs/benchmark/PAGE.yaml``. With
``pending/PAGE`` they are kept apart: rows of a table that is not complete yet. To go on with it, copy
``docs/results/pending/PAGE/rows.json.xz`` into the benchmark's output folder.
"""

import argparse
import json
import lzma
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lit_unlearn.benchmark import Grid, Seeds, make_runs
from lit_unlearn.benchmark.gathering import PACKED, add_verdicts, identity, kept_rows, place_of
from lit_unlearn.benchmark.runs import Run
from lit_unlearn.cli import main as lit_unlearn
from lit_unlearn.reports.rows import Row, write_rows
from lit_unlearn.run_files import ROWS
from lit_unlearn.shipped import read_config

RESULTS = Path(__file__).parent
CALIBRATION = "calibration"


def write(folder: Path, rows: Sequence[Row]) -> None:
    """Writes rows as they lie there: packed and without spaces, or where there is such a file, a line each."""
    if (folder / ROWS).exists():
        write_rows(folder / ROWS, rows)
        return
    with tempfile.TemporaryDirectory() as place:
        write_rows(plain := Path(place) / ROWS, rows)
        text = json.dumps(json.loads(plain.read_text()), separators=(",", ":"), ensure_ascii=False)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PACKED).write_bytes(lzma.compress(text.encode() + b"\n", preset=9 | lzma.PRESET_EXTREME))


def runs_of(page: str) -> list[Run]:
    """The runs of the benchmark that a page, or its part that is pending, is made of."""
    grid = read_config(f"benchmark/{Path(page).name}")["grid"]
    return make_runs(Grid(**{**grid, "seeds": Seeds(**grid.get("seeds", {}))}))


def add(found: Sequence[Row], page: str) -> None:
    """Puts rows among those of a page, or of its part that is pending, in the order of its benchmark."""
    runs = enumerate(runs_of(page))
    places = {place_of(run.scenario, run.name, run.seeds, run.variant): number for number, run in runs}
    rows = {identity(row): row for row in (*kept_rows(RESULTS / page), *found)}
    write(RESULTS / page, sorted(rows.values(), key=lambda row: places.get(identity(row)[:-1], len(places))))


def remake(folder: Path) -> None:
    """Judges the rows of a folder anew, and writes its page's tables and those figures that it has."""
    rows = kept_rows(folder)
    add_verdicts(rows)
    write(folder, rows)
    with tempfile.TemporaryDirectory() as drawn:
        kind = ["--calibration"] if folder.name == CALIBRATION else []
        page = RESULTS.parent / "verdict.md" if kind else folder.with_suffix(".md")
        written = ["--markdown", str(page)] if page.exists() else []
        lit_unlearn(["report", str(folder), *kind, *written, "--figures", drawn])
        for figure in Path(drawn).glob("*.svg"):
            if (folder / figure.name).exists():
                (folder / figure.name).write_bytes(figure.read_bytes())


def main() -> None:
    """Adds rows, if told to, and remakes everything."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--add", nargs=2, metavar=("FOLDER", "PAGE"), help="rows of a benchmark, and their page")
    options = parser.parse_args()
    if options.add:
        add(kept_rows(Path(options.add[0])), options.add[1])
    kept = [path.parent for name in (ROWS, PACKED) for path in RESULTS.glob(f"**/{name}")]
    for folder in sorted(folder for folder in kept if "tuning" not in folder.relative_to(RESULTS).parts):
        remake(folder)


if __name__ == "__main__":
    main()
