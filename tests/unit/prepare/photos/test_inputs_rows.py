"""Photographs and labels in the rows of data sets, all of them made here: nothing is fetched."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fourm.config import build
from fourm.data import remote, tables
from fourm.data.cells import content
from fourm.data.source import open_source
from fourm.data.tables import Table
from fourm.errors import ConfigError, DataError, MissingExtraError
from fourm.prepare.photos.job import prepare_photos
from fourm.prepare.photos.record import Rejected
from fourm.prepare.photos.rows import RowInputs
from fourm.recipe.schema import TextTokenizerRecipe
from fourm.recipe.wordpiece import texts
from tests.photographs import photograph
from tests.unit.prepare.photos.test_inputs_tars import photo
from tests.unit.prepare.photos.test_job import recipe

datasets = pytest.importorskip("datasets")
CAPTION = {"caption": {"kind": "text_file", "file": "{column:text}"}}


def rows(count: int, first: int = 0) -> Any:
    """A data set as many of the Hub are: an image, a text, a class and nested fields in every row."""
    numbers = range(first, first + count)
    columns = {
        "image": [photograph(n) for n in numbers],
        "text": [f"photo {n}" for n in numbers],
        "label": [n % 2 for n in numbers],
        "captions": [[f"one {n}", f"two\n{n}"] for n in numbers],
        "meta": [{"size": n, "words": {"title": f"title {n}"}} for n in numbers],
    }
    types = datasets.Features(
        {
            "image": datasets.Image(),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "captions": [datasets.Value("string")],
            "meta": {"size": datasets.Value("int64"), "words": {"title": datasets.Value("string")}},
        }
    )
    return datasets.Dataset.from_dict(columns, features=types)


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parquet")
    (folder / "data").mkdir()
    for n in range(2):
        rows(3, 3 * n).to_parquet(folder / "data" / f"train-{n:05d}-of-00002.parquet")
    rows(1, 90).to_parquet(folder / "data" / "test-00000-of-00001.parquet")
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    rows(5).save_to_disk(folder / "one")
    datasets.DatasetDict({"train": rows(2)}).save_to_disk(folder / "splits")
    return folder


def run(name: object, out: Path, **options: Any) -> list[Rejected]:
    given = recipe(Path(), out, **{"input": str(name), "labels": CAPTION, **options})
    return prepare_photos(given, workers=1, progress=False)


def captions(out: Path, source: str = "caption") -> list[Any]:
    data = open_source(str(out), ["rgb", "origin", source])
    return [json.loads(data.read(n)[source]) for n in range(len(data))]


@pytest.mark.parametrize("form", ["/data/train-*.parquet", "/data/train-{00000..00001}-of-00002.parquet"])
def test_every_parquet_file_becomes_one_shard(parquet: Path, tmp_path: Path, form: str) -> None:
    assert run(f"{parquet}{form}", tmp_path) == []
    data = open_source(str(tmp_path), ["rgb", "caption"])
    assert data.shard_sizes == [3, 3]
    assert captions(tmp_path) == [f"photo {n}" for n in range(6)]
    assert data.key(4) == "train-00001-of-00002/000001"
    whole = np.asarray(photograph(4), np.int16)
    stored = np.asarray(Image.open(io.BytesIO(data.read(4)["rgb"])), np.int16)
    assert np.abs(stored - whole).mean() < 4


def test_a_folder_of_parquet_files_is_found(parquet: Path, tmp_path: Path) -> None:
    run(parquet, tmp_path)
    assert open_source(str(tmp_path), ["rgb"]).shard_sizes == [1, 3, 3]


@pytest.mark.parametrize("split", ["", ":train", "::train", ":default:train"])
def test_pieces_of_a_data_set_are_its_own_files(parquet: Path, tmp_path: Path, split: str) -> None:
    assert run(f"hf:{parquet}{split}", tmp_path) == []
    data = open_source(str(tmp_path), ["rgb"])
    assert data.shard_sizes == [3, 3]
    assert data.key(3) == "train-00001/000000"
    assert captions(tmp_path) == [f"photo {n}" for n in range(6)]


def test_another_split(parquet: Path, tmp_path: Path) -> None:
    run(f"hf:{parquet}:test", tmp_path / "out")
    assert captions(tmp_path / "out") == ["photo 90"]
    with pytest.raises(DataError, match="no split 'tests'.*Did you mean 'test'"):
        run(f"hf:{parquet}:tests", tmp_path / "other")


def test_a_saved_folder_is_cut_into_pieces(saved: Path, tmp_path: Path) -> None:
    assert run(saved / "one", tmp_path / "out", shard_size=2) == []
    assert open_source(str(tmp_path / "out"), ["rgb"]).shard_sizes == [2, 2, 1]
    assert captions(tmp_path / "out") == [f"photo {n}" for n in range(5)]
    with pytest.raises(DataError, match=r"holds splits: name the folder of one, .*splits/train"):
        run(saved / "splits", tmp_path / "splits")
    run(saved / "splits/train", tmp_path / "train")
    assert captions(tmp_path / "train") == ["photo 0", "photo 1"]


@pytest.mark.parametrize(
    ("column", "options", "expected"),
    [
        ("label", {}, "dog"),
        ("captions", {"lines": "alternatives"}, ["one 1", "two 1"]),
        ("meta.words.title", {}, "title 1"),
        ("meta.size", {}, "1"),
        ("meta.words", {}, '{"title": "title 1"}'),
    ],
)
def test_columns_become_labels(
    parquet: Path, tmp_path: Path, column: str, options: dict[str, str], expected: Any
) -> None:
    labels = {"words": {"kind": "text_file", "file": f"{{column:{column}}}", **options}}
    run(parquet / "data/train-00000-of-00002.parquet", tmp_path, labels=labels)
    assert captions(tmp_path, "words")[1] == expected


def test_plain_bytes_are_images_too_and_empty_cells_are_named(tmp_path: Path) -> None:
    columns = {"jpg": [photo(0), None, b"no image"], "text": ["a", "b", "c"], "__key__": ["x/1", "x/2", "x/3"]}
    types = {"jpg": datasets.Value("binary"), "text": datasets.Value("string"), "__key__": datasets.Value("string")}
    datasets.Dataset.from_dict(columns, features=datasets.Features(types)).to_parquet(tmp_path / "a.parquet")
    rejected = run(tmp_path / "a.parquet", tmp_path / "out")
    assert [entry.file for entry in rejected] == ["a/000001", "a/000002"]
    assert ["0 bytes" in entry.reason or "not an image" in entry.reason for entry in rejected] == [True, True]
    assert open_source(str(tmp_path / "out"), ["rgb"]).key(0) == "x/1"


def test_a_row_makes_nothing_on_this_machine_be_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(photo(0))
    types = datasets.Features({"image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}})
    cells = [{"bytes": None, "path": str(secret)}, {"bytes": None, "path": f"file://{secret}"}]
    datasets.Dataset.from_dict({"image": cells}, features=types).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="none of the 2 files"):
        run(tmp_path / "a.parquet", tmp_path / "out", labels={})
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    assert all("not part of the data set" in reason for reason in reasons)


def test_a_damaged_file_is_rejected_and_the_others_are_taken(parquet: Path, tmp_path: Path) -> None:
    for n, file in enumerate(sorted((parquet / "data").glob("train-*"))):
        content = file.read_bytes()
        (tmp_path / f"{n}.parquet").write_bytes(content[:-100] if n == 0 else content)
    (entry,) = run(tmp_path / "*.parquet", tmp_path / "out")
    assert (entry.file, entry.by) == ("0", "input")
    assert "cannot be read" in entry.reason
    assert captions(tmp_path / "out") == ["photo 3", "photo 4", "photo 5"]


def test_mistakes_are_named(parquet: Path, tmp_path: Path) -> None:
    file = parquet / "data/test-00000-of-00001.parquet"
    with pytest.raises(DataError, match=r"no column 'txt'.*Did you mean 'text'"):
        run(file, tmp_path / "1", labels={"caption": {"kind": "text_file", "file": "{column:txt}"}})
    with pytest.raises(ConfigError, match=r"'\{path\}.txt'.*has columns, not files: write '\{column:NAME\}'"):
        run(file, tmp_path / "2", labels={"caption": {"kind": "text_file"}})
    with pytest.raises(ConfigError, match="only data sets have columns"):
        run(tmp_path, tmp_path.parent / f"{tmp_path.name}-out")
    with pytest.raises(DataError, match=r"no column 'photo'"):
        run(file, tmp_path / "4", image={"column": "photo"})
    with pytest.raises(DataError, match="there are no files"):
        run(parquet / "*.nothing.parquet", tmp_path / "5")


def test_of_several_images_the_user_chooses(tmp_path: Path) -> None:
    columns = {"photo": [photograph(0)], "mask": [photograph(1)]}
    types = datasets.Features({name: datasets.Image() for name in columns})
    datasets.Dataset.from_dict(columns, features=types).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="images in several columns: choose with image.column=photo"):
        run(tmp_path / "a.parquet", tmp_path / "out", labels={})
    inputs = RowInputs(str(tmp_path / "a.parquet"), ["{column:mask}.png"], "photo", 10)
    (item,) = inputs.read(next(inputs.pieces()))
    assert np.array_equal(Image.open(io.BytesIO(item.data)), photograph(0))
    assert np.array_equal(Image.open(io.BytesIO(item.beside["{column:mask}.png"])), photograph(1))


def test_masks_in_columns_become_modalities(tmp_path: Path) -> None:
    masks = [Image.fromarray(np.full((90, 120), n, np.uint8)) for n in range(2)]
    columns = {"photo": [photograph(n) for n in range(2)], "mask": masks}
    types = datasets.Features({name: datasets.Image() for name in columns})
    datasets.Dataset.from_dict(columns, features=types).to_parquet(tmp_path / "a.parquet")
    holds = {"layout": {"kind": "grid", "height": 224, "width": 224}, "content": {"kind": "discrete", "vocab_size": 2}}
    labels = {"mask": {"kind": "file", "file": "{column:mask}.png", "modality": {**holds, "decode": "labels"}}}
    assert run(tmp_path / "a.parquet", tmp_path / "out", labels=labels, image={"column": "photo"}) == []
    data = open_source(str(tmp_path / "out"), ["rgb", "mask"])
    found = [np.asarray(Image.open(io.BytesIO(data.read(n)["mask"]))) for n in range(2)]
    assert [np.unique(mask).tolist() for mask in found] == [[0], [1]]


def test_rows_go_on_where_the_network_broke(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_WAITS", (0.0, 0.0))
    table = Table(f"hf:{parquet}:train")
    part = table.parts()[1]
    breaks = iter([False, True, False, True, True, False, False, False, False])
    real = tables.Table._plain

    class Breaking:
        def __init__(self, rows: Any) -> None:
            self.rows = rows

        def skip(self, number: int) -> Any:
            for row in self.rows.skip(number):
                if next(breaks):
                    raise ConnectionError("reset")
                yield row

    monkeypatch.setattr(tables.Table, "_plain", lambda self, rows, columns: Breaking(real(self, rows, columns)))
    assert [(n, row["text"]) for n, row in table.rows(part, ["text"])] == [(n, f"photo {3 + n}") for n in range(3)]


def test_a_data_set_keeps_the_commit_it_was_begun_with(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    real = datasets.load_dataset

    def load(name: str, config: str | None, *, revision: str | None, **options: Any) -> Any:
        asked.append((name, config, revision))
        return real(str(parquet), config, **options)

    table = Table("hf:somebody/photos:train")
    monkeypatch.setattr(tables, "_revision", lambda name: "c0ffee")
    monkeypatch.setattr(table.datasets, "load_dataset", load)
    monkeypatch.setattr(table.datasets, "get_dataset_config_names", lambda name, revision: ["default"])
    monkeypatch.setattr(table.datasets, "get_dataset_split_names", lambda name, config, revision: ["train"])
    parts = table.parts()
    monkeypatch.setattr(tables, "_revision", lambda name: "newer")
    assert table.parts(parts) == parts
    assert len([*table.rows(parts[0], ["text"])]) == 3
    assert {*asked} == {("somebody/photos", None, "c0ffee")}


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fourm\[datasets\]'"):
        run("hf:somebody/photos", tmp_path)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, None), ("ü", "ü".encode()), (2, b"2"), (0.5, b"0.5"), ([1, 2], b"[1, 2]"), ([], b"[]"), (b"x", b"x")],
)
def test_cells_as_content(value: Any, expected: bytes | None) -> None:
    assert content(value) == expected


def test_texts_of_a_data_set_train_a_text_tokenizer(parquet: Path) -> None:
    given = {"path": f"hf:{parquet}:train", "sources": ["text", "captions"], "output": "text.json"}
    found = [*texts(build(TextTokenizerRecipe, given))]
    assert found == [f"photo {n}" for n in range(6)] + [t for n in range(6) for t in (f"one {n}", f"two\n{n}")]
    with pytest.raises(DataError, match="column 'label' holds 0; expected text"):
        [*texts(build(TextTokenizerRecipe, {**given, "sources": ["label"]}))]
