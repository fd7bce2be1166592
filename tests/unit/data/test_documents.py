"""Files of documents: DeLVM's and LVM's forms are read, damage is named, and recipes open them as data sets."""

from __future__ import annotations

import base64
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from fourm import config as configs
from fourm.data.configs import DatasetConfig
from fourm.data.dataset import build_dataset, check_tokens
from fourm.data.documents import DocumentFile, DocumentWriter, concatenate, find_documents, meta_path
from fourm.data.shards import write_source_facts
from fourm.errors import ConfigError, DataError
from fourm.layouts import Continuous, Discrete, Sequence
from fourm.modality import Modality, ModalitySet

SENTENCE = Modality("sentence", Sequence(16), Discrete(100), source="sentence", decode="tokens")
VECTORS = Modality("t5", Sequence(16), Continuous(4), source="t5", decode="vectors", direction="input")


def written(path: Path, *documents: list[int]) -> Path:
    with DocumentWriter(path) as writer:
        for ids in documents:
            writer.write(np.array(ids))
    return path


def dataset(path: Path, **options: object) -> object:
    config = configs.build(DatasetConfig, {"path": str(path), "packing": {"kind": "stream"}, **options})
    return build_dataset("docs", config, ModalitySet([SENTENCE]))


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    file = DocumentFile(written(tmp_path / "train.bin", [1, 2, 3], [], [4]))
    assert [file.read(n).tolist() for n in range(len(file))] == [[1, 2, 3], [], [4]]
    assert file.lengths.tolist() == [3, 0, 1]


def test_the_files_are_delvms(tmp_path: Path) -> None:
    """Lines of JSON, and rows of byte offset and length."""
    path = written(tmp_path / "train.bin", [1, 2, 3], [40])
    lines = path.read_bytes().splitlines(keepends=True)
    assert [json.loads(line) for line in lines] == [{"tokens": [1, 2, 3]}, {"tokens": [40]}]
    assert np.load(tmp_path / "train.bin.meta").tolist() == [[0, 3], [len(lines[0]), 1]]


def test_lvms_files_need_no_index(tmp_path: Path) -> None:
    path = tmp_path / "tokens.jsonl"
    encoded = [base64.b64encode(np.array(ids, "<i4").tobytes()).decode() for ids in ([8191, 7], [1])]
    path.write_text("".join(json.dumps({"tokens": text}) + "\n" for text in encoded))
    file = DocumentFile(path)
    assert [file.read(n).tolist() for n in range(2)] == [[8191, 7], [1]]


def test_a_missing_index_is_made(tmp_path: Path) -> None:
    path = written(tmp_path / "train.bin", [1, 2], [3])
    meta_path(path).unlink()
    assert DocumentFile(path).lengths.tolist() == [2, 1]


def test_nothing_appears_after_an_error(tmp_path: Path) -> None:
    def interrupted() -> None:
        with DocumentWriter(tmp_path / "train.bin") as writer:
            writer.write([1])
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write .*train.bin"):
        written(tmp_path / "file" / "train.bin", [1])


def test_an_open_data_set_can_be_sent_to_another_process(tmp_path: Path) -> None:
    written(tmp_path / "train.bin", list(range(90)))
    rows, rng = dataset(tmp_path, packing={"kind": "stream", "num_tokens": 16}), np.random.default_rng(0)
    before = rows.sample(2, rng)[0][0].value  # type: ignore[attr-defined]
    copy = pickle.loads(pickle.dumps(rows))
    assert copy.sample(2, rng)[0][0].value.tolist() == before.tolist()


def test_pairs_are_joined(tmp_path: Path) -> None:
    pairs = [np.array([n, n]) for n in range(5)]
    assert [ids.tolist() for ids in concatenate(pairs, 2)] == [[0, 0, 1, 1], [2, 2, 3, 3], [4, 4]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"tokens": [1, "x"]}', "holds no list of integers"),
        ('{"tokens": [1.5]}', "holds no list of integers"),
        ('{"ids": [1]}', "no 'tokens'"),
        ('{"tokens": "a"}', "document 0"),
        ("[1, 2]", "document 0"),
        ("{", "document 0"),
    ],
)
def test_damaged_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "train.bin"
    path.write_text(line + "\n")
    with pytest.raises(DataError, match=message):
        DocumentFile(path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([[0, 2], [9999, 1]], "does not fit train.bin"),
        ([[5, 2], [0, 1]], "does not fit train.bin"),
        ([0, 2], "expected \\(documents, 2\\) integers"),
        ([[0.5, 2.0]], "expected \\(documents, 2\\) integers"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(tmp_path: Path, index: list[object], message: str) -> None:
    path = written(tmp_path / "train.bin", [1, 2], [3])
    with meta_path(path).open("wb") as file:
        np.save(file, np.array(index))
    with pytest.raises(DataError, match=message):
        DocumentFile(path)


def test_an_index_of_other_lengths_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "train.bin", [1, 2], [3])
    index = np.load(meta_path(path))
    with meta_path(path).open("wb") as file:
        np.save(file, index + [[0, 0], [0, 4]])
    with pytest.raises(DataError, match=r"document 1: 1 tokens, but train.bin.meta says 5"):
        DocumentFile(path).read(1)


def test_a_pickled_index_is_not_loaded(tmp_path: Path) -> None:
    path = written(tmp_path / "train.bin", [1])
    with meta_path(path).open("wb") as file:
        np.save(file, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(DataError, match="is not an index of documents"):
        DocumentFile(path)


def test_all_files_of_a_folder_are_found(tmp_path: Path) -> None:
    for name in ("b/train.bin", "a/train.bin", "c.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [str(p.relative_to(tmp_path)) for p in find_documents(tmp_path)] == ["a/train.bin", "b/train.bin", "c.jsonl"]
    with pytest.raises(DataError, match="no documents at"):
        find_documents(tmp_path / "nothing")


def test_a_recipe_opens_documents_by_their_packing(tmp_path: Path) -> None:
    written(tmp_path / "docs" / "train.bin", [1, 2, 3, 4, 5, 6])
    packing = {"kind": "stream", "num_tokens": 4, "bos": 98, "eos": 99, "shuffle": False}
    rows = dataset(tmp_path / "docs", packing=packing)
    rng = np.random.default_rng(0)
    values = [rows.sample(n, rng)[0][0].value.tolist() for n in range(len(rows))]  # type: ignore[attr-defined,arg-type]
    assert values == [[98, 1, 2, 3, 4], [4, 5, 6, 99]]
    assert len(dataset(tmp_path / "docs", packing=packing, max_samples=1)) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"packing": {"kind": "stream", "bos": 100}},
            ConfigError,
            "packing.bos is 100; the vocabulary has ids below 100",
        ),
        (
            {"packing": {"kind": "whole", "num_tokens": 3}},
            DataError,
            "document 0 has 4 tokens.*set packing.kind stream",
        ),
        ({"hflip": 0.5}, ConfigError, "packing is for documents of tokens, which hflip does not go with"),
        ({"crop": {"kind": "center"}}, ConfigError, "which crop does not go with"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    tmp_path: Path, options: dict[str, object], error: type[Exception], message: str
) -> None:
    written(tmp_path / "train.bin", [1, 2, 3, 4])
    with pytest.raises(error, match=message):
        dataset(tmp_path, **options)


def test_documents_hold_one_modality_of_ids(tmp_path: Path) -> None:
    written(tmp_path / "train.bin", [1])
    config = configs.build(DatasetConfig, {"path": str(tmp_path), "packing": {"kind": "stream"}})
    with pytest.raises(ConfigError, match="but 2 modalities \\(sentence, t5\\): name the one it holds"):
        build_dataset("docs", config, ModalitySet([SENTENCE, VECTORS]))
    with pytest.raises(ConfigError, match="documents hold ids, but modality 't5' holds vectors"):
        build_dataset("docs", config, ModalitySet([VECTORS]))


def test_ids_outside_the_vocabulary_are_named(tmp_path: Path) -> None:
    written(tmp_path / "train.bin", [1, 100])
    with pytest.raises(DataError, match="document 0: ids from 1 to 100, but 'sentence' has 100 ids"):
        dataset(tmp_path).sample(0, np.random.default_rng(0))  # type: ignore[attr-defined]


def test_documents_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "docs" / "train.bin", [1])
    config = configs.build(DatasetConfig, {"path": str(tmp_path / "docs"), "packing": {"kind": "stream"}})
    check = lambda: check_tokens("docs", config, ModalitySet([SENTENCE]), {"sentence": "abc"})  # noqa: E731
    check()  # made elsewhere, they say nothing
    write_source_facts(tmp_path, "docs", {"tokenizer_hash": "xyz"})
    with pytest.raises(DataError, match="made with another tokenizer"):
        check()
    write_source_facts(tmp_path, "docs", {"tokenizer_hash": "abc"})
    check()
