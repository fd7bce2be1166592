"""A modality is a layout times a content, plus declared facts, and survives as plain values."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from fourm import catalog
from fourm.errors import ConfigError
from fourm.layouts import Continuous, Discrete, Grid, Sequence
from fourm.modality import Modality, ModalitySet, from_dict, to_dict

PIXELS = Modality(
    "rgb@8",
    Grid(2, 2, 4),
    Continuous(48),
    source="rgb",
    decode="image",
    direction="input",
    channels=3,
    value_range=(0.0, 1.0),
)
TOKENS = Modality("tok_rgb@8", Grid(2, 3, 4), Discrete(10), source="tok_rgb", decode="tokens", tokenizer="rgb@8")
TEXT = Modality("caption", Sequence(9), Discrete(50), source="caption", decode="text", tokenizer="text")


def test_a_grid_knows_its_tokens_and_pixels() -> None:
    grid = Grid(2, 3, 4)
    assert (grid.num_tokens, grid.num_positions, grid.image_size) == (6, 6, (8, 12))
    assert grid.image_size_at(16) == (16, 24)


def test_a_sequence_has_more_positions_than_tokens() -> None:
    assert (Sequence(9).num_tokens, Sequence(9).num_positions) == (9, 512)


def test_layout_and_content_answer_what_a_modality_is() -> None:
    assert (PIXELS.is_grid, PIXELS.is_discrete, PIXELS.num_tokens) == (True, False, 4)
    assert (TEXT.is_grid, TEXT.is_discrete, TEXT.num_tokens, TEXT.vocab_size) == (False, True, 9, 50)
    assert TOKENS.grid == Grid(2, 3, 4)


def test_the_key_is_the_name_without_its_resolution() -> None:
    assert (TOKENS.key, TEXT.key) == ("tok_rgb", "caption")


def test_asking_for_what_a_modality_has_not_is_an_error() -> None:
    with pytest.raises(ConfigError, match="'caption' is a sequence where a grid is needed"):
        _ = TEXT.grid
    with pytest.raises(ConfigError, match="'rgb@8' is continuous where a discrete one is needed"):
        _ = PIXELS.vocab_size


@pytest.mark.parametrize(
    ("direction", "is_input", "is_output"), [("both", True, True), ("input", True, False), ("output", False, True)]
)
def test_the_direction_says_who_may_use_it(direction: Any, is_input: bool, is_output: bool) -> None:
    modality = replace(TOKENS, direction=direction)
    assert (modality.is_input, modality.is_output) == (is_input, is_output)


def test_facts_cannot_change() -> None:
    with pytest.raises(FrozenInstanceError):
        TOKENS.name = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(PIXELS, content=Continuous(16)), "3 channels in patches of 4 x 4 pixels make 48"),
        (lambda: replace(PIXELS, name=""), "a modality is called ''"),
        (lambda: replace(PIXELS, layout=Sequence(7), channels=None, direction="both"), "can only be an input"),
        (lambda: Grid(0, 2), "each must be at least 1"),
        (lambda: Grid(2, 2, 0), "each must be at least 1"),
        (lambda: Sequence(0), "1 <= max_tokens <= num_positions"),
        (lambda: Sequence(600), "1 <= max_tokens <= num_positions"),
        (lambda: Discrete(0), "vocab_size is 0"),
        (lambda: Continuous(0), "dim of a continuous content is 0"),
    ],
)
def test_impossible_declarations_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


# ------------------------------------------------------------------ sets


def test_a_set_numbers_its_modalities_in_order() -> None:
    modalities = ModalitySet([TOKENS, PIXELS, TEXT])
    assert list(modalities) == ["tok_rgb@8", "rgb@8", "caption"]
    assert [modalities.index(name) for name in modalities] == [0, 1, 2]
    assert len(modalities) == 3
    assert "rgb@8" in modalities
    assert "depth" not in modalities


def test_a_set_tells_inputs_from_outputs() -> None:
    modalities = ModalitySet([TOKENS, PIXELS, replace(TEXT, direction="output")])
    assert [m.name for m in modalities.inputs] == ["tok_rgb@8", "rgb@8"]
    assert [m.name for m in modalities.outputs] == ["tok_rgb@8", "caption"]


def test_a_subset_has_the_order_asked_for() -> None:
    assert list(ModalitySet([TOKENS, PIXELS, TEXT]).subset(["caption", "tok_rgb@8"])) == ["caption", "tok_rgb@8"]


def test_a_name_may_not_appear_twice() -> None:
    with pytest.raises(ConfigError, match="'caption' is listed twice"):
        ModalitySet([TEXT, TEXT])


@pytest.mark.parametrize("ask", [lambda s: s["captoin"], lambda s: s.index("captoin"), lambda s: s.subset(["captoin"])])
def test_an_unknown_name_is_answered_with_the_closest(ask: Any) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'caption'"):
        ask(ModalitySet([TEXT, PIXELS]))


# ------------------------------------------------------------------ plain values


@pytest.mark.parametrize("modality", [PIXELS, TOKENS, TEXT, *catalog.MODALITIES.values()], ids=lambda m: m.name)
def test_plain_values_give_the_same_modality_again(modality: Modality) -> None:
    import json

    facts = json.loads(json.dumps(to_dict(modality)))
    assert from_dict(modality.name, facts) == modality


def test_a_base_gives_what_is_left_out() -> None:
    got = from_dict("tok_rgb@16", {"layout": {"height": 4, "width": 4}, "content": {"vocab_size": 99}}, TOKENS)
    assert got == replace(TOKENS, name="tok_rgb@16", layout=Grid(4, 4, 4), content=Discrete(99))


def test_another_kind_of_layout_replaces_that_of_the_base() -> None:
    got = from_dict("x", {"layout": {"kind": "sequence", "max_tokens": 5}}, TOKENS)
    assert got.layout == Sequence(5)


def test_the_source_is_the_key_by_default() -> None:
    facts = {"layout": {"kind": "grid", "height": 1, "width": 1}, "content": {"kind": "discrete", "vocab_size": 2}}
    assert from_dict("tok_x@8", {**facts, "decode": "tokens"}).source == "tok_x"


GRID = {"kind": "grid", "height": 1, "width": 1}
IDS = {"kind": "discrete", "vocab_size": 2}


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"content": IDS, "decode": "x"}, r"modality 'm': 'layout' is missing; write layout: \{kind: grid \| sequence"),
        ({"layout": {"height": 1}, "content": IDS, "decode": "x"}, "'layout' is missing"),
        (
            {"layout": {**GRID, "kind": "gird"}, "content": IDS, "decode": "x"},
            r"layout\.kind is 'gird'.*Did you mean 'grid'",
        ),
        (
            {"layout": {"kind": "grid", "height": 1}, "content": IDS, "decode": "x"},
            r"layout\.width is missing \(expected a whole number\) \(modality 'm'\)",
        ),
        ({"layout": {**GRID, "dept": 1}, "content": IDS, "decode": "x"}, r"layout\.dept is not a known key"),
        ({"layout": GRID, "content": IDS}, r"decode is missing \(expected text\) \(modality 'm'\)"),
        (
            {"layout": GRID, "content": IDS, "decode": "x", "sorce": "y"},
            "sorce is not a known key.*Did you mean 'source'",
        ),
        (
            {"layout": GRID, "content": {**IDS, "vocab_size": 0}, "decode": "x"},
            r"content: vocab_size is 0; expected at least 1 \(modality 'm'\)",
        ),
        (
            {"layout": GRID, "content": {**IDS, "vocab_size": "many"}, "decode": "x"},
            r"content\.vocab_size is 'many'; expected a whole number \(modality 'm'\)",
        ),
        (
            {"layout": GRID, "content": IDS, "decode": "x", "direction": "up"},
            "direction is 'up'.*Known: both, input, output",
        ),
        ({"layout": GRID, "content": IDS, "decode": "x", "positions": 3}, "positions is 3"),
    ],
)
def test_wrong_declarations_name_the_modality_and_the_field(facts: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict("m", facts)


FEATURES = {
    "layout": {"kind": "grid", "height": 2, "width": 3, "patch_size": 16},
    "content": {"kind": "continuous", "dim": 5},
    "decode": "image",
    "channels": 3,
    "teacher": "mine",
}


def test_a_teacher_makes_vectors_of_images() -> None:
    modality = from_dict("m", FEATURES)
    assert modality.grid.image_size == (32, 48)
    assert (modality.channels, modality.map_channels, modality.map_size()) == (3, 5, (2, 3))
    assert modality.map_size((64, 64)) == (4, 4)
    assert from_dict("m", to_dict(modality)) == modality


def test_a_single_vector_stays_single_whatever_the_size_of_the_image() -> None:
    layout = {"kind": "grid", "height": 1, "width": 1, "patch_size": 32}
    assert from_dict("m", {**FEATURES, "layout": layout}).map_size((64, 64)) == (1, 1)


def test_without_a_teacher_tokenizers_read_pixels() -> None:
    modality = from_dict("m", {**FEATURES, "teacher": None, "content": {"kind": "continuous", "dim": 768}})
    assert (modality.map_channels, modality.map_size(), modality.map_size((8, 8))) == (3, (32, 48), (8, 8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"content": IDS}, "makes vectors on a grid; expected layout.kind grid and content.kind continuous"),
        ({"layout": {"kind": "sequence", "max_tokens": 4}}, "makes vectors on a grid"),
        ({"channels": 1}, "reads RGB images; expected decode: image and channels: 3, found image and 1"),
        ({"decode": "gray"}, "found gray and 3"),
        ({"content": {"kind": "continuous", "dim": 3}}, "vectors of 3 numbers could not be told from the images"),
    ],
)
def test_a_teacher_needs_images_and_a_map(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict("m", {**FEATURES, **change})


@pytest.mark.parametrize("name", ["rgb.v2@64", "", "a/b", "..", "*", "a b", "caption#not"])
def test_names_that_keys_and_files_could_not_hold_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="a modality is called.*letters, digits"):
        Modality(name, Grid(1, 1), Discrete(2), source="x", decode="tokens")


def test_names_may_hold_a_resolution_and_letters_of_any_script() -> None:
    for name in ("tok_rgb@448-224", "Bild_ß", "t5+clip"):
        assert Modality(name, Grid(1, 1), Discrete(2), source="x", decode="tokens").name == name
