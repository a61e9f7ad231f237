"""RetrainShort, a baseline: Retrain at the epochs of an unlearning method.

L = E_Dr[CE(z(x), y)] from a fresh initialisation. It never saw the forget set, and costs what the method beside it
costs: unlearning pays only where it keeps more utility at equal depth. No paper's method.
"""

from typing import ClassVar

from lit_unlearn.methods.base import SearchSpace
from lit_unlearn.methods.retrain import Retrain


class RetrainShort(Retrain):
    """Trains on the retain set from scratch, for as few epochs as unlearning takes.

    Give it the ``max_epochs`` of the methods beside it. In a table it is a method, and no reference.
    """

    search: ClassVar[SearchSpace] = (("lr", 0.01, 0.3),)
