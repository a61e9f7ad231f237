"""What names networks, images and classes, so that what was found of them can be kept from run to run."""

import hashlib
import json

from lit_unlearn.attacks.images import split_fingerprint
from lit_unlearn.attacks.target import EncodedData, Target
from lit_unlearn.backbones.saving import content_of, tensors_sha256
from lit_unlearn.own_code import code_of

_NOTEBOOK = "__main__"


class NamelessError(Exception):
    """Something that a result depends on, such as an attack that a notebook defines, cannot be named."""


def class_key(kind: type) -> str:
    """What names a class of the user's own by its code; those of installed packages and of this one by their path.

    Raises:
        NamelessError: for a class of a notebook or script, whose code is in no module.
    """
    if kind.__module__ == _NOTEBOOK:
        raise NamelessError(kind)
    return json.dumps([kind.__module__, kind.__qualname__, code_of([kind.__module__])])


def samples_key(target: Target, split: str) -> str:
    """What names the images and labels of a split, of those that are on this rank."""
    return target.shared.once(("samples", split), lambda: split_fingerprint(target.data, split, target.device))


def network_key(target: Target, model: EncodedData) -> str:
    """What names a network of a run: its layers, weights and code, and what it answers to the first images.

    The code of a class of a notebook is in no module: the answers alone tell what it computes.
    """
    return target.shared.once(("network", model.key), lambda: _network_key(model))


def _network_key(model: EncodedData) -> str:
    backbone = model.backbone
    digest = hashlib.sha256(repr(backbone).encode())
    kinds = {type(module) for module in backbone.modules()}
    for key in sorted(class_key(kind) for kind in kinds if kind.__module__ != _NOTEBOOK):
        digest.update(key.encode())
    digest.update(tensors_sha256(backbone.state_dict()).encode())
    first = next(iter(model.batches(model.data.split_names[0])), None)
    for answer in () if first is None else (first.logits, *first.stages.values()):
        digest.update(content_of(answer))
    return digest.hexdigest()[:32]
