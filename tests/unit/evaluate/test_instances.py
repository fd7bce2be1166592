"""Instances and people that a model writes, from its tokens to the metrics."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fourm import catalog
from fourm.config import build
from fourm.errors import ConfigError, DataError
from fourm.evaluate import answers as protocol
from fourm.evaluate.configs import AnswersEvaluation
from fourm.evaluate.instances import InstanceScore, inner_point, masks_of, overlap, pasted, question
from fourm.evaluate.predict import Predictor
from fourm.generate.sampler import Generated
from fourm.layouts import Grid
from fourm.tokenizers.structured import poses_to_text, sam_to_text
from tests.unit.evaluate.conftest import toy_bundle

BOXES = [(16, 16, 112, 112), (120, 32, 200, 208)]  # xmin, ymin, xmax, ymax in pixels of 224
PERSON = {"bbox": (0.0, 0.25, 0.5, 1.0), "pose_tokens": [1] * 8, "global_orient": np.eye(3).ravel().tolist()}
WORDS = ("point polygon none human pose global camera shape",)


class Ones:
    """Decodes any codes to masks that fill their boxes, or to bodies at rest."""

    vocab_size = 1024

    def __init__(self, grid: Grid, values: np.ndarray) -> None:
        self.grid, self.values, self.modality = (
            grid,
            torch.as_tensor(values, dtype=torch.float32),
            catalog.get("rgb@64"),
        )

    def decode(self, ids: Tensor) -> Tensor:
        return self.values.expand(len(ids), *self.values.shape)


@pytest.fixture(scope="module")
def bundle() -> Any:
    made = toy_bundle(["rgb@64", "sam_instance", "human_poses"], WORDS, 1000)
    made.tokenizers["sam_instance"] = Ones(Grid(4, 4, 16), np.ones((1, 64, 64)))
    made.tokenizers["human_poses"] = Ones(Grid(2, 4), np.stack([np.eye(3)] * 23).reshape(207, 1, 1))
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images with two rectangles and a person each, as folders of files."""
    root = tmp_path_factory.mktemp("instances")
    outlines = [[[x1, y1], [x2, y1], [x2, y2], [x1, y2]] for x1, y1, x2, y2 in BOXES]
    crop = {"points": outlines, "bbox": [[y1, x1, y2, x2] for x1, y1, x2, y2 in BOXES], "token_ids": [[5] * 16] * 2}
    x1, y1, x2, y2 = PERSON["bbox"]
    people = {
        "bbox_xyxy": [[64 * x1, 64 * y1, 64 * x2, 64 * y2]],
        "pred_smpl_params": {"global_orient": [np.eye(3).tolist()], "body_pose": [[np.eye(3).tolist()] * 23]},
    }
    for n in range(3):
        buffer = io.BytesIO()
        Image.fromarray(np.full((64, 64, 3), 20 * n, np.uint8)).save(buffer, "PNG")
        files = {"rgb": buffer.getvalue(), "sam_instance": json.dumps([crop]), "human_poses": json.dumps(people)}
        for name, content in files.items():
            path = root / name / f"{n}.{'png' if name == 'rgb' else 'json'}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def settings(data: Path, **changes: Any) -> AnswersEvaluation:
    plain = {"kind": "answers", "model": "unused", "data": str(data), "output": "unused", "batch_size": 2}
    return build(AnswersEvaluation, plain | changes)


def measure(bundle: Any, config: AnswersEvaluation) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = protocol.evaluate_answers(
        config, Predictor(bundle, torch.device("cpu"))
    ).metrics
    return found


def encoded(bundle: Any, texts: list[str]) -> Tensor:
    rows = [bundle.text.encode(text).tolist() for text in texts]
    longest = max(map(len, rows))
    return torch.tensor([row + [-1] * (longest - len(row)) for row in rows])


def test_an_untrained_model_finds_nothing(bundle: Any, data: Path) -> None:
    assert measure(bundle, settings(data)) == {
        "rgb_to_human_poses": {"found": 0.0},
        "rgb_to_sam_instance": {"mask_ap": 0.0, "mask_ap50": 0.0, "point_iou": 0.0},
    }


def test_a_model_that_writes_what_is_there_has_no_errors(
    bundle: Any, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def run(self: Predictor, steps: Any, given: Any, seeds: Tensor, **options: Any) -> Generated:
        (step,) = steps
        if step.target == "human_poses":
            return Generated({step.target: encoded(bundle, [poses_to_text([PERSON])] * len(seeds))}, {})
        questions = [bundle.text.decode([i for i in row if i >= 0]) for row in given["sam_instance"]["ids"].tolist()]
        asked.extend(questions)
        # Of two instances the one at the point.
        boxes = [BOXES["v1=63" not in text] for text in questions]
        written = [
            {"point": (0.5, 0.5), "instances": [{"box": np.array(box) / 224, "token_ids": [5] * 16}]} for box in boxes
        ]
        return Generated({step.target: encoded(bundle, [sam_to_text([one]) for one in written])}, {})

    monkeypatch.setattr(Predictor, "run", run)
    found = measure(bundle, settings(data))

    assert asked == ["point v0=63 v1=63", "point v0=119 v1=159"] * 3
    assert found["rgb_to_human_poses"] == pytest.approx({"found": 1, "joint_angle": 0, "body_angle": 0}, abs=1e-4)
    assert found["rgb_to_sam_instance"]["mask_ap50"] == pytest.approx(1)
    assert found["rgb_to_sam_instance"]["point_iou"] > 0.97


def test_masks_are_drawn_as_outlines_are_and_pasted_into_their_boxes() -> None:
    box = BOXES[1]
    outline = np.array([[box[0], box[1]], [box[2], box[1]], [box[2], box[3]], [box[0], box[3]]], float)
    crop = {"points": np.concatenate([outline, outline[:2]]), "num_points": np.array([4, 2])}
    (mask,) = masks_of(crop)  # a line is no mask
    ones = {"box": tuple(side / 224 for side in box), "mask": np.ones((64, 64))}
    (other,) = pasted([ones, {"box": (0.5, 0.5, 0.5, 0.9), "mask": np.ones((64, 64))}, {"box": (0, 0, 1, 1)}])

    assert mask.sum() == pytest.approx((box[2] - box[0]) * (box[3] - box[1]), rel=0.03)
    assert overlap(mask, other) > 0.97
    assert overlap(mask, ~mask) == 0


def test_points_lie_in_what_is_asked_about() -> None:
    ring = np.zeros((224, 224), np.bool_)
    ring[50:150, 50:150] = True
    ring[60:140, 60:140] = False
    x, y = inner_point(ring)
    assert ring[y, x]
    assert question((120, 30)) == "point v0=30 v1=120 [S_1]"


def test_codes_without_their_tokenizer_are_told_if_asked_for(data: Path) -> None:
    plain = toy_bundle(["rgb@64", "sam_instance", "human_poses"], WORDS, 1000)
    for task in ("sam_instance", "human_poses"):
        with pytest.raises(ConfigError, match=f"writes {task}, but has no tokenizer of that name"):
            measure(plain, settings(data, tasks=[task]))
    with pytest.raises(ConfigError, match="there is nothing to measure"):
        measure(plain, settings(data))


def test_no_instances_are_told(bundle: Any) -> None:
    score = InstanceScore(Predictor(bundle, torch.device("cpu")), 4)
    score.add([{"points": np.zeros((0, 2)), "num_points": np.zeros(0, int)}], {}, 0)
    with pytest.raises(DataError, match="nothing to measure"):
        score.result()
