"""Rows of packed documents: what must hold for any documents, lengths of rows, added tokens, seeds and epochs."""

from __future__ import annotations

import tempfile
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fourm.data.documents import DocumentWriter
from fourm.data.loader import Loader, evaluate_batches
from fourm.data.mixture import Mixture
from fourm.data.packing import PackedDocuments
from fourm.data.packing_configs import StreamConfig, WholeConfig
from fourm.layouts import Discrete, Sequence
from fourm.modality import Modality, ModalitySet
from fourm.objectives.autoregressive import Autoregressive
from fourm.objectives.configs import AutoregressiveConfig
from fourm.tokens import Document

BOS, EOS = 1000, 1001
MODALITY = Modality("sentence", Sequence(64), Discrete(1002), source="sentence", decode="tokens")
FILES = st.lists(st.lists(st.integers(0, 9), max_size=12), min_size=1, max_size=4).filter(lambda f: any(map(any, f)))
"""Lengths of the documents of each file."""
SETTINGS = st.fixed_dictionaries(
    {
        "num_tokens": st.integers(11, 17),
        "bos": st.sampled_from([None, BOS]),
        "eos": st.sampled_from([None, EOS]),
        "separate": st.booleans(),
        "shuffle": st.booleans(),
    }
)
CONFIGS = st.one_of(SETTINGS.map(lambda s: StreamConfig(**s)), SETTINGS.map(lambda s: WholeConfig(**s, open_rows=3)))


def written(files: list[list[int]], root: Path) -> list[list[list[int]]]:
    """Documents of these lengths, every token of which is unlike all others but for a few."""
    documents, start = [], 0
    for number, lengths in enumerate(files):
        documents.append([])
        with DocumentWriter(root / f"part-{number}.bin") as writer:
            for length in lengths:
                ids = [(start + i) % 1000 for i in range(length)]
                start += length
                writer.write(ids)
                documents[-1].append(ids)
    return documents


def documents_of(dataset: PackedDocuments) -> list[list[list[int]]]:
    """Row -> its documents, as they are given to the objective."""
    rng = np.random.default_rng(0)
    return [[[int(i) for s in d for i in s.value] for d in dataset.sample(n, rng)] for n in range(len(dataset))]


def rows_of(dataset: PackedDocuments) -> list[list[int]]:
    """The tokens of every row, without the first of the next one."""
    return [[i for ids in row for i in ids][: dataset.config.num_tokens] for row in documents_of(dataset)]


def dressed(ids: list[int], config: StreamConfig) -> list[int]:
    return [*([BOS] if config.bos else []), *ids, *([EOS] if config.eos else [])]


@settings(max_examples=30)
@given(FILES, CONFIGS, st.integers(0, 2**40), st.integers(0, 3))
def test_every_token_of_every_document_comes_exactly_once_per_epoch(
    files: list[list[int]], config: StreamConfig, seed: int, epoch: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        documents = written(files, Path(folder))
        rows = rows_of(PackedDocuments("docs", folder, MODALITY, config).at_epoch(seed, epoch))
    expected = Counter(token for file in documents for ids in file for token in dressed(ids, config))
    assert Counter(i for row in rows for i in row) == expected
    assert all(0 < len(row) <= config.num_tokens for row in rows)


@settings(max_examples=30)
@given(FILES, SETTINGS, st.integers(0, 2**40), st.integers(0, 3))
def test_a_stream_is_its_documents_in_a_row_cut_anywhere(
    files: list[list[int]], options: dict[str, Any], seed: int, epoch: int
) -> None:
    config = StreamConfig(**{**options, "separate": False})
    with tempfile.TemporaryDirectory() as folder:
        documents = written(files, Path(folder))
        dataset = PackedDocuments("docs", folder, MODALITY, config).at_epoch(seed, epoch)
        rows = documents_of(dataset)
    starts = np.cumsum([0, *dataset.shard_sizes])
    for number, file in enumerate(documents):
        own = [ids for row in rows[starts[number] : starts[number + 1]] for ids in row]
        # Only the last row may be shorter; the others end with the first token of the next, which is asked there.
        assert all(len(ids) == config.num_tokens + 1 for ids in own[:-1])
        assert all(ids[-1] == following[0] for ids, following in pairwise(own))
        stream = [token for ids in own for token in ids[: config.num_tokens]]
        left = Counter(tuple(dressed(ids, config)) for ids in file if dressed(ids, config))
        if not config.shuffle:
            assert stream == [token for ids in file for token in dressed(ids, config)]
        at = 0
        while at < len(stream):  # documents differ in their tokens: take away the longest that it begins with
            begins = [d for d in left if left[d] and stream[at : at + len(d)] == list(d)]
            found = max(begins, key=len)
            left[found] -= 1
            at += len(found)
        assert not any(left.values())


@settings(max_examples=30)
@given(FILES, SETTINGS, st.integers(0, 2**40), st.integers(0, 3))
def test_whole_documents_are_not_cut(files: list[list[int]], options: dict[str, Any], seed: int, epoch: int) -> None:
    config = WholeConfig(**{**options, "separate": True}, open_rows=3)
    with tempfile.TemporaryDirectory() as folder:
        documents = written(files, Path(folder))
        packed = PackedDocuments("docs", folder, MODALITY, config).at_epoch(seed, epoch)
        rows = documents_of(packed)
        joined = PackedDocuments("docs", folder, MODALITY, WholeConfig(**{**options, "separate": False}, open_rows=3))
        joint = documents_of(joined.at_epoch(seed, epoch))
    whole = [tuple(dressed(ids, config)) for file in documents for ids in file]
    assert Counter(tuple(ids) for row in rows for ids in row) == Counter(filter(None, whole))
    assert joint == [[[i for ids in row for i in ids]] for row in rows]  # the same rows, which see all of themselves
    assert all(sum(map(len, row)) <= config.num_tokens for row in rows)


@settings(max_examples=30)
@given(FILES, SETTINGS, st.integers(0, 2**40))
def test_added_tokens_stand_at_the_ends_of_documents_alone(
    files: list[list[int]], options: dict[str, Any], seed: int
) -> None:
    config = StreamConfig(**{**options, "separate": True})
    with tempfile.TemporaryDirectory() as folder:
        documents = written(files, Path(folder))
        packed = PackedDocuments("docs", folder, MODALITY, config).at_epoch(seed, 0)
        rows = documents_of(packed)
    count = sum(len(file) for file in documents)
    tokens = Counter(i for row in rows for i in [i for ids in row for i in ids][: config.num_tokens])
    assert tokens[BOS] == (count if config.bos else 0)
    assert tokens[EOS] == (count if config.eos else 0)
    for row in rows:
        for n, ids in enumerate(row):
            assert BOS not in ids[1:]
            assert EOS not in ids[:-1]
            if n > 0 and config.bos:  # the first of a row may be a part
                assert ids[0] == BOS
            if n < len(row) - 1 and config.eos:
                assert ids[-1] == EOS


def batches(dataset: Any, count: int, **options: Any) -> tuple[list[Any], Any]:
    found = list(islice(Loader(Mixture({"docs": dataset}), _ids, list, **options), count))
    return [batch for batch, _ in found], found[-1][1]


@settings(max_examples=30)
@given(FILES, CONFIGS, st.integers(0, 2**40), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_batches_go_on_exactly_and_ranks_share_them(
    files: list[list[int]], config: StreamConfig, seed: int, before: int, size: int, ranks: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        written(files, Path(folder))
        dataset = PackedDocuments("docs", folder, MODALITY, config)
        whole, _ = batches(dataset, before + 2, batch_size=size * ranks, seed=seed)
        first, cursor = batches(dataset, before, batch_size=size * ranks, seed=seed)
        # Another process opens the files anew.
        again = PackedDocuments("docs", folder, MODALITY, config)
        rest, _ = batches(again, 2, batch_size=size * ranks, seed=seed, start=cursor)
        parts = [batches(again, before, batch_size=size, seed=seed, rank=r, world_size=ranks)[0] for r in range(ranks)]
    assert [*first, *rest] == whole
    assert [[row for part in step for row in part] for step in zip(*parts, strict=True)] == first


def test_epochs_differ_and_evaluation_does_not() -> None:
    with tempfile.TemporaryDirectory() as folder:
        written([[5] * 40], Path(folder))
        dataset = PackedDocuments("docs", folder, MODALITY, StreamConfig(num_tokens=16))
        first, second = (documents_of(dataset.at_epoch(3, epoch)) for epoch in (0, 1))
        evaluated = [list(evaluate_batches(dataset, _ids, list, batch_size=4, seed=3)) for _ in range(2)]
    assert first != second
    assert evaluated[0] == evaluated[1]
    assert [row for batch in evaluated[0] for row in batch] == first


@pytest.mark.slow
def test_any_number_of_loader_processes_gives_the_same_batches() -> None:
    with tempfile.TemporaryDirectory() as folder:
        written([[7] * 30, [5, 9] * 10], Path(folder))
        dataset = PackedDocuments("docs", folder, MODALITY, StreamConfig(num_tokens=16, bos=BOS, eos=EOS))
        alone = list(islice(Loader(Mixture({"docs": dataset}), _ids, list, batch_size=3, seed=1), 20))
        shared = list(islice(Loader(Mixture({"docs": dataset}), _ids, list, batch_size=3, seed=1, num_workers=2), 20))
    assert alone == shared


def _ids(sample: list[Document], rng: np.random.Generator) -> list[list[int]]:
    return [segment.value.tolist() for document in sample for segment in document]


@settings(max_examples=30)
@given(FILES, CONFIGS, st.integers(0, 2**40))
def test_the_objective_reads_every_token_of_a_stream_once_and_documents_do_not_see_one_another(
    files: list[list[int]], config: StreamConfig, seed: int
) -> None:
    objective = Autoregressive(AutoregressiveConfig(max_tokens=config.num_tokens), ModalitySet([MODALITY]))
    with tempfile.TemporaryDirectory() as folder:
        written(files, Path(folder))
        packed = PackedDocuments("docs", folder, MODALITY, config).at_epoch(seed, 0)
        rows = documents_of(packed)
        rng = np.random.default_rng(0)
        batch = objective.collate([objective.prepare(packed.sample(n, rng), rng) for n in range(len(packed))]).decoder
    assert batch.attention is not None
    seen = batch.attention.dense()
    for n, row in enumerate(rows):
        read = [token for ids in row for token in ids[:-1]]
        number = torch.tensor([d for d, ids in enumerate(row) for _ in ids[:-1]], dtype=torch.int64)
        count = len(read)
        assert batch.ids[n, :count].tolist() == read
        assert batch.target_ids[n, :count].tolist() == [token for ids in row for token in ids[1:]]
        expected = (number[:, None] == number).tril() if config.separate else torch.ones(count, count).tril().bool()
        assert torch.equal(seen[n, :count, :count], expected)
        assert not seen[n, count:].any()
        if not config.separate and type(config) is StreamConfig:  # all tokens of a file but its last are read
            is_last = n + 1 in np.cumsum(packed.shard_sizes)
            assert count == (len(row[0]) - 1 if is_last else config.num_tokens)
