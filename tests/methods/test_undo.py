import copy
import math

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

from lit_unlearn.errors import UsageError
from lit_unlearn.methods import UNDO, NegGradPlus

RATE, EPOCHS = 0.02, 4


def schedule(epochs=EPOCHS):
    return {
        "optimizer": lambda params: SGD(params, lr=RATE, momentum=0.9, weight_decay=5e-4),
        "lr_scheduler": lambda optimizer: CosineAnnealingLR(optimizer, T_max=epochs, eta_min=RATE / 10),
    }


class Keep(Checkpoint):
    def __init__(self, folder):
        self.folder = folder

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")


def divergence(one, other):
    return (one * (one.log() - other.log())).sum(1).mean()


def trained(network, loss, epochs, batches, factor=1.0):
    """The batches, a list an epoch, by an optimizer of their own, whose rate falls in the cosine of the whole run."""
    optimizer = SGD(network.parameters(), lr=0.0, momentum=0.9, weight_decay=5e-4)
    for epoch, own in zip(epochs, batches, strict=True):
        rate = RATE / 10 + (RATE - RATE / 10) * (1 + math.cos(math.pi * epoch / EPOCHS)) / 2
        optimizer.param_groups[0]["lr"] = rate * factor
        for batch in own:
            optimizer.zero_grad()
            loss(network, batch).backward()
            optimizer.step()


def suppression(network, batch):
    """src/tools/unlearn_langarith/maxent.py, line 345, balance_alpha 1."""
    (images, labels), (gone, _) = batch["retain"], batch["forget"]
    answers = network(torch.cat([images, gone])).softmax(1)
    named = answers[torch.arange(len(labels)), labels]
    return (
        divergence(torch.full((len(gone), 4), 0.25, dtype=torch.float64), answers[len(labels) :]) - named.log().mean()
    )


def undo(network, noise, batches, teacher=None, alpha=0.7, beta=0.4, factor=1.0, part="full"):
    """src/tools/partial_distill_langarith.py, lines 249 to 290 and 382 to 402; the paper's noise in all parameters."""
    first = 0
    if teacher is None:
        first = 2
        trained(network, suppression, range(first), batches[:first], factor)
        teacher = copy.deepcopy(network).eval()
    with torch.no_grad():
        for value, other, kept in zip(network.parameters(), noise.parameters(), teacher.parameters(), strict=True):
            value.copy_((1 - alpha) * kept + alpha * beta * other)

    def distillation(student, batch):
        ((name, (images, _)),) = batch.items()
        assert name == part
        with torch.no_grad():
            taught = teacher(images).softmax(1)
        return divergence(taught, student(images).softmax(1))

    trained(network, distillation, range(first, EPOCHS), batches[first:])
    return network


def agree(module, plain):
    assert not torch.equal(plain.head.weight, module.noise.head.weight)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(module.backbone.state_dict()[name], value, rtol=0, atol=1e-6, msg=name)


def by_epoch(batches):
    """Steps of suppression, if there are any, fill the first two epochs."""
    pairs = [batch for batch in batches if "forget" in batch]
    found = []
    for own, epochs in ((pairs, 2 if pairs else 0), (batches[len(pairs) :], EPOCHS - 2 if pairs else EPOCHS)):
        found += [own[n * len(own) // epochs : (n + 1) * len(own) // epochs] for n in range(epochs)]
    return found


@pytest.mark.parametrize(("factor", "distil_on", "part"), [(1.0, "all", "full"), (0.13, "retain", "retain")])
def test_it_suppresses_then_adds_noise_then_distils(fit, make_backbone, make_data, recorder, factor, distil_on, part):
    settings = {"suppress_epochs": 2, "suppress_rate": factor, "alpha": 0.7, "beta": 0.4, "tolerance": None}
    module = UNDO(make_backbone(), **settings, distil_on=distil_on, **schedule())
    fit(module, make_data(), recorder, precision="64-true", max_epochs=EPOCHS, limit_val_batches=0)
    found = by_epoch(recorder.batches)
    agree(module, undo(make_backbone().double().train(), module.noise, found, factor=factor, part=part))


@pytest.fixture
def by_neggrad(fit, make_backbone, make_data, tmp_path):
    """What another method left."""
    module = NegGradPlus(make_backbone(), alpha=0.5)
    fit(module, make_data()).save_checkpoint(tmp_path / "neggrad.ckpt", weights_only=True)
    return tmp_path / "neggrad.ckpt", module.backbone


def test_it_takes_what_any_method_has_suppressed(fit, make_backbone, make_data, recorder, by_neggrad, trained_file):
    path, suppressed = by_neggrad
    module = UNDO(
        make_backbone(seed=3), trained_file, **schedule(), suppressed=path, alpha=0.7, beta=0.4, tolerance=None
    )
    trainer = fit(module, make_data(), recorder, precision="64-true", max_epochs=EPOCHS, limit_val_batches=0)
    assert module.describe()["hyperparameters"]["suppressed"] == str(path)
    trainer.save_checkpoint(path.with_name("end.ckpt"), weights_only=True)  # plain types alone, so that it can be read
    assert torch.load(path.with_name("end.ckpt"), weights_only=True)["hyper_parameters"]["suppressed"] == str(path)
    teacher = copy.deepcopy(suppressed).double()
    plain, batches = copy.deepcopy(teacher).train(), by_epoch(recorder.batches)
    agree(module, undo(plain, module.noise, batches, teacher.eval()))
    assert not module.has_original_weights()
    original = make_backbone().state_dict()
    assert all(torch.equal(value, original[name]) for name, value in module.original_copy().state_dict().items())


class Behind(Callback):
    """After each epoch, by how much of the retain set the student names less than the teacher; and its weights."""

    def __init__(self):
        self.gaps, self.states = [], []

    def on_train_epoch_end(self, trainer, pl_module):
        retained = list(trainer.datamodule.evaluation_batches("retain", pl_module.device))
        images, labels = (torch.cat(parts) for parts in zip(*retained, strict=True))
        networks = [copy.deepcopy(network).eval() for network in (pl_module.suppressed[0], pl_module.backbone)]
        with torch.no_grad():
            teacher, student = (int((network(images).argmax(1) == labels).sum()) for network in networks)
        self.gaps.append((teacher - student) / len(labels))
        self.states.append({name: value.clone() for name, value in pl_module.backbone.state_dict().items()})


@pytest.fixture
def noisy(make_backbone):
    """So much noise that the student comes near only in later epochs."""

    def make(tolerance):
        rates = {"optimizer": lambda params: SGD(params, lr=0.02, momentum=0.9)}
        return UNDO(
            make_backbone(), **rates, suppress_epochs=1, alpha=0.95, beta=1.0, distil_on="retain", tolerance=tolerance
        )

    return make


def test_it_stops_after_the_first_epoch_that_comes_near_and_a_resumed_run_too(
    fit, make_data, make_trainer, noisy, tmp_path
):
    whole = Behind()
    assert fit(noisy(None), make_data(), whole, max_epochs=9).current_epoch == 9
    near = next(epoch for epoch, gap in enumerate(whole.gaps) if epoch and gap <= whole.gaps[1] / 2)
    assert near > 2, "it is to come near after some epochs of distillation"
    assert whole.gaps[near] > 0.1
    tolerance = whole.gaps[near] + 1e-3
    stopped = Behind()
    trainer = fit(noisy(tolerance), make_data(), stopped, Keep(tmp_path), max_epochs=9, enable_checkpointing=True)
    assert trainer.current_epoch == near + 1 < 9
    ended = stopped.states[-1]
    assert all(torch.equal(value, whole.states[near][name]) for name, value in ended.items())
    for start in range(near + 1):
        module, resumed = noisy(tolerance), make_trainer(max_epochs=9)
        resumed.fit(module, datamodule=make_data(), ckpt_path=tmp_path / f"{start}.ckpt", weights_only=True)
        assert resumed.global_step == trainer.global_step, start
        assert all(torch.equal(value, module.backbone.state_dict()[name]) for name, value in ended.items()), start
    assert fit(noisy(tolerance - 2e-3), make_data(), max_epochs=9).current_epoch == near + 2


def test_the_teacher_stays_out_of_the_checkpoint_of_the_result(fit, make_data, noisy, tmp_path):
    trainer = fit(noisy(None), make_data(), max_epochs=2)
    trainer.save_checkpoint(tmp_path / "end.ckpt", weights_only=True)
    saved = torch.load(tmp_path / "end.ckpt", weights_only=True)
    assert {name.partition(".")[0] for name in saved["state_dict"]} == {"backbone"}
    assert "state" not in saved["lit_unlearn"]


def test_the_noise_is_a_fresh_start_that_the_seed_alone_decides(make_backbone, monkeypatch):
    torch.rand(3)  # whatever was drawn before
    first, again = (UNDO(make_backbone()).noise for _ in range(2))
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    other, constructed = UNDO(make_backbone()).noise, make_backbone(seed=0)
    torch.manual_seed(0)
    for module in constructed.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()  # what an original of the same seed may have begun from
    compared = zip(*(each.named_parameters() for each in (first, again, other, constructed)), strict=True)
    for (name, value), (_, same), (_, of_other), (_, of_original) in compared:
        assert torch.equal(value, same), name
        if value.dim() > 1:
            assert not torch.equal(value, of_other), name
            assert not torch.equal(value, of_original), name
            assert 0.5 < value.std() / of_original.std() < 2, name


def test_a_frozen_part_gets_no_noise(fit, make_backbone, make_data, trained_state):
    backbone = make_backbone()
    backbone.encoder.stem.requires_grad_(False)
    fit(UNDO(backbone), make_data(), max_epochs=2)
    for name, value in backbone.named_parameters():
        assert torch.equal(value, trained_state[name]) == name.startswith("encoder.stem"), name


def test_a_run_without_an_epoch_to_distil_is_refused(fit, make_backbone, make_data, by_neggrad):
    for epochs in (1, 2):
        message = f"suppress_epochs is 2, but must be below trainer.max_epochs, which is {epochs}"
        with pytest.raises(UsageError, match=message):
            fit(UNDO(make_backbone(), suppress_epochs=2), make_data(), max_epochs=epochs)
    fit(UNDO(make_backbone(), suppress_epochs=2, suppressed=by_neggrad[0]), make_data(), max_epochs=1)
    fit(UNDO(make_backbone()), make_data(), fast_dev_run=True)


def test_weights_that_another_request_has_suppressed_are_refused(fit, make_backbone, make_data, by_neggrad):
    with pytest.raises(UsageError, match=r"suppressed \S*neggrad.ckpt is of split \w+, not \w+"):
        fit(UNDO(make_backbone(), suppressed=by_neggrad[0]), make_data(classes=[2]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"suppress_epochs": 0}, "suppress_epochs is 0"),
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"alpha": 1.1}, "alpha is 1.1"),
        ({"beta": -0.1}, r"beta is -0.1"),
        ({"distil_on": "forget"}, r"unknown distil_on 'forget'.*allowed: all, retain"),
        ({"tolerance": -0.1}, r"tolerance is -0.1"),
        ({"suppressed": "missing.ckpt"}, r"missing\.ckpt"),
    ],
)
def test_options_out_of_range(make_backbone, options, message):
    with pytest.raises(UsageError, match=message):
        UNDO(make_backbone(), **options)
