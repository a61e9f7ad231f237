"""What a method did in a run, against a plain loop that was written from the method's formula alone."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.optim import SGD, Optimizer

from lit_unlearn.backbones import Backbone
from lit_unlearn.data import UnlearnDataModule
from lit_unlearn.methods import UnlearnModule

LR, MOMENTUM, DECAY = 0.05, 0.9, 0.01


def _sgd(params: Any) -> Optimizer:
    return SGD(params, lr=LR, momentum=MOMENTUM, weight_decay=DECAY)


@pytest.fixture
def sgd() -> Callable[[Any], Optimizer]:
    return _sgd


@pytest.fixture
def follow(
    fit: Callable[..., Trainer], make_data: Callable[..., UnlearnDataModule], recorder: Any
) -> Callable[..., tuple[Backbone, Any, Trainer]]:
    """Runs a few steps in float64 and repeats them in a plain loop; all weights and buffers must agree to 1e-9.

    ``loss(network, batch, step)`` is the formula, ``change(gradients, step)`` what befalls the gradients before a step.
    Returns the network of the plain loop, the record and the Trainer.
    """

    def run(
        module: UnlearnModule,
        loss: Callable[[Backbone, dict[str, Any], int], Tensor],
        *callbacks: Callback,
        data: UnlearnDataModule | None = None,
        steps: int = 2,
        epochs: int = 1,
        frozen: tuple[str, ...] = (),
        change: Callable[[list[Tensor], int], list[Tensor]] | None = None,
        **settings: Any,
    ) -> tuple[Backbone, Any, Trainer]:
        settings = {"precision": "64-true", "max_steps": steps, "max_epochs": epochs, "limit_val_batches": 0} | settings
        trainer = fit(module, data or make_data(), recorder, *callbacks, **settings)
        plain = copy.deepcopy(recorder.start).double().train()
        learn = [(n, p.requires_grad_()) for n, p in plain.named_parameters() if not n.startswith(frozen or ("?",))]
        speed = [torch.zeros_like(p) for _, p in learn]
        assert len(recorder.batches) == steps
        for step, batch in enumerate(recorder.batches):
            gradients = torch.autograd.grad(loss(plain, batch, step), [p for _, p in learn], allow_unused=True)
            gradients = gradients if change is None else change(list(gradients), step)
            with torch.no_grad():
                for (_, parameter), v, gradient in zip(learn, speed, gradients, strict=True):
                    if gradient is None:
                        continue
                    v.mul_(MOMENTUM).add_(gradient + DECAY * parameter)
                    parameter.sub_(LR * v)
        for name, value in plain.state_dict().items():
            torch.testing.assert_close(module.backbone.state_dict()[name], value, rtol=0, atol=1e-9, msg=name)
        moved = any(
            not torch.equal(value, recorder.start.state_dict()[name].double())
            for name, value in module.backbone.named_parameters()
        )
        assert moved, "nothing was trained"
        return plain, recorder, trainer

    return run
