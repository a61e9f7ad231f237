"""What an attack is given: frozen copies of the networks, with their features and logits on each split.

All attacks of a run share one pass per network and split. Features stay where they were computed, sharded per rank and
in order, as long as they fit the budget; beyond it they go to disk, or where that has no room each use is a fresh pass.
So memory does not grow with the data.
"""

import copy
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lit_unlearn.attacks.encoded import Encoded, combined, gather_ranks, rank_and_world, rows, shares
from lit_unlearn.attacks.pool import Pool
from lit_unlearn.attacks.scratch import Scratch, Stored
from lit_unlearn.attacks.shared import Shared
from lit_unlearn.attacks.splits import HALVES, ImageData, SplitData
from lit_unlearn.backbones import Backbone
from lit_unlearn.backbones.backbone import FEATURES, Network
from lit_unlearn.backbones.custom import as_backbone
from lit_unlearn.backbones.finite import check_finite
from lit_unlearn.metrics.evaluation import SplitAccuracy
from lit_unlearn.results import Subject

CACHE_BYTES = 2**30
"""Features that one network may keep in memory, over all its splits; more are kept on disk."""


_NUMBERS = itertools.count()

_Tapped = Mapping[str, Tensor]
_TappedOnDisk = Mapping[str, Stored]


class EncodedData:
    """A frozen network together with its features and logits on each split.

    Args:
        backbone: a frozen copy in eval mode; nothing else may change it.
        data: the splits.
        device: where to compute.
        budget: bytes of features that may be kept in memory; 0 keeps none, in memory or on disk.
        cells: stages are averaged over cells × cells parts of their positions, side by side in what is handed on; 1
            averages over all positions.

    Attributes:
        key: names it among all of this process, for what is computed once of it. A key that held the object itself
            would keep network and features in memory.
    """

    def __init__(
        self, backbone: Backbone, data: SplitData, device: torch.device, budget: int = CACHE_BYTES, cells: int = 1
    ) -> None:
        self.backbone = backbone.to(device)
        self.data = data
        self.device = device
        self.cells = cells
        self._budget = budget
        self.forget()

    def forget(self) -> None:
        """Lets go of all that was computed with the network: what is asked next is computed anew."""
        self.key = f"network {next(_NUMBERS)}"
        self.room = self._budget
        self._scratch = Scratch() if self._budget else None
        self._kept: dict[str, list[tuple[_Tapped | _TappedOnDisk, Tensor]]] = {}

    def batches(self, split: str, part: str = "all") -> Iterator[Encoded]:
        """Yields this rank's batches of a split, or of its ``calibration`` or ``evaluation`` half, in a fixed order.

        The halves are the samples of even and of odd index, taken from the one pass over the whole split.
        """
        return (batch for _, batch in self.batches_with_index(split, part))

    def batches_with_index(self, split: str, part: str = "all") -> Iterator[tuple[Tensor, Encoded]]:
        """Yields the same, each batch with the index (B,) of its samples in the split or the half."""
        position, world = rank_and_world()
        for tapped, labels in self._again(split) if split in self._kept else self._pass(split):
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

    def gather(
        self,
        split: str,
        part: str = "all",
        index: Tensor | None = None,
        what: Collection[str] = ("features", "logits", "stages"),
    ) -> Encoded:
        """Samples of all ranks in one place, on every rank, for what cannot be computed in a stream.

        Memory grows with the samples: ask for those alone that are needed, and for labels from the data. An empty split
        has no stages.

        Args:
            split: a split that has samples.
            part: of the split, ``calibration`` or ``evaluation``.
            index: positions (n,) in the split or the part, int64, each once and the same on every rank, in the order in
                which the samples are to come; None takes all, in the order of the split.
            what: to gather beside labels: ``features`` (n, d), ``logits`` (n, C), ``stages`` (n, c) each. The others
                come without samples, or without stages.
        """
        if index is None and part != "all":
            index = torch.arange(len(self.data.labels(split)[HALVES[part] :: 2]))
        if index is not None:
            places = index if part == "all" else 2 * index + HALVES[part]
            return self._chosen(split, places.to(self.device), what)
        pieces = [combined(lambda batch: batch[0], [batch], what) for batch in self.batches(split)]
        return combined(gather_ranks, pieces, what) if pieces else self._nothing()

    def per_sample(self, split: str, measure: Callable[[Encoded], Tensor]) -> Tensor:
        """What a function from a batch to (B, …) makes of each sample of a split, in order, on every rank: (N, …)."""
        return gather_ranks([measure(batch) for batch in self.batches(split)])

    def _chosen(self, split: str, places: Tensor, what: Collection[str]) -> Encoded:
        """The samples at places (n,) in a split, in their order; of each batch no others are kept."""
        wanted = torch.zeros(len(self.data.labels(split)), dtype=torch.bool, device=self.device)
        wanted[places] = True
        own, pieces = [], []
        for position, batch in self.batches_with_index(split):
            here = wanted[position]
            own.append(position[here])
            pieces.append(rows(batch, here, what))
        if not pieces:
            return self._nothing()
        found, order = torch.cat(shares(own)).sort()
        every = combined(lambda kept: torch.cat(shares(kept)), pieces, what)
        return rows(every, order[torch.searchsorted(found, places)], what)

    def _nothing(self) -> Encoded:
        shapes = (self.backbone.num_features,), (self.backbone.num_classes,)
        features, logits = (torch.empty(0, *shape, device=self.device) for shape in shapes)
        return Encoded(features, logits, torch.empty(0, dtype=torch.int64, device=self.device), {})

    def release(self) -> None:
        """Lets go of all features, and moves the network to the CPU; nothing may be asked of it afterwards."""
        self._kept, self._scratch, self.room = {}, None, 0
        self.backbone.cpu()

    def _again(self, split: str) -> Iterator[tuple[_Tapped, Tensor]]:
        for tapped, labels in self._kept[split]:
            yield {name: self._loaded(each) for name, each in tapped.items()}, labels

    def _loaded(self, kept: Tensor | Stored) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        assert self._scratch is not None
        return self._scratch.get(kept, self.device)

    def _pass(self, split: str) -> Iterator[tuple[_Tapped, Tensor]]:
        kept: list[tuple[_Tapped | _TappedOnDisk, Tensor]] | None = []
        room = self.room
        for images, labels in self.data.evaluation_batches(split, self.device):
            with torch.no_grad():
                tapped = self.backbone.taps(images, [*self.backbone.stages, FEATURES], self.cells)
            if kept is not None:
                room -= sum(tensor.nbytes for tensor in tapped.values())
                stored = tapped if room >= 0 else self._on_disk(tapped)
                if stored is None:
                    kept = None
                else:
                    kept.append((stored, labels))
            yield tapped, labels
        if kept is not None:
            self.room = max(0, room)
            self._kept[split] = kept

    def _on_disk(self, tapped: _Tapped) -> _TappedOnDisk | None:
        """The tensors on disk; None where they may not be there, or have no room."""
        found = {} if self._scratch is None else {name: self._scratch.put(each) for name, each in tapped.items()}
        stored = {name: each for name, each in found.items() if each is not None}
        return stored if len(stored) == len(tapped) else None


@dataclass(frozen=True)
class Target:
    """One model under attack.

    Attributes:
        model: the network to attack, with the data.
        original: the original network on the same data, or None where the attacker does not have it.
        data: the splits.
        num_classes: C of the data; a method may have given its model more outputs.
        retrain: the reference model Retrain on the same data, or None; no attacker has it.
        shared: what attacks compute once for all models of a run.
        pool: other models of the same data by their files, for attacks that compare with many, or None.
        subject: what the model is; a further Retrain of a run is ``retrain``, too.
    """

    model: EncodedData
    original: EncodedData | None
    data: SplitData
    num_classes: int
    retrain: EncodedData | None = None
    shared: Shared = field(default_factory=Shared)
    pool: Pool | None = None
    subject: Subject = "unlearned"

    @property
    def device(self) -> torch.device:
        """Where the networks and their features are."""
        return self.model.device

    def accuracies(self, readout: Callable[[Encoded], Tensor]) -> dict[str, float]:
        """Accuracy of a readout on each split that has samples; each sample counts once over all ranks.

        Args:
            readout: from a batch to logits (B, C).

        Returns:
            Fractions by ``<split>_acc``.
        """
        found = {}
        for split in self.data.split_names:
            counter = SplitAccuracy().to(self.device)
            for batch in self.model.batches(split):
                counter.update(readout(batch), batch.labels)
            if (value := counter.value) is not None:
                found[f"{split}_acc"] = value
        return found


def frozen_backbone(network: Network, data: ImageData, role: str = "network") -> Backbone:
    """A copy of a network as a backbone, in eval mode and without gradients.

    Args:
        network: a backbone, or any ``nn.Module`` that ends in a linear layer.
        data: what it must fit.
        role: what the network is, for an error.

    Raises:
        UsageError: if channels, image size or class count do not fit, or weights are not finite.
    """
    backbone = copy.deepcopy(as_backbone(network, data.image_shape, data.num_classes))
    check_finite(network, role)
    backbone.check(data.image_shape, data.num_classes)
    return backbone.eval().requires_grad_(False)


def make_targets(
    data: SplitData,
    num_classes: int,
    device: torch.device,
    backbones: Mapping[Subject, Backbone],
    shared: Shared | None = None,
    pool: Pool | None = None,
) -> dict[Subject, Target]:
    """A target for each model of a run; they share the passes of Original and Retrain.

    Args:
        data: the splits.
        num_classes: C of the data.
        device: where to compute.
        backbones: frozen networks; one that occurs twice is encoded once.
        shared: what attacks compute once; None begins with nothing.
        pool: reference models by their files.
    """
    unique = {id(backbone): EncodedData(backbone, data, device) for backbone in backbones.values()}
    encoded = {subject: unique[id(backbone)] for subject, backbone in backbones.items()}
    original, retrain, shared = encoded.get("original"), encoded.get("retrain"), shared or Shared()
    known = data, num_classes, retrain, shared, pool
    return {subject: Target(model, original, *known, subject) for subject, model in encoded.items()}
