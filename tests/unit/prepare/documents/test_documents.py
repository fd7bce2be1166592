"""Documents about rooms and clothes: true, not to be guessed, and the same whenever they are made."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fourm.catalog import FASHION_CLASSES
from fourm.data.interleaved_configs import InterleavedConfig
from fourm.data.interleaved_files import LineDocuments, read_image
from fourm.data.interleaved_parts import Image as Shown
from fourm.data.interleaved_parts import Text
from fourm.data.shards import ShardWriter, begin_shards
from fourm.errors import ConfigError, DataError
from fourm.prepare.documents.facts import Room
from fourm.prepare.documents.job import SUMMARY, prepare_documents
from fourm.prepare.documents.names import NAMES, bound_names
from fourm.prepare.documents.pictures import look_along, png
from fourm.prepare.documents.questions import Question, balanced, guessable, questions
from fourm.prepare.documents.sentences import passage, story, texts
from fourm.prepare.documents.show import show_documents
from fourm.prepare.documents.tasks import READERS, TASKS
from fourm.prepare.fashion import captions
from fourm.prepare.rooms import render
from fourm.prepare.rooms.caption import Seen
from fourm.rng import generator

SIZE = 32


def seen(kind: str, colour: str, x: float, share: float = 0.1, depth: float = 2.0) -> Seen:
    """An object whose box is 0.2 wide and stands in the middle row."""
    return Seen(kind, colour, share, (x - 0.1, 0.4, x + 0.1, 0.6), depth)


def room(*items: Seen) -> Room:
    named = tuple(sorted({item.kind for item in items if item.share > 1 / 34}))
    return Room("images/rgb/shard-00000.tar/000000.png", items, named, ("a room",))


BEDROOM = room(
    seen("bed", "red", 0.2, share=0.3), seen("chair", "blue", 0.5, depth=4.0), seen("chair", "blue", 0.8, depth=5)
)
STUDY = room(seen("desk", "brown", 0.8), seen("lamp", "white", 0.5, share=0.02))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of some rendered rooms."""
    root = tmp_path_factory.mktemp("documents")
    render(root / "rooms", num=24, size=SIZE, seed=3, workers=1, shard_size=16, progress=False)
    prepare_documents(root / "rooms", root / "out", progress=False)
    return root


def lines(made: Path, task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (made / "out" / f"{task}.jsonl").read_text().splitlines()]


def test_questions_have_one_true_answer() -> None:
    asked = {(q.text, q.answer) for q in _all_about(BEDROOM)}
    assert {
        ("what colour is the bed?", "red"),
        ("how many chairs are there?", "two"),
        ("how many sofas are there?", "none"),
        ("where is the bed?", "left"),
        ("what is furthest to the left?", "bed"),
        ("what is furthest to the right?", "chair"),
        ("what is nearest?", "bed"),
        ("what takes up most space?", "bed"),
    } <= asked
    assert not any("colour is the chair" in text or "where is the chair" in text for text, _ in asked)


def test_what_is_hardly_seen_is_not_counted() -> None:
    hidden = room(seen("desk", "brown", 0.5), seen("lamp", "white", 0.5, share=0.003))
    assert not any("lamp" in q.text for q in _all_about(hidden))


def _all_about(one: Room) -> list[Question]:
    from fourm.prepare.documents import questions as module

    return list(module._about(0, one))


def test_no_answer_is_much_more_frequent_than_others() -> None:
    """Nine of ten rooms have a brown desk: who says brown without looking is right in a quarter of what is asked."""
    colours = ["brown"] * 90 + ["white"] * 4 + ["black"] * 3 + ["gray"] * 2 + ["beige"]
    candidates = [Question(n, "colour", "what colour is the desk?", colour) for n, colour in enumerate(colours)]
    kept = list(balanced(candidates, 0))
    answers = Counter(q.answer for q in kept)
    assert guessable(candidates) == 0.9
    assert guessable(kept) == answers["brown"] / len(kept) <= 0.3
    assert set(answers) == set(colours)


def test_a_question_with_two_answers_is_not_asked() -> None:
    candidates = [
        Question(n, "count", "how many doors are there?", answer) for n, answer in enumerate(["one", "two"] * 9)
    ]
    assert list(balanced(candidates, 0)) == []


def test_questions_depend_on_the_seed_alone() -> None:
    rooms = [
        room(seen("bed", colour, x)) for colour in ("red", "blue", "teal", "pink", "gray") for x in (0.2, 0.5, 0.8)
    ]
    assert questions(rooms, 0) == questions(rooms, 0)
    assert [q.room for q in questions(rooms, 0)] == sorted(q.room for q in questions(rooms, 0))


def test_a_story_shows_each_room_before_its_sentence_and_compares_it_truly() -> None:
    for seed in range(20):
        parts = story([BEDROOM, STUDY], np.random.default_rng(seed))
        assert [isinstance(part, dict) for part in parts] == [True, False, True, False, False]
        assert parts[4] in {
            "unlike the room before, it has no bed.",
            "unlike the room before, it has no chair.",
            "the room before had no desk.",
        }


def test_a_passage_answers_what_is_asked_about_it() -> None:
    words, asked = passage(BEDROOM, np.random.default_rng(0))
    assert ("colour", "what colour is the bed?", "red") in asked
    assert ("count", "how many chairs are there?", "two") in asked
    assert "a red bed" in words
    assert "two blue chairs" in words


def test_sums_in_texts_are_right() -> None:
    numbers = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight"]
    found = [t.split() for s in range(50) for t in texts([BEDROOM], np.random.default_rng(s), BEDROOM)]
    sums = [words for words in found if len(words) == 8 and words[2] == "and"]
    assert len(sums) == 50
    for first, _, _, second, _, _, both, _ in sums:
        assert numbers.index(first) + numbers.index(second) == numbers.index(both)


def test_a_name_can_be_told_from_its_document_alone() -> None:
    pictures = {kind: [f"{kind}{n}" for n in range(8)] for kind in ("bed", "lamp", "plant", "table", "desk")}
    documents = [bound_names(pictures, shots, np.random.default_rng(seed)) for shots in (1, 4) for seed in range(200)]
    for document in documents:
        shots, known = document["shots"], dict[str, str]()
        shown = [part["image"] for part in document["parts"] if "image" in part]
        said = [part for part in document["parts"] if part.get("text") in NAMES]
        assert len(set(shown)) == len(shown) == len(said) == 2 * shots + 1
        for image, name in zip(shown, said):
            kind = image.rstrip("0123456789")
            assert name["asked"] == (kind in known)
            assert known.setdefault(kind, name["text"]) == name["text"]
        assert said[-1]["text"] == document["answer"]
        assert set(document["kinds"]) != {"table", "desk"}  # too much alike
    places = Counter(document["names"].index(document["answer"]) for document in documents)
    assert 160 < places[0] < 240
    last_shown = [d["parts"][-5]["text"] for d in documents if d["shots"] == 1]
    same = sum(name == d["answer"] for name, d in zip(last_shown, documents))
    assert 70 < same < 130  # nor does the name that came last tell


def test_frames_show_things_in_the_order_in_which_they_appear() -> None:
    frames, appears = look_along(BEDROOM, Image.new("RGB", (SIZE, SIZE)))
    assert len(frames) == 4
    assert [(frame, item.kind) for frame, item in appears] == [(0, "bed"), (1, "chair"), (2, "chair")]


@pytest.mark.parametrize("task", TASKS)
def test_every_task_can_be_read_with_its_pictures(made: Path, task: str) -> None:
    config = InterleavedConfig(reader=READERS.get(task, "documents"))  # type: ignore[arg-type]
    documents = LineDocuments(str(made / "out" / f"{task}.jsonl"), config)
    for n in range(documents.sizes[0]):
        parts = documents.read(0, n)
        assert parts
        for part in parts:
            if isinstance(part, Shown):
                assert documents.image(part).startswith(b"\x89PNG")
        if task in ("text", "text_questions"):
            assert all(isinstance(part, Text) for part in parts)


def test_only_answers_are_asked(made: Path) -> None:
    for line in lines(made, "questions"):
        asked = [part for part in line["parts"] if part["asked"]]
        assert asked == [{"text": line["answer"], "asked": True}]


def test_pictures_are_those_of_the_rooms(made: Path) -> None:
    from fourm.data.source import open_source

    source = open_source(str(made / "rooms"), ["rgb"])
    names = [line["image"] for line in lines(made, "captions")]
    assert [read_image(made / "out", name) for name in names] == [source.read(n)["rgb"] for n in range(24)]


def test_boxes_are_where_things_are(made: Path) -> None:
    facts = [json.loads(line) for path in sorted((made / "out" / "facts").iterdir()) for line in path.open()]
    by_image = {fact["image"]: fact["seen"] for fact in facts}
    line = lines(made, "boxes")[0]
    words, box = line["parts"][1]["text"], line["parts"][2]["image"]
    item = next(item for item in by_image[line["parts"][-1]["image"]] if words.endswith(item["kind"]))
    rows, columns = np.nonzero(np.asarray(Image.open(io.BytesIO(read_image(made / "out", box))).convert("L")))
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert found == tuple(round(value * SIZE) for value in item["box"])


def test_subjects_are_shown_before_the_room_that_has_them(made: Path) -> None:
    documents = lines(made, "subjects")
    assert documents
    for line in documents:
        asked = [part for part in line["parts"] if part.get("asked", True)]
        assert asked == [line["parts"][-1]]
        assert sum("text" in part for part in line["parts"]) - 1 <= sum("image" in part for part in line["parts"]) - 1


def test_cut_outs_are_the_same_subjects_with_transparency_around_them(made: Path) -> None:
    plain, cut = lines(made, "subjects"), lines(made, "cut_outs")
    assert len(plain) == len(cut) > 0
    facts = [json.loads(line) for path in sorted((made / "out" / "facts").iterdir()) for line in path.open()]
    by_image = {fact["image"]: fact["seen"] for fact in facts}
    shares = []
    for before, after in zip(plain, cut):
        for number, (one, other) in enumerate(zip(before["parts"], after["parts"], strict=True)):
            if "text" in one or number == len(before["parts"]) - 1:
                assert one == other
                continue
            first, second = (Image.open(io.BytesIO(read_image(made / "out", part["image"]))) for part in (one, other))
            np.testing.assert_array_equal(np.asarray(first.convert("RGB")), np.asarray(second.convert("RGB")))
            if second.mode == "RGB":  # a box
                continue
            words = next(part["text"] for part in reversed(after["parts"][:number]) if "text" in part)
            (item,) = (i for i in by_image[after["parts"][-1]["image"]] if words.endswith(i["kind"]))
            x1, y1, x2, y2 = item["box"]
            around = [max(x1 - (x2 - x1) / 10, 0), min(x2 + (x2 - x1) / 10, 1)]
            around += [max(y1 - (y2 - y1) / 10, 0), min(y2 + (y2 - y1) / 10, 1)]
            area = (around[1] - around[0]) * (around[3] - around[2])
            shares.append(np.asarray(second)[..., 3].mean() / 255 * area / item["share"])
    assert shares
    assert np.median(shares) == pytest.approx(1, abs=0.1)


def test_an_interrupted_run_goes_on_and_gives_the_same(made: Path, tmp_path: Path) -> None:
    prepare_documents(made / "rooms", tmp_path, tasks=["captions", "boxes"], progress=False)
    (tmp_path / "boxes.jsonl").unlink()
    (tmp_path / "facts" / "shard-00001.jsonl").unlink()
    prepare_documents(made / "rooms", tmp_path, progress=False)
    expected = {p.relative_to(made / "out"): p.read_bytes() for p in _data(made / "out")}
    assert {p.relative_to(tmp_path): p.read_bytes() for p in _data(tmp_path)} == expected


def _data(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and p.suffix not in (".lines", ".html")]


def test_what_is_there_is_kept(made: Path) -> None:
    path = made / "out" / "captions.jsonl"
    before = path.stat().st_mtime_ns
    prepare_documents(made / "rooms", made / "out", progress=False)
    assert path.stat().st_mtime_ns == before


def test_documents_of_other_data_are_not_mixed(made: Path) -> None:
    with pytest.raises(DataError, match="another seed"):
        prepare_documents(made / "rooms", made / "out", seed=1, progress=False)
    with pytest.raises(ConfigError, match="there is no task 'captoins'.*captions"):
        prepare_documents(made / "rooms", made / "out", tasks=["captoins"], progress=False)
    with pytest.raises(DataError, match="holds neither a complete set of rooms nor of clothes"):
        prepare_documents(made / "out", made / "other", progress=False)


def test_the_page_shows_every_task(made: Path) -> None:
    page = show_documents(made / "out", made / "page.html", num=2).read_text()
    for task in TASKS:
        assert f">{task}<" in page
    assert "the best guess without pictures is right in" in page
    with pytest.raises(DataError, match="holds no documents"):
        show_documents(made / "rooms", made / "page.html")


@pytest.fixture(scope="module")
def clothes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of 60 photographs, each a bar 8 wide and 24 high, but for the first, which is black."""
    root = tmp_path_factory.mktemp("clothes")
    facts, kinds = {"made_by": "fourm prepare fashion"}, ("image", "silhouette", "caption", "label")
    for shard in begin_shards(root / "train", dict.fromkeys(kinds, facts), 60, 30):
        endings = {"image": "png", "silhouette": "png", "caption": "json", "label": "json"}
        with ShardWriter(root / "train", shard // 30, endings) as writer:
            for n in range(shard, shard + 30):
                picture = Image.new("L", (28, 28))
                if n:
                    picture.paste(195 + n, (10, 2, 18, 26))
                words = json.dumps(captions(n % 10, generator(n))).encode()
                shape = png(picture.point(lambda value: 255 if value else 0))
                label = str(n % 10).encode()
                writer.write(f"{n:06d}", {"image": png(picture), "silhouette": shape, "caption": words, "label": label})
    prepare_documents(root / "train", root / "out", progress=False)
    return root / "out"


def test_clothes_become_documents_too(clothes: Path) -> None:
    summary = json.loads((clothes / SUMMARY).read_bytes())
    assert sorted(summary) == [
        "boxes", "captions", "chat", "cut_outs", "names", "questions", "subjects", "text", "text_to_image"
    ]  # fmt: skip
    for task, facts in summary.items():
        documents = LineDocuments(str(clothes / f"{task}.jsonl"), InterleavedConfig(reader=facts["reader"]))
        for n in range(min(documents.sizes[0], 10)):
            for part in documents.read(0, n):
                if isinstance(part, Shown):
                    assert documents.image(part).startswith(b"\x89PNG")


def test_cut_out_clothes_are_opaque_where_their_silhouette_is(clothes: Path) -> None:
    subjects, cut = (
        [json.loads(line) for line in (clothes / f"{task}.jsonl").read_text().splitlines()]
        for task in ("subjects", "cut_outs")
    )
    for before, after in zip(subjects, cut, strict=True):
        one, other = (
            Image.open(io.BytesIO(read_image(clothes, [p for p in line["parts"] if "image" in p][-2]["image"])))
            for line in (before, after)
        )
        np.testing.assert_array_equal(np.asarray(one.convert("L")), np.asarray(other.convert("L")))
        alpha = np.asarray(other.getchannel("A"))
        assert {0, 255} <= {*alpha.flatten().tolist()}
        np.testing.assert_array_equal(alpha > 128, np.asarray(one.convert("L")) > 128)


@pytest.mark.parametrize("task", ["boxes", "subjects"])
def test_places_and_subjects_of_clothes_stand_behind_their_words(clothes: Path, task: str) -> None:
    lines = [json.loads(line) for line in (clothes / f"{task}.jsonl").read_text().splitlines()]
    pairs = [json.loads(line) for line in (clothes / "captions.jsonl").read_text().splitlines()]
    outline = np.zeros((28, 28), np.uint8)
    outline[2:26, 10:18] = 255
    outline[3:25, 11:17] = 0
    shown = []

    assert len(lines) == 59
    for n, line in enumerate(lines, 1):
        first, *between, last = line["parts"]
        images = [part for part in between if "image" in part]
        texts = [first, *(part for part in between if "text" in part)]
        assert "".join(part["text"] for part in texts) in pairs[n]["caption"]
        assert first["text"].endswith(FASHION_CLASSES[n % 10])
        assert between[: len(images)] == images
        assert not any(part["asked"] for part in (first, *between))
        assert last == {"image": pairs[n]["image"]}
        pixels = [
            np.asarray(Image.open(io.BytesIO(read_image(clothes, part["image"]))).convert("L")) for part in images
        ]
        shown.append([bool((found == outline).all()) for found in pixels])
        if task == "subjects":  # the bar and a tenth of its size around it, over all of the picture
            assert pixels[-1][14, 14] == 195 + n
            assert (pixels[-1] > 100).mean() > 0.6
    assert {tuple(found) for found in shown} == ({(True,)} if task == "boxes" else {(False,), (True, False)})
