"""What a network returns in place of logits, and how to give the logits."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_WRAP = "wrap it in a module whose forward returns"


def trouble_with(answer: object) -> str | None:
    """Why what a network returns are no logits, in words, and what to do; None where it looks like logits.

    Args:
        answer: what the network returns for a batch, with random numbers in its last linear layer.
    """
    if not isinstance(answer, Tensor):
        return f"returns a {type(answer).__name__}{_parts(answer)}, but must return logits alone: {_remedy(answer)}"
    if found := _probabilities(answer):
        name, layer = found
        return f"returns {name}, but must return logits: take the {layer} behind the last linear layer out of it"
    return None


def _parts(answer: object) -> str:
    if isinstance(answer, Mapping):
        return f" with {', '.join(map(repr, answer))}"
    return f" of {len(answer)}" if isinstance(answer, Sequence) else ""


def _remedy(answer: object) -> str:
    if isinstance(answer, Mapping):
        keys = [key for key, value in answer.items() if isinstance(value, Tensor)]
        key = next((key for key in keys if "logits" in str(key)), keys[0] if keys else "logits")
        return f"{_WRAP} network(images)[{key!r}]"
    if isinstance(answer, Sequence):
        place = next((place for place, value in enumerate(answer) if isinstance(value, Tensor)), 0)
        return f"{_WRAP} network(images)[{place}]"
    return f"{_WRAP} the logits, one tensor (images, classes)"


def _probabilities(answer: Tensor) -> tuple[str, str] | None:
    """What the answer is where it is made of probabilities or their logarithms, and which layer makes them."""
    if answer.dim() != 2 or answer.shape[1] < 2 or not answer.is_floating_point():
        return None
    answer = answer.float()
    if bool((answer >= 0).all()) and _sums_to_one(answer):
        return "probabilities (no negative number, rows that sum to 1)", "softmax"
    if bool((answer <= 0).all()) and _sums_to_one(answer.exp()):
        return "logarithms of probabilities", "log_softmax"
    if bool(((answer > 0) & (answer < 1)).all()):
        return "numbers between 0 and 1", "sigmoid"
    return None


def _sums_to_one(rows: Tensor) -> bool:
    return torch.allclose(rows.sum(1), torch.ones(len(rows), device=rows.device), atol=1e-3)
