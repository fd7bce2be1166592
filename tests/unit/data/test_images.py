"""What a file holds does not choose among all decoders: only formats that run nothing and tell their size are read."""

from __future__ import annotations

import io
import struct
import subprocess
from typing import Any

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError, features

from fourm.data import images
from fourm.data.decode import DECODERS, decode
from fourm.data.images import jpeg_size, open_image
from fourm.errors import DataError
from fourm.layouts import Continuous, Discrete, Grid
from fourm.modality import Modality
from fourm.prepare.labelers.rasters import read
from fourm.prepare.photos.load import load
from fourm.prepare.photos.recipe import ImageConfig
from tests.photographs import bomb, encoded, photograph

EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n"
    b"1 0 0 setrgbcolor 0 0 40 40 rectfill showpage\n%%EOF\n"
)


def icon(content: bytes) -> bytes:
    """An ICO with a png in it, which Pillow decodes as soon as it opens the file."""
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 0, 0, 0, 0, 1, 32, len(content), 22) + content


REFUSED = {
    "EPS": EPS,
    "ICO": icon(bomb(60_000, 60_000)),
    "ICNS": encoded(photograph(0, 128, 128), "ICNS"),
    "PCX": encoded(photograph(0), "PCX"),
    "PSD": b"8BPS\x00\x01" + bytes(40),
    "WMF": b"\xd7\xcd\xc6\x9a\x00\x00" + bytes(40),
}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """See that no program is run."""

    def run(*command: Any, **options: Any) -> None:
        pytest.fail(f"it ran {command}")

    for name in ("Popen", "run", "call", "check_call", "check_output"):
        monkeypatch.setattr(subprocess, name, run)


@pytest.mark.parametrize("name", REFUSED)
def test_other_formats_are_refused_by_name_wherever_images_are_read(name: str) -> None:
    with pytest.raises(DataError, match=f"it holds {name}, .* is not read: only JPEG, PNG, .* Convert it"):
        load(REFUSED[name], "b.jpg", ImageConfig())
    with pytest.raises(DataError, match=f"it holds {name}"):
        read(REFUSED[name], lambda size: None)


@pytest.mark.parametrize(
    "kind", ["image", "normal", "gray", "depth16", "labels", "labels_void_first", "labels_from_one"]
)
def test_training_refuses_them_too(kind: str) -> None:
    assert kind in DECODERS
    content = Discrete(4) if kind.startswith("labels") else Continuous(192)
    modality = Modality("m", Grid(2, 2, 8), content, source="s", decode=kind, direction="input")
    with pytest.raises(DataError, match=r"shard, key '7': cannot read .* it holds EPS"):
        decode(EPS, modality, lambda: "shard, key '7'")


FORMATS = ["JPEG", "MPO", "PNG", "GIF", "WEBP", "TIFF", "BMP", "DIB", "PPM", "JPEG2000", "AVIF", "QOI", "SGI", "TGA"]


@pytest.mark.parametrize("name", FORMATS)
def test_formats_of_photographs_are_read(name: str) -> None:
    if name == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    Image.init()
    if name not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {name}")
    with open_image(encoded(photograph(0), name)) as image:
        image.load()
        assert image.size == (120, 90)


def test_nothing_is_decoded_when_an_image_is_opened() -> None:
    with open_image(bomb(60_000, 1_000)) as image:
        assert image.size == (60_000, 1_000)


@pytest.mark.parametrize("data", [b"", b"words", encoded(photograph(0), "JPEG")[:20], bytes(100)])
def test_what_is_no_image_is_told_as_such(data: bytes) -> None:
    with pytest.raises(UnidentifiedImageError):
        open_image(data)


def test_pillow_alone_would_decode_by_content() -> None:
    """What the list of formats is for."""
    with Image.open(io.BytesIO(EPS)) as image:
        assert image.format == "EPS"


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"comment": b"\xff\xc0" * 9}, {"exif": b"Exif\0\0" + bytes(99)}]
)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_the_size_of_a_jpeg_is_read_without_opening_it(mode: str, options: dict[str, Any]) -> None:
    file = io.BytesIO()
    Image.new(mode, (31, 17)).save(file, "JPEG", **options)
    assert jpeg_size(file.getvalue()) == (17, 31)
    for end in range(0, 200, 7):
        assert jpeg_size(file.getvalue()[:end]) in (None, (17, 31))


def test_other_files_have_no_size_as_a_jpeg() -> None:
    file = io.BytesIO()
    Image.new("RGB", (31, 17)).save(file, "PNG")
    for data in (
        file.getvalue(),
        b"",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\x00" + bytes(99),
        b"\xff\xd8\xff\xda" + bytes(99),
    ):
        assert jpeg_size(data) is None


JPEGS: list[dict[str, Any]] = [
    {"quality": 75},
    {"quality": 95, "subsampling": 0},
    {"quality": 50, "subsampling": 1},
    {"progressive": True},
    {"optimize": True, "exif": b"Exif\0\0" + bytes(99)},
]


@pytest.mark.parametrize("options", JPEGS)
@pytest.mark.parametrize("mode", ["L", "RGB", "YCbCr", "CMYK"])
@pytest.mark.parametrize("fast", [True, False])
def test_pixels_of_a_jpeg_are_those_of_pillow(
    mode: str, options: dict[str, Any], fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shades = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(shades).resize((61, 43), Image.Resampling.BICUBIC).convert(mode).save(file, "JPEG", **options)
    if fast:
        pytest.importorskip("simplejpeg")
    else:
        monkeypatch.setattr(images, "_simplejpeg", lambda: None)
    with Image.open(file) as image:
        expected = np.asarray(image.convert("RGB"))
    found = images.rgb_pixels(file.getvalue())
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def test_a_damaged_jpeg_is_pillows_to_judge() -> None:
    shades = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(shades).save(file, "JPEG")
    whole = file.getvalue()
    with pytest.raises(OSError, match="truncated"):
        images.rgb_pixels(whole[: len(whole) // 2])
    for end in range(2, 700, 13):
        with pytest.raises((OSError, SyntaxError)):
            images.rgb_pixels(whole[:end])


def test_a_jpeg_that_says_it_is_huge_is_refused() -> None:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    data = bytearray(file.getvalue())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(Image.DecompressionBombError):
        images.rgb_pixels(bytes(data))
