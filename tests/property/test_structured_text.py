"""Values with structure survive being text, and any text gives a value: metadata, palettes, people, instances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourm.data.geometry import Geometry, whole
from fourm.data.instances import crop_boxes, crop_people, mirror_person
from fourm.tokenizers.structured import KINDS
from fourm.tokenizers.structured.metadata import FIELDS, chunks_to_metadata, metadata_to_chunks
from fourm.tokenizers.structured.palette import palette_to_text, text_to_palette
from fourm.tokenizers.structured.poses import BLOCKS, poses_to_text, text_to_poses
from fourm.tokenizers.structured.sam import sam_to_text, text_to_sam
from fourm.tokenizers.text import TextTokenizer, train_wordpiece

NUM_STRINGS = 100_000
SENTENCES = [
    "human pose global camera shape",
    "point polygon none",
    "a red bed left of a human, two poses in a polygon",
]
GRAMMAR = [
    *("human", "pose", "global", "camera", "shape", "point", "polygon", "none", "bed", "[UNK]", "v0=", "v4=1", "="),
    *(f"v{axis}={value}" for axis in range(4) for value in (0, 1, 5, 13, 49, 223, 255, 511, 512, 999)),
]
unit = st.floats(0, 1)
seeds = st.integers(0, 2**32 - 1)
codes = st.integers(0, 1023)
LARGEST = {"original_width": 31_000, "original_height": 31_000}


@st.composite
def boxes(draw: st.DrawFn) -> tuple[float, float, float, float]:
    x1, x2 = sorted((draw(unit), draw(unit)))
    y1, y2 = sorted((draw(unit), draw(unit)))
    return x1, y1, x2, y2


@st.composite
def facts(draw: st.DrawFn) -> dict[str, float]:
    names = draw(st.lists(st.sampled_from(sorted(FIELDS)), unique=True))
    return {
        name: draw(st.floats(0, high) if (high := FIELDS[name].high) else st.integers(0, LARGEST.get(name, 999)))
        for name in names
    }


@st.composite
def people(draw: st.DrawFn) -> list[dict[str, Any]]:
    found = []
    for _ in range(draw(st.integers(0, 3))):
        person: dict[str, Any] = {"bbox": draw(boxes())}
        if draw(st.booleans()):
            person["pose_tokens"] = draw(st.lists(codes, min_size=8, max_size=8))
        for key, count, low, high in BLOCKS.values():
            if draw(st.booleans()):
                person[key] = draw(st.lists(st.floats(low, high), min_size=count, max_size=count))
        found.append(person)
    return found


@st.composite
def points(draw: st.DrawFn) -> list[dict[str, Any]]:
    ids = st.lists(codes, min_size=16, max_size=16)
    instance = st.fixed_dictionaries({"box": boxes(), "token_ids": ids})
    point = st.fixed_dictionaries({"point": st.tuples(unit, unit), "instances": st.lists(instance, max_size=3)})
    return draw(st.lists(point, max_size=4))


def close(found: Any, expected: Any, step: float) -> bool:
    """Whether numbers differ by half a step at most."""
    return bool(np.all(np.abs(np.subtract(found, expected)) <= step / 2 + 1e-9))


@given(facts(), seeds)
def test_metadata_comes_back_within_two_fiftieths_and_its_bin_within_one(given_facts, seed):
    chunks = metadata_to_chunks(given_facts, rng=np.random.default_rng(seed))
    found = chunks_to_metadata(" ".join(chunks))
    assert set(found) == set(given_facts)
    for name, value in given_facts.items():
        field = FIELDS[name]
        if field.high is not None:
            assert -1e-9 <= value - found[name] <= 2 * field.high / 50 + 1e-9
        elif not field.edges:
            assert 0 <= value - found[name] < field.step
        assert 0 <= field.write(value, 1000) - field.write(found[name], 1000) <= (field.high is not None)


@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), max_size=7))
def test_palettes_come_back_exactly(colors):
    assert text_to_palette(palette_to_text(colors)) == colors


@given(people(), seeds, st.integers(512, 2000))
def test_people_come_back_within_half_a_bin(given_people, seed, num_bins):
    text = poses_to_text(given_people, num_bins=num_bins, rng=np.random.default_rng(seed))
    found = text_to_poses(text, num_bins=num_bins)
    assert [set(person) for person in found] == [set(person) for person in given_people]
    for one, other in zip(found, given_people):
        assert close(one["bbox"], other["bbox"], 1 / (num_bins - 1))
        assert one.get("pose_tokens") == other.get("pose_tokens")
        for key, _, low, high in BLOCKS.values():
            assert key not in one or close(one[key], other[key], (high - low) / (num_bins - 1))
    assert poses_to_text(found, num_bins=num_bins) == poses_to_text(given_people, num_bins=num_bins)


@given(points())
def test_instances_come_back_within_half_a_pixel(given_points):
    found = text_to_sam(sam_to_text(given_points))
    assert len(found) == len(given_points)
    for one, other in zip(found, given_points):
        assert close(one["point"], other["point"], 1 / 224)
        assert [i["token_ids"] for i in one["instances"]] == [i["token_ids"] for i in other["instances"]]
        assert all(close(a["box"], b["box"], 1 / 224) for a, b in zip(one["instances"], other["instances"]))
    assert sam_to_text(found) == sam_to_text(given_points)


@given(points(), seeds)
def test_shuffling_instances_changes_their_order_only(given_points, seed):
    def content(text: str) -> list[Any]:
        return sorted(
            (p["point"], sorted((i["box"], i["token_ids"]) for i in p["instances"])) for p in text_to_sam(text)
        )

    assert content(sam_to_text(given_points, rng=np.random.default_rng(seed))) == content(sam_to_text(given_points))


@given(people())
def test_a_mirror_in_a_mirror_shows_people_as_they_are(given_people):
    for person in given_people:
        twice = mirror_person(mirror_person(person))
        person.pop("pose_tokens", None)  # which only their tokenizer could mirror
        assert twice.keys() == person.keys()
        assert all(close(twice[key], person[key], 0) for key in person)


@given(people())
def test_mirroring_a_sample_mirrors_its_text(given_people):
    size = (480, 640)
    pixels = [{**p, "bbox": tuple(np.multiply(p["bbox"], (640, 480, 640, 480)))} for p in given_people]
    straight = text_to_poses(poses_to_text(crop_people(pixels, whole(size))))
    mirrored = text_to_poses(poses_to_text(crop_people(pixels, whole(size, hflip=True))))
    assert len(straight) == len(mirrored)
    for one, other in zip(mirrored, map(mirror_person, straight)):
        assert one.keys() == other.keys()
        assert close(one["bbox"], other["bbox"], 2 / 999)
        for key, _, low, high in BLOCKS.values():
            for here, there in zip(one.get(key, ()), other.get(key, ())):
                assert close(here, max(there, low), 2 * (high - low) / 999)


@given(st.lists(boxes(), max_size=4))
def test_mirroring_boxes_twice_gives_the_boxes(given_boxes):
    instances = [{"boxes": list(box), "class_name": "bed"} for box in given_boxes]
    once = crop_boxes(instances, whole((16, 16)))
    twice = crop_boxes(crop_boxes(once, whole((16, 16), hflip=True)), whole((16, 16), hflip=True))
    assert all(close(a["boxes"], b["boxes"], 0) for a, b in zip(once, twice, strict=True))


@given(people(), st.tuples(*[st.integers(0, 40)] * 2), st.tuples(*[st.integers(1, 60)] * 2), st.booleans())
def test_people_of_any_crop_are_in_it(given_people, corner, size, hflip):
    pixels = [{**p, "bbox": tuple(np.multiply(p["bbox"], 100))} for p in given_people]
    for person in crop_people(pixels, Geometry(*corner, *size, hflip, (100, 100))):
        x1, y1, x2, y2 = person["bbox"]
        assert -1e-9 <= x1 <= x2 <= 1 + 1e-9
        assert -1e-9 <= y1 <= y2 <= 1 + 1e-9


@given(
    st.sampled_from(sorted(KINDS)),
    st.one_of(st.text(), st.lists(st.sampled_from(GRAMMAR), max_size=60).map(" ".join)),
    st.integers(2, 1000),
)
def test_what_is_read_from_any_text_can_be_written_again(kind, text, num_bins):
    value = KINDS[kind].from_text(text, num_bins, ())
    assert isinstance(value, dict if kind == "metadata" else list)
    KINDS[kind].to_text(value, num_bins, None)


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return train_wordpiece(SENTENCES, 4400, ["bed", "traffic light"])


@given(facts(), st.lists(st.tuples(*[st.integers(0, 255)] * 3), max_size=7), people(), points(), seeds)
def test_values_survive_the_ids_of_a_tokenizer(tokenizer, given_facts, colors, given_people, given_points, seed):
    values = {"metadata": given_facts, "palette": colors, "poses": given_people, "sam": given_points}
    for kind, value in values.items():
        text = KINDS[kind].to_text(value, 1000, np.random.default_rng(seed))
        text = text if isinstance(text, str) else " ".join(text)
        through = tokenizer.decode(tokenizer.encode(text))
        assert KINDS[kind].from_text(through, 1000, ()) == KINDS[kind].from_text(text, 1000, ())


def test_random_ids_and_random_words_never_raise(tokenizer: TextTokenizer) -> None:
    """Half of them ids of the tokenizer, half words of the grammar; each is read as every kind."""
    rng = np.random.default_rng(0)
    found = dict.fromkeys(KINDS, 0)
    lengths = rng.integers(1, 24, NUM_STRINGS)
    ids = rng.integers(-1, tokenizer.vocab_size + 1, lengths.sum())
    words = rng.choice(np.array(GRAMMAR, object), lengths.sum()).tolist()
    ends = lengths.cumsum().tolist()
    for n, (start, end) in enumerate(zip([0, *ends], ends)):
        text = tokenizer.decode(ids[start:end]) if n % 2 else " ".join(words[start:end])
        for name, kind in KINDS.items():
            found[name] += bool(kind.from_text(text, 1000, ()))
    assert all(found.values()), found  # and they are not all empty
