"""Whole loops of the released codes, replayed: loaders, orders, batch sizes, schedules, numbers of steps.

Each function is what the code that runs does, written from the places named, on the samples in the order in which they
came. It cuts the passes into batches itself, and steps torch's own optimizer.
"""

import copy
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax, softmax
from torch.optim import SGD

from lit_unlearn.methods import SCRUB, SSD, BoundaryShrink, NegGradPlus, SalUn
from lit_unlearn.methods import random_labels as random_labels_file

EPOCHS = 3


def rate(number, momentum=0.9, decay=5e-4):
    return lambda parameters: SGD(parameters, lr=number, momentum=momentum, weight_decay=decay)


@pytest.fixture
def replay(fit, make_backbone, recorder):
    """Runs a method in double precision, and hands a plain network and the passes that it saw to a loop."""

    def run(module, data, loop, epochs=EPOCHS):
        fit(module, data, recorder, precision="64-true", max_epochs=epochs, limit_val_batches=0)
        network = make_backbone().double().train()
        loop(network, make_backbone().double().eval().requires_grad_(False), list(recorder.batches))
        for name, value in network.state_dict().items():
            torch.testing.assert_close(module.backbone.state_dict()[name], value, rtol=0, atol=1e-6, msg=name)
        start = make_backbone().double().state_dict()
        assert any(float((value - start[name]).abs().max()) > 1e-4 for name, value in network.state_dict().items())

    return run


def passes(batches, part, length):
    """The samples of each pass over a part, in their order, and that each has every sample once."""
    images, labels = (torch.cat([batch[part][place] for batch in batches if part in batch]) for place in (0, 1))
    found = list(zip(images.split(length), labels.split(length), strict=True))
    assert len(images) % length == 0
    for (one, _), (other, _) in pairwise(found):
        assert torch.equal(one.flatten(1).sum(1).sort().values, other.flatten(1).sum(1).sort().values)
        assert not torch.equal(one, other)  # shuffled anew
    return iter(found)


def cut(samples, size):
    """A DataLoader without drop_last."""
    return zip(samples[0].split(size), samples[1].split(size), strict=True)


def step(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def test_scrub(replay, make_backbone, make_data):
    """meghdadk/SCRUB: large_scale_unlearning.ipynb, cells 28 (loaders), 32, 34, 36; repdistiller/helper/loops.py."""

    def loop(student, teacher, batches):
        forget, retain = passes(batches, "forget", 24), passes(batches, "retain", 24)
        optimizer = SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        maximising = 0

        def divergence(images):
            taught, logits = softmax(teacher(images) / 4, 1), log_softmax(student(images) / 4, 1)
            return (taught * (taught.log() - logits)).sum() * 4**2 / len(images)

        for epoch in range(1, EPOCHS + 1):  # the rate falls after epochs 3, 5 and 9, so never here
            if epoch <= 2:
                for images, _ in cut(next(forget), 10):
                    step(optimizer, -divergence(images))
                    maximising += 1
            for images, labels in cut(next(retain), 7):
                logits = student(images)
                taught, own = softmax(teacher(images) / 4, 1), log_softmax(logits / 4, 1)
                apart = (taught * (taught.log() - own)).sum() * 4**2 / len(images)
                step(optimizer, 0.99 * cross_entropy(logits, labels) + 0.001 * apart)
        assert maximising == 2 * 3  # msteps times ⌈|Df| / 10⌉
        assert [len(batch) for batch in batches].count(1) == len(batches) == 2 * 3 + EPOCHS * 4

    data = make_data(batch_size=7, forget_batch_size=10)
    module = SCRUB(make_backbone(), optimizer=rate(0.05), msteps=2, gamma=0.99, alpha=0.001, temperature=4.0)
    replay(module, data, loop)


@pytest.mark.parametrize("small", [False, True])
def test_neggrad_plus(replay, make_backbone, make_data, small):
    """meghdadk/SCRUB: repdistiller/helper/loops.py, train_negrad; its notebooks give it neither momentum nor decay.

    Small: small_scale_unlearning.ipynb, cell 70, run_neggrad_epoch and l2_penalty.
    """

    def loop(network, teacher, batches):
        forget, retain = passes(batches, "forget", 24), passes(batches, "retain", 24)
        optimizer = SGD(network.parameters(), lr=0.1, momentum=0.0, weight_decay=0.0)
        model_init = copy.deepcopy(network)
        network.train(not small)
        for _ in range(EPOCHS):
            # Both loaders are as long as each other here; where Df is shorter, their cycle repeats its first shuffle.
            for (images, labels), (gone, names) in zip(cut(next(retain), 8), cut(next(forget), 8), strict=True):
                output, del_output = network(images), network(gone)
                r_loss, penalty = cross_entropy(output, labels), 0.0
                for (_, p), (_, p_init) in zip(network.named_parameters(), model_init.named_parameters(), strict=True):
                    penalty += (p - p_init).pow(2).sum()
                r_loss += penalty * (0.1 / 2.0) if small else 0.0
                step(optimizer, 0.95 * r_loss - 0.05 * cross_entropy(del_output, names))

    settings = {"anchor": 0.1, "freeze_batchnorm": True} if small else {}
    module = NegGradPlus(make_backbone(), optimizer=rate(0.1, momentum=0.0, decay=0.0), alpha=0.95, **settings)
    replay(module, make_data(batch_size=8, forget_batch_size=8), loop)


def test_boundary_shrink(replay, make_backbone, make_data):
    """TY-LEE-KR/Boundary-Unlearning-Code: boundary_unlearning.py, boundary_shrink; adv_generator.py, FGSM, clamper."""
    crossed = []

    def loop(network, frozen, batches):
        forget = passes(batches, "forget", 24)
        optimizer = SGD(network.parameters(), lr=0.01, momentum=0.9)
        for _ in range(EPOCHS):
            for images, labels in cut(next(forget), 8):
                x = ((images - 0.5) / 0.5).requires_grad_()  # utils.py:33-35; what their network takes
                (slopes,) = torch.autograd.grad(cross_entropy(frozen(x * 0.5 + 0.5), labels), x)
                x_nat = x.detach() * 0.2023 + 0.4914  # inverse_normalize, of the first channel
                x_adv = x_nat + (slopes.sign() * 0.1).clamp(-0.1, 0.1)
                x_adv = torch.round(x_adv.clamp(0, 1) * 255) / 255
                given.append(((x_adv - 0.4914) / 0.2023) * 0.5 + 0.5)
                across = frozen(given[-1]).argmax(1)
                crossed.append((across != labels).double().mean())
                step(optimizer, cross_entropy(network(images), across))

    settings, given = {"step_size": 0.1 * 0.5 / 0.2023, "bounded": False}, []
    module, seen = BoundaryShrink(make_backbone(), optimizer=rate(0.01, decay=0.0), **settings), []
    module.teacher.register_forward_pre_hook(lambda _, images: seen.append(images[0].detach()))
    replay(module, make_data(batch_size=8), loop)
    coarse = 0.5 / 255 / 0.2023 * 0.5 + 0.5 / 255  # its rounding and ours
    torch.testing.assert_close(torch.cat(seen[1::2]), torch.cat(given), rtol=0, atol=coarse)
    assert 0.1 < float(torch.stack(crossed).mean()) <= 1


def test_salun(replay, make_backbone, make_data, monkeypatch):
    """OPTML-Group/Unlearn-Saliency: Classification/unlearn/RL.py (CIFAR-10), with masked parameters put back.

    The mask is that of generate_mask.py:30-63: mean gradients of batches, of a network in eval mode, added up.
    """
    drawn, ranking = [], []
    given = random_labels_file.random_labels
    monkeypatch.setattr(random_labels_file, "random_labels", lambda *a: drawn.append(given(*a)) or drawn[-1])

    def loop(network, frozen, batches):
        start = copy.deepcopy(network.state_dict())
        forget, retain = passes(batches, "forget", 24), passes(batches, "retain", 24)
        ranked = copy.deepcopy(frozen).requires_grad_()
        assert [len(labels) for _, labels in ranking] == [10, 10, 4]
        everything = next(passes(batches, "forget", 24))[0]
        ranked_on = torch.cat([images for images, _ in ranking])
        assert torch.equal(ranked_on.flatten(1).sum(1).sort().values, everything.flatten(1).sum(1).sort().values)
        for images, names in ranking:
            cross_entropy(ranked(images), names).backward()
        size = torch.cat([p.grad.abs().flatten() for p in ranked.parameters()])
        least = size.sort(descending=True).values[int(0.5 * len(size)) - 1]
        mask = {name: (p.grad.abs() >= least).double() for name, p in ranked.named_parameters()}
        optimizer = SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        labels_drawn = iter(drawn)

        def masked_step(loss):
            optimizer.zero_grad()
            loss.backward()
            for name, parameter in network.named_parameters():
                parameter.grad *= mask[name]
            optimizer.step()
            with torch.no_grad():
                for name, parameter in network.named_parameters():
                    parameter.mul_(mask[name]).add_(start[name] * (1 - mask[name]))
                    optimizer.state[parameter]["momentum_buffer"].mul_(mask[name])

        for _ in range(EPOCHS):
            for images, _ in cut(next(forget), 10):
                masked_step(cross_entropy(network(images), next(labels_drawn)))
            for images, labels in cut(next(retain), 7):
                masked_step(cross_entropy(network(images), labels))
        assert next(labels_drawn, None) is None

    data = make_data(batch_size=7, forget_batch_size=10)
    given_batches = data.shuffled_batches
    monkeypatch.setattr(
        data, "shuffled_batches", lambda *a: (ranking.append((x.double(), y)) or (x, y) for x, y in given_batches(*a))
    )
    replay(SalUn(make_backbone(), optimizer=rate(0.05), fraction=0.5, gradients="per_batch"), data, loop)


def test_ssd(replay, make_backbone, make_data):
    """if-loops/selective-synaptic-dampening: src/forget_full_class_main.py:125-147, src/ssd.py:151-214.

    The classes come one after the other, the retained ones first; nothing is shuffled. Each class fills its batches.
    """

    def loop(network, _, batches):
        forget, retain = by_class(batches, "forget"), by_class(batches, "retain")
        full = [torch.cat(pair) for pair in zip(retain, forget, strict=True)]
        optimizer = SGD(network.parameters(), lr=0.1)
        network.eval()

        def importances(samples):
            found = [torch.zeros_like(p) for p in network.parameters()]
            loader = list(cut(samples, 4))
            for images, labels in loader:
                optimizer.zero_grad()
                cross_entropy(network(images), labels).backward()
                for importance, p in zip(found, network.parameters(), strict=True):
                    importance += p.grad.pow(2)
            return [importance / len(loader) for importance in found]

        of_forget, of_all = importances(forget), importances(full)
        with torch.no_grad():
            for p, original, gone in zip(network.parameters(), of_all, of_forget, strict=True):
                locations = torch.where(gone > original * 4**0.6)
                update = (original * 0.5 / gone)[locations]
                update[update > 1] = 1
                p[locations] = p[locations].mul(update)

    module = SSD(make_backbone(), dampening=0.5, selectivity=0.6)
    replay(module, make_data([2], batch_size=4), loop, epochs=1)


def by_class(batches, part):
    """The samples of a pass, class by class."""
    images, labels = (torch.cat([batch[part][place] for batch in batches if part in batch]) for place in (0, 1))
    order = labels.argsort(stable=True)
    return images[order], labels[order]
