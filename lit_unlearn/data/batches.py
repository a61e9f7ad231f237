"""The orders in which a method is trained on forget and retain batches, and exact evaluation batches.

Everything here is a pure function of (seed, epoch, rank, world), and nothing is dropped. A batch is cut out of one
uint8 tensor by ``index_select``; images that are streamed or transformed are read one by one, with the same indices.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, get_args

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lit_unlearn.data.reading import Images, Reading
from lit_unlearn.errors import UsageError, check_at_least, unknown
from lit_unlearn.orders import KEYS, Order
from lit_unlearn.seed import generator, random_states, set_random_state

IN_THE_LOOP = Reading()


class Batch(dict[str, Any]):
    """A training batch: images, labels and what else there is of each set, by its name.

    Args:
        parts: them.
        order: that the batch is of.
        method: the class that it is for.
    """

    def __init__(self, parts: Any, order: Order | None = None, method: str = "the method") -> None:
        super().__init__(parts)
        self.order, self.method = order, method

    def __missing__(self, name: str) -> Any:
        """Says which keys there are.

        Raises:
            UsageError: always.
        """
        keys = " and ".join(self) if self.order is None else KEYS[self.order]
        order = "its order" if self.order is None else f"order = {self.order!r}"
        raise UsageError(
            f"{self.method} asks for batch[{name!r}], but a batch of {order} has {keys}: give the class another order "
            "(docs/orders.md)"
        )


class OrderSampler:
    """Indices of every training step of one rank, in one of six orders.

    ====================  =====================================================================  ====================
    order                 one epoch                                                              keys of a step
    ====================  =====================================================================  ====================
    retain, forget, full  one pass over the set                                                  the order's name
    paired                one pass over retain; forget is reshuffled every time it runs out      retain and forget
    forget_then_retain    one pass over forget, then one over retain                             forget, then retain
    mixed                 one shuffled pass over both                                            mixed
    ====================  =====================================================================  ====================

    In ``paired`` the passes over forget go on across epochs, so that a forget set longer than an epoch is still seen
    completely. A forget set smaller than its batch gives smaller batches. No step has a single sample, since BatchNorm
    cannot train on one: a tail of one joins the batch before it, and a set of one is repeated in its batch. With
    several ranks the shuffled set is padded by wrapping to a multiple of ``world`` and rank r takes every world-th
    from r on, so that all ranks make the same number of steps.

    Args:
        order: which order.
        forget: training indices to forget, int64 (Nf,); may be empty for ``retain`` and ``full``.
        retain: the other training indices, int64 (Nr,).
        batch_size: samples per step of this rank, at least 2.
        forget_batch_size: the same for batches that come from forget alone; None means ``batch_size``.
        seed: seed of all shuffling.
        rank: this process.
        world: number of processes.

    Raises:
        UsageError: for an unknown order, a batch size below 2 or a set that the order needs and that is empty.
    """

    def __init__(
        self,
        order: Order,
        forget: Tensor,
        retain: Tensor,
        batch_size: int,
        forget_batch_size: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if order not in get_args(Order):
            raise unknown("batch order", order, get_args(Order))
        forget_size = batch_size if forget_batch_size is None else forget_batch_size
        for name, size in (("batch_size", batch_size), ("forget_batch_size", forget_size)):
            if size < 2:
                raise UsageError(f"{name} is {size}, it must be at least 2 (BatchNorm cannot train on one sample)")
        self.order = order
        self.forget = forget
        self.retain = retain
        self.batch_size = batch_size
        self.forget_batch_size = forget_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self.epoch = 0
        self._check_sets()

    def _check_sets(self) -> None:
        if len(self.forget) == 0 and self.order not in ("retain", "full"):
            raise UsageError(f"batch order {self.order!r} needs samples to forget and there are none")
        if len(self.retain) == 0 and self.order not in ("forget", "full"):
            raise UsageError(f"batch order {self.order!r} needs samples to retain and there are none")
        if len(self.forget) + len(self.retain) == 0:
            raise UsageError("there is no training sample")

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Number of steps of one epoch."""
        if self.order == "paired":
            return self._steps("retain")
        if self.order == "forget_then_retain":
            return self._steps("forget") + self._steps("retain")
        return self._steps(self.order)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield the indices of every step, by the name of the set that they come from."""
        if self.order == "paired":
            for retain, forget in zip(self._pass("retain", self.epoch), self._endless_forget(), strict=False):
                yield {"retain": retain, "forget": forget}
        elif self.order == "forget_then_retain":
            yield from ({"forget": indices} for indices in self._pass("forget", self.epoch))
            yield from ({"retain": indices} for indices in self._pass("retain", self.epoch))
        else:
            name: str = self.order
            yield from ({name: indices} for indices in self._pass(name, self.epoch))

    def _endless_forget(self) -> Iterator[Tensor]:
        number, skip = divmod(self.epoch * len(self), self._steps("forget"))
        while True:
            yield from self._pass("forget", number)[skip:]
            number, skip = number + 1, 0

    def _pass(self, name: str, number: int) -> list[Tensor]:
        indices = self._set(name)
        shuffled = indices[torch.randperm(len(indices), generator=generator(self.seed, name, number))]
        return _cut(_share(shuffled, self.rank, self.world), self._size(name))

    def _set(self, name: str) -> Tensor:
        sets = {"forget": self.forget, "retain": self.retain}
        return sets[name] if name in sets else torch.cat([self.forget, self.retain]).sort().values

    def _size(self, name: str) -> int:
        return self.forget_batch_size if name == "forget" else self.batch_size

    def _steps(self, name: str) -> int:
        counts = {"forget": len(self.forget), "retain": len(self.retain)}
        share = -(-counts.get(name, sum(counts.values())) // self.world)
        full, tail = divmod(share, self._size(name))
        return full + (tail > 1 or (tail == 1 and full == 0))


class FirstOfClasses(OrderSampler):
    """The first samples of each class of the order that an :class:`OrderSampler` gives, and no others.

    Args:
        labels: of all samples, int64 (N,).
        each: how many of each class; all of a class that has fewer.
        *args: those of an :class:`OrderSampler`.
    """

    def __init__(self, labels: Tensor, each: int, *args: Any) -> None:
        super().__init__(*args)
        self.labels, self.each = labels, each

    def _pass(self, name: str, number: int) -> list[Tensor]:
        passed = torch.cat(super()._pass(name, number))
        of_class = one_hot(self.labels[passed])
        rank = (of_class.cumsum(0) * of_class).sum(1)
        return list(torch.split(passed[rank <= self.each], self._size(name)))


def _share(indices: Tensor, rank: int, world: int) -> Tensor:
    padded = -(-len(indices) // world) * world
    return indices[torch.arange(rank, padded, world) % len(indices)]


def _cut(indices: Tensor, size: int) -> list[Tensor]:
    batches = list(torch.split(indices, size))
    if len(batches[-1]) == 1:
        tail = batches.pop()
        batches.append(torch.cat([batches.pop() if batches else tail, tail]))
    return batches


class Batches:
    """The training loader: iterates over one epoch of an :class:`OrderSampler`.

    Yields ``{"forget": (images, labels), ...}`` with the keys of the order; in the mixed order
    ``{"mixed": (images, labels, is_forget)}``. Images are (B, C, H, W), uint8 or what a transform makes of them, labels
    int64 (B,), is_forget bool (B,).

    Lightning keeps :meth:`state_dict` in each checkpoint. A run that goes on from one within an epoch begins at the
    step after it, with the random numbers that would have come next.

    Args:
        images: all training images (N, C, H, W).
        labels: all training labels, int64 (N,).
        sampler: which samples come when. Lightning finds it under this name and sets its epoch.
        reading: how they are read.
    """

    def __init__(self, images: Images, labels: Tensor, sampler: OrderSampler, reading: Reading = IN_THE_LOOP) -> None:
        self.images = images
        self.labels = labels
        self.sampler = sampler
        self.reading = reading
        self.is_forget = torch.zeros(len(labels), dtype=torch.bool)
        self.is_forget[sampler.forget] = True
        self._yielded = 0
        self._left: dict[str, Any] | None = None

    def __len__(self) -> int:
        """Number of steps of one epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[dict[str, tuple[Tensor, ...]]]:
        """Yield the batches of the sampler's epoch, or those of it that are left."""
        self._yielded = self._go_on()
        steps = islice(enumerate(self.sampler), self._yielded, None)
        for batch in self.reading.ahead(self.images, steps, self._batch):
            self._yielded += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Epoch, number of batches that it has yielded, and the state of every rank's random numbers."""
        return {"epoch": self.sampler.epoch, "step": self._yielded, "random": random_states(self.sampler.world)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave, when the next iteration begins."""
        self._left = state

    def _go_on(self) -> int:
        """The step to begin with."""
        left, self._left = self._left, None
        if left is None or left["epoch"] != self.sampler.epoch or not 0 < left["step"] < len(self):
            return 0
        set_random_state(left["random"][self.sampler.rank])
        return int(left["step"])

    def _batch(self, numbered: tuple[int, dict[str, Tensor]]) -> dict[str, tuple[Tensor, ...]]:
        number, step = numbered
        return {name: self._take(name, indices, number) for name, indices in step.items()}

    def _take(self, name: str, indices: Tensor, number: int) -> tuple[Tensor, ...]:
        of, seeds = self.sampler, indices
        if self.reading.transform is not None:
            key = generator(of.seed, "transform", of.epoch, number, name, of.rank)
            seeds = torch.randint(2**62, (len(indices),), generator=key)
        batch = (self.reading.take(self.images, indices, seeds), self.labels[indices])
        return (*batch, self.is_forget[indices]) if name == "mixed" else batch


class EvaluationBatches:
    """Every sample of a set exactly once, over all ranks together: rank r takes r, r + world, r + 2 world, and so on.

    Every rank yields the same number of batches of nearly equal size; a batch is empty only where a rank has fewer
    samples than there are batches.

    Args:
        images: all images (N, C, H, W).
        labels: all labels, int64 (N,).
        indices: the samples to evaluate, int64 (n,).
        batch_size: most samples in a batch of this rank.
        rank: this process.
        world: number of processes.
        reading: how they are read.
        fewest: batches at least, where there may be no sample.

    Raises:
        UsageError: for a batch size below 1.
    """

    def __init__(
        self,
        images: Images,
        labels: Tensor,
        indices: Tensor,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        reading: Reading = IN_THE_LOOP,
        fewest: int = 0,
    ) -> None:
        check_at_least("eval_batch_size", batch_size, 1)
        self.reading = reading
        self.images = images
        self.labels = labels
        self.indices = indices[rank::world]
        largest_share = -(-len(indices) // world)
        self.steps = max(fewest, -(-largest_share // batch_size))

    def __len__(self) -> int:
        """Number of batches, the same on every rank."""
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (B, C, H, W) and int64 labels (B,)."""
        if self.steps == 0:
            return
        yield from self.reading.ahead(self.images, self.indices.tensor_split(self.steps), self._batch)

    def _batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.reading.take(self.images, indices, seeds=indices), self.labels[indices]
