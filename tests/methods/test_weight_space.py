"""DistReg, WeightDistortion and ModeConnectivity beside the loops of shoaibahmed/vision_relearning."""

import copy

import pytest
import torch
from lightning.pytorch import Callback
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.optim import Adam

from lit_unlearn.errors import UsageError
from lit_unlearn.methods import DistReg, ModeConnectivity, WeightDistortion
from lit_unlearn.seed import generator

RATE = 0.003


def adam(parameters):
    return Adam(parameters, lr=RATE)


@pytest.fixture
def replay(fit, make_backbone, make_data, recorder):
    """Two epochs, validated after each, against vision_unlearner.py:637-682 with this forget loss and this start."""

    def run(module, forget_loss, start=lambda network: None, steps=6):
        data = make_data(batch_size=8, forget_batch_size=8)
        fit(module, data, recorder, precision="64-true", max_epochs=2)
        network, pretrained = make_backbone().double().train(), make_backbone().double().eval()
        start(network)
        optimizer = Adam(network.parameters(), lr=RATE, weight_decay=0.0)
        assert len(recorder.batches) == steps
        for batch in recorder.batches:
            optimizer.zero_grad()
            images, labels = batch["retain"]
            cross_entropy(network(images), labels).backward()
            if forget_loss is not None:
                forget_loss(network, pretrained, batch).backward()
            optimizer.step()
        for name, value in network.state_dict().items():
            torch.testing.assert_close(module.backbone.state_dict()[name], value, rtol=0, atol=1e-6, msg=name)

    return run


@pytest.mark.parametrize("weight", [1.0, 30.0])
def test_dist_reg_by_the_released_loop(replay, make_backbone, weight):
    """vision_unlearner.py:366-373; model_utils.py:130-140."""

    def away(network, pretrained, batch):
        one, two = (torch.cat([p.view(-1) for p in each.parameters()]) for each in (pretrained, network))
        return weight * -torch.sqrt(torch.mean(torch.square(one.detach() - two)) + 1e-8)

    replay(DistReg(make_backbone(), optimizer=adam, weight=weight), away)


def test_dist_reg_goes_further_than_without(fit, make_backbone, make_data):
    found = []
    for weight in (0.0, 30.0):
        module = DistReg(make_backbone(), optimizer=adam, weight=weight)
        logged = fit(module, make_data(), max_epochs=3).callback_metrics
        found.append(float(logged["train/distance"]))
        assert float(logged["train/retain_loss"]) > 0
    assert found[1] > 1.2 * found[0] > 0


class AtFirst(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 0:
            self.start = copy.deepcopy(pl_module.backbone)


def test_weight_distortion_by_the_released_loop(replay, make_backbone):
    """vision_unlearner.py:423-425, 486; model_utils.py:9-24."""
    draw = generator(0, "distortion")

    @torch.no_grad()
    def distort(network):
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, dtype=torch.float64, generator=draw)

    replay(WeightDistortion(make_backbone(), optimizer=adam, sigma=0.05), None, distort)


def test_every_weight_gets_noise_of_the_run_seed_but_for_frozen_ones(fit, make_backbone, make_data, monkeypatch):
    noises = []
    for seed in ("0", "1"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        backbone, first = make_backbone(), AtFirst()
        backbone.encoder.stem.requires_grad_(False)
        fit(WeightDistortion(backbone, sigma=0.1), make_data(), first)
        pairs = zip(first.start.named_parameters(), make_backbone().parameters(), strict=True)
        noises.append({name: after.detach() - before.detach() for (name, after), before in pairs})
        for name, noise in noises[-1].items():
            assert bool((noise == 0).all()) == name.startswith("encoder.stem"), name
        drawn = torch.cat([n.flatten() for name, n in noises[-1].items() if not name.startswith("encoder.stem")])
        assert 0.095 < float(drawn.std()) < 0.105
        buffers = zip(first.start.buffers(), make_backbone().buffers(), strict=True)
        assert all(torch.equal(one, two) for one, two in buffers)
    assert not torch.equal(noises[0]["head.weight"], noises[1]["head.weight"])


@pytest.mark.parametrize(("weight", "cap"), [(0.001, 50.0), (300.0, 0.002)])
def test_mode_connectivity_by_the_released_loop(replay, make_backbone, weight, cap):
    """vision_unlearner.py:326-365, 653-662."""
    capped = []

    def barrier(network, pretrained, batch):
        images, labels = (torch.cat([batch[part][place] for part in ("retain", "forget")]) for place in (0, 1))
        before, after = dict(pretrained.named_parameters()), dict(network.named_parameters())
        mixed = {name: 0.5 * before[name].detach() + 0.5 * after[name] for name in before}
        mixed |= {name: value.clone() for name, value in network.named_buffers()}
        loss = -cross_entropy(functional_call(network, mixed, (images,)), labels)
        capped.append(bool(loss < -cap))
        return weight * torch.max(loss, torch.tensor(-cap, dtype=loss.dtype))

    replay(ModeConnectivity(make_backbone(), optimizer=adam, weight=weight, cap=cap), barrier)
    assert set(capped) == ({False} if cap == 50 else {False, True})


def test_the_loss_at_the_midpoint_is_raised(fit, make_backbone, make_data):
    found = []
    for weight in (0.0, 300.0):
        module = ModeConnectivity(make_backbone(), optimizer=adam, weight=weight)
        found.append(float(fit(module, make_data(), max_epochs=3).callback_metrics["train/midpoint_loss"]))
    assert found[1] > 1.5 * found[0]


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (DistReg, {"weight": -1.0}, r"weight is -1.0, but must be at least 0"),
        (WeightDistortion, {"sigma": -0.1}, r"sigma is -0.1, but must be at least 0"),
        (ModeConnectivity, {"weight": float("nan")}, r"weight is nan"),
        (ModeConnectivity, {"cap": 0.0}, r"cap is 0.0, but must be above 0"),
    ],
)
def test_options_out_of_range(make_backbone, method, options, message):
    with pytest.raises(UsageError, match=message):
        method(make_backbone(), **options)
