"""Verifying a data set: every file that is missing, damaged or out of place is named, and no other."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourm.cli import cli
from fourm.data.encode import npy, png
from fourm.data.index import index_path, keys_digest, load_index
from fourm.data.shards import ShardWriter, read_source_facts, shard_path, write_source_facts
from fourm.errors import DataError
from fourm.modality import to_dict
from fourm.prepare.photos.record import Record, save_record
from fourm.prepare.verify import Verdict, verify
from tests.unit.prepare import stored
from tests.unit.prepare.stored import EXTENSIONS, HEIGHT, MODALITIES, WIDTH, dump, spoil


def check(root: Path, workers: int = 1) -> Verdict:
    return verify(root, workers=workers, progress=False)


def named(verdict: Verdict) -> set[tuple[str, str | None]]:
    """What the problems name: files relative to the data set, with keys."""
    return {("/".join(Path(p.tar).parts[-2:]), p.key) for p in verdict.problems}


def reasons(verdict: Verdict) -> str:
    return "\n".join(problem.reason for problem in verdict.problems)


def test_a_good_data_set_has_no_problems_and_every_file_is_looked_at(tmp_path: Path) -> None:
    verdict = check(stored.write(tmp_path))

    assert not verdict.problems
    assert {source.name for source in verdict.sources} == set(EXTENSIONS)
    for source in verdict.sources:
        tars = [shard_path(tmp_path, source.name, shard) for shard in range(2)]
        expected = {"samples": 5, "num_bytes": sum(t.stat().st_size for t in tars), "checksums": 5}
        assert asdict(source.counts) == expected
        assert source.num_shards == 2


def flip_byte(root: Path) -> None:
    tar = shard_path(root, "caption", 1)
    content, index = bytearray(tar.read_bytes()), load_index(tar)
    content[int(index.offsets[0]) + 3] ^= 1
    overwrite(tar, bytes(content))


def overwrite(tar: Path, content: bytes) -> None:
    """Change a tar behind the back of its index, which stays the newer of the two."""
    tar.write_bytes(content)
    index = index_path(tar)
    if index.is_file():
        os.utime(index, ns=(0, tar.stat().st_mtime_ns + 1))


def damage_header(root: Path) -> None:
    tar = shard_path(root, "caption", 0)
    content = bytearray(tar.read_bytes())
    content[int(load_index(tar).offsets[1]) - 400] ^= 1
    overwrite(tar, bytes(content))


def damage_start(root: Path) -> None:
    tar = shard_path(root, "caption", 0)
    overwrite(tar, b"\x01" * 512 + tar.read_bytes()[512:])


def truncate(root: Path) -> None:
    tar = shard_path(root, "rgb", 1)
    overwrite(tar, tar.read_bytes()[: int(load_index(tar).offsets[1]) + 10])


def remove_index(root: Path) -> None:
    index_path(shard_path(root, "depth", 1)).unlink()


def damage_index(root: Path) -> None:
    index_path(shard_path(root, "depth", 1)).write_bytes(b"{")


def remove_shard(root: Path) -> None:
    for file in (root / "det").glob("shard-00001*"):
        file.unlink()


def remove_all_shards(root: Path) -> None:
    for file in (root / "det").glob("shard-*"):
        file.unlink()


def add_a_shard(root: Path) -> None:
    for name in ("tar", "index.json"):
        shutil.copy2(root / "det" / f"shard-00001.{name}", root / "det" / f"shard-00002.{name}")


@pytest.mark.parametrize(
    ("damage", "names", "reason"),
    [
        (flip_byte, {("caption/shard-00001.tar", "000003")}, "checksum differs"),
        (damage_header, {("caption/shard-00000.tar", None)}, "neither a member nor an end mark, after 1 samples"),
        (damage_start, {("caption/shard-00000.tar", None)}, "truncated or not a tar"),
        (truncate, {("rgb/shard-00001.tar", None)}, "truncated"),
        (remove_index, {("depth/shard-00001.tar", None)}, "shard-00001.index.json is missing"),
        (damage_index, {("depth/shard-00001.tar", None)}, "shard-00001.index.json is damaged"),
        (remove_shard, {("det/shard-00001.tar", None)}, "is missing; its source.json tells of it"),
        (
            remove_all_shards,
            {("det/shard-00000.tar", None), ("det/shard-00001.tar", None)},
            "is missing; its source.json tells of it",
        ),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_damaged_and_missing_files_are_named(
    tmp_path: Path, damage: Callable[[Path], None], names: set[tuple[str, str | None]], reason: str
) -> None:
    damage(stored.write(tmp_path))

    verdict = check(tmp_path)

    assert named(verdict) == names
    assert reason in reasons(verdict)


def test_swapped_tars_are_both_named(tmp_path: Path) -> None:
    stored.write(tmp_path)
    for name in ("tar", "index.json"):
        first, second = (tmp_path / "caption" / f"shard-0000{n}.{name}" for n in range(2))
        first.rename(tmp_path / "aside")
        second.rename(first)
        (tmp_path / "aside").rename(second)

    verdict = check(tmp_path)

    assert named(verdict) == {("caption/shard-00000.tar", None), ("caption/shard-00001.tar", None)}
    assert "it holds other samples than 'rgb': its first key is '000003', not '000000'" in reasons(verdict)


def test_a_tar_beside_the_index_of_another_one_is_named(tmp_path: Path) -> None:
    stored.write(tmp_path / "other", lambda source, key, content: (key[::-1], content))
    stored.write(tmp_path / "set")
    overwrite(shard_path(tmp_path / "set", "det", 0), shard_path(tmp_path / "other", "det", 0).read_bytes())

    verdict = check(tmp_path / "set")

    assert {tar for tar, _ in named(verdict)} == {"det/shard-00000.tar"}
    assert "its index describes another tar, with '000001' in place 1 instead of '100000'" in reasons(verdict)


@pytest.mark.parametrize(
    ("change", "differs"),
    [("offsets", r"'000001' is ([\d,]+) bytes from byte [\d,]+ on \(in this one it is \1 bytes from"),
     ("sizes", r"'000001' is [\d,]+ bytes from (byte [\d,]+ on) \(in this one it is [\d,]+ bytes from \1\)")],
)  # fmt: skip
def test_where_an_index_differs_from_a_tar_of_its_size_is_said(tmp_path: Path, change: str, differs: str) -> None:
    tar = shard_path(stored.write(tmp_path), "det", 0)
    facts = json.loads(index_path(tar).read_text())
    facts[change][1] += 1
    index_path(tar).write_text(json.dumps(facts))

    verdict = check(tmp_path)

    assert named(verdict) == {("det/shard-00000.tar", None)}
    assert re.search(rf"its index describes another tar, whose file {differs}", reasons(verdict))


def test_more_shards_than_the_facts_tell_of_are_named(tmp_path: Path) -> None:
    add_a_shard(stored.write(tmp_path))

    names = named(check(tmp_path))

    assert ("det/shard-00002.tar", None) in names
    assert ("rgb/shard-00002.tar", None) in names  # it does not have what another source has


@pytest.mark.parametrize(
    ("source", "content", "reason"),
    [
        ("rgb", stored.sample(3)["canny"], "mode L, which has no three channels"),
        ("rgb", stored.sample(3)["depth"], "no three channels"),
        ("rgb", b"no image", "these 8 bytes are not an image"),
        ("canny", stored.sample(3)["rgb"], "mode RGB; expected grey values"),
        ("canny", png(np.zeros((WIDTH, HEIGHT), np.uint8)), "not the shape of its aligned image"),
        ("depth", stored.sample(3)["canny"], "expected a 16-bit grey image"),
        ("depth", png(np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)), "expected 0.25 to 16"),
        ("normal", png(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)), "not of length 1"),
        ("normal", stored.sample(3)["rgb"], "not of length 1"),
        ("semseg", png(np.full((HEIGHT, WIDTH), 2, np.uint8)), "class id 2 is not one of the 2 classes"),
        ("det", stored.sample(3)["caption"], 'expected {"instances": [...]}'),
        ("det", dump({"instances": [{"boxes": [0.5, 0.1, 0.4, 0.2], "class_name": "sky"}]}), "x1 < x2 <= 1"),
        ("det", dump({"instances": [{"boxes": [0.5, 0.1, 1.2, 0.2], "class_name": "sky"}]}), "x1 < x2 <= 1"),
        ("det", dump({"instances": [{"boxes": [0, 0, 1, 1], "class_name": "see"}]}), "class 'see'. Known: sky, tree"),
        ("caption", stored.sample(3)["det"], "expected text"),
        ("caption", stored.sample(3)["rgb"], "cannot read it as 'text'"),
        ("caption", b"a\x00b", "control characters"),
        ("metadata", dump({"brightnes": 3}), "Did you mean 'brightness'?"),
        ("metadata", b'{"brightness": NaN}', "expected a finite number"),
        ("metadata", dump({"brightness": -5e9}), "brightness is -5000000000.0; expected a number from 0 to 255"),
        ("metadata", dump({"entropy": 99}), "entropy is 99; expected a number from 0 to 10"),
        ("metadata", dump({"n_humans": 1.5}), "n_humans is 1.5; expected a whole number from 0 on"),
        ("metadata", dump({"caption_n_words": -1}), "caption_n_words is -1; expected a whole number from 0 on"),
        ("metadata", dump({"original_width": 0}), "original_width is 0; expected a whole number from 1 on"),
        ("color_palette", dump({"1": [[0, 256, 0]]}), "whole numbers from 0 to 255"),
        ("dino", npy(np.full((2, 8, 2, 3), np.nan, np.float32)), "not finite"),
        ("dino", npy(np.zeros((1, 8, 2, 3), np.float32)), "it has 1 rows for 2 stored crops"),
        ("tok_rgb", npy(np.full((2, 6), 512, np.int16)), "token id 512 is outside the vocabulary of 512"),
        ("tok_rgb", npy(np.zeros((1, 6), np.int16)), "it has 1 rows for 2 stored crops"),
        ("sam", dump([{"points": [], "bbox": [], "token_ids": []}]), "it has 1 rows for 2 stored crops"),
        ("crop_settings", npy(np.array([[0, 8, 32, 32, 0], [0, 17, 32, 32, 0]])), "lies outside the image of 32 x 48"),
        ("crop_settings", npy(np.array([[0, 8, 32, 31.5, 0], [0, 16, 32, 32, 0]])), "not whole numbers"),
        ("crop_settings", npy(np.array([[0, 8, 32, 32, 2], [0, 16, 32, 32, 0]])), "a flip of 0 or 1"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_hold_what_its_source_does_is_named(
    tmp_path: Path, source: str, content: bytes, reason: str
) -> None:
    verdict = check(stored.write(tmp_path, spoil(source, content)))

    assert named(verdict) == {(f"{source}/shard-00001.tar", "000003")}
    assert reason in reasons(verdict)
    assert {problem.source for problem in verdict.problems} == {source}


def test_jpegs_of_edges_and_normals_that_were_made_smaller_are_good(tmp_path: Path) -> None:
    """Values between two normals are shorter than 1, and unknown ones have no length."""
    vectors = np.full((HEIGHT, WIDTH, 3), (0, 128, 128), np.uint8)
    vectors[:, WIDTH // 2 :] = (128, 128, 255)
    vectors[:, WIDTH // 2] = (64, 128, 192)
    vectors[:4] = 128
    verdict = check(stored.write(tmp_path, spoil("normal", png(vectors))))
    assert not verdict.problems


def test_what_is_the_same_everywhere_may_be_so(tmp_path: Path) -> None:
    """A wall of one temperature, a picture of one colour."""
    even = png(np.full((HEIGHT, WIDTH), 30000, np.uint16))
    assert not check(stored.write(tmp_path, spoil("depth", even))).problems


def test_scores_may_lie_beyond_what_their_text_tells_apart(tmp_path: Path) -> None:
    """Black and white halves have a contrast of 127.5, the ends of which text knows 127."""
    facts = {
        "contrast": 127.5,
        "geometric_complexity": 1.0,
        "occlusion_score": 0.9,
        "colorfulness": 300,
        "n_humans": 2.0,
    }
    assert not check(stored.write(tmp_path, spoil("metadata", dump(facts)))).problems


def test_every_bad_file_is_named_once_under_any_number_of_workers(tmp_path: Path) -> None:
    def spoilt(source: str, key: str, content: bytes) -> tuple[str, bytes]:
        return key, b"no image" if (source, key) in bad else content

    bad = {("rgb", "000001"), ("rgb", "000004"), ("depth", "000000"), ("normal", "000004")}
    stored.write(tmp_path, spoilt)

    one, two = check(tmp_path), check(tmp_path, workers=2)

    assert {(p.source, p.key) for p in one.problems} == bad
    assert len(one.problems) == len(bad)
    assert one == two
    assert {s.name: s.num_problems for s in one.sources if s.num_problems} == {"rgb": 2, "depth": 1, "normal": 1}


def test_a_missing_and_a_foreign_key_are_named(tmp_path: Path) -> None:
    stored.write(
        tmp_path, lambda source, key, content: ("900000" if (source, key) == ("det", "000001") else key, content)
    )

    verdict = check(tmp_path)

    assert named(verdict) == {("det/shard-00000.tar", "000001"), ("det/shard-00000.tar", "900000")}
    assert "is missing; 'rgb' has it" in reasons(verdict)


def test_another_order_is_named_with_its_first_place(tmp_path: Path) -> None:
    swap = {"000000": "000001", "000001": "000000"}
    stored.write(tmp_path, lambda source, key, content: (swap.get(key, key) if source == "det" else key, content))

    verdict = check(tmp_path)

    assert named(verdict) == {("det/shard-00000.tar", "000001")}
    assert "comes in another order: 'rgb' has '000000' in its place" in reasons(verdict)


def test_the_first_source_is_not_right_by_being_first(tmp_path: Path) -> None:
    stored.write(tmp_path, lambda source, key, content: (f"{key}x" if source == "rgb" else key, content))
    assert {tar for tar, _ in named(check(tmp_path))} == {"rgb/shard-00000.tar", "rgb/shard-00001.tar"}


def test_without_facts_the_shards_of_the_other_sources_are_expected(tmp_path: Path) -> None:
    remove_shard(stored.write(tmp_path, facts=False))

    verdict = check(tmp_path)

    assert [p for p in verdict.problems if p.reason.startswith("is missing; other sources have it")]
    assert ("det/shard-00001.tar", None) in named(verdict)


def test_tars_of_other_tools_need_no_index(tmp_path: Path) -> None:
    for source in ("rgb", "caption"):
        (tmp_path / source).mkdir()
        with tarfile.open(tmp_path / source / "00000.tar", "w") as tar:
            for n in range(2):
                info = tarfile.TarInfo(f"{n}.{EXTENSIONS[source]}")
                content = stored.sample(n)[source]
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))

    verdict = check(tmp_path)

    assert not verdict.problems
    assert [(s.name, s.modality, s.counts.checksums) for s in verdict.sources] == [
        ("rgb", "rgb@64", 0),
        ("caption", "caption", 0),
    ]
    assert not index_path(tmp_path / "rgb" / "00000.tar").exists()


def test_an_index_of_the_version_before_checksums_is_no_problem(tmp_path: Path) -> None:
    index = index_path(shard_path(stored.write(tmp_path), "rgb", 0))
    facts = json.loads(index.read_bytes())
    del facts["checksums"]
    index.write_text(json.dumps(facts | {"version": 1}))

    verdict = check(tmp_path)

    assert not verdict.problems
    assert [source.counts.checksums for source in verdict.sources if source.name == "rgb"] == [2]


def test_a_source_of_unknown_modality_is_checked_for_alignment_and_checksums_only(tmp_path: Path) -> None:
    stored.write(tmp_path)
    (tmp_path / "det").rename(tmp_path / "things")
    facts = read_source_facts(tmp_path, "things")
    del facts["modality"]
    write_source_facts(tmp_path, "things", facts)

    good = check(tmp_path)
    things = next(source for source in good.sources if source.name == "things")
    assert not good.problems
    assert (things.modality, things.decode, things.counts.checksums) == ("", "", 5)

    tar = shard_path(tmp_path, "things", 0)
    content = bytearray(tar.read_bytes())
    content[int(load_index(tar).offsets[2])] ^= 1
    overwrite(tar, bytes(content))
    assert named(check(tmp_path)) == {("things/shard-00000.tar", "000002")}


@pytest.mark.parametrize(("source", "name"), [("semseg", "semseg@64"), ("depth", "depth@64"), ("caption", "caption")])
def test_without_facts_a_source_is_what_the_catalog_calls_so_for_images_of_its_size(
    tmp_path: Path, source: str, name: str
) -> None:
    verdict = check(stored.write(tmp_path, facts=False))
    assert [s.modality for s in verdict.sources if s.name == source] == [name]


def test_facts_that_make_no_sense_are_a_problem_of_the_source(tmp_path: Path) -> None:
    stored.write(tmp_path)
    (tmp_path / "det" / "source.json").write_bytes(b"[")
    (tmp_path / "rgb" / "source.json").write_text(
        json.dumps({"num_shards": 2, "modality": {**to_dict(MODALITIES["rgb"]), "name": "rgb", "chanels": 3}})
    )

    verdict = check(tmp_path)

    assert {(p.source, p.key) for p in verdict.problems} == {("det", None), ("rgb", None)}
    assert "chanels" in reasons(verdict)


@pytest.mark.parametrize("number", ["x", "2", 1.5, -1, [2], True])
def test_a_number_of_shards_that_is_none_is_a_problem_of_the_source(tmp_path: Path, number: Any) -> None:
    stored.write(tmp_path)
    write_source_facts(tmp_path, "det", {**read_source_facts(tmp_path, "det"), "num_shards": number})

    verdict = check(tmp_path)

    assert ("det", None) in {(p.source, p.key) for p in verdict.problems}
    assert f"num_shards in source.json is {number!r}" in reasons(verdict)


def test_a_decoder_that_does_not_exist_is_a_problem_of_the_source(tmp_path: Path) -> None:
    stored.write(tmp_path)
    facts = read_source_facts(tmp_path, "det")
    write_source_facts(tmp_path, "det", facts | {"modality": facts["modality"] | {"decode": "bxes"}})

    verdict = check(tmp_path)

    assert [(p.source, p.key) for p in verdict.problems] == [("det", None)]
    assert "Did you mean 'boxes'?" in reasons(verdict)


def test_a_shard_without_samples_is_good(tmp_path: Path) -> None:
    stored.write(tmp_path)
    with ShardWriter(tmp_path, 1, EXTENSIONS):
        pass
    verdict = check(tmp_path)
    assert not verdict.problems
    assert {source.counts.samples for source in verdict.sources} == {3}


def test_a_data_set_without_samples_is_not_good(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, 0, EXTENSIONS):
        pass
    assert [(p.key, p.reason) for p in check(tmp_path).problems] == [(None, "holds no samples")]


def test_tokens_of_other_crops_are_a_problem_of_the_source(tmp_path: Path) -> None:
    stored.write(tmp_path)
    write_source_facts(tmp_path, "tok_rgb", {**read_source_facts(tmp_path, "tok_rgb"), "crop_settings": "another"})

    verdict = check(tmp_path)

    assert [(p.source, p.key) for p in verdict.problems] == [("tok_rgb", None)]
    assert "tokens made for other crops" in reasons(verdict)


def test_a_shard_has_to_hold_what_was_noted_when_it_was_made(tmp_path: Path) -> None:
    stored.write(tmp_path)
    sources = tuple(EXTENSIONS)
    save_record(tmp_path, 0, Record(3, keys_digest([f"{n:06d}" for n in range(3)]), sources))
    save_record(tmp_path, 1, Record(3, keys_digest(["000003", "000004", "000005"]), ("rgb", "depth")))

    verdict = check(tmp_path)

    assert named(verdict) == {("rgb/shard-00001.tar", None), ("depth/shard-00001.tar", None)}
    assert "it holds 2 samples, not those 3 that the shard was made with" in reasons(verdict)


def test_the_note_decides_which_of_two_sources_is_wrong(tmp_path: Path) -> None:
    stored.write(tmp_path, lambda source, key, content: (key if source == "det" else f"{key}x", content))
    for shard, keys in enumerate((["000000", "000001", "000002"], ["000003", "000004"])):
        save_record(tmp_path, shard, Record(len(keys), keys_digest(keys), tuple(EXTENSIONS)))
    assert "det" not in {p.source for p in check(tmp_path).problems}


def test_a_shard_without_its_note_is_named(tmp_path: Path) -> None:
    stored.write(tmp_path)
    save_record(tmp_path, 0, Record(3, keys_digest([f"{n:06d}" for n in range(3)]), tuple(EXTENSIONS)))
    assert named(check(tmp_path)) == {("shards/shard-00001.json", None)}


@pytest.mark.parametrize(("files", "reason"), [("*", "every shard was made with it"), ("shard-*", "is missing")])
def test_the_photographs_that_every_shard_was_made_with_must_be_there(tmp_path: Path, files: str, reason: str) -> None:
    stored.write(tmp_path)
    for shard, keys in enumerate((["000000", "000001", "000002"], ["000003", "000004"])):
        others = ("half",) if shard else ()  # a label that an interrupted run began with
        save_record(tmp_path, shard, Record(len(keys), keys_digest(keys), (*EXTENSIONS, *others)))
    assert not check(tmp_path).problems
    for file in (tmp_path / "rgb").glob(files):
        file.unlink()
    if files == "*":
        (tmp_path / "rgb").rmdir()
        shutil.rmtree(tmp_path / "caption")  # a label may be removed on purpose

    verdict = check(tmp_path)

    assert {p.source for p in verdict.problems} == {"rgb"}
    assert reason in reasons(verdict)


def test_the_data_sets_in_a_folder_are_all_verified(tmp_path: Path) -> None:
    stored.write(tmp_path / "train")
    stored.write(tmp_path / "test", spoil("depth", b""))

    verdict = check(tmp_path)

    assert [Path(p.tar).parts[-3] for p in verdict.problems] == ["test"]
    assert {s.name for s in verdict.sources} == {f"{part}/{name}" for part in ("train", "test") for name in EXTENSIONS}
    assert [s.name for s in verdict.sources if s.num_problems] == ["test/depth"]


def test_a_folder_without_shards_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "rgb").mkdir()
    with pytest.raises(DataError, match=r"holds no shards.*fourm prepare"):
        check(tmp_path)
    with pytest.raises(DataError, match="there is no folder"):
        check(tmp_path / "nowhere")


def test_verifying_writes_nothing(tmp_path: Path) -> None:
    remove_index(stored.write(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    check(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def command(*arguments: Any) -> int:
    with pytest.raises(SystemExit) as ended:
        cli(["prepare", "verify", *map(str, arguments), "--workers", "1"], standalone_mode=False)
    return int(ended.value.code or 0)


def test_the_command_shows_some_problems_and_reports_all(tmp_path: Path, capsys: Any) -> None:
    stored.write(tmp_path / "set", lambda source, key, content: (key, b"" if source == "depth" else content))

    status = command(tmp_path / "set", "--lines", 2, "--report", tmp_path / "report.jsonl")

    text = capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "report.jsonl").read_text().splitlines()]
    assert status == 1
    assert [line["key"] for line in lines] == [f"{n:06d}" for n in range(5)]
    assert {line["source"] for line in lines} == {"depth"}
    assert lines[0]["tar"] == str(shard_path(tmp_path / "set", "depth", 0))
    assert text.count("depth/shard-0000") == 2
    assert "... and 3 more problems" in text
    assert "5 problems in 75 files" in text


def test_the_command_ends_well_and_sums_up_what_is_good(tmp_path: Path, capsys: Any) -> None:
    assert command(stored.write(tmp_path)) == 0

    text = capsys.readouterr().out
    assert "all 75 files are good" in text
    for source in EXTENSIONS:
        assert source in text
