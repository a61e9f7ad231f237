"""Results in single and mixed precision: ``python performance/precision.py [--methods NAMES] [--seeds N]``.

Everything is made twice, originals and Retrains too, by ``configs/benchmark/precision.yaml`` with another precision
each. What is finished is not run again. The table, in Markdown, has ``32-true / bf16-mixed`` in each cell.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_unlearn.benchmark.settings import merged
from lit_unlearn.benchmark.summary import Summary, summarise
from lit_unlearn.benchmark.tables import text_of
from lit_unlearn.cli import main as lit_unlearn
from lit_unlearn.reports import read_rows
from lit_unlearn.shipped import read_config

PRECISIONS = ("32-true", "bf16-mixed")
CONFIG, FOLDER = "benchmark/precision", Path("runs/benchmark/precision")


def overrides(precision: str) -> dict[str, Any]:
    """The settings that the config puts on top of all experiments, at another precision."""
    return merged(read_config(CONFIG)["grid"]["overrides"], {"trainer": {"precision": precision}})


def side_by_side(summaries: Sequence[Summary]) -> str:
    """The tables of one scenario in one: a line for each model that all have, and a cell for each common quantity."""
    columns = [column for column in summaries[0].columns if all(column in other.columns for other in summaries)]
    found = [
        {line.label: dict(zip((c.title for c in each.columns), line.values, strict=True)) for line in each.lines}
        for each in summaries
    ]
    lines = ["| Model | " + " | ".join(column.heading for column in columns) + " |", "|---|" + "---:|" * len(columns)]
    for label in (label for label in found[0] if all(label in other for other in found)):
        cells = (" / ".join(text_of(each[label][c.title], c.unit) for each in found) for c in columns)
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--methods", help="experiments, such as opc,finetune; all of the config by default")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of the original model")
    options = parser.parse_args()
    chosen = [f"--grid.methods=[{options.methods}]"] if options.methods else []
    tables = []
    for precision in PRECISIONS:
        grid = [f"--grid.overrides={json.dumps(overrides(precision))}", f"--grid.seeds.originals={options.seeds}"]
        output = FOLDER / precision
        lit_unlearn(["benchmark", "--config", CONFIG, *chosen, *grid, f"--output={output}"])
        tables.append(summarise(read_rows(output / "rows.json")))
    for pair in zip(*tables, strict=True):
        print(f"\n{pair[0].title}, {' / '.join(PRECISIONS)}\n\n{side_by_side(pair)}")


if __name__ == "__main__":
    main()
