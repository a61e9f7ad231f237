"""The two baselines of every table: a short Retrain, and one that learns from the original's answers."""

import pytest
import torch

from lit_unlearn.errors import UsageError
from lit_unlearn.methods import DistilledRetrain, Retrain, RetrainShort


def test_a_short_retrain_is_retrain_under_another_name(follow, make_backbone, sgd, trained_file):
    def loss(network, batch, step):
        images, labels = batch["retain"]
        return -torch.log_softmax(network(images), 1)[torch.arange(len(labels)), labels].mean()

    module = RetrainShort(make_backbone(seed=3), weights=trained_file, optimizer=sgd)
    follow(module, loss)
    assert issubclass(RetrainShort, Retrain)
    assert module.describe()["method"] == "RetrainShort"


@pytest.mark.parametrize("weights", ["beside", "inside"])
@pytest.mark.parametrize("classes", [[0, 1], None])
def test_two_steps_are_cross_entropy_and_distillation_without_the_forgotten_classes(
    follow, make_backbone, make_data, sgd, trained_file, weights, classes
):
    teacher = make_backbone().double().eval()
    kept = [2, 3] if classes else [0, 1, 2, 3]

    def loss(network, batch, step):
        images, labels = batch["retain"]
        logits = network(images)
        with torch.no_grad():
            taught = teacher(images)
        p, q = (torch.softmax(z[:, kept] / 3, 1) for z in (taught, logits))
        apart = (p * (p.log() - q.log())).sum(1).mean() * 9
        return -torch.log_softmax(logits, 1)[torch.arange(len(labels)), labels].mean() + 0.7 * apart

    given = {"backbone": make_backbone(seed=3), "weights": trained_file}
    given = given if weights == "beside" else {"backbone": make_backbone()}
    data = make_data(classes=classes) if classes else make_data(fraction=0.25)
    follow(DistilledRetrain(**given, optimizer=sgd, distill=0.7, temperature=3.0), loss, data=data)


def test_it_starts_anew_and_keeps_the_original_for_the_table(make_backbone, trained_state):
    module = DistilledRetrain(make_backbone())
    assert not any(torch.equal(value, trained_state[name]) for name, value in module.backbone.named_parameters())
    original = module.original_copy().state_dict()
    assert all(torch.equal(value, trained_state[name]) for name, value in original.items())


@pytest.mark.parametrize(("name", "value"), [("distill", -1.0), ("temperature", 0.0)])
def test_numbers_out_of_range(make_backbone, name, value):
    with pytest.raises(UsageError, match=name):
        DistilledRetrain(make_backbone(), **{name: value})
