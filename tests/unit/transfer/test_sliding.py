"""Sliding windows cover large images, and answer as the network does where it looks at single pixels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fourm.transfer.sliding import slide, starts


def pixelwise(images: dict[str, Tensor]) -> Tensor:
    assert images["rgb"].shape[-2:] == (8, 8)
    return images["rgb"].square()


@pytest.mark.parametrize("size", [(8, 8), (13, 20), (5, 9), (24, 8)])
def test_answers_of_single_pixels_stay_as_they_are(size: tuple[int, int]) -> None:
    images = torch.randn(2, 3, *size)

    torch.testing.assert_close(slide(pixelwise, {"rgb": images}, 8, 5), images.square())


def test_windows_overlap_and_end_at_the_border() -> None:
    assert starts(8, 8, 5) == [0]
    assert starts(13, 8, 5) == [0, 5]
    assert starts(20, 8, 5) == [0, 5, 10, 12]


def test_overlaps_are_averaged() -> None:
    """A network that numbers its calls: what two windows see gets the mean of their numbers."""
    calls = iter((1.0, 3.0))

    output = slide(lambda images: torch.full((1, 1, 4, 4), next(calls)), {"rgb": torch.zeros(1, 3, 4, 6)}, 4, 2)

    assert output[0, 0, 0].tolist() == [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
