"""What names networks and images, so that what was found of them can be kept from run to run."""

import copy
import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from lit_unlearn.attacks.images import split_fingerprint
from lit_unlearn.attacks.target import EncodedData, Target
from lit_unlearn.backbones.backbone import FEATURES
from lit_unlearn.backbones.memory_format import set_memory_format
from lit_unlearn.backbones.saving import content_of, tensors_sha256
from lit_unlearn.own_code import network_code

_ASKED = 8


def samples_key(target: Target, split: str) -> str:
    """What names the images and labels of a split, of those that are on this rank."""
    return target.shared.once(("samples", split), lambda: split_fingerprint(target.data, split, target.device))


def network_key(target: Target, model: EncodedData) -> str:
    """What names a network of a run: its layers, weights and code, and what it answers to the first images.

    The code of a class of a notebook is in no file that can be found: the answers alone tell what it computes.
    """
    return target.shared.once(("network", model.key), lambda: _network_key(model))


def _network_key(model: EncodedData) -> str:
    digest = hashlib.sha256(network_code(model.backbone).encode())
    digest.update(tensors_sha256(model.backbone.state_dict()).encode())
    for answer in _answers(model):
        digest.update(content_of(answer))
    return digest.hexdigest()[:32]


@torch.no_grad()
def _answers(model: EncodedData) -> Iterator[Tensor]:
    """Stages and logits of a few images, computed alike whatever device, precision and memory format the run has."""
    network = copy.deepcopy(model.backbone).cpu().float()
    set_memory_format(network, "contiguous")
    for images, _ in model.data.evaluation_batches(model.data.split_names[0], torch.device("cpu"), most=_ASKED):
        tapped = network.taps(images.float(), [*network.stages, FEATURES])
        yield from (*tapped.values(), network.head(tapped[FEATURES]))
