"""Files of one's own become shards."""

from __future__ import annotations

from pathlib import Path

import pytest

from fourm.data.source import open_source
from fourm.errors import ConfigError, DataError
from fourm.prepare.pack import pack


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for n in range(10):
        for source, extension in (("rgb", "png"), ("caption", "txt")):
            path = tmp_path / "files" / source / f"class{n % 2}" / f"{n}.{extension}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{source} {n}".encode())
    return tmp_path / "files"


def samples(root: Path) -> dict[str, dict[str, bytes]]:
    source = open_source(str(root), ["rgb", "caption"])
    return {source.key(n): source.read(n) for n in range(len(source))}


def test_shards_hold_the_same_samples(files: Path, tmp_path: Path) -> None:
    assert pack(files, tmp_path / "out", shard_size=4) == 10

    assert samples(tmp_path / "out") == samples(files)
    assert len(list((tmp_path / "out" / "rgb").glob("*.tar"))) == 3


def test_every_shard_mixes_the_classes(files: Path, tmp_path: Path) -> None:
    pack(files, tmp_path / "out", shard_size=5)

    assert list(samples(tmp_path / "out")) != list(samples(files))


def test_the_same_seed_gives_the_same_bytes(files: Path, tmp_path: Path) -> None:
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        pack(files, tmp_path / out, seed=seed)

    tars = {out: (tmp_path / out / "rgb" / "shard-00000.tar").read_bytes() for out in "abc"}
    assert tars["a"] == tars["b"] != tars["c"]


def test_complete_shards_are_kept(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(files, out, shard_size=5)
    first, second = (out / "rgb" / f"shard-0000{n}.tar" for n in range(2))
    before = first.stat().st_mtime_ns
    second.unlink()

    pack(files, out, shard_size=5)

    assert first.stat().st_mtime_ns == before
    assert second.is_file()


def test_after_files_were_added_every_sample_is_there_once(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(files, out, shard_size=4)
    for source, extension in (("rgb", "png"), ("caption", "txt")):
        (files / source / "class0" / f"new.{extension}").write_bytes(b"new")

    pack(files, out, shard_size=4)

    assert samples(out) == samples(files)


def test_shards_that_would_be_left_over_are_an_error(files: Path, tmp_path: Path) -> None:
    pack(files, tmp_path / "out", shard_size=4)

    with pytest.raises(DataError, match="holds more shards than 10 samples in shards of 5 make"):
        pack(files, tmp_path / "out", shard_size=5)


def test_chosen_sources_only(files: Path, tmp_path: Path) -> None:
    pack(files, tmp_path / "out", sources=["rgb"])

    assert [path.name for path in (tmp_path / "out").iterdir()] == ["rgb"]


def test_what_cannot_be_packed_is_named(files: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        pack(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ConfigError, match="choose another one"):
        pack(files, files)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="one per modality"):
        pack(tmp_path / "empty", tmp_path / "out")
    (files / "rgb" / "class0" / "0.png").rename(files / "rgb" / "class0" / "0.jpg")
    with pytest.raises(DataError, match=r"rgb/class0/0\.jpg, rgb/class0/2\.png"):
        pack(files, tmp_path / "out")
    (files / "rgb" / "class0" / "0.jpg").unlink()
    with pytest.raises(DataError, match="'caption' has 'class0/0'"):
        pack(files, tmp_path / "out")
    assert not (tmp_path / "out").exists()
