"""Recovery on transformed images: does the model still know the forgotten when the picture is turned?

    transpose   rows and columns swapped        rotate90, rotate180, rotate270   turned, counter-clockwise
    flip        left and right swapped          invert                           x → 1 − x

A method may close what it was shown and leave the rest. Transposed kernels (CT, arXiv 2410.01276) are such a case: the
network sees a transposed picture as the original saw the picture, and names what it should have forgotten. So the
images of all splits are transformed alike, and the model is asked as it is, and by readouts of features and stages
that are fitted on transformed images. Each number is read beside Retrain's on the same transform.

Threat model. As for head recovery: the unlearned model and a labelled calibration set; no original. For the answers as
they are, no more than access to the model's answers. Our own attack.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lit_unlearn.attacks.base import Attack
from lit_unlearn.attacks.image_view import ImageView
from lit_unlearn.attacks.recovery.base import (
    Calibration,
    calibration_splits,
    scored_images,
    standard_calibration,
)
from lit_unlearn.attacks.recovery.worst import WorstRecovery, standard_suite
from lit_unlearn.attacks.target import EncodedData, Target
from lit_unlearn.errors import UsageError, check_at_least, unknown
from lit_unlearn.results import AttackResult

TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "transpose": lambda images: images.transpose(2, 3),
    "flip": lambda images: images.flip(3),
    "rotate90": lambda images: images.rot90(1, (2, 3)),
    "rotate180": lambda images: images.rot90(2, (2, 3)),
    "rotate270": lambda images: images.rot90(3, (2, 3)),
    "invert": lambda images: 1 - images,
}
"""From images (B, C, H, W) in [0, 1] to such images; some swap H and W."""

_GROUPS = {"": "features", "stages": "stages"}


class TransformedRecovery(Attack):
    """The model's answers, and the strongest readouts, on transformed images.

    Numbers, for each transform: ``<transform>/answers/<split>_acc``, the model as it is;
    ``<transform>/features/<split>_acc`` and ``<transform>/stages/<split>_acc``, of the strongest readout of these; and
    beside each ``images``, how many decide, and of single images ``unseen``, how many unseen ones. Notes:
    ``<transform>/features/strongest``, ``…/stages/…``.

    Args:
        transforms: names of :data:`TRANSFORMS`. Where H and W differ, an image that is turned on its side is resized.
        calibration: what readouts are fitted on; None as for :class:`Recovery`.
        most: images of the calibration set at most, of which each split gives the same share, and of every other split.
        seed: of the readouts that draw.
        name: metric name prefix.

    Raises:
        UsageError: for an unknown transform or calibration set, or an option out of range.
    """

    family: ClassVar[str] = "recovery"
    needs_forget = True

    def __init__(
        self,
        transforms: Sequence[str] = tuple(TRANSFORMS),
        calibration: Calibration | None = None,
        most: int = 5000,
        seed: int = 0,
        name: str = "transformed",
    ) -> None:
        super().__init__(name)
        if wrong := [transform for transform in transforms if transform not in TRANSFORMS]:
            raise unknown("transform", wrong[0], TRANSFORMS)
        if not transforms or len(set(transforms)) < len(transforms):
            raise UsageError(f"transforms are {list(transforms)}, but must be one or more, each once")
        check_at_least("most", most, 1)
        self.transforms, self.calibration, self.most, self.seed = tuple(transforms), calibration, most, seed
        self._suite(calibration or "train")  # an unknown calibration set is refused now

    def evaluate(self, target: Target) -> AttackResult:
        """Asks the model, fits and scores the readouts, for each transform."""
        numbers: dict[str, float] = {}
        notes: dict[str, str] = {}
        calibration = self.calibration or standard_calibration(target.data.split_names)
        suite, together = self._suite(calibration), calibration_splits(calibration)
        for transform in self.transforms:
            view = ImageView(target.data, _of_one_size(TRANSFORMS[transform]), self.most, together)
            encoded = EncodedData(target.model.backbone, view, target.device)
            seen = replace(target, model=encoded, original=None, data=view)
            answers = seen.accuracies(lambda batch: batch.logits)
            found = suite.evaluate(seen)
            numbers |= {f"{transform}/answers/{key}": value for key, value in answers.items()}
            for group, title in _GROUPS.items():
                for split in view.split_names:
                    value = found.numbers.get(f"{group}/{split}_acc".lstrip("/"))
                    numbers |= {} if value is None else {f"{transform}/{title}/{split}_acc": value}
                strongest = found.notes.get(f"{group}/strongest".lstrip("/"))
                notes |= {} if strongest is None else {f"{transform}/{title}/strongest": strongest}
            for title, fitted in {"answers": None, **dict.fromkeys(_GROUPS.values(), calibration)}.items():
                counts = scored_images(view, fitted)
                numbers |= {f"{transform}/{title}/{name}": count for name, count in counts.items()}
        return AttackResult(numbers, notes)

    def _suite(self, calibration: Calibration) -> WorstRecovery:
        members = standard_suite(calibration, self.seed)
        return WorstRecovery([m for m in members if m.group in _GROUPS and not m.needs_original], seed=self.seed)


def _of_one_size(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same transform, whose result has the size of what it was given, and is laid out like it."""

    def changed(images: Tensor) -> Tensor:
        turned = change(images)
        if turned.shape != images.shape:
            turned = interpolate(turned, images.shape[2:], mode="bilinear", antialias=True)
        return turned.contiguous(memory_format=torch.contiguous_format)

    return changed
