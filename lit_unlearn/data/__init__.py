"""Data: sources of images, forget splits, batch orders and the data module that joins them."""

from lit_unlearn.data.augment import Augment
from lit_unlearn.data.batches import Batches, EvaluationBatches
from lit_unlearn.data.datamodule import UnlearnDataModule
from lit_unlearn.data.digits import Digits
from lit_unlearn.data.forget_spec import ForgetSpec
from lit_unlearn.data.hugging_face import HuggingFace
from lit_unlearn.data.image_folder import ImageFolder
from lit_unlearn.data.map_style import MapStyle
from lit_unlearn.data.object_store import ObjectStore
from lit_unlearn.data.reading import Samples, Streamed
from lit_unlearn.data.samplers import OrderSampler
from lit_unlearn.data.sources import Dataset, Source
from lit_unlearn.data.splits import ForgetSplit, make_split
from lit_unlearn.data.torchvision_sources import CIFAR10, CIFAR100, MNIST, SVHN, FashionMNIST
from lit_unlearn.data.transforms import ImageNetTransforms, PretrainedTransforms, Transforms
from lit_unlearn.orders import Order

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "SVHN",
    "Augment",
    "Batches",
    "Dataset",
    "Digits",
    "EvaluationBatches",
    "FashionMNIST",
    "ForgetSpec",
    "ForgetSplit",
    "HuggingFace",
    "ImageFolder",
    "ImageNetTransforms",
    "MapStyle",
    "ObjectStore",
    "Order",
    "OrderSampler",
    "PretrainedTransforms",
    "Samples",
    "Source",
    "Streamed",
    "Transforms",
    "UnlearnDataModule",
    "make_split",
]
