import pytest
import torch

from lit_unlearn.errors import UsageError
from lit_unlearn.methods import NegGradPlus


@pytest.mark.parametrize("alpha", [0.95, 0.6])
def test_two_epochs_descend_on_retain_and_climb_on_forget(follow, make_backbone, make_data, sgd, alpha):
    data = make_data(forget_batch_size=10)  # the last of three passes over forget starts within the second epoch
    shown = {"retain": [], "forget": []}

    def loss(network, batch, step):
        assert list(batch) == ["retain", "forget"]
        value = 0.0
        for part, weight in (("retain", alpha), ("forget", alpha - 1)):
            images, labels = batch[part]
            shown[part].append(labels)
            value = value - weight * torch.log_softmax(network(images), 1)[torch.arange(len(labels)), labels].mean()
        return value

    follow(NegGradPlus(make_backbone(), optimizer=sgd, alpha=alpha), loss, data=data, steps=6, epochs=2)
    assert torch.cat(shown["retain"]).bincount().tolist() == [0, 0, 24, 24]
    assert torch.cat(shown["forget"]).bincount().tolist() == [24, 24]


def test_all_of_alpha_is_fine_tuning_but_for_the_statistics(follow, make_backbone, sgd):
    def loss(network, batch, step):
        images, labels = batch["retain"]
        value = -torch.log_softmax(network(images), 1)[torch.arange(len(labels)), labels].mean()
        network(batch["forget"][0])  # moves the running statistics
        return value

    follow(NegGradPlus(make_backbone(), optimizer=sgd, alpha=1.0), loss, steps=3)


def test_both_losses_are_logged(fit, make_backbone, make_data):
    logged = fit(NegGradPlus(make_backbone()), make_data()).callback_metrics
    assert float(logged["train/retain_loss"]) > 0
    assert float(logged["train/forget_loss"]) > 0


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan")])
def test_a_share_outside_of_0_and_1_is_refused(make_backbone, alpha):
    with pytest.raises(UsageError, match=rf"alpha is {alpha}"):
        NegGradPlus(make_backbone(), alpha=alpha)
