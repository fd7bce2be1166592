"""The shipped toy recipes of fine-tuning, from the command line to a network that can be loaded, on tiny data."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fourm import config as configs
from fourm import recipes
from fourm.catalog import resolve
from fourm.models.configs import MultimodalConfig
from fourm.models.folder import save_model
from fourm.models.multimodal import Multimodal
from fourm.paths import recipe_folder
from fourm.recipe.schema import PretrainRecipe
from fourm.train.tracking import read_log
from fourm.transfer.folder import load_network

pytestmark = pytest.mark.slow
SHIPPED = sorted(p.stem for p in (recipe_folder() / "finetune").glob("*.yaml"))
TOYS = [name for name in SHIPPED if name.startswith(("rooms", "fashion", "aim_fashion"))]
DETECTION = "rooms_detection"
SHORT = [
    "train.max_steps=3", "train.batch_size=4", "train.precision=fp32", "train.device=cpu", "train.tensorboard=false",
    "train.log_every_steps=1", "evaluation.batch_size=4",
]  # fmt: skip
METRICS = {"segmentation": "miou", "depth": "delta1", "normals": "mean_angle", "classification": "top1"}


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder: Path, side: int, number: int) -> None:
    """Files of every source of the rooms or of Fashion-MNIST."""
    rng = np.random.default_rng(number)
    for n in range(number):
        files = {
            "rgb/{}.png": png(rng.integers(0, 256, (side, side, 3), np.uint8)),
            "image/{}.png": png(rng.integers(0, 256, (side, side), np.uint8)),
            "depth/{}.png": png(rng.integers(6000, 65536, (side, side)).astype(np.uint16)),
            "normal/{}.png": png(rng.integers(0, 256, (side, side, 3), np.uint8)),
            "semseg/{}.png": png(rng.integers(0, 16, (side, side), np.uint8)),
            "label/{}.json": json.dumps(n % 10).encode(),
        }
        for name, content in files.items():
            path = folder / name.format(n)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def annotate(folder: Path, side: int, number: int) -> None:
    """Images of a desk each, in COCO's form."""
    (folder / "images").mkdir(parents=True)
    for n in range(number):
        shutil.copy(folder / "rgb" / f"{n}.png", folder / "images" / f"{n}.png")
    corners = [8, 8, 32, 8, 32, 40, 8, 40]
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": side, "width": side} for n in range(number)],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(["desk", *map(str, range(12))])],
        "annotations": [
            {
                "id": n + 1, "image_id": n, "category_id": 1, "bbox": [8, 8, 24, 32], "area": 24 * 32, "iscrowd": 0,
                "segmentation": [corners],
            }
            for n in range(number)
        ],
    }  # fmt: skip
    (folder / "annotations.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models with random weights beside tiny data, in the places where the recipes look."""
    root = tmp_path_factory.mktemp("toys")
    config = configs.build(MultimodalConfig, {"dim": 32, "encoder_depth": 2, "decoder_depth": 1, "num_heads": 4})
    for name, modalities, side in (
        ("rooms", ["rgb@64", "tok_depth@64"], 64),
        ("fashion", ["image@28", "tok_image@28"], 28),
    ):
        save_model(Multimodal(resolve(modalities), config), root / name / "model" / "model")
        if name == "fashion":
            pixels = resolve({"image@28": {"direction": "both", "positions": "sincos_xy"}})
            model = recipes.load("aim_fashion", PretrainRecipe, ["model.dim=32"], folder="pretrain").model
            save_model(Multimodal(pixels, model), root / name / "aim" / "model")
        for split, number in (("train", 12), ("test", 5)):
            write(root / name / "data" / split, side, number)
            if name == "rooms":
                annotate(root / name / "data" / split, side, number)
    return root


def arguments(toys: Path, toy: str, output: Path) -> list[str]:
    data = toys / ("fashion" if "fashion" in toy else "rooms")
    places = [f"variables.root={data}", f"output={output}"]
    return [toy, *places, *([f"variables.data={data}/data"] if toy.startswith("rooms") else []), *SHORT]


@pytest.mark.parametrize("toy", [toy for toy in TOYS if toy != DETECTION])
def test_a_toy_recipe_trains_measures_and_loads(toys: Path, tmp_path: Path, fourm: Any, toy: str) -> None:
    outcome = fourm("finetune", *arguments(toys, toy, tmp_path))
    assert outcome.status == 0, outcome.err

    metrics = json.loads((tmp_path / "completed.json").read_text())["metrics"]
    loaded = load_network(tmp_path)
    task = {v: k for k, v in METRICS.items()}[next(m for m in metrics if m in METRICS.values())]
    assert np.isfinite(metrics["loss"])
    assert type(loaded.task).__name__.lower().startswith(task[:5])
    inputs = {
        m.name: torch.zeros(1, m.num_tokens, dtype=torch.int64)
        if m.is_discrete
        else torch.zeros(1, m.channels or 1, *m.grid.image_size)
        for m in loaded.network.backbone.modalities.values()
    }
    assert torch.isfinite(loaded.network(inputs)).all()


def test_the_toy_detector_trains_measures_and_loads(toys: Path, tmp_path: Path, fourm: Any) -> None:
    outcome = fourm("finetune", *arguments(toys, DETECTION, tmp_path))
    assert outcome.status == 0, outcome.err

    metrics = json.loads((tmp_path / "completed.json").read_text())["metrics"]
    assert 0 <= metrics["box_ap"] <= 1
    assert 0 <= metrics["mask_ap"] <= 1
    (found,) = load_network(tmp_path).network({"rgb@64": [torch.rand(3, 64, 64)]})
    assert found["masks"].shape[1:] == (64, 64)


def test_a_complete_run_is_not_done_again_and_a_longer_one_goes_on(
    toys: Path, tmp_path: Path, fourm: Any, caplog: pytest.LogCaptureFixture
) -> None:
    words = arguments(toys, "rooms_depth", tmp_path)
    assert fourm("finetune", *words).status == 0
    assert fourm("finetune", *words).status == 0
    assert "nothing to do" in caplog.text
    assert fourm("finetune", *words, "train.max_steps=5").status == 0

    steps = [record["step"] for record in read_log(tmp_path / "log.jsonl") if record["kind"] == "train"]
    assert steps == [1, 2, 3, 4, 5]


def test_another_head_is_not_taken_for_the_same_run(toys: Path, tmp_path: Path, fourm: Any) -> None:
    words = arguments(toys, "rooms_depth", tmp_path)
    assert fourm("finetune", *words).status == 0

    outcome = fourm("finetune", *words, "train.max_steps=5", "head.depth=3")

    assert outcome.status == 1
    assert "was made with another model" in outcome.err


def test_nearest_neighbours_need_no_training(toys: Path, tmp_path: Path, fourm: Any) -> None:
    outcome = fourm("evaluate", "knn", *arguments(toys, "fashion", tmp_path), "-k", "3")

    assert outcome.status == 0, outcome.err
    top1 = dict(line.split() for line in outcome.out.splitlines() if line.startswith("knn/"))["knn/top1"]
    assert 0 <= float(top1) <= 1


def test_windows_slide_over_images_of_any_shape(toys: Path, tmp_path: Path, fourm: Any) -> None:
    data = tmp_path / "data"
    write(data, 64, 3)
    for source in ("rgb", "semseg"):
        shape = (64, 100, 3) if source == "rgb" else (64, 100)
        (data / source / "0.png").write_bytes(png(np.zeros(shape, np.uint8)))
    wide = [f"data.val.datasets.rooms.path={data}", "data.val.datasets.rooms.crop.kind=fit", "evaluation.batch_size=1"]

    outcome = fourm(
        "finetune", *arguments(toys, "rooms_semseg", tmp_path / "out"), *wide, "evaluation.window=64",
    )  # fmt: skip

    assert outcome.status == 0, outcome.err
    assert "miou" in json.loads((tmp_path / "out" / "completed.json").read_text())["metrics"]
