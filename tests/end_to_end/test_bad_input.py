"""Whatever is wrong with the input: one clear message with cause and remedy, a failing status, no half output."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end import spoil
from tests.end_to_end.conftest import TOKENIZER, assert_one_clear_message

Spoil = Callable[[Path], None]

PRETRAIN = [
    # spoil, overrides, what the message must name
    (spoil.nothing, ["train.max_stps=3"], ["train.max_stps", "Did you mean 'max_steps'", "tiny.yaml"]),
    (spoil.nothing, ["train.max_steps=many"], ["train.max_steps", "many", "a whole number"]),
    (spoil.nothing, ["train.max_steps=0"], ["max_steps", "0", "1 or more"]),
    (spoil.nothing, ["train.max_steps"], ["train.max_steps", "key=value"]),
    (spoil.nothing, ["model.kind=multimodel"], ["model.kind", "Did you mean 'multimodal'"]),
    (spoil.nothing, ["model.num_heads=5"], ["num_heads", "5"]),
    (spoil.nothing, ["objective.components=[{input_alphas: {rbg@64: 1}}]"], ["rbg@64", "Did you mean 'rgb@64'"]),
    (spoil.nothing, ["modalities=[rgb@63]"], ["rgb@63", "rgb@64"]),
    (spoil.nothing, ["train.batch_size=5", "train.accumulation=2"], ["train.batch_size", "5", "nearest"]),
    (spoil.nothing, ["data.train.datasets.rooms.path=nowhere"], ["data folder nowhere"]),
    (spoil.nothing, ["data.train.datasets=null"], ["data.train.datasets"]),
    (spoil.no_tokenizers_named, [], ["tokenizers.text", "train-wordpiece"]),
    (spoil.no_training_data_named, [], ["data.train.datasets"]),
    (spoil.nothing, ["tokenizers.tok_depht@64=x"], ["tok_depht@64", "Did you mean 'tok_depth@64'"]),
    (spoil.nothing, ["train.device=tpu"], ["device", "tpu"]),
    (spoil.nothing, ["variables.rot=x"], ["variables.rot", "Did you mean 'variables.root'"]),
    (spoil.nothing, ["init_from=nowhere"], ["nowhere"]),
    (spoil.nothing, ["modalities=5"], ["modalities", "5", "tiny.yaml"]),
    (spoil.nothing, ["modalities=null"], ["modalities"]),
    (spoil.nothing, ["model.num_heads=0"], ["num_heads", "0", "1 or more"]),
    (spoil.nothing, ["evaluation.batch_size=0"], ["evaluation", "batch_size", "0", "1 or more"]),
    (spoil.nothing, ["data.train.datasets.rooms.modalities=[rgb@64]"], ["datasets.rooms", "rgb@64", "target alpha"]),
    (spoil.nothing, ["train.optimizer.lr=1e30", "train.max_steps=20"], ["loss", "step", "train.optimizer.lr"]),
    (spoil.missing_data, [], ["data folder", "rooms/train", "does not exist"]),
    (spoil.missing_source, [], ["rooms/train", "rgb"]),
    (spoil.missing_shard, [], ["rooms/train", "shard-00001", "caption"]),
    (spoil.no_shards, [], ["rooms/train/rgb is not complete", "2 of 2 shards", "run the same command again"]),
    (spoil.empty_shards, [], ["rooms/train", "empty"]),
    (spoil.interrupted_rooms, [], ["rooms/train/rgb is not complete", "shard-00001.tar", "run the same command again"]),
    (spoil.stale_index, [], ["caption/shard-00000.tar", "'00000", "Remove", "caption/shard-00000.index.json"]),
    (spoil.corrupt_image, [], ["rgb/shard-00000.tar", "000002"]),
    (spoil.truncated_tar, [], ["rgb/shard-00001.tar"]),
    (spoil.other_keys, [], ["shard-00000.tar", "caption", "900000", "000003"]),
    (spoil.damaged_caption, [], ["caption/shard-00000.tar", "000001"]),
    (spoil.id_too_large, [], ["tok_depth", "512", "000001"]),
    (spoil.tokens_of_another_tokenizer, [], ["rooms/train/tok_depth", "another tokenizer", "--overwrite"]),
    (spoil.validation_tokens_of_another_tokenizer, [], ["rooms/test/tok_depth", "another tokenizer", "--overwrite"]),
    (spoil.no_text_tokenizer, [], ["text.json"]),
    (spoil.damaged_tokenizer, [], ["tokenizers/depth/model/model.safetensors"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "overrides", "named"), PRETRAIN, ids=[" ".join([case[0].__name__, *case[1]]) for case in PRETRAIN]
)
def test_pretraining_ends_with_one_clear_message(
    world: Path, fourm: Any, damage: Spoil, overrides: list[str], named: list[str]
) -> None:
    damage(world)

    outcome = fourm("pretrain", world / "tiny.yaml", "train.max_steps=8", *overrides)

    assert_one_clear_message(outcome, named)
    assert not (world / "model" / "model").exists()
    assert not (world / "model" / "completed.json").exists()


OTHER_COMMANDS = [
    # spoil, command ({root} is the tiny world), what the message must name, what must not be there afterwards
    (spoil.nothing, "train-tokenizer rooms_dept", ["rooms_dept", "Did you mean 'rooms_depth'"], []),
    (spoil.nothing, "train-tokenizer rooms_depth modality=dept@64", ["dept@64", "Did you mean 'depth@64'"], []),
    (
        spoil.nothing,
        "train-tokenizer rooms_depth tokenizer.quantizer.kind=emma",
        ["tokenizer.quantizer.kind", "ema"],
        [],
    ),
    (
        spoil.nothing,
        "train-tokenizer {new} train.optimizer.lr=1e30 train.max_steps=20",
        ["loss", "step"],
        ["new/model"],
    ),
    (spoil.missing_data, "train-tokenizer {new}", ["rooms/train"], ["new/model"]),
    (
        spoil.corrupt_depth,
        "train-tokenizer {new} train.max_steps=8",
        ["depth/shard-00000.tar", "000002"],
        ["new/model"],
    ),
    (spoil.truncated_depth, "train-tokenizer {new}", ["depth/shard-00001.tar"], ["new/model"]),
    (spoil.missing_data, "train-wordpiece rooms_text {in} output={root}/new.json", ["rooms/train"], ["new.json"]),
    (spoil.nothing, "train-wordpiece rooms_text {in} sources=[capton]", ["capton"], []),
    (spoil.damaged_caption, "train-wordpiece rooms_text {in} output={root}/new.json", ["000001"], ["new.json"]),
    (
        spoil.nothing,
        "train-wordpiece rooms_text {in} vocab_size=20 output={root}/new.json",
        ["vocab_size", "20"],
        ["new.json"],
    ),
    (spoil.missing_data, "tokenize {tokenizer} {root}/rooms/train", ["rooms/train"], ["rooms/train/tok_depth"]),
    (spoil.nothing, "tokenize {root}/nowhere {root}/rooms/train", ["nowhere", "config.json"], []),
    (
        spoil.damaged_tokenizer,
        "tokenize {tokenizer} {root}/rooms/train --source new",
        ["model.safetensors"],
        ["rooms/train/new"],
    ),
    (
        spoil.corrupt_depth,
        "tokenize {tokenizer} {root}/rooms/train --source new",
        ["depth/shard-00000.tar", "000002"],
        ["rooms/train/new/shard-00000.tar", "rooms/train/new/shard-00000.index.json"],
    ),
    (
        spoil.truncated_depth,
        "tokenize {tokenizer} {root}/rooms/train --source new",
        ["depth/shard-00001.tar"],
        ["rooms/train/new/shard-00001.tar"],
    ),
    (
        spoil.interrupted_rooms,
        "tokenize {tokenizer} {root}/rooms/train --source new",
        ["rooms/train/depth is not complete", "shard-00001.tar"],
        ["rooms/train/new"],
    ),
    (
        spoil.tokens_of_another_tokenizer,
        "tokenize {tokenizer} {root}/rooms/train",
        ["tok_depth", "another tokenizer", "--overwrite"],
        [],
    ),
    (spoil.missing_data, "prepare crops {root}/rooms/train", ["rooms/train"], ["rooms/train/crop_settings"]),
    (
        spoil.corrupt_image,
        "prepare crops {root}/rooms/train",
        ["rgb/shard-00000.tar", "000002"],
        ["rooms/train/crop_settings/shard-00000.tar"],
    ),
    (spoil.nothing, "prepare rooms {root}/rooms/train --num 16 --size 32 --seed 7", ["rooms/train", "seed"], []),
    (spoil.nothing, "run quickstrat", ["quickstrat", "Did you mean 'quickstart'"], []),
    (spoil.nothing, "run quickstart scale=smal", ["scale", "Did you mean 'small'"], []),
    (spoil.nothing, "run quickstart variables.step=3", ["variables.step", "Did you mean 'variables.steps'"], []),
    (
        spoil.nothing,
        "generate {root}/nowhere --given caption=x --to tok_depth@64 --out {root}/new",
        ["nowhere"],
        ["new"],
    ),
    (spoil.nothing, "evaluate rooms variables.root={root}", ["no model", "model"], ["metrics.json", "report.html"]),
    (spoil.nothing, "evaluate rooms {in} kind=room", ["kind", "Did you mean 'rooms'"], []),
    (spoil.nothing, "prepare shards {root}/nowhere {root}/new", ["nowhere", "does not exist"], ["new"]),
    (spoil.nothing, "finetune rooms_semseg {in} variables.output={root}/new", ["no model", "model"], ["new"]),
]


@pytest.mark.parametrize(
    ("damage", "command", "named", "absent"), OTHER_COMMANDS, ids=[f"{c[0].__name__}: {c[1]}" for c in OTHER_COMMANDS]
)
def test_every_command_ends_with_one_clear_message(
    world: Path, fourm: Any, damage: Spoil, command: str, named: list[str], absent: list[str]
) -> None:
    damage(world)
    words = {
        "root": str(world),
        "in": f"variables.root={world}",
        "tokenizer": str(world / "tokenizers" / "depth"),
        "new": " ".join(["rooms_depth", f"variables.root={world}", f"output={world}/new", *TOKENIZER]),
    }

    outcome = fourm(*command.format(**words).split())

    assert_one_clear_message(outcome, named)
    for name in absent:
        assert not (world / name).exists()


@pytest.mark.parametrize(
    "arguments", [["pretran"], ["pretrain"], ["prepare", "rooms", "x", "--num", "0"], ["tokenize", "x"]]
)
def test_a_wrong_command_line_is_a_usage_error(fourm: Any, arguments: list[str]) -> None:
    outcome = fourm(*arguments)

    assert outcome.status == 2
    assert "Usage" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_run_does_not_go_on_with_tokens_of_a_tokenizer_that_was_made_again(world: Path, fourm: Any) -> None:
    root, recipe = f"variables.root={world}", world / "tiny.yaml"
    assert fourm("pretrain", recipe).status == 0
    shutil.rmtree(world / "tokenizers" / "depth")
    assert fourm("train-tokenizer", "rooms_depth", root, "seed=5", *TOKENIZER).status == 0
    for split in ("train", "test"):
        tokens = ("tokenize", world / "tokenizers" / "depth", world / "rooms" / split, "--device", "cpu", "--overwrite")
        assert fourm(*tokens).status == 0

    outcome = fourm("pretrain", recipe, "train.max_steps=6")

    assert_one_clear_message(outcome, ["tok_depth@64", "other tokenizers", "allow_changed_recipe"])
    assert fourm("pretrain", recipe, "train.max_steps=6", "train.allow_changed_recipe=true").status == 0
