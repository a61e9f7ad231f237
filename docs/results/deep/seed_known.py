"""An attacker who knows the seed of OPC deep puts the shuffled entries back, and attacks what he has then.

    python docs/results/deep/seed_known.py runs/benchmark/deep data docs/results/deep/seed_known.json

Beside it the model as it is, and Retrain with and without the same operation. BatchNorm's statistics are taken anew
from 4,000 retained images.
"""

import json
import sys
from pathlib import Path

import torch
import yaml

import lit_unlearn as lu
from lit_unlearn.backbones.weights import load_weights
from lit_unlearn.methods.kernels import learning_weights
from lit_unlearn.seed import generator

ATTACKS = {
    "hr": (lu.HeadRecovery, "test_forget_acc"),
    "worst": (lu.WorstRecovery, "test_forget_acc"),
    "masked": (lu.MaskedAnswers, "test_forget_acc"),
    "detected": (lu.DetectSamples, "test_forget_auc"),
    "pattern": (lu.UniversalPerturbation, "informedness"),
}


def load(folder: Path) -> lu.Backbone:
    """The network that a run left."""
    backbone = lu.ResNet8(num_classes=10, in_channels=1)
    load_weights(backbone, folder / "unlearned.ckpt")
    return backbone.eval()


@torch.no_grad()
def put_back(backbone: lu.Backbone, seed: int, share: float) -> None:
    """Undoes the order of OPC's release (``renew`` in ``lit_unlearn/methods/kernels.py``)."""
    draw = generator(seed, "release")
    for name in learning_weights(backbone, "nothing"):
        weights = backbone.get_parameter(name)
        order = torch.rand(weights.numel(), dtype=torch.float64, generator=draw).argsort()
        chosen = order[: round(share * weights.numel())]
        flat = weights.flatten().clone()
        flat[chosen.sort().values] = weights.flatten()[chosen]
        weights.copy_(flat.view(weights.shape))


@torch.no_grad()
def recalibrate(backbone: lu.Backbone, data: lu.UnlearnDataModule) -> None:
    """BatchNorm's statistics from retained images."""
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    backbone.train()
    for images, _ in data.evaluation_batches("retain", "cpu", most=4000):
        backbone(images)
    backbone.eval()


def main(root: Path, images: str, out: Path) -> None:
    """Measures the models of every seed and writes all numbers."""
    data = lu.UnlearnDataModule(lu.FashionMNIST(images), lu.ForgetSpec(classes=[0, 1, 2]), train_limit=20000)
    data.prepare_data()
    found = {}
    for folder in sorted((root / "class/opc_deep").glob("run-*")):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        own = config["model"]["init_args"]
        if not (folder / "unlearned.ckpt").exists() or own.get("redraw_as") != "shuffled":
            continue
        seed, share = config["seed_everything"], own["redraw"]
        retrain = next(
            each
            for each in (root / "class/retrain").glob("run-*")
            if yaml.safe_load((each / "config.yaml").read_text())["seed_everything"] == seed
        )
        for name, place in (("opc_deep", folder), ("retrain", retrain)):
            for back in (False, True):
                found[f"{name}, {'put back' if back else 'as it is'}, seed {seed}"] = measured(
                    place, data, seed, share, back
                )
    out.write_text(json.dumps(found, indent=1) + "\n")


def measured(place: Path, data: lu.UnlearnDataModule, seed: int, share: float, back: bool) -> dict[str, float]:
    """The numbers of one network."""
    backbone = load(place)
    if back:
        put_back(backbone, seed, share)
        recalibrate(backbone, data)
    found = {name: (attack()(backbone, data), number) for name, (attack, number) in ATTACKS.items()}
    return {name: round(result.numbers[number], 4) for name, (result, number) in found.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
