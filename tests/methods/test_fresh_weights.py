"""What a method draws anew has nothing to do with how the original was once drawn, though both runs have one seed."""

import pytest
import torch
from blobs import CLASSES
from torch import nn
from torch.nn.functional import cosine_similarity
from torch.optim import SGD

from lit_unlearn.backbones import ResNet8
from lit_unlearn.methods import MSG, UNDO, BadTeacher, PruneRegrow, WeightDistortion
from lit_unlearn.methods.boundary_expanding import new_unit


@pytest.fixture
def drawn():
    """A network nearly as the run of seed 0 drew it before it was trained."""
    torch.manual_seed(0)
    network = ResNet8(num_classes=CLASSES, in_channels=1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.01)
    return network


def unmoved(params):
    return SGD(params, lr=0.0)


def alike(ours, theirs):
    """The largest cosine between two networks' matrices of one name."""
    theirs = dict(theirs.named_parameters())
    pairs = [(value.flatten(), theirs[name].flatten()) for name, value in ours.named_parameters() if value.dim() > 1]
    return max(float(cosine_similarity(a, b[: len(a)], 0).detach().abs()) for a, b in pairs)


@pytest.mark.parametrize(
    "make",
    [
        lambda network: MSG(network, optimizer=unmoved, fraction=1.0),
        lambda network: PruneRegrow(network, optimizer=unmoved, amount=0.999),
        lambda network: WeightDistortion(network, optimizer=unmoved, sigma=1e3),
    ],
    ids=["MSG", "PruneRegrow", "WeightDistortion"],
)
def test_weights_that_a_run_draws(make, drawn, fit, make_data):
    module = make(drawn)
    before = module.original_copy()
    fit(module, make_data(), max_epochs=1)
    if isinstance(module, MSG):  # the head stays
        module.backbone.head, before.head = nn.Identity(), nn.Identity()
    assert alike(module.backbone, before) < 0.5


@pytest.mark.parametrize(("make", "name"), [(BadTeacher, "bad_teacher"), (UNDO, "noise")])
def test_networks_that_a_method_draws(make, name, drawn):
    assert alike(getattr(make(drawn), name), drawn) < 0.5


def test_the_unit_that_a_method_draws(drawn):
    unit = new_unit(drawn).weight[0].detach()
    first = torch.randn(1, len(unit), generator=torch.Generator().manual_seed(0))[0]
    assert float(cosine_similarity(unit, first, 0).abs()) < 0.5
