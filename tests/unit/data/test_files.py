from __future__ import annotations

import os
from pathlib import Path

import pytest

from fourm.data.files import publish
from fourm.errors import DataError


def test_a_published_file_has_its_content_and_leaves_nothing_else(tmp_path: Path) -> None:
    publish(tmp_path / "a" / "b.json", b"content")
    assert (tmp_path / "a" / "b.json").read_bytes() == b"content"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.json"]


def test_a_full_disk_keeps_the_old_file_and_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "b.json", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"b\.json: No space left on device.*free disk space"):
        publish(tmp_path / "b.json", b"new")
    assert (tmp_path / "b.json").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["b.json"]
