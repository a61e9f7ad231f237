"""In which direction an image moves a network's weights, and how to change the image to get a given direction.

The distance of an image x' to a direction g* is 1 − cos(∇θ CE(m(x'), y), g*), one cosine over all parameters. With the
log odds φ = logsumexp of the other logits − z_y, CE = softplus(φ), so ∇CE = σ(φ)∇φ: both have the same direction, but
the gradient of a confident image is lost in rounding. So ∇φ takes its place, and no number changes.

Three engines compute the same. ``loop`` goes image by image; ``vmap`` takes all images through one double backward;
``two_pass`` needs none: g by a backward pass, v = ∂distance/∂g in closed form, and ∇ₓ⟨g, v⟩ as the derivative of ∇ₓφ
along v in the weights, a forward-mode product.
"""

import time
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from lit_unlearn.attacks.inversion.batchable import batchable
from lit_unlearn.attacks.inversion.directions import NamedGradients, inner, log_odds_against, unit
from lit_unlearn.errors import unknown

Loss = Callable[[NamedGradients, Tensor, Tensor], Tensor]
"""From parameters, an image (C, H, W) and its label () to a number ()."""

Slope = tuple[Tensor, Tensor]
"""Distances (B,) and their gradients in the images, (B, C, H, W)."""

EngineName = Literal["auto", "loop", "vmap", "two_pass"]

_TINY = 1e-30
"""Keeps a gradient of 0 from making NaN: its distance to anything is 1, and it pulls nowhere."""

_LEAD = 1.1
"""How much faster an engine must be than the one before it, so that noise of the clock does not decide."""


class GradientMatching:
    """The distances of images to directions in a network's weights, and their slopes in the images.

    Args:
        network: from images (B, C, H, W) to logits (B, C); a frozen copy in eval mode is kept.
        names: the parameters to differentiate by; None for all but integers.
        engine: ``loop``, ``vmap``, ``two_pass``, or ``auto``: the fastest in three trial steps, chosen again
            whenever the number of images halves.
        compile: whether to compile ``vmap``; it pays over thousands of steps.

    Attributes:
        chosen: the engine in use by the bit length of the number of images.

    Raises:
        UsageError: for an unknown engine.
    """

    def __init__(
        self,
        network: nn.Module,
        names: Iterable[str] | None = None,
        engine: EngineName = "auto",
        compile: bool = False,
    ) -> None:
        if engine not in ("auto", *ENGINES):
            raise unknown("engine", engine, ("auto", *ENGINES))
        self.network = batchable(network)
        learns = [item for item in self.network.named_parameters() if item[1].is_floating_point()]
        every = {name: parameter.detach() for name, parameter in learns}
        self.parameters = every if names is None else {name: every[name] for name in names}
        self.engine = engine
        self.chosen: dict[int, str] = {}
        self.engines = dict(ENGINES)
        if compile:
            self.engines["vmap"] = torch.compile(vmapped)

    def loss(self, parameters: NamedGradients, image: Tensor, label: Tensor) -> Tensor:
        """The log odds φ of one image (C, H, W), ()."""
        logits = functional_call(self.network, dict(parameters), (image[None],))
        return log_odds_against(logits, label[None])[0]

    def __call__(self, images: Tensor, labels: Tensor, targets: NamedGradients, signs: Tensor) -> Slope:
        """Distances and slopes.

        Args:
            images: (B, C, H, W) in [0, 1].
            labels: (B,).
            targets: unit directions g*, (B, …) each; see :func:`unit`.
            signs: (B,) of ±1: whether to match g* or −g*.
        """
        size = len(images).bit_length()  # what is fastest depends on how many there are
        if size not in self.chosen:
            auto = self.engine == "auto"
            self.chosen[size] = self._fastest(images, labels, targets, signs) if auto else self.engine
        return self._run(self.chosen[size], images, labels, targets, signs)

    def gradients(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The direction of each image's true gradient, unit length, (B, …) each, and the gradient's own length (B,)."""
        leaves = {name: value.requires_grad_() for name, value in self._detached().items()}
        directions, lengths = [], []
        for image, label in zip(images, labels, strict=True):
            phi = self.loss(leaves, image, label)
            found = torch.autograd.grad(phi, list(leaves.values()), materialize_grads=True)
            direction, length = unit(dict(zip(leaves, found, strict=True)))
            directions.append(direction)
            lengths.append(phi.detach().sigmoid() * length)
        return {name: torch.stack([one[name] for one in directions]) for name in leaves}, torch.stack(lengths)

    def total_gradient(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The gradient of the sum of the batch's cross-entropies, in float64."""
        leaves = {name: value.requires_grad_() for name, value in self._detached().items()}
        logits = functional_call(self.network, leaves, (images,))
        loss = nn.functional.softplus(log_odds_against(logits, labels)).sum()
        found = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        return {name: value.double() for name, value in zip(leaves, found, strict=True)}

    def _detached(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.parameters.items()}

    def _run(self, engine: str, images: Tensor, labels: Tensor, targets: NamedGradients, signs: Tensor) -> Slope:
        # Fused attention can be differentiated neither twice nor forward.
        with sdpa_kernel(SDPBackend.MATH):
            return self.engines[engine](self.loss, self.parameters, images, labels, targets, signs)

    def _fastest(self, images: Tensor, labels: Tensor, targets: NamedGradients, signs: Tensor) -> str:
        best, least = "loop", float("inf")
        for engine in ("vmap", "two_pass", "loop"):
            few = slice(4 if engine == "loop" else None)
            part = images[few], labels[few], {name: value[few] for name, value in targets.items()}, signs[few]
            try:
                seconds = min(self._timed(engine, *part) for _ in range(4)) / len(part[0])
            except (RuntimeError, NotImplementedError):
                if engine == "loop":
                    raise
                continue  # an operation of the network has no rule for it
            if seconds * _LEAD < least:
                best, least = engine, seconds
        return best

    def _timed(self, engine: str, images: Tensor, labels: Tensor, targets: NamedGradients, signs: Tensor) -> float:
        started = time.perf_counter()
        distances, _ = self._run(engine, images, labels, targets, signs)
        distances.sum().item()  # waits for the device
        return time.perf_counter() - started


def loop(
    loss: Loss, parameters: NamedGradients, images: Tensor, labels: Tensor, targets: NamedGradients, signs: Tensor
) -> Slope:
    """Distances and slopes, image by image, by a double backward each."""
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    distances, slopes = [], []
    for index in range(len(images)):
        image = images[index].detach().requires_grad_()
        phi = loss(leaves, image, labels[index])
        found = torch.autograd.grad(phi, list(leaves.values()), create_graph=True, materialize_grads=True)
        gradient = dict(zip(leaves, found, strict=True))
        target = {name: value[index] for name, value in targets.items()}
        distance = 1 - signs[index] * inner(gradient, target) / _length(gradient)
        slopes.append(torch.autograd.grad(distance, image, materialize_grads=True)[0])
        distances.append(distance.detach())
    return torch.stack(distances), torch.stack(slopes)


def vmapped(
    loss: Loss, parameters: NamedGradients, images: Tensor, labels: Tensor, targets: NamedGradients, signs: Tensor
) -> Slope:
    """Distances and slopes of all images by one batched double backward."""

    def distance(image: Tensor, label: Tensor, target: NamedGradients, sign: Tensor) -> Tensor:
        gradient = grad(loss)(parameters, image, label)
        return 1 - sign * inner(gradient, target) / _length(gradient)

    slopes, distances = vmap(grad_and_value(distance))(images, labels, targets, signs)
    return distances, slopes


def two_pass(
    loss: Loss, parameters: NamedGradients, images: Tensor, labels: Tensor, targets: NamedGradients, signs: Tensor
) -> Slope:
    """Distances and slopes of all images by a batched backward and a batched forward-mode product."""

    def slope(image: Tensor, label: Tensor, target: NamedGradients, sign: Tensor) -> Slope:
        gradient = grad(loss)(parameters, image, label)
        length = _length(gradient)
        cosine = inner(gradient, target) / length
        v = {name: sign * (cosine * gradient[name] / length - target[name]) / length for name in target}
        along = jvp(lambda weights: grad(loss, argnums=1)(weights, image, label), (parameters,), (v,))
        return 1 - sign * cosine, along[1]

    found: Slope = vmap(slope)(images, labels, targets, signs)
    return found


def _length(gradients: NamedGradients) -> Tensor:
    return (inner(gradients, gradients) + _TINY).sqrt()


ENGINES: dict[str, Callable[[Loss, NamedGradients, Tensor, Tensor, NamedGradients, Tensor], Slope]] = {
    "loop": loop,
    "vmap": vmapped,
    "two_pass": two_pass,
}
