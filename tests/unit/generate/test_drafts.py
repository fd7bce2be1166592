"""Texts are written several tokens at a time where they can be guessed, and say the same."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given as examples
from hypothesis import strategies as st
from torch import Tensor

from fourm.generate.drafts import Drafts
from fourm.generate.plan import GenerationPlan
from fourm.generate.sampler import Sampler
from fourm.models.multimodal import Multimodal
from tests.unit.generate.test_sampler import SPECIAL, STEPS

Given = dict[str, dict[str, Tensor]]
TEXTS = [name for name, step in STEPS.items() if step.scheme == "autoregressive"]


def learn(drafts: Drafts, right: int) -> None:
    """So many guesses come true; where negative, nothing of so many does."""
    for _ in range(abs(right)):
        drafts.came_true(2 if right > 0 else 0, of=2)


def written(*texts: list[int], right: int = 10) -> Drafts:
    """Drafts that have seen texts, the last of which is being written, and have been right so often."""
    drafts = Drafts()
    for text in texts:
        drafts.begin([text[0]])
        for token in text[1:]:
            drafts.add([token])
    learn(drafts, right)
    return drafts


def test_what_followed_the_same_tokens_before_is_the_guess() -> None:
    assert written([1, 7, 8, 9, 4, 5], [2, 8, 9]).guess(2, [True]) == [[4, 5]]


def test_the_longest_match_counts() -> None:
    assert written([1, 6, 8, 9, 4], [1, 7, 8, 9, 5], [2, 6, 8, 9]).guess(1, [True]) == [[4]]


def test_a_text_that_repeats_itself_goes_on_so() -> None:
    assert written([1, 5, 6, 7, 5, 6]).guess(7, [True]) == [[7, 5, 6, 7, 5, 6, 7]]


def test_without_a_match_nothing_is_guessed() -> None:
    assert written([1, 2, 3, 4], [5, 6, 7]).guess(4, [True]) == [[]]
    assert written([1]).guess(4, [True]) == [[]]


def test_all_samples_get_equally_many_and_ended_ones_do_not_count() -> None:
    drafts = Drafts()
    drafts.begin([1, 2, 3])
    for tokens in ([5, 6, 9], [5, 7, 9], [5, 6, 9], [5, 7, 8]):
        drafts.add(tokens)
    learn(drafts, 10)
    assert drafts.guess(3, [True, True, True]) == [[], [], []]
    assert drafts.guess(3, [True, True, False]) == [[5, 5, 5], [6, 7, 6], [0, 0, 0]]


def test_guesses_grow_while_they_come_true_and_need_long_matches_while_nothing_does() -> None:
    drafts = written([1, 8, 9, *range(20, 40)], [2, 8, 9], right=0)

    def length() -> int:
        return len(drafts.guess(20, [True])[0])

    lengths = [length()]
    for _ in range(4):
        drafts.came_true(3, of=3)
        lengths.append(length())
    drafts.came_true(2, of=3)
    lengths.append(length())
    learn(drafts, -3)
    lengths.append(length())
    assert lengths == [2, 4, 9, 15, 15, 2, 0]
    assert written([1, 6, 7, 8, 9, 4], [6, 7, 8, 9], right=-5).guess(3, [True]) == [[4]]


@examples(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(0, 20))
def test_there_is_never_more_than_there_is_room_for(text: list[int], most: int) -> None:
    guess = written(text).guess(most, [True])
    assert len(guess) == 1
    assert len(guess[0]) <= min(most, 15)


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("temperature", [0.0, 0.3])
@pytest.mark.parametrize("name", TEXTS)
def test_guesses_change_no_token(name: str, temperature: float, number: int, model: Multimodal, given: Given) -> None:
    step = replace(STEPS[name], temperature=temperature, min_tokens=12, keep_probabilities=True)
    plan, given = GenerationPlan([step]), {n: {k: v[:number] for k, v in f.items()} for n, f in given.items()}
    plain, drafting = Sampler(model, SPECIAL, draft=False), Sampler(model, SPECIAL)
    for seed in (0, 0, 1):
        seeds = torch.arange(number) + seed
        expected, found = (s.run(plan, given, seeds=seeds) for s in (plain, drafting))
        assert torch.equal(found.ids[step.target], expected.ids[step.target])
        torch.testing.assert_close(found.probabilities, expected.probabilities, atol=1e-5, rtol=1e-4)


def test_what_was_written_before_takes_fewer_passes(
    model: Multimodal, given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda b, *a, **k: passes.append(b.ids.shape[1]) or decode(b, *a, **k))
    step = replace(STEPS["autoregressive"], min_tokens=12, num_tokens=12)
    given = {n: {k: v[:1] for k, v in f.items()} for n, f in given.items()}

    def count(sampler: Sampler) -> int:
        passes.clear()
        sampler.run(GenerationPlan([step]), given, seeds=torch.arange(1))
        return len(passes)

    drafting: Any = Sampler(model, SPECIAL)
    count(drafting)
    assert count(drafting) <= 8
    assert count(Sampler(model, SPECIAL, draft=False)) == 12
