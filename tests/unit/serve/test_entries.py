"""What the components of the page hold, as a request holds it."""

from __future__ import annotations

import numpy as np
import pytest

from fourm.errors import DataError
from fourm.serve.fields import Field
from fourm.serve.limits import Limits
from tests.unit.serve.conftest import encoded

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'fourm[serve]'")

from fourm.serve.entries import Entry, read_entries

OPAQUE = encoded(np.full((4, 4, 4), 255, np.uint8))
HALF = encoded(np.where(np.arange(4) < 2, 255, 0).astype(np.uint8)[None, :, None].repeat(4, 0).repeat(4, 2))
ROLES = ["", "_drawing", "_painting", "_known"]


def read(fields: dict[str, Field], **values: object) -> tuple[dict[str, object], dict[str, object]]:
    entries = [Entry(fields["rgb"], role, None) for role in ROLES]
    return read_entries(entries, [values.get(role.strip("_") or "upload") for role in ROLES], Limits())


def test_an_upload_and_its_mask_pass_as_they_are(fields: dict[str, Field]) -> None:
    assert read(fields, upload=b"photo", known=b"mask") == ({"rgb": b"photo"}, {"rgb": b"mask"})
    assert read(fields) == ({}, {})
    assert read(fields, painting=(None, None)) == ({}, {})


def test_a_painting_is_an_image_and_its_mask(fields: dict[str, Field]) -> None:
    given, known = read(fields, painting=(OPAQUE, HALF))
    assert list(given) == list(known) == ["rgb"]
    given, known = read(fields, painting=(OPAQUE, None))
    assert (list(given), known) == (["rgb"], {})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"upload": b"photo", "drawing": HALF}, "given rgb: there are a file and a drawing"),
        ({"upload": b"photo", "painting": (OPAQUE, HALF)}, "given rgb: there are a file and a drawing"),
        ({"known": b"mask", "painting": (OPAQUE, HALF)}, "known rgb: there are a file and a drawing"),
    ],
)
def test_one_thing_in_two_ways_is_refused(values: dict[str, object], message: str, fields: dict[str, Field]) -> None:
    with pytest.raises(DataError, match=message):
        read(fields, **values)
