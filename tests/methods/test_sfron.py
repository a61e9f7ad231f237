import math

import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import optim

from lit_unlearn.errors import UsageError
from lit_unlearn.methods import FineTune, SFRon
from lit_unlearn.methods.fading import cosine
from lit_unlearn.methods.sfron import weighted

LR, MOMENTUM, DECAY = 0.05, 0.9, 0.01
EPOCHS, PER_EPOCH = 3, 3


def cross_entropies(network, images, labels):
    return -torch.log_softmax(network(images), 1)[torch.arange(len(labels)), labels]


def squares(network, data, part, per_batch):
    """Mean over samples, or shuffled batches, of the squared gradient of their mean loss, the original in eval mode."""
    network = network.double().eval()
    total, groups = {name: torch.zeros_like(p) for name, p in network.named_parameters()}, 0
    count = data.split.counts()[part]
    size = data.batch_size if per_batch else 1
    batches = list(data.shuffled_batches(part, "cpu", count))
    pixels, classes = (torch.cat(each) for each in zip(*batches, strict=True))
    assert [len(labels) for _, labels in batches] == [8] * (count // 8) + [count % 8] * (count % 8 > 0)
    for images, labels in zip(pixels.double().split(size), classes.split(size), strict=True):
        network.zero_grad()
        cross_entropies(network, images, labels).mean().backward()
        groups += 1
        for name, parameter in network.named_parameters():
            total[name] += parameter.grad**2
    return {name: value / groups for name, value in total.items()}


OPTIONS = [
    {},
    {"alpha": 2.0, "temperature": 0.0, "threshold": 0.0, "forget_every": 2, "max_norm": 0.3},
    {"alpha": 30.0, "temperature": 2.0, "threshold": 1.5, "forget_every": 2, "importance": "per_batch"},
    {"alpha": 1.0, "forget_every": 1, "max_norm": 1e6, "slow_rate": 0.7, "chunk_size": 4},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("gamma", [None, 0.5])
def test_three_epochs_climb_with_salient_weights_and_repair(
    fit, make_backbone, make_data, sgd, recorder, options, gamma
):
    data = make_data(eval_batch_size=9)  # whose batches are not those of training
    scheduler = gamma and (lambda optimizer: optim.lr_scheduler.StepLR(optimizer, 1, gamma))
    module = SFRon(make_backbone(), optimizer=sgd, lr_scheduler=scheduler, **options)
    fit(module, data, recorder, max_epochs=EPOCHS, precision="64-true")
    given = {"alpha": 25.0, "temperature": 0.5, "threshold": 1.0, "forget_every": 5, "max_norm": 7.0, "slow_rate": 1.0}
    given |= options
    per_batch = given.get("importance") == "per_batch"
    forget, retain = (squares(make_backbone(), data, part, per_batch) for part in ("forget", "retain"))
    mask = {name: ((forget[name] + 1e-15) / (retain[name] + 1e-15) >= given["threshold"]).double() for name in forget}
    plain = make_backbone().double().train()
    speed = {name: torch.zeros_like(p) for name, p in plain.named_parameters()}

    def move(lr):
        with torch.no_grad():
            for name, parameter in plain.named_parameters():
                speed[name] = MOMENTUM * speed[name] + parameter.grad + DECAY * parameter
                parameter -= lr * speed[name]

    assert len(recorder.batches) == EPOCHS * PER_EPOCH
    clipped = []
    for step, batch in enumerate(recorder.batches):
        assert ("forget" in batch) == (step % given["forget_every"] == 0)
        lr = LR * (gamma or 1) ** (step // PER_EPOCH)
        before = {name: p.detach().clone() for name, p in plain.named_parameters()}
        if step % given["forget_every"] == 0:
            losses = cross_entropies(plain, *batch["forget"])
            weights = torch.stack([1 / (loss.detach() ** given["temperature"] + 1e-15) for loss in losses])
            alpha = given["alpha"] * 0.5 * (1 + math.cos(math.pi * step / (EPOCHS * PER_EPOCH)))
            plain.zero_grad()
            (-alpha * (weights / weights.sum() * losses).sum()).backward()
            for name, parameter in plain.named_parameters():
                parameter.grad *= mask[name]
            norm = math.sqrt(sum(float((p.grad**2).sum()) for p in plain.parameters()))
            clipped.append(norm > given["max_norm"])
            for parameter in plain.parameters():
                parameter.grad *= min(1.0, given["max_norm"] / (norm + 1e-6))
            move(lr)
        plain.zero_grad()
        cross_entropies(plain, *batch["retain"]).mean().backward()
        move(lr)
        with torch.no_grad():
            for name, parameter in plain.named_parameters():
                parameter.copy_((1 - given["slow_rate"]) * before[name] + given["slow_rate"] * parameter)
    assert any(clipped) == (given["max_norm"] < 1e6)
    share = torch.cat([each.flatten() for each in mask.values()]).mean()
    assert (0.05 < share < 0.95) == (given["threshold"] > 0)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(module.backbone.state_dict()[name], value, rtol=0, atol=1e-9, msg=name)


def test_without_salient_weights_it_is_fine_tuning(fit, make_backbone, make_data):
    def plain_sgd(params):
        return optim.SGD(params, lr=0.05)

    modules = (
        SFRon(make_backbone(), optimizer=plain_sgd, threshold=1e30),
        FineTune(make_backbone(), optimizer=plain_sgd),
    )
    other = SFRon(make_backbone(), optimizer=plain_sgd, threshold=0.0)
    for module in (*modules, other):
        fit(module, make_data(), max_epochs=2)
    states = [dict(module.backbone.named_parameters()) for module in (*modules, other)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not any(torch.equal(value, states[1][name]) for name, value in states[2].items())


def test_weights_frozen_by_the_user_stay(fit, make_backbone, make_data, sgd, trained_state):
    backbone = make_backbone()
    backbone.encoder.requires_grad_(False)
    fit(SFRon(backbone, optimizer=sgd, slow_rate=0.5), make_data())
    for name, value in backbone.named_parameters():
        assert torch.equal(value, trained_state[name]) == name.startswith("encoder"), name


def test_a_resumed_run_goes_on_with_mask_step_and_schedule(fit, make_backbone, make_data, make_trainer, sgd, tmp_path):
    def halve(optimizer):
        return optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    def new():
        return SFRon(make_backbone(), optimizer=sgd, lr_scheduler=halve, forget_every=2)

    class Save(Checkpoint):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.save_checkpoint(tmp_path / f"{trainer.current_epoch}.ckpt")

    whole, resumed = new(), new()
    fit(whole, make_data(), Save(), max_epochs=3, enable_checkpointing=True)
    make_trainer(max_epochs=3).fit(resumed, datamodule=make_data(), ckpt_path=tmp_path / "1.ckpt")
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_weights_of_an_ascent():
    losses = torch.tensor([1.0, 4.0], requires_grad=True)
    assert float(weighted(losses, 0.5).detach()) == pytest.approx((1 * 1 + 0.5 * 4) / 1.5)
    assert float(weighted(losses, 0.0).detach()) == pytest.approx(2.5)
    (gradient,) = torch.autograd.grad(weighted(losses, 0.5), losses)
    torch.testing.assert_close(gradient, torch.tensor([2 / 3, 1 / 3]))
    assert weighted(torch.zeros(3), 0.5) == 0


def test_the_ascent_fades():
    assert [cosine(8.0, step, 4) for step in range(5)] == pytest.approx([8, 4 + 8**0.5, 4, 4 - 8**0.5, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -1.0}, "alpha is -1.0"),
        ({"temperature": -0.5}, "temperature is -0.5"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"forget_every": 0}, "forget_every is 0"),
        ({"max_norm": 0.0}, "max_norm is 0.0"),
        ({"slow_rate": 0.0}, "slow_rate is 0.0"),
        ({"slow_rate": 1.5}, "slow_rate is 1.5"),
        ({"importance": "per_smaple"}, "per_smaple"),
        ({"chunk_size": 0}, "chunk_size is 0"),
    ],
)
def test_options_out_of_range(make_backbone, options, message):
    with pytest.raises(UsageError, match=message):
        SFRon(make_backbone(), **options)


def test_it_needs_epochs_to_fade_over(fit, make_backbone, make_data):
    with pytest.raises(UsageError, match=r"SFRon needs trainer\.max_epochs"):
        fit(SFRon(make_backbone()), make_data(), max_epochs=-1, max_steps=4)
