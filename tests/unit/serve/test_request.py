"""Every part of a request is checked before work begins."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from typing import Any

import numpy as np
import pytest

from fourm.errors import ConfigError, FourmError
from fourm.serve.fields import Field
from fourm.serve.limits import Limits
from fourm.serve.request import Request, check_request
from tests.unit.serve.conftest import encoded

LIMITS = Limits(upload_bytes=100_000, pixels=10_000, text=50, samples=4)
TARGETS = ["depth", "caption"]


def check(fields: dict[str, Field], given: dict[str, Any], **options: Any) -> Request:
    return check_request(list(fields.values()), TARGETS, LIMITS, given=given, **{"targets": ["depth"], **options})


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def huge_png(width: int, height: int) -> bytes:
    """A png of a few bytes that says it has this many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_good_request_passes_with_what_was_left_empty_left_out(fields: dict[str, Field], photo: bytes) -> None:
    given = {"rgb": photo, "depth": None, "caption": " a bed ", "det": "  "}
    found = check(fields, given, targets=["caption", "depth"], guidance="2.5", num_samples=2.0, seed=7)
    assert found == Request({"rgb": photo, "caption": "a bed"}, ["caption", "depth"], 2.5, 2, 7)


def test_parts_of_images_and_texts_and_the_wish_for_one_answer_pass(fields: dict[str, Field], photo: bytes) -> None:
    given = {"rgb": photo, "caption": "a bed", "det": "v0=0 v1=0 v2=9 v3=9 bed"}
    found = check(fields, given, known={"rgb": photo, "depth": None, "caption": True, "det": False}, ensemble=True)
    assert found.known == {"rgb": photo, "caption": "some"}
    assert found.ensemble
    plain = check(fields, given, known={"rgb": None}, ensemble=None)
    assert (plain.known, plain.ensemble) == ({}, False)


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"rgb": b"no such thing"}, "known rgb: this is not an image, or it is damaged"),
        ({"rgb": "some"}, "known rgb: a value of type str; expected an image file"),
        ({"rgb": True}, "known rgb: a value of type bool; expected an image file"),
        ({"rgb": b"x" * 100_001}, "known rgb: a file of 0.1 MB"),
        ({"rgb": encoded(np.zeros((101, 100), np.uint8))}, "known rgb: .* 0.01 million pixels, found 100 x 101"),
        ({"depth": encoded(np.zeros((9, 9), np.uint8))}, "known depth: .* but none is given"),
        ({"caption": "mask.png"}, "known caption: a value of type str; expected yes or no"),
        ({"caption": b"mask"}, "known caption: a value of type bytes; expected yes or no"),
        ({"det": True}, "known det: .* but none is given"),
        ({"vectors": b"PK"}, "no part of 'vectors' can be known"),
        ({"sound": b"x"}, "no part of 'sound' can be known"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_parts_are_named(fields: dict[str, Field], photo: bytes, known: dict[str, Any], message: str) -> None:
    with pytest.raises(FourmError, match=message):
        check(fields, {"rgb": photo, "caption": "a bed"}, known=known)


@pytest.mark.parametrize("guidance", [None, "", " "])
def test_no_guidance_means_what_suits_the_pair(fields: dict[str, Field], guidance: Any) -> None:
    assert check(fields, {"caption": "a bed"}, guidance=guidance).guidance is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": []}, "choose at least one target"),
        ({"targets": None}, "no list of names"),
        ({"targets": [["depth"]]}, "no list of names"),
        ({"targets": ["dept"]}, "cannot generate 'dept'.*Did you mean 'depth'"),
        ({"targets": ["depth", "depth"]}, "twice"),
        ({"guidance": "strong"}, "guidance is 'strong'; expected a number from -20 to 20"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"guidance": True}, "guidance is True"),
        ({"guidance": 1e9}, "expected a number from -20 to 20"),
        ({"num_samples": 0}, "number of samples is 0; expected a whole number from 1 to 4"),
        ({"num_samples": 5}, "number of samples is 5"),
        ({"num_samples": 1.5}, "number of samples is 1.5"),
        ({"num_samples": float("inf")}, "number of samples is inf"),
        ({"num_samples": None}, "number of samples is None"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1e300}, "seed is 1e"),
        ({"seed": "zero"}, "seed is 'zero'"),
        ({"ensemble": "yes"}, "ensemble is 'yes'; expected yes or no"),
        ({"ensemble": 1}, "ensemble is 1; expected yes or no"),
    ],
)
def test_wrong_settings_are_named(fields: dict[str, Field], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(fields, {"caption": "a bed"}, **options)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "nothing is given: give at least one of rgb"),
        ({"caption": "   "}, "nothing is given"),
        ({"sound": b"x"}, "cannot read 'sound'"),
        ({"caption": "x" * 51}, "51 characters; expected at most 50"),
        ({"caption": "a\x00bed"}, "control characters"),
        ({"caption": "a \ud800 bed"}, "control characters"),
        ({"caption": 7}, "type int; expected text"),
        ({"rgb": "/etc/passwd"}, "type str; expected a file"),
        ({"rgb": {"path": "/etc/passwd"}}, "type dict; expected a file"),
        ({"rgb": b""}, "not an image, or it is damaged"),
        ({"rgb": b"no such thing"}, "not an image, or it is damaged"),
        ({"rgb": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}, "not an image, or it is damaged"),
        ({"rgb": b"x" * 100_001}, "a file of 0.1 MB; expected at most 0.09"),
        ({"rgb": encoded(np.zeros((101, 100, 3), np.uint8))}, "0.01 million pixels, found 100 x 101"),
        ({"rgb": huge_png(60_000, 60_000)}, "the image is too large"),
        ({"tok_rgb@16": b"0123"}, "expected a .npy file"),
        ({"tok_rgb@16": npy(np.zeros(16))[:150]}, "the array says it is .16,., but the file ends before"),
        ({"tok_rgb@16": b"\x93NUMPY\x01\x00\x02\x00{}"}, "damaged"),
        ({"vectors": b"PK\x03\x04 and nothing more"}, "damaged"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_wrong_values_are_named(fields: dict[str, Field], given: dict[str, Any], message: str) -> None:
    with pytest.raises(FourmError, match=message):
        check(fields, given)


def test_a_small_archive_that_unpacks_to_much_is_refused(fields: dict[str, Field]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("emb.npy", bytes(200_000))
    assert len(buffer.getvalue()) < 1000
    with pytest.raises(FourmError, match="when unpacked"):
        check(fields, {"vectors": buffer.getvalue()})


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_usual_formats_are_read(fields: dict[str, Field], kind: str) -> None:
    assert check(fields, {"rgb": encoded(np.zeros((8, 8, 3), np.uint8), kind)}).given


def test_limits_are_at_least_one() -> None:
    with pytest.raises(ConfigError, match="limit pixels is 0"):
        Limits(pixels=0)
