import pytest
import torch
from torch import nn

from lit_unlearn.methods import DELETE
from lit_unlearn.methods.delete import erased


@pytest.mark.parametrize("freeze", [False, True])
def test_three_epochs_follow_the_original_without_the_true_class(follow, make_backbone, sgd, trained_state, freeze):
    original = make_backbone().double().eval()

    def loss(network, batch, step):
        ((part, (images, labels)),) = batch.items()
        assert part == "forget"
        for each in network.modules():
            if freeze and isinstance(each, nn.BatchNorm2d):
                each.eval()
        log_q, total = torch.log_softmax(network(images), 1), 0
        with torch.no_grad():
            z = original(images)
        for i, true in enumerate(labels.tolist()):
            others = [c for c in range(4) if c != true]
            p = z[i, others].exp() / z[i, others].exp().sum()
            total = total + (p * (p.log() - log_q[i, others])).sum()
        return total / len(labels)

    module = DELETE(make_backbone(), optimizer=sgd, freeze_batchnorm=freeze)
    # With a validation between the epochs, which must leave every module's mode as it was.
    follow(module, loss, steps=7, epochs=3, limit_val_batches=1.0)
    for name, value in module.backbone.state_dict().items():
        if "running" in name:
            assert torch.equal(value, trained_state[name].double()) == freeze, name
    assert all(torch.equal(value, original.state_dict()[name]) for name, value in module.teacher.state_dict().items())


def test_the_true_class_has_no_probability_and_the_others_keep_their_ratios():
    logits = torch.tensor([[3.0, 1.0, 0.0, -1.0], [900.0, 2.0, 1.0, 0.0]], dtype=torch.float64)
    target = erased(logits, torch.tensor([1, 0]))
    assert target[0, 1] == target[1, 0] == 0
    torch.testing.assert_close(target.sum(1), torch.ones(2, dtype=torch.float64))
    assert float(target[0, 0] / target[0, 2]) == pytest.approx(torch.e**3)
    assert float(target[1, 1] / target[1, 3]) == pytest.approx(torch.e**2)


def test_the_teacher_stays_and_is_not_saved(make_backbone, make_data, fit, tmp_path):
    module = DELETE(make_backbone())
    fit(module, make_data()).save_checkpoint(tmp_path / "run.ckpt")
    saved = torch.load(tmp_path / "run.ckpt", weights_only=True)["state_dict"]
    assert {name.partition(".")[0] for name in saved} == {"backbone"}
    assert not any(parameter.requires_grad for parameter in module.teacher.parameters())
