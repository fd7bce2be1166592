"""People as text: box, pose, rotation, camera and shape (4M-21)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fourm.errors import DataError
from fourm.tokenizers.structured.poses import poses_to_text, text_to_poses

PERSON = {
    "bbox": (0.1, 0.2, 0.5, 1.0),
    "pose_tokens": [0, 511, 512, 1023, 4, 5, 6, 7],
    "global_orient": [1, 0, 0, 0, -1, 0, 0, 0, -1],
    "camera": [0.9, 0.0, 19.0],
    "betas": [-3, 3, 0, 0.003, 0, 0, 0, 0, 0, 0],
}
TEXT = (
    "human v0=100 v1=200 v2=500 v3=999 "
    "pose v0=0 v0=511 v1=0 v1=511 v0=4 v0=5 v0=6 v0=7 "
    "global v0=999 v0=500 v0=500 v0=500 v0=0 v0=500 v0=500 v0=500 v0=0 "
    "camera v0=95 v0=50 v0=999 "
    "shape v0=0 v0=999 v0=500 v0=500 v0=500 v0=500 v0=500 v0=500 v0=500 v0=500"
)


def person(**changes: Any) -> dict[str, Any]:
    return {**PERSON, **changes}


def test_one_person_has_39_words_in_the_published_bins() -> None:
    assert poses_to_text([PERSON]) == TEXT
    assert len(TEXT.split()) == 39


def test_seven_people_fit_the_275_tokens_of_the_modality() -> None:
    assert len(poses_to_text([PERSON] * 7).split()) + 1 <= 275


def test_nobody_is_none() -> None:
    assert poses_to_text([]) == "none"
    assert text_to_poses("none") == []


def test_numbers_come_back_as_the_middles_of_their_bins() -> None:
    (found,) = text_to_poses(TEXT)
    assert found["bbox"] == (100 / 999, 200 / 999, 500 / 999, 1.0)
    assert found["pose_tokens"] == PERSON["pose_tokens"]
    assert found["global_orient"][:2] == [1.0, (500 - 499.5) / 499.5]
    assert found["camera"] == [(95 - 49.95) / 49.95, (50 - 49.95) / 49.95, (999 - 49.95) / 49.95]
    assert found["betas"][:3] == [-3.0, 3.0, (500 - 499.5) / 166.5]


def test_what_is_outside_its_range_is_written_as_the_end_of_it() -> None:
    text = poses_to_text([{"bbox": (-1, 0, 2, 1), "camera": (-5, 25, 0), "betas": [9] * 10}])
    assert text == "human v0=0 v1=0 v2=999 v3=999 camera v0=0 v0=999 v0=50 shape" + " v0=999" * 10


def test_blocks_are_shuffled_and_people_are_not() -> None:
    people = [PERSON, person(bbox=(0.0, 0.0, 0.1, 0.1))]
    texts = {poses_to_text(people, rng=np.random.default_rng(seed)) for seed in range(20)}
    assert len(texts) > 10
    assert all(text_to_poses(text) == text_to_poses(poses_to_text(people)) for text in texts)
    orders = {tuple(word for word in text.split() if "=" not in word)[:5] for text in texts}
    assert {order[0] for order in orders} == {"human"}


def test_arrays_of_any_shape_are_written_number_by_number() -> None:
    turned = person(global_orient=np.array(PERSON["global_orient"]).reshape(1, 3, 3), betas=np.array(PERSON["betas"]))
    assert poses_to_text([turned]) == TEXT


def test_what_is_not_known_is_left_out() -> None:
    assert poses_to_text([{"bbox": (0, 0, 1, 1), "pose_tokens": None}]) == "human v0=0 v1=0 v2=999 v3=999"
    assert text_to_poses("human v0=0 v1=0 v2=999 v3=999") == [{"bbox": (0.0, 0.0, 1.0, 1.0)}]


@pytest.mark.parametrize(
    ("people", "message"),
    [
        ([person(pose_tokens=[0] * 7)], "pose_tokens is .*expected 8 finite numbers"),
        ([person(pose_tokens=[1024] * 8)], "whole numbers from 0 to 1023"),
        ([person(pose_tokens=[0.5] * 8)], "whole numbers"),
        ([person(global_orient=[float("nan")] * 9)], "global_orient"),
        ([person(bbox=None)], "bbox is None"),
        ([{"camera": [0, 0, 0]}], "expected a mapping with bbox"),
        (["human"], "expected a mapping with bbox"),
        (PERSON, "expected a list of people"),
        ("none", "expected a list of people"),
    ],
)
def test_what_is_not_a_person_is_refused(people: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        poses_to_text(people)


@pytest.mark.parametrize(
    "text",
    [
        "human",
        "human v0=1 v1=2 v2=3",
        "human v0=5 v1=2 v2=3 v3=4",  # x2 < x1
        "human v0=1 v1=2 v2=3 v3=1000",
        "pose v0=0 v0=511 v1=0 v1=511 v0=4 v0=5 v0=6 v0=7",  # of nobody
        "a human is here",
    ],
)
def test_without_a_whole_box_there_is_nobody(text: str) -> None:
    assert text_to_poses(text) == []


def test_broken_blocks_are_absent_and_the_first_of_two_counts() -> None:
    box = "human v0=0 v1=0 v2=999 v3=999"
    (found,) = text_to_poses(
        f"{box} camera v0=1 v0=2 shape v0=1 pose v0=512 v0=1 camera v0=999 v0=999 v0=999 global v1=3 "
        "camera v0=0 v0=0 v0=0 hat"
    )
    assert found == {"bbox": (0.0, 0.0, 1.0, 1.0), "camera": pytest.approx([19, 19, 19])}


def test_blocks_after_a_broken_box_belong_to_nobody() -> None:
    text = "human v0=0 v1=0 v2=999 v3=999 human v0=9 camera v0=0 v0=0 v0=0"
    assert text_to_poses(text) == [{"bbox": (0.0, 0.0, 1.0, 1.0)}]
