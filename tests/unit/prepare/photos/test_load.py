"""What becomes of one file: an upright sRGB photograph, or the reason why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fourm.errors import DataError
from fourm.prepare.photos.load import load
from fourm.prepare.photos.recipe import ImageConfig
from tests.photographs import bomb, encoded, photograph, quadrants, unusual

KEEP = ImageConfig(size=0)


def corners(image: Image.Image) -> list[str]:
    """Colours of the four quarters, in reading order."""
    width, height = image.size
    places = [(width // 4 + x * width // 2, height // 4 + y * height // 2) for y in (0, 1) for x in (0, 1)]
    names = {(1, 0, 0): "red", (0, 1, 0): "green", (0, 0, 1): "blue", (1, 1, 1): "white"}
    return [names[tuple(int(v > 127) for v in image.getpixel(place))] for place in places]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [0, 32])
def test_every_orientation_becomes_upright(orientation: int, size: int) -> None:
    # What a camera stores when it is held so that its picture has to be shown with this orientation.
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = quadrants().transpose(undo[orientation]) if orientation in undo else quadrants()
    exif = Image.Exif()
    exif[0x0112] = orientation
    loaded = load(encoded(stored, "JPEG", exif=exif, quality=95), "x.jpg", ImageConfig(size=size))
    assert corners(loaded.image) == ["red", "green", "blue", "white"]
    assert (loaded.origin.width, loaded.origin.height) == (80, 60)
    assert loaded.image.size == ((80, 60) if not size else (43, 32))
    assert bool(loaded.origin.notes) == (orientation != 1)


def test_the_shorter_side_gets_the_size_and_small_photographs_stay() -> None:
    assert load(encoded(photograph(0, 400, 300)), "x", ImageConfig(size=100)).image.size == (133, 100)
    assert load(encoded(photograph(0, 90, 300)), "x", ImageConfig(size=100)).image.size == (90, 300)


def test_a_large_jpeg_looks_as_if_it_was_decoded_whole() -> None:
    large = photograph(1, 1600, 1200)
    loaded = load(encoded(large, "JPEG", quality=95), "x", ImageConfig(size=150))
    expected = np.asarray(large.resize((200, 150), Image.Resampling.BICUBIC), float)
    assert loaded.image.size == (200, 150)
    assert np.abs(np.asarray(loaded.image, float) - expected).mean() < 2


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 80 * 60).reshape(60, 80).astype(np.uint16)
    grey = np.asarray(load(encoded(Image.fromarray(ramp)), "x", KEEP).image)[..., 0]
    assert np.abs(grey.astype(int) - np.rint(ramp / 257)).max() <= 1


def test_cmyk_keeps_its_colours() -> None:
    data = encoded(Image.new("RGB", (40, 40), (200, 40, 90)).convert("CMYK"), "JPEG", quality=95)
    color = np.asarray(load(data, "x", KEEP).image)[20, 20].astype(int)
    assert np.abs(color - (200, 40, 90)).max() < 12


def test_transparency_becomes_alpha_and_background() -> None:
    cut = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    cut.paste((255, 0, 0, 255), (10, 10, 30, 20))
    loaded = load(encoded(cut), "x", KEEP)
    assert loaded.alpha is not None
    assert loaded.alpha[15, 20] == 255
    assert loaded.alpha[0, 0] == 0
    assert loaded.image.getpixel((0, 0)) == (255, 255, 255)
    assert loaded.image.getpixel((20, 15)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA", "YCbCr"])
def test_every_common_mode_becomes_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "YCbCr" else "PNG"
    loaded = load(encoded(photograph(3).convert(mode), kind), "x", KEEP)
    assert loaded.image.mode == "RGB"
    assert loaded.alpha is None


def test_palettes_with_a_transparent_color() -> None:
    image = quadrants().convert("P", palette=Image.Palette.ADAPTIVE)
    clear = image.getpixel((0, 0))
    loaded = load(encoded(image, "PNG", transparency=clear), "x", KEEP)
    assert loaded.alpha is not None
    assert loaded.image.getpixel((5, 5)) == (255, 255, 255)
    assert corners(loaded.image)[1:] == ["green", "blue", "white"]


def test_unusual_files_are_converted_or_rejected(tmp_path: Path) -> None:
    for name, words in unusual(tmp_path).items():
        data = (tmp_path / name).read_bytes()
        assert words in " ".join(load(data, name, KEEP).origin.notes)
        if name != "turned.jpg":
            with pytest.raises(DataError, match=words):
                load(data, name, ImageConfig(unusual="reject"))


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(DataError, match="max_pixels"):
        load(bomb(60_000, 60_000), "x", KEEP)
    with pytest.raises(DataError, match="max_pixels"):  # also when less than what the library refuses
        load(encoded(photograph(0, 200, 200)), "x", ImageConfig(max_pixels=100))
