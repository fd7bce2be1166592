from typing import Any

import pytest
import torch

from fourm.errors import ConfigError, DataError
from fourm.generate.answer import any_to_any
from fourm.generate.chain import generate, sample_seeds
from fourm.generate.inputs import give
from fourm.generate.plan import GenerationPlan, Step
from fourm.generate.planning import make_plan
from tests.unit.generate.toy import ToyBundle

RGB = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_natural_units_in_and_out_under_the_names_one_wrote(bundle: ToyBundle) -> None:
    answers = any_to_any(bundle, {"rgb": RGB}, ["depth", "tok_semseg@16", "caption", "det"])
    assert list(answers) == ["depth", "tok_semseg@16", "caption", "det"]
    assert answers["depth"].shape == (3, 1, 16, 16)
    assert answers["tok_semseg@16"].shape == (3, 16, 16)
    assert [type(text) for text in answers["caption"]] == [str] * 3
    assert [type(boxes) for boxes in answers["det"]] == [list] * 3


def test_the_batch_size_changes_nothing(bundle: ToyBundle) -> None:
    whole = any_to_any(bundle, {"rgb": RGB}, "depth, caption", num_samples=2)
    parts = any_to_any(bundle, {"rgb": RGB}, "depth, caption", num_samples=2, batch_size=2)
    torch.testing.assert_close(whole["depth"], parts["depth"])
    assert whole["caption"] == parts["caption"]


def test_several_answers_of_a_sample_lie_side_by_side(bundle: ToyBundle) -> None:
    plan = GenerationPlan([Step("depth", temperature=0.0)])
    answers = any_to_any(bundle, {"rgb": RGB}, ["depth"], num_samples=2, plan=plan)["depth"]
    torch.testing.assert_close(answers[0], answers[1])
    torch.testing.assert_close(answers[4], answers[5])
    assert len(answers) == 6


def test_a_value_of_one_sample_serves_all(bundle: ToyBundle) -> None:
    seeds = torch.tensor([1, 2, 3])
    one = any_to_any(bundle, {"rgb": RGB, "caption": "a bed"}, ["depth"], seeds=seeds)
    all_three = any_to_any(bundle, {"rgb": RGB, "caption": ["a bed"] * 3}, ["depth"], seeds=seeds)
    torch.testing.assert_close(one["depth"], all_three["depth"])


def test_the_expected_decoding_averages_codes(bundle: ToyBundle) -> None:
    plain = any_to_any(bundle, {"rgb": RGB}, ["depth"])["depth"]
    expected = any_to_any(bundle, {"rgb": RGB}, ["depth"], expected=True)["depth"]
    levels = plain / 16 * 15
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    assert not torch.allclose(expected / 16 * 15, (expected / 16 * 15).round(), atol=1e-3)


def test_a_plan_may_generate_more_than_is_returned(bundle: ToyBundle) -> None:
    plan = GenerationPlan([Step("semseg"), Step("depth")])
    assert list(any_to_any(bundle, {"rgb": RGB}, ["depth"], plan=plan)) == ["depth"]
    assert list(any_to_any(bundle, {"rgb": RGB}, [], plan=plan)) == ["semseg", "depth"]


def test_part_of_a_target_may_be_given(bundle: ToyBundle) -> None:
    ids = torch.arange(16).where(torch.arange(16) < 8, -1)[None]
    depth = any_to_any(bundle, {"tok_depth": ids}, ["depth"])["depth"]
    torch.testing.assert_close(depth[0, 0, ::4, ::4].flatten()[:8], torch.arange(8) / 15 * 16)


def test_the_first_seeds_are_the_same_for_any_count() -> None:
    assert sample_seeds(0, 8)[:3].tolist() == sample_seeds(0, 3).tolist()
    assert sample_seeds(1, 3).tolist() != sample_seeds(0, 3).tolist()


def test_seeds_must_be_one_per_sample(bundle: ToyBundle) -> None:
    with pytest.raises(DataError, match="2 seeds for 3 samples"):
        any_to_any(bundle, {"rgb": RGB}, ["depth"], seeds=torch.tensor([1, 2]))


def test_values_must_have_the_same_number_of_samples(bundle: ToyBundle) -> None:
    with pytest.raises(DataError, match="given 'caption' has 2 samples, others have 3"):
        any_to_any(bundle, {"rgb": RGB, "caption": ["a", "b"]}, ["depth"])


def test_a_target_outside_the_plan_is_refused(bundle: ToyBundle) -> None:
    with pytest.raises(ConfigError, match="the plan does not generate 'semseg'; it generates: tok_depth@16"):
        any_to_any(bundle, {"rgb": RGB}, ["semseg"], plan=GenerationPlan([Step("depth")]))


def test_no_target_is_refused(bundle: ToyBundle) -> None:
    with pytest.raises(ConfigError, match="there is nothing to generate"):
        any_to_any(bundle, {"rgb": RGB}, "")


def test_each_target_is_told_with_its_values_as_soon_as_it_is_done(bundle: ToyBundle) -> None:
    steps, names = make_plan(bundle, ["depth", "caption"], ["rgb"], None)
    told: list[tuple[str, Any]] = []
    answers = generate(
        bundle, [give(bundle, "rgb", RGB)], steps, sample_seeds(0, 3), watch=lambda *found: told.append(found)
    )
    assert [target for target, _ in told] == list(names.values())
    torch.testing.assert_close(told[0][1], answers["tok_depth@16"])
    assert told[1][1] == answers["caption"]
