"""Trains the Retrain that ``evaluation.retrain`` names by a config, once for the same settings, data, split and seed.

Its weights are stored under a hash of all of these, of the images and of the network's own code. The next run finds
them there, and so do the processes that Lightning starts with the same command. They are written last and in one step:
an interrupted training leaves nothing.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.utilities import rank_zero_info

from lit_unlearn.backbones import save_weights
from lit_unlearn.backbones.reading import read_state
from lit_unlearn.benchmark.settings import merged
from lit_unlearn.data import UnlearnDataModule
from lit_unlearn.data.sources import without_options
from lit_unlearn.errors import UsageError
from lit_unlearn.files import locked, write_atomically
from lit_unlearn.methods import Retrain, UnlearnModule
from lit_unlearn.methods.networks import FRESH
from lit_unlearn.own_code import network_code
from lit_unlearn.run_files import RETRAIN_SETTINGS
from lit_unlearn.shipped import read_config

WEIGHTS = "retrain.pt"
_SHOWN = ("enable_progress_bar", "enable_model_summary")
_OF_ONE_PROCESS = {
    "devices": 1,
    "num_nodes": 1,
    "strategy": "auto",
    # In a job of several tasks, each would wait for the others otherwise.
    "plugins": {"class_path": "lightning.fabric.plugins.environments.LightningEnvironment"},
    "logger": False,
    "callbacks": None,
    "enable_checkpointing": False,
    "num_sanity_val_steps": 0,
    "limit_val_batches": 0,
}


def retrained(config: str, run: Mapping[str, Any], folder: Path, number: int = 0, trains: bool = True) -> Path:
    """The weights of a Retrain, trained by a config on the backbone, data and split of a run, unless they are there.

    Args:
        config: name of a config; its ``model``, ``trainer`` and ``seed_everything`` count. It need not name a backbone.
        run: the settings of the run that needs the Retrain: ``model``, ``data``, ``trainer``.
        folder: where trained Retrains are kept, each in a folder of its own.
        number: of several Retrains, which one; it is added to the config's seed.
        trains: whether it is trained if it is not there.

    Raises:
        UsageError: if the config is not there, is of another method, names another backbone, or diverges, or if the
            Retrain is not there and must not be trained.
    """
    settings = _settings(config, run)
    seed = settings.pop("seed_everything") + number
    with _seeded(seed):
        parser = _parser()
        parsed = parser.parse_object(settings)
        alike = {"class_path": "Retrain", "init_args": {"backbone": run["model"]["init_args"]["backbone"]}}
        _check_backbone(config, parsed.model, parser.parse_object({**settings, "model": alike}).model)
        built = parser.instantiate_classes(parsed)
        if type(built.model) is not Retrain:
            raise UsageError(f"evaluation.retrain: {config} is of {type(built.model).__name__}, but must be of Retrain")
        text = _described(json.loads(parser.dump(parsed, format="json")), built, seed)
        path = folder / hashlib.sha256(text.encode()).hexdigest()[:16] / WEIGHTS
        if not trains and not path.exists():
            raise UsageError(
                f"evaluation.retrain: no Retrain has been trained by {config} yet for this data, forget set and seed "
                f"{seed}: run fit first, or give weights, or null"
            )
        with locked(path.parent):
            if path.exists():
                _check_readable(path)
                rank_zero_info(f"Retrain found: {path}")
            else:
                rank_zero_info(f"Retrain is trained first: {path}")
                built.model.memory_format = run.get("memory_format", "auto")  # no part of the key: it changes rounding
                built.trainer.fit(built.model, datamodule=built.data)
                if built.model.diverged:
                    raise UsageError(f"evaluation.retrain: {config} diverged: {built.model.diverged}")
                _save(built.model, path, text)
    return path


def _described(dumped: dict[str, Any], built: Namespace, seed: int) -> str:
    """All that decides the weights, as text whose hash names them; it is kept beside them."""
    found = {**without_options(dumped), "seed_everything": seed, "split": built.data.split.left_out}
    found |= {"images": built.data.train_sha256, "network": network_code(built.model.backbone)}
    if "weights" in found["model"]["init_args"]:
        found["model"]["init_args"]["weights"] = "the original's"  # wherever they lie
    for name in _SHOWN:
        found["trainer"].pop(name, None)  # what is null is left out of the dump
    return json.dumps(found, indent=1, sort_keys=True)


def _save(module: Retrain, path: Path, text: str) -> None:
    """Writes the settings, and at last the weights, which say how much their training cost."""
    write_atomically(path.parent / RETRAIN_SETTINGS, text + "\n")
    cost = {"seconds": module.seconds, "images_seen": module.images_seen}
    save_weights(module.backbone, path, {**module.provenance(), **cost})


def _check_readable(path: Path) -> None:
    """That a Retrain that was kept can be read, or what to do."""
    try:
        read_state(path)
    except UsageError as error:
        raise UsageError(f"{error}: delete the folder {path.parent}, and it is trained again") from error


def _settings(config: str, run: Mapping[str, Any]) -> dict[str, Any]:
    """What the Retrain is built from: the run's backbone, data and precision, and all else by the config."""
    alike = {name: run["trainer"].get(name) for name in ("accelerator", "precision", *_SHOWN)}
    given = {"backbone": run["model"]["init_args"]["backbone"]}
    original = run["model"]["init_args"].get("weights")
    if (given["backbone"].get("init_args") or {}).get("pretrained") and original not in (None, FRESH):
        given["weights"] = original  # what was trained from pretrained weights, so that Retrain starts from them, too
    below = {"model": {"class_path": "Retrain", "init_args": given}, "trainer": alike, "seed_everything": 0}
    try:
        own = merged(below, read_config(config))
    except UsageError as error:
        raise UsageError(f"evaluation.retrain: {error}") from error
    # One process trains it. What a config of a run says of devices, checkpoints and attacks is for the run.
    trainer = {**own["trainer"], **_OF_ONE_PROCESS}
    return {"model": own["model"], "data": run["data"], "trainer": trainer, "seed_everything": own["seed_everything"]}


def _check_backbone(config: str, own: Namespace, run: Namespace) -> None:
    """Refuses another architecture before it is trained; what it starts from and which part learns may differ."""
    theirs, ours = (_flat(model.init_args.backbone.as_dict()) for model in (own, run))
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            raise UsageError(
                f"evaluation.retrain: {config} has another backbone than the run: {name} is {theirs.get(name)!r}, but "
                f"{ours.get(name)!r} in the run; leave the backbone out of the config, or give the same"
            )


def _flat(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """Class and arguments of a backbone by name."""
    given = (backbone.get("init_args") or {}).items()
    arguments = {name: value for name, value in given if name not in ("pretrained", "train")}
    return {"class_path": backbone["class_path"], **arguments}


def _parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(UnlearnModule, "model", required=True)
    parser.add_subclass_arguments(UnlearnDataModule, "data", required=True)
    parser.add_class_arguments(Trainer, "trainer")
    return parser


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds everything for the training, and afterwards as it was for the run."""
    before = os.environ.get("PL_GLOBAL_SEED")
    seed_everything(seed, workers=True, verbose=False)
    try:
        yield
    finally:
        os.environ.pop("PL_GLOBAL_SEED", None)
        if before is not None:
            seed_everything(int(before), workers=True, verbose=False)
