"""Which part of a backbone learns: everything before it is frozen and runs once an image."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn
from torch.nn import functional

from anomscan.adapt.backbones import Backbone
from anomscan.adapt.parts import Part
from anomscan.adapt.stages import cut_for_tail, split
from anomscan.errors import UsageError

SMALLER = 5 / 7
"""Side of the smaller input: 160 of 224."""
_MULTIPLE = 32


class Trainable(Part):
    """Says what learns."""

    @abstractmethod
    def split(self, backbone: Backbone) -> tuple[nn.Module, nn.Module]:
        """Split a backbone into a trunk and a tail, ``tail(trunk(x))`` being the whole before training.

        Parameters are shared with the backbone under their timm names; those that learn, all in the tail,
        require gradients. Both stay in evaluation mode: batch norm keeps the pretrained statistics.

        Raises:
            UsageError: the network does not have the parts for it.
        """


class LastStages(Trainable):
    """The last stages learn.

    In a network of decreasing resolution that is what works at a stride of 16 or more (blocks 3 and
    4 of a ResNet, PANDA sec. 4.2.2 and tab. 5); in one of constant resolution, such as a plain ViT, the
    last quarter of the blocks.
    """

    def describe(self) -> str:
        """In a few words."""
        return "the last stages learn"

    def split(self, backbone: Backbone) -> tuple[nn.Module, nn.Module]:
        """Cut before them; raises UsageError where that leaves not two parts joined by one tensor."""
        trunk, tail = split(backbone.model, cut_for_tail(backbone.stages))
        return trunk, tail.requires_grad_(True)


class LastStagesOfASmallerInput(Trainable):
    """The same, of a network that is shown the image at ``SMALLER`` of the side.

    Beside the pretrained network, which sees all of it, this adds more than the same size would. A network of
    one size, such as a plain ViT, is shown the image as it is.
    """

    def describe(self) -> str:
        """In a few words."""
        return "the last stages learn, in a smaller input"

    def split(self, backbone: Backbone) -> tuple[nn.Module, nn.Module]:
        """As ``LastStages``; the trunk shrinks the image before."""
        trunk, tail = LastStages().split(backbone)
        own = backbone.preprocessing
        sides = (round(SMALLER * side / _MULTIPLE) for side in (own.height, own.width))
        height, width = (_MULTIPLE * max(1, side) for side in sides)
        if not backbone.takes(height, width):
            return trunk, tail
        return nn.Sequential(Shrunk(height, width), trunk), tail


class Shrunk(nn.Module):
    """Brings (N, 3, H, W) images to another size."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.size = height, width

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 3, height, width)."""
        return functional.interpolate(images, self.size, mode="bilinear", align_corners=False)


class Everything(Trainable):
    """All parameters learn; the trunk passes the normalised pixels on."""

    def describe(self) -> str:
        """In a few words."""
        return "everything learns"

    def split(self, backbone: Backbone) -> tuple[nn.Module, nn.Module]:
        """Cut before everything."""
        return nn.Identity(), backbone.model.requires_grad_(True)


class ResidualAdapters(Trainable):
    """Only 1x1 convolutions beside the frozen spatial ones learn, and begin at zero.

    ADRA, Transfer-Based Semantic AD, eq. 3.
    """

    def describe(self) -> str:
        """In a few words."""
        return "residual adapters learn"

    def split(self, backbone: Backbone) -> tuple[nn.Module, nn.Module]:
        """Insert them; raises UsageError where no spatial convolution keeps its input's extent."""
        model = backbone.model
        adapted = [
            (name, module)
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1 and _keeps_extent(module)
        ]
        if not adapted:
            raise UsageError(f"{backbone.info.name} has no 3x3 convolutions to adapt beside")
        for name, module in adapted:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, AdaptedConvolution(module))
        return nn.Identity(), model


class AdaptedConvolution(nn.Module):
    """f_0(x) + V x: a frozen convolution and a 1x1 convolution V of the same stride, which learns.

    V sees every stride-th pixel: that is the same, and a 1x1 convolution of stride 2 on the 3 channels of an
    image overruns its memory in torch 2.14 (oneDNN, weights' gradient, channels last).
    """

    def __init__(self, frozen: nn.Conv2d) -> None:
        super().__init__()
        self.frozen = frozen
        self.adapter = nn.Conv2d(frozen.in_channels, frozen.out_channels, 1, bias=False)
        nn.init.zeros_(self.adapter.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to what the frozen convolution gives, plus the correction."""
        rows, columns = self.frozen.stride
        output: Tensor = self.frozen(x) + self.adapter(x[:, :, ::rows, ::columns])
        return output


def _keeps_extent(convolution: nn.Conv2d) -> bool:
    """Whether the output is as large as the input divided by the stride, rounded up."""
    if type(convolution) is not nn.Conv2d:  # timm's Conv2dSame pads by itself
        return True
    kernel, padding, dilation = convolution.kernel_size, convolution.padding, convolution.dilation
    if isinstance(padding, str):
        return padding == "same"
    return all(2 * p == d * (k - 1) for k, p, d in zip(kernel, padding, dilation, strict=True))
