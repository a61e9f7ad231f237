"""The models of a grid as a pool for its attacks: each attack run gets those of all training seeds as references."""

import copy
from collections.abc import Callable, Sequence

from lit_unlearn.benchmark.experiments import RETRAIN
from lit_unlearn.benchmark.given import Given
from lit_unlearn.benchmark.runs import POOL, Run, make_run
from lit_unlearn.benchmark.settings import put


def pooled(runs: Sequence[Run], wanted: Callable[[Run], bool]) -> list[Run]:
    """The runs with a pool for each attack run that wants one, in an order in which what a run needs comes before it.

    A pool has the originals and the Retrains of its scenario, given ones too, and the unlearned models of its own
    experiment. They are part of the key: another training seed in the grid means that everything is attacked again.
    """
    fits = [run for run in runs if run.subcommand == "fit"]
    others = (run for run in runs if run.subcommand != "fit")
    return [*fits, *(_with_pool(run, fits) if wanted(run) else run for run in others)]


def _with_pool(run: Run, fits: Sequence[Run]) -> Run:
    own = [each for each in fits if each.scenario == run.scenario and each.name in (RETRAIN, run.name)]
    originals = {source.key for each in own for source in each.needs.values()}  # another scenario may have others
    members: list[Run | Given] = [each for each in fits if each in own or each.key in originals]
    members += run.given.values()
    places = {f"{POOL}.{number:04}": each for number, each in enumerate(members)}
    settings, sources = copy.deepcopy(dict(run.settings)), {**run.needs, **run.given, **places}
    put(settings, POOL, {})  # in place of one that a base names
    return make_run(run.subcommand, run.scenario, run.name, run.seeds, settings, sources, run.variant, run.reports)
