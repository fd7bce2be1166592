"""Subjects with looks and places, and images painted anew: how they are written, and asked by the commands."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from fourm.cli import cli
from fourm.errors import ConfigError, DataError
from fourm.generate.interleaved_job import Asked
from fourm.generate.interleaved_prompts import Interleaved
from fourm.generate.phrases import PHRASES
from fourm.generate.subjects import Subject, parse_subject, with_places
from fourm.models.folder import save_model
from tests.rows import SIZE, bundle, folder, image, tokenizer, written

__all__ = ["bundle", "folder", "tokenizer"]

PLAIN, PAPER = PHRASES["plain"], PHRASES["emu2_gen"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("a chair=a.png@0.1,0.2,0.5,0.9", Subject("a chair", Path("a.png"), (0.1, 0.2, 0.5, 0.9))),
        ("a chair=b/a=1@2.png", Subject("a chair", Path("b/a=1@2.png"))),
        ("a chair@0, 0, 1, 1", Subject("a chair", None, (0, 0, 1, 1))),
        (" a chair = a.png ", Subject("a chair", Path("a.png"))),
    ],
)
def test_a_subject_has_words_and_a_file_or_a_box_or_both(said: str, expected: Subject):
    assert parse_subject(said) == expected


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        ("a chair", ConfigError, "--subject 'a chair': expected WORDS=FILE, WORDS@LEFT,TOP,RIGHT,BOTTOM or both"),
        ("=a.png", ConfigError, "expected WORDS=FILE"),
        ("a chair=", ConfigError, "expected WORDS=FILE"),
        ("a chair@0,0,1", DataError, "a box is '0,0,1'; expected left,top,right,bottom as shares"),
        ("a chair@0.5,0,0.2,1", DataError, "a box is '0.5,0,0.2,1'; expected"),
        ("a chair@10,20,300,400", DataError, "a box is '10,20,300,400'; expected"),
        ("a chair@-0.1,0,1,1", DataError, "a box is '-0.1,0,1,1'; expected"),
        ("a chair@0,,1,1", DataError, "a box is '0,,1,1'; expected"),
    ],
)
def test_what_is_no_subject_is_explained(said: str, error: type[Exception], message: str):
    with pytest.raises(error) as told:
        parse_subject(said)
    assert message in str(told.value)


def test_longer_words_are_found_before_the_shorter_ones_in_them():
    subjects = [("chair", False, True), ("a red chair", True, False)]
    expected = "a red chair<image> and a chair<image>"
    assert with_places("a red chair and a chair", subjects, PLAIN) == (expected, [1, 0])
    with pytest.raises(DataError, match="'chair' is no part of the text 'a red chair', or is given more often"):
        with_places("a red chair", subjects, PLAIN)
    with pytest.raises(DataError, match="'sofa' is no part of the text"):
        with_places("a red chair", [("sofa", True, True)], PLAIN)


def test_the_tokens_of_the_published_model_stand_around_words_and_boxes():
    found, order = with_places("a photo of a dog on grass", [("a dog", True, True)], PAPER)
    assert found == "<grounding>a photo of <phrase>a dog</phrase><object><image></object><image> on grass"
    assert order == [0]


def test_an_image_is_painted_anew_from_its_vectors_alone(bundle: Any):
    talk, seeds = Interleaved(bundle), torch.tensor([3, 4])
    found = talk.rebuild([image(0), image(1)], seeds)
    decoder = bundle.tokenizers["image"]
    assert found.shape == (2, 3, SIZE, SIZE)
    torch.testing.assert_close(found, decoder.decode(talk.encode([image(0), image(1)]), seeds=seeds))
    guided = talk.rebuild([image(0)], seeds[:1], guided=True)
    nothing = talk.encode([torch.zeros(3, SIZE, SIZE)])
    torch.testing.assert_close(guided, decoder.decode(talk.encode([image(0)]), seeds=seeds[:1], null=nothing))
    assert not torch.allclose(guided[0], found[0])


def test_subjects_are_asked_with_the_phrases_of_the_model(bundle: Any):
    phrases = SimpleNamespace(**{**vars(PLAIN), "compose": "a {text} is", "subject": "red {text}"})
    talk = Interleaved(bundle, phrases=phrases)  # type: ignore[arg-type]
    found = talk.composing([("sofa", image(0), None)], "blue sofa")
    assert written(talk, found) == "a blue red sofa [IMG] <0> [/IMG] is [IMG]"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subjects": (Subject("a"),)}, "give the text with --draw"),
        ({"subjects": (Subject("a"),), "draw": "a", "images": (Path("a.png"),)}, "not with --image"),
        ({"autoencode": Path("a.png"), "draw": "a"}, "--draw and --autoencode are both given"),
        ({"autoencode": Path("a.png"), "images": (Path("b.png"),)}, "leave --image out"),
    ],
)
def test_orders_that_do_not_go_together_are_explained(options: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        Asked(**options)


def run(command: str, model: Path, *arguments: Any) -> Any:
    return CliRunner().invoke(cli, [command, str(model), "--device", "cpu", *map(str, arguments)])


def test_both_commands_paint_the_same_subjects_and_depend_on_each(folder: Path, tmp_path: Path):
    model, words = folder / "model", "a red chair and a blue sofa"
    subjects = [f"a red chair={folder / '0.png'}@0.1,0.2,0.5,0.9", "sofa@0.5,0,1,1"]
    given = [argument for subject in subjects for argument in ("--subject", subject)]
    drawn = run("prompt", model, "--draw", words, *given, "--out", tmp_path / "prompt")
    assert drawn.exit_code == 0, drawn.output
    found = run("generate", model, "--given", f"text={words}", *given, "--to", "image", "--out", tmp_path / "generate")
    assert found.exit_code == 0, found.output
    other = run(
        "prompt", model, "--draw", words, *given[:2], "--subject", "sofa@0,0,0.5,1", "--out", tmp_path / "moved"
    )
    assert other.exit_code == 0, other.output
    files = [tmp_path / name for name in ("prompt/0.png", "generate/image.png", "moved/0.png")]
    prompted, generated, moved = (file.read_bytes() for file in files)
    assert prompted == generated != moved
    assert Image.open(files[0]).size == (SIZE, SIZE)


def test_both_commands_paint_the_same_image_anew(folder: Path, tmp_path: Path):
    model, options = folder / "model", ["--autoencode", folder / "0.png", "--seed", 2, "--guided"]
    drawn = run("prompt", model, *options, "--num-samples", 2, "--out", tmp_path / "prompt")
    assert drawn.exit_code == 0, drawn.output
    found = run("generate", model, *options, "--to", "image", "--out", tmp_path / "generate")
    assert found.exit_code == 0, found.output
    first, second = ((tmp_path / f"prompt/{seed}.png").read_bytes() for seed in (2, 3))
    assert first != second
    assert (tmp_path / "generate/image.png").read_bytes() == first


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("prompt", ["--draw", "a sofa", "--subject", "a chair@0,0,1,1", "--out", "out"], "'a chair' is no part"),
        ("prompt", ["--draw", "a sofa", "--subject", "a sofa=no.png", "--out", "out"], "cannot read the image no.png"),
        ("prompt", ["--draw", "a sofa", "--subject", "a sofa@0,0,2,1", "--out", "out"], "from 0 to 1"),
        ("prompt", ["--autoencode", "no.png", "--out", "out"], "cannot read the image no.png"),
        ("prompt", ["--autoencode", "no.png"], "give the folder for them with --out"),
        ("generate", ["--subject", "a sofa@0,0,1,1", "--given", "text=a sofa", "--to", "text"], "--to the images"),
        ("generate", ["--autoencode", "0.png", "--to", "text"], "give --to the images"),
        ("generate", ["--autoencode", "0.png", "--given", "text=a", "--to", "image"], "leave out --given"),
    ],
)
def test_mistakes_are_told_with_a_remedy(folder: Path, tmp_path: Path, command: str, arguments: Any, message: str):
    out = ["--out", tmp_path] if command == "generate" else []
    found = run(command, folder / "model", *arguments, *out)
    assert found.exit_code != 0
    assert message in (str(found.exception) + found.output)


def test_a_model_without_a_painter_says_so_and_takes_one(folder: Path, bundle: Any, tmp_path: Path):
    save_model(bundle.model, tmp_path / "model", {"text": folder / "text.json"})
    order = ["--autoencode", folder / "0.png", "--out", tmp_path / "out"]
    found = run("prompt", tmp_path / "model", *order)
    assert "nothing that paints the vectors of 'image'" in str(found.exception)
    assert "give one with --painter FOLDER" in str(found.exception)
    painted = run("prompt", tmp_path / "model", *order, "--painter", folder / "decoder")
    assert painted.exit_code == 0, painted.output
    generated = run(
        "generate", tmp_path / "model", *order[:2], "--to", "image", "--painter", folder / "decoder",
        "--out", tmp_path / "other",
    )  # fmt: skip
    assert (tmp_path / "other/image.png").read_bytes() == (tmp_path / "out/0.png").read_bytes(), generated.output
