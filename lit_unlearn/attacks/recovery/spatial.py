"""Spatial recovery: is the forgotten in where a stage responds, and not in how much?

Other readouts of a stage see each channel averaged over positions. A method, or a defence, that moves what it should
forget from the means of the channels into their positions leaves nothing for them to read. These readouts see each
channel in cells × cells parts of the image, side by side.

Threat model. As for head recovery: the unlearned model, with its stages, and a labelled calibration set; no original.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from lit_unlearn.attacks.base import Attack
from lit_unlearn.attacks.image_view import ImageView
from lit_unlearn.attacks.recovery.base import (
    Calibration,
    calibration_splits,
    scored_images,
    standard_calibration,
)
from lit_unlearn.attacks.recovery.linear import StageRecovery
from lit_unlearn.attacks.recovery.readouts import CapacityRecovery
from lit_unlearn.attacks.recovery.worst import WorstRecovery
from lit_unlearn.attacks.splits import forgotten_split, obtained, unseen_accuracy
from lit_unlearn.attacks.target import EncodedData, Target
from lit_unlearn.errors import UsageError, check_at_least
from lit_unlearn.results import AttackResult

_RIDGE = 0.01  # cells make many dimensions, often as many as there are samples


class SpatialRecovery(Attack):
    """The strongest readout of any stage that sees positions.

    Numbers: ``<split>_acc`` of the strongest over all cells, stages and readouts (of single images, of the largest lead
    over unseen ones), ``images``, how many decide, and of single images ``unseen``, how many unseen ones;
    ``<split>_acc/cells<n>`` of the strongest for each number of cells, and ``<split>_acc/cells<n>/<member>/<stage>`` of
    every readout. Notes: ``strongest``.

    Args:
        cells: numbers of parts along each side, each at least 2; a map with fewer positions is read at each of them.
        calibration: what readouts are fitted on; None as for :class:`Recovery`.
        most: images of the calibration set at most, of which each split gives the same share, and of every other split.
        seed: of the readout that draws.
        name: metric name prefix.

    Raises:
        UsageError: for an unknown calibration set, or an option out of range.
    """

    family: ClassVar[str] = "recovery"
    needs_forget = True

    def __init__(
        self,
        cells: Sequence[int] = (2, 4),
        calibration: Calibration | None = None,
        most: int = 5000,
        seed: int = 0,
        name: str = "spatial",
    ) -> None:
        super().__init__(name)
        if not cells or min(cells) < 2 or len(set(cells)) < len(cells):
            raise UsageError(f"cells are {list(cells)}, but must be one or more different numbers, each at least 2")
        check_at_least("most", most, 1)
        self.cells, self.calibration, self.most, self.seed = tuple(cells), calibration, most, seed
        self._suite(calibration or "train")  # an unknown calibration set is refused now

    def lacks(self, target: Target) -> str | None:
        """Why the attack cannot be run on a target, or None."""
        return super().lacks(target) if target.model.backbone.stages else "the network names no stages"

    def evaluate(self, target: Target) -> AttackResult:
        """Fits and scores all readouts for each number of cells."""
        calibration = self.calibration or standard_calibration(target.data.split_names)
        view = ImageView(target.data, most=self.most, together=calibration_splits(calibration))
        decisive, suite = forgotten_split(view.split_names), self._suite(calibration)
        numbers: dict[str, float] = {}
        best: dict[str, float] = {}
        strongest, most = "", -math.inf
        for cells in self.cells:
            encoded = EncodedData(target.model.backbone, view, target.device, cells=cells)
            found = suite.evaluate(replace(target, model=encoded, original=None, data=view))
            numbers |= {
                key.replace("_acc/", f"_acc/cells{cells}/"): value
                for key, value in found.numbers.items()
                if "_acc/" in key
            }
            worst = {f"{split}_acc": found.numbers[f"stages/{split}_acc"] for split in view.split_names}
            numbers |= {f"{key}/cells{cells}": value for key, value in worst.items()}
            got = obtained(decisive, worst[f"{decisive}_acc"], unseen_accuracy(worst))
            if got > most:
                best, most, strongest = worst, got, f"cells{cells}/{found.notes['stages/strongest']}"
        return AttackResult({**best, **scored_images(view, calibration), **numbers}, {"strongest": strongest})

    def _suite(self, calibration: Calibration) -> WorstRecovery:
        return WorstRecovery(
            [
                StageRecovery(calibration, _RIDGE, normalise="raw", name="stages_raw"),
                StageRecovery(calibration, _RIDGE, normalise="l2", name="stages_l2"),
                CapacityRecovery(calibration, seed=self.seed, layers="stages", name="stages_capacity"),
            ]
        )
