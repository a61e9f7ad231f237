"""Residual networks for small images: a 3x3 stem of stride 1 and no max-pooling.

He et al., "Deep residual learning for image recognition", CVPR 2016; ResNet8 and ResNet20 are its CIFAR form
(three stages, section 4.2), ResNet18 its ImageNet form with the small-image stem. Deviation: where a block changes the
shape, its shortcut is a 1x1 convolution with batch norm (option B of the paper).
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from lit_unlearn.backbones.backbone import Backbone
from lit_unlearn.backbones.split import per_channel
from lit_unlearn.errors import check_at_least


class HeConv2d(nn.Conv2d):
    """A convolution without bias, initialised as He et al. do; ``reset_parameters`` does so again."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)

    def reset_parameters(self) -> None:
        """Draw the weights from N(0, 2 / fan_out)."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to a shortcut.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: of the first convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = HeConv2d(in_channels, out_channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = HeConv2d(out_channels, out_channels, 3)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            conv = HeConv2d(in_channels, out_channels, 1, stride)
            self.shortcut = nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(out_channels)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H/stride, W/stride)."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out)) + self.shortcut(x)
        activated: Tensor = self.relu2(out)
        return activated


class SmallResNet(Backbone):
    """What the three networks share; widths double and resolution halves from stage to stage.

    Args:
        num_classes: how many logits.
        in_channels: channels of the images.
        width: channels of the stem and the first stage.
        num_stages: how many stages.
        blocks: basic blocks in a stage.
        mean: per-channel mean of images in [0, 1]; None is 0.5 for all.
        std: per-channel standard deviation; None is 0.25 for all.
        train: the part that learns, see :meth:`Backbone.train_only`.

    Raises:
        UsageError: if a size is not positive, mean and std do not have in_channels values, or there is no such part.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        width: int,
        num_stages: int,
        blocks: int,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        train: str,
    ) -> None:
        for name, value in (("num_classes", num_classes), ("width", width)):
            check_at_least(name, value, 1)
        mean, std = per_channel(in_channels, mean, std, default=(0.5, 0.25))
        encoder = _encoder(in_channels, width, num_stages, blocks)
        stages = ["stem", *(f"stage{number}" for number in range(1, num_stages + 1))]
        head = nn.Linear(width * 2 ** (num_stages - 1), num_classes)
        super().__init__(encoder, head, mean, std, {name: name for name in stages})
        self.train_only(train)


class ResNet8(SmallResNet):
    """Three stages of one basic block: 78,000 parameters at width 16.

    Args:
        num_classes: how many logits.
        in_channels: channels of the images.
        width: channels of the stem and the first stage.
        mean: per-channel mean of images in [0, 1]; None is 0.5 for all.
        std: per-channel standard deviation; None is 0.25 for all.
        train: the part that learns, see :meth:`Backbone.train_only`.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        width: int = 16,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        train: str = "all",
    ) -> None:
        super().__init__(num_classes, in_channels, width, num_stages=3, blocks=1, mean=mean, std=std, train=train)


class ResNet20(SmallResNet):
    """Three stages of three basic blocks: 272,000 parameters at width 16.

    Args:
        num_classes: how many logits.
        in_channels: channels of the images.
        width: channels of the stem and the first stage.
        mean: per-channel mean of images in [0, 1]; None is 0.5 for all.
        std: per-channel standard deviation; None is 0.25 for all.
        train: the part that learns, see :meth:`Backbone.train_only`.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        width: int = 16,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        train: str = "all",
    ) -> None:
        super().__init__(num_classes, in_channels, width, num_stages=3, blocks=3, mean=mean, std=std, train=train)


class ResNet18(SmallResNet):
    """Four stages of two basic blocks: 11.2 million parameters at width 64, the field's CIFAR network.

    Args:
        num_classes: how many logits.
        in_channels: channels of the images.
        width: channels of the stem and the first stage.
        mean: per-channel mean of images in [0, 1]; None is 0.5 for all.
        std: per-channel standard deviation; None is 0.25 for all.
        train: the part that learns, see :meth:`Backbone.train_only`.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        width: int = 64,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        train: str = "all",
    ) -> None:
        super().__init__(num_classes, in_channels, width, num_stages=4, blocks=2, mean=mean, std=std, train=train)


def _encoder(in_channels: int, width: int, num_stages: int, blocks: int) -> nn.Sequential:
    """Stem, stages and average pooling."""
    conv = HeConv2d(in_channels, width, 3)
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["stem"] = nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(width), relu=nn.ReLU()))
    channels = width
    for number in range(num_stages):
        out = width * 2**number
        stage = [BasicBlock(channels, out, stride=1 if number == 0 else 2)]
        stage += [BasicBlock(out, out, stride=1) for _ in range(blocks - 1)]
        parts[f"stage{number + 1}"] = nn.Sequential(*stage)
        channels = out
    parts["pool"] = nn.AdaptiveAvgPool2d(1)
    parts["flatten"] = nn.Flatten()
    return nn.Sequential(parts)
