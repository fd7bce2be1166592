"""Answers as files of the usual formats: png, npy, txt and json."""

from __future__ import annotations

import io
import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fourm.data.encode import npy
from fourm.files import publish
from fourm.modality import Modality
from fourm.report.colors import VOID_COLOR, palette

_FULL_SCALE = 65535
_VOID = 255
_MOST_BYTES = 200
_LABELS = ("labels", "labels_void_first")


def write(raw: Modality, value: Any, folder: Path, stem: str) -> list[Path]:
    """Write one answer.

    Args:
        raw: what it shows (`fourm.generate.bundle.raw_modality`).
        value: of one sample, in natural units.
        folder: where to.
        stem: name of the file without extension; characters that could lead elsewhere are replaced.

    Returns:
        the files written, the main one first.
    """
    paths = []
    for extension, data in _encode(raw, value).items():
        path = folder / f"{safe_name(stem)}.{extension}"
        publish(path, data)
        paths.append(path)
    return paths


def write_uncertainty(values: Tensor, folder: Path, stem: str) -> list[Path]:
    """Write a map of how unsure an answer is: a 16-bit png from 0 to its largest value, and the values as npy.

    Args:
        values: (H, W).
        folder: where to.
        stem: name of the files without extension.
    """
    array = values.float().cpu().numpy()
    share = np.clip(array / max(float(array.max(initial=0.0)), 1e-12), 0, 1)
    # A row of numbers, as of a single vector, is a picture too.
    pixels = np.atleast_2d(np.rint(share * _FULL_SCALE).astype(np.uint16))
    paths = []
    for extension, data in {"png": _png(pixels), "npy": npy(array)}.items():
        paths.append(folder / f"{safe_name(stem)}.{extension}")
        publish(paths[-1], data)
    return paths


def _encode(raw: Modality, value: Any) -> dict[str, bytes]:
    """Extension -> content."""
    if isinstance(value, str):
        return {"txt": (value + "\n").encode()}
    if isinstance(value, Sequence | Mapping):
        return {"json": _json(value, raw)}
    array = value.numpy()
    if raw.is_discrete:
        in_png = raw.decode in _LABELS and array.ndim == 2 and raw.vocab_size <= _VOID
        return {"png": _label_png(array, raw)} if in_png else {"npy": npy(array)}
    if raw.decode == "depth16":
        return _depth_files(array[0], raw)
    if raw.map_channels in (1, 3) and raw.decode != "features":
        low, high = raw.value_range or (0.0, 1.0)
        pixels = np.clip(np.rint((array - low) * (255 / (high - low))), 0, 255).astype(np.uint8)
        return {"png": _png(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))}
    return {"npy": npy(array)}


def _json(value: Any, raw: Modality) -> bytes:
    """What a text says, so that it can be given back: boxes as the data holds them, all else as it is."""
    whole = {"instances": list(value)} if raw.decode == "boxes" else value
    return (json.dumps(whole, indent=1, default=_plain) + "\n").encode()


def _plain(array: NDArray[Any]) -> Any:
    """A mask as COCO's run lengths, column by column and beginning with what is outside; other arrays as lists."""
    if array.ndim != 2:
        return array.tolist()
    inside = np.concatenate([[False], (array > 0.5).ravel(order="F"), [False]])
    changes = np.flatnonzero(inside[1:-1] != inside[:-2])
    return {"size": list(array.shape), "counts": np.diff([0, *changes, array.size]).tolist()}


def _label_bytes(ids: NDArray[np.int64], raw: Modality) -> NDArray[np.uint8]:
    """Class ids as the modality's decoder reads them; void is 255."""
    if raw.decode == "labels_void_first":
        ids = ids - 1
    return np.where(ids < 0, _VOID, ids).astype(np.uint8)


def _label_png(ids: NDArray[np.int64], raw: Modality) -> bytes:
    """Class ids as the pixels of a png with a palette, so that viewers show the colours of the reports."""
    picture = Image.fromarray(_label_bytes(ids, raw))
    colors = np.zeros((_VOID + 1, 3), np.uint8)
    colors[:_VOID] = palette(_VOID)
    colors[_VOID] = VOID_COLOR
    picture.putpalette(colors.tobytes())
    return png(picture)


def _depth_files(metres: NDArray[np.float32], raw: Modality) -> dict[str, bytes]:
    """A 16-bit png whose full scale is the modality's largest value; depth without units also as it is."""
    if raw.normalization == "standardize" or raw.value_range is None:
        low, high = float(metres.min()), float(metres.max())
        share = (metres - low) / max(high - low, 1e-6)
        return {"png": _png(np.rint(share * _FULL_SCALE).astype(np.uint16)), "npy": npy(metres)}
    share = np.clip(metres / raw.value_range[1], 0, 1)
    return {"png": _png(np.rint(share * _FULL_SCALE).astype(np.uint16))}


def _png(pixels: NDArray[Any]) -> bytes:
    return png(Image.fromarray(np.ascontiguousarray(pixels)))


def png(picture: Image.Image) -> bytes:
    """A picture as the bytes of a png file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def safe_name(name: str) -> str:
    """A name that stays in its folder: letters and digits of any script, `@ # . _ -`, not starting with a dot."""
    safe = "".join(char if char in "@#._-" or unicodedata.category(char)[0] in "LMN" else "_" for char in name)
    # File systems count bytes, and a temporary name or an extension must fit behind it.
    return safe.lstrip(".")[:100].encode()[:_MOST_BYTES].decode(errors="ignore") or "output"
