"""What a model makes of single samples, for the model under attack and for reference models by their files."""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lit_unlearn.attacks.images import split_fingerprint
from lit_unlearn.attacks.membership.signals import margin
from lit_unlearn.attacks.shared import fingerprint
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
    """Those of weights in a file, in the original's shape.

    They are computed once for all attacks and models of a run, and for the runs after it where it keeps a cache.
    """
    known: dict[str, Answers] = target.shared.once(("answers", file), dict)
    missing = [split for split in splits if split not in known]
    if missing:
        network = copy.deepcopy((target.original or target.model).backbone)
        load_weights(network, file)
        encoded = EncodedData(network.eval(), target.data, target.device, budget=0)
        known |= {split: _kept_answers(target, encoded, split) for split in missing}
    return {split: known[split] for split in splits}


def _kept_answers(target: Target, encoded: EncodedData, split: str) -> Answers:
    """The answers to a split, from the cache by the weights and the samples, or by a pass."""
    samples = target.shared.once(("samples", split), lambda: split_fingerprint(target.data, split, target.device))
    kept = target.shared.tensors(
        f"answers-{fingerprint(encoded.backbone, (), samples)}",
        lambda: answers_of(encoded, [split])[split]._asdict(),
        torch.device("cpu"),
    )
    return Answers(**kept)


def other_models(
    target: Target, files: Sequence[str], own: dict[str, Answers], splits: Sequence[str]
) -> list[dict[str, Answers]]:
    """Answers of the files that are not the model under attack: one that answers exactly alike is that model."""
    known = [answers_of_file(target, file, splits) for file in files]
    return [each for each in known if not all(torch.equal(each[split].phi, own[split].phi) for split in splits)]
