import copy

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

from lit_unlearn.backbones import Custom
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import CT

EPOCHS = 3


def released(network, batches, rate):
    """xcadet/deepunlearn munl/unlearning/kgltop5.py, lines 85 to 114, on the batches as they came."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight = nn.Parameter(module.weight.detach().swapaxes(2, 3))
    optimizer = SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    scheduler = CosineAnnealingLR(optimizer, T_max=EPOCHS)
    network.train()
    steps = len(batches) // EPOCHS
    for epoch in range(EPOCHS):
        for batch in batches[epoch * steps : (epoch + 1) * steps]:
            images, labels = batch["retain"]
            optimizer.zero_grad()
            nn.CrossEntropyLoss()(network(images), labels).backward()
            optimizer.step()
        scheduler.step()
    return network


def test_three_epochs_are_those_of_the_released_code(fit, make_backbone, make_data, recorder):
    module = CT(
        make_backbone(),
        optimizer=lambda params: SGD(params, lr=0.05, momentum=0.9, weight_decay=5e-4),
        lr_scheduler=lambda optimizer: CosineAnnealingLR(optimizer, T_max=EPOCHS),
    )
    fit(module, make_data(), recorder, max_epochs=EPOCHS, precision="64-true", limit_val_batches=0)
    assert len(recorder.batches) == EPOCHS * 3
    for name, value in released(make_backbone().double(), recorder.batches, 0.05).state_dict().items():
        torch.testing.assert_close(module.backbone.state_dict()[name], value, rtol=0, atol=1e-6, msg=name)


class AtFirst(Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 0:
            self.network = copy.deepcopy(pl_module.backbone).eval()


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_before_it_trains_it_answers_transposed_images_as_the_original_does_plain_ones(
    fit, make_backbone, make_data, trained_state, memory_format
):
    first, module = AtFirst(), CT(make_backbone())
    module.memory_format = memory_format
    fit(module, make_data(), first)
    images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    plain = make_backbone().eval()
    with torch.no_grad():
        turned, as_it_was = first.network(images.transpose(2, 3)), plain(images)
        assert not torch.allclose(first.network(images), as_it_was, atol=1e-2)
    torch.testing.assert_close(turned, as_it_was, rtol=0, atol=1e-5)
    for name, value in trained_state.items():
        alike = torch.equal(first.network.state_dict()[name], value)
        assert alike == (value.dim() != 4 or value.shape[2:] == (1, 1)), name


def test_a_frozen_kernel_is_left_alone(fit, make_backbone, make_data, trained_state):
    backbone = make_backbone()
    backbone.encoder.stem.requires_grad_(False)
    first = AtFirst()
    fit(CT(backbone), make_data(), first)
    changed = {
        name for name, value in trained_state.items() if not torch.equal(first.network.state_dict()[name], value)
    }
    assert changed
    assert not any(name.startswith("encoder.stem") for name in changed)


class Shared(nn.Module):
    """Two convolutions with one kernel: transposed twice, it would be as it was."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1)
        self.second.weight = self.first.weight
        self.head = nn.Linear(64, 4)

    def forward(self, images):
        return self.head(self.second(self.first(images)).flatten(1))


def test_a_kernel_that_two_convolutions_share_is_transposed_once(fit, make_data):
    first, network = AtFirst(), Shared()
    kernel = network.first.weight.detach().clone()
    fit(CT(Custom(network, in_channels=1)), make_data(), first)
    kernels = [value for value in first.network.parameters() if value.dim() == 4]
    assert [torch.equal(value, kernel.transpose(2, 3)) for value in kernels] == [True]


def with_convolution(*size):
    return nn.Sequential(nn.Conv2d(1, 4, size), nn.Flatten(), nn.LazyLinear(4))


def custom(network):
    network(torch.rand(2, 1, 8, 8))
    return Custom(network, in_channels=1)


@pytest.mark.parametrize("size", [(1, 3), (3, 1)])
def test_a_kernel_that_is_not_square_is_refused_by_its_name(size):
    height, width = size
    with pytest.raises(UsageError, match=rf"^CT cannot transpose \S*0\.weight: its kernel is {height}x{width}, but"):
        CT(custom(with_convolution(*size)))


def test_a_network_without_a_kernel_of_several_positions_is_refused():
    frozen = with_convolution(3, 3)
    frozen[0].requires_grad_(False)
    for network in (nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), with_convolution(1, 1), frozen):
        with pytest.raises(UsageError, match=r"^CT transposes kernels of several positions, but a Sequential has none"):
            CT(custom(network))
