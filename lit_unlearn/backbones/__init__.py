"""Backbones: classifiers split into normalisation, an encoder with named stages, and a head."""

from lit_unlearn.backbones.backbone import Backbone
from lit_unlearn.backbones.custom import Custom
from lit_unlearn.backbones.library import Timm, Torchvision
from lit_unlearn.backbones.normalise import Normalise
from lit_unlearn.backbones.reading import check_checkpoint, read_state
from lit_unlearn.backbones.saving import save_weights
from lit_unlearn.backbones.small_resnet import ResNet8, ResNet18, ResNet20
from lit_unlearn.backbones.weights import LoadedWeights, load_weights, resolve
from lit_unlearn.backbones.zoo import ZooModel, load_model

__all__ = [
    "Backbone",
    "Custom",
    "LoadedWeights",
    "Normalise",
    "ResNet8",
    "ResNet18",
    "ResNet20",
    "Timm",
    "Torchvision",
    "ZooModel",
    "check_checkpoint",
    "load_model",
    "load_weights",
    "read_state",
    "resolve",
    "save_weights",
]
