"""The picture of a whole job."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from fourm.generate.bundle import raw_modality
from fourm.generate.inputs import GivenValue, give
from fourm.generate.overview import overview
from fourm.layouts import Continuous, Discrete, Grid
from fourm.modality import Modality
from fourm.report.colors import palette
from fourm.report.grid import below, grid
from fourm.report.legend import scale_legend
from fourm.report.pictures import draw
from fourm.report.scale import Scale
from tests.unit.generate.toy import LEVELS, Mosaic, ToyBundle

GREEN = torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 16, 16)


def show(bundle: ToyBundle, values: list[GivenValue], **answers: Any) -> np.ndarray:
    targets = {name: next(m for m in bundle.model.modalities.values() if name in m.name) for name in answers}
    shown = {name: raw_modality(bundle, modality) for name, modality in targets.items()}
    return np.asarray(overview(values, answers, shown))


def count(picture: np.ndarray, color: tuple[int, ...]) -> int:
    return int((picture == color).all(-1).sum())


def test_what_was_given_and_every_answer_has_a_cell(bundle: ToyBundle) -> None:
    captions = ["a red sofa", "two chairs"]
    value = give(bundle, "caption", "a bed")
    picture = show(bundle, [value], depth=torch.rand(2, 1, 16, 16), caption=captions)
    assert picture.shape[1] > 3 * 192
    assert picture.shape[0] > 2 * 192


def test_boxes_lie_on_the_photograph_also_if_it_comes_after_them(bundle: ToyBundle) -> None:
    boxes = [[{"boxes": [0.1, 0.1, 0.9, 0.9], "class_name": "bed"}]]
    alone = show(bundle, [], det=boxes, tok_rgb=torch.zeros(1, 3, 16, 16))
    on_green = show(bundle, [], det=boxes, tok_rgb=GREEN)
    assert count(alone, (0, 255, 0)) == 0
    assert count(on_green, (0, 255, 0)) > 1.5 * 192 * 192


def test_features_are_no_photograph(bundle: ToyBundle) -> None:
    clip = Modality("clip", Grid(4, 4, 4), Continuous(5), "rgb", "image", channels=3, teacher="clip_b16")
    rich = ToyBundle(bundle.model, {**bundle.tokenizers, "tok_rgb@16": Mosaic(clip)}, bundle.text)
    features, boxes = torch.rand(1, 5, 4, 4), [[{"boxes": [0.1, 0.1, 0.9, 0.9], "class_name": "bed"}]]
    modality = rich.model.modalities["det"]
    expected = grid([[draw(clip, features[0]), draw(modality, boxes[0])]], columns=["tok_rgb", "det"], cell_size=224)
    np.testing.assert_array_equal(show(rich, [], tok_rgb=features, det=boxes), expected)


def test_features_of_several_answers_share_their_colours(bundle: ToyBundle) -> None:
    clip = Modality("clip", Grid(4, 4, 4), Continuous(5), "rgb", "image", channels=3, teacher="clip_b16")
    rich = ToyBundle(bundle.model, {**bundle.tokenizers, "tok_rgb@16": Mosaic(clip)}, bundle.text)
    features = torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    features[1] *= 3
    cells = [[draw(clip, value, like=features)] for value in features]
    expected = grid(cells, columns=["tok_rgb"], rows=["0", "1"])
    np.testing.assert_array_equal(show(rich, [], tok_rgb=features), expected)


def test_a_legend_names_the_classes_that_occur(bundle: ToyBundle) -> None:
    labels = torch.zeros(1, 16, 16, dtype=torch.int64)
    labels[:, 8:] = 5
    with_labels = show(bundle, [], semseg=labels)
    sheet = 192 + 6
    legend = with_labels[-24:]
    present = [n for n in range(LEVELS) if count(legend, tuple(palette(LEVELS)[n].tolist()))]
    assert with_labels.shape[0] > sheet + 20
    assert present == [0, 5]
    named = Modality("rooms", Grid(16, 16, 1), Discrete(2), "semseg", "labels", classes=("floor", "wall"))
    other = ToyBundle(bundle.model, {"tok_semseg@16": Mosaic(named)}, bundle.text)
    assert (show(other, [], semseg=labels.clamp(max=1)).shape[0]) == with_labels.shape[0]


def test_a_scale_is_below_what_was_measured(bundle: ToyBundle) -> None:
    warm = Modality("thermal", Grid(16, 16, 1), Continuous(1), "thermal", "depth16", channels=1, value_range=(0, 120))
    thermal = ToyBundle(bundle.model, {"tok_depth@16": Mosaic(warm)}, bundle.text)
    values = torch.full((1, 1, 16, 16), 120.0)
    sheet = show(thermal, [], depth=values)
    expected = below(grid([[draw(warm, values[0])]], columns=["depth"]), scale_legend("depth", Scale((0, 120))))
    np.testing.assert_array_equal(sheet, expected)
    assert show(ToyBundle(bundle.model), [], depth=torch.arange(16)[None]).shape[0] < sheet.shape[0]


def test_many_columns_lie_in_blocks_below_each_other(bundle: ToyBundle) -> None:
    values = [give(bundle, f"caption#{n}", "a bed") for n in range(8)]
    few, many = (show(bundle, values[:n], caption=["a sofa"]) for n in (7, 8))
    assert few.shape[1] > 8 * 192
    assert many.shape[1] < 6 * 200
    assert many.shape[0] > 1.9 * few.shape[0]


def test_ids_of_targets_without_a_tokenizer_are_drawn(bundle: ToyBundle) -> None:
    poor = ToyBundle(bundle.model)
    picture = show(poor, [], depth=torch.arange(16)[None], caption=[torch.arange(5)], det=[torch.arange(0)])
    assert picture.shape[1] > 3 * 192
    assert Image.fromarray(picture).mode == "RGB"
