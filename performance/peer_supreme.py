"""One method of SUPREME, by SUPREME's own code, on the images that performance/peers.py has left; see there.

    PEER_PYTHON performance/peer_supreme.py ssd FOLDER

It runs in an environment of its own: ``pip install supreme-unlearning==0.1.5 debugpy`` (its torch is 2.1), and, for the
network alone, ``pip install --no-deps jsonargparse msgspec platformdirs safetensors``. Settings are the package's own
for a random share of the images: what it hard-codes, its defaults, and those of ``unlearn_main.py`` (batches of 128,
SSD's alpha 10 and lambda 1).
"""

import json
import os
import resource
import sys
import time
from importlib import import_module
from pathlib import Path

os.environ["SCALENE"] = "1"  # its loaders start eight worker processes each otherwise
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy
import torch
from lightning.fabric import Fabric
from torch.utils.data import DataLoader, Dataset, Subset

from lit_unlearn.backbones.small_resnet import ResNet8

BATCH = 128


class Images(Dataset):
    """Images in [0, 1], and the label twice, as SUPREME's own data sets have it."""

    def __init__(self, held: "numpy.lib.npyio.NpzFile", *splits: str) -> None:
        self.images = torch.from_numpy(numpy.concatenate([held[f"{split}_images"] for split in splits])).float() / 255
        self.labels = numpy.concatenate([held[f"{split}_labels"] for split in splits]).tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int, int]:
        return self.images[index], self.labels[index], self.labels[index]


def main(method: str, folder: Path) -> None:
    """Unlearns, writes the state dict, and prints seconds and bytes."""
    torch.manual_seed(0)
    held = numpy.load(folder / "data.npz")
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    network, teacher = ResNet8(in_channels=1), ResNet8(in_channels=1)
    network.load_state_dict(torch.load(folder / "original.pt", map_location="cpu"))
    parts = {"retain": ("retain",), "forget": ("forget",), "full": ("retain", "forget")}
    loaders = {
        name: DataLoader(Images(held, *splits), BATCH, shuffle=True, num_workers=0) for name, splits in parts.items()
    }
    test = DataLoader(Subset(Images(held, "test_retain"), range(BATCH)), BATCH)  # evaluating is not what is timed
    unlearn = getattr(import_module(f"supreme.methods.unlearning_methods.{method}"), method)
    started = time.process_time()
    made = unlearn(
        fabric=fabric,
        num_gpus=1,
        wandb_logging_flag=False,
        model=network,
        unlearning_teacher=teacher,
        type_of_unlearning_strategy="random_",
        num_labels=10,
        retain_train_dataloader=loaders["retain"],
        retain_test_dataloader=test,
        forget_train_dataloader=loaders["forget"],
        forget_test_dataloader=test,
        full_train_dataloader=loaders["full"],
        dampening_constant=1,
        selection_weighting=10,
    )
    seconds = time.process_time() - started
    state = getattr(made, "module", made).state_dict() if made is not None else network.state_dict()
    torch.save({name.removeprefix("module."): value for name, value in state.items()}, folder / f"{method}.pt")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "bytes": peak}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
