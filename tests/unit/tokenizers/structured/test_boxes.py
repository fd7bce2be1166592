from __future__ import annotations

import pytest

from fourm.tokenizers.structured import boxes_to_text, text_to_boxes


def box(x1, y1, x2, y2, name="chair", score=1.0):
    return {"boxes": [x1, y1, x2, y2], "class_name": name, "score": score}


def test_one_box_as_published():
    assert boxes_to_text([box(0.0, 1.0, 0.005, 0.0071, "traffic light")]) == "v0=0 v1=999 v2=5 v3=7 traffic light"


def test_boxes_are_sorted_by_their_distance_to_the_top_left_corner():
    boxes = [box(0.5, 0.5, 1, 1, "far"), box(0.0, 0.6, 1, 1, "near"), box(0.3, 0.0, 1, 1, "first")]
    names = [word for word in boxes_to_text(boxes).split() if "=" not in word]
    assert names == ["first", "near", "far"]


def test_boxes_at_the_same_distance_keep_their_order():
    assert boxes_to_text([box(0.3, 0.4, 1, 1, "b"), box(0.4, 0.3, 1, 1, "a")]).split()[4::5] == ["b", "a"]


def test_low_scores_are_left_out_and_the_limit_is_kept():
    assert (
        boxes_to_text([box(0, 0, 1, 1, "kept", 0.6), box(0, 0, 1, 1, "left", 0.59)]) == "v0=0 v1=0 v2=999 v3=999 kept"
    )


def test_a_missing_score_counts_as_certain():
    assert boxes_to_text([{"boxes": [0, 0, 1, 1], "class_name": "bed"}]) == "v0=0 v1=0 v2=999 v3=999 bed"


def test_no_boxes_give_an_empty_text_and_back():
    assert boxes_to_text([]) == ""
    assert text_to_boxes("") == []


def test_coordinates_outside_the_image_are_clipped():
    assert boxes_to_text([box(-0.2, 0.5, 1.7, 1.0)], num_bins=65) == "v0=0 v1=32 v2=64 v3=64 chair"


def test_parser_reads_class_names_of_several_words():
    found = text_to_boxes("v0=0 v1=0 v2=999 v3=999 potted plant v0=1 v1=1 v2=2 v3=2 bed")
    assert [one["class_name"] for one in found] == ["potted plant", "bed"]
    assert found[0]["boxes"] == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "text",
    [
        "a red sofa",
        "v0=1 v1=2 v2=3 chair",  # a coordinate is missing
        "v1=1 v0=2 v2=3 v3=4 chair",  # wrong order
        "v0=5 v1=0 v2=3 v3=4 chair",  # x2 < x1
        "v0=1 v1=2 v2=3 v3=1000 chair",  # beyond the bins
        "v0=1 v1=2 v2=3 v3=4",  # no class
        "v0=1 v1=2 v2=3 v3=99999999999999999999 chair",
        "v0=١ v1=2 v2=3 v3=4 chair",  # not an ASCII digit
    ],
)
def test_parser_passes_over_what_is_not_a_box(text):
    assert text_to_boxes(text) == []


def test_parser_finds_the_good_box_among_broken_ones():
    text = "v0=9 v0=1 v1=2 v2=3 v3=4 chair v0=7 v1=7 bed v3=1 v0=0 v1=0 v2=1 v3=1 bed"
    assert [one["class_name"] for one in text_to_boxes(text)] == ["chair", "bed"]


def test_parser_keeps_to_the_classes_it_is_given():
    text = "v0=0 v1=0 v2=1 v3=1 chair v0=0 v1=0 v2=1 v3=1 unicorn"
    assert [one["class_name"] for one in text_to_boxes(text, classes={"chair", "bed"})] == ["chair"]


@pytest.mark.parametrize("corners", [[0, 1], [0, 0, 5, 5], [0, 0, float("nan"), 1]])
def test_what_is_no_box_is_refused(corners):
    with pytest.raises(ValueError, match="expected \\[x1, y1, x2, y2\\]"):
        boxes_to_text([{"boxes": corners, "class_name": "cat"}])
