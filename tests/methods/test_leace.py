import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot

from lit_unlearn.attacks import Evaluation
from lit_unlearn.backbones import Backbone, Custom
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import LEACE
from lit_unlearn.methods.leace import Moments, by_position, concept, erased_places, eraser, set_eraser, shrunk
from lit_unlearn.reports.report import Report
from lit_unlearn.run_files import CHECKPOINT

PLACES = ("stem", "stage1", "stage2", "stage3", "features")


class Alone:
    """One process."""

    def reduce(self, value, reduce_op):
        assert reduce_op == "sum"
        return value


def fitted(vectors, concepts, tolerance=0.01):
    moments = Moments()
    moments.add(vectors, concepts)
    return eraser(moments.sums(Alone()), tolerance)


def power(matrix, exponent):
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values**exponent) @ vectors.T


def by_hand(x, z, tolerance=0.01):
    """The map of vectors (n, C) and concepts (n, K), from the formula."""
    n, size = x.shape
    mean = x.mean(0)
    s = (x - mean).T @ (x - mean) / n
    keep = 1 - s.trace() ** 4 / size / n / ((s**2).sum() * s.trace() ** 2 / size - (s.trace() ** 2 / size) ** 2)
    s = keep * s + (1 - keep) * s.trace() / size * torch.eye(size).double()
    cross = power(s, -0.5) @ ((x - mean).T @ (z - z.mean(0)) / (n - 1))
    values, vectors = torch.linalg.eigh(cross @ cross.T)
    u = vectors[:, values > tolerance**2]
    removed = power(s, 0.5) @ u @ u.T @ power(s, -0.5)
    return torch.eye(size).double() - removed, removed @ mean


def images_and_concepts(data):
    """All training images, and a column for each of the two forgotten classes."""
    return data.data.train_images / 255, one_hot(data.data.train_labels, 4)[:, :2]


def unexplained(x, z):
    """Of the variance of z, the share that the best affine map of x leaves."""
    x, z = (each.double() - each.double().mean(0) for each in (x, z))
    return float((z - x @ (torch.linalg.pinv(x, rtol=1e-6) @ z)).square().sum() / z.square().sum())


def test_each_stage_is_erased_after_those_before(fit, make_backbone, make_data):
    module, data = LEACE(make_backbone()), make_data()
    fit(module, data, precision="64-true")
    network = make_backbone().double().eval().requires_grad_(False)
    images, z = images_and_concepts(data)
    x = network.normalise(images.double())
    for name in PLACES[:-1]:
        x = network.encoder.get_submodule(name)(x)
        rows = x.permute(0, 2, 3, 1)
        weight, bias = by_hand(rows.reshape(-1, x.shape[1]), z.double().repeat_interleave(x[0, 0].numel(), 0))
        place = module.backbone.stage(name)
        torch.testing.assert_close(place.eraser_weight, weight, rtol=0, atol=1e-6)
        torch.testing.assert_close(place.eraser_bias, bias, rtol=0, atol=1e-6)
        assert 1 <= torch.linalg.matrix_rank(torch.eye(len(bias)) - weight, rtol=1e-6) <= 2
        x = (rows @ weight.T + bias).permute(0, 3, 1, 2)
    assert torch.equal(module.backbone.encoder.eraser_weight, torch.eye(16).double())  # the last stage's mean
    torch.testing.assert_close(module.frozen_copy()(images.double()), network.head(x.mean((2, 3))), rtol=0, atol=1e-6)
    for name, value in module.backbone.named_parameters():
        assert torch.equal(value, network.get_parameter(name)), name


@pytest.mark.parametrize("forget", [{"classes": [0, 1]}, {"fraction": 0.4}])
def test_no_linear_readout_of_a_stage_tells_what_is_forgotten(fit, make_backbone, make_data, forget):
    module, data = LEACE(make_backbone(), tolerance=1e-4), make_data(**forget)
    fit(module, data)
    images, z = images_and_concepts(data)
    if "fraction" in forget:
        z = torch.isin(torch.arange(len(z)), data.split.forget)[:, None]
    before = make_backbone().eval().requires_grad_(False).taps(images, PLACES)
    after = module.frozen_copy().taps(images, PLACES)
    for name in PLACES:
        assert unexplained(after[name], z) > 0.999, name
        assert unexplained(before[name], z) < 0.98, name
    assert unexplained(before["features"], z) < 0.9


def test_a_nonlinear_readout_still_does():
    torch.manual_seed(0)
    z = (torch.arange(2000) % 2)[:, None]
    x = torch.randn(2000, 3).double() * (1 + 2 * z) + 4 * z
    weight, bias = fitted(x[:, None], z)
    erased = x @ weight.T + bias
    assert unexplained(x, z) < 0.6
    assert unexplained(erased, z) == pytest.approx(1, abs=1e-9)
    assert unexplained(torch.cat([erased, erased**2], 1), z) < 0.8
    assert torch.linalg.matrix_rank(torch.eye(3) - weight, rtol=1e-6) == 1
    torch.testing.assert_close(erased.mean(0), x.mean(0))


def test_what_correlates_less_than_the_tolerance_stays():
    torch.manual_seed(0)
    z = (torch.arange(1000) % 2)[:, None]
    x = torch.randn(1000, 3).double() + 0.2 * z
    assert not torch.equal(fitted(x[:, None], z, 0.01)[0], torch.eye(3).double())
    weight, bias = fitted(x[:, None], z, 0.3)
    assert torch.equal(weight, torch.eye(3).double())
    assert torch.equal(bias, torch.zeros(3).double())


@pytest.mark.parametrize("channels", [1, 4])
def test_what_never_varies_leaves_no_nan(channels):
    weight, bias = fitted(torch.full((6, 2, channels), 3.0), torch.eye(6)[:, :2])
    torch.testing.assert_close(weight, torch.eye(channels).double())
    torch.testing.assert_close(bias, torch.zeros(channels).double())


def test_few_samples_count_for_less_and_never_below_nothing():
    torch.manual_seed(0)
    x = torch.randn(4, 30).double()
    found = shrunk(x.T @ x / 4, torch.tensor(4.0))
    assert float(found.trace()) == pytest.approx(float((x**2).sum() / 4))
    assert torch.linalg.eigvalsh(found).min() > 0
    assert torch.equal(shrunk(torch.eye(1).double() * 3, torch.tensor(9.0)), torch.eye(1).double() * 3)


def test_concepts_are_the_forgotten_classes_and_the_rest():
    labels = torch.tensor([2, 0, 1, 2])
    assert concept(labels, (0, 2), True).int().tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert concept(labels, (), True).int().tolist() == [[1]] * 4
    assert not concept(labels, (0, 2), False).any()


@pytest.mark.parametrize(
    ("shape", "last"), [((5, 3, 2, 4), False), ((5, 2, 4, 3), True), ((5, 7, 3), False), ((5, 3), False)]
)
def test_the_map_acts_on_the_channels_of_every_kind_of_stage(shape, last):
    torch.manual_seed(0)
    module, x, weight, bias = nn.Identity(), torch.randn(shape), torch.randn(3, 3), torch.randn(3)
    set_eraser(module, weight, bias, last)
    found = by_position(module(x), last)
    torch.testing.assert_close(found, by_position(x, last) @ weight.T + bias)
    assert found.shape == (5, x[0].numel() // 3, 3)


def test_rounding_of_mixed_precision_leaves_no_traces():
    module, x = nn.Identity(), torch.randn(8, 3, 2, 2).bfloat16()
    set_eraser(module, torch.eye(3) - torch.ones(3, 3) / 3, torch.zeros(3), False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert module(x).sum(1).abs().max() < 1e-6
    assert module.bfloat16()(x).dtype == torch.bfloat16


def test_a_checkpoint_a_copy_and_the_original_have_maps_of_their_own_or_none(
    fit, make_trainer, make_backbone, make_data, trained_file
):
    module, data, report = LEACE(make_backbone(seed=3), weights=trained_file), make_data(), Report(page=False)
    assert module.is_original()
    assert module.architecture_change() is None
    fit(module, data, Evaluation(), report)
    assert not module.is_original()
    assert "affine map behind each stage" in module.architecture_change()
    images = data.data.train_images / 255
    with torch.no_grad():
        answers, plain = module.backbone.eval()(images), make_backbone().eval()(images)
        assert not torch.allclose(answers, plain)
        assert torch.equal(module.original_copy()(images), plain)
        assert torch.equal(module.unwrapped_copy()(images), plain)
        again = LEACE(make_backbone(seed=4), weights=trained_file)
        for _ in range(2):  # the second time over maps that are there
            make_trainer().validate(again, datamodule=data, ckpt_path=report.directory / CHECKPOINT, weights_only=True)
            assert torch.equal(again.backbone.eval()(images), answers)
        other = copy.deepcopy(module.backbone)
        other.encoder.stem.eraser_weight.zero_()
        assert torch.equal(module.backbone(images), answers)
        assert not torch.allclose(other(images), answers)
    again.load_saved_state({})
    assert again.is_original()


def test_saved_weights_have_the_maps_under_the_names_of_the_users_own_network(fit, make_data, tmp_path):
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4)
    own, data = nn.Sequential(*layers), make_data()
    images = data.data.train_images / 255
    module = LEACE(Custom(copy.deepcopy(own), in_channels=1, mean=[0.0], std=[1.0]))
    fit(module, data)
    said = module.save_network(tmp_path / "own.pt")
    assert said["change"] == module.architecture_change()
    state = torch.load(tmp_path / "own.pt", weights_only=True)
    maps = {name.rpartition(".")[0] for name in state.keys() - own.state_dict().keys()}
    assert maps == {"0", "2", ""}
    with torch.no_grad():
        x = images
        for name, layer in own.named_children():
            if name == "5":
                x = x @ state["eraser_weight"].T + state["eraser_bias"]
            x = layer(x)
            if name in maps:
                x = torch.einsum("oc,bchw->bohw", state[f"{name}.eraser_weight"], x)
                x = x + state[f"{name}.eraser_bias"][:, None, None]
        torch.testing.assert_close(x, module.backbone.eval()(images), rtol=0, atol=1e-5)


def test_a_stage_that_gives_no_tensor_is_refused_before_anything_is_written(fit, make_data, tmp_path, monkeypatch):
    class Two(nn.Module):
        def forward(self, x):
            return x, x

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.two, self.flat = Two(), nn.Flatten()

        def forward(self, x):
            return self.flat(self.two(x)[0])

    monkeypatch.chdir(tmp_path)
    module = LEACE(Backbone(Net(), nn.Linear(64, 4), [0.5], [0.25], {"two": "two"}))
    with pytest.raises(UsageError, match="the stage 'two' gives a tuple"):
        fit(module, make_data())
    assert not list(tmp_path.iterdir())
    assert list(erased_places(module.backbone)) == ["two", "features"]


def test_a_tolerance_out_of_range(make_backbone):
    with pytest.raises(UsageError, match=r"tolerance is -0\.1"):
        LEACE(make_backbone(), tolerance=-0.1)


def test_how_many_directions_are_erased_is_said_and_none_is_warned_of(fit, make_backbone, make_data, caplog):
    with caplog.at_level("INFO"):
        fit(LEACE(make_backbone(), tolerance=1e-4), make_data())
    text = next(record.getMessage() for record in caplog.records if "LEACE erases directions" in record.getMessage())
    places = [*make_backbone().stages, "features"]
    counts = {part.split()[0]: int(part.split()[1]) for part in text.partition(": ")[2].split(", ")}
    assert list(counts) == places
    assert counts["stem"] >= 1
    assert max(counts.values()) <= 3, "as many as there are forgotten classes, and what is forgotten else"
    with pytest.warns(UserWarning, match=r"LEACE erases nothing: all singular values lie within tolerance 10"):
        fit(LEACE(make_backbone(), tolerance=10.0), make_data())
