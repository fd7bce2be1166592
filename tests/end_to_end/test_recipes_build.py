"""Every YAML file that is shipped loads against its schema, and what it describes can be built."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from fourm import config as configs
from fourm import recipes
from fourm.data.configs import DataConfig
from fourm.paths import recipe_folder
from fourm.pipeline import load as load_pipeline

ALL = sorted(recipe_folder().rglob("*.yaml"))
PRETRAIN = sorted((recipe_folder() / "pretrain").glob("*.yaml"))
TOKENIZERS = [path for path in sorted((recipe_folder() / "tokenizers").glob("*.yaml")) if "_text" not in path.stem]
FINETUNE = sorted((recipe_folder() / "finetune").glob("*.yaml"))
SCALES = [
    (pipeline.stem, scale) for pipeline in ALL if pipeline.parent.name == "pipelines" for scale in ("full", "small")
]


@dataclass
class DataOfRecipe:
    """What recipes take their data from."""

    data: DataConfig


def name(path: Path) -> str:
    return path.relative_to(recipe_folder()).with_suffix("").as_posix()


def load(path: Path, *overrides: str) -> Any:
    """A shipped file against the schema of its folder; a folder that is not listed here fails its test."""
    from fourm.evaluate.caption_configs import CaptionsEvaluation
    from fourm.evaluate.configs import AnswersEvaluation, DocumentsEvaluation, EvaluateConfig, TokenizerEvaluation
    from fourm.evaluate.retrieval_configs import RetrievalEvaluation
    from fourm.generate.plan import GenerationPlan
    from fourm.pipeline import Pipeline
    from fourm.prepare.photos.recipe import PhotosRecipe
    from fourm.prepare.sentences.recipe import SentencesRecipe
    from fourm.recipe.finetune_schema import FinetuneRecipe
    from fourm.recipe.schema import PretrainRecipe, TextTokenizerRecipe, TokenizerRecipe

    schema = {
        "pretrain": PretrainRecipe,
        "finetune": FinetuneRecipe,
        "tokenizers": TextTokenizerRecipe if "_text" in path.stem else TokenizerRecipe,
        "pipelines": Pipeline,
        "evaluate": {
            "tokenizer": TokenizerEvaluation,
            "answers": AnswersEvaluation,
            "documents": DocumentsEvaluation,
            "captions_fashion": CaptionsEvaluation,
            "captions_rooms": CaptionsEvaluation,
            "retrieval_fashion": RetrievalEvaluation,
            "retrieval_rooms": RetrievalEvaluation,
        }.get(path.stem, EvaluateConfig),
        "generate": GenerationPlan,
        "prepare": PhotosRecipe,
        "sentences": SentencesRecipe,
        "documents": DataOfRecipe,
    }[path.parent.name]
    # The command line gives what stands for a value.
    if path.stem == "tokenizer":
        overrides = ("tokenizer=outputs/depth", "data=data/val", *overrides)
    if path.parent.name == "evaluate" and path.stem in ("answers", "documents", "captions_fashion", "captions_rooms"):
        overrides = ("model=outputs/model", "data=data/val", *overrides)
    if path.parent.name == "prepare":
        overrides = ("input=photos", "output=data/photos", *overrides)
    return recipes.load(path, schema, overrides)


def step_of(path: Path) -> Any:
    """The deep models take a while even without numbers."""
    deep = path.stem.endswith(("_l", "_xl", "_600m", "_7b_1")) or path.stem.startswith("aim_imagenet")
    return pytest.param(path, id=name(path), marks=pytest.mark.slow if deep else ())


# Of the recipes that differ in their modalities or data alone, the smallest stands for the others.
ALIKE = {
    *("4m21_l", "4m21_xl", "4m_t2i_l", "4m_t2i_xl", "4m_b_rgb2dense"),
    *("aim_1b", "aim_3b", "aim_7b", "aimv2_huge", "aimv2_1b", "aimv2_3b", "aimv2_large"),
    *("lvm_600m", "lvm_1b", "lvm_3b", "lvm_7b", "delvm_1b"),
}
INTERLEAVED = ("vila_7b", "vila_13b", "vila15", "emu_13b", "emu2_33b", "vl_gpt_7b")
"""Built in tests/unit/recipe/test_interleaved_recipes.py."""
ALIKE |= {path.stem for path in PRETRAIN if path.stem.startswith(INTERLEAVED)} - {"vl_gpt_7b_1"}
STEPS = [path for path in PRETRAIN if path.stem not in ALIKE]
BUILT = [path for path in PRETRAIN if not path.stem.startswith(INTERLEAVED)]


@pytest.mark.parametrize("path", ALL, ids=name)
def test_loads(path: Path) -> None:
    load(path)


@pytest.mark.parametrize("path", [*PRETRAIN, *TOKENIZERS, *FINETUNE], ids=name)
def test_plain_values_make_the_same_recipe_again(path: Path) -> None:
    recipe = load(path)

    assert configs.build(type(recipe), configs.to_dict(recipe)) == recipe


@pytest.mark.parametrize("path", BUILT, ids=name)
def test_models_and_objectives_build_on_the_meta_device(path: Path) -> None:
    import torch

    from fourm.registry import implementation

    recipe = load(path)
    modalities = recipe.modality_set()
    implementation(recipe.objective.target)(recipe.objective, modalities)
    with torch.device("meta"):
        model = implementation(recipe.model.target)(modalities, recipe.model)

    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("path", [step_of(path) for path in STEPS])
def test_a_training_step_runs_on_the_meta_device(path: Path) -> None:
    """On meta tensors everything that would wait for the device raises, so the step has no host synchronisation. What
    it needs fits the GPUs that the recipe is meant for.
    """
    from fourm.recipe.check import check

    recipe = load(path)
    cost = check(recipe)

    reads = "decoder" if hasattr(recipe.model, "decoder_depth") else "towers"
    assert min(cost.parameters[reads], cost.flops_per_step) > 0
    assert ("encoder" in cost.parameters) == (getattr(recipe.model, "encoder_depth", 0) > 0)
    assert too_large(recipe, cost) == []


def too_large(recipe: Any, cost: Any) -> list[str]:
    """Of the GPUs that a recipe is meant for, and of 64 such, those without room enough, where a tenth stays free."""
    stated = recipe.machines
    return [
        f"{on.count} x {on.kind}: {cost.bytes_per_gpu(on) / 2**30:.1f} GiB"
        for on in {stated, replace(stated, count=min(stated.count, 64))}
        if cost.bytes_per_gpu(on) > 0.9 * on.memory_bytes
    ]


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in PRETRAIN if path not in STEPS], ids=name)
def test_the_other_recipes_fit_their_gpus_too(path: Path) -> None:
    from fourm.recipe.check import check

    recipe = load(path)
    assert too_large(recipe, check(recipe)) == []


def test_a_recipe_that_does_not_fit_is_found() -> None:
    """What a super-resolution step needed before its batch was divided."""
    from fourm.recipe.check import Cost

    recipe = load(recipe_folder() / "pretrain" / "4m_sr_l.yaml")
    facts = {"parameters": {}, "forward_flops": {}, "tokens_per_step": 1, "num_steps": 1, "peak_lr": 1.0}
    cost = Cost(**facts, batch_size=4096, state_bytes=14 << 30, sample_bytes=7722 << 20, sharded=True)
    assert sorted(too_large(recipe, cost)) == ["128 x a100: 120.8 GiB", "64 x a100: 241.5 GiB"]
    assert too_large(recipe, replace(cost, micro_batches=recipe.train.accumulation)) == []


@pytest.mark.parametrize("path", TOKENIZERS, ids=name)
def test_tokenizers_build_on_the_meta_device(path: Path) -> None:
    import torch

    from fourm.recipe.tokenizer import build_tokenizer

    with torch.device("meta"):
        tokenizer = build_tokenizer(load(path))

    assert sum(parameter.numel() for parameter in tokenizer.parameters()) > 10_000


@pytest.mark.parametrize("path", [step_of(path) for path in FINETUNE])
def test_fine_tuned_networks_build_on_the_meta_device_and_answer(path: Path) -> None:
    """A training step on meta tensors, of the shapes that the data would have."""
    import torch

    from fourm.modality import ModalitySet
    from fourm.recipe.finetune_check import meta_network
    from fourm.recipe.finetune_network import with_layer_decay
    from fourm.recipe.finetune_schema import resized
    from fourm.train.optimizer import parameter_groups

    toys = ("fashion", "rooms", "stamps", "aim_fashion")
    own = next((toy for toy in toys if path.stem.startswith(toy)), None)
    recipe = load(path)
    if own is not None:  # without the trained model, the network by the sizes of the recipe that trains it
        pretrain = load(recipe_folder() / "pretrain" / f"{own}.yaml")
        plain = {**configs.to_dict(pretrain.model), "kind": "multimodal"}
        recipe = configs.build(type(recipe), {**configs.to_dict(recipe), "model": plain})
    network = meta_network(recipe)
    sizes = recipe.backbone.image_size
    inputs = ModalitySet(resized(m, sizes) for m in network.backbone.modalities.values())

    # A detector has decisions within it that meta tensors cannot take: its backbone alone is run.
    called = network.backbone if recipe.is_detection else network
    with torch.device("meta"):
        output = called(
            {
                m.name: torch.zeros(2, m.num_tokens, dtype=torch.int64)
                if m.is_discrete
                else torch.zeros(2, m.channels or 1, *m.grid.image_size)
                for m in inputs.values()
            }
        )
        output = list(output.values())[-1] if recipe.is_detection else output
        output.float().sum().backward()
    assert parameter_groups(network, with_layer_decay(recipe, network).train.optimizer)
    if recipe.is_detection:
        assert output.shape[:2] == (2, recipe.backbone.out_channels)
        return

    classes = getattr(recipe.objective, "num_classes", None) or 2
    answer = recipe.answer(tuple(map(str, range(classes))))
    outputs = answer.vocab_size if answer.is_discrete else answer.channels
    assert output.shape[:2] == (2, outputs)


@pytest.mark.parametrize(("pipeline", "scale"), SCALES)
def test_every_command_of_a_pipeline_is_understood(pipeline: str, scale: str, fourm: Any) -> None:
    """At both scales: a warm-up longer than a small run, say, is an error before anything starts."""
    for stage in load_pipeline(pipeline, [f"scale={scale}"]).stages:
        for command in stage.run:
            words = shlex.split(command)[1:]
            takes_recipe = words[0] in ("pretrain", "train-tokenizer", "train-wordpiece", "evaluate")
            outcome = fourm(*words, "--print" if takes_recipe else "--help")
            assert outcome.status == 0, f"{command}: {outcome.err}"
            assert_options_exist(words)


def assert_options_exist(words: list[str]) -> None:
    """Click parses the words without running the command."""
    from fourm.cli import cli

    command, rest = cli, words
    while rest and rest[0] in getattr(command, "commands", {}):
        command, rest = command.commands[rest[0]], rest[1:]  # type: ignore[attr-defined]
    command.make_context(words[0], list(rest))


@pytest.mark.parametrize(("pipeline", "scale"), SCALES)
def test_stages_of_a_pipeline_pass_their_files_on(pipeline: str, scale: str) -> None:
    """What a stage reads below the output folder has been written by a stage before it."""
    loaded = load_pipeline(pipeline, [f"scale={scale}"])
    written: list[str] = []
    for stage in loaded.stages:
        for command in stage.run:
            for word in shlex.split(command)[2:]:
                relative = word.removeprefix(f"{loaded.output}/")
                if relative != word and "=" not in word:
                    known = [*written, *stage.outputs]
                    assert any(f"{relative}/".startswith(f"{k}/") or f"{k}/".startswith(f"{relative}/") for k in known)
        written += stage.outputs
