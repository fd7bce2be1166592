"""Photographs at URLs: folders and tars, and what happens where the network fails."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from fourm.data import remote
from fourm.data.remote import RemoteFile, attempt, filesystem
from fourm.data.source import open_source
from fourm.errors import ConfigError, DataError
from fourm.prepare.photos.job import prepare_photos
from fourm.prepare.photos.record import Rejected
from tests.unit.prepare.photos.test_inputs_tars import photo, tar_bytes
from tests.unit.prepare.photos.test_job import recipe


class Flaky(MemoryFileSystem):
    """Files in memory behind a network that breaks when it is told to."""

    protocol = "flaky"
    breaks = 0
    opened = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("flaky://", "memory://")))

    def _open(self, path: str, *args: Any, **options: Any) -> Any:
        type(self).opened += 1
        return Breaking(super()._open(path, *args, **options).getvalue())


class Breaking(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        if Flaky.breaks > 0:
            Flaky.breaks -= 1
            raise RuntimeError("connection reset")
        return super().read(size)


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryFileSystem]:
    monkeypatch.setattr(remote, "_WAITS", (0.0, 0.0, 0.0))
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    Flaky.breaks = Flaky.opened = 0
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def run(url: str, out: Path, **options: Any) -> list[Rejected]:
    return prepare_photos(recipe(Path(), out, input=url, **options), workers=1, progress=False)


def keys(out: Path) -> list[str]:
    data = open_source(str(out), ["rgb"])
    return [data.key(n) for n in range(len(data))]


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_a_folder_at_a_url_is_like_one_here(memory: MemoryFileSystem, tmp_path: Path, protocol: str) -> None:
    files = {
        "cats/tom.jpg": photo(0), "cats/tom.txt": b"a cat", "rex.png": photo(1), "rex.txt": b"a dog", "empty.jpg": b"",
        ".hidden/x.jpg": photo(2),
    }  # fmt: skip
    (tmp_path / "in").mkdir()
    root = "/in" if protocol == "memory" else str(tmp_path / "in")
    for name, data in files.items():
        fsspec.filesystem(protocol, auto_mkdir=True).pipe_file(f"{root}/{name}", data)
    labels = {"caption": {"kind": "text_file"}, "canny": {}}
    rejected = run(f"{protocol}://{root}/", tmp_path / "out", labels=labels, seed=None)
    assert [(entry.file, entry.reason) for entry in rejected] == [("empty.jpg", "the file is empty (0 bytes)")]
    assert keys(tmp_path / "out") == ["cats/tom", "rex"]
    captions = open_source(str(tmp_path / "out"), ["caption"])
    assert [captions.read(n)["caption"] for n in range(2)] == [b'"a cat"', b'"a dog"']


@pytest.mark.parametrize("form", ["", "/{00000..00001}.tar", "/*.tar"])
def test_tars_at_a_url(memory: MemoryFileSystem, tmp_path: Path, form: str) -> None:
    for n in range(2):
        memory.pipe_file(f"/in/{n:05d}.tar", tar_bytes([(f"{n}.jpg", photo(n))]))
    assert run(f"memory://in{form}", tmp_path) == []
    assert open_source(str(tmp_path), ["rgb"]).shard_sizes == [1, 1]
    assert keys(tmp_path) == ["0", "1"]


def test_a_missing_tar_is_rejected_and_an_empty_place_is_an_error(memory: MemoryFileSystem, tmp_path: Path) -> None:
    memory.pipe_file("/in/0.tar", tar_bytes([("0.jpg", photo(0))]))
    (entry,) = run("memory://in/{0..1}.tar", tmp_path / "out")
    assert entry.file == "memory://in/1.tar"
    assert "cannot be read" in entry.reason
    with pytest.raises(DataError, match="memory://nothing holds no files"):
        run("memory://nothing", tmp_path / "other")


@pytest.mark.parametrize("breaks", [1, 3])
def test_what_breaks_is_tried_again(memory: MemoryFileSystem, tmp_path: Path, breaks: int) -> None:
    Flaky.breaks = breaks
    memory.pipe_file("/in/a.jpg", photo(0))
    assert run("flaky://in", tmp_path) == []
    assert keys(tmp_path) == ["a"]


def test_a_stream_goes_on_where_it_broke(memory: MemoryFileSystem) -> None:
    content = bytes(range(256)) * 100
    memory.pipe_file("/a", content)
    with RemoteFile("flaky://a") as file:
        found = file.read(1000)
        while len(found) < len(content):
            Flaky.breaks = 2
            found += file.read(5000)
    assert found == content
    assert Flaky.opened > 6


def test_a_network_that_stays_broken_ends_the_run_and_rejects_nothing(memory: MemoryFileSystem, tmp_path: Path) -> None:
    memory.pipe_file("/in/a.jpg", photo(0))
    memory.pipe_file("/tars/a.tar", tar_bytes([("a.jpg", photo(0))]))
    for n, (url, file) in enumerate([("flaky://in", "in/a.jpg"), ("flaky://tars/a.tar", "tars/a.tar")]):
        Flaky.breaks = 100
        with pytest.raises(DataError, match=rf"cannot read flaky://{file}, tried 4 times: RuntimeError: connection"):
            run(url, tmp_path / str(n))
        Flaky.breaks = 0
        assert run(url, tmp_path / str(n)) == []
        assert keys(tmp_path / str(n)) == ["a"]


def test_waits_grow_and_what_is_not_there_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    tries: list[int] = []
    monkeypatch.undo()
    monkeypatch.setattr(remote.time, "sleep", waits.append)

    def failing() -> None:
        tries.append(1)
        raise TimeoutError

    with pytest.raises(DataError, match="cannot read it, tried 4 times: TimeoutError"):
        attempt(failing, "read it")
    assert waits == sorted(waits)
    assert len(waits) == 3
    tries.clear()

    def gone() -> None:
        tries.append(1)
        raise FileNotFoundError("gone")

    with pytest.raises(FileNotFoundError):
        attempt(gone, "read it")
    assert len(tries) == 1


@pytest.mark.parametrize(("url", "package"), [("s3://bucket/photos", "s3fs"), ("gs://bucket/photos", "gcsfs")])
def test_a_missing_package_is_named(url: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ConfigError, match=rf"needs the package '{package}'.*pip install {package}"):
        run(url, tmp_path)


def test_an_unknown_protocol_is_named() -> None:
    with pytest.raises(ConfigError, match="protocol 's4' is not known.*Did you mean 's3"):
        filesystem("s4://bucket")
