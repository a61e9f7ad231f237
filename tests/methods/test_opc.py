import math

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

from lit_unlearn.errors import UsageError
from lit_unlearn.methods import OPC

PLACES = {
    "logits": ["logits"],
    "features": ["features"],
    "both": ["logits", "features"],
    "stages": ["stem", "stage2"],
    "features and a stage": ["features", "stage1"],
}


def activations(network, images):
    """What each place holds, read without taps."""
    found, x = {}, (images - network.normalise.mean) / network.normalise.std
    for name, part in network.encoder.named_children():
        x = part(x)
        if x.dim() == 4:
            found[name] = x.mean((2, 3))
    found["features"] = x
    found["logits"] = x @ network.head.weight.T + network.head.bias
    return found


def cross_entropy(logits, labels):
    return -torch.log_softmax(logits, 1)[torch.arange(len(labels)), labels].mean()


def formula(places, target="origin", squared=False, weight=1.0, distill=None, keep=None):
    """E_Dr[CE] + λ Σ_places E_Df[‖u − c‖ or its square], with one pass for both sets."""

    def loss(network, batch, step):
        (images, labels), (forget, _) = batch["retain"], batch["forget"]
        n, found = len(images), activations(network, torch.cat([images, forget]))
        if keep is not None:
            keep.append({p: {"retain": v[:n].detach(), "forget": v[n:].detach()} for p, v in found.items()})
        total = cross_entropy(found["logits"][:n], labels)
        for place in places:
            u, kept = found[place][n:], found[place][:n].detach()
            point = {
                "origin": lambda u=u: torch.zeros_like(u),
                "retain_mean": lambda u=u, kept=kept: kept.mean(0).expand_as(u),
                "uniform": lambda u=u: u.mean(1, keepdim=True).expand_as(u),
                "random_point": lambda u=u: random_point(u.shape[1]).expand_as(u),
            }[target]()
            distance = ((u - point) ** 2).sum(1)
            total = total + weight * (distance if squared else distance.sqrt()).mean()
        return total + distill(network, images, found["logits"][:n]) if distill else total

    return loss


def random_point(width):
    point = torch.rand(width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return point / point.square().sum().sqrt()


@pytest.mark.parametrize("contract", list(PLACES))
def test_two_steps_contract_where_asked(follow, make_backbone, sgd, contract):
    asked = contract if contract in ("logits", "features", "both") else PLACES[contract]
    follow(OPC(make_backbone(), optimizer=sgd, contract=asked), formula(PLACES[contract]))


@pytest.mark.parametrize("norm", ["l2", "squared"])
@pytest.mark.parametrize("target", ["origin", "retain_mean", "random_point", "uniform"])
def test_two_steps_contract_to_the_target_by_the_norm(follow, make_backbone, sgd, target, norm):
    module = OPC(make_backbone(), optimizer=sgd, contract="both", target=target, norm=norm, weight=0.3)
    follow(module, formula(PLACES["both"], target, squared=norm == "squared", weight=0.3))


def test_an_epoch_is_one_pass_over_retain_with_a_forget_batch_in_each_step(fit, make_backbone, make_data, recorder):
    data = make_data(classes=[0], forget_batch_size=4)
    fit(OPC(make_backbone()), data, recorder)
    retained = torch.cat([batch["retain"][1] for batch in recorder.batches])
    assert len(retained) == len(data.split.retain)
    assert all((batch["forget"][1] == 0).all() and len(batch["forget"][1]) == 4 for batch in recorder.batches)


def test_the_random_point_depends_on_the_run_seed(fit, make_backbone, make_data, monkeypatch):
    states = []
    for seed in ("0", "1"):
        module = OPC(make_backbone(), target="random_point", weight=5.0)
        monkeypatch.setattr("lit_unlearn.methods.opc.run_seed", lambda seed=seed: int(seed))
        fit(module, make_data())
        states.append(module.backbone.state_dict()["head.weight"])
    assert not torch.equal(*states)


def test_freeze_head_keeps_the_head_bit_equal_and_trains_the_encoder(follow, make_backbone, sgd, trained_state):
    module = OPC(make_backbone(), optimizer=sgd, freeze_head=True)
    follow(module, formula(["logits"]), frozen=("head.",))
    assert torch.equal(module.backbone.head.weight, trained_state["head.weight"].double())
    assert torch.equal(module.backbone.head.bias, trained_state["head.bias"].double())


@pytest.mark.parametrize("forget", [{"classes": [0, 2]}, {"fraction": 0.3}])
def test_distillation_matches_the_original_on_the_classes_that_stay(
    follow, make_backbone, sgd, make_data, trained_state, forget
):
    original = make_backbone().double().eval()
    kept = [1, 3] if "classes" in forget else [0, 1, 2, 3]

    def term(network, images, logits):
        with torch.no_grad():
            p = torch.softmax(original(images)[:, kept] / 3, 1)
        q = torch.softmax(logits[:, kept] / 3, 1)
        return 0.7 * 9 * (p * (p.log() - q.log())).sum() / len(images)

    module = OPC(make_backbone(), optimizer=sgd, distill=0.7, temperature=3.0)
    follow(module, formula(["logits"], distill=term), data=make_data(**forget))
    teacher = module.teacher.state_dict()
    assert all(torch.equal(teacher[name], value.double()) for name, value in trained_state.items() if "num" not in name)


def test_the_depth_of_the_last_batch_is_logged_beside_the_entropy_floor(follow, make_backbone, sgd):
    seen = []
    module = OPC(make_backbone(), optimizer=sgd, contract="features")
    _, _, trainer = follow(
        module, formula(["features"], keep=seen), steps=3
    )  # 24 retain images: the third step is the last of the epoch
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    for part in ("forget", "retain"):
        z, h = (seen[-1][place][part].numpy() for place in ("logits", "features"))
        s = np.linalg.svd(h - h.mean(0), compute_uv=False)
        share = s[s > 1e-12] / s.sum()
        expected = {
            "logit_norm": np.sqrt((z**2).sum(1)).mean(),
            "feature_norm": np.sqrt((h**2).sum(1)).mean(),
            "feature_variance": h.var(0).mean(),
            "effective_rank": math.exp(-(share * np.log(share)).sum()),
        }
        for name, value in expected.items():
            assert logged[f"depth/{part}_{name}"] == pytest.approx(value, rel=1e-4), (part, name)
    a = float(seen[-1]["logits"]["forget"].norm(dim=1).max()) * math.sqrt(4 / 3)
    floor = math.log(1 + 3 * math.exp(-a)) + 3 * a * math.exp(-a) / (1 + 3 * math.exp(-a))
    assert logged["depth/forget_entropy_floor"] == pytest.approx(floor, rel=1e-4)


def test_no_forget_sample_is_surer_than_the_floor_allows(fit, make_backbone, make_data, recorder):
    module = OPC(make_backbone())
    trainer = fit(module, make_data(), recorder, max_epochs=1, limit_train_batches=1)
    batch, n = recorder.batches[0], len(recorder.batches[0]["retain"][0])
    with torch.no_grad():
        logits = recorder.start.train()(torch.cat([batch["retain"][0], batch["forget"][0]]))[n:]
    entropy = torch.special.entr(logits.double().softmax(1)).sum(1)
    assert float(entropy.min()) >= float(trainer.callback_metrics["depth/forget_entropy_floor"]) - 1e-6


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"contract": "featuers"}, r"unknown place to contract 'featuers'; did you mean 'features'.*both.*stage1"),
        (
            {"contract": ["logits", "stage9"]},
            r"unknown place to contract 'stage9'.*stage1, stage2, stage3, stages, stem",
        ),
        ({"contract": []}, r"contract is \[\]: it must name at least one place"),
        ({"target": "orgin"}, r"unknown target 'orgin'; did you mean 'origin'.*random_point, retain_mean, uniform"),
        ({"norm": "l1"}, r"unknown norm 'l1'.*allowed: l2, squared"),
        ({"weight": -1.0}, "weight is -1.0"),
        ({"weight": {"logits": -1.0}}, "weight.logits is -1.0"),
        ({"weight": {"stage1": 1.0}}, "unknown place with a weight 'stage1'.*allowed: logits"),
        ({"schedule": "cosine"}, r"unknown schedule 'cosine'.*allowed: constant, linear"),
        ({"release": -1}, "release is -1"),
        ({"release_distill": -0.5}, "release_distill is -0.5"),
        ({"stop_at": 0.0}, r"stop_at is 0.0, but must lie in \(0, 1\)"),
        ({"release": 1, "blend": 1.5}, "blend is 1.5"),
        ({"release": 1, "redraw": -0.5}, "redraw is -0.5"),
        ({"redraw": 0.5}, "blend, redraw and fresh_head change weights when release begins: set release or stop_at"),
        ({"fresh_head": True}, "blend, redraw and fresh_head change weights when release begins"),
        ({"release": 1, "fresh_head": "half"}, "unknown fresh_head 'half'"),
        (
            {"fresh_head": True, "release": 1, "freeze_head": True},
            "fresh_head draws the head anew, but the head does not",
        ),
        ({"distill": -0.5}, "distill is -0.5"),
        ({"temperature": 0.0}, "temperature is 0.0"),
    ],
)
def test_options_out_of_range(make_backbone, option, message):
    with pytest.raises(UsageError, match=message):
        OPC(make_backbone(), **option)


def test_freezing_a_head_above_a_frozen_encoder_is_refused(make_backbone):
    backbone = make_backbone()
    backbone.encoder.requires_grad_(False)
    with pytest.raises(UsageError, match="freeze_head leaves nothing to train"):
        OPC(backbone, freeze_head=True, contract="features")


STAGES = ["stem", "stage1", "stage2", "stage3"]


def kl(taught, logits, weight, temperature=2.0, kept=(1, 3)):
    """What distillation adds, of the classes that stay."""
    p, q = (torch.softmax(z[:, list(kept)] / temperature, 1) for z in (taught, logits))
    return weight * temperature**2 * (p * (p.log() - q.log())).sum() / len(logits)


def test_contraction_of_every_stage_then_release(follow, make_backbone, make_data, sgd):
    """Two epochs contract, λ of each stage and half of it in the second; the last has the retain set alone."""
    original = make_backbone().double().eval()
    weights = {"stem": 0.2, "stage2": 0.7}

    def loss(network, batch, step):
        images, labels = batch["retain"]
        assert ("forget" in batch) == (step < 6)
        if step >= 6:
            logits = network(images)
            return cross_entropy(logits, labels) + kl(original(images).detach(), logits, 0.3)
        found = activations(network, torch.cat([images, batch["forget"][0]]))
        total = cross_entropy(found["logits"][: len(images)], labels)
        for name in STAGES:
            norm = (found[name][len(images) :] ** 2).sum(1).sqrt().mean()
            total = total + (1 if step < 3 else 0.5) * weights.get(name, 1.0) * norm
        return total

    settings = {"contract": "stages", "weight": weights, "schedule": "linear", "release": 1, "release_distill": 0.3}
    module = OPC(make_backbone(), optimizer=sgd, **settings)
    follow(module, loss, data=make_data(classes=[0, 2]), steps=9, epochs=3)


def test_contraction_ends_at_the_step_after_the_variance_has_fallen_far_enough(follow, make_backbone, make_data, sgd):
    variances, ended, seen = [], [], []

    def loss(network, batch, step):
        images, labels = batch["retain"]
        seen.append(sum(len(images) for images, _ in batch.values()))
        if ended:
            assert "forget" not in batch
            return cross_entropy(network(images), labels)
        found = activations(network, torch.cat([images, batch["forget"][0]]))
        u = found["features"][len(images) :]
        now = float(u.detach().var(0, correction=0).mean())
        variances.append(now if not variances else 0.8 * variances[-1] + 0.2 * now)
        first = variances[0]
        if variances[-1] <= 0.7 * first:
            ended.append(step)
        return cross_entropy(found["logits"][: len(images)], labels) + 5 * (u**2).sum(1).sqrt().mean()

    module = OPC(make_backbone(), optimizer=sgd, contract="features", weight=5.0, stop_at=0.7)
    follow(module, loss, data=make_data(classes=[0, 2]), steps=12, epochs=4)
    assert ended
    assert ended[0] % 3 != 2  # inside an epoch, whose other pairs lose their forget images
    assert module._released
    assert module.images_seen == sum(seen)


@pytest.mark.parametrize(("epochs", "contracting"), [(1, 2), (3, 5), (4, 6)])
def test_where_the_variance_does_not_fall_half_of_the_steps_contract(
    follow, make_backbone, make_data, sgd, epochs, contracting
):
    def loss(network, batch, step):
        images, labels = batch["retain"]
        assert ("forget" in batch) == (step < contracting)
        if "forget" not in batch:
            return cross_entropy(network(images), labels)
        found = activations(network, torch.cat([images, batch["forget"][0]]))
        u = found["features"][len(images) :]
        return cross_entropy(found["logits"][: len(images)], labels) + 0.01 * (u**2).sum(1).sqrt().mean()

    module = OPC(make_backbone(), optimizer=sgd, contract="features", weight=0.01, stop_at=0.001)
    with pytest.warns(UserWarning, match=r"variance of .* at features is .* of what it was, not 0.001"):
        follow(module, loss, data=make_data(classes=[0, 2]), steps=3 * epochs, epochs=epochs)
    assert module._released


class AtRelease(Callback):
    """The weights before and after release begins, and which have momentum then."""

    def on_train_epoch_end(self, trainer, module):
        if trainer.current_epoch == 0:
            self.before = {name: value.detach().clone() for name, value in module.backbone.named_parameters()}

    def on_before_zero_grad(self, trainer, module, optimizer):
        if trainer.current_epoch == 1 and not hasattr(self, "after"):
            self.after = {name: value.detach().clone() for name, value in module.backbone.named_parameters()}
            self.momentum = {name for name, value in module.backbone.named_parameters() if value in optimizer.state}


@pytest.mark.parametrize(("blend", "redraw"), [(0.0, 0.5), (0.7, 0.0), (0.0, 1.0)])
def test_what_is_released_into(fit, make_backbone, make_data, sgd, blend, redraw):
    """A share of kernels and head is fresh, or all of them are mixed with fresh values; nothing else changes."""
    seen, again = AtRelease(), AtRelease()
    for callback in (seen, again):
        module = OPC(make_backbone(), optimizer=sgd, contract="stages", release=1, blend=blend, redraw=redraw)
        fit(module, make_data(), callback, max_epochs=2, limit_val_batches=0)
    for name, kernel in seen.after.items():
        assert torch.equal(kernel, again.after[name])
        assert (name in seen.momentum) == (kernel.ndim == 1)
        if kernel.ndim == 1:
            assert torch.equal(kernel, seen.before[name])
            continue
        kept = float((kernel == seen.before[name]).double().mean())
        if blend:
            fresh = (kernel - (1 - blend) * seen.before[name]) / blend
            assert kept == 0
        else:
            assert kept == pytest.approx(1 - redraw, abs=0.5 / kernel.numel())
            fresh = kernel[kernel != seen.before[name]]
        size = kernel.shape[0] * kernel[0, 0].numel()
        deviation = math.sqrt(2 / size if kernel.ndim == 4 else 1 / (3 * kernel.shape[1]))
        assert float(fresh.std()) == pytest.approx(deviation, rel=4 / math.sqrt(fresh.numel()))


def test_a_fresh_head_is_drawn_as_a_whole_and_nothing_else_is(fit, make_backbone, make_data, sgd):
    seen, again = AtRelease(), AtRelease()
    for callback in (seen, again):
        module = OPC(make_backbone(), optimizer=sgd, contract="stages", release=1, fresh_head=True)
        fit(module, make_data(), callback, max_epochs=2, limit_val_batches=0)
    own = {name for name in seen.after if name.startswith("head.")}
    assert {name for name, value in seen.after.items() if not torch.equal(value, seen.before[name])} == own
    assert seen.momentum == seen.after.keys() - own
    matrix = seen.after["head.weight"]
    assert torch.equal(matrix, again.after["head.weight"])
    assert not (matrix == seen.before["head.weight"]).any()
    assert float(matrix.std()) == pytest.approx(1 / math.sqrt(3 * matrix.shape[1]), rel=4 / math.sqrt(matrix.numel()))
    assert not seen.after["head.bias"].any()


@pytest.mark.parametrize("forget", [{"classes": [0, 2]}, {"fraction": 0.25}])
def test_only_forgotten_classes_get_fresh_rows(fit, make_backbone, make_data, sgd, forget):
    seen, data = AtRelease(), make_data(**forget)
    module = OPC(make_backbone(), optimizer=sgd, contract="stages", release=1, fresh_head="forgotten")
    fit(module, data, seen, max_epochs=2, limit_val_batches=0)
    gone = list(data.split.forgotten_classes)
    assert gone == forget.get("classes", [])
    kept = [row for row in range(len(seen.after["head.bias"])) if row not in gone]
    for name, value in seen.after.items():
        rows = kept if name.startswith("head.") else range(len(value))
        assert torch.equal(value[list(rows)], seen.before[name][list(rows)])
    assert not (seen.after["head.weight"][gone] == seen.before["head.weight"][gone]).any()
    assert not seen.after["head.bias"][gone].any()
    assert ("head.weight" in seen.momentum) == (not gone)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_kernels_that_are_shuffled_at_release_keep_their_values_and_not_their_places(
    fit, make_backbone, make_data, sgd, share
):
    seen, again = AtRelease(), AtRelease()
    for callback in (seen, again):
        settings = {"release": 1, "redraw": share, "redraw_as": "shuffled"}
        module = OPC(make_backbone(), optimizer=sgd, contract="stages", **settings)
        fit(module, make_data(), callback, max_epochs=2, limit_val_batches=0)
    for name, value in seen.after.items():
        before = seen.before[name]
        assert torch.equal(value, again.after[name])
        assert torch.equal(value.flatten().sort().values, before.flatten().sort().values)
        moved = float((value != before).double().mean())
        # of n entries in a random order one stays on average
        expected = share - 1 / value.numel() if value.ndim in (2, 4) else 0
        assert moved == pytest.approx(expected, abs=5 / value.numel())


def test_a_release_as_long_as_the_run_is_refused_before_it_begins(fit, make_backbone, make_data):
    with pytest.raises(UsageError, match=r"release is 2, but must be below trainer.max_epochs, 2"):
        fit(OPC(make_backbone(), release=2), make_data(), max_epochs=2)


class EveryEpoch(Callback):
    """Saves a checkpoint to resume from after each epoch."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_epoch_end(self, trainer, module):
        trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")


@pytest.mark.parametrize("settings", [{"release": 2}, {"stop_at": 0.7}])
def test_a_resumed_run_ends_as_if_it_had_not_been_interrupted(
    fit, make_trainer, make_backbone, make_data, sgd, tmp_path, settings
):
    def method():
        return OPC(make_backbone(), optimizer=sgd, contract="features", weight=5.0, redraw=0.5, **settings)

    whole = method()
    fit(whole, make_data(), EveryEpoch(tmp_path), max_epochs=4, limit_val_batches=0)
    assert whole._released
    for epoch in range(3):
        resumed = method()
        trainer = make_trainer(max_epochs=4, limit_val_batches=0)
        trainer.fit(resumed, datamodule=make_data(), ckpt_path=tmp_path / f"{epoch}.ckpt", weights_only=True)
        for name, value in whole.backbone.state_dict().items():
            assert torch.equal(value, resumed.backbone.state_dict()[name]), (epoch, name)
