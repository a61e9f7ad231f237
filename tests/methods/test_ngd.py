import hashlib

import pytest
import torch
from torch.optim import SGD

from lit_unlearn.errors import UsageError
from lit_unlearn.methods import NGD, FineTune
from lit_unlearn.seed import generator, run_seed


def draws(step, seed=0):
    """The source of the noise of one step: the seed and the number of the step, hashed."""
    digest = hashlib.sha256(f"{seed}/noise/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") // 2)


def cross_entropy_on_retain(network, batch, step):
    ((part, (images, labels)),) = batch.items()
    assert part == "retain"
    return -torch.log_softmax(network(images), 1)[torch.arange(len(labels)), labels].mean()


@pytest.mark.parametrize("clip", [None, 0.05])
def test_two_epochs_have_noise_on_every_gradient_after_clipping(follow, make_backbone, sgd, clip):
    def change(gradients, step):
        if clip is not None:
            norm = torch.sqrt(sum((g**2).sum() for g in gradients))
            assert norm > clip
            gradients = [g * clip / (norm + 1e-6) for g in gradients]
        source = draws(step)
        return [g + 0.3 * torch.randn(g.shape, generator=source, dtype=torch.float64) for g in gradients]

    module = NGD(make_backbone(), optimizer=sgd, sigma=0.3)
    follow(module, cross_entropy_on_retain, steps=6, epochs=2, change=change, gradient_clip_val=clip)


def test_accumulated_batches_get_noise_once_a_step(fit, make_backbone, make_data):
    """With a gradient of nothing but noise, what is left of the start says how often it was added."""

    class Still(NGD):
        def training_step(self, batch, batch_idx):
            return 0.0 * sum(p.sum() for p in self.backbone.parameters())

    module = Still(make_backbone(), optimizer=lambda p: SGD(p, lr=1.0), sigma=0.01)
    trainer = fit(module, make_data(), max_epochs=2, accumulate_grad_batches=3, limit_val_batches=0)
    assert trainer.global_step == 2
    pairs = zip(module.backbone.parameters(), make_backbone().parameters(), strict=True)
    moved = torch.cat([(p - q).detach().flatten() for p, q in pairs])
    assert float(moved.std()) == pytest.approx(0.01 * 2**0.5, rel=0.05)
    assert abs(float(moved.mean())) < 5 * 0.01 * (2 / len(moved)) ** 0.5


def test_without_noise_it_is_fine_tuning(fit, make_backbone, make_data, sgd):
    modules = [NGD(make_backbone(), optimizer=sgd, sigma=0.0), FineTune(make_backbone(), optimizer=sgd)]
    for module in modules:
        fit(module, make_data(), max_epochs=2)
    states = [module.state_dict() for module in modules]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_every_rank_draws_the_same_noise_and_every_step_and_seed_its_own(monkeypatch):
    def first(step):
        return torch.randn(1000, generator=generator(run_seed(), "noise", step))

    assert torch.equal(first(3), first(3))  # a function of seed and step alone
    others = [first(4)]
    three = first(3)
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    others.append(first(3))
    for other in others:
        assert abs(float(torch.corrcoef(torch.stack([three, other]))[0, 1])) < 0.2


def test_parameters_that_do_not_learn_get_no_noise(fit, make_backbone, make_data, trained_state):
    backbone = make_backbone()
    backbone.encoder.requires_grad_(False)
    fit(NGD(backbone, sigma=1.0), make_data())
    assert torch.equal(backbone.encoder.stem.conv.weight, trained_state["encoder.stem.conv.weight"])
    assert not torch.equal(backbone.head.weight, trained_state["head.weight"])


def test_a_run_broken_off_and_resumed_ends_where_an_uninterrupted_one_does(
    fit, make_backbone, make_data, make_trainer, sgd, tmp_path
):
    whole, resumed = (NGD(make_backbone(), optimizer=sgd) for _ in range(2))
    fit(whole, make_data(), max_epochs=3)
    fit(NGD(make_backbone(), optimizer=sgd), make_data(), max_epochs=2).save_checkpoint(tmp_path / "half.ckpt")
    make_trainer(max_epochs=3).fit(resumed, datamodule=make_data(), ckpt_path=tmp_path / "half.ckpt")
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.mark.parametrize("sigma", [-0.1, float("nan")])
def test_negative_noise_is_refused(make_backbone, sigma):
    with pytest.raises(UsageError, match=f"sigma is {sigma}"):
        NGD(make_backbone(), sigma=sigma)
