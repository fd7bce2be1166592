from __future__ import annotations

import json
import re

import cv2
import numpy as np
import pytest

from fourm.prepare.rooms.caption import visible_objects
from fourm.prepare.rooms.classes import CLASSES, OBJECTS, SOURCES, objects_in
from fourm.prepare.rooms.encode import look, sample

SIZE = 32
INDICES = range(6)


@pytest.fixture(scope="module")
def files() -> list[dict[str, bytes]]:
    return [sample(5, index, SIZE) for index in INDICES]


def _image(data: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return image[..., ::-1] if image.ndim == 3 else image


def test_all_sources_are_written(files: list[dict[str, bytes]]) -> None:
    assert all(set(room) == set(SOURCES) for room in files)


@pytest.mark.parametrize("index", INDICES)
def test_images_hold_what_was_rendered(files: list[dict[str, bytes]], rendered, index: int) -> None:
    view = rendered(index)[1]
    np.testing.assert_array_equal(_image(files[index]["rgb"]), view.rgb)
    np.testing.assert_array_equal(_image(files[index]["semseg"]), view.semseg)
    depth = _image(files[index]["depth"])
    assert depth.dtype == np.uint16
    np.testing.assert_allclose(depth / 65535 * 16, view.depth, atol=16 / 65535)
    np.testing.assert_allclose(_image(files[index]["normal"]) / 255 * 2 - 1, view.normal, atol=1.01 / 255)
    assert set(np.unique(_image(files[index]["canny"]))) <= {0, 255}


@pytest.mark.parametrize("index", INDICES)
def test_boxes_are_tight_around_pixels_of_their_class(files: list[dict[str, bytes]], rendered, index: int) -> None:
    room, view = rendered(index)
    instances = json.loads(files[index]["det"])["instances"]
    pieces = [k for k in np.unique(view.piece) if k >= room.num_shell and (view.piece == k).mean() >= 1 / 512]
    assert len(instances) == len(pieces)
    for instance in instances:
        x1, y1, x2, y2 = (round(value * SIZE) for value in instance["boxes"])
        label = CLASSES.index(instance["class_name"])
        inside = view.semseg[y1:y2, x1:x2] == label
        assert inside[0].any()
        assert inside[-1].any()
        assert inside[:, 0].any()
        assert inside[:, -1].any()
        assert instance["score"] == 1.0


@pytest.mark.parametrize("index", INDICES)
def test_captions_name_what_covers_enough_of_the_label_map(files: list[dict[str, bytes]], index: int) -> None:
    semseg = _image(files[index]["semseg"])
    share = {name: (semseg == CLASSES.index(name)).mean() for name in OBJECTS}
    expected = {name for name, value in share.items() if value >= 1 / 34}
    assert visible_objects(semseg) == expected
    captions = json.loads(files[index]["caption"])
    assert captions
    assert all(objects_in(text) == expected for text in captions)


def test_left_and_right_agree_with_the_boxes(files: list[dict[str, bytes]]) -> None:
    relation = re.compile(
        rf"({'|'.join(OBJECTS)}) (?:which is )?(?:to the )?(left|right) of an? (?:\w+ )?({'|'.join(OBJECTS)})"
    )
    checked = 0
    for room in [*files, *(sample(6, index, SIZE) for index in range(10))]:
        boxes: dict[str, list[float]] = {}
        for instance in json.loads(room["det"])["instances"]:
            boxes.setdefault(instance["class_name"], instance["boxes"])
        for text in json.loads(room["caption"]):
            for first, side, second in relation.findall(text):
                a, b = (sum(boxes[name][::2]) / 2 for name in (first, second))
                assert (a < b) == (side == "left"), text
                checked += 1
    assert checked > 5


def test_a_room_is_a_pure_function_of_seed_and_index(files: list[dict[str, bytes]]) -> None:
    assert sample(5, 3, SIZE) == files[3]
    assert sample(6, 3, SIZE)["rgb"] != files[3]["rgb"]
    assert files[2]["rgb"] != files[3]["rgb"]


def test_rooms_look_the_same_at_another_size(files: list[dict[str, bytes]]) -> None:
    larger = _image(sample(5, 3, 2 * SIZE)["semseg"])
    agree = larger[::2, ::2] == _image(files[3]["semseg"])
    assert agree.mean() > 0.8


def test_objects_are_listed_by_size(rendered) -> None:
    shares = [item.share for item in look(*rendered(1))]
    assert shares == sorted(shares, reverse=True)


def test_nearly_every_view_shows_furniture() -> None:
    named = [len(visible_objects(_image(sample(8, index, 16)["semseg"]))) for index in range(30)]
    assert np.mean(np.array(named) > 0) >= 0.95
    assert np.mean(named) > 2.5
