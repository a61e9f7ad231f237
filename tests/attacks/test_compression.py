import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from lit_unlearn.attacks import Prune, Quantise
from lit_unlearn.attacks.compression import plain, quantised, weights
from lit_unlearn.attacks.target import EncodedData, Target
from lit_unlearn.errors import UsageError

CPU = torch.device("cpu")


def test_a_small_weight_by_hand():
    """Two bits: −1, 0 and 1 times the largest of a channel; three bits: thirds of it."""
    weight = torch.tensor([[1.0, 0.4, -0.6], [-30.0, 14.0, 16.0]])
    assert torch.equal(quantised(weight, 2), torch.tensor([[1.0, 0, -1], [-30, 0, 30]]))
    thirds = torch.tensor([[1, 1 / 3, -2 / 3], [-30.0, 10, 20]])
    torch.testing.assert_close(quantised(weight, 3), thirds)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("shape", [(6, 9), (6, 3, 3, 3)])
def test_every_channel_has_its_own_grid(bits, shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.arange(6.0).view(
        -1, *[1] * (len(shape) - 1)
    )
    rounded = quantised(weight, bits)
    assert not rounded[0].any()  # a channel of zeros stays so
    for channel, given in zip(rounded[1:], weight[1:], strict=True):
        step = given.abs().max() / (2 ** (bits - 1) - 1)
        assert len(channel.unique()) <= 2**bits - 1
        assert (channel - given).abs().max() <= step / 2 * 1.0001
        torch.testing.assert_close(channel / step, (given / step).round(), rtol=0, atol=1e-4)


def test_what_is_compressed_are_the_weights_that_multiply(make_backbone):
    network = make_backbone()
    found = {id(getattr(module, name)) for module, name in weights(network)}
    expected = [m.weight for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert found == {id(weight) for weight in expected}
    attention = nn.MultiheadAttention(4, 2)
    assert {name for _, name in weights(attention)} == {"in_proj_weight", "weight"}
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    assert len(list(weights(tied))) == 1


@pytest.mark.parametrize("amount", [0.25, 0.5, 0.9])
def test_pruning_takes_the_smallest_of_all_layers(make_backbone, amount):
    network = make_backbone()
    before = torch.cat([getattr(m, name).detach().flatten() for m, name in weights(network)])
    names = set(network.state_dict())
    Prune(amount).compress(network)
    after = torch.cat([getattr(m, name).detach().flatten() for m, name in weights(network)])
    gone = after == 0
    assert int(gone.sum()) == round(amount * len(before))
    assert before[gone].abs().max() <= before[~gone].abs().min()
    assert torch.equal(after[~gone], before[~gone])
    assert set(network.state_dict()) == names


def test_a_thin_layer_of_forgetting_comes_off(make_target, vectors):
    """The forgotten point's logits differ by less than a step of the grid."""
    net = vectors(nn.Identity(), 2, 2)
    with torch.no_grad():
        net.head.weight.copy_(torch.tensor([[1.0, -0.06], [0.97, 0.0]]))
        net.head.bias.zero_()
    forgotten, retained = torch.tensor([[1.0, 1.0]]), torch.tensor([[-1.0, 0.0]])
    target = make_target(
        net,
        forget=(forgotten, torch.tensor([0])),
        test_forget=(forgotten, torch.tensor([0])),
        test_retain=(retained, torch.tensor([1])),
    )
    assert target.accuracies(lambda batch: batch.logits)["test_forget_acc"] == 0
    assert Quantise(4).evaluate(target).numbers == {"forget_acc": 1, "test_forget_acc": 1, "test_retain_acc": 1}
    assert Quantise(8).evaluate(target).numbers["test_forget_acc"] == 0
    assert Prune(0.5).evaluate(target).numbers["test_forget_acc"] == 1


@pytest.mark.parametrize("attack", [Quantise(8), Quantise(2), Prune(0.5)])
def test_it_leaves_no_trace(make_backbone, make_data, attack):
    net, data = make_backbone().eval().requires_grad_(False), make_data()
    before = copy.deepcopy(net.state_dict())
    target = Target(EncodedData(net, data, CPU), None, data, 4)
    as_is = target.accuracies(lambda batch: batch.logits)
    found = attack.evaluate(target).numbers
    assert found.keys() == as_is.keys()
    assert found == attack.evaluate(target).numbers
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert target.accuracies(lambda batch: batch.logits) == as_is
    if attack.name == "int2":
        assert found != as_is  # that is, the copy was compressed, not the original scored


@pytest.mark.parametrize("attack", [Quantise(2), Prune(0.9)])
@pytest.mark.parametrize("norm", [weight_norm, spectral_norm])
def test_a_weight_that_is_computed_from_others_is_compressed_as_it_is_when_it_is_shipped(
    make_target, vectors, four_splits, norm, attack
):
    net = vectors(norm(nn.Linear(5, 6)), 6, 4)
    norm(net.head)
    shipped = plain(copy.deepcopy(net.eval()))
    x = four_splits["retain"][0]
    torch.testing.assert_close(shipped(x), net(x))
    assert len(list(weights(shipped))) == 2
    target = make_target(net, **four_splits)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert attack.lacks(target) is None
    found = attack.evaluate(target).numbers
    assert found == attack.evaluate(make_target(shipped, **four_splits)).numbers
    assert found != target.accuracies(lambda batch: batch.logits)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("attack", [Quantise(2), Prune(0.9)])
def test_a_network_without_weights_is_left_out_with_a_reason(make_target, vectors, four_splits, attack):
    class Scales(nn.Module):
        def __init__(self):
            super().__init__()
            self.in_features, self.out_features = 5, 4
            self.kernel, self.bias = nn.Parameter(torch.randn(4, 5)), nn.Parameter(torch.zeros(4))

        def forward(self, x):
            return x @ self.kernel.T + self.bias

    net = vectors(nn.Identity(), 5, 4)
    net.head = Scales()
    assert attack.lacks(make_target(net, **four_splits)).startswith("the network has no weight to compress")


def test_names_tell_strengths_apart():
    names = [attack.name for attack in (Quantise(8), Quantise(4), Prune(0.5), Prune(0.125), Prune(name="x"))]
    assert names == ["int8", "int4", "prune50", "prune12.5", "x"]


@pytest.mark.parametrize(
    ("attack", "option", "message"),
    [
        (Quantise, {"bits": 1}, "bits is 1"),
        (Quantise, {"bits": 32}, "bits is 32"),
        (Prune, {"amount": 0.0}, "amount is 0.0"),
        (Prune, {"amount": 1.0}, "amount is 1.0"),
    ],
)
def test_options_out_of_range(attack, option, message):
    with pytest.raises(UsageError, match=message):
        attack(**option)
