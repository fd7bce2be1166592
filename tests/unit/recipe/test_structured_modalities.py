"""A recipe with metadata, people, palettes and instances trains on their raw files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fourm.data.configs import CropConfig, DatasetConfig
from fourm.data.dataset import AlignedDataset, build_dataset
from fourm.errors import ConfigError, DataError
from fourm.recipe import pretrain
from fourm.recipe.encoders import adopt_vocabulary, text_encoders
from fourm.recipe.job import TrainingJob
from fourm.recipe.schema import PretrainRecipe
from fourm.rng import generator
from fourm.tokenizers.structured import text_to_poses, text_to_sam
from fourm.tokenizers.text import TextTokenizer, train_wordpiece
from fourm.train.distributed import World
from tests.unit.recipe.conftest import recipe

NAMES = ("metadata", "human_poses", "color_palette", "sam_instance")
NUM_SAMPLES = 6


@pytest.fixture(scope="module")
def numbers() -> TextTokenizer:
    """A tokenizer with the published thousand numbers."""
    return train_wordpiece(["human pose global camera shape", "point polygon none"] * 4, 4400, num_sentinels=40)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six samples in the published forms; crop 1 is the mirrored image, in which instances lie elsewhere."""
    root = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    square = [[0, 0], [112, 0], [112, 224], [0, 224]]
    crops = [
        {"points": [square], "bbox": [[0, 0, 224, 112]], "token_ids": [[5] * 16]},
        {"points": [[[224 - x, y] for x, y in square]], "bbox": [[0, 112, 224, 224]], "token_ids": [[6] * 16]},
    ]
    body = {"global_orient": [np.eye(3).tolist()], "betas": [[0.0] * 10], "body_pose": [[np.eye(3).tolist()] * 23]}
    for n in range(NUM_SAMPLES):
        facts: dict[str, Any] = {
            "metadata": {"original_width": 640, "entropy": n + 0.5, "n_humans": 1, "contrast": None},
            "human_poses": {
                "bbox_xyxy": [[16, 0, 32, 48]], "pred_smpl_params": body, "pose_tokenized": [[n] * 8],
                "pred_cam": [[0.9, 0.3, 0.1]],
            },
            "color_palette": [{str(size): [[n, size, k] for k in range(size)] for size in range(1, 8)}],
            "sam_instance": crops,
        }  # fmt: skip
        for name, value in facts.items():
            (root / name).mkdir(exist_ok=True)
            (root / name / f"{n}.json").write_text(json.dumps(value))
        for name in ("rgb", "crop_settings"):
            (root / name).mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(root / "rgb" / f"{n}.png")
        np.save(root / "crop_settings" / f"{n}.npy", np.array([[0, 0, 64, 64, 0], [0, 0, 64, 64, 1]]))
    return root


def small(files: Path, tmp_path: Path, names: tuple[str, ...] = ("rgb@64", *NAMES), **data: Any) -> PretrainRecipe:
    data = {"datasets": {"set": {"path": str(files), "crop": {"kind": "crop_settings"}, **data}}}
    return recipe(
        modalities={name: {} for name in names},
        data={"train": data, "val": data},
        objective={"kind": "masked", "num_input_tokens": 64, "num_target_tokens": 256},
        train={"max_steps": 2, "batch_size": 3, "device": "cpu", "precision": "fp32", "tensorboard": False},
        output=str(tmp_path / "run"),
    )


def dataset(files: Path, numbers: TextTokenizer, *names: str, **config: Any) -> AlignedDataset:
    modalities = adopt_vocabulary(recipe(modalities={name: {} for name in names}).modality_set(), numbers)
    config = {"crop": CropConfig("crop_settings"), **config}
    return build_dataset("set", DatasetConfig(str(files), **config), modalities, text_encoders(modalities, numbers))


def test_it_trains_on_raw_files_and_scores_every_modality(files: Path, numbers: TextTokenizer, tmp_path: Path) -> None:
    made = small(files, tmp_path)
    modalities = adopt_vocabulary(made.modality_set(), numbers)
    objective = pretrain.build_objective(made, modalities, numbers)
    job = TrainingJob(made, World(), modalities, objective, text_encoders(modalities, numbers))
    model = pretrain.build_model(made, modalities, {})

    job.fit(model, lambda trained, path: (path / "exported").touch())

    scores = job.evaluate(model)
    assert {f"loss/{name}" for name in NAMES} <= set(scores)
    assert all(np.isfinite(list(scores.values())))


def test_facts_come_in_shuffled_chunks(files: Path, numbers: TextTokenizer) -> None:
    made = dataset(files, numbers, "metadata")
    samples = [[numbers.decode(chunk) for chunk in made.sample(2, generator(seed))["metadata"]] for seed in range(12)]
    assert {frozenset(chunks) for chunks in samples} == {frozenset(["v1=0 v0=20", "v1=13 v0=12", "v1=5 v0=1"])}
    assert len({tuple(chunks) for chunks in samples}) > 1


def test_palettes_are_of_every_size(files: Path, numbers: TextTokenizer) -> None:
    made = dataset(files, numbers, "color_palette")
    texts = [numbers.decode(made.sample(3, generator(seed))["color_palette"]) for seed in range(60)]
    assert {text.split()[0] for text in texts} == {f"v1={n}" for n in range(1, 8)}
    assert all(text.split()[1::3] == ["v0=3"] * int(text[3]) for text in texts)


def test_people_and_instances_are_those_of_the_drawn_crop(files: Path, numbers: TextTokenizer) -> None:
    made = dataset(files, numbers, "human_poses", "sam_instance")  # with no image: stored crops are in pixels
    seen = set()
    for seed in range(12):
        sample = {name: numbers.decode(ids) for name, ids in made.sample(1, generator(seed)).items()}
        (person,) = text_to_poses(sample["human_poses"])
        instances = [one for point in text_to_sam(sample["sam_instance"]) for one in point["instances"]]
        assert len(text_to_sam(sample["sam_instance"])) == 7
        mirrored = person["camera"][1] < 0
        seen.add(mirrored)
        left, right = (0.5, 0.75) if mirrored else (0.25, 0.5)
        assert person["bbox"] == pytest.approx((left, 0, right, 0.75), abs=1e-3)
        assert ("pose_tokens" in person) is not mirrored  # their ids cannot be mirrored
        box, ids = ((0.5, 0.0, 1.0, 1.0), [6] * 16) if mirrored else ((0.0, 0.0, 0.5, 1.0), [5] * 16)
        assert all((one["box"], one["token_ids"]) == (box, ids) for one in instances)
    assert seen == {True, False}


def test_instances_cannot_follow_new_crops(files: Path, numbers: TextTokenizer) -> None:
    with pytest.raises(ConfigError, match="sam_instance holds tokens made beforehand.*crop_settings"):
        dataset(files, numbers, "rgb@64", "sam_instance", crop=CropConfig(), hflip=0.5)


def test_people_without_stored_crops_need_an_image(files: Path, numbers: TextTokenizer) -> None:
    with pytest.raises(ConfigError, match="needs an image among its modalities, to know the size"):
        dataset(files, numbers, "human_poses", crop=CropConfig())


def test_a_fact_of_an_unknown_name_is_told_with_its_file(files: Path, numbers: TextTokenizer, tmp_path: Path) -> None:
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "a.json").write_text('{"entrpy": 1}')
    with pytest.raises(DataError, match=r"metadata/a\.json: metadata holds 'entrpy'.*Did you mean 'entropy'"):
        dataset(tmp_path, numbers, "metadata", crop=CropConfig()).sample(0, generator(0))


def test_a_tokenizer_with_few_numbers_is_refused_at_once(text: TextTokenizer) -> None:
    with pytest.raises(ConfigError, match="'human_poses': the text tokenizer has .*v0=15; expected at least 512"):
        text_encoders(recipe(modalities={"human_poses": {}}).modality_set(), text)
