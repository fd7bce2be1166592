"""What people draw on the page, as files of the modality they draw."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from fourm.errors import DataError
from fourm.generate.files import png
from fourm.report.colors import palette
from fourm.report.legend import class_names
from fourm.serve.fields import Field
from fourm.serve.limits import Limits
from fourm.serve.request import check_image

_VOID = 255
_HALF = 127


def drawing_file(field: Field, data: bytes, limits: Limits) -> bytes | None:
    """A drawing as the PNG that would be uploaded instead.

    Colours lie on white paper; lines are bright on black, as edges are; in a label map each pixel is of the class whose
    colour is nearest, and void where nothing was drawn.

    Args:
        field: the modality.
        data: an image file with an alpha channel, opaque where something was drawn.
        limits: the most of everything.

    Returns:
        None if nothing was drawn.

    Raises:
        DataError: if this is no image, or a huge one.
    """
    picture = _read(f"drawing of {field.name}", data, limits)
    alpha = np.asarray(picture)[..., 3]
    if not alpha.any():
        return None
    if field.is_label_map:
        return png(Image.fromarray(_nearest_classes(np.asarray(picture), len(class_names(field.raw)))))
    if field.raw.decode == "gray":
        return png(Image.fromarray(np.ascontiguousarray(alpha)))
    paper = Image.new("RGBA", picture.size, "white")
    return png(Image.alpha_composite(paper, picture).convert("RGB"))


def painting_files(field: Field, below: bytes, strokes: bytes | None, limits: Limits) -> tuple[bytes, bytes | None]:
    """An image that was painted over as the two PNGs that would be uploaded instead: itself, and a mask.

    Args:
        field: the modality.
        below: an image file; what is transparent, as around an image of another shape, is unknown.
        strokes: an image file of the same size, opaque where it was painted over; None: nowhere.
        limits: the most of everything.

    Returns:
        the image, and its mask, white where the image counts; no mask if all of it does.

    Raises:
        DataError: if one is no image, or a huge one, or they have different sizes.
    """
    where = f"painting of {field.name}"
    picture = _read(where, below, limits)
    known = np.asarray(picture)[..., 3] > _HALF
    if strokes is not None:
        over = _read(where, strokes, limits)
        if over.size != picture.size:
            raise DataError(f"{where}: strokes of {over.size} pixels over an image of {picture.size}; paint it again")
        known = known & (np.asarray(over)[..., 3] <= _HALF)
    image = png(Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB"))
    return image, None if known.all() else png(Image.fromarray(np.where(known, 255, 0).astype(np.uint8)))


def _read(where: str, data: bytes, limits: Limits) -> Image.Image:
    check_image(where, data, limits)
    try:
        with Image.open(io.BytesIO(data)) as file:
            return file.convert("RGBA")
    except Exception as error:  # image libraries raise anything from OSError to SyntaxError on damaged files
        raise DataError(f"{where}: the image is damaged; draw it again") from error


def pencils(field: Field) -> list[str]:
    """Colours to draw with, as `#rrggbb`."""
    if field.is_label_map:
        return ["#" + bytes(color.tolist()).hex() for color in palette(len(class_names(field.raw)))]
    if field.raw.decode == "gray":
        return ["#202020"]
    return ["#202020", "#c43a48", "#f29c2e", "#fade4a", "#26926c", "#425ccc", "#86522e", "#9aa0a6"]


def _nearest_classes(pixels: np.ndarray, num_classes: int) -> np.ndarray:
    """(H, W) ids of the nearest palette colours, 255 where the drawing is more transparent than not."""
    colors = palette(num_classes).astype(np.int32)
    ids = np.full(pixels.shape[:2], _VOID, np.uint8)
    nearest = np.full(pixels.shape[:2], np.iinfo(np.int32).max, np.int32)
    for number, color in enumerate(colors):  # one class at a time: memory stays that of the picture
        distance = ((pixels[..., :3].astype(np.int32) - color) ** 2).sum(-1)
        closer = (distance < nearest) & (pixels[..., 3] > _HALF)
        ids[closer], nearest[closer] = number, distance[closer]
    return ids
