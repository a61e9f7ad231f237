"""Bad input: one line on stderr that names it and says what is allowed, status 2, and nothing new on disk."""

import errno
import importlib
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from command_line import experiment, lit_unlearn

from lit_unlearn.backbones.weights import resolve
from lit_unlearn.errors import UsageError, check_at_least, check_fraction
from lit_unlearn.reports import read_rows
from lit_unlearn.shipped import read_config

FIT = ("fit", *experiment("random_labels"), "--trainer.max_epochs=1")
BARE = (*FIT, "--evaluation.retrain", "null")
VALIDATE = ("validate", *experiment("random_labels"))
ORIGINAL = ("digits_resnet8", "digits_resnet8_retrain_classes_0_1_2")
METHODS = ("FineTune", "GradientAscent", "OPC", "Pretrain", "RandomLabels", "Retrain")


def listing(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


Refuse = Callable[..., str]


@pytest.fixture
def refuse(tmp_path: Path) -> Refuse:
    """Runs a command that must be refused, and returns what it said."""

    def run(*args: object, says: tuple[str, ...] = ()) -> str:
        before = listing(tmp_path)
        outcome = lit_unlearn(tmp_path, *args)
        assert outcome.status == 2
        assert listing(tmp_path) == before
        line = outcome.err
        assert line.startswith("lit-unlearn: error: ")
        assert line.endswith("\n")
        assert line.count("\n") == 1, line
        assert "Traceback" not in line + outcome.out
        for part in says:
            assert part in line
        return line

    return run


@pytest.fixture
def bad_weights(tmp_path: Path) -> Callable[[str], Path]:
    """Files of weights with something wrong."""

    def make(what: str) -> Path:
        path, good = tmp_path / f"{what}.pt", resolve("digits_resnet8").read_bytes()
        if what == "truncated":
            path.write_bytes(good[: len(good) // 2])
        elif what == "flipped":
            flipped = bytearray(good)
            flipped[len(good) // 2] ^= 1
            path.write_bytes(flipped)
        elif what == "code":
            torch.save({"state_dict": {"head.bias": Bomb(tmp_path / "ran")}}, path)
        elif what == "pickle":
            path.write_bytes(pickle.dumps({"state_dict": Bomb(tmp_path / "ran")}))
        elif what == "text":
            path.write_text("not a file of weights")
        elif what == "nan":
            held = torch.load(resolve("digits_resnet8"), weights_only=True)
            held["state_dict"]["head.bias"][0] = float("nan")
            torch.save(held, path)
        return path

    return make


PLACES = {
    "weights": (*BARE, "--model.weights"),
    "ckpt_path": (*VALIDATE, "--ckpt_path"),
    "retrain": (*FIT, "--evaluation.retrain"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("truncated", "corrupt"),
        ("flipped", "checksum"),
        ("code", "refused: it holds"),
        ("pickle", "refused"),
        ("text", "refused"),
        ("absent", "absent.pt"),
    ],
)
def test_unreadable_weights(
    refuse: Refuse, bad_weights: Callable[[str], Path], tmp_path: Path, what: str, says: str, place: str
) -> None:
    path = bad_weights(what)
    line = refuse(*PLACES[place], path, says=(says, str(path)))
    assert not (tmp_path / "ran").exists(), line


@pytest.mark.parametrize("what", ["code", "pickle"])
def test_the_bomb_goes_off_where_it_is_not_refused(
    bad_weights: Callable[[str], Path], tmp_path: Path, what: str
) -> None:
    path = bad_weights(what)
    if what == "code":
        torch.load(path, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    assert (tmp_path / "ran").exists()


def test_a_text_in_place_of_a_checkpoint_is_no_code(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "text.ckpt").write_text("corrupt.\n")
    line = refuse(*VALIDATE, "--ckpt_path", tmp_path / "text.ckpt", says=("refused: it is no file of plain weights",))
    assert "holds" not in line


def test_weights_that_are_not_finite(refuse: Refuse, bad_weights: Callable[[str], Path]) -> None:
    refuse(*BARE, "--model.weights", bad_weights("nan"), says=("nan.pt", "head.bias", "not finite"))


@pytest.mark.parametrize("settings", ["--data.forget.classes=[0,1]", "--data.split_seed=1 --data.forget.fraction=0.5"])
def test_a_yardstick_of_another_split(refuse: Refuse, settings: str) -> None:
    refuse(*FIT, *settings.split(), says=(ORIGINAL[1], "c2b9d5c00a5caa1b", "evaluation.retrain"))


def test_weights_are_no_run(refuse: Refuse) -> None:
    for start in (VALIDATE, FIT):
        refuse(*start, "--ckpt_path", resolve("digits_resnet8"), says=("digits_resnet8.pt", "--model.weights"))


def test_a_finished_model_cannot_be_resumed(refuse: Refuse, tmp_path: Path) -> None:
    held = torch.load(resolve("digits_resnet8"), weights_only=True)
    torch.save({**held, "pytorch-lightning_version": "2.6.6"}, tmp_path / "finished.ckpt")
    refuse(*FIT, "--ckpt_path", tmp_path / "finished.ckpt", says=("finished.ckpt", "no run can resume"))


def test_a_yardstick_config_must_train_retrain_and_says_so_before_it_trains(refuse: Refuse) -> None:
    refuse(*FIT, "--evaluation.retrain", "model/finetune", says=("evaluation.retrain", "FineTune", "Retrain"))


def test_a_yardstick_config_is_for_fit(refuse: Refuse) -> None:
    config = "experiments/digits#retrain"
    refuse(*VALIDATE, "--evaluation.retrain", config, says=("evaluation.retrain", config, "fit"))


def inline(*args: object, says: tuple[str, ...], id: str) -> object:
    return pytest.param(args, says, id=id)


PARSED = [
    inline("fit", "--model", "RandomLables", says=("model:", "'RandomLables'", "mean 'RandomLabels'"), id="method"),
    inline(*FIT, "--model.backbone", "ResNet9", says=("model.backbone:", "'ResNet9'", "'ResNet8'"), id="backbone"),
    inline(*FIT, "--data.source", "Digit", says=("data.source:", "'Digit'", "mean 'Digits'", "SVHN"), id="source"),
    inline(
        *FIT,
        "--trainer.callbacks+=HeadRecover",
        says=("trainer.callbacks:", "'HeadRecover'", "mean 'HeadRecovery'", "EarlyStopping"),
        id="callback",
    ),
    inline(*FIT, "--trainer.callbacks+=torch.nn.Linear", says=("torch.nn.Linear", "subclass of Callback"), id="no-cb"),
    inline(*FIT, "--trainer.logger", "CSVLoger", says=("trainer.logger:", "'CSVLoger'", "CSVLogger"), id="logger"),
    inline(
        *FIT,
        "--model.optimizer",
        "torch.optim.SDG",
        says=("model.optimizer: torch.optim has no class 'SDG'",),
        id="optim",
    ),
    inline(
        *(*FIT, "--model.optimizer", "torch.nn.Linear"),
        says=("model.optimizer: 'torch.nn.Linear' is not accepted: it is no class of the kind",),
        id="no optimizer",
    ),
    inline(*FIT, "--model", "no.such.Method", says=("model:", "No module named 'no'", *METHODS), id="module"),
    inline(*FIT, "--model", "nope.yaml", says=("model:", "'nope.yaml'", "no such file"), id="model file"),
    inline(*FIT, "--evaluation.retrian", "x", says=("Evaluation has no option 'retrian'", "'retrain'"), id="option"),
    inline(
        *FIT,
        "--evalution.retrain",
        "x",
        says=("unknown option '--evalution'; did you mean '--evaluation'",),
        id="section",
    ),
    inline(
        *FIT, "--model.optimzer.lr", "3", says=("RandomLabels has no option 'optimzer'",), id="option above another"
    ),
    inline("benchmark", "--grid.methodes", "[a]", says=("grid: Grid has no option 'methodes'",), id="option of a grid"),
    inline("benchmark", "--grid.seeds.x", "1", says=("Seeds has no option 'x' (allowed:",), id="option of seeds"),
    inline("report", "--margins.leek", "1", "x", says=("Margins has no option 'leek'",), id="option of margins"),
    inline(*FIT, "--model.weigths", "x", says=("RandomLabels has no option 'weigths'",), id="option of the model"),
    inline(*FIT, "--model.backbone.withd", "3", says=("ResNet8 has no option 'withd'",), id="option of the backbone"),
    inline(*FIT, "--trainer.max_epochs", "many", says=("trainer.max_epochs: 'many'", "int or null"), id="type"),
    inline(*FIT, "--data.batch_size", "7.5", says=("data.batch_size: '7.5'", "expected int\n"), id="nested type"),
    inline(*FIT, "--report.page", "7", says=("report.page: '7'", "expected bool\n"), id="plain type"),
    inline(*FIT, "--model=OPC", "--model.norm=l1", says=("model.norm: 'l1'", "['l2', 'squared']"), id="literal"),
    inline(
        *FIT,
        "--trainer.callbacks",
        '[{"class_path": "HeadRecovery", "init_args": {"calibration": "trian"}}]',
        says=("trainer.callbacks.calibration: 'trian'", "['train', 'retain', 'heldout', 'rest']"),
        id="literal in a list",
    ),
    *[
        inline(
            *(*FIT, "--model.optimizer.lr", value),
            says=(f"model.optimizer.lr: '{value}' is not accepted; expected float\n",),
            id=f"rate {value}",
        )
        for value in ("abc", "nan")
    ],
    *[
        inline(
            *FIT, "--model.optimizer.lr", value, says=(f"model.optimizer.lr is {value[1:]}, but must be finite",), id=id
        )
        for id, value in {"no number": ".nan", "infinite": ".inf"}.items()
    ],
    inline(
        *(*FIT, "--model.optimizer.lrr", "1"),
        says=("model.optimizer: SGD has no option 'lrr'; did you mean 'lr'?",),
        id="option of the optimizer",
    ),
    inline(
        *(*FIT, "--config", "{model: {init_args: {optimizer: {class_path: torch.optim.SGD, init_args: {lrr: 1}}}}}"),
        says=("model.optimizer: SGD has no option 'lrr'; did you mean 'lr'?",),
        id="option of the optimizer in a config",
    ),
    inline(
        *(*FIT, "--config", "{data: {class_path: UnlearnDataModule, init_args: {forgett: {classes: [1]}}}}"),
        says=("data: UnlearnDataModule has no option 'forgett'; did you mean 'forget'",),
        id="option of the data in a config",
    ),
    inline(
        *FIT, "--seed_everything", "-1", says=("seed_everything is -1, but must lie in 0 to 4294967295",), id="seed"
    ),
    inline(*FIT, "--trainer.barebones=true", says=("trainer.barebones is true, but",), id="barebones"),
    inline("fit", "--data.source=Digits", says=("model is missing: give --model ", *METHODS), id="no model"),
    inline("fit", "--model=OPC", "--data.source=Digits", says=("--model.backbone", "ResNet8"), id="no backbone"),
    inline(
        *("fit", "--model=OPC", "--model.backbone=ResNet8"),
        says=("data.source is missing: give --data.source ", "Digits"),
        id="no source",
    ),
    inline("fitt", says=("unknown command 'fitt'; did you mean 'fit'", "benchmark", "validate"), id="subcommand"),
    inline("benchmrk", says=("unknown command 'benchmrk'; did you mean 'benchmark'",), id="command of ours"),
    inline("predict", says=("'predict'", "fit, report"), id="predict"),
    inline(
        *(*FIT, "--trainer.accumulate_grad_batches=0"),
        says=("trainer.accumulate_grad_batches is 0, but must be at least 1",),
        id="accumulated batches",
    ),
    inline(*FIT, "--trainer.gradient_clip_val=-1", says=("trainer.gradient_clip_val is -1",), id="clipping"),
    inline(*FIT, "--data.forget", "7", says=("data.forget: '7'", "such as {classes: [cat]}"), id="a class as rule"),
    inline(*FIT, "--data.forget", "[1, 2]", says=("data.forget: '[1, 2]'", "{classes: [cat]}"), id="a list as rule"),
    inline("benchmark", "--grid.bases", "{a: base/digits_class}", says=("output is missing",), id="no output"),
    inline(
        *("submit", "runs/OPC/version_0"),
        says=("to, name, method, threat_model are missing: give --to --name --method --threat_model\n",),
        id="no options",
    ),
    inline("verify", says=("bundle is missing: give BUNDLE\n",), id="no word"),
    inline("benchmark", "--grid", "{}", says=("grid.bases, output are missing: give --grid.bases",), id="no bases"),
    inline("tune", "--grid.bases", "{a: base/digits_class}", says=("output is missing",), id="no output of tune"),
    inline("report", says=("rows", "missing"), id="report of nothing"),
    inline("fit", "--modle", "OPC", says=("unknown option '--modle'; did you mean '--model'",), id="option of fit"),
    inline("fit", "--compil", "eager", says=("unknown option '--compil'; did you mean '--compile'",), id="beginning"),
    inline(*FIT, "--trainer.max_epoch", "1", says=("Trainer has no option 'max_epoch'",), id="beginning of an option"),
    inline("report", "x", "--htm", "y", says=("unknown option '--htm'; did you mean '--html'",), id="option of report"),
    inline("zoo", "list", "--plac", "y", says=("unknown option '--plac'; did you mean '--place'",), id="option of zoo"),
    inline("report", "x", "--margins", "3", says=("margins: '3'",), id="margins"),
    inline("benchmark", "--grid.bases", "{}", "--output", "o", says=("grid.bases is empty",), id="no bases"),
    inline(
        *("benchmark", "--grid.bases", "{class: base/digits_class}", "--grid.skip", "{clas: [opc]}", "--output", "o"),
        says=("scenario of grid.skip 'clas'; did you mean 'class'?",),
        id="skipped scenario",
    ),
    inline(
        *("benchmark", "--grid.bases", "{class: base/digits_class}", "--grid.skip", "{class: [opcc]}", "--output", "o"),
        says=("grid.skip.class 'opcc'; did you mean 'opc'",),
        id="skipped experiment",
    ),
    inline("fit", "--config", "nope.yaml", says=("config", "nope.yaml"), id="config file"),
    inline("fit", "--config=quikstart", says=("config", "'quikstart'", "'quickstart'"), id="config name"),
    inline("fit", "-c", "modl/salun", says=("config", "'modl/salun'", "'model/salun'"), id="short option"),
    inline(
        *("fit", "--config", "tuned/digits#class/saln"),
        says=("section", "digits.yaml", "'saln'", "'salun'"),
        id="section of a config",
    ),
    inline(
        *(*FIT, "--model.optimizer", "torch.optim.SGD", "--model.optimizer.lrr", "1"),
        says=("model.optimizer: SGD has no option 'lrr'; did you mean 'lr'?\n",),
        id="option of an optimizer",
    ),
    inline(
        *(*FIT, "--config", "{model: {init_args: {optimizer: {class_path: torch.optim.SDG, init_args: {lr: 1}}}}}"),
        says=("model.optimizer: torch.optim has no class 'SDG'; did you mean 'SGD'",),
        id="optimizer of a config",
    ),
    inline(
        *(*FIT, "--config", "{trainer: {max_epoch: 1}}"),
        says=("trainer: Trainer has no option 'max_epoch'; did you mean 'max_epochs'",),
        id="option of the Trainer in a config",
    ),
    inline(
        *(*FIT, "--model.lr_scheduler", "torch.optim.lr_scheduler.StepLR", "--model.lr_scheduler.x", "1"),
        says=("model.lr_scheduler: StepLR has no option 'x' (allowed: gamma, last_epoch, optimizer, step_size)",),
        id="option of a scheduler that is like no other",
    ),
    inline(
        *(*FIT, "--data.forget.classes=cat"),
        says=("data.forget.classes: 'cat' is not accepted; expected list or null; write a list as '[cat]'\n",),
        id="one value for a list",
    ),
    inline(
        *(*FIT, "--data.forget={classes: [off]}"),
        says=("data.forget.classes: 'False' is not accepted; expected str or int; put names such as yes, no, on, off",),
        id="the name of a class that YAML takes for a truth value",
    ),
    inline(*FIT, "--data.forget.classes=0,1", says=("write a list as '[0,1]'\n",), id="values for a list"),
    inline("fit", "--config", "/", says=("config: / is a folder: name a file\n",), id="folder as a config"),
    inline(*FIT, "--model.weights=/", says=("model.weights: / is a folder: name a file\n",), id="folder as weights"),
    inline(*FIT, "--ckpt_path=/", says=("ckpt_path: / is a folder: name a file\n",), id="folder as a checkpoint"),
    inline("benchmark", "--config", "benchmark/digit", says=("'benchmark/digits'",), id="config of a benchmark"),
    inline(*FIT, "--evaluation.retrain", "nope.yaml", says=("evaluation.retrain", "'nope.yaml'"), id="yardstick"),
]


@pytest.mark.parametrize(("args", "says"), PARSED)
def test_what_cannot_be_parsed(refuse: Refuse, args: tuple[object, ...], says: tuple[str, ...]) -> None:
    refuse(*args, says=says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"model: [unclosed\n a: b: c", "not YAML"),
        (b"- a list", "not list"),
        (b"", "is empty, but must hold settings by name"),
        (b"# nothing yet\n", "is empty, but must hold settings by name"),
        (b"\xff\xfe", "not YAML"),
        (b"data:\n  a: 1\ntrainer:\n  b: 1\ndata:\n  c: 1\n", "'data' is given twice (lines 1 and 5)"),
        (b"trainer:\n  callbacks:\n  - {class_path: A, class_path: B}\n", "'class_path' is given twice (lines 3"),
    ],
)
def test_a_malformed_config(refuse: Refuse, tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "bad.yaml").write_bytes(content)
    refuse("fit", "--config", tmp_path / "bad.yaml", says=("bad.yaml", says))


def test_a_setting_twice_in_the_text_of_a_config(refuse: Refuse) -> None:
    refuse(*FIT, "--config", "{trainer: {max_epochs: 1, max_epochs: 2}}", says=("'max_epochs' is given twice",))


def test_what_looks_like_a_setting_given_twice_and_is_none(tmp_path: Path) -> None:
    """A number and a text, two merges, and an alias that leads back."""
    text = "a: &a {x: 1}\nb: &b {y: 2}\nc:\n  <<: *a\n  <<: *b\nd: {1: x, '1': y}\n"
    (tmp_path / "good.yaml").write_text(text)
    assert read_config(tmp_path / "good.yaml")["c"] == {"x": 1, "y": 2}
    (tmp_path / "back.yaml").write_text("a: &a {x: *a}\n")
    read_config(tmp_path / "back.yaml")


MADE = [
    inline(*FIT, "--model.weights=digits_resnet", says=("'digits_resnet'", *ORIGINAL), id="name of weights"),
    inline(*FIT, "--model.backbone.num_classes=7", says=("10 classes", "backbone for 7"), id="classes of weights"),
    inline(*FIT, "--model.backbone.in_channels=3", says=("1-channel", "backbone for 3"), id="channels of weights"),
    inline(
        *BARE,
        *("--model.weights=fresh", "--model.backbone.num_classes=7"),
        says=("7 classes", "data has 10", "num_classes=10"),
        id="classes of data",
    ),
    inline(
        *BARE,
        *("--model.weights=fresh", "--model.backbone.in_channels=3"),
        says=("3-channel", "data has 1", "in_channels=1"),
        id="channels of data",
    ),
    inline(
        *("fit", "--model=FineTune", "--model.weights=fresh", "--model.backbone=Torchvision"),
        "--model.backbone.name=squeezenet1_0",
        *("--model.backbone.num_classes=10", "--data.source=Digits", "--data.forget.classes=[0]"),
        says=("head",),
        id="no linear head",
    ),
    inline(
        *("fit", "--model=FineTune", "--model.backbone=Torchvision", "--model.backbone.name=shufflenet_v2_x0_5"),
        *("--model.backbone.num_classes=10", "--model.backbone.in_channels=1", "--data.source=Digits"),
        *("--data.forget.classes=[0]", "--model.backbone.options", '{"nothing": 1}'),
        says=("nothing",),
        id="option of a library's network",
    ),
    inline(*BARE, "--data.forget.classes=[zero]", says=("'zero'", "0, 1, 2"), id="class name"),
    inline(*BARE, "--data.forget.classes=[12]", says=("12", "0 to 9"), id="class index"),
    inline(*BARE, "--data.forget.classes=[]", says=("classes, fraction or index_file",), id="nothing to forget"),
    inline(
        *BARE, "--data.forget.classes=[0,1,2,3,4,5,6,7,8,9]", says=("all 1442", "nothing is left"), id="all to forget"
    ),
    *[
        inline(*BARE, f"--data.forget.fraction={value}", says=("forget: fraction", value), id=f"fraction {value}")
        for value in ("1.5", "-0.1", "1.0")
    ],
    inline(*FIT, "--data.batch_size=-1", says=("batch_size is -1", "at least 2"), id="batch size"),
    inline(*FIT, "--model=OPC", "--model.weight=-1", says=("weight is -1.0", "at least 0"), id="negative weight"),
    inline(*FIT, "--model=OPC", "--model.temperature=0", says=("temperature is 0", "above 0"), id="temperature"),
    inline(
        *FIT, "--trainer.callbacks+=HeadRecovery", "--trainer.callbacks.ridge=-1", says=("ridge is -1",), id="ridge"
    ),
    inline(*FIT, "--trainer.max_epochs=-5", says=("max_epochs", "-5"), id="epochs"),
    inline(
        *(*FIT, "--data.val_from_train=0.999"),
        says=("val_from_train 0.999 holds out all 1011 retained images",),
        id="all held out",
    ),
    inline(*FIT, "--data.split_seed=-1", says=("split_seed is -1, but must lie in 0 to 4294967295",), id="split seed"),
    inline(*FIT, "--trainer.devices=0", says=("devices='0'",), id="devices"),
    inline(*FIT, "--trainer.devices=abc", says=("trainer.devices is 'abc'",), id="devices by name"),
    inline(*FIT, "--trainer.num_nodes=0", says=("trainer.num_nodes is 0",), id="nodes"),
    inline(*FIT, "--trainer.accelerator=gpux", says=("trainer.accelerator is 'gpux'", "cpu"), id="accelerator"),
    inline(*FIT, "--trainer.strategy=foo", says=("trainer.strategy is 'foo'", "ddp"), id="strategy"),
    inline(
        *(*FIT, "--trainer.check_val_every_n_epoch=0"),
        says=("trainer.check_val_every_n_epoch is 0, but must be at least 1",),
        id="epochs between validations",
    ),
    inline(
        *(*FIT, "--trainer.val_check_interval=0"),
        says=("trainer.val_check_interval is 0, but must be above 0",),
        id="batches between validations",
    ),
]


@pytest.mark.parametrize(("args", "says"), MADE)
def test_what_does_not_fit(refuse: Refuse, args: tuple[object, ...], says: tuple[str, ...]) -> None:
    refuse(*args, says=says)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("1\n2\n1\n", ("line 3", "'1'", "line 1")),
        ("5\n99999\n", ("line 2", "99999", "0 to 1441")),
        ("5\nfive\n", ("line 2", "'five'", "0 to 1441")),
        ("# nothing\n", ("forget.txt", "none of the 1442")),
        (None, ("forget.txt",)),
    ],
)
def test_an_index_file(refuse: Refuse, tmp_path: Path, lines: str | None, says: tuple[str, ...]) -> None:
    if lines is not None:
        (tmp_path / "forget.txt").write_text(lines)
    refuse(*BARE, "--data.forget=null", "--data.forget.index_file=forget.txt", says=says)


@pytest.mark.parametrize("settings", ["--trainer.logger.save_dir", "--trainer.logger=false --trainer.default_root_dir"])
def test_a_directory_that_cannot_be_made(refuse: Refuse, tmp_path: Path, settings: str) -> None:
    (tmp_path / "file").write_text("in the way")
    refuse(*BARE, *settings.split(), tmp_path / "file/runs", says=("file/runs", "Not a directory"))


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Fills the disk as soon as a file of that name is being written."""

    def fill(name: str) -> None:
        sync = os.fsync

        def full(descriptor: int) -> None:
            if f"/.{name}" in os.readlink(f"/proc/self/fd/{descriptor}"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(descriptor)

        monkeypatch.setattr("lit_unlearn.files.os.fsync", full)

    return fill


@pytest.mark.parametrize("name", ["config.yaml", "epoch=", "unlearned.ckpt", "results.json", "report.html"])
def test_a_full_disk(tmp_path: Path, no_room: Callable[[str], None], name: str) -> None:
    no_room(name)
    outcome = lit_unlearn(tmp_path, *BARE)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome.err
    assert f"{name}" in outcome.err
    assert ": No space left on device (disk /" in outcome.err
    assert outcome.err.endswith(" MB free)\n")
    left = [path.name for path in tmp_path.rglob("*")]
    assert not [path for path in left if path.startswith((name, f".{name}"))]
    assert ("RandomLabels" in outcome.out) == (name != "config.yaml"), "what was measured is printed"
    assert ("results.json" in left) == (name not in ("config.yaml", "results.json"))


def test_a_full_disk_that_a_logger_finds(tmp_path: Path) -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with patch("lightning.pytorch.loggers.CSVLogger.save", side_effect=error):
        outcome = lit_unlearn(tmp_path, *BARE)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome.err
    assert "error: runs/RandomLabels/version_0: No space left on device (disk /" in outcome.err


def test_more_batches_between_validations_than_there_are(tmp_path: Path) -> None:
    outcome = lit_unlearn(tmp_path, *BARE, "--trainer.val_check_interval=1000")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome.err
    assert "trainer.val_check_interval is 1000, but an epoch has " in outcome.err


STOP = ("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor")


def test_a_monitor_that_no_method_logs(refuse: Refuse) -> None:
    says = ("monitor of EarlyStopping: 'val/acc'", "val/forget_acc, val/retain_acc")
    refuse(*BARE, *STOP, "val/acc", says=says)


def test_a_monitor_that_turns_out_not_to_be_there(tmp_path: Path) -> None:
    outcome = lit_unlearn(tmp_path, *BARE, *STOP, "train/los")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome.err
    assert "EarlyStopping: monitor 'train/los' is not logged (allowed: " in outcome.err
    assert "val/forget_acc" in outcome.err


def test_a_monitor_that_is_there(tmp_path: Path) -> None:
    assert lit_unlearn(tmp_path, *BARE, *STOP, "val/forget_acc").status == 0


OWN = """
import torch

from lit_unlearn.attacks import Attack, AttackResult
from lit_unlearn.backbones import Backbone
from lit_unlearn.methods import FineTune


class Refuses(FineTune):
    def __init__(self, backbone: Backbone, weights: str | None = None, k: int = 2) -> None:
        super().__init__(backbone, weights)
        raise ValueError(f"k is {k}")


class NoWeights(FineTune):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)


class NoInit(FineTune):
    def __init__(self, backbone: Backbone, weights: str | None = None) -> None:
        self.weight = 1.0


class Saves(FineTune):
    def on_save_checkpoint(self, checkpoint):
        checkpoint["mine"] = 1


class Two(FineTune):
    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.backbone.encoder, self.backbone.head)]


class Forgets(FineTune):
    def training_step(self, batch, batch_idx):
        return self(batch["forget"][0]).sum()


class Bare(Attack):
    family = "recovery"


class NoFamily(Attack):
    def __init__(self) -> None:
        super().__init__("own")

    def evaluate(self, target):
        return AttackResult({})


class NoName(NoFamily):
    family = "recovery"

    def __init__(self) -> None:
        pass
"""


BREAKS = """
from lit_unlearn.attacks import Attack, AttackResult


class Breaks(Attack):
    family = "recovery"
    def __init__(self):
        super().__init__("breaks")

    def evaluate(self, target):
        return 1 / 0.0


class Undefined(Attack):
    family = "recovery"
    def __init__(self):
        super().__init__("undefined")

    def evaluate(self, target):
        return AttackResult({"nothing": float("nan")})
"""
UNTYPED = """
from lit_unlearn.methods import FineTune


class Untyped(FineTune):
    def __init__(self, backbone, weights=None) -> None:
        super().__init__(backbone, weights)
"""
ORIGINAL_WEIGHTS = ("--model.weights", "digits_resnet8")


def test_an_attack_that_raises_is_left_out_and_the_status_is_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_attacks.py").write_text(BREAKS)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    attacks = "[own_attacks.Breaks, own_attacks.Undefined, HeadRecovery]"
    outcome = lit_unlearn(tmp_path, *BARE, "--trainer.callbacks", attacks, "--report.checkpoint=false")
    sys.modules.pop("own_attacks", None)
    assert (outcome.status, outcome.err.count("\n")) == (1, 1), outcome.err
    reason = "it raised ZeroDivisionError: float division by zero (own_attacks.py, line 11)"
    assert f"lit-unlearn: error: recovery/breaks was left out: {reason} (see runs" in outcome.err
    assert f"recovery/breaks was not run: {reason}." in outcome.out
    assert "recovery/undefined has undefined numbers: nothing." in outcome.out
    *_, row = read_rows(next(tmp_path.glob("runs/*/*/results.json")))
    assert (row.status, row.skipped["recovery/breaks"]) == ("ok", reason)
    assert "recovery/hr/forget_acc" in row.attacks


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--model", "own_broken.A"), "model: own_broken.py, line 1: "),
        (("--model", "own_raises.A"), "model: own_raises cannot be imported: RuntimeError: my own trouble"),
        (("--model", "own_lacks.A"), "model: own_lacks cannot be imported: No module named 'no_such_thing'"),
        (
            ("--model", "own_untyped.Untyped"),
            "Untyped.__init__: its argument backbone has no type, write backbone: Back",
        ),
        (("--model", "own_classes.Refuses"), "own_classes.Refuses cannot be made: ValueError: k is 2"),
        (("--model", "own_classes.NoWeights"), "own_classes.NoWeights takes no weights: give its __init__ an"),
        (
            ("--model", "own_classes.NoInit", *ORIGINAL_WEIGHTS),
            "call super().__init__(backbone, weights, optimizer, lr_scheduler)",
        ),
        (
            ("--model", "own_classes.Saves", *ORIGINAL_WEIGHTS),
            "Saves overrides on_save_checkpoint, which the base class needs itself",
        ),
        (
            ("--model", "own_classes.Two", *ORIGINAL_WEIGHTS),
            "configure_optimizers returned several optimizers, but the Trainer steps",
        ),
        (
            ("--model", "own_classes.Forgets", *ORIGINAL_WEIGHTS),
            "Forgets asks for batch['forget'], but a batch of order = 'retain'",
        ),
        (("--model", "own_classes.NoWeigths"), "model: own_classes has no class 'NoWeigths'; did you mean 'NoWeights'"),
        (("--trainer.callbacks", "[own_classes.Bear]"), "own_classes has no class 'Bear'; did you mean 'Bare'"),
        (
            ("--trainer.callbacks+=own_classes.Xyzzy",),
            "own_classes has no class 'Xyzzy' (allowed: Bare, NoFamily, NoName)",
        ),
        (("--trainer.callbacks", "[own_classes.Bare]"), "trainer.callbacks: own_classes.Bare has no evaluate"),
        (("--trainer.callbacks", "[own_classes.NoFamily]"), "NoFamily has no family: set one"),
        (("--trainer.callbacks", "[own_classes.NoName]"), "NoName has no name: call super().__init__(name)"),
    ],
)
def test_a_mistake_in_a_file_of_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], says: str
) -> None:
    texts = {
        "broken": "def broken(:",
        "raises": "raise RuntimeError('my own trouble')",
        "lacks": "import no_such_thing",
        "untyped": UNTYPED,
    }
    for name, text in {**texts, "classes": OWN}.items():
        (tmp_path / f"own_{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    base = ("fit", "--config", "base/digits_class", "--evaluation.retrain=null", "--trainer.max_epochs=1")
    method = () if args[0] == "--model" else ("--config", "model/finetune")
    outcome = lit_unlearn(tmp_path, *base, *method, *args)
    sys.modules.pop("own_classes", None)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome.err
    assert says in outcome.err
    assert "callbacks" not in args[0] or not list(tmp_path.glob("runs/*")), "nothing is left of a run that never began"


@pytest.mark.parametrize("word", ["best", "hpc", "registry:model"])
def test_words_for_a_checkpoint_that_mean_nothing_in_a_new_process(refuse: Refuse, word: str) -> None:
    refuse(*BARE, f"--ckpt_path={word}", says=(f"ckpt_path is '{word.partition(':')[0]}'", "must be a file, or last"))


def test_two_attacks_of_one_name(refuse: Refuse) -> None:
    refuse(*BARE, "--trainer.callbacks+=HeadRecovery", says=("'recovery/hr'", "another name"))


def test_a_method_that_needs_a_forget_set(refuse: Refuse) -> None:
    refuse(*BARE, "--data.forget=null", says=("RandomLabels", "data.forget.classes"))


def test_a_cache_that_cannot_be_written_to(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    refuse(*FIT, f"--evaluation.cache={tmp_path / 'taken/cache'}", says=("evaluation.cache: cannot write to", "taken"))


def test_a_plateau_that_follows_nothing(refuse: Refuse) -> None:
    plateau = "--model.lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau"
    refuse(*FIT, plateau, says=("does not say which number it follows: take lightning.pytorch.cli.ReduceLROnPlateau",))


def test_a_schedule_that_cannot_take_a_step_is_refused_before_the_run(refuse: Refuse) -> None:
    schedule = ("--model.lr_scheduler=torch.optim.lr_scheduler.CosineAnnealingLR", "--model.lr_scheduler.T_max=0")
    refuse(*FIT, *schedule, says=("lr_scheduler: CosineAnnealingLR: integer modulo by zero",))


def test_a_plateau_follows_a_number(tmp_path: Path) -> None:
    plateau = ("--model.lr_scheduler=lightning.pytorch.cli.ReduceLROnPlateau", "--model.lr_scheduler.patience=0")
    follows = ("--model.lr_scheduler.monitor=val/retain_acc", "--model.lr_scheduler.mode=max")
    small = ("--trainer.max_epochs=2", "--trainer.callbacks=[]", "--trainer.limit_train_batches=1")
    outcome = lit_unlearn(tmp_path, *FIT, *plateau, *follows, *small)
    assert outcome.status == 0, outcome.err


def test_a_negative_learning_rate(refuse: Refuse) -> None:
    refuse(*BARE, "--model.optimizer.lr=-1", says=("-1",))


def test_an_error_of_ours_is_not_hidden(tmp_path: Path) -> None:
    broken = patch("lit_unlearn.methods.base.UnlearnModule.configure_metrics", side_effect=ValueError("ours"))
    with broken, pytest.raises(ValueError, match="ours"):
        lit_unlearn(tmp_path, *BARE)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("check", "taken", "refused", "said"),
    [
        (lambda x: check_at_least("x", x, 1), (1, 7), (0.9, -INF, NAN), "but must be .*at least 1"),
        (lambda x: check_at_least("x", x, 0, strict=True), (1e-9, 7), (0, -1, NAN), "but must be above 0"),
        (lambda x: check_at_least("x", x, 0), (0,), (INF,), "but must be finite and at least 0"),
        (
            lambda x: check_fraction("x", x, zero=True, one=True),
            (0, 0.5, 1),
            (-0.1, 1.1, NAN, INF),
            r"but must lie in \[0, 1\]",
        ),
        (lambda x: check_fraction("x", x, one=True), (0.1, 1), (0, 1.1, NAN), r"but must lie in \(0, 1\]"),
        (lambda x: check_fraction("x", x, zero=True), (0, 0.9), (-1, 1, NAN), r"but must lie in \[0, 1\)"),
        (lambda x: check_fraction("x", x), (0.1, 0.9), (0, 1, NAN), r"but must lie in \(0, 1\)"),
    ],
)
def test_a_number_out_of_its_range_is_named_with_the_range(
    check: Callable[[float], None], taken: tuple[float, ...], refused: tuple[float, ...], said: str
) -> None:
    for value in taken:
        check(value)
    for value in refused:
        with pytest.raises(UsageError, match=f"^x is {value}, {said}"):
            check(value)
