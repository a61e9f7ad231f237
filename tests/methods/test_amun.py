import time

import pytest
import torch

from lit_unlearn.errors import UsageError
from lit_unlearn.methods import AMUN
from lit_unlearn.methods.adversarial import nearest_adversarial

LR, MOMENTUM, DECAY = 0.05, 0.9, 0.01


def cross_entropies(network, images, labels):
    return -torch.log_softmax(network(images), 1)[torch.arange(len(labels)), labels]


def search(network, image, label, radius, steps, restart):
    """PGD with a doubling radius on one image, until another class is seen; also the last radius."""
    moved, size = image, radius
    while True:
        if restart:
            moved = image
        for step in range(steps + 1):
            moved = moved.detach().requires_grad_()
            seen = int(network(moved[None]).argmax())
            if seen != label:
                return moved.detach(), seen, size
            if step == steps:
                break
            (gradient,) = torch.autograd.grad(cross_entropies(network, moved[None], torch.tensor([label])).sum(), moved)
            change = (moved + size / 10 * gradient / (gradient**2).sum().sqrt() - image).detach()
            length = float((change**2).sum().sqrt())
            if length > size:
                change = change * (size / length)
            moved = (image + change).clamp(0, 1)
        size *= 2


@pytest.mark.ci
@pytest.mark.parametrize(
    "options", [{}, {"radius": 0.2, "steps": 5, "restart": True}, {"radius": 0.01, "steps": 3, "forget_labels": False}]
)
def test_two_epochs_train_on_the_nearest_adversarial_examples_too(
    fit, make_backbone, make_data, sgd, recorder, options
):
    data = make_data(batch_size=10)
    module = AMUN(make_backbone(), optimizer=sgd, **options)
    fit(module, data, recorder, max_epochs=2, precision="64-true")
    plain = make_backbone().double().eval().requires_grad_(False)
    given = {"radius": 0.04, "steps": 50, "restart": False} | options
    own_labels = given.pop("forget_labels", True)
    found = [
        search(plain, (data.data.train_images[index] / 255).double(), int(data.data.train_labels[index]), **given)
        for index in data.split.forget.tolist()
    ]
    assert len({size for *_, size in found}) > 1, "the radius was never doubled"
    moved, seen = torch.stack([image for image, *_ in found]), torch.tensor([label for _, label, _ in found])
    per_epoch = 5 if own_labels else 3
    assert len(recorder.batches) == 2 * per_epoch
    assert {len(batch) for batch in recorder.batches} == {1}
    plain.train().requires_grad_()
    speed = {name: torch.zeros_like(p) for name, p in plain.named_parameters()}
    for step, batch in enumerate(recorder.batches):
        epoch, number = divmod(step, per_epoch)
        if number == 0:
            order = torch.randperm(24, generator=torch.Generator().manual_seed(epoch * 4099)).tolist()
            sizes = [24 // per_epoch + (turn < 24 % per_epoch) for turn in range(per_epoch)]
        share, order = order[: sizes[number]], order[sizes[number] :]
        images, labels = batch["mixed" if own_labels else "retain"][:2]
        images, labels = torch.cat([images, moved[share]]), torch.cat([labels, seen[share]])
        plain.zero_grad()
        cross_entropies(plain, images, labels).mean().backward()
        with torch.no_grad():
            for name, parameter in plain.named_parameters():
                speed[name] = MOMENTUM * speed[name] + parameter.grad + DECAY * parameter
                parameter -= LR * speed[name]
        assert order or number == per_epoch - 1
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(module.backbone.state_dict()[name], value, rtol=0, atol=1e-9, msg=name)


@pytest.mark.parametrize("restart", [False, True])
def test_what_is_found_is_near_in_range_and_of_another_class(make_backbone, make_data, restart):
    network = make_backbone().eval().requires_grad_(False)
    ((images, labels),) = make_data(eval_batch_size=99).evaluation_batches("forget", "cpu")
    labels[0] = (network(images[:1]).argmax() + 1) % 4  # one that it gets wrong
    kept = images.clone()
    moved, answers = nearest_adversarial(network, images, labels, 0.04, 50, restart)
    assert torch.equal(images, kept)
    assert torch.equal(answers, network(moved).argmax(1))
    assert (answers != labels).all()
    assert moved.min() >= 0
    assert moved.max() <= 1
    distances = (moved - images).flatten(1).norm(dim=1)
    assert torch.equal(moved[0], images[0])
    assert distances[1:].min() > 0
    further = images + 0.5 * (moved - images)  # half way there it is still the label
    assert (network(further)[1:].argmax(1) == labels[1:]).float().mean() > 0.9


def test_examples_that_are_taken_for_a_forgotten_class_can_be_left_out(fit, make_backbone, make_data):
    backbone = make_backbone()
    ((images, labels),) = make_data(classes=[0, 1], eval_batch_size=99).evaluation_batches("forget", "cpu")
    moved, answers = nearest_adversarial(backbone.eval().requires_grad_(False), images, labels, 0.04, 50, False)
    assert 0 < (answers <= 1).sum() < len(answers), "some are taken for the other forgotten class"

    class Kept(AMUN):
        def on_train_end(self):
            self.kept = self._adversarial

    for option, some in {True: answers >= 0, False: answers > 1}.items():
        module = Kept(make_backbone(), forgotten_answers=option)
        fit(module, make_data(classes=[0, 1]))
        torch.testing.assert_close(module.kept[0], moved[some], rtol=0, atol=1e-5)
        assert module.kept[1].tolist() == answers[some].tolist()


def test_a_run_without_any_example_says_that_it_does_not_unlearn(fit, make_backbone, make_data):
    backbone = make_backbone()
    with torch.no_grad():
        backbone.head.weight[2:].zero_()
        backbone.head.bias.copy_(torch.tensor([0.0, 0.0, -99.0, -99.0]))
    with pytest.warns(UserWarning, match="AMUN: no sample to forget has an adversarial example to train on"):
        fit(AMUN(backbone, forgotten_answers=False), make_data(classes=[0, 1]))


def test_samples_that_no_step_can_move_go_without(fit, make_backbone, make_data):
    # Those of class 1 it gets wrong as they are.
    for classes, said in {(0, 1): "12 samples to forget have no", (0,): "no sample to forget has an"}.items():
        backbone = make_backbone()
        with torch.no_grad():
            backbone.head.weight.zero_()
            backbone.head.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        module = AMUN(backbone, radius=1.0, steps=2)
        with pytest.warns(UserWarning, match=f"AMUN: {said} adversarial example"):
            fit(module, make_data(classes=list(classes)))
        assert module.diverged is None


def test_the_search_is_of_the_forget_set_alone_and_on_the_clock(fit, make_backbone, make_data, monkeypatch):
    data, asked = make_data(), []
    batches = data.evaluation_batches

    def slow(split, device):
        asked.append(split)
        time.sleep(0.5)
        return batches(split, device)

    monkeypatch.setattr(data, "evaluation_batches", slow)
    module = AMUN(make_backbone())
    started = time.perf_counter()
    fit(module, data, limit_val_batches=0)
    assert asked == ["forget"]
    assert 0.5 < module.seconds < time.perf_counter() - started
    assert {name.partition(".")[0] for name in module.state_dict()} <= {"backbone", "split_accuracy"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 0.0}, "radius is 0.0"),
        ({"radius": float("nan")}, "radius is nan"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_options_out_of_range(make_backbone, options, message):
    with pytest.raises(UsageError, match=message):
        AMUN(make_backbone(), **options)
