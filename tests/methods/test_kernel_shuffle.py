import copy

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn

from lit_unlearn.backbones import Custom
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import KernelShuffle
from lit_unlearn.methods.kernel_shuffle import shuffled

LR, MOMENTUM, DECAY = 0.05, 0.9, 0.01


class AtFirst(Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 0:
            self.network = copy.deepcopy(pl_module.backbone)
            self.state = {name: value.clone() for name, value in self.network.state_dict().items()}


def is_kernel(value):
    return value.dim() == 4


def begun(fit, make_backbone, make_data, memory_format="contiguous", **options):
    first, module = AtFirst(), KernelShuffle(make_backbone(), **options)
    module.memory_format = memory_format
    fit(module, make_data(), first, limit_train_batches=1)
    return first.state


@pytest.mark.parametrize("within", ["tensor", "channel"])
def test_each_kernel_keeps_its_values_in_another_order_and_all_else_is_as_it_was(
    fit, make_backbone, make_data, trained_state, within
):
    state = begun(fit, make_backbone, make_data, within=within)
    for name, value in trained_state.items():
        if not is_kernel(value):
            assert torch.equal(state[name], value), name
            continue
        found, wanted = state[name].flatten(1), value.flatten(1)
        assert torch.equal(found.flatten().sort().values, wanted.flatten().sort().values), name
        assert (found != wanted).float().mean() > 0.5, name
        assert torch.equal(found.sort(1).values, wanted.sort(1).values) == (within == "channel"), name
        ranks = [f.sort().indices[w.argsort().argsort()] for f, w in zip(found, wanted, strict=True)]
        assert not all(torch.equal(each, ranks[0]) for each in ranks), "each channel has an order of its own"


def test_every_order_is_as_likely_as_any_other():
    draw = torch.Generator().manual_seed(0)
    rows = shuffled(torch.arange(3).expand(6000, 3), draw)
    counts = (rows @ torch.tensor([9, 3, 1])).unique(return_counts=True)[1]
    assert len(counts) == 6
    assert (counts - 1000).abs().max() < 4 * 29  # four standard deviations


def test_the_seed_alone_decides_the_order(fit, make_backbone, make_data, monkeypatch):
    states = []
    for seed, memory_format in (("0", "contiguous"), ("0", "channels_last"), ("1", "contiguous")):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        torch.rand(len(states) + 1)  # whatever was drawn before
        states.append(begun(fit, make_backbone, make_data, memory_format))
    for name, value in states[0].items():
        assert torch.equal(states[1][name], value), name
        assert torch.equal(states[2][name], value) == (not is_kernel(value)), name


def test_two_epochs_train_what_was_shuffled_on_the_retain_set(fit, make_backbone, make_data, sgd, recorder):
    first, module = AtFirst(), KernelShuffle(make_backbone(), optimizer=sgd)
    fit(module, make_data(), recorder, first, max_epochs=2, precision="64-true", limit_val_batches=0)
    plain = first.network.train()
    assert len(recorder.batches) == 2 * 3
    speed = {name: torch.zeros_like(value) for name, value in plain.named_parameters()}
    for batch in recorder.batches:
        images, labels = batch["retain"]
        plain.zero_grad()
        (-torch.log_softmax(plain(images), 1)[torch.arange(len(labels)), labels]).mean().backward()
        with torch.no_grad():
            for name, parameter in plain.named_parameters():
                speed[name] = MOMENTUM * speed[name] + parameter.grad + DECAY * parameter
                parameter -= LR * speed[name]
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(module.backbone.state_dict()[name], value, rtol=0, atol=1e-9, msg=name)


def test_what_it_cannot_do_is_refused(make_backbone):
    with pytest.raises(UsageError, match=r"unknown within 'layer'.*\(allowed: channel, tensor\)"):
        KernelShuffle(make_backbone(), within="layer")
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with pytest.raises(UsageError, match="KernelShuffle shuffles convolutions, but a Sequential has none that learns"):
        KernelShuffle(Custom(network, in_channels=1))
