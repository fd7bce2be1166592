import math
from dataclasses import replace

import pytest
import torch

from fourm.generate.answer import any_to_any
from fourm.generate.ensemble import combine, entropy, spread_tokens, vote
from fourm.generate.plan import GenerationPlan, Step
from tests.unit.generate.toy import LEVELS, ToyBundle, image

DEPTH = image("depth@16", "depth16")
NORMAL = image("normal@16", "normal", 3)


def test_the_mean_and_the_variance_of_each_pixel() -> None:
    values = torch.tensor([[[[1.0, 2.0]]], [[[3.0, 2.0]]]])
    mean, variance = combine(values, DEPTH)
    assert mean.tolist() == [[[2.0, 2.0]]]
    assert variance is not None
    assert variance.tolist() == [[2.0, 0.0]]  # ((1 - 2)^2 + (3 - 2)^2) / (2 - 1)


def test_the_mean_of_normals_has_unit_length() -> None:
    values = torch.zeros(2, 3, 1, 1)
    values[0, 0], values[1, 1] = 1.0, 1.0
    mean, variance = combine(values, NORMAL)
    torch.testing.assert_close(mean[:, 0, 0], torch.tensor([1.0, 1.0, 0.0]) / math.sqrt(2))
    assert variance is not None
    torch.testing.assert_close(variance, torch.full((1, 1), (0.5 + 0.5 + 0) / 3))


def test_labels_are_voted_on_and_the_smallest_of_equals_wins() -> None:
    label, unsure = vote(torch.tensor([[5, 7, 9], [5, -1, 2], [5, 7, 2], [5, -1, 3]]))
    assert label.tolist() == [5, -1, 2]
    assert unsure is not None
    torch.testing.assert_close(unsure, torch.tensor([0.0, math.log(2), 1.5 * math.log(2)]))


def test_of_texts_the_first_is_taken() -> None:
    assert combine(["a", "b"], DEPTH) == ("a", None)


def test_the_entropy_of_even_odds_is_the_logarithm_of_their_number() -> None:
    torch.testing.assert_close(entropy(torch.full((2, 8), 1 / 8)), torch.full((2,), math.log(8)))
    assert entropy(torch.tensor([1.0, 0.0])).item() == 0


def test_the_entropy_of_a_token_lies_over_its_patch() -> None:
    tokens = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    assert spread_tokens(tokens, torch.zeros(1, 4, 4)).tolist()[3] == [2.0, 2.0, 3.0, 3.0]
    assert torch.equal(spread_tokens(tokens, torch.zeros(3)), tokens)


RGB = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
HOT = GenerationPlan([Step("depth"), Step("semseg", num_steps=2)])


def test_an_ensemble_is_made_of_the_answers_one_would_get(bundle: ToyBundle) -> None:
    every = any_to_any(bundle, {"rgb": RGB}, ["depth", "semseg"], num_samples=5, plan=HOT)
    one = any_to_any(bundle, {"rgb": RGB}, ["depth", "semseg"], num_samples=5, plan=HOT, ensemble=True, batch_size=3)
    assert one["depth"].shape == (2, 1, 16, 16)
    torch.testing.assert_close(one["depth"][1], every["depth"][5:].mean(0))
    torch.testing.assert_close(one.uncertainty["depth"][0], every["depth"][:5, 0].var(0))
    votes = torch.nn.functional.one_hot(every["semseg"].unflatten(0, (2, 5)), LEVELS).sum(1)
    assert torch.equal(one["semseg"], votes.argmax(-1))  # the first of equals is the smallest
    torch.testing.assert_close(one.uncertainty["semseg"], torch.special.entr(votes / 5).sum(-1))
    assert not torch.equal(one["semseg"], every["semseg"][::5])
    assert one.uncertainty["semseg"].max() > 0


def test_the_uncertainty_of_one_answer_is_the_entropy_of_its_tokens(bundle: ToyBundle) -> None:
    plain = any_to_any(bundle, {"rgb": RGB}, ["depth", "semseg", "caption"])
    one = any_to_any(bundle, {"rgb": RGB}, ["depth", "semseg", "caption"], ensemble=True, batch_size=1)
    assert torch.equal(plain["depth"], one["depth"])
    assert plain["caption"] == one["caption"]
    assert set(one.uncertainty) == {"depth", "semseg"}
    unsure = one.uncertainty["depth"]
    assert unsure.shape == (2, 16, 16)
    assert 0 < unsure.max() <= math.log(16) + 1e-5
    assert torch.equal(unsure, unsure[:, ::4, ::4].repeat_interleave(4, 1).repeat_interleave(4, 2))


def test_given_tokens_are_certain(bundle: ToyBundle) -> None:
    ids = torch.arange(16).where(torch.arange(16) < 8, -1)[None]
    unsure = any_to_any(bundle, {"tok_depth": ids}, ["depth"], ensemble=True, plan=HOT).uncertainty["depth"]
    assert unsure[0, :8].max() == 0
    assert unsure[0, 8:].min() > 0


@pytest.mark.parametrize("num_steps", [1, 4])
def test_the_entropy_is_that_of_the_distribution_drawn_from(num_steps: int, bundle: ToyBundle) -> None:
    from fourm.generate.sampler import Sampler

    step = Step("tok_depth@16", num_steps=num_steps, keep_probabilities=True)
    plan = GenerationPlan([step])
    assert bundle.text is not None
    seeds = torch.tensor([4])
    kept = Sampler(bundle.model, bundle.text.special).run(plan, {}, seeds=seeds).probabilities["tok_depth@16"]
    plain = GenerationPlan([replace(step, keep_probabilities=False)])
    unsure = any_to_any(bundle, {}, ["depth"], plan=plain, seeds=seeds, ensemble=True).uncertainty["depth"]
    torch.testing.assert_close(unsure[0, ::4, ::4].flatten(), torch.special.entr(kept[0]).sum(-1))
