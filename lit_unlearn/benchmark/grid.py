"""What a benchmark consists of: every experiment of a folder, for every combination of seeds, as cells.

To unlearn and to attack are two cells: other attacks, or more of their seeds, need no other unlearning.

    <folder>/pretrain.yaml               the original models, one a training seed
    <folder>/<scenario>/retrain.yaml     the yardstick of a scenario, one a training seed
    <folder>/<scenario>/<name>.yaml      everything else: one method with its settings

Where data is named beside the folder, all of it is run on each: "class" on configs/data/svhn.yaml is "svhn/class".
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from lit_unlearn.benchmark.cells import Cell, make_cell
from lit_unlearn.benchmark.settings import look_up, merged, put, read_experiment, read_settings
from lit_unlearn.errors import UsageError, check_at_least, unknown

PRETRAIN, RETRAIN, YARDSTICKS = "pretrain", "retrain", "yardsticks"


@dataclass(frozen=True)
class Seeds:
    """How many independent repetitions of each step.

    Args:
        originals: trainings of the original model, each with a Retrain of the same seed.
        unlearnings: runs of each method on each original.
        attacks: runs of all attacks on each model.
        first: the first seed of each.
        nested: whether each model is attacked with seeds of its own, so that the deviation over models holds that of
            the attacks; else all models are attacked with the same seeds.
    """

    originals: int = 1
    unlearnings: int = 1
    attacks: int = 1
    first: int = 0
    nested: bool = False

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name in ("originals", "unlearnings", "attacks"):
            check_at_least(f"seeds.{name}", getattr(self, name), 1)
        check_at_least("seeds.first", self.first, 0)


@dataclass(frozen=True)
class Grid:
    """Which experiments, with what on top.

    Args:
        experiments: the folder of experiment files.
        data: files such as ``configs/data/svhn.yaml``: every experiment is run on each, with ``source`` and ``augment``
            of that file and all else of its own. None leaves each experiment its own images.
        scenarios: which of its folders; None takes all.
        methods: which experiments, by file name without ending; None takes all.
        seeds: how many repetitions.
        attacks: the attacks on every model: a file such as ``configs/attack/quick.yaml``, of which only
            ``trainer.callbacks`` and ``evaluation.suite`` count; None leaves each experiment its own.
        overrides: settings laid over those of every experiment, such as ``{trainer: {precision: bf16-mixed}}``.
    """

    experiments: str
    data: list[str] | None = None
    scenarios: list[str] | None = None
    methods: list[str] | None = None
    seeds: Seeds = field(default_factory=Seeds)
    attacks: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)


class Experiment(NamedTuple):
    """A method as a search meets it: scenario, file name, the method's class name, its settings."""

    scenario: str
    name: str
    method: str
    settings: Mapping[str, Any]


Variants = Callable[[Experiment], Iterable[Mapping[str, Any]]]
"""What of an experiment is to be varied: dotted place → value, once a run."""


def make_cells(grid: Grid, variants: Variants | None = None) -> list[Cell]:
    """All cells of a grid, those that others need first, and all of one training seed before the next.

    Args:
        grid: what to run.
        variants: for a search, the variants of each method; they are scored and not attacked.

    Raises:
        UsageError: naming a folder, scenario or method that is not there, or a file that cannot be read.
    """
    folder = Path(grid.experiments)
    if not folder.is_dir():
        raise UsageError(f"grid.experiments: there is no folder {grid.experiments!r}")
    found = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()}
    scenarios = _chosen("scenario", grid.scenarios, found)
    names = sorted({file.stem for name in scenarios for file in found[name].glob("*.yaml")} - {RETRAIN})
    methods = _chosen("method", grid.methods, names)
    attacks = None if grid.attacks is None else _attacks(Path(grid.attacks))
    cells = []
    for seed in range(grid.seeds.first, grid.seeds.first + grid.seeds.originals):
        for name, on in _each_data(grid).items():
            settings = _settings(on, folder / f"{PRETRAIN}.yaml", seed)
            original = make_cell("fit", name, PRETRAIN, {"original": seed}, settings, {})
            cells.append(original)
            for scenario in scenarios:
                cells += _Scenario(on, found[scenario], original, attacks).cells(methods, variants)
    return cells


def _each_data(grid: Grid) -> dict[str, Grid]:
    """The grid of each data file, by the file's name; without data the grid itself, without a name.

    Raises:
        UsageError: if two files have one name, or there is none in the list.
    """
    if grid.data is None:
        return {"": grid}
    names = [Path(file).stem for file in grid.data]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"grid.data is {grid.data}, but must name at least one file, and each file name once")
    return {name: replace(grid, data=[file]) for name, file in zip(names, grid.data, strict=True)}


class _Scenario:
    """The cells of one scenario on one original."""

    def __init__(self, grid: Grid, folder: Path, original: Cell, attacks: Mapping[str, Any] | None) -> None:
        self.grid, self.folder, self.original, self.attacks = grid, folder, original, attacks
        self.name = "/".join(filter(None, (original.scenario, folder.name)))
        self.seeds = dict(original.seeds)
        self.seed = original.seeds["original"]

    def cells(self, methods: Sequence[str], variants: Variants | None) -> Iterator[Cell]:
        needs = {"model.init_args.weights": self.original}
        path = self.folder / f"{RETRAIN}.yaml"
        retrain = make_cell("fit", self.name, RETRAIN, self.seeds, self._without_attacks(path, self.seed), needs)
        yield retrain
        needs = {**needs, "evaluation.retrain": retrain}
        settings = _settings(self.grid, path, self.seed)
        backbone = settings["model"]["init_args"]["backbone"]
        settings["model"] = {"class_path": "FineTune", "init_args": {"backbone": backbone}}
        if variants is None:
            yield from self._attacked(YARDSTICKS, self.seeds, settings, needs)
        else:
            settings["trainer"]["callbacks"] = []
            yield make_cell("validate", self.name, YARDSTICKS, self.seeds, _validating(settings), needs, reports=True)
        for name in methods:
            path = self.folder / f"{name}.yaml"
            for seed in _nested(self.seed, self.grid.seeds.unlearnings) if path.exists() else ():
                seeds = {**self.seeds, "unlearning": seed}
                yield from self._unlearned(name, path, seeds, needs, variants)

    def _unlearned(
        self, name: str, path: Path, seeds: Mapping[str, int], needs: Mapping[str, Cell], variants: Variants | None
    ) -> Iterator[Cell]:
        bare = self._without_attacks(path, seeds["unlearning"])
        method = str(bare["model"]["class_path"]).rpartition(".")[2]
        for variant in [{}] if variants is None else variants(Experiment(self.name, name, method, bare)):
            settings = copy.deepcopy(bare)
            for place, value in variant.items():
                put(settings, place, value)
            unlearned = make_cell(
                "fit",
                self.name,
                name,
                seeds,
                settings,
                {"model.init_args.weights": self.original},
                variant,
                reports=variants is not None,
            )
            yield unlearned
        if variants is None:
            settings = _settings(self.grid, path, 0)
            settings["evaluation"] = {**settings.get("evaluation", {}), "yardsticks": False}
            yield from self._attacked(name, seeds, settings, {**needs, "ckpt_path": unlearned})

    def _attacked(
        self, name: str, seeds: Mapping[str, int], settings: dict[str, Any], needs: Mapping[str, Cell]
    ) -> Iterator[Cell]:
        if self.attacks is not None:
            settings = merged(settings, self.attacks)
        count, first = self.grid.seeds.attacks, self.grid.seeds.first
        model = seeds.get("unlearning", self.seed)
        for seed in _nested(model, count) if self.grid.seeds.nested else range(first, first + count):
            own = {**_validating(settings), "seed_everything": seed}
            yield make_cell("validate", self.name, name, {**seeds, "attack": seed}, own, needs, reports=True)

    def _without_attacks(self, path: Path, seed: int) -> dict[str, Any]:
        settings = _settings(self.grid, path, seed)
        settings["trainer"]["callbacks"] = []
        settings["evaluation"] = {"retrain": None, "yardsticks": False}
        return settings


def _nested(seed: int, count: int) -> range:
    """Seeds that no other run of that step gets."""
    return range(seed * count, seed * count + count)


def _attacks(path: Path) -> dict[str, Any]:
    settings = read_settings(path)
    callbacks, suite = look_up(settings, "trainer.callbacks"), look_up(settings, "evaluation.suite")
    if not callbacks:
        raise UsageError(f"{path}: has no trainer.callbacks, so it names no attack")
    return {"trainer": {"callbacks": callbacks}, "evaluation": {"suite": suite}}


def _settings(grid: Grid, path: Path, seed: int) -> dict[str, Any]:
    quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "limit_val_batches": 0}
    below = {"trainer": {**quiet, "callbacks": []}, "report": {"page": False}}
    return {**merged(below, merged(read_experiment(path, grid.data), grid.overrides)), "seed_everything": seed}


def _validating(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without what only ``fit`` has a use for."""
    own = copy.deepcopy(dict(settings))
    for surplus in ("max_epochs", "check_val_every_n_epoch", "limit_val_batches"):
        own["trainer"].pop(surplus, None)
    return own


def _chosen(what: str, wanted: Sequence[str] | None, found: Sequence[str] | Mapping[str, Any]) -> list[str]:
    for name in wanted or ():
        if name not in found:
            raise unknown(what, name, found)
    return list(found) if wanted is None else list(wanted)
