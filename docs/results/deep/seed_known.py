"""An attacker who knows the seed of OPC deep puts the shuffled entries back, and attacks what he has then.

    python docs/results/deep/seed_known.py runs/benchmark/deep data docs/results/deep/seed_known.json

Beside it the model as it is, and Retrain with and without the same operation. BatchNorm's statistics are taken anew
from 4,000 retained images. A control for the pattern that all images share is Retrain with the head's rows of the
forgotten classes drawn anew: nothing keeps it from naming them then, and it knows nothing of them.
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

FORGET = [0, 1, 2]
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
def draw_rows(backbone: lu.Backbone, seed: int) -> None:
    """Draws the head's rows of the forgotten classes as a linear layer does."""
    bound = backbone.num_features**-0.5
    draw = torch.Generator().manual_seed(seed)
    for values in (backbone.head.weight, backbone.head.bias):
        values[FORGET] = bound * (2 * torch.rand(values[FORGET].shape, generator=draw) - 1)


@torch.no_grad()
def retained(backbone: lu.Backbone, data: lu.UnlearnDataModule) -> float:
    """Accuracy on retained test images."""
    answers = [
        (backbone(images).argmax(1) == labels) for images, labels in data.evaluation_batches("test_retain", "cpu")
    ]
    return round(float(torch.cat(answers).float().mean()), 4)


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
    data = lu.UnlearnDataModule(lu.FashionMNIST(images), lu.ForgetSpec(classes=FORGET), train_limit=20000)
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
            found[f"{name}, as it is, seed {seed}"] = measured(load(place), data)
            backbone = load(place)
            put_back(backbone, seed, share)
            recalibrate(backbone, data)
            found[f"{name}, put back, seed {seed}"] = measured(backbone, data)
        backbone = load(retrain)
        draw_rows(backbone, seed)
        found[f"retrain, rows anew, seed {seed}"] = measured(backbone, data)
    out.write_text(json.dumps(found, indent=1) + "\n")


def measured(backbone: lu.Backbone, data: lu.UnlearnDataModule) -> dict[str, float]:
    """The numbers of one network."""
    found = {name: (attack()(backbone, data), number) for name, (attack, number) in ATTACKS.items()}
    numbers = {name: round(result.numbers[number], 4) for name, (result, number) in found.items()}
    return numbers | {"retained": retained(backbone, data)}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
