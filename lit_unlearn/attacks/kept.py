"""What is found of a reference model, kept for the runs after this one that compare with the same.

It is kept under a key that names all it depends on: the weights and answers of the networks, the images, the attack
with its options, the models of the pool, and the code of this package, of the user's own classes and of what is
installed. Where one of them has no name, such as an attack that was defined in a notebook, nothing is kept.
"""

import hashlib
import json
import pickle
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from lit_unlearn.artifacts import Artifact, ImageGrid, PointMap
from lit_unlearn.attacks.base import Attack, evaluated, isolated
from lit_unlearn.attacks.encoded import rank_and_world
from lit_unlearn.attacks.fingerprint import network_key, samples_key
from lit_unlearn.attacks.pool import Pool
from lit_unlearn.attacks.target import EncodedData, Target
from lit_unlearn.backbones.hub import HUB
from lit_unlearn.backbones.saving import content_of
from lit_unlearn.backbones.zoo import ZOO
from lit_unlearn.files import file_sha256
from lit_unlearn.own_code import imported_code
from lit_unlearn.results import AttackResult
from lit_unlearn.seed import run_seed
from lit_unlearn.shipped import manifest

_ARTIFACTS: dict[str, type[Artifact]] = {kind.__name__: kind for kind in (ImageGrid, PointMap)}

_NOTEBOOK = "__main__"
"""The module of what a notebook or a script defines, whose code is in no file that can be found."""

_ELSEWHERE = (HUB, ZOO)
"""How names begin of weights whose content may change behind the name."""

_OF_LIGHTNING = ("log", "log_dict")
"""What Lightning gives every callback of a run: methods of the module."""


class _NamelessError(Exception):
    """Something of a result, or that it depends on, such as an attack that a notebook defines, cannot be kept."""


@dataclass(frozen=True)
class Found:
    """What was found of a model.

    Attributes:
        result: numbers, notes and artifacts.
        seconds: how long it took when it was computed.
        measured: when an earlier run computed it, as ISO time in UTC; empty where this run has.
    """

    result: AttackResult
    seconds: float
    measured: str = ""


def accuracies_of(target: Target) -> Found:
    """The model's own accuracy on each split."""
    return _once(target, None, lambda: AttackResult(target.accuracies(lambda batch: batch.logits)))


def found_by(attack: Attack, target: Target) -> Found:
    """What an attack finds of a model.

    Raises:
        WrongResultError: as :func:`~lit_unlearn.attacks.base.evaluated`.
    """
    return _once(target, attack, partial(evaluated, attack, target))


def _once(target: Target, attack: Attack | None, make: Callable[[], AttackResult]) -> Found:
    """Computes it; of a reference model only where no earlier run has."""
    now: list[Found] = []

    def computed() -> Found:
        started = perf_counter()
        with isolated():
            result = make()
        now.append(Found(result, perf_counter() - started))
        return now[0]

    key = _key(target, attack)
    if key is None:
        return computed()
    try:
        kept = target.shared.on_disk(key, lambda: _written(computed()), target.device, torch.device("cpu"))
    except _NamelessError:  # one of its artifacts, which the report may draw, and which no file takes
        return now[0]
    return now[0] if now else _read(kept)


def _written(found: Found) -> dict[str, Any]:
    """It in values that torch reads without running code."""
    artifacts = {
        name: (_kind(artifact), {each.name: _plain(getattr(artifact, each.name)) for each in fields(artifact)})
        for name, artifact in found.result.artifacts.items()
    }
    when = datetime.now(UTC).isoformat(timespec="seconds")
    numbers, notes = (
        {name: _plain(value) for name, value in each.items()} for each in (found.result.numbers, found.result.notes)
    )
    return {"numbers": numbers, "notes": notes, "artifacts": artifacts, "seconds": found.seconds, "measured": when}


def _plain(value: Any) -> Any:
    """Tensors on the CPU, a sequence as a list, and numbers and texts, also those of numpy, in Python's own types."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if value is None or type(value) is bool:
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    raise _NamelessError(value)


def _kind(artifact: Artifact) -> str:
    name = type(artifact).__name__
    if _ARTIFACTS.get(name) is not type(artifact):
        raise _NamelessError(artifact)
    return name


def _read(kept: Mapping[str, Any]) -> Found:
    artifacts = {name: _ARTIFACTS[kind](**given) for name, (kind, given) in kept["artifacts"].items()}
    return Found(AttackResult(kept["numbers"], kept["notes"], artifacts), kept["seconds"], kept["measured"])


def _key(target: Target, attack: Attack | None) -> str | None:
    """What names all that an attack's result, or None for the accuracies, depends on; None where nothing is kept."""
    if target.subject == "unlearned" or target.shared.folder is None:
        return None
    try:
        with isolated():
            parts = [target.subject, _named(attack), _surroundings(target)]
            networks = target.model, target.original, target.retrain
            parts += [each and _network(target, each) for each in networks]
        return f"found-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]}"
    except _NamelessError:
        return None


def _network(target: Target, model: EncodedData) -> str:
    """What names a network, unless it runs other code than its files hold now, so that their code says nothing."""

    def named() -> str:
        for module in {type(layer).__module__ for layer in model.backbone.modules()} - {_NOTEBOOK}:
            if imported_code(module) is None:
                raise _NamelessError(module)
        return network_key(target, model)

    return target.shared.once(("kept network", model.key), named)


def _named(value: object) -> Any:
    """A value in JSON's own types, told from all others: plain values, and attacks and their parts by their options."""
    if isinstance(value, str | Path):
        return [str(value), _content(value)]
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return ["float", str(value)]
    if isinstance(value, Mapping):
        return {"items": [[_named(key), _named(each)] for key, each in value.items()]}
    if isinstance(value, list | tuple):
        return [_named(each) for each in value]
    if isinstance(value, Attack) or _is_ours(value):
        options = {name: each for name, each in sorted(vars(value).items()) if name not in _OF_LIGHTNING}
        return [_class(type(value)), {name: _named(each) for name, each in options.items()}, _drawn(value)]
    raise _NamelessError(value)


def _content(name: str | Path) -> str | None:
    """What names the content of a file, or of weights of the manifest, that an option may name; None where of none."""
    try:
        path = Path(name).expanduser()
        if path.is_dir() or str(name).startswith(_ELSEWHERE):
            raise _NamelessError(name)
        return file_sha256(path) if path.is_file() else manifest().get(str(name), {}).get("sha256")
    except (OSError, ValueError, RuntimeError):  # a text that no file can have as its name
        return None


def _class(kind: type) -> Any:
    """A class with its code, if it is the user's own; that of installed packages and of this one is named for all."""
    code = None if kind.__module__ == _NOTEBOOK else imported_code(kind.__module__)
    if code is None:
        raise _NamelessError(kind)
    return [kind.__module__, kind.__qualname__, code]


def _is_ours(value: object) -> bool:
    return type(value).__module__.startswith("lit_unlearn.")


def _drawn(value: object) -> Any:
    """What an attack may draw from: this package's have generators of their own, the user's may take any other."""
    if _is_ours(value):
        return None
    digest = hashlib.sha256(pickle.dumps((random.getstate(), np.random.get_state())))
    for state in (torch.get_rng_state(), *torch.cuda.get_rng_state_all()):
        digest.update(content_of(state))
    return [run_seed(), digest.hexdigest()]


def _surroundings(target: Target) -> Any:
    """What is the same for all models and attacks of a run: data, pool, device and precision."""
    return target.shared.once(("surroundings",), lambda: _named_surroundings(target))


def _named_surroundings(target: Target) -> Any:
    data, device = target.data, target.device
    samples = {split: samples_key(target, split) for split in data.split_names}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    known = [samples, list(data.class_names), target.num_classes, name, torch.get_float32_matmul_precision()]
    return [*known, list(rank_and_world()), target.pool and _pool(target.pool)]


def _pool(pool: Pool) -> Any:
    """The models of a pool by their content, in order, wherever they lie and whichever method the run has."""
    return [[file_sha256(file) for file in files] for files in (pool.retrains, pool.originals, pool.unlearned)]
