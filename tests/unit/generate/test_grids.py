from typing import Any

import pytest
import torch
from torch import Tensor

from fourm.generate.branches import Conditions, build_branches
from fourm.generate.grids import GridCanvas, GridDecoder, most_confident
from fourm.generate.plan import Step
from fourm.generate.sampling import Drawn
from fourm.models.multimodal import Multimodal
from fourm.tokens import SpecialIds
from tests.unit.generate.toy import SEEDS

Given = dict[str, dict[str, Tensor]]
TARGET = "tok_depth@16"
PARTIAL = torch.tensor([[3, -1, 5, *[-1] * 13], [-1] * 16, list(range(16))])


class Recorder:
    """Notes the positions a model is asked, and what it has been shown of the target."""

    def __init__(self, model: Multimodal, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[Tensor] = []
        self.shown: list[Tensor] = []
        decode, encode, index = model.decode, model.encode, model.modalities.index(TARGET)

        def spy_decode(batch: Any, *args: Any, **kwargs: Any) -> Tensor:
            self.asked.append(torch.where(batch.valid, batch.position, -1))
            return decode(batch, *args, **kwargs)

        def spy_encode(batch: Any) -> tuple[Tensor, Tensor]:
            self.shown.append((batch.modality == index).sum(1))
            return encode(batch)

        monkeypatch.setattr(model, "decode", spy_decode)
        monkeypatch.setattr(model, "encode", spy_encode)


def by_branch(calls: list[Tensor], count: int) -> list[list[Tensor]]:
    """What a model was called with, of three samples: for each step, that of each of `count` branches."""
    branches = [branch for call in calls for branch in call.split(3)]
    assert len(branches) % count == 0
    return [branches[start : start + count] for start in range(0, len(branches), count)]


@torch.no_grad()
def fill(model: Multimodal, step: Step, given: Given, ids: Tensor | None = None, seeds: Tensor = SEEDS) -> GridCanvas:
    conditions = Conditions(frozenset(given))
    branches = build_branches(
        step, given, conditions, model.modalities, SpecialIds(num_sentinels=20), len(seeds), seeds.device
    )
    return GridDecoder(model, step, branches, seeds).run(torch.full((len(seeds), 16), -1) if ids is None else ids)


@pytest.mark.parametrize("scheme", ["maskgit", "roar"])
@pytest.mark.parametrize("num_steps", [1, 5, 16])
def test_every_position_is_filled_and_given_tokens_stay(
    scheme: Any, num_steps: int, model: Multimodal, given: Given
) -> None:
    ids = fill(model, Step(TARGET, scheme, num_steps), given, PARTIAL).ids
    assert (ids >= 0).all()
    assert torch.equal(ids[PARTIAL >= 0], PARTIAL[PARTIAL >= 0])


def test_roar_asks_every_missing_position_once(
    model: Multimodal, given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(model, monkeypatch)
    fill(model, Step(TARGET, "roar", 5, schedule="linear"), given, PARTIAL)
    for row in range(3):
        asked = torch.cat([positions[row] for positions in recorder.asked])
        assert sorted(asked[asked >= 0].tolist()) == (PARTIAL[row] < 0).nonzero()[:, 0].tolist()


def test_maskgit_asks_all_that_is_missing_and_shows_what_it_kept(
    model: Multimodal, given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(model, monkeypatch)
    fill(model, Step(TARGET, "maskgit", schedule=[2, 6, 8]), given)
    assert [int((positions[0] >= 0).sum()) for positions in recorder.asked] == [16, 14, 8]
    assert [shown.tolist() for shown in recorder.shown] == [[0] * 3, [2] * 3, [8] * 3]


def test_masking_again_asks_unsure_tokens_once_more_and_leaves_given_ones(
    model: Multimodal, given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(model, monkeypatch)
    ids = fill(model, Step(TARGET, "maskgit", schedule="linear", num_steps=4, remask=0.5), given, PARTIAL).ids
    assert (ids >= 0).all()
    assert torch.equal(ids[PARTIAL >= 0], PARTIAL[PARTIAL >= 0])
    # The second sample writes 4 tokens per step and forgets half of the 4, 8 and 12 it has.
    assert [int((positions[1] >= 0).sum()) for positions in recorder.asked] == [16, 12 + 2, 8 + 4, 4 + 6]
    assert [int(shown[1]) for shown in recorder.shown] == [0, 2, 4, 6]
    assert all(not (set(positions[0].tolist()) & {0, 2}) for positions in recorder.asked)


def test_only_asked_positions_pass_through_the_decoder(
    model: Multimodal, given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(model, monkeypatch)
    fill(model, Step(TARGET, "roar", schedule=[1, 3, 12]), given)
    assert [positions.shape[1] for positions in recorder.asked] == [1, 3, 12]


def test_both_branches_of_guided_roar_visit_the_same_positions(
    model: Multimodal, given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(model, monkeypatch)
    fill(model, Step(TARGET, "roar", 4, guidance=3.0), given, PARTIAL)
    asked = by_branch(recorder.asked, 2)
    assert len(asked) == 4
    assert all(torch.equal(*branches) for branches in asked)


def test_the_order_differs_between_samples_and_not_between_runs(
    model: Multimodal, given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(model, monkeypatch)
    for _ in range(2):
        fill(model, Step(TARGET, "roar", 2), given)
    assert torch.equal(recorder.asked[0], recorder.asked[2])
    assert not torch.equal(recorder.asked[0][0], recorder.asked[0][1])


def test_maskgit_keeps_the_most_confident() -> None:
    drawn = Drawn(torch.zeros(2, 4, dtype=torch.int64), torch.tensor([[0.1, 0.9, 0.5, 0.99], [0.3, 0.3, 0.3, 0.8]]))
    positions = torch.tensor([[4, 7, 9, -1], [0, 1, 2, 3]])
    assert most_confident(drawn, positions, torch.tensor([2, 2])).tolist() == [[-1, 7, 9, -1], [0, -1, -1, 3]]


def test_probabilities_are_kept_for_all_positions_and_given_tokens_are_certain(model: Multimodal, given: Given) -> None:
    canvas = fill(model, Step(TARGET, "maskgit", 3, keep_probabilities=True), given, PARTIAL)
    assert canvas.probabilities is not None
    torch.testing.assert_close(canvas.probabilities.sum(-1), torch.ones(3, 16))
    assert canvas.probabilities[0, 0, 3] == 1


def test_one_step_is_the_models_own_prediction(model: Multimodal, given: Given) -> None:
    canvas = fill(model, Step(TARGET, "roar", temperature=0.0, keep_probabilities=True), given)
    with torch.no_grad():
        logits = model.logits(given, {TARGET: {"positions": torch.arange(16).expand(3, 16)}})[TARGET]
    assert torch.equal(canvas.ids, logits.argmax(-1))
    assert canvas.probabilities is not None
    torch.testing.assert_close(canvas.probabilities, logits.softmax(-1), atol=1e-5, rtol=1e-4)


def test_guided_logits_are_those_of_the_formula(model: Multimodal, given: Given) -> None:
    given = {name: given[name] for name in ("rgb@16", "caption")}
    canvas = fill(model, Step(TARGET, "roar", guidance=2.5, keep_probabilities=True), given)
    asked = {TARGET: {"positions": torch.arange(16).expand(3, 16)}}
    with torch.no_grad():
        conditional = model.logits(given, asked)[TARGET]
        unconditional = model.logits({"caption": {"ids": torch.full((3, 1), 5)}}, asked)[TARGET]
    expected = (unconditional + 2.5 * (conditional - unconditional)).softmax(-1)
    assert canvas.probabilities is not None
    torch.testing.assert_close(canvas.probabilities, expected, atol=1e-5, rtol=1e-4)
