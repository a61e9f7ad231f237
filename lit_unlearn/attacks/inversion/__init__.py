"""Gradient inversion: rebuild forgotten images from what unlearning did to the weights."""

from lit_unlearn.attacks.inversion.gradient_inversion import GradientInversion

__all__ = ["GradientInversion"]
