from typing import Any

import pytest
import torch
from torch import Tensor

from fourm.errors import ConfigError, DataError
from fourm.generate.plan import GenerationPlan, Step
from fourm.generate.sampler import Generated, Sampler
from fourm.modality import ModalitySet
from fourm.models.multimodal import Multimodal
from fourm.tokens import SpecialIds
from tests.unit.generate.toy import SEEDS, build_model

Given = dict[str, dict[str, Tensor]]
SPECIAL = SpecialIds(num_sentinels=20)
STEPS = {
    "autoregressive": Step("det", "autoregressive"),
    "guided autoregressive": Step("det", "autoregressive", guidance=2.0),
    "text with a gap": Step("caption", "autoregressive"),
    "maskgit": Step("tok_depth@16", "maskgit", 4),
    "roar": Step("tok_depth@16", "roar", 4, top_p=0.9),
    "guided roar": Step("tok_depth@16", "roar", 4, guidance=2.0, temperature_schedule="onex:0.5:1"),
    "one step": Step("tok_edges@16"),
    "conditions": Step("tok_rgb@16", "maskgit", 3, conditions={"caption": 2.0, "rgb@16": -0.5}),
    "inpainting": Step("tok_semseg@16", "roar", 3),
}


def run(model: Multimodal, plan: GenerationPlan | Step, given: Given, seeds: Tensor = SEEDS) -> Generated:
    plan = GenerationPlan([plan]) if isinstance(plan, Step) else plan
    return Sampler(model, SPECIAL).run(plan, given, seeds=seeds)


def row(given: Given, i: int) -> Given:
    return {name: {key: tensor[i : i + 1] for key, tensor in facts.items()} for name, facts in given.items()}


def stripped(ids: Tensor) -> list[int]:
    return ids[ids >= 0].tolist()


@pytest.mark.parametrize("name", STEPS)
def test_a_sample_does_not_depend_on_its_batch(name: str, model: Multimodal, given: Given) -> None:
    step = STEPS[name]
    together = run(model, step, given).ids[step.target]
    for i in range(3):
        alone = run(model, step, row(given, i), SEEDS[i : i + 1]).ids[step.target]
        assert stripped(alone[0]) == stripped(together[i])


@pytest.mark.parametrize("name", STEPS)
def test_the_same_seeds_give_the_same_tokens_and_others_do_not(name: str, model: Multimodal, given: Given) -> None:
    step = STEPS[name]
    first = run(model, step, given).ids[step.target]
    assert torch.equal(run(model, step, given).ids[step.target], first)
    other = run(model, step, given, SEEDS + 100).ids[step.target]
    assert stripped(other) != stripped(first)


@pytest.mark.parametrize("name", ["maskgit", "roar", "autoregressive"])
def test_guidance_of_one_is_no_guidance(name: str, model: Multimodal, given: Given) -> None:
    step = STEPS[name]
    plain = run(model, step, given).ids[step.target]
    conditions = {"rgb@16": 1.0}
    guided = Step(step.target, step.scheme, step.num_steps, top_p=step.top_p, conditions=conditions)
    only = {"rgb@16": given["rgb@16"]}
    assert torch.equal(run(model, guided, only).ids[step.target], run(model, step, only).ids[step.target])
    assert not torch.equal(plain, run(model, step, only).ids[step.target])


def test_guidance_of_zero_ignores_what_is_given(model: Multimodal, given: Given) -> None:
    step = Step("tok_depth@16", "roar", 4, guidance=0.0)
    other = {**given, "rgb@16": {**given["rgb@16"], "values": -given["rgb@16"]["values"]}}
    assert torch.equal(run(model, step, given).ids["tok_depth@16"], run(model, step, other).ids["tok_depth@16"])


def test_a_generated_modality_is_given_to_later_steps(model: Multimodal, given: Given) -> None:
    first, second = Step("tok_depth@16", "roar", 4), Step("tok_rgb@16", temperature=0.0)
    chain = run(model, GenerationPlan([first, second]), given)
    depth = {"ids": chain.ids["tok_depth@16"], "positions": torch.arange(16).expand(3, 16)}
    alone = run(model, second, {**given, "tok_depth@16": depth})
    assert torch.equal(chain.ids["tok_rgb@16"], alone.ids["tok_rgb@16"])
    apart = run(model, GenerationPlan([first, second], chained=False), given)
    assert torch.equal(apart.ids["tok_depth@16"], chain.ids["tok_depth@16"])
    assert not torch.equal(apart.ids["tok_rgb@16"], chain.ids["tok_rgb@16"])


def test_a_generated_text_is_given_to_later_steps_with_its_end(model: Multimodal, given: Given) -> None:
    given = {"rgb@16": given["rgb@16"]}
    first, second = Step("caption", "autoregressive", num_tokens=6), Step("tok_rgb@16", temperature=0.0)
    chain = run(model, GenerationPlan([first, second]), given)
    rows = [[*stripped(ids), SPECIAL.end] for ids in chain.ids["caption"]]
    length = max(map(len, rows))
    ids = torch.tensor([r + [-1] * (length - len(r)) for r in rows])
    alone = run(model, second, {**given, "caption": {"ids": ids}})
    assert torch.equal(chain.ids["tok_rgb@16"], alone.ids["tok_rgb@16"])


def test_another_step_before_does_not_change_the_draws_of_a_target(model: Multimodal, given: Given) -> None:
    depth = Step("tok_depth@16", "roar", 4)
    plan = GenerationPlan([Step("tok_rgb@16"), depth], chained=False)
    assert torch.equal(run(model, plan, given).ids["tok_depth@16"], run(model, depth, given).ids["tok_depth@16"])


def test_growing_conditions_change_guided_later_steps(model: Multimodal, given: Given) -> None:
    def chain(grow: bool) -> Tensor:
        first = Step("tok_depth@16", grow_conditioning=grow)
        plan = GenerationPlan([first, Step("tok_rgb@16", guidance=4.0, keep_probabilities=True)])
        return run(model, plan, {"caption": given["caption"]}).probabilities["tok_rgb@16"]

    assert not torch.allclose(chain(True), chain(False), atol=1e-4)


def test_visible_text_stays_and_its_gaps_are_filled(model: Multimodal, given: Given) -> None:
    visible = torch.tensor([[90, 5, 91, 6, 92, 3]] * 3)
    ids = run(model, Step("caption", "autoregressive"), {**given, "caption": {"ids": visible}}).ids["caption"]
    for sample in ids:
        kept = [token for token in stripped(sample) if token in (90, 91, 92)]
        assert kept[0] == 90
        assert kept[-1] == 92
        assert not set(stripped(sample)) & set(range(SPECIAL.end, SPECIAL.sentinel(20)))


@pytest.mark.parametrize("given_names", [[], ["caption"], ["vectors", "tok_semseg@16"]])
@pytest.mark.parametrize("target", ["tok_depth@16", "tok_edges@16", "caption"])
def test_anything_from_anything_and_from_nothing(
    given_names: list[str], target: str, model: Multimodal, given: Given
) -> None:
    step = Step(target) if target.startswith("tok") else Step(target, "autoregressive")
    some = {name: given[name] for name in given_names if name != target}
    assert len(run(model, step, some).ids[target]) == 3


@pytest.mark.parametrize("options", [{"num_register_tokens": 0}, {"num_register_tokens": 3, "tie_heads": True}])
def test_models_with_and_without_registers_generate(
    options: dict[str, Any], modalities: ModalitySet, given: Given
) -> None:
    model = build_model(modalities, **options)
    plan = GenerationPlan([Step("tok_depth@16", "maskgit", 3, guidance=2.0), Step("caption", "autoregressive")])
    assert set(run(model, plan, given).ids) == {"tok_depth@16", "caption"}


def test_bfloat16_generates_valid_tokens(model: Multimodal, given: Given) -> None:
    plan = GenerationPlan([Step("tok_depth@16", "roar", 4, guidance=2.0), Step("det", "autoregressive")])
    ids = Sampler(model, SPECIAL, bf16=True).run(plan, given, seeds=SEEDS).ids["tok_depth@16"]
    assert ((ids >= 0) & (ids < 16)).all()


def test_a_model_in_training_is_in_training_afterwards(model: Multimodal, given: Given) -> None:
    model.train()
    try:
        run(model, Step("tok_edges@16"), given)
        assert model.training
    finally:
        model.eval()


def test_results_are_ordinary_tensors(model: Multimodal, given: Given) -> None:
    ids = run(model, Step("tok_edges@16"), given).ids["tok_edges@16"]
    assert not ids.is_inference()


def test_each_finished_target_is_reported(model: Multimodal, given: Given) -> None:
    seen: list[str] = []
    plan = GenerationPlan([Step("tok_depth@16"), Step("tok_edges@16")])
    Sampler(model, SPECIAL).run(plan, given, seeds=SEEDS, watch=seen.append)
    assert seen == ["tok_depth@16", "tok_edges@16"]


def test_given_tensors_need_a_row_per_seed(model: Multimodal, given: Given) -> None:
    with pytest.raises(DataError, match="has 3 rows, but there are 2 seeds"):
        run(model, Step("tok_depth@16"), given, SEEDS[:2])


def test_given_tokens_of_a_target_must_be_of_its_vocabulary(model: Multimodal) -> None:
    partial = {"ids": torch.tensor([[16]] * 3), "positions": torch.tensor([[0]] * 3)}
    with pytest.raises(DataError, match="id 16 is out of range; expected 0 to 15"):
        run(model, Step("tok_depth@16"), {"tok_depth@16": partial})


def test_a_target_the_model_only_reads_is_refused(model: Multimodal, given: Given) -> None:
    with pytest.raises(ConfigError, match="is an input only"):
        run(model, Step("rgb@16"), given)
