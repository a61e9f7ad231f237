import copy
import math
from dataclasses import replace

import pytest
import torch
from attacked import Keeps, attacked
from torch import nn
from torchvision.models import VisionTransformer

from lit_unlearn.artifacts import ImageGrid
from lit_unlearn.attacks import Evaluation, GradientInversion
from lit_unlearn.attacks.images import draw
from lit_unlearn.attacks.inversion.gradient_inversion import removed
from lit_unlearn.attacks.inversion.gradient_matching import GradientMatching
from lit_unlearn.attacks.inversion.reconstruction import mean_colour, psnr
from lit_unlearn.attacks.inversion.search import InversionProblem, InversionSearch
from lit_unlearn.attacks.shared import Shared
from lit_unlearn.backbones import Backbone, Custom, ResNet8, Torchvision, load_weights
from lit_unlearn.data import Digits
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import FineTune

NUMBERS = {"mse", "psnr", "ssim", "psnr_floor", "distance", "gradient_norm"}


def small(seed=0, classes=5, activation=nn.Sigmoid):
    """A convolution, as small as they come, that is easy to invert."""
    torch.manual_seed(seed)
    encoder = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), activation(), nn.Flatten())
    return Backbone(encoder, nn.Linear(8 * 16, classes), [0.5], [0.25], {}).eval()


def linear(bias=True):
    torch.manual_seed(0)
    return Backbone(nn.Flatten(), nn.Linear(64, 5, bias=bias), [0.0], [1.0], {})


@pytest.fixture(scope="module")
def digits():
    data = Digits().load()
    images, labels = data.train_images.float() / 255, data.train_labels
    kept = (labels < 5).nonzero()[:, 0]
    return {"forget": (images[kept[:30]], labels[kept[:30]]), "retain": (images[kept[30:60]], labels[kept[30:60]])}


def ascended(net, images, labels, rate=0.1, steps=1):
    """The network after steps of gradient ascent."""
    net = copy.deepcopy(net).eval().requires_grad_(True)
    for _ in range(steps):
        gradients = torch.autograd.grad(nn.functional.cross_entropy(net(images), labels), list(net.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(net.parameters(), gradients, strict=True):
                parameter += rate * gradient
    return net


def quick(gradient="oracle", **options):
    return GradientInversion(gradient, **{"images": 2, "steps": 100, "engine": "loop"} | options)


def test_the_oracle_beats_the_floor_by_far(make_target, digits):
    net = small()
    found = quick(images=8, steps=200, engine="vmap").evaluate(make_target(net, net, **digits)).numbers
    assert found.keys() == NUMBERS
    assert found["psnr"] > found["psnr_floor"] + 6
    assert found["ssim"] > 0.8
    assert found["distance"] < 0.05


def test_a_trained_residual_network_is_inverted_as_well(make_target, digits):
    net = ResNet8(num_classes=10, in_channels=1)
    load_weights(net, "digits_resnet8")
    found = quick().evaluate(make_target(net, net, **digits)).numbers
    assert found["psnr"] > found["psnr_floor"] + 5


def test_the_gradient_of_another_network_does_not_beat_the_floor(digits):
    images, labels = (part[:4] for part in digits["forget"])
    mine, other = GradientMatching(small()), GradientMatching(small(seed=7))
    targets, _ = other.gradients(images, labels)
    search = quick().search
    problem = InversionProblem(
        labels[:, None], torch.ones(1), lambda index: {name: one[index] for name, one in targets.items()}
    )
    found = search(mine, problem, images.shape[1:])
    assert float(psnr(found.images, images).mean()) < float(psnr(mean_colour(images), images).mean()) + 1


def test_a_step_of_ascent_on_one_image_gives_it_away(make_target, digits):
    one = {"forget": tuple(part[:1] for part in digits["forget"]), "retain": digits["retain"]}
    net = small()
    target = make_target(ascended(net, *one["forget"]), net, **one)
    found = quick("delta", steps=120, labels="inferred").evaluate(target).numbers
    assert found.keys() == NUMBERS | {"cosine", "label_acc"}
    assert found["cosine"] == pytest.approx(-1, abs=1e-4)
    assert found["label_acc"] == 1
    assert found["psnr"] > found["psnr_floor"] + 6


def test_a_step_of_descent_is_found_by_the_other_sign(make_target, digits):
    one = {"forget": tuple(part[:1] for part in digits["forget"])}
    net = small()
    found = (
        quick("delta", steps=120).evaluate(make_target(ascended(net, *one["forget"], rate=-0.1), net, **one)).numbers
    )
    assert found["cosine"] == pytest.approx(1, abs=1e-4)
    assert found["psnr"] > found["psnr_floor"] + 6


def test_unrelated_weights_give_nothing_away(make_target, digits):
    net = small()
    moved = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    found = quick("delta").evaluate(make_target(moved, net, **digits)).numbers
    assert abs(found["cosine"]) < 0.2
    assert found["psnr"] < found["psnr_floor"] + 1


@pytest.mark.parametrize("at", ["original", "unlearned"])
def test_without_a_difference_the_delta_is_undefined_and_the_report_says_so(make_target, digits, at):
    net = small()
    attack = quick("delta", at=at)
    seen = attacked(attack, make_target(net, net, **digits))
    assert seen.attacks == {"inversion/delta/gradient_norm": 0.0}
    assert "undefined: inversion/delta/mse" in seen.skipped[attack.title]
    assert seen.artifacts == {}


def test_labels_cannot_be_inferred_from_a_head_that_has_not_moved(make_target, digits):
    net = small()
    moved = copy.deepcopy(net)
    with torch.no_grad():
        moved.encoder[0].weight += 0.1
    found = quick("delta", labels="inferred").evaluate(make_target(moved, net, **digits)).numbers
    assert math.isnan(found["psnr"])
    assert math.isnan(found["label_acc"])
    assert found["gradient_norm"] > 0
    assert math.isfinite(quick("delta", steps=2).evaluate(make_target(moved, net, **digits)).numbers["psnr"])


def test_the_difference_is_of_parameters_that_both_have_in_double_precision():
    net, other = small(), small(classes=6)
    other.load_state_dict({name: value for name, value in net.state_dict().items() if "head" not in name}, strict=False)
    with torch.no_grad():
        other.encoder[0].weight += 1e-3
        other.encoder[1].running_mean += 5
    other.register_parameter("extra", nn.Parameter(torch.ones(2)))
    found = removed(net, other)
    assert set(found) == {"encoder.0.weight", "encoder.0.bias", "encoder.1.weight", "encoder.1.bias"}
    assert all(value.dtype == torch.float64 for value in found.values())
    torch.testing.assert_close(found["encoder.0.weight"], torch.full((8, 1, 3, 3), -1e-3).double(), rtol=1e-4, atol=0)
    assert not found["encoder.1.bias"].any()


@pytest.fixture
def searched(monkeypatch):
    """Every search that is begun from here on."""
    begun = []
    search = InversionSearch.__call__
    monkeypatch.setattr(InversionSearch, "__call__", lambda self, *args: begun.append(self) or search(self, *args))
    return begun


def test_the_oracle_is_of_the_original_and_searched_for_once_in_a_run_and_once_for_all_with_a_folder(
    make_target, digits, searched, tmp_path
):
    net = small()
    first, second = make_target(net, net, **digits), make_target(small(seed=3), None, **digits)
    second = type(second)(second.model, first.original, second.data, 5)

    def run(shared):
        return [attacked(quick(steps=5), replace(target, shared=shared)) for target in (first, second)]

    seen = [*run(Shared(tmp_path / "cache")), *run(Shared(tmp_path / "cache"))]
    assert len(searched) == 1
    seen += run(Shared())
    assert len(searched) == 2
    assert all(each.attacks == seen[0].attacks for each in seen)
    assert all(each.artifacts.keys() == {"inversion/oracle/images"} for each in seen)


@pytest.mark.parametrize("change", ["weights", "statistics", "images", "labels", "options", "precision"])
def test_an_upper_bound_of_anything_else_is_searched_for_anew(make_target, digits, searched, monkeypatch, change):
    net, other = small(seed=5), small(seed=5)
    with torch.no_grad():
        if change == "weights":
            other.encoder[0].weight[0, 0, 0, 0] += 1e-3
        if change == "statistics":
            other.encoder[1].running_mean[0] += 1e-3
    shared = Shared()
    quick(steps=3).evaluate(replace(make_target(net, net, **digits), shared=shared))
    if change == "labels":
        images, labels = digits["forget"]
        digits = digits | {"forget": (images, (labels + 1) % 5)}
    if change == "precision":
        monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    attack = quick(steps=4 if change == "options" else 3, images=3 if change == "images" else 2)
    attack.evaluate(replace(make_target(other, other, **digits), shared=shared))
    assert len(searched) == 2


def test_the_place_of_the_gradient(make_target, digits):
    net, other = small(), small(seed=3)
    found = {
        at: quick(at=at, steps=2).evaluate(make_target(other, net, **digits)).numbers
        for at in ("original", "unlearned")
    }
    alone = quick(at="unlearned", steps=2).evaluate(make_target(other, None, **digits)).numbers
    assert found["unlearned"] == alone
    assert found["original"]["gradient_norm"] != found["unlearned"]["gradient_norm"]


@pytest.mark.parametrize("gradient", ["oracle", "delta"])
def test_parameters_that_are_integers_have_no_gradient(make_target, digits, gradient):
    found = []
    for places in (None, nn.Parameter(torch.arange(3), requires_grad=False)):
        net, other = small(), small(seed=3)
        for network in (net, other):
            network.encoder.places = places
        found.append(quick(gradient, steps=2).evaluate(make_target(other, net, **digits)).numbers)
    assert found[0] == pytest.approx(found[1], nan_ok=True)


def test_who_needs_the_original():
    assert quick("delta").needs_original
    assert quick("delta", at="unlearned").needs_original
    assert quick("oracle").needs_original
    assert not quick("oracle", at="unlearned").needs_original
    assert not GradientInversion.needs_original


def test_softmax_regression_warm_starts_at_the_image(make_target, digits):
    net = linear()
    cold, warm = (
        quick(steps=100, tv=0.0, warm_start=warm, labels="inferred").evaluate(make_target(net, net, **digits)).numbers
        for warm in (False, True)
    )
    assert warm["label_acc"] == cold["label_acc"] == 1
    assert warm["psnr"] > 40
    assert warm["psnr"] > cold["psnr"]


def test_a_warm_start_without_a_bias_is_refused(make_target, digits):
    net = linear(bias=False)
    with pytest.raises(UsageError, match="warm_start needs a head with a bias"):
        quick(warm_start=True).evaluate(make_target(net, net, **digits))
    assert quick(steps=2, labels="inferred").evaluate(make_target(net, net, **digits)).numbers["label_acc"] == 1


def test_neither_chunks_nor_engines_change_what_is_searched(make_target, digits):
    net = small().double().float()
    # Few steps, since signs of slopes near 0 are a matter of rounding.
    found = [
        quick(steps=3, restarts=2, **options).evaluate(make_target(net, net, **digits)).numbers
        for options in ({}, {"chunk": 3}, {"engine": "loop"}, {"engine": "two_pass"}, {"engine": "auto"})
    ]
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-2)


def test_restarts_keep_the_nearest(make_target, digits):
    net = small()
    found = [
        quick(steps=20, restarts=restarts).evaluate(make_target(net, net, **digits)).numbers for restarts in (1, 4)
    ]
    assert found[1]["distance"] < found[0]["distance"]


def test_a_seed_makes_it_again_and_another_does_not(make_target, digits):
    net = small()
    torch.manual_seed(1)
    first = quick(steps=20).evaluate(make_target(net, net, **digits)).numbers
    torch.manual_seed(2)
    assert quick(steps=20).evaluate(make_target(net, net, **digits)).numbers == first
    assert quick(steps=20, seed=1).evaluate(make_target(net, net, **digits)).numbers != first


def test_images_are_drawn_by_seed_without_replacement(make_target, digits):
    target = make_target(small(), None, **digits)
    images, labels = draw(target, "forget", 12, seed=3)
    where = [next(k for k, other in enumerate(digits["forget"][0]) if torch.equal(one, other)) for one in images]
    assert len(set(where)) == 12
    assert where == sorted(where)
    assert torch.equal(labels, digits["forget"][1][where])
    assert not torch.equal(images, draw(target, "forget", 12, seed=4)[0])
    assert len(draw(target, "forget", 500, seed=3)[0]) == 30


def test_the_grid_shows_images_beside_their_reconstructions(make_target, digits):
    net = small()
    attack = quick(images=20, steps=2)
    result = attack.evaluate(make_target(net, net, **digits))
    found, grid = result.numbers, result.artifacts["images"]
    assert isinstance(grid, ImageGrid)
    assert grid.images.shape == (2, 16, 1, 8, 8)
    assert list(grid.rows) == ["image", "reconstruction"]
    images, labels = draw(make_target(net, net, **digits), "forget", 20, seed=0)
    assert torch.equal(grid.images[0], images[:16])
    assert list(grid.captions[0]) == [f"kind {label}" for label in labels[:16].tolist()]
    assert list(grid.captions[1]) == [f"{one:.1f} dB" for one in psnr(grid.images[1], grid.images[0]).tolist()]
    assert found["psnr_floor"] == pytest.approx(float(psnr(mean_colour(images), images).mean()))


def test_a_network_of_torchvision_with_activations_in_place(make_target):
    noise = torch.Generator().manual_seed(5)
    forget = torch.rand(2, 3, 32, 32, generator=noise), torch.tensor([0, 1])
    torch.manual_seed(0)
    net = Torchvision("resnet18", num_classes=4)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for engine in ("vmap", "two_pass", "loop"):
        found = quick(images=2, steps=1, engine=engine).evaluate(make_target(net, net, forget=forget)).numbers
        assert 0 < found["distance"] < 2
    assert net.encoder.relu.inplace
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_transformer(make_target):
    options = {"image_size": 16, "patch_size": 8, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 8}
    torch.manual_seed(0)
    net = Custom(VisionTransformer(**options, num_classes=4))
    with torch.no_grad():
        net.head.weight.normal_()
    forget = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(5)), torch.tensor([0, 1])
    found = [
        quick(images=2, steps=2, engine=engine).evaluate(make_target(net, net, forget=forget)).numbers
        for engine in ("loop", "auto")
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_in_a_run_every_subject_has_its_numbers(make_backbone, make_data, make_trainer, tmp_path):
    keeps = Keeps()
    delta, oracle = (quick(gradient, steps=3, images=3) for gradient in ("delta", "oracle"))
    module = FineTune(make_backbone())
    trainer = make_trainer(Evaluation(), delta, oracle, keeps)
    trainer.fit(module, datamodule=make_data())
    models = keeps.results.models
    assert set(models) == {"original", "unlearned"}
    found = {
        (subject, attack): {n: v for n, v in models[subject].attacks.items() if n.startswith(attack.title)}
        for subject in models
        for attack in (delta, oracle)
    }
    assert set(found["unlearned", delta]) == {f"inversion/delta/{name}" for name in (*NUMBERS, "cosine")}
    assert set(found["original", delta]) == {"inversion/delta/gradient_norm"}
    assert set(found["original", oracle]) == {f"inversion/oracle/{name}" for name in NUMBERS}
    assert found["original", oracle] == found["unlearned", oracle]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"gradient": "detla"}, "unknown gradient 'detla'; did you mean 'delta'"),
        ({"at": "retrain"}, "unknown place of the gradient 'retrain'.*allowed: original, unlearned"),
        ({"labels": "guessed"}, "unknown kind of labels 'guessed'.*allowed: inferred, known"),
        ({"engine": "fast"}, "unknown engine 'fast'"),
        ({"images": 0}, "images is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"restarts": 0}, "restarts is 0"),
        ({"chunk": 0}, "chunk is 0"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"tv": -1.0}, "tv is -1.0"),
        ({"tv": math.nan}, "tv is nan"),
        ({"compile": True, "engine": "loop"}, "compile is for engine vmap or auto, but engine is loop"),
    ],
)
def test_options_out_of_range(option, message):
    with pytest.raises(UsageError, match=message):
        GradientInversion(**option)
