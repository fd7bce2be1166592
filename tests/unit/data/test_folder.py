from __future__ import annotations

from pathlib import Path

import pytest

from fourm.data.folder import AlignedFolders
from fourm.data.index import keys_digest
from fourm.errors import DataError

SOURCES = ["rgb", "caption"]


@pytest.fixture
def root(tmp_path: Path, data: type) -> Path:
    return data.write_folders(tmp_path / "set", 4, SOURCES)


def test_files_are_matched_by_class_and_stem(root: Path, data: type) -> None:
    source = AlignedFolders(root, SOURCES)
    assert [source.key(n) for n in range(4)] == ["class0/000", "class0/002", "class1/001", "class1/003"]
    assert source.read(1) == {name: data.make_sample(2)[name] for name in SOURCES}
    assert source.where(2, "caption") == f"{root}/caption/class1/001.json"
    assert source.shard_sizes == [4]
    assert source.keys_digest(0) == keys_digest(["class0/000", "class0/002", "class1/001", "class1/003"])


def test_the_published_code_would_mispair_these_but_here_it_is_an_error(root: Path) -> None:
    (root / "caption" / "class0" / "002.json").rename(root / "caption" / "class0" / "004.json")
    with pytest.raises(DataError, match="position 1: 'rgb' has 'class0/002', 'caption' has 'class0/004'"):
        AlignedFolders(root, SOURCES)


def test_hidden_files_and_facts_are_no_samples(root: Path) -> None:
    (root / "rgb" / ".DS_Store").touch()
    (root / "rgb" / "source.json").write_text("{}")
    (root / "rgb" / ".cache").mkdir()
    (root / "rgb" / ".cache" / "x.png").touch()
    assert len(AlignedFolders(root, SOURCES)) == 4


def test_files_without_class_folders_work(tmp_path: Path) -> None:
    for source, ext in (("rgb", "jpg"), ("depth", "png")):
        (tmp_path / source).mkdir()
        (tmp_path / source / f"a.{ext}").write_bytes(ext.encode())
    assert AlignedFolders(tmp_path, ["rgb", "depth"]).read(0) == {"rgb": b"jpg", "depth": b"png"}


def test_two_files_for_one_sample_are_an_error(root: Path) -> None:
    (root / "rgb" / "class0" / "000.jpg").touch()
    with pytest.raises(DataError, match="both .* for sample 'class0/000'"):
        AlignedFolders(root, SOURCES)


@pytest.mark.parametrize("place", ["inside", "outside"])
def test_class_folders_may_be_links(root: Path, tmp_path: Path, data: type, place: str) -> None:
    for source in SOURCES:
        kept = (root if place == "inside" else tmp_path) / "store" / source
        kept.parent.mkdir(exist_ok=True)
        (root / source / "class1").rename(kept)
        (root / source / "class1").symlink_to(kept, target_is_directory=True)
    source = AlignedFolders(root, SOURCES)
    assert [source.key(n) for n in range(len(source))] == ["class0/000", "class0/002", "class1/001", "class1/003"]
    assert source.read(2) == {name: data.make_sample(1)[name] for name in SOURCES}


def test_links_in_a_circle_are_followed_once(root: Path) -> None:
    for source in SOURCES:
        (root / source / "class0" / "again").symlink_to(root / source, target_is_directory=True)
    assert len(AlignedFolders(root, SOURCES)) == 4


def test_one_folder_under_two_names_gives_the_samples_of_both(root: Path) -> None:
    for source in SOURCES:
        (root / source / "class9").symlink_to("class0", target_is_directory=True)
    source = AlignedFolders(root, SOURCES)
    assert [source.key(n) for n in range(len(source))][-2:] == ["class9/000", "class9/002"]


def test_a_link_to_nowhere_is_named(root: Path) -> None:
    link = root / "rgb" / "class0" / "000.png"
    link.unlink()
    link.symlink_to("nowhere.png")
    with pytest.raises(DataError, match=r"class0/000\.png"):
        AlignedFolders(root, SOURCES).read(0)


def test_a_file_that_vanishes_is_named(root: Path) -> None:
    source = AlignedFolders(root, SOURCES)
    (root / "rgb" / "class0" / "000.png").unlink()
    with pytest.raises(DataError, match=r"class0/000\.png"):
        source.read(0)


def test_a_missing_source_is_named(root: Path) -> None:
    with pytest.raises(DataError, match="has no 'depth'"):
        AlignedFolders(root, ["rgb", "depth"])
