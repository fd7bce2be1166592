"""The model: what it sees decides what it answers, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fourm.errors import ConfigError, DataError
from fourm.modality import ModalitySet
from fourm.models.multimodal import Multimodal
from fourm.models.tables import CodeTable
from fourm.nn.init import initialise
from fourm.nn.trunk import KVCache

Make = Callable[..., Multimodal]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


GIVEN = {
    "rgb@8": {"values": noise(2, 3, 8, 8), "positions": torch.tensor([[0, 5, 9], [2, -1, -1]])},
    "tok_depth@8": {"ids": torch.tensor([[3, 7], [1, 2]]), "positions": torch.tensor([[1, 2], [15, 0]])},
    "caption": {"ids": torch.tensor([[50, 5, 60], [70, -1, -1]])},
    "vectors": {"values": noise(2, 5, 7), "valid": torch.tensor([[True] * 3 + [False] * 2, [False] * 5])},
}
ASKED = {
    "tok_depth@8": {"positions": torch.tensor([[4, 3, 8], [7, 6, -1]])},
    "caption": {"ids": torch.tensor([[5, 80, 90, 6], [5, 81, 6, -1]])},
    "codes": {"positions": torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]])},
}


def answers(model: Multimodal, given: Any = GIVEN, asked: Any = ASKED) -> dict[str, Tensor]:
    with torch.no_grad():
        return model.logits(given, asked)


def change(facts: Any, name: str, key: str, where: tuple[int, ...], value: float) -> Any:
    tensor = facts[name][key].clone()
    tensor[where] = value
    return {**facts, name: {**facts[name], key: tensor}}


def test_logits_have_one_row_per_asked_place_and_one_column_per_id(make: Make) -> None:
    shapes = {name: tuple(logits.shape) for name, logits in answers(make()).items()}
    assert shapes == {"tok_depth@8": (2, 3, 11), "caption": (2, 3, 300), "codes": (2, 4, 6)}


def test_samples_of_a_batch_do_not_mix(make: Make) -> None:
    model = make()
    one = {name: {k: t[1:] for k, t in facts.items()} for name, facts in GIVEN.items()}
    asked = {name: {k: t[1:] for k, t in facts.items()} for name, facts in ASKED.items()}
    alone, together = answers(model, one, asked), answers(model)
    for name, logits in alone.items():
        torch.testing.assert_close(logits, together[name][1:], atol=1e-5, rtol=1e-5)


def test_the_order_of_what_is_given_does_not_matter(make: Make) -> None:
    model = make()
    turned = {
        name: {k: t.flip(1) if k in ("ids", "positions") and name != "caption" else t for k, t in f.items()}
        for name, f in reversed(GIVEN.items())
    }
    for name, logits in answers(model, turned).items():
        torch.testing.assert_close(logits, answers(model)[name], atol=1e-5, rtol=1e-5)


def test_asked_modalities_do_not_see_one_another(make: Make) -> None:
    model = make()
    alone = answers(model, asked={"caption": ASKED["caption"]})["caption"]
    torch.testing.assert_close(answers(model)["caption"], alone, atol=1e-5, rtol=1e-5)


def test_a_sequence_is_answered_causally(make: Make) -> None:
    model = make()
    before, after = answers(model), answers(model, asked=change(ASKED, "caption", "ids", (0, 1), 222))
    torch.testing.assert_close(before["caption"][0, :1], after["caption"][0, :1])
    assert (before["caption"][0, 1:] - after["caption"][0, 1:]).abs().amax(-1).min() > 1e-6


def test_places_of_a_grid_are_answered_in_parallel_and_see_one_another(make: Make) -> None:
    model = make()
    before, after = answers(model), answers(model, asked=change(ASKED, "tok_depth@8", "positions", (0, 2), 9))
    assert (before["tok_depth@8"][0, :2] - after["tok_depth@8"][0, :2]).abs().max() > 1e-6


@pytest.mark.parametrize(
    ("name", "key", "where"),
    [
        ("rgb@8", "values", (0, 1, 0, 0)),
        ("tok_depth@8", "ids", (0, 0)),
        ("caption", "ids", (0, 2)),
        ("vectors", "values", (0, 2, 3)),
        ("tok_depth@8", "positions", (0, 0)),
    ],
)
def test_everything_given_is_seen(make: Make, name: str, key: str, where: tuple[int, ...]) -> None:
    model = make()
    before, after = answers(model), answers(model, change(GIVEN, name, key, where, 4))
    assert (before["codes"][0] - after["codes"][0]).abs().max() > 1e-6
    torch.testing.assert_close(before["codes"][1], after["codes"][1])


@pytest.mark.parametrize(
    ("name", "key", "where", "value"),
    [
        ("rgb@8", "values", (0, 0, 7, 7), 9.0),  # a patch whose place is not listed
        ("vectors", "values", (0, 3), float("nan")),  # padding
        ("vectors", "values", (1, 0), float("inf")),
    ],
)
def test_nothing_else_is_seen(make: Make, name: str, key: str, where: tuple[int, ...], value: float) -> None:
    model = make()
    for modality, logits in answers(model, change(GIVEN, name, key, where, value)).items():
        assert torch.equal(logits, answers(model)[modality])


def test_padding_a_grid_by_id_or_by_place_is_the_same(make: Make) -> None:
    model = make()
    by_id = change(GIVEN, "tok_depth@8", "ids", (0, 1), -1)
    by_place = change(GIVEN, "tok_depth@8", "positions", (0, 1), -1)
    short = {"tok_depth@8": {k: t[:1, :1] for k, t in GIVEN["tok_depth@8"].items()}}
    asked = {"codes": {"positions": ASKED["codes"]["positions"][:1]}}
    expected = answers(model, short, asked)["codes"]
    for given in (by_id, by_place):
        one = {"tok_depth@8": {k: t[:1] for k, t in given["tok_depth@8"].items()}}
        torch.testing.assert_close(answers(model, one, asked)["codes"], expected, atol=1e-5, rtol=1e-5)


def test_nothing_given_is_an_answer_too(make: Make) -> None:
    logits = answers(make(), {})
    assert all(torch.isfinite(t).all() for t in logits.values())
    torch.testing.assert_close(logits["codes"][0], logits["codes"][1].flip(0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ["math", "sdpa", "flex"])
@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_backends_agree(make: Make, backend: Any) -> None:
    for given in (GIVEN, {}):
        expected = answers(make(), given)
        for name, logits in answers(make(backend=backend), given).items():
            torch.testing.assert_close(logits, expected[name], atol=1e-5, rtol=1e-5)


def test_decoding_token_by_token_equals_decoding_at_once(make: Make) -> None:
    from fourm.models.ask import ask, given_table

    model = make()
    asked = {"caption": {"ids": torch.tensor([[5, 80, 90, 91, 6], [5, 81, 82, 83, 6]])}}
    table, _ = ask(asked, model.modalities)
    cache = KVCache(2)
    with torch.no_grad():
        context = model.encode(given_table(GIVEN, model.modalities, 2, torch.device("cpu")))
        at_once = model.decode(table, context)
        parts = []
        for i in range(4):
            now = replace(
                table,
                modality=table.modality[:, i : i + 1],
                position=table.position[:, i : i + 1],
                ids=table.ids[:, i : i + 1],
                attention=None,
            )
            parts.append(model.decode(now, context, cache=cache))
    torch.testing.assert_close(torch.cat(parts, 1), at_once, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------ an ordered context


def hidden_of(model: Multimodal, given: Any) -> Tensor:
    from fourm.models.ask import given_table

    with torch.no_grad():
        return model.encode(
            given_table(given, model.modalities, 2, torch.device("cpu"), ordered=model.is_ordered)
        ).hidden


@pytest.mark.parametrize("registers", [0, 3])
def test_an_ordered_context_stays_while_more_is_given(make: Make, registers: int) -> None:
    model = make(context="ordered", num_register_tokens=registers)
    whole, names = hidden_of(model, GIVEN), list(GIVEN)
    lengths = [registers + 3, registers + 5, registers + 8, registers + 13]
    for count, length in enumerate(lengths, 1):
        part = hidden_of(model, {name: GIVEN[name] for name in names[:count]})
        torch.testing.assert_close(part, whole[:, :length], atol=1e-5, rtol=1e-5)
    changed = hidden_of(model, change(GIVEN, "caption", "ids", (0, 0), 77))
    differs = (changed - whole)[0].abs().amax(-1) > 1e-6
    assert differs[: registers + 11].tolist() == [False] * (registers + 5) + [True] * 6  # padding follows


def test_blocks_of_a_modality_are_read_one_after_the_other(make: Make) -> None:
    model = make(context="ordered")
    grid = {"ids": torch.tensor([[1, 2, 3]] * 2), "positions": torch.tensor([[0, 4, 9]] * 2)}
    blocks = {"tok_depth@8": {**grid, "blocks": torch.tensor([[0, 0, 1], [0, 1, 1]])}}
    before, after = hidden_of(model, blocks), hidden_of(model, change(blocks, "tok_depth@8", "ids", (0, 2), 8))
    assert (before - after)[0].abs().amax(-1).gt(1e-6).tolist() == [False, False, True]
    assert (hidden_of(model, {"tok_depth@8": grid}) - before)[0].abs().max() > 1e-6
    plain = make()
    assert torch.equal(hidden_of(plain, blocks), hidden_of(plain, {"tok_depth@8": grid}))


@pytest.mark.parametrize("blocks", [[[0, 1, 0]] * 2, [[-1, 0, 0]] * 2])
def test_blocks_that_fall_are_refused(make: Make, blocks: list[list[int]]) -> None:
    grid = {"ids": torch.tensor([[1, 2, 3]] * 2), "positions": torch.tensor([[0, 4, 9]] * 2)}
    with pytest.raises(DataError, match="'tok_depth@8': blocks fall along a row, or below 0"):
        hidden_of(make(context="ordered"), {"tok_depth@8": {**grid, "blocks": torch.tensor(blocks)}})


# ------------------------------------------------------------------ wrong input


@pytest.mark.parametrize(
    ("given", "asked", "message"),
    [
        ({}, {}, "nothing is asked"),
        (
            {},
            {"rgb@8": {"positions": torch.zeros(1, 1).long()}},
            "'rgb@8' is an input of this model; it cannot be asked",
        ),
        ({}, {"captoin": {}}, "Did you mean 'caption'"),
        ({}, {"caption": {}}, "'caption' needs 'ids'; given: nothing"),
        ({}, {"codes": {"ids": torch.zeros(1, 1).long()}}, "'codes' needs 'positions'; given: ids"),
        ({}, {"caption": {"ids": torch.tensor([[5, 300]])}}, "'caption': ids 300 is out of range; expected 0 to 299"),
        ({}, {"codes": {"positions": torch.tensor([[4]])}}, "'codes': positions 4 is out of range; expected 0 to 3"),
        ({}, {"codes": {"positions": torch.tensor([[-2]])}}, "'codes': positions -2 is out of range"),
        (
            {},
            {"codes": {"positions": torch.tensor([0])}},
            r"'codes': positions has shape \(1,\); expected \(any, any\)",
        ),
        ({}, {"codes": {"positions": torch.tensor([[0.5]])}}, "positions are torch.float32; expected integers"),
        (
            {},
            {"codes": {"positions": torch.zeros(2, 1).long()}, "caption": {"ids": torch.zeros(3, 1).long()}},
            r"'caption': ids has shape \(3, 1\); expected \(2, any\)",
        ),
    ],
)
def test_wrong_questions_are_explained(make: Make, given: Any, asked: Any, message: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=message):
        make().logits(given, asked)


ONE = {"codes": {"positions": torch.zeros(1, 1).long()}}


def ints(*rows: int | list[int]) -> Tensor:
    return torch.tensor(rows)


@pytest.mark.parametrize(
    ("name", "facts", "message"),
    [
        ("rgb@8", {"positions": ints([0])}, "'rgb@8' needs 'values'; given: positions"),
        (
            "rgb@8",
            {"positions": ints([0]), "values": noise(1, 3, 9, 8)},
            r"values has shape \(1, 3, 9, 8\); expected \(1, 3, 8, 8\)",
        ),
        (
            "rgb@8",
            {"positions": ints([0], [0]), "values": noise(2, 3, 8, 8)},
            r"positions has shape \(2, 1\); expected \(1, any\)",
        ),
        ("tok_depth@8", {"ids": ints([11]), "positions": ints([0])}, "ids 11 is out of range; expected 0 to 10"),
        (
            "tok_depth@8",
            {"ids": ints([1]), "positions": ints([0, 1])},
            r"positions has shape \(1, 2\); expected \(1, 1\)",
        ),
        (
            "vectors",
            {"values": noise(1, 5, 6), "valid": torch.ones(1, 5)},
            r"values has shape \(1, 5, 6\); expected \(1, any, 7\)",
        ),
        (
            "vectors",
            {"values": noise(1, 5, 7), "valid": torch.ones(1, 4)},
            r"valid has shape \(1, 4\); expected \(1, 5\)",
        ),
        ("caption", {"ids": torch.full((1, 513), 9)}, "position 512 is out of range; expected 0 to 511"),
    ],
)
def test_wrong_givens_are_explained(make: Make, name: str, facts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make().logits({name: facts}, ONE)


def test_whole_numbers_are_no_normalised_pixels(make: Make) -> None:
    pixels = {"positions": ints([0]), "values": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}
    with pytest.raises(ValueError, match="values are torch.uint8; expected floating-point numbers, normalised"):
        make().logits({"rgb@8": pixels}, ONE)


def test_numbers_of_any_precision_are_read_in_that_of_the_weights(make: Make) -> None:
    half = {key: GIVEN[key] | {"values": GIVEN[key]["values"].half()} for key in ("rgb@8", "vectors")}
    double = {key: facts | {"values": facts["values"].double()} for key, facts in half.items()}
    single = {key: facts | {"values": facts["values"].float()} for key, facts in half.items()}

    expected = answers(make(), single)["codes"]

    assert torch.equal(answers(make(), half)["codes"], expected)
    assert torch.equal(answers(make(), double)["codes"], expected)
    assert answers(make().double(), single)["codes"].dtype == torch.float64


def test_an_output_cannot_be_given(make: Make, modalities: ModalitySet) -> None:
    chosen = ModalitySet(replace(m, direction="output") if m.name == "codes" else m for m in modalities.values())
    with pytest.raises(ValueError, match="'codes' is an output of this model; it cannot be given"):
        make(chosen).logits({"codes": {"ids": torch.tensor([[1]]), "positions": torch.tensor([[0]])}}, ONE)


@pytest.mark.parametrize("keep", [["rgb@8", "vectors"], []])
def test_a_model_needs_something_to_read_and_something_to_predict(
    make: Make, modalities: ModalitySet, keep: list[str]
) -> None:
    with pytest.raises(ConfigError, match="at least one input and one output"):
        make(modalities.subset(keep) if keep else ModalitySet([]))


# ------------------------------------------------------------------ options


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("names", [["rgb@8", "codes"], ["rgb@8", "caption"], ["vectors", "tok_depth@8"], ["codes"]])
def test_any_mix_of_modalities_makes_a_model(make: Make, modalities: ModalitySet, names: list[str], tie: bool) -> None:
    model = make(modalities.subset(names), tie_heads=tie)
    given = {name: GIVEN[name] for name in names if name in GIVEN}
    asked = {name: ASKED[name] for name in names if name in ASKED}
    assert all(torch.isfinite(t).all() for t in answers(model, given, asked).values())


def test_tied_heads_share_their_weights_with_the_embeddings(make: Make) -> None:
    model = make(tie_heads=True)
    assert model.target_embedder.table is model.heads
    assert not any(name.startswith("target_embedder.table") for name, _ in model.named_parameters())
    untied = make(tie_heads=False)
    assert untied.target_embedder.table is not untied.heads
    # Without the tie only sequences have rows: grids are asked with the mask token.
    assert list(untied.target_embedder.table.map.rows) == ["caption", "facts"]


def test_shared_modality_embeddings_are_one_table(make: Make) -> None:
    shared, apart = make(share_modality_embeddings=True), make()
    assert shared.input_embedder.modality_embedding is shared.target_embedder.modality_embedding
    assert apart.input_embedder.modality_embedding is not apart.target_embedder.modality_embedding
    extra = sum(p.numel() for p in apart.parameters()) - sum(p.numel() for p in shared.parameters())
    assert extra == 6 * 16


def test_registers_are_part_of_the_context(make: Make) -> None:
    model = make(num_register_tokens=3)
    assert model.registers is not None
    before = answers(model)
    with torch.no_grad():
        model.registers[:, 0] += 1
    assert (before["codes"] - answers(model)["codes"]).abs().max() > 1e-6
    # Also where nothing else is given.
    before = answers(model, {})
    with torch.no_grad():
        model.registers[:, 0] += 1
    assert (before["codes"] - answers(model, {})["codes"]).abs().max() > 1e-6


def test_learned_positions_are_parameters_and_fixed_ones_are_not(make: Make) -> None:
    model = make()
    assert model.input_embedder.positions.learned is not None
    assert model.input_embedder.positions.learned.shape == (4, 16)  # `codes`
    assert not any("fixed" in name or "start" in name for name in model.state_dict())


def test_decoder_positions_beyond_the_limit_fall_back_to_the_first(make: Make, modalities: ModalitySet) -> None:
    limited = replace(modalities["caption"].layout, num_target_positions=2)  # type: ignore[type-var]
    chosen = ModalitySet(replace(m, layout=limited) if m.name == "caption" else m for m in modalities.values())
    table = make(chosen).target_embedder.positions
    index = torch.full((1, 4), chosen.index("caption"))
    got = table(index, torch.tensor([[0, 1, 2, 3]]))
    assert torch.equal(got[0, 2], got[0, 0])
    assert torch.equal(got[0, 3], got[0, 0])
    assert not torch.equal(got[0, 1], got[0, 0])
    unlimited = make(chosen).input_embedder.positions(index, torch.tensor([[0, 1, 2, 3]]))
    assert len(unlimited[0].unique(dim=0)) == 4


# ------------------------------------------------------------------ weights


def test_weights_are_a_function_of_the_seed(make: Make) -> None:
    torch.manual_seed(1)
    first = make().state_dict()
    torch.manual_seed(2)
    second, other = make().state_dict(), make(seed=1).state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not torch.equal(first["heads.weight"], other["heads.weight"])


def test_a_model_made_on_the_meta_device_gets_the_same_weights(make: Make) -> None:
    with torch.device("meta"):
        late = make(num_register_tokens=2)
    late.to_empty(device="cpu")
    initialise(late, 0)
    ready = make(num_register_tokens=2)
    assert all(torch.equal(a, b) for a, b in zip(late.state_dict().values(), ready.state_dict().values(), strict=True))
    for name, logits in answers(late.eval()).items():
        assert torch.equal(logits, answers(ready)[name])


def test_embeddings_start_with_the_deviation_asked_for(make: Make) -> None:
    assert make(embedding_std=0.4).input_embedder.table.weight.std().item() == pytest.approx(0.4, rel=0.05)
    assert make(embedding_std=0.02).input_embedder.table.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_codebooks_give_near_codes_near_embeddings(make: Make) -> None:
    model = make()
    before = model.heads.rows("tok_depth@8").std().item(), model.heads.rows("codes").clone()
    codebook = noise(11, 5)
    codebook[3] = codebook[8]
    model.fill_from_codebooks({"tok_depth@8": codebook}, seed=0)
    for table in (model.input_embedder.table, model.heads):
        rows = table.rows("tok_depth@8")
        assert torch.equal(rows[3], rows[8])
        assert not torch.equal(rows[3], rows[4])
    assert model.heads.rows("tok_depth@8").std().item() == pytest.approx(before[0], rel=1e-4)
    assert torch.equal(model.heads.rows("codes"), before[1])


# ------------------------------------------------------------------ a decoder alone


def test_a_decoder_alone_has_no_parts_of_an_encoder(make: Make, modalities: ModalitySet) -> None:
    model = make(encoder_depth=0, tie_heads=False)
    parts = {name.partition(".")[0] for name in model.state_dict()}
    assert parts == {"heads", "input_embedder", "decoder"}
    assert not [name for name in model.state_dict() if "cross_attn" in name]
    tied = make(encoder_depth=0, chosen=modalities.subset(["tok_depth@8", "caption"]))
    assert tied.input_embedder.table is tied.heads
    plain = make(encoder_depth=0, tie_heads=False, position_tables=False, modality_embeddings=False)
    names = {name for name in plain.state_dict() if not name.startswith("decoder.")}
    assert names == {
        "heads.weight", "input_embedder.table.weight", "input_embedder.projections.rgb@8.weight",
        "input_embedder.projections.vectors.weight", "input_embedder.projections.vectors.bias",
    }  # fmt: skip


def test_a_decoder_alone_cannot_tie_heads_to_what_it_only_reads(make: Make, modalities: ModalitySet) -> None:
    shown = ModalitySet(replace(m, direction="input") if m.name == "codes" else m for m in modalities.values())
    with pytest.raises(ConfigError, match="codes has none, being an input alone: set model.tie_heads to false"):
        make(shown, encoder_depth=0)


def test_a_decoder_alone_says_that_it_cannot_encode(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"has no encoder \(encoder_depth 0\)"):
        make(encoder_depth=0, tie_heads=False).logits(GIVEN, ASKED)


@pytest.mark.parametrize("option", [{"num_register_tokens": 1}, {"context": "ordered"}])
def test_a_decoder_alone_has_no_options_of_an_encoder(make: Make, option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="with encoder_depth 0 there is none"):
        make(encoder_depth=0, **option)


def test_tied_heads_and_seeds_decide_the_weights_of_a_decoder_alone(make: Make, modalities: ModalitySet) -> None:
    chosen = modalities.subset(["tok_depth@8", "caption"])
    one, same, other = (make(chosen, seed, encoder_depth=0) for seed in (0, 0, 1))
    for name, value in one.state_dict().items():
        assert torch.equal(value, same.state_dict()[name])
    assert not torch.equal(one.heads.weight, other.heads.weight)


def test_linear_layers_and_heads_start_with_the_deviation_asked_for(make: Make, modalities: ModalitySet) -> None:
    """LLaMA's draw all of them from one normal distribution, heads and embeddings that are not tied included."""
    chosen = modalities.subset(["caption"])
    sizes: dict[str, Any] = {"dim": 64, "encoder_depth": 0, "tie_heads": False, "embedding_std": 0.02}
    model = make(chosen, init_std=0.02, head_std=0.02, **sizes)
    found = {name: p.std().item() for name, p in model.named_parameters() if p.ndim > 1}
    assert {"heads.weight", "input_embedder.table.weight", "decoder.blocks.0.attn.qkv.weight"} <= found.keys()
    assert list(found.values()) == pytest.approx([0.02] * len(found), rel=0.15)
    plain = make(chosen, **sizes).heads.weight
    assert plain.abs().max().item() == pytest.approx((6 / (64 + 300)) ** 0.5, rel=0.01)


# ------------------------------------------------------------------ frozen codes

CODED: dict[str, Any] = {"encoder_depth": 0, "tie_heads": False, "code_dim": 5}


def codebooks(modalities: ModalitySet) -> dict[str, Tensor]:
    return {m.name: noise(m.vocab_size, 5, seed=n) for n, m in enumerate(modalities.values())}


def test_ids_may_be_embedded_by_frozen_codes_and_one_matrix(make: Make, modalities: ModalitySet) -> None:
    chosen = modalities.subset(["tok_depth@8", "caption"])
    model, codes = make(chosen, **CODED), codebooks(chosen)
    table = model.input_embedder.table
    assert isinstance(table, CodeTable)
    model.set_codes(codes)
    trained = {name for name, p in model.input_embedder.table.named_parameters() if p.requires_grad}
    assert trained == {"projection"}
    ids = torch.tensor([[3, 7]])
    found = table(torch.tensor([[0, 1]]), ids)
    expected = torch.stack([codes["tok_depth@8"][3], codes["caption"][7]]) @ table.projection.T
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(table.folded()[3], expected[0])


def test_codes_have_to_be_those_of_the_vocabulary(make: Make, modalities: ModalitySet) -> None:
    chosen = modalities.subset(["tok_depth@8", "caption"])
    model, codes = make(chosen, **CODED), codebooks(chosen)
    with pytest.raises(ConfigError, match=r"'caption' by codes of shape \(300, 5\); found no tokenizer"):
        model.set_codes({"tok_depth@8": codes["tok_depth@8"]})
    with pytest.raises(ConfigError, match=r"found \(9, 5\)"):
        model.set_codes({**codes, "caption": codes["caption"][:9]})


@pytest.mark.parametrize("options", [{"encoder_depth": 1}, {"tie_heads": True}, {"codebook_init": True}])
def test_frozen_codes_go_with_a_decoder_alone(make: Make, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="code_dim embeds ids by frozen codes"):
        make(**{**CODED, **options})
