"""Training batches in the order of a sampler, and exact evaluation batches.

A batch is cut out of one uint8 tensor by ``index_select``; images that are streamed or transformed are read one by one,
with the same indices.
"""

from collections.abc import Iterator
from copy import copy
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from lit_unlearn.data.reading import Images, Reading
from lit_unlearn.data.samplers import OrderSampler
from lit_unlearn.errors import UsageError, check_at_least
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


class Batches:
    """The training loader: iterates over one epoch of an :class:`OrderSampler`.

    Yields ``{"forget": (images, labels), ...}`` with the keys of the order; in the mixed order
    ``{"mixed": (images, labels, is_forget)}``. Images are (B, C, H, W), uint8 or what a transform makes of them, labels
    int64 (B,), is_forget bool (B,).

    Lightning keeps :meth:`state_dict` in each checkpoint. A run that goes on from one within an epoch begins at the
    step after it, with the random numbers that would have come next; it must have as many processes as before.

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
        """The step to begin with.

        Raises:
            UsageError: within an epoch, if the number of processes has changed.
        """
        left, self._left = self._left, None
        if left is None or left["epoch"] != self.sampler.epoch:
            return 0
        before = copy(self.sampler)
        before.world = len(left["random"])
        if not 0 < left["step"] < len(before):
            return 0
        if before.world != self.sampler.world:
            raise UsageError(
                f"number of processes: was {before.world}, now {self.sampler.world}, but the checkpoint lies within an "
                f"epoch: go on with {before.world}; a checkpoint at the end of an epoch can be continued on any number"
            )
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
        """Yield images (B, C, H, W), uint8 or what a transform makes of them, and int64 labels (B,)."""
        if self.steps == 0:
            return
        yield from self.reading.ahead(self.images, self.indices.tensor_split(self.steps), self._batch)

    def _batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.reading.take(self.images, indices, seeds=indices), self.labels[indices]
