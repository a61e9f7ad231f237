"""What makes the numbers of a run wrong is said before the verdict, on the terminal, in the row and on the page."""

import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.optim import SGD

from lit_unlearn.attacks import Evaluation
from lit_unlearn.attacks.plausibility import before_run
from lit_unlearn.backbones import Custom, ResNet8
from lit_unlearn.data import ForgetSpec
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import FineTune, Rescale, Retrain
from lit_unlearn.reports.report import Report

CPU = torch.device("cpu")


@pytest.fixture
def run(fit, make_data, make_backbone):
    """Runs a method, and returns its row and what was warned of, in the order in which it was said."""

    def start(module=None, data=None, retrain=None, **settings):
        report = Report(checkpoint=False)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            settings = {"max_epochs": 4, **settings}
            fit(module or FineTune(make_backbone()), data or make_data(), Evaluation(retrain), report, **settings)
        return report, [str(warning.message) for warning in said]

    return start


def shifted(backbone, mean, std):
    """A network that was given other images than those in [0, 1]."""
    backbone.normalise.mean.fill_(mean)
    backbone.normalise.std.fill_(std)
    return backbone


def test_a_wrong_normalisation_is_named_before_training_in_the_row_and_on_the_page(run, make_backbone):
    module = FineTune(shifted(make_backbone(), 90.0, 40.0))
    report, said = run(module)
    text = report.rows[-1].flags["poor original"]
    assert text in said
    assert text.startswith("Original classifies only ")
    assert "of its own training images" in text
    assert text.replace("'", "&#39;") in (report.directory / "report.html").read_text()


def test_the_right_normalisation_is_found_among_the_usual_ones(make_data, make_backbone):
    network = shifted(make_backbone(), 0.5, 0.25)  # the small networks' own
    assert list(before_run(make_data(), network, None, CPU)) == []
    # Trained on raw pixels of this mean and deviation, and constructed without them.
    pixels = make_data().data.train_images / 255
    mean, std = float(pixels.mean()), float(pixels.std())
    module = FineTune(shifted(make_backbone(seed=2), mean, std), optimizer=lambda p: SGD(p, lr=0.1, momentum=0.9))
    images, labels = pixels, make_data().data.train_labels
    module.backbone.train()
    optimizer = SGD(module.backbone.parameters(), lr=0.1, momentum=0.9)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module.backbone(images), labels).backward()
        optimizer.step()
    network = shifted(module.backbone.eval(), mean + 1.0, 0.05)
    ((name, text),) = before_run(make_data(), network, None, CPU)
    assert name == "poor original"
    assert f"with mean [{round(mean, 3)}] and std [{round(std, 3)}]" in text or ", 100 %: set" in text
    assert "set the backbone's mean and std" in text


def test_a_retrain_that_was_not_trained_out_is_named(run, make_backbone):
    report, said = run(retrain=make_backbone(seed=1))
    (text,) = [each for each in report.rows[-1].flags.values() if each.startswith("Retrain classifies")]
    assert report.rows[-1].flags["poor retrain"] == text
    assert text in said
    assert "Original 100.0 %" in text
    as_good = make_backbone()
    with torch.no_grad():
        as_good.head.bias += 1e-5
    assert run(retrain=as_good)[0].rows[-1].flags == {}


def test_weights_that_hardly_change_are_named(run, make_backbone):
    for rate in (0.0, 1e-9):
        report, said = run(FineTune(make_backbone(), optimizer=lambda p, rate=rate: SGD(p, lr=rate)))
        ((name, text),) = report.rows[-1].flags.items()
        assert name == "small change"
        assert "hardly differ from Original's" in text
        assert text in said


@pytest.mark.parametrize("epochs", [1, 3, 4])
def test_a_run_of_few_steps_says_so(run, make_backbone, epochs):
    report, said = run(FineTune(make_backbone()), max_epochs=epochs)
    assert report.rows[-1].flags == (
        {
            "few steps": f"training made {3 * epochs} optimizer steps in all: so few change little; give more epochs, "
            "or smaller batches (batch_size)"
        }
        if epochs < 4
        else {}
    )
    assert set(report.rows[-1].flags.values()) <= set(said)


def test_weights_that_a_normalisation_hides_are_named(run, make_backbone):
    """The network answers the same, and relearning at the same rate moves it 10,000 times less."""

    class Grown(FineTune):
        times = 1

        def on_train_start(self):
            with torch.no_grad():
                first = next(module for module in self.backbone.modules() if isinstance(module, nn.Conv2d))
                first.weight.mul_(self.times)

    for times in (100, 4):
        method = Grown(make_backbone(), optimizer=lambda p: SGD(p, lr=0.0))
        method.times = times
        flags = run(method)[0].rows[-1].flags
        assert ("large weights" in flags) == (times == 100)
        if times == 100:
            assert "is 100 times as large as Original's" in flags["large weights"]


def test_a_method_without_an_optimizer_has_no_steps_to_count(run, make_backbone):
    assert run(Rescale(make_backbone()), max_epochs=1)[0].rows[-1].flags == {}


def test_a_part_that_was_put_into_the_network_is_a_change(run, make_backbone):
    """Rescale trains no weight; its gate is what it changes."""
    for change, flags in ((None, ["small change"]), ("a gate", [])):
        method = FineTune(make_backbone(), optimizer=lambda p: SGD(p, lr=0.0))
        method.architecture_change = lambda change=change: change
        assert list(run(method)[0].rows[-1].flags) == flags


class Noisy(ResNet8):
    """A defence: its answers are never twice the same."""

    def features(self, x):
        found = super().features(x)
        return found + 0.1 * torch.randn_like(found)


class Guarded(ResNet8):
    """Answers at random where it takes an image for one of a class that was to be forgotten, and nowhere else."""

    def features(self, x):
        found = super().features(x)
        forgotten = self.head(found).argmax(1) == 0
        return torch.where(forgotten[:, None], torch.randn_like(found), found)


class OfTheBatch(ResNet8):
    """Normalises by the batch in eval mode, too: an image's answer depends on the images beside it."""

    def features(self, x):
        found = super().features(x)
        return found - found.mean(0)


class Alone(ResNet8):
    """Knows in the service, where each image comes alone, what it does not say to attacks, which ask many at once."""

    def features(self, x):
        found = super().features(x)
        return -found if len(x) == 1 else found


@pytest.mark.parametrize("kind", [Guarded, OfTheBatch, Alone])
def test_answers_are_asked_of_every_split_and_in_other_company(run, make_backbone, kind):
    network = kind(4, in_channels=1, width=4)
    network.load_state_dict(make_backbone().state_dict())
    with torch.no_grad():
        network.head.bias[0] += 0.1
    report, _ = run(FineTune(network, optimizer=lambda p: SGD(p, lr=0.0)))
    assert "or with what else is in the batch" in report.rows[-1].flags["random answers"]


class Sneaky(nn.Module):
    """Looks like two parts on noise, and adds something after its head on dark images alone."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU()), nn.Linear(8, 4)

    def forward(self, x):
        found = self.head(self.body(x))
        return found + (x.mean((1, 2, 3)) < 0.2).float()[:, None] * torch.arange(found.shape[1])


def test_what_follows_the_head_on_real_images_alone_is_refused(run, make_data, fit):
    class Dark(type(make_data().source)):
        def load(self):
            found = super().load()
            return replace(found, train_images=found.train_images // 8, test_images=found.test_images // 8)

    data = make_data()
    shape = data.image_shape
    network = Sneaky()
    network.body[1] = nn.Linear(shape[0] * shape[1] * shape[2], 8)
    data.source.__class__ = Dark
    data._loaded = None
    with pytest.raises(UsageError, match=r"Sneaky answers otherwise on the data's images than its features and its"):
        run(FineTune(Custom(network, in_channels=shape[0])), data=data)


def test_answers_that_differ_from_pass_to_pass_are_named(run, make_backbone):
    for kind in (Noisy, ResNet8):
        network = kind(4, in_channels=1, width=4)
        network.load_state_dict(make_backbone().state_dict())
        report, said = run(FineTune(network))
        assert ("random answers" in report.rows[-1].flags) == (kind is Noisy)
        assert any("differ from pass to pass" in text for text in said) == (kind is Noisy)
        assert ("Flag, random answers" in (report.directory / "report.html").read_text()) == (kind is Noisy)


def test_a_new_start_is_compared_with_nothing(run, make_backbone, trained_file):
    assert run(Retrain(make_backbone(seed=3), weights=trained_file), max_epochs=4)[0].rows[-1].flags == {}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"max_time": {"seconds": 1}}, "max_time was over"),
        ({"callbacks": True}, "stopped early by EarlyStopping"),
        ({}, None),
        ({"max_steps": 1}, None),
    ],
)
def test_a_run_that_ended_early_says_so_in_its_row(make_trainer, make_data, make_backbone, settings, reason):
    class Slow(Callback):
        def on_train_batch_end(self, trainer, *rest):
            time.sleep(0.4 if trainer.max_epochs == 6 and "max_time" in settings else 0)

    report, callbacks = Report(checkpoint=False, page=False), [Slow()]
    if settings.pop("callbacks", False):
        callbacks += [EarlyStopping("val/retain_acc", mode="max", patience=1, min_delta=1.0)]
    make_trainer(Evaluation(), report, *callbacks, max_epochs=6, **settings).fit(
        FineTune(make_backbone()), datamodule=make_data()
    )
    ended = [
        text
        for name, text in report.rows[-1].flags.items()
        if name == "cut short" and text.startswith("training ended after")
    ]
    if reason is None:
        assert ended == []
    else:
        assert ended == [f"training ended after {report.rows[-1].epochs} of 6 epochs: {reason}"]


def test_a_run_that_its_method_ended_has_nothing_to_warn_of(make_trainer, make_data, make_backbone):
    class Done(FineTune):
        def on_train_epoch_end(self):
            if self.by_rule:
                self.finish()
            else:
                self.trainer.should_stop = True

    for by_rule in (True, False):
        report, method = Report(checkpoint=False, page=False), Done(make_backbone())
        method.by_rule = by_rule
        make_trainer(Evaluation(), report, max_epochs=6).fit(method, datamodule=make_data())
        assert report.rows[-1].epochs == 1
        warned = [
            text for text in report.rows[-1].flags.values() if text.startswith("training ended after 1 of 6 epochs")
        ]
        assert len(warned) == (not by_rule)


@pytest.mark.parametrize("setting", ["max_epochs", "max_steps", "limit_train_batches"])
def test_a_run_that_trains_nothing_is_refused(fit, make_data, make_backbone, tmp_path, setting):
    with pytest.raises(UsageError, match=f"trainer.{setting} is 0"):
        fit(FineTune(make_backbone()), make_data(), Evaluation(), Report(), **{setting: 0})
    assert not (tmp_path / "logs").exists()


def test_what_is_odd_about_the_data_is_in_the_row_as_well(run, make_data, tmp_path: Path):
    (tmp_path / "bees.txt").write_text("".join(f"{index}\n" for index in range(1, 48, 4)))
    data = make_data(forget=ForgetSpec(index_file=tmp_path / "bees.txt"))
    report, said = run(data=data)
    (text,) = report.rows[-1].warnings
    assert text in said
    assert "give forget.classes [bee]" in text
