import copy

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.optim import SGD

from lit_unlearn.attacks import Evaluation
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import SCRUB
from lit_unlearn.reports.report import Report
from lit_unlearn.run_files import CHECKPOINT


class States(Callback):
    """The weights after each epoch, before the method may go back, how long it was to the Trainer, and its parts."""

    def __init__(self):
        self.states, self.lengths, self.parts, self.validations = [], [], [], 0

    def on_train_epoch_start(self, trainer, pl_module):
        self.parts.append([])

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.parts[-1] += batch

    def on_validation_start(self, trainer, pl_module):
        self.validations += 1

    def on_train_epoch_end(self, trainer, pl_module):
        self.states.append(copy.deepcopy(pl_module.backbone.state_dict()))
        self.lengths.append(trainer.num_training_batches)


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("options", [{}, {"msteps": 1, "gamma": 1.0, "alpha": 0.5, "temperature": 2.0}])
def test_three_epochs_of_max_and_min_passes(follow, make_backbone, sgd, make_data, options):
    setting = {"msteps": 2, "gamma": 0.99, "alpha": 0.001, "temperature": 4.0} | options
    teacher = make_backbone().double().eval()
    parts = (["forget"] * 2 + ["retain"] * 3) * setting["msteps"] + ["retain"] * 3 * (3 - setting["msteps"])
    t = setting["temperature"]

    def loss(network, batch, step):
        ((part, (images, labels)),) = batch.items()
        assert part == parts[step]
        z = network(images)
        with torch.no_grad():
            p = torch.softmax(teacher(images) / t, 1)
        kl = t**2 * (p * (p.log() - torch.log_softmax(z / t, 1))).sum() / len(labels)
        if part == "forget":
            return -kl
        ce = -torch.log_softmax(z, 1)[torch.arange(len(labels)), labels].mean()
        return setting["gamma"] * ce + setting["alpha"] * kl

    module = SCRUB(make_backbone(), optimizer=sgd, **options)
    follow(module, loss, data=make_data(forget_batch_size=12), steps=len(parts), epochs=3)
    assert same(module.teacher.state_dict(), teacher.state_dict())


def test_the_trainer_knows_how_long_each_epoch_is_and_validates_after_each(fit, make_backbone, make_data):
    states = States()
    trainer = fit(SCRUB(make_backbone()), make_data(), states, max_epochs=4)
    assert states.lengths == [6, 6, 3, 3]
    assert states.parts == [["forget"] * 3 + ["retain"] * 3] * 2 + [["retain"] * 3] * 2
    assert states.validations == 4
    assert trainer.global_step == 18


def test_a_curve_has_a_point_for_each_epoch_that_had_the_pass(fit, make_backbone, make_data):
    report = Report(page=False)
    fit(SCRUB(make_backbone()), make_data(), Evaluation(), report, max_epochs=4)
    curves = report.rows[-1].curves
    assert [int(epoch) for epoch, _ in curves["train/retain_loss"]] == [0, 1, 2, 3]
    assert [int(epoch) for epoch, _ in curves["train/forget_loss"]] == [0, 1]


@pytest.mark.parametrize("on_train_epoch_end", [True, False])
@pytest.mark.parametrize("epoch", [0, 1, 2])
@pytest.mark.parametrize("rewind", [False, True])
def test_a_run_resumed_on_either_side_of_the_last_max_pass_ends_as_if_uninterrupted(
    fit, make_trainer, make_backbone, make_data, tmp_path, on_train_epoch_end, epoch, rewind
):
    data = {"fraction": 0.3, "forget_batch_size": 4}
    settings = {"optimizer": lambda p: SGD(p, lr=0.05, momentum=0.9), "rewind": rewind, "validation": 0.3}
    keep = ModelCheckpoint(
        tmp_path / "kept", "{epoch}", save_top_k=-1, save_on_train_epoch_end=on_train_epoch_end, every_n_epochs=1
    )
    whole = SCRUB(make_backbone(), **settings)
    fit(whole, make_data(**data), keep, max_epochs=4, enable_checkpointing=True)
    resumed, states = SCRUB(make_backbone(), **settings), States()
    trainer = make_trainer(states, max_epochs=4)
    trainer.fit(resumed, datamodule=make_data(**data), ckpt_path=tmp_path / "kept" / f"epoch={epoch}.ckpt")
    assert same(whole.state_dict(), resumed.state_dict())
    assert trainer.current_epoch == 4


def errors(network, images, labels):
    with torch.no_grad():
        return (network(images).argmax(1) != labels).double()


def scrub_r(backbone, lr=0.03):
    optimizer = lambda params: SGD(params, lr=lr, momentum=0.9)  # noqa: E731
    return SCRUB(backbone, optimizer=optimizer, rewind=True, validation=0.3, msteps=3)


def rewound(fit, make_backbone, data, *callbacks, lr=0.03, **settings):
    states, module = States(), scrub_r(make_backbone(), lr)
    fit(module, data, states, *callbacks, **{"max_epochs": 5, "precision": "64-true"} | settings)
    return module, states


def chosen(network, data, states):
    """The epoch that the paper's rule takes, and the errors that it goes by, found without the package."""
    images, labels = data.data.train_images.double() / 255, data.data.train_labels
    forget, held = data.split.forget, data.holdout
    network, found = network.double().eval(), []
    for state in states:
        network.load_state_dict(state)
        found.append(float(errors(network, images[forget], labels[forget]).mean()))
    # Of the final model: the error of each class in the forget set, in the proportions of the forget set.
    goal = 0.0
    for label in range(4):
        share = float((labels[forget] == label).double().mean())
        if share:
            members = held[labels[held] == label]
            goal += share * float(errors(network, images[members], labels[members]).mean())
    distances = [abs(error - goal) for error in found]
    return max(number for number, distance in enumerate(distances) if distance == min(distances)), found, goal


def test_rewind_ends_with_the_epoch_whose_forget_error_is_nearest_the_validation_error(fit, make_backbone, make_data):
    data = make_data(fraction=0.4, forget_batch_size=4)
    module, states = rewound(fit, make_backbone, data)
    best, found, goal = chosen(make_backbone(), data, states.states)
    assert len(states.states) == 5
    assert 0 < goal < 1
    assert best < 4, (found, goal)
    assert len(set(found)) > 2
    assert same(states.states[best], module.backbone.state_dict())
    assert not same(states.states[-1], module.backbone.state_dict())


def test_a_resumed_run_goes_back_to_an_epoch_from_before_it_was_interrupted(
    fit, make_trainer, make_backbone, make_data, tmp_path
):
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    data = make_data(fraction=0.4, forget_batch_size=4)
    whole, states = rewound(fit, make_backbone, data, keep, enable_checkpointing=True)
    assert chosen(make_backbone(), data, states.states)[0] < 4
    resumed = scrub_r(make_backbone())
    trainer = make_trainer(max_epochs=5, precision="64-true")
    trainer.fit(resumed, datamodule=data, ckpt_path=tmp_path / "epoch=3.ckpt")
    assert same(whole.backbone.state_dict(), resumed.backbone.state_dict())


def test_of_epochs_equally_near_the_last_is_taken(fit, make_backbone, make_data):
    data = make_data(fraction=0.4)
    module, states = rewound(fit, make_backbone, data, lr=1e-7)
    assert len(set(chosen(make_backbone(), data, states.states)[1])) == 1
    assert same(states.states[-1], module.backbone.state_dict())


def test_the_validation_part_is_of_retain_alone_and_never_trained_on(fit, make_backbone, make_data, recorder):
    data = make_data(fraction=0.4)
    rewound(fit, make_backbone, data, recorder)
    assert set(data.holdout.tolist()) <= set(data.split.retain.tolist())
    assert len(data.holdout) > 2
    seen = {
        tuple((image * 255).round().long().flatten().tolist())
        for batch in recorder.batches
        for images, _ in batch.values()
        for image in images
    }
    images = data.data.train_images.long().flatten(1).tolist()
    trained = {index for index, image in enumerate(images) if tuple(image) in seen}
    assert trained == set(range(48)) - set(data.holdout.tolist())


def test_rewind_never_looks_at_the_test_set(fit, make_backbone, make_data, monkeypatch):
    asked = []
    data = make_data(fraction=0.4)
    known = data.evaluation_batches
    monkeypatch.setattr(data, "evaluation_batches", lambda split, *more: asked.append(split) or known(split, *more))
    rewound(fit, make_backbone, data)
    assert asked == ["forget"] * 5 + ["holdout"]


def test_what_is_saved_at_the_end_holds_the_chosen_epoch_alone(fit, make_trainer, make_backbone, make_data):
    report, data = Report(page=False), make_data(fraction=0.4, forget_batch_size=4)
    module, _ = rewound(fit, make_backbone, data, Evaluation(), report)
    saved = torch.load(report.directory / CHECKPOINT, weights_only=True)
    assert not any("scrub" in name for name in saved)
    assert {name.partition(".")[0] for name in saved["state_dict"]} == {"backbone"}
    assert same({f"backbone.{n}": v for n, v in module.backbone.state_dict().items()}, saved["state_dict"])


@pytest.mark.parametrize("how", ["max_steps", "early"])
def test_rewind_also_at_the_end_of_a_run_that_stops_before_its_last_epoch(fit, make_backbone, make_data, how):
    data = make_data(fraction=0.4, forget_batch_size=4)
    if how == "max_steps":
        module, states = rewound(fit, make_backbone, data, max_steps=30, max_epochs=50)
    else:
        stop = EarlyStopping("val/retain_acc", mode="max", patience=0, min_delta=9.0)
        module, states = rewound(fit, make_backbone, data, stop, max_epochs=50, min_epochs=3)
    assert 1 < len(states.states) < 50
    best, _, _ = chosen(make_backbone(), data, states.states)
    assert same(states.states[best], module.backbone.state_dict())
    assert module._epochs == []


def test_a_diverged_run_stays_diverged(fit, make_backbone, make_data):
    module, _ = rewound(fit, make_backbone, make_data(fraction=0.4), lr=1e30, max_epochs=5)
    assert module.diverged is not None


@pytest.mark.parametrize("classes", [[0, 1], [3]])
def test_rewind_is_refused_where_nothing_like_the_forget_set_is_retained(fit, make_backbone, make_data, classes):
    name = {0: "ant", 3: "dog"}[classes[0]]
    report = Report(page=False)
    with pytest.raises(UsageError, match=f"no validation part of class '{name}' can be held out: 0 of its training"):
        fit(SCRUB(make_backbone(), rewind=True), make_data(classes=classes), report)
    assert report.directory is None


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"msteps": -1}, "msteps is -1"),
        ({"gamma": -0.1}, "gamma is -0.1"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"validation": 0.0}, "validation is 0.0"),
        ({"validation": 1.0}, "validation is 1.0"),
    ],
)
def test_options_out_of_range(make_backbone, option, message):
    with pytest.raises(UsageError, match=message):
        SCRUB(make_backbone(), **option)
