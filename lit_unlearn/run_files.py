"""Names of the files that a run or a benchmark leaves in its folder."""

RUNS = "runs"
"""The folder of all runs, where nothing else is asked for."""

CACHE = ".cache"
"""What runs keep for those after them, in the folder of all runs. It may be deleted at any time."""

RESULTS = "results.json"
"""The rows of a run."""

PAGE, ARTIFACTS = "report.html", "artifacts.npz"

CHECKPOINT = "unlearned.ckpt"
"""The unlearned model, for this package."""

WEIGHTS = "unlearned.safetensors"
"""Its weights, under the names of the user's own network."""

CONFIG = "config.yaml"
"""The settings of a run, as Lightning calls them."""

ROWS = "rows.json"
"""The rows of all runs of a benchmark."""

FAILED = "failed.json"
"""The experiments of a benchmark some of whose runs have failed, and so have no row."""

RETRAIN_SETTINGS = "settings.json"
"""What a Retrain was trained with, beside its weights."""
