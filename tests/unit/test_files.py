from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fourm.files import is_leftover, publish, replacing


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


def test_leftovers_are_those_of_processes_that_have_ended(tmp_path: Path) -> None:
    def named(pid: int) -> Path:
        return tmp_path / f".shard-00000.tar.{pid}-0123abcd.tmp"

    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert not is_leftover(named(process.pid))
        process.kill()
        for _ in range(500):  # it has ended, but was not waited for yet
            if is_leftover(named(process.pid)):
                break
            time.sleep(0.01)
        assert is_leftover(named(process.pid))
    assert is_leftover(named(process.pid))
    assert is_leftover(named(os.getpid()))  # of an earlier process of this number, or an earlier try of this one
    assert is_leftover(tmp_path / ".of-no-process.tmp")
