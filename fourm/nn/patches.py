"""Convolutions whose kernel is their stride, as what they are: one matrix product for all patches.

A product can be traced without data, and it is right where kernels of convolutions are not: in bfloat16 on processors
with AMX, oneDNN 3.12 gives wrong values for kernels of 4 and more on 4, 8, 12, 16 or 24 channels.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F


class PatchConv2d(nn.Conv2d):
    """Image to patches, with the parameters of a convolution.

    Args:
        in_channels, out_channels: of the image, of a patch.
        patch_size: pixels (height, width) of a patch.
        bias: whether there is one.
    """

    def __init__(
        self, in_channels: int, out_channels: int, patch_size: int | tuple[int, int], bias: bool = True
    ) -> None:
        super().__init__(in_channels, out_channels, patch_size, patch_size, bias=bias)

    @classmethod
    def of(cls, conv: nn.Conv2d) -> PatchConv2d:
        """The same with the parameters of a convolution whose kernel is its stride."""
        size = cast(tuple[int, int], conv.kernel_size)
        patches = cls(conv.in_channels, conv.out_channels, size, bias=conv.bias is not None)
        patches.weight, patches.bias = conv.weight, conv.bias
        return patches

    def forward(self, images: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, dim, rows, columns); pixels beyond the last whole patch are left out."""
        height, width = cast(tuple[int, int], self.kernel_size)
        rows, columns = (int(side) // patch for side, patch in zip(images.shape[2:], (height, width)))
        cut = images[:, :, : rows * height, : columns * width]
        patches = cut.unflatten(3, (columns, width)).unflatten(2, (rows, height)).permute(0, 2, 4, 1, 3, 5)
        return F.linear(patches.flatten(3), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class PatchConvTranspose2d(nn.ConvTranspose2d):
    """Patches to an image, with the parameters of a transposed convolution.

    Args:
        in_channels, out_channels: of a patch, of the image.
        patch_size: pixels per side of a patch.
    """

    def __init__(self, in_channels: int, out_channels: int, patch_size: int) -> None:
        super().__init__(in_channels, out_channels, patch_size, patch_size)

    def forward(self, patches: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(n, dim, rows, columns) -> (n, C, H, W)."""
        size = self.kernel_size[0]
        pixels = F.linear(patches.permute(0, 2, 3, 1), self.weight.flatten(1).T)
        image = pixels.unflatten(3, (self.out_channels, size, size)).permute(0, 3, 1, 4, 2, 5)
        image = image.flatten(4).flatten(2, 3)
        return image if self.bias is None else image + self.bias.to(image.dtype)[:, None, None]
