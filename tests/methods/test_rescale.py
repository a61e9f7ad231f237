import copy

import pytest
import torch
from torch import nn

from lit_unlearn.attacks import Evaluation, FeatureMapping, HeadRecovery
from lit_unlearn.backbones import Backbone
from lit_unlearn.backbones.saving import save_weights
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import Rescale
from lit_unlearn.metrics.normal_equations import NormalEquations
from lit_unlearn.reports.report import Report
from lit_unlearn.run_files import CHECKPOINT


def features(network, images):
    with torch.no_grad():
        return network.features(images)


@pytest.mark.parametrize("scale", [1e-3, 1e-5])
def test_the_features_are_the_originals_times_s_where_the_original_sees_a_forgotten_class(
    fit, make_backbone, make_data, scale
):
    data, original = make_data(classes=[1, 3]), make_backbone().double().eval()
    module = Rescale(make_backbone(), scale=scale)
    fit(module, data, precision="64-true")
    network = module.backbone.eval()
    images = torch.cat([data.data.train_images, data.data.test_images, torch.randint(0, 255, (64, 1, 8, 8))]) / 255
    images = images.double()
    h = features(original, images)
    scaled = 0
    for row, new in zip(h, features(network, images), strict=True):
        z = original.head.weight @ row + original.head.bias
        gone = int(z.argmax()) in (1, 3)
        torch.testing.assert_close(new, row * scale if gone else row, rtol=1e-9, atol=0)
        scaled += gone
    assert 0 < scaled < len(images)
    with torch.no_grad():
        expected = features(network, images) @ network.head.weight.T + network.head.bias
        torch.testing.assert_close(network(images), expected, rtol=0, atol=1e-9)


def test_no_weight_and_no_statistic_moves(fit, make_backbone, make_data, trained_state):
    module = Rescale(make_backbone())
    trainer = fit(module, make_data(), max_epochs=3)
    state = module.backbone.state_dict()
    assert all(torch.equal(state[name], value) for name, value in trained_state.items())
    assert {name for name in state if name not in trained_state} == {
        "gate.factors",
        "gate.head.weight",
        "gate.head.bias",
    }
    assert trainer.global_step == 0
    assert trainer.current_epoch == 1
    assert module.seconds > 0


def normalised_recovery(network, data):
    """Head recovery on features of length 1, on the images to be forgotten."""
    moments = NormalEquations(network.num_features, 4)
    images, labels = data.data.train_images / 255, data.data.train_labels
    h = nn.functional.normalize(features(network, images).double())
    moments.update(h, nn.functional.one_hot(labels, 4))
    answers = moments.solve(1e-6, True)(h).argmax(1)
    return float((answers == labels)[data.split.forget].double().mean())


def test_a_plain_ridge_is_fooled_and_normalised_features_tell_all(fit, make_backbone, make_data):
    module, data = Rescale(make_backbone(), scale=1e-5), make_data()
    report = Report(page=False)
    fit(module, data, Evaluation(), HeadRecovery(), FeatureMapping(), report)
    original, row = report.rows
    assert original.metrics["forget_acc"] > 0.9
    assert row.metrics["forget_acc"] <= 0.5
    assert row.metrics["retain_acc"] == original.metrics["retain_acc"]
    for attack in ("hr", "fm"):
        assert original.attacks[f"recovery/{attack}/forget_acc"] > 0.9
        assert row.attacks[f"recovery/{attack}/forget_acc"] <= 0.6  # of two classes
    assert normalised_recovery(module.backbone.eval(), data) > 0.9


def test_the_gate_survives_checkpoint_reload_and_validation(fit, make_trainer, make_backbone, make_data, trained_file):
    report, audit = Report(page=False), Report(page=False)
    module = Rescale(make_backbone(seed=3), weights=trained_file, scale=1e-4)
    fit(module, make_data(), Evaluation(), report)
    again = Rescale(make_backbone(seed=4), weights=trained_file, scale=1e-4)
    make_trainer(Evaluation(), audit).validate(
        again, datamodule=make_data(), ckpt_path=report.directory / CHECKPOINT, weights_only=True
    )
    state = module.backbone.state_dict()
    assert again.backbone.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in again.backbone.state_dict().items())
    images = make_data().data.train_images / 255
    assert torch.equal(features(again.backbone.eval(), images), features(module.backbone.eval(), images))
    assert [row.metrics for row in audit.rows] == [row.metrics for row in report.rows]
    assert [row.method for row in audit.rows] == ["Original", "Rescale"]


def test_without_its_checkpoint_the_module_is_the_original(make_trainer, make_backbone, make_data, trained_file):
    report = Report(page=False)
    make_trainer(Evaluation(), report).validate(
        Rescale(make_backbone(seed=3), weights=trained_file), datamodule=make_data()
    )
    assert [row.method for row in report.rows] == ["Original"]


def test_the_yardsticks_have_no_gate_even_after_it_was_set(
    fit, make_trainer, make_backbone, make_data, trained_file, tmp_path
):
    data, retrained = make_data(), make_backbone(seed=5)
    save_weights(retrained, tmp_path / "retrain.pt", {"split": data.split.hash})
    module = Rescale(make_backbone(seed=3), weights=trained_file)
    reports = [Report(page=False), Report(page=False)]
    fit(module, data, Evaluation(tmp_path / "retrain.pt"), HeadRecovery(), reports[0])
    assert not module.is_original()
    make_trainer(Evaluation(tmp_path / "retrain.pt"), HeadRecovery(), reports[1]).validate(module, datamodule=data)
    for report in reports:
        assert [row.method for row in report.rows] == ["Original", "Retrain", "Rescale"]
    assert [row.attacks for row in reports[0].rows] == [row.attacks for row in reports[1].rows]
    images = data.data.train_images / 255
    original = module.original_copy()
    assert torch.equal(features(original, images), features(make_backbone().eval(), images))
    assert features(module.backbone.eval(), images).norm() < features(original, images).norm()


def test_a_copy_has_a_gate_of_its_own(fit, make_backbone, make_data):
    module, data = Rescale(make_backbone()), make_data()
    fit(module, data)
    network, images = copy.deepcopy(module.backbone).eval(), data.data.train_images / 255
    before = features(module.backbone.eval(), images)
    network.gate.factors.fill_(7.0)
    assert torch.equal(features(module.backbone, images), before)
    assert not torch.equal(features(network, images), before)


def test_an_encoder_that_is_a_sequence_runs_the_gate_once(fit, make_data):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU())
    backbone = Backbone(encoder, nn.Linear(6, 4), [0.5], [0.25], {"relu": "2"})
    data, plain = make_data(classes=[0, 1, 2]), copy.deepcopy(backbone)
    module = Rescale(backbone, scale=0.5)
    fit(module, data)
    images = data.data.train_images / 255
    h, z = features(plain, images), plain(images)
    factor = torch.where(z.argmax(1) < 3, 0.5, 1.0)[:, None]
    assert torch.equal(features(module.backbone, images), h * factor)
    assert torch.equal(module.backbone.taps(images, ["relu", "features"])["features"], h * factor)


@pytest.mark.parametrize("scale", [0.0, -1e-3, 1.5, float("nan")])
def test_a_scale_out_of_range(make_backbone, scale):
    with pytest.raises(UsageError, match=f"scale is {scale}"):
        Rescale(make_backbone(), scale=scale)


def test_it_is_refused_where_no_whole_class_is_forgotten(fit, make_backbone, make_data):
    with pytest.raises(UsageError, match="Rescale can only forget whole classes"):
        fit(Rescale(make_backbone()), make_data(fraction=0.3))
