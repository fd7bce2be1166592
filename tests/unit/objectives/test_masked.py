"""Masking of whole samples: what is shown, what is asked, and what the model is scored on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from fourm import config as configs
from fourm.errors import ConfigError, DataError
from fourm.modality import ModalitySet
from fourm.models.ask import given_table
from fourm.models.configs import MultimodalConfig
from fourm.models.multimodal import Multimodal
from fourm.objectives.configs import OBJECTIVES, MaskComponent, MaskedConfig
from fourm.objectives.masked import Masked
from fourm.objectives.spans import leading_chunks, unmask_spans
from fourm.rng import generator
from fourm.tokens import SpecialIds, TokenRow

Sample = dict[str, Any]
SPECIAL = SpecialIds()


def masked(
    modalities: ModalitySet, num_inputs: int = 16, num_targets: int = 16, component: Any = None, **options: Any
) -> Masked:
    components = [component] if component is not None else [MaskComponent()]
    config = MaskedConfig(num_inputs, num_targets, **{"components": components, **options})
    return Masked(config, modalities)


def items(objective: Masked, sample: Sample, count: int = 100) -> Iterator[tuple[TokenRow, TokenRow]]:
    return (objective.prepare(sample, generator(0, "masks", n)) for n in range(count))


def of(objective: Masked, row: TokenRow, name: str) -> np.ndarray:
    """Where a modality's tokens are in a table."""
    return row.modality == objective.modalities.index(name)


# ------------------------------------------------------------------ randomness


def test_another_generator_gives_another_mask(modalities: ModalitySet, sample: Sample) -> None:
    a, b = items(masked(modalities), sample, 2)
    assert a[0].position.tolist() != b[0].position.tolist()


# ------------------------------------------------------------------ an ordered context


def ordered(modalities: ModalitySet, num_inputs: int = 30) -> tuple[Masked, Masked]:
    """The same objective for a full and for an ordered context."""
    config = MaskedConfig(num_inputs, 16, components=[MaskComponent(input_alphas={"*": 2.0})])
    return Masked(config, modalities), Masked(config, modalities, ordered=True)


def test_an_ordered_context_shows_and_asks_the_same_tokens(modalities: ModalitySet, sample: Sample) -> None:
    full, blocks = ordered(modalities)
    for (one, asked), (other, also) in zip(items(full, sample), items(blocks, sample), strict=True):
        for name in modalities:
            here, there = of(full, one, name), of(full, other, name)
            for column in ("position", "ids", "target_ids", "group"):
                assert np.array_equal(getattr(one, column)[here], getattr(other, column)[there])
        assert all(np.array_equal(one.values[name], other.values[name]) for name in one.values)
        assert np.array_equal(asked.target_ids, also.target_ids)
        assert np.array_equal(asked.reach, also.reach)


def test_tokens_see_their_own_block_and_those_before_it(modalities: ModalitySet, sample: Sample) -> None:
    _, objective = ordered(modalities)
    for row, _asked in items(objective, sample):
        places = np.arange(len(row))
        assert (row.reach > places).all()
        assert (np.diff(row.reach) >= 0).all()
        assert row.reach[-1] == len(row)
        for name in modalities:
            place = np.flatnonzero(of(objective, row, name))
            assert (np.diff(place) == 1).all()
            if len(place):  # a modality begins and ends with a block
                assert place[0] in {0, *row.reach}
                assert place[-1] + 1 in row.reach
                assert name == "depth" or len(set(row.reach[place])) == 1


def test_every_modality_comes_first_and_last_and_grids_in_few_and_many_blocks(
    modalities: ModalitySet, sample: Sample
) -> None:
    _, objective = ordered(modalities, 60)
    rows = [row for row, _ in items(objective, sample, 300)]
    assert {row.modality[0] for row in rows} == {row.modality[-1] for row in rows} == {0, 1, 2, 3, 4}
    depth = [row.reach[of(objective, row, "depth")] for row in rows]
    counts = [len(set(reach)) for reach in depth if len(reach) == 16]
    assert min(counts) == 1
    assert max(counts) == 16
    # P(n blocks of L tokens) = log((n + 1) / n) / log(L + 1)
    assert np.mean(np.array(counts) == 1) == pytest.approx(np.log(2) / np.log(17), abs=0.1)
    assert np.mean(np.array(counts) > 8) == pytest.approx(np.log(17 / 9) / np.log(17), abs=0.1)


def test_what_is_only_read_is_one_block(modalities: ModalitySet, sample: Sample) -> None:
    objective = Masked(
        MaskedConfig(16, 16, components=[MaskComponent(input_alphas={"rgb": 1})]), modalities, ordered=True
    )
    assert all((row.reach == 16).all() for row, _ in items(objective, sample, 20))


def test_training_shows_what_generation_will_show(modalities: ModalitySet, sample: Sample) -> None:
    """The same hidden states as from what is given in the same order and blocks."""
    _, objective = ordered(modalities)
    config = MultimodalConfig(16, 2, 1, 2, embedding_std=0.4, num_register_tokens=2, context="ordered")
    model = Multimodal(modalities, config).eval()
    names = list(modalities)
    for item in items(objective, sample, 5):
        row, batch = item[0], objective.collate([item]).encoder
        assert batch is not None
        given: dict[str, dict[str, torch.Tensor]] = {}
        for index in dict.fromkeys(row.modality.tolist()):
            name, here = names[index], row.modality == index
            facts = {"positions": row.position[here], "ids": row.ids[here], "blocks": row.reach[here]}
            given[name] = {key: torch.from_numpy(value.astype(np.int64))[None] for key, value in facts.items()}
            if name == "rgb":
                given[name]["values"] = torch.from_numpy(sample["rgb"])[None]
            if name == "vectors":
                given[name] = {
                    "values": torch.from_numpy(row.values[name])[None],
                    "valid": torch.ones(1, int(here.sum()), dtype=torch.bool),
                }
        with torch.no_grad():
            table = given_table(given, modalities, 1, torch.device("cpu"), ordered=True)
            torch.testing.assert_close(model.encode(batch).hidden, model.encode(table).hidden, atol=1e-5, rtol=1e-5)


def test_an_ordered_model_learns(modalities: ModalitySet, sample: Sample) -> None:
    _, objective = ordered(modalities)
    config = MultimodalConfig(16, 1, 1, 2, embedding_std=0.4, num_register_tokens=1, context="ordered")
    model = Multimodal(modalities, config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for step in range(40):
        batch = objective.collate([objective.prepare(sample, generator(step, n)) for n in range(4)])
        loss = objective.loss(model, batch).scalar(objective.counts(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_nothing_shown_is_fine_in_blocks_too(modalities: ModalitySet, sample: Sample) -> None:
    component = MaskComponent(num_input_tokens=0)
    objective = Masked(MaskedConfig(16, 16, components=[component]), modalities, ordered=True)
    assert [len(row) for row, _ in items(objective, sample, 3)] == [0, 0, 0]


# ------------------------------------------------------------------ budgets


@pytest.mark.parametrize("alpha", [1e-9, 0.1, 1.0, 10.0])
def test_budgets_hold(modalities: ModalitySet, sample: Sample, alpha: float) -> None:
    objective = masked(modalities, 12, 10, MaskComponent(input_alphas={"*": alpha}, target_alphas={"*": alpha}))
    for inputs, targets in items(objective, sample):
        assert len(inputs) <= 12
        assert len(targets) <= 10


def test_grids_alone_use_their_budgets_up(modalities: ModalitySet, sample: Sample) -> None:
    grids = MaskComponent(input_alphas={"rgb": 1, "depth": 1}, target_alphas={"depth": 1})
    for inputs, targets in items(masked(modalities, 12, 4, grids), sample):
        assert len(inputs) == 12
        assert len(targets) == min(4, 16 - of(masked(modalities), inputs, "depth").sum())


def test_smaller_budgets_are_drawn_down_to_the_smallest(modalities: ModalitySet, sample: Sample) -> None:
    objective = masked(
        modalities, 6, 4, MaskComponent(input_alphas={"rgb": 1}, target_alphas={"depth": 1}),
        min_input_tokens=3, min_target_tokens=0,
    )  # fmt: skip
    lengths = {(len(a), len(b)) for a, b in items(objective, sample, 300)}
    assert lengths == {(a, b) for a in range(3, 7) for b in range(5)}


def test_a_component_may_have_budgets_of_its_own(modalities: ModalitySet, sample: Sample) -> None:
    small = MaskComponent(input_alphas={"rgb": 1}, target_alphas={"depth": 1}, num_input_tokens=2, num_target_tokens=3)
    objective = masked(modalities, 16, 16, small, min_input_tokens=4)
    assert {(len(a), len(b)) for a, b in items(objective, sample, 20)} == {(2, 3)}


def test_a_component_may_show_nothing(modalities: ModalitySet, sample: Sample) -> None:
    for inputs, targets in items(masked(modalities, component=MaskComponent(num_input_tokens=0)), sample, 20):
        assert len(inputs) == 0
        assert len(targets) > 0


def test_alphas_decide_what_is_shown_and_asked(modalities: ModalitySet, sample: Sample) -> None:
    objective = masked(
        modalities,
        component=MaskComponent(input_alphas={"rgb": 1000, "*": 0}, target_alphas={"depth": 0.5, "codes": 0.5}),
    )
    for inputs, targets in items(objective, sample):
        assert set(inputs.modality) == {0}
        assert set(targets.modality) <= {1, 5}


def test_inputs_are_never_asked_and_outputs_never_shown(modalities: ModalitySet, sample: Sample) -> None:
    objective = masked(modalities, 40, 40)
    shown, asked = set(), set()
    for inputs, targets in items(objective, sample):
        shown |= {objective.names[i] for i in inputs.modality}
        asked |= {objective.names[i] for i in targets.modality}
    assert shown == {"rgb", "depth", "caption", "facts", "vectors"}
    assert asked == {"depth", "caption", "facts", "codes"}


def test_components_are_drawn_by_weight(modalities: ModalitySet, sample: Sample) -> None:
    components = [
        MaskComponent(weight=3, input_alphas={"rgb": 1}),
        MaskComponent(weight=0, input_alphas={"facts": 1}),
        MaskComponent(weight=1, input_alphas={"depth": 1}),
    ]
    objective = masked(modalities, components=components)
    only = [int(inputs.modality[0]) for inputs, _ in items(objective, sample, 800)]
    assert set(only) == {0, 1}
    assert abs(only.count(0) - 600) < 5 * (800 * 3 / 16) ** 0.5


def test_a_minimum_holds(modalities: ModalitySet, sample: Sample) -> None:
    component = MaskComponent(input_alphas={"rgb": 1, "depth": 1}, min_tokens={"depth": 5})
    objective = masked(modalities, component=component)
    assert min(of(objective, inputs, "depth").sum() for inputs, _ in items(objective, sample)) == 5


def test_lost_tokens_are_handed_on_when_asked_for(modalities: ModalitySet, sample: Sample) -> None:
    component = MaskComponent(input_alphas={"rgb": 1, "depth": 1000}, target_alphas={"codes": 1000, "depth": 1})
    lost = masked(modalities, 24, 8, component)
    kept = masked(modalities, 24, 8, component, redistribute=True)
    assert all(len(inputs) < 20 for inputs, _ in items(lost, sample, 20))
    for inputs, targets in items(kept, sample, 20):
        assert len(inputs) == 24
        # Depth is almost all shown: beside the four codes nothing else can be asked.
        assert len(targets) == 4


def test_no_budget_is_handed_to_a_sequence_beyond_its_content(modalities: ModalitySet, sample: Sample) -> None:
    component = MaskComponent(input_alphas={"caption": 1000, "vectors": 1000, "rgb": 1}, keep={"*": "all"})
    short = {**sample, "caption": np.array([300]), "vectors": np.ones((1, 7))}
    objective = masked(modalities, 20, 8, component, redistribute=True)
    for inputs, _ in items(objective, short, 20):
        assert of(objective, inputs, "rgb").sum() >= 20 - 4 - 1


# ------------------------------------------------------------------ grids


def test_a_place_of_a_grid_is_shown_or_asked_but_never_both(modalities: ModalitySet, sample: Sample) -> None:
    objective = masked(
        modalities, 16, 16, MaskComponent(input_alphas={"depth": 1, "rgb": 1}, target_alphas={"depth": 1})
    )
    for inputs, targets in items(objective, sample):
        shown = inputs.position[of(objective, inputs, "depth")]
        asked = targets.position[of(objective, targets, "depth")]
        assert not set(shown) & set(asked)
        assert len({*shown, *asked}) == len(shown) + len(asked)


def test_a_grid_token_carries_its_id_and_place(modalities: ModalitySet, sample: Sample) -> None:
    objective = masked(
        modalities, component=MaskComponent(input_alphas={"depth": 1}, target_alphas={"depth": 1}), num_inputs=6
    )
    ids = sample["depth"].reshape(-1)
    inputs, targets = next(items(objective, sample))
    assert inputs.ids.tolist() == ids[inputs.position].tolist()
    assert (inputs.target_ids == -1).all()
    assert targets.target_ids.tolist() == ids[targets.position].tolist()
    assert (targets.ids == -1).all()


def test_all_places_of_a_grid_are_equally_likely(modalities: ModalitySet, sample: Sample) -> None:
    objective = masked(modalities, 4, 4, MaskComponent(input_alphas={"rgb": 1}, target_alphas={"depth": 1}))
    counts = np.zeros((2, 16))
    for pair in items(objective, sample, 800):
        for i, row in enumerate(pair):
            np.add.at(counts[i], row.position, 1)
    assert np.abs(counts - 200).max() < 5 * (800 * 3 / 16) ** 0.5


def test_pixels_are_shown_as_patches_of_their_place(modalities: ModalitySet, sample: Sample) -> None:
    objective = masked(modalities, 5, 4, MaskComponent(input_alphas={"rgb": 1}))
    inputs, _ = next(items(objective, sample))
    for patch, place in zip(inputs.values["rgb"], inputs.position, strict=True):
        y, x = divmod(int(place), 4)
        block = sample["rgb"][:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        assert np.array_equal(patch, block.transpose(1, 2, 0).reshape(-1))
    assert (inputs.ids == -1).all()


# ------------------------------------------------------------------ sequences


def text_only(name: str, **options: Any) -> MaskComponent:
    return MaskComponent(input_alphas={name: 1}, target_alphas={name: 1}, **options)


def test_a_sequence_can_be_put_together_from_what_is_shown_and_asked(modalities: ModalitySet, sample: Sample) -> None:
    objective = masked(modalities, 12, 40, text_only("caption"))
    complete = 0
    for inputs, targets in items(objective, sample):
        assert inputs.position.tolist() == list(range(len(inputs)))
        assert targets.position.tolist() == list(range(len(targets)))
        # Not cut to the 12 tokens a target of this modality may have: it begins with the first sentinel.
        if len(targets) < 11 and targets.ids[:1].tolist() in ([], [5]):
            target = np.append(targets.ids, targets.target_ids[-1:]) if len(targets) else np.array([5])
            whole = unmask_spans(inputs.ids, target, SPECIAL)
            assert whole.tolist() == [*sample["caption"].tolist(), 3]
            complete += 1
    assert complete > 50


def test_targets_of_a_sequence_are_shifted_by_one(modalities: ModalitySet, sample: Sample) -> None:
    for _, targets in items(masked(modalities, 12, 40, text_only("caption")), sample):
        assert targets.ids[1:].tolist() == targets.target_ids[:-1].tolist()
        if len(targets):
            assert 5 <= targets.ids[0] < 204
            assert targets.reach.tolist() == list(range(1, len(targets) + 1))


def test_a_sequence_that_is_not_shown_is_asked_whole(modalities: ModalitySet, sample: Sample) -> None:
    component = MaskComponent(input_alphas={"rgb": 1}, target_alphas={"caption": 1})
    short = {**sample, "caption": np.array([300, 301])}
    _, targets = next(items(masked(modalities, component=component), short))
    assert targets.ids.tolist() == [5, 300, 301, 3]
    assert targets.target_ids.tolist() == [300, 301, 3, 6]


def test_a_sequence_shown_whole_asks_nothing(modalities: ModalitySet, sample: Sample) -> None:
    objective = masked(modalities, 12, 12, text_only("caption", keep={"caption": "all"}))
    for inputs, targets in items(objective, sample, 10):
        assert inputs.ids.tolist() == [*sample["caption"].tolist(), 3]
        assert len(targets) == 0


def test_long_sequences_are_cut_and_lose_their_end(modalities: ModalitySet, sample: Sample) -> None:
    long = {**sample, "caption": 300 + np.arange(50)}
    objective = masked(modalities, 12, 12, text_only("caption", keep={"*": "all"}))
    inputs, _ = next(items(objective, long))
    assert inputs.ids.tolist() == list(range(300, 312))
    inputs, _ = next(
        items(masked(modalities, 12, 12, text_only("caption", keep={"*": "all"}), max_tokens={"caption": 4}), long)
    )
    assert inputs.ids.tolist() == list(range(300, 304))


def test_a_limit_above_the_modality_has_no_effect(modalities: ModalitySet) -> None:
    assert masked(modalities, max_tokens={"caption": 999, "rgb": 3}).capacity.tolist() == [3, 16, 12, 9, 5, 4]
    assert masked(modalities, max_tokens={"*": 6, "rgb": 3}).capacity.tolist() == [3, 6, 6, 6, 5, 4]


def test_an_empty_sequence_is_its_end(modalities: ModalitySet, sample: Sample) -> None:
    component = MaskComponent(input_alphas={"rgb": 1}, target_alphas={"caption": 1, "facts": 1})
    empty = {**sample, "caption": np.zeros(0, np.int64), "facts": []}
    for _, targets in items(masked(modalities, component=component), empty, 20):
        assert set(targets.target_ids) == {3, 6}


@pytest.mark.parametrize("keep", ["random", "all", "binary"])
def test_chunks_are_shown_or_hidden_whole(modalities: ModalitySet, sample: Sample, keep: Any) -> None:
    objective = masked(modalities, 7, 40, text_only("facts", keep={"facts": keep}))
    for inputs, targets in items(objective, sample):
        shown, asked = set(inputs.ids), set(targets.ids) | set(targets.target_ids)
        for number in (1, 2, 3):
            chunk = {400 + number, 500 + number}
            assert chunk <= shown or not chunk & shown
            assert not (chunk & shown and chunk & asked)


def test_chunks_that_do_not_fit_are_left_out_with_all_that_follow() -> None:
    chunks = [np.zeros(n) for n in (2, 3, 1, 1)]
    assert [len(leading_chunks(chunks, limit)) for limit in (0, 1, 2, 4, 5, 6, 7, 99)] == [0, 0, 1, 1, 2, 3, 4, 4]


def test_hidden_vectors_leave_one_zero_for_each_run(modalities: ModalitySet, sample: Sample) -> None:
    component = MaskComponent(input_alphas={"vectors": 1}, target_alphas={"depth": 1})
    vectors = sample["vectors"]
    seen = set()
    for inputs, _ in items(masked(modalities, 5, 5, component), sample, 200):
        values = inputs.values["vectors"]
        assert inputs.position.tolist() == list(range(len(values)))
        kept = [int(np.flatnonzero((vectors == v).all(1))[0]) if v.any() else None for v in values]
        expected: list[int | None] = []
        for i in range(5):
            if i in kept:
                expected.append(i)
            elif not expected or expected[-1] is not None:
                expected.append(None)
        assert kept == expected
        seen.add(tuple(kept))
    assert len(seen) > 10


@pytest.mark.parametrize("keep", [{"vectors": "all"}, {"*": "all"}])
def test_keep_applies_to_vectors_by_name_and_by_star(modalities: ModalitySet, sample: Sample, keep: Any) -> None:
    component = MaskComponent(input_alphas={"vectors": 1}, target_alphas={"depth": 1}, keep=keep)
    for inputs, _ in items(masked(modalities, 5, 5, component), sample, 10):
        assert np.array_equal(inputs.values["vectors"], sample["vectors"].astype(np.float32))


# ------------------------------------------------------------------ attention of the asked


def test_asked_modalities_are_separate_by_default(modalities: ModalitySet, sample: Sample) -> None:
    for _, targets in items(masked(modalities), sample, 20):
        assert targets.group.tolist() == targets.modality.tolist()


def test_together_they_see_what_came_before_in_changing_order(modalities: ModalitySet, sample: Sample) -> None:
    component = MaskComponent(input_alphas={"rgb": 1}, target_alphas={"depth": 10, "codes": 10})
    orders = set()
    for _, targets in items(masked(modalities, 16, 8, component, separate=False), sample, 40):
        assert (targets.group == 0).all()
        assert (np.diff(targets.reach) >= 0).all()
        assert targets.reach[-1] == len(targets)
        orders.add(tuple(dict.fromkeys(targets.modality.tolist())))
    assert orders == {(1, 5), (5, 1)}


# ------------------------------------------------------------------ missing modalities


@pytest.mark.parametrize("missing", [["rgb"], ["depth", "facts"], ["rgb", "vectors", "caption"]])
def test_missing_modalities_are_neither_shown_nor_asked(
    modalities: ModalitySet, sample: Sample, missing: list[str]
) -> None:
    objective = masked(modalities, 20, 20)
    less = {name: value for name, value in sample.items() if name not in missing}
    for inputs, targets in items(objective, less):
        names = {objective.names[i] for i in [*inputs.modality, *targets.modality]}
        assert not names & set(missing)
        assert len(inputs) > 0
        assert len(targets) > 0


def test_places_without_a_label_are_neither_shown_nor_asked(modalities: ModalitySet, sample: Sample) -> None:
    alphas = {"depth": 1.0}
    objective = masked(modalities, 8, 8, MaskComponent(input_alphas=alphas, target_alphas=alphas))
    labels = sample["depth"].copy()
    labels[1:3] = -1
    places = list(range(4)) + list(range(12, 16))
    for (inputs, targets), (all_inputs, all_targets) in zip(
        items(objective, {"depth": labels}), items(objective, sample), strict=True
    ):
        # The others are those that would have been drawn anyway.
        for row, whole, ids in ((inputs, all_inputs, inputs.ids), (targets, all_targets, targets.target_ids)):
            assert row.position.tolist() == [place for place in whole.position if place in places]
            assert ids.tolist() == labels.flat[row.position].tolist()


@pytest.mark.parametrize("left", [{}, {"rgb"}, {"codes"}])
def test_little_or_nothing_left_gives_empty_tables(modalities: ModalitySet, sample: Sample, left: set[str]) -> None:
    inputs, targets = next(items(masked(modalities), {name: sample[name] for name in left}))
    assert (len(inputs) > 0) == ("rgb" in left)
    assert (len(targets) > 0) == ("codes" in left)


def test_what_the_recipe_does_not_name_is_ignored(modalities: ModalitySet, sample: Sample) -> None:
    a = next(items(masked(modalities), sample))
    b = next(items(masked(modalities), {**sample, "sound": np.zeros(3)}))
    assert a[0].position.tolist() == b[0].position.tolist()


# ------------------------------------------------------------------ damaged samples


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("depth", np.zeros(15, np.int64), "modality 'depth': a sample has 15 tokens; expected 16"),
        ("depth", np.full(16, 50), "modality 'depth': token 50 is outside its vocabulary of 50.*another tokenizer"),
        ("depth", np.full(16, -2), "modality 'depth': token -2 is outside its vocabulary of 50"),
        (
            "rgb",
            np.zeros((3, 8, 6), np.float32),
            r"modality 'rgb': an image has shape \(3, 8, 6\); expected \(3, 8, 8\)",
        ),
        ("caption", np.array([300, 600]), "modality 'caption': token 600 is outside its vocabulary of 600"),
        ("caption", np.array([-5]), "modality 'caption': token -5 is outside its vocabulary of 600"),
        ("facts", [np.array([1]), np.array([700])], "modality 'facts': token 700 is outside its vocabulary"),
        ("vectors", np.zeros((5, 8)), r"modality 'vectors': a sample has shape \(5, 8\); expected \(length, 7\)"),
    ],
)
def test_samples_that_do_not_fit_name_the_modality(
    modalities: ModalitySet, sample: Sample, name: str, value: Any, message: str
) -> None:
    alphas = {"rgb": 1e-3, name: 1000.0}
    objective = masked(modalities, component=MaskComponent(input_alphas=alphas))
    with pytest.raises(DataError, match=message):
        next(items(objective, {**sample, name: value}))


# ------------------------------------------------------------------ wrong configs


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_input_tokens": 0}, "num_input_tokens is 0; expected 1 or more"),
        ({"min_target_tokens": 200}, "min_target_tokens is 200; expected 0 or more and at most 128"),
        ({"components": []}, "at least one needs a weight above 0"),
        ({"components": [{"weight": 0}]}, "at least one needs a weight above 0"),
        ({"components": [{"weight": -1}]}, r"components\[0\]: weight is -1.0"),
        ({"components": [{"input_alphas": {"rgb": -1}}]}, r"components\[0\]: input_alphas.rgb is -1.0"),
        (
            {"components": [{"keep": {"caption": "some"}}]},
            r"components\[0\]\.keep\.caption is 'some'.*random, all|all, binary",
        ),
        ({"components": [{"num_target_tokens": 0}]}, "num_target_tokens is 0; expected 1 or more"),
        ({"max_tokens": {"rgb": 0}}, "max_tokens.rgb is 0; expected 1 or more"),
        ({"modality_weights": {"rgb": -1}}, "modality_weights.rgb is -1.0"),
        ({"reduction": "mean"}, "reduction is 'mean'. Known: mod, modality, token"),
        ({"component": []}, "Did you mean 'components'"),
    ],
)
def test_values_that_make_no_sense_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configs.build(MaskedConfig, values)


def test_the_published_name_of_the_loss_by_modality_is_known(modalities: ModalitySet, sample: Sample) -> None:
    def reduction(name: str) -> str:
        objective = Masked(configs.build(MaskedConfig, {"reduction": name}), modalities)
        model = Multimodal(modalities, MultimodalConfig(dim=16, encoder_depth=1, decoder_depth=1, num_heads=2))
        return objective.loss(model, batch(objective, sample, 2)).reduction

    assert reduction("mod") == reduction("modality") == "modality"
    assert reduction("token") == "token"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_tokens": {"captoin": 1}}, "objective.max_tokens: 'captoin' is not a modality.*Did you mean 'caption'"),
        ({"modality_weights": {"captoin": 1}}, "objective.modality_weights: 'captoin'"),
        (
            {"components": [{}, {"input_alphas": {"captoin": 1}}]},
            r"objective\.components\[1\]\.input_alphas: 'captoin'",
        ),
        ({"components": [{"target_alphas": {"captoin": 1}}]}, r"components\[0\]\.target_alphas: 'captoin'"),
        ({"components": [{"keep": {"captoin": "all"}}]}, r"components\[0\]\.keep: 'captoin'"),
        ({"components": [{"min_tokens": {"captoin": 1}}]}, r"components\[0\]\.min_tokens: 'captoin'"),
        ({"components": [{"target_alphas": {"rgb": 1}}]}, "no output modality has an alpha above 0"),
        ({"components": [{"min_tokens": {"codes": 1}}]}, "min_tokens can never hold: codes has no input alpha above 0"),
        ({"components": [{"min_tokens": {"rgb": 90, "depth": 90}}]}, "can never hold: the input budget is 128"),
    ],
)
def test_names_and_alphas_are_checked_against_the_modalities(
    modalities: ModalitySet, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Masked(configs.build(MaskedConfig, values), modalities)


@pytest.mark.parametrize("kind", list(OBJECTIVES))
def test_every_kind_resolves_to_its_config(kind: str) -> None:
    assert hasattr(OBJECTIVES.resolve(kind), "target")


# ------------------------------------------------------------------ the loss


SMALL = MultimodalConfig(
    dim=16, encoder_depth=1, decoder_depth=1, num_heads=2, num_register_tokens=1, embedding_std=0.4
)


def batch(objective: Masked, sample: Sample, count: int = 4) -> Any:
    return objective.collate(list(items(objective, sample, count)))


def test_the_loss_is_the_cross_entropy_of_every_asked_token(modalities: ModalitySet, sample: Sample) -> None:
    objective = masked(modalities)
    model = Multimodal(modalities, SMALL).eval()
    example = batch(objective, sample)
    loss = objective.loss(model, example)
    assert tuple(loss.parts) == objective.parts == ("depth", "caption", "facts", "codes")
    counts = objective.counts(example)
    by_hand = dict.fromkeys(objective.parts, 0.0)
    with torch.no_grad():
        hidden = model.decode(example.decoder, model.encode(example.encoder))
    for b, n in (example.decoder.target_ids >= 0).nonzero().tolist():
        name = objective.names[example.decoder.modality[b, n]]
        logits = model.heads.logits(name, hidden[b, n])
        by_hand[name] -= torch.log_softmax(logits, -1)[example.decoder.target_ids[b, n]].item()
    for name, (total, count) in loss.parts.items():
        assert total.item() == pytest.approx(by_hand[name], rel=1e-4)
        assert (
            count
            == counts[name]
            == (example.decoder.target_ids[example.decoder.modality == objective.names.index(name)] >= 0).sum()
        )
    expected = sum(by_hand.values()) / sum(counts.values())
    assert loss.scalar(counts).item() == pytest.approx(expected, rel=1e-4)


def test_asking_the_model_by_hand_gives_the_same_logits(modalities: ModalitySet, sample: Sample) -> None:
    """What training computes is what `model.logits` answers."""
    objective = masked(modalities, 24, 24)
    model = Multimodal(modalities, SMALL).eval()
    for inputs, targets in items(objective, sample, 8):
        example = objective.collate([(inputs, targets)])
        given: dict[str, Any] = {}
        asked: dict[str, Any] = {}
        for i, m in enumerate(modalities.values()):
            rows, cells = inputs.modality == i, targets.modality == i
            position = torch.from_numpy(inputs.position[rows])[None]
            if rows.any() and m.is_discrete:
                given[m.name] = {"ids": torch.from_numpy(inputs.ids[rows])[None], "positions": position}
            elif rows.any() and m.is_grid:
                given[m.name] = {"values": torch.from_numpy(sample["rgb"])[None], "positions": position}
            elif rows.any():
                values = torch.from_numpy(inputs.values[m.name])[None].float()
                given[m.name] = {"values": values, "valid": torch.ones(values.shape[:2])}
            if cells.any() and m.is_grid:
                asked[m.name] = {"positions": torch.from_numpy(targets.position[cells])[None]}
            elif cells.any():
                ids = np.append(targets.ids[cells], targets.target_ids[cells][-1])
                asked[m.name] = {"ids": torch.from_numpy(ids)[None]}
        with torch.no_grad():
            trained, answered = model(example), model.logits(given, asked)
        for name, logits in answered.items():
            torch.testing.assert_close(trained[name], logits[0], atol=1e-5, rtol=1e-5)


def test_tokens_are_counted_by_budget_as_the_published_schedules_do(modalities: ModalitySet, sample: Sample) -> None:
    objective = masked(modalities, 20, 12, MaskComponent(input_alphas={"codes": 1, "vectors": 1}), min_input_tokens=1)
    assert objective.num_tokens(batch(objective, sample, 3)) == 3 * 32


def test_tokens_count_by_the_largest_budgets_of_any_component(modalities: ModalitySet, sample: Sample) -> None:
    components = [
        {"num_input_tokens": 20},
        {"num_target_tokens": 4},
        {"num_input_tokens": 12, "num_target_tokens": 12},
        {"weight": 0, "num_input_tokens": 500},
    ]
    objective = Masked(
        configs.build(MaskedConfig, {"num_input_tokens": 10, "num_target_tokens": 6, "components": components}),
        modalities,
    )

    assert objective.num_tokens(batch(objective, sample, 3)) == 3 * (20 + 12)


# ------------------------------------------------------------------ data that fits the mixture


def mixture(modalities: ModalitySet, *components: dict[str, Any]) -> Masked:
    return Masked(configs.build(MaskedConfig, {"components": list(components)}), modalities)


def test_data_sets_that_each_lack_something_are_accepted(modalities: ModalitySet) -> None:
    objective = mixture(
        modalities, {"input_alphas": {"rgb": 1}, "target_alphas": {"depth": 1}}, {"target_alphas": {"caption": 1}}
    )
    objective.check_data({"photos": ["rgb", "depth"], "texts": ["caption"]}, {"held out": ["depth"]})


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_data_set_of_which_nothing_is_ever_asked_is_refused(modalities: ModalitySet, split: str) -> None:
    objective = mixture(modalities, {"target_alphas": {"depth": 1, "caption": 0}}, {"weight": 0})
    data = {"train": {"good": ["depth"]}, "val": {}}
    data[split] = {**data[split], "bad": ["rgb", "caption"]}

    with pytest.raises(ConfigError, match=rf"data\.{split}\.datasets\.bad.*rgb, caption.*target alpha.*: depth"):
        objective.check_data(data["train"], data["val"])


@pytest.mark.parametrize(
    ("component", "message"),
    [
        ({"target_alphas": {"caption": 1}}, r"components\[1\]\.target_alphas.*no training data set has caption"),
        ({"input_alphas": {"vectors": 1, "caption": 1}}, r"components\[1\]\.input_alphas.*has caption or vectors"),
    ],
)
def test_a_component_that_no_data_set_serves_is_refused(
    modalities: ModalitySet, component: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        mixture(modalities, {}, component).check_data({"a": ["rgb", "depth"], "b": ["codes"]}, {})
    mixture(modalities, {}, {**component, "weight": 0}).check_data({"a": ["rgb", "depth"]}, {})


def test_a_component_may_be_meant_to_show_nothing(modalities: ModalitySet) -> None:
    for component in ({"input_alphas": {}}, {"num_input_tokens": 0, "input_alphas": {"caption": 1}}):
        mixture(modalities, component).check_data({"a": ["depth"]}, {})


def test_a_vocabulary_has_to_hold_the_special_tokens(modalities: ModalitySet) -> None:
    Masked(MaskedConfig(), modalities, SpecialIds(num_sentinels=500))
    with pytest.raises(ConfigError, match=r"modality 'caption': its vocabulary of 600 .* 604 special tokens"):
        Masked(MaskedConfig(), modalities, SpecialIds(num_sentinels=600))


# ------------------------------------------------------------------ mixtures of data sets and fixed budgets


def test_a_data_set_draws_from_components_of_its_own(modalities: ModalitySet, sample: Sample) -> None:
    own = {"words": [MaskComponent(target_alphas={"caption": 1.0}, num_target_tokens=5)]}
    objective = masked(modalities, component=MaskComponent(target_alphas={"depth": 1.0}), datasets=own)

    for _, asked in items(objective.for_dataset("words"), sample, 30):
        assert of(objective, asked, "caption").all()
        assert len(asked) <= 5
    assert all(of(objective, asked, "depth").all() for _, asked in items(objective.for_dataset("other"), sample, 30))
    assert objective.for_dataset("other") is objective


def test_tokens_count_by_the_largest_budget_of_any_data_set(modalities: ModalitySet, sample: Sample) -> None:
    objective = masked(modalities, datasets={"words": [MaskComponent(num_input_tokens=40)]})
    assert objective.num_tokens(objective.collate([objective.prepare(sample, generator(0))])) == 40 + 16


def test_a_mixture_of_a_data_set_that_is_not_there_is_an_error(modalities: ModalitySet) -> None:
    objective = masked(modalities, datasets={"word": [MaskComponent()]})
    with pytest.raises(ConfigError, match="'word' is not a data set.*Did you mean 'words'"):
        objective.check_data({"words": ["caption"]}, {})


def test_a_component_of_a_data_set_has_to_find_its_modalities_there(modalities: ModalitySet) -> None:
    objective = masked(modalities, datasets={"words": [MaskComponent(input_alphas={"depth": 1.0})]})
    sets = {"words": ["caption"], "images": ["rgb", "depth"]}
    with pytest.raises(ConfigError, match=r"datasets\.words\[0\]\.input_alphas: no training data set has depth"):
        objective.check_data(sets, {})


def test_a_mixture_that_draws_nothing_is_an_error() -> None:
    with pytest.raises(ConfigError, match="datasets.words: at least one"):
        MaskedConfig(datasets={"words": [MaskComponent(weight=0)]})


def test_budgets_can_be_fixed_whatever_the_components_say(modalities: ModalitySet, sample: Sample) -> None:
    component = MaskComponent(num_input_tokens=3, min_target_tokens=1, input_alphas={"rgb": 1.0})
    fixed = masked(modalities, component=component, redistribute=True).with_budgets(7, 9)

    assert {(len(shown), len(asked)) for shown, asked in items(fixed, sample, 30)} <= {(7, n) for n in range(7, 10)}
    assert fixed.num_tokens(fixed.collate([fixed.prepare(sample, generator(0))])) == 16


# ------------------------------------------------------------------ runs of tokens that see one another


def test_runs_say_what_the_pattern_says(modalities: ModalitySet, sample: Sample) -> None:
    objective = masked(modalities, 24, 24, component=MaskComponent(input_alphas={"*": 0.5}, target_alphas={"*": 0.5}))
    for table in (objective.collate(list(items(objective, sample, 12))).encoder, objective.collate(
        list(items(objective, sample, 12))).decoder):  # fmt: skip
        dense = torch.zeros_like(table.attention.dense())
        runs = table.attention.runs
        assert runs.rows == runs.key_rows == tuple(table.valid.sum(1).tolist())
        row, place = 0, 0
        for length, causal in zip(runs.queries, runs.causal, strict=True):
            while place == runs.rows[row]:
                row, place = row + 1, 0
            block = torch.ones(length, length, dtype=torch.bool)
            dense[row, place : place + length, place : place + length] = block.tril() if causal else block
            place += length
        assert torch.equal(dense, table.attention.dense())


def test_there_are_no_runs_where_modalities_see_those_before_them(modalities: ModalitySet, sample: Sample) -> None:
    objective = masked(modalities, separate=False)
    assert objective.collate(list(items(objective, sample, 3))).decoder.attention.runs is None


@pytest.mark.parametrize("kind", ["runs", "packed"])
@pytest.mark.parametrize(
    "options", [{}, {"activation_checkpointing": True}, {"tie_heads": False}, {"num_register_tokens": 3}]
)
def test_a_model_without_padding_computes_the_same(
    modalities: ModalitySet, sample: Sample, options: dict[str, Any], kind: str
) -> None:
    sizes: dict[str, Any] = {"dim": 32, "encoder_depth": 2, "decoder_depth": 2, "num_heads": 2, **options}
    objective = masked(modalities, 24, 24, component=MaskComponent(input_alphas={"*": 0.3}, target_alphas={"*": 0.3}))
    batch = objective.collate(list(items(objective, sample, 6)))
    results = []
    for backend in ("math", kind):
        model = Multimodal(modalities, MultimodalConfig(**sizes, backend=backend)).train()
        loss = objective.loss(model, batch).scalar(objective.counts(batch))
        loss.backward()
        results.append((loss, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (expected, gradients), (found, others) = results
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_samples_that_are_shown_nothing_are_answered_too(modalities: ModalitySet, sample: Sample) -> None:
    component = MaskComponent(num_input_tokens=0, target_alphas={"caption": 1.0, "depth": 1.0})
    objective = masked(modalities, component=component)
    batch = objective.collate(list(items(objective, sample, 3)))
    assert batch.encoder.attention.runs.rows == (0, 0, 0)
    losses = []
    for backend in ("math", "runs", "packed"):
        config = MultimodalConfig(dim=32, encoder_depth=1, decoder_depth=1, num_heads=2, backend=backend)
        losses.append(objective.loss(Multimodal(modalities, config), batch).scalar(objective.counts(batch)))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(losses[2], losses[0], rtol=1e-6, atol=0)


def test_a_table_in_blocks_has_no_runs(modalities: ModalitySet, sample: Sample) -> None:
    config = MaskedConfig(16, 16, components=[MaskComponent()])
    objective = Masked(config, modalities, ordered=True)
    batch = objective.collate(list(items(objective, sample, 3)))
    assert batch.encoder.attention.runs is None
    assert objective.with_budgets(4, 4).ordered
