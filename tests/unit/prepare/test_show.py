"""The page about a data set."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fourm.cli import cli
from fourm.data.shards import read_source_facts, shard_path, write_source_facts
from fourm.errors import DataError
from fourm.layouts import Discrete, Sequence
from fourm.modality import Modality
from fourm.prepare.samples import SIDE, View, show_value, small
from fourm.prepare.show import show
from fourm.report.colors import color_scale, palette
from fourm.report.html import Cell
from tests.unit.prepare import stored
from tests.unit.prepare.stored import EXTENSIONS, HEIGHT, WIDTH, spoil


def columns(html: str) -> dict[str, list[Cell]]:
    """The pictures and texts of the samples, by source."""
    table = html[html.index('<table class="grid"') :]
    table = table[: table.index("</table>")]
    names = re.findall(r'<th scope="col">(.*?)</th>', table)[1:]
    rows = [re.findall(r"<td>(.*?)</td>", row, re.S) for row in table.split("<tr>")[2:]]
    return {name: [_cell(row[place]) for row in rows] for place, name in enumerate(names)}


def _cell(markup: str) -> Cell:
    if found := re.search(r'base64,([^"]+)"', markup):
        return Image.open(io.BytesIO(base64.b64decode(found[1]))).convert("RGB")
    return unescape(re.sub("<.*?>", "", markup)) or None


def written(root: Path, **options: Any) -> str:
    return show(root, root.parent / "page.html", **options).read_text()


def shown(root: Path, **options: Any) -> dict[str, list[Cell]]:
    return columns(written(root, **options))


def pixels(cell: Cell) -> np.ndarray[Any, Any]:
    assert isinstance(cell, Image.Image)
    return np.asarray(cell).astype(int)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a good data set."""
    return written(stored.write(tmp_path_factory.mktemp("good") / "set"))


@pytest.fixture(scope="module")
def cells(page: str) -> dict[str, list[Cell]]:
    return columns(page)


def test_a_column_for_each_source_and_a_row_for_each_sample(page: str, cells: dict[str, list[Cell]]) -> None:
    assert next(iter(cells)) == "rgb"
    assert set(cells) == set(EXTENSIONS)
    assert {len(column) for column in cells.values()} == {5}
    assert all(f'<th scope="row">{n:06d}</th>' in page for n in range(5))


def test_the_photograph_is_upright_and_in_its_colours(cells: dict[str, list[Cell]]) -> None:
    rgb = pixels(cells["rgb"][0])
    assert rgb.shape == (HEIGHT, WIDTH, 3)
    for place, color in (((25, 5), (200, 0, 0)), ((25, 40), (0, 0, 200)), ((5, 7), (255, 255, 255))):
        assert np.abs(rgb[place] - color).max() < 12


def test_edges_are_white_on_black(cells: dict[str, list[Cell]]) -> None:
    canny = pixels(cells["canny"][0])
    assert (canny[:, WIDTH // 2 - 1] == 255).all()
    assert canny.sum() == HEIGHT * 255 * 3


def test_near_is_bright_and_far_is_dark_on_the_scale_of_the_modality(cells: dict[str, list[Cell]]) -> None:
    depth, scale = pixels(cells["depth"][0]), color_scale("inferno_r").astype(int)
    share = [np.log(metres / 0.25) / np.log(16 / 0.25) for metres in (1.0, 8.0)]
    for row, expected in zip((0, -1), (scale[round(255 * s)] for s in share), strict=True):
        assert np.abs(depth[row, 0] - expected).max() <= 4
    assert depth[0].sum() > depth[-1].sum()


def test_the_colours_of_depth_are_explained_by_their_values(page: str) -> None:
    ramp = page[page.index('class="ramp"') :]
    ticks = re.findall(r'left:([\d.]+)%">([^<]+)<', ramp[: ramp.index("</div>")])
    assert (ticks[0], ticks[-1]) == (("0", "0.25"), ("100", "16"))
    assert 3 <= len(ticks) <= 5
    for place, metres in ticks:
        assert float(place) / 100 == pytest.approx(np.log(float(metres) / 0.25) / np.log(16 / 0.25), abs=1e-3)


def test_warm_is_bright_on_a_scale_of_equal_steps(tmp_path: Path) -> None:
    """The same files as temperatures: 1/16 and 1/2 of the range."""
    root = stored.write(tmp_path / "set")
    facts = read_source_facts(root, "depth")
    warm = facts["modality"] | {"name": "thermal", "normalization": "half", "value_range": [0, 120]}
    write_source_facts(root, "depth", facts | {"modality": warm})
    html = written(root)
    thermal, scale = pixels(columns(html)["depth"][0]), color_scale("inferno").astype(int)
    for row, share in ((0, 1 / 16), (-1, 1 / 2)):
        assert np.abs(thermal[row, 0] - scale[round(255 * share)]).max() <= 4
    assert thermal[0].sum() < thermal[-1].sum()
    assert re.findall(r'left:([\d.]+)%">([^<]+)<', html) == [
        ("0", "0"), ("25", "30"), ("50", "60"), ("75", "90"), ("100", "120"),
    ]  # fmt: skip


def test_normals_are_drawn_as_unit_vectors(cells: dict[str, list[Cell]]) -> None:
    normal = pixels(cells["normal"][0])
    tilt = np.array([-0.6, 0, 0.8])
    assert np.abs(normal[0, 0] - (tilt + 1) / 2 * 255).max() <= 2


def test_classes_have_the_colours_of_the_legend(page: str, cells: dict[str, list[Cell]]) -> None:
    labels, colors = pixels(cells["semseg"][0]), palette(2).tolist()
    assert labels[0, 0].tolist() == colors[0]
    assert labels[-1, 0].tolist() == colors[1]
    for name, (red, green, blue) in zip(("sky", "tree"), colors, strict=True):
        assert f'background:rgb({red},{green},{blue})"></i>{name}<' in page


def test_boxes_lie_on_the_photograph_in_the_colour_of_their_class(cells: dict[str, list[Cell]]) -> None:
    det = pixels(cells["det"][0])
    height, width, _ = det.shape
    assert max(height, width) <= SIDE
    row = np.abs(det[round(0.7 * height)] - palette(2)[1]).max(axis=-1) < 30
    found = np.flatnonzero(row) / width
    assert np.abs(found[0] - 0.55) < 0.02
    assert np.abs(found[-1] - 0.9) < 0.02
    assert np.abs(det[round(0.7 * height), round(0.7 * width)] - (0, 0, 200)).max() < 12


def test_crops_lie_where_they_cut_the_photograph(cells: dict[str, list[Cell]]) -> None:
    crops, rgb = pixels(cells["crop_settings"][0]), pixels(cells["rgb"][0])
    height, width, _ = crops.shape
    plain = np.asarray(Image.fromarray(rgb.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST))
    drawn = np.abs(crops - plain)[height // 2].max(axis=-1) > 60
    columns_of_edges = [round(column / WIDTH * (width - 1)) for column in (8, 16, 40, 48)]
    assert all(drawn[max(0, edge - 4) : edge + 5].any() for edge in columns_of_edges)
    assert not drawn[: columns_of_edges[0] - 5].any()


def test_palettes_are_bands_of_the_largest_size(cells: dict[str, list[Cell]]) -> None:
    bands = pixels(cells["color_palette"][0])
    assert bands[5, -5].tolist() == [200, 0, 0]
    assert bands[-5, -5].tolist() == [0, 0, 200]


def test_texts_can_be_read_and_selected(cells: dict[str, list[Cell]]) -> None:
    assert cells["caption"] == [f"photograph {n} / red and blue" for n in range(5)]


def test_tokens_are_squares_of_the_first_crop(cells: dict[str, list[Cell]]) -> None:
    tokens = pixels(cells["tok_rgb"][1])
    assert tokens.shape[:2] == (2, 3)
    assert (tokens.reshape(-1, 3) == palette(512)[1:7]).all()


def test_features_of_a_column_share_their_colours(cells: dict[str, list[Cell]]) -> None:
    """Five random maps: at least one of them does not reach the ends of the common range."""
    maps = np.stack([pixels(cell) for cell in cells["dino"]])
    assert maps.shape == (5, 2, 3, 3)
    assert maps.min() == 0
    assert maps.max() == 255
    assert min(np.ptp(one, axis=(0, 1)).min() for one in maps) < 255


def test_vectors_people_facts_and_instances_are_pictures(cells: dict[str, list[Cell]]) -> None:
    for source in ("t5", "poses", "metadata", "sam"):
        assert all(isinstance(cell, Image.Image) and max(cell.size) <= SIDE for cell in cells[source]), source
    assert pixels(cells["t5"][0]).shape == (1, 4, 3)


def test_people_stand_where_their_boxes_are(cells: dict[str, list[Cell]]) -> None:
    poses = pixels(cells["poses"][0])
    height, width, _ = poses.shape
    row = poses[round(0.8 * height)]
    red = np.abs(row - (200, 0, 0)).max(axis=-1) > 40
    assert red[: width // 2].any()
    assert np.abs(np.flatnonzero(red)[0] / width - 4 / WIDTH) < 0.02


def test_joints_are_where_they_are_seen(cells: dict[str, list[Cell]]) -> None:
    """All seventeen are at the same pixel of the photograph, (12, 16)."""
    poses = pixels(cells["poses"][0])
    height, width, _ = poses.shape
    joint = poses[round(16 / HEIGHT * height), round(12 / WIDTH * width)]
    assert np.abs(joint - (200, 0, 0)).max() > 60


def test_instances_lie_on_the_first_crop(cells: dict[str, list[Cell]]) -> None:
    """The outline is a triangle that points down, in the left half; the crop shows red up to its middle."""
    sam = pixels(cells["sam"][0])
    assert sam.shape == (SIDE, SIDE, 3)
    scale = SIDE / 224
    inside, outside = sam[round(60 * scale), round(50 * scale)], sam[round(110 * scale), round(25 * scale)]
    assert np.abs(outside - (200, 0, 0)).max() < 20
    assert np.abs(inside - (200, 0, 0)).max() > 50


def test_the_sources_are_listed_with_what_they_hold(page: str) -> None:
    table = page[page.index("<table") : page.index("</table>")]
    lines = [re.findall(r"<td.*?>(.*?)</td>", line) for line in table.split("<tr>")[2:]]
    known = {line[0]: line[1:] for line in lines}
    assert set(known) == set(EXTENSIONS)
    assert known["rgb"][:4] == ["rgb (image, 3 channels)", "jpg", "5", "2"]
    assert known["tok_rgb"][0] == "tok_rgb (tokens, 2 x 3, vocabulary of 512)"
    assert known["semseg"][0] == "semseg (labels, 2 classes)"


def test_the_page_needs_nothing_else_and_is_the_same_each_time(tmp_path: Path) -> None:
    root = stored.write(tmp_path / "set")
    first, second = (written(root) for _ in range(2))
    assert first == second
    assert "http" not in first
    assert "<script" not in first


@pytest.mark.parametrize(("num", "keys"), [(1, [2]), (2, [1, 3]), (3, [0, 2, 4]), (50, [0, 1, 2, 3, 4])])
def test_samples_are_spread_over_the_shards(tmp_path: Path, num: int, keys: list[int]) -> None:
    found = re.findall(r'<th scope="row">(.*?)</th>', written(stored.write(tmp_path / "set"), num=num))
    assert found == [f"{n:06d}" for n in keys]


def test_what_is_damaged_or_missing_is_said_in_its_place(tmp_path: Path) -> None:
    root = stored.write(tmp_path / "set", spoil("depth", b"no image"))
    shard_path(root, "canny", 1).unlink()
    shard_path(root, "det", 1).write_bytes(b"")

    page = written(root)
    cells = columns(page)

    assert isinstance(cells["depth"][2], Image.Image)
    assert "these 8 bytes are not an image" in str(cells["depth"][3])
    assert cells["canny"][3] == "missing"
    assert "truncated" in str(cells["det"][3])
    assert isinstance(cells["rgb"][3], Image.Image)
    assert page.count("1 (1 missing or damaged)") == 2


def test_a_damaged_photograph_does_not_stop_what_is_drawn_on_it(tmp_path: Path) -> None:
    cells = shown(stored.write(tmp_path / "set", spoil("rgb", b"no image")))
    assert all(isinstance(cells[source][3], Image.Image) for source in ("det", "crop_settings", "poses", "sam"))


def test_a_source_of_unknown_modality_is_told_by_its_size(tmp_path: Path) -> None:
    root = stored.write(tmp_path / "set")
    (root / "det").rename(root / "things")
    write_source_facts(root, "things", {"num_shards": read_source_facts(root, "things")["num_shards"]})
    assert shown(root)["things"][0] == f"{len(stored.sample(0)['det'])} bytes"


def test_names_that_are_no_text_are_shown(tmp_path: Path) -> None:
    root = stored.write(tmp_path / "set")
    entry = {"file": os.fsdecode(b"latin-\xe9.jpg"), "reason": "damaged", "by": "image", "shard": 0}
    (root / "rejected.jsonl").write_text(json.dumps(entry) + "\n")
    assert r"latin-\udce9.jpg" in written(root)


def rejected(root: Path, *entries: tuple[str, str, str]) -> list[list[str]]:
    """Lines of the table about files that were left out: number, by whom, a reason and the file it is of."""
    entry = ({"file": file, "by": by, "reason": reason, "shard": 0} for file, by, reason in entries)
    (root / "rejected.jsonl").write_text("".join(json.dumps(line) + "\n" for line in entry))
    page = written(root)
    part = page[page.index("<h2>Rejected") :]
    assert f"{len(entries)} files were left out" in part
    lines = [re.findall(r"<td.*?>(.*?)</td>", line) for line in part[: part.index("</table>")].split("<tr>")[2:]]
    return [[unescape(cell) for cell in line] for line in lines]


def test_rejected_files_are_counted_by_cause_with_one_example(tmp_path: Path) -> None:
    lines = rejected(
        stored.write(tmp_path / "set"),
        *((f"small{n}.jpg", "image", f"{n} x {n} pixels; expected 16") for n in range(4)),
        ("<b>.txt", "image", "not an image: it begins with b'<b>'"),
        ("x.jpg", "det", "label 'det' cannot be made"),
    )
    assert lines[0] == ["4", "image", "0 x 0 pixels; expected 16", "small0.jpg"]
    assert sorted(lines[1:]) == [
        ["1", "det", "label 'det' cannot be made", "x.jpg"],
        ["1", "image", "not an image: it begins with b'<b>'", "<b>.txt"],
    ]


FILES = ("tom.jpg", "cats/my cat.jpg", "a.b/Käse (2).webp", "it's.png", "IMG_0007.JPG", "photo.jpg")


@pytest.mark.parametrize(
    "reason",
    [
        "there is no file ../thermal/{path}.png; missing: empty takes it without text",
        "instances.json does not name {file}; its 7 names are such as 'x/{last}'. missing: empty takes it",
        "instances.json, {file}: not in COCO's form: KeyError('bbox')",
        "annotations/{stem}.xml: {n} of -{n}.5 values lie outside the photograph's range 1e-0{n} to 3",
        "it begins with b\"{n}'\" and the rest isn't read",
    ],
)
def test_names_of_files_and_numbers_are_no_causes(tmp_path: Path, reason: str) -> None:
    entries = []
    for n, file in enumerate(FILES, 1):
        path, last = re.sub(r"\.\w+$", "", file), file.rpartition("/")[2]
        stem = path.rpartition("/")[2]
        entries.append((file, "det", reason.format(file=file, path=path, last=last, stem=stem, n=n)))
    [line] = rejected(stored.write(tmp_path / "set"), *entries)
    assert line == ["6", "det", entries[0][2], "tom.jpg"]


def test_causes_that_differ_in_words_or_in_who_found_them_are_not_one(tmp_path: Path) -> None:
    lines = rejected(
        stored.write(tmp_path / "set"),
        ("a.jpg", "det", "there is no file a.xml"),
        ("a.jpg", "boxes", "there is no file a.xml"),
        ("b.jpg", "det", "there is no folder b.xml"),
    )
    assert len(lines) == 3


def test_each_data_set_of_a_folder_has_its_sections(tmp_path: Path) -> None:
    stored.write(tmp_path / "out" / "train")
    stored.write(tmp_path / "out" / "test")
    page = written(tmp_path / "out", num=1)
    assert re.findall("<h2>(.*?)</h2>", page) == [
        "Sources of test", "Samples of test", "Sources of train", "Samples of train",
    ]  # fmt: skip


def test_the_command_writes_the_page_beside_the_data(tmp_path: Path, capsys: Any) -> None:
    root = stored.write(tmp_path / "set")
    cli(["prepare", "show", str(root), "--num", "1"], standalone_mode=False)
    assert capsys.readouterr().out.strip() == str(root / "overview.html")
    assert (root / "overview.html").read_text().startswith("<!DOCTYPE html>")


def test_a_page_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    root = stored.write(tmp_path / "set")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*page\.html"):
        show(root, tmp_path / "file" / "page.html")


def test_large_maps_become_small_pictures() -> None:
    value = np.zeros((3000, 1500, 3), np.uint8)
    value[:, 750:, 0] = 255
    picture = show_value(value, stored.MODALITIES["rgb"], View())
    assert isinstance(picture, Image.Image)
    assert picture.size == (128, 256)
    assert picture.getpixel((100, 10)) == (255, 0, 0)


def test_facts_of_any_kind_are_told_in_words() -> None:
    origin = {"file": "Käse <1>.jpg", "width": 30, "notes": ["turned upright"]}
    modality = Modality("origin", Sequence(1), Discrete(1), source="origin", decode="structured")
    assert show_value(origin, modality, View()) == 'file: Käse <1>.jpg; width: 30; notes: ["turned upright"]'


def test_label_maps_get_no_colours_between_those_of_classes() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
    before = {tuple(color) for color in noise.reshape(-1, 3)}
    after = {tuple(color) for color in np.asarray(small(Image.fromarray(noise), sharp=True)).reshape(-1, 3)}
    assert after <= before
