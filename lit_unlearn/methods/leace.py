"""LEACE, a control: erase at every stage all that a linear readout could tell of what is to be forgotten.

At each stage, in order of depth and with the stages before erased already, then at the features: x ↦ x − R(x − μ) with
R = W⁺ u uᵀ W, W = Σxx^(−1/2), u the left singular vectors of W Σxz whose singular value is above a tolerance. Then no
affine map of x correlates with z, at the least change of x. What lies at or below the tolerance stays: at .094 nothing
of the stem and the first stages of a ResNet-8 on Fashion-MNIST is erased, and three directions of its last stage; how
many there are at each place is printed. Belrose et al., arXiv 2306.03819. z has a column for each forgotten class and
one more: a sample of Df has 1 in the column of its class, or in the last one if that class is not forgotten as a whole;
a sample of Dr has 0 in all. A map (C, H, W) gives a vector for each position, with its image's z: so the stage averaged
over positions is guarded too. Σxx is shrunk as in the released code (EleutherAI/concept-erasure), after Bodnar et al.,
arXiv 1308.2608. That code also limits the trace of the erased covariance, which never matters: it is Σxx^½ (I − uuᵀ)
Σxx^½.

No weight of the network changes. Between a stage's last affine layer and its output stands a ReLU, and what follows it
may be an identity shortcut, or a convolution that pads with zeros: to fold the map into either is not exact, and in
what follows it would not reach the stage itself. So each map is part of the network, as the buffers ``eraser_weight``
(C, C) and ``eraser_bias`` (C,) of its stage, those of the features at the encoder. Who holds the weights can take them
off again: it is no unlearning, but shows what attacks see that are not linear.
"""

import copy
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from lit_unlearn.backbones import Backbone
from lit_unlearn.backbones.backbone import FEATURES
from lit_unlearn.errors import UsageError, check_at_least
from lit_unlearn.methods.base import Labelled, UnlearnData, UnlearnModule
from lit_unlearn.metrics.eigen import eigh

_WEIGHT, _BIAS = "eraser_weight", "eraser_bias"


class LEACE(UnlearnModule):
    """Puts an affine map behind each stage and the features when a fit begins; trains nothing, stops after one epoch.

    Args:
        backbone: the trained network.
        weights: the original weights.
        tolerance: singular values of W Σxz up to it are taken for 0; at least 0.

    Raises:
        UsageError: if ``tolerance`` is out of range, or the backbone trains a part of itself only; before training, for
            a stage that gives no tensor.
    """

    order = "forget"
    trains = False
    search = (("tolerance", 1e-3, 0.1),)

    def __init__(self, backbone: Backbone, weights: str | Path | None = None, tolerance: float = 0.01) -> None:
        super().__init__(backbone, weights)
        check_at_least("tolerance", tolerance, 0)
        if backbone.trained != "all":
            raise UsageError(f"LEACE changes every stage, so that train must be all, but is {backbone.trained}")
        self.tolerance = tolerance
        self.automatic_optimization = False

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Nothing is trained."""
        return []

    def check_data(self, data: UnlearnData) -> None:
        """Checks that every stage runs and gives a tensor."""
        images = torch.zeros(2, *data.image_shape).to(self.backbone.normalise.mean)
        with torch.no_grad():
            self.frozen_copy().taps(images, self.backbone.stages)

    def on_train_start(self) -> None:
        """Fits one map after the other, each on all training samples, unless a resumed run has them."""
        if has_erasers(self.backbone):
            return
        self.backbone.eval()
        erased = {}
        for name, place in erased_places(self.backbone).items():
            moments = self._moments(place)
            weight, bias = eraser(moments.sums(self.trainer.strategy), self.tolerance)
            erased[name] = round(len(bias) - float(weight.trace()))  # I − R, where R projects
            kind = self.backbone.normalise.mean
            set_eraser(place, weight.to(kind), bias.to(kind), self.backbone.channels_last)
        rank_zero_info(f"LEACE erases directions: {', '.join(f'{name} {count}' for name, count in erased.items())}")
        if not any(erased.values()):
            rank_zero_warn(f"LEACE erases nothing: all singular values lie within tolerance {self.tolerance:g}")

    def training_step(self, batch: dict[str, Labelled], batch_idx: int) -> None:
        """Nothing: the maps are set."""

    def on_train_epoch_end(self) -> None:
        """Ends the run."""
        self.finish()

    def architecture_change(self) -> str | None:
        """The maps, which the network's own class has no place for."""
        if not has_erasers(self.backbone):
            return None
        return f"an affine map behind each stage and the features, with {_WEIGHT} and {_BIAS} of the stage"

    def unwrapped_backbone(self) -> Backbone:
        """The backbone, or a copy of it without the maps."""
        if not has_erasers(self.backbone):
            return self.backbone
        plain = copy.deepcopy(self.backbone)
        remove_erasers(plain)
        return plain

    def is_original(self) -> bool:
        """Never with the maps, though all weights are the original's."""
        return not has_erasers(self.backbone) and self.has_original_weights()

    def saved_state(self) -> dict[str, Any]:
        """How many channels each map has, by its place; none where there are no maps."""
        places = erased_places(self.backbone) if has_erasers(self.backbone) else {}
        return {"channels": {name: len(getattr(place, _BIAS)) for name, place in places.items()}}

    def load_saved_state(self, state: dict[str, Any]) -> None:
        """Makes maps, which do nothing until they are loaded, where the checkpoint has them."""
        remove_erasers(self.backbone)
        places, mean = erased_places(self.backbone), self.backbone.normalise.mean
        for name, channels in state.get("channels", {}).items():
            weight = torch.eye(channels).to(mean)
            set_eraser(places[name], weight, torch.zeros_like(weight[0]), self.backbone.channels_last)

    @torch.no_grad()
    def _moments(self, place: nn.Module) -> "Moments":
        """Those of this rank's samples at the output of a module."""
        moments, outputs = Moments(), list[Tensor]()
        with place.register_forward_hook(lambda module, args, output: outputs.append(output)):
            for part in ("retain", "forget"):
                for images, labels in self.data.evaluation_batches(part, self.device):
                    if len(labels):
                        self.backbone.features(images)
                        vectors = by_position(outputs.pop(), self.backbone.channels_last)
                        moments.add(vectors, concept(labels, self.data.split.forgotten_classes, part == "forget"))
                        outputs.clear()
        return moments


class Moments:
    """Sums over vectors x of C channels and their concepts z of K columns, in double precision."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []

    def add(self, vectors: Tensor, concepts: Tensor) -> None:
        """Adds the vectors (B, L, C) of images with concepts (B, K)."""
        x, z = vectors.double(), concepts.double()
        count = torch.tensor(float(x.shape[0] * x.shape[1]), dtype=x.dtype, device=x.device)
        of_image = x.sum(1)
        new = [count, of_image.sum(0), x.shape[1] * z.sum(0), torch.einsum("blc,bld->cd", x, x), of_image.T @ z]
        self._sums = [old + each for old, each in zip(self._sums, new, strict=True)] if self._sums else new

    def sums(self, strategy: Strategy) -> list[Tensor]:
        """n, Σx (C,), Σz (K,), Σxxᵀ (C, C) and Σxzᵀ (C, K) over all ranks."""
        return [strategy.reduce(each, reduce_op="sum") for each in self._sums]


def concept(labels: Tensor, classes: Iterable[int], forget: bool) -> Tensor:
    """Concepts (B, K + 1) of labels (B,): a column for each forgotten class, the last for what is forgotten else."""
    columns = torch.stack([labels == each for each in (*classes, -1)], dim=1)
    columns[:, -1] = ~columns.any(1)
    return columns & forget


def by_position(output: Tensor, channels_last: bool) -> Tensor:
    """A stage's output (B, C, H, W), or (B, H, W, C) with ``channels_last``, (B, T, C) or (B, C), as (B, L, C)."""
    if output.dim() == 4:
        return output.flatten(1, 2) if channels_last else output.flatten(2).transpose(1, 2)
    return output if output.dim() == 3 else output[:, None]


def eraser(sums: list[Tensor], tolerance: float) -> tuple[Tensor, Tensor]:
    """The map I − R (C, C) and Rμ (C,) from the sums of :meth:`Moments.sums`."""
    count, x, z, xx, xz = sums
    mean = x / count
    cross = (xz - torch.outer(mean, z)) / (count - 1)
    values, vectors = eigh(shrunk(xx / count - torch.outer(mean, mean), count))
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps  # as a pseudoinverse
    root = values.clamp(min=0).sqrt()
    white = (vectors * torch.where(kept, 1 / root, 0)) @ vectors.T
    back = (vectors * torch.where(kept, root, 0)) @ vectors.T
    left, singular, _ = torch.linalg.svd(white @ cross, full_matrices=False)
    left = left[:, singular > tolerance]
    removed = back @ left @ left.T @ white
    return torch.eye(len(mean)).to(removed) - removed, removed @ mean


def shrunk(covariance: Tensor, count: Tensor) -> Tensor:
    """a·S + (1 − a)·tr(S)/C·I of the covariance S (C, C) of so many samples, a at the optimum, within [0, 1]."""
    size, trace = len(covariance), covariance.trace()
    spread = (covariance.square().sum() - trace**2 / size).clamp(min=torch.finfo(covariance.dtype).tiny)
    keep = (1 - trace**2 / count / spread).clamp(0, 1)
    return keep * covariance + (1 - keep) * trace / size * torch.eye(size).to(covariance)


def erased_places(backbone: Backbone) -> dict[str, nn.Module]:
    """The modules behind which the maps stand, in order of depth: the stages, and the encoder for the features."""
    return {**{name: backbone.stage(name) for name in backbone.stages}, FEATURES: backbone.encoder}


def has_erasers(backbone: Backbone) -> bool:
    """Whether the network has the maps."""
    return getattr(backbone.encoder, _WEIGHT, None) is not None


def set_eraser(module: nn.Module, weight: Tensor, bias: Tensor, channels_last: bool) -> None:
    """Puts the map x ↦ weight · x + bias over channels behind a module; buffers and a hook, so that no path changes."""
    if not hasattr(module, _WEIGHT):
        module.register_forward_hook(partial(_erase, channels_last=channels_last))
    module.register_buffer(_WEIGHT, weight)
    module.register_buffer(_BIAS, bias)


def remove_erasers(backbone: Backbone) -> None:
    """Takes the maps off, if there are any; the hooks stay, since a copied hook's handle would remove nothing."""
    for place in erased_places(backbone).values():
        if hasattr(place, _WEIGHT):
            place.register_buffer(_WEIGHT, None)
            place.register_buffer(_BIAS, None)


def _erase(module: nn.Module, args: object, output: Tensor, channels_last: bool) -> Tensor:
    """The module's output under its map; in single precision under autocast, whose rounding would leave traces."""
    weight: Tensor | None = getattr(module, _WEIGHT)
    if weight is None:
        return output
    kind = torch.promote_types(output.dtype, weight.dtype)
    output, weight, bias = (each.to(kind) for each in (output, weight, getattr(module, _BIAS)))
    with torch.autocast(output.device.type, enabled=False):
        if output.dim() == 4 and not channels_last:
            return conv2d(output, weight[:, :, None, None], bias)
        return linear(output, weight, bias)
