import math

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn, optim

from lit_unlearn.backbones import Custom
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import MSG
from lit_unlearn.seed import generator

LR, MOMENTUM, DECAY = 0.05, 0.9, 0.01


def cross_entropies(network, images, labels):
    return -torch.log_softmax(network(images), 1)[torch.arange(len(labels)), labels]


def kernels(network):
    return {name: value for name, value in network.named_parameters() if value.dim() == 4}


def small(network, data, fraction):
    """In each kernel, the entries of which forget and retain ask most nearly the same, sample by sample."""
    network, difference = network.double().eval(), {}
    parts = {1 / len(data.split.forget): data.split.forget, -1 / len(data.split.retain): data.split.retain}
    assert len(parts) == 2
    for weight, indices in parts.items():
        for index in indices.tolist():
            network.zero_grad()
            image, label = (data.data.train_images[[index]] / 255).double(), data.data.train_labels[[index]]
            cross_entropies(network, image, label).sum().backward()
            for name, kernel in kernels(network).items():
                difference[name] = difference.get(name, 0) + weight * kernel.grad
    return masks_of(difference, fraction)


def masks_of(difference, fraction):
    masks = {}
    for name, value in difference.items():
        ranked = value.abs().flatten().sort().values
        count = round(fraction * len(ranked))
        if count < len(ranked):
            assert ranked[count] > ranked[count - 1] * (1 + 1e-9), "a tie would leave the mask open"
        masks[name] = value.abs() <= ranked[count - 1]
        assert int(masks[name].sum()) == count
    return masks


def redrawn(network, masks):
    draw = generator(0, "kernels")
    with torch.no_grad():
        for name, kernel in kernels(network).items():
            out, _, height, width = kernel.shape
            fresh = torch.randn(kernel.shape, dtype=torch.float64, generator=draw) * math.sqrt(
                2 / (out * height * width)
            )
            kernel[masks[name]] = fresh[masks[name]]
    return network


@pytest.mark.parametrize(
    ("options", "classes"), [({}, [0, 1]), ({"fraction": 0.6, "damping": 0.5}, [0]), ({"fraction": 1.0}, [0])]
)
def test_two_epochs_fine_tune_what_was_partly_drawn_anew(
    fit, make_backbone, make_data, sgd, recorder, options, classes
):
    data = make_data(classes=classes)
    module = MSG(make_backbone(), optimizer=sgd, **options)
    fit(module, data, recorder, max_epochs=2, precision="64-true")
    masks = small(make_backbone(), data, options.get("fraction", 0.3))
    plain = redrawn(make_backbone().double().train(), masks)
    assert len(recorder.batches) == 2 * (5 if classes == [0] else 3)
    follow_training(module.backbone, plain, masks, recorder.batches, options.get("damping", 0.1))


def follow_training(found, plain, masks, batches, damping=0.1):
    """Trains the plain network on the same batches; every weight and buffer must agree to 1e-9."""
    speed = {name: torch.zeros_like(p) for name, p in plain.named_parameters()}
    for batch in batches:
        plain.zero_grad()
        cross_entropies(plain, *batch["retain"]).mean().backward()
        with torch.no_grad():
            for name, parameter in plain.named_parameters():
                gradient = parameter.grad
                if name in masks:
                    gradient = torch.where(masks[name], gradient, gradient * damping)
                speed[name] = MOMENTUM * speed[name] + gradient + DECAY * parameter
                parameter -= LR * speed[name]
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=0, atol=1e-9, msg=name)


def keep_shuffled(data, monkeypatch):
    """The batches of the released code's passes as they come, by the part that they are of."""
    seen, passes = {}, data.shuffled_batches

    def watched(part, *args):
        for batch in passes(part, *args):
            seen.setdefault(part, []).append(batch)
            yield batch

    monkeypatch.setattr(data, "shuffled_batches", watched)
    return seen


@pytest.mark.parametrize("classes", [[0, 1], [0, 1, 2]])
def test_by_the_released_code_mean_gradients_of_batches_choose(
    fit, make_backbone, make_data, sgd, recorder, monkeypatch, classes
):
    data = make_data(classes=classes, batch_size=10)
    seen = keep_shuffled(data, monkeypatch)
    module = MSG(make_backbone(), optimizer=sgd, gradients="per_batch")
    fit(module, data, recorder, max_epochs=2, precision="64-true")
    assert list(seen) == ["retain", "forget"]
    size = len(data.split.forget)
    for part, count in (("retain", min(size, len(data.split.retain))), ("forget", size)):
        assert [len(labels) for _, labels in seen[part]] == [10] * (count // 10) + [count % 10]
        labels = torch.cat([labels for _, labels in seen[part]])
        assert set(labels.tolist()) == (set(classes) if part == "forget" else {0, 1, 2, 3} - set(classes))
    plain, difference = make_backbone().double().train(), {}
    for part, sign in (("retain", 1), ("forget", -1)):
        for images, labels in seen[part]:
            plain.zero_grad()
            cross_entropies(plain, images, labels).mean().backward()
            for name, kernel in kernels(plain).items():
                difference[name] = difference.get(name, 0) + sign * kernel.grad
    masks = masks_of(difference, 0.3)
    follow_training(module.backbone, redrawn(plain, masks), masks, recorder.batches)


class SaveFirst(Callback):
    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)


def test_a_resumed_run_of_the_released_code_chooses_the_same_and_draws_nothing(
    fit, make_trainer, make_backbone, make_data, trained_file, tmp_path
):
    ends = []
    for start in (None, tmp_path / "first.ckpt"):
        module = MSG(make_backbone(), trained_file, gradients="per_batch")
        trainer = make_trainer(SaveFirst(tmp_path / "first.ckpt"), max_epochs=2, enable_checkpointing=True)
        trainer.fit(module, datamodule=make_data(), ckpt_path=start, weights_only=True)
        ends.append(module.backbone.state_dict())
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_the_released_code_too_can_forget_one_image(fit, make_backbone, one_image, monkeypatch):
    seen = keep_shuffled(one_image, monkeypatch)
    fit(MSG(make_backbone(), gradients="per_batch"), one_image)
    for part in ("retain", "forget"):
        ((images, _),) = seen[part]
        assert torch.equal(images[0], images[1]), part  # BatchNorm cannot train on one
        assert len(images) == 2, part


class AtFirst(Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 0:
            self.state = {name: value.clone() for name, value in pl_module.backbone.state_dict().items()}


def test_nothing_else_is_drawn_anew_and_what_is_kept_stands_without_gradient(
    fit, make_backbone, make_data, trained_state
):
    first = AtFirst()
    module = MSG(make_backbone(), optimizer=lambda params: optim.SGD(params, lr=0.05, momentum=0.9), damping=0.0)
    fit(module, make_data(), first, max_epochs=2)
    convolutions = {f"{n}.weight" for n, m in module.backbone.named_modules() if isinstance(m, nn.Conv2d)}
    for name, value in trained_state.items():
        fresh = first.state[name] != value
        assert int(fresh.sum()) == (round(0.3 * value.numel()) if name in convolutions else 0), name
        if name in convolutions:
            end = module.backbone.state_dict()[name]
            assert torch.equal(end[~fresh], value[~fresh]), name
            assert (end[fresh] != first.state[name][fresh]).float().mean() > 0.9, name


def test_another_seed_draws_other_values_at_the_same_places(fit, make_backbone, make_data, trained_state, monkeypatch):
    states = []
    for seed in ("0", "1"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        first = AtFirst()
        fit(MSG(make_backbone()), make_data(), first)
        states.append(first.state)
    for name, value in trained_state.items():
        places = [state[name] != value for state in states]
        assert torch.equal(*places), name
        assert not (states[0][name] == states[1][name])[places[0]].any(), name


def test_a_frozen_convolution_is_left_alone(fit, make_backbone, make_data, trained_state):
    backbone = make_backbone()
    backbone.encoder.stem.requires_grad_(False)
    fit(MSG(backbone), make_data())
    for name, value in kernels(backbone).items():
        assert torch.equal(value, trained_state[name]) == name.startswith("encoder.stem"), name


def test_a_network_without_convolutions_is_refused():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(UsageError, match="MSG re-initialises convolutions, but a Sequential has none that learns"):
        MSG(Custom(network, in_channels=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 0.0}, "fraction is 0.0"),
        ({"fraction": 1.5}, "fraction is 1.5"),
        ({"damping": -0.1}, r"damping is -0.1"),
        ({"damping": float("nan")}, r"damping is nan"),
        ({"gradients": "per_epoch"}, r"unknown gradients 'per_epoch'.*\(allowed: per_batch, per_sample\)"),
    ],
)
def test_options_out_of_range(make_backbone, options, message):
    with pytest.raises(UsageError, match=message):
        MSG(make_backbone(), **options)
