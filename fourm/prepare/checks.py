"""What a value has to be beyond what its decoder sees to: in range, complete, and within the photograph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fourm.data import geometry
from fourm.data.images import open_image
from fourm.data.transforms import is_image
from fourm.errors import did_you_mean
from fourm.modality import Modality
from fourm.tokenizers.structured.metadata import FIELDS

_ROUNDING = 1e-6
VOID_NORMAL = 0.1
"""Length of a vector below which nothing is known of a pixel."""
_NORMAL_ERROR = 0.2  # of the length: of 8 bits it is .01, at edges that were made smaller it is larger
_WRONG_NORMALS = 0.05  # share of pixels
_CONTROL = frozenset(map(chr, range(32))) - set("\t\n\r\f\v")
_WITHOUT_CONTROL = dict.fromkeys(map(ord, _CONTROL))


@dataclass(frozen=True)
class Around:
    """What other sources say of the same sample.

    Args:
        size: (height, width) of the photograph; None where it is not known.
        num_crops: stored crops; None where there are none.
    """

    size: tuple[int, int] | None = None
    num_crops: int | None = None


def find_faults(value: Any, modality: Modality, data: bytes, around: Around) -> Iterator[str]:
    """What is wrong with a file that can be decoded.

    Args:
        value: what its decoder returned.
        modality: what it should hold.
        data: its bytes.
        around: what is known of the sample.
    """
    check = _CHECKS.get(modality.decode)
    if check is not None:
        yield from check(value, modality, data)
    if around.size is not None:
        yield from _within(value, modality, around.size)
    if around.num_crops is not None and has_rows(modality) and len(value) < around.num_crops:
        yield f"it has {len(value)} rows for {around.num_crops} stored crops"


def has_rows(modality: Modality) -> bool:
    """Whether its files hold a row for every stored crop."""
    feature_map = modality.decode == "features" and modality.grid.image_size != (1, 1)
    return feature_map or modality.decode in ("tokens", "sam")


def _within(value: Any, modality: Modality, size: tuple[int, int]) -> Iterator[str]:
    """Whether maps have the shape of the photograph, and crops lie inside it."""
    try:
        if is_image(modality):
            geometry.whole(size).box_in(value.shape[:2])
        if modality.decode == "crop_settings":
            for row in range(len(value)):
                geometry.from_settings(value, row, size)
    except ValueError as error:
        yield str(error)


def _colours(value: Any, modality: Modality, data: bytes) -> Iterator[str]:
    """A grey file would become three equal channels: it is a map of something, or a photograph of another source."""
    mode = _mode(data)
    if Image.getmodebands(mode) < 3:
        yield f"an image of mode {mode}, which has no three channels"


def _grey(value: Any, modality: Modality, data: bytes) -> Iterator[str]:
    mode = _mode(data)
    if mode not in ("L", "1", "LA", "P"):
        yield f"an image of mode {mode}; expected grey values of 8 bits"


def _mode(data: bytes) -> str:
    with open_image(data) as image:
        return image.mode


def _depth(value: NDArray[np.float32], modality: Modality, data: bytes) -> Iterator[str]:
    low, high = modality.value_range or (0.0, 1.0)
    least, most = float(value.min()), float(value.max())
    step = high / 65535
    if least < low - step or most > high + step:
        yield f"values from {least:g} to {most:g}; expected {low:g} to {high:g}"


def _normals(value: NDArray[np.uint8], modality: Modality, data: bytes) -> Iterator[str]:
    lengths = np.linalg.norm(value.astype(np.float32) / 127.5 - 1, axis=-1)
    known = lengths[lengths > VOID_NORMAL]
    wrong = float((np.abs(known - 1) > _NORMAL_ERROR).mean()) if known.size else 1.0
    if wrong > _WRONG_NORMALS:
        yield f"{wrong:.0%} of its vectors are not of length 1: these are no normals"


def _boxes(value: Sequence[Mapping[str, Any]], modality: Modality, data: bytes) -> Iterator[str]:
    for instance in value:
        x1, y1, x2, y2 = map(float, instance["boxes"])
        if min(x1, y1) < -_ROUNDING or max(x2, y2) > 1 + _ROUNDING or x1 >= x2 or y1 >= y2:
            yield f"box {instance['boxes']} of '{instance['class_name']}'; expected 0 <= x1 < x2 <= 1, and so for y"
        if modality.classes and instance["class_name"] not in modality.classes:
            yield f"class '{instance['class_name']}'.{did_you_mean(instance['class_name'], modality.classes)}"


def _metadata(value: Mapping[str, float], modality: Modality, data: bytes) -> Iterator[str]:
    for name, number in value.items():
        if name not in FIELDS:
            yield f"a fact is called '{name}'.{did_you_mean(name, FIELDS)}"
        elif not FIELDS[name].holds(number):
            yield f"{name} is {number!r}; expected {FIELDS[name].expected}"


def _text(value: str | Sequence[str], modality: Modality, data: bytes) -> Iterator[str]:
    for text in [value] if isinstance(value, str) else value:
        if found := sorted(_CONTROL.intersection(text)):
            yield f"text with control characters ({found[0]!r}): {text[:40]!r}"


def without_control(text: str) -> str:
    """A text without control characters, which no caption means."""
    return text.translate(_WITHOUT_CONTROL)


def _crops(value: NDArray[np.float32], modality: Modality, data: bytes) -> Iterator[str]:
    if (value != np.trunc(value)).any() or (value[:, :2] < 0).any() or not np.isin(value[:, 4], (0, 1)).all():
        yield "rows that are not whole numbers of top, left, height and width from 0 on, and a flip of 0 or 1"


_CHECKS: dict[str, Callable[[Any, Modality, bytes], Iterator[str]]] = {
    "image": _colours,
    "gray": _grey,
    "depth16": _depth,
    "normal": _normals,
    "boxes": _boxes,
    "metadata": _metadata,
    "text": _text,
    "crop_settings": _crops,
}
"""`decode` of a modality -> its checks. Ids, palettes, vectors and people are seen to by their decoders."""
