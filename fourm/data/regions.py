"""Regions of annotations as masks: polygons, and COCO's runs of pixels (Lin et al. 2014)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fourm.errors import DataError


def polygon_mask(corners: NDArray[Any], size: tuple[int, int], out_size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels whose centres lie in a polygon: a line to the left from there crosses its outline an odd number of
    times.

    Args:
        corners: (n, 2) x, y in pixels of a picture of `size`, whose first pixel reaches from 0 to 1.
        size: (height, width) of that picture.
        out_size: (height, width) of the mask.
    """
    height, width = out_size
    x1, y1 = (corners.astype(np.float64) * (width / size[1], height / size[0])).T
    x2, y2 = np.roll(x1, -1), np.roll(y1, -1)
    first, last = max(0, int(np.floor(y1.min()))), min(height, int(np.ceil(y1.max())))
    mask = np.zeros((height, width), np.bool_)
    if first >= last:
        return mask
    rows = np.arange(first, last)[:, None] + 0.5
    row, edge = np.nonzero((y1 <= rows) != (y2 <= rows))
    x = x1[edge] + (rows[row, 0] - y1[edge]) * (x2[edge] - x1[edge]) / (y2[edge] - y1[edge])
    crossings = np.zeros((last - first, width + 1), np.int32)
    np.add.at(crossings, (row, np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)), 1)
    mask[first:last] = np.cumsum(crossings, 1)[:, :width] % 2 == 1
    return mask


def segmentation_mask(segmentation: Any, size: tuple[int, int], out_size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask of an annotation of COCO.

    Args:
        segmentation: polygons [[x, y, x, y, ...], ...], or `{"size": [height, width], "counts": ...}`: lengths of runs
            down the columns, outside and inside by turns, as a list or packed as text.
        size: (height, width) of the annotated picture.
        out_size: (height, width) of the mask.

    Raises:
        DataError: if it is neither, or runs for a picture of another size.
    """
    if isinstance(segmentation, Mapping):
        return _runs_mask(segmentation, size, out_size)
    if not isinstance(segmentation, Sequence) or isinstance(segmentation, str):
        raise DataError(f"segmentation is {segmentation!r:.80}; expected polygons or runs")
    mask = np.zeros(out_size, np.bool_)
    for outline in segmentation:
        try:
            corners = np.asarray(outline, np.float64).reshape(-1, 2)
        except (TypeError, ValueError):
            raise DataError("a polygon is not x, y, x, y, ...") from None
        if not np.isfinite(corners).all():
            raise DataError("a polygon with corners that are not finite")
        if len(corners) > 2:
            mask |= polygon_mask(corners, size, out_size)
    return mask


def _runs_mask(runs: Mapping[str, Any], size: tuple[int, int], out_size: tuple[int, int]) -> NDArray[np.bool_]:
    """For each pixel the run that lies under its centre. The annotated picture is never made, since a file may say that
    it is as large as it likes."""
    try:
        height, width = (int(side) for side in runs["size"])
        counts = runs["counts"]
        lengths = unpack(counts) if isinstance(counts, str) else np.asarray(counts, np.int64)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise DataError("segmentation has no size and counts of runs") from None
    total = sum(lengths.tolist()) if lengths.ndim == 1 else 0
    if lengths.ndim != 1 or (lengths < 0).any() or total != height * width:
        raise DataError(f"runs of {total} pixels for a mask of {height} x {width} (height x width)")
    if (height, width) != tuple(size):
        raise DataError(
            f"runs for {height} x {width} pixels (height x width), but the picture of the annotation has {size[0]} x "
            f"{size[1]}"
        )
    rows, columns = (((np.arange(n) + 0.5) * m / n).astype(np.int64) for n, m in zip(out_size, size))
    return np.searchsorted(np.cumsum(lengths), columns * height + rows[:, None], side="right") % 2 == 1


def unpack(text: str) -> NDArray[np.int64]:
    """Lengths of runs from COCO's text: numbers of 5 bits per letter, the lowest first, from the fourth on less the
    one two before.

    Raises:
        ValueError: if the text ends inside a number, or holds other letters.
    """
    lengths: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"'{letter}' is no letter of packed runs")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0  # the highest bit is the sign
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("packed runs end inside a number")
    return np.array(lengths, np.int64)
