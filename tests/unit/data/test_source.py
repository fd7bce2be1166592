from __future__ import annotations

from pathlib import Path

import pytest

from fourm.data.aligned import AlignedShards
from fourm.data.alignment import check_same
from fourm.data.folder import AlignedFolders
from fourm.data.shards import write_source_facts
from fourm.data.source import open_source
from fourm.errors import DataError


def test_the_form_is_recognised(shards: Path, tmp_path: Path, data: type) -> None:
    folders = data.write_folders(tmp_path / "folders", 2, ["rgb"])
    assert isinstance(open_source(str(shards), ["rgb"]), AlignedShards)
    assert isinstance(open_source(str(folders), ["rgb"]), AlignedFolders)
    assert isinstance(open_source(f"{shards}/[rgb]/shard-{{00000..00001}}.tar", ["rgb"]), AlignedShards)


def test_shards_of_which_none_is_written_yet_are_no_empty_folder(tmp_path: Path) -> None:
    write_source_facts(tmp_path, "rgb", {"num_shards": 2})
    with pytest.raises(DataError, match="2 of 2 shards"):
        open_source(str(tmp_path), ["rgb"])


def test_the_form_can_be_demanded(tmp_path: Path, data: type) -> None:
    folders = data.write_folders(tmp_path / "folders", 2, ["rgb"])
    with pytest.raises(DataError, match="no shards"):
        open_source(str(folders), ["rgb"], "shards")


def test_a_source_named_twice_is_read_once(shards: Path) -> None:
    assert list(open_source(str(shards), ["rgb", "rgb"]).read(0)) == ["rgb"]


@pytest.mark.parametrize(
    ("other", "words"),
    [(["a", "x", "c"], "position 1: 'rgb' has 'b', 'depth' has 'x'"), (["a"], "position 1: .* 'depth' has nothing")],
)
def test_the_first_difference_is_named(other: list[str], words: str) -> None:
    with pytest.raises(DataError, match=rf"shard 3: .*{words}.*do this"):
        check_same("shard 3", {"rgb": ["a", "b", "c"], "depth": other}, "do this")


def test_equal_lists_pass() -> None:
    check_same("shard 3", {"rgb": ["a"], "depth": ["a"]}, "")
