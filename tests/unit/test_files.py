from __future__ import annotations

import os
from pathlib import Path

import pytest

from fourm.files import publish, replacing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("content", [b"bytes", "täxt"])
def test_a_published_file_has_its_content_and_leaves_nothing_else(tmp_path: Path, content: bytes | str) -> None:
    publish(tmp_path / "a" / "b.json", content)
    assert (tmp_path / "a" / "b.json").read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert names(tmp_path / "a") == ["b.json"]


def test_until_the_block_ends_the_old_file_stands(tmp_path: Path) -> None:
    path = tmp_path / "b"
    publish(path, "old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.name.startswith(".")
    assert path.read_text() == "new"


def test_a_failing_block_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    publish(tmp_path / "b", "old")
    with pytest.raises(UnicodeEncodeError), replacing(tmp_path / "b") as temporary:
        temporary.write_text("half \ud800")
    assert (tmp_path / "b").read_text() == "old"
    assert names(tmp_path) == ["b"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "b", "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        publish(tmp_path / "b", "new")
    assert (tmp_path / "b").read_text() == "old"
    assert names(tmp_path) == ["b"]
