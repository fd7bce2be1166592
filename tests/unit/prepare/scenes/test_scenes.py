"""Scenes of cut-out photographs: masks are what can be seen, and files depend on nothing but the seed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from fourm.data.coco import CocoImages
from fourm.data.coco_config import CocoDataConfig
from fourm.errors import DataError
from fourm.prepare.scenes.compose import Composer
from fourm.prepare.scenes.cutouts import BACKGROUNDS, CLASSES, FOLDERS, STAMPS, Photographs, find_photographs
from fourm.prepare.scenes.job import prepare_scenes
from fourm.prepare.scenes.writer import run_lengths

COLOURS = ["#ff0000", "#00ff00", "#0000ff", "#ffff00", "#ff00ff", "#00ffff", "#ff8000", "#8000ff"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Cut-out ellipses, one colour for each class, and grey photographs to put behind them."""
    root = tmp_path_factory.mktemp("tuxpaint")
    for colour, places in zip(COLOURS, FOLDERS.values()):
        for n in range(6):
            image = Image.new("RGBA", (60 + 5 * n, 80))
            ImageDraw.Draw(image).ellipse((5, 5, 50 + 5 * n, 70), fill=colour)
            path = root / "stamps" / places[0] / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    (root / "templates").mkdir()
    for n in range(6):
        Image.new("RGB", (90, 70), (100 + n, 100 + n, 100 + n)).save(root / "templates" / f"{n}.jpg")
    return root / "stamps", root / "templates"


def make(
    out: Path, folders: tuple[Path, Path], *, num: int = 60, workers: int = 1, seed: int = 0, split: str = "all"
) -> Path:
    stamps, backgrounds = folders
    prepare_scenes(
        out,
        num=num,
        size=64,
        seed=seed,
        split=split,
        stamps=stamps,
        backgrounds=backgrounds,
        workers=workers,  # type: ignore[arg-type]
    )
    return out


def read(out: Path) -> CocoImages:
    return CocoImages(CocoDataConfig(str(out / "images"), str(out / "annotations.json")))


def test_masks_are_what_can_be_seen_of_each_thing(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    scenes = read(make(tmp_path / "scenes", folders))
    assert scenes.classes == CLASSES
    hidden = 0
    for n in range(len(scenes)):
        scene = scenes.read(n)
        assert scene.masks is not None
        assert scene.masks.sum(0).max() <= 1  # every pixel belongs to one thing at most
        nothing = ~scene.masks.any(0)
        spread = np.ptp(scene.image.astype(int), axis=2)
        assert np.median(spread[nothing]) == 0  # the background is grey
        for box, label, mask in zip(scene.boxes, scene.labels, scene.masks):
            hidden += mask.sum() < 0.6 * (box[2] - box[0]) * (box[3] - box[1])
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            colour = np.median(scene.image[mask], 0) > 60
            expected = np.array([int(COLOURS[label - 1][at : at + 2], 16) for at in (1, 3, 5)]) > 60
            assert (colour == expected).all()
    assert hidden  # some things lie behind others


def test_the_files_are_the_same_for_any_number_of_workers(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    one, two = (make(tmp_path / str(n), folders, num=120, workers=n) for n in (1, 2))
    names = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(two) for path in two.rglob("*") if path.is_file())
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)


def test_an_interrupted_run_goes_on_and_a_finished_one_does_nothing(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    whole = make(tmp_path / "whole", folders)
    parts = tmp_path / "parts"
    (parts / ".parts").mkdir(parents=True)
    info = json.loads((whole / "annotations.json").read_bytes())["info"]
    (parts / ".parts" / "settings.json").write_text(json.dumps(info))
    make(parts, folders)
    assert (parts / "annotations.json").read_bytes() == (whole / "annotations.json").read_bytes()
    before = (parts / "annotations.json").stat().st_mtime_ns
    make(parts, folders)
    assert (parts / "annotations.json").stat().st_mtime_ns == before
    assert sorted(path.name for path in parts.iterdir()) == ["annotations.json", "images"]


def test_other_settings_and_other_files_are_not_overwritten(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    out = make(tmp_path / "scenes", folders, num=2)
    with pytest.raises(DataError, match=r"already holds scenes of other settings .*\"seed\": 0.*\"seed\": 1"):
        make(out, folders, num=2, seed=1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(DataError, match="not empty, and holds no scenes"):
        make(tmp_path / "other", folders, num=2)


def test_splits_share_no_photograph_and_no_scene(folders: tuple[Path, Path]) -> None:
    everything, train, val = (find_photographs(*folders, split=split) for split in ("all", "train", "val"))  # type: ignore[arg-type]
    for name in CLASSES:
        assert not set(train.cutouts[name]) & set(val.cutouts[name])
        assert sorted(train.cutouts[name] + val.cutouts[name]) == everything.cutouts[name]
    assert not set(train.backgrounds) & set(val.backgrounds)
    one, other = (Composer(everything, 0, 64, split)(0).image for split in ("train", "val"))
    assert one != other


def test_seeds_and_numbers_give_other_scenes(folders: tuple[Path, Path]) -> None:
    photographs = find_photographs(*folders, split="all")
    found = {Composer(photographs, seed, 64)(n).image for seed in range(3) for n in range(5)}
    assert len(found) == 15
    assert Composer(photographs, 2, 64)(4).image in found


def test_without_photographs_the_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no cut-out photographs of the class 'bird'.*tuxpaint-stamps-default"):
        find_photographs(tmp_path, tmp_path, "all")


def test_the_photographs_of_tux_paint_make_scenes_of_every_class() -> None:
    if not STAMPS.exists() or not BACKGROUNDS.exists():
        pytest.skip(f"there are no photographs in {STAMPS} (Debian: tuxpaint-stamps-default)")
    for split in ("train", "val"):
        photographs = find_photographs(STAMPS, BACKGROUNDS, split)  # type: ignore[arg-type]
        assert isinstance(photographs, Photographs)
        labels = {label for n in range(60) for label, _ in Composer(photographs, 0, 64, split)(n).instances}
        assert labels == set(range(1, len(CLASSES) + 1))


@pytest.mark.parametrize(
    ("rows", "lengths"),
    [(["01", "11"], [1, 3]), (["10", "00"], [0, 1, 3]), (["00", "00"], [4]), (["11", "11"], [0, 4])],
)
def test_runs_go_down_the_columns_and_begin_outside(rows: list[str], lengths: list[int]) -> None:
    assert run_lengths(np.array([[c == "1" for c in row] for row in rows])) == lengths
