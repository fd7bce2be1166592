"""One function per raw file format. A new format is one function, here or in `facts`, and one line in `DECODERS`.

Each takes the bytes of one file and its modality and returns what the geometry works on: images as arrays (H, W[, C]),
tokens as arrays (crops, tokens), text and boxes as Python values. Numbers are in natural units, except that 8-bit
images stay 8-bit until after the crop.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

from fourm.data import facts
from fourm.data.images import open_image, rgb_pixels
from fourm.data.unpack import read_npy, read_npz, unzip
from fourm.errors import ConfigError, DataError, did_you_mean
from fourm.layouts import Continuous, Discrete, Grid
from fourm.modality import Modality

Decoder = Callable[[bytes, Modality], Any]
VOID = 255
"""The 8-bit id of pixels without a label."""
FROM_KEY = "class_folder"
"""The decoder that reads the key of a sample in place of a file."""
_ZIP = b"PK"
_CHANNELS = {"image": 3, "normal": 3, "gray": 1, "depth16": 1}

_REMEDIES = {
    "tokens": "Run `fourm tokenize` again for this source, or correct the modality's vocabulary and grid in the recipe",
    "labels": "Check the classes of the modality and make this file again",
}


def decode(data: bytes, modality: Modality, where: Callable[[], str]) -> Any:
    """Decode one file.

    Args:
        data: its bytes.
        modality: what it holds; `modality.decode` names the decoder.
        where: called for an error; says which file this is.

    Raises:
        DataError: if the file is damaged or does not fit the modality; names file, key, modality and remedy.
    """
    decoder = decoder_of(modality)
    try:
        return decoder(data, modality)
    except Exception as error:  # image libraries raise anything from OSError to SyntaxError on damaged files
        unknown = isinstance(error, UnidentifiedImageError)
        reason = f"these {len(data)} bytes are not an image" if unknown else str(error) or type(error).__name__
        remedy = _REMEDIES.get(modality.decode, "Make this file again, or remove the sample from every source")
        raise DataError(
            f"{where()}: cannot read it as '{modality.decode}' for modality '{modality.name}': {reason}. {remedy}"
        ) from error


def decoder_of(modality: Modality) -> Decoder:
    """The decoder a modality names.

    Raises:
        ConfigError: if there is none of that name, or it gives another number of channels.
    """
    if modality.decode not in DECODERS:
        known = did_you_mean(modality.decode, DECODERS)
        raise ConfigError(f"modality '{modality.name}': decode is '{modality.decode}'.{known}")
    channels = _CHANNELS.get(modality.decode)
    if channels is not None and modality.channels not in (channels, None):
        raise ConfigError(
            f"modality '{modality.name}' has channels {modality.channels}, but decode '{modality.decode}' gives "
            f"{channels}: correct one of them"
        )
    return DECODERS[modality.decode]


def image(data: bytes, modality: Modality) -> NDArray[np.uint8]:
    """RGB image, png or jpg -> (H, W, 3)."""
    return rgb_pixels(data)


def image_size(data: bytes) -> tuple[int, int]:
    """(height, width) of an image file, without decoding it.

    Raises:
        OSError: if it is not an image.
        DataError: if it is of a format that is not read.
    """
    with open_image(data) as file:
        return file.height, file.width


def normal(data: bytes, modality: Modality) -> NDArray[np.uint8]:
    """Surface normals, RGB png holding round((n + 1) / 2 * 255) -> (H, W, 3), still 8-bit."""
    with open_image(data) as file:
        if file.mode != "RGB":
            raise ValueError(f"expected an RGB image, found mode {file.mode}")
        return np.asarray(file)


def gray(data: bytes, modality: Modality) -> NDArray[np.uint8]:
    """Grey image -> (H, W)."""
    with open_image(data) as file:
        return np.asarray(file if file.mode == "L" else file.convert("L"))


def depth16(data: bytes, modality: Modality) -> NDArray[np.float32]:
    """16-bit png whose full scale is the largest value of the modality -> (H, W) in natural units (metres)."""
    with open_image(data) as file:
        values = np.asarray(file)
        if file.mode not in ("I;16", "I;16B", "I") or values.ndim != 2:
            raise ValueError(f"expected a 16-bit grey image, found mode {file.mode}")
    largest = modality.value_range[1] if modality.value_range else 1.0
    return values.astype(np.float32) * np.float32(largest / 65535)


def labels(data: bytes, modality: Modality) -> NDArray[np.int32]:
    """Class ids, grey or palette png -> (H, W); void (255) becomes -1."""
    ids = _ids(data)
    ids[ids == VOID] = -1
    return _check_ids(ids, modality)


def labels_void_first(data: bytes, modality: Modality) -> NDArray[np.int32]:
    """Class ids in the published 4M form -> (H, W): void (255) becomes class 0, every other id moves up by one."""
    ids = _ids(data)
    return _check_ids(np.where(ids == VOID, 0, ids + 1), modality)


def labels_from_one(data: bytes, modality: Modality) -> NDArray[np.int32]:
    """Class ids that begin with 1, as in ADE20K and NYUv2 -> (H, W): 0 is void and becomes -1."""
    return _check_ids(_ids(data) - 1, modality)


def label(data: bytes, modality: Modality) -> NDArray[np.int64]:
    """The class of a whole sample, its number or name, as JSON or plain text -> ()."""
    content = unzip(data).decode("utf-8-sig").strip()
    try:
        value = json.loads(content)
    except ValueError:
        value = content
    return _class_id(value, modality)


def class_folder(key: bytes, modality: Modality) -> NDArray[np.int64]:
    """The class of a sample by the folder it lies in: `<class>/<stem>` -> ()."""
    folder, slash, _ = key.decode().rpartition("/")
    if not slash:
        raise ValueError("this file lies in no folder that would be its class; expected <class>/<file>")
    return _class_id(folder, modality)


def _class_id(value: Any, modality: Modality) -> NDArray[np.int64]:
    number = modality.vocab_size
    if isinstance(value, str) and value in modality.classes:
        value = modality.classes.index(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < number:
        known = f": {', '.join(modality.classes[:20])}" if modality.classes else f" (0 to {number - 1})"
        raise ValueError(f"class {value!r} is not one of the {number} classes{known}")
    return np.asarray(value, np.int64)


def _ids(data: bytes) -> NDArray[np.int32]:
    with open_image(data) as file:
        if file.mode not in ("L", "P", "1", "I;16", "I"):
            raise ValueError(f"expected an image with one id per pixel, found mode {file.mode}")
        return np.asarray(file).astype(np.int32)


def _check_ids(ids: NDArray[np.int32], modality: Modality) -> NDArray[np.int32]:
    largest = int(ids.max(initial=-1))
    if isinstance(modality.content, Discrete) and largest >= modality.vocab_size:
        raise ValueError(f"class id {largest} is not one of the {modality.vocab_size} classes")
    return ids


def tokens(data: bytes, modality: Modality) -> NDArray[np.int64]:
    """Token ids, npy (crops, tokens) or (tokens,) -> (crops, tokens)."""
    ids = read_npy(data)
    if ids.dtype.kind not in "iu" or ids.ndim < 1:
        raise ValueError(f"expected integers (crops, tokens), found {ids.dtype} of shape {ids.shape}")
    ids = ids.reshape(len(ids) if ids.ndim > 1 else 1, -1).astype(np.int64)
    if isinstance(modality.layout, Grid) and ids.shape[1] != modality.num_tokens:
        raise ValueError(
            f"{ids.shape[1]} tokens per crop, but the grid of {modality.layout.height} x {modality.layout.width} "
            f"has {modality.num_tokens}"
        )
    # Read as unsigned, negative numbers are larger than every vocabulary: one pass finds both.
    if ids.size and ids.view(np.uint64).max() >= modality.vocab_size:
        wrong = int(ids.max()) if ids.max() >= modality.vocab_size else int(ids.min())
        raise ValueError(
            f"token id {wrong} is outside the vocabulary of {modality.vocab_size} (0 to {modality.vocab_size - 1})"
        )
    return ids


def text(data: bytes, modality: Modality) -> str | list[str]:
    """Text: plain, or JSON with one string or a list of alternatives; either may be gzipped."""
    content = unzip(data).decode("utf-8-sig")
    try:
        value = json.loads(content)
    except ValueError:
        return content.strip()
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return value
    if isinstance(value, dict | list):
        raise ValueError("expected text, a JSON string or a JSON list of strings")
    return content.strip()  # plain text that happens to be a number


def structured(data: bytes, modality: Modality) -> Any:
    """Any JSON value, possibly gzipped; its encoder turns it into text."""
    return json.loads(unzip(data))


def vectors(data: bytes, modality: Modality) -> NDArray[np.float32]:
    """Vectors, npz with `emb` (length, dim) and optionally `mask_valid` (length,) -> the valid rows (n, dim)."""
    arrays = read_npz(data, ("emb", "mask_valid"))
    if "emb" not in arrays:
        raise ValueError("there is no array emb")
    values = arrays["emb"]
    if "mask_valid" in arrays:
        values = values[arrays["mask_valid"].astype(bool)]
    if isinstance(modality.content, Continuous) and (values.ndim != 2 or values.shape[1] != modality.content.dim):
        raise ValueError(f"vectors of shape {values.shape}; expected (length, {modality.content.dim})")
    return finite(values[: modality.num_tokens])


def features(data: bytes, modality: Modality) -> NDArray[np.float32]:
    """Vectors in the places of a grid, npy or npz with one array -> (crops, C, H, W).

    A file holds one crop (C, H, W), or (crops, C, H, W); a single vector may leave H and W out.
    """
    array = _only_array(data) if data[:2] == _ZIP else read_npy(data)
    if modality.channels is None:
        raise ValueError("the modality does not say how many `channels` its vectors have")
    expected: tuple[int, ...] = (modality.channels, *modality.grid.image_size)
    shapes = [expected, expected[:1]] if modality.grid.image_size == (1, 1) else [expected]
    if not any(array.shape in (shape, (len(array), *shape)) for shape in shapes if array.ndim):
        raise ValueError(
            f"an array of shape {array.shape}; expected {' or '.join(map(str, shapes))}, or a row of these for every "
            "stored crop"
        )
    if not array.size:
        raise ValueError("an array without rows")
    return finite(array).reshape((-1, *expected))


def _only_array(data: bytes) -> NDArray[Any]:
    arrays = read_npz(data)
    if len(arrays) != 1:
        raise ValueError(f"arrays {', '.join(arrays) or 'none'} in one file; expected a single one")
    return next(iter(arrays.values()))


def crop_settings(data: bytes, modality: Modality | None = None) -> NDArray[np.float32]:
    """Stored crops, npy (crops, 5): top, left, height, width, horizontal flip."""
    rows = np.atleast_2d(finite(read_npy(data)))
    if rows.ndim != 2 or rows.shape[1] != 5 or not len(rows) or (rows[:, 2:4] <= 0).any():
        raise ValueError(f"expected rows of top, left, height, width, flip; found shape {rows.shape}")
    return rows


def finite(array: NDArray[Any]) -> NDArray[np.float32]:
    """The numbers of an array as networks read them.

    Raises:
        ValueError: if it holds something else, NaN or infinity.
    """
    if array.dtype.kind not in "fiu":
        raise ValueError(f"an array of {array.dtype}; expected numbers")
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("values that are not finite: NaN, infinity, or too large for 32 bits")
    return values


DECODERS: dict[str, Decoder] = {
    "image": image,
    "normal": normal,
    "gray": gray,
    "depth16": depth16,
    "labels": labels,
    "labels_void_first": labels_void_first,
    "labels_from_one": labels_from_one,
    "label": label,
    "class_folder": class_folder,
    "tokens": tokens,
    "text": text,
    "boxes": facts.boxes,
    "metadata": facts.metadata,
    "palette": facts.palette,
    "poses": facts.poses,
    "sam": facts.sam,
    "structured": structured,
    "vectors": vectors,
    "features": features,
    "crop_settings": crop_settings,
}
