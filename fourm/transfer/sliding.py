"""Dense answers to large images from overlapping windows of the size a network was trained with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor
from torch.nn import functional as F

Answer = Callable[[dict[str, Tensor]], Tensor]


def slide(answer: Answer, images: Mapping[str, Tensor], window: int, stride: int | None = None) -> Tensor:
    """The mean of a network's outputs over all windows that cover a pixel.

    Args:
        answer: modality -> (B, C, window, window) -> (B, K, h, w), enlarged to the window here.
        images: modality -> (B, C, H, W), all of one size; sides shorter than the window are padded with zeros.
        window: pixels per side.
        stride: pixels from one window to the next, at most the window; None: two thirds of it. The last window ends at
            the border.

    Returns:
        (B, K, H, W) float32.
    """
    stride = stride or max(1, window * 2 // 3)
    height, width = next(iter(images.values())).shape[-2:]
    bottom, right = max(0, window - height), max(0, window - width)
    padded = {name: F.pad(value, (0, right, 0, bottom)) for name, value in images.items()}
    total = count = None
    for top in starts(height + bottom, window, stride):
        for left in starts(width + right, window, stride):
            rows, columns = slice(top, top + window), slice(left, left + window)
            output = answer({name: value[..., rows, columns] for name, value in padded.items()}).float()
            output = F.interpolate(output, size=(window, window), mode="bilinear", align_corners=False)
            if total is None or count is None:
                total = output.new_zeros(*output.shape[:2], height + bottom, width + right)
                count = output.new_zeros(height + bottom, width + right)
            total[..., rows, columns] += output
            count[rows, columns] += 1
    assert isinstance(total, Tensor)
    assert isinstance(count, Tensor)
    return (total / count)[..., :height, :width]


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along a side of at least the window's length."""
    return sorted({*range(0, length - window, stride), length - window})
