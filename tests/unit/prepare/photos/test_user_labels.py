"""Labels of users' go through `fourm prepare photos` and the transforms of training, and lie on the same pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fourm.catalog import resolve
from fourm.config import build
from fourm.data.configs import CropConfig, DatasetConfig
from fourm.data.dataset import build_dataset
from fourm.data.source import open_source
from fourm.errors import ConfigError, DataError
from fourm.modality import to_dict
from fourm.prepare.photos.job import prepare_photos
from fourm.prepare.photos.recipe import PhotosRecipe
from fourm.rng import generator
from tests.photographs import photograph
from tests.user_labels import coco, npy

SIZE = (240, 360)
THERMAL = {"base": "depth@64", "value_range": [0, 120], "normalization": "none"}
MASK = {
    "layout": {"kind": "grid", "height": 64, "width": 64},
    "content": {"kind": "discrete", "vocab_size": 2},
    "decode": "labels",
    "classes": ["background", "thing"],
}
_TURN_BACK = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


def prepare(photos: Path, out: Path, labels: dict[str, Any], **options: Any) -> list[tuple[str, str]]:
    """What was rejected, and why."""
    given = {"input": str(photos), "output": str(out), "labels": labels, "shard_size": 4, "batch_size": 3, **options}
    found = prepare_photos(build(PhotosRecipe, given), workers=1, progress=False)
    return [(entry.file, entry.reason) for entry in found]


def make_input(root: Path) -> None:
    """Black photographs with one white rectangle each, some turned by EXIF, and every kind of label of the rectangle:
    masks and boxes for the upright picture, heat and COCO's annotations for the picture as it lies in the file."""
    for folder in ("in", "in/masks", "in/heat", "in/xml", "in/txt"):
        (root / folder).mkdir()
    images, annotations = [], []
    for n, orientation in enumerate([1, 6, 1, 8, 1, 1]):
        rng = generator("user labels", n)
        # Large, so that most crops show a part of it.
        top, left = int(rng.integers(10, 80)), int(rng.integers(10, 120))
        bottom, right = top + int(rng.integers(90, 150)), left + int(rng.integers(120, 220))
        inside = np.zeros(SIZE, bool)
        inside[top:bottom, left:right] = True
        height, width = SIZE
        upright = Image.fromarray(np.where(inside[..., None], 255, 0).astype(np.uint8).repeat(3, 2))
        turn = _TURN_BACK[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        lying = upright.transpose(turn) if turn is not None else upright
        lying.save(root / f"in/p{n}.png", exif=exif)
        Image.fromarray(inside.astype(np.uint8)).save(root / f"in/masks/p{n}.png")
        pixels = np.asarray(lying)[..., 0] > 0
        (root / f"in/heat/p{n}.npy").write_bytes(npy(np.where(pixels, np.float32(100), np.float32(20))))
        (root / f"in/xml/p{n}.xml").write_text(
            f"<a><size><width>{width}</width><height>{height}</height></size><object><name>thing</name>"
            f"<bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox>"
            "</object></a>"
        )
        center = ((left + right) / 2 / width, (top + bottom) / 2 / height)
        (root / f"in/txt/p{n}.txt").write_text(
            f"0 {center[0]} {center[1]} {(right - left) / width} {(bottom - top) / height}\n"
        )
        rows, columns = np.nonzero(pixels)
        y1, x1, y2, x2 = (int(v) for v in (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1))
        images.append({"id": n, "file_name": f"p{n}.png", "width": lying.width, "height": lying.height})
        outline = {"segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]], "bbox": [x1, y1, x2 - x1, y2 - y1]}
        annotations.append({"id": n, "image_id": n, "category_id": 1, "iscrowd": 0, **outline})
    (root / "in/coco.json").write_bytes(
        coco(images=images, annotations=annotations, categories=[{"id": 1, "name": "thing"}])
    )
    (root / "in/metadata.jsonl").write_text(
        "".join(json.dumps({"file_name": f"p{n}.png", "text": f"photo {n}"}) + "\n" for n in range(6))
    )


LABELS: dict[str, Any] = {
    "mask": {"kind": "file", "file": "masks/{stem}.png", "modality": MASK},
    "heat": {"kind": "file", "file": "heat/{stem}.npy", "modality": THERMAL},
    "voc": {"file": "xml/{stem}.xml"},
    "yolo": {"file": "txt/{stem}.txt", "classes": ["thing"]},
    "coco": {"file": "coco.json"},
    "painted": {"kind": "coco", "file": "coco.json", "make": "semseg", "classes": ["rest", "thing"], "rest": "rest"},
    "words": {"kind": "text_table", "file": "metadata.jsonl"},
    "crop_settings": {"num_crops": 12, "hflip": 0.5},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("user-labels")
    make_input(root)
    assert prepare(root / "in", root / "out", LABELS, image={"size": 120}, seed=None) == []
    return root


def test_every_label_shows_what_the_photograph_shows_in_every_crop(prepared: Path) -> None:
    recipe = build(PhotosRecipe, {"input": "in", "output": "out", "labels": LABELS})
    square = {"layout": {"kind": "grid", "height": 96, "width": 96, "patch_size": 1}}
    spec: dict[str, Any] = {}
    for name, modality in recipe.modalities().items():
        if name != "crop_settings":
            spec[name] = to_dict(modality)
        if name in ("mask", "painted"):
            spec[name] |= square
    spec["rgb"] |= {"layout": {"kind": "grid", "height": 12, "width": 12, "patch_size": 8}}
    spec["rgb"] |= {"content": {"kind": "continuous", "dim": 192}, "normalization": "none"}
    spec["heat"] |= {"layout": {"kind": "grid", "height": 12, "width": 12, "patch_size": 8}}
    config = DatasetConfig(str(prepared / "out"), crop=CropConfig("crop_settings"))
    data = build_dataset("users", config, resolve(spec))
    seen = mirrored = 0
    for n in range(len(data)):
        stored = np.load(_file(prepared, "crop_settings", n))
        for draw in range(8):
            sample = data.sample(n, generator(draw))
            row = int(generator(draw).integers(len(stored)))
            shown = sample["rgb"].mean(0) > 0.5
            if not 0.02 < shown.mean() < 0.98:
                continue
            seen, mirrored = seen + 1, mirrored + int(stored[row, 4])
            agreement = {
                "mask": sample["mask"] == 1,
                "painted": sample["painted"] == 1,
                "heat": sample["heat"][0] > 60,
            }
            for name, pixels in agreement.items():
                assert (pixels == shown).mean() > 0.97, name
            rows, columns = np.nonzero(shown)
            around = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 96
            for name in ("voc", "yolo", "coco"):
                [box] = sample[name]
                assert box["boxes"] == pytest.approx(around, abs=0.03), name
            assert sample["words"] == f"photo {n}"
    assert seen > 30
    assert mirrored > 8


def _file(prepared: Path, source: str, n: int) -> Any:
    import io

    return io.BytesIO(open_source(str(prepared / "out"), [source]).read(n)[source])


def test_labels_added_later_are_the_same(prepared: Path, tmp_path: Path) -> None:
    first = {name: LABELS[name] for name in ("mask", "crop_settings")}
    prepare(prepared / "in", tmp_path / "out", first, image={"size": 120})
    prepare(prepared / "in", tmp_path / "out", LABELS, image={"size": 120})
    for source in LABELS:
        later, whole = (open_source(str(out / "out"), [source]) for out in (tmp_path, prepared))
        files = {later.key(n): later.read(n)[source] for n in range(len(later))}
        assert files == {whole.key(n): whole.read(n)[source] for n in range(len(whole))}


def test_what_was_taken_as_a_photograph_cannot_become_a_label(prepared: Path, tmp_path: Path) -> None:
    prepare(prepared / "in", tmp_path / "out", {})
    with pytest.raises(DataError, match="masks/p0.png was taken as a photograph .* another output folder"):
        prepare(prepared / "in", tmp_path / "out", LABELS)


def test_tables_and_templates_outside_the_input(prepared: Path, tmp_path: Path) -> None:
    photos = tmp_path / "images"
    photos.mkdir()
    for n in range(3):
        (photos / f"p{n}.png").write_bytes((prepared / f"in/p{n}.png").read_bytes())
    (tmp_path / "masks").mkdir()
    for n in range(2):
        (tmp_path / f"masks/p{n}.png").write_bytes((prepared / f"in/masks/p{n}.png").read_bytes())
    labels = {
        "mask": {**LABELS["mask"], "file": "../masks/{path}.png"},
        "words": {**LABELS["words"], "file": str(prepared / "in/metadata.jsonl")},
    }
    [(file, reason)] = prepare(photos, tmp_path / "out", labels)
    assert file == "p2.png"
    assert "there is no file ../masks/p2.png" in reason


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (
            {"mask": {**LABELS["mask"], "file": "mask/{stem}.png"}},
            r"that of p0.png, for instance, would be mask/p0.png",
        ),
        ({"text_file": {"file": "{path}.txt"}}, r"no photograph in .* has a file '\{path\}.txt'"),
        ({"mask": {**LABELS["mask"], "file": "{path}.png"}}, "no photograph is left"),
        ({"coco": {"file": "cocoo.json"}}, "labels.coco: file is 'cocoo.json', but there is no such file"),
        ({"coco": {"file": "coco.json", "classes": ["thin"]}}, "Did you mean 'thing'"),
        ({"words": {**LABELS["words"], "text_column": "caption"}}, "text_column is 'caption'"),
    ],
)
def test_what_fits_no_photograph_ends_the_run_at_once(
    prepared: Path, tmp_path: Path, labels: dict[str, Any], reason: str
) -> None:
    photos = tmp_path / "in"
    photos.mkdir()
    for name in ("p0.png", "p1.png", "coco.json", "metadata.jsonl"):
        (photos / name).write_bytes((prepared / "in" / name).read_bytes())
    if "no photograph is left" in reason:
        for name in ("coco.json", "metadata.jsonl"):
            (photos / name).unlink()
    with pytest.raises(ConfigError, match=reason):
        prepare(photos, tmp_path / "out", labels)
    assert not (tmp_path / "out" / "rejected.jsonl").exists() or (tmp_path / "out/rejected.jsonl").read_bytes() == b""


def test_namesakes_need_their_folders_in_a_table(tmp_path: Path) -> None:
    for folder in ("a", "b", "c"):
        (tmp_path / "in" / folder).mkdir(parents=True)
    for n, name in enumerate(("a/1.png", "b/1.png", "c/2.png")):
        photograph(n).save(tmp_path / "in" / name)
    (tmp_path / "in/metadata.csv").write_text("file_name,text\n1.png,one\n2.png,two\n")
    labels = {"words": {"kind": "text_table"}}
    rejected = dict(prepare(tmp_path / "in", tmp_path / "out", labels))
    assert [*rejected] == ["a/1.png", "b/1.png"]
    assert "other photographs are called so too" in rejected["a/1.png"]


def test_a_photograph_whose_label_does_not_fit_is_left_out_alone(tmp_path: Path) -> None:
    (tmp_path / "in/masks").mkdir(parents=True)
    for n in range(4):
        photograph(n).save(tmp_path / f"in/p{n}.jpg")
        Image.new("L", (120, 90 if n != 2 else 120)).save(tmp_path / f"in/masks/p{n}.png")
    [(file, reason)] = prepare(tmp_path / "in", tmp_path / "out", {"mask": LABELS["mask"]})
    assert file == "p2.jpg"
    assert "masks/p2.png: it is for 120 x 120 pixels (width x height), the photograph has 120 x 90" in reason
    assert len(open_source(str(tmp_path / "out"), ["rgb", "mask"])) == 3


def test_a_photograph_is_no_label_of_itself(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for n, name in enumerate("abc"):
        photograph(n).save(tmp_path / f"in/{name}.{'png' if name == 'c' else 'jpg'}")
    for name in "ab":
        Image.new("L", (120, 90)).save(tmp_path / f"in/{name}.png")
    mask = {**LABELS["mask"], "file": "{path}.png"}
    [(file, reason)] = prepare(tmp_path / "in", tmp_path / "out", {"mask": mask})
    assert file == "c.png"
    assert "there is no file c.png, but for the photograph itself" in reason
    assert len(open_source(str(tmp_path / "out"), ["rgb", "mask"])) == 2


def test_a_png_with_text_of_its_own_stays_a_photograph_beside_masks(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    photograph(0).save(tmp_path / "in/a.jpg")
    Image.new("L", (120, 90)).save(tmp_path / "in/a.png")
    photograph(1).save(tmp_path / "in/z.png")
    for name in "az":
        (tmp_path / f"in/{name}.txt").write_text("words")
    labels = {"mask": {**LABELS["mask"], "file": "{path}.png"}, "words": {"kind": "text_file"}}
    assert [file for file, _ in prepare(tmp_path / "in", tmp_path / "out", labels)] == ["z.png"]


def test_files_without_a_photograph_are_named(tmp_path: Path) -> None:
    (tmp_path / "in/masks").mkdir(parents=True)
    for name in "ab":
        photograph(1).save(tmp_path / f"in/{name}.jpg")
    for name in "abz":
        Image.new("L", (120, 90)).save(tmp_path / f"in/masks/{name}.png")
    for name in ("a.txt", "b.txt", "y.txt", "x.svg", "x.txt"):
        (tmp_path / "in" / name).write_text("words")
    labels = {"mask": {**LABELS["mask"], "file": "masks/{folder}/{stem}.png"}, "words": {"kind": "text_file"}}
    rejected = dict(prepare(tmp_path / "in", tmp_path / "out", labels))
    assert sorted(rejected) == ["masks/z.png", "x.svg", "x.txt", "y.txt"]
    assert rejected["x.txt"] == rejected["y.txt"] == "there is no photograph that it belongs to"
    assert len(open_source(str(tmp_path / "out"), ["rgb", "mask", "words"])) == 2


def test_an_input_of_labels_alone_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="holds no files"):
        prepare(tmp_path / "in", tmp_path / "out", {"mask": LABELS["mask"]})
