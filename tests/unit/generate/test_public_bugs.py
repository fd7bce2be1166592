"""What the published sampler of 4M gets wrong, each with what is right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fourm.generate.answer import any_to_any
from fourm.generate.plan import GenerationPlan, Step
from fourm.generate.sampler import Generated, Sampler
from fourm.modality import ModalitySet
from fourm.models.multimodal import Multimodal
from fourm.tokens import SpecialIds
from tests.unit.generate.test_grids import Recorder, by_branch
from tests.unit.generate.test_sequences import Script
from tests.unit.generate.toy import SEEDS, ToyBundle, build_model

Given = dict[str, dict[str, Tensor]]
SPECIAL = SpecialIds(num_sentinels=20)
S1, S2, END = 5, 6, 3
DEPTH, RGB = "tok_depth@16", "tok_rgb@16"


def run(model: Multimodal, step: Step | GenerationPlan, given: Given, seeds: Tensor = SEEDS) -> Generated:
    plan = step if isinstance(step, GenerationPlan) else GenerationPlan([step])
    return Sampler(model, SPECIAL).run(plan, given, seeds=seeds)


def row(given: Given, i: int) -> Given:
    return {name: {key: tensor[i : i + 1] for key, tensor in facts.items()} for name, facts in given.items()}


def shown(model: Multimodal, name: str, branches: list[Tensor]) -> list[list[int]]:
    """Tokens of a modality in the tables of each branch, for each sample."""
    return [(branch == model.modalities.index(name)).sum(1).tolist() for branch in branches]


def unseen(facts: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**facts, "positions": torch.full_like(facts["positions"], -1)}


# Without a seed, guided ROAR asked different positions in its two batches and mixed logits of different tokens.


@pytest.mark.parametrize("options", [{"guidance": 3.0}, {"conditions": {"rgb@16": 2.0, "caption": -1.0}}])
def test_all_branches_of_guided_roar_ask_the_same_positions_whatever_the_seeds(
    options: dict[str, Any], model: Multimodal, given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(model, monkeypatch)
    run(model, Step(DEPTH, "roar", 4, **options), given, torch.randint(2**62, (3,)))
    steps = by_branch(recorder.asked, 1 + len(options.get("conditions", "1")))
    assert len(steps) == 4
    for first, *others in steps:
        assert all(torch.equal(positions, first) for positions in others)


def test_guided_tokens_follow_from_logits_of_their_own_positions(
    model: Multimodal, given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = {"rgb@16": given["rgb@16"]}
    recorder = Recorder(model, monkeypatch)
    ids = run(model, Step(DEPTH, "roar", schedule=[10, 6], guidance=2.0, temperature=0.0), only).ids[DEPTH]
    (early, _), (late, _) = by_branch(recorder.asked, 2)
    own = {DEPTH: {"ids": ids.gather(1, early), "positions": early}}
    asked = {DEPTH: {"positions": late}}
    with torch.no_grad():
        conditional = model.logits({**only, **own}, asked)[DEPTH]
        unconditional = model.logits({"rgb@16": unseen(only["rgb@16"]), **own}, asked)[DEPTH]
    assert torch.equal((unconditional + 2.0 * (conditional - unconditional)).argmax(-1), ids.gather(1, late))


# Multi-guided ROAR inverted the masks of its conditions: the conditional branches saw nothing.


def test_each_conditional_branch_sees_its_condition_and_the_unconditional_one_sees_none(
    model: Multimodal, given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {name: given[name] for name in ("rgb@16", "tok_semseg@16")}
    tables = []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda batch: tables.append(batch.modality) or encode(batch))
    run(model, Step(DEPTH, "roar", 2, conditions={"rgb@16": 1.5, "tok_semseg@16": 0.5}), given)
    first = by_branch(tables, 3)[0]
    assert shown(model, "rgb@16", first) == [[0, 0, 0], [16, 16, 16], [0, 0, 0]]
    assert shown(model, "tok_semseg@16", first) == [[0, 0, 0], [0, 0, 0], [16, 5, 1]]


@pytest.mark.parametrize("scheme", ["roar", "maskgit"])
def test_one_condition_of_weight_one_is_that_condition_and_of_weight_zero_is_none(
    scheme: Any, model: Multimodal, given: Given
) -> None:
    only = {"rgb@16": given["rgb@16"]}
    plain = run(model, Step(DEPTH, scheme, 3), only).ids[DEPTH]
    nothing = run(model, Step(DEPTH, scheme, 3), {}).ids[DEPTH]
    assert torch.equal(run(model, Step(DEPTH, scheme, 3, conditions={"rgb@16": 1.0}), only).ids[DEPTH], plain)
    assert torch.equal(run(model, Step(DEPTH, scheme, 3, conditions={"rgb@16": 0.0}), only).ids[DEPTH], nothing)
    assert not torch.equal(plain, nothing)


def test_what_has_grown_is_seen_by_its_own_branch_alone_where_it_is_a_condition(
    model: Multimodal, given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda batch: tables.append(batch.modality) or encode(batch))
    steps = [Step(DEPTH, grow_conditioning=True), Step(RGB, conditions={"caption": 2.0, DEPTH: -1.0})]
    run(model, GenerationPlan(steps), {"caption": given["caption"]})
    last = [branch for table in tables for branch in table.split(3)][-3:]
    assert shown(model, DEPTH, last) == [[0, 0, 0], [0, 0, 0], [16, 16, 16]]


# Guided MaskGIT failed for more than one sample.


@pytest.mark.parametrize("options", [{"guidance": 2.0}, {"conditions": {"rgb@16": 2.0, "caption": -0.5}}])
def test_guided_maskgit_fills_every_sample_of_a_batch_as_if_it_were_alone(
    options: dict[str, Any], model: Multimodal, given: Given
) -> None:
    step = Step(DEPTH, "maskgit", 4, keep_probabilities=True, **options)
    together = run(model, step, given)
    assert (together.ids[DEPTH] >= 0).all()
    for i in range(3):
        alone = run(model, step, row(given, i), SEEDS[i : i + 1])
        assert torch.equal(alone.ids[DEPTH][0], together.ids[DEPTH][i])
        torch.testing.assert_close(alone.probabilities[DEPTH][0], together.probabilities[DEPTH][i], atol=1e-5, rtol=0)


# A text that ended early was returned as a tensor instead of a mapping.


def test_every_scheme_returns_the_same_whether_it_ends_early_or_has_nothing_to_do(
    model: Multimodal, given: Given
) -> None:
    whole = {"caption": {"ids": torch.tensor([[150, 160, END]] * 3)}}
    full = {DEPTH: {"ids": torch.full((3, 16), 7), "positions": torch.arange(16).expand(3, 16)}}
    for step, some in (
        (Step("caption", "autoregressive", guidance=2.0), whole),
        (Step("caption", "autoregressive"), given),
        (Step(DEPTH, "maskgit", 3), full),
        (Step(DEPTH, "roar", 3), given),
    ):
        generated = run(model, step, some)
        assert isinstance(generated, Generated)
        assert list(generated.ids) == [step.target]
        assert generated.ids[step.target].dtype == torch.int64
        assert len(generated.ids[step.target]) == 3
    assert run(model, Step("caption", "autoregressive"), whole).ids["caption"].tolist() == [[150, 160]] * 3
    assert torch.equal(run(model, Step(DEPTH, "maskgit", 3), full).ids[DEPTH], full[DEPTH]["ids"])


def test_samples_that_end_early_leave_the_others_time_to_end(
    model: Multimodal, monkeypatch: pytest.MonkeyPatch
) -> None:
    Script(monkeypatch, [[END], [90, 91, 92, 93, END], [94, S2, 95]], model.modalities["caption"].vocab_size)
    ids = run(model, Step("caption", "autoregressive"), {}).ids["caption"]
    assert ids.tolist() == [[-1] * 4, [90, 91, 92, 93], [94, -1, -1, -1]]


# Generation failed for models with register tokens.

STEPS = [
    Step(DEPTH, "maskgit", 3, guidance=2.0),
    Step(DEPTH, "roar", 3, conditions={"rgb@16": 2.0, "caption": -0.5}),
    Step("tok_edges@16"),
    Step("det", "autoregressive", guidance=1.5, num_tokens=6),
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step.target}-{step.scheme}")
def test_register_tokens_are_part_of_every_scheme(step: Step, modalities: ModalitySet, given: Given) -> None:
    model = build_model(modalities, num_register_tokens=4, embedding_std=1.0)
    before = run(model, step, given).ids[step.target]
    assert (before >= 0).any()
    assert model.registers is not None
    with torch.no_grad():
        model.registers.mul_(-3.0)
    assert before.tolist() != run(model, step, given).ids[step.target].tolist()


# Names with and without resolution were taken for different modalities, and a chain failed without its second model.


def test_answers_have_the_names_one_wrote_at_any_resolution(bundle: ToyBundle) -> None:
    answers = any_to_any(bundle, {"caption": "a red sofa"}, ["rgb", "tok_depth@16"])
    assert {name: tuple(value.shape) for name, value in answers.items()} == {
        "rgb": (1, 3, 16, 16),
        "tok_depth@16": (1, 1, 16, 16),
    }


# After guided decoding, what was merged was shown where it should have been asked, and the other way round.


def test_after_a_guided_step_later_ones_see_the_whole_text_and_the_whole_grid(model: Multimodal, given: Given) -> None:
    visible = {"ids": torch.tensor([[90, S1, 92, END], [S1, 91, -1, -1], [90, 91, S1, END]])}
    places = torch.arange(16).expand(3, 16)
    some = {
        "rgb@16": given["rgb@16"],
        "caption": visible,
        DEPTH: {"ids": torch.full((3, 4), 2), "positions": places[:, :4]},
    }
    last = Step(RGB, temperature=0.0, keep_probabilities=True)
    steps = [Step("caption", "autoregressive", guidance=2.0), Step(DEPTH, "roar", 3, guidance=2.0)]
    chain = run(model, GenerationPlan([*steps, last]), some)
    text = [[*(token for token in ids if token >= 0), END][:12] for ids in chain.ids["caption"].tolist()]
    length = max(map(len, text))
    whole = {
        "rgb@16": given["rgb@16"],
        "caption": {"ids": torch.tensor([[*ids, *[-1] * (length - len(ids))] for ids in text])},
        DEPTH: {"ids": chain.ids[DEPTH], "positions": places},
    }
    alone = run(model, last, whole)
    assert torch.equal(alone.ids[RGB], chain.ids[RGB])
    torch.testing.assert_close(alone.probabilities[RGB], chain.probabilities[RGB])
