import math
from itertools import islice

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn, optim
from torch.nn.functional import cross_entropy, mse_loss
from torch.nn.utils import prune

from lit_unlearn.backbones import Custom
from lit_unlearn.data import ForgetSpec
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import PruneRegrow
from lit_unlearn.seed import generator

LAYERS = (nn.Conv2d, nn.Linear)


def layers_of(network):
    return {name: module for name, module in network.named_modules() if isinstance(module, LAYERS)}


def pruned_and_redrawn(network, amount, seed=0):
    """By torch's own pruning, module by module, as kgltop4.py:57-95."""
    layers = layers_of(network).values()
    places = [(m, name) for m in layers for name in ("weight", "bias") if getattr(m, name) is not None]
    prune.global_unstructured(places, pruning_method=prune.L1Unstructured, amount=amount)
    for module, name in places:
        prune.remove(module, name)
    draw = generator(seed, "regrow")
    for module in layers:
        zero = module.weight == 0
        inputs = zero.shape[1] * (zero.shape[2] * zero.shape[3] if zero.dim() == 4 else 1)
        fresh = (torch.rand(zero.shape, dtype=module.weight.dtype, generator=draw) - 0.5) * 2 * math.sqrt(1 / inputs)
        module.weight.data[zero] = fresh[zero]


def sureness(logits):
    chances = logits.softmax(1)
    return -(chances * chances.log()).sum(1)


@pytest.fixture
def uneven(make_data, tmp_path):
    """37 retained images: 10 of class 0, 11, 8 and 8 of the others; 6 batches."""
    (tmp_path / "forget.txt").write_text("\n".join(map(str, [0, 4, 5, 6, 10, 14, 18, 3, 7, 11, 15])))
    return make_data(forget=ForgetSpec(index_file=tmp_path / "forget.txt"), batch_size=7)


@pytest.mark.parametrize(("epochs", "last", "steps"), [(3, 0.5, 16), (2, 1.0, 12)])
def test_the_released_loop(fit, make_backbone, uneven, recorder, epochs, last, steps):
    """xcadet/deepunlearn: munl/unlearning/kgltop4.py:29-54, 134-196, on the batches that came."""
    module = PruneRegrow(
        make_backbone(),
        optimizer=lambda params: optim.SGD(params, lr=0.05, momentum=0.9, weight_decay=5e-4),
        amount=0.7,
        last_epoch=last,
    )
    trainer = fit(module, uneven, recorder, precision="64-true", max_epochs=epochs)
    batches = [batch["retain"] for batch in recorder.batches]
    assert len(batches) == trainer.global_step == steps
    assert trainer.current_epoch == epochs

    labels = torch.cat([labels for _, labels in islice(batches, 6)])
    counts = torch.unique(labels, return_counts=True)[1]
    assert counts.tolist() == [10, 11, 8, 8]
    weights = (counts.float() ** -0.1).double()
    net, initial = make_backbone().double().train(), make_backbone().double().eval()
    optimizer = optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    pruned_and_redrawn(net, 0.7)
    for images, labels in batches:
        with torch.no_grad():
            wanted = sureness(initial(images))
        outputs = net(images)
        loss = cross_entropy(outputs, labels, weight=weights) + mse_loss(sureness(outputs), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net = net.half().double()
    for name, value in net.state_dict().items():
        torch.testing.assert_close(module.backbone.state_dict()[name], value, rtol=0, atol=1e-6, msg=name)


class Pruned(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 0:
            self.state = {name: value.clone() for name, value in pl_module.backbone.state_dict().items()}


@pytest.mark.parametrize("amount", [0.99, 0.5, 1.0])
def test_the_largest_entries_of_all_layers_together_are_kept(fit, make_backbone, make_data, trained_state, amount):
    first = Pruned()
    fit(PruneRegrow(make_backbone(), amount=amount), make_data(), first)
    names = [f"{n}.{part}" for n in layers_of(make_backbone()) for part in ("weight", "bias")]
    names = [name for name in names if name in trained_state]
    assert "head.bias" in names
    ranked = torch.cat([trained_state[name].abs().flatten() for name in names]).sort().values
    least = ranked[min(round(amount * len(ranked)), len(ranked) - 1)] if amount < 1 else math.inf
    for name, value in trained_state.items():
        gone = value.abs() < least if name in names else torch.zeros_like(value, dtype=torch.bool)
        found = first.state[name]
        assert torch.equal(found[~gone], value[~gone]), name
        if name.endswith("bias"):
            assert not found[gone].any(), name
        elif gone.any():
            bound = 1 / math.sqrt(value[0].numel())
            assert (found[gone] != value[gone]).all(), name
            assert float(found[gone].abs().max()) <= bound, name
            assert gone.sum() < 100 or float(found[gone].abs().max()) > 0.9 * bound, name


def test_another_seed_draws_others(fit, make_backbone, make_data, monkeypatch):
    states = []
    for seed in ("0", "1"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        first = Pruned()
        fit(PruneRegrow(make_backbone()), make_data(), first)
        states.append(first.state["head.weight"])
    assert (states[0] != states[1]).float().mean() > 0.5


@pytest.mark.parametrize("half", [True, False])
def test_the_end_is_rounded_however_the_run_ends(fit, make_backbone, make_data, half):
    for settings in ({}, {"max_epochs": 3, "max_steps": 4}):
        module = PruneRegrow(make_backbone(), half_precision=half)
        fit(module, make_data(), **settings)
        values = [value for value in module.backbone.state_dict().values() if value.is_floating_point()]
        assert all(torch.equal(value, value.half().float()) for value in values) == half


def test_how_images_are_normalised_is_not_rounded(fit, make_backbone, make_data):
    backbone = make_backbone()
    backbone.normalise.std.fill_(std := 0.2470)  # that of CIFAR-10, which half precision does not have
    fit(PruneRegrow(backbone), make_data())
    assert torch.equal(backbone.normalise.std, torch.full_like(backbone.normalise.std, std))


def test_an_epoch_in_between_is_not_rounded(fit, make_backbone, make_data):
    class Looking(Callback):
        def __init__(self):
            self.rounded = []

        def on_train_epoch_start(self, trainer, pl_module):
            values = [v for n, v in pl_module.backbone.named_parameters() if n.endswith("weight")]
            self.rounded.append(all(torch.equal(value, value.half().float()) for value in values))

    looking = Looking()
    fit(PruneRegrow(make_backbone()), make_data(), looking, max_epochs=2)
    assert looking.rounded == [False, False]


def test_the_cut_epoch_is_validated_and_counts_as_the_last(fit, make_backbone, make_data):
    validated = []

    class Seen(Callback):
        def on_validation_end(self, trainer, pl_module):
            validated.append(trainer.global_step)

    trainer = fit(PruneRegrow(make_backbone(), last_epoch=0.4), make_data(), Seen(), max_epochs=2)
    assert (validated, trainer.current_epoch) == ([3, 5], 2)  # of two epochs of 3 steps, ⌊3 · 1.4⌋ + 1


@pytest.mark.parametrize("half", [False, True])
def test_a_frozen_layer_is_left_alone(fit, make_backbone, make_data, trained_state, half):
    backbone = make_backbone()
    backbone.encoder.stem.requires_grad_(False)
    fit(PruneRegrow(backbone, half_precision=half), make_data())
    for name, value in backbone.named_parameters():
        assert torch.equal(value, trained_state[name]) == name.startswith("encoder.stem"), name


def test_a_part_of_the_last_epoch_needs_one(make_backbone, make_data, fit):
    with pytest.raises(UsageError, match=r"PruneRegrow needs trainer.max_epochs: last_epoch is a share of the last"):
        fit(PruneRegrow(make_backbone(), last_epoch=0.5), make_data(), max_epochs=-1, max_steps=2)
    fit(PruneRegrow(make_backbone()), make_data(), max_epochs=-1, max_steps=2)


def test_a_network_without_such_layers_is_refused(make_backbone):
    backbone = make_backbone().requires_grad_(False)
    with pytest.raises(UsageError, match="no parameter of the network learns"):
        PruneRegrow(backbone)
    PruneRegrow(Custom(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), in_channels=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amount": 0.0}, r"amount is 0.0, but must lie in \(0, 1\]"),
        ({"amount": 1.5}, r"amount is 1.5"),
        ({"last_epoch": 0.0}, r"last_epoch is 0.0, but must lie in \(0, 1\]"),
        ({"last_epoch": float("nan")}, r"last_epoch is nan"),
    ],
)
def test_options_out_of_range(make_backbone, options, message):
    with pytest.raises(UsageError, match=message):
        PruneRegrow(make_backbone(), **options)
