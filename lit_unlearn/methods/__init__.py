"""The unlearning methods. To add one: its file, one import here, its name in ``__all__``, one config."""

from lit_unlearn.methods.base import UnlearnModule
from lit_unlearn.methods.finetune import FineTune
from lit_unlearn.methods.gradient_ascent import GradientAscent
from lit_unlearn.methods.opc import OPC
from lit_unlearn.methods.pretrain import Pretrain
from lit_unlearn.methods.random_labels import RandomLabels
from lit_unlearn.methods.retrain import Retrain

__all__ = ["OPC", "FineTune", "GradientAscent", "Pretrain", "RandomLabels", "Retrain", "UnlearnModule"]
