"""A run of a grid: one run of the command line.

It is recognised by a hash of all its settings and of the runs it builds on, so that a finished one is never run again
and a changed one always is.
"""

import copy
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from lit_unlearn.benchmark.given import Given, file_key
from lit_unlearn.benchmark.search_space import values_of
from lit_unlearn.benchmark.settings import look_up, put
from lit_unlearn.own_code import own_code
from lit_unlearn.run_files import CHECKPOINT

POOL = "evaluation.pool"
"""A list in the settings, of which each run that makes a part has a place of its own: ``evaluation.pool.0000``."""
DEVICES = "trainer.devices"
ANY_DEVICES = (None, "auto")
"""Values with which Lightning would take all devices, and start the whole benchmark again for each."""
LISTED = (
    "data.init_args.forget.index_file",
    "model.init_args.backbone.init_args.pretrained",
    "model.init_args.original",
    "model.init_args.suppressed",
    "evaluation.retrain.trained_without",
    "evaluation.retrain.trained_without.index_file",
)
"""Places in the settings where a file may be named whose content says what a run does."""
BEFORE = "data.init_args.forgotten_before"
"""A list in the settings, of which each element may name such a file, too."""
CALLBACKS = "trainer.callbacks"
"""The same of each option of each element, such as the reference models of an attack."""


@dataclass(frozen=True, eq=False)
class Run:
    """One run.

    Attributes:
        subcommand: ``fit`` or ``validate``.
        scenario: the name of its base in the grid, none for an original; where the grid names data, the data's name
            before it.
        name: the experiment's.
        seeds: the seed of each step that this run depends on, by name.
        settings: what the command line is given; the weights that it needs are left open.
        reports: whether its row is one of the table.
        needs: place in the settings (dotted) → the run that makes those weights.
        variant: place in the settings (dotted) → the value that a search put there.
        key: 16 hex digits that name all of this.
        given: place in the settings (dotted) → weights that no run makes.
        code: module of the user's own → what names its code, as :func:`~lit_unlearn.own_code.own_code` gives it.
    """

    subcommand: str
    scenario: str
    name: str
    seeds: Mapping[str, int]
    settings: Mapping[str, Any]
    reports: bool
    needs: Mapping[str, "Run"]
    variant: Mapping[str, Any]
    key: str
    given: Mapping[str, Given] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Where it writes, below the output directory of the benchmark."""
        return folder_of(self.scenario, self.name, self.key)

    @property
    def label(self) -> str:
        """What the progress bar shows."""
        seeds = ", ".join(f"{name} {seed}" for name, seed in self.seeds.items())
        values = "".join(f", {name} {value:.3g}" for name, value in values_of(self.variant).items())
        step = "attack " if self.subcommand == "validate" else ""
        return f"{step}{'/'.join(filter(None, (self.scenario, self.name)))} ({seeds}{values})"

    def config(self, root: Path) -> dict[str, Any]:
        """The complete settings, once the output directory is known."""
        settings: dict[str, Any] = copy.deepcopy(dict(self.settings))
        for place, run in self.needs.items():
            put(settings, place, str(root / run.folder / CHECKPOINT))
        for place, there in self.given.items():
            put(settings, place, str(there.path) if place.startswith(POOL) else there.weights)
        pool = look_up(settings, POOL)
        if isinstance(pool, dict):  # a run that diverged has left no weights
            put(settings, POOL, [path for path in pool.values() if Path(path).exists()])
        if look_up(settings, DEVICES) in ANY_DEVICES:
            put(settings, DEVICES, 1)
        name, _, version = self.folder.rpartition("/")
        logger = {"save_dir": str(root), "name": name, "version": version}
        put(settings, "trainer.logger", {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": logger})
        return settings

    def weights(self, root: Path) -> Path:
        """The model that it leaves behind."""
        return root / self.folder / CHECKPOINT


def folder_of(scenario: str, name: str, key: str) -> str:
    """Where the run of that key writes, below the output directory of the benchmark."""
    # A bare key may read as a number: 7303e46084538905 is infinity to a parser of settings.
    return "/".join(filter(None, (scenario, name, f"run-{key}")))


def make_run(
    subcommand: str,
    scenario: str,
    name: str,
    seeds: Mapping[str, int],
    settings: dict[str, Any],
    sources: Mapping[str, Run | Given],
    variant: Mapping[str, Any] | None = None,
    reports: bool = False,
) -> Run:
    """A run with its key; the weights that it needs are left open in its settings.

    Weights that are given, files of :data:`LISTED`, :data:`BEFORE` and :data:`CALLBACKS`, and files with classes of the
    user's own count by their content: another file under the same name makes another run.
    """
    for place in sources:
        put(settings, place, None)
    hashed = [subcommand, scenario, name, settings, {place: source.key for place, source in sources.items()}]
    code = own_code(settings)
    hashed += [found for found in (_file_keys(settings), code) if found]
    key = hashlib.sha256(json.dumps(hashed, sort_keys=True, default=str).encode()).hexdigest()[:16]
    needs = {place: source for place, source in sources.items() if isinstance(source, Run)}
    there = {place: source for place, source in sources.items() if isinstance(source, Given)}
    return Run(subcommand, scenario, name, seeds, settings, reports, needs, variant or {}, key, there, code)


def _file_keys(settings: Mapping[str, Any]) -> dict[str, str | None]:
    """Place in the settings (dotted) → what names the content of the file that is named there."""
    named = {place: look_up(settings, place) for place in LISTED}
    before = look_up(settings, BEFORE)
    for number, request in enumerate(before if isinstance(before, list) else ()):
        named[f"{BEFORE}.{number}.index_file"] = look_up(request, "index_file")
    for number, callback in enumerate(look_up(settings, CALLBACKS) or ()):
        for option, value in (look_up(callback, "init_args") or {}).items():
            values = value if isinstance(value, list) else [value]
            named |= {f"{CALLBACKS}.{number}.{option}.{place}": each for place, each in enumerate(values)}
    paths = {place: Path(os.path.expanduser(name)) for place, name in named.items() if isinstance(name, str | Path)}
    files = {place: (path, path.stat()) for place, path in paths.items() if _is_file(path)}
    return {place: _key_of(path, stat.st_size, stat.st_mtime_ns) for place, (path, stat) in files.items()}


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a text that no file can have as its name
        return False


@cache  # hundreds of runs name the same weights
def _key_of(path: Path, size: int, changed: int) -> str | None:
    """What names the content of a file as it was at that time."""
    return file_key(str(path))
