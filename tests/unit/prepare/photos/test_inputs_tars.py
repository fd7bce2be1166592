"""Tars of photographs in webdataset's layout."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from fourm.data.source import open_source
from fourm.errors import DataError
from fourm.machine import Part
from fourm.prepare.photos.inputs import Item
from fourm.prepare.photos.job import prepare_photos
from fourm.prepare.photos.tars import read_tar
from tests.photographs import encoded, photograph
from tests.unit.prepare.photos.test_job import prepare, recipe, tars

Member = tuple[str, bytes] | tarfile.TarInfo


def photo(seed: int) -> bytes:
    return encoded(photograph(seed), "JPEG")


def tar_bytes(members: Sequence[Member], end: bool = True) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                header = tarfile.TarInfo(member[0])
                header.size = len(member[1])
                archive.addfile(header, io.BytesIO(member[1]))
        length = archive.offset
    return buffer.getvalue() if end else buffer.getvalue()[:length]


def write_tar(path: Path, *members: Member) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(members))
    return path


def read(path: Path, *templates: str) -> list[Item]:
    return [*read_tar(path.name, str(path), templates)]


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    return header


def test_members_that_share_their_name_are_one_sample(tmp_path: Path) -> None:
    tar = write_tar(
        tmp_path / "a.tar",
        *[("cats/tom.txt", b"a cat"), ("cats/tom.JPG", photo(0)), ("cats/tom.json", b"{}"), ("cats/.hidden.jpg", b"")],
        *[("dogs/rex.png", b"png"), ("dogs/rex.mask.png", b"mask")],
    )
    tom, rex = read(tar, "{path}.txt", "{folder}/{stem}.mask.png")
    assert (tom.file, tom.key, tom.data) == ("a.tar/cats/tom.JPG", "cats/tom", photo(0))
    assert tom.beside == {"{path}.txt": b"a cat"}
    assert (rex.key, rex.data, rex.beside) == ("dogs/rex", b"png", {"{folder}/{stem}.mask.png": b"mask"})


def test_the_files_of_a_sample_may_lie_apart(tmp_path: Path) -> None:
    names = ["b.txt", "a.jpg", "b.jpg", "lone.txt", "a.txt"]  # as `tar cf` takes them, in the folder's order
    members = [(name, photo(1) if name.endswith("jpg") else name.encode()) for name in names]
    items = {item.file.rpartition("/")[2]: item for item in read(write_tar(tmp_path / "a.tar", *members), "{path}.txt")}
    assert items["a.jpg"].beside == {"{path}.txt": b"a.txt"}
    assert items["b.jpg"].beside == {"{path}.txt": b"b.txt"}
    assert items["lone.txt"].reason
    assert len(items) == 3


def test_labels_may_lie_in_folders_of_their_own(tmp_path: Path) -> None:
    members = [("images/1.png", b"1"), ("masks/1.png", b"m1"), ("images/2.png", b"2"), ("masks/2.png", b"m2")]
    items = read(write_tar(tmp_path / "a.tar", *members), "masks/{stem}.png")
    assert [(item.data, item.beside["masks/{stem}.png"]) for item in items] == [(b"1", b"m1"), (b"2", b"m2")]


def test_what_holds_no_image_is_named_file_by_file(tmp_path: Path) -> None:
    members = [
        ("a.v2.jpg", photo(0)),
        ("b.json", b"{}"),
        ("b.cls", b"1"),
        ("c", b"?"),
        ("d.jpg", photo(1)),
        ("d.json", b""),
    ]
    items = read(write_tar(tmp_path / "a.tar", *members))
    assert {item.file: item.reason for item in items} == {
        "a.tar/a.v2.jpg": "",
        "a.tar/b.json": "its ending is 'json'; expected jpg, png, webp, ...",
        "a.tar/b.cls": "its ending is 'cls'; expected jpg, png, webp, ...",
        "a.tar/c": "its ending is ''; expected jpg, png, webp, ...",
        "a.tar/d.jpg": "",
    }


@pytest.mark.parametrize("count", [1, 2, 20, 200])
def test_images_that_share_a_name_up_to_the_first_dot_are_photographs_each(tmp_path: Path, count: int) -> None:
    names = [f"trip/frame.{n:04d}" for n in range(count)]
    members: list[Member] = []
    for n, name in enumerate(names):
        members += [(f"{name}.jpg", b"%d" % n), (f"{name}.mask.png", b"m%d" % n), (f"{name}.txt", b"t%d" % n)]
    items = read(write_tar(tmp_path / "a.tar", *members), "{path}.txt", "{path}.mask.png")
    assert [item.file for item in items] == [f"a.tar/{name}.jpg" for name in names]
    assert [item.data for item in items] == [b"%d" % n for n in range(count)]
    assert [item.beside["{path}.txt"] for item in items] == [b"t%d" % n for n in range(count)]
    assert [item.beside["{path}.mask.png"] for item in items] == [b"m%d" % n for n in range(count)]
    assert len({item.key for item in items}) == count


def test_frames_become_samples(tmp_path: Path) -> None:
    write_tar(tmp_path / "in" / "a.tar", *[(f"frame.{n:04d}.jpg", photo(n)) for n in range(20)])
    assert prepare(tmp_path / "in", tmp_path / "out") == []
    assert len(open_source(str(tmp_path / "out"), ["rgb", "canny"])) == 20


def test_beside_an_image_called_like_the_sample_others_are_companions_and_named(tmp_path: Path) -> None:
    members = [("a.depth.png", b"d"), ("a.jpg", b"a"), ("a.json", b"{}"), ("a.normal.png", b"n")]
    first, *others = read(write_tar(tmp_path / "a.tar", *members), "{path}.depth.png")
    assert (first.file, first.beside) == ("a.tar/a.jpg", {"{path}.depth.png": b"d"})
    assert [item.file for item in others] == ["a.tar/a.normal.png"]
    assert "another image of its sample is the photograph" in others[0].reason


def test_files_without_a_photograph_are_named_in_a_tar_too(tmp_path: Path) -> None:
    members = [("a.jpg", b"a"), ("a.png", b"ma"), ("a.txt", b"ta"), ("c.png", b"c"), ("d.txt", b"td")]
    a, c, d = read(write_tar(tmp_path / "a.tar", *members), "{path}.png", "{path}.txt")
    assert (a.file, a.beside) == ("a.tar/a.jpg", {"{path}.png": b"ma", "{path}.txt": b"ta"})
    assert (c.file, c.data, c.beside) == ("a.tar/c.png", b"c", {})
    assert (d.file, d.reason) == ("a.tar/d.txt", "there is no photograph that it belongs to")


def test_labels_in_folders_of_their_own_without_a_photograph_are_named(tmp_path: Path) -> None:
    members = [("txt/1.txt", b"t1"), ("images/1.png", b"1"), ("txt/2.txt", b"t2"), ("txt/3.json", b"{}")]
    items = read(write_tar(tmp_path / "a.tar", *members), "txt/{stem}.txt")
    assert [(item.file, bool(item.reason)) for item in items] == [
        ("a.tar/images/1.png", False),
        ("a.tar/txt/2.txt", True),
        ("a.tar/txt/3.json", True),
    ]
    assert items[0].beside == {"txt/{stem}.txt": b"t1"}


def test_an_empty_label_is_there(tmp_path: Path) -> None:
    [item] = read(write_tar(tmp_path / "a.tar", ("a.jpg", b"a"), ("a.txt", b"")), "{path}.txt")
    assert item.beside == {"{path}.txt": b""}


def test_nothing_but_bytes_is_taken_of_tricky_members(tmp_path: Path) -> None:
    odd = ["/etc/passwd.jpg", "../../up.jpg", "c:\\x.jpg", "sp ace/ünï.jpg", "a/../../b.jpg", "-rf.jpg", "\udcff.jpg"]
    special_members = [
        special("link.jpg", tarfile.SYMTYPE, "/etc/passwd"),
        special("hard.jpg", tarfile.LNKTYPE, "0.jpg"),
        *[special(name, kind) for name, kind in (("tty.jpg", tarfile.CHRTYPE), ("queue.jpg", tarfile.FIFOTYPE))],
    ]
    inside = tmp_path / "inside"
    tar = write_tar(inside / "a.tar", *[(name, photo(n)) for n, name in enumerate(odd)], *special_members)
    items = read(tar)
    taken = [item for item in items if not item.reason]
    assert [item.data for item in taken] == [photo(n) for n in range(len(odd))]
    assert len({item.key for item in taken}) == len(odd)
    assert all(not item.key.startswith(("/", "-", ".")) and ".." not in item.key for item in taken)
    reasons = {item.file: item.reason for item in items if item.reason}
    assert "a link to '/etc/passwd'" in reasons["a.tar/link.jpg"]
    assert "a link to '0.jpg'" in reasons["a.tar/hard.jpg"]
    assert all("a device or pipe" in reasons[f"a.tar/{name}.jpg"] for name in ("tty", "queue"))
    rejected = prepare(inside, tmp_path / "out")
    assert sorted(rejected) == sorted(reasons)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inside", "out"]
    assert [path.name for path in inside.iterdir()] == ["a.tar"]


MEMBERS = [member for n in range(4) for member in ((f"{n}.jpg", photo(n)), (f"{n}.txt", b"words"))]
ONE = tar_bytes(MEMBERS[:2], end=False)


@pytest.mark.parametrize(
    ("content", "taken"),
    [
        (tar_bytes(MEMBERS)[: len(ONE) + 1000], [0]),  # within the second photograph
        (tar_bytes(MEMBERS[:3], end=False), [0]),  # before the text of the second one
        (tar_bytes(MEMBERS[:4], end=False), [0, 1]),  # at the end of a sample, without the end mark
        (tar_bytes(MEMBERS[:4], end=False) + b"?" * 5000, [0, 1]),  # garbage
        (tar_bytes(MEMBERS[:4], end=False) + tar_bytes(MEMBERS[4:])[:100], [0, 1]),  # within a header
        (b"no tar at all" * 100, []),
        (b"", []),
        (gzip.compress(tar_bytes(MEMBERS), 0)[: len(ONE) + 1000], [0]),
    ],
    ids=["photograph", "text", "end", "garbage", "header", "no tar", "empty", "gzip"],
)
def test_of_a_damaged_tar_the_readable_samples_are_taken(tmp_path: Path, content: bytes, taken: list[int]) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    *items, rest = read(tmp_path / "a.tar", "{path}.txt")
    assert (rest.file, bool(rest.data)) == ("a.tar", False)
    assert "damaged after" in rest.reason
    assert [item.data for item in items] == [photo(n) for n in taken]
    assert all(item.beside == {"{path}.txt": b"words"} for item in items)


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tgz"])
def test_tars_may_be_compressed(tmp_path: Path, ending: str) -> None:
    content = tar_bytes(MEMBERS)
    (tmp_path / f"a.{ending}").write_bytes(content if ending == "tar" else gzip.compress(content))
    assert [item.data for item in read(tmp_path / f"a.{ending}", "{path}.txt")] == [photo(n) for n in range(4)]


def corpus(folder: Path, count: int = 3) -> Path:
    for n in range(count):
        write_tar(folder / f"{n:05d}.tar", *[(f"{n}-{m}.jpg", photo(10 * n + m)) for m in range(n + 1)])
    return folder


@pytest.mark.parametrize("form", ["", "/{00000..00002}.tar", "/*.tar", "/0000[0-2].tar"])
def test_every_tar_becomes_one_shard(tmp_path: Path, form: str) -> None:
    assert prepare(Path(f"{corpus(tmp_path / 'in')}{form}"), tmp_path / "out", shard_size=1) == []
    data = open_source(str(tmp_path / "out"), ["rgb", "canny"])
    assert data.shard_sizes == [1, 2, 3]
    assert [data.key(n) for n in range(6)] == ["0-0", "1-0", "1-1", "2-0", "2-1", "2-2"]


@pytest.mark.slow
def test_any_number_of_processes_and_parts_gives_the_same_bytes(tmp_path: Path) -> None:
    corpus(tmp_path / "in", 4)
    prepare(tmp_path / "in", tmp_path / "one")
    prepare(tmp_path / "in", tmp_path / "two", workers=2)
    for part in range(3):
        prepare(tmp_path / "in", tmp_path / "parts", part=Part(part, 3))
    assert len(tars(tmp_path / "one")) == 4 * 6
    assert tars(tmp_path / "two") == tars(tmp_path / "parts") == tars(tmp_path / "one")


def test_one_damaged_tar_leaves_the_others_alone(tmp_path: Path) -> None:
    corpus(tmp_path / "in")
    (tmp_path / "in/00001.tar").write_bytes(b"no tar")
    rejected = prepare_photos(recipe(tmp_path / "in", tmp_path / "out"), workers=1, progress=False)
    assert [(entry.file, entry.by, entry.shard) for entry in rejected] == [("00001.tar", "input", 1)]
    assert open_source(str(tmp_path / "out"), ["rgb"]).shard_sizes == [1, 0, 3]


def test_tars_that_come_later_get_shards_of_their_own(tmp_path: Path) -> None:
    corpus(tmp_path / "in", 2)
    prepare(tmp_path / "in", tmp_path / "out")
    before = (tmp_path / "out/rgb/shard-00001.tar").stat().st_mtime_ns
    write_tar(tmp_path / "in" / "0000a.tar", ("new.jpg", photo(99)))
    prepare(tmp_path / "in", tmp_path / "out")
    assert open_source(str(tmp_path / "out"), ["rgb"]).shard_sizes == [1, 2, 1]
    assert (tmp_path / "out/rgb/shard-00001.tar").stat().st_mtime_ns == before


def test_missing_tars_are_an_error_at_once(tmp_path: Path) -> None:
    corpus(tmp_path / "in", 2)
    with pytest.raises(DataError, match=r"00002\.tar is missing, 2 of the 4 tars"):
        prepare(tmp_path / "in" / "{00000..00003}.tar", tmp_path / "out")
    with pytest.raises(DataError, match="there are no tars"):
        prepare(tmp_path / "in" / "*.tar.gz", tmp_path / "other")


def test_a_folder_with_images_is_no_folder_of_tars(tmp_path: Path) -> None:
    corpus(tmp_path / "in", 1)
    (tmp_path / "in" / "loose.jpg").write_bytes(photo(7))
    assert prepare(tmp_path / "in", tmp_path / "out") == ["00000.tar"]
    assert len(open_source(str(tmp_path / "out"), ["rgb"])) == 1


def test_labels_from_tars_can_be_added_later(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", *MEMBERS)
    labels = {"canny": {}, "caption": {"kind": "text_file"}}
    prepare(tar, tmp_path / "whole", labels=labels)
    prepare(tar, tmp_path / "later", labels={"canny": {}})
    prepare(tar, tmp_path / "later", labels=labels)
    for source in ("rgb", "canny", "caption"):
        name = f"{source}/shard-00000.tar"
        assert (tmp_path / "later" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_commands_give_tars(tmp_path: Path) -> None:
    corpus(tmp_path / "in", 2)
    given = recipe(tmp_path, tmp_path / "out", input=f"pipe:cat '{tmp_path}/in'/{{00000..00001}}.tar")
    assert prepare_photos(given, workers=1, progress=False) == []
    assert open_source(str(tmp_path / "out"), ["rgb"]).shard_sizes == [1, 2]


@pytest.mark.parametrize("before", ["cat {tar}; ", "head -c 3000 {tar}; ", ""])
def test_a_command_that_fails_ends_the_run_with_its_status_and_words(tmp_path: Path, before: str) -> None:
    tar = write_tar(tmp_path / "a.tar", *MEMBERS)
    command = f"{before.format(tar=tar)}echo no such bucket >&2; exit 7"
    with pytest.raises(DataError, match=r"ended with exit status 7: no such bucket\. Try it"):
        prepare_photos(recipe(tmp_path, tmp_path / "out", input=f"pipe:{command}"), workers=1, progress=False)
    assert not list((tmp_path / "out").rglob("*.tar"))


@pytest.mark.skipif(shutil.which("bash") is None, reason="sh knows no pipefail")
def test_a_pipeline_fails_with_any_of_its_parts(tmp_path: Path) -> None:
    half = tmp_path / "half.tar"
    half.write_bytes(tar_bytes(MEMBERS[:4]))
    command = f"(cat {half}; echo the network is gone >&2; exit 22) | cat"
    with pytest.raises(DataError, match=r"ended with exit status 22: the network is gone\. Try it"):
        prepare_photos(recipe(tmp_path, tmp_path / "out", input=f"pipe:{command}"), workers=1, progress=False)
    assert not list((tmp_path / "out").rglob("*.tar"))


@pytest.mark.parametrize("pipe", ["", " | cat"])
def test_commands_also_run_where_there_is_no_bash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipe: str) -> None:
    tar = write_tar(tmp_path / "a.tar", *MEMBERS)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    items = [*read_tar("a", f"pipe:cat {tar}{pipe}", ["{path}.txt"])]
    assert [item.data for item in items] == [photo(n) for n in range(4)]


def test_a_command_whose_output_is_not_needed_to_its_end_has_not_failed(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", *MEMBERS)
    items = [*read_tar("a", f"pipe:cat {tar}; head -c 300000 /dev/zero", ["{path}.txt"])]
    assert [item.reason for item in items] == [""] * 4
