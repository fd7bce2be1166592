"""Rules between state dicts: every tensor is used, filled or named."""

from __future__ import annotations

import pytest
import torch

from fourm.convert.rules import Rule, read, write
from fourm.errors import CheckpointError

RULES = [
    Rule("joined", (4, 2, 1), ("a", "b")),
    Rule("first", (2, 3), ("table",), slice(0, 2)),
    Rule("last", (1, 3), ("table",), slice(2, 3)),
    Rule("fixed", (2,), constant=torch.tensor([1.0, 2.0])),
    Rule("unread", (5,)),
]
OWN = {"a": torch.empty(2, 2), "b": torch.empty(2, 2), "table": torch.empty(3, 3)}


def published() -> dict[str, torch.Tensor]:
    return {
        "joined": torch.arange(8.0).view(4, 2, 1),
        "first": torch.ones(2, 3),
        "last": torch.full((1, 3), 2.0),
        "fixed": torch.tensor([1.0, 2.0]),
        "unread": torch.arange(5.0),
    }


def test_tensors_are_split_and_joined():
    state = read(RULES, published(), OWN).state
    assert state["a"].tolist() == [[0, 1], [2, 3]]
    assert state["b"].tolist() == [[4, 5], [6, 7]]
    assert state["table"].tolist() == [[1, 1, 1], [1, 1, 1], [2, 2, 2]]
    assert state.keys() == OWN.keys()


def test_what_is_read_is_written():
    found = read(RULES, published(), OWN, keep=True)
    assert found.kept.keys() == {"unread"}
    again = write(RULES, found.state, kept=found.kept)
    assert all(torch.equal(again[key], value) for key, value in published().items())
    assert write(RULES, found.state)["unread"].tolist() == [0] * 5


def test_a_constant_computed_elsewhere_is_kept_to_the_last_bit():
    given = published() | {"fixed": torch.tensor([1.0, 2.00001])}
    found = read(RULES, given, OWN, keep=True)
    assert torch.equal(write(RULES, found.state, kept=found.kept)["fixed"], given["fixed"])


def test_tensors_that_are_not_joined_are_not_copied():
    given = {"x": torch.ones(3, 3)}
    state = read([Rule("x", (3, 3), ("y",))], given, {"y": torch.empty(3, 3)}).state
    assert state["y"].data_ptr() == given["x"].data_ptr()


def test_rows_that_nothing_fills_are_an_error():
    rules, given = [rule for rule in RULES if rule.key != "last"], published()
    del given["last"]
    with pytest.raises(CheckpointError, match="empty: table"):
        read(rules, given, OWN)
    assert read(rules, given, OWN, spare=["table"]).state["table"][2].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stray": torch.zeros(1)}, "none missing; without a place: stray"),
        ({"first": None}, "missing: first; none without a place"),
        ({"first": torch.zeros(3, 3)}, r"first has shape \(3, 3\); its config asks for \(2, 3\)"),
        ({"fixed": torch.tensor([1.0, 3.0])}, "fixed should be the constant"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    given = {key: value for key, value in (published() | changes).items() if value is not None}
    with pytest.raises(CheckpointError, match=message):
        read(RULES, given, OWN)


def test_long_lists_are_cut():
    given = published() | {f"stray{n}": torch.zeros(1) for n in range(30)}
    with pytest.raises(CheckpointError, match="and 22 more"):
        read(RULES, given, OWN)
