"""How often the verdict errs on simulated models: python docs/results/calibration/error_rates.py.

Rows of k models of a method beside one, five or eight Retrains, under thirteen attacks where three classes are
forgotten, and under twelve where 300 single images are. Each number is its mean, the noise of training, and the noise
of the images (3,000 and 300) that all models of a group share: of the method and of Retrains it is the same, half of it
is, or none.

    alike      the method's models are Retrains, which deviate as much as is known, twice or three times as much, or as
               much but with long tails (Student's t with three degrees of freedom): how often they are said to leak
    noisier    they have the means of Retrain, and deviate two or three times as much as is known, Retrains as is known:
               how often their mean, or the single model that there is, is said to leak; with "any" also one model of
               several
    at margin  they are Retrains, but two points above in each attack (masked answers ten): how often they are said to
               leak
    hidden     one number is five points above and those of the other attacks are ten below (of membership, which counts
               on both sides, as Retrain's): how often they are said to be as Retrain; where the method's models deviate
               as much as is known, twice or three times as much, and Retrains as is known, or .6 of it; in the last
               case both deviate three times as much

It writes error_rates.json beside itself, or a file of --output, and prints the tables. With 1,000 runs a cell it takes
about 60 minutes of one core; --runs takes fewer, --workers uses more.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lit_unlearn.reports.noise import known_deviation
from lit_unlearn.reports.numbers import ANSWERS, numbers, sampling
from lit_unlearn.reports.rows import NO_ATTACK, Row
from lit_unlearn.reports.verdict import judge_models

RUNS = 1000


class Request(NamedTuple):
    """What is forgotten.

    Attributes:
        means: what Retrain gives on Fashion-MNIST.
        fixed: what else a row has, of images those on unseen ones.
        split: what a row says of it.
    """

    means: Mapping[str, float]
    fixed: Mapping[str, float]
    split: dict[str, Any]

    def row(self, method: str, seed: int, values: Mapping[str, float]) -> Row:
        """A row of these numbers, each within its range."""
        kept = {name: max(-1.0 if "informed" in name else 0.0, min(value, 1.0)) for name, value in values.items()}
        every = {**self.fixed, **kept}
        metrics = {name: value for name, value in every.items() if "/" not in name}
        attacks = {name: value for name, value in every.items() if "/" in name}
        weights = {"sha256": f"{method}{seed}"}
        return Row(method, "ok", metrics=metrics, attacks=attacks, split=self.split, seed=seed, weights=weights)

    def deviations(self) -> tuple[dict[str, float], dict[str, float]]:
        """Of each number what its images make, as the verdict takes it, and what is known of training."""
        row = self.row("Retrain", 0, self.means)
        keys = {key.attack: (key, *found) for key, (found,) in numbers([row]).items()}
        images, known = {}, {}
        for name in self.means:
            key, value, unseen = keys[name.rpartition("/")[0] or NO_ATTACK]
            images[name] = math.sqrt(sampling(key, value, unseen, row))
            known[name] = known_deviation(key.attack, row, key.split)
        return images, known


_MEMBERSHIP = ("margin", "rmia", "lira")
_CLASSES = {
    "recovery/hr/test_forget_acc": 0.80,
    "recovery/fm/test_forget_acc": 0.79,
    "recovery/worst/test_forget_acc": 0.85,
    "recovery/worst/stages/test_forget_acc": 0.85,
    "recovery/spatial/test_forget_acc": 0.94,
    f"{ANSWERS}/test_forget_acc": 0.39,
    "relearn/few/auc": 0.60,
    "relearn/adaptive/auc": 0.57,
    "perturbation/universal/informedness": 0.0,
    "detectability/samples/test_forget_auc": 0.75,
    "membership/margin/auc": 0.52,
    "membership/rmia/auc": 0.52,
    "membership/lira/auc": 0.50,
}
_IMAGES = {
    "forget_acc": 0.84,
    "recovery/hr/forget_acc": 0.84,
    "recovery/fm/forget_acc": 0.84,
    "recovery/worst/forget_acc": 0.85,
    "recovery/worst/stages/forget_acc": 0.85,
    "recovery/spatial/forget_acc": 0.85,
    "relearn/few/mean_forget_acc": 0.80,
    "relearn/adaptive/mean_forget_acc": 0.80,
    "perturbation/universal/forget_acc": 0.85,
    "detectability/samples/forget_auc": 0.50,
    "membership/margin/auc": 0.50,
    "membership/rmia/auc": 0.50,
    "membership/lira/auc": 0.50,
}
_CLASSES_FIXED = {
    **{"forget_acc": 0.0, "test_forget_acc": 0.0, "retain_acc": 0.97, "test_retain_acc": 0.93},
    **{"relearn/few/test_forget_acc": 0.7, "relearn/adaptive/test_forget_acc": 0.7},
    "perturbation/universal/informedness_error": 0.0014,
    **{f"membership/{name}/direction": 1.0 for name in _MEMBERSHIP},
}
_IMAGES_FIXED = {
    **{name.replace("forget_acc", "test_retain_acc"): mean for name, mean in _IMAGES.items() if "forget_acc" in name},
    **{"relearn/few/forget_acc": 0.9, "relearn/adaptive/forget_acc": 0.9},
    **{"perturbation/universal/images": 300, "perturbation/universal/unseen": 1000, "retain_acc": 1.0},
    **{f"membership/{name}/direction": 1.0 for name in _MEMBERSHIP},
}
_COUNTS = {"forget": 6000, "retain": 14000, "test_forget": 3000, "test_retain": 7000}
_COUNTS_OF_IMAGES = {"forget": 300, "retain": 2700, "test_retain": 10000}
REQUESTS = {
    "classes": Request(_CLASSES, _CLASSES_FIXED, {"hash": "0", "forgotten_classes": [0, 1, 2], "counts": _COUNTS}),
    "images": Request(_IMAGES, _IMAGES_FIXED, {"hash": "0", "counts": _COUNTS_OF_IMAGES}),
}

_SAME = {1.0: "the same", 0.5: "half the same", 0.0: "apart"}


class Case(NamedTuple):
    """What is simulated: the deviations of method and Retrains beside the known ones, and how the means differ.

    With ``of_mean`` what is said of one model of several is not counted.
    """

    wrong: str
    ours: float
    theirs: float
    shift: str = ""
    tails: bool = False
    of_mean: bool = False

    def shifts(self, request: Request) -> dict[str, float]:
        """By number how far the method is above Retrain."""
        if self.shift == "hidden":
            attacks = {name: 0.05 if name.startswith("recovery/hr/") else -0.10 for name in request.means}
            return attacks | {name: 0.0 for name in request.means if "/" not in name or "membership" in name}
        if self.shift == "at margin":
            return {name: 0.10 if name.startswith(ANSWERS) else 0.02 for name in request.means}
        return dict.fromkeys(request.means, 0.0)


CASES = {
    "alike": Case("leaks", 1.0, 1.0),
    "alike, 2": Case("leaks", 2.0, 2.0),
    "alike, 3": Case("leaks", 3.0, 3.0),
    "alike, tails": Case("leaks", 1.0, 1.0, tails=True),
    "at margin": Case("leaks", 1.0, 1.0, "at margin"),
    "hidden, 1": Case("as Retrain", 1.0, 1.0, "hidden"),
    "hidden, 2": Case("as Retrain", 2.0, 0.6, "hidden"),
    "hidden, 3": Case("as Retrain", 3.0, 0.6, "hidden"),
    "hidden, both 3": Case("as Retrain", 3.0, 3.0, "hidden"),
    "noisier, 2": Case("leaks", 2.0, 1.0, of_mean=True),
    "noisier, 3": Case("leaks", 3.0, 1.0, of_mean=True),
    "noisier, 2, any": Case("leaks", 2.0, 1.0),
    "noisier, 3, any": Case("leaks", 3.0, 1.0),
}
_APART = ((1, 8, 0.0), (3, 8, 0.0))
CELLS = {
    "classes": [
        *((k, n, same) for k, n in ((1, 1), (1, 5), (1, 8), (2, 5), (3, 5), (3, 8), (5, 8)) for same in (1.0, 0.5)),
        *_APART,
    ],
    "images": [*((k, n, same) for k, n in ((1, 1), (1, 8), (3, 5), (3, 8)) for same in (1.0, 0.5)), *_APART],
}


def share(of: str, k: int, n: int, same: float, name: str, runs: int) -> float:
    """How often the wrong verdict is given on k models beside n Retrains, where classes or images are forgotten."""
    request, case = REQUESTS[of], CASES[name]
    draw = np.random.default_rng([list(REQUESTS).index(of), k, n, int(10 * same), list(CASES).index(name)])
    (of_images, known), shifts = request.deviations(), case.shifts(request)
    originals = [request.row("Original", 0, {name: mean + 0.2 for name, mean in request.means.items()})]
    said = 0
    for _ in range(runs):
        both, alone = ({name: draw.normal(scale=scale) for name, scale in of_images.items()} for _ in range(2))
        other = {name: same * both[name] + math.sqrt(1 - same**2) * alone[name] for name in both}
        ours = {name: mean + shifts[name] + both[name] for name, mean in request.means.items()}
        theirs = {name: mean + other[name] for name, mean in request.means.items()}
        models = [request.row("Method", i, _trained(ours, known, case.ours, case, draw)) for i in range(k)]
        retrains = [request.row("Retrain", i, _trained(theirs, known, case.theirs, case, draw)) for i in range(n)]
        found = judge_models(models, retrains, originals)
        said += found.level == case.wrong and not (case.of_mean and found.alone)
    return said / runs


def _trained(
    values: Mapping[str, float], known: Mapping[str, float], spread: float, case: Case, draw: np.random.Generator
) -> dict[str, float]:
    """The numbers of one model: these and the noise of its training."""
    noise = draw.standard_t(3, len(known)) / math.sqrt(3) if case.tails else draw.normal(size=len(known))
    return {name: values[name] + spread * known[name] * float(each) for name, each in zip(known, noise, strict=True)}


def table(of: str, rates: Mapping[str, float]) -> str:
    """The rates as a table in percent."""
    columns = " | ".join(CASES)
    lines = [f"| Models | Retrains | Noise of the images | {columns} |", f"|---:|---:|---|{'---:|' * len(CASES)}"]
    for k, n, same in CELLS[of]:
        shares = [f"{100 * rates[f'{of} {k} {n} {same} {name}']:.1f}" for name in CASES]
        lines.append(f"| {k} | {n} | {_SAME[same]} | {' | '.join(shares)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulates all cells."""
    parser = argparse.ArgumentParser(description="How often the verdict errs on simulated models.")
    parser.add_argument("--runs", type=int, default=RUNS, help="simulated runs of each cell")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "error_rates.json", help="where to write"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes")
    given = parser.parse_args(arguments)
    for option in ("runs", "workers"):
        if (number := getattr(given, option)) < 1:
            parser.error(f"--{option} is {number}; 1 or more is allowed")
    each = [(of, k, n, same, name) for of, cells in CELLS.items() for k, n, same in cells for name in CASES]
    columns = list(zip(*each, strict=True))
    if given.workers == 1:
        shares = list(map(partial(share, runs=given.runs), *columns))
    else:
        with ProcessPoolExecutor(given.workers) as pool:
            shares = list(pool.map(partial(share, runs=given.runs), *columns))
    rates = {" ".join(map(str, cell)): found for cell, found in zip(each, shares, strict=True)}
    given.output.write_text(json.dumps({"runs": given.runs, "rates": rates}, indent=1) + "\n")
    print("\n\n".join(table(of, rates) for of in CELLS))


if __name__ == "__main__":
    main()
