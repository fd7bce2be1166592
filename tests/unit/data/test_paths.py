from __future__ import annotations

from pathlib import Path

import pytest

from fourm.data.paths import expand_braces, find_tars, is_pattern, some_shards, split_pattern
from fourm.errors import DataError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_braces_count_and_keep_their_width() -> None:
    assert list(expand_braces("s-{08..10}.tar")) == ["s-08.tar", "s-09.tar", "s-10.tar"]
    assert list(expand_braces("{0..1}/{0..1}")) == ["0/0", "0/1", "1/0", "1/1"]
    assert list(expand_braces("plain.tar")) == ["plain.tar"]


@pytest.mark.parametrize(("path", "expected"), [("data/train", False), ("a/[b,c]/d.tar", True), ("a/{0..9}.tar", True)])
def test_a_pattern_has_brackets_or_a_range(path: str, expected: bool) -> None:
    assert is_pattern(path) is expected


def test_the_bracket_form_of_4m_lists_sources_and_shards() -> None:
    found = find_tars("data/[rgb,caption,crop_settings]/shard-{00000..00001}.tar", ["rgb", "crop_settings"])
    assert found == {
        source: [Path(f"data/{source}/shard-{n:05d}.tar") for n in (0, 1)] for source in ("rgb", "crop_settings")
    }


def test_a_folder_is_searched_for_its_shards_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    touch(tmp_path, *(f"rgb/shard-{n}.tar" for n in (9, 10, 100000)), "rgb/.shard-1.tar.tmp")
    (tmp_path / "rgb" / "source.json").write_text("{}")
    found = find_tars(str(tmp_path), ["rgb"])["rgb"]
    assert [p.name for p in found] == ["shard-9.tar", "shard-10.tar", "shard-100000.tar"]


def test_tars_of_other_names_are_taken_when_there_are_no_shards(tmp_path: Path) -> None:
    touch(tmp_path, "rgb/00001.tar", "rgb/00000.tar")
    assert [p.name for p in find_tars(str(tmp_path), ["rgb"])["rgb"]] == ["00000.tar", "00001.tar"]


def test_a_missing_folder_is_named_with_what_is_there(tmp_path: Path) -> None:
    touch(tmp_path, "rgb/shard-00000.tar", "depth/shard-00000.tar")
    with pytest.raises(DataError, match="has no 'dept'.*depth, rgb.*Did you mean 'depth'.*modality_name_map"):
        find_tars(str(tmp_path), ["rgb", "dept"])
    with pytest.raises(DataError, match=r"nowhere does not exist.*data\.\*\.path"):
        find_tars(str(tmp_path / "nowhere"), ["rgb"])


def test_a_source_without_shards_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "rgb").mkdir()
    with pytest.raises(DataError, match=r"rgb has no shards"):
        find_tars(str(tmp_path), ["rgb"])


def test_a_source_that_the_brackets_do_not_list_is_an_error() -> None:
    with pytest.raises(DataError, match="does not list 'depth'.*caption, rgb"):
        find_tars("data/[rgb,caption]/shard-{0..1}.tar", ["depth"])


def test_streams_say_what_to_do() -> None:
    with pytest.raises(DataError, match="is a stream.*give the folder, or its URL"):
        find_tars("pipe:cat x.tar", ["rgb"])


def test_a_pattern_at_a_url_is_a_root_and_names() -> None:
    assert split_pattern("s3://b/data/[rgb,det]/s-{0..1}.tar") == ("s3://b/data", ["s-0.tar", "s-1.tar"])
    assert split_pattern("s3://b/data") is None
    with pytest.raises(DataError, match="has the form ROOT"):
        split_pattern("s3://b/{0..1}/[rgb]/s.tar")


def test_a_part_of_the_shards_is_a_pattern() -> None:
    path = some_shards("data/x", ["rgb", "caption"], 2, 3)
    assert find_tars(path, ["caption"])["caption"] == [Path(f"data/x/caption/shard-0000{n}.tar") for n in (2, 3)]
    with pytest.raises(DataError, match="already"):
        some_shards(path, ["rgb"], 0, 1)
