"""One value of one modality as a picture: the table that knows which drawing suits it.

Every drawing takes natural units (torch tensor, numpy array or plain Python values) and returns an RGB image. Maps keep
their own size, so that a pixel of the picture is a pixel of the value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image

from fourm.errors import DataError
from fourm.layouts import Grid
from fourm.modality import Modality
from fourm.report.arrays import to_array, to_planes
from fourm.report.boxes import boxes
from fourm.report.canvas import CARD_SIZE, nothing
from fourm.report.crops import crops
from fourm.report.facts import facts
from fourm.report.features import features
from fourm.report.instances import instances
from fourm.report.legend import num_void
from fourm.report.maps import image, labels, measured, normals, tokens
from fourm.report.poses import poses
from fourm.report.scale import scale_of
from fourm.report.swatches import swatches
from fourm.report.text import MUTED, text_card


@dataclass(frozen=True)
class _Setting:
    """What a drawing may look at beside its value."""

    background: Image.Image | None
    classes: tuple[str, ...]
    like: Any


_DRAWINGS: dict[str, Callable[[Modality, Any, _Setting], Image.Image]] = {
    "boxes": lambda m, value, at: boxes(value, at.background, classes=at.classes or m.classes),
    "crop_settings": lambda m, value, at: crops(value, at.background),
    "metadata": lambda m, value, at: facts(value),
    "palette": lambda m, value, at: swatches(value),
    "poses": lambda m, value, at: poses(value, at.background),
    "sam": lambda m, value, at: instances(value, at.background),
    "text": lambda m, value, at: _text(value),
    "depth16": lambda m, value, at: measured(value, scale_of(m)),
    "normal": lambda m, value, at: normals(value),
    "features": lambda m, value, at: features(value, at.like),
}
"""`decode` of a modality -> its drawing. All others are drawn by layout and content."""


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
            for tokens of any modality, a string (or the list of alternatives, whose first is shown) for text, and what
            `boxes`, `crops`, `facts`, `swatches`, `poses` and `instances` take. None gives a card that says so,
            and so does an empty answer.
        background: picture that boxes, crops, people and instances are drawn on.
        classes: class names that give boxes the colours of a label map; by default the modality's own.
        like: features, or several, whose colours are used, so that pictures can be compared.

    Returns:
        An RGB image.

    Raises:
        DataError: if the value does not have the form its modality needs.
    """
    if value is None:
        return text_card("no output", color=MUTED)
    if isinstance(value, Image.Image):
        return value.convert("RGB")
    try:
        return _drawing(modality, value)(modality, value, _Setting(background, classes, like))
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        shape = tuple(getattr(value, "shape", ())) or type(value).__name__
        raise DataError(f"cannot draw modality '{modality.name}' from a value of shape {shape}: {error}") from error


def _drawing(modality: Modality, value: Any) -> Callable[[Modality, Any, _Setting], Image.Image]:
    """The function that draws a value; decoders outside the table fall back to what layout and content say."""
    if isinstance(value, str):
        return _DRAWINGS["text"]
    if modality.tokenizer is not None and hasattr(value, "shape"):
        return _tokens
    if modality.decode in _DRAWINGS:
        return _DRAWINGS[modality.decode]
    if modality.decode == "tokens":
        return _tokens
    if modality.is_discrete:
        return _labels
    channels = to_planes(value).shape[0]  # what a network makes of images may have other channels than they
    return (lambda m, v, at: image(v)) if channels in (1, 3) else _DRAWINGS["features"]


def _text(value: Any) -> Image.Image:
    text = value if isinstance(value, str) else " / ".join(map(str, value[:1]))
    return text_card(text, CARD_SIZE) if text.strip() else nothing()


def _labels(modality: Modality, value: Any, _: _Setting) -> Image.Image:
    void = num_void(modality)
    return labels(to_array(value).astype("int64") - void, modality.vocab_size - void)


def _tokens(modality: Modality, value: Any, _: _Setting) -> Image.Image:
    if to_array(value).size == 0:
        return nothing()
    shape = (modality.layout.height, modality.layout.width) if isinstance(modality.layout, Grid) else None
    return tokens(value, shape, vocab_size=modality.vocab_size)
