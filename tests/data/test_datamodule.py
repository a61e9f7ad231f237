import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from torch import Tensor, nn

from lit_unlearn.data import (
    Augment,
    Dataset,
    Digits,
    ForgetSpec,
    Order,
    Source,
    Streamed,
    UnlearnDataModule,
    datamodule,
)
from lit_unlearn.errors import UsageError


class Recorder(LightningModule):
    """Keeps every batch that Lightning hands over."""

    def __init__(self, *orders: Order, holdout: float = 0.0) -> None:
        super().__init__()
        self.orders = orders
        self.holdout, self.forget_every = holdout, 1
        self.layer = nn.Linear(1, 1, bias=False)
        self.trained: list[tuple[int, dict[str, tuple[Tensor, ...]]]] = []
        self.validated: list[tuple[int, tuple[Tensor, Tensor]]] = []

    def order_in(self, epoch: int) -> Order:
        return self.orders[min(epoch, len(self.orders) - 1)]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def training_step(self, batch: dict[str, tuple[Tensor, ...]], batch_idx: int) -> Tensor:
        self.trained.append((self.current_epoch, batch))
        return self.layer.weight.sum() * 0

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.validated.append((dataloader_idx, batch))

    test_step = validation_step


def trainer(folder: Path, **more: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        num_sanity_val_steps=0,
        **{"max_epochs": 2, **more},
    )


def indices(images: Tensor) -> list[int]:
    return (images[:, 0, 0, 0] * 255).round().long().tolist()


@pytest.fixture(autouse=True)
def seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")


@pytest.mark.parametrize("order", get_args(Order))
def test_a_method_is_fed_in_its_order_and_every_epoch_anew(order: Order, tiny: Source, tmp_path: Path) -> None:
    data = UnlearnDataModule(tiny, ForgetSpec(classes=["dog"]), batch_size=8, forget_batch_size=4)
    method = Recorder(order)
    trainer(tmp_path).fit(method, data)
    names = {"paired": {"retain", "forget"}, "forget_then_retain": {"retain", "forget"}}.get(order, {order})
    assert {name for _, batch in method.trained for name in batch} == names
    wanted = {"retain": data.split.retain, "forget": data.split.forget}
    for name in names:
        epochs = [
            [
                index
                for epoch, batch in method.trained
                if epoch == number and name in batch
                for index in indices(batch[name][0])
            ]
            for number in (0, 1)
        ]
        assert set(epochs[0] + epochs[1]) == set(wanted.get(name, torch.arange(40)).tolist())
        assert epochs[0] != epochs[1]
    images, labels, *rest = method.trained[0][1][min(names)]
    assert images.dtype == torch.float32
    assert images.max() <= 1
    assert labels.tolist() == [index % 4 for index in indices(images)]
    assert len(rest) == (order == "mixed")


def test_the_order_may_change_with_the_epoch_if_the_trainer_asks_for_the_loader_anew(
    tiny: Source, tmp_path: Path
) -> None:
    data = UnlearnDataModule(tiny, ForgetSpec(classes=["dog"]), batch_size=8, forget_batch_size=4)
    method = Recorder("forget_then_retain", "retain", "mixed")
    trainer(tmp_path, max_epochs=4, reload_dataloaders_every_n_epochs=1).fit(method, data)
    fed = [[next(iter(batch)) for epoch, batch in method.trained if epoch == number] for number in range(4)]
    assert fed == [["forget"] * 3 + ["retain"] * 4, ["retain"] * 4, ["mixed"] * 5, ["mixed"] * 5]
    same_order = [
        [index for epoch, batch in method.trained if epoch == number for index in indices(batch["mixed"][0])]
        for number in (2, 3)
    ]
    assert same_order[0] != same_order[1]


@pytest.mark.parametrize("order", ["retain", "paired", "full"])
def test_what_a_method_holds_out_is_of_the_forgotten_classes_and_never_trained_on(
    order: Order, tiny: Source, tmp_path: Path
) -> None:
    data = UnlearnDataModule(tiny, ForgetSpec(classes=["dog", 0], fraction=0.5), batch_size=8)
    method = Recorder(order, holdout=0.4)
    trainer(tmp_path).fit(method, data)
    held = data.holdout.tolist()
    assert held == sorted(held)
    assert set(held) <= set(data.split.retain.tolist())
    classes = {int(data.data.train_labels[index]) for index in data.split.forget.tolist()}
    for label in classes:
        pool = [index for index in data.split.retain.tolist() if data.data.train_labels[index] == label]
        assert len(set(held) & set(pool)) == round(0.4 * len(pool)) > 0
    assert {int(data.data.train_labels[index]) for index in held} == classes
    trained = {index for _, batch in method.trained for images, *_ in batch.values() for index in indices(images)}
    wanted = set(range(40)) - set(held) - (set(data.split.forget.tolist()) if order == "retain" else set())
    assert trained == wanted
    evaluated = [index for images, _ in data.evaluation_batches("holdout", "cpu") for index in indices(images)]
    assert evaluated == held


def test_nothing_is_held_out_unasked_and_not_what_is_not_there(tiny: Source, tmp_path: Path) -> None:
    data = UnlearnDataModule(tiny, ForgetSpec(classes=["dog"]), batch_size=8)
    trainer(tmp_path, max_epochs=1).fit(Recorder("retain"), data)
    assert len(data.holdout) == 0
    with pytest.raises(UsageError, match="no validation part of class 'dog' can be held out: 0 of its training images"):
        trainer(tmp_path).fit(Recorder("retain", holdout=0.1), data)


def test_the_run_seed_decides_the_order(tiny: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = []
    for run_seed in ("0", "0", "1"):
        monkeypatch.setenv("PL_GLOBAL_SEED", run_seed)
        method = Recorder("full")
        trainer(tmp_path, max_epochs=1).fit(method, UnlearnDataModule(tiny, batch_size=8))
        orders.append([index for _, batch in method.trained for index in indices(batch["full"][0])])
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_each_split_has_a_loader_that_sees_each_sample_once(stage: str, tiny: Source, tmp_path: Path) -> None:
    data = UnlearnDataModule(tiny, ForgetSpec(classes=[1]), eval_batch_size=3, augment=Augment(2, True))
    method = Recorder("retain")
    getattr(trainer(tmp_path), stage)(method, data, verbose=False)
    assert data.split_names == ("forget", "retain", "test_forget", "test_retain")
    for number, name in enumerate(data.split_names):
        seen = [index for loader, (images, _) in method.validated if loader == number for index in indices(images)]
        assert sorted(seen) == getattr(data.split, name).tolist()


def test_empty_splits_have_no_loader(tiny: Source) -> None:
    assert UnlearnDataModule(tiny).split_names == ("retain", "test_retain")
    data = UnlearnDataModule(tiny, ForgetSpec(fraction=0.5))
    assert data.split_names == ("forget", "retain", "test_retain")
    assert len(data.val_dataloader()) == len(data.test_dataloader()) == 3


def test_only_training_batches_are_augmented(tiny: Source, tmp_path: Path) -> None:
    data = UnlearnDataModule(tiny, batch_size=40, augment=Augment(crop=2))
    method = Recorder("full")
    trainer(tmp_path, max_epochs=1).fit(method, data)
    spread = method.trained[0][1]["full"][0].flatten(1)
    assert (spread.amin(1) != spread.amax(1)).any()
    assert all((images == images[:, :1, :1, :1]).all() for _, (images, _) in method.validated)
    assert all((images == images[:, :1, :1, :1]).all() for images, _ in data.evaluation_batches("retain", "cpu"))


def test_images_follow_the_true_precision_of_the_run(tiny: Source, tmp_path: Path) -> None:
    data = UnlearnDataModule(tiny, ForgetSpec(fraction=0.5))
    method = Recorder("mixed")
    trainer(tmp_path, max_epochs=1, precision="64-true").fit(method, data)
    images, labels, is_forget = method.trained[0][1]["mixed"]
    assert (images.dtype, labels.dtype, is_forget.dtype) == (torch.float64, torch.int64, torch.bool)


def test_evaluation_batches_work_without_a_trainer_and_halves_complete_each_other(tiny: Source) -> None:
    data = UnlearnDataModule(tiny, ForgetSpec(classes=[0]), eval_batch_size=4)
    parts = {}
    for part in ("all", "calibration", "evaluation"):
        batches = list(data.evaluation_batches("test_retain", "cpu", part))  # type: ignore[arg-type]
        assert all(images.dtype == torch.float32 and len(images) <= 4 for images, _ in batches)
        assert all(labels.tolist() == [index % 4 for index in indices(images)] for images, labels in batches)
        parts[part] = [index for images, _ in batches for index in indices(images)]
    wanted = data.split.test_retain.tolist()
    assert parts == {"all": wanted, "calibration": wanted[::2], "evaluation": wanted[1::2]}


def test_fewer_samples_of_a_split_are_spread_over_it(tiny: Source) -> None:
    data = UnlearnDataModule(tiny, ForgetSpec(classes=[0]))
    data.setup("fit")
    every = torch.cat([images for images, _ in data.evaluation_batches("retain", "cpu")])
    for most in (1, 3, len(every), len(every) + 5):
        found = torch.cat([images for images, _ in data.evaluation_batches("retain", "cpu", most=most)])
        places = [number * len(every) // most for number in range(most)] if most < len(every) else range(len(every))
        assert torch.equal(found, every[list(places)])


@pytest.mark.parametrize(
    ("split", "most", "sizes"), [("forget", 10, [4, 4, 2]), ("retain", 10, [6, 4]), ("retain", 7, [7])]
)
def test_shuffled_batches_draw_from_one_part_with_the_run_seed(
    split: Literal["forget", "retain"], most: int, sizes: list[int], tiny: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, draws = UnlearnDataModule(tiny, ForgetSpec(classes=[0]), batch_size=6, forget_batch_size=4), []
    for run_seed in ("0", "0", "1"):
        monkeypatch.setenv("PL_GLOBAL_SEED", run_seed)
        batches = list(data.shuffled_batches(split, "cpu", most))
        assert all(labels.tolist() == [index % 4 for index in indices(images)] for images, labels in batches)
        draws.append([indices(images) for images, _ in batches])
        drawn = {index for batch in draws[-1] for index in batch}
        assert len(drawn) == most
        assert drawn <= set(getattr(data.split, split).tolist())
    assert [len(batch) for batch in draws[0]] == sizes
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("most", [40, 1000])
def test_the_first_of_each_class_are_those_of_the_whole_order_and_nothing_else_is_read(most: int) -> None:
    module = UnlearnDataModule(Digits(), ForgetSpec(classes=[3]), batch_size=7)
    whole = [torch.cat(part) for part in zip(*module.shuffled_batches("retain", "cpu", most), strict=True)]
    some = [torch.cat(part) for part in zip(*module.shuffled_batches("retain", "cpu", most, each=5), strict=True)]
    seen, wanted = [0] * 10, []
    for place, label in enumerate(whole[1].tolist()):
        seen[label] += 1
        if seen[label] <= 5:
            wanted.append(place)
    assert len(some[1]) == len(wanted) < most
    assert all(torch.equal(found, all_of_it[wanted]) for found, all_of_it in zip(some, whole, strict=True))
    read: list[int] = []
    images = module.data.train_images
    assert isinstance(images, Tensor)

    class Watched:
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> Tensor:
            read.append(index)
            return images[index]

    module.data.train_images = Streamed(Watched(), (1, 8, 8))
    module.workers = 0
    again = torch.cat([pixels for pixels, _ in module.shuffled_batches("retain", "cpu", most, each=5)])
    assert torch.equal(again, some[0])
    assert len(read) == len(wanted)


def test_pixel_values_are_exact_at_both_ends() -> None:
    class Extremes(Source):
        def load(self) -> Dataset:
            images = torch.tensor([0, 255, 128], dtype=torch.uint8).view(3, 1, 1, 1)
            return Dataset(images, torch.arange(3), images, torch.arange(3), ["a", "b", "c"])

    images, _ = next(UnlearnDataModule(Extremes()).evaluation_batches("retain", "cpu"))
    assert images.flatten().tolist() == [0.0, 1.0, pytest.approx(128 / 255)]


def test_a_method_that_needs_a_forget_set_says_so(tiny: Source, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'paired' needs samples to forget"):
        trainer(tmp_path).fit(Recorder("paired"), UnlearnDataModule(tiny))


def test_complaints_come_from_prepare_data_and_loading_happens_once(
    tiny: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="unknown class 'dgo'"):
        UnlearnDataModule(tiny, ForgetSpec(classes=["dgo"])).prepare_data()
    loads = []
    load = type(tiny).load
    monkeypatch.setattr(type(tiny), "load", lambda self: loads.append(1) or load(self))
    data = UnlearnDataModule(tiny, ForgetSpec(classes=["dog"]))
    assert str(data).startswith("UnlearnDataModule({'source': 'TinySource'")
    assert loads == []
    data.prepare_data()
    data.setup("fit")
    data.setup("fit")
    assert (data.num_classes, data.image_shape, data.class_names[1]) == (4, (3, 4, 4), "dog")
    assert loads == [1]


def test_prepare_data_says_the_split_in_one_line(tiny: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(datamodule, "rank_zero_info", said.append)
    data = UnlearnDataModule(tiny, ForgetSpec(classes=["dog"]))
    data.prepare_data()
    assert said == [str(data.split)]


def test_ranks_share_the_evaluation_of_a_split(tiny: Source) -> None:
    data = UnlearnDataModule(tiny, ForgetSpec(classes=["dog"]))
    seen = []
    for rank in range(3):
        data.trainer = SimpleNamespace(  # type: ignore[assignment]
            global_rank=rank, world_size=3, precision_plugin=SimpleNamespace(convert_input=lambda images: images)
        )
        seen += [index for images, _ in data.evaluation_batches("retain", "cpu") for index in indices(images)]
    assert sorted(seen) == data.split.retain.tolist()


@pytest.mark.parametrize("wanted", [[0, 3, 4, 8, 11, 12], [5], []])
def test_wanted_positions_are_read_alone_each_on_the_rank_that_has_it(tiny: Source, wanted: list[int]) -> None:
    data = UnlearnDataModule(tiny, ForgetSpec(classes=["dog"]), eval_batch_size=2)
    assert torch.equal(data.labels("retain"), data.data.train_labels[data.split.retain])
    with pytest.raises(UsageError, match="unknown split 'retained'; did you mean 'retain'"):
        data.labels("retained")
    for rank in range(3):
        data.trainer = SimpleNamespace(  # type: ignore[assignment]
            global_rank=rank, world_size=3, precision_plugin=SimpleNamespace(convert_input=lambda images: images)
        )
        batches = list(data.evaluation_batches("retain", "cpu", wanted=torch.tensor(wanted, dtype=torch.int64)))
        own = [position for position in wanted if position % 3 == rank]
        found = torch.cat([images for images, _ in batches])
        assert indices(found) == data.split.retain[own].tolist()
        assert found.shape[1:] == data.image_shape


def test_a_part_of_the_training_set_takes_the_place_of_the_test_set(named: Source) -> None:
    whole = UnlearnDataModule(named).data
    data = UnlearnDataModule(named, ForgetSpec(classes=[2]), test_from_train=0.25).data
    assert (len(data.train_labels), len(data.test_labels)) == (30, 10)
    pixels = whole.train_images.flatten(1).tolist()
    train, test = ([pixels.index(row) for row in i.flatten(1).tolist()] for i in (data.train_images, data.test_images))
    assert sorted(train + test) == list(range(40))
    assert torch.equal(data.train_labels, whole.train_labels[train])
    assert torch.equal(data.test_labels, whole.train_labels[test])
    assert data.train_names == [whole.train_names[index] for index in train]
    limited = UnlearnDataModule(named, train_limit=20, test_from_train=0.25).data
    assert (len(limited.train_labels), len(limited.test_labels)) == (15, 5)


def test_train_limit_keeps_a_seeded_choice_with_its_labels_and_names(named: Source) -> None:
    data = UnlearnDataModule(named, ForgetSpec(classes=[2]), train_limit=15)
    kept = data.data.train_images[:, 0, 0, 0].long()
    assert len(kept) == 15
    assert kept.tolist() != list(range(15))
    assert torch.equal(data.data.train_labels, kept % 4)
    assert data.data.train_names == [f"{index % 4}/{index:03d}.png" for index in kept.tolist()]
    assert len(data.data.test_labels) == 20
    again = UnlearnDataModule(named, train_limit=15, split_seed=0).data.train_images
    assert torch.equal(again, data.data.train_images)
    assert not torch.equal(UnlearnDataModule(named, train_limit=15, split_seed=1).data.train_images, again)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 1}, "batch_size is 1"),
        ({"forget_batch_size": 1}, "forget_batch_size is 1"),
        ({"eval_batch_size": 0}, "eval_batch_size is 0"),
        ({"train_limit": 1}, "train_limit is 1"),
        ({"train_limit": 41}, "train_limit is 41, .* the 40 training images"),
        ({"train_limit": 5, "forget": ForgetSpec(index_file="x")}, "train_limit 5 renumbers"),
        ({"test_from_train": 0.0}, "test_from_train is 0.0"),
        ({"test_from_train": 1.0}, "test_from_train is 1.0"),
        ({"test_from_train": 0.001}, "test_from_train 0.001 of 40 training images leaves nothing"),
        ({"test_from_train": 0.5, "forget": ForgetSpec(index_file="x")}, "test_from_train 0.5 renumbers"),
        ({"train_limit": 5, "forget": [1]}, "train_limit 5 renumbers"),
        ({"forget": 3}, "forget is 3, but must be a ForgetSpec, .*or a list of images"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str, tiny: Source) -> None:
    with pytest.raises(UsageError, match=message):
        UnlearnDataModule(tiny, **arguments).prepare_data()


def test_a_list_of_images_needs_no_specification(tiny: Source) -> None:
    module = UnlearnDataModule(tiny, range(1, 3), forgotten_before=[torch.tensor([4])])  # type: ignore[arg-type,list-item]
    assert (module.split.forget.tolist(), module.split.forgotten_before.tolist()) == ([1, 2], [4])
    assert module.left_out_by([1, 2, 4]) == module.split.left_out
    assert str(module).endswith("forget={'images': 2})")


def test_an_unknown_split_or_part_is_refused(tiny: Source) -> None:
    data = UnlearnDataModule(tiny)
    with pytest.raises(UsageError, match="unknown split 'forgot'; did you mean 'forget'"):
        next(data.evaluation_batches("forgot", "cpu"))
    with pytest.raises(UsageError, match="unknown part 'half'"):
        next(data.evaluation_batches("forget", "cpu", "half"))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="need a trainer"):
        data.train_dataloader()


def test_the_description_is_plain_json(tiny: Source) -> None:
    data = UnlearnDataModule(tiny, ForgetSpec(classes=[1]), augment=Augment(4, True), train_limit=30)
    described = json.loads(json.dumps(data.describe()))
    assert described == {
        "source": "TinySource",
        "names": False,
        "sha256": data.data.sha256()[0],
        "train": 30,
        "test": 20,
        "image_shape": [3, 4, 4],
        "num_classes": 4,
        "train_limit": 30,
        "test_from_train": None,
        "augment": {"crop": 4, "flip": True},
    }


def test_the_command_line_makes_it_with_short_names_and_keeps_names_and_numbers_apart() -> None:
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(UnlearnDataModule, "data")
    words = ["--data.source", "FashionMNIST", "--data.source.root", "x", "--data.forget.classes", '[1, "3", dress]']
    parsed = parser.parse_args([*words, "--data.augment.crop", "4"])
    assert parsed.data.forget.classes == [1, "3", "dress"]
    again = parser.parse_string(parser.dump(parsed))
    assert again.data.forget.classes == [1, "3", "dress"]
    assert again.data.source.class_path.endswith("FashionMNIST")
    assert again.data.augment.init_args.crop == 4


@pytest.mark.ci
def test_importing_the_data_package_imports_no_heavy_library() -> None:
    heavy = {"torchvision", "sklearn", "scipy", "PIL"}
    code = "import lightning.pytorch, sys; before = set(sys.modules); import lit_unlearn.data; "
    code += f"print({heavy!r} & (set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


class Copied(Source):
    """The tiny images, in which images 4 and 5 are copies of image 0, and image 9 differs from it in one pixel."""

    def __init__(self, tiny: Source) -> None:
        self.tiny = tiny

    def load(self) -> Dataset:
        data = self.tiny.load()
        assert isinstance(data.train_images, Tensor)
        data.train_images[[4, 5, 9]] = data.train_images[0].clone()
        data.train_images[9, 2, 3, 3] = 1
        return data


@pytest.mark.parametrize(
    ("forget", "count"),
    [([0, 1], 1), ([0, 4, 7], 2), ([5, 2], 1), ([0, 4, 5], 0), ([9, 1], 0), ([1, 2], 0)],
)
def test_forgotten_images_with_a_retained_copy_are_counted(tiny: Source, forget: list[int], count: int) -> None:
    warnings = UnlearnDataModule(Copied(tiny), forget).warnings  # type: ignore[arg-type]
    assert len(warnings) == (count > 0)
    if warnings:
        assert warnings[0].startswith(
            f"{count} of {len(forget)} forgotten images have an exact copy among the retained"
        )


def test_nothing_is_said_of_copies_where_nothing_is_forgotten_or_none_is_retained(tiny: Source) -> None:
    assert UnlearnDataModule(Copied(tiny)).warnings == []
    for label in range(10):
        assert UnlearnDataModule(Digits(), ForgetSpec(classes=[label])).warnings == []
