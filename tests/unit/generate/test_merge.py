"""Things of several answers as one set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fourm.generate.answer import any_to_any
from fourm.generate.ensemble import combine
from fourm.generate.merge import merge
from fourm.generate.plan import GenerationPlan, Step
from fourm.tokenizers.structured import sam_to_text, text_to_sam
from tests.unit.generate.toy import ToyBundle, image, text

WHOLE, LEFT, MOST = (0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 0.5, 1.0), (0.0, 0.0, 0.8, 1.0)


def point(*instances: dict[str, Any], at: tuple[float, float] = (0.25, 0.5)) -> dict[str, Any]:
    return {"point": at, "instances": list(instances)}


def instance(box: tuple[float, ...], first: int = 0, mask: np.ndarray | None = None) -> dict[str, Any]:
    return {"box": box, "token_ids": [first] * 16, **({} if mask is None else {"mask": mask})}


def half(left: bool) -> np.ndarray:
    mask = np.zeros((64, 64), np.float32)
    mask[:, :32] = left
    mask[:, 32:] = not left
    return mask


def boxes(answers: list[Any]) -> list[tuple[Any, float]]:
    return [(one["box"], one["score"]) for place in merge(answers, "sam") for one in place["instances"]]


def test_what_overlaps_is_kept_once_with_the_share_of_answers_that_found_it() -> None:
    answers = [
        [point(instance(LEFT, 1))],
        [point(instance(WHOLE, 2), at=(0.9, 0.9)), point(instance(LEFT, 3))],
        [point(instance(MOST, 4), at=(0.7, 0.7))],  # 0.8 of the whole
    ]
    assert boxes(answers) == [(LEFT, 2 / 3), (WHOLE, 2 / 3)]
    first, second = merge(answers, "sam")
    assert (first["point"], first["instances"][0]["token_ids"][0]) == ((0.25, 0.5), 1)
    assert second["point"] == (0.9, 0.9)


def test_an_answer_that_finds_the_same_twice_has_one_vote() -> None:
    answers = [[point(instance(LEFT), instance(LEFT))], [point(instance(WHOLE))], []]
    assert boxes(answers) == [(LEFT, 1 / 3), (WHOLE, 1 / 3)]


def test_masks_tell_things_apart_that_share_a_box() -> None:
    answers = [[point(instance(WHOLE, mask=half(True)))], [point(instance(WHOLE, mask=half(False)))]]
    assert len(boxes(answers)) == 2
    assert len(boxes([answers[0], answers[0]])) == 1
    assert boxes([[point(instance(LEFT))], answers[0]]) == [(LEFT, 1.0)]  # a box without a mask is full


def test_empty_masks_and_points_with_nothing_are_left_out() -> None:
    empty = instance(WHOLE, mask=np.zeros((64, 64), np.float32))
    assert merge([[point(empty)], [point()]], "sam") == []
    assert merge([[], []], "sam") == []


def test_the_merged_set_can_be_given_back() -> None:
    answers = [[point(instance(LEFT, 7))], [point(instance(WHOLE, 600), at=(0.75, 0.5))]]
    again = text_to_sam(sam_to_text(merge(answers, "sam")))
    assert [one["instances"][0]["token_ids"][0] for one in again] == [7, 600]


def test_instances_that_were_found_at_one_point_stay_together() -> None:
    (one,) = merge([[point(instance(LEFT, 7))], [point(instance(WHOLE, 8))]], "sam")
    assert [found["token_ids"][0] for found in one["instances"]] == [7, 8]


def test_boxes_are_merged_by_class_from_one_half_of_their_union_on() -> None:
    def box(name: str, corners: tuple[float, ...]) -> dict[str, Any]:
        return {"boxes": list(corners), "class_name": name, "score": 1.0}

    answers = [[box("bed", LEFT), box("sofa", LEFT)], [box("bed", WHOLE)]]
    found = [(one["class_name"], one["boxes"], one["score"]) for one in merge(answers, "boxes")]
    assert found == [("bed", list(LEFT), 1.0), ("sofa", list(LEFT), 0.5)]
    just_less = (0.0, 0.0, 0.49, 1.0)
    assert len(merge([[box("bed", just_less)], [box("bed", WHOLE)]], "boxes")) == 2


def test_people_are_merged_by_their_boxes() -> None:
    answers = [[{"bbox": LEFT, "pose_tokens": [1] * 8}], [{"bbox": LEFT, "pose_tokens": [2] * 8}]]
    assert merge(answers, "poses") == [{"bbox": LEFT, "pose_tokens": [1] * 8, "score": 1.0}]


@pytest.mark.parametrize("decode", ["sam", "boxes", "poses"])
def test_an_ensemble_of_things_is_merged(decode: str) -> None:
    raw = text("things", 400, decode)
    assert combine([[], []], raw) == ([], None)
    ids = torch.arange(3)
    assert torch.equal(combine([ids, ids], raw).value, ids)  # without a text tokenizer
    assert combine(["a", "b"], image("depth@16")).value == "a"


def test_an_ensemble_finds_what_single_answers_found(bundle: ToyBundle) -> None:
    plan = GenerationPlan([Step("det", "autoregressive", temperature=0.7)])
    given = {"det": "v0=3 v1=3 v2=40 v3=40 bed [S_1]"}
    every = any_to_any(bundle, given, ["det"], num_samples=4, plan=plan)["det"]
    (one,) = any_to_any(bundle, given, ["det"], num_samples=4, plan=plan, ensemble=True)["det"]
    assert one[0]["class_name"] == "bed"
    assert one[0]["score"] == 1.0
    assert len(one) <= sum(map(len, every))
    kept = [(box["boxes"], box["class_name"]) for box in one]
    assert all(box in [(b["boxes"], b["class_name"]) for answer in every for b in answer] for box in kept)
