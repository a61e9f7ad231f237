"""What an attacker is handed: frozen copies of the networks, and what they make of each split.

All attacks of a run share one pass per network and split. Features stay where they were computed, sharded per rank and
in order, as long as they fit the budget; beyond it each use is a fresh pass, so memory does not grow with the data.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast
from weakref import WeakKeyDictionary

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from lit_unlearn.backbones import Backbone
from lit_unlearn.backbones.backbone import FEATURES
from lit_unlearn.metrics.evaluation import SplitAccuracy

HALVES = {"calibration": 0, "evaluation": 1}
"""The halves of a split, and whether they are its even or its odd positions."""

CACHE_BYTES = 2**30
"""How much of features one network may keep, over all its splits."""


class Encoded(NamedTuple):
    """One batch as a network sees it: features (B, d), logits (B, C), labels (B,), and each stage's pooled (B, c)."""

    features: Tensor
    logits: Tensor
    labels: Tensor
    stages: Mapping[str, Tensor]


class SplitData(Protocol):
    """What a target needs of the data: the classes' names, the splits that have samples, and batches of each."""

    @property
    def class_names(self) -> Sequence[str]: ...  # noqa: D102

    @property
    def split_names(self) -> Sequence[str]: ...  # noqa: D102

    def evaluation_batches(  # noqa: D102
        self, split: str, device: torch.device, part: str = "all"
    ) -> Iterator[tuple[Tensor, Tensor]]: ...


class EncodedData:
    """A frozen network together with what it makes of each split.

    Args:
        backbone: a frozen copy in eval mode; nothing else may change it.
        data: the splits.
        device: where to compute.
        budget: bytes of features that may be kept.
    """

    def __init__(self, backbone: Backbone, data: SplitData, device: torch.device, budget: int = CACHE_BYTES) -> None:
        self.backbone = backbone.to(device)
        self.data = data
        self.device = device
        self.room = budget
        self._kept: dict[str, list[tuple[Mapping[str, Tensor], Tensor]]] = {}

    def batches(self, split: str, part: str = "all") -> Iterator[Encoded]:
        """Yields this rank's batches of a split, or of its ``calibration`` or ``evaluation`` half, in a fixed order.

        The halves are the even and the odd positions of the split, picked from the one pass over all of it.
        """
        return (batch for _, batch in self.numbered(split, part))

    def numbered(self, split: str, part: str = "all") -> Iterator[tuple[Tensor, Encoded]]:
        """Yields the same, each batch with the positions (B,) of its samples in the split or the half."""
        kept = self._kept.get(split)
        position, world = rank_and_world()
        for tapped, labels in self._pass(split) if kept is None else kept:
            own = position + world * torch.arange(len(labels), device=labels.device)
            position += world * len(labels)
            if part != "all":
                chosen = own % 2 == HALVES[part]
                tapped, labels = {name: tensor[chosen] for name, tensor in tapped.items()}, labels[chosen]
                own = own[chosen] // 2
            features = tapped[FEATURES]
            with torch.no_grad():
                logits = self.backbone.head(features)
            yield own, Encoded(features, logits, labels, {name: tapped[name] for name in self.backbone.stages})

    def whole(self, split: str, part: str = "all") -> Encoded:
        """A split in one piece, all ranks' samples in the order of the split, for what cannot be computed in a stream.

        Memory grows with the split: (N, d) features, (N, C) logits, (N,) labels, on every rank. An empty split has no
        stages.
        """
        batches = list(self.batches(split))
        if not batches:
            shapes = (self.backbone.num_features,), (self.backbone.num_classes,)
            features, logits = (torch.empty(0, *shape, device=self.device) for shape in shapes)
            return Encoded(features, logits, torch.empty(0, dtype=torch.int64, device=self.device), {})
        cut = slice(None) if part == "all" else slice(HALVES[part], None, 2)
        return Encoded(
            _gather([batch.features for batch in batches])[cut],
            _gather([batch.logits for batch in batches])[cut],
            _gather([batch.labels for batch in batches])[cut],
            {name: _gather([batch.stages[name] for batch in batches])[cut] for name in self.backbone.stages},
        )

    def _pass(self, split: str) -> Iterator[tuple[Mapping[str, Tensor], Tensor]]:
        kept: list[tuple[Mapping[str, Tensor], Tensor]] = []
        size = 0
        for images, labels in self.data.evaluation_batches(split, self.device):
            with torch.no_grad():
                tapped = self.backbone.taps(images, [*self.backbone.stages, FEATURES])
            size += sum(tensor.nbytes for tensor in tapped.values())
            if size <= self.room:
                kept.append((tapped, labels))
            else:
                kept.clear()
            yield tapped, labels
        if size <= self.room:
            self.room -= size
            self._kept[split] = kept


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are; of a split it has the positions r, r + W, r + 2W, …."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _gather(pieces: list[Tensor]) -> Tensor:
    """The samples of all ranks in the order of the split, of which rank r of W has numbers r, r + W, r + 2W, …."""
    own = torch.cat(pieces)
    if rank_and_world()[1] == 1:
        return own
    shares = gather_all_tensors(own)
    whole = own.new_empty(sum(len(share) for share in shares), *own.shape[1:])
    for rank, share in enumerate(shares):
        whole[rank :: len(shares)] = share
    return whole


@dataclass(frozen=True)
class Target:
    """One model under attack.

    Attributes:
        model: the network to attack, with the data.
        original: the original network on the same data, or None where the attacker does not have it.
        retrain: the Retrain yardstick on the same data, or None where there is none; no attacker has it.
        data: the splits.
        num_classes: C of the data; a method may have given its model more outputs.
    """

    model: EncodedData
    original: EncodedData | None
    data: SplitData
    num_classes: int
    retrain: EncodedData | None = None

    @property
    def device(self) -> torch.device:
        """Where the networks and their features are."""
        return self.model.device

    def accuracies(self, readout: Callable[[Encoded], Tensor], test_part: str = "all") -> dict[str, float]:
        """Accuracy of a readout on each split that has samples; each sample counts once over all ranks.

        Args:
            readout: from a batch to logits (B, C).
            test_part: the part of the test splits to score; the training splits are scored whole.

        Returns:
            Fractions by ``<split>_acc``.
        """
        found = {}
        for split in self.data.split_names:
            counter = SplitAccuracy().to(self.device)
            for batch in self.model.batches(split, test_part if split.startswith("test") else "all"):
                counter.update(readout(batch), batch.labels)
            if (value := counter.value) is not None:
                found[f"{split}_acc"] = value
        return found


class _Shared:
    """The originals and the latest target of one module, so that callbacks share their passes."""

    def __init__(self, module: Any, data: SplitData) -> None:
        original = module.original_copy()
        self.data = data
        self.original = None if original is None else EncodedData(original, data, module.device)
        self.retrain: EncodedData | None = None
        self.state: tuple[tuple[int, int], ...] = ()
        self.target: Target | None = None

    def aim(self, backbone: Backbone, device: torch.device) -> Target:
        shape = backbone if self.original is None else self.original.backbone
        same = self.retrain is not None and self.retrain.backbone is backbone
        model = self.retrain if same and self.retrain is not None else EncodedData(backbone, self.data, device)
        return Target(model, self.original, self.data, shape.num_classes, self.retrain)

    def aim_at_original(self) -> Target | None:
        if self.original is None:
            return None
        return Target(self.original, self.original, self.data, self.original.backbone.num_classes, self.retrain)


_shared: "WeakKeyDictionary[LightningModule, _Shared]" = WeakKeyDictionary()


def target_of(trainer: Trainer, module: LightningModule) -> Target:
    """The module's backbone as it stands now, as a target; the same object for as long as no weight changes."""
    shared, unlearned = _shared_by(trainer, module), cast(Any, module)
    tensors = [*unlearned.backbone.parameters(), *unlearned.backbone.buffers()]
    state = tuple((id(tensor), tensor._version) for tensor in tensors)
    if shared.target is None or shared.state != state:
        original = shared.aim_at_original()
        if unlearned.is_original() and original is not None:
            shared.target = original
        else:
            shared.target = shared.aim(unlearned.frozen_copy(), module.device)
        shared.state = state
    return shared.target


def target_for(trainer: Trainer, module: LightningModule, backbone: Backbone | None) -> Target | None:
    """Another network on the same data as a target; None stands for the original, if the module has one."""
    shared = _shared_by(trainer, module)
    return shared.aim_at_original() if backbone is None else shared.aim(backbone, module.device)


def give_retrain(trainer: Trainer, module: LightningModule, backbone: Backbone) -> None:
    """Lets every target of a module from now on carry the Retrain yardstick."""
    shared = _shared_by(trainer, module)
    shared.retrain = EncodedData(backbone, shared.data, module.device)
    shared.target = None


def release(module: LightningModule) -> None:
    """Forgets the passes of a module, with the memory they hold."""
    _shared.pop(module, None)


def _shared_by(trainer: Trainer, module: LightningModule) -> _Shared:
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    shared = _shared.get(module)
    if shared is None or shared.data is not data:
        shared = _shared[module] = _Shared(module, data)
    return shared
