"""Runs the experiments of a scenario and writes what came out: ``python docs/results/make.py [digits] …``.

Run it from the repository's root. A row that is there already is kept; delete its file to measure it again. ``--pages``
runs nothing and only writes the tables anew.
"""

import re
import sys
import tempfile
from pathlib import Path

from lit_unlearn.cli import run
from lit_unlearn.reports import Row, read_rows
from lit_unlearn.reports.report import report_of
from lit_unlearn.reports.rows import write_rows

HERE = Path(__file__).parent
NAMES = {
    "finetune": "FineTune",
    "gradient_ascent": "GradientAscent",
    "random_labels": "RandomLabels",
    "opc": "OPC, logits (the paper)",
    "opc_features": "OPC, features",
    "opc_deep": "OPC, features, λ = 3, distilled",
    "boundary_expanding": "BoundaryExpanding",
    "boundary_shrink": "BoundaryShrink",
    "l1_sparse": "L1Sparse",
    "ngd": "NGD",
    "neggrad_plus": "NegGradPlus",
    "cf_k": "CFk",
    "eu_k": "EUk",
    "scrub": "SCRUB",
    "salun": "SalUn",
    "bad_teacher": "BadTeacher",
    "ssd": "SSD",
    "delete": "DELETE",
    "sfron": "SFRon",
    "amun": "AMUN",
    "msg": "MSG",
    "head_only": "HeadOnly (control)",
    "rescale": "Rescale (control)",
}
TITLES = {
    "digits": "Handwritten digits (scikit-learn's, 8×8), ResNet-8, forgotten: 0, 1, 2",
    "fashion_mnist": "Fashion-MNIST, ResNet-8, forgotten: T-shirt/top, trouser, pullover",
}
COLUMNS = ("Retain", "Test-retained ↑", "Forget", "Test-forgotten", "After FM", "After HR", "Seconds")


def measure(scenario: str, name: str) -> None:
    """Runs one experiment and keeps its rows, those of the yardsticks included."""
    with tempfile.TemporaryDirectory() as folder:
        config = f"configs/experiment/{scenario}/{name}.yaml"
        cli = run(["fit", "--config", config, "--trainer.logger.save_dir", folder])
    report = report_of(cli.trainer)
    write_rows(HERE / scenario / f"{name}.json", report.rows)


def table(scenario: str) -> str:
    """The rows of a scenario as a Markdown table, in percent; what is unknown stays empty."""
    rows: dict[str, Row] = {}
    for name, label in NAMES.items():
        path = HERE / scenario / f"{name}.json"
        for row in read_rows(path) if path.exists() else ():
            rows.setdefault(row.method if row.method in ("Original", "Retrain") else label, row)
    lines = ["| Model | " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
    return "\n".join(lines + [f"| {label} | {' | '.join(cells(row))} |" for label, row in rows.items()])


def cells(row: Row) -> list[str]:
    """The numbers of one row, in the order of the columns."""
    recovered = [row.attacks.get(f"recovery/{attack}/test_forget_acc") for attack in ("fm", "hr")]
    accuracies = [row.metrics.get(f"{split}_acc") for split in ("retain", "test_retain", "forget", "test_forget")]
    percent = ["" if value is None else f"{100 * value:.1f}" for value in accuracies + recovered]
    seconds = row.seconds.get("unlearn")
    mark = "" if row.status == "ok" else f" {row.status}"
    return [*percent, ("" if seconds is None else f"{seconds:.0f}") + mark]


def write_pages() -> None:
    """Writes a page per scenario that has rows, and the digits table into the README."""
    for scenario, title in TITLES.items():
        if not (HERE / scenario).is_dir():
            continue
        row = read_rows(HERE / scenario / "opc.json")[-1]
        page = HERE / f"{scenario}.md"
        reading = page.read_text().partition("## Reading\n")[2] if page.exists() else "\n"
        page.write_text(
            f"# {title}\n\n"
            f"Accuracy in percent on the images named; *after FM* and *after HR*: on the forgotten test classes once\n"
            f"feature mapping or head recovery was run. A constant answer among them is right in 33.3 %.\n"
            f"One seed ({row.seed}), torch {row.versions['torch']}, commit {str(row.commit)[:12]}, split "
            f"{row.split['hash']}.\n"
            f"Settings were not tuned: OPC's are those of earlier trials; of the methods below it, a few were tried\n"
            f"on the digits, judged on the training images alone. Seconds are of unlearning, on two cores.\n\n"
            f"{table(scenario)}\n\n"
            f"Made by `python docs/results/make.py {scenario}` from `configs/experiment/{scenario}/*.yaml`; each row,\n"
            f"with all its settings, is in [`{scenario}/`]({scenario}).\n\n"
            f"## Reading\n{reading}"
        )
    readme = HERE.parent.parent / "README.md"
    marked = r"(<!-- results:(\w+) -->\n).*?(<!-- /results -->)"
    text = readme.read_text()
    readme.write_text(re.sub(marked, lambda m: f"{m[1]}{table(m[2])}\n{m[3]}", text, flags=re.DOTALL))


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.argv = sys.argv[:1]
    for wanted in arguments or TITLES:
        for experiment in NAMES if wanted in TITLES else ():
            if not (HERE / wanted / f"{experiment}.json").exists():
                measure(wanted, experiment)
    write_pages()
