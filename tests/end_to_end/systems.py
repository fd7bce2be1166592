"""The toy recipes of VILA, Emu, Emu2 and VL-GPT, found in the folders, and a tiny world in which each one trains."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fourm import recipes
from fourm.paths import recipe_folder
from fourm.pipeline import load
from fourm.pipeline.schema import command_words
from tests.end_to_end.conftest import run

COMMANDS = {"pretrain": "pretrain", "train-tokenizer": "tokenizers"}
"""Command that trains -> folder of its recipes."""
_ON_TOYS = re.compile(r"\broot: outputs/")  # what commands of a pipeline have made
_OF_SYSTEMS = re.compile(r"kind: (interleaved|contrastive|visual_decoder|detokenizer)\b")
NUM_STEPS = 6
OPTIONS = [
    f"train.max_steps={NUM_STEPS}", f"train.eval_every_steps={NUM_STEPS}", "train.save_every_steps=2",
    "train.log_every_steps=1", "train.batch_size=4", "train.device=cpu", "train.precision=fp32", "train.threads=1",
    "train.tensorboard=false", "evaluation.max_samples=4", "evaluation.batch_size=2",
]  # fmt: skip


def toys() -> list[str]:
    """`folder/name` of every recipe on toy data that trains a part of these systems.

    Those read documents of text and images, compare images with texts, or paint from vectors. Files are searched and
    not loaded, since this is done whenever tests are collected.
    """
    paths = [path for folder in COMMANDS.values() for path in sorted((recipe_folder() / folder).glob("*.yaml"))]
    texts = {path: _with_bases(path) for path in paths}
    return [
        f"{p.parent.name}/{p.stem}" for p, text in texts.items() if _ON_TOYS.search(text) and _OF_SYSTEMS.search(text)
    ]


def _with_bases(path: Path) -> str:
    """The text of a recipe and of those that it builds on, without comments."""
    text = re.sub(r"#.*", "", path.read_text())
    bases = [path.parent / base for base in re.findall(r"^base: (\S+)", text, re.MULTILINE)]
    return "\n".join([text, *(_with_bases(base) for base in bases if base.is_file())])


@dataclass(frozen=True)
class Systems:
    """What has been made.

    Args:
        commands: `folder/name` of a recipe -> words of the command that has trained it, after `fourm`.
        outputs: the same -> folder of that run.
    """

    commands: dict[str, list[str]]
    outputs: dict[str, Path]


def make(root: Path) -> Systems:
    """Data, tokenizers of text, untrained encoders, and then all stages of all systems, a few steps each."""
    fashion, rooms = root / "fashion", root / "quickstart"
    _make_data(root)
    _save_encoder("fashion", fashion, fashion / "tokenizers/text.json")
    _save_encoder("rooms", rooms, rooms / "tokenizers/text.json")
    made = Systems({}, {})
    for words in (*_of_pipelines(root), *_of_no_pipeline(root)):
        if words[0] == "evaluate":
            continue
        if words[0] not in COMMANDS:
            assert run(*words) == 0, words
            continue
        name = f"{COMMANDS[words[0]]}/{words[1]}"
        command = [*words, *OPTIONS, *(["pictures.num_samples=0"] if words[0] == "train-tokenizer" else [])]
        assert run(*command) == 0, command
        made.commands[name] = command
        made.outputs[name] = Path(recipes.read(recipes.find(name), command[2:])["output"])
    return made


def _make_data(root: Path) -> None:
    from fourm.prepare.rooms import render

    for split, seed, num in (("train", 0, 24), ("test", 1, 8)):
        render(root / "quickstart/rooms" / split, num=num, size=64, seed=seed, workers=1, shard_size=8, progress=False)
    for words in (
        ["prepare", "fashion", root / "fashion/data", "--num-train", 64, "--num-test", 16, "--workers", 1],
        ["train-wordpiece", "rooms_text", f"variables.root={root}/quickstart"],
        ["train-wordpiece", "fashion_text", f"variables.root={root}/fashion"],
    ):
        assert run(*words) == 0, words


def _save_encoder(name: str, root: Path, text_file: Path) -> None:
    """The model of a recipe as it begins: what trained it is tested elsewhere."""
    from fourm.models.folder import save_model
    from fourm.recipe.encoders import adopt_vocabulary
    from fourm.recipe.schema import PretrainRecipe
    from fourm.registry import implementation
    from fourm.tokenizers.text import TextTokenizer

    recipe = recipes.load(name, PretrainRecipe, folder="pretrain")
    modalities = adopt_vocabulary(recipe.modality_set(), TextTokenizer.load(text_file))
    model = implementation(recipe.model.target)(modalities, recipe.model, recipe.seed)
    save_model(model, root / "model/model", {"text": text_file})


def _of_pipelines(root: Path) -> list[list[str]]:
    """Words of all commands of the systems' pipelines."""
    found = []
    for name in ("vila", "emu", "vl_gpt"):
        given = {"quickstart": root / "quickstart", "fashion": root / "fashion", "train_images": 64, "test_images": 16}
        known = recipes.read(recipes.find(name, "pipelines"))["variables"]
        options = [f"variables.{key}={value}" for key, value in given.items() if key in known]
        pipeline = load(name, ["scale=small", f"output={root}/{name}", *options])
        found += [command_words(command)[1:] for stage in pipeline.stages for command in stage.run]
    return found


def _of_no_pipeline(root: Path) -> list[list[str]]:
    """Words of the commands that docs/ gives for what no pipeline trains."""
    rooms, vila = root / "quickstart", root / "vila"
    tower = f"variables.tower={rooms}/model/model"
    embed = ["embed", f"{vila}/emu", "--out", "emu_vectors", "--start", "[SOS]"]
    return [
        ["pretrain", "emu_rooms_1", f"variables.root={vila}", tower],
        [*embed, f"{rooms}/rooms/train"],
        [*embed, f"{rooms}/rooms/test"],
        ["train-tokenizer", "rooms_visual_decoder_emu", f"variables.root={rooms}"],
        ["pretrain", "rooms_contrastive", f"variables.root={rooms}", tower],
        ["train-tokenizer", "toy_visual_decoder_fashion", f"variables.root={root}/fashion"],
    ]
