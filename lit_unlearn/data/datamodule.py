"""The LightningDataModule that every method, attack and report shares."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol, cast

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lit_unlearn.data.augment import Augment
from lit_unlearn.data.batches import IN_THE_LOOP, Batch, Batches, EvaluationBatches
from lit_unlearn.data.copies import said_of_copies
from lit_unlearn.data.forget_list import ImageList
from lit_unlearn.data.forget_spec import ForgetSpec, as_spec, given, spec_of
from lit_unlearn.data.reading import Images, Reading, Streamed
from lit_unlearn.data.samplers import FirstOfClasses, OrderSampler
from lit_unlearn.data.sources import Dataset, Source, held_out_of_training, limited, shape_of
from lit_unlearn.data.splits import (
    SPLIT_NAMES,
    TRAINING_SPLITS,
    ForgetSplit,
    hold_out,
    indices_of,
    left_out_hash,
    make_split,
)
from lit_unlearn.data.transforms import Transforms
from lit_unlearn.errors import UsageError, check_at_least, check_fraction, check_seed, shown, unknown
from lit_unlearn.options import TypedOptions
from lit_unlearn.orders import Order
from lit_unlearn.seed import run_seed

PARTS = {"all": slice(None), "calibration": slice(0, None, 2), "evaluation": slice(1, None, 2)}
HOLDOUT = "holdout"
_MOST_WORKERS = 8
_LARGEST = 2**31 - 1


class UnlearnMethod(Protocol):
    """What the data reads of the method that it is trained with."""

    @property
    def holdout(self) -> float:
        """Share of the retained samples that training leaves out, of each class that has samples to forget."""

    @property
    def forget_every(self) -> int:
        """In the order ``paired``, how many steps there are from one batch of the forget set to the next."""

    def order_in(self, epoch: int) -> str:
        """The batch order of one epoch."""


class UnlearnDataModule(TypedOptions, LightningDataModule):
    """Images of a source, split into forget and retain, in the batch order that the method asks for.

    Args:
        source: where the images come from.
        forget: what is to be forgotten, from Python also a list of images as for ``ForgetSpec``; None where there is
            nothing to forget (training the original model).
        split_seed: seed of the split and of ``train_limit``, apart from the seed of the run.
        batch_size: samples per training step and device, at least 2.
        forget_batch_size: the same for batches of the forget set alone; None means ``batch_size``.
        eval_batch_size: samples per evaluation step and device.
        augment: crop and flip of training batches; None trains on the images as they are.
        train_limit: keep only that many training images, drawn at random, for a quick trial; None keeps all.
        test_from_train: share of the training images, drawn at random, that takes the place of the test set, so that
            settings can be chosen without a look at the test set; None tests on the test set.
        val_from_train: share of the retained training images of each class, drawn at random, that nothing is trained
            on: the split ``validation``, to stop early or choose a model by ``val/validation_acc``.
        forgotten_before: what earlier requests made the original forget, oldest first. Nothing is trained on these
            images; they are the split ``forgotten_before``.
        transforms: of single images, read one by one, in place of ``augment``, such as ``ImageNetTransforms``.
        workers: processes that read images which are streamed or transformed, ahead of the training; None is one for
            each processor, shared among the devices of the machine and 8 at most; 0 reads them in the loop itself.

    Raises:
        UsageError: for a size, share or seed out of range, what is no source or no ForgetSpec, ``train_limit`` or
            ``test_from_train`` beside a list of images, or transforms beside ``augment``.
    """

    checks_itself = ("source", "forget", "forgotten_before")

    def __init__(
        self,
        source: Source,
        forget: ForgetSpec | None = None,
        split_seed: int = 0,
        batch_size: int = 256,
        forget_batch_size: int | None = None,
        eval_batch_size: int = 1000,
        augment: Augment | None = None,
        train_limit: int | None = None,
        test_from_train: float | None = None,
        val_from_train: float | None = None,
        forgotten_before: list[ForgetSpec] | None = None,
        transforms: Transforms | None = None,
        workers: int | None = None,
    ) -> None:
        super().__init__()
        _check_sizes(batch_size, forget_batch_size, eval_batch_size)
        check_seed("split_seed", split_seed)
        if isinstance(source, type) or not hasattr(source, "load"):
            raise UsageError(
                f"source is {shown(source)}, but must be a source of images, such as ImageFolder('images')"
            )
        if workers is not None:
            check_at_least("workers", workers, 0)
        if augment is not None and transforms is not None:
            raise UsageError("augment and transforms both change training images: give the one or the other")
        for name, value in {"test_from_train": test_from_train, "val_from_train": val_from_train}.items():
            if value is not None:
                check_fraction(name, value)
        if not isinstance(forgotten_before, list | tuple | None):
            raise UsageError(f"forgotten_before is {shown(forgotten_before)}, but must be a list of ForgetSpecs")
        forget = None if forget is None else as_spec(forget)
        before = None if forgotten_before is None else [as_spec(each) for each in forgotten_before]
        specs = [*(before or ()), *([] if forget is None else [forget])]
        renumbering = {"train_limit": train_limit, "test_from_train": test_from_train}
        for name, value in renumbering.items() if any(spec.lists for spec in specs) else ():
            if value is not None:
                raise UsageError(f"{name} {value} renumbers the images, so it cannot be used with a list of images")
        self.source = source
        self.forget = forget
        self.split_seed = split_seed
        self.batch_size = batch_size
        self.forget_batch_size = forget_batch_size
        self.eval_batch_size = eval_batch_size
        self.augment = augment
        self.transforms = transforms
        self.workers = workers
        self.train_limit = train_limit
        self.test_from_train = test_from_train
        self.val_from_train = val_from_train
        self.forgotten_before = before
        self._loaded: tuple[Dataset, ForgetSplit] | None = None

    def __str__(self) -> str:
        """One line that loads nothing; Lightning's own text would ask for every loader."""
        forget = None if self.forget is None else given(self.forget)
        return f"{type(self).__name__}({self.source.describe()}, forget={forget})"

    def prepare_data(self) -> None:
        """Load and split now, so that every error comes before the run writes anything.

        Raises:
            UsageError: if images cannot be loaded or split, or training and test images differ in shape after the
                transforms.
        """
        rank_zero_info(str(self.split))
        train, test = (self._shape_of(images) for images in (self.data.train_images, self.data.test_images))
        if train != test:
            raise UsageError(f"data: training and test images differ in shape after the transforms: {train} and {test}")
        for warning in self.warnings:
            rank_zero_warn(warning)

    def setup(self, stage: str | None = None) -> None:
        """Load and split where this process has not done so yet."""
        self._load()

    def _load(self) -> tuple[Dataset, ForgetSplit]:
        if self._loaded is None:
            data = self.source.load() if self.transforms is None else self.source.load_raw()
            data = limited(data, self.train_limit, self.split_seed)
            data = held_out_of_training(data, self.test_from_train, self.split_seed)
            split = make_split(
                data.train_labels,
                data.test_labels,
                self.forget,
                self.split_seed,
                data.class_names,
                data.train_names,
                self.forgotten_before or (),
                self.val_from_train,
                data.train_folder,
            )
            copies = said_of_copies(data.train_images, split.forget, split.retain)
            self._loaded = data, replace(split, warnings=(*split.warnings, *copies))
        return self._loaded

    @property
    def data(self) -> Dataset:
        """All images and labels."""
        return self._load()[0]

    @property
    def split(self) -> ForgetSplit:
        """What is forgotten and what is retained."""
        return self._load()[1]

    @property
    def warnings(self) -> list[str]:
        """What the user should know of these images and this split, one sentence each."""
        return [*self.data.warnings, *self.split.warnings]

    def left_out_by(self, rule: str | Mapping[str, Any] | ImageList) -> str:
        """The name of what a model never saw that was trained without the images that a rule names.

        It equals the split's ``left_out`` where these are exactly this forget set and the earlier ones.

        Args:
            rule: an index file, the arguments of a :class:`ForgetSpec`, or a list of images.

        Raises:
            UsageError: if it names no images of this training set.
        """
        data, spec = self.data, spec_of(rule)
        named = data.class_names, data.train_names, data.train_folder
        found = indices_of(spec, data.train_labels, self.split_seed, *named)
        return left_out_hash(found, data.train_labels)

    @property
    def split_of_nothing(self) -> str:
        """The hash of the split of these training images in which nothing is forgotten or held out."""
        return left_out_hash(torch.empty(0, dtype=torch.int64), self.data.train_labels)

    @property
    def class_names(self) -> list[str]:
        """One name per class index."""
        return self.data.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes, forgotten ones included."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of an image as it is evaluated."""
        return self._shape_of(self.data.train_images)

    def _shape_of(self, images: Images) -> tuple[int, int, int]:
        if (shape := shape_of(images)) is None or self.transforms is not None:
            first = torch.zeros(1, dtype=torch.int64)
            shape = self._reading(training=False).take(images, first, first).shape[1:]
        return shape[0], shape[1], shape[2]

    @property
    def split_names(self) -> tuple[str, ...]:
        """The splits that are not empty, in the order of the evaluation loaders."""
        counts = self.split.counts()
        return tuple(name for name in SPLIT_NAMES if counts.get(name))

    @property
    def holdout(self) -> Tensor:
        """Retained training indices, sorted, that training leaves out; empty unless the method has a ``holdout``.

        Raises:
            UsageError: if a class of the forget set has too few retained samples to spare one.
        """
        share = 0.0 if self.trainer is None else self._method().holdout
        return hold_out(self.split, self.data.train_labels, share, self.class_names)

    def train_dataloader(self) -> Batches:
        """Batches in the order that the method declares for this epoch.

        Raises:
            UsageError: if the order needs samples that the split does not have, or there is no method.
        """
        if self.trainer is None:
            raise UsageError("training batches need a trainer: their order is the method's")
        order = self._order()
        rank, world = self._rank_and_world()
        sampler = OrderSampler(
            order,
            self.split.forget,
            self.split.retain[~torch.isin(self.split.retain, self.holdout)],
            self.batch_size,
            self.forget_batch_size,
            seed=run_seed(),
            rank=rank,
            world=world,
            forget_every=self._method().forget_every,
        )
        return Batches(self.data.train_images, self.data.train_labels, sampler, self._reading(training=True))

    def val_dataloader(self) -> list[EvaluationBatches]:
        """One loader for each of :attr:`split_names`."""
        return [self._evaluation_loader(name) for name in self.split_names]

    def test_dataloader(self) -> list[EvaluationBatches]:
        """The same loaders as for validation."""
        return self.val_dataloader()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Turn uint8 images on the device into floats in [0, 1]; augment them first while training."""
        training = self.trainer is not None and self.trainer.training
        if isinstance(batch, dict):
            parts = {name: (self._to_float(images, training), *rest) for name, (images, *rest) in batch.items()}
            return Batch(parts, self._order(), type(self._method()).__name__)
        images, *rest = batch
        return (self._to_float(images, training), *rest)

    def labels(self, split: str) -> Tensor:
        """All labels of one split in order, int64 (N,), on every rank.

        Args:
            split: one of ``SPLIT_NAMES``; or ``holdout``, the part of retain of that name.

        Raises:
            UsageError: for an unknown split.
        """
        _, labels, indices = self._part(split)
        return labels[indices]

    def evaluation_batches(
        self,
        split: str,
        device: torch.device | str,
        part: str = "all",
        most: int | None = None,
        wanted: Tensor | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images in [0, 1] and labels of one split, this rank's share, on a device and without augmentation.

        Args:
            split: one of ``SPLIT_NAMES``; or ``holdout``, the part of retain of that name.
            device: where the batches are to lie.
            part: ``calibration`` takes the samples at even positions of the split, ``evaluation`` the others.
            most: how many samples at most, evenly spread over the split; None takes all.
            wanted: positions in the whole split, int64, sorted: batches have those of them that this rank has, and
                there is at least one batch. None takes all.

        Raises:
            UsageError: for an unknown split or part.
        """
        if part not in PARTS:
            raise unknown("part", part, PARTS)
        for images, labels in self._evaluation_loader(split, part, most, wanted):
            pixels = self._to_float(images.to(device, non_blocking=True), training=False)
            yield pixels, labels.to(device, non_blocking=True)

    def shuffled_batches(
        self, split: str, device: torch.device | str, most: int, each: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Random samples of one split in batches of training's size, on a device and without augmentation.

        They come in an order drawn from the run's seed, all of them on every rank; no batch has a single sample.

        Args:
            split: one of ``SPLIT_NAMES``.
            device: where the batches are to lie.
            most: how many samples at most.
            each: of these, the first so many of each class, and the last batch may have a single one. None takes all.

        Raises:
            UsageError: for an unknown split, or one without samples.
        """
        images, labels, indices = self._part(split)
        some = indices[torch.randperm(len(indices), generator=torch.Generator().manual_seed(run_seed()))[:most]]
        order: Order = "forget" if split == "forget" else "retain"
        drawn = order, some, some, self.batch_size, self.forget_batch_size, run_seed()
        sampler = OrderSampler(*drawn) if each is None else FirstOfClasses(labels, each, *drawn)
        for batch in Batches(images, labels, sampler, self._reading(training=False)):
            pixels, classes = batch[order]
            yield self._to_float(pixels.to(device), training=False), classes.to(device)

    def describe(self) -> dict[str, object]:
        """The data as plain values, for a result row."""
        return {
            **self.source.describe(),
            "sha256": self._sha256[0],
            **({} if (full := self.data.full_sha256()) is None else {"full_sha256": full}),
            "train": len(self.data.train_labels),
            "test": len(self.data.test_labels),
            "image_shape": list(self.image_shape),
            "num_classes": self.num_classes,
            "train_limit": self.train_limit,
            "test_from_train": self.test_from_train,
            **({} if self.val_from_train is None else {"val_from_train": self.val_from_train}),
            "augment": None if self.augment is None else dict(vars(self.augment)),
            **({} if self.transforms is None else {"transforms": self.transforms.describe()}),
            **({"streamed": True} if isinstance(self.data.train_images, Streamed) else {}),
        }

    @property
    def train_sha256(self) -> str | None:
        """Names the training images and their labels, whatever is forgotten of them; None where they change."""
        return self._sha256[1] if self.data.fixed else None

    @cached_property
    def _sha256(self) -> tuple[str, str]:
        return self.data.sha256()

    def _order(self) -> Order:
        """The order of this epoch."""
        assert self.trainer is not None
        return cast(Order, self._method().order_in(self.trainer.current_epoch))

    def _method(self) -> UnlearnMethod:
        module = None if self.trainer is None else self.trainer.lightning_module
        if not hasattr(module, "order_in"):
            raise UsageError(f"UnlearnDataModule needs an UnlearnModule as model, but got {type(module).__name__}")
        return cast(UnlearnMethod, module)

    def _evaluation_loader(
        self, name: str, part: str = "all", most: int | None = None, wanted: Tensor | None = None
    ) -> EvaluationBatches:
        images, labels, indices = self._part(name)
        indices = indices[PARTS[part]]
        if most is not None and most < len(indices):
            indices = indices[torch.arange(most) * len(indices) // most]
        (rank, world), reading = self._rank_and_world(), self._reading(training=False)
        if wanted is None:
            return EvaluationBatches(images, labels, indices, self.eval_batch_size, rank, world, reading)
        own = indices[wanted[wanted % world == rank]]
        return EvaluationBatches(images, labels, own, self.eval_batch_size, reading=reading, fewest=1)

    def _reading(self, training: bool) -> Reading:
        if self.transforms is None and not isinstance(self.data.train_images, Streamed):
            return IN_THE_LOOP
        transform = None if self.transforms is None else self.transforms.of(training)
        devices, on_gpu = 1, False
        if self.trainer is not None:
            devices, on_gpu = self.trainer.num_devices, self.trainer.strategy.root_device.type == "cuda"
        share = _processors() // (1 if _bound() else devices)
        workers = max(1, min(share, _MOST_WORKERS)) if self.workers is None else self.workers
        return Reading(transform, workers, pin=on_gpu)

    def _part(self, name: str) -> tuple[Images, Tensor, Tensor]:
        """All images and labels of the set that a split is of, and the split's indices in it."""
        if name not in (*SPLIT_NAMES, HOLDOUT):
            raise unknown("split", name, (*SPLIT_NAMES, HOLDOUT))
        indices: Tensor = self.holdout if name == HOLDOUT else getattr(self.split, name)
        if name in (*TRAINING_SPLITS, HOLDOUT):
            return self.data.train_images, self.data.train_labels, indices
        return self.data.test_images, self.data.test_labels, indices

    def _rank_and_world(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _to_float(self, images: Tensor, training: bool) -> Tensor:
        if training and self.augment is not None:
            images = self.augment(images)
        pixels = images.float() if images.is_floating_point() else images / 255
        # Lightning converts a batch to the run's true precision while the images are still uint8, to no effect.
        return pixels if self.trainer is None else cast(Tensor, self.trainer.precision_plugin.convert_input(pixels))


def _processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _bound() -> bool:
    """Whether Slurm gave this process processors of its own, so that no other device shares them."""
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return given.isdigit() and _processors() <= int(given)


def _check_sizes(batch_size: int, forget_batch_size: int | None, eval_batch_size: int) -> None:
    sizes = {"batch_size": batch_size, "forget_batch_size": forget_batch_size, "eval_batch_size": eval_batch_size}
    for name, size in sizes.items():
        if size is not None:
            check_at_least(name, size, 1 if name == "eval_batch_size" else 2)
            if size > _LARGEST:
                raise UsageError(f"{name} is {size}, but must be at most {_LARGEST}")
