import pytest
import torch
from lightning.pytorch import Callback
from torch.optim import SGD

from lit_unlearn.errors import UsageError
from lit_unlearn.methods import GradientAscent
from lit_unlearn.methods.gradient_ascent import ascent


@pytest.mark.parametrize("clip", [None, 0.3])
def test_two_steps_climb_the_cross_entropy_of_the_forget_set(follow, make_backbone, sgd, clip):
    beyond = []

    def loss(network, batch, step):
        ((part, (images, labels)),) = batch.items()
        assert part == "forget"
        losses = -torch.log_softmax(network(images), 1)[torch.arange(len(labels)), labels]
        beyond.append(int((losses > 0.3).sum()))
        return -(losses if clip is None else torch.where(losses > clip, torch.full_like(losses, clip), losses)).mean()

    follow(GradientAscent(make_backbone(), optimizer=sgd, clip=clip), loss)
    assert 0 < sum(beyond) < 16, "the clip must bind for some samples and not for all"


def test_clipped_samples_pull_no_more():
    logits = torch.tensor([[4.0, 0.0], [0.0, 4.0]], requires_grad=True)
    ascent(logits, torch.tensor([0, 0]), clip=1.0).backward()
    assert logits.grad[0].abs().sum() > 0
    assert (logits.grad[1] == 0).all()


class ForgetAccuracies(Callback):
    """The forget accuracy of every epoch, sample by sample, in the batches as they were trained on."""

    def __init__(self) -> None:
        self.epochs: list[list[bool]] = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.epochs.append([])

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        images, labels = batch["forget"]
        state = {name: value.clone() for name, value in pl_module.backbone.state_dict().items()}
        with torch.no_grad():
            self.epochs[-1] += (pl_module(images).argmax(1) == labels).tolist()
        pl_module.backbone.load_state_dict(state)


def test_stops_after_the_epoch_in_which_enough_is_forgotten(fit, make_backbone, make_data):
    watch = ForgetAccuracies()
    module = GradientAscent(make_backbone(), optimizer=lambda p: SGD(p, lr=3e-3), stop_at=0.5)
    # 24 forget images in batches of 20 and 4: a mean of batch means would not be the accuracy.
    trainer = fit(module, make_data(forget_batch_size=20), watch, max_epochs=40)
    accuracies = [sum(epoch) / len(epoch) for epoch in watch.epochs]
    assert 1 < len(accuracies) < 40
    assert accuracies[-1] <= 0.5 < min(accuracies[:-1])
    assert float(trainer.callback_metrics["train/forget_acc"]) == pytest.approx(accuracies[-1], abs=1e-6)
    assert module.diverged is None


def test_without_stop_at_it_runs_to_the_end(fit, make_backbone, make_data):
    trainer = fit(GradientAscent(make_backbone(), optimizer=lambda p: SGD(p, lr=0.1)), make_data(), max_epochs=3)
    assert trainer.current_epoch == 3


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"clip": 0.0}, "clip is 0.0"),
        ({"clip": -2.0}, "clip is -2.0"),
        ({"clip": float("nan")}, "clip is nan"),
        ({"stop_at": 1.5}, r"stop_at is 1.5"),
        ({"stop_at": -0.1}, r"stop_at is -0.1"),
    ],
)
def test_options_out_of_range(make_backbone, option, message):
    with pytest.raises(UsageError, match=message):
        GradientAscent(make_backbone(), **option)
