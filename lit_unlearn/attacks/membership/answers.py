"""What a model makes of single samples, for the model under attack and for reference models by their files."""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lit_unlearn.attacks.membership.signals import margin
from lit_unlearn.attacks.target import EncodedData, Target
from lit_unlearn.backbones.weights import load_weights


class Answers(NamedTuple):
    """One model's answers to the samples of a split: log odds φ of the true class (N,), and which are right (N,)."""

    phi: Tensor
    correct: Tensor


def answers_of(model: EncodedData, splits: Sequence[str]) -> dict[str, Answers]:
    """Answers of a network to every sample of each split, on the CPU."""
    samples = {split: model.gather(split) for split in splits}
    return {
        split: Answers(margin(each.logits, each.labels).cpu(), (each.logits.argmax(1) == each.labels).cpu())
        for split, each in samples.items()
    }


def answers_of_file(target: Target, file: str, splits: Sequence[str]) -> dict[str, Answers]:
    """Those of weights in a file, in the original's shape; computed once for all attacks and models of a run."""
    known: dict[str, Answers] = target.shared.once(("answers", file), dict)
    missing = [split for split in splits if split not in known]
    if missing:
        network = copy.deepcopy((target.original or target.model).backbone)
        load_weights(network, file)
        known |= answers_of(EncodedData(network.eval(), target.data, target.device, budget=0), missing)
    return {split: known[split] for split in splits}


def other_models(
    target: Target, files: Sequence[str], own: dict[str, Answers], splits: Sequence[str]
) -> list[dict[str, Answers]]:
    """Answers of the files that are not the model under attack: one that answers exactly alike is that model."""
    known = [answers_of_file(target, file, splits) for file in files]
    return [each for each in known if not all(torch.equal(each[split].phi, own[split].phi) for split in splits)]
