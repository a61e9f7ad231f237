import pytest
import torch
from torch import nn

from lit_unlearn.backbones import Custom
from lit_unlearn.backbones.parts import last_k
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import CFk

ENCODER = "encoder.stage3.0."
LAST_THREE = (f"{ENCODER}conv2", f"{ENCODER}bn2", f"{ENCODER}shortcut", "head")
TRAINED = {
    ("layers", 1): ("head",),
    ("layers", 3): LAST_THREE,
    ("layers", 4): ("encoder.stage3", "head"),
    ("layers", 10): ("encoder", "head"),
    ("blocks", 1): ("encoder.stage3", "head"),
    ("blocks", 2): ("encoder.stage2", "encoder.stage3", "head"),
    ("stage", 1): ("encoder.stage3", "head"),
    ("stage", 4): ("encoder", "head"),
}


@pytest.mark.parametrize(("unit", "k"), list(TRAINED))
def test_three_epochs_train_the_last_k_and_leave_the_rest_bit_equal(follow, make_backbone, sgd, trained_state, unit, k):
    trained = TRAINED[unit, k]

    def loss(network, batch, step):
        ((part, (images, labels)),) = batch.items()
        assert part == "retain"
        for name, module in network.named_modules():
            if isinstance(module, nn.BatchNorm2d) and not name.startswith(trained):
                module.eval()
        return -torch.log_softmax(network(images), 1)[torch.arange(len(labels)), labels].mean()

    module = CFk(make_backbone(), optimizer=sgd, k=k, unit=unit)
    frozen = tuple(name for name in trained_state if not name.startswith(trained))
    # With a validation between the epochs, which must leave every module's mode as it was.
    follow(module, loss, steps=7, epochs=3, frozen=frozen, limit_val_batches=1.0)
    for name, value in module.backbone.state_dict().items():
        still = torch.equal(value, trained_state[name].to(value.dtype))
        assert still == (not name.startswith(trained) or name.startswith("normalise")), name


def learning(module):
    return {name for name, parameter in module.backbone.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(("share", "k"), [(0.1, 1), (0.25, 3), (0.3, 3), (0.45, 5), (1.0, 10)])
def test_a_share_of_the_layers_is_rounded_up(make_backbone, share, k):
    assert learning(CFk(make_backbone(), k=share)) == learning(CFk(make_backbone(), k=k))


def test_forty_five_of_a_hundred_layers_are_the_default(make_backbone):
    assert learning(CFk(make_backbone())) == learning(CFk(make_backbone(), k=0.45))


def firsts(backbone, unit):
    found = []
    while True:
        try:
            found.append(next(iter(last_k(backbone, len(found) + 1, unit))))
        except UsageError:
            return found


def test_units_of_a_transformer_and_of_a_network_of_ones_own():
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)),
        nn.Flatten(),
        nn.Linear(4 * 64, 4),
    )
    backbone = Custom(network, in_channels=1, stages=["0", "3"])
    block = "encoder.3.0"
    layers = ["head", f"{block}.linear2", f"{block}.linear1", f"{block}.self_attn.out_proj", f"{block}.self_attn"]
    assert firsts(backbone, "layers") == [*layers, "encoder.0"]
    assert firsts(backbone, "blocks") == [block]
    assert firsts(backbone, "stage") == ["encoder.3", "encoder.0"]


def test_parts_of_a_trained_block_that_come_first_are_frozen(make_backbone):
    module = CFk(make_backbone(), k=2)
    names = {name for name, parameter in module.backbone.named_parameters() if parameter.requires_grad}
    assert names == {f"{ENCODER}shortcut.{n}" for n in ("conv.weight", "bn.weight", "bn.bias")} | {
        "head.weight",
        "head.bias",
    }


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"k": 0}, "k is 0"),
        ({"k": 3.0}, r"k is 3.0, but must be a whole number of layers, at least 1, or a share of them in \(0, 1\]"),
        ({"k": 11}, r"k is 11, but a ResNet8 has 10 layer\(s\)"),
        ({"k": 4, "unit": "blocks"}, r"k is 4, but a ResNet8 has 3 block\(s\)"),
        ({"k": 5, "unit": "stage"}, r"k is 5, but a ResNet8 has 4 stage\(s\)"),
        ({"unit": "layer"}, "unknown unit 'layer'; did you mean 'layers'"),
    ],
)
def test_options_out_of_range(make_backbone, option, message):
    with pytest.raises(UsageError, match=message):
        CFk(make_backbone(), **option)
