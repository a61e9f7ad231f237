"""What is done to each image before it joins a batch: torchvision's transforms, version 2."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from lit_unlearn.data.reading import is_image, told
from lit_unlearn.errors import UsageError, check_at_least
from lit_unlearn.options import TypedOptions
from lit_unlearn.recipes import timm_recipe, torchvision_recipe

_TIMM = "timm/"


class Transforms(TypedOptions):
    """Transforms of single images, which stand in place of crop and flip of whole batches.

    Each gets (C, H, W), uint8 or, of some data sets, float in [0, 1], and returns uint8, or float in [0, 1];
    normalisation belongs to the backbone. Random ones draw from torch's generator, which is seeded for each sample by
    the run's seed, the epoch and the step.

    Args:
        train: of training images, one after the other, such as
            ``[{class_path: torchvision.transforms.v2.RandomResizedCrop, init_args: {size: 224}}]``.
        evaluation: of images that are evaluated, likewise. The last of both must give all images one size.
    """

    # Callables, and not modules, of which the command line would have to know all that there are.
    def __init__(
        self, train: list[Callable[..., Any]] | None = None, evaluation: list[Callable[..., Any]] | None = None
    ) -> None:
        self.train = list(train or ())
        self.evaluation = list(evaluation or ())

    def of(self, training: bool) -> "OneAfterTheOther":
        """The transforms of training images, or of images that are evaluated."""
        return OneAfterTheOther(self.train if training else self.evaluation)

    def describe(self) -> dict[str, list[str]]:
        """The transforms as text, for a result row."""
        return {"train": [str(each) for each in self.train], "evaluation": [str(each) for each in self.evaluation]}


class ImageNetTransforms(Transforms):
    """The usual ones for photographs: a random part of random shape, mirrored or not; the centre in evaluation.

    Args:
        size: pixels of a side.
        resize: pixels of the shorter side from which evaluation cuts the centre.

    Raises:
        UsageError: if ``resize`` is smaller than ``size``.
    """

    def __init__(self, size: int = 224, resize: int = 256) -> None:
        from torchvision.transforms import v2

        check_at_least("size", size, 1)
        check_at_least(f"resize, for a size of {size},", resize, size)
        super().__init__(
            [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()],
            [v2.Resize(resize, antialias=True), v2.CenterCrop(size)],
        )


class PretrainedTransforms(Transforms):
    """Those of a pretrained network's own recipe: its size, its resizing and its interpolation.

    Training takes a random part of random shape, mirrored or not; evaluation cuts the centre.

    Args:
        network: torchvision's name of the network, such as ``resnet50``; or timm's behind ``timm/``, such as
            ``timm/vit_small_patch14_dinov2.lvd142m`` or ``timm/hf-hub:owner/name``.
        weights: a member of torchvision's enumeration, such as ``IMAGENET1K_V2``; None is its default.

    Raises:
        UsageError: for an unknown network or weights.
    """

    def __init__(self, network: str, weights: str | None = None) -> None:
        from torchvision.transforms import v2

        of_timm = network.startswith(_TIMM)
        if of_timm and weights is not None:
            raise UsageError(f"weights is {weights!r}, but timm's networks have theirs in their name: {network}")
        recipe = timm_recipe(network.removeprefix(_TIMM)) if of_timm else torchvision_recipe(network, weights)
        how: dict[str, Any] = {"interpolation": v2.InterpolationMode(recipe.interpolation), "antialias": True}
        super().__init__(
            [v2.RandomResizedCrop(recipe.size, **how), v2.RandomHorizontalFlip()],
            [v2.Resize(recipe.resize, **how), v2.CenterCrop(recipe.size)],
        )


class OneAfterTheOther:
    """A chain of transforms, checked.

    Args:
        transforms: each takes what the one before returned.
    """

    def __init__(self, transforms: Sequence[Callable[..., Any]]) -> None:
        self.transforms = transforms

    def __call__(self, image: Tensor) -> Tensor:
        """An image (C, H, W), uint8 or float.

        Raises:
            UsageError: if a transform fails, or returns anything else.
        """
        made = image
        for transform in self.transforms:
            try:
                made = transform(made)
            except Exception as error:
                raise UsageError(f"transforms: {transform} failed on {tuple(made.shape)}: {error}") from error
        if not is_image(made):
            raise UsageError(f"transforms return {told(made)}, allowed: uint8 or float (C, H, W)")
        return made
