import time

import pytest
import torch
from torch import optim

from lit_unlearn.data import UnlearnDataModule
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import RandomLabels, SalUn

LR, MOMENTUM, DECAY = 0.05, 0.9, 0.01


def cross_entropies(network, images, labels):
    return -torch.log_softmax(network(images), 1)[torch.arange(len(labels)), labels]


def salient(network, data, fraction, batches=None):
    """The top share of |Σ_Df ∇CE| of the original in eval mode, ranked over all parameters.

    The gradients are of samples, or the mean ones of the batches that were seen.
    """
    network = network.double().eval().requires_grad_()
    sums = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    if batches is None:
        images, labels = data.data.train_images, data.data.train_labels
        batches = [((images[[index]] / 255).double(), labels[[index]]) for index in data.split.forget.tolist()]
    for images, labels in batches:
        network.zero_grad()
        (-cross_entropies(network, images, labels).mean()).backward()
        for name, parameter in network.named_parameters():
            sums[name] += parameter.grad
    ranked = torch.cat([value.abs().flatten() for value in sums.values()]).sort(descending=True).values
    count = int(fraction * len(ranked))
    assert ranked[count - 1] > ranked[count] * (1 + 1e-9), "a tie would leave the mask open"
    return {name: value.abs() >= ranked[count - 1] for name, value in sums.items()}


@pytest.mark.parametrize(
    ("options", "clip"),
    [
        ({}, None),
        ({"fraction": 0.1, "exclude_true": True}, None),
        ({"fraction": 0.3}, 0.05),
        ({"fraction": 0.3, "gradients": "per_batch"}, None),
    ],
)
def test_two_epochs_move_the_salient_weights_by_random_labels(
    fit, make_backbone, make_data, sgd, recorder, options, clip, monkeypatch
):
    size = 10 if "gradients" in options else 8
    data, seen, shuffled = make_data(batch_size=size), [], UnlearnDataModule.shuffled_batches

    def keep(self, *args):
        seen.extend(shuffled(self, *args))
        return iter(seen)

    monkeypatch.setattr(UnlearnDataModule, "shuffled_batches", keep)
    module = SalUn(make_backbone(), optimizer=sgd, **options)
    settings = {"max_epochs": 2, "precision": "64-true", "gradient_clip_val": clip}
    fit(module, data, recorder, **settings)
    assert sorted(len(labels) for _, labels in seen) == ([4, 10, 10] if "gradients" in options else [])
    mask = salient(make_backbone(), data, options.get("fraction", 0.5), seen or None)
    plain = make_backbone().double().train()
    speed = {name: torch.zeros_like(p) for name, p in plain.named_parameters()}
    assert len(recorder.batches) == 12
    for step, batch in enumerate(recorder.batches):
        ((part, (images, labels)),) = batch.items()
        assert part == ("forget" if step % 6 < 3 else "retain")
        if step % 6 == 0:
            generator = torch.Generator().manual_seed(step // 6 * 4099)  # seed 0, epoch 0 or 1, rank 0
        if part == "forget":
            low = 1 if "exclude_true" in options else 0
            drawn = torch.randint(low, 4, labels.shape, generator=generator)
            labels = (labels + drawn) % 4 if low else drawn
        plain.zero_grad()
        cross_entropies(plain, images, labels).mean().backward()
        gradients = {name: p.grad * mask[name] for name, p in plain.named_parameters()}
        if clip is not None:
            norm = torch.sqrt(sum((g**2).sum() for g in gradients.values()))
            gradients = {name: g * min(1.0, clip / (float(norm) + 1e-6)) for name, g in gradients.items()}
        with torch.no_grad():
            for name, parameter in plain.named_parameters():
                speed[name] = MOMENTUM * speed[name] + gradients[name] + DECAY * parameter
                parameter[mask[name]] -= LR * speed[name][mask[name]]
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(module.backbone.state_dict()[name], value, rtol=0, atol=1e-9, msg=name)


OPTIMIZERS = {
    "SGD": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1),
    "Nesterov": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1, nesterov=True, foreach=False),
    "Adam": lambda p: optim.Adam(p, lr=1e-3, weight_decay=0.1),
    "AdamW": lambda p: optim.AdamW(p, lr=1e-3, weight_decay=0.1),
    "NAdam": lambda p: optim.NAdam(p, lr=1e-3, weight_decay=0.1),
    "RMSprop": lambda p: optim.RMSprop(p, lr=1e-3, momentum=0.9, weight_decay=0.1),
    "Adagrad": lambda p: optim.Adagrad(p, lr=1e-3, weight_decay=0.1),
    "Adafactor": lambda p: optim.Adafactor(p, lr=1e-3, weight_decay=0.1),
    "ASGD": lambda p: optim.ASGD(p, lr=1e-2, lambd=0.1, weight_decay=0.1),
    "LBFGS": lambda p: optim.LBFGS(p, lr=0.1, max_iter=2),
}


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_other_weights_end_bit_equal_whatever_the_optimizer(fit, make_backbone, make_data, name):
    data = make_data()
    module = SalUn(make_backbone(), optimizer=OPTIMIZERS[name], fraction=0.3)
    fit(module, data, max_epochs=2, precision="64-true", accumulate_grad_batches=1 if name == "LBFGS" else 2)
    assert module.diverged is None
    for key, mask in salient(make_backbone(), data, 0.3).items():
        start, end = make_backbone().double().get_parameter(key), module.backbone.get_parameter(key)
        assert torch.equal(start[~mask], end[~mask]), key
        moved = start[mask] != end[mask]
        assert moved.double().mean() > 0.9 if mask.any() else True, key


def test_half_precision_keeps_them_too(fit, make_backbone, make_data):
    module = SalUn(make_backbone(), fraction=0.25)
    fit(module, make_data(), precision="bf16-mixed")
    pairs = zip(make_backbone().parameters(), module.backbone.parameters(), strict=True)
    same = torch.cat([(start == end).flatten() for start, end in pairs])
    assert 0.75 * len(same) <= int(same.sum()) < len(same)


def test_all_weights_are_random_labels(fit, make_backbone, make_data, sgd):
    modules = SalUn(make_backbone(), optimizer=sgd, fraction=1.0), RandomLabels(make_backbone(), optimizer=sgd)
    for module in modules:
        fit(module, make_data(), max_epochs=2)
    states = [module.state_dict() for module in modules]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_weights_frozen_by_the_user_stay_and_are_not_ranked(fit, make_backbone, make_data, sgd, trained_state):
    backbone = make_backbone()
    backbone.encoder.requires_grad_(False)
    module = SalUn(backbone, optimizer=sgd, fraction=0.5)
    fit(module, make_data())
    state = module.backbone.state_dict()
    moved = {name: int((state[name] != trained_state[name]).sum()) for name, _ in backbone.named_parameters()}
    assert {name for name, count in moved.items() if count} == {"head.weight", "head.bias"}
    assert moved["head.weight"] + moved["head.bias"] == (16 * 4 + 4) // 2


def test_the_mask_of_a_resumed_run_is_the_original_s(fit, make_backbone, make_data, make_trainer, tmp_path):
    def new():
        return SalUn(make_backbone(), optimizer=OPTIMIZERS["AdamW"])

    whole, half, resumed = new(), new(), new()
    fit(whole, make_data(), max_epochs=3)
    fit(half, make_data(), max_epochs=2).save_checkpoint(tmp_path / "half.ckpt")
    make_trainer(max_epochs=3).fit(resumed, datamodule=make_data(), ckpt_path=tmp_path / "half.ckpt")
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_the_mask_is_made_from_the_forget_set_alone_and_on_the_clock(fit, make_backbone, make_data, monkeypatch):
    data, asked = make_data(), []
    batches = data.evaluation_batches

    def slow(split, device):
        asked.append(split)
        time.sleep(0.5)
        return batches(split, device)

    monkeypatch.setattr(data, "evaluation_batches", slow)
    module = SalUn(make_backbone())
    started = time.perf_counter()
    fit(module, data, limit_val_batches=0)
    assert asked == ["forget"]
    assert 0.5 < module.seconds < time.perf_counter() - started


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.01, float("nan")])
def test_fractions_out_of_range(make_backbone, fraction):
    with pytest.raises(UsageError, match=f"fraction is {fraction}"):
        SalUn(make_backbone(), fraction=fraction)


def test_gradients_are_of_samples_or_batches(make_backbone):
    with pytest.raises(UsageError, match=r"unknown gradients 'per_epoch'.*\(allowed: per_batch, per_sample\)"):
        SalUn(make_backbone(), gradients="per_epoch")
