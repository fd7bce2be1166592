"""One value of one modality as a picture.

Every function takes natural units (torch tensor or numpy array) and returns an RGB image of the value's own size, so
that a pixel of the picture is a pixel of the value; `enlarge` scales without inventing colours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from fourm.errors import DataError
from fourm.modality import Grid, Modality
from fourm.report.colors import VOID_COLOR, Array, class_color, color_scale, palette, text_color
from fourm.report.text import INK, MUTED, PAPER, font, line_height, printable, text_card, text_width

Box = Mapping[str, Any]
CARD_SIZE = 192


def draw(
    modality: Modality,
    value: Any,
    *,
    background: Image.Image | None = None,
    classes: tuple[str, ...] = (),
    like: Any = None,
) -> Image.Image:
    """The picture of a value, chosen by how the modality is decoded and what it holds.

    Args:
        modality: what the value is.
        value: natural units: (C, H, W) floats for images, depth and normals, (H, W) ids for labels, (N,) or (h, w) ids
            for tokens, a string (or the list of alternatives, whose first is shown) for text, instances for boxes. None
            gives an empty card.
        background: picture that boxes are drawn on.
        classes: class names that give boxes the colours of a label map; by default the modality's own.
        like: features of the same shape whose colours are used, so that both pictures can be compared.

    Returns:
        An RGB image.

    Raises:
        DataError: if the value does not have the shape its modality needs.
    """
    if value is None:
        return text_card("no output", color=MUTED)
    if isinstance(value, Image.Image):
        return value.convert("RGB")
    if modality.decode == "boxes" and not isinstance(value, str):
        return boxes(value, background, classes=classes or modality.classes)
    try:
        return _drawer(modality, value, like)(value)
    except (ValueError, TypeError, IndexError) as error:
        shape = tuple(getattr(value, "shape", ())) or type(value).__name__
        raise DataError(f"cannot draw modality '{modality.name}' from a value of shape {shape}: {error}") from error


def _drawer(modality: Modality, value: Any, like: Any) -> Callable[[Any], Image.Image]:
    """The function that draws `modality`; unknown decoders fall back to what layout and content say."""
    if modality.decode == "text" or isinstance(value, str):
        return lambda v: text_card(v if isinstance(v, str) else " / ".join(map(str, v[:1])), CARD_SIZE)
    if modality.decode == "depth16":
        scale = None if modality.normalization == "standardize" else modality.value_range
        return lambda v: depth(v, scale)
    if modality.decode == "normal":
        return normals
    if modality.decode == "tokens" or modality.tokenizer is not None:
        shape = (modality.layout.height, modality.layout.width) if isinstance(modality.layout, Grid) else None
        return lambda v: tokens(v, shape, vocab_size=modality.vocab_size)
    if modality.is_discrete:
        return lambda v: labels(v, modality.vocab_size)
    channels = _planes(value).shape[0]  # what a network makes of images may have other channels than they
    return image if channels in (1, 3) and modality.decode != "features" else lambda v: features(v, like)


def image(value: Any) -> Image.Image:
    """RGB, grey values or edges.

    Args:
        value: (3, H, W), (1, H, W) or (H, W), floats in [0, 1] (others are clipped) or uint8.

    Raises:
        ValueError: for another number of channels.
    """
    planes = _planes(value)
    if planes.shape[0] not in (1, 3):
        raise ValueError(f"an image has 1 or 3 channels, not {planes.shape[0]}")
    if planes.dtype != np.uint8:
        planes = _to_bytes(planes.astype(np.float64))
    return Image.fromarray(_pixels(np.broadcast_to(planes, (3, *planes.shape[1:]))))


def depth(value: Any, value_range: tuple[float, float] | None = None, *, scale: str = "inferno_r") -> Image.Image:
    """Depth in a perceptual colour map, near bright and far dark, logarithmic so that near things keep their detail.

    Args:
        value: (1, H, W) or (H, W) metres; not finite values are black.
        value_range: nearest and farthest metres of the scale, the same for every picture. Without it the scale is
            linear between the 1st and 99th percentile of this picture (for depth without units).
        scale: name of the colour map.
    """
    metres = _planes(value).astype(np.float64)[0]
    known = np.isfinite(metres)
    metres = np.where(known, metres, 0.0)
    if value_range is None:
        near, far = np.percentile(metres[known], [1, 99]) if known.any() else (0.0, 1.0)
        share = (metres - near) / max(far - near, 1e-9)
    else:
        # A range from 0 has no logarithm: its first 64th is one colour.
        near, far = max(value_range[0], value_range[1] / 64), value_range[1]
        share = np.log(np.clip(metres, near, far) / near) / np.log(far / near)
    table = color_scale(scale)
    rows = np.clip(np.rint(share * (len(table) - 1)), 0, len(table) - 1).astype(int)
    return Image.fromarray(np.where(known[..., None], table[rows], np.uint8(0)))


def normals(value: Any) -> Image.Image:
    """Surface normals, x right, y up and z towards the viewer as red, green and blue.

    Args:
        value: (3, H, W) unit vectors; (0, 0, 1) is drawn (128, 128, 255).
    """
    planes = _planes(value)
    if planes.shape[0] != 3:
        raise ValueError(f"normals have 3 channels, not {planes.shape[0]}")
    return Image.fromarray(_pixels(_to_bytes((planes.astype(np.float64) + 1) / 2)))


def labels(value: Any, num_classes: int) -> Image.Image:
    """A label map in the class palette.

    Args:
        value: (H, W) or (1, H, W) class ids; ids outside [0, num_classes), such as 255, are drawn black.
        num_classes: number of classes.
    """
    ids = _planes(value)[0].astype(np.int64)
    table = np.concatenate([palette(num_classes), np.array([VOID_COLOR], dtype=np.uint8)])
    ids = np.where((ids >= 0) & (ids < num_classes), ids, num_classes)
    return Image.fromarray(table[ids])


def tokens(value: Any, shape: tuple[int, int] | None = None, *, vocab_size: int | None = None) -> Image.Image:
    """A token map: one square per token, each id in its own colour.

    Args:
        value: (N,) or (h, w) ids; negative ids (no token) are light grey.
        shape: (h, w) of a flat grid; a sequence is drawn in rows of 16.
        vocab_size: number of ids, to spread the colours.
    """
    ids = np.asarray(_array(value)).astype(np.int64)
    if ids.ndim != 2:
        ids = ids.reshape(-1)
        if shape is not None and shape[0] * shape[1] == ids.size:
            ids = ids.reshape(shape)
        else:
            ids = np.pad(ids, (0, -ids.size % 16), constant_values=-1).reshape(-1, 16)
    table = palette(max(vocab_size or 0, int(ids.max(initial=0)) + 1))
    grey = np.array([225, 225, 225], dtype=np.uint8)
    return Image.fromarray(np.where((ids >= 0)[..., None], table[np.maximum(ids, 0)], grey))


def features(value: Any, like: Any = None) -> Image.Image:
    """A feature map by its three principal components, as red, green and blue; a single vector as a square of greys.

    Args:
        value: (C, H, W) floats.
        like: features whose components and range are used, so that two pictures can be compared; None: the value's own.
    """
    planes, own = (_planes(v).astype(np.float64) for v in (value, value if like is None else like))
    channels, height, width = planes.shape
    if height * width == 1:
        side = math.isqrt(channels - 1) + 1
        cells = np.pad(planes.ravel(), (0, side**2 - channels), constant_values=own.min()).reshape(1, side, side)
        return image((cells - own.min()) / max(np.ptp(own), 1e-9))
    rows, reference = planes.reshape(channels, -1).T, own.reshape(channels, -1).T
    center = reference.mean(axis=0)
    directions = np.linalg.svd(reference - center, full_matrices=False)[2][:3]
    # The sign of a component is arbitrary: its largest entry is made positive, so that pictures are reproducible.
    strongest = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
    directions = (directions * np.sign(strongest)).T
    parts, known = (
        np.pad((x - center) @ directions, ((0, 0), (0, 3 - directions.shape[1]))) for x in (rows, reference)
    )
    low, high = known.min(axis=0), known.max(axis=0)
    shares = (parts - low) / np.maximum(high - low, 1e-9)
    return Image.fromarray(_pixels(_to_bytes(shares.T.reshape(3, height, width))))


def boxes(
    instances: Mapping[str, Any] | Sequence[Box],
    background: Image.Image | None = None,
    *,
    classes: tuple[str, ...] = (),
    size: int = 256,
) -> Image.Image:
    """Boxes with their class names.

    Args:
        instances: mappings with `boxes` (x1, y1, x2, y2 as shares of the width and height) and `class_name`, or a
            mapping that holds them under `instances`.
        background: picture below the boxes; it is enlarged so that names are legible. Without it, a light sheet.
        classes: class names in palette order.
        size: shortest side of the result in pixels.
    """
    found = instances.get("instances", ()) if isinstance(instances, Mapping) else instances
    canvas = Image.new("RGB", (size, size), (238, 238, 234)) if background is None else enlarge(background, size).copy()
    pen = ImageDraw.Draw(canvas)
    letter = max(11, size // 14)
    labels_to_write = []
    # Large boxes first, so that small ones stay visible.
    for instance in sorted(found, key=_area, reverse=True):
        corners = instance["boxes"]
        name = str(instance.get("class_name", ""))
        color = class_color(name, classes)
        x1, x2 = sorted(float(np.clip(corners[i], 0, 1)) * (canvas.width - 1) for i in (0, 2))
        y1, y2 = sorted(float(np.clip(corners[i], 0, 1)) * (canvas.height - 1) for i in (1, 3))
        pen.rectangle((round(x1), round(y1), round(x2), round(y2)), outline=color, width=max(2, size // 64))
        labels_to_write.append((round(x1), round(y1), name, color))
    for x, y, name, color in labels_to_write:
        if name:
            width, height = text_width(name, letter) + 6, line_height(letter)
            left, top = min(x, max(0, canvas.width - width)), min(y, max(0, canvas.height - height))
            pen.rectangle((left, top, left + width, top + height), fill=color)
            pen.text((left + 3, top + 1), printable(name), fill=text_color(color), font=font(letter))
    return canvas


def _area(instance: Box) -> float:
    x1, y1, x2, y2 = instance["boxes"]
    return abs(float(x2) - float(x1)) * abs(float(y2) - float(y1))


def legend(
    names: Sequence[str], *, present: Sequence[int] | None = None, width: int = 640, size: int = 14
) -> Image.Image:
    """Class names beside their colours.

    Args:
        names: class names; class i has colour `palette(len(names))[i]`.
        present: ids to list; by default all.
        width: width of the legend in pixels.
        size: font size in pixels.
    """
    table = palette(len(names))
    entries = [(names[i], table[i]) for i in (range(len(names)) if present is None else present) if 0 <= i < len(names)]
    column = max((text_width(name, size) for name, _ in entries), default=0) + 3 * size
    columns = max(1, width // column)
    height = line_height(size) + 4
    sheet = Image.new("RGB", (width, height * max(1, -(-len(entries) // columns))), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (name, color) in enumerate(entries):
        x, y = (number % columns) * column, (number // columns) * height
        pen.rectangle((x + 4, y + 4, x + 4 + size, y + 4 + size), fill=tuple(int(c) for c in color))
        pen.text((x + 10 + size, y + 2), printable(name), fill=INK, font=font(size))
    return sheet


def enlarge(picture: Image.Image, size: int) -> Image.Image:
    """Scale so that the shorter side is at least `size`, by a whole factor, each pixel becoming a square.

    A picture that is already larger is returned as it is.
    """
    factor = -(-size // min(picture.size))
    if factor <= 1:
        return picture
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _array(value: Any) -> Array:
    """A numpy array of a tensor (any device) or array; torch is not imported for it."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float().numpy() if value.is_floating_point() else value.numpy()
    return np.asarray(value)


def _planes(value: Any) -> Array:
    """(C, H, W) of (C, H, W), (H, W), (H, W, 3) bytes or a batch of one."""
    planes = _array(value)
    if planes.ndim == 4 and planes.shape[0] == 1:
        planes = planes[0]
    if planes.ndim == 2:
        planes = planes[None]
    if planes.ndim != 3:
        raise ValueError(f"expected (channels, height, width), got {planes.ndim} dimensions")
    if planes.dtype == np.uint8 and planes.shape[-1] in (1, 3) and planes.shape[0] not in (1, 3):
        planes = planes.transpose(2, 0, 1)
    return planes


def _to_bytes(shares: Array) -> Array:
    """Shares in [0, 1] as bytes, half rounded up; not a number is 0."""
    scaled = np.nan_to_num(np.clip(shares, 0.0, 1.0), nan=0.0) * 255
    return np.asarray(np.floor(scaled + 0.5), dtype=np.uint8)


def _pixels(planes: Array) -> Array:
    """(H, W, C) of (C, H, W), contiguous."""
    return np.ascontiguousarray(planes.transpose(1, 2, 0))
