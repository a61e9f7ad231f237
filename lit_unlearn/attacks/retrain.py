"""The Retrain that a run is compared with: where its weights are, and what it was trained without."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lit_unlearn.attacks.target import frozen_backbone
from lit_unlearn.backbones import Backbone
from lit_unlearn.backbones.saving import first_mismatch, network_state, same_weights, tensors_sha256
from lit_unlearn.backbones.weights import LoadedWeights, load_weights, resolve
from lit_unlearn.errors import UsageError, shown, unknown
from lit_unlearn.files import read_settings
from lit_unlearn.results import Measurement

_KEYS = ("weights", "trained_without")
SIDECAR = ".yaml"
"""Ending of the file beside weights that says what they were trained without: ``retrain.pt.yaml``."""


@dataclass(frozen=True)
class OwnRetrain:
    """A Retrain that other code trained, with what it was trained without.

    Args:
        weights: file with its weights.
        trained_without: which training images it never saw: an index file, a rule such as ``{classes: [cat]}``, or from
            Python a list of images.
    """

    weights: str
    trained_without: str | dict[str, Any] | list[Any]


@dataclass(frozen=True)
class LoadedRetrain:
    """A Retrain that is ready to be measured.

    Attributes:
        backbone: frozen, in eval mode.
        source: where its weights come from, for the row.
        seconds: how long its training took, where that is known.
        images_seen: how many images its training saw, where that is known.
    """

    backbone: Backbone
    source: dict[str, str]
    seconds: float | None = None
    images_seen: int | None = None


def check_retrain(given: object) -> Any:
    """A Retrain as it may be given, a mapping as :class:`OwnRetrain`.

    Raises:
        UsageError: for what is neither weights, a network, such a mapping nor None.
    """
    if isinstance(given, Mapping):
        if strange := sorted(given.keys() - set(_KEYS)):
            raise unknown("option of retrain", strange[0], _KEYS)
        if missing := [name for name in _KEYS if given.get(name) is None]:
            raise UsageError(f"retrain: {missing[0]} is missing; give weights and trained_without")
        if not isinstance(given["weights"], str | Path):
            kind = type(given["weights"]).__name__
            raise UsageError(f"retrain: weights is a {kind}, but with trained_without must be a file of weights")
        return OwnRetrain(str(given["weights"]), given["trained_without"])
    if not isinstance(given, str | Path | OwnRetrain | nn.Module | None):
        raise UsageError(f"retrain is {shown(given)}, but must be weights, a network, or weights with trained_without")
    return given


def load_retrains(given: Sequence[Any], module: Any, data: Any) -> list[LoadedRetrain]:
    """The Retrains of a run, which must be different ones; each is given as for :func:`load_retrain`.

    Raises:
        UsageError: as :func:`load_retrain`, or if two of them have the same weights, or one has those of the original
            or of a model that is to be measured.
    """
    if not given:
        return []
    found = [load_retrain(each, module, data) for each in given]
    known = [each.backbone.state_dict() for each in found]
    original, own = module.original_copy(), module.unwrapped_backbone().state_dict()
    before = None if original is None else original.state_dict()
    for place, (each, weights) in enumerate(zip(found, known, strict=True)):
        name = repr(each.source["source"])
        if any(same_weights(weights, other) for other in known[place + 1 :]):
            raise UsageError(f"retrain {name} is given twice: name Retrains of different seeds")
        if before is not None and same_weights(weights, before):
            raise UsageError(f"retrain {name} has the weights of the original, which has seen the forget set")
        if same_weights(weights, own):
            raise UsageError(f"retrain {name} has the weights of the model that is to be measured: name another one")
    return found


def as_pool(retrains: Sequence[LoadedRetrain]) -> list[Path]:
    """The files of several Retrains whose weights say what they were trained without; none of a single one."""
    own = [each.source for each in retrains if "sha256" in each.source and "trained_without" not in each.source]
    return [resolve(source["source"]) for source in own] if len(own) > 1 else []


def measurement_of(retrain: LoadedRetrain) -> Measurement:
    """A measurement that knows where a Retrain comes from, and how long its training took."""
    seconds = {} if retrain.seconds is None else {"unlearn": retrain.seconds}
    return Measurement(weights=retrain.source, seconds=seconds, images_seen=retrain.images_seen)


def load_retrain(given: Any, module: Any, data: Any) -> LoadedRetrain:
    """The Retrain of a run.

    Args:
        given: weights as a file or a name of the manifest, weights with what they were trained without, or a network,
            for which the caller vouches.
        module: the method, whose backbone it shares.
        data: the data module of the run.

    Raises:
        UsageError: if the weights do not fit the backbone, or were not trained without exactly what is forgotten.
    """
    if isinstance(given, nn.Module):
        network = frozen_backbone(given, data, "retrain")
        if (original := module.original_copy()) is not None:  # an audited network may have another architecture
            _check_alike(network, original)
        named = {"tensors_sha256": tensors_sha256(network_state(network))}
        return LoadedRetrain(network, {"source": "a network given from Python", **named})
    weights = given.weights if isinstance(given, OwnRetrain) else given
    backbone: Backbone = module.reference_copy()
    loaded = load_weights(backbone, weights)
    stated = given.trained_without if isinstance(given, OwnRetrain) else _sidecar(resolve(weights))
    source = {"source": str(weights), "sha256": loaded.sha256}
    if stated is None:
        if loaded.left_out != data.split.left_out:
            raise UsageError(_other_split(weights, loaded, data.split.left_out))
        ours = getattr(data, "train_sha256", None)
        if None not in (ours, loaded.train_sha256) and ours != loaded.train_sha256:
            raise UsageError(
                f"retrain weights {str(weights)!r} were trained on other images than those of this run, though with "
                "the same labels: give a Retrain of these images, or its config"
            )
        return LoadedRetrain(backbone, source, loaded.seconds, loaded.images_seen)
    if data.left_out_by(stated) != data.split.left_out:
        raise UsageError(
            f"retrain weights {str(weights)!r} were trained without {_wording(stated)}, which is not exactly what this "
            f"run forgets ({data.split}): give a Retrain of this forget set"
        )
    source |= {"trained_without": _wording(stated)}
    return LoadedRetrain(backbone, source, loaded.seconds, loaded.images_seen)


def _check_alike(network: Backbone, own: Backbone) -> None:
    """Refuses a Retrain of another architecture, whose numbers would say nothing of this model's.

    Raises:
        UsageError: naming the first weight that differs in name or shape.
    """
    ours, theirs = (
        {each.name_in_network(name): value for name, value in each.state_dict().items()} for each in (own, network)
    )
    if found := first_mismatch(ours, theirs):
        name, here, there = found
        raise UsageError(
            f"retrain: {name} is {there} there and {here} in the original: give a Retrain of the same network"
        )


def _other_split(weights: object, loaded: LoadedWeights, ours: str) -> str:
    theirs = loaded.left_out
    if theirs is None and loaded.method is not None:
        return (
            f"retrain weights {str(weights)!r} are of {loaded.method}, which is no training without the forget set: "
            "give weights, or a config, of Retrain"
        )
    if theirs is None:
        return (
            f"retrain weights {str(weights)!r} do not say what they were trained without: give "
            "evaluation.retrain '{weights: FILE, trained_without: forget.txt}', or a config of Retrain"
        )
    return (
        f"retrain weights {str(weights)!r} were trained on split {theirs}, but this run is on split {ours}: let "
        "evaluation.retrain name weights, or a config, that fit it, or null"
    )


def _sidecar(weights: Path) -> str | dict[str, Any] | None:
    """What the file beside weights says that they were trained without; None where there is none."""
    path = weights.with_name(weights.name + SIDECAR)
    if not path.is_file():
        return None
    stated = read_settings(path).get("trained_without")
    if not isinstance(stated, str | Mapping):
        raise UsageError(f"{path}: must say trained_without: an index file, or a rule such as {{classes: [cat]}}")
    # A path in a sidecar is of its own folder.
    return str(path.parent / stated) if isinstance(stated, str) else dict(stated)


def _wording(stated: str | dict[str, Any] | list[Any]) -> str:
    """What weights were trained without; a list of images is not told one by one."""
    if isinstance(stated, str):
        return stated
    rule: Mapping[str, Any] = stated if isinstance(stated, Mapping) else {"images": stated}
    return " and ".join("a list of images" if name == "images" else f"{name} {rule[name]}" for name in rule)
