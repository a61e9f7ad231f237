"""Which samples each training step has: the orders in which a method is trained on forget and retain batches.

Everything here is a pure function of (seed, epoch, rank, world), and nothing is dropped.
"""

from collections.abc import Iterator
from typing import Any, get_args

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lit_unlearn.errors import UsageError, check_at_least, unknown
from lit_unlearn.orders import Order
from lit_unlearn.seed import generator


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
    completely. With ``forget_every`` k the steps 0, k, 2k, … have a forget batch, counted across epochs, and the others
    none. A forget set smaller than its batch gives smaller batches. No step has a single sample, since BatchNorm
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
        forget_every: of ``paired``, steps from one forget batch to the next.

    Raises:
        UsageError: for an unknown order, a batch size below 2, ``forget_every`` below 1, or a set that the order needs
            and that is empty.
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
        forget_every: int = 1,
    ) -> None:
        if order not in get_args(Order):
            raise unknown("batch order", order, get_args(Order))
        forget_size = batch_size if forget_batch_size is None else forget_batch_size
        for name, size in (("batch_size", batch_size), ("forget_batch_size", forget_size)):
            if size < 2:
                raise UsageError(f"{name} is {size}, it must be at least 2 (BatchNorm cannot train on one sample)")
        check_at_least("forget_every", forget_every, 1)
        self.order = order
        self.forget = forget
        self.retain = retain
        self.batch_size = batch_size
        self.forget_batch_size = forget_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self.forget_every = forget_every
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
            forget = self._endless_forget()
            for number, retain in enumerate(self._pass("retain", self.epoch), start=self.epoch * len(self)):
                yield {"retain": retain, **({} if number % self.forget_every else {"forget": next(forget)})}
        elif self.order == "forget_then_retain":
            yield from ({"forget": indices} for indices in self._pass("forget", self.epoch))
            yield from ({"retain": indices} for indices in self._pass("retain", self.epoch))
        else:
            name: str = self.order
            yield from ({name: indices} for indices in self._pass(name, self.epoch))

    def _endless_forget(self) -> Iterator[Tensor]:
        taken = -(-self.epoch * len(self) // self.forget_every)  # in the epochs before
        number, skip = divmod(taken, self._steps("forget"))
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
