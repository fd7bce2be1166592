"""People in photographs: key points, and bodies of a model of the user's."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from fourm import catalog
from fourm.config import build
from fourm.data import transforms
from fourm.data.decode import decode
from fourm.data.geometry import whole
from fourm.errors import CheckpointError, ConfigError
from fourm.prepare.labelers.base import Origin, Photo
from fourm.prepare.labelers.bodies import mirrored
from fourm.prepare.labelers.configs import like
from fourm.prepare.labelers.feature_configs import PosesConfig
from fourm.prepare.labelers.human_poses import HumanPoses
from fourm.report.poses import poses as draw
from fourm.tokenizers.base import load_tokenizer
from fourm.tokenizers.configs import VQVAEConfig
from fourm.tokenizers.vqvae import VQVAE

transformers = pytest.importorskip("transformers")
pytest.importorskip("scipy")

Instances = list[tuple[str, float, tuple[float, float, float, float]]]
ANN: Instances = [("person", 0.9, (0.1, 0.2, 0.5, 0.9))]
CROWD: Instances = [*ANN, ("dog", 0.9, (0.0, 0.0, 0.5, 0.5)), ("person", 0.7, (0.5, 0.1, 1.0, 1.0))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ViTPose, as `save_pretrained` writes it."""
    return save_network(tmp_path_factory.mktemp("vitpose"))


def save_network(path: Path, **options: Any) -> Path:
    torch.manual_seed(0)
    backbone = transformers.VitPoseBackboneConfig(
        image_size=[64, 48], patch_size=[16, 16], hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        out_indices=[1], **options,
    )  # fmt: skip
    config = transformers.VitPoseConfig(backbone_config=backbone, num_labels=17)
    transformers.VitPoseForPoseEstimation(config).save_pretrained(path)
    transformers.VitPoseImageProcessor(size={"height": 64, "width": 48}).save_pretrained(path)
    return path


@pytest.fixture
def user_package() -> Iterator[ModuleType]:
    """A module of the user's, which is not a file of this project."""
    module = ModuleType("users_bodies")
    sys.modules["users_bodies"] = module
    yield module
    del sys.modules["users_bodies"]


@pytest.fixture(scope="module")
def pose_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("poses")
    torch.manual_seed(1)
    network = {"kind": "mlp", "width": 16, "depth": 1}
    quantizer = {"kind": "memcodes", "num_heads": 8, "codebook_size": 32, "dim": 16}
    config = build(VQVAEConfig, {"encoder": network, "decoder": network, "quantizer": quantizer})
    VQVAE(catalog.get("smpl_pose"), config).eval().save(path)
    return path


def photo(instances: Instances, height: int = 60, width: int = 90, seed: int = 0) -> Photo:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    boxes = [{"boxes": list(box), "class_name": name, "score": score} for name, score, box in instances]
    labels = {"det": json.dumps({"instances": boxes}).encode()}
    return Photo("a", image, Origin("a.jpg", width, height), labels, {"det": like("det", "det")})


def config(folder: Path, **changes: Any) -> PosesConfig:
    return PosesConfig(name=str(folder), precision="fp32", **changes)


def read(data: bytes) -> list[dict[str, Any]]:
    return decode(data, like("human_poses", "human_poses"), lambda: "here")


def test_people_have_boxes_in_pixels_and_key_points_near_them(folder: Path) -> None:
    (data,) = HumanPoses(config(folder), "cpu").label([photo(CROWD)])

    ann, bob = read(data)
    assert ann["bbox"] == pytest.approx((9, 12, 45, 54), abs=1e-3)
    assert bob["bbox"] == pytest.approx((45, 6, 90, 60), abs=1e-3)
    joints = np.array([ann["keypoints"], bob["keypoints"]])
    assert joints.shape == (2, 17, 3)
    # The network sees a box 1.25 times as large, in the shape of 3 : 4; its joints lie there.
    for points, (x1, y1, x2, y2) in zip(joints, (ann["bbox"], bob["bbox"]), strict=True):
        half = 0.625 * max(x2 - x1, (y2 - y1) * 0.75)
        assert np.abs(points[:, 0] - (x1 + x2) / 2).max() < 1.2 * half
        assert np.abs(points[:, 1] - (y1 + y2) / 2).max() < 1.2 * half / 0.75


def test_a_joint_lies_where_its_heat_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = HumanPoses(config(folder), "cpu")
    heat = torch.zeros(1, 17, 16, 12)
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(12.0), indexing="ij")
    heat[:] = torch.exp(-((rows - 4) ** 2 + (columns - 6) ** 2) / 4)
    monkeypatch.setattr(network, "_heatmaps", lambda cuts: heat)

    (data,) = network.label([photo([("person", 1.0, (0.2, 0.1, 0.7, 1.0))])])

    # The box is 45 x 54 pixels; seen are 56.25 x 75 around (40.5, 33), of which a place has 56.25 / 11 x 75 / 15.
    x, y, score = read(data)[0]["keypoints"][0]
    assert (x, y) == pytest.approx((40.5 + 0.5 * 56.25 / 11, 33 - 3.5 * 75 / 15), abs=0.3)
    assert score == pytest.approx(1.0)


def test_nobody_is_nobody(folder: Path) -> None:
    low: Instances = [("person", 0.5, (0.1, 0.1, 0.9, 0.9)), ("person", 0.9, (0.5, 0.1, 0.501, 0.9))]
    files = HumanPoses(config(folder), "cpu").label([photo([]), photo(ANN), photo(low)])

    assert [len(read(data)) for data in files] == [0, 1, 0]


def test_people_of_a_batch_do_not_change_each_other(folder: Path) -> None:
    photos = [photo(CROWD), photo([], seed=1), photo(ANN, 100, 40, seed=2)]
    network = HumanPoses(config(folder, batch_size=2), "cpu")

    for one, data in zip(photos, network.label(photos), strict=True):
        (single,) = network.label([one])
        for here, alone in zip(read(data), read(single), strict=True):
            np.testing.assert_allclose(here["keypoints"], alone["keypoints"], atol=1e-2)


def test_a_network_with_an_expert_for_each_data_set_uses_that_of_coco(tmp_path: Path) -> None:
    network = HumanPoses(config(save_network(tmp_path, num_experts=3, part_features=4)), "cpu")

    (data,) = network.label([photo(CROWD)])

    assert np.array([person["keypoints"] for person in read(data)]).shape == (2, 17, 3)


def test_the_report_draws_the_joints(folder: Path) -> None:
    (data,) = HumanPoses(config(folder), "cpu").label([photo(ANN)])
    people = transforms.apply(read(data), like("human_poses", "human_poses"), whole((60, 90)), np.random.default_rng(0))
    without = [{name: value for name, value in person.items() if name != "keypoints"} for person in people]

    assert np.any(np.asarray(draw(people)) != np.asarray(draw(without)))


# ---------------------------------------------------------------- bodies


def bodies(count: int) -> dict[str, Any]:
    draws = np.random.default_rng(count)
    return {
        "pred_smpl_params": {
            "global_orient": np.tile(np.eye(3), (count, 1, 1, 1)),
            "body_pose": torch.from_numpy(draws.normal(size=(count, 23, 3, 3))),
            "betas": draws.normal(size=(count, 10)).tolist(),
        },
        "pred_cam": np.tile([0.9, 0.1, -0.2], (count, 1)),
    }


def test_a_model_of_the_users_adds_bodies(folder: Path, user_package: ModuleType) -> None:
    seen = []

    def estimate(image: np.ndarray, boxes: np.ndarray) -> dict[str, Any]:
        seen.append((image.shape, boxes.tolist()))
        return {**bodies(len(boxes)), "pose_tokenized": [[7] * 8] * len(boxes)}

    user_package.estimate = estimate  # type: ignore[attr-defined]
    network = HumanPoses(config(folder, smpl="users_bodies:estimate"), "cpu")

    nobody, data = network.label([photo([]), photo(ANN)])

    assert read(nobody) == []
    ((shape, boxes),) = seen
    assert shape == (60, 90, 3)
    np.testing.assert_allclose(boxes, [[9, 12, 45, 54]], atol=1e-3)
    (ann,) = read(data)
    assert ann["pose_tokens"] == [7] * 8
    assert ann["global_orient"] == np.eye(3).ravel().tolist()
    assert ann["camera"] == pytest.approx([0.9, 0.1, -0.2])
    assert len(ann["betas"]) == 10


def test_a_class_of_the_users_is_built_once_for_the_device(folder: Path, user_package: ModuleType) -> None:
    built = []

    class Estimator:
        def __init__(self, device: str) -> None:
            built.append(device)

        def __call__(self, image: np.ndarray, boxes: np.ndarray) -> dict[str, Any]:
            return {"pred_cam": np.ones((len(boxes), 3))}

    user_package.Estimator = Estimator  # type: ignore[attr-defined]
    network = HumanPoses(config(folder, smpl="users_bodies:Estimator"), "cpu")
    network.label([photo(ANN)])
    (data,) = network.label([photo(ANN)])

    assert built == ["cpu"]
    assert read(data)[0]["camera"] == [1, 1, 1]


def test_a_tokenizer_writes_poses_and_their_mirror_images(
    folder: Path, user_package: ModuleType, pose_tokenizer: Path
) -> None:
    user_package.estimate = lambda image, boxes: bodies(len(boxes))  # type: ignore[attr-defined]
    chosen = config(folder, smpl="users_bodies:estimate", pose_tokenizer=pose_tokenizer)

    (data,) = HumanPoses(chosen, "cpu").label([photo(ANN)])

    pose = bodies(1)["pred_smpl_params"]["body_pose"].float()
    tokenizer = load_tokenizer(pose_tokenizer)
    (ann,) = read(data)
    for key, turns in (("pose_tokens", pose), ("mirrored_pose_tokens", torch.from_numpy(mirrored(pose.numpy())))):
        assert ann[key] == tokenizer.encode(turns.reshape(1, 207, 1, 1)).flatten().tolist()
    assert ann["pose_tokens"] != ann["mirrored_pose_tokens"]


def test_the_mirror_exchanges_sides_and_turns_the_other_way() -> None:
    def about(axis: int, angle: float) -> np.ndarray:
        a, b = [i for i in range(3) if i != axis]
        turn = np.eye(3, dtype=np.float32)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = (-np.sin(angle), np.sin(angle)) if axis != 1 else (np.sin(angle), -np.sin(angle))
        return turn

    pose = np.tile(np.eye(3, dtype=np.float32), (1, 23, 1, 1))
    pose[0, 17] = about(2, 0.5)  # the left elbow, bent to the front of the picture
    pose[0, 3] = about(0, 0.9)  # the left knee
    pose[0, 11] = about(1, 0.3)  # the neck

    seen = mirrored(pose)

    np.testing.assert_allclose(seen[0, 18], about(2, -0.5), atol=1e-6)
    np.testing.assert_allclose(seen[0, 4], about(0, 0.9), atol=1e-6)
    np.testing.assert_allclose(seen[0, 11], about(1, -0.3), atol=1e-6)
    np.testing.assert_array_equal(seen[0, 17], np.eye(3))
    np.testing.assert_array_equal(mirrored(seen), pose)


def test_a_model_that_does_not_fit_says_how(folder: Path, user_package: ModuleType, pose_tokenizer: Path) -> None:
    user_package.short = lambda image, boxes: {"pred_cam": [[1, 2]]}  # type: ignore[attr-defined]
    user_package.number = 3  # type: ignore[attr-defined]
    for name, message in (
        ("no_such_package:f", "smpl is 'no_such_package:f', which cannot be imported: No module"),
        ("users_bodies:gone", "cannot be imported: .*gone"),
        ("users_bodies:number", "which is int; expected a function"),
    ):
        with pytest.raises(ConfigError, match=message):
            HumanPoses(config(folder, smpl=name), "cpu")
    with pytest.raises(ConfigError, match=r"gave pred_cam of shape \(1, 2\); expected \(1, 3\)"):
        HumanPoses(config(folder, smpl="users_bodies:short"), "cpu").label([photo(ANN)])
    with pytest.raises(ConfigError, match="expected package.module:name"):
        PosesConfig(smpl="users_bodies")
    with pytest.raises(ConfigError, match="without smpl there are no poses"):
        PosesConfig(pose_tokenizer=pose_tokenizer)


def test_weights_that_cannot_be_had_name_the_way_out(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"pose estimator '.*': its weights cannot be loaded.* set `weights`"):
        HumanPoses(PosesConfig(name=str(tmp_path)), "cpu")
    random = HumanPoses(replace(config(folder), pretrained=False), "cpu")
    assert len(read(random.label([photo(ANN)])[0])) == 1
