"""Boxes in a file beside each photograph: Pascal VOC's XML, and YOLO's text."""

from __future__ import annotations

import pytest

from fourm.config import build
from fourm.errors import ConfigError, DataError
from fourm.prepare.labelers.annotation_configs import YoloConfig
from tests.user_labels import boxes, label, photo

XML, TXT = "annotations/{stem}.xml", "labels/{stem}.txt"


def voc(*objects: str, size: str = "<width>60</width><height>40</height>") -> bytes:
    return f"<annotation><size>{size}<depth>3</depth></size>{''.join(objects)}</annotation>".encode()


def thing(name: str, *corners: float, more: str = "") -> str:
    sides = "".join(f"<{side}>{x}</{side}>" for side, x in zip(("xmin", "ymin", "xmax", "ymax"), corners))
    return f"<object><name>{name}</name>{more}<bndbox>{sides}</bndbox></object>"


def of_voc(data: bytes, turned: int = 1, **options: object) -> dict[str, list[float]]:
    return boxes(label("voc", photo(beside={XML: data}, orientation=turned), **options))


def of_yolo(text: str, turned: int = 1, **options: object) -> dict[str, list[float]]:
    shown = photo(beside={TXT: text.encode()}, orientation=turned)
    return boxes(label("yolo", shown, classes=["cat", "dog"], **options))


def test_pixels_of_voc_count_from_one() -> None:
    assert of_voc(voc(thing("cat", 1, 1, 60, 40), thing("dog", 16, 11, 45, 30))) == {
        "cat": [0, 0, 1, 1],
        "dog": [0.25, 0.25, 0.75, 0.75],
    }


def test_parts_of_objects_are_not_objects() -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    assert of_voc(voc(thing("cat", 1, 1, 60, 40, more=part))) == {"cat": [0, 0, 1, 1]}


def test_difficult_objects_may_be_left_out() -> None:
    data = voc(thing("cat", 1, 1, 60, 40, more="<difficult>1</difficult>"))
    assert [*of_voc(data)] == ["cat"]
    assert of_voc(data, difficult=False) == {}


def test_a_missing_size_is_that_of_the_photograph() -> None:
    assert of_voc(voc(thing("cat", 1, 1, 30, 40), size="<width>0</width>")) == {"cat": [0, 0, 0.5, 1]}


def test_boxes_of_voc_turn_with_the_photograph() -> None:
    lying = voc(thing("cat", 1, 1, 20, 60), size="<width>40</width><height>60</height>")
    assert of_voc(lying, turned=6) == {"cat": [0, 0, 1, 0.5]}


def test_entities_are_refused_before_they_grow() -> None:
    lines = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    bomb = f'<!DOCTYPE annotation [<!ENTITY a0 "ha">{lines}]><annotation>&a11;</annotation>'
    for data in (bomb.encode(), bomb.encode("utf-16"), b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>'):
        with pytest.raises(DataError, match="DOCTYPE"):
            of_voc(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no element"),
        (b"<annotation>", "no element"),
        (voc("<object><bndbox/></object>"), "without a name"),
        (voc(thing("cat", 1, 2, 3)), "bndbox/ymax is None"),
        (voc(thing("cat", 1, 2, 3, 4).replace(">3<", ">x<")), "bndbox/xmax is 'x'"),
        (voc(size="<width>60</width><height>60</height>"), "60 x 60 pixels .* photograph has 60 x 40"),
    ],
)
def test_what_is_not_in_the_form_of_voc_is_told(data: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=rf"annotations/tom.xml: .*{reason}"):
        of_voc(data)


def test_lines_of_yolo_are_centres_and_sizes() -> None:
    assert of_yolo("0 0.5 0.5 0.5 0.25\n\n1 0.1 0.9 0.4 0.4 0.87\n") == {
        "cat": [0.25, 0.375, 0.75, 0.625],
        "dog": [0, 0.7, 0.3, 1],
    }


def test_outlines_of_yolo_become_boxes() -> None:
    assert of_yolo("1 0.2 0.3 0.6 0.3 0.4 0.8") == {"dog": [0.2, 0.3, 0.6, 0.8]}


def test_boxes_of_yolo_turn_only_if_told() -> None:
    line = "0 0.25 0.5 0.5 1"
    assert of_yolo(line, turned=6) == {"cat": [0, 0, 0.5, 1]}
    assert of_yolo(line, turned=6, orientation="file") == {"cat": [0, 0, 1, 0.5]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("2 0.5 0.5 0.5 0.5", "line 1: class 2, but classes has 2 names"),
        ("0 0.5 0.5 0.5 0.5\n0 0.5 0.5 0.5", "line 2: 3 numbers"),
        ("0 30 20 10 10", "not pixels"),
        ("0 a b c d", "line 1"),
        ("0 nan 0 0 0", "line 1"),
    ],
)
def test_what_is_not_in_the_form_of_yolo_is_told(text: str, reason: str) -> None:
    with pytest.raises(DataError, match=rf"labels/tom.txt, .*{reason}"):
        of_yolo(text)


def test_without_a_file_there_is_nothing_to_see_for_yolo_alone() -> None:
    assert label("yolo", photo(), classes=["cat"]) == []
    assert label("voc", photo(), missing="empty") == []
    for kind, options in (("yolo", {"classes": ["cat"], "missing": "reject"}), ("voc", {})):
        with pytest.raises(DataError, match="there is no file"):
            label(kind, photo(), **options)


def test_yolo_needs_names() -> None:
    with pytest.raises(ConfigError, match="classes is empty"):
        build(YoloConfig, {})
