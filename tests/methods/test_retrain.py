import pytest
import torch
from torch import nn

from lit_unlearn.backbones import Custom
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import Retrain
from lit_unlearn.methods.retrain import random_copy


def test_two_steps_are_cross_entropy_on_the_retain_set_from_a_fresh_start(follow, make_backbone, sgd, trained_file):
    def loss(network, batch, step):
        images, labels = batch["retain"]
        return -torch.log_softmax(network(images), 1)[torch.arange(len(labels)), labels].mean()

    follow(Retrain(make_backbone(seed=3), weights=trained_file, optimizer=sgd), loss)


@pytest.mark.parametrize("given", ["trained backbone", "weights"])
def test_no_weight_of_the_original_is_left_in_any_layer(make_backbone, trained_state, trained_file, given):
    module = Retrain(make_backbone(seed=3), weights=trained_file) if given == "weights" else Retrain(make_backbone())
    for name, value in module.backbone.named_parameters():
        assert not torch.equal(value, trained_state[name]), name
        if value.dim() > 1:
            assert not (value == trained_state[name]).any(), name
    for name, value in module.backbone.named_buffers():
        if "running" in name:
            assert not torch.equal(value, trained_state[name]), name


def test_the_original_of_the_table_is_what_weights_name(make_backbone, trained_state, trained_file):
    module = Retrain(make_backbone(seed=3), weights=trained_file)
    original = module.original_copy().state_dict()
    assert all(torch.equal(value, trained_state[name]) for name, value in original.items())
    assert Retrain(make_backbone(seed=3)).original_copy() is None


class Tokens(nn.Module):
    """Has a parameter that no reset function reaches."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.rand(shape))

    def forward(self, x):
        return x.flatten(1) + self.token


@pytest.mark.parametrize("shape", [(1, 64), (64,)])
def test_refuses_a_trained_network_that_it_cannot_reinitialise(shape):
    network = Custom(nn.Sequential(Tokens(shape), nn.Linear(64, 4)), in_channels=1)
    with pytest.raises(UsageError, match=r"cannot re-initialise 0\.token: give the untrained network"):
        Retrain(network)


def test_takes_such_a_network_untrained_with_the_weights_beside_it(tmp_path):
    networks = [Custom(nn.Sequential(Tokens((1, 64)), nn.Linear(64, 4)), in_channels=1) for _ in range(2)]
    torch.save(networks[0].state_dict(), tmp_path / "trained.pt")
    module = Retrain(networks[1], weights=tmp_path / "trained.pt")
    assert not torch.equal(module.backbone.encoder[0].token, networks[0].encoder[0].token)


class Tied(nn.Module):
    """Two layers that share their weight, and so it has two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.head(self.second(self.first(x.flatten(1)).relu()).relu())


def test_a_weight_that_two_layers_share_is_drawn_anew_and_stays_shared(tmp_path):
    network = Custom(Tied(), in_channels=1)
    torch.save(network.state_dict(), tmp_path / "trained.pt")
    given = network.encoder.first.weight.detach().clone()
    module = Retrain(Custom(Tied(), in_channels=1), weights=tmp_path / "trained.pt")
    assert module.backbone.encoder.second.weight is module.backbone.encoder.first.weight
    assert not torch.equal(module.backbone.encoder.first.weight, given)
    random = random_copy(network, "teacher")
    assert random.encoder.second.weight is random.encoder.first.weight
    assert not torch.equal(random.encoder.first.weight, given)


def test_refuses_to_start_from_the_trained_values_with_the_same_weights_beside_it(tmp_path):
    network = Custom(nn.Sequential(Tokens((1, 64)), nn.Linear(64, 4)), in_channels=1)
    torch.save(network.state_dict(), tmp_path / "trained.pt")
    with pytest.raises(UsageError, match="cannot re-initialise"):
        Retrain(network, weights=tmp_path / "trained.pt")
