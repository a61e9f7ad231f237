"""What a benchmark is told: experiments in scenarios, repetitions of each step, attacks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lit_unlearn.benchmark.settings import merged
from lit_unlearn.errors import UsageError, check_at_least


@dataclass(frozen=True)
class Seeds:
    """How many independent repetitions of each step.

    Args:
        originals: trainings of the original model that every method unlearns, each with a Retrain of the same seed;
            where the grid is given an original, trainings of Retrain alone.
        references: training seeds whose Original and Retrain are trained and attacked, at least ``originals``; None is
            as many, or where a base asks for more, the number of its ``evaluation.retrains``. Retrain varies from seed
            to seed, and a verdict that a model is as Retrain takes five.
        unlearnings: runs of each method on each original.
        attacks: runs of all attacks on each model.
        first: the first training seed, and without ``nested`` the first attack seed. Training seed s has the unlearning
            seeds from s · ``unlearnings`` on.
        nested: whether each model is attacked with seeds of its own, so that the deviation over models holds that of
            the attacks; else all models are attacked with the same seeds.

    Raises:
        UsageError: for a number out of range.
    """

    originals: int = 1
    references: int | None = None
    unlearnings: int = 1
    attacks: int = 1
    first: int = 0
    nested: bool = False

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name in ("originals", "unlearnings", "attacks"):
            check_at_least(f"seeds.{name}", getattr(self, name), 1)
        check_at_least("seeds.first", self.first, 0)
        if self.references is not None:
            check_at_least("seeds.references", self.references, self.originals)


@dataclass(frozen=True)
class Grid:
    """Which experiments, with what on top. Configs are named as on the command line.

    Args:
        bases: scenario → base config, such as ``{class: base/digits_class}``.
        experiments: config with a section for each experiment, such as ``tuned/digits``: what it adds to its base and
            to ``model/<experiment>``. None takes every reference as it is.
        original: weights of the original of every run: a file, or a name of the manifest; they count before those that
            a base names. None trains an original for each training seed.
        data: configs such as ``data/svhn``: every experiment is run on each, with source and augmentation of that
            config and all else of its own. None leaves each experiment its own images.
        scenarios: which of the bases; None takes all.
        methods: which experiments; None takes all.
        skip: scenario → experiments that it leaves out, such as methods that forget whole classes only.
        seeds: how many repetitions.
        attacks: the attacks on every model: a config such as ``attack/quick``, of which only ``trainer.callbacks`` and
            ``evaluation.suite`` count; None leaves each experiment its own, or where ``original`` is given and a base
            names none takes ``attack/quick``.
        overrides: settings merged on top of those of every experiment, such as ``{trainer: {precision: bf16-mixed}}``.
        pool: whether each attack run gets the grid's models as ``evaluation.pool``: originals, Retrains, and the
            unlearned models of its experiment, of all training seeds. A list names the scenarios whose runs do; None is
            those that forget single images, if there are two Retrains or more.
        scenario_overrides: scenario → settings merged on top of that for its experiments, such as
            ``{class: {data: {init_args: {train_limit: 10000}}}}``.
        epochs: every experiment is run once for each of these numbers of epochs, as ``<name>@<epochs>``; a cosine over
            its epochs goes with them. None leaves each experiment its own. A figure of depth against cost is drawn of
            it.

    Raises:
        UsageError: if ``scenarios`` or ``methods`` is an empty list, or ``epochs`` is empty, repeats a number or has
            one below 1.
    """

    bases: dict[str, str]
    experiments: str | None = None
    original: str | None = None
    data: list[str] | None = None
    scenarios: list[str] | None = None
    methods: list[str] | None = None
    skip: dict[str, list[str]] = field(default_factory=dict)
    seeds: Seeds = field(default_factory=Seeds)
    attacks: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    pool: bool | list[str] | None = None
    scenario_overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    epochs: list[int] | None = None

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name, wanted in (("scenarios", self.scenarios), ("methods", self.methods)):
            if wanted == []:
                raise UsageError(f"grid.{name} is [], but must name at least one of them; leave it out for all")
        for epochs in self.epochs or ():
            check_at_least("grid.epochs", epochs, 1)
        if self.epochs is not None and (not self.epochs or len(set(self.epochs)) < len(self.epochs)):
            raise UsageError(f"grid.epochs is {self.epochs}, but must have at least one number, and each once")

    def pools(self, scenario: str) -> bool:
        """Whether the attack runs of a scenario, such as ``class`` or ``svhn/class``, get a pool."""
        return base_of(scenario) in self.pool if isinstance(self.pool, list) else bool(self.pool)

    def overridden(self, scenario: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of an experiment of a scenario with all that goes on top of them."""
        return merged(merged(settings, self.overrides), self.scenario_overrides.get(scenario, {}))


def base_of(scenario: str) -> str:
    """The scenario of the grid, without the name of the data."""
    return scenario.rpartition("/")[2]
