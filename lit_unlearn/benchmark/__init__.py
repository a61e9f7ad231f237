"""Many runs as one: a grid of experiments and seeds, its execution, and the search for settings."""

from lit_unlearn.benchmark.execution import Launcher, execute
from lit_unlearn.benchmark.grid import Grid, Seeds
from lit_unlearn.benchmark.grid_runs import make_runs
from lit_unlearn.benchmark.runs import Run
from lit_unlearn.benchmark.search import Tuning
from lit_unlearn.benchmark.slurm import Slurm

__all__ = ["Grid", "Launcher", "Run", "Seeds", "Slurm", "Tuning", "execute", "make_runs"]
