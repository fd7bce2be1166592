"""Attention patterns mean what their definition says, token by token: compared with three nested loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fourm.patterns import AttentionPattern

Sees = Callable[[int, int, int], bool]


def loops(batch: int, queries: int, keys: int, sees: Sees) -> Tensor:
    """(B, Q, K) bool, asked one by one."""
    mask = torch.zeros(batch, queries, keys, dtype=torch.bool)
    for b in range(batch):
        for q in range(queries):
            for k in range(keys):
                mask[b, q, k] = sees(b, q, k)
    return mask


@st.composite
def tables(draw: st.DrawFn, numbers: st.SearchStrategy[int] | None = None) -> Tensor:
    """(B, N) integers."""
    batch, length = draw(st.integers(1, 3)), draw(st.integers(0, 7))
    row = st.lists(st.integers(0, 1) if numbers is None else numbers, min_size=length, max_size=length)
    return torch.tensor([draw(row) for _ in range(batch)], dtype=torch.int64).reshape(batch, length)


def bools() -> st.SearchStrategy[Tensor]:
    return tables(st.integers(0, 1)).map(lambda t: t.bool())


def like(table: Tensor, numbers: st.SearchStrategy[int], draw: Any) -> Tensor:
    flat = draw(st.lists(numbers, min_size=table.numel(), max_size=table.numel()))
    return torch.tensor(flat, dtype=torch.int64).reshape(table.shape)


@st.composite
def patterns(draw: st.DrawFn) -> AttentionPattern:
    """Any pattern at all, with and without keys and starts of its own."""
    batch, queries, keys = draw(st.integers(1, 3)), draw(st.integers(0, 6)), draw(st.integers(0, 6))
    own = draw(st.booleans())
    keys = keys if own else queries

    def column(length: int, numbers: st.SearchStrategy[int]) -> Tensor:
        flat = draw(st.lists(numbers, min_size=batch * length, max_size=batch * length))
        return torch.tensor(flat, dtype=torch.int32).reshape(batch, length)

    return AttentionPattern(
        reach=column(queries, st.integers(0, keys + 1)),
        group=column(queries, st.integers(-1, 2)),
        key_group=column(keys, st.integers(-1, 2)) if own else None,
        start=column(queries, st.integers(0, keys)) if draw(st.booleans()) else None,
    )


@given(patterns())
def test_a_query_sees_a_key_within_its_reach_and_of_its_group(p: AttentionPattern) -> None:
    def sees(b: int, q: int, k: int) -> bool:
        start = 0 if p.start is None else int(p.start[b, q])
        group = int(p.group[b, q])
        return start <= k < int(p.reach[b, q]) and int(p.keys[b, k]) == group and group >= 0

    assert torch.equal(p.dense(), loops(*p.reach.shape, p.keys.shape[1], sees))


@given(bools())
def test_full(valid: Tensor) -> None:
    b, n = valid.shape
    expected = loops(b, n, n, lambda b, q, k: bool(valid[b, q] and valid[b, k]))
    assert torch.equal(AttentionPattern.full(valid).dense(), expected)


@given(bools())
def test_causal(valid: Tensor) -> None:
    b, n = valid.shape
    expected = loops(b, n, n, lambda b, q, k: bool(valid[b, q] and valid[b, k]) and k <= q)
    assert torch.equal(AttentionPattern.causal(valid).dense(), expected)


@given(st.data())
def test_prefix_causal(data: st.DataObject) -> None:
    valid = data.draw(bools())
    b, n = valid.shape
    prefix = torch.tensor(data.draw(st.lists(st.integers(0, n + 1), min_size=b, max_size=b)))
    expected = loops(b, n, n, lambda b, q, k: bool(valid[b, q] and valid[b, k]) and (k <= q or k < int(prefix[b])))
    assert torch.equal(AttentionPattern.prefix_causal(valid, prefix).dense(), expected)


@given(tables(st.integers(0, 3)), st.integers(0, 4))
def test_blockwise(numbers: Tensor, padding: int) -> None:
    block = torch.nn.functional.pad(numbers.sort(1).values, (0, padding), value=-1)
    b, n = block.shape
    expected = loops(b, n, n, lambda b, q, k: bool(0 <= block[b, k] <= block[b, q]))
    assert torch.equal(AttentionPattern.blockwise(block).dense(), expected)


@given(st.data())
def test_cross(data: st.DataObject) -> None:
    queries = data.draw(bools())
    b, q = queries.shape
    k = data.draw(st.integers(0, 5))
    keys = torch.tensor(data.draw(st.lists(st.booleans(), min_size=b * k, max_size=b * k)), dtype=torch.bool).reshape(
        b, k
    )
    expected = loops(b, q, k, lambda b, q, k: bool(queries[b, q] and keys[b, k]))
    assert torch.equal(AttentionPattern.cross(queries, keys).dense(), expected)


@given(st.data())
def test_separate_keeps_only_pairs_of_one_number(data: st.DataObject) -> None:
    pattern = data.draw(patterns())
    by = like(pattern.group, st.integers(0, 2), data.draw)
    key_by = like(pattern.keys, st.integers(0, 2), data.draw) if pattern.key_group is not None else None
    other = by if key_by is None else key_by
    before = pattern.dense()
    expected = before & (by[:, :, None] == other[:, None, :])
    assert torch.equal(pattern.separate(by, key_by).dense(), expected)


@given(st.data())
def test_separating_twice_keeps_pairs_that_agree_twice(data: st.DataObject) -> None:
    valid = data.draw(bools())
    documents, kinds = like(valid, st.integers(0, 2), data.draw), like(valid, st.integers(0, 32767), data.draw)
    pattern = AttentionPattern.causal(valid)
    expected = pattern.dense() & (documents[:, :, None] == documents[:, None]) & (kinds[:, :, None] == kinds[:, None])
    assert torch.equal(pattern.separate(documents).separate(kinds).dense(), expected)


@given(bools(), st.integers(1, 3), st.booleans())
def test_registers_in_front_see_and_are_seen_by_every_valid_token(valid: Tensor, count: int, causal: bool) -> None:
    pattern = AttentionPattern.causal(valid) if causal else AttentionPattern.full(valid)
    before, after = pattern.dense(), pattern.prepend(count).dense()
    assert torch.equal(after[:, count:, count:], before)
    assert after[:, :count, :count].all()
    assert torch.equal(after[:, :count, count:], valid[:, None].expand(-1, count, -1))
    assert torch.equal(after[:, count:, :count], valid[:, :, None].expand(-1, -1, count))


def test_registers_need_one_table() -> None:
    with pytest.raises(ValueError, match="one token table"):
        AttentionPattern.cross(torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)).prepend(1)


def test_separating_a_cross_pattern_needs_numbers_for_the_keys() -> None:
    pattern = AttentionPattern.cross(torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="key_by"):
        pattern.separate(torch.zeros(1, 2))


@settings(max_examples=10)
@given(patterns().filter(lambda p: p.dense().numel() > 0))
def test_flex_attention_gets_the_same_pattern(p: AttentionPattern) -> None:
    from torch.nn.attention.flex_attention import create_mask

    mask = p.block_mask()
    got = create_mask(mask.mask_mod, p.reach.shape[0], 1, p.reach.shape[1], p.keys.shape[1], device="cpu")
    assert torch.equal(got[:, 0], p.dense())


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 4)), min_size=0, max_size=5), st.integers(0, 3), st.booleans())
def test_it_reproduces_the_published_decoder_mask(runs: list[tuple[bool, int]], padding: int, separate: bool) -> None:
    """4M's rule: c is the running sum of per-token numbers, a query is blocked from keys j >= c; then by modality.

    A group that is predicted in parallel has its size at its first token and zeros after it, a sequence has ones.
    """
    numbers: list[int] = []
    modality: list[int] = []
    reach: list[int] = []
    for index, (causal, length) in enumerate(runs):
        numbers += [1] * length if causal else [length] + [0] * (length - 1)
        reach += [len(reach) + 1 + i for i in range(length)] if causal else [len(reach) + length] * length
        modality += [index] * length
    n = len(numbers) + padding
    published = torch.arange(n) < torch.tensor(numbers + [0] * padding, dtype=torch.int64).cumsum(0)[:, None]
    kinds = torch.tensor(modality + [-1] * padding)
    if separate:
        published &= kinds[:, None] == kinds
    published &= (kinds >= 0)[:, None] & (kinds >= 0)  # padding is dropped before the loss
    group = kinds if separate else torch.where(kinds >= 0, 0, -1)
    ours = AttentionPattern(
        reach=torch.tensor([reach + [0] * padding], dtype=torch.int32).reshape(1, n), group=group[None].int()
    )
    assert torch.equal(ours.dense()[0], published)
