"""Registries resolve names to implementations, and import them only then."""

from __future__ import annotations

import importlib.metadata
import sys

import pytest

from fourm.errors import ConfigError
from fourm.registry import Registry

REGISTRY = Registry("fruit", {"apple": "fractions:Fraction", "broken": "fractions:Nothing"})


def test_a_kind_resolves_to_what_it_names() -> None:
    from fractions import Fraction

    assert REGISTRY.resolve("apple") is Fraction


def test_nothing_is_imported_before_a_kind_is_resolved() -> None:
    sys.modules.pop("this", None)
    registry = Registry("fruit", {"zen": "this:d"})
    assert "zen" in registry
    assert "this" not in sys.modules


def test_an_unknown_kind_names_the_slot_the_place_and_the_closest_kind() -> None:
    with pytest.raises(ConfigError, match=r"fruit 'aple' is not known \(x\.yaml\)\. .*Did you mean 'apple'\?"):
        REGISTRY.resolve("aple", where="x.yaml")


def test_an_entry_without_its_attribute_says_so() -> None:
    with pytest.raises(ConfigError, match="fruit 'broken' names 'fractions:Nothing'"):
        REGISTRY.resolve("broken")


def test_it_is_a_mapping_in_alphabetical_order() -> None:
    assert list(REGISTRY) == ["apple", "broken"]
    assert len(REGISTRY) == 2
    assert "pear" not in REGISTRY


def test_third_parties_add_kinds_but_never_replace_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def entries(group: str) -> list[importlib.metadata.EntryPoint]:
        assert group == "fourm.fruit"
        return [
            importlib.metadata.EntryPoint("pear", "decimal:Decimal", group),
            importlib.metadata.EntryPoint("apple", "decimal:Decimal", group),
        ]

    monkeypatch.setattr(importlib.metadata, "entry_points", entries)
    registry = Registry("fruit", {"apple": "fractions:Fraction"})
    assert registry.resolve("pear").__name__ == "Decimal"
    assert registry.resolve("apple").__name__ == "Fraction"
