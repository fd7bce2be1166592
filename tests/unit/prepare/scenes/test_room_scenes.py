"""Rooms in COCO's form have the boxes of the rooms, and masks of their classes."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fourm.data.coco import CocoImages
from fourm.data.coco_config import CocoDataConfig
from fourm.data.source import open_source
from fourm.errors import DataError
from fourm.prepare.rooms import CLASSES, OBJECTS, render
from fourm.prepare.scenes.rooms import export_rooms


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rooms") / "rooms"
    render(out, num=5, size=32, seed=3, workers=1, shard_size=2, progress=False)
    return out


def test_boxes_are_those_of_the_rooms_and_masks_lie_on_their_class(rooms: Path, tmp_path: Path) -> None:
    out = tmp_path / "coco"
    export_rooms(rooms, out, workers=1)
    scenes = CocoImages(CocoDataConfig(str(out / "images"), str(out / "annotations.json")))
    stored = open_source(str(rooms), ["rgb", "semseg", "det"])
    assert scenes.classes == OBJECTS
    assert len(scenes) == len(stored) == 5
    for n in range(5):
        files, scene = stored.read(n), scenes.read(n)
        assert Path(scenes.where(n)).read_bytes() == files["rgb"]
        true = {(one["class_name"], *one["boxes"]) for one in json.loads(files["det"])["instances"]}
        boxes = (scene.boxes / 32).tolist()
        assert {(OBJECTS[label - 1], *box) for label, box in zip(scene.labels, boxes)} == true
        labels = np.asarray(Image.open(io.BytesIO(files["semseg"])))
        assert scene.masks is not None
        for label, mask in zip(scene.labels, scene.masks):
            assert (labels[mask] == CLASSES.index(OBJECTS[label - 1])).all()


def test_rooms_that_are_not_what_would_be_rendered_are_refused(rooms: Path, tmp_path: Path) -> None:
    other = tmp_path / "rooms"
    shutil.copytree(rooms, other)
    manifest = json.loads((other / "rooms.json").read_bytes())
    (other / "rooms.json").write_text(json.dumps(manifest | {"seed": 4}))
    with pytest.raises(DataError, match="not what this version of fourm renders"):
        export_rooms(other, tmp_path / "coco", workers=1)


def test_a_folder_without_rooms_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no complete set of rooms.*fourm prepare rooms"):
        export_rooms(tmp_path, tmp_path / "coco", workers=1)
