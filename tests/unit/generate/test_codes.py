"""Codes within texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import Tensor

from fourm import catalog
from fourm.generate.bundle import raw_modality
from fourm.generate.codes import decode_codes
from fourm.layouts import Grid
from tests.unit.generate.toy import ToyBundle

SAM, POSES = catalog.get("sam_instance"), catalog.get("human_poses")


class Stamps:
    """Decodes a grid of ids to a map whose every place shows its id over one hundred."""

    def __init__(self, grid: Grid, shape: tuple[int, ...]) -> None:
        self.grid, self.shape, self.vocab_size, self.modality = grid, shape, 100, catalog.get("sam_mask")
        self.batches: list[int] = []

    def decode(self, ids: Tensor) -> Tensor:
        self.batches.append(len(ids))
        assert ids.shape[1:] == (self.grid.height, self.grid.width)
        return (ids.flatten(1)[:, :1] / 100).expand(-1, int(np.prod(self.shape))).reshape(-1, *self.shape)


MASKS, BODIES = Grid(4, 4, 16), Grid(2, 4)


def instance(number: int, **facts: Any) -> dict[str, Any]:
    return {"box": (0, 0, 9, 9), "token_ids": [number] * 16, **facts}


def test_instances_get_their_masks_and_people_their_bodies(bundle: ToyBundle) -> None:
    tokenizers = {"sam_instance": Stamps(MASKS, (1, 64, 64)), "human_poses": Stamps(BODIES, (207, 1, 1))}
    rich = ToyBundle(bundle.model, tokenizers)
    points = [[{"point": (1, 1), "instances": [instance(7), instance(9)]}], [{"point": (1, 1), "instances": []}]]
    people = [[{"bbox": (0, 0, 1, 1), "pose_tokens": [3] * 8}], []]
    decode_codes(rich, SAM, points)
    decode_codes(rich, POSES, people)
    masks = [one["mask"] for one in points[0][0]["instances"]]
    assert [mask.shape for mask in masks] == [(64, 64)] * 2
    assert [float(mask[5, 5]) for mask in masks] == pytest.approx([0.07, 0.09])
    assert people[0][0]["body_pose"].shape == (207,)
    assert people[0][0]["body_pose"][0] == pytest.approx(0.03)


def test_many_codes_are_decoded_in_batches(bundle: ToyBundle) -> None:
    stamps = Stamps(MASKS, (1, 8, 8))
    points = [{"point": (1, 1), "instances": [instance(n) for n in range(100)]}]
    decode_codes(ToyBundle(bundle.model, {"sam_instance": stamps}), SAM, [points])
    assert stamps.batches == [64, 36]
    assert [float(one["mask"][0, 0]) for one in points[0]["instances"]] == pytest.approx(np.arange(100) / 100)


@pytest.mark.parametrize("ids", [None, [], [1] * 15, [1] * 17, [100] * 16, [-1] * 16])
def test_codes_that_the_tokenizer_does_not_know_are_passed_over(bundle: ToyBundle, ids: Any) -> None:
    found = {"box": (0, 0, 9, 9), **({} if ids is None else {"token_ids": ids})}
    before = dict(found)
    stamps = {"sam_instance": Stamps(MASKS, (1, 8, 8))}
    decode_codes(ToyBundle(bundle.model, stamps), SAM, [[{"point": (1, 1), "instances": [found]}]])
    assert found == before


def test_without_a_tokenizer_values_stay_as_they_are(bundle: ToyBundle) -> None:
    points = [{"point": (1, 1), "instances": [instance(7)]}]
    decode_codes(bundle, SAM, [points])
    assert "mask" not in points[0]["instances"][0]


def test_a_text_shows_itself_not_what_the_tokenizer_of_its_codes_does(bundle: ToyBundle) -> None:
    rich = ToyBundle(bundle.model, {"sam_instance": Stamps(MASKS, (1, 8, 8))})
    assert raw_modality(rich, SAM) is SAM
