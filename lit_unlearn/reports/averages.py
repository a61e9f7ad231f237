"""Means over rows of the same model, and over the models of several seeds."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lit_unlearn.reports.rows import MEAN_OF, ORIGINAL, RETRAIN, Row

AUC, DIRECTION = "auc", "direction"
"""How the names end of what an attack by a threshold finds, and of the side on which it takes members to be."""


def forward(attacks: Mapping[str, float], attack: str) -> float:
    """The AUC of members scoring higher; an attack whose direction is -1 has found and scored that they score lower."""
    found = attacks[f"{attack}/{AUC}"]
    return 1 - found if attacks.get(f"{attack}/{DIRECTION}", 1.0) < 0 else found


def mean_row(rows: Sequence[Row], **changes: object) -> Row:
    """A row that stands for several: the settings of the first, and the mean of each number over the rows that have it.

    Args:
        rows: at least one.
        **changes: fields of the row that are to differ from the first one's.
    """
    means = {name: _means([getattr(row, name) for row in rows]) for name in ("metrics", "seconds")}
    means["attacks"] = _means(_alike([row.attacks for row in rows]))
    return replace(rows[0], **{**means, **changes})  # type: ignore[arg-type]


def one_a_model(rows: Sequence[Row]) -> list[Row]:
    """A row for each model: the mean of its rows where it was attacked several times, with other seeds.

    Of Original and of Retrain, rows are of one model where the weights have one hash, whatever the seeds. Other rows of
    a benchmark are where they share all seeds but the attack's, and rows beside a benchmark where they agree in every
    accuracy without an attack and in seed and settings.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_model(row), []).append(row)
    return [group[0] if len(group) == 1 else mean_row(group) for group in groups.values()]


def one_an_original(rows: Sequence[Row]) -> list[Row]:
    """A row for each Original that was unlearned: the mean over its models, which share its training's chance.

    Args:
        rows: of one method's models. Of one Original are those whose weights before unlearning have one hash, or,
            where it is unknown, one training seed.
    """
    groups: dict[str, list[Row]] = {}
    for row in one_a_model(rows):
        sha256, seed = row.weights.get("sha256"), row.benchmark.get("seeds", {}).get("original")
        groups.setdefault(str(sha256) if sha256 else _model(row) if seed is None else f"seed {seed}", []).append(row)
    return [group[0] if len(group) == 1 else mean_row(group) for group in groups.values()]


def with_mean_retrains(rows: Sequence[Row]) -> list[Row]:
    """The rows to be shown: of several Retrains of one split and network, one row with their mean."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.method == RETRAIN and row.status == "ok":
            groups.setdefault(_task(row), []).append(row)
    shown = []
    for row in rows:
        group = groups.get(_task(row), []) if row.method == RETRAIN and row.status == "ok" else [row]
        if row is group[0]:
            models = one_a_model(group)
            told = row.benchmark if len(models) == 1 else {**row.benchmark, MEAN_OF: len(models)}
            shown.append(row if len(group) == 1 else mean_row(models, benchmark=told))
    return shown


def _task(row: Row) -> str:
    return repr((row.split.get("hash"), row.data.get("sha256"), row.backbone))


def _model(row: Row) -> str:
    made = row.benchmark
    made_here = row.weights.get("result", {}) if row.method == RETRAIN else {}  # its weights are else its own
    weights = made_here or row.weights
    if row.method in (ORIGINAL, RETRAIN) and (sha256 := weights.get("sha256") or weights.get("tensors_sha256")):
        return repr((row.method, row.split.get("hash"), row.data.get("sha256"), sha256))
    if made.get("seeds"):
        seeds = {name: seed for name, seed in made["seeds"].items() if name != "attack"}
        place = [made.get(name) for name in ("scenario", "experiment", "variant")]
        return repr((row.method, place, sorted(seeds.items()), row.weights.get("sha256")))
    before = row.weights.get("sha256"), row.weights.get("source")
    return repr((row.method, row.seed, sorted(row.metrics.items()), row.hyperparameters, row.optimizer, before))


def _alike(rows: Sequence[Mapping[str, float]]) -> list[Mapping[str, float]]:
    """Numbers of attacks whose AUCs have a mean: where directions differ, all are taken forward."""
    names = {name for numbers in rows for name in numbers if name.endswith(f"/{DIRECTION}")}
    mixed = [name for name in names if len({numbers.get(name, 1.0) for numbers in rows}) > 1]
    attacks = [name.removesuffix(f"/{DIRECTION}") for name in mixed]
    return [
        {
            **numbers,
            **{f"{each}/{AUC}": forward(numbers, each) for each in attacks if f"{each}/{AUC}" in numbers},
            **{name: 1.0 for name in mixed if name in numbers},
        }
        for numbers in rows
    ]


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for numbers in rows:
        for name, value in numbers.items():
            found.setdefault(name, []).append(value)
    return {name: statistics.fmean(values) for name, values in found.items()}
