"""Many runs as one: a grid of experiments and seeds, its execution, and the search for settings."""

from lit_unlearn.benchmark.cells import Cell
from lit_unlearn.benchmark.execution import Launcher, execute
from lit_unlearn.benchmark.grid import Grid, Seeds, make_cells
from lit_unlearn.benchmark.slurm import Slurm
from lit_unlearn.benchmark.tuning import Tuning

__all__ = ["Cell", "Grid", "Launcher", "Seeds", "Slurm", "Tuning", "execute", "make_cells"]
