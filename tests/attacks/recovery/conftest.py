"""Targets of handwritten digits: the shipped networks and controls made from them; classes 0, 1 and 2 are forgotten."""

from collections.abc import Callable

import pytest
import torch

from lit_unlearn.attacks import Target
from lit_unlearn.attacks.target import EncodedData
from lit_unlearn.backbones import ResNet8
from lit_unlearn.backbones.gate import add_gate
from lit_unlearn.backbones.weights import load_weights
from lit_unlearn.data import Digits, ForgetSpec, UnlearnDataModule

CPU = torch.device("cpu")
WEIGHTS = {"original": "digits_resnet8", "retrain": "digits_resnet8_retrain_classes_0_1_2", "random": None}


def network(name: str) -> ResNet8:
    """One of the weights, or a factor of Rescale."""
    torch.manual_seed(5)
    net = ResNet8(num_classes=10, in_channels=1)
    weights = WEIGHTS.get(name, "digits_resnet8")
    if weights is not None:
        load_weights(net, weights)
    if name not in WEIGHTS:
        add_gate(net, [0, 1, 2], float(name))
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def digits() -> Callable[[str], Target]:
    """Makes a target of ``original``, ``retrain``, ``random`` or a factor such as ``1e-5``."""
    data = UnlearnDataModule(Digits(), ForgetSpec(classes=[0, 1, 2]))
    encoded: dict[str, EncodedData] = {}

    def make(name: str) -> Target:
        for each in ("original", name):
            if each not in encoded:
                encoded[each] = EncodedData(network(each), data, CPU)
        return Target(encoded[name], encoded["original"], data, 10)

    return make
