"""RandAugment and random erasing of photographs, drawn from a generator of their own."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fourm.data.transforms import Augment
from fourm.errors import ConfigError

_ERASED_AREA = (0.02, 1 / 3)
_ERASED_RATIO = (0.3, 1 / 0.3)


def draw_augmentation(policy: str | None, erase: float, rng: np.random.Generator) -> Augment | None:
    """What changes the photographs of one sample, all in the same way.

    Args:
        policy: of RandAugment, as timm writes it; None: none.
        erase: probability of erasing a box.
        rng: source of all randomness; nothing is drawn where there is nothing to do.

    Returns:
        (H, W[, C]) 8-bit -> the same; None: nothing is changed.

    Raises:
        ConfigError: for a policy that timm does not know.
    """
    if policy is None and not erase:
        return None
    operations = None if policy is None else rand_augment(policy)
    seed = int(rng.integers(1 << 31))
    box = rng.random(4) if erase and rng.random() < erase else None

    def change(pixels: NDArray[Any]) -> NDArray[Any]:
        if operations is not None:
            with _seeded(seed):
                changed = np.asarray(operations(Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")))
            pixels = changed if pixels.ndim == 3 else np.asarray(Image.fromarray(changed).convert("L"))
        return pixels if box is None else erased(pixels, box)

    return change


@lru_cache(maxsize=8)
def rand_augment(policy: str) -> Any:
    """timm's RandAugment.

    Raises:
        ConfigError: for a policy that timm does not know.
    """
    from timm.data.auto_augment import rand_augment_transform

    try:
        return rand_augment_transform(policy, {"translate_const": 100, "img_mean": (124, 116, 104)})
    except (AssertionError, ValueError, KeyError, IndexError) as error:
        raise ConfigError(
            f"rand_augment is '{policy}', which timm does not understand ({error}); expected for instance "
            "rand-m9-mstd0.5-inc1"
        ) from None


def erased(pixels: NDArray[Any], draws: NDArray[np.float64]) -> NDArray[Any]:
    """An image whose box is grey.

    Args:
        pixels: (H, W[, C]).
        draws: (4,) uniform numbers: area, ratio of the sides, place.
    """
    height, width = pixels.shape[:2]
    area = height * width * (_ERASED_AREA[0] + draws[0] * (_ERASED_AREA[1] - _ERASED_AREA[0]))
    low, high = np.log(_ERASED_RATIO)
    ratio = np.exp(low + draws[1] * (high - low))
    rows, columns = min(height, round((area * ratio) ** 0.5)), min(width, round((area / ratio) ** 0.5))
    top, left = int(draws[2] * (height - rows + 1)), int(draws[3] * (width - columns + 1))
    changed = pixels.copy()
    changed[top : top + rows, left : left + columns] = 127
    return changed


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """timm draws from the global generators of Python and numpy: they are seeded, and put back as they were."""
    kept, numpy_kept = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(kept)
        np.random.set_state(numpy_kept)  # noqa: NPY002
