import math

import numpy as np
import pytest
import torch

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
        ({"contract": ["logits", "stage9"]}, r"unknown place to contract 'stage9'.*stage1, stage2, stage3, stem"),
        ({"contract": []}, "contract is an empty list"),
        ({"target": "orgin"}, r"unknown target 'orgin'; did you mean 'origin'.*random_point, retain_mean, uniform"),
        ({"norm": "l1"}, r"unknown norm 'l1'.*allowed: l2, squared"),
        ({"weight": -1.0}, "weight is -1.0"),
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
