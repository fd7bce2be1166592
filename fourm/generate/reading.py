"""What files and the command line hold, as the model reads it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from fourm.data import decode as decoding
from fourm.data import transforms
from fourm.data.encode import npy
from fourm.data.geometry import Geometry, center_box
from fourm.data.images import open_image
from fourm.data.unpack import read_npy, unzip
from fourm.errors import ConfigError, DataError
from fourm.generate.bundle import Bundle, raw_modality
from fourm.generate.inputs import GivenValue, as_given, find_given, give
from fourm.generate.names import means_tokens
from fourm.modality import Modality
from fourm.rng import generator
from fourm.tokenizers.structured import KINDS
from fourm.tokens import PADDING

_ORIENTATION = 0x0112
_TEXT_FILES = (".txt", ".json", ".gz")
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_JSON = re.compile(r"\s*(\{|\[\s*[\[{\]])")
"""How values with structure begin; a text may begin with `[S_1]`."""
_SHOWN = 200
NPY = b"\x93NUMPY"


def read_given(bundle: Bundle, name: str, text: str) -> GivenValue:
    """A value from the command line: the path of a file, or the text itself.

    Args:
        bundle: model and tokenizers.
        name: of the modality, as written.
        text: behind the `=`.

    Raises:
        ConfigError: if the model cannot read such a thing.
        DataError: if there is no such file, or it is damaged.
    """
    modality, _ = find_given(bundle, name)
    path = Path(text)
    if not modality.is_grid and modality.is_discrete:
        return give(bundle, name, read_text(path, text, modality))
    if not is_file(path):
        raise DataError(f"given {name}: there is no file '{text}'")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"given {name}: cannot read {path}: {error.strerror}") from None
    return read_bytes(bundle, name, data, f"given {name}: {path}")


def is_file(path: Path) -> bool:
    """Whether there is a file of that name, which may be longer than any."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def read_bytes(bundle: Bundle, name: str, data: bytes, where: str) -> GivenValue:
    """A value from the content of a file as data sets hold it.

    Args:
        bundle: model and tokenizers.
        name: of the modality, as written.
        data: the file.
        where: named in errors.

    Raises:
        ConfigError: if the model cannot read such a thing.
        DataError: if it is damaged, or of another kind.
    """
    modality, _ = find_given(bundle, name)
    if not modality.is_grid and modality.is_discrete:
        value = _decode(data, modality, where)
        if modality.decode == "palette":  # one of each size: the finest says most
            value = value[max(value)]
        several = isinstance(value, list) and modality.decode not in KINDS
        return give(bundle, name, value[0] if several and value else value, as_data=True)
    raw = raw_modality(bundle, modality)
    means_ids = modality.tokenizer is not None and (
        modality.name not in bundle.tokenizers or means_tokens(name, modality)
    )
    if data.startswith(NPY) and (means_ids or raw.decode != "features"):
        return give(bundle, name, (_some_ids if means_ids else _natural_units)(data, modality, where))
    if raw.decode == "features" and not means_ids:
        return give(bundle, name, torch.from_numpy(_decode(data, raw, where)[:1]))
    if modality.is_grid and not transforms.is_image(raw):
        raise DataError(
            f"{where}: expected a .npy file with ids, since this model has no tokenizer for '{modality.name}'"
        )
    if modality.is_grid and means_ids:
        raise DataError(f"{where}: '{name}' stands for token ids, a .npy file; give the image as {raw.key}=FILE")
    if not transforms.is_image(raw):
        return give(bundle, name, torch.from_numpy(_decode(data, raw, where))[None])
    return as_given(bundle, name, read_image(data, raw, where)[0])


def _some_ids(data: bytes, modality: Modality, where: str) -> Tensor:
    """(1, N) ids of a token file, of its first crop, or in the shape of the grid; -1 stays where one is missing."""
    ids = _read_array(data, where)
    if ids.shape == (modality.grid.height, modality.grid.width):
        ids = ids.reshape(-1)
    missing = ids == PADDING
    whole = _decode(npy(np.where(missing, 0, ids)), modality, where)[:1]
    return torch.from_numpy(np.where(missing.reshape(-1, whole.shape[1])[:1], PADDING, whole))


def _natural_units(data: bytes, modality: Modality, where: str) -> Tensor:
    """A value of one sample as `give` takes it, with the axis of samples."""
    array = _read_array(data, where)
    try:
        whole = np.issubdtype(array.dtype, np.integer)
        return torch.from_numpy(array.astype(np.int64) if whole else decoding.finite(array))[None]
    except ValueError as error:
        raise DataError(f"{where} is not a .npy array of numbers: {error}") from None


def _read_array(data: bytes, where: str) -> Any:
    try:
        return read_npy(data)
    except ValueError as error:
        raise DataError(f"{where} is not a .npy array of numbers: {error}") from None


def read_image(data: bytes, raw: Modality, where: str) -> tuple[Tensor, tuple[int, int]]:
    """The centre of an image file as a network reads it, (1, C, H, W) or (1, H, W), and the file's height and width.

    Raises:
        DataError: if it is damaged.
    """
    value = _decode(data, raw, where)
    return torch.from_numpy(_crop(value, raw))[None], (value.shape[0], value.shape[1])


def read_text(path: Path, text: str, modality: Modality) -> Any:
    """The text itself, or what the file of that name holds.

    Raises:
        DataError: if it is the name of a file that is not there, or the file is damaged.
    """
    named = path.suffix in _TEXT_FILES and is_file(path)
    if not named and path.suffix in _TEXT_FILES and not re.search(r"\s", text):
        raise DataError(
            f"given {modality.name}: there is no file '{text}'. If it is the text itself, write a space behind it"
        )
    if modality.decode == "boxes":
        if not named and not _JSON.match(text):
            return text
        data = path.read_bytes() if named else text.encode()
        listed = not named and text.lstrip().startswith("[")
        return _decode(b'{"instances": %b}' % data if listed else data, modality, f"given {path}")
    if modality.decode == "palette" and _JSON.match(content := _content(path, text, named)) and "{" in content:
        sizes = _decode(content.encode(), modality, f"given {path}")
        return sizes[max(sizes)]
    if modality.decode in KINDS:
        return _plain_value(path, text, named)
    if not named:
        return text
    value = _decode(path.read_bytes(), modality, f"given {path}")
    return value[0] if isinstance(value, list) else value


def _plain_value(path: Path, text: str, named: bool) -> Any:
    """A value with structure as JSON, or the words that stand for it."""
    content = _content(path, text, named)
    try:
        return json.loads(content) if _JSON.match(content) else content.strip()
    except (ValueError, RecursionError) as error:
        raise DataError(f"given {str(path)[:_SHOWN]}: expected JSON, or words such as v0=1: {error}") from error


def _content(path: Path, text: str, named: bool) -> str:
    try:
        return unzip(path.read_bytes()).decode("utf-8-sig") if named else text
    except (ValueError, OSError) as error:
        raise DataError(f"given {path}: expected JSON, or words such as v0=1: {error}") from error


def _decode(data: bytes, raw: Modality, where: str) -> Any:
    decoder = decoding.decoder_of(raw)
    try:
        return decoder(_upright(data) if raw.decode == "image" else data, raw)
    except Exception as error:  # image libraries raise anything from OSError to SyntaxError on damaged files
        reason = str(error) or type(error).__name__
        if "cannot identify" in reason:
            reason = "this is not an image, or it is damaged"
        raise DataError(f"{where}: cannot read it as {raw.key} ('{raw.decode}'): {reason}") from error


def _upright(data: bytes) -> bytes:
    """A photograph as it is meant to be seen: cameras store how they were held."""
    with open_image(data) as file:
        if file.getexif().get(_ORIENTATION, 1) == 1:
            return data
        return as_png(file)


def as_png(picture: Image.Image) -> bytes:
    """A picture as a file, as it is meant to be seen.

    Raises:
        ValueError: for a picture whose colours Pillow does not know.
    """
    buffer = io.BytesIO()
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "I":
        picture = picture.convert("I;16")
    elif picture.mode not in _PNG_MODES:
        if picture.mode == "F":
            raise ValueError("a picture of mode F, whose numbers have no colour; give them as an array")
        picture = picture.convert("RGB")
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _crop(value: Any, raw: Modality) -> Any:
    """The centre of a decoded image in the size of its modality, normalised."""
    size = value.shape[:2]
    height, width = raw.image_size
    box = Geometry(*center_box(size, width / height), hflip=False, image_size=size)
    return transforms.apply(value, raw, box, generator(0, "generate"))


def parse_given(items: Sequence[str], option: str = "--given", example: str = "rgb=photo.jpg") -> dict[str, str]:
    """`NAME=VALUE` arguments.

    Raises:
        ConfigError: if one has no `=`, or a name comes twice.
    """
    parsed: dict[str, str] = {}
    for item in items:
        name, equals, text = item.partition("=")
        name = name.strip()
        if not equals or not name:
            raise ConfigError(f"{option} '{item}' is not of the form NAME=VALUE, for instance {example}")
        if name in parsed:
            remedy = f"; give a further value a label: '{name}#other=...'" if option == "--given" else ""
            raise ConfigError(f"{option} {name} comes twice{remedy}")
        parsed[name] = text
    return parsed
