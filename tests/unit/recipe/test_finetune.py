"""How a fine-tuning recipe becomes a network, and what is told before it is trained."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fourm import config as configs
from fourm.catalog import resolve
from fourm.data.dataset import build_dataset
from fourm.data.loader import evaluate_batches
from fourm.errors import CheckpointError, ConfigError, DataError, FourmError
from fourm.models.configs import MultimodalConfig
from fourm.models.folder import save_model
from fourm.models.multimodal import Multimodal
from fourm.recipe import finetune, knn
from fourm.recipe.finetune_schema import FinetuneRecipe
from fourm.train.configs import ParameterRule
from fourm.transfer.backbone import Backbone

SMALL = {"kind": "multimodal", "dim": 32, "encoder_depth": 2, "decoder_depth": 1, "num_heads": 2}
CLASSES = ("bag", "boot", "coat")
PREDICTED: dict[str, Any] = {
    "backbone": {"modalities": ["rgb@64", "tok_depth@64"]},
    "predict": ["tok_depth@64"],
}
DROPPING = {"kind": "segmentation", "modality": "semseg@64", "modality_dropout": 0.1}


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of rooms with random weights."""
    folder = tmp_path_factory.mktemp("model")
    plain = {key: value for key, value in SMALL.items() if key != "kind"}
    save_model(Multimodal(resolve(["rgb@64", "tok_depth@64"]), configs.build(MultimodalConfig, plain)), folder)
    return folder


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    """Four images with depth, normals and labels, as folders of files."""
    rng = np.random.default_rng(0)
    for n in range(4):
        write(tmp_path / "rgb" / f"{n}.png", png(rng.integers(0, 256, (64, 64, 3), np.uint8)))
        write(tmp_path / "depth" / f"{n}.png", png(rng.integers(6000, 65536, (64, 64)).astype(np.uint16)))
        write(tmp_path / "normal" / f"{n}.png", png(rng.integers(0, 256, (64, 64, 3), np.uint8)))
        write(tmp_path / "semseg" / f"{n}.png", png(rng.integers(0, 16, (64, 64), np.uint8)))
        write(tmp_path / "label" / f"{n}.json", json.dumps(n % 3).encode())
    return tmp_path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images in folders of classes."""
    for split in ("train", "val"):
        for name in CLASSES:
            write(tmp_path / split / name / f"{split}.png", png(np.full((64, 64, 3), 9, np.uint8)))
    return tmp_path


def sets(path: Path, **options: Any) -> dict[str, Any]:
    return {split: {"datasets": {"rooms": {"path": str(path), **options}}} for split in ("train", "val")}


def recipe(data: dict[str, Any], checkpoint: Path | None = None, **changes: Any) -> FinetuneRecipe:
    plain: dict[str, Any] = {
        "name": "small",
        "data": data,
        "init_from": str(checkpoint) if checkpoint else None,
        "backbone": {"modalities": ["rgb@64"]},
        "head": {"kind": "linear"},
        "objective": {"kind": "segmentation", "modality": "semseg@64"},
        "train": {"max_steps": 2, "batch_size": 4},
        **({} if checkpoint else {"model": SMALL}),
    }
    return configs.build(FinetuneRecipe, plain | changes)


def image_folder(photos: Path, **objective: Any) -> FinetuneRecipe:
    data = {
        split: {"datasets": {split: {"path": str(photos), "modality_name_map": {split: "rgb@64"}}}}
        for split in ("train", "val")
    }
    return recipe(data, objective={"kind": "classification", **objective})


def first_batch(made: FinetuneRecipe, parts: finetune.Parts) -> Any:
    name, config = next(iter(made.data.train.datasets.items()))
    dataset = build_dataset(name, config, parts.data_modalities, parts.encoders)
    finetune.look_at(dataset, parts.objective)
    return next(evaluate_batches(dataset, parts.objective.prepare, parts.objective.collate, batch_size=4))


TASKS: list[tuple[dict[str, Any], dict[str, Any], tuple[int, ...]]] = [
    ({"kind": "segmentation", "modality": "semseg@64"}, {"kind": "linear"}, (4, 16, 64, 64)),
    ({"kind": "depth", "modality": "depth@64"}, {"kind": "convnext", "dim": 64, "depth": 1}, (4, 1, 64, 64)),
    ({"kind": "depth", "modality": "depth@64", "loss": "berhu"}, {"kind": "linear"}, (4, 1, 64, 64)),
    ({"kind": "normals", "modality": "normal@64"}, {"kind": "linear"}, (4, 3, 64, 64)),
    ({"kind": "classification", "source": "label", "num_classes": 3, "mixup": 1.0}, {"kind": "linear"}, (4, 3)),
    ({"kind": "classification", "source": "label", "classes": CLASSES}, {"kind": "attentive"}, (4, 3)),
]


@pytest.mark.parametrize(("objective", "head", "shape"), TASKS, ids=lambda v: v.get("kind") if "kind" in v else None)
def test_every_task_scores_what_its_data_holds(
    rooms: Path, checkpoint: Path, objective: dict[str, Any], head: dict[str, Any], shape: tuple[int, ...]
) -> None:
    made = recipe(sets(rooms), checkpoint, objective={**objective}, head=head)
    parts = finetune.assemble(made)
    batch = first_batch(made, parts)

    output = parts.objective.output(parts.network, batch)
    loss = parts.objective.score(output, batch).scalar(parts.objective.counts(batch))
    loss.backward()
    score = finetune.score_of(parts.objective.task)
    score.add(parts.objective.task.answer(output.detach()), batch.target)

    assert output.shape == shape
    assert torch.isfinite(loss)
    assert all(np.isfinite(value) for value in score.result().values())


def test_targets_are_in_natural_units(rooms: Path, checkpoint: Path) -> None:
    made = recipe(sets(rooms), checkpoint, objective={"kind": "depth", "modality": "depth@64"})
    parts = finetune.assemble(made)

    target = first_batch(made, parts).target

    assert 16 * 6000 / 65536 - 0.01 < float(target.min()) < float(target.max()) <= 16.0


def test_other_image_sizes_reach_data_and_network(rooms: Path, checkpoint: Path) -> None:
    made = recipe(sets(rooms), checkpoint, backbone={"modalities": ["rgb"], "image_size": 96})
    parts = finetune.assemble(made)
    batch = first_batch(made, parts)

    assert batch.inputs["rgb@64"].shape == (4, 3, 96, 96)
    assert batch.target.shape == (4, 96, 96)
    assert parts.network(batch.inputs).shape == (4, 16, 12, 12)


def test_new_and_predicted_modalities_come_from_data_and_from_the_model(rooms: Path, checkpoint: Path) -> None:
    new = recipe(sets(rooms), checkpoint, backbone={"modalities": ["rgb@64", "depth@64"], "new": ["depth@64"]})
    batch = first_batch(new, finetune.assemble(new))
    assert sorted(batch.inputs) == ["depth@64", "rgb@64"]

    predicted = recipe(
        sets(rooms), checkpoint, backbone={"modalities": ["rgb@64", "tok_depth@64"]}, predict=["tok_depth@64"]
    )
    parts = finetune.assemble(predicted)
    batch = first_batch(predicted, parts)
    assert sorted(batch.inputs) == ["rgb@64"]
    assert parts.objective.output(parts.network, batch).shape == (4, 16, 64, 64)


def test_folders_are_classes(photos: Path) -> None:
    made = image_folder(photos)
    parts = finetune.assemble(made)

    assert parts.objective.task.modality.classes == CLASSES
    assert parts.network.num_outputs == 3
    assert first_batch(made, parts).target.tolist() == [0, 1, 2]


def test_folders_of_images_and_annotations_are_read_as_ade20k_has_them(tmp_path: Path, checkpoint: Path) -> None:
    """Ids begin with one, zero is void, and both folders have folders of splits."""
    for n in range(3):
        write(tmp_path / "images" / "training" / f"ADE_{n}.jpg", png(np.zeros((48, 64, 3), np.uint8)))
        ids = np.full((48, 64), 150, np.uint8)
        ids[:24] = 0
        write(tmp_path / "annotations" / "training" / f"ADE_{n}.png", png(ids))
    ade = {
        "layout": {"kind": "grid", "height": 512, "width": 512}, "content": {"kind": "discrete", "vocab_size": 150},
        "source": "semseg", "decode": "labels_from_one", "direction": "input",
    }  # fmt: skip
    folders = {"images/training": "rgb@64", "annotations/training": "semseg_ade@512"}
    data = {"train": {"datasets": {"ade": {"path": str(tmp_path), "modality_name_map": folders}}}}
    made = recipe(
        data, checkpoint, modalities={"semseg_ade@512": ade}, backbone={"modalities": ["rgb"], "image_size": 96},
        objective={"kind": "segmentation", "modality": "semseg_ade@512"},
    )  # fmt: skip

    parts = finetune.assemble(made)
    batch = first_batch(made, parts)

    assert parts.network.num_outputs == 150
    assert batch.target.unique().tolist() == [-1, 149]
    assert batch.num_scored == 3 * 96 * 96 // 2


def test_frozen_and_adapted_encoders_train_what_they_should(rooms: Path, checkpoint: Path) -> None:
    def trained(**options: Any) -> set[str]:
        network = finetune.assemble(recipe(sets(rooms), checkpoint, **options)).network
        return {name.split(".")[0] for name, p in network.named_parameters() if p.requires_grad}

    assert trained() == {"backbone", "head"}
    assert trained(frozen=True) == {"head"}
    adapted = finetune.assemble(recipe(sets(rooms), checkpoint, lora={"rank": 2})).network
    names = {n for n, p in adapted.named_parameters() if p.requires_grad}
    assert all(n.startswith("head.") or ".lora_" in n for n in names)
    assert sum(".lora_" in n for n in names) == 8


@pytest.mark.parametrize("kept", [{"frozen": True}, {"lora": {"rank": 2}}], ids=["frozen", "lora"])
def test_what_no_checkpoint_has_is_trained_beside_an_encoder_that_stays(
    rooms: Path, checkpoint: Path, kept: dict[str, Any]
) -> None:
    backbone = {"modalities": ["rgb", "depth@64"], "new": ["depth@64"], "pyramid": "simple", "out_channels": 8}
    network = finetune.assemble(recipe(sets(rooms), checkpoint, backbone=backbone, **kept)).network.backbone

    trained = {name for name, p in network.named_parameters() if p.requires_grad and "lora" not in name}

    assert trained == {n for n, _ in network.named_parameters() if n.startswith(("pyramid.", "stems.depth@64."))}


def test_neighbours_see_what_a_fine_tuned_network_would(
    rooms: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[set[str], dict[str, Any]]] = []
    pooled = Backbone.pooled

    def watched(self: Backbone, inputs: dict[str, Any], present: Any = None) -> Any:
        seen.append((set(inputs), {name: there.tolist() for name, there in (present or {}).items()}))
        return pooled(self, inputs, present)

    monkeypatch.setattr(Backbone, "pooled", watched)
    objective = {"kind": "classification", "source": "label", "num_classes": 3}
    both = {"modalities": ["rgb@64", "tok_depth@64"]}
    new = {"modalities": ["rgb@64", "depth@64"], "new": ["depth@64"]}
    knn.run(recipe(sets(rooms), checkpoint, objective=objective, backbone=both, predict=["tok_depth@64"]), k=1)
    hidden = {"hidden": ["depth@64"]}
    knn.run(recipe(sets(rooms), checkpoint, objective=objective, backbone=new, evaluation=hidden), k=1)

    assert seen[0] == ({"rgb@64", "tok_depth@64"}, {})
    assert seen[-1][1] == {"rgb@64": [True] * 4, "depth@64": [False] * 4}


def test_rates_decay_behind_the_recipes_own_rules(rooms: Path, checkpoint: Path) -> None:
    own = {"match": "backbone.encoder.blocks.1.*", "lr_scale": 0.3}
    made = recipe(
        sets(rooms), checkpoint, layer_decay=0.5,
        train={"max_steps": 2, "batch_size": 4, "optimizer": {"rules": [own]}},
    )  # fmt: skip
    rules = finetune.with_layer_decay(made, finetune.assemble(made).network).train.optimizer.rules

    assert rules[0] == ParameterRule("backbone.encoder.blocks.1.*", lr_scale=0.3)
    assert ParameterRule("backbone.encoder.blocks.0.*", lr_scale=0.25) in rules
    assert ParameterRule("backbone.stems.rgb@64.*", lr_scale=0.125) in rules


def test_an_earlier_fine_tuning_is_a_start(rooms: Path, checkpoint: Path, tmp_path: Path) -> None:
    from fourm.transfer.folder import save_network

    made = recipe(sets(rooms), checkpoint)
    first = finetune.assemble(made)
    with torch.no_grad():
        for parameter in first.network.parameters():
            parameter.add_(1.0)
    save_network(first.network, made.objective, first.objective.task.modality, tmp_path / "first" / "model")

    again = finetune.assemble(recipe(sets(rooms), checkpoint, weights_from=str(tmp_path / "first")))
    other = finetune.assemble(
        recipe(
            sets(rooms), checkpoint, weights_from=str(tmp_path / "first"),
            objective={"kind": "depth", "modality": "depth@64"},
        )
    )  # fmt: skip

    theirs = first.network.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in again.network.state_dict().items())
    assert torch.equal(other.network.state_dict()["head.norm.weight"], theirs["head.norm.weight"])
    assert other.network.num_outputs == 1


def void(rooms: Path) -> None:
    for path in (rooms / "semseg").iterdir():
        path.write_bytes(png(np.full((64, 64), 255, np.uint8)))


def other_classes(rooms: Path) -> None:
    (rooms / "semseg" / "2.png").write_bytes(png(np.full((64, 64), 16, np.uint8)))


def other_shape(rooms: Path) -> None:
    (rooms / "semseg" / "1.png").write_bytes(png(np.zeros((64, 32), np.uint8)))


def a_missing_mask(rooms: Path) -> None:
    (rooms / "semseg" / "1.png").unlink()


def no_samples(rooms: Path) -> None:
    for source in ("rgb", "semseg"):
        for path in (rooms / source).iterdir():
            path.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (void, "none of 4 samples has anything of 'semseg@64' to be scored"),
        (other_classes, "class id 16 is not one of the 16 classes"),
        (other_shape, "the image is 32 x 64|not the shape of its aligned image|does not fit the sample's crop"),
        (a_missing_mask, "sources 'rgb' and 'semseg' are not aligned"),
        (no_samples, "is empty"),
    ],
)
def test_data_that_does_not_fit_is_told_before_training(
    rooms: Path, checkpoint: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(rooms)
    made = recipe(sets(rooms), checkpoint, output=str(tmp_path / "out"))

    with pytest.raises(DataError, match=message):
        finetune.run(made)

    assert not (tmp_path / "out" / "log.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"backbone": {"modalities": ["canny@64"]}}, CheckpointError, "does not read 'canny@64'. It reads rgb@64"),
        ({"objective": {"kind": "segmentation", "modality": "tok_depth@64"}}, ConfigError, "holds tokens made by"),
        ({"objective": {"kind": "depth", "modality": "normal@64"}}, ConfigError, "depth needs an image of 1 channel"),
        ({"objective": {"kind": "classification"}}, DataError, "holds no folders, which would be the classes"),
        ({"objective": {"kind": "classification", "source": "label"}}, ConfigError, "objective.classes is empty"),
        ({"head": {"kind": "attentive"}}, ConfigError, "for maps take linear"),
        ({"evaluation": {"hidden": ["rgb@64"]}}, ConfigError, "all inputs are hidden"),
        ({"backbone": {"modalities": ["rgb"], "image_size": 66}}, ConfigError, "does not divide"),
        ({"model": {**SMALL, "dim": 64}}, CheckpointError, "another network than `model` describes"),
        (
            {"backbone": {"modalities": ["tok_depth"]}, "evaluation": {"window": 64}},
            ConfigError,
            "slides over images, which 'tok_depth@64' is not",
        ),
        ({**PREDICTED, "evaluation": {"window": 32}}, ConfigError, "cannot read windows of 32 pixels"),
        ({"weights_from": "nowhere"}, CheckpointError, "no fine-tuned network in nowhere"),
    ],
)
def test_recipes_that_contradict_their_checkpoint_are_told(
    rooms: Path, checkpoint: Path, changes: dict[str, Any], error: type[FourmError], message: str
) -> None:
    with pytest.raises(error, match=message):
        finetune.assemble(recipe(sets(rooms), checkpoint, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_from": None, "model": None}, "init_from is missing"),
        ({"frozen": True, "lora": {"rank": 2}}, "frozen trains the head alone"),
        ({"predict": ["tok_depth@64"]}, "which is not among backbone.modalities"),
        ({**PREDICTED, "evaluation": {"hidden": ["rgb@64"]}}, "what is hidden would still be seen"),
        ({**PREDICTED, "objective": DROPPING}, "what is hidden would still be seen"),
        ({"data": sets(Path("x"), rand_augment="rand-m9")}, "rand_augment and erase change photographs alone"),
        ({"evaluation": {"stride": 9}}, "it would leave gaps"),
        ({"objective": {"kind": "segmentation"}}, "objective.modality is missing"),
        ({"objective": {"kind": "classification", "classes": ["a", "b"], "num_classes": 3}}, "classes names 2"),
    ],
)
def test_recipes_that_contradict_themselves_are_told(checkpoint: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(**{"data": sets(Path("x")), "checkpoint": checkpoint, **changes})


def test_folders_that_are_not_the_classes_are_told(photos: Path) -> None:
    with pytest.raises(ConfigError, match="has 3 folders of classes .*num_classes is 10"):
        finetune.assemble(image_folder(photos, num_classes=10))
    write(photos / "val" / "shoe" / "x.png", png(np.zeros((64, 64, 3), np.uint8)))
    with pytest.raises(ConfigError, match="data set 'val' has a folder 'shoe', which is none of the 3 classes"):
        finetune.assemble(image_folder(photos))
