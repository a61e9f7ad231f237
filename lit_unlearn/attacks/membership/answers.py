"""What a model makes of single samples, for the model under attack and for reference models by their files."""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lit_unlearn.attacks.encoded import Encoded
from lit_unlearn.attacks.fingerprint import network_key, samples_key
from lit_unlearn.attacks.membership.signals import margin, taylor_softmax
from lit_unlearn.attacks.target import EncodedData, Target
from lit_unlearn.backbones.saving import tensors_sha256
from lit_unlearn.backbones.weights import load_weights


class Answers(NamedTuple):
    """One model's answers to the samples of a split, each (N,).

    Attributes:
        phi: log odds φ of the true class.
        correct: which are right.
        taylor: p of the true class by :func:`~lit_unlearn.attacks.membership.signals.taylor_softmax`.
    """

    phi: Tensor
    correct: Tensor
    taylor: Tensor


def answers_of(model: EncodedData, splits: Sequence[str]) -> dict[str, Answers]:
    """Answers of a network to every sample of each split, on the CPU."""
    return {split: _answers(model, split) for split in splits}


def _answers(model: EncodedData, split: str) -> Answers:
    """They are of the whole split, the logits of one batch at a time."""

    def answered(batch: Encoded) -> Tensor:
        right = batch.logits.argmax(1) == batch.labels
        of_label = (signal(batch.logits, batch.labels) for signal in (margin, taylor_softmax))
        return torch.stack([*of_label, right.double()], 1)

    phi, taylor, right = model.per_sample(split, answered).cpu().unbind(1)
    return Answers(phi.contiguous(), right.bool(), taylor.contiguous())


def answers_of_file(target: Target, file: str, splits: Sequence[str]) -> dict[str, Answers]:
    """Those of weights in a file, in the original's shape.

    They are computed once for all attacks and models of a run, and for the runs after it where it keeps a cache.
    """
    return _known(target, file, splits).of(splits)


class _Known(NamedTuple):
    """What a run knows of a file: the hash of its weights, and its answers by split."""

    weights: str
    answers: dict[str, Answers]

    def of(self, splits: Sequence[str]) -> dict[str, Answers]:
        return {split: self.answers[split] for split in splits}


def _known(target: Target, file: str, splits: Sequence[str]) -> _Known:
    kept: dict[str, _Known] = target.shared.once(("answers of files",), dict)
    missing = [split for split in splits if file not in kept or split not in kept[file].answers]
    if missing:
        network = copy.deepcopy((target.original or target.model).backbone)
        load_weights(network, file)
        known = kept.setdefault(file, _Known(tensors_sha256(network.state_dict()), {}))
        encoded = EncodedData(network.eval(), target.data, target.device, budget=0)
        known.answers.update({split: _kept_answers(target, encoded, split) for split in missing})
    return kept[file]


def _kept_answers(target: Target, encoded: EncodedData, split: str) -> Answers:
    """The answers to a split, from the cache by the weights and the samples, or by a pass."""
    if target.shared.folder is None:
        return answers_of(encoded, [split])[split]  # a key would cost a pass over the images
    key = f"answers-{network_key(target, encoded)}-{samples_key(target, split)}"
    kept = target.shared.on_disk(
        key, lambda: answers_of(encoded, [split])[split]._asdict(), target.device, torch.device("cpu")
    )
    return Answers(**kept)


def other_models(
    target: Target, files: Sequence[str], own: dict[str, Answers], splits: Sequence[str]
) -> list[dict[str, Answers]]:
    """Answers of the files that are not the model under attack: one with its weights, or its very answers, is."""
    known, model = [_known(target, file, splits) for file in files], target.model
    weights = target.shared.once(("weights", model.key), lambda: tensors_sha256(model.backbone.state_dict()))
    others = [each.of(splits) for each in known if each.weights != weights]
    return [each for each in others if not all(torch.equal(each[split].phi, own[split].phi) for split in splits)]
