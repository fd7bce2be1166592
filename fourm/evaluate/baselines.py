"""What any model has to beat first: predictions that ignore the input, and images in one pixel per token."""

from __future__ import annotations

from collections.abc import Iterable, Set

import torch
from torch import Tensor
from torch.nn import functional as F

from fourm.layouts import Grid


class PixelMean:
    """The per-pixel mean of the training images, summed up batch by batch."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, images: Tensor) -> None:
        """Add (B, C, H, W) images, depth or normals."""
        total = images.double().sum(0)
        self._sum = total if self._sum is None else self._sum + total
        self._count += len(images)

    def image(self, *, unit: bool = False) -> Tensor:
        """The mean (C, H, W); `unit` scales it to length 1 per pixel, as normals need."""
        assert self._sum is not None, "add images first"
        mean = (self._sum / self._count).float()
        return F.normalize(mean, dim=0) if unit else mean


class PixelMode:
    """The most frequent class of each pixel over the training label maps.

    Args:
        num_classes: number of classes; other ids are void.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._counts: Tensor | None = None

    def add(self, labels: Tensor) -> None:
        """Add (B, H, W) label maps."""
        counts = torch.stack([(labels == c).sum(0) for c in range(self.num_classes)])
        self._counts = counts if self._counts is None else self._counts + counts

    def labels(self) -> Tensor:
        """(H, W) int64."""
        assert self._counts is not None, "add labels first"
        return self._counts.argmax(0)


class FrequentObjects:
    """The fixed set of names with the highest micro-averaged F1 on the training sets.

    For each size the best set holds the most frequent names, so trying every size finds the best of all sets.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._num_sets = 0

    def add(self, sets: Iterable[Set[str]]) -> None:
        """Add the true sets of training samples."""
        for names in sets:
            self._num_sets += 1
            for name in names:
                self._counts[name] = self._counts.get(name, 0) + 1

    def best(self) -> frozenset[str]:
        """The set; empty if no sample has a name."""
        ordered = sorted(self._counts, key=lambda name: (-self._counts[name], name))
        total = sum(self._counts.values())
        best, best_f1, hits = 0, 0.0, 0
        for size, name in enumerate(ordered, 1):
            hits += self._counts[name]
            f1 = 2 * hits / (size * self._num_sets + total)
            if f1 > best_f1:
                best, best_f1 = size, f1
        return frozenset(ordered[:best])


def one_pixel_per_token(images: Tensor, grid: Grid) -> Tensor:
    """Images reduced to the size of their token grid and enlarged again, both bicubic.

    Args:
        images: (B, C, H, W) in [0, 1].
        grid: of the tokens.

    Returns:
        the same shape, in [0, 1].
    """
    small = F.interpolate(images, (grid.height, grid.width), mode="bicubic", antialias=True)
    return F.interpolate(small, images.shape[-2:], mode="bicubic").clamp(0, 1)
