"""Photographs and files that are none, made for tests."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from fourm.rng import generator

Corpus = dict[str, str]
"""File -> words that the reason of its rejection holds."""


def photograph(seed: int, width: int = 120, height: int = 90) -> Image.Image:
    """A picture with smooth colours and a sharp rectangle, different for every seed."""
    rng = generator("photograph", seed)
    coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    x, y = int(rng.integers(width // 2)), int(rng.integers(height // 2))
    image.paste(tuple(int(c) for c in rng.integers(0, 256, 3)), (x, y, x + width // 4, y + height // 4))
    return image


def quadrants(width: int = 80, height: int = 60) -> Image.Image:
    """Red, green, blue and white quarters: which is where tells how a picture was turned."""
    image = Image.new("RGB", (width, height), (255, 255, 255))
    for place, color in {(0, 0): (255, 0, 0), (1, 0): (0, 255, 0), (0, 1): (0, 0, 255)}.items():
        image.paste(
            color,
            (place[0] * width // 2, place[1] * height // 2, (place[0] + 1) * width // 2, (place[1] + 1) * height // 2),
        )
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """An image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def save_photographs(folder: Path, count: int, **sizes: int) -> list[str]:
    """Write plain photographs, some of them in a subfolder, and give their names."""
    names = [f"{'trip/' if n % 3 == 0 else ''}photo-{n:03d}.{'png' if n % 4 == 0 else 'jpg'}" for n in range(count)]
    for n, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        photograph(n, **sizes).save(folder / name)
    return sorted(names)


def broken(folder: Path) -> Corpus:
    """Write every kind of file that cannot become a photograph; two good ones are named like some of them."""
    whole_jpg, whole_png = encoded(photograph(900), "JPEG"), encoded(photograph(901))
    flipped = bytearray(whole_png)
    flipped[len(flipped) // 2] ^= 0xFF
    files: dict[str, tuple[bytes, str]] = {
        "zero.jpg": (b"", "empty"),
        "truncated.jpg": (whole_jpg[: len(whole_jpg) // 2], "truncated"),
        "cut.png": (whole_png[: len(whole_png) // 2], "damaged"),
        "header only.jpg": (whole_jpg[:20], "not an image"),
        "corrupt.png": (bytes(flipped), "damaged"),
        "noise.jpg": (generator("noise").bytes(5000), "not an image"),
        "page.html.jpg": (b"<html><body>404 Not Found</body></html>", "not an image"),
        "notes.txt": (b"these are words", "not an image"),
        "archive.zip": (b"PK\x03\x04" + bytes(100), "not an image"),
        "bomb.png": (bomb(60_000, 60_000), "max_pixels"),
        "tiny.png": (encoded(photograph(902, 5, 4)), "min_side"),
        "float.tif": (encoded(Image.fromarray(np.zeros((40, 40), np.float32)), "TIFF"), "fractions"),
        "truncated.gif": (encoded(photograph(903), "GIF")[:900], "damaged"),
        "deep/twin.png": (whole_png, "named like deep/twin.jpg"),
        "deep/other.json": (b"{}", "not an image"),
    }
    (folder / "deep").mkdir(parents=True, exist_ok=True)
    (folder / "deep" / "twin.jpg").write_bytes(encoded(photograph(904), "JPEG"))
    (folder / "deep" / "other.png").write_bytes(encoded(photograph(905)))
    for name, (content, _) in files.items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "circle.jpg").symlink_to(folder / "circle.jpg")
    return {name: reason for name, (_, reason) in files.items()} | {
        "pipe.jpg": "regular file",
        "gone.jpg": "No such file",
        "circle.jpg": "symbolic links",
    }


def unusual(folder: Path) -> Corpus:
    """Write files that are photographs, but not plain ones. What is told of each."""
    folder.mkdir(parents=True, exist_ok=True)
    photo = photograph(910)
    exif = Image.Exif()
    exif[0x0112] = 6
    quadrants().transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg", exif=exif, quality=95)
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    ramp = np.linspace(0, 65535, 120 * 90).reshape(90, 120).astype(np.uint16)
    Image.fromarray(ramp).save(folder / "sixteen.png")
    frames = [photograph(n) for n in range(3)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    return {
        "turned.jpg": "turned upright",
        "cmyk.jpg": "CMYK",
        "sixteen.png": "16 bits",
        "moving.gif": "animated",
    }


def odd_names(folder: Path) -> list[str]:
    """Write good photographs under names that trip programs."""
    names = [
        "with spaces.jpg", "ünïcödé 写真.jpg", "two.dots.in.it.jpg", "-rf.jpg", "semi;colon & $HOME.jpg",
        "new\nline.jpg", "UPPER.JPG", "no_ending", "a" * 200 + ".jpg", "quote'\".jpg",
        "%2e%2e%2fetc.jpg", "back\\slash.jpg", "{brace}.jpg", os.fsdecode(b"latin-\xe9.jpg"),
    ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for n, name in enumerate(names):
        (folder / name).write_bytes(encoded(photograph(920 + n), "JPEG"))
    return names


def bomb(width: int, height: int) -> bytes:
    """A small png that says it is huge, and holds a thousand bytes of zeros instead of so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
