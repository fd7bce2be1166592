"""A small file never fills the memory, whatever it says of its size."""

from __future__ import annotations

import gzip
import io
import tracemalloc
import zipfile
from collections.abc import Iterator

import numpy as np
import pytest

from fourm.data.unpack import LARGEST, read_npy, read_npz, unzip


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    """See that no test takes much more than the limit."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * LARGEST


def npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version, allow_pickle=False)
    return buffer.getvalue()


def header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def packed(size: int) -> bytes:
    """Zeros, gzipped, without that anything large is made."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1) as file:
        for start in range(0, size, 2**20):
            file.write(bytes(min(2**20, size - start)))
    return buffer.getvalue()


def npz(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def test_files_may_be_gzipped_or_not() -> None:
    assert unzip(b"words") == b"words"
    assert unzip(gzip.compress(b"words")) == b"words"
    assert unzip(gzip.compress(b"some ") + gzip.compress(b"words") + bytes(9)) == b"some words"
    assert unzip(gzip.compress(b"")) == b""


def test_a_gzipped_file_ends_at_the_limit() -> None:
    assert len(unzip(packed(LARGEST))) == LARGEST
    for more in (packed(LARGEST + 1), packed(LARGEST) + packed(1), packed(8 * LARGEST)):
        with pytest.raises(ValueError, match="unpacks to more than 67,108,864 bytes"):
            unzip(more)


@pytest.mark.parametrize("change", ["cut", "flip", "header"])
def test_damaged_gzip_files_are_told(change: str) -> None:
    whole = gzip.compress(b"words " * 99)
    flipped = bytearray(whole)
    flipped[-6] ^= 1
    damaged = {"cut": whole[:-9], "flip": bytes(flipped), "header": whole[:3]}[change]
    with pytest.raises(ValueError, match="damaged gzip file"):
        unzip(damaged)


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back(version: tuple[int, int], order: str) -> None:
    array = np.asarray(np.arange(12, dtype=np.int16).reshape(3, 4), order=order)
    np.testing.assert_array_equal(read_npy(npy(array, version)), array)
    assert read_npy(npy(np.zeros((0, 3)), version)).shape == (0, 3)
    assert read_npy(npy(np.array(7), version)) == 7


@pytest.mark.parametrize("shape", [(2**59,), (2**61,), (2**40, 2**40), (3,), (2**62, 4), (-1, 2), (-1, -1)])
def test_a_header_cannot_ask_for_more_than_the_file_has(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="damaged npy file: its header tells of float64"):
        read_npy(header(shape) + bytes(16))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an npy file"),
        (b"PK", "not an npy file"),
        (b"\x93NUMPY", "version"),
        (b"\x93NUMPY\x09\x00", "version"),
        (header((2,))[:40], "its header alone"),
    ],
)
def test_what_is_no_array_is_told(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_npy(data)


def test_the_arrays_that_are_asked_for_are_read() -> None:
    data = npz(("a.npy", npy(np.arange(3))), ("b.npy", npy(np.ones(2))), ("large.npy", bytes(2 * LARGEST)))
    found = read_npz(data, ("a", "b", "c"))
    assert {name: array.tolist() for name, array in found.items()} == {"a": [0, 1, 2], "b": [1, 1]}


def test_members_that_unpack_to_too_much_are_not_unpacked() -> None:
    half = npy(np.zeros(LARGEST // 2, np.uint8))
    for members in ([("a.npy", bytes(LARGEST + 1))], [("a.npy", half), ("b.npy", half)]):
        data = npz(*members)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        with pytest.raises(ValueError, match="its arrays unpack to 67,1.* bytes, more than 67,108,864"):
            read_npz(data)
        assert tracemalloc.get_traced_memory()[1] - before < 2**20


def test_a_member_that_lies_about_its_size_is_not_unpacked_either() -> None:
    data = bytearray(npz(("a.npy", bytes(8 * LARGEST))))
    entry = data.index(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (1000).to_bytes(4, "little")
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    with pytest.raises(ValueError, match="damaged npz file|not an npy file"):
        read_npz(bytes(data))
    assert tracemalloc.get_traced_memory()[1] - before < 2**22


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_only_numpys_ways_of_packing_are_read(method: int) -> None:
    with pytest.raises(ValueError, match="numpy does not use"):
        read_npz(npz(("a.npy", npy(np.ones(2))), method=method))


def test_damaged_npz_files_are_told() -> None:
    whole = npz(("a.npy", npy(np.arange(99))))
    flipped = bytearray(whole)
    flipped[60] ^= 255
    for damaged in (whole[:-9], bytes(flipped), b"PK"):
        with pytest.raises(ValueError, match="damaged npz file"):
            read_npz(damaged)
