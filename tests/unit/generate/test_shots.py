"""Examples before a question: read from files, and chosen by how their images look."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from fourm.cli import cli
from fourm.errors import ConfigError, DataError
from fourm.generate.interleaved import RowWriting
from fourm.generate.interleaved_job import Asked, prompt
from fourm.generate.interleaved_prompts import Interleaved
from fourm.generate.shots import Shot, nearest, one_of_each, open_shots
from tests.rows import bundle, folder, image, tokenizer

__all__ = ["bundle", "folder", "tokenizer"]


def test_the_examples_most_alike_are_found_the_best_last(bundle: Any):
    talk, near = Interleaved(bundle), image(0) + 0.01
    assert nearest(talk, image(0), [image(1), near, image(2)], 1) == [1]
    assert nearest(talk, image(0), [image(1), near, image(2)], 2)[-1] == 1
    assert nearest(talk, image(0), [image(1)], 4) == [0]


def test_the_image_that_is_asked_about_is_no_example(bundle: Any):
    talk, near = Interleaved(bundle), image(0) + 0.01
    assert nearest(talk, image(0), [image(0), image(1), image(0), near], 9) == [1, 3]
    with pytest.raises(DataError, match="all examples show the very image that is asked about"):
        nearest(talk, image(0), [image(0)], 1)


def test_of_many_examples_some_are_held_at_a_time(bundle: Any):
    talk, held = Interleaved(bundle), list[int]()
    encode = talk.encode

    def counted(images: Any) -> Any:
        held.append(len(images))
        return encode(images)

    talk.encode = counted  # type: ignore[method-assign]
    images = (image(seed) for seed in range(70))
    assert nearest(talk, image(40) + 0.01, images, 1) == [40]
    assert held == [1, 32, 32, 6]


def test_a_folder_holds_images_with_their_answers(folder: Path, tmp_path: Path):
    for name, answer in (("b", "a sofa\n"), ("a", "a chair")):
        shutil.copy(folder / "0.png", tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(answer)
    (tmp_path / "notes.txt").write_text("no example")
    assert open_shots(tmp_path) == [
        Shot(tmp_path, "a.png", None, "a chair"),
        Shot(tmp_path, "b.png", None, "a sofa"),
    ]


def test_a_file_holds_lines_or_the_questions_of_documents(tmp_path: Path):
    parts = [{"image": "rgb/shard-00000.tar/1.png", "asked": False}, {"text": "how many?"}, {"text": "two"}]
    lines = [
        {"image": "a.png", "question": "what is it?", "answer": "a chair"},
        {"image": "b.png", "answer": "a sofa"},
        {"parts": parts, "kind": "count", "question": "how many?", "answer": "two"},
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert open_shots(path) == [
        Shot(tmp_path, "a.png", "what is it?", "a chair"),
        Shot(tmp_path, "b.png", None, "a sofa"),
        Shot(tmp_path, "rgb/shard-00000.tar/1.png", "how many?", "two"),
    ]


def test_of_every_image_one_example_is_left_if_possible_with_the_same_question():
    root = Path("root")
    shots = [
        Shot(root, "a.png", "what is it?", "a chair"),
        Shot(root, "b.png", "which colour?", "red"),
        Shot(root, "a.png", "how many?", "two"),
        Shot(root, "a.png", "how many?", "three"),
        Shot(root, "b.png", "what is it?", "a sofa"),
    ]
    assert one_of_each(shots, "how many?") == [shots[2], shots[1]]
    assert one_of_each(shots, "where?") == [shots[0], shots[1]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("", "there are none; expected a folder of images with a .txt beside each"),
        ('{"image": "a.png"}', "line 1: expected an object with image, answer"),
        ('{"image": "a.png", "answer": 3}', "line 1: expected an object with image, answer"),
        ('{"parts": [{"image": "a"}, {"image": "b"}], "answer": "x"}', "line 1: expected an object"),
        ("no json", "line 1: expected an object with image, answer"),
    ],
)
def test_what_holds_no_examples_is_explained(tmp_path: Path, content: str | None, message: str):
    path = tmp_path / "examples.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError) as told:
        open_shots(path)
    assert message in str(told.value)


def test_an_image_without_an_answer_is_named(folder: Path, tmp_path: Path):
    shutil.copy(folder / "0.png", tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.txt.*Put a \.txt of the same name beside every image"):
        open_shots(tmp_path)


@pytest.fixture
def many(folder: Path, tmp_path: Path) -> Path:
    """Six examples, of which the third and less the last look like the first image of `folder`."""
    alike = {2: 8, 5: 24}
    for number in range(6):
        pixels = np.asarray(Image.open(folder / f"{0 if number in alike else 1}.png")).astype(int)
        lighter = np.minimum(pixels + alike.get(number, 0), 255).astype(np.uint8)
        Image.fromarray(lighter).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text("two" if number in alike else "red")
    return tmp_path


def test_the_command_shows_those_of_many_that_are_most_alike(folder: Path, bundle: Any, many: Path):
    shown = ["--image", folder / "0.png", "--question", "how many ?", "--temperature", 1, "--max-tokens", 8]

    def ask(*examples: Any) -> str:
        found = CliRunner().invoke(cli, ["prompt", str(folder / "model"), *map(str, [*shown, *examples])])
        assert found.exit_code == 0, found.output
        return found.output

    two = [argument for n in (5, 2) for argument in ("--example", many / f"{n}.png", "how many ?", "two")]
    assert ask("--examples", many, "--retrieve", 2) == ask(*two)
    assert ask("--examples", many) != ask(*two)  # four of them


def test_examples_given_one_by_one_and_many_are_chosen_from_together(folder: Path, bundle: Any, many: Path):
    pixels = np.asarray(Image.open(folder / "0.png")).astype(int)
    Image.fromarray(np.minimum(pixels + 2, 255).astype(np.uint8)).save(folder / "nearly.png")
    one = ((folder / "nearly.png", "how many ?", "one"),)
    asked = {"images": (folder / "0.png",), "question": "how many ?"}
    writing = RowWriting(1.0, max_tokens=8)

    def answer(**options: Any) -> list[str]:
        return prompt(bundle, Asked(**asked, **options), None, num_samples=1, seed=0, writing=writing)

    two = tuple((many / f"{n}.png", "how many ?", "two") for n in (5, 2))
    assert answer(examples=one, many_examples=many, retrieve=3) == answer(examples=(*two, *one))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"many_examples": Path("a"), "images": (Path("b"),)}, "shown before a question: give --question"),
        ({"many_examples": Path("a"), "question": "what?"}, "likeness to the first --image: give one"),
        ({"examples": ((Path("a"), "b", "c"),), "retrieve": 1, "question": "what?"}, "likeness to the first --image"),
        ({"images": (Path("a"),), "retrieve": 1}, "there are none: give --examples or --example"),
    ],
)
def test_examples_need_a_question_and_an_image(options: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        Asked(**options)
