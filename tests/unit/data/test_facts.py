"""Files of boxes, metadata, palettes, people and instances."""

from __future__ import annotations

import gzip
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourm import catalog
from fourm.data.decode import decode
from fourm.errors import DataError

MODALITY = {"metadata": "metadata", "palette": "color_palette", "poses": "human_poses", "sam": "sam_instance"}


def read(kind: str, value: Any) -> Any:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return decode(data, catalog.get(MODALITY[kind]), lambda: "facts/7.json")


def refused(kind: str, value: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"facts/7.json: cannot read it as '{kind}' .*{message}"):
        read(kind, value)


def people(count: int = 2) -> dict[str, Any]:
    """The published form: one entry per person in every list."""
    return {
        "bbox_xyxy": [[10 * n, 20, 30, 40.5] for n in range(count)],
        "pred_smpl_params": {
            "global_orient": [[np.eye(3).tolist()]] * count,
            "body_pose": [[np.eye(3).tolist()] * 23] * count,
            "betas": [[0.1 * n] * 10 for n in range(count)],
        },
        "pose_tokenized": [[n, *range(1017, 1024)] for n in range(count)],
        "pred_cam": [[0.9, 0.1, -0.1]] * count,
    }


def test_metadata_is_names_and_numbers_without_those_that_are_null() -> None:
    assert read("metadata", {"entropy": 5.2, "n_humans": 3, "contrast": None}) == {"entropy": 5.2, "n_humans": 3}
    assert read("metadata", gzip.compress(b"{}", mtime=0)) == {}


@pytest.mark.parametrize("value", [[], {"entropy": "high"}, {"entropy": float("nan")}, {"n_humans": True}])
def test_other_metadata_is_refused(value: Any) -> None:
    refused("metadata", value, "expected")


@pytest.mark.parametrize("wrap", [lambda palettes: palettes, lambda palettes: [palettes]])
def test_palettes_come_by_their_size(wrap: Any) -> None:
    palettes = {"1": [[1, 2, 3]], "2": [[1.4, 2, 3], [4, 5, 255]]}
    assert read("palette", wrap(palettes)) == {1: [(1, 2, 3)], 2: [(1, 2, 3), (4, 5, 255)]}


@pytest.mark.parametrize(
    "value",
    [{}, [], [[1, 2, 3]], {"2": [[1, 2, 3]]}, {"one": [[1, 2, 3]]}, {"1": [[1, 2, 256]]}, {"1": [["a", 2, 3]]}],
)
def test_other_palettes_are_refused(value: Any) -> None:
    refused("palette", value, "palette|expected")


def test_people_come_one_by_one_with_their_boxes_in_pixels() -> None:
    first, second = read("poses", people())
    assert second == {
        "bbox": [10.0, 20.0, 30.0, 40.5],
        "global_orient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        "betas": [0.1] * 10,
        "camera": [0.9, 0.1, -0.1],
        "pose_tokens": [1, *range(1017, 1024)],
        "body_pose": np.eye(3).ravel().tolist() * 23,
    }
    assert first["bbox"][0] == 0.0


def test_poses_in_another_form_are_passed_over() -> None:
    value = people(1)
    value["pred_smpl_params"]["body_pose"] = [[0.0] * 69]  # angles about axes
    assert "body_pose" not in read("poses", value)[0]


@pytest.mark.parametrize("value", [{}, []])
def test_an_image_may_show_nobody(value: Any) -> None:
    assert read("poses", value) == []


def test_whole_numbers_of_pixels_stay_what_they_are() -> None:
    value = {"bbox_xyxy": [[1, 2, 3, 4]]}
    assert read("poses", value) == [{"bbox": [1.0, 2.0, 3.0, 4.0]}]


def test_the_ids_of_mirrored_bodies_may_come_too() -> None:
    value = people(1) | {"pose_tokenized_mirrored": [[[5]] * 8]}
    assert read("poses", value)[0]["mirrored_pose_tokens"] == [5] * 8


def test_key_points_are_rows_of_a_place_and_a_score() -> None:
    value = people(1) | {"keypoints": [[[1, 2, 0.5]] * 17]}
    assert read("poses", value)[0]["keypoints"] == [[1.0, 2.0, 0.5]] * 17


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bbox_xyxy": [[1, 2, 3]]}, "bbox_xyxy: 3 numbers; expected rows of 4"),
        ({"bbox_xyxy": [[1, 2, 3, None]]}, "bbox_xyxy: values that are not finite"),
        ({"keypoints": [[[1, 2, 0.5]] * 16] * 2}, "keypoints has 96 numbers; expected 51 for each of 2 people"),
        ({"pose_tokenized": [[1] * 8]}, "pose_tokenized has 8 numbers; expected 8 for each of 2 people"),
        ({"pose_tokenized": [[1024] * 8] * 2}, "whole numbers from 0 to 1023"),
        ({"pred_cam": [["a"] * 3] * 2}, "pred_cam: expected numbers"),
        ({"pred_smpl_params": [1]}, "pred_smpl_params is list"),
    ],
)
def test_other_people_are_refused(changes: dict[str, Any], message: str) -> None:
    refused("poses", people() | changes, message)


def test_people_without_boxes_are_refused() -> None:
    refused("poses", {"pred_cam": [[0, 0, 0]]}, "expected .*bbox_xyxy")


CROPS = [
    {
        "points": [[[0, 0], [10, 0], [10, 10]], [[5, 5], [6, 5], [6, 6], [5, 6]]],
        "bbox": [[0, 0, 10, 10.7], [5, 5, 6, 7]],
        "token_ids": [[1] * 16, [1023] * 16],
    },
    {"points": [], "bbox": [], "token_ids": []},
    {"points": [[[1, 2]]], "bbox": [[2, 1, 3, 4]], "token_ids": [list(range(16))]},
]


def as_npz(crops: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    outlines = [outline for crop in crops for outline in crop["points"]]
    np.savez(
        buffer,
        points=np.array([corner for outline in outlines for corner in outline], np.int16),
        num_points=np.array([len(outline) for outline in outlines]),
        bbox=np.array([box for crop in crops for box in crop["bbox"]]),
        token_ids=np.array([ids for crop in crops for ids in crop["token_ids"]], np.int16),
        num_instances=np.array([len(crop["points"]) for crop in crops]),
    )
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["json", "npz", "json.gz"])
def test_instances_come_by_crop_with_x_first(form: str) -> None:
    text = json.dumps(CROPS).encode()
    data = {"json": text, "npz": as_npz(CROPS), "json.gz": gzip.compress(text, mtime=0)}[form]
    first, empty, last = read("sam", data)
    assert first["box"].tolist() == [[0, 0, 10, 10], [5, 5, 7, 6]]
    assert first["num_points"].tolist() == [3, 4]
    assert first["points"].tolist() == [*CROPS[0]["points"][0], *CROPS[0]["points"][1]]
    assert first["token_ids"].tolist() == CROPS[0]["token_ids"]
    assert {name: len(array) for name, array in empty.items()} == dict.fromkeys(first, 0)
    assert last["points"].tolist() == [[1, 2]]
    assert last["box"].tolist() == [[1, 2, 4, 3]]


def test_pickled_instances_are_not_loaded_and_the_error_says_what_to_do() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array(CROPS, object), allow_pickle=True)
    refused("sam", buffer.getvalue(), "nothing is unpickled. Convert it to json or npz .*docs/data.md")


def test_the_documented_conversion_of_pickles_gives_a_file_that_is_read(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = [
        {
            "points": [[np.array(outline, np.int32)[:, None]] for outline in crop["points"]],
            "bbox": np.array(crop["bbox"], float),
            "token_ids": np.array(crop["token_ids"]),
        }
        for crop in CROPS
    ]
    np.save(tmp_path / "instances.npy", np.array(old, object), allow_pickle=True)
    blocks = re.findall(r"```python\n(.*?)```", (checkout / "docs" / "data.md").read_text(), re.S)
    (code,) = (block for block in blocks if "allow_pickle" in block)
    monkeypatch.chdir(tmp_path)

    exec(code, {})

    found = read("sam", (tmp_path / "instances.json").read_bytes())
    for one, other in zip(found, read("sam", CROPS), strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in other)


def test_pickles_within_an_npz_are_not_loaded_either() -> None:
    buffer = io.BytesIO()
    arrays = dict.fromkeys(("points", "num_points", "bbox", "num_instances"), np.zeros(1))
    np.savez(buffer, token_ids=np.array([{}], object), **arrays)
    refused("sam", buffer.getvalue(), "allow_pickle=False")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "expected a list"),
        ([], "for 0 instances in 0 crops"),
        ([{"points": []}], "bbox"),
        ([{**CROPS[0], "bbox": [[0, 0, 1, 1]]}], "2 outlines, 1 boxes and 2 rows of token_ids for 2 instances"),
        ([{**CROPS[2], "points": [[]]}], "0 points for outlines"),
        ([{**CROPS[2], "token_ids": [[1024] * 16]}], "whole numbers from 0 to 1023"),
        ([{**CROPS[2], "token_ids": [[0] * 15]}], "token_ids: 15 numbers; expected rows of 16"),
        ([{**CROPS[2], "points": [[[0, float("inf")]]]}], "not finite"),
    ],
)
def test_other_instances_are_refused(value: Any, message: str) -> None:
    refused("sam", value, message)


def test_an_npz_names_the_array_it_lacks() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, points=np.zeros((0, 2)))
    refused("sam", buffer.getvalue(), "no array bbox, num_instances, num_points, token_ids")
