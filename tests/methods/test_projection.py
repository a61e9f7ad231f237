import itertools

import pytest
import torch
from torch import nn

from lit_unlearn.backbones import Custom
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import Projection, projection
from lit_unlearn.methods.projection import input_moments

ALPHA = {"retain": 0.5, "forget": 30.0}


def plain_network():
    torch.manual_seed(3)
    layers = [nn.Conv2d(1, 4, 3, padding="same"), nn.Tanh(), nn.Conv2d(4, 6, 3, stride=2, groups=2), nn.Tanh()]
    return Custom(nn.Sequential(*layers, nn.Flatten(), nn.Linear(54, 5), nn.Tanh(), nn.Linear(5, 4)), in_channels=1)


def mixed(columns, alpha):
    """M of inputs in the columns of a matrix, by their singular value decomposition."""
    directions, values, _ = torch.linalg.svd(columns, full_matrices=False)
    share = values**2 / (values**2).sum()
    return directions @ torch.diag(alpha * share / ((alpha - 1) * share + 1)) @ directions.T


def projected(weight, inputs):
    """A weight matrix after projection, from the inputs (d, n) of each set."""
    retain, forget = (mixed(inputs[part], ALPHA[part]) for part in ("retain", "forget"))
    matrix = torch.eye(len(forget), dtype=torch.float64) - (forget - forget @ retain)
    return (weight.flatten(1) @ matrix.T).view_as(weight)


def images_of(data, part):
    return (data.data.train_images[getattr(data.split, part)] / 255).double()


@torch.no_grad()
def expected_state(data):
    """The weights of the plain network after projection, layer after layer by hand."""
    network = plain_network().double().eval()
    seen = [{}, {}, {}, {}, {}]
    for part in ("retain", "forget"):
        x = network.normalise(images_of(data, part))
        first, second, third = (network.encoder[i] for i in (0, 2, 5))
        columns = nn.functional.unfold(x, 3, padding=1)
        seen[0][part] = columns.transpose(0, 1).flatten(1)
        x = first(x).tanh()
        columns = nn.functional.unfold(x, 3, stride=2).transpose(0, 1).flatten(1)
        seen[1][part], seen[2][part] = columns[:18], columns[18:]
        x = second(x).tanh().flatten(1)
        seen[3][part] = x.T
        seen[4][part] = third(x).tanh().T
    first.weight.copy_(projected(first.weight, seen[0]))
    second.weight[:3] = projected(second.weight[:3], seen[1])
    second.weight[3:] = projected(second.weight[3:], seen[2])
    third.weight.copy_(projected(third.weight, seen[3]))
    network.head.weight.copy_(projected(network.head.weight, seen[4]))
    return network.state_dict()


def test_every_weight_is_projected_at_once_from_the_inputs_of_the_original(fit, make_data):
    data = make_data()
    module = Projection(plain_network(), alpha_retain=ALPHA["retain"], alpha_forget=ALPHA["forget"])
    fit(module, data, precision="64-true")
    expected, before = expected_state(data), plain_network().double().state_dict()
    for name, value in module.backbone.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-9, msg=name)
        assert ((value - before[name]).norm() > 0.01 * before[name].norm()) == name.endswith("weight"), name


@pytest.mark.parametrize("chunk", [3, 128])
@pytest.mark.parametrize(("kernel", "stride", "size", "side"), [(2, 2, (9, 7), (6, 6)), (3, 1, (10, 8), (9, 8))])
def test_patches_come_from_one_window_of_all_images(monkeypatch, chunk, kernel, stride, size, side):
    monkeypatch.setattr(projection, "_CHUNK", chunk)
    torch.manual_seed(0)
    layer, images = nn.Conv2d(2, 2, kernel, stride, padding=1), torch.rand(7, 2, *size)
    ((name, found),) = input_moments(nn.Sequential(layer), ["0"], images, 10_000, "retain").items()
    fits = []
    for top, left in itertools.product(range(size[0] - side[0] + 1), range(size[1] - side[1] + 1)):
        window = images[:, :, top : top + side[0], left : left + side[1]]
        columns = nn.functional.unfold(window, kernel, padding=1, stride=stride).double()
        moment = columns.transpose(0, 1).flatten(1) @ columns.transpose(0, 1).flatten(1).T
        fits.append(torch.allclose(moment, found[0], rtol=0, atol=1e-9))
    assert (name, fits.count(True)) == ("0", 1)
    assert len(fits) > 1


def test_so_many_patches_are_drawn_whatever_the_passes_and_others_for_each_set(monkeypatch):
    layer = nn.Conv2d(1, 1, 1)
    images = torch.arange(20.0).view(20, 1, 1, 1).expand(20, 1, 3, 3) + torch.arange(9.0).view(3, 3) / 9
    found = {}
    for chunk, part in [(6, "retain"), (128, "retain"), (128, "forget")]:
        monkeypatch.setattr(projection, "_CHUNK", chunk)
        found[chunk, part] = float(input_moments(nn.Sequential(layer), ["0"], images, 30, part)["0"])
    monkeypatch.setattr(projection, "_CHUNK", 7)
    assert float(input_moments(nn.Sequential(layer), ["0"], torch.ones(20, 1, 3, 3), 30, "retain")["0"]) == 30
    assert found[6, "retain"] == pytest.approx(found[128, "retain"], rel=1e-12)
    assert found[128, "forget"] != pytest.approx(found[128, "retain"], rel=1e-3)


def test_linear_layers_see_every_token():
    layer, tokens = nn.Linear(4, 4), torch.rand(5, 3, 4, dtype=torch.float64)
    found = input_moments(nn.Sequential(layer).double(), ["0"], tokens, 2, "retain")["0"]
    torch.testing.assert_close(found[0], sum(torch.outer(x, x) for x in tokens.view(-1, 4)), rtol=0, atol=1e-12)


def test_few_samples_are_drawn_alike_from_each_retained_class(fit, make_backbone, make_data, monkeypatch):
    given = {}
    monkeypatch.setattr(projection, "input_moments", lambda *args: given.update({args[-1]: args[2]}) or {})
    data = make_data()
    fit(Projection(make_backbone(), samples=7), data, limit_val_batches=0)
    pairs = zip(data.data.train_images / 255, data.data.train_labels.tolist(), strict=True)
    known = {image.numpy().tobytes(): label for image, label in pairs}
    drawn = {part: sorted(known[image.numpy().tobytes()] for image in images) for part, images in given.items()}
    assert drawn["retain"] == [2, 2, 2, 3, 3, 3]
    assert len(drawn["forget"]) == 7
    assert set(drawn["forget"]) == {0, 1}


def test_it_forgets_and_keeps_the_rest(fit, make_backbone, make_data):
    module = Projection(make_backbone(), alpha_retain=100.0, alpha_forget=30.0)
    trainer = fit(module, make_data())
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert found["val/forget_acc"] < 0.6
    assert found["val/retain_acc"] > 0.8


def test_a_layer_without_inputs_and_what_the_user_froze_stay(fit, make_backbone, make_data, trained_state):
    backbone = make_backbone()
    backbone.encoder.stem.conv.weight.requires_grad_(False)
    with torch.no_grad():  # all inputs of the head are 0
        backbone.encoder.stage3[0].bn2.weight.zero_()
        backbone.encoder.stage3[0].bn2.bias.fill_(-1e6)
    module = Projection(backbone)
    fit(module, make_data())
    for name in ("encoder.stem.conv.weight", "head.weight"):
        assert torch.equal(module.backbone.state_dict()[name], trained_state[name]), name
    assert not torch.equal(backbone.encoder.stage1[0].conv1.weight, trained_state["encoder.stage1.0.conv1.weight"])


def test_networks_that_cannot_be_projected_are_refused(make_backbone):
    attention = nn.Sequential(nn.Flatten(), nn.TransformerEncoderLayer(64, 1, 8), nn.Linear(64, 4))
    with pytest.raises(UsageError, match="MultiheadAttention, whose weights are in neither"):
        Projection(Custom(attention, in_channels=1))
    backbone = make_backbone().requires_grad_(False)
    with pytest.raises(UsageError, match="no parameter of the network learns"):
        Projection(backbone)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"alpha_retain": 0.0}, "alpha_retain is 0.0"),
        ({"alpha_forget": float("nan")}, "alpha_forget is nan"),
        ({"samples": 0}, "samples is 0"),
        ({"max_patches": 0}, "max_patches is 0"),
    ],
)
def test_options_out_of_range(make_backbone, option, message):
    with pytest.raises(UsageError, match=message):
        Projection(make_backbone(), **option)
