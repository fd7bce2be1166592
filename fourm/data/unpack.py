"""Packed files and arrays, whose word on how large they are is not taken: a small file never fills the memory."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Collection
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = 2**26
"""Bytes that one packed file may have after unpacking."""
NPY = b"\x93NUMPY"
GZIP = b"\x1f\x8b"
_LENGTHS = {b"\x01\x00": 2, b"\x02\x00": 4}
"""Version of npy -> bytes that hold the length of its header."""


def unzip(data: bytes) -> bytes:
    """The content of a file that may be gzipped.

    Raises:
        ValueError: if it is damaged, or larger than `LARGEST`.
    """
    if data[:2] != GZIP:
        return data
    parts, left = [], LARGEST
    while data:  # several of them in a row are one, too
        unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        try:
            parts.append(unpacker.decompress(data, left + 1))
        except zlib.error as error:
            raise ValueError(f"damaged gzip file: {error}") from None
        left -= len(parts[-1])
        if left < 0:
            raise ValueError(f"it unpacks to more than {LARGEST:,} bytes, which no file of one sample has")
        if not unpacker.eof:
            raise ValueError("damaged gzip file: it ends too early")
        data = unpacker.unused_data.lstrip(b"\0")
    return b"".join(parts)


def read_npy(data: bytes) -> NDArray[Any]:
    """`np.load` without pickles, of numbers that are there: a header cannot ask for more memory than the file has.

    Four times as fast, since the files of a source mostly have the same header.

    Returns:
        an array that is not writable.

    Raises:
        ValueError: if it is no such file, cut off, or holds objects.
    """
    if data[:6] != NPY:
        raise ValueError(f"not an npy file: it begins with {data[:8]!r}")
    length = _LENGTHS.get(data[6:8])
    if length is None:
        raise ValueError(f"an npy file of version {data[6:8]!r}; expected 1.0 or 2.0, as `np.save` writes numbers")
    end = 8 + length + int.from_bytes(data[8 : 8 + length], "little")
    if len(data) < end:
        raise ValueError(f"damaged npy file: {len(data)} bytes, its header alone has {end}")
    shape, fortran, dtype = _npy_header(data[:end])
    if dtype.hasobject:
        raise ValueError("the array holds pickled objects, which are never loaded (allow_pickle=False)")
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or size > len(data) - end:
        raise ValueError(
            f"damaged npy file: its header tells of {dtype} with shape {shape}, {size:,} bytes, and "
            f"{len(data) - end:,} follow"
        )
    return np.frombuffer(data, dtype, math.prod(shape), end).reshape(shape, order="F" if fortran else "C")


@lru_cache(maxsize=1024)
def _npy_header(start: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    read = np.lib.format.read_array_header_1_0 if start[6] == 1 else np.lib.format.read_array_header_2_0
    return read(io.BytesIO(start[8:]))


def read_npz(data: bytes, names: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """Arrays of an npz file.

    Args:
        data: the file.
        names: those to read, as far as it has them; None: all.

    Raises:
        ValueError: if it is damaged, unpacks to more than `LARGEST`, or one of them is no array of numbers.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = {name: info for name, info in found.items() if names is None or name in names}
            size = sum(info.file_size for info in wanted.values())
            if size > LARGEST:
                raise ValueError(
                    f"its arrays unpack to {size:,} bytes, more than {LARGEST:,}, which no file of one sample has; a "
                    "larger array can be stored as npy"
                )
            return {name: read_npy(_member(archive, info)) for name, info in wanted.items()}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"damaged npz file: {error}") from None


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member, and never more than its header says: read without a size, a lie would be unpacked before it is cut."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{info.filename} is packed in a way that numpy does not use")
    with archive.open(info) as file:
        return file.read(info.file_size)
