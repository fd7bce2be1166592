from collections.abc import Sequence
from functools import partial

import pytest

from fourm.catalog import get, resolve
from fourm.generate.bundle import raw_modality
from fourm.generate.defaults import all_targets, default_plan
from fourm.generate.plan import GenerationPlan, Step
from fourm.generate.planning import make_plan
from fourm.modality import ModalitySet
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


FEATURES = ["tok_clip@224", "tok_dinov2@224", "tok_dinov2_global", "tok_imagebind@224", "tok_imagebind_global"]
MAPS = ["tok_depth@224", "tok_normal@224", "tok_semseg@224", "tok_canny_edge@224", "tok_sam_edge@224"]
TEXTS = ["det", "human_poses", "sam_instance", "color_palette", "metadata"]
PUBLISHED = resolve(["rgb@224", "tok_rgb@224", *FEATURES, *MAPS, "caption", *TEXTS])
LARGE = resolve([*PUBLISHED, "tok_rgb@448", "tok_clip@448"])


def published(target: str, *given: str) -> Step:
    """Without tokenizers, what tokens show is known by their names in the catalog."""
    raw = {m.name: m if m.tokenizer in (None, "text") else get(m.tokenizer) for m in LARGE.values()}
    return default_plan([LARGE[target]], given, LARGE, lambda m: raw[m.name]).steps[0]


def test_published_models_draw_maps_of_an_image_in_one_cold_guided_step() -> None:
    for target in (*MAPS, "tok_clip@224", "tok_dinov2@224"):
        assert published(target, "rgb@224") == Step(target, "roar", temperature=0.01, guidance=2.0)


@pytest.mark.parametrize("given", [["caption"], ["tok_depth@224"], ["det", "color_palette"]])
def test_published_models_draw_features_before_there_is_an_image_as_in_the_demo(given: list[str]) -> None:
    assert published("tok_clip@224", *given) == Step(
        "tok_clip@224",
        "roar",
        50,
        schedule="linear",
        temperature=5.0,
        temperature_schedule="onex:0.5:0.5",
        top_p=0.8,
        guidance=3.0,
        grow_conditioning=True,
    )


def test_published_models_draw_images_as_in_the_demo() -> None:
    step = published("tok_rgb@224", "caption", "tok_clip@224")
    assert (step.scheme, step.num_steps, step.temperature) == ("roar", 25, 3.0)
    assert (step.guidance, step.top_p, step.schedule) == (2.0, 0.8, "linear")
    assert published("tok_rgb@224").guidance == 1.0


@pytest.mark.parametrize("given", [["tok_rgb@224"], ["rgb@224", "caption"]])
def test_super_resolution_is_maskgit_in_eight_steps(given: list[str]) -> None:
    assert published("tok_rgb@448", *given) == Step(
        "tok_rgb@448", "maskgit", 8, temperature=1.0, top_p=0.9, guidance=3.0, grow_conditioning=True
    )


@pytest.mark.parametrize("given", ["rgb@224", "caption", "tok_clip@224"])
def test_global_features_for_retrieval_come_in_one_step(given: str) -> None:
    for target in ("tok_dinov2_global", "tok_imagebind_global"):
        assert published(target, given) == Step(target, "roar", temperature=0.1)


def test_instances_have_as_many_tokens_as_in_the_demo() -> None:
    assert published("sam_instance", "rgb@224").num_tokens == 256
    assert [PUBLISHED[name].num_tokens for name in ("caption", "det", "human_poses", "color_palette", "metadata")] == [
        256, 256, 275, 23, 40
    ]  # fmt: skip
    assert published("human_poses", "rgb@224").num_tokens is None


def test_all_targets_come_in_the_order_of_the_demo_without_what_is_given() -> None:
    names = [m.name for m in all_targets(["rgb@224", "caption#not"], PUBLISHED)]
    assert names == [*FEATURES, *MAPS, *TEXTS]
    assert [m.name for m in all_targets(["tok_depth@224"], PUBLISHED)][-7:] == ["tok_rgb@224", "caption", *TEXTS]


def test_other_grids_come_before_the_image_and_other_texts_last(modalities: ModalitySet) -> None:
    names = [m.name for m in all_targets([], modalities)]
    assert names == [f"tok_{name}@16" for name in ("depth", "semseg", "edges", "rgb")] + ["caption", "det"]


def test_all_can_be_asked_by_that_word(bundle: ToyBundle) -> None:
    plan, names = make_plan(bundle, ["all"], ["caption"], None)
    assert plan.targets == [m.name for m in all_targets(["caption"], bundle.model.modalities)]
    assert list(names.values()) == plan.targets
    assert list(names) == ["depth", "semseg", "edges", "rgb", "det"]
