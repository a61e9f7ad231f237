"""What is decided and checked before any run of a grid is executed.

Nothing here knows methods or the command line: both are handed in.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lit_unlearn.benchmark.experiments import Experiments
from lit_unlearn.benchmark.grid import Grid
from lit_unlearn.benchmark.grid_runs import methods_of
from lit_unlearn.benchmark.runs import ANY_DEVICES, DEVICES, POOL, Run
from lit_unlearn.benchmark.settings import look_up
from lit_unlearn.errors import UsageError

QUICK = "attack/quick"
"""The attacks on what is made of the user's own model, where nothing names others."""

RETRAINS = "evaluation.retrains"
"""How many Retrains a base asks for."""

Check = Callable[[str, Mapping[str, Any]], str | None]
"""From a subcommand and the settings of a run to one line on what the command line does not accept, or None."""

OnlyClasses = Callable[[str], bool]
"""Whether the method of a class path can only forget whole classes."""


def check_runs(runs: Sequence[Run], root: Path, check: Check, command: str) -> None:
    """Checks the settings of every run; those that differ in seed and weights alone are checked once.

    Args:
        runs: of the grid.
        root: the output directory.
        check: parses the settings of a run.
        command: that is to execute them, for the error.

    Raises:
        UsageError: naming the first experiment that cannot be run, and why.
    """
    known = set()
    for run in runs:
        if (devices := look_up(run.settings, DEVICES)) not in (*ANY_DEVICES, 1, "1"):
            raise UsageError(
                f"{command}: {DEVICES} is {devices}, but each run of a grid uses one device; launcher.workers "
                "executes several at once, each on a GPU of its own"
            )
        settings = {name: value for name, value in run.settings.items() if name != "seed_everything"}
        text = json.dumps([run.subcommand, settings], sort_keys=True, default=str)
        if text in known:
            continue
        known.add(text)
        if line := check(run.subcommand, run.config(root)):
            raise UsageError(f"{command}: {'/'.join(filter(None, (run.scenario, run.name)))}: {line}")


def fitted(grid: Grid, only_classes: OnlyClasses) -> tuple[Grid, list[str]]:
    """The grid with what it leaves open, and a line on each thing that was decided.

    A method that can only forget whole classes is skipped where something else is to be forgotten. Where the user's own
    model is given and nothing names attacks, they are the quick ones. There are as many Retrains as a base asks for,
    and two or more of them are, with the originals, a pool for attacks on single images.

    Raises:
        UsageError: if no method is left, or a base asks for a wrong number of Retrains.
    """
    experiments = Experiments(grid.bases, grid.experiments)
    skip, lines = dict(grid.skip), []
    for scenario, names in methods_of(grid, experiments).items():
        settings = {name: grid.overridden(scenario, experiments.settings(scenario, name, grid.data)) for name in names}
        unfit = [
            name
            for name, own in settings.items()
            if not _whole_classes(own) and only_classes(str(look_up(own, "model.class_path")))
        ]
        if unfit:
            lines.append(f"{scenario}: left out, since they forget whole classes only: {', '.join(unfit)}")
            if len(unfit) == len(names):
                raise UsageError(f"{lines[-1]}; no method is left: name others in grid.methods")
            skip[scenario] = [*skip.get(scenario, ()), *unfit]
    return _referenced(*_attacked(replace(grid, skip=skip), experiments, lines), experiments)


def _attacked(grid: Grid, experiments: Experiments, lines: list[str]) -> tuple[Grid, list[str]]:
    """The grid with attacks where nothing names any, and the lines with one on that."""
    scenarios = methods_of(grid, experiments)
    bases = {name: grid.overridden(name, experiments.base(name)) for name in scenarios}
    bare = [name for name, base in bases.items() if not look_up(base, "trainer.callbacks")]
    if grid.attacks is not None or not bare:
        return grid, lines
    if grid.original is not None and len(bare) == len(bases):
        return replace(grid, attacks=QUICK), [
            *lines,
            f"The attacks are those of {QUICK}, since neither grid.attacks nor a base names any",
        ]
    return grid, [*lines, f"{', '.join(bare)}: no attacks, since neither grid.attacks nor the base names any"]


def _referenced(grid: Grid, lines: list[str], experiments: Experiments) -> tuple[Grid, list[str]]:
    """The grid with references: as many as a base asks for, and as a pool; and the lines with one on each."""
    bases = {name: grid.overridden(name, experiments.base(name)) for name in methods_of(grid, experiments)}
    asked = {name: number for name, base in bases.items() if (number := look_up(base, RETRAINS)) is not None}
    for name, number in asked.items():
        if not isinstance(number, int) or number < 1:
            raise UsageError(f"{name}: {RETRAINS} is {number!r}, but must be a whole number of at least 1")
    if grid.seeds.references is None and (most := max(asked.values(), default=1)) > grid.seeds.originals:
        grid = replace(grid, seeds=replace(grid.seeds, references=most))
        lines = [*lines, f"{most} Retrains are trained, as {RETRAINS} of {', '.join(asked)} says"]
    if grid.pool is None and (grid.seeds.references or grid.seeds.originals) > 1:
        own = [name for name, base in bases.items() if not _whole_classes(base) and look_up(base, POOL) is None]
        grid = replace(grid, pool=own)
        lines += [f"{', '.join(own)}: the models of all seeds are a pool for attacks on single images"] if own else []
    return grid, lines


def _whole_classes(settings: Mapping[str, Any]) -> bool:
    """Whether settings ask for whole classes to be forgotten."""
    forget = look_up(settings, "data.init_args.forget")
    asked = {name for name, value in forget.items() if value is not None} if isinstance(forget, Mapping) else set()
    return asked == {"classes"}
