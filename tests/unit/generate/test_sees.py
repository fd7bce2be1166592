"""What a step sees: variations of a picture through something else, and edits of one modality of a chain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from fourm.errors import ConfigError
from fourm.generate.answer import any_to_any
from fourm.generate.job import run
from fourm.generate.plan import GenerationPlan, Step
from fourm.generate.planning import make_plan
from tests.unit.generate.toy import ToyBundle

ONE, OTHER = torch.rand(2, 1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(16)[None]
SEEDS = torch.tensor([5])


def depth_of(bundle: ToyBundle, rgb: Tensor, sees: list[str] | None, **options: Any) -> Tensor:
    plan = GenerationPlan([Step("depth", num_steps=2, sees=sees, **options)])
    found: Tensor = any_to_any(bundle, {"rgb": rgb, "tok_semseg": LABELS}, ["depth"], plan=plan, seeds=SEEDS)["depth"]
    return found


@pytest.mark.parametrize("options", [{}, {"guidance": 2.0}])
def test_what_a_step_does_not_see_does_not_matter(options: dict[str, Any], bundle: ToyBundle) -> None:
    blind, seeing = (
        [depth_of(bundle, rgb, sees, **options) for rgb in (ONE, OTHER)] for sees in (["semseg"], ["semseg", "rgb"])
    )
    assert torch.equal(*blind)
    assert not torch.equal(*seeing)
    assert torch.equal(depth_of(bundle, ONE, None, **options), seeing[0])


def test_a_picture_is_made_again_from_what_was_predicted_of_it(bundle: ToyBundle) -> None:
    """As if the prediction alone had been given."""
    steps = [Step("semseg", num_steps=2, sees=["rgb"]), Step("rgb", num_steps=4, sees=["semseg"])]
    chain = GenerationPlan(steps)
    for photograph in (ONE, OTHER):
        found = any_to_any(bundle, {"rgb": photograph}, ["tok_semseg", "rgb"], plan=chain, seeds=SEEDS)
        ids = bundle.tokenizers["tok_semseg@16"].encode(found["tok_semseg"])
        last = GenerationPlan(steps[1:])
        alone = any_to_any(bundle, {"tok_semseg": ids}, ["rgb"], plan=last, seeds=SEEDS)
        assert torch.equal(found["rgb"], alone["rgb"])


def test_a_modality_of_the_chain_can_be_replaced(bundle: ToyBundle) -> None:
    """Depth comes from the photograph, the caption from the user, and the new photograph from both."""
    sees = {"depth": ["rgb"], "rgb": ["depth", "caption"]}
    plan = GenerationPlan([Step("depth"), Step("rgb", num_steps=4, temperature=3.0, guidance=3.0)])
    one, other = (
        any_to_any(bundle, {"rgb": ONE, "caption": caption}, ["depth", "rgb"], plan=plan, sees=sees, seeds=SEEDS)
        for caption in ("a red sofa", "two chairs and a table")
    )
    assert torch.equal(one["depth"], other["depth"])
    assert not torch.equal(one["rgb"], other["rgb"])


def test_a_target_that_is_given_whole_is_made_anew_by_a_step_that_does_not_see_it(bundle: ToyBundle) -> None:
    plan = GenerationPlan([Step("rgb", num_steps=2, sees=["caption"])])
    caption = {"caption": "a red sofa"}
    anew = any_to_any(bundle, {"tok_rgb": LABELS, **caption}, ["rgb"], plan=plan, seeds=SEEDS)["rgb"]
    assert torch.equal(anew, any_to_any(bundle, caption, ["rgb"], plan=plan, seeds=SEEDS)["rgb"])
    with pytest.raises(ConfigError, match="part of 'tok_rgb' is given, but the step that completes it does not see"):
        any_to_any(bundle, {"tok_rgb": LABELS.where(LABELS < 8, -1), **caption}, ["rgb"], plan=plan)


def test_a_step_that_sees_itself_keeps_its_known_tokens(bundle: ToyBundle) -> None:
    plan = GenerationPlan([Step("rgb", num_steps=2, sees=["caption", "tok_rgb"])])
    given = {"tok_rgb": LABELS.where(LABELS < 8, -1), "caption": "a bed"}
    found = any_to_any(bundle, given, ["rgb"], plan=plan)["rgb"]
    ids = bundle.tokenizers["tok_rgb@16"].encode(found * 2 - 1)
    assert ids.flatten()[:8].tolist() == list(range(8))


def test_a_step_may_see_nothing(bundle: ToyBundle) -> None:
    plain = GenerationPlan([Step("depth", num_steps=2)])
    assert torch.equal(depth_of(bundle, ONE, []), any_to_any(bundle, {}, ["depth"], plan=plain, seeds=SEEDS)["depth"])


def test_a_guided_step_passes_over_grown_conditions_that_it_does_not_see(bundle: ToyBundle) -> None:
    steps = [
        Step("semseg", grow_conditioning=True),
        Step("depth", sees=["caption"], conditions={"caption": 2.0, "caption#not": -1.0}),
    ]
    given = {"rgb": ONE, "caption": "a bed", "caption#not": "a lamp"}
    found = any_to_any(bundle, given, ["depth"], plan=GenerationPlan(steps), seeds=SEEDS)["depth"]
    alone = GenerationPlan(steps[1:])
    del given["rgb"]
    assert torch.equal(found, any_to_any(bundle, given, ["depth"], plan=alone, seeds=SEEDS)["depth"])


def test_without_a_plan_what_a_target_is_made_from_guides_it(bundle: ToyBundle) -> None:
    plan, _ = make_plan(bundle, ["semseg", "rgb"], ["rgb"], None, {"rgb": ["semseg"]})
    first, second = plan.steps
    assert (first.sees, first.grow_conditioning) == (None, True)
    assert (second.sees, second.num_steps, second.guidance) == (["tok_semseg@16"], 8, 2.0)
    plan, _ = make_plan(bundle, ["rgb"], ["rgb", "caption"], None, {"rgb": ["caption"]})
    assert plan.steps[0].guidance == 3.0  # as for any caption: the photograph does not count


def test_the_command_says_what_a_target_sees_and_its_plan_can_be_given_back(bundle: ToyBundle, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    given, targets = [f"rgb={tmp_path / 'photo.png'}"], ["depth", "semseg", "rgb"]
    sees = ["depth=rgb", "rgb=depth, semseg", "semseg="]
    run(bundle, given=given, targets=targets, sees=sees, out=tmp_path / "a", device="cpu")
    plan = yaml.safe_load((tmp_path / "a" / "plan.yaml").read_text())
    assert [step["sees"] for step in plan["steps"]] == [["rgb@16"], [], ["tok_depth@16", "tok_semseg@16"]]
    run(bundle, given=given, targets=targets, plan=tmp_path / "a" / "plan.yaml", out=tmp_path / "b", device="cpu")
    for name in ("depth.png", "semseg.png", "rgb.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("sees", "message"),
    [
        ({"depth": ["rgb"]}, "sees depth: .* but it is not generated; generated are: semseg, rgb"),
        ({"rgb": ["sound"]}, "cannot read 'sound'"),
        ({"rgb": ["caption"]}, "what it sees, 'caption' is neither given nor generated before"),
        ({"semseg": ["tok_rgb"]}, "what it sees, 'tok_rgb@16' is neither given nor generated before"),
    ],
)
@pytest.mark.parametrize("plan", [None, GenerationPlan([Step("semseg"), Step("rgb")])])
def test_what_cannot_be_seen_is_told(
    sees: dict[str, list[str]], message: str, plan: GenerationPlan | None, bundle: ToyBundle
) -> None:
    with pytest.raises(ConfigError, match=message):
        any_to_any(bundle, {"rgb": ONE}, ["semseg", "rgb"], sees=sees, plan=plan)


def test_what_a_target_sees_replaces_what_a_plan_says(bundle: ToyBundle) -> None:
    plan = GenerationPlan([Step("semseg", sees=["rgb"]), Step("rgb", sees=["semseg", "rgb"])])
    found, _ = make_plan(bundle, ["rgb"], ["rgb"], plan, {"rgb": ["semseg"]})
    assert [step.sees for step in found.steps] == [["rgb@16"], ["tok_semseg@16"]]
