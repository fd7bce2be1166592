"""COCO annotations lie on the photograph, whatever was done to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourm.config import build
from fourm.errors import ConfigError, DataError
from fourm.prepare.labelers.annotation_configs import CocoConfig
from fourm.prepare.upright import turn_pixels
from tests.user_labels import boxes, coco, label, labeler, photo

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "traffic light"}]


def annotations(folder: Path, *found: dict[str, Any], name: str = "cats/tom.jpg", **image: Any) -> str:
    """A file with one photograph of 60 x 40 pixels, and another one."""
    images = [
        {"id": 11, "file_name": name, "width": 60, "height": 40, **image},
        {"id": 12, "file_name": "other.jpg", "width": 10, "height": 10},
    ]
    given = [{"id": n, "image_id": 11, "category_id": 3, "iscrowd": 0, **one} for n, one in enumerate(found)]
    other = {"id": 99, "image_id": 12, "category_id": 3, "bbox": [0, 0, 5, 5], "iscrowd": 0}
    path = folder / "annotations.json"
    path.write_bytes(coco(images=images, annotations=[*given, other], categories=CATEGORIES))
    return str(path)


def polygon(top: int, left: int, bottom: int, right: int) -> dict[str, Any]:
    return {"segmentation": [[left, top, right, top, right, bottom, left, bottom]]}


# ------------------------------------------------------------ boxes


def test_boxes_are_shares_of_the_photograph(tmp_path: Path) -> None:
    file = annotations(tmp_path, {"bbox": [15, 10, 30, 20]}, {"bbox": [0, 0, 60, 40], "category_id": 7})
    found = boxes(label("coco", photo(), file=file))
    assert found == {"cat": [0.25, 0.25, 0.75, 0.75], "traffic light": [0, 0, 1, 1]}
    assert boxes(label("coco", photo((400, 600), stored=(20, 30)), file=file)) == found  # sizes do not matter


def test_boxes_are_cut_at_the_edge_and_empty_ones_left_out(tmp_path: Path) -> None:
    file = annotations(
        tmp_path,
        {"bbox": [-30, 20, 60, 100]},
        {"bbox": [10, 10, 0, 5], "category_id": 7},
        {"bbox": [70, 10, 5, 5], "category_id": 7},
        {"bbox": [10, 10, -5, 5], "category_id": 7},
    )
    assert boxes(label("coco", photo(), file=file)) == {"cat": [0, 0.5, 0.5, 1]}


def test_crowds_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    file = annotations(tmp_path, {"bbox": [0, 0, 30, 40], "iscrowd": 1})
    assert label("coco", photo(), file=file) == []
    assert boxes(label("coco", photo(), file=file, crowd=True)) == {"cat": [0, 0, 0.5, 1]}


def test_only_the_classes_asked_for(tmp_path: Path) -> None:
    file = annotations(tmp_path, {"bbox": [0, 0, 30, 40]}, {"bbox": [0, 0, 30, 40], "category_id": 7})
    assert [*boxes(label("coco", photo(), file=file, classes=["traffic light"]))] == ["traffic light"]


@pytest.mark.parametrize("make", ["boxes", "captions"])
def test_a_photograph_without_annotations_has_none(tmp_path: Path, make: str) -> None:
    file = annotations(tmp_path)
    assert label("coco", photo(), file=file, make=make) == ([] if make == "boxes" else "")


@pytest.mark.parametrize("orientation", range(2, 9))
def test_boxes_and_regions_turn_alike(tmp_path: Path, orientation: int) -> None:
    sizes = {"width": 40, "height": 60} if orientation > 4 else {}
    file = annotations(tmp_path, {"bbox": [3, 5, 14, 7], **polygon(5, 3, 12, 17)}, **sizes)
    shown = photo(orientation=orientation)
    [box] = label("coco", shown, file=file, orientation="file")
    ids = label("coco", shown, file=file, orientation="file", make="semseg", classes=["cat"])
    rows, columns = np.nonzero(ids == 0)
    seen = [columns.min() / 60, rows.min() / 40, (columns.max() + 1) / 60, (rows.max() + 1) / 40]
    assert box["boxes"] == pytest.approx(seen, abs=1e-6)
    lying = np.full((60, 40) if orientation > 4 else (40, 60), -1)
    lying[5:12, 3:17] = 0
    assert (ids == turn_pixels(lying, orientation)).all()
    [by_shape] = label("coco", shown, file=file)  # auto
    assert (by_shape == box) == (orientation > 4)


# ------------------------------------------------------------ label maps


def test_regions_are_painted_small_over_large(tmp_path: Path) -> None:
    file = annotations(
        tmp_path,
        {**polygon(10, 10, 20, 20), "category_id": 7},
        polygon(0, 0, 30, 60),
        {"segmentation": {"size": [40, 60], "counts": [38, 2, 2360]}, "iscrowd": 1, "category_id": 7},
    )
    ids = label("coco", photo(), file=file, make="semseg", classes=["cat", "traffic light"])
    expected = np.full((40, 60), -1)
    expected[:30] = 0
    expected[10:20, 10:20] = 1
    expected[38:, 0] = 1
    assert (ids == expected).all()


def test_the_rest_may_be_a_class(tmp_path: Path) -> None:
    file = annotations(tmp_path, polygon(0, 0, 10, 60))
    _, modality = labeler("coco", file=file, make="semseg", classes=["background", "cat"], rest="background")
    assert modality.classes == ("background", "cat")
    ids = label("coco", photo(), file=file, make="semseg", classes=["background", "cat"], rest="background")
    assert ids.sum() == 600
    assert ids.min() == 0


def test_a_label_map_has_the_size_of_the_stored_photograph(tmp_path: Path) -> None:
    file = annotations(tmp_path, polygon(0, 0, 20, 60))
    ids = label("coco", photo((400, 600), stored=(20, 30)), file=file, make="semseg", classes=["cat"])
    assert ids.shape == (20, 30)
    assert (ids[:10] == 0).all()
    assert (ids[10:] == -1).all()


# ------------------------------------------------------------ captions


def test_captions_are_alternatives_without_control_characters(tmp_path: Path) -> None:
    file = annotations(tmp_path, {"caption": "a\u0000 cat "}, {"caption": "the cat sat"}, {"caption": " "})
    assert label("coco", photo(), file=file, make="captions") == ["a cat", "the cat sat"]


# ------------------------------------------------------------ which photograph


def test_the_last_part_of_a_name_is_enough_where_it_tells(tmp_path: Path) -> None:
    file = annotations(tmp_path, {"bbox": [0, 0, 30, 40]}, name="tom.jpg")
    assert len(label("coco", photo(), file=file)) == 1
    assert len(label("coco", photo(file="tom.jpg", namesake=True), file=file)) == 1
    with pytest.raises(DataError, match="other photographs are called so too"):
        label("coco", photo(namesake=True), file=file)
    twice = annotations(tmp_path, name="dogs/other.jpg")
    with pytest.raises(DataError, match="annotations.json does not name a/other.jpg, .* dogs/other.jpg and other.jpg"):
        label("coco", photo(file="a/other.jpg"), file=twice)


def test_a_photograph_that_is_not_named_is_rejected_or_empty(tmp_path: Path) -> None:
    file = annotations(tmp_path)
    with pytest.raises(DataError, match="does not name a/b.jpg; its 2 names are such as 'cats/tom.jpg'"):
        label("coco", photo(file="a/b.jpg"), file=file)
    assert label("coco", photo(file="a/b.jpg"), file=file, missing="empty") == []


# ------------------------------------------------------------ ids

TOM = {"id": 11, "file_name": "cats/tom.jpg", "width": 60, "height": 40}
BOX = {"id": 1, "image_id": 11, "category_id": 3, "bbox": [0, 0, 30, 40]}


def written(folder: Path, **parts: list[dict[str, Any]]) -> str:
    path = folder / "annotations.json"
    path.write_bytes(coco(**{"images": [TOM], "annotations": [BOX], "categories": CATEGORIES, **parts}))
    return str(path)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"images": [TOM, {**TOM, "id": 12}]}, "images 11 and 12 both have the file_name 'cats/tom.jpg'"),
        ({"images": [TOM, {**TOM, "id": 12, "file_name": "./cats/tom.jpg"}]}, "images 11 and 12 both"),
        ({"images": [TOM, {**TOM, "file_name": "b.jpg"}]}, "'cats/tom.jpg' and 'b.jpg' both have the id 11"),
        ({"images": [TOM, {**TOM, "id": "11", "file_name": "b.jpg"}]}, "'cats/tom.jpg' and 'b.jpg' both have the id"),
        ({"categories": [*CATEGORIES, {"id": 3, "name": "dog"}]}, "'cat' and 'dog' both have the id 3"),
        ({"annotations": [BOX, {**BOX, "image_id": 99}]}, "1 of its 2 annotations .* none of its 1 images has.* 99"),
        ({"annotations": [{**BOX, "image_id": "011"}]}, "none of its 1 images has.* '011'"),
    ],
)
def test_ids_that_would_lose_annotations_end_the_run(
    tmp_path: Path, parts: dict[str, list[dict[str, Any]]], reason: str
) -> None:
    with pytest.raises(ConfigError, match=rf"annotations.json: .*{reason}"):
        labeler("coco", file=written(tmp_path, **parts))


@pytest.mark.parametrize(
    "ids", [(11, "11", 3, "3"), ("11", 11, "3", 3), ("n11", "n11", "n3", "n3"), ("0", "0", "3", "3")]
)
def test_ids_may_be_numbers_in_text_or_any_text(tmp_path: Path, ids: tuple[Any, ...]) -> None:
    image, used_image, category, used_category = ids
    file = written(
        tmp_path,
        images=[{**TOM, "id": image}],
        categories=[{"id": category, "name": "cat"}],
        annotations=[{**BOX, "image_id": used_image, "category_id": used_category}],
    )
    assert boxes(label("coco", photo(), file=file)) == {"cat": [0, 0, 0.5, 1]}


# ------------------------------------------------------------ mistakes


def test_another_shape_is_rejected_with_both_sizes(tmp_path: Path) -> None:
    file = annotations(tmp_path, {"bbox": [0, 0, 30, 40]}, height=60)
    with pytest.raises(DataError, match="60 x 60 pixels .* photograph has 60 x 40"):
        label("coco", photo(), file=file)


@pytest.mark.parametrize(
    ("found", "make", "reason"),
    [
        ({"bbox": [1, 2, 3]}, "boxes", "not in COCO's form"),
        ({"bbox": [1, 2, 3, float("nan")]}, "boxes", "bbox is"),
        ({}, "boxes", "KeyError"),
        ({"bbox": [1, 2, 3, 4], "category_id": 5}, "boxes", "category_id 5"),
        ({"segmentation": [["a"]]}, "semseg", "polygon"),
        ({"segmentation": {"size": [2, 2], "counts": [9]}}, "semseg", "runs of 9 pixels"),
    ],
)
def test_a_bad_annotation_rejects_its_photograph_alone(
    tmp_path: Path, found: dict[str, Any], make: str, reason: str
) -> None:
    file = annotations(tmp_path, found)
    with pytest.raises(DataError, match=rf"annotations.json, cats/tom.jpg: .*{reason}"):
        label("coco", photo(), file=file, make=make, classes=["cat", "traffic light"])
    assert label("coco", photo((10, 10), file="other.jpg"), file=file, missing="empty") != []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"images": []}', b'{"images": [{}], "annotations": []}'])
def test_another_file_ends_the_run(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "annotations.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="annotations.json"):
        label("coco", photo(), file=str(path))


def test_mistakes_in_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'cat'"):
        labeler("coco", file=annotations(tmp_path), classes=["cst"])
    with pytest.raises(ConfigError, match="classes is empty"):
        build(CocoConfig, {"file": "a.json", "make": "semseg"})
    with pytest.raises(ConfigError, match="rest is 'bg'"):
        build(CocoConfig, {"file": "a.json", "make": "semseg", "classes": ["cat"], "rest": "bg"})


def test_what_is_not_used_is_not_kept(tmp_path: Path) -> None:
    file = annotations(tmp_path, {"bbox": [0, 0, 1, 1], "segmentation": [[0.0] * 1000], "area": 1.0})
    made, _ = labeler("coco", file=file)
    assert "segmentation" not in json.dumps(made._annotations)
