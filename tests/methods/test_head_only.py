import pytest
import torch
from torch.optim import SGD

from lit_unlearn.errors import UsageError
from lit_unlearn.methods import HeadOnly


def test_two_epochs_distil_the_head_onto_the_original_without_the_forgotten_classes(
    follow, make_backbone, sgd, trained_state
):
    original = make_backbone().double().eval()

    def loss(network, batch, step):
        images, labels = batch["full"]
        network.encoder.eval()
        with torch.no_grad():
            h = network.encoder((images - network.normalise.mean) / network.normalise.std)
            z = original(images)
        log_q, total = torch.log_softmax(h @ network.head.weight.T + network.head.bias, 1), 0
        for row in range(len(labels)):
            e = z[row, [2, 3]].exp()
            p = e / e.sum()
            total = total + (p * (p.log() - log_q[row, [2, 3]])).sum()
        return total / len(labels)

    module = HeadOnly(make_backbone(), optimizer=sgd)
    follow(module, loss, steps=12, epochs=2, frozen=("encoder.",))
    for name, value in module.backbone.state_dict().items():
        assert torch.equal(value, trained_state[name].to(value)) == (not name.startswith("head.")), name


def test_it_forgets_by_accuracy_and_keeps_every_feature(fit, make_backbone, make_data):
    module, data = HeadOnly(make_backbone(), optimizer=lambda p: SGD(p, lr=0.5, momentum=0.9)), make_data()
    trainer = fit(module, data, max_epochs=15)
    assert float(trainer.callback_metrics["val/forget_acc"]) == 0
    assert float(trainer.callback_metrics["val/retain_acc"]) > 0.9
    images, original = data.data.train_images / 255, make_backbone().eval()
    module.backbone.eval()
    with torch.no_grad():
        assert torch.equal(module.backbone.features(images), original.features(images))


def test_only_the_head_is_given_to_the_optimizer(fit, make_backbone, make_data):
    trainer = fit(HeadOnly(make_backbone()), make_data())
    assert [tuple(p.shape) for group in trainer.optimizers[0].param_groups for p in group["params"]] == [(4, 16), (4,)]


@pytest.mark.parametrize("forget", [{"fraction": 0.3}, {"classes": [1], "fraction": 0.5}])
def test_it_is_refused_where_no_whole_class_is_forgotten(fit, make_backbone, make_data, forget):
    with pytest.raises(UsageError, match=r"HeadOnly can only forget whole classes: set data\.forget\.classes alone"):
        fit(HeadOnly(make_backbone()), make_data(**forget))


def test_a_frozen_head_is_refused(make_backbone):
    backbone = make_backbone()
    backbone.head.requires_grad_(False)
    with pytest.raises(UsageError, match=r"HeadOnly has nothing to train: the last linear layer .* is frozen"):
        HeadOnly(backbone)
