from collections.abc import Sequence
from functools import partial

import pytest

from fourm.generate.bundle import raw_modality
from fourm.generate.defaults import default_plan
from fourm.generate.plan import GenerationPlan, Step
from tests.unit.generate.toy import ToyBundle


def plan(bundle: ToyBundle, targets: Sequence[str], given: Sequence[str]) -> GenerationPlan:
    modalities = bundle.model.modalities
    return default_plan([modalities[name] for name in targets], given, modalities, partial(raw_modality, bundle))


def step(bundle: ToyBundle, target: str, given: Sequence[str]) -> Step:
    return plan(bundle, [target], given).steps[0]


def test_an_image_gives_its_maps_in_one_cold_step(bundle: ToyBundle) -> None:
    assert step(bundle, "tok_depth@16", ["rgb@16"]) == Step("tok_depth@16", "roar", temperature=0.01)


def test_texts_are_written_token_by_token(bundle: ToyBundle) -> None:
    assert step(bundle, "caption", ["rgb@16"]) == Step("caption", "autoregressive", temperature=0.3)


def test_a_caption_guides_an_image_over_several_steps(bundle: ToyBundle) -> None:
    chosen = step(bundle, "tok_rgb@16", ["caption#2"])
    assert (chosen.num_steps, chosen.guidance) == (8, 3.0)


def test_maps_give_an_image_over_several_steps(bundle: ToyBundle) -> None:
    assert step(bundle, "tok_rgb@16", ["tok_depth@16"]).num_steps == 8


def test_nothing_is_guided_by_nothing(bundle: ToyBundle) -> None:
    assert step(bundle, "tok_rgb@16", []).guidance == 1.0


def test_what_the_model_cannot_read_comes_in_one_step(bundle: ToyBundle) -> None:
    assert step(bundle, "tok_edges@16", ["caption"]).num_steps == 1


def test_a_target_that_was_generated_before_counts_as_seen(bundle: ToyBundle) -> None:
    steps = plan(bundle, ["tok_rgb@16", "tok_depth@16"], ["caption"]).steps
    assert [s.num_steps for s in steps] == [8, 1]


@pytest.mark.parametrize("given", [[], ["rgb@16"], ["caption"], ["tok_depth@16", "caption"]])
def test_a_model_can_follow_every_default_plan(given: list[str], bundle: ToyBundle) -> None:
    targets = [m.name for m in bundle.model.modalities.outputs]
    plan(bundle, targets, given).check(bundle.model.modalities, given)
