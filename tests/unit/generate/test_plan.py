import re
from pathlib import Path

import pytest
import yaml

from fourm import config as configs
from fourm import recipes
from fourm.catalog import resolve
from fourm.errors import ConfigError
from fourm.generate.plan import GenerationPlan, Step
from fourm.modality import ModalitySet
from fourm.tokenizers.text import TextTokenizer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "maskgti"}, "scheme is 'maskgti'; expected one of autoregressive, maskgit, roar"),
        ({"num_steps": 0}, "num_steps is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature_schedule": "onex:nan:0.5"}, "temperature_schedule is 'onex:nan:0.5'"),
        ({"temperature_schedule": "onex:inf:0.5"}, "temperature_schedule is 'onex:inf:0.5'"),
        ({"guidance": float("nan")}, "guidance is nan; expected a finite number"),
        ({"guidance": float("-inf")}, "guidance is -inf"),
        ({"conditions": {"rgb": float("inf")}}, "the weight of condition 'rgb' is inf"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_k": 1.5}, "top_k is 1.5"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"scheme": "maskgit", "remask": 1.0}, "remask is 1.0; expected a share"),
        ({"remask": 0.5}, "remask is 0.5; expected 0 with scheme roar"),
        ({"min_tokens": -1}, "min_tokens is -1"),
        ({"min_tokens": 5, "num_tokens": 4}, "min_tokens is 5; expected 0 or more, at most num_tokens"),
        ({"schedule": "quadratic"}, "schedule is 'quadratic'"),
        ({"schedule": [3, 4], "num_steps": 3}, "schedule has 2 counts, but num_steps is 3"),
        ({"temperature_schedule": "hot"}, "temperature_schedule is 'hot'"),
        ({"guidance": 2.0, "conditions": {"rgb": 1.0}}, "guidance 2.0 and conditions are both set"),
    ],
)
def test_a_wrong_value_names_the_step_and_the_key(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match="step 'tok_depth@16': ") as error:
        Step("tok_depth@16", **options)  # type: ignore[arg-type]
    assert message in str(error.value)


def test_listed_counts_set_the_number_of_steps() -> None:
    assert Step("tok_depth@16", schedule=[4, 12]).num_steps == 2


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Step("rgb@16"), "is an input only"),
        (Step("tok_depth@16", "autoregressive"), "use roar or maskgit"),
        (Step("caption"), "use scheme autoregressive"),
        (Step("caption", "autoregressive", stop=[100_000]), "stop names 100000; expected ids from 0 to"),
        (Step("caption", "autoregressive", stop=["sofa"]), "stop names 'sofa'; .* Words need a text tokenizer"),
        (Step("caption", "autoregressive", min_tokens=13), "min_tokens is 13, but 'caption' has at most 12 tokens"),
        (Step("tok_depth@16", stop=[3]), "stop and min_tokens are for sequences"),
        (Step("tok_depth@16", num_tokens=5), "always has 16"),
        (Step("tok_edges@16", num_steps=2), "use num_steps 1"),
        (Step("tok_depth@16", conditions={"caption": 1.0}), "condition 'caption' is neither given nor generated"),
        (Step("tok_depth@16", conditions={"tok_depth@16": 1.0}), "cannot be one of its conditions"),
    ],
)
def test_a_model_refuses_steps_it_cannot_follow(step: Step, message: str, modalities: ModalitySet) -> None:
    with pytest.raises(ConfigError, match=message):
        GenerationPlan([step]).check(modalities, ["rgb@16", "tok_depth@16"])


def test_what_was_generated_can_be_a_condition() -> None:
    modalities = resolve(["rgb@64", "tok_depth@64", "tok_rgb@64"])
    steps = [Step("tok_depth@64"), Step("tok_rgb@64", conditions={"tok_depth@64": 2.0})]
    GenerationPlan(steps).check(modalities, ["rgb@64"])
    with pytest.raises(ConfigError, match="neither given nor generated"):
        GenerationPlan(steps, chained=False).check(modalities, ["rgb@64"])


def test_a_further_value_that_guides_no_step_is_refused(modalities: ModalitySet) -> None:
    GenerationPlan([Step("tok_depth@16", conditions={"caption#not": -1.0})]).check(modalities, ["caption#not"])
    with pytest.raises(
        ConfigError, match=r"given 'caption#x': no step is guided by it.*`conditions:` .*{caption: 3, 'caption#x': -1}"
    ):
        GenerationPlan([Step("tok_depth@16")]).check(modalities, ["caption", "caption#x"])


def test_what_a_model_generates_but_cannot_read_is_no_condition(modalities: ModalitySet) -> None:
    plan = GenerationPlan([Step("tok_edges@16"), Step("tok_depth@16", conditions={"tok_edges@16": 2.0})])
    with pytest.raises(ConfigError, match="condition 'tok_edges@16' cannot be read by this model; there are: caption"):
        plan.check(modalities, ["caption"])


def test_a_plan_needs_steps_and_every_target_once() -> None:
    with pytest.raises(ConfigError, match="at least one step"):
        GenerationPlan([])
    with pytest.raises(ConfigError, match="generates 'tok_rgb' twice"):
        GenerationPlan([Step("tok_rgb"), Step("tok_rgb")])


def test_names_are_resolved_with_their_labels(modalities: ModalitySet) -> None:
    plan = GenerationPlan([Step("depth", conditions={"caption": 2.0, "caption#not": -1.0, "rgb": 1.0})])
    (step,) = plan.resolve(modalities).steps
    assert step.target == "tok_depth@16"
    assert step.conditions == {"caption": 2.0, "caption#not": -1.0, "rgb@16": 1.0}


def test_what_a_step_sees_is_resolved_and_has_to_be_there(modalities: ModalitySet) -> None:
    plan = GenerationPlan([Step("semseg", sees=["rgb"]), Step("depth", sees=["semseg", "caption"])])
    found = plan.resolve(modalities)
    assert [step.sees for step in found.steps] == [["rgb@16"], ["tok_semseg@16", "caption"]]
    found.check(modalities, ["rgb@16", "caption"])
    with pytest.raises(ConfigError, match=r"what it sees, 'caption' is neither given nor generated before"):
        found.check(modalities, ["rgb@16"])


def test_a_condition_has_to_be_among_what_a_step_sees() -> None:
    Step("depth", sees=["caption"], conditions={"caption": 1.0, "caption#not": -1.0})
    with pytest.raises(ConfigError, match="condition 'rgb' is not among what it sees: caption"):
        Step("depth", sees=["caption"], conditions={"rgb": 1.0})


def test_steps_of_another_model_know_its_modalities() -> None:
    base = resolve(["caption", "tok_rgb@224"])
    plan = GenerationPlan([Step("rgb"), Step("tok_clip@448", model="super"), Step("tok_rgb@448", model="super")])
    found = plan.resolve(base, {"super": SUPER})
    assert found.targets == ["tok_rgb@224", "tok_clip@448", "tok_rgb@448"]
    found.check(base, ["caption"], {"super": SUPER})
    assert [(leg.model, leg.targets) for leg in found.legs()] == [
        (None, found.targets[:1]),
        ("super", found.targets[1:]),
    ]


def test_a_model_that_is_not_there_and_one_that_reads_nothing_are_told() -> None:
    base, plan = (
        resolve(["rgb@64", "tok_depth@64"]),
        GenerationPlan([Step("depth"), Step("tok_rgb@448", model="super")]),
    )
    with pytest.raises(ConfigError, match="there is no model 'super'; name its folder under `models:` of the plan, or"):
        plan.resolve(base)
    with pytest.raises(ConfigError, match="there is no model 'supper'.* Did you mean 'super'"):
        GenerationPlan([Step("tok_rgb@448", model="supper")]).resolve(base, {"super": SUPER})
    with pytest.raises(
        ConfigError, match=r"model 'super' reads nothing of what there is: rgb@64, tok_depth@64; it reads"
    ):
        plan.resolve(base, {"super": SUPER}).check(base, ["rgb@64"], {"super": SUPER})


def test_stop_words_become_their_ids(wordpiece: TextTokenizer) -> None:
    plan = GenerationPlan([Step("caption", "autoregressive", stop=["sofa", 3])]).spell_out(wordpiece.encode)
    assert plan.steps[0].stop == [*wordpiece.encode("sofa").tolist(), 3]
    with pytest.raises(ConfigError, match=r"stop names 'a red sofa', which is \d tokens"):
        GenerationPlan([Step("caption", "autoregressive", stop=["a red sofa"])]).spell_out(wordpiece.encode)


SHIPPED = {
    "everything": [
        *("rgb@224", "tok_clip@224", "tok_dinov2@224", "tok_imagebind@224", "tok_dinov2_global"),
        *("tok_imagebind_global", "tok_depth@224", "tok_normal@224", "tok_semseg@224", "tok_canny_edge@224"),
        *("tok_sam_edge@224", "caption", "det", "human_poses", "sam_instance", "color_palette", "metadata"),
    ],
    "anything_to_image": ["caption", "tok_depth@224", "tok_clip@224", "tok_rgb@224"],
    "retrieval": ["rgb@224", "tok_dinov2_global"],
    "dense": ["rgb@64", "tok_depth@64", "tok_normal@64", "tok_semseg@64", "caption", "det"],
    "text_to_image": ["caption", "tok_rgb@64"],
    "text_to_image_clip": ["caption", "tok_clip@224", "tok_rgb@224"],
    "variation": ["rgb@224", "tok_clip@224", "tok_rgb@224"],
    "redraw": ["rgb@64", "tok_depth@64", "tok_semseg@64", "tok_rgb@64"],
    "edit": ["rgb@64", "caption", "tok_depth@64", "tok_normal@64", "tok_rgb@64"],
    "text_to_image_448": ["caption", "tok_clip@224", "tok_rgb@224"],
    "super_resolution": ["caption", "tok_clip@224", "tok_rgb@224", "tok_clip@448", "tok_rgb@448"],
}


SUPER = resolve(["caption", "tok_clip@224", "tok_rgb@224", "tok_clip@448", "tok_rgb@448"])


def test_every_shipped_plan_is_tested(checkout: Path) -> None:
    assert {path.stem for path in (checkout / "cfgs" / "generate").glob("*.yaml")} == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_plan_suits_its_modalities(name: str) -> None:
    modalities = resolve(SHIPPED[name])
    plan = recipes.load(name, GenerationPlan, folder="generate").resolve(modalities, {"super": SUPER})
    given = [m.name for m in modalities.inputs if m.name not in plan.targets]
    plan.check(modalities, given, {"super": SUPER})
    assert plan.steps
    assert set(plan.models) == {step.model for step in plan.steps} - {None}


def test_a_mistake_in_a_plan_file_names_file_and_key(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("steps:\n  - {target: depth, temprature: 2}\n")
    with pytest.raises(ConfigError, match=r"steps\[0\].temprature is not a known key.*mine.yaml"):
        recipes.load(path, GenerationPlan)


def test_the_plans_in_the_documentation_are_plans(checkout: Path) -> None:
    text = (checkout / "docs" / "generation.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        assert configs.build(GenerationPlan, yaml.safe_load(block)).steps
