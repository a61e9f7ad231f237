"""Retrain: the reference model that never saw the forget set.

L = E_Dr[CE(z(x), y)] from a fresh initialisation. A well-known "retrain" resets only the children of the network that
own a reset function and so keeps most of a ResNet trained; here every weight is checked against the original. A network
that was pretrained on other images starts from these weights, as the original did.
"""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn
from torch.optim import SGD

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import UsageError
from lit_unlearn.methods.finetune import FineTune
from lit_unlearn.seed import generator, run_seed


class Retrain(FineTune):
    """Trains on the retain set from scratch.

    Args:
        backbone: the network, whose weights are drawn anew. Where it is pretrained and ``weights`` are given, which
            were trained from there, training starts from the pretrained weights.
        weights: the original weights, of the Original in the table, and for the check that nothing of them is left.
        optimizer: optimizer factory: parameters → optimizer.
        lr_scheduler: scheduler factory: optimizer → scheduler; it steps once an epoch.

    Raises:
        UsageError: if a weight cannot be re-initialised and would keep the original's values, or would stay random,
            since the backbone trains a part of itself only or a part is frozen.
    """

    from_scratch = True

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=0.1, momentum=0.9, weight_decay=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        given = {name: value.detach().clone() for name, value in _every(backbone)}
        super().__init__(backbone, weights, optimizer, lr_scheduler)
        original = self.original_copy()
        if original is not None:
            given = dict(_every(original))
        pretrained = backbone.pretrained is not None and original is not None
        if not pretrained:
            self.check_all_learns(backbone)
            reinitialise(backbone)
        kept = _kept(backbone, given, pretrained)
        if kept and not pretrained:  # an untrained network that was drawn by the same seed
            reinitialise(backbone)
            kept = _kept(backbone, given, pretrained)
        if kept and pretrained:
            raise UsageError(
                f"{type(self).__name__} would start from the original: {', '.join(kept[:3])} are pretrained and the "
                "same in its weights; leave out the backbone's pretrained, and it starts from scratch"
            )
        if kept:
            raise UsageError(
                f"Retrain cannot re-initialise {', '.join(kept[:3])}: give the untrained network as backbone "
                "and the trained weights as weights"
            )


def _kept(backbone: Backbone, given: Mapping[str, torch.Tensor], pretrained: bool) -> list[str]:
    """Names, as the user knows them, of the parameters that have the given values; of pretrained, of what learns."""
    differ = (each for each in must_differ(backbone) if each[1].requires_grad or not pretrained)
    return [backbone.name_in_network(name) for name, value in differ if torch.equal(value, given[name])]


def must_differ(network: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters, by name, that re-initialisation must have changed: all but vectors that it sets to constants."""
    for path, module in network.named_modules():
        for name, value in module.named_parameters(prefix=path, recurse=False):
            if value.dim() > 1 or not callable(getattr(module, "reset_parameters", None)):
                yield name, value


def _every(network: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """All parameters by name; one that two modules share has the name of each."""
    return network.named_parameters(remove_duplicate=False)


def reinitialise(network: nn.Module) -> None:
    """Re-initialises every parameter of each module that has ``reset_parameters``, and its running statistics."""
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()


def random_copy(backbone: Backbone, key: str) -> Backbone:
    """A frozen copy with random weights in eval mode, which the run's seed and a key alone decide.

    The key keeps them apart from those that a run of the same seed drew for the original.

    Weights that no layer re-initialises, such as the position embedding of a vision transformer, keep their values, in
    random order.

    Args:
        backbone: the network, on the CPU.
        key: what the weights are for.
    """
    random = copy.deepcopy(backbone).eval().requires_grad_(False)
    given = {name: value.clone() for name, value in _every(random)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(run_seed(), key).initial_seed())
        reinitialise(random)
        for name, value in must_differ(random):
            if torch.equal(value, given[name]):
                value.copy_(value.flatten()[torch.randperm(value.numel())].view_as(value))
    return random
