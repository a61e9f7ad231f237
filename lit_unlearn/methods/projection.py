"""Projection: take out of every layer's weights the directions of its inputs that forget uses and retain does not.

For each layer, from inputs x of samples of Dr, and in the same way of Df: U and σᵢ² the eigenvectors and eigenvalues of
Σ xxᵀ (not centred), σᵢ² divided by their sum; λᵢ = ασᵢ² / ((α − 1)σᵢ² + 1); M = U Λ Uᵀ. Then W ← W · Pᵀ with
P = I − (M_f − M_f M_r). Kodge et al., arXiv 2312.00761.

As the released code (sangamesh-kodge/class_forgetting) does: all inputs are those of the original, in eval mode, and
all layers change at once; biases and running statistics stay. The inputs of a convolution are its unfolded patches: of
all images in one window of three times the kernel, drawn once for each layer and set, then padded as the layer pads;
10,000 patches of these at most. A linear layer has all its inputs, tokens one by one. Dr gives as many samples of each
class. Deviations: of several forgotten classes none is in the samples of Dr, where that code leaves out the first
alone; the attention of a transformer has all tokens, of which that code takes 10,000; samples are drawn from the run's
seed and not augmented; a set without whole classes can be forgotten too; each group of a grouped convolution is
projected by itself, where the released code has no such layers.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Generator, Tensor, nn
from torch.nn.functional import pad, unfold

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import UsageError, check_at_least
from lit_unlearn.methods.base import Labelled, UnlearnModule
from lit_unlearn.metrics.eigen import eigh
from lit_unlearn.seed import generator, run_seed

_CHUNK = 128
"""Images in a pass; not the batch size, so that results depend on neither batches nor ranks."""
_WINDOW = 3
"""Side of the window that patches come from, in kernels."""


class Projection(UnlearnModule):
    """Projects the weights when a fit begins; trains nothing, and stops after one epoch.

    Args:
        backbone: the trained network. Its convolutions (``Conv2d``) and linear layers that learn are projected; one
            that does not run stays as it is.
        weights: the original weights.
        alpha_retain: α_r > 0 of M_r; the larger, the more directions count as retained.
        alpha_forget: α_f > 0 of M_f; the larger, the more directions are removed.
        samples: how many samples of each set, for Dr an equal part of each retained class.
        max_patches: how many patches of a convolution's inputs, for each set.

    Raises:
        UsageError: for a number out of range, a network with no such layer, or with ``MultiheadAttention``, whose
            weights are in no layer of these kinds.
    """

    order = "forget"
    search = (("alpha_retain", 10.0, 1000.0), ("alpha_forget", 1.0, 100.0))

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        alpha_retain: float = 100.0,
        alpha_forget: float = 3.0,
        samples: int = 900,
        max_patches: int = 10_000,
    ) -> None:
        super().__init__(backbone, weights)
        for name, value in (("alpha_retain", alpha_retain), ("alpha_forget", alpha_forget)):
            check_at_least(name, value, 0, strict=True)
        for name, count in (("samples", samples), ("max_patches", max_patches)):
            check_at_least(name, count, 1)
        self.alpha_retain, self.alpha_forget = alpha_retain, alpha_forget
        self.samples, self.max_patches = samples, max_patches
        self.automatic_optimization = False
        self._layers = projected_layers(backbone)
        self._projected = False

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Nothing is trained."""
        return []

    def on_train_start(self) -> None:
        """Projects, unless a resumed run has done so; every rank does the same on the same samples."""
        if self._projected:
            return
        network = self.frozen_copy()
        sets = {"retain": self._retained(), "forget": self._forgotten()}
        moments = {
            part: input_moments(network, self._layers, images, self.max_patches, part) for part, images in sets.items()
        }
        for name, forget in moments["forget"].items():
            retained = importance(moments["retain"][name], self.alpha_retain)
            weight = self.backbone.get_parameter(f"{name}.weight")
            project(weight, retained, importance(forget, self.alpha_forget))
        self._projected = True

    def training_step(self, batch: dict[str, Labelled], batch_idx: int) -> None:
        """Nothing: the weights are projected."""

    def on_train_epoch_end(self) -> None:
        """Ends the run."""
        self.finish()

    def saved_state(self) -> dict[str, Any]:
        """Whether the weights are projected."""
        return {"projected": self._projected}

    def load_saved_state(self, state: dict[str, Any]) -> None:
        """Takes up whether they are."""
        self._projected = bool(state.get("projected"))

    def _retained(self) -> Tensor:
        """As many images of each retained class, at random; all of a class that has fewer."""
        split = self.data.split
        each = self.samples // (self.data.num_classes - len(split.forgotten_classes))
        batches = self.data.shuffled_batches("retain", self.device, split.counts()["retain"], max(1, each))
        return torch.cat([images for images, _ in batches])

    def _forgotten(self) -> Tensor:
        batches = self.data.shuffled_batches("forget", self.device, self.samples)
        return torch.cat([images for images, _ in batches])


def projected_layers(backbone: Backbone) -> list[str]:
    """The paths of the layers to project.

    Raises:
        UsageError: if there is none, or a layer whose weights are out of reach.
    """
    modules = dict(backbone.named_modules())
    if any(isinstance(module, nn.MultiheadAttention) for module in modules.values()):
        raise UsageError(
            "Projection projects Conv2d and Linear layers, but the network has MultiheadAttention, whose weights are "
            "in neither: take one that has them in Linear layers, such as timm's"
        )
    layers = {name: module for name, module in modules.items() if isinstance(module, nn.Conv2d | nn.Linear)}
    learn = [name for name, layer in layers.items() if isinstance(layer.weight, nn.Parameter)]
    learn = [name for name in learn if layers[name].weight.requires_grad]
    if not learn:
        raise UsageError(
            f"Projection projects Conv2d and Linear layers, but a {backbone.network_name()} has none that learns"
        )
    return learn


@torch.no_grad()
def input_moments(
    network: nn.Module, layers: Iterable[str], images: Tensor, max_patches: int, part: str
) -> dict[str, Tensor]:
    """Σ xxᵀ (groups, d, d) over the inputs of layers, in double precision, by the layers' paths.

    Args:
        network: in eval mode.
        layers: paths of convolutions and linear layers.
        images: (N, C, H, W) in [0, 1].
        max_patches: how many patches of a convolution's inputs.
        part: names the set, for what is drawn at random.
    """
    seen = _Seen(len(images), max_patches, part)
    with ExitStack() as hooks:
        for name in layers:
            hooks.enter_context(network.get_submodule(name).register_forward_pre_hook(partial(seen.see, name)))
        for chunk in torch.split(images, _CHUNK):
            seen.images = len(chunk)
            network(chunk)
            seen.before += len(chunk)
    return seen.moments


class _Seen:
    """What layers were given; ``before`` and ``images`` count the images of earlier passes and of this one."""

    def __init__(self, total: int, max_patches: int, part: str) -> None:
        self.moments: dict[str, Tensor] = {}
        self.before = self.images = 0
        self.total, self.max_patches, self.part = total, max_patches, part

    def see(self, name: str, layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Adds the inputs of a pass, as a hook before it."""
        if isinstance(layer, nn.Conv2d):
            draw = generator(run_seed(), "projection", self.part, name)  # the same in every pass
            inputs = self._sampled(patches(layer, args[0], draw), draw)
        else:
            inputs = args[0].reshape(-1, 1, args[0].shape[-1])
        inputs = inputs.double()
        moment = torch.einsum("rgi,rgj->gij", inputs, inputs)
        self.moments[name] = moment + self.moments[name] if name in self.moments else moment

    def _sampled(self, rows: Tensor, draw: Generator) -> Tensor:
        """This pass's part of ``max_patches`` random rows of all passes; an image has as many rows in each."""
        each = len(rows) // self.images
        chosen = torch.randperm(self.total * each, generator=draw)[: self.max_patches] - self.before * each
        return rows[chosen[(chosen >= 0) & (chosen < len(rows))].to(rows.device)]


def patches(layer: nn.Conv2d, inputs: Tensor, draw: Generator) -> Tensor:
    """What a convolution's kernels lie on, (R, groups, d), in one random window of its inputs (B, C, H, W)."""
    for axis, size in zip((2, 3), layer.kernel_size, strict=True):
        side, length = _WINDOW * size, inputs.shape[axis]
        if length > side:
            start = int(torch.randint(length - side + 1, (), generator=draw))
            inputs = inputs.narrow(axis, start, side)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = pad(inputs, layer._reversed_padding_repeated_twice, mode)
    columns = unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)
    return columns.transpose(1, 2).reshape(-1, layer.groups, columns.shape[1] // layer.groups)


def importance(moments: Tensor, alpha: float) -> Tensor:
    """M = U Λ Uᵀ (groups, d, d) of Σ xxᵀ (groups, d, d); 0 where all inputs are 0."""
    variances, directions = eigh(moments)
    variances = variances.clamp(min=0)
    share = variances / variances.sum(-1, keepdim=True).clamp(min=torch.finfo(variances.dtype).tiny)
    scale = alpha * share / ((alpha - 1) * share + 1)
    found: Tensor = (directions * scale[..., None, :]) @ directions.mT
    return found


@torch.no_grad()
def project(weight: nn.Parameter, retain: Tensor, forget: Tensor) -> None:
    """W ← W · (I − (M_f − M_f M_r))ᵀ, for each group of a kernel (out, d, ...) by itself; M are (groups, d, d)."""
    rows = weight.double().reshape(len(forget), -1, forget.shape[-1])
    weight.copy_((rows - rows @ (forget - forget @ retain).mT).view(weight.shape))
