"""Models that SUPREME's own code made forget, as guests on a board; its seconds and memory beside this package's.

    python performance/peers.py PEER_PYTHON --original FILE --retrains FILE FILE --board board

Each method is run by ``PEER_PYTHON``, the Python of an environment that has SUPREME (see peer_supreme.py), on the
network and images of base/fashion_mnist_memorised. The original and its Retrains are those of a benchmark on that base.
What it leaves is audited, submitted and verified as a stranger's model is. Where this package has the same method, it
runs with the same settings, each in a process of its own, in turn; processor time of the unlearning alone counts,
without evaluation, and the most memory that the process has held.
"""

import argparse
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import torch
from measuring import clock, machine, peak_bytes
from torch.optim import SGD, Adam

import lit_unlearn as lu
from lit_unlearn.backbones import load_weights

HERE = Path(__file__).resolve().parent
PAPER = "https://arxiv.org/abs/2606.00380"
CODE = "https://github.com/pedroandreou/supreme-unlearning"
THREAT = "White box: the attacker holds the weights and all training images."
BATCH = 128


@dataclass(frozen=True)
class Guest:
    """A method of SUPREME.

    Args:
        words: as a row of the board calls it.
        ours: the same method of this package from a backbone, or None where it has none with the same steps.
        epochs: of it.
    """

    words: str
    ours: Callable[[lu.Backbone], lu.UnlearnModule] | None = None
    epochs: int = 1


GUESTS = {
    "finetune": Guest(
        "FineTune by SUPREME",
        partial(lu.FineTune, optimizer=partial(SGD, lr=0.02, momentum=0.9, weight_decay=5e-4)),
        5,
    ),
    "neg_grad": Guest("NegGrad by SUPREME"),
    "random_labeling": Guest("Random labels by SUPREME", partial(lu.RandomLabels, optimizer=partial(Adam, lr=1e-4)), 3),
    "bad_teacher": Guest("Bad Teacher by SUPREME"),
    "ssd": Guest("SSD by SUPREME", partial(lu.SSD, alpha=10.0, dampening=1.0)),
    "scrub": Guest(
        "SCRUB by SUPREME",
        partial(
            lu.SCRUB,
            optimizer=partial(Adam, lr=5e-4, weight_decay=0.1),
            msteps=3,
            gamma=1.0,
            alpha=0.5,
            temperature=2.0,
        ),
        10,
    ),
}


def data() -> lu.UnlearnDataModule:
    """A tenth of 3,000 images of Fashion-MNIST is to be forgotten, as in base/fashion_mnist_memorised."""
    return lu.UnlearnDataModule(lu.FashionMNIST(), lu.ForgetSpec(fraction=0.1), train_limit=3000, batch_size=BATCH)


def left(folder: Path, original: str) -> None:
    """Writes the images and labels of the splits, and the original's state dict, for the other environment."""
    found, module = {}, data()
    for split in ("retain", "forget", "test_retain"):
        batches = list(module.evaluation_batches(split, torch.device("cpu")))
        found[f"{split}_images"] = torch.cat([images for images, _ in batches]).mul(255).round().byte().numpy()
        found[f"{split}_labels"] = torch.cat([labels for _, labels in batches]).numpy()
    numpy.savez(folder / "data.npz", **found)
    torch.save(network(original).state_dict(), folder / "original.pt")


def network(weights: str | Path) -> lu.Backbone:
    """The network with weights of a file."""
    made = lu.ResNet8(in_channels=1)
    load_weights(made, weights)
    return made


def ours(method: str, folder: Path) -> dict[str, float]:
    """The same method of this package, in this process."""
    from lightning.pytorch import Trainer

    guest, module = GUESTS[method], data()
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    quiet: dict[str, Any] = dict.fromkeys(off, False)
    trainer = Trainer(accelerator="cpu", max_epochs=guest.epochs, limit_val_batches=0, **quiet)
    torch.manual_seed(0)
    model = guest.ours(network(folder / "original.pt"))
    started = clock("cpu")
    trainer.fit(model, module)
    return {"seconds": clock("cpu") - started, "bytes": float(peak_bytes())}


def told(command: list[str]) -> dict[str, float]:
    """The last line that a process prints."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def least(rounds: list[dict[str, float]]) -> str:
    """The fastest and the smallest of some runs of a process."""
    if not rounds:
        return "–"
    return f"{min(each['seconds'] for each in rounds):.1f} s, {min(each['bytes'] for each in rounds) / 1e6:.0f} MB"


def shell(*words: str) -> None:
    """A command of this package."""
    subprocess.run([sys.executable, "-m", "lit_unlearn", *words], check=True)


def to_board(method: str, options: argparse.Namespace) -> None:
    """Audits, submits and verifies what the peer left."""
    folder, runs = options.folder, options.folder / "runs" / method
    audit: list[str] = ["validate", "--config", "base/fashion_mnist_memorised", "--config", f"attack/{options.suite}"]
    audit += [
        "--model.weights",
        str(folder / f"{method}.pt"),
        "--model.original",
        str(Path(options.original).resolve()),
    ]
    audit += ["--evaluation.retrain", json.dumps([str(Path(each).resolve()) for each in options.retrains])]
    audit += ["--trainer.logger.init_args.save_dir", str(runs), "--trainer.enable_progress_bar", "false"]
    shell(*audit)
    words: dict[str, Any] = {"name": f"supreme_{method}", "method": GUESTS[method].words, "paper": PAPER, "code": CODE}
    words |= {"threat_model": THREAT, "to": folder / f"{method}.zip"}
    run = max((runs / "Audit").iterdir(), key=lambda each: int(each.name.rpartition("_")[2]))
    shell("submit", str(run), *(part for key, value in words.items() for part in (f"--{key}", str(value))))
    shell("verify", str(words["to"]), "--suite", options.suite, "--to", str(options.board))


def main(argv: list[str] | None = None) -> None:
    """Runs all guests, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", help="of the other environment, or 'ours', which runs one method of this package")
    parser.add_argument("--original", help="weights that all start from")
    parser.add_argument("--retrains", nargs="+", default=[], help="weights of Retrains of the same split")
    parser.add_argument("--methods", nargs="+", choices=list(GUESTS), default=list(GUESTS))
    parser.add_argument("--suite", default="quick", help="config of attacks, below attack/")
    parser.add_argument("--folder", type=Path, default=Path("runs/peers"), help="of what lies between")
    parser.add_argument("--board", type=Path, help="folder of the board's rows; without it, only time is taken")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is timed; the fastest counts")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    if options.python == "ours":
        print(json.dumps(ours(options.methods[0], options.folder)))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    left(options.folder, options.original)
    print("| Method | SUPREME | lit_unlearn | On |\n|---|---|---|---|")
    for method in options.methods:
        peer = [options.python, str(HERE / "peer_supreme.py"), method, str(options.folder)]
        own = [sys.executable, __file__, "ours", "--methods", method, "--folder", str(options.folder)]
        pairs = [(told(peer), told(own) if GUESTS[method].ours else None) for _ in range(options.rounds)]
        cells = [least([pair[0] for pair in pairs]), least([pair[1] for pair in pairs if pair[1]])]
        print(f"| {method} | {cells[0]} | {cells[1]} | {machine('cpu')} |", flush=True)
        if options.board:
            to_board(method, options)


if __name__ == "__main__":
    main()
