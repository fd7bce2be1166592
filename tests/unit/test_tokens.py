"""Patterns and tables by example; `tests/property` checks them in general."""

from __future__ import annotations

import pytest
import torch

from fourm.patterns import AttentionPattern
from fourm.tokens import SpecialIds


def text(pattern: AttentionPattern) -> list[str]:
    return ["".join(".x"[int(seen)] for seen in row) for row in pattern.dense()[0]]


ONES = torch.ones(1, 4, dtype=torch.bool)


def test_full_attention_leaves_out_padding() -> None:
    assert text(AttentionPattern.full(torch.tensor([[True, True, False]]))) == ["xx.", "xx.", "..."]


def test_causal_attention() -> None:
    assert text(AttentionPattern.causal(ONES)) == ["x...", "xx..", "xxx.", "xxxx"]


@pytest.mark.parametrize("known", [0, 1, 3])
def test_tokens_behind_a_cache_attend_as_the_end_of_a_causal_string(known: int) -> None:
    assert text(AttentionPattern.causal_after(known, ONES[:, known:])) == ["x...", "xx..", "xxx.", "xxxx"][known:]


def test_prefix_causal_attention_sees_the_prefix_both_ways() -> None:
    assert text(AttentionPattern.prefix_causal(ONES, torch.tensor([3]))) == ["xxx.", "xxx.", "xxx.", "xxxx"]


def test_blocks_see_themselves_and_what_came_before() -> None:
    assert text(AttentionPattern.blockwise(torch.tensor([[0, 0, 1, 2, -1]]))) == [
        "xx...",
        "xx...",
        "xxx..",
        "xxxx.",
        ".....",
    ]


def test_separating_splits_a_pattern() -> None:
    assert text(AttentionPattern.causal(ONES).separate(torch.tensor([[0, 1, 0, 1]]))) == [
        "x...",
        ".x..",
        "x.x.",
        ".x.x",
    ]


def test_a_start_hides_what_lies_before() -> None:
    pattern = AttentionPattern(
        reach=torch.tensor([[3, 3, 3]]), group=torch.zeros(1, 3, dtype=torch.int64), start=torch.tensor([[0, 1, 2]])
    )
    assert text(pattern) == ["xxx", ".xx", "..x"]


def test_registers_stand_in_front() -> None:
    assert text(AttentionPattern.causal(ONES[:, :2]).prepend(1)) == ["xxx", "xx.", "xxx"]


def test_registers_can_be_a_block_before_all() -> None:
    assert text(AttentionPattern.causal(ONES[:, :2]).prepend(2, block=True)) == ["xx..", "xx..", "xxx.", "xxxx"]


def test_blocks_see_those_before_them_and_padding_may_lie_between() -> None:
    block = torch.tensor([[0, 0, 1, 1]])
    assert text(AttentionPattern.blockwise(block)) == ["xx..", "xx..", "xxxx", "xxxx"]
    assert text(AttentionPattern.blockwise(block, torch.tensor([[True, False, True, True]]))) == [
        "x...",
        "....",
        "x.xx",
        "x.xx",
    ]


def test_patterns_move_with_all_their_columns() -> None:
    pattern = AttentionPattern.cross(ONES, ONES).to("meta")
    assert pattern.key_group is not None
    assert {pattern.reach.device.type, pattern.group.device.type, pattern.key_group.device.type} == {"meta"}


def test_patterns_are_made_without_looking_at_values() -> None:
    valid = torch.ones(2, 3, dtype=torch.bool, device="meta")
    for pattern in (
        AttentionPattern.full(valid),
        AttentionPattern.causal(valid).separate(valid.int()),
        AttentionPattern.prefix_causal(valid, valid.sum(1)),
        AttentionPattern.blockwise(valid.long()),
        AttentionPattern.cross(valid, valid),
        AttentionPattern.full(valid).prepend(2),
    ):
        assert pattern.dense().device.type == "meta"


def test_special_ids_are_those_of_the_published_vocabulary() -> None:
    special = SpecialIds()
    assert (special.pad, special.unknown, special.start, special.end) == (0, 1, 2, 3)
    assert (special.sentinel(0), special.sentinel(1), special.sentinel(199)) == (4, 5, 203)
