"""What is wrong with a method of the user's own is said in one line that names the class and what is allowed."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.nn.functional import cross_entropy

from lit_unlearn.attacks import Evaluation, HeadRecovery
from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import UnlearnModule
from lit_unlearn.methods.checks import RESERVED
from lit_unlearn.reports.report import Report
from lit_unlearn.run_files import CHECKPOINT

DOCS = Path(__file__).resolve().parents[2] / "docs"


class Own(UnlearnModule):
    """A whole method; others of this file have one thing wrong."""

    order = "retain"

    def loss(self, batch):
        images, labels = batch["retain"]
        return cross_entropy(self(images), labels)

    def training_step(self, batch, batch_idx):
        return self.loss(batch)


class NoOrder(UnlearnModule):
    def training_step(self, batch, batch_idx):
        return None


class WrongOrder(Own):
    order = "pairs"


class NoInit(Own):
    def __init__(self, backbone: Backbone):
        self.weight = 3.0


class Detached(Own):
    def training_step(self, batch, batch_idx):
        return self.loss(batch).detach()


class PerSample(Own):
    def training_step(self, batch, batch_idx):
        images, labels = batch["retain"]
        return cross_entropy(self(images), labels, reduction="none")


class WrongKey(Own):
    def training_step(self, batch, batch_idx):
        images, labels = batch["forget"]
        return cross_entropy(self(images), labels)


class Nothing(Own):
    def training_step(self, batch, batch_idx):
        return None


WRONG = {
    NoOrder: "NoOrder has no order: set one of 'retain', 'forget', 'full', 'paired'",
    WrongOrder: "unknown order of WrongOrder: 'pairs'; did you mean 'paired'",
    NoInit: r"NoInit has no \w+: call super\(\).__init__\(backbone, weights, optimizer, lr_scheduler\) first",
    Detached: "Detached.training_step returned a loss that depends on no parameter that learns",
    PerSample: r"PerSample.training_step returned a loss of shape \(8,\), but it must be a single number",
    WrongKey: r"WrongKey asks for batch\['forget'\], but a batch of order = 'retain' has retain: give",
    Nothing: r"Nothing.training_step returned None for all 3 batches of epoch 0: return the loss",
}


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("method", WRONG)
def test_a_mistake_in_a_method_is_one_line(make_backbone, make_data, fit, method):
    with pytest.raises(UsageError, match=WRONG[method]) as refusal:
        fit(method(make_backbone()), make_data())
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("hook", RESERVED)
def test_a_hook_that_the_base_class_needs_is_refused_with_what_is_there_instead(make_backbone, hook):
    kind = type("Overrides", (Own,), {hook: lambda self, *args: None})
    with pytest.raises(UsageError, match=f"Overrides overrides {hook}, which the base class needs itself: ") as refusal:
        kind(make_backbone())
    assert RESERVED[hook] in str(refusal.value)


def test_the_page_names_every_hook_that_is_reserved():
    text = (DOCS / "add-a-method.md").read_text()
    assert [name for name in RESERVED if f"`{name}`" not in text] == []


def test_the_hooks_of_training_are_free_without_super(make_backbone, make_data, fit, make_trainer):
    called = []
    names = ["setup", "on_fit_start", "on_train_start", "on_train_epoch_start", "on_train_epoch_end", "on_train_end"]
    names += ["on_validation_epoch_end", "on_before_backward", "on_train_batch_end", "teardown"]
    hooks = {name: lambda self, *args, name=name, **more: called.append(name) for name in names}
    report = Report(page=False)
    kind = type("Free", (Own,), hooks)
    fit(kind(make_backbone()), make_data(), Evaluation(), HeadRecovery(), report)
    assert set(called) == set(names)
    again = Report(page=False)
    make_trainer(Evaluation(), HeadRecovery(), again).validate(
        kind(make_backbone()), datamodule=make_data(), ckpt_path=report.directory / CHECKPOINT, weights_only=True
    )
    assert again.rows[-1].attacks == report.rows[-1].attacks
    assert again.rows[-1].seconds["unlearn"] == report.rows[-1].seconds["unlearn"]


class SomeNone(Own):
    def training_step(self, batch, batch_idx):
        return None if batch_idx != 1 else self.loss(batch)


class ByHand(Own):
    """Two optimizers with schedules that it steps itself."""

    def __init__(self, backbone: Backbone):
        super().__init__(backbone)
        self.automatic_optimization = False

    def configure_optimizers(self):
        halves = self.backbone.encoder.parameters(), self.backbone.head.parameters()
        made = [torch.optim.SGD(half, lr=0.1) for half in halves]
        return made, [torch.optim.lr_scheduler.StepLR(each, 1, gamma=0.5) for each in made]

    def training_step(self, batch, batch_idx):
        optimizers = self.optimizers()
        self.manual_backward(self.loss(batch))
        for each in optimizers:
            each.step()
            each.zero_grad()


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_single_batches_may_return_none_and_optimizers_may_be_stepped_by_hand(make_backbone, make_data, fit):
    assert fit(SomeNone(make_backbone()), make_data(), max_epochs=2).current_epoch == 2
    trainer = fit(ByHand(make_backbone()), make_data(), max_epochs=3)
    assert [each.param_groups[0]["lr"] for each in trainer.optimizers] == pytest.approx([0.025] * 2)


class MakesBuffer(Own):
    """Makes a buffer, or gives one another shape, when training starts."""

    def __init__(self, backbone: Backbone, there=False, keeps=False):
        super().__init__(backbone)
        self.keeps = keeps
        if there:
            self.register_buffer("mask", torch.zeros(1))

    def on_train_start(self):
        self.register_buffer("mask", torch.ones(3))

    def saved_state(self):
        return {"size": 3} if self.keeps else {}

    def load_saved_state(self, state):
        if state:
            self.register_buffer("mask", torch.zeros(state["size"]))


@pytest.mark.parametrize(("there", "said"), [(False, "made"), (True, "given another shape")])
def test_a_buffer_that_a_checkpoint_could_not_give_back_ends_the_run_before_its_first_step(
    make_backbone, make_data, fit, there, said
):
    steps = []

    class Counts(Callback):
        def on_train_batch_start(self, *args):
            steps.append(1)

    says = f"MakesBuffer: the tensor mask was {said} after __init__.*fixed shape in __init__, or saved_state"
    with pytest.raises(UsageError, match=says):
        fit(MakesBuffer(make_backbone(), there), make_data(), Counts())
    assert not steps


def test_one_that_saved_state_describes_is_loaded(make_backbone, make_data, fit, make_trainer):
    report = Report(page=False)
    fit(MakesBuffer(make_backbone(), keeps=True), make_data(), Evaluation(), report)
    again = MakesBuffer(make_backbone(), keeps=True)
    make_trainer().validate(
        again, datamodule=make_data(), ckpt_path=report.directory / CHECKPOINT, weights_only=True, verbose=False
    )
    assert again.mask.tolist() == [1, 1, 1]


class MakesItInSetup(Own):
    def setup(self, stage):
        self.register_buffer("mask", torch.full((3,), float(stage == "fit")))


def test_one_that_setup_makes_is_loaded(make_backbone, make_data, fit, make_trainer):
    report, again = Report(page=False), MakesItInSetup(make_backbone())
    fit(MakesItInSetup(make_backbone()), make_data(), Evaluation(), report)
    make_trainer().validate(
        again, datamodule=make_data(), ckpt_path=report.directory / CHECKPOINT, weights_only=True, verbose=False
    )
    assert again.mask.tolist() == [1, 1, 1]


class MakesItLate(MakesBuffer):
    def on_train_start(self):
        pass

    def on_train_epoch_end(self):
        self.register_buffer("mask", torch.ones(3))


def test_one_that_the_last_epoch_makes_is_told_and_the_checkpoint_is_refused_in_one_line(
    make_backbone, make_data, fit, make_trainer
):
    report = Report(page=False)
    with pytest.warns(UserWarning, match="MakesItLate: the tensor mask was made after __init__"):
        fit(MakesItLate(make_backbone()), make_data(), Evaluation(), HeadRecovery(), report)
    assert len(report.rows[-1].attacks) == 4, "the run itself goes on"
    trainer = make_trainer()
    with pytest.raises(UsageError, match=r'MakesItLate cannot load this checkpoint: Unexpected key.*"mask"') as refusal:
        trainer.validate(
            MakesItLate(make_backbone()),
            datamodule=make_data(),
            ckpt_path=report.directory / CHECKPOINT,
            weights_only=True,
        )
    assert "\n" not in str(refusal.value)


def test_a_teacher_that_is_made_when_training_starts_is_left_out(make_backbone, make_data, fit):
    class Taught(Own):
        def on_train_start(self):
            self.guide = self.frozen_copy()

    assert fit(Taught(make_backbone()), make_data(), max_epochs=2).current_epoch == 2


def test_a_submodule_that_has_no_call_of_the_base_is_named(make_backbone):
    class Late(Own):
        def __init__(self, backbone: Backbone):
            self.extra = nn.Linear(2, 2)
            super().__init__(backbone)

    with pytest.raises(AttributeError, match=r"before Module.__init__\(\) call"):
        Late(make_backbone())
