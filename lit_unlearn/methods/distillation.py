"""Distillation terms that several methods share."""

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, softmax


def distillation_loss(
    student: Tensor, teacher: Tensor, temperature: float, masked_classes: list[int] | None = None
) -> Tensor:
    """KL_T(teacher ‖ student) = T² · Σ p log(p / q) / B, both softened by the temperature T.

    Args:
        student: logits (B, C).
        teacher: logits (B, C), without gradient.
        temperature: T > 0.
        masked_classes: classes left out of the teacher's and the student's distribution alike.
    """
    if masked_classes:
        kept = torch.ones(student.shape[1], dtype=torch.bool, device=student.device)
        kept[masked_classes] = False
        student, teacher = student[:, kept], teacher[:, kept]
    log_q, log_p = log_softmax(student / temperature, 1), log_softmax(teacher / temperature, 1)
    return kl_div(log_q, log_p, reduction="batchmean", log_target=True) * temperature**2


def softmax_without(logits: Tensor, gone: Tensor) -> Tensor:
    """The softmax (B, C) of logits with those marked in ``gone``, (C,) or (B, C), at −∞: their probability is 0."""
    return softmax(logits.masked_fill(gone, -torch.inf), 1)
