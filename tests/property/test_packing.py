"""Collating loses nothing, mixes nothing up, and says where everything is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fourm.errors import DataError
from fourm.layouts import Continuous, Discrete, Grid, Sequence
from fourm.modality import Modality, ModalitySet
from fourm.patterns import AttentionPattern
from fourm.tokens import PADDING, Example, TokenBatch, TokenRow, collate

MODALITIES = ModalitySet(
    [
        Modality("pixels", Grid(2, 2), Continuous(3), source="p", decode="image", direction="input"),
        Modality("tokens", Grid(2, 2), Discrete(9), source="t", decode="tokens"),
        Modality("vectors", Sequence(5), Continuous(2), source="v", decode="vectors", direction="input"),
        Modality("text", Sequence(5), Discrete(9), source="c", decode="text", direction="output"),
    ]
)


@st.composite
def rows(draw: st.DrawFn) -> TokenRow:
    """Any table: every modality once at most, in any order, with any facts."""
    columns: dict[str, list[int]] = {k: [] for k in ("modality", "position", "ids", "target_ids", "reach", "group")}
    values = {}
    for name in draw(st.permutations(list(MODALITIES))):
        n = draw(st.integers(0, 3))
        modality = MODALITIES[name]
        columns["modality"] += [MODALITIES.index(name)] * n
        for key, low, high in (("position", 0, 8), ("reach", 0, 12), ("group", 0, 3)):
            columns[key] += draw(st.lists(st.integers(low, high), min_size=n, max_size=n))
        ids = st.lists(st.integers(-1, 8), min_size=n, max_size=n)
        columns["ids"] += draw(ids) if modality.is_discrete else [PADDING] * n
        columns["target_ids"] += draw(ids) if modality.is_output else [PADDING] * n
        if isinstance(modality.content, Continuous) and (n or draw(st.booleans())):
            numbers = draw(
                st.lists(st.integers(0, 99), min_size=n * modality.content.dim, max_size=n * modality.content.dim)
            )
            values[name] = np.array(numbers, np.float32).reshape(n, modality.content.dim)
    return TokenRow(**{k: np.array(v, np.int64) for k, v in columns.items()}, values=values)


batches = st.lists(rows(), min_size=1, max_size=4)


@given(batches)
def test_every_row_comes_back_and_the_rest_is_padding(samples: list[TokenRow]) -> None:
    batch = collate(samples, MODALITIES)
    assert batch.modality.shape == (len(samples), max(1, *(len(row) for row in samples)))
    for i, row in enumerate(samples):
        n = len(row)
        for name in ("modality", "position", "ids", "target_ids"):
            assert getattr(batch, name)[i, :n].tolist() == getattr(row, name).tolist()
        assert batch.attention.reach[i, :n].tolist() == row.reach.tolist()
        assert batch.attention.group[i, :n].tolist() == row.group.tolist()
        assert not batch.valid[i, n:].any()
        assert (batch.ids[i, n:] == PADDING).all()
        assert (batch.target_ids[i, n:] == PADDING).all()
        assert not batch.attention.dense()[i, n:].any()
        assert not batch.attention.dense()[i, :, n:].any()


@given(batches)
def test_every_vector_is_filed_under_its_token(samples: list[TokenRow]) -> None:
    batch = collate(samples, MODALITIES)
    width = batch.modality.shape[1]
    for name in ("pixels", "vectors"):
        found = {int(r): v.tolist() for r, v in zip(batch.value_rows[name], batch.values[name])}
        expected: dict[int, list[float]] = {}
        for i, row in enumerate(samples):
            places = np.flatnonzero(row.modality == MODALITIES.index(name))
            expected |= {i * width + int(p): v.tolist() for p, v in zip(places, row.values.get(name, []))}
        assert found == expected
        assert batch.values[name].dtype == torch.float32


@given(batches)
def test_every_asked_token_is_listed_once_under_its_modality(samples: list[TokenRow]) -> None:
    batch = collate(samples, MODALITIES)
    assert list(batch.target_rows) == ["tokens", "text"]
    for name in batch.target_rows:
        asked = [
            int(t)
            for row in samples
            for m, t in zip(row.modality, row.target_ids)
            if m == MODALITIES.index(name) and t >= 0
        ]
        assert batch.targets(name).tolist() == asked
        assert batch.num_targets[name] == len(asked)


@given(batches, st.integers(0, 3))
def test_a_declared_length_gives_fixed_shapes(samples: list[TokenRow], more: int) -> None:
    longest = max(len(row) for row in samples)
    assert collate(samples, MODALITIES, longest + more).modality.shape == (len(samples), longest + more)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(0, 3))
def test_packed_documents_do_not_see_one_another(lengths: list[int], padding: int) -> None:
    """Several documents in one row: causal, separated by document, equals one causal pattern per document."""
    document = torch.tensor([i for i, n in enumerate(lengths) for _ in range(n)] + [-1] * padding)[None]
    packed = AttentionPattern.causal(document >= 0).separate(document.clamp(min=0)).dense()[0]
    expected = torch.zeros_like(packed)
    start = 0
    for n in lengths:
        expected[start : start + n, start : start + n] = AttentionPattern.causal(
            torch.ones(1, n, dtype=torch.bool)
        ).dense()
        start += n
    assert torch.equal(packed, expected)


def one_row(n: int) -> TokenRow:
    column = np.zeros(n, np.int64)
    return TokenRow(column + 1, column, column, column, column + n, column)


def test_a_sample_longer_than_declared_is_an_error() -> None:
    with pytest.raises(DataError, match="a sample has 3 tokens, but the table is declared to hold 2"):
        collate([one_row(1), one_row(3)], MODALITIES, 2)


def test_vectors_that_do_not_match_their_tokens_are_an_error() -> None:
    column = np.zeros(2, np.int64)
    row = TokenRow(column, column, column - 1, column - 1, column, column, {"pixels": np.zeros((1, 3), np.float32)})
    with pytest.raises(DataError, match="modality 'pixels': 2 tokens but 1 vectors"):
        collate([row], MODALITIES)


def test_tables_without_tokens_still_have_a_column() -> None:
    batch = collate([one_row(0), one_row(0)], MODALITIES)
    assert batch.modality.shape == (2, 1)
    assert not batch.valid.any()
    assert batch.num_targets == {"tokens": 0, "text": 0}


def test_moving_an_example_moves_everything_and_changes_nothing() -> None:
    table = collate([one_row(2)], MODALITIES)
    example = Example(encoder=None, decoder=table)
    moved = example.to("cpu", non_blocking=True)
    assert moved.encoder is None
    assert isinstance(moved.decoder, TokenBatch)
    assert torch.equal(moved.decoder.modality, table.modality)
    meta = Example(encoder=table, decoder=table).to("meta")
    assert meta.encoder is not None
    tensors = [
        meta.encoder.ids,
        meta.encoder.attention.reach,
        meta.decoder.values["pixels"],
        meta.decoder.target_rows["text"],
    ]
    assert {t.device.type for t in tensors} == {"meta"}
