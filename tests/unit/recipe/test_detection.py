"""How a recipe for detection becomes a detector, and what is told before it is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fourm import config as configs
from fourm.errors import ConfigError, DataError
from fourm.recipe import detection, finetune
from fourm.recipe.finetune_schema import FinetuneRecipe
from fourm.transfer.folder import load_network
from tests.scenes import rectangle, write

HEAD = {
    "kind": "cascade_mask_rcnn",
    "anchors": [8, 12, 16, 24, 32],
    "box_head": "mlp",
    "box_dim": 16,
    "mask_dim": 8,
    "num_proposals_train": [40, 20],
    "num_proposals_test": [40, 20],
    "rpn_samples": 32,
    "box_samples": 16,
    "score_threshold": 0.0,
}
MODEL = {"kind": "multimodal", "dim": 32, "encoder_depth": 2, "decoder_depth": 1, "num_heads": 2, "embedding_std": 0.4}


def pictures(folder: Path, count: int = 6) -> dict[str, str]:
    """Bright squares and discs (as far as boxes are concerned) on grey."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for n in range(count):
        image = np.full((48, 64, 3), 90, np.uint8)
        for category in (3, 7):
            left, top = int(rng.integers(0, 40)), int(rng.integers(0, 24))
            image[top : top + 20, left : left + 20, category % 2] = 255
            annotations.append(rectangle(left, top, 20, 20, image_id=n + 1, category_id=category))
        images.append(image)
    config = write(folder, annotations, sizes=[(48, 64)] * count, images=images)
    return {"path": config.images, "annotations": config.annotations}


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    return {split: {"datasets": {"scenes": pictures(tmp_path / split)}} for split in ("train", "val")}


def recipe(data: dict[str, Any], **changes: Any) -> FinetuneRecipe:
    plain: dict[str, Any] = {
        "name": "small",
        "data": data,
        "model": MODEL,
        "backbone": {"modalities": ["rgb@64"], "image_size": 64, "pyramid": "simple", "out_channels": 16},
        "head": HEAD,
        "objective": {"kind": "detection"},
        "train": {"max_steps": 3, "batch_size": 2, "tensorboard": False, "optimizer": {"lr": 1e-3}},
    }
    return configs.build(FinetuneRecipe, plain | changes)


def test_a_recipe_becomes_a_detector_of_the_categories_of_its_data(data: dict[str, Any]) -> None:
    parts = detection.assemble(recipe(data))
    assert parts.answer.classes == ("disc", "square")
    assert parts.network.num_outputs == 2
    assert {name.split(".")[0] for name, _ in parts.network.named_parameters()} == {"backbone", "head"}
    assert parts.objective.parts == parts.network.head_config.loss_names


def test_layer_decay_and_adapters_hold_for_the_backbone(data: dict[str, Any]) -> None:
    made = recipe(data, layer_decay=0.5, lora={"rank": 2})
    parts = detection.assemble(made)
    trained = [name for name, weight in parts.network.named_parameters() if weight.requires_grad]
    assert any("lora_up" in name for name in trained)
    assert not any("attn.qkv.weight" in name for name in trained)
    rules = finetune.with_layer_decay(made, parts.network).train.optimizer.rules
    assert {rule.lr_scale for rule in rules} == {0.5, 0.25}


def test_every_loss_is_a_mean_over_images(data: dict[str, Any]) -> None:
    parts = detection.assemble(recipe(data))
    dataset = parts.dataset("scenes", recipe(data).data.train.datasets["scenes"], True)
    items = [
        parts.objective.prepare(dataset.sample(n, np.random.default_rng(n)), np.random.default_rng(0)) for n in (0, 1)
    ]
    batch = parts.objective.collate(items)
    assert parts.objective.counts(batch) == dict.fromkeys(parts.objective.parts, 2.0)
    assert parts.objective.num_tokens(batch) == 2 * (64 // parts.network.backbone.patch_size) ** 2
    torch.manual_seed(0)
    loss = parts.objective.loss(parts.network.train(), batch)
    torch.manual_seed(0)
    plain = parts.network({parts.objective.modality: batch.images}, targets=batch.targets)
    total = loss.scalar(parts.objective.counts(batch))
    assert total.item() == pytest.approx(sum(value.item() for value in plain.values()), rel=1e-5)


def test_a_detector_is_trained_measured_and_loaded_again(data: dict[str, Any], tmp_path: Path) -> None:
    made = replace(recipe(data), output=tmp_path / "run")
    finetune.run(made)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    results = next(entry for entry in log if "box_ap" in entry)
    assert 0 <= results["box_ap"] <= 1
    assert 0 <= results["mask_ap"] <= 1
    tuned = load_network(tmp_path / "run")
    assert tuned.answer.classes == ("disc", "square")
    with torch.no_grad():
        (found,) = tuned.network({"rgb@64": [torch.rand(3, 40, 50)]})
    assert found["masks"].shape[1:] == (40, 50)


@pytest.mark.slow
def test_a_run_in_two_parts_has_the_losses_of_one(data: dict[str, Any], tmp_path: Path) -> None:
    def losses(name: str, *lengths: int) -> list[float]:
        for length in lengths:
            train = {
                "max_steps": length, "batch_size": 2, "tensorboard": False, "log_every_steps": 1,
                "optimizer": {"lr": 1e-3}, "schedule": {"kind": "constant"},
            }  # fmt: skip
            finetune.run(replace(recipe(data, train=train), output=tmp_path / name))
        log = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        return [entry["loss"] for entry in log if entry.get("kind") == "train"]

    whole = losses("whole", 4)
    assert len(whole) == 4
    assert losses("parts", 2, 4) == whole


# ------------------------------------------------------------ what is refused


def broken(split: str, change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """Change the annotation file of a split."""

    def work(data: dict[str, Any]) -> None:
        path = Path(data[split]["datasets"]["scenes"]["annotations"])
        content = json.loads(path.read_bytes())
        change(content)
        path.write_text(json.dumps(content))

    return work


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (broken("val", lambda c: c["categories"].append({"id": 9, "name": "star"})), "category 'star', which is none"),
        (broken("val", lambda c: c["categories"].pop()), "class 'disc' is none of its categories"),
        (broken("val", lambda c: c["annotations"].clear()), "no annotation of the classes disc, square"),
        (broken("train", lambda c: c["annotations"][0].update(bbox=[60, 0, 20, 20])), "reaches outside"),
        (broken("train", lambda c: c["images"].clear() or c["annotations"].clear()), "has no images"),
    ],
)
def test_data_that_does_not_fit_is_told_before_training(
    data: dict[str, Any], change: Callable[[dict[str, Any]], None], message: str
) -> None:
    change(data)
    with pytest.raises((ConfigError, DataError), match=message):
        detection.assemble(recipe(data))


def test_another_number_of_classes_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"have 2 categories .* objective.num_classes is 80"):
        detection.assemble(recipe(data, objective={"kind": "detection", "num_classes": 80}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": {"kind": "linear"}}, "belong together"),
        ({"objective": {"kind": "segmentation", "modality": "semseg@64"}}, "belong together"),
        ({"backbone": {"modalities": ["rgb@64"], "image_size": 64}}, "set backbone.pyramid: simple"),
        ({"backbone": {"modalities": ["tok_rgb@64"], "image_size": 64, "pyramid": "simple"}}, "photographs alone"),
    ],
)
def test_parts_that_contradict_one_another_are_refused(
    data: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        detection.assemble(recipe(data, **changes))


def test_data_without_annotations_is_refused(data: dict[str, Any]) -> None:
    del data["val"]["datasets"]["scenes"]["annotations"]
    with pytest.raises(ConfigError, match="'scenes': detection needs the file of `annotations`"):
        recipe(data)
