"""The answer among the forgotten classes: does the head still know them, and only never say so?

    answer = argmax over the forgotten classes of z(x)

Threat model. The attacker sees logits, knows which classes were forgotten, and that an image is of one of them. They
hold no weights, no labels, and fit nothing. A head whose bias was lowered, or that was taught never to name a class,
may rank the forgotten classes as before. Retrain was taught never to name them as well, and never saw them: how it
ranks them varies from seed to seed, around one in n. No published attack: it undoes the cheapest way to hide a class.
"""

from typing import ClassVar

import torch
from torch import Tensor

from lit_unlearn.attacks.base import Attack
from lit_unlearn.attacks.encoded import Encoded
from lit_unlearn.attacks.splits import forgotten_classes
from lit_unlearn.attacks.target import Target
from lit_unlearn.results import AttackResult

_SPLITS = ("forget", "test_forget")


class MaskedAnswers(Attack):
    """Accuracy of the model's own answers on forgotten data, if it may name forgotten classes only.

    Numbers: ``forget_acc`` and ``test_forget_acc``, fractions. It is left out where one class with
    test images is forgotten whole, since the answer would be known without the model, and where none is.

    Args:
        name: metric name prefix.
    """

    family: ClassVar[str] = "recovery"
    needs_forget = True

    def __init__(self, name: str = "answers") -> None:
        super().__init__(name)

    def lacks(self, target: Target) -> str | None:
        """Why the attack cannot be run on a target, or None."""
        if reason := super().lacks(target):
            return reason
        if "test_forget" not in target.data.split_names:
            return "it chooses among forgotten classes, but no class with test images is forgotten whole"
        if len(forgotten_classes(target.data)) < 2:
            return "only one forgotten class has test images, so the answer is known without the model"
        return None

    def evaluate(self, target: Target) -> AttackResult:
        """The accuracies, with all logits but those of the forgotten classes left out."""
        forgotten = forgotten_classes(target.data).to(target.device)

        def answer(batch: Encoded) -> Tensor:
            masked = torch.full_like(batch.logits, -torch.inf)
            masked[:, forgotten] = batch.logits[:, forgotten]
            return masked

        found = target.accuracies(answer)
        return AttackResult({f"{split}_acc": found[f"{split}_acc"] for split in _SPLITS if f"{split}_acc" in found})
