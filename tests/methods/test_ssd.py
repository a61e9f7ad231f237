import pytest
import torch
from lightning.pytorch import Callback

from lit_unlearn.errors import UsageError
from lit_unlearn.methods import SSD


def squared_gradients(network, images, labels):
    network.zero_grad()
    (-torch.log_softmax(network(images), 1)[torch.arange(len(labels)), labels].mean()).backward()
    return {name: parameter.grad**2 for name, parameter in network.named_parameters()}


def mean(groups, network):
    found = [squared_gradients(network, images, labels) for images, labels in groups]
    return {name: sum(each[name] for each in found) / len(found) for name in found[0]}


def samples(data, indices):
    return [((data.data.train_images[[i]] / 255).double(), data.data.train_labels[[i]]) for i in indices.tolist()]


def batches_of(batches, part, size, by_class):
    """A part's samples in the order in which they came, in batches of one class; what is left makes batches, too."""
    images, labels = (torch.cat([batch[part][place] for batch in batches if part in batch]) for place in (0, 1))
    groups = [labels == label for label in labels.unique()] if by_class else [torch.ones_like(labels, dtype=torch.bool)]
    full, left = [], []
    for group in groups:
        for batch in zip(images[group].split(size), labels[group].split(size), strict=True):
            (full if len(batch[1]) == size else left).append(batch)
    if left:
        images, labels = (torch.cat(parts) for parts in zip(*left, strict=True))
        full += zip(images.split(size), labels.split(size), strict=True)
    return full


@pytest.mark.parametrize(
    ("importance", "alpha", "dampening"), [("per_sample", 1.3, 0.7), ("per_batch", 1.3, 0.7), ("per_batch", None, 1.0)]
)
@pytest.mark.parametrize(("forget", "forget_batch_size"), [([0, 1], None), ([0, 1], 5), (None, 5)])
def test_weights_shrink_where_the_forget_set_matters_more(
    fit, make_backbone, make_data, recorder, importance, alpha, dampening, forget, forget_batch_size
):
    data = make_data(forget, None if forget else 0.5, forget_batch_size=forget_batch_size)
    module = SSD(make_backbone(), alpha=alpha, dampening=dampening, importance=importance, chunk_size=3)
    trainer = fit(module, data, recorder, precision="64-true")
    plain = make_backbone().double().eval()
    if importance == "per_sample":
        everything = samples(data, torch.arange(48))
        forgotten = samples(data, data.split.forget)
        limit = 2.0
    else:
        size = forget_batch_size or 8
        forgotten = batches_of(recorder.batches, "forget", size, bool(forget))
        everything = forgotten + batches_of(recorder.batches, "retain", 8, bool(forget))
        assert [len(labels) for _, labels in forgotten] == ([8, 8, 8] if forget_batch_size is None else [5] * 4 + [4])
        assert len(everything) == len(forgotten) + 3
        limit = len(everything) / len(forgotten)
    full, gone = mean(everything, plain), mean(forgotten, plain)
    alpha = limit**0.77 if alpha is None else alpha
    assert float(trainer.callback_metrics["train/alpha"]) == pytest.approx(alpha)
    shrunk = 0
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            for i, weight in enumerate(parameter.view(-1).tolist()):
                i_d, i_f = float(full[name].view(-1)[i]), float(gone[name].view(-1)[i])
                assert i_f <= limit * i_d * (1 + 1e-9)
                if i_f > alpha * i_d:
                    shrunk += 1
                    parameter.view(-1)[i] = weight * min(dampening * i_d / i_f, 1)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(module.backbone.state_dict()[name], value, rtol=0, atol=1e-9, msg=name)
    assert 50 < shrunk < 0.9 * sum(p.numel() for p in plain.parameters())


def test_the_loss_is_that_of_the_samples_measured(fit, make_backbone, make_data, recorder):
    trainer = fit(SSD(make_backbone(), importance="per_sample"), make_data(), recorder, precision="64-true")
    plain = make_backbone().double().eval()
    images, labels = recorder.batches[-1]["retain"]
    loss = -torch.log_softmax(plain(images), 1)[torch.arange(len(labels)), labels].mean()
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(loss.item(), rel=1e-5)


def test_no_weight_grows(fit, make_backbone, make_data):
    module = SSD(make_backbone(), alpha=0.5, dampening=1.5)
    trainer = fit(module, make_data())
    pairs = [
        (a.detach(), b.detach())
        for a, b in zip(make_backbone().parameters(), module.backbone.parameters(), strict=True)
    ]
    assert all((b.abs() <= a.abs()).all() and (a * b >= 0).all() for a, b in pairs)
    share = float(trainer.callback_metrics["train/dampened"])
    total = sum(a.numel() for a, _ in pairs)
    assert 0 < sum(int((a != b).sum()) for a, b in pairs) < share * total < total


@pytest.mark.parametrize("settings", [{"max_epochs": 5}, {"max_epochs": 5, "min_epochs": 3}])
def test_it_dampens_once_and_validates_what_came_of_it(fit, make_backbone, make_data, settings):
    class Scores(Callback):
        def on_validation_end(self, trainer, pl_module):
            seen.append({name: float(v) for name, v in trainer.callback_metrics.items() if "val/" in name})

    seen = []
    once, module = SSD(make_backbone(), alpha=1.0, dampening=0.1), SSD(make_backbone(), alpha=1.0, dampening=0.1)
    fit(once, make_data(), max_epochs=1)
    data = make_data()
    trainer = fit(module, data, Scores(), **settings)
    assert trainer.current_epoch == settings.get("min_epochs", 1)
    assert all(torch.equal(value, once.state_dict()[name]) for name, value in module.state_dict().items())
    network = module.backbone.eval()
    with torch.no_grad():
        right = [(network(x).argmax(1) == y) for x, y in data.evaluation_batches("forget", "cpu")]
    assert seen[0]["val/forget_acc"] == pytest.approx(float(torch.cat(right).double().mean()), abs=1e-6)
    assert seen[0]["val/forget_acc"] < 0.9


def test_a_resumed_run_does_not_dampen_again(fit, make_backbone, make_data, make_trainer, tmp_path, recorder):
    module, resumed = (SSD(make_backbone(), alpha=1.0, dampening=0.5) for _ in range(2))
    fit(module, make_data()).save_checkpoint(tmp_path / "run.ckpt")
    make_trainer(recorder, max_epochs=3).fit(resumed, datamodule=make_data(), ckpt_path=tmp_path / "run.ckpt")
    assert recorder.batches == []
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("importance", ["per_sample", "per_batch"])
def test_mixed_precision_changes_nothing(fit, make_backbone, make_data, importance):
    modules = [SSD(make_backbone(), alpha=1.0, importance=importance) for _ in range(2)]
    for module, precision in zip(modules, ["32-true", "bf16-mixed"], strict=True):
        fit(module, make_data(), precision=precision)
    states = [module.state_dict() for module in modules]
    assert not modules[0].is_original()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_weights_frozen_by_the_user_stay(fit, make_backbone, make_data, trained_state):
    backbone = make_backbone()
    backbone.encoder.requires_grad_(False)
    fit(SSD(backbone, alpha=1.0), make_data())
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, trained_state[name]) == (name != "head.weight" and name != "head.bias"), name


@pytest.mark.parametrize("importance", ["per_sample", "per_batch"])
@pytest.mark.parametrize("option", ["alpha", "dampening"])
def test_what_can_dampen_nothing_is_refused_before_anything_is_written(
    fit, make_backbone, make_data, option, importance, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    module = SSD(make_backbone(), **{"alpha": 1.0, "importance": importance, option: 2.0})
    with pytest.raises(UsageError, match=rf"{option} is 2.0, but must be below 2: .* the 24 samples .* all 48"):
        fit(module, make_data())  # half of the data is to be forgotten
    assert not list(tmp_path.iterdir())
    if importance == "per_batch":  # smaller batches of what is to be forgotten are more
        with pytest.raises(UsageError, match=rf"{option} is 2.0, but must be below 1.6: "):
            fit(module, make_data(forget_batch_size=5))


@pytest.mark.parametrize("importance", ["per_sample", "per_batch"])
def test_just_below_the_bound_it_dampens(fit, make_backbone, make_data, importance):
    module = SSD(make_backbone(), alpha=1.9, importance=importance)
    trainer = fit(module, make_data())
    assert float(trainer.callback_metrics["train/dampened"]) > 0
    assert not module.is_original()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"alpha": -1.0}, "alpha is -1.0"),
        ({"dampening": float("nan")}, "dampening is nan"),
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"selectivity": 1.0}, "selectivity is 1.0"),
        ({"importance": "per_image"}, "unknown importance 'per_image'"),
    ],
)
def test_options_out_of_range(make_backbone, option, message):
    with pytest.raises(UsageError, match=message):
        SSD(make_backbone(), **option)
