"""From rooms to generated modalities, command by command."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fourm.data.shards import read_source_facts, shard_path
from fourm.data.source import open_source
from tests.end_to_end.conftest import assert_one_clear_message


@pytest.fixture
def photograph(world: Path) -> Path:
    """One held-out room as a file."""
    with tarfile.open(shard_path(world / "rooms" / "test", "rgb", 0)) as tar:
        tar.extract("000000.png", world, filter="data")
    return world / "000000.png"


@pytest.fixture
def model(world: Path, fourm: Any) -> Path:
    assert fourm("pretrain", world / "tiny.yaml").status == 0
    return world / "model"


def records(output: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def test_a_run_leaves_a_model_with_its_tokenizers_a_log_and_a_mark(model: Path) -> None:
    assert (model / "completed.json").is_file()
    assert records(model, "train")
    exported = {path.relative_to(model / "model").as_posix() for path in (model / "model").rglob("*") if path.is_file()}
    assert exported == {
        "config.json",
        "model.safetensors",
        "tokenizers/text.json",
        "tokenizers/tok_depth@64/config.json",
        "tokenizers/tok_depth@64/model.safetensors",
    }


def test_a_complete_run_says_so_and_is_left_alone(world: Path, model: Path, fourm: Any) -> None:
    before = (model / "model" / "model.safetensors").stat().st_mtime_ns

    outcome = fourm("pretrain", world / "tiny.yaml")

    assert outcome.status == 0
    assert (model / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_a_complete_run_goes_on_when_more_steps_are_asked_for(world: Path, model: Path, fourm: Any) -> None:
    assert fourm("pretrain", world / "tiny.yaml", "train.max_steps=5").status == 0

    assert json.loads((model / "completed.json").read_text())["step"] == 5


def test_losses_do_not_depend_on_where_a_run_was_cut(world: Path, model: Path, fourm: Any) -> None:
    fourm("pretrain", world / "tiny.yaml", "train.max_steps=6")
    fourm("pretrain", world / "tiny.yaml", "train.max_steps=6", f"output={world}/whole")

    assert [r["loss"] for r in records(model, "train")] == [r["loss"] for r in records(world / "whole", "train")]


def test_a_model_scores_what_it_is_asked(model: Path) -> None:
    import torch

    import fourm as library

    loaded = library.load_model(model)
    positions = torch.arange(64).expand(2, -1)
    ids = torch.tensor([[1, 6, 5, 2], [1, 7, 2, -1]])

    logits = loaded.logits(
        {"rgb@64": {"values": torch.zeros(2, 3, 64, 64), "positions": positions}},
        {"tok_depth@64": {"positions": positions}, "caption": {"ids": ids}},
    )

    vocabulary = loaded.modalities["caption"].vocab_size
    assert {name: tuple(value.shape) for name, value in logits.items()} == {
        "tok_depth@64": (2, 64, 512),
        "caption": (2, 3, vocabulary),
    }
    assert all(torch.isfinite(value).all() for value in logits.values())


def test_any_modality_is_generated_from_any(model: Path, photograph: Path, world: Path, fourm: Any) -> None:
    seen = fourm("generate", model, "--given", f"rgb={photograph}", "--to", "depth,caption", "--out", world / "seen")
    told = fourm("generate", model, "--given", "caption=a red sofa", "--to", "depth", "--out", world / "told")

    assert (seen.status, told.status) == (0, 0), seen.err + told.err
    assert Image.open(world / "seen" / "depth.png").size == (64, 64)
    assert (world / "seen" / "caption.txt").is_file()
    assert str(world / "seen" / "depth.png") in seen.out
    assert (world / "told" / "depth.png").read_bytes() != (world / "seen" / "depth.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--given", "rgb=nowhere.png", "--to", "depth"], ["nowhere.png"]),
        (["--given", "rgb=tiny.yaml", "--to", "depth"], ["tiny.yaml"]),
        (["--given", "rbg=000000.png", "--to", "depth"], ["rbg", "rgb"]),
        (["--given", "caption", "--to", "depth"], ["caption"]),
        (["--given", "caption=x", "--to", "dept"], ["dept", "depth"]),
        (["--given", "caption=x", "--to", "rgb"], ["rgb"]),
        (["--given", "caption=x", "--plan", "dens", "--to", "depth"], ["dens", "Did you mean 'dense'"]),
        (["--given", "caption=x", "--to", "depth", "--device", "tpu"], ["tpu"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_generation_names_what_is_wrong(
    model: Path, photograph: Path, world: Path, fourm: Any, monkeypatch: Any, arguments: list[str], named: list[str]
) -> None:
    monkeypatch.chdir(world)

    outcome = fourm("generate", model, *arguments, "--out", world / "new")

    assert_one_clear_message(outcome, named)
    assert not (world / "new").exists()


def test_generation_repeats_with_its_seed(model: Path, world: Path, fourm: Any) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert fourm("generate", model, "--given", "caption=a red sofa", "--to", "depth", "--seed", seed,
                     "--out", world / folder).status == 0  # fmt: skip

    depth = {name: (world / name / "depth.png").read_bytes() for name in "abc"}
    assert depth["a"] == depth["b"] != depth["c"]


def test_tokens_follow_stored_crops(world: Path, fourm: Any) -> None:
    root = world / "rooms" / "train"
    assert fourm("prepare", "crops", root, "--num-crops", "3", "--hflip", "1").status == 0

    assert fourm("tokenize", world / "tokenizers" / "depth", root, "--overwrite").status == 0

    source = open_source(str(root), ["tok_depth", "crop_settings"])
    tokens, crops = (np.load(io.BytesIO(source.read(0)[name])) for name in ("tok_depth", "crop_settings"))
    assert tokens.shape == (3, 64)
    assert crops[:, 4].tolist() == [0, 1, 1]


def test_tokens_of_another_tokenizer_are_replaced_only_when_asked(world: Path, fourm: Any) -> None:
    from tests.end_to_end import spoil

    spoil.tokens_of_another_tokenizer(world)
    root = world / "rooms" / "train"
    words = ["tokenize", world / "tokenizers" / "depth", root]

    assert fourm(*words).status == 1
    assert fourm(*words, "--overwrite").status == 0

    assert read_source_facts(root, "tok_depth")["tokenizer_hash"] != "0" * 64
    assert fourm("pretrain", world / "tiny.yaml").status == 0


def test_a_folder_of_files_trains_like_shards(world: Path, fourm: Any) -> None:
    """The simple form: ROOT/<modality>/<class>/<stem>.<ext>."""
    source = open_source(str(world / "rooms" / "train"), ["rgb", "caption"])
    for n in range(len(source)):
        for name, content in source.read(n).items():
            folder = world / "own" / name / "rooms"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{source.key(n)}.{'png' if name == 'rgb' else 'json'}").write_bytes(content)

    outcome = fourm(
        "pretrain", world / "tiny.yaml", f"data.train.datasets.rooms.path={world}/own", f"output={world}/folders",
        "data.train.datasets.rooms.modalities=[rgb@64,caption]",
    )  # fmt: skip

    assert outcome.status == 0, outcome.err
    assert (world / "folders" / "model" / "config.json").is_file()
