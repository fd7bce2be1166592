import torch
from torch import Tensor

from fourm.generate.branches import Branches, Conditions, append_tokens, build_branches
from fourm.generate.plan import Step
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
    rows = branches.table.modality.chunk(branches.count)
    return [{names[i] for i in row[0].tolist() if i >= 0} for row in rows]


def test_without_guidance_there_is_one_branch_that_sees_all(model: Multimodal, given: Given) -> None:
    branches = build(model, Step("tok_depth@16"), given, initial=" ".join(given))
    assert branches.count == 1
    assert seen(model, branches) == [set(given)]


def test_the_unconditional_branch_sees_no_grids_and_one_sentinel_of_sequences(model: Multimodal, given: Given) -> None:
    branches = build(model, Step("tok_depth@16", guidance=3.0), given, initial=" ".join(given))
    assert branches.weights == (3.0,)
    assert seen(model, branches) == [{"caption", "vectors"}, set(given)]
    first = branches.table.modality[:3] == model.modalities.index("caption")
    assert branches.table.ids[:3][first].tolist() == [SPECIAL.sentinel(1)] * 3


def test_an_emptied_sequence_of_vectors_is_one_zero_vector(model: Multimodal, given: Given) -> None:
    branches = build(model, Step("tok_depth@16", guidance=3.0), {"vectors": given["vectors"]}, initial="vectors")
    assert branches.table.valid.sum(1).tolist() == [1, 1, 1, 4, 4, 4]
    assert not branches.table.values["vectors"][:12].any()


def test_what_was_generated_stays_in_both_branches_unless_it_grew(model: Multimodal, given: Given) -> None:
    step = Step("tok_depth@16", guidance=2.0)
    assert seen(model, build(model, step, given, initial="rgb@16"))[0] == set(given) - {"rgb@16"}
    grown = seen(model, build(model, step, given, initial="rgb@16", grown="tok_semseg@16"))
    assert grown == [set(given) - {"rgb@16", "tok_semseg@16"}, set(given)]


def test_the_targets_own_tokens_stay_in_both_branches(model: Multimodal, given: Given) -> None:
    step = Step("caption", "autoregressive", guidance=2.0)
    branches = build(model, step, given, initial=" ".join(given))
    own = branches.table.ids.masked_fill(branches.table.modality != model.modalities.index("caption"), -1)
    assert torch.equal(own[:3], own[3:])


def test_each_condition_has_a_branch_of_its_own_and_the_rest_is_context(model: Multimodal, given: Given) -> None:
    step = Step("tok_depth@16", conditions={"rgb@16": 2.0, "tok_semseg@16": -1.0})
    context = {"caption", "vectors"}
    branches = build(model, step, given, initial=" ".join(given))
    assert branches.weights == (2.0, -1.0)
    assert seen(model, branches) == [context, context | {"rgb@16"}, context | {"tok_semseg@16"}]


def test_a_second_caption_is_seen_only_by_its_branch(model: Multimodal) -> None:
    good, bad = torch.tensor([[30, 3]] * 3), torch.tensor([[40, 41, 3]] * 3)
    given = {"caption": {"ids": good}, "caption#not": {"ids": bad}}
    step = Step("tok_depth@16", conditions={"caption": 2.0, "caption#not": -1.0})
    branches = build(model, step, given, initial="caption")
    shown = [row[0][row[0] >= 0].tolist() for row in branches.table.ids.chunk(3)]
    assert shown == [[SPECIAL.sentinel(1)], [30, 3], [40, 41, 3]]
    assert build(model, Step("tok_depth@16"), given, initial="caption").table.ids.shape == (3, 2)


def test_nothing_given_is_a_table_that_nobody_sees(model: Multimodal) -> None:
    branches = build(model, Step("tok_depth@16", guidance=2.0), {})
    assert branches.count == 1
    assert branches.table.modality.tolist() == [[-1]] * 3


def test_appended_tokens_are_as_if_they_had_been_given(model: Multimodal, given: Given) -> None:
    depth = {"ids": torch.tensor([[1, 2], [3, -1], [4, 5]]), "positions": torch.tensor([[0, 7], [3, -1], [9, 15]])}
    table = given_table(given, model.modalities, 3, CPU)
    appended = append_tokens(table, model.modalities.index("tok_depth@16"), depth["positions"], depth["ids"])
    whole = given_table({**given, "tok_depth@16": depth}, model.modalities, 3, CPU)
    with torch.no_grad():
        for ours, theirs in zip(model.encode(appended), model.encode(whole), strict=True):
            torch.testing.assert_close(ours, theirs)
