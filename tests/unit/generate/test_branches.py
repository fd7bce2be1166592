from itertools import permutations

import pytest
import torch
from torch import Tensor

from fourm.generate.branches import Branches, Conditions, build_branches
from fourm.generate.plan import Step
from fourm.generate.tables import append_tokens, unmasked
from fourm.models.ask import given_table
from fourm.models.multimodal import Multimodal
from fourm.tokens import SpecialIds

Given = dict[str, dict[str, Tensor]]
SPECIAL = SpecialIds(num_sentinels=20)
CPU = torch.device("cpu")


def build(model: Multimodal, step: Step, given: Given, *, initial: str = "", grown: str = "") -> Branches:
    conditions = Conditions(frozenset(initial.split()), frozenset(grown.split()))
    return build_branches(step, given, conditions, model.modalities, SPECIAL, 3, CPU)


def seen(model: Multimodal, branches: Branches) -> list[set[str]]:
    """For each branch, what its first sample sees of each modality."""
    names = list(model.modalities)
    return [{names[i] for i in row[0].tolist() if i >= 0} for row in columns(branches, "modality")]


def columns(branches: Branches, name: str) -> list[Tensor]:
    """A column of the table of each branch."""
    return [rows for pack in branches.packs for rows in getattr(pack.table, name).chunk(pack.count)]


def test_without_guidance_there_is_one_branch_that_sees_all(model: Multimodal, given: Given) -> None:
    branches = build(model, Step("tok_depth@16"), given, initial=" ".join(given))
    assert branches.count == 1
    assert seen(model, branches) == [set(given)]


def test_the_unconditional_branch_sees_no_grids_and_one_sentinel_of_sequences(model: Multimodal, given: Given) -> None:
    branches = build(model, Step("tok_depth@16", guidance=3.0), given, initial=" ".join(given))
    assert branches.weights == (3.0,)
    assert seen(model, branches) == [{"caption", "vectors"}, set(given)]
    first = columns(branches, "modality")[0] == model.modalities.index("caption")
    assert columns(branches, "ids")[0][first].tolist() == [SPECIAL.sentinel(1)] * 3


def test_an_emptied_sequence_of_vectors_is_one_zero_vector(model: Multimodal, given: Given) -> None:
    branches = build(model, Step("tok_depth@16", guidance=3.0), {"vectors": given["vectors"]}, initial="vectors")
    assert [(rows >= 0).sum(1).tolist() for rows in columns(branches, "modality")] == [[1] * 3, [4] * 3]
    assert not branches.packs[0].table.values["vectors"][:3].any()


def test_what_was_generated_stays_in_both_branches_unless_it_grew(model: Multimodal, given: Given) -> None:
    step = Step("tok_depth@16", guidance=2.0)
    assert seen(model, build(model, step, given, initial="rgb@16"))[0] == set(given) - {"rgb@16"}
    grown = seen(model, build(model, step, given, initial="rgb@16", grown="tok_semseg@16"))
    assert grown == [set(given) - {"rgb@16", "tok_semseg@16"}, set(given)]


def test_the_targets_own_tokens_stay_in_both_branches(model: Multimodal, given: Given) -> None:
    step = Step("caption", "autoregressive", guidance=2.0)
    branches = build(model, step, given, initial=" ".join(given))
    index = model.modalities.index("caption")
    own = [
        ids[modality == index]
        for ids, modality in zip(columns(branches, "ids"), columns(branches, "modality"), strict=True)
    ]
    assert torch.equal(*own)


def test_each_condition_has_a_branch_of_its_own_and_the_rest_is_context(model: Multimodal, given: Given) -> None:
    step = Step("tok_depth@16", conditions={"rgb@16": 2.0, "tok_semseg@16": -1.0})
    context = {"caption", "vectors"}
    branches = build(model, step, given, initial=" ".join(given))
    assert branches.weights == (2.0, -1.0)
    assert seen(model, branches) == [context, context | {"rgb@16"}, context | {"tok_semseg@16"}]


@pytest.mark.parametrize("order", permutations(["rgb@16", "tok_semseg@16", "caption"]), ids=", ".join)
def test_what_grew_stays_in_the_order_of_what_is_given(model: Multimodal, given: Given, order: tuple[str, ...]) -> None:
    """A set has another order in every process, and sums of floats would follow it."""
    shown = {name: given[name] for name in (*order, "vectors")}
    step = Step("tok_depth@16", conditions={"vectors": 2.0})
    conditional = columns(build(model, step, shown, initial="vectors", grown=" ".join(order)), "modality")[1][0]
    names = list(model.modalities)
    assert [names[i] for i in dict.fromkeys(conditional[conditional >= 0].tolist())] == list(shown)


def test_a_second_caption_is_seen_only_by_its_branch(model: Multimodal) -> None:
    good, bad = torch.tensor([[30, 3]] * 3), torch.tensor([[40, 41, 3]] * 3)
    given = {"caption": {"ids": good}, "caption#not": {"ids": bad}}
    step = Step("tok_depth@16", conditions={"caption": 2.0, "caption#not": -1.0})
    branches = build(model, step, given, initial="caption")
    shown = [row[0][row[0] >= 0].tolist() for row in columns(branches, "ids")]
    assert shown == [[SPECIAL.sentinel(1)], [30, 3], [40, 41, 3]]
    assert build(model, Step("tok_depth@16"), given, initial="caption").packs[0].table.ids.shape == (3, 2)


def test_nothing_given_is_a_table_that_nobody_sees(model: Multimodal) -> None:
    branches = build(model, Step("tok_depth@16", guidance=2.0), {})
    assert branches.count == 1
    assert branches.packs[0].table.modality.tolist() == [[-1]] * 3


def test_appended_tokens_are_as_if_they_had_been_given(model: Multimodal, given: Given) -> None:
    depth = {"ids": torch.tensor([[1, 2], [3, -1], [4, 5]]), "positions": torch.tensor([[0, 7], [3, -1], [9, 15]])}
    table = given_table(given, model.modalities, 3, CPU)
    appended = append_tokens(table, model.modalities.index("tok_depth@16"), depth["positions"], depth["ids"])
    whole = given_table({**given, "tok_depth@16": depth}, model.modalities, 3, CPU)
    with torch.no_grad():
        for ours, theirs in zip(model.encode(appended), model.encode(whole), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_branches_of_one_length_are_batched_and_short_ones_are_not_padded(model: Multimodal, given: Given) -> None:
    branches = build(model, Step("tok_depth@16", guidance=2.0), given, initial=" ".join(given))
    widths = [pack.table.modality.shape[1] for pack in branches.packs]
    assert [pack.count for pack in branches.packs] == [1, 1]
    assert 2 * widths[0] < widths[1]
    one = {"caption": {"ids": torch.tensor([[30, 3]] * 3)}}
    assert [pack.count for pack in build(model, Step("tok_depth@16", guidance=2.0), one, initial="caption").packs] == [
        2
    ]


def test_contexts_of_packs_are_those_of_the_branches_alone(model: Multimodal, given: Given) -> None:
    branches = build(model, Step("caption", "autoregressive", guidance=2.0), given, initial=" ".join(given))
    assert len(branches.packs) == 2
    with torch.no_grad():
        joined = branches.encode(model)
        assert joined.valid is not None
        for rows, pack in zip((slice(3), slice(3, 6)), branches.packs, strict=True):
            alone = model.encode(pack.table)
            assert alone.valid is not None
            assert torch.equal(joined.valid[rows].sum(1), alone.valid.sum(1))
            torch.testing.assert_close(joined.hidden[rows][joined.valid[rows]], alone.hidden[alone.valid])


def test_a_table_without_padding_needs_no_mask(model: Multimodal) -> None:
    whole = given_table({"caption": {"ids": torch.tensor([[30, 3], [31, 3]])}}, model.modalities, 2, CPU)
    padded = given_table({"caption": {"ids": torch.tensor([[30, 3], [31, -1]])}}, model.modalities, 2, CPU)
    assert unmasked(padded) is padded
    with torch.no_grad():
        context = model.encode(unmasked(whole))
        assert context.valid is None
        torch.testing.assert_close(context.hidden, model.encode(whole).hidden)
