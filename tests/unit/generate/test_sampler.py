from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fourm.errors import CheckpointError, ConfigError, DataError
from fourm.generate.plan import GenerationPlan, Step
from fourm.generate.sampler import Generated, Sampler
from fourm.generate.sampling import guide
from fourm.modality import ModalitySet
from fourm.models.multimodal import Multimodal
from fourm.tokens import SpecialIds
from tests.unit.generate.toy import SEEDS, build_model

Given = dict[str, dict[str, Tensor]]
SPECIAL = SpecialIds(num_sentinels=20)
S1, END = 5, 3
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
    "guided maskgit": Step("tok_depth@16", "maskgit", 4, guidance=2.0, top_k=8),
    "maskgit that masks again": Step("tok_depth@16", "maskgit", 4, remask=0.4, temperature_schedule="linear"),
    "guided inpainting": Step("tok_semseg@16", "maskgit", 3, guidance=2.0),
    "guided text with a gap": Step("caption", "autoregressive", guidance=2.0, temperature_schedule="onex:0.2:0.5"),
    "several conditions of a text": Step("det", "autoregressive", conditions={"caption": 2.0, "rgb@16": -0.5}),
}
REGISTERS = [0, 2]


def run(model: Multimodal, plan: GenerationPlan | Step, given: Given, seeds: Tensor = SEEDS) -> Generated:
    plan = GenerationPlan([plan]) if isinstance(plan, Step) else plan
    return Sampler(model, SPECIAL).run(plan, given, seeds=seeds)


def row(given: Given, i: int) -> Given:
    return {name: {key: tensor[i : i + 1] for key, tensor in facts.items()} for name, facts in given.items()}


def stripped(ids: Tensor) -> list[int]:
    return ids[ids >= 0].tolist()


@pytest.fixture(scope="module", params=REGISTERS, ids=lambda count: f"{count} registers")
def any_model(request: pytest.FixtureRequest, modalities: ModalitySet) -> Multimodal:
    return build_model(modalities, num_register_tokens=request.param)


def eight(given: Given) -> Given:
    """Eight samples that are given different parts of different samples."""
    mixed = {}
    for number, (name, facts) in enumerate(given.items()):
        order = torch.tensor([0, 1, 2, 1, 0, 2, 2, 1]).roll(number)
        mixed[name] = {key: tensor[order] for key, tensor in facts.items()}
    return mixed


@pytest.mark.parametrize("name", STEPS)
def test_a_sample_does_not_depend_on_its_batch(name: str, any_model: Multimodal, given: Given) -> None:
    step, given, seeds = STEPS[name], eight(given), torch.arange(8) * 7 + 1
    together = run(any_model, step, given, seeds).ids[step.target]
    for i in range(8):
        alone = run(any_model, step, row(given, i), seeds[i : i + 1]).ids[step.target]
        assert stripped(alone[0]) == stripped(together[i])


def test_a_chain_does_not_depend_on_its_batch(any_model: Multimodal, given: Given) -> None:
    steps = [
        Step("caption", "autoregressive", guidance=2.0, grow_conditioning=True),
        Step("tok_depth@16", "maskgit", 3, guidance=2.0, grow_conditioning=True),
        Step("tok_rgb@16", "roar", 3, guidance=3.0, top_p=0.9),
    ]
    given, seeds = eight(given), torch.arange(8) * 7 + 1
    together = run(any_model, GenerationPlan(steps), given, seeds).ids
    for i in range(8):
        alone = run(any_model, GenerationPlan(steps), row(given, i), seeds[i : i + 1]).ids
        assert {n: stripped(ids[0]) for n, ids in alone.items()} == {n: stripped(ids[i]) for n, ids in together.items()}


def test_how_hot_a_text_is_drawn_does_not_depend_on_longer_ones_beside_it(model: Multimodal) -> None:
    """The room that others have must not stretch a sample's own temperature schedule."""
    visible = torch.tensor([[*range(80, 88), S1, END], [S1, END, *[-1] * 8]])
    step = Step("caption", "autoregressive", temperature=4.0, temperature_schedule="linear", min_tokens=12)
    together = run(model, step, {"caption": {"ids": visible}}, SEEDS[:2]).ids["caption"]
    alone = run(model, step, {"caption": {"ids": visible[:1]}}, SEEDS[:1]).ids["caption"]
    assert stripped(alone[0]) == stripped(together[0])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", [name for name, step in STEPS.items() if step.scheme == "autoregressive"])
def test_the_cache_of_keys_and_values_changes_no_token(
    name: str, temperature: float, any_model: Multimodal, given: Given
) -> None:
    step = replace(STEPS[name], temperature=temperature, min_tokens=12)
    plan = GenerationPlan([step])
    cached = Sampler(any_model, SPECIAL).run(plan, given, seeds=SEEDS).ids[step.target]
    uncached = Sampler(any_model, SPECIAL, cache=False).run(plan, given, seeds=SEEDS).ids[step.target]
    assert cached.shape[1] >= 6
    assert torch.equal(cached, uncached)


def test_without_the_cache_the_whole_string_passes_through_the_decoder_each_time(
    model: Multimodal, given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    decode = model.decode
    monkeypatch.setattr(
        model, "decode", lambda batch, *a, **k: lengths.append(batch.ids.shape[1]) or decode(batch, *a, **k)
    )
    plan = GenerationPlan([Step("det", "autoregressive", min_tokens=6, num_tokens=6)])
    for cache in (True, False):
        Sampler(model, SPECIAL, cache=cache).run(plan, given, seeds=SEEDS)
    assert lengths == [1] * 6 + [1, 2, 3, 4, 5, 6]


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


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_texts_keep_the_probabilities_of_their_tokens(
    guidance: float, cache: bool, model: Multimodal, given: Given
) -> None:
    visible = torch.tensor([[90, S1, 92, END]] * 3)
    given = {"rgb@16": given["rgb@16"], "caption": {"ids": visible}}
    step = Step("caption", "autoregressive", guidance=guidance, temperature=0.0, min_tokens=3, keep_probabilities=True)
    generated = Sampler(model, SPECIAL, cache=cache).run(GenerationPlan([step]), given, seeds=SEEDS)
    ids, kept = generated.ids["caption"], generated.probabilities["caption"]
    assert kept.shape == (*ids.shape, model.modalities["caption"].vocab_size)
    torch.testing.assert_close(kept.sum(-1), (ids >= 0).float())
    run_ids = ids[:, 1:4]
    asked = {"caption": {"ids": torch.cat([torch.full((3, 1), S1), run_ids, run_ids[:, :1]], 1)}}
    with torch.no_grad():
        logits = model.logits(given, asked)["caption"][:, :3]
        if guidance != 1:
            empty = {**given, "rgb@16": {**given["rgb@16"], "positions": torch.full((3, 16), -1)}}
            logits = guide(model.logits(empty, asked)["caption"][:, :3], [logits], [guidance])
    torch.testing.assert_close(kept[:, 1:4], logits.softmax(-1), atol=1e-5, rtol=1e-4)
    likelihood = generated.likelihood("caption")
    assert likelihood[:, 0].tolist() == [1.0] * 3
    torch.testing.assert_close(likelihood[:, 1:4], kept[:, 1:4].gather(-1, run_ids[..., None])[..., 0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["maskgit", "guided roar", "autoregressive"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_an_error(
    temperature: float, name: str, bad: float, modalities: ModalitySet, given: Given
) -> None:
    model = build_model(modalities)
    with torch.no_grad():
        model.decoder.norm.weight.fill_(bad)
    step = replace(STEPS[name], temperature=temperature)
    with pytest.raises(CheckpointError, match=rf"the model's logits for '{step.target}' are not finite"):
        run(model, step, given)


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


@pytest.mark.parametrize(("bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_the_layers_compute_in_the_numbers_that_were_asked_for(
    bf16: bool, dtype: torch.dtype, model: Multimodal, given: Given
) -> None:
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "coder." in n]
    seen: dict[str, torch.dtype] = {}
    hooks = [
        layer.register_forward_hook(lambda *call, name=name: seen.update({name: call[2].dtype}))
        for name, layer in layers
    ]
    try:
        plan = GenerationPlan([Step("tok_depth@16"), Step("det", "autoregressive", num_tokens=2)])
        Sampler(model, SPECIAL, bf16=bf16).run(plan, given, seeds=SEEDS)
    finally:
        for hook in hooks:
            hook.remove()
    assert {name.partition(".")[0] for name in seen} == {"encoder", "decoder"}
    assert set(seen.values()) == {dtype}


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
    seen: dict[str, Tensor] = {}
    plan = GenerationPlan([Step("tok_depth@16"), Step("tok_edges@16")])
    generated = Sampler(model, SPECIAL).run(
        plan, given, seeds=SEEDS, watch=lambda target, until: seen.update({target: until.ids[target]})
    )
    assert list(seen) == ["tok_depth@16", "tok_edges@16"]
    assert all(torch.equal(ids, generated.ids[target]) for target, ids in seen.items())


def test_what_watches_can_end_a_run_and_leaves_the_model_as_it_was(model: Multimodal, given: Given) -> None:
    def stop(target: str, _: object) -> None:
        raise KeyError(target)

    plan = GenerationPlan([Step("tok_depth@16"), Step("tok_edges@16")])
    with pytest.raises(KeyError, match="tok_depth@16"):
        Sampler(model, SPECIAL).run(plan, given, seeds=SEEDS, watch=stop)
    assert not torch.is_inference_mode_enabled()


def test_given_tensors_need_a_row_per_seed(model: Multimodal, given: Given) -> None:
    with pytest.raises(DataError, match="has 3 rows, but there are 2 seeds"):
        run(model, Step("tok_depth@16"), given, SEEDS[:2])


def test_given_tokens_of_a_target_must_be_of_its_vocabulary(model: Multimodal) -> None:
    partial = {"ids": torch.tensor([[16]] * 3), "positions": torch.tensor([[0]] * 3)}
    with pytest.raises(DataError, match="id 16 is out of range; expected 0 to 15"):
        run(model, Step("tok_depth@16"), {"tok_depth@16": partial})


@pytest.mark.parametrize(("ids", "wrong"), [([-3, 5], -3), ([5, 16], 16), ([-3, 16], 16)])
def test_the_given_id_that_is_wrong_is_named(ids: list[int], wrong: int, model: Multimodal) -> None:
    partial = {"ids": torch.tensor([ids] * 3), "positions": torch.tensor([[0, 1]] * 3)}
    with pytest.raises(DataError, match=f"id {wrong} is out of range"):
        run(model, Step("tok_depth@16"), {"tok_depth@16": partial})


def test_a_text_that_is_whole_is_certain(model: Multimodal) -> None:
    step = Step("caption", "autoregressive", keep_probabilities=True)
    whole = {"ids": torch.tensor([[90, 91, 3], [90, 3, -1], [90, 91, 3]])}
    generated = run(model, step, {"caption": whole})
    assert generated.ids["caption"].tolist() == [[90, 91], [90, -1], [90, 91]]
    assert generated.likelihood("caption").tolist() == [[1, 1], [1, 0], [1, 1]]


def test_a_target_the_model_only_reads_is_refused(model: Multimodal, given: Given) -> None:
    with pytest.raises(ConfigError, match="is an input only"):
        run(model, Step("rgb@16"), given)
