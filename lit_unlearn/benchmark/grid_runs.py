"""What a benchmark consists of: every experiment of every scenario, for every combination of seeds, as runs.

To unlearn and to attack are two runs: other attacks, or more of their seeds, need no other unlearning. Each training
seed has an original (``model/pretrain``) and, in each scenario, a Retrain (``model/retrain``) of its own. Where the
grid is given an original, all seeds share it, and no original is trained.

Where data is named, all of it is run on each: the scenario "class" on ``data/svhn`` is "svhn/class".
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from lit_unlearn.benchmark.experiments import PRETRAIN, RETRAIN, WEIGHTS_OF, Experiments, chosen, data_names
from lit_unlearn.benchmark.given import Given, given
from lit_unlearn.benchmark.grid import Grid
from lit_unlearn.benchmark.pooling import pooled
from lit_unlearn.benchmark.runs import Run, make_run
from lit_unlearn.benchmark.search_space import variant_of
from lit_unlearn.benchmark.settings import look_up, merged, put
from lit_unlearn.errors import UsageError
from lit_unlearn.shipped import is_config, is_own, read_config

REFERENCES = "references"
"""The run that measures Original and Retrain, in place of an experiment's name."""

_FORGET = "data.init_args.forget"
_WATCH = "lit_unlearn.methods.pruning.NoEffectWatch"


class Experiment(NamedTuple):
    """What a search is given of a method: scenario, experiment's name, the method's class name, its settings."""

    scenario: str
    name: str
    method: str
    settings: Mapping[str, Any]


Variants = Callable[[Experiment], Iterable[Mapping[str, Any]]]
"""What of an experiment is to be varied: dotted place → value, once a run."""


def make_runs(grid: Grid, variants: Variants | None = None) -> list[Run]:
    """All runs of a grid, those that others need first, and all of one training seed before the next.

    Args:
        grid: what to run.
        variants: for a search, the variants of each method; they are scored, and attacked if the grid names attacks, in
            the run that makes them.

    Raises:
        UsageError: naming a config, scenario or method that is not there, a file that cannot be read, weights of the
            user's own that the grid would not use, or one given Retrain for several seeds.
    """
    experiments = Experiments(grid.bases, grid.experiments)
    methods = methods_of(grid, experiments)
    _check_weights(grid, experiments, methods)
    original = None if grid.original is None else given("grid.original", grid.original)
    attacks = None if grid.attacks is None else _attacks(grid.attacks)
    runs: dict[str, Run] = {}
    first, count = grid.seeds.first, grid.seeds.originals
    for seed in range(first, first + (grid.seeds.references or count)):
        for data, on in _each_data(grid).items():
            for scenario, names in methods.items():
                own = names if seed < first + count else []
                made = _Scenario(on, experiments, scenario, data, seed, attacks, original).runs(own, variants)
                runs |= {run.key: run for run in made}  # scenarios share an original
    found = list(runs.values())
    return pooled(found, lambda run: grid.pools(run.scenario)) if grid.pool and variants is None else found


def methods_of(grid: Grid, experiments: Experiments) -> dict[str, list[str]]:
    """Scenario → its experiments, without the reference models and what the grid skips.

    Raises:
        UsageError: naming a scenario or method that is not there, or methods that no scenario has.
    """
    if not grid.bases:
        raise UsageError("grid.bases is empty: name a config for each scenario, such as {class: base/digits_class}")
    scenarios = chosen("scenario", grid.scenarios, list(grid.bases))
    chosen("scenario of grid.scenario_overrides", list(grid.scenario_overrides), list(grid.bases))
    chosen("scenario of grid.pool", grid.pool if isinstance(grid.pool, list) else [], list(grid.bases))
    found = {scenario: experiments.names(scenario) for scenario in scenarios}
    everywhere = {name for scenario in grid.bases for name in experiments.names(scenario)}
    wanted = chosen("method", grid.methods, sorted(everywhere))
    if grid.methods and not any(name in names for name in wanted for names in found.values()):
        raise UsageError(f"no method of {', '.join(grid.methods)} is an experiment of {', '.join(scenarios)}")
    chosen("scenario of grid.skip", list(grid.skip), list(grid.bases))
    for scenario, names in grid.skip.items():
        chosen(f"experiment of grid.skip.{scenario}", list(names), experiments.names(scenario))
    skipped = {scenario: grid.skip.get(scenario, ()) for scenario in scenarios}
    return {
        scenario: [name for name in wanted if name in names and name not in skipped[scenario]]
        for scenario, names in found.items()
    }


def _check_weights(grid: Grid, experiments: Experiments, methods: Mapping[str, Iterable[str]]) -> None:
    """Refuses weights of the user's own in a base or an experiment of a grid that trains others in their place."""
    if grid.original is not None:
        return
    for scenario, names in methods.items():
        found = {"": experiments.base(scenario), **{name: experiments.settings(scenario, name) for name in names}}
        for name, settings in found.items():
            for place, model in WEIGHTS_OF.items():
                weights = look_up(grid.overridden(scenario, settings), place)
                if weights is not None and not is_config(weights) and is_own(weights):
                    raise UsageError(
                        f"{'/'.join(filter(None, (scenario, name)))}: {place} is {str(weights)!r}, but without "
                        f"grid.original a grid trains {model} itself: give the weights of your model as grid.original"
                    )


def _each_data(grid: Grid) -> dict[str, Grid]:
    """The grid of each data config, by its name; without data the grid itself, without a name."""
    if grid.data is None:
        return {"": grid}
    return {name: replace(grid, data=[file]) for name, file in zip(data_names(grid.data), grid.data, strict=True)}


class _Scenario:
    """The runs of one scenario and one training seed."""

    def __init__(
        self,
        grid: Grid,
        experiments: Experiments,
        scenario: str,
        data: str,
        seed: int,
        attacks: Mapping[str, Any] | None,
        original: Given | None,
    ) -> None:
        self.grid, self.experiments, self.base, self.seed, self.attacks = grid, experiments, scenario, seed, attacks
        self.name = "/".join(filter(None, (data, scenario)))
        self.seeds = {"original": seed}
        self.original: Run | Given = original or make_run(
            "fit", data, PRETRAIN, self.seeds, self._settings(PRETRAIN, seed), {}
        )

    def runs(self, methods: Iterable[str], variants: Variants | None) -> Iterator[Run]:
        needs: dict[str, Run | Given] = {"model.init_args.weights": self.original}
        needs["evaluation.retrain"] = self._given_retrain() or make_run(
            "fit", self.name, RETRAIN, self.seeds, self._without_attacks(RETRAIN, self.seed), needs
        )
        yield from (source for source in needs.values() if isinstance(source, Run))
        settings = self._settings(RETRAIN, self.seed)
        backbone = settings["model"]["init_args"]["backbone"]
        settings["model"] = {"class_path": "FineTune", "init_args": {"backbone": backbone}}
        if variants is not None:
            settings["trainer"]["callbacks"] = []
        yield from self._attacked(REFERENCES, self.seeds, settings, needs)
        for name in methods:
            for epochs in self.grid.epochs or (None,):
                for seed in _nested(self.seed, self.grid.seeds.unlearnings):
                    yield from self._unlearned(name, epochs, {**self.seeds, "unlearning": seed}, needs, variants)

    def _given_retrain(self) -> Given | None:
        """The Retrain whose weights a base names beside a given original."""
        retrain = look_up(self.experiments.base(self.base), "evaluation.retrain")
        if self.grid.original is None or retrain is None or is_config(retrain):
            return None
        for name, seeds in (("originals", self.grid.seeds.originals), ("references", self.grid.seeds.references or 0)):
            if seeds > 1:
                raise UsageError(
                    f"{self.base}: evaluation.retrain is {str(retrain)!r}, one Retrain, but seeds.{name} is {seeds}: "
                    "name a config there, or null, and each seed trains its own"
                )
        return given(f"{self.base}: evaluation.retrain", retrain)

    def _unlearned(
        self,
        name: str,
        epochs: int | None,
        seeds: Mapping[str, int],
        needs: Mapping[str, Run | Given],
        variants: Variants | None,
    ) -> Iterator[Run]:
        bare = _for_epochs(self._without_attacks(name, seeds["unlearning"]), epochs)
        label = name if epochs is None else f"{name}@{epochs}"
        method = str(bare["model"]["class_path"]).rpartition(".")[2]
        original = {"model.init_args.weights": self.original}
        for variant in [{}] if variants is None else variants(Experiment(self.name, label, method, bare)):
            tried = variants is not None
            settings = self._trial(bare) if tried else copy.deepcopy(bare)
            for place, value in variant.items():
                put(settings, place, value)
            unlearned = make_run("fit", self.name, label, seeds, settings, original, variant, reports=tried)
            yield unlearned
        if variants is None:
            settings = _for_epochs(self._settings(name, 0), epochs)
            settings["evaluation"] = {**settings.get("evaluation", {}), "reference_models": False}
            yield from self._attacked(label, seeds, settings, {**needs, "ckpt_path": unlearned})

    def _attacked(
        self, name: str, seeds: Mapping[str, int], settings: dict[str, Any], needs: Mapping[str, Run | Given]
    ) -> Iterator[Run]:
        if self.attacks is not None:
            settings = merged(settings, self.attacks)
        count, first = self.grid.seeds.attacks, self.grid.seeds.first
        model = seeds.get("unlearning", self.seed)
        for seed in _nested(model, count) if self.grid.seeds.nested else range(first, first + count):
            own = {**_validating(settings), "seed_everything": seed}
            yield make_run("validate", self.name, name, {**seeds, "attack": seed}, own, needs, reports=True)

    def _trial(self, bare: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a run that unlearns, is attacked and is ended early where nothing changes."""
        settings = merged(bare, self.attacks or {})
        settings["trainer"]["callbacks"] = [*settings["trainer"]["callbacks"], {"class_path": _WATCH}]
        return settings

    def _without_attacks(self, name: str, seed: int) -> dict[str, Any]:
        settings = self._settings(name, seed)
        settings["trainer"]["callbacks"] = []
        settings["evaluation"] = {"retrain": None, "reference_models": False}
        return settings

    def _settings(self, name: str, seed: int) -> dict[str, Any]:
        quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "limit_val_batches": 0}
        below = {"trainer": {**quiet, "callbacks": []}, "report": {"page": False}}
        own = self.experiments.settings(self.base, name, self.grid.data)
        settings = {**merged(below, self.grid.overridden(self.base, own)), "seed_everything": seed}
        settings.get("evaluation", {}).pop("retrains", None)  # each run has one, of its own seed
        if name == PRETRAIN and look_up(settings, _FORGET) is not None:
            put(settings, _FORGET, look_up(own, _FORGET))  # an original forgets nothing, whatever its scenario does
        return settings


def _for_epochs(settings: dict[str, Any], epochs: int | None) -> dict[str, Any]:
    """The settings with another number of epochs, where one is given."""
    for place, value in variant_of(settings, {} if epochs is None else {"epochs": epochs}).items():
        put(settings, place, value)
    return settings


def _nested(seed: int, count: int) -> range:
    """Seeds that no other run of that step gets."""
    return range(seed * count, seed * count + count)


def _attacks(config: str) -> dict[str, Any]:
    settings = read_config(config)
    callbacks, suite = look_up(settings, "trainer.callbacks"), look_up(settings, "evaluation.suite")
    if not callbacks:
        raise UsageError(f"{config}: has no trainer.callbacks, so it names no attack")
    return {"trainer": {"callbacks": callbacks}, "evaluation": {"suite": suite}}


def _validating(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those that only ``fit`` uses."""
    own = copy.deepcopy(dict(settings))
    for surplus in ("max_epochs", "check_val_every_n_epoch", "limit_val_batches"):
        own["trainer"].pop(surplus, None)
    return own
