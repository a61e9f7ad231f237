"""Makes the weights of this folder again: ``python checkpoints/make.py [name …]``, from the repository's root.

Each is trained by one command, which the manifest records, and is written with what its result row measured.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

from lit_unlearn.backbones import save_weights
from lit_unlearn.cli import run
from lit_unlearn.reports.report import report_of

HERE = Path(__file__).parent
CONFIGS = {
    "digits_resnet8": ("digits", "class", "pretrain"),
    "digits_resnet8_retrain_classes_0_1_2": ("digits", "class", "retrain"),
    **{f"digits_resnet8_retrain_classes_0_1_2_seed_{seed}": ("digits", "class", "retrain") for seed in range(1, 5)},
    "digits_resnet8_retrain_random_10": ("digits", "random", "retrain"),
    "fashion_mnist_resnet8": ("fashion_mnist", "class", "pretrain"),
    "fashion_mnist_resnet8_retrain_classes_0_1_2": ("fashion_mnist", "class", "retrain"),
    "fashion_mnist_resnet8_retrain_random_10": ("fashion_mnist", "random", "retrain"),
}
PRECISION = {"digits": "32-true", "fashion_mnist": "bf16-mixed"}  # those of configs/benchmark


def make(name: str) -> None:
    """Trains one model, writes its weights and its entry in the manifest."""
    data, scenario, method = CONFIGS[name]
    configs = (f"base/{data}_{scenario}", f"model/{method}", f"experiments/{data}#{method}")
    composed = [word for config in configs for word in ("--config", config)]
    command = ["fit", *composed, f"--trainer.precision={PRECISION[data]}"]
    _, seeded, seed = name.rpartition("_seed_")
    command += ["--seed_everything", seed, "--memory_format", "contiguous"] if seeded else []
    original = next(other for other in CONFIGS if name.startswith(other))
    if name != original:
        # The original need not be there to train a Retrain; it only makes an Original row.
        command += ["--model.weights", "null"] if not (HERE / f"{original}.pt").exists() else []
    with tempfile.TemporaryDirectory() as folder:
        cli = run([*command, "--trainer.logger.save_dir", folder])
    report = report_of(cli.trainer)
    row = report.rows[-1]
    split = row.split["hash"] if row.split["counts"]["forget"] else None
    path = HERE / f"{name}.pt"
    save_weights(cli.model.backbone, path, {"method": row.method, "split": split})
    manifest_path = HERE / "manifest.json"
    manifest = json.loads(manifest_path.read_text()) if manifest_path.exists() else {"format": 1, "weights": {}}
    manifest["weights"][name] = {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "method": row.method,
        "backbone": row.backbone,
        "data": row.data,
        "split": split,
        "seed": row.seed,
        "accuracy": row.metrics,
        "command": "lit-unlearn " + " ".join(command),
        "versions": row.versions,
    }
    manifest["weights"] = dict(sorted(manifest["weights"].items()))
    manifest_path.write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    for wanted in sys.argv[1:] or CONFIGS:
        sys.argv = sys.argv[:1]
        make(wanted)
