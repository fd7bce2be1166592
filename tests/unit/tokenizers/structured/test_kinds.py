"""The table of structured kinds: what the rest of the code asks by the `decode` of a modality."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from fourm import catalog
from fourm.data.decode import DECODERS
from fourm.errors import ConfigError
from fourm.tokenizers.structured import KINDS

BOX = {"boxes": [0.0, 0.0, 1.0, 1.0], "class_name": "bed", "score": 1.0}
VALUES: dict[str, Any] = {
    "boxes": [BOX],
    "metadata": {"n_humans": 3},
    "palette": [(1, 2, 3)],
    "poses": [{"bbox": (0.0, 0.0, 1.0, 1.0)}],
    "sam": [{"point": (0.5, 0.5), "instances": []}],
}


def test_every_kind_is_a_file_format_too() -> None:
    assert set(KINDS) == set(VALUES) <= set(DECODERS)


def test_every_structured_modality_of_the_catalog_is_read_by_its_kind() -> None:
    found = {m.name: m.decode for m in catalog.MODALITIES.values() if m.decode in KINDS}
    assert found == {
        "det": "boxes", "metadata": "metadata", "human_poses": "poses", "color_palette": "palette",
        "sam_instance": "sam",
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_one_value_goes_through_the_table_and_back(kind: str) -> None:
    text = KINDS[kind].to_text(VALUES[kind], 1000, None)
    assert KINDS[kind].from_text(text if isinstance(text, str) else " ".join(text), 1000, ()) == VALUES[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_one_value_is_told_from_a_list_of_them(kind: str) -> None:
    assert KINDS[kind].is_value(VALUES[kind])
    assert not KINDS[kind].is_value([VALUES[kind]] * 2)
    assert not KINDS[kind].is_value(["some text"])


@pytest.mark.parametrize(("kind", "least"), [("boxes", 2), ("metadata", 50), ("palette", 256), ("poses", 512)])
def test_a_tokenizer_with_too_few_numbers_is_refused(kind: str, least: int) -> None:
    KINDS[kind].check_bins("m", least)
    with pytest.raises(ConfigError, match=f"'m'.*v0={least - 2}; expected at least {least}.*num_coordinates"):
        KINDS[kind].check_bins("m", least - 1)


def test_the_table_needs_no_torch() -> None:
    code = "import sys, fourm.tokenizers.structured; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
