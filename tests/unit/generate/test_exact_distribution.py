"""The sampler draws every answer as often as the definitions say, added up over all answers of a tiny model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as List
from typing import Any

import pytest
import torch
from torch import Tensor

from fourm.generate.plan import GenerationPlan, Step
from fourm.generate.sampler import Sampler
from fourm.layouts import Discrete, Grid, Sequence
from fourm.modality import Modality, ModalitySet
from fourm.models.multimodal import Multimodal
from fourm.tokens import SpecialIds
from tests.unit.generate.exact import Answer, Exact, Rule, chi_square_excess
from tests.unit.generate.toy import build_model

SAMPLES = 4000
SEEDS = torch.arange(SAMPLES) + 4000
SPECIAL = SpecialIds(end=0, sentinel_0=1, num_sentinels=4)
S1, END = 2, 0
ALL_MISSING = (-1, -1, -1)
A = {"ids": torch.tensor([[2, 0, 1]]), "positions": torch.tensor([[0, 1, 2]])}
NO_A = {"ids": torch.tensor([[-1, -1, -1]]), "positions": torch.tensor([[-1, -1, -1]])}
TEXT, NO_TEXT = {"ids": torch.tensor([[6, 5, END]])}, {"ids": torch.tensor([[S1]])}
GIVEN = {"a": A, "text": TEXT}


@pytest.fixture(scope="module")
def tiny() -> Multimodal:
    grids = [Modality(n, Grid(1, 3), Discrete(3), source=n, decode="tokens", positions="learned") for n in ("a", "b")]
    text = Modality("text", Sequence(5, 16), Discrete(7), source="text", decode="text")
    notes = Modality("notes", Sequence(3, 16), Discrete(7), source="notes", decode="text")
    sizes = {"dim": 16, "encoder_depth": 1, "decoder_depth": 2, "embedding_std": 1.0, "num_register_tokens": 1}
    model = build_model(ModalitySet([*grids, text, notes]), seed=22, **sizes)
    with torch.no_grad():
        for block in model.decoder.blocks:
            block.cross_attn.kv.weight.mul_(3.0)  # what is shown matters
    return model


def frequencies(model: Multimodal, step: Step, given: dict[str, dict[str, Tensor]]) -> Counter[Answer]:
    rows = {n: {key: t.expand(SAMPLES, *t.shape[1:]) for key, t in facts.items()} for n, facts in given.items()}
    ids = Sampler(model, SPECIAL).run(GenerationPlan([step]), rows, seeds=SEEDS).ids[step.target]
    return Counter(tuple(token for token in row if token >= 0) for row in ids.tolist())


GRIDS: dict[str, tuple[dict[str, Any], dict[str, Any], Rule, List[int], List[float]]] = {
    "one step": ({}, GIVEN, Rule(), [3], [1.0]),
    "two steps": ({"schedule": [1, 2]}, GIVEN, Rule(), [1, 2], [1.0, 1.0]),
    "three steps": ({"num_steps": 3, "schedule": "linear"}, GIVEN, Rule(), [1, 1, 1], [1.0] * 3),
    "temperature": ({"schedule": [2, 1], "temperature": 0.6}, GIVEN, Rule(), [2, 1], [0.6, 0.6]),
    "falling temperature": (
        {"schedule": [1, 2], "temperature": 2.4, "temperature_schedule": "linear"},
        GIVEN,
        Rule(),
        [1, 2],
        [2.4, 1.6],
    ),
    "onex": (  # x = 1 and 1 + 99/2; the last step ends at the minimum
        {"num_steps": 2, "schedule": "linear", "temperature": 2.0, "temperature_schedule": "onex:0.5:0.5"},
        GIVEN,
        Rule(),
        [2, 1],
        [0.5 + 1.5 / 3, 0.5],
    ),
    "top k": ({"schedule": [1, 2], "top_k": 2}, GIVEN, Rule(top_k=2), [1, 2], [1.0, 1.0]),
    "a share of the vocabulary": ({"schedule": [1, 2], "top_k": 0.67}, GIVEN, Rule(top_k=2), [1, 2], [1.0, 1.0]),
    "top p": ({"schedule": [1, 2], "top_p": 0.8}, GIVEN, Rule(top_p=0.8), [1, 2], [1.0, 1.0]),
    "all filters before the temperature": (
        {"schedule": [1, 2], "top_k": 2, "top_p": 0.75, "temperature": 1.7},
        GIVEN,
        Rule(top_k=2, top_p=0.75),
        [1, 2],
        [1.7, 1.7],
    ),
    "guidance": (
        {"schedule": [1, 2], "guidance": 1.8},
        {"a": NO_A, "text": NO_TEXT},
        Rule(branches=((GIVEN, 1.8),)),
        [1, 2],
        [1.0, 1.0],
    ),
    "guidance before the filters": (
        {"schedule": [1, 2], "guidance": 1.8, "top_p": 0.8},
        {"a": NO_A, "text": NO_TEXT},
        Rule(top_p=0.8, branches=((GIVEN, 1.8),)),
        [1, 2],
        [1.0, 1.0],
    ),
    "several conditions": (
        {"schedule": [1, 2], "conditions": {"a": 1.5, "text": -0.6}},
        {"a": NO_A, "text": NO_TEXT},
        Rule(branches=(({"a": A, "text": NO_TEXT}, 1.5), ({"a": NO_A, "text": TEXT}, -0.6))),
        [1, 2],
        [1.0, 1.0],
    ),
}


@pytest.mark.parametrize("scheme", ["roar", "maskgit"])
@pytest.mark.parametrize("name", GRIDS)
def test_grids(name: str, scheme: Any, tiny: Multimodal) -> None:
    options, base, rule, counts, heats = GRIDS[name]
    law = Exact(tiny, base, rule).grid("b", ALL_MISSING, counts, heats, confident=scheme == "maskgit")
    assert sum(law.values()) == pytest.approx(1)
    assert chi_square_excess(frequencies(tiny, Step("b", scheme, **options), GIVEN), law) < 1


@pytest.mark.parametrize(("scheme", "temperature"), [("roar", 1.0), ("maskgit", 1.0), ("maskgit", 0.0)])
def test_the_rest_of_a_grid_that_is_given_in_part(scheme: Any, temperature: float, tiny: Multimodal) -> None:
    start = (-1, 1, -1)
    law = Exact(tiny, GIVEN).grid("b", start, [1, 1], [temperature] * 2, confident=scheme == "maskgit")
    given = {**GIVEN, "b": {"ids": torch.tensor([[1]]), "positions": torch.tensor([[1]])}}
    step = Step("b", scheme, 2, schedule="linear", temperature=temperature)
    assert len(law) == (9 if temperature else 1)
    assert chi_square_excess(frequencies(tiny, step, given), law) < 1


@pytest.mark.parametrize(("counts", "remask"), [([2, 1], 0.5), ([1, 1, 1], 0.5), ([1, 1, 1], 0.99), ([2, 1], 0.4)])
def test_unsure_tokens_are_masked_again(counts: list[int], remask: float, tiny: Multimodal) -> None:
    law = Exact(tiny, GIVEN).grid("b", ALL_MISSING, counts, [1.0] * 3, confident=True, remask=remask)
    step = Step("b", "maskgit", schedule=counts, remask=remask)
    assert chi_square_excess(frequencies(tiny, step, GIVEN), law) < 1


def test_remasking_changes_the_distribution(tiny: Multimodal) -> None:
    law = Exact(tiny, GIVEN).grid("b", ALL_MISSING, [2, 1], [1.0, 1.0], confident=True)
    assert chi_square_excess(frequencies(tiny, Step("b", "maskgit", schedule=[2, 1], remask=0.5), GIVEN), law) > 2


TEXTS: dict[str, tuple[dict[str, Any], dict[str, Any], Rule, float]] = {
    "plain": ({}, GIVEN, Rule(), 1.0),
    "temperature": ({"temperature": 0.6}, GIVEN, Rule(), 0.6),
    "greedy": ({"temperature": 0.0}, GIVEN, Rule(), 0.0),
    "top k": ({"top_k": 3}, GIVEN, Rule(top_k=3), 1.0),
    "top p and temperature": ({"top_p": 0.7, "temperature": 1.5}, GIVEN, Rule(top_p=0.7), 1.5),
    "guidance": ({"guidance": 1.8}, {"a": NO_A, "text": NO_TEXT}, Rule(branches=((GIVEN, 1.8),)), 1.0),
    "several conditions": (
        {"conditions": {"a": 1.5, "text": -0.6}},
        {"a": NO_A, "text": NO_TEXT},
        Rule(branches=(({"a": A, "text": NO_TEXT}, 1.5), ({"a": NO_A, "text": TEXT}, -0.6))),
        1.0,
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts(name: str, tiny: Multimodal) -> None:
    options, base, rule, heat = TEXTS[name]
    law = Exact(tiny, base, rule).text("notes", [heat] * 3, sentinel_1=S1, end=END)
    assert sum(law.values()) == pytest.approx(1)
    assert chi_square_excess(frequencies(tiny, Step("notes", "autoregressive", **options), GIVEN), law) < 1


def test_a_text_with_a_gap(tiny: Multimodal) -> None:
    visible = (5, S1, 6, END)
    law = Exact(tiny, {"a": A}).text("text", [1.0] * 2, sentinel_1=S1, end=END, visible=visible)
    given = {"a": A, "text": {"ids": torch.tensor([visible])}}
    assert (5, 6) in law
    assert chi_square_excess(frequencies(tiny, Step("text", "autoregressive"), given), law) < 1


def test_the_bound_tells_slightly_wrong_samplers_apart(tiny: Multimodal) -> None:
    exact = Exact(tiny, GIVEN)
    grid = frequencies(tiny, Step("b", "roar", schedule=[1, 2], temperature=0.8), GIVEN)
    assert chi_square_excess(grid, exact.grid("b", ALL_MISSING, [1, 2], [0.8] * 2)) < 1
    assert chi_square_excess(grid, exact.grid("b", ALL_MISSING, [1, 2], [1.0] * 2)) > 1.5
    assert chi_square_excess(grid, exact.grid("b", ALL_MISSING, [2, 1], [0.8] * 2)) > 1.5
    text = frequencies(tiny, Step("notes", "autoregressive", temperature=0.8), GIVEN)
    assert chi_square_excess(text, exact.text("notes", [1.0] * 3, sentinel_1=S1, end=END)) > 1.5
