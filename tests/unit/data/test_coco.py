"""Boxes and masks in COCO's form are read as they were meant, and what cannot be right is told before training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fourm.data.coco import CocoImages
from fourm.errors import ConfigError, DataError
from tests.scenes import CATEGORIES, rectangle, runs, write


def test_labels_follow_the_ids_of_the_categories(tmp_path: Path) -> None:
    images = CocoImages(write(tmp_path, [rectangle(5, 10, 20, 8), rectangle(0, 0, 4, 4, category_id=3)]))
    assert images.classes == ("disc", "square")
    assert images.read(0).labels.tolist() == [2, 1]


def test_boxes_are_corners_and_polygons_fill_what_they_enclose(tmp_path: Path) -> None:
    found = CocoImages(write(tmp_path, [rectangle(5, 10, 20, 8)])).read(0)
    assert found.boxes.tolist() == [[5, 10, 25, 18]]
    expected = np.zeros((40, 60), bool)
    expected[10:18, 5:25] = True
    assert found.masks is not None
    assert (found.masks[0] == expected).all()


def test_runs_give_the_mask_they_were_made_of(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((40, 60)) < 0.3
    found = CocoImages(write(tmp_path, [{"bbox": [0, 0, 60, 40], "segmentation": runs(mask)}])).read(0)
    assert found.masks is not None
    assert (found.masks[0] == mask).all()


def test_crowds_and_areas_are_kept(tmp_path: Path) -> None:
    mask = np.ones((40, 60), bool)
    crowd = {"bbox": [0, 0, 60, 40], "segmentation": runs(mask), "iscrowd": 1, "area": 17}
    found = CocoImages(write(tmp_path, [crowd, rectangle(1, 1, 3, 5)])).read(0)
    assert found.crowd.tolist() == [True, False]
    assert found.area.tolist() == [17, 15]


def test_images_without_annotations_are_kept_or_left_out(tmp_path: Path) -> None:
    given: dict[str, Any] = {"annotations": [rectangle(1, 1, 3, 5)], "sizes": [(40, 60), (8, 9)]}
    images = CocoImages(write(tmp_path, **given))
    assert len(images) == 2
    empty = images.read(1)
    assert empty.boxes.shape == (0, 4)
    assert empty.masks is not None
    assert empty.masks.shape == (0, 8, 9)
    assert len(CocoImages(write(tmp_path, **given, keep_empty=False))) == 1


def test_boxes_may_reach_a_rounding_error_beyond_the_border(tmp_path: Path) -> None:
    found = CocoImages(write(tmp_path, [rectangle(50, 30, 10.5, 10.25)])).read(0)
    assert found.boxes.tolist() == [[50, 30, 60, 40]]


def test_named_classes_leave_out_all_others(tmp_path: Path) -> None:
    config = write(tmp_path, [rectangle(1, 1, 3, 5), rectangle(2, 2, 3, 5, category_id=3)])
    images = CocoImages(config, ["disc"], only=True)
    assert images.read(0).labels.tolist() == [1]
    assert images.num_instances == 1


# ------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"bbox": [50, 30, 20, 5]}, "reaches outside its image of 60 x 40"),
        ({"bbox": [-5, 30, 20, 5]}, "reaches outside"),
        ({"bbox": [5, 30, -2, 5]}, "width and height of 0 or more"),
        ({"bbox": [5, 30, 2]}, "expected four numbers"),
        ({"bbox": [5, 30, float("nan"), 2]}, "finite"),
        ({"category_id": 99}, "category_id is 99"),
        ({"segmentation": {"size": [60, 40], "counts": [2400]}}, "mask is for [60, 40]"),
        ({"segmentation": [[1, 2, 3, 4]]}, "three or more corners"),
        ({"segmentation": [[1, 2, 3, 4, float("inf"), 6]]}, "not finite"),
        ({"segmentation": []}, "expected polygons"),
        ({"segmentation": None}, "expected polygons"),
    ],
)
def test_what_cannot_be_right_is_named_with_its_annotation(
    tmp_path: Path, annotation: dict[str, Any], message: str
) -> None:
    config = write(tmp_path, [rectangle(1, 1, 3, 5), rectangle(1, 1, 3, 5) | annotation])
    with pytest.raises(DataError) as caught:
        CocoImages(config)
    assert message in str(caught.value)
    assert "annotations.json" in str(caught.value)
    assert "annotation 101 of image '1.png'" in str(caught.value)


def test_what_cannot_be_right_is_left_out_on_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = write(tmp_path, [rectangle(1, 1, 3, 5), {"bbox": [50, 30, 20, 5]}], invalid="skip")
    assert CocoImages(config).num_instances == 1
    assert "1 annotations are left out, such as annotation 101" in caplog.text


def test_boxes_without_width_are_left_out_as_in_published_files(tmp_path: Path) -> None:
    config = write(tmp_path, [rectangle(1, 1, 3, 5), rectangle(1, 1, 3, 5) | {"bbox": [5, 5, 0, 4]}])
    assert CocoImages(config).num_instances == 1


def test_masks_are_not_looked_at_where_only_boxes_are_read(tmp_path: Path) -> None:
    images = CocoImages(write(tmp_path, [{"bbox": [1, 1, 3, 5]}]), masks=False)
    assert images.read(0).masks is None


def test_classes_that_do_not_match_the_head_are_refused(tmp_path: Path) -> None:
    config = write(tmp_path, [rectangle(1, 1, 3, 5)])
    with pytest.raises(ConfigError, match=r"class 'sqare' is none .* Did you mean 'square'"):
        CocoImages(config, ["sqare"])
    with pytest.raises(ConfigError, match="category 'square', which is none of the 1 classes of the head"):
        CocoImages(config, ["disc"])


def test_two_categories_of_one_name_are_refused(tmp_path: Path) -> None:
    config = write(tmp_path, [], categories=[*CATEGORIES, {"id": 9, "name": "disc"}])
    with pytest.raises(ConfigError, match="two categories are called 'disc'"):
        CocoImages(config)


def test_images_of_another_size_are_refused_before_training(tmp_path: Path) -> None:
    config = write(tmp_path, [rectangle(1, 1, 3, 5)])
    Image.new("RGB", (30, 20)).save(tmp_path / "images" / "1.png")
    with pytest.raises(DataError, match=r"1\.png: the image has 30 x 20 pixels, but .* says 60 x 40"):
        CocoImages(config)


def test_missing_images_are_told_before_training(tmp_path: Path) -> None:
    config = write(tmp_path, [rectangle(1, 1, 3, 5)])
    (tmp_path / "images" / "1.png").unlink()
    with pytest.raises(DataError, match=r"images: .* the right folder"):
        CocoImages(config)


def test_a_damaged_image_is_named_when_it_is_read(tmp_path: Path) -> None:
    config = write(tmp_path, [rectangle(1, 1, 3, 5)])
    file = tmp_path / "images" / "1.png"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(DataError, match=r"1\.png: cannot read it as an image"):
        CocoImages(config).read(0)


def test_a_file_without_images_or_without_cocos_form_is_refused(tmp_path: Path) -> None:
    config = write(tmp_path, [], sizes=[])
    with pytest.raises(DataError, match="no images"):
        CocoImages(config)
    config = write(tmp_path, [], keep_empty=False)
    with pytest.raises(DataError, match=r"no image with an annotation.*keep_empty"):
        CocoImages(config)
    Path(config.annotations).write_text(json.dumps({"images": []}))
    with pytest.raises(ConfigError, match="not in COCO's form"):
        CocoImages(config)
