from typing import Any

import pytest
import torch
from torch import Tensor

from fourm.generate.branches import Branches, Conditions, build_branches
from fourm.generate.grids import stream
from fourm.generate.plan import Step
from fourm.generate.sampling import draw, guide
from fourm.generate.sequences import SequenceDecoder, merge, merge_probabilities, merge_sources, pad
from fourm.models.multimodal import Multimodal
from fourm.rng import uniform
from fourm.tokens import SpecialIds
from tests.unit.generate.toy import SEEDS

Given = dict[str, dict[str, Tensor]]
SPECIAL = SpecialIds(num_sentinels=20)
S1, S2, S3, END = 5, 6, 7, 3


def decoder(model: Multimodal, step: Step, given: Given, seeds: Tensor = SEEDS) -> SequenceDecoder:
    branches: Branches = build_branches(
        step, given, Conditions(frozenset(given)), model.modalities, SPECIAL, len(seeds), seeds.device
    )
    return SequenceDecoder(model, step, branches, seeds, SPECIAL)


@torch.no_grad()
def recomputed(model: Multimodal, step: Step, given: Given, length: int) -> Tensor:
    """The same decoding without a cache: the whole string is scored again for every token."""
    empty = {n: f if n == step.target else {"ids": torch.full((3, 1), S1)} for n, f in given.items() if n == "caption"}
    ids = torch.full((3, 1), S1)
    for number in range(length):
        asked = {step.target: {"ids": torch.cat([ids, torch.zeros(3, 1, dtype=torch.int64)], 1)}}
        logits = model.logits(given, asked)[step.target][:, -1:]
        if step.guidance != 1:
            logits = guide(model.logits(empty, asked)[step.target][:, -1:], [logits], [step.guidance])
        uniforms = uniform(SEEDS[:, None], stream(step.target, "token"), number, 0)
        ids = torch.cat([ids, draw(logits, uniforms, step.temperature, top_k=step.top_k, top_p=step.top_p).ids], 1)
    return ids


@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"guidance": 2.0, "top_p": 0.9}, {"top_k": 0.5}])
def test_the_cache_changes_nothing(options: dict[str, Any], model: Multimodal, given: Given) -> None:
    given = {name: given[name] for name in ("rgb@16", "caption")}
    step = Step("det", "autoregressive", **options)
    with torch.no_grad():
        ids = decoder(model, step, given).run(None).ids
    expected = recomputed(model, step, given, ids.shape[1] - 1)
    assert ids.shape[1] > 3
    assert torch.equal(ids[ids >= 0], expected[ids >= 0])


def test_context_is_encoded_once_and_its_keys_are_made_once(
    model: Multimodal, given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded, projected = [], []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda batch: encoded.append(1) or encode(batch))
    cross = model.decoder.blocks[0].cross_attn.kv
    handle = cross.register_forward_hook(lambda *_: projected.append(1))
    with torch.no_grad():
        answers = decoder(model, Step("det", "autoregressive"), given).run(None)
    handle.remove()
    assert answers.ids.shape[1] > 3
    assert (len(encoded), len(projected)) == (1, 1)


class Script:
    """Stands in for the decoder's logits: sample b writes `lines[b]`, token by token."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, lines: list[list[int]], vocab_size: int) -> None:
        self.calls = 0

        def logits(_: Any, string: Tensor, *rest: Any) -> Tensor:
            self.calls += 1
            number = string.shape[1] - 1
            chosen = torch.tensor([line[min(number, len(line) - 1)] for line in lines])
            return torch.nn.functional.one_hot(chosen, vocab_size)[:, None] * 50.0

        monkeypatch.setattr(SequenceDecoder, "_logits", logits)


@torch.no_grad()
def write(
    model: Multimodal,
    monkeypatch: pytest.MonkeyPatch,
    lines: list[list[int]],
    visible: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, int]:
    script = Script(monkeypatch, lines, model.modalities["caption"].vocab_size)
    step = Step("caption", "autoregressive", **options)
    return decoder(model, step, {}).run(visible).ids, script.calls


def test_a_sample_ends_with_its_end_token_or_the_next_sentinel(
    model: Multimodal, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, calls = write(model, monkeypatch, [[90, END, 91], [92, 93, S2, 94], [S2, 95]])
    assert ids.tolist() == [[S1, 90, END, -1], [S1, 92, 93, S2], [S1, S2, -1, -1]]
    assert calls == 3


def test_a_sample_ends_with_a_stop_token_too(model: Multimodal, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, calls = write(model, monkeypatch, [[90, 91, 92], [90, 94, END], [90, END, 91]], stop=[91, 94])
    assert ids.tolist() == [[S1, 90, 91], [S1, 90, 94], [S1, 90, END]]
    assert calls == 2


def test_nothing_ends_a_sample_before_its_least_length(model: Multimodal, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, calls = write(model, monkeypatch, [[END], [S2], [92]], min_tokens=4, num_tokens=5, stop=[92])
    assert calls == 5
    assert not (set(ids[:, :5].flatten().tolist()) & {END, S2, 92, -1})
    assert ids[:, 5].tolist() == [END, S2, 92]


def test_the_first_sentinel_does_not_end_it(model: Multimodal, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, _ = write(model, monkeypatch, [[S1, 90, END]] * 3)
    assert ids[0].tolist() == [S1, S1, 90, END]


def test_a_sample_that_never_ends_has_its_greatest_length(model: Multimodal, monkeypatch: pytest.MonkeyPatch) -> None:
    # As in training: twelve tokens with the end, or the first twelve of a longer text.
    assert write(model, monkeypatch, [[90]] * 3)[0].shape == (3, 1 + 12)
    assert write(model, monkeypatch, [[90]] * 3, num_tokens=4)[0].shape == (3, 5)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ([90], [90] * 9),
        ([90, 91, S2, 90], [90, 91, S2] + [90] * 7),
        ([S1, 90], [S1] + [90] * 9),
        ([S1, S1, S1, 90], [S1, S1, S1] + [90] * 7),
    ],
)
def test_what_is_visible_and_what_is_written_fit_the_modality_together(
    model: Multimodal, monkeypatch: pytest.MonkeyPatch, line: list[int], expected: list[int]
) -> None:
    visible = torch.tensor([[80, S1, 81, S2, END]] * 3)
    ids, _ = write(model, monkeypatch, [line] * 3, visible)
    assert ids[0].tolist() == [S1, *expected]
    assert len(merge(ids, visible, SPECIAL)[0]) <= 12


def test_no_room_is_left_where_the_visible_fills_the_modality(
    model: Multimodal, monkeypatch: pytest.MonkeyPatch
) -> None:
    visible = torch.tensor([[*range(80, 92), S1], [*range(80, 91), S1, -1], [80, S1, *[-1] * 11]])
    ids, _ = write(model, monkeypatch, [[90]] * 3, visible)
    assert (ids >= 0).sum(1).tolist() == [1, 2, 12]


def test_two_missing_runs_end_with_the_third_sentinel(model: Multimodal, monkeypatch: pytest.MonkeyPatch) -> None:
    visible = torch.tensor([[S1, 80, S2], [S1, 80, -1], [80, 81, END]])
    ids, _ = write(model, monkeypatch, [[90, S2, 91, S3, 92]] * 3, visible)
    assert ids.tolist() == [[S1, 90, S2, 91, S3], [S1, 90, S2, -1, -1], [S1, -1, -1, -1, -1]]


def test_merging_puts_the_runs_where_their_sentinels_are() -> None:
    visible = torch.tensor([[80, S1, 81, S2, 82, END]])
    assert merge(torch.tensor([[S1, 90, 91, S2, 92, S3]]), visible, SPECIAL) == [[80, 90, 91, 81, 92, 82]]


def test_an_end_token_in_a_run_does_not_drop_the_visible_text_behind_it() -> None:
    assert merge(torch.tensor([[S1, 90, END, -1]]), torch.tensor([[S1, 81, END]]), SPECIAL) == [[90, 81]]


def test_a_missing_end_is_where_the_answer_ends() -> None:
    assert merge(torch.tensor([[S1, 90, END]]), torch.tensor([[80, S1, -1]]), SPECIAL) == [[80, 90]]


def test_probabilities_follow_their_tokens() -> None:
    """Of `[S_1] 90 [S_2] 92` and the visible `80 [S_1] [S_2] 82`, that of 92 belongs to the third token."""
    visible = torch.tensor([[80, S1, S2, 82, END], [S1, END, -1, -1, -1]])
    merged = merge_sources(torch.tensor([[S1, 90, S2, 92], [S1, 91, -1, -1]]), visible, SPECIAL)
    assert [m.tokens for m in merged] == [[80, 90, 92, 82], [91]]
    assert [m.sources for m in merged] == [[-1, 1, 3, -1], [1]]
    said = torch.rand(2, 3, 100, generator=torch.Generator().manual_seed(0))
    kept = merge_probabilities(merged, said)
    one = torch.eye(100)
    assert torch.equal(kept[0], torch.stack([one[80], said[0, 0], said[0, 2], one[82]]))
    assert torch.equal(kept[1], torch.cat([said[1, :1], torch.zeros(3, 100)]))


def test_without_visible_text_the_answer_is_the_sequence() -> None:
    assert merge(torch.tensor([[S1, 90, 91, S2], [S1, END, -1, -1]]), None, SPECIAL) == [[90, 91], []]


def test_sequences_are_padded_to_the_longest() -> None:
    assert pad([[1, 2], [], [3]], torch.device("cpu")).tolist() == [[1, 2], [-1, -1], [3, -1]]
    assert pad([[], []], torch.device("cpu")).shape == (2, 0)
