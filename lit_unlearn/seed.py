"""The seed of a run: what ``seed_everything`` was given, which Lightning hands to every process of it."""

import os


def run_seed() -> int:
    """The seed of this run, 0 where none was set. What must not depend on what else was drawn is drawn from it."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))
