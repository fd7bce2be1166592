"""`fourm generate` beyond one question: many prompts, parts of a picture, ensembles, and the same from Python."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.end_to_end.conftest import assert_one_clear_message


@pytest.fixture
def model(world: Path, fourm: Any) -> Path:
    assert fourm("pretrain", world / "tiny.yaml").status == 0
    return world / "model"


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_data_set_of_shards_is_answered_by_any_number_of_processes(
    model: Path, world: Path, fourm: Any, monkeypatch: Any
) -> None:
    prompts = ["--prompts", f"rgb,caption={world / 'rooms' / 'test'}"]
    whole = fourm("generate", model, *prompts, "--to", "depth", "--out", world / "whole", "--device", "cpu")
    assert (whole.status, whole.out) == (0, "8 answered\n"), whole.err
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        words = [*prompts, "--to", "depth", "--out", world / "parts", "--batch-size", "2", "--device", "cpu"]
        assert fourm("generate", model, *words).status == 0

    assert names(world / "whole") == names(world / "parts")
    for n in range(8):
        a, b = (np.asarray(Image.open(world / f / f"{n:06d}" / "depth.png")).astype(int) for f in ("whole", "parts"))
        assert abs(a - b).max() <= 1  # of 65535: sums of floats in another order


def test_captions_are_answered_again_only_where_answers_are_missing(model: Path, world: Path, fourm: Any) -> None:
    (world / "captions.txt").write_text("a red sofa\n\na blue bed\n")
    words = ["generate", model, "--prompts", world / "captions.txt", "--to", "depth", "--out", world / "out"]
    assert fourm(*words).out == "2 answered\n"
    (world / "captions.txt").write_text("a red sofa\n\na blue bed\na table\n" + "red " * 200)

    outcome = fourm(*words)

    assert outcome.out == f"1 answered, 2 were there, 1 rejected: see {world / 'out' / 'rejected.jsonl'}\n"
    assert json.loads((world / "out" / "rejected.jsonl").read_text())["where"].endswith("captions.txt, line 5")
    assert_one_clear_message(fourm(*words, "--seed", 1), ["seed was 0 and is 1", "another --out"])


def test_an_ensemble_shows_where_answers_disagree(model: Path, world: Path, fourm: Any) -> None:
    plan = world / "hot.yaml"
    plan.write_text("steps: [{target: depth, num_steps: 2}]")
    words = ["generate", model, "--given", "caption=a bed", "--to", "depth", "--plan", plan, "--ensemble"]
    assert fourm(*words, "--out", world / "one").status == 0
    assert fourm(*words, "--out", world / "four", "--num-samples", 4).status == 0

    for folder in ("one", "four"):
        unsure = np.load(world / folder / "depth_uncertainty.npy")
        assert unsure.shape == (64, 64)
        assert unsure.min() >= 0 < unsure.max()
        assert Image.open(world / folder / "depth_uncertainty.png").size == (64, 64)


def test_half_a_picture_is_given_by_a_mask(model: Path, world: Path, fourm: Any) -> None:
    depth = np.random.default_rng(0).integers(0, 65536, (64, 64)).astype(np.uint16)
    Image.fromarray(depth).save(world / "depth.png")
    Image.fromarray(np.where(np.arange(64) < 32, 255, 0).astype(np.uint8)[None].repeat(64, 0)).save(world / "left.png")
    given = ["--given", f"depth={world / 'depth.png'}", "--to", "depth"]
    words = ["generate", model, *given, "--known", f"depth={world / 'left.png'}", "--out", world / "filled"]

    assert fourm(*words).status == 0
    assert Image.open(world / "filled" / "depth.png").size == (64, 64)
    assert_one_clear_message(
        fourm("generate", model, *given, "--out", world / "new"), ["both given whole", "--known depth=mask.png"]
    )


def test_a_second_model_goes_on_with_what_the_first_generated_and_sees_what_it_is_told(
    model: Path, world: Path, fourm: Any
) -> None:
    shutil.copytree(model, world / "second")
    (world / "plan.yaml").write_text(
        "models: {late: nowhere}\n"
        "steps:\n"
        "  - {target: caption, scheme: autoregressive}\n"
        "  - {target: depth, num_steps: 2, model: late, sees: [caption]}\n"
    )
    (world / "single.yaml").write_text((world / "plan.yaml").read_text().replace("model: late, ", ""))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(world / "photo.png")
    words = ["generate", model, "--given", f"rgb={world / 'photo.png'}"]
    late = ["--model", f"late={world / 'second'}"]
    outcome = fourm(*words, *late, "--plan", world / "plan.yaml", "--out", world / "two")
    assert outcome.status == 0, outcome.err
    assert fourm(*words, "--plan", world / "single.yaml", "--out", world / "one").status == 0
    for name in ("caption.txt", "depth.png"):
        assert (world / "one" / name).read_bytes() == (world / "two" / name).read_bytes()
    assert f"late: {world / 'second'}" in (world / "two" / "plan.yaml").read_text()
    assert_one_clear_message(
        fourm(*words, "--plan", world / "plan.yaml", "--out", world / "new"), ["no model or tokenizer in nowhere"]
    )
    other = fourm(*words, *late, "--plan", world / "single.yaml", "--out", world / "new")
    assert_one_clear_message(other, ["--model late", "no step of the plan names this model"])

    assert fourm(*words, "--to", "caption,depth", "--sees", "depth=caption", "--out", world / "seen").status == 0
    assert_one_clear_message(
        fourm(*words, "--to", "depth", "--sees", "depth=caption", "--out", world / "new"),
        ["what it sees, 'caption' is neither given nor generated before"],
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "depth"], "say what the model sees"),
        (["--given", "caption=a bed"], "name what to generate"),
    ],
)
def test_a_command_that_says_too_little_is_refused(words: list[str], message: str, fourm: Any) -> None:
    outcome = fourm("generate", "nowhere", *words, "--out", "out")
    assert outcome.status == 2
    assert message in outcome.err


def test_three_lines_of_python(model: Path, world: Path) -> None:
    import fourm as library

    told: list[int] = []
    answers = library.generate(
        model, given={"caption": "a red sofa"}, to=["depth"], seed=0, progress=lambda done, *_: told.append(done)
    )
    answers.save(world / "out")

    assert tuple(answers["depth"].shape) == (1, 1, 64, 64)
    assert told == [1]
    assert answers._repr_png_().startswith(b"\x89PNG")
