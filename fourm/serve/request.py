"""What a browser, or anything else that speaks to the page, asks for: every part is checked before work begins."""

from __future__ import annotations

import io
import math
import unicodedata
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from fourm.errors import ConfigError, DataError, FourmError, did_you_mean
from fourm.generate.natural import SOME
from fourm.serve.fields import Field
from fourm.serve.limits import Limits

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""Formats of images that are read. Others of the image library start programs, or have readers that few look after."""
_NPY, _ZIP = b"\x93NUMPY", b"PK"
_NO_TEXT = ("Cc", "Cs")
"""Unicode's control characters, and halves of pairs."""
_LARGEST_SEED = 2**53
"""JSON holds larger whole numbers inexactly."""
_STRONGEST_GUIDANCE = 20.0


@dataclass(frozen=True)
class Request:
    """One order.

    Args:
        given: name -> bytes of a file, or a text.
        targets: names, in the order to generate.
        guidance: weight of guidance in every step; None: what suits the pair.
        num_samples: answers.
        seed: of all answers.
        known: name -> the file of a mask, white where the given image counts; or `some`, of a text.
        ensemble: one answer made of all.
    """

    given: dict[str, bytes | str]
    targets: list[str]
    guidance: float | None = None
    num_samples: int = 1
    seed: int = 0
    known: dict[str, bytes | str] = field(default_factory=dict)
    ensemble: bool = False


def check_request(
    fields: Sequence[Field],
    known_targets: Sequence[str],
    limits: Limits,
    *,
    given: Mapping[str, Any],
    targets: Any,
    guidance: Any = None,
    num_samples: Any = 1,
    seed: Any = 0,
    known: Mapping[str, Any] | None = None,
    ensemble: Any = False,
) -> Request:
    """A request from values of unknown origin.

    Args:
        fields: what can be given.
        known_targets: what can be generated.
        limits: the most of everything.
        given: name -> bytes, text, or None where nothing is given.
        targets: list of names.
        guidance: number, or text that holds one; None or empty: what suits the pair.
        num_samples, seed: whole numbers.
        known: name -> bytes of a mask, True for the part of a text that is some, or None or False: all of it.
        ensemble: True or False.

    Raises:
        ConfigError: for names and numbers that are wrong.
        DataError: for files and texts that are too large or of another kind.
    """
    by_name = {field.name: field for field in fields}
    entries: dict[str, bytes | str] = {}
    for name, value in given.items():
        if name not in by_name:
            raise ConfigError(f"this model cannot read '{name:.60}'.{did_you_mean(name, by_name)}")
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        entries[name] = (
            check_text(f"given {name}", value, limits) if by_name[name].is_text else _file(by_name[name], value, limits)
        )
    if not entries:
        raise ConfigError(f"nothing is given: give at least one of {', '.join(by_name)}")
    return Request(
        entries,
        _targets(targets, known_targets),
        _guidance(guidance),
        whole("the number of samples", num_samples, 1, limits.samples),
        check_seed(seed),
        _known(known or {}, entries, by_name, limits),
        yes_or_no("ensemble", ensemble),
    )


def check_image(where: str, data: bytes, limits: Limits) -> None:
    """Refuse what is no image, and an image that would fill the memory, before any pixel is decoded.

    Raises:
        DataError: if it is one of these.
    """
    too_large = f"{where}: the image is too large; expected at most {limits.pixels / 1e6:g} million pixels"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_FORMATS) as file:
                width, height = file.size
    except Image.DecompressionBombError:
        raise DataError(too_large) from None
    except Exception as error:  # image libraries raise anything from OSError to SyntaxError on damaged files
        raise DataError(
            f"{where}: this is not an image, or it is damaged; expected {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}"
        ) from error
    if width * height > limits.pixels:
        raise DataError(f"{too_large}, found {width} x {height}")


def _file(field: Field, value: Any, limits: Limits) -> bytes:
    where = f"given {field.name}"
    if not isinstance(value, bytes):
        raise DataError(f"{where}: a value of type {type(value).__name__}; expected a file: {field.hint}")
    if len(value) > limits.upload_bytes:
        raise DataError(
            f"{where}: a file of {len(value) / 2**20:.1f} MB; expected at most {limits.upload_bytes / 2**20:g} MB"
        )
    if field.is_image and not value.startswith(_NPY):
        check_image(where, value, limits)
    else:
        _check_arrays(where, value, field, limits)
    return value


def _check_arrays(where: str, data: bytes, field: Field, limits: Limits) -> None:
    """Arrays are as long as they say, and are not packed so that little becomes much."""
    try:
        if data.startswith(_ZIP):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if sum(member.file_size for member in archive.infolist()) > limits.upload_bytes:
                    raise DataError(f"{where}: more than {limits.upload_bytes / 2**20:g} MB when unpacked")
        elif data.startswith(_NPY):
            stream = io.BytesIO(data)
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
            if math.prod(shape) * dtype.itemsize > len(data) - stream.tell():
                raise DataError(f"{where}: the array says it is {shape}, but the file ends before")
        else:
            raise DataError(f"{where}: expected {field.hint}")
    except FourmError:
        raise
    except Exception as error:  # whatever a made-up header leads to
        raise DataError(f"{where}: the file is damaged; expected {field.hint}") from error


def check_text(where: str, value: Any, limits: Limits) -> str:
    """A text without what is around it.

    Raises:
        DataError: if it is none, too long, or holds control characters.
    """
    if not isinstance(value, str):
        raise DataError(f"{where}: a value of type {type(value).__name__}; expected text")
    if len(value) > limits.text:
        raise DataError(f"{where}: {len(value)} characters; expected at most {limits.text}")
    if any(unicodedata.category(character) in _NO_TEXT and not character.isspace() for character in value):
        raise DataError(f"{where}: the text holds control characters; remove them")
    return value.strip()


def _known(
    known: Mapping[str, Any], given: Mapping[str, Any], fields: Mapping[str, Field], limits: Limits
) -> dict[str, bytes | str]:
    """The parts of what is given that count."""
    parts: dict[str, bytes | str] = {}
    for name, value in known.items():
        if name not in fields or not fields[name].is_partial:
            raise ConfigError(f"no part of '{name:.60}' can be known; leave its mask out")
        if value is None or value is False:
            continue
        if name not in given:
            raise ConfigError(f"known {name}: this says which part of the given {name} counts, but none is given")
        if fields[name].is_text:
            if value is not True:
                raise DataError(f"known {name}: a value of type {type(value).__name__}; expected yes or no")
            parts[name] = SOME
            continue
        if not isinstance(value, bytes):
            raise DataError(f"known {name}: a value of type {type(value).__name__}; expected an image file")
        if len(value) > limits.upload_bytes:
            raise DataError(
                f"known {name}: a file of {len(value) / 2**20:.1f} MB; expected at most "
                f"{limits.upload_bytes / 2**20:g} MB"
            )
        check_image(f"known {name}", value, limits)
        parts[name] = value
    return parts


def yes_or_no(what: str, value: Any) -> bool:
    """True or False; None is False.

    Raises:
        ConfigError: if it is none of these.
    """
    if value is not None and not isinstance(value, bool):
        raise ConfigError(f"{what} is {value!r:.40}; expected yes or no")
    return bool(value)


def _targets(value: Any, known: Sequence[str]) -> list[str]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ConfigError("the targets are no list of names")
    if not names:
        raise ConfigError("there is nothing to generate: choose at least one target")
    for name in names:
        if name not in known:
            raise ConfigError(f"this model cannot generate '{name:.60}'.{did_you_mean(name[:60], known)}")
    if len(set(names)) < len(names):
        raise ConfigError("a target was chosen twice; every target may appear once")
    return list(names)


def _guidance(value: Any) -> float | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        weight = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        weight = math.nan
    if not abs(weight) <= _STRONGEST_GUIDANCE:
        most = f"{_STRONGEST_GUIDANCE:g}"
        raise ConfigError(
            f"guidance is {value!r:.40}; expected a number from -{most} to {most}, or nothing for what suits the pair"
        )
    return weight


def check_seed(value: Any) -> int:
    """A seed."""
    return whole("the seed", value, 0, _LARGEST_SEED)


def whole(what: str, value: Any, low: int, high: int) -> int:
    """A whole number within bounds.

    Raises:
        ConfigError: if it is none.
    """
    is_whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
    if not is_whole or not low <= value <= high:
        raise ConfigError(f"{what} is {value!r:.40}; expected a whole number from {low} to {high}")
    return int(value)
