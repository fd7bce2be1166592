"""All stored crops of a sample at once, for networks that see each of them beforehand."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fourm.data import geometry, transforms
from fourm.modality import Modality


def settings_for(stored: NDArray[np.float32] | None, aspect: float, image_size: tuple[int, int]) -> NDArray[np.float32]:
    """The stored crops of an image, or the centre crop alone where there are none.

    Args:
        stored: (crops, 5) top, left, height, width, flip.
        aspect: width : height of the centre crop.
        image_size: (height, width) of the image.
    """
    return np.array([[*geometry.center_box(image_size, aspect), 0]], np.float32) if stored is None else stored


def cut_all(
    value: Any,
    modality: Modality,
    stored: NDArray[np.float32] | None,
    rng: np.random.Generator,
    image_size: tuple[int, int] | None = None,
) -> NDArray[Any]:
    """Every stored crop of one decoded value, as training sees it.

    Args:
        value: what the decoder of a grid modality returned.
        modality: what it is.
        stored: (crops, 5) crops of the sample; None: the centre crop alone.
        rng: for what is drawn of a value.
        image_size: (height, width) of the image that the crops were drawn for, if the value may have another
            resolution, as a depth map beside a photograph; None: the value's own.

    Returns:
        (crops, C, H, W) normalised values or (crops, H, W) labels.

    Raises:
        DataError: if a crop lies outside the image.
        ValueError: if the value has not all crops.
    """
    size = value.shape[:2] if transforms.is_image(modality) else (1, 1)
    height, width = modality.grid.image_size
    rows = settings_for(stored, width / height, size)
    if transforms.is_image(modality):
        drawn_for = image_size if image_size is not None and stored is not None else size
        cuts = [geometry.from_settings(rows, row, drawn_for) for row in range(len(rows))]
    else:  # features were made crop by crop
        cuts = [geometry.whole(size, row=row) for row in range(len(rows))]
    return np.stack([transforms.apply(value, modality, cut, rng) for cut in cuts])
