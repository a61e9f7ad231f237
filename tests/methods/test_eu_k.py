import math

import pytest
import torch
from torch import nn

from lit_unlearn.backbones import Custom
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import EUk

BLOCK = "encoder.stage3.0."
TRAINED = {
    ("layers", 1): ("head",),
    ("layers", 3): (f"{BLOCK}conv2", f"{BLOCK}bn2", f"{BLOCK}shortcut", "head"),
    ("blocks", 1): ("encoder.stage3", "head"),
    ("stage", 2): ("encoder.stage2", "encoder.stage3", "head"),
}


def redrawn(state, trained, seed):
    """θo with the last part drawn anew: kernels from N(0, 2 / fan out), the head within 1/√d, BatchNorm as at birth."""
    torch.manual_seed(seed)
    new = dict(state)
    for name, value in state.items():
        if not name.startswith(trained):
            continue
        if value.dim() == 4:
            new[name] = torch.empty(value.shape).normal_(0, math.sqrt(2 / (value.shape[0] * value[0, 0].numel())))
        elif name.startswith("head"):
            bound = 1 / math.sqrt(state["head.weight"].shape[1])
            new[name] = torch.empty(value.shape).uniform_(-bound, bound)
        else:
            ones = name.endswith(("weight", "running_var"))
            new[name] = torch.ones_like(value) if ones else torch.zeros_like(value)
    return new


@pytest.mark.parametrize(("unit", "k"), list(TRAINED))
def test_three_epochs_train_a_fresh_part_and_leave_the_rest_bit_equal(
    follow, make_backbone, sgd, trained_state, unit, k
):
    trained = TRAINED[unit, k]

    def loss(network, batch, step):
        ((part, (images, labels)),) = batch.items()
        assert part == "retain"
        for name, module in network.named_modules():
            if isinstance(module, nn.BatchNorm2d) and not name.startswith(trained):
                module.eval()
        return -torch.log_softmax(network(images), 1)[torch.arange(len(labels)), labels].mean()

    backbone = make_backbone()
    torch.manual_seed(5)
    module = EUk(backbone, optimizer=sgd, k=k, unit=unit)
    frozen = tuple(name for name in trained_state if not name.startswith(trained))
    _, record, _ = follow(module, loss, steps=7, epochs=3, frozen=frozen, limit_val_batches=1.0)
    fresh = redrawn(trained_state, trained, seed=5)
    for name, value in record.start.state_dict().items():
        assert torch.equal(value, fresh[name].to(value.dtype)), name
        if name.startswith(trained) and not (name.endswith("bias") and name != "head.bias"):
            assert not torch.equal(value, trained_state[name].to(value.dtype)), name
    for name in frozen:
        value = module.backbone.state_dict()[name]
        assert torch.equal(value, trained_state[name].to(value.dtype)), name


def test_the_backbone_is_the_original_until_a_fit_begins(make_backbone, make_data, make_trainer, trained_file):
    module = EUk(make_backbone(seed=3), weights=trained_file)
    assert module.is_original()
    (scores, *_) = make_trainer().validate(module, datamodule=make_data(), verbose=False)
    assert scores["val/forget_acc"] > 0.9
    assert module.is_original()


def test_a_resumed_run_is_not_drawn_anew(make_backbone, make_data, fit, make_trainer, tmp_path):
    def new(seed):
        backbone = make_backbone()
        torch.manual_seed(seed)
        return EUk(backbone)

    whole, half, resumed = new(1), new(1), new(2)
    fit(whole, make_data(), max_epochs=3)
    fit(half, make_data(), max_epochs=2).save_checkpoint(tmp_path / "half.ckpt")
    make_trainer(max_epochs=3).fit(resumed, datamodule=make_data(), ckpt_path=tmp_path / "half.ckpt")
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


class Tokens(nn.Module):
    """Has a parameter that no reset function reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.rand(64))

    def forward(self, x):
        return x.flatten(1) + self.token


def test_a_part_that_cannot_be_reinitialised_is_refused_and_one_that_is_frozen_is_not():
    network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), Tokens(), nn.Linear(64, 4))
    with pytest.raises(
        UsageError, match=r"EUk cannot re-initialise encoder\.1\.token: give the untrained network as backbone"
    ):
        EUk(Custom(network, in_channels=1), k=2)
    EUk(Custom(network, in_channels=1), k=1)


def test_what_no_layer_reinitialises_starts_as_the_network_was_constructed(tmp_path):
    def network(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), Tokens(), nn.Linear(64, 4))

    torch.save(network(0).state_dict(), tmp_path / "trained.pt")
    backbone, token = Custom(network(1), in_channels=1), network(1)[1].token
    module = EUk(backbone, weights=tmp_path / "trained.pt", k=2)
    assert module.is_original()
    module.setup("fit")
    assert torch.equal(backbone.encoder[1].token, token)


def test_what_is_frozen_among_the_last_k_keeps_its_values(fit, make_backbone, make_data, trained_state):
    backbone = make_backbone()
    backbone.head.requires_grad_(False)
    fit(EUk(backbone, k=3), make_data())
    for name, value in backbone.state_dict().items():
        if name.startswith("head."):
            assert torch.equal(value, trained_state[name]), name
    assert not torch.equal(backbone.state_dict()[f"{BLOCK}conv2.weight"], trained_state[f"{BLOCK}conv2.weight"])
    with pytest.raises(UsageError, match=r"EUk: all parameters of the last k are frozen \(k 1, unit layers\)"):
        EUk(backbone, k=1)


def test_more_layers_than_there_are_are_refused(make_backbone):
    with pytest.raises(UsageError, match="k is 11, but a ResNet8 has 10"):
        EUk(make_backbone(), k=11)
