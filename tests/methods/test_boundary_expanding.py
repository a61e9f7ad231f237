import math

import pytest
import torch
from torch import nn

from lit_unlearn.attacks import Evaluation, FeatureMapping, HeadRecovery
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import BoundaryExpanding, FineTune
from lit_unlearn.reports.report import Report
from lit_unlearn.run_files import CHECKPOINT
from lit_unlearn.seed import generator

LR, MOMENTUM, DECAY = 0.05, 0.9, 0.01


def widened(network):
    """The network in float64 with one more row in its head, as the authors start it."""
    head, width = network.head, network.head.in_features
    row = torch.randn(1, width, generator=generator(0, "unit")) * math.sqrt(2 / (width + 4 + 1))
    network.head = nn.Linear(width, 5)
    with torch.no_grad():
        network.head.weight.copy_(torch.cat([head.weight, row.to(head.weight)]))
        network.head.bias.copy_(torch.cat([head.bias, torch.zeros(1)]))
    return network.double().train()


@pytest.mark.parametrize("keep", [False, True])
def test_two_epochs_follow_a_head_with_one_more_row(fit, make_backbone, make_data, sgd, recorder, keep):
    module = BoundaryExpanding(make_backbone(), optimizer=sgd, keep_unit=keep)
    fit(module, make_data(), recorder, precision="64-true", max_epochs=2, limit_val_batches=0)
    assert len(recorder.batches) == 6
    plain = widened(make_backbone())
    speed = {name: torch.zeros_like(p) for name, p in plain.named_parameters()}
    for batch in recorder.batches:
        ((part, (images, labels)),) = batch.items()
        assert part == "forget"
        assert set(labels.tolist()) <= {0, 1}
        plain.zero_grad()
        torch.log_softmax(plain(images), 1)[:, 4].mean().neg().backward()
        with torch.no_grad():
            for name, p in plain.named_parameters():
                speed[name] = MOMENTUM * speed[name] + p.grad + DECAY * p
                p -= LR * speed[name]
    state, outputs = module.backbone.state_dict(), 5 if keep else 4
    for name, value in plain.state_dict().items():
        expected = value[:outputs] if name.startswith("head.") else value
        torch.testing.assert_close(state[name], expected, rtol=0, atol=1e-9, msg=name)
    assert (plain.head.weight - widened(make_backbone()).head.weight).abs().amin(1).min() > 1e-4  # every row learnt
    assert module.backbone.num_classes == outputs
    with torch.no_grad():
        assert module(images).shape == (len(images), outputs)


def test_a_head_without_bias_gets_a_unit_without_bias(fit, make_backbone, make_data):
    for keep in (False, True):
        backbone = make_backbone()
        backbone.head = nn.Linear(backbone.num_features, 4, bias=False)
        module = BoundaryExpanding(backbone, keep_unit=keep)
        assert not any("bias" in name for name in module.state_dict() if name.startswith(("unit", "backbone.head")))
        fit(module, make_data())


@pytest.mark.parametrize("keep", [False, True])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    fit, make_backbone, make_data, make_trainer, sgd, tmp_path, keep
):
    def new():
        return BoundaryExpanding(make_backbone(), optimizer=sgd, keep_unit=keep)

    whole = new()
    fit(whole, make_data(), max_epochs=3)
    fit(new(), make_data(), max_epochs=2).save_checkpoint(tmp_path / "half.ckpt")
    resumed = new()
    make_trainer(max_epochs=3).fit(resumed, datamodule=make_data(), ckpt_path=tmp_path / "half.ckpt")
    assert whole.state_dict().keys() == resumed.state_dict().keys()
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.mark.parametrize("keep", [False, True])
def test_the_saved_model_has_its_outputs_and_is_scored_alike(
    fit, make_backbone, make_data, make_trainer, trained_file, sgd, keep
):
    def new():
        return BoundaryExpanding(make_backbone(seed=3), weights=trained_file, optimizer=sgd, keep_unit=keep)

    attacks = [HeadRecovery(), HeadRecovery(target="logits", name="hr_logits"), FeatureMapping()]
    report, retrain = Report(page=False), Evaluation(trained_file.with_name("retrain.pt"))
    data = make_data()
    data.prepare_data()
    state = {name: value + 0 for name, value in make_backbone(seed=5).state_dict().items()}
    torch.save({"state_dict": state, "lit_unlearn": {"split": data.split.hash}}, trained_file.with_name("retrain.pt"))
    fit(new(), data, retrain, *attacks, report, max_epochs=2)
    saved = torch.load(report.directory / CHECKPOINT, weights_only=True)["state_dict"]
    assert {name.partition(".")[0] for name in saved} == {"backbone"}
    assert saved["backbone.head.weight"].shape[0] == (5 if keep else 4)
    fitted = report.rows[-1]
    assert fitted.backbone["num_classes"] == (5 if keep else 4)
    assert len(fitted.attacks) == 12
    again, audit = new(), Report(page=False)
    for _ in range(2):  # the second time on a module that has been through a Trainer
        trainer = make_trainer(retrain, *attacks, audit)
        trainer.validate(again, datamodule=data, ckpt_path=report.directory / CHECKPOINT, weights_only=True)
        assert again.backbone.num_classes == (5 if keep else 4)
        assert audit.rows[-1].metrics == fitted.metrics
        assert audit.rows[-1].attacks == fitted.attacks


def test_a_kept_unit_takes_the_forget_set_and_the_original_is_still_told_by_its_weights(
    fit, make_backbone, make_data, sgd, trained_file, trained_state, make_trainer
):
    module = BoundaryExpanding(make_backbone(seed=3), weights=trained_file, optimizer=sgd, keep_unit=True)
    assert module.is_original()
    report = Report(page=False)
    make_trainer(Evaluation(), report).validate(module, datamodule=make_data())
    assert report.rows[-1].method == "Original"
    fit(module, make_data(), Evaluation(), report, max_epochs=3)
    assert not module.is_original()
    assert report.rows[-1].metrics["forget_acc"] == 0
    original = module.original_copy()
    assert original.num_classes == 4
    assert all(torch.equal(value, trained_state[name]) for name, value in original.state_dict().items())
    assert not any(p.requires_grad for p in original.parameters())


def test_the_class_count_is_checked_without_the_unit(fit, make_data):
    from lit_unlearn.backbones import ResNet8

    with pytest.raises(UsageError, match="the backbone has 10 classes but the data has 4"):
        fit(BoundaryExpanding(ResNet8(in_channels=1), keep_unit=True), make_data())


def test_a_head_frozen_by_the_user_stays(fit, make_backbone, make_data, sgd, trained_state):
    for keep in (False, True):
        backbone = make_backbone()
        backbone.head.requires_grad_(False)
        module = BoundaryExpanding(backbone, optimizer=sgd, keep_unit=keep)
        fit(module, make_data())
        assert torch.equal(module.backbone.head.weight[:4], trained_state["head.weight"])
        assert not module.is_original()


def test_a_unit_cannot_stay_on_a_head_of_another_kind(make_backbone):
    class Scaled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    backbone = make_backbone()
    backbone.head = Scaled(backbone.num_features, 4)
    BoundaryExpanding(backbone)
    with pytest.raises(UsageError, match="keep_unit needs a head of class Linear, but it is a Scaled"):
        BoundaryExpanding(backbone, keep_unit=True)


def test_other_methods_have_no_unit(make_backbone):
    assert {name.partition(".")[0] for name in FineTune(make_backbone()).state_dict()} == {"backbone"}
