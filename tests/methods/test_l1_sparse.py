import pytest
import torch

from lit_unlearn.errors import UsageError
from lit_unlearn.methods import L1Sparse
from lit_unlearn.methods.fading import linear_decay


@pytest.mark.parametrize(("free", "gammas"), [(0, [0.02, 0.02 * 2 / 3, 0.02 / 3]), (1, [0.02, 0.01, 0.0])])
def test_three_epochs_have_a_penalty_that_falls_in_a_straight_line(follow, make_backbone, sgd, free, gammas):
    def loss(network, batch, step):
        ((part, (images, labels)),) = batch.items()
        assert part == "retain"
        value = -torch.log_softmax(network(images), 1)[torch.arange(len(labels)), labels].mean()
        for parameter in network.parameters():
            value = value + gammas[step // 3] * parameter.abs().sum()
        return value

    module = L1Sparse(make_backbone(), optimizer=sgd, alpha=0.02, free_epochs=free)
    follow(module, loss, steps=9, epochs=3)  # 24 retain images: three steps an epoch


def test_the_penalty_starts_at_alpha_ends_at_zero_and_stays_there():
    values = [linear_decay(0.6, epoch, 6) for epoch in range(10)]
    assert values == pytest.approx([0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0, 0, 0, 0], abs=1e-15)
    assert values[6:] == [0.0] * 4
    assert linear_decay(0.6, 9, 10) == pytest.approx(0.06)


def test_a_larger_penalty_leaves_smaller_weights(fit, make_backbone, make_data, sgd):
    norms = []
    for alpha in (0.0, 1e-3, 1e-2):
        module = L1Sparse(make_backbone(), optimizer=sgd, alpha=alpha)
        trainer = fit(module, make_data(), max_epochs=3)
        norms.append(sum(float(p.detach().abs().sum()) for p in module.backbone.parameters()))
        assert float(trainer.callback_metrics["train/l1_norm"]) == pytest.approx(norms[-1], rel=0.2)
    assert norms[0] > norms[1] > norms[2]


def test_a_run_broken_off_and_resumed_ends_where_an_uninterrupted_one_does(
    fit, make_backbone, make_data, make_trainer, sgd, tmp_path
):
    from lightning.pytorch import Callback

    class Break(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = trainer.current_epoch == 0

    def new():
        return L1Sparse(make_backbone(), optimizer=sgd, alpha=0.01)

    whole, resumed = new(), new()
    fit(whole, make_data(), max_epochs=3)
    fit(new(), make_data(), Break(), max_epochs=3).save_checkpoint(tmp_path / "broken.ckpt")
    make_trainer(max_epochs=3).fit(resumed, datamodule=make_data(), ckpt_path=tmp_path / "broken.ckpt")
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"alpha": -1e-4}, "alpha is -0.0001"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"free_epochs": -1}, "free_epochs is -1"),
    ],
)
def test_options_out_of_range(make_backbone, option, message):
    with pytest.raises(UsageError, match=message):
        L1Sparse(make_backbone(), **option)


def test_a_penalty_needs_epochs_to_fall_in_but_an_audit_does_not(fit, make_backbone, make_data, make_trainer):
    with pytest.raises(UsageError, match=r"L1Sparse needs trainer\.max_epochs"):
        fit(L1Sparse(make_backbone()), make_data(), max_epochs=None, max_steps=2)
    with pytest.raises(UsageError, match=r"free_epochs is 2"):
        fit(L1Sparse(make_backbone(), free_epochs=2), make_data(), max_epochs=2)
    make_trainer(max_epochs=1).validate(L1Sparse(make_backbone(), free_epochs=2), datamodule=make_data())
