"""A trial that changes nothing is ended after its first epoch; one that is slow is not."""

import pytest
import torch
from torch.optim import SGD

from lit_unlearn.attacks import Evaluation, HeadRecovery
from lit_unlearn.methods import (
    SCRUB,
    BoundaryExpanding,
    FineTune,
    GradientAscent,
    ModeConnectivity,
    NegGradPlus,
    RetrainShort,
    SFRon,
)
from lit_unlearn.methods.pruning import NoEffectWatch
from lit_unlearn.reports.report import Report


def at(rate):
    """An optimizer factory without momentum or decay."""
    return lambda params: SGD(params, lr=rate)


@pytest.fixture
def tried(make_data, fit):
    """Fits a trial and returns how many epochs it had and its row."""

    def run(module, epochs=10):
        report = Report(page=False)
        watch, evaluation = NoEffectWatch(), Evaluation(reference_models=False)
        trainer = fit(module, make_data(), HeadRecovery(), watch, evaluation, report, max_epochs=epochs)
        return trainer.current_epoch, report.rows[-1]

    return run


def test_a_rate_that_changes_nothing_is_pruned_before_its_attacks(tried, make_backbone):
    """The statistics of BatchNorm move all the same."""
    epochs, row = tried(FineTune(make_backbone(), optimizer=at(1e-9)))
    assert (epochs, row.status) == (1, "pruned")
    assert row.reason.startswith("after one of 10 epochs it answers as the original does: mean change of an answer ")
    assert row.metrics["forget_acc"] > 0
    assert not row.attacks


def test_a_run_that_works_is_not(tried, make_backbone):
    epochs, row = tried(FineTune(make_backbone(), optimizer=at(0.05)), epochs=3)
    assert (epochs, row.status) == (3, "ok")
    assert "recovery/hr/forget_acc" in row.attacks


def test_a_slow_method_of_which_an_epoch_alone_shows_little_is_kept(tried, make_backbone):
    """One epoch moves an answer by far less than half a point; the square of ten epochs is left for the rest."""
    assert tried(BoundaryExpanding(make_backbone(), optimizer=at(1e-3)))[1].status == "ok"
    assert tried(BoundaryExpanding(make_backbone(), optimizer=at(1e-3)), epochs=2)[1].status == "pruned"


@pytest.mark.parametrize("method", [GradientAscent, ModeConnectivity, NegGradPlus, SCRUB, SFRon])
def test_a_method_that_raises_a_loss_is_kept(tried, make_backbone, method):
    """On memorised images nothing happens for long, and then much at once."""
    assert tried(method(make_backbone(), optimizer=at(1e-9)), epochs=2)[1].status == "ok"


class Shifts(FineTune):
    """Moves the answers to all images alike, which changes none of them."""

    def on_train_batch_end(self, outputs, batch, batch_idx):
        with torch.no_grad():
            self.backbone.head.bias += 1.0


class Flips(FineTune):
    """Moves what is no parameter, so that another class is named."""

    def on_train_batch_end(self, outputs, batch, batch_idx):
        for name, value in self.backbone.named_buffers():
            if name.endswith("running_mean"):
                value += 1.0


@pytest.mark.parametrize("kind", [Shifts, Flips])
def test_one_whose_weights_or_accuracy_move_is_kept(tried, make_backbone, kind):
    epochs, row = tried(kind(make_backbone(), optimizer=at(1e-9)), epochs=2)
    assert (epochs, row.status) == (2, "ok")


def test_a_run_of_one_epoch_and_one_that_starts_anew_are_none_of_its_business(tried, make_backbone, trained_file):
    assert tried(FineTune(make_backbone(), optimizer=at(1e-9)), epochs=1)[1].status == "ok"
    assert tried(RetrainShort(make_backbone(seed=3), trained_file, optimizer=at(1e-9)), epochs=2)[1].status == "ok"
