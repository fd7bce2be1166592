"""Captions of many photographs in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fourm.errors import ConfigError, DataError
from fourm.prepare.labelers.tables import find_table
from tests.user_labels import label, labeler, photo

TABLES = {
    "metadata.csv": 'file_name,text\ncats/tom.jpg,"a cat, ""Tom"""\ndog.jpg,a dog\ndog.jpg,ein Hund über\n',
    "metadata.tsv": 'file_name\ttext\ncats/tom.jpg\t"a cat, ""Tom"""\ndog.jpg\ta dog\ndog.jpg\tein Hund über\n',
    "metadata.jsonl": '{"file_name": "./cats/tom.jpg", "text": "a cat, \\"Tom\\"", "n": 1}\n\n'
    '{"file_name": "dog.jpg", "text": ["a dog", "ein Hund über", " "]}\n',
}


def table(folder: Path, name: str, text: str | bytes | None = None) -> str:
    content = TABLES[name] if text is None else text
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(folder / name)


@pytest.mark.parametrize("name", TABLES)
def test_rows_are_texts_and_several_are_alternatives(tmp_path: Path, name: str) -> None:
    file = table(tmp_path, name)
    assert label("text_table", photo(), file=file) == 'a cat, "Tom"'
    assert label("text_table", photo(file="dog.jpg"), file=file) == ["a dog", "ein Hund über"]
    assert label("text_table", photo(file="dogs/dog.jpg"), file=file) == ["a dog", "ein Hund über"]


def test_columns_may_be_called_otherwise(tmp_path: Path) -> None:
    file = table(tmp_path, "a.csv", "\ufeffimage,caption,n\r\ncats\\tom.jpg,a cat,1\r\n")
    assert label("text_table", photo(), file=file, file_column="image", text_column="caption") == "a cat"


def test_control_characters_are_left_out(tmp_path: Path) -> None:
    text = '{"file_name": "cats/tom.jpg", "text": ["a \\u0000cat", "\\u001b", "the cat"]}\n'
    assert label("text_table", photo(), file=table(tmp_path, "a.jsonl", text)) == ["a cat", "the cat"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_columns_are_parted_by_what_parts_the_head(tmp_path: Path, name: str, separator: str) -> None:
    text = separator.join(["\ufefffile_name", "a;b", "text"]).replace("a;b", '"a;b,c;d"')
    row = separator.join(["cats/tom.jpg", "1", '"a cat, red; asleep"'])
    assert label("text_table", photo(), file=table(tmp_path, name, f"{text}\n{row}\n")) == "a cat, red; asleep"


def test_a_photograph_without_a_row_is_rejected_or_has_no_text(tmp_path: Path) -> None:
    file = table(tmp_path, "metadata.csv")
    with pytest.raises(DataError, match="metadata.csv does not name x.jpg; its 2 names are such as 'cats/tom.jpg'"):
        label("text_table", photo(file="x.jpg"), file=file)
    assert label("text_table", photo(file="x.jpg"), file=file, missing="empty") == ""


def test_a_row_that_ends_early_has_no_text(tmp_path: Path) -> None:
    assert label("text_table", photo(file="a"), file=table(tmp_path, "a.csv", "file_name,text\na\n")) == ""


@pytest.mark.parametrize(
    ("name", "text", "options", "reason"),
    [
        ("metadata.csv", None, {"text_column": "txt"}, "line 2: text_column is 'txt', .*Did you mean 'text'"),
        ("metadata.jsonl", None, {"file_column": "file"}, "file_column is 'file'.* Did you mean 'file_name'"),
        ("a.jsonl", '{"file_name": "a", "text": "b"}\n{"file_name"', {}, "line 2: not JSON"),
        ("a.jsonl", "[1]", {}, "line 1: expected names"),
        ("a.jsonl", '{"file_name": "a", "text": 5}', {}, "line 1: text is 5; expected text, or a list"),
        (
            "a.jsonl",
            '{"file_name": "a", "text": ["b", 5]}',
            {},
            r"line 1: text is \['b', 5\]; expected text, or a list",
        ),
        ("a.jsonl", '{"file_name": ["a"], "text": "b"}', {}, r"line 1: file_name is \['a'\]; expected text$"),
        ("a.csv", "file_name;text\na;b\n", {"text_column": "txt"}, "text_column is 'txt', .*Did you mean 'text'"),
        ("a.csv", "image;texts\na;b\n", {"file_column": "image"}, "text_column is 'text', .*Did you mean 'texts'"),
        ("a.csv", b"file_name,text\na,\xff\n", {}, "UTF-8"),
        ("a.csv", 'file_name,text\na,"open\n', {}, "a.csv"),
        ("a.parquet", "", {}, "ends in .csv"),
    ],
)
def test_a_table_that_cannot_be_read_ends_the_run(
    tmp_path: Path, name: str, text: Any, options: dict[str, str], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        labeler("text_table", file=table(tmp_path, name, text), **options)


def test_a_table_is_looked_for_in_the_input_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, here = tmp_path / "photos", tmp_path / "here"
    for folder in (photos, here):
        folder.mkdir()
        (folder / "both.csv").touch()
    (here / "one.csv").touch()
    monkeypatch.chdir(here)
    assert find_table("both.csv", str(photos)) == photos / "both.csv"
    assert find_table("one.csv", str(photos)) == Path("one.csv")
    assert find_table(str(here / "one.csv"), "s3://bucket/photos") == here / "one.csv"
    with pytest.raises(ConfigError, match=rf"no such file in {photos}, nor in {here}"):
        find_table("none.csv", str(photos))
