"""Unlearn or audit a network with one call: a thin layer over Trainer, LightningModule and callbacks.

What :func:`unlearn` and :func:`audit` do can also be written with ``Trainer(callbacks=[…])``: they wrap a plain
network, look up methods and attacks by name, and return what the callbacks measured.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from lit_unlearn.attacks import Attack, Evaluation
from lit_unlearn.backbones import Backbone
from lit_unlearn.backbones.custom import as_backbone
from lit_unlearn.backbones.finite import check_finite
from lit_unlearn.backbones.weights import load_state
from lit_unlearn.data import UnlearnDataModule
from lit_unlearn.errors import UsageError, check_seed, check_whole, shown, unknown
from lit_unlearn.explain import explain
from lit_unlearn.method_config import is_method_config
from lit_unlearn.methods import Audit, UnlearnModule
from lit_unlearn.named import Method, listed_attacks, made_method
from lit_unlearn.parsing import as_list
from lit_unlearn.quiet import leave_out_known_lines, warnings_alone
from lit_unlearn.reports import Row
from lit_unlearn.reports.report import Report
from lit_unlearn.run_result import Result
from lit_unlearn.seed import isolated_rng
from lit_unlearn.trainer_options import check_values, refused_by_trainer

__all__ = ["Result", "audit", "unlearn"]

Weights = str | Path | nn.Module | Mapping[str, Any]
Retrains = Weights | Sequence[Weights]
_QUIET = {
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}
_NAMED = {"options": "{'weight': 0.1}", "wrap": "{'head': 'fc'}"}
_SEEDS = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
"""Where Lightning keeps the seed of a run."""


def unlearn(
    network: nn.Module,
    data: UnlearnDataModule,
    method: Method | UnlearnModule = "OPC",
    options: Mapping[str, Any] | None = None,
    attacks: str | Sequence[Attack] | None = "quick",
    retrain: Retrains | None = None,
    seed: int = 0,
    wrap: Mapping[str, Any] | None = None,
    cache: str | Path | None = None,
    **trainer: Any,
) -> Result:
    """Makes a copy of a network forget, attacks the copy, and compares it with the original and with Retrain.

    Args:
        network: any ``nn.Module`` from images to logits that ends in a linear layer, or a Backbone. It is not changed,
            unless ``method`` is an instance, which trains its own backbone.
        data: the images, and which of them are to be forgotten.
        method: the name of a class such as ``"OPC"``, which then has its own defaults; the name of a config of
            ``model/`` such as ``"opc_deep"``, with its settings and its number of epochs; the import path of a class of
            your own, such as ``"smoothnoise.SmoothNoise"``; a class; or an instance, which has a backbone and options
            of its own.
        options: arguments of the method, in place of the defaults or of the config's.
        attacks: ``"quick"``, ``"suite"``, another config of attacks by name or path, a list of attacks, of which each
            may be the import path of a class of your own, such as ``"shift.LogitShift"``, or None.
        retrain: the network retrained without the forget set: a file or name of weights, an ``nn.Module``, a state
            dict, or weights of other code with what they were trained without, a file or a list of images:
            ``{"weights": …, "trained_without": "forget.txt"}``; or several of them, of other seeds, as a list.
        seed: of everything random in the run; the split has its own.
        wrap: arguments of :class:`~lit_unlearn.backbones.Custom` for a plain network, such as ``head``, ``mean``,
            ``std`` and ``stages``.
        cache: a folder where what the attacks find of the original and of Retrain is kept for the calls after this one,
            such as ``"runs/.cache"``; None attacks them in each call.
        **trainer: arguments of Lightning's Trainer, such as ``max_epochs``. By default one device is used, and nothing
            is logged or saved. ``enable_progress_bar=False`` leaves out the bar, and the line on each attack.

    An attack that raises an error is left out, and named with the error; a UsageError, or any error with several
    processes, ends the run. The random numbers of the caller go on as if nothing had been drawn.

    Raises:
        UsageError: for an argument of another name, type or range, an unknown method, option or attack, missing
            ``max_epochs``, a method's instance with ``options``, ``wrap`` or another network than its backbone, a
            network that does not fit the data or is not finite, weights that change after they were measured, or a
            strategy whose processes cannot hand their results back.
    """
    _check_data(data)
    _check_trainer(trainer)
    _check_named(options=options, wrap=wrap)
    if not (isinstance(method, str | UnlearnModule) or callable(method)):
        raise UsageError(f"method is {shown(method)}, but must be a name such as 'opc_deep' or 'OPC', or a class")
    given = {name: trainer[name] for name in ("max_epochs", "max_steps") if trainer.get(name) is not None}
    if not given and not is_method_config(method):
        raise UsageError("max_epochs is missing: give the number of epochs, such as max_epochs=5")
    for name, value in given.items():
        trainer[name] = check_whole(name, value)  # Lightning takes none of NumPy's
    own: dict[str, Any] = {}
    with _seeded(seed):
        if isinstance(method, UnlearnModule):
            if options or wrap or network is not method.backbone:
                raise UsageError(
                    "method is an instance with its own backbone and options: give method.backbone as network"
                )
            check_finite(network, "network")
            module = method
        else:
            module, own = made_method(method, _backbone(network, data, wrap), options or {}, trainer.get("max_epochs"))
        return _measured(
            Trainer.fit, module, data, attacks, _retrains(retrain, network, data, wrap), cache, {**own, **trainer}
        )


def audit(
    network: nn.Module,
    data: UnlearnDataModule,
    original: Weights | None = None,
    retrain: Retrains | None = None,
    attacks: str | Sequence[Attack] | None = "suite",
    seed: int = 0,
    wrap: Mapping[str, Any] | None = None,
    cache: str | Path | None = None,
    **trainer: Any,
) -> Result:
    """Attacks a network that somebody else made forget, and compares it with the original and with Retrain.

    Args:
        network: the network to audit, as for :func:`unlearn`.
        data: the images, and which of them are said to be forgotten.
        original: the network before unlearning, or its state dict; without it, attacks that need it are left out. Give
            the network where the audited one has code of its own: files and state dicts, of Retrains too, are loaded
            into a copy of this network, and else into one of the audited network, whose code then acts on them.
        retrain: as for :func:`unlearn`.
        attacks: as for :func:`unlearn`.
        seed: of everything random in the attacks.
        wrap: as for :func:`unlearn`.
        cache: as for :func:`unlearn`.
        **trainer: as for :func:`unlearn`.

    What an attack raises ends the audit: one that passes with attacks left out would be worth less. The random numbers
    of the caller go on as if nothing had been drawn.

    Raises:
        UsageError: for an argument of another name, type or range, an unknown attack, a network that does not fit the
            data or is not finite, or a strategy whose processes cannot hand their results back.
    """
    _check_data(data)
    _check_named(wrap=wrap)
    _check_trainer(trainer)
    with _seeded(seed):
        backbone = _backbone(network, data, wrap)
        module = Audit(backbone, original=_wrapped(original, network, data, wrap, "original"))
        start = partial(Trainer.validate, verbose=False)
        own = original if isinstance(original, nn.Module) else network
        return _measured(start, module, data, attacks, _retrains(retrain, own, data, wrap), cache, trainer)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds everything for the block, and keeps known lines from the log."""
    leave_out_known_lines()
    check_seed("seed", seed)
    before = {name: os.environ.get(name) for name in _SEEDS}
    try:
        with isolated_rng():
            seed_everything(seed, workers=True, verbose=False)
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _measured(
    start: Callable[..., object],
    module: UnlearnModule,
    data: UnlearnDataModule,
    attacks: str | Sequence[Attack] | None,
    retrain: list[Any],
    cache: str | Path | None,
    arguments: Mapping[str, Any],
) -> Result:
    """Runs fit or validate with the attacks, and collects what they measured."""
    found, suite = listed_attacks(attacks)
    report, driver = Report(write=False), Evaluation(retrain, suite, cache=cache)
    driver.goes_on = start is Trainer.fit  # what was trained must not be lost
    callbacks = [*as_list(arguments.get("callbacks") or None), *found, driver, report]
    options = {**_QUIET, **arguments, "callbacks": callbacks}
    with warnings_alone(progress=arguments.get("enable_progress_bar") is not False):
        with refused_by_trainer(options):
            trainer = Trainer(**options)
        try:
            start(trainer, module, datamodule=data)
        except UsageError:
            raise
        except (MisconfigurationException, ValueError) as error:
            if (line := explain(error)) is None:
                raise
            raise UsageError(line) from error
        except SystemExit as error:  # Lightning ends so after Ctrl-C
            if isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            raise
        finally:
            data.trainer = None  # its precision and ranks are not those of what is read next
    if not report.rows:
        raise UsageError(
            f"strategy {arguments.get('strategy', 'auto')!r} measures in processes of its own, whose results do not "
            "come back: leave out devices and strategy, or use 'ddp' in a script"
        )
    _check_measured(report.rows[-1], module)
    return Result(report.rows, report.artifacts, module)


def _check_data(data: object) -> None:
    """Refuses what is no data module, such as a folder's name or a source alone."""
    if not isinstance(data, UnlearnDataModule):
        example = "lu.UnlearnDataModule(lu.ImageFolder('images'), lu.ForgetSpec(classes=['cat']))"
        raise UsageError(f"data is {shown(data)}, but must be a data module, such as {example}")


def _check_trainer(arguments: Mapping[str, Any]) -> None:
    """Refuses a misspelt argument: all that is not ours goes to the Trainer."""
    known = [*signature(Trainer).parameters, *signature(unlearn).parameters]
    for name in arguments:
        if name not in known:
            raise unknown("argument", name, known)
    for each in as_list(arguments.get("callbacks") or None):
        if not isinstance(each, Callback):
            raise UsageError(
                f"callbacks has {shown(each)}, but must have objects, such as EarlyStopping('val/retain_acc')"
            )
    for each in as_list(arguments.get("logger") or None):
        if not isinstance(each, Logger | bool):
            raise UsageError(
                f"logger is {shown(each)}, but must be True, False, or an object such as CSVLogger('logs')"
            )
    check_values({f"trainer.{name}": value for name, value in arguments.items()})


def _check_named(**given: Any) -> None:
    """Refuses arguments by name that are none."""
    for name, value in given.items():
        if not isinstance(value, Mapping | None):
            raise UsageError(f"{name} is {shown(value)}, but must be a dictionary, such as {_NAMED[name]}")


def _check_measured(row: Row, module: UnlearnModule) -> None:
    """Refuses weights that have changed since they were measured, such as in a method's own ``on_train_end``."""
    measured = (row.weights.get("result") or {}).get("tensors_sha256")
    if measured not in (None, module.network_hash()["tensors_sha256"]):
        name = type(module).__name__
        raise UsageError(
            f"{name} has changed its weights after they were measured: change them in on_train_epoch_end at the latest"
        )


def _backbone(
    network: nn.Module, data: UnlearnDataModule, wrap: Mapping[str, Any] | None, role: str = "network"
) -> Backbone:
    """A copy of the network as a backbone."""
    backbone = as_backbone(network, data.image_shape, data.num_classes, **(wrap or {}))
    check_finite(network, role)
    return deepcopy(backbone)


def _wrapped(
    given: Weights | None, network: nn.Module, data: UnlearnDataModule, wrap: Mapping[str, Any] | None, role: str
) -> Weights | None:
    """A reference model that is given as a network or a state dict, wrapped as the network it is compared with."""
    if isinstance(given, Mapping) and given and all(isinstance(value, Tensor) for value in given.values()):
        found = _backbone(network, data, wrap)
        load_state(found, dict(given), role)
        return found
    return _backbone(given, data, wrap, role) if isinstance(given, nn.Module) else given


def _retrains(
    given: Retrains | None, network: nn.Module, data: UnlearnDataModule, wrap: Mapping[str, Any] | None
) -> list[Any]:
    """The Retrains, a list of none, one or several, with networks wrapped."""
    each_given = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    return [_wrapped(each, network, data, wrap, "retrain") for each in each_given]
