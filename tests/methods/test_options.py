"""Every method under the options that people add to a run: a part that learns, precision, steps, compilation, layout.

What a method cannot do is refused before anything is trained; the table of docs/networks.md names all of it.
"""

import copy
import re
from pathlib import Path

import pytest
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import nn
from torch.optim import SGD

from lit_unlearn import methods
from lit_unlearn.backbones import Custom, ResNet8
from lit_unlearn.data import Dataset, ForgetSpec, Source, UnlearnDataModule
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import FineTune, Pretrain, Retrain

PAGE = Path(__file__).parents[2] / "docs/networks.md"
NAMES = [name for name in methods.__all__ if name not in ("Audit", "UnlearnModule")]
ARGUMENTS = {"SSD": {"alpha": 1.0}}
EPOCHS = {"UNDO": 2}

ITSELF = "changes the weights itself"
SCRATCH = "starts from random weights"
CHOOSES = "chooses itself what is trained"
KERNELS = "has none that learns"
_NO_STEPS = dict.fromkeys(("LEACE", "Projection", "Rescale", "SFRon", "SSD"), ITSELF)
_FROM_SCRATCH = dict.fromkeys(("DistilledRetrain", "Pretrain", "Retrain", "RetrainShort"), SCRATCH)
_PARTS = _FROM_SCRATCH | {"CFk": CHOOSES, "EUk": CHOOSES, "LEACE": "changes every stage"}
OPTIONS = {
    "train: head": _PARTS | dict.fromkeys(("CT", "KernelShuffle", "MSG"), KERNELS),
    "train: last_1": _PARTS,
    "precision: bf16-mixed": {},
    "precision: bf16-true": {},
    "precision: 64-true": {},
    "accumulate_grad_batches: 2": _NO_STEPS,
    "gradient_clip_val: 1.0": _NO_STEPS,
    "compile: true": {},
    "memory_format: channels_last": {},
}
"""The option → the methods that refuse it, and a part of the reason."""

GPU_ONLY = "precision: 16-mixed"
"""Lightning takes bf16-mixed in its place on a CPU."""

LEARNS = {"head": ("head.",), "last_1": ("head.", "encoder.stage3.")}
UNCHANGED = ("LEACE", "Rescale")
"""Methods that add to the network and leave its weights alone."""


class Pictures(Source):
    def load(self):
        draw = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (48, 3, 8, 8), dtype=torch.uint8, generator=draw)
        labels = torch.arange(48) % 4
        return Dataset(images, labels, images[:16], labels[:16], list("abcd"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of weights in which nothing is left as it was constructed."""
    torch.manual_seed(5)
    state = ResNet8(4, width=4).state_dict()
    state = {name: v + 0.01 * torch.randn_like(v) if v.is_floating_point() else v for name, v in state.items()}
    path = tmp_path_factory.mktemp("weights") / "original.pt"
    torch.save({name: v.abs() if name.endswith("running_var") else v for name, v in state.items()}, path)
    return path


CASES = [
    pytest.param(option, name, id=f"{option}-{name}", marks=() if name in ("OPC", "Retrain", "SSD") else pytest.mark.ci)
    for option in OPTIONS
    for name in NAMES
] + [pytest.param(GPU_ONLY, name, id=f"{GPU_ONLY}-{name}", marks=pytest.mark.gpu) for name in NAMES]


@pytest.mark.parametrize(("option", "name"), CASES)
def test_a_method_takes_an_option_or_says_why_not(fit, weights, option, name):
    key, value = option.split(": ")
    run = {key: value}
    if key in ("accumulate_grad_batches", "gradient_clip_val"):
        run = {key: int(float(value))}
    elif key in ("train", "compile", "memory_format"):
        run = {}
    reason = OPTIONS.get(option, {}).get(name)
    torch.manual_seed(0)

    def trained():
        backbone = ResNet8(4, width=4, train=value if key == "train" else "all")
        module = getattr(methods, name)(backbone, weights, **ARGUMENTS.get(name, {}))
        if key == "compile":
            backbone.compile(backend="aot_eager")
        if key == "memory_format":
            module.memory_format = value
        before = copy.deepcopy(module.backbone.state_dict())
        data = UnlearnDataModule(Pictures(), ForgetSpec(classes=[0]), batch_size=16)
        run["accelerator"] = "gpu" if option == GPU_ONLY else "cpu"
        fit(module, data, max_epochs=EPOCHS.get(name, 1), limit_val_batches=0, **run)
        return module, before

    if reason is not None:
        with pytest.raises(UsageError, match=reason):
            trained()
        return
    module, before = trained()
    assert module.diverged is None
    after = {path: value.cpu() for path, value in module.unwrapped_backbone().state_dict().items()}
    changed = {path for path in before if not torch.equal(before[path].to(after[path]), after[path])}
    assert bool(changed) != (name in UNCHANGED)
    if key == "train":
        assert all(path.startswith(LEARNS[value]) for path in changed), changed
        assert module.describe()["backbone"]["train"] == value


def test_the_page_names_what_is_refused():
    """Each row: option, methods that refuse it, why."""
    table = PAGE.read_text().partition("## Options")[2]
    rows = [line.split("|")[1:4] for line in table.splitlines() if line.startswith("|")][2:]
    told = {}
    for option, refusing, _ in rows:
        names = re.findall(r"`(\w+)`", refusing)
        told |= {each: {name for name in names if name in NAMES} for each in re.findall(r"`([^`]+)`", option)}
    assert told == {option: set(refusing) for option, refusing in OPTIONS.items()}


class Plain(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(192, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4))


def test_accumulated_batches_are_one_large_batch(fit):
    """Two halves of a batch give its step, where a network looks at samples one by one and the loss is a mean."""
    found = []
    for batch_size, run in ((6, {"accumulate_grad_batches": 2}), (12, {})):
        torch.manual_seed(0)
        module = FineTune(Custom(Plain()), optimizer=lambda params: SGD(params, lr=0.5, momentum=0.9))
        data = UnlearnDataModule(Pictures(), ForgetSpec(classes=[0]), batch_size=batch_size)
        trainer = fit(module, data, max_epochs=1, limit_val_batches=0, precision="64-true", **run)
        assert (trainer.global_step, module.images_seen) == (3, 36)
        found.append(torch.cat([p.detach().flatten() for p in module.backbone.parameters()]))
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)


class Norms(FineTune):
    """Notes the gradient's norm at each step, after it was clipped."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.norms = []

    def on_before_zero_grad(self, optimizer) -> STEP_OUTPUT:
        gradients = [p.grad for p in self.backbone.parameters() if p.grad is not None]
        if gradients:
            self.norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm())


def test_a_gradient_is_clipped_where_it_is_asked_for(fit):
    for clip in (None, 0.01):
        torch.manual_seed(0)
        module = Norms(Custom(Plain()))
        data = UnlearnDataModule(Pictures(), ForgetSpec(classes=[0]), batch_size=12)
        fit(module, data, max_epochs=2, limit_val_batches=0, gradient_clip_val=clip)
        assert module.norms
        assert all((norm <= 0.0101) == (clip is not None) for norm in module.norms), module.norms


def test_a_frozen_part_keeps_its_statistics_and_a_copy_can_learn_again(weights):
    backbone = ResNet8(4, width=4, train="last_1").train()
    assert backbone.training
    assert backbone.encoder.stage3.training
    assert backbone.head.training
    assert not backbone.encoder.stem.training
    assert not backbone.encoder.stage2.training
    before = backbone.encoder.stem.bn.running_mean.clone()
    backbone(torch.rand(4, 3, 8, 8))
    assert torch.equal(backbone.encoder.stem.bn.running_mean, before)
    assert not torch.equal(backbone.encoder.stage3[0].bn1.running_mean, torch.zeros(16))
    again = copy.deepcopy(backbone)
    assert not again.train().encoder.stem.training, "a copy stays as it is"
    again.train_only("all")
    assert all(parameter.requires_grad for parameter in again.parameters())
    assert again.train().encoder.stem.training
    again.train_only("head")
    assert [name for name, p in again.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]
    assert backbone.encoder.stage3[0].conv1.weight.requires_grad


def test_what_the_user_froze_never_learns_by_itself():
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    network[0].weight.requires_grad_(False)
    backbone = Custom(nn.Sequential(nn.Flatten(), *network), in_channels=1, train="head")
    backbone.train_only("all")
    names = [name for name, parameter in backbone.named_parameters() if not parameter.requires_grad]
    assert len(names) == 1
    assert backbone.get_parameter(names[0]).shape == (4, 4)


@pytest.mark.parametrize("train", ["tail", "last_", "last_0", "last_9", "last_2_rows", ""])
def test_an_unknown_part_is_refused(train):
    with pytest.raises(UsageError, match=r"train is|k is"):
        ResNet8(4, width=4, train=train)


def test_the_units_of_a_part():
    def learning(train):
        backbone = ResNet8(4, width=4, train=train)
        return [name for name, p in backbone.named_parameters() if p.requires_grad and p.dim() > 1]

    assert learning("head") == learning("last_1_layers") == ["head.weight"]
    assert learning("last_2_layers")[-1] == "head.weight"
    assert len(learning("last_2_layers")) == 2
    assert learning("last_1") == learning("last_1_stages") == learning("last_1_blocks")
    assert len(learning("last_2_stages")) == 7
    assert learning("all") == [n for n, p in ResNet8(4, width=4).named_parameters() if p.dim() > 1]


def test_from_scratch_a_part_alone_may_learn_where_the_rest_is_pretrained(fit, tmp_path):
    """The head was fine-tuned on all images: Retrain trains a fresh one on retained images, on the same body."""
    torch.manual_seed(0)
    torch.save(Plain().state_dict(), body := tmp_path / "pretrained.pt")
    data = UnlearnDataModule(Pictures(), ForgetSpec(classes=[0]), batch_size=16)

    def backbone():
        return Custom(Plain(), pretrained=str(body), train="head")

    original = Pretrain(backbone())
    fit(original, data, max_epochs=1, limit_val_batches=0)
    torch.save(original.backbone.state_dict(), tmp_path / "original.pt")
    retrain = Retrain(backbone(), tmp_path / "original.pt")
    fit(retrain, data, max_epochs=1, limit_val_batches=0)
    for name, value in Custom(Plain(), pretrained=str(body)).state_dict().items():
        same = torch.equal(retrain.backbone.state_dict()[name], value)
        assert same != name.startswith("head."), name
    assert not torch.equal(retrain.backbone.head.weight, original.backbone.head.weight)
    with pytest.raises(UsageError, match="would start from the original"):
        Retrain(Custom(Plain(), pretrained=str(body)), body)
