"""A folder becomes aligned shards: nothing good is lost, nothing bad gets in, and every run gives the same bytes."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from fourm.config import build
from fourm.data.decode import decode
from fourm.data.source import open_source
from fourm.errors import ConfigError, DataError
from fourm.machine import WHOLE, Part
from fourm.modality import Modality
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.configs import LabelerConfig, like
from fourm.prepare.photos.job import prepare_photos
from fourm.prepare.photos.recipe import PhotosRecipe
from tests.photographs import broken, odd_names, save_photographs, unusual

LABELS: dict[str, Any] = {"canny": {}, "color_palette": {}, "metadata": {}, "crop_settings": {"num_crops": 3}}


@dataclass(frozen=True)
class FailsConfig(LabelerConfig):
    """A labeler that fails on some photographs."""

    target: ClassVar[str] = f"{__name__}:Fails"
    extension: ClassVar[str] = "txt"

    words: tuple[str, ...] = ()

    def modality(self, source: str) -> Modality:
        return like("caption", source)


class Fails:
    def __init__(self, config: FailsConfig, device: str) -> None:
        self.config = config

    def label(self, photos: Sequence[Photo]) -> list[bytes]:
        for photo in photos:
            if any(word in photo.origin.file for word in self.config.words):
                raise RuntimeError("index out of range in self")
        return [f"photo {photo.key}".encode() for photo in photos]


def recipe(photos: Path, out: Path, **options: Any) -> PhotosRecipe:
    given = {"input": str(photos), "output": str(out), "labels": LABELS, "shard_size": 5, "batch_size": 3, **options}
    return build(PhotosRecipe, given)


def prepare(
    photos: Path, out: Path, *, workers: int = 1, part: Part = WHOLE, retry: bool = False, **options: Any
) -> list[str]:
    found = prepare_photos(recipe(photos, out, **options), workers=workers, part=part, retry=retry, progress=False)
    return [entry.file for entry in found]


def tars(out: Path) -> dict[str, bytes]:
    """All that a reader of data sees."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.tar"))}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    save_photographs(tmp_path / "photos", 12)
    return tmp_path / "photos"


def test_all_labels_of_a_photograph_share_its_key(photos: Path, tmp_path: Path) -> None:
    assert prepare(photos, tmp_path / "out") == []
    sources = ["rgb", "origin", *LABELS]
    data = open_source(str(tmp_path / "out"), sources)
    assert data.shard_sizes == [5, 5, 2]
    modalities = recipe(photos, tmp_path / "out").modalities()
    for n in range(len(data)):
        files = data.read(n)
        assert json.loads(files["origin"])["file"].startswith(data.key(n))
        values = {name: decode(files[name], m, lambda: "") for name, m in modalities.items()}
        height, width = values["rgb"].shape[:2]
        assert values["canny"].shape == (height, width)
        assert (values["crop_settings"][:, 2:4] <= (height, width)).all()
        assert values["metadata"]["original_width"] == 120
        assert [len(colors) for colors in values["color_palette"].values()] == list(range(1, 8))


def test_a_second_run_does_nothing(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(photos, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.tar")}
    time.sleep(0.01)
    prepare(photos, out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.tar")} == before


def test_any_number_of_processes_and_parts_gives_the_same_bytes(photos: Path, tmp_path: Path) -> None:
    prepare(photos, tmp_path / "one")
    prepare(photos, tmp_path / "two", workers=2)
    for index in (2, 0, 1):
        prepare(photos, tmp_path / "parts", part=Part(index, 3))
    assert tars(tmp_path / "one") == tars(tmp_path / "two") == tars(tmp_path / "parts")
    facts = "rejected.jsonl", ".prepare/inputs/00000.jsonl"
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "parts" / f).read_bytes() for f in facts)


@pytest.mark.parametrize(
    "lost", ["rgb/shard-00001.tar", "canny/shard-00001.tar", ".prepare/shards/shard-00001.json", "canny"]
)
def test_only_what_is_missing_is_made(photos: Path, tmp_path: Path, lost: str) -> None:
    out = tmp_path / "out"
    prepare(photos, out)
    before = tars(out)
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*/shard-00000.tar") if lost not in str(path)}
    path = out / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    prepare(photos, out)
    assert tars(out) == before
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_label_that_is_added_later_is_as_if_it_had_been_there(photos: Path, tmp_path: Path) -> None:
    prepare(photos, tmp_path / "whole")
    prepare(photos, tmp_path / "later", labels={"canny": {}})
    prepare(photos, tmp_path / "later")
    assert tars(tmp_path / "later") == tars(tmp_path / "whole")


def test_broken_files_are_rejected_with_reasons_and_nothing_else_is_lost(photos: Path, tmp_path: Path) -> None:
    good = {
        *save_photographs(photos, 12),
        "deep/twin.jpg",
        "deep/other.png",
        *odd_names(photos / "odd"),
        *unusual(photos / "unusual"),
    }
    reasons = broken(photos)
    rejected = prepare_photos(recipe(photos, tmp_path / "out"), workers=1, progress=False)
    assert {entry.file for entry in rejected} == set(reasons)
    for entry in rejected:
        assert reasons[entry.file] in entry.reason, entry
    lines = (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()
    assert [json.loads(line)["file"] for line in lines] == [entry.file for entry in rejected]
    data = open_source(str(tmp_path / "out"), ["rgb", "origin", *LABELS])
    names = {Path(json.loads(data.read(n)["origin"])["file"]).name for n in range(len(data))}
    assert names == {Path(name).name for name in good}


def test_a_photograph_that_cannot_be_labelled_leaves_all_modalities(photos: Path, tmp_path: Path) -> None:
    given = recipe(photos, tmp_path / "out")
    given = replace(given, labels={**given.labels, "words": FailsConfig(words=("003", "007"))})
    rejected = prepare_photos(given, workers=1, progress=False)
    assert [entry.file for entry in rejected] == ["photo-007.jpg", "trip/photo-003.jpg"]
    assert {entry.by for entry in rejected} == {"words"}
    assert "index out of range" in rejected[0].reason
    data = open_source(str(tmp_path / "out"), ["rgb", *given.labels])
    assert len(data) == 10
    for n in range(len(data)):
        assert data.read(n)["words"].decode() == f"photo {data.key(n)}"


def test_a_label_added_later_removes_what_it_rejects_from_the_others(photos: Path, tmp_path: Path) -> None:
    out, whole = recipe(photos, tmp_path / "out"), recipe(photos, tmp_path / "whole")
    words = FailsConfig(words=("003",))
    prepare_photos(out, workers=1, progress=False)
    prepare_photos(replace(out, labels={**out.labels, "words": words}), workers=1, progress=False)
    prepare_photos(replace(whole, labels={**out.labels, "words": words}), workers=1, progress=False)
    assert tars(tmp_path / "out") == tars(tmp_path / "whole")
    assert len(open_source(str(tmp_path / "out"), ["rgb", "words", *LABELS])) == 11


@pytest.mark.parametrize("damage", ["moved away", "emptied", "replaced"])
def test_a_label_is_not_added_to_photographs_that_are_gone(photos: Path, tmp_path: Path, damage: str) -> None:
    out = tmp_path / "out"
    prepare(photos, out)
    before = tars(out)
    if damage == "moved away":
        (photos / "photo-001.jpg").unlink()
    elif damage == "emptied":
        shutil.rmtree(photos)
        photos.mkdir()
    else:
        shutil.copy(photos / "photo-002.jpg", photos / "photo-001.jpg")
    with pytest.raises(DataError, match=r"photo.*(has changed|not there|cannot be read)"):
        prepare(photos, out, labels={**LABELS, "mask": {"kind": "alpha"}})
    assert before.items() <= tars(out).items()


def test_a_labeler_that_breaks_on_everything_rejects_nothing(photos: Path, tmp_path: Path) -> None:
    out = recipe(photos, tmp_path / "out")
    prepare_photos(out, workers=1, progress=False)
    before = tars(tmp_path / "out")
    with pytest.raises(ConfigError, match="labels.words broke on all 5 photographs.*index out of range"):
        prepare_photos(
            replace(out, labels={**out.labels, "words": FailsConfig(words=("photo",))}), workers=1, progress=False
        )
    assert tars(tmp_path / "out") == before


def test_what_a_kill_left_of_a_removal_is_finished(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fourm.prepare.photos import shard as shards

    first, words = recipe(photos, tmp_path / "out"), FailsConfig(words=("003",))
    prepare_photos(first, workers=1, progress=False)
    (tmp_path / "out" / "tok_rgb").mkdir()  # tokens, made by another command, follow too
    for path in (tmp_path / "out" / "rgb").iterdir():
        shutil.copy(path, tmp_path / "out" / "tok_rgb" / path.name)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    second = replace(first, labels={"words": words})
    with monkeypatch.context() as patch:
        patch.setattr(shards, "prune", lambda out, shard, record: die() if len(record.sources) > 6 else None)
        with pytest.raises(KeyboardInterrupt):
            prepare_photos(second, workers=1, progress=False)
    prepare_photos(second, workers=1, progress=False)
    whole = recipe(photos, tmp_path / "whole")
    prepare_photos(replace(whole, labels={**whole.labels, "words": words}), workers=1, progress=False)
    found = {name: content for name, content in tars(tmp_path / "out").items() if not name.startswith("tok_rgb")}
    assert found == tars(tmp_path / "whole")
    assert len(open_source(str(tmp_path / "out"), ["rgb", "tok_rgb", "words", *LABELS])) == 11


def test_a_twin_of_what_another_label_rejected_stays_out(photos: Path, tmp_path: Path) -> None:
    shutil.copy(photos / "photo-001.jpg", photos / "photo-001.png")
    out, words = recipe(photos, tmp_path / "out"), FailsConfig(words=("photo-001.jpg",))
    prepare_photos(out, workers=1, progress=False)
    prepare_photos(replace(out, labels={"words": words}), workers=1, progress=False)
    shutil.rmtree(tmp_path / "out" / "rgb")
    prepare_photos(out, workers=1, progress=False)
    data = open_source(str(tmp_path / "out"), ["rgb", "words", *LABELS])
    assert "photo-001" not in [data.key(n) for n in range(len(data))]


def test_labels_are_made_of_the_same_labels_everywhere(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for n in range(12):
        name = f"{'trip/' if n % 3 == 0 else ''}photo-{n:03d}.txt"
        (photos / name).write_text("A rectangle.")
    prepare(photos, out)
    caption = {"caption": {"kind": "text_file"}}
    with pytest.raises(DataError, match="metadata was made without the label 'caption'.*remove that folder"):
        prepare(photos, out, labels={**LABELS, **caption})
    shutil.rmtree(out / "metadata")
    prepare(photos, out, labels={**LABELS, **caption})
    with pytest.raises(DataError, match="metadata was made from the label 'caption', which this run does not list"):
        prepare(photos, out)


def test_repaired_files_come_in_with_retry(photos: Path, tmp_path: Path) -> None:
    out, good = tmp_path / "out", (photos / "photo-001.jpg").read_bytes()
    (photos / "photo-001.jpg").write_bytes(good[:300])
    assert prepare(photos, out) == ["photo-001.jpg"]
    (photos / "photo-001.jpg").write_bytes(good)
    assert prepare(photos, out) == ["photo-001.jpg"]
    with pytest.raises(ConfigError, match="has the label 'canny' too"):
        prepare(photos, out, labels={"color_palette": {}}, retry=True)
    assert prepare(photos, out, retry=True) == []
    assert len(open_source(str(out), ["rgb", *LABELS])) == 12


def test_the_input_may_be_written_in_other_ways(photos: Path, tmp_path: Path) -> None:
    prepare(photos, tmp_path / "out")
    given = recipe(photos, tmp_path / "out")
    prepare_photos(replace(given, input=f"{photos}/"), workers=1, progress=False)
    prepare_photos(replace(given, input=f"{photos}/../photos"), workers=1, progress=False)


def test_two_machines_that_see_the_input_grow_cut_it_alike(photos: Path, tmp_path: Path) -> None:
    from fourm.prepare.photos.record import keep_pieces

    seen = {"one": [["a"], ["b"]], "two": [["a"], ["b", "c"]]}

    def pieces(name: str) -> Any:
        def all_pieces(known: list[Any]) -> Any:
            yield from known
            before = {file for piece in known for file in piece["files"]}
            fresh = [file for piece in seen[name] for file in piece if file not in before]
            if name == "two" and known == [{"files": ["a"]}]:
                keep_pieces(tmp_path, pieces("one"))  # the other one is quicker
            if fresh:
                yield {"files": fresh}

        return all_pieces

    assert keep_pieces(tmp_path, lambda known: iter([{"files": ["a"]}])) == [{"files": ["a"]}]
    assert keep_pieces(tmp_path, pieces("two")) == [{"files": ["a"]}, {"files": ["b"]}, {"files": ["c"]}]
    assert keep_pieces(tmp_path, pieces("one")) == [{"files": ["a"]}, {"files": ["b"]}, {"files": ["c"]}]


def test_photographs_that_come_later_get_shards_of_their_own(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(photos, out)
    before = tars(out)
    shutil.copy(photos / "photo-001.jpg", photos / "another.jpg")
    prepare(photos, out)
    after = tars(out)
    assert before.items() <= after.items()
    data = open_source(str(out), ["rgb", *LABELS])
    assert data.shard_sizes == [5, 5, 2, 1]
    assert data.key(12) == "another"


def test_photographs_are_shuffled_once_or_stay_in_their_order(photos: Path, tmp_path: Path) -> None:
    prepare(photos, tmp_path / "shuffled")
    prepare(photos, tmp_path / "sorted", seed=None)
    keys = {}
    for name in ("shuffled", "sorted"):
        data = open_source(str(tmp_path / name), ["rgb", *LABELS])
        keys[name] = [data.key(n) for n in range(len(data))]
    assert keys["shuffled"] != keys["sorted"] == sorted(keys["shuffled"])


def test_settings_are_not_mixed(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(photos, out)
    with pytest.raises(DataError, match="image"):
        prepare(photos, out, image={"size": 64})
    with pytest.raises(DataError, match=r"low 100.0.*50.0"):
        prepare(photos, out, labels={"canny": {"low": 50}})


def test_shards_of_others_are_not_touched(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "rgb").mkdir(parents=True)
    (tmp_path / "out" / "rgb" / "shard-00000.tar").write_bytes(bytes(10240))
    with pytest.raises(DataError, match="did not make"):
        prepare(photos, tmp_path / "out")


def test_labels_made_of_a_label_that_is_made_again_are_made_again(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for file in list(photos.rglob("*.[jp][pn]g")):
        file.with_suffix(".txt").write_text("one two three")
    labels = {**LABELS, "caption": {"kind": "text_file"}}
    prepare(photos, out, labels=labels)
    for file in photos.rglob("*.txt"):
        file.write_text("one two three four five")
    shutil.rmtree(out / "caption")
    prepare(photos, out, labels=labels)
    data = open_source(str(out), ["metadata"])
    assert {json.loads(data.read(n)["metadata"])["caption_n_words"] for n in range(len(data))} == {5}


@pytest.mark.parametrize("out", [".", "shards"])
def test_the_output_may_not_lie_in_the_input(photos: Path, out: str) -> None:
    with pytest.raises(ConfigError, match="lies in the input"):
        prepare(photos, photos / out)


def test_a_lost_folder_of_notes_is_named(photos: Path, tmp_path: Path) -> None:
    prepare(photos, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / ".prepare")
    with pytest.raises(DataError, match="lost its hidden folder .prepare"):
        prepare(photos, tmp_path / "out")


def test_a_label_that_never_began_can_be_corrected(photos: Path, tmp_path: Path) -> None:
    (photos / "table.csv").write_text("file_name,text\n")
    wrong = {"words": {"kind": "text_table", "file": "table.csv", "text": "caption"}}
    with pytest.raises((ConfigError, DataError)):
        prepare(photos, tmp_path / "out", labels=wrong)
    right = {"words": {"kind": "text_table", "file": "table.csv", "missing": "empty"}}
    assert prepare(photos, tmp_path / "out", labels=right) == []


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "notes.txt").write_text("words")
    with pytest.raises(ConfigError, match=r"none of the 1 files.*--retry"):
        prepare(tmp_path / "photos", tmp_path / "out")
    with pytest.raises(DataError, match="no folder"):
        prepare(tmp_path / "elsewhere", tmp_path / "out")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"cany": {}}, "Did you mean 'canny'"),
        ({"rgb": {"kind": "canny"}}, "may not be 'rgb'"),
        ({"../up": {"kind": "canny"}}, "folder of its name"),
        ({"mycrops": {"kind": "crop_settings"}}, "call the label so"),
        ({"canny": {"hight": 3}}, "Did you mean 'high'"),
        ({"text": {"kind": "text_file", "file": "captions.txt"}}, "template"),
    ],
)
def test_mistakes_in_a_recipe_are_named(photos: Path, tmp_path: Path, labels: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        prepare(photos, tmp_path / "out", labels=labels)


def test_captions_and_masks_of_the_users_come_along(tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "stamps"
    folder.mkdir()
    for n in range(4):
        cut = Image.new("RGBA", (60, 40), (0, 0, 0, 0))
        cut.paste((200, 10, 10, 255), (n * 10, 10, n * 10 + 20, 30))
        cut.save(folder / f"{n}.png")
        (folder / f"{n}.txt").write_text(f"Stamp number {n}.\nde=Stempel {n}.\n", encoding="utf-8")
    labels = {"caption": {"kind": "text_file", "lines": "first"}, "mask": {"kind": "alpha"}}
    assert prepare(folder, tmp_path / "out", labels=labels) == []
    data = open_source(str(tmp_path / "out"), ["rgb", "caption", "mask"])
    modalities = recipe(folder, tmp_path / "out", labels=labels).modalities()
    for n in range(4):
        files = data.read(n)
        number = int(data.key(n))
        assert decode(files["caption"], modalities["caption"], str) == f"Stamp number {number}."
        mask = decode(files["mask"], modalities["mask"], str)
        expected = np.zeros((40, 60), int)
        expected[10:30, number * 10 : number * 10 + 20] = 1
        assert (mask == expected).all()


def test_a_photograph_without_its_caption_is_named(photos: Path, tmp_path: Path) -> None:
    (photos / "photo-001.txt").write_text("a rectangle")
    labels = {"caption": {"kind": "text_file"}}
    rejected = prepare(photos, tmp_path / "out", labels=labels)
    assert len(rejected) == 11
    assert prepare(photos, tmp_path / "all", labels={"caption": {"kind": "text_file", "missing": "empty"}}) == []
