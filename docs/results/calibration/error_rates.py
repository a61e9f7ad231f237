"""How often the verdict errs on simulated models: python docs/results/calibration/error_rates.py [RUNS].

Rows of k models of a method beside one, five or eight Retrains, under twelve attacks. Each number is its mean, the
noise of training, and the noise of 3,000 images that all models of a group share: of the method and of Retrains it is
the same, or half of it is.

    alike      the method's models are Retrains, which deviate as much as is known, twice or three times as much, or as
               much but with long tails (Student's t with three degrees of freedom): how often they are said to leak
    noisier    they have the means of Retrain, and deviate two or three times as much as is known, Retrains as is known:
               how often their mean, or the single model that there is, is said to leak
    at margin  they are Retrains, but two points above in each attack (masked answers ten): how often they are said to
               leak
    hidden     one number is five points above and the others are ten below: how often they are said to be as Retrain;
               where the method's models deviate as much as is known, twice or three times as much, and Retrains as is
               known, or .6 of it; in the last case both deviate three times as much

It writes error_rates.json beside itself and prints the table.
"""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lit_unlearn.reports.noise import known_deviation
from lit_unlearn.reports.numbers import ANSWERS
from lit_unlearn.reports.rows import Row
from lit_unlearn.reports.verdict import judge_models

RUNS = 1000
IMAGES = 3000
MEANS = {
    "recovery/hr/test_forget_acc": 0.80,
    "recovery/fm/test_forget_acc": 0.79,
    "recovery/worst/test_forget_acc": 0.85,
    "recovery/worst/stages/test_forget_acc": 0.85,
    "recovery/spatial/test_forget_acc": 0.94,
    f"{ANSWERS}/test_forget_acc": 0.39,
    "relearn/few/auc": 0.60,
    "relearn/adaptive/auc": 0.57,
    "detectability/samples/test_forget_auc": 0.75,
    "membership/margin/auc": 0.52,
    "membership/rmia/auc": 0.52,
    "membership/lira/auc": 0.50,
}
"""What Retrain gives on Fashion-MNIST, three classes of 20,000 images."""

COUNTS = {"forget": 2 * IMAGES, "retain": 14000, "test_forget": IMAGES, "test_retain": 7000}
SPLIT = {"hash": "simulated", "forgotten_classes": [0, 1, 2], "counts": COUNTS}
_AT_MARGIN = dict.fromkeys(MEANS, 0.02) | {f"{ANSWERS}/test_forget_acc": 0.10}
_HIDDEN = dict.fromkeys(MEANS, -0.10) | {"recovery/hr/test_forget_acc": 0.05}


class Case(NamedTuple):
    """What is simulated: the deviations of method and Retrains beside the known ones, and how the means differ.

    With ``of_mean`` what is said of one model of several is not counted.
    """

    wrong: str
    ours: float
    theirs: float
    shift: dict[str, float]
    tails: bool = False
    of_mean: bool = False


CASES = {
    "alike": Case("leaks", 1.0, 1.0, {}),
    "alike, 2": Case("leaks", 2.0, 2.0, {}),
    "alike, 3": Case("leaks", 3.0, 3.0, {}),
    "alike, tails": Case("leaks", 1.0, 1.0, {}, tails=True),
    "at margin": Case("leaks", 1.0, 1.0, _AT_MARGIN),
    "hidden, 1": Case("as Retrain", 1.0, 1.0, _HIDDEN),
    "hidden, 2": Case("as Retrain", 2.0, 0.6, _HIDDEN),
    "hidden, 3": Case("as Retrain", 3.0, 0.6, _HIDDEN),
    "hidden, both 3": Case("as Retrain", 3.0, 3.0, _HIDDEN),
    "noisier, 2": Case("leaks", 2.0, 1.0, {}, of_mean=True),
    "noisier, 3": Case("leaks", 3.0, 1.0, {}, of_mean=True),
}
CELLS = [(k, n, same) for k, n in ((1, 1), (1, 5), (1, 8), (2, 5), (3, 5), (3, 8), (5, 8)) for same in (1.0, 0.5)]


def share(k: int, n: int, same: float, name: str, runs: int) -> float:
    """How often the wrong verdict is given on k models beside n Retrains."""
    case = CASES[name]
    draw = np.random.default_rng([k, n, int(10 * same), list(CASES).index(name)])
    template = _row("Retrain", 0, case, draw, 0.0, {})
    known = {attack: known_deviation(attack.rpartition("/")[0], template) for attack in MEANS}
    said = 0
    for _ in range(runs):
        both, alone = ({attack: draw.normal(scale=_images(attack)) for attack in MEANS} for _ in range(2))
        other = {attack: same * both[attack] + math.sqrt(1 - same**2) * alone[attack] for attack in MEANS}
        plain, original = case._replace(shift={}), case._replace(shift=dict.fromkeys(MEANS, 0.2))
        models = [_row("Method", seed, case, draw, case.ours, known, both) for seed in range(k)]
        retrains = [_row("Retrain", seed, plain, draw, case.theirs, known, other) for seed in range(n)]
        originals = [_row("Original", seed, original, draw, 0.0, known) for seed in range(3)]
        found = judge_models(models, retrains, originals)
        said += found.level == case.wrong and not (case.of_mean and found.alone)
    return said / runs


def _row(
    method: str,
    seed: int,
    case: Case,
    draw: np.random.Generator,
    spread: float,
    known: Mapping[str, float],
    images: Mapping[str, float] | None = None,
) -> Row:
    of_training = draw.standard_t(3, len(MEANS)) / math.sqrt(3) if case.tails else draw.normal(size=len(MEANS))
    scaled = dict(zip(MEANS, spread * of_training, strict=True))
    noise = {name: known.get(name, 0.0) * scaled[name] + (images or {}).get(name, 0.0) for name in MEANS}
    found = {name: float(mean + case.shift.get(name, 0.0) + noise[name]) for name, mean in MEANS.items()}
    attacks = {name: min(max(value, 0.0), 1.0) for name, value in found.items()}
    attacks |= {f"{name}/test_forget_acc": 0.7 for name in ("relearn/few", "relearn/adaptive")}
    metrics = {"forget_acc": 0.0, "test_forget_acc": 0.0, "retain_acc": 0.97, "test_retain_acc": 0.93}
    return Row(
        method, "ok", metrics=metrics, attacks=attacks, split=SPLIT, seed=seed, weights={"sha256": f"{method}{seed}"}
    )


def _images(name: str) -> float:
    mean = MEANS[name]
    return math.sqrt(mean * (1 - mean) / IMAGES) if not name.endswith("auc") or "relearn" in name else 0.0092


def table(rates: Mapping[str, float]) -> str:
    """The rates as a table in percent."""
    columns = " | ".join(CASES)
    lines = [f"| Models | Retrains | Noise of the images | {columns} |", f"|---:|---:|---|{'---:|' * len(CASES)}"]
    for k, n, same in CELLS:
        shares = [f"{100 * rates[f'{k} {n} {same} {name}']:.1f}" for name in CASES]
        lines.append(f"| {k} | {n} | {'the same' if same == 1 else 'half the same'} | {' | '.join(shares)} |")
    return "\n".join(lines)


def main() -> None:
    """Simulates all cells."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    rates = {f"{k} {n} {same} {name}": share(k, n, same, name, runs) for k, n, same in CELLS for name in CASES}
    (Path(__file__).parent / "error_rates.json").write_text(json.dumps({"runs": runs, "rates": rates}, indent=1) + "\n")
    print(table(rates))


if __name__ == "__main__":
    main()
