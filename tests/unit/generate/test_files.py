"""Answers as files."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fourm import catalog
from fourm.data import decode as decoding
from fourm.generate.files import safe_name, write
from fourm.layouts import Continuous, Discrete, Grid
from fourm.modality import Modality
from tests.unit.generate.toy import LEVELS, ToyBundle, image

FORMATS = {
    "rgb": (image("rgb@16", "image", 3), torch.rand(3, 16, 16), 1 / 255),
    "gray": (image("gray@16", "gray"), torch.rand(1, 16, 16), 1 / 255),
    "depth": (image("depth@16", "depth16", value_range=(0.0, 16.0)), 16 * torch.rand(1, 16, 16), 16 / 65535),
    "normal": (image("normal@16", "normal", 3, value_range=(-1.0, 1.0)), 2 * torch.rand(3, 16, 16) - 1, 2 / 255),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_images_are_written_as_the_data_is_read(kind: str, bundle: ToyBundle, tmp_path: Path) -> None:
    raw, value, precision = FORMATS[kind]
    (path,) = write(raw, value, tmp_path, kind)
    pixels = decoding.decode(path.read_bytes(), raw, lambda: str(path))
    natural = torch.from_numpy(np.array(pixels, np.float32)).reshape(16, 16, -1).permute(2, 0, 1)
    if kind != "depth":
        low, high = raw.value_range or (0.0, 1.0)
        natural = low + natural / 255 * (high - low)
    torch.testing.assert_close(natural, value, atol=precision, rtol=0)


@pytest.mark.parametrize("decoder", ["labels", "labels_void_first"])
def test_labels_are_written_as_the_data_is_read(decoder: str, bundle: ToyBundle, tmp_path: Path) -> None:
    raw = Modality("semseg@4", Grid(4, 4), Discrete(LEVELS), source="semseg", decode=decoder, direction="input")
    labels = torch.arange(16).reshape(4, 4)
    if decoder == "labels":
        labels[0, 0] = -1
    (path,) = write(raw, labels, tmp_path, "semseg")
    assert decoding.decode(path.read_bytes(), raw, lambda: str(path)).tolist() == labels.tolist()


def test_depth_without_units_is_also_written_as_it_is(bundle: ToyBundle, tmp_path: Path) -> None:
    raw = image("depth@16", "depth16", normalization="standardize")
    value = torch.randn(1, 16, 16)
    paths = write(raw, value, tmp_path, "depth")
    assert [path.suffix for path in paths] == [".png", ".npy"]
    np.testing.assert_array_equal(np.load(paths[1]), value[0])
    with Image.open(io.BytesIO(paths[0].read_bytes())) as file:
        assert np.asarray(file).max() == 65535


def test_a_vector_of_three_numbers_is_written_as_numbers(bundle: ToyBundle, tmp_path: Path) -> None:
    raw = Modality("gyro", Grid(1, 1), Continuous(3), "gyro", "features", channels=3, direction="input")
    value = torch.tensor([0.5, -7.0, 2.0]).view(3, 1, 1)
    (path,) = write(raw, value, tmp_path, "gyro")
    assert decoding.decode(path.read_bytes(), raw, str)[0, :, 0, 0].tolist() == [0.5, -7.0, 2.0]


def test_features_that_a_teacher_makes_are_written_as_numbers(bundle: ToyBundle, tmp_path: Path) -> None:
    raw = Modality("clip", Grid(2, 2, 8), Continuous(5), "rgb", "image", channels=3, teacher="clip_b16")
    value = torch.randn(5, 2, 2)
    (path,) = write(raw, value, tmp_path, "clip")
    np.testing.assert_array_equal(np.load(path), value)


def test_texts_and_boxes_are_written(bundle: ToyBundle, tmp_path: Path) -> None:
    modalities = bundle.model.modalities
    (text,) = write(modalities["caption"], "a red sofa", tmp_path, "caption")
    assert text.read_text() == "a red sofa\n"
    box = {"boxes": [0.0, 0.0, 1.0, 1.0], "class_name": "bed", "score": 1.0}
    (boxes,) = write(modalities["det"], [box], tmp_path, "det")
    assert json.loads(boxes.read_text()) == {"instances": [box]}


_ODD = [
    "字" * 300,
    "\u2024\u2024/x",
    "\u2215etc\u2215passwd",
    "a\u202eb",
    "\ud800",
    "𝔸" * 99 + "..",
    "\uff0e\uff0e\uff0fx",
]


@pytest.mark.parametrize("name", ["../../etc/passwd", "/root/x", "..", "a\\b", "", ".hidden", "a\0b", "x" * 300, *_ODD])
def test_file_names_never_leave_their_folder(name: str, tmp_path: Path) -> None:
    safe = safe_name(name)
    assert (tmp_path / f"{safe}.png").resolve().parent == tmp_path.resolve()
    assert not safe.startswith(".")
    assert 1 <= len(safe) <= 100
    assert len(safe.encode()) <= 200
    assert all(char.isalnum() or char in "@#._-" for char in safe)


@pytest.mark.parametrize(
    "name", ["tok_depth@64", "日本", "中国", "mañana", "man\u0303ana", "हिन्दी", "Küche-2", "шкаф_1"]
)
def test_usual_names_stay_as_they_are(name: str) -> None:
    assert safe_name(name) == name


FACTS: dict[str, tuple[str, Any, Any]] = {
    "metadata": ("metadata", {"n_humans": 2, "entropy": 7.5}, {"n_humans": 2, "entropy": 7.5}),
    "palette": ("color_palette", [(1, 2, 3), (255, 0, 0)], [[1, 2, 3], [255, 0, 0]]),
    "poses": (
        "human_poses",
        [{"bbox": (0.0, 0.25, 0.5, 1.0), "pose_tokens": [1] * 8, "body_pose": np.arange(3.0)}],
        [{"bbox": [0.0, 0.25, 0.5, 1.0], "pose_tokens": [1] * 8, "body_pose": [0.0, 1.0, 2.0]}],
    ),
    "sam": ("sam_instance", [{"point": (0.5, 1.0), "instances": []}], [{"point": [0.5, 1.0], "instances": []}]),
    "nobody": ("human_poses", [], []),
}


@pytest.mark.parametrize("kind", FACTS)
def test_what_texts_say_is_written_as_json(kind: str, bundle: ToyBundle, tmp_path: Path) -> None:
    name, value, written = FACTS[kind]
    (path,) = write(catalog.get(name), value, tmp_path, name)
    assert path.name == f"{name}.json"
    assert json.loads(path.read_text()) == written


def run_lengths(mask: np.ndarray, bundle: ToyBundle, folder: Path) -> dict[str, Any]:
    instances = [{"box": (0, 0, 1, 1), "token_ids": [0] * 16, "mask": mask}]
    (path,) = write(catalog.get("sam_instance"), [{"point": (1, 1), "instances": instances}], folder, "sam")
    found: dict[str, Any] = json.loads(path.read_text())[0]["instances"][0]["mask"]
    return found


def test_masks_are_written_as_run_lengths(bundle: ToyBundle, tmp_path: Path) -> None:
    """Column by column, beginning with what is outside, as COCO's."""
    mask = np.array([[0.9, 0.1, 0.2], [0.8, 0.7, 0.3]])
    assert run_lengths(mask, bundle, tmp_path) == {"size": [2, 3], "counts": [0, 2, 1, 1, 2]}
    assert run_lengths(1 - mask, bundle, tmp_path)["counts"] == [2, 1, 1, 2]
    assert run_lengths(np.zeros((2, 3)), bundle, tmp_path)["counts"] == [6]
    assert run_lengths(np.ones((2, 3)), bundle, tmp_path)["counts"] == [0, 6]


def test_run_lengths_give_the_mask_back(bundle: ToyBundle, tmp_path: Path, rng: np.random.Generator) -> None:
    mask = rng.random((64, 64))
    counts = run_lengths(mask, bundle, tmp_path)["counts"]
    inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(64, 64, order="F")
    np.testing.assert_array_equal(inside, mask > 0.5)
