"""What every run has beside its method: the clock, the watch for divergence, and where their callbacks stand."""

import logging
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_unlearn.methods import FineTune, GradientAscent, NegGradPlus, callbacks


class Spends(Callback):
    """Moves a clock on by a second or more in each of these hooks; it is first among the callbacks."""

    def __init__(self, monkeypatch, **seconds):
        self.now = 0.0
        monkeypatch.setattr(callbacks, "time", SimpleNamespace(perf_counter=lambda: self.now))
        for hook, spent in seconds.items():
            setattr(self, hook, lambda *args, spent=spent, **more: self.spend(spent))

    def spend(self, seconds):
        self.now += seconds


class Prepares(FineTune):
    """Spends 1000 s before its first step and 100 s at the end of each epoch."""

    spends: Spends

    def on_train_start(self):
        assert self.backbone.training
        self.spends.spend(1000)

    def on_train_epoch_end(self):
        self.spends.spend(100)


def test_the_clock_counts_training_and_preparation_and_no_evaluation(make_backbone, make_data, fit, monkeypatch):
    spends = Spends(monkeypatch, on_train_batch_start=1, on_validation_batch_start=0.01, on_train_start=5, setup=7)
    module = Prepares(make_backbone())
    module.spends = spends
    trainer = fit(module, make_data(), spends, max_epochs=2, num_sanity_val_steps=1)
    assert trainer.global_step == 6
    assert module.seconds == pytest.approx(1000 + 2 * 100 + 6)


@pytest.mark.parametrize("validate", [True, False])
def test_a_checkpoint_has_the_seconds_up_to_it(make_backbone, make_data, fit, monkeypatch, tmp_path, validate):
    spends = Spends(monkeypatch, on_train_batch_start=1, on_validation_batch_start=0.01)
    module, keep = Prepares(make_backbone()), ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    module.spends = spends
    limit = 1.0 if validate else 0
    fit(module, make_data(), spends, keep, max_epochs=2, limit_val_batches=limit, enable_checkpointing=True)
    made = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)["lit_unlearn"]
    assert made["seconds"] == pytest.approx(1000 + 3 + 100)


@pytest.mark.parametrize("method", [FineTune, NegGradPlus, GradientAscent])
def test_the_images_of_all_batches_are_counted_and_a_checkpoint_goes_on(
    make_backbone, make_data, make_trainer, fit, recorder, tmp_path, method
):
    module, keep = method(make_backbone()), ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    fit(module, make_data(), recorder, keep, max_epochs=2, enable_checkpointing=True)
    seen = [sum(len(images) for images, *_ in batch.values()) for batch in recorder.batches]
    assert module.images_seen == sum(seen) > 0
    if method is FineTune:
        assert module.images_seen == 2 * make_data().split.counts()["retain"]
    again = method(make_backbone())
    make_trainer(max_epochs=2).fit(again, datamodule=make_data(), ckpt_path=tmp_path / "epoch=0.ckpt")
    assert again.images_seen == module.images_seen


def test_a_run_after_an_interrupted_one_begins_with_a_clock_that_stands(
    make_backbone, make_data, make_trainer, monkeypatch
):
    class Stops(Callback):
        def on_train_batch_end(self, *args):
            raise RuntimeError("stop")

    spends = Spends(monkeypatch, on_train_batch_start=1, on_validation_batch_start=1)
    trainer, module = make_trainer(spends, Stops()), FineTune(make_backbone())
    with pytest.raises(RuntimeError, match="stop"):
        trainer.fit(module, datamodule=make_data())
    trainer.validate(module, datamodule=make_data(), verbose=False)
    assert module.seconds == 0


def test_weights_that_a_method_breaks_at_the_end_of_its_epoch_are_noticed(make_backbone, make_data, fit):
    class Breaks(FineTune):
        def on_train_epoch_end(self):
            with torch.no_grad():
                self.backbone.head.bias[0] = float("inf")

    module = Breaks(make_backbone())
    fit(module, make_data(), limit_val_batches=0)
    assert module.diverged == "weights are no longer finite after the last epoch"


def test_they_come_after_the_users_before_checkpoints_and_once(
    make_backbone, make_data, make_trainer, tmp_path, caplog
):
    first, keep = Callback(), ModelCheckpoint(tmp_path)
    trainer = make_trainer(keep, first, enable_checkpointing=True)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            trainer.fit(FineTune(make_backbone()), datamodule=make_data())
            kinds = [type(callback) for callback in trainer.callbacks]
            assert kinds == [Callback, *callbacks.CALLBACKS, ModelCheckpoint]
    assert "override" not in caplog.text
