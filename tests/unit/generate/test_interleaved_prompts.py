from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from fourm.cli import cli
from fourm.data.document_form import DocumentForm
from fourm.data.interleaved_configs import ChatConfig, InterleavedConfig
from fourm.data.interleaved_packing import Packer, Words
from fourm.data.interleaved_readers import read_line
from fourm.errors import ConfigError, DataError
from fourm.generate.interleaved import RowWriting, write_rows
from fourm.generate.interleaved_prompts import Interleaved
from fourm.generate.phrases import PHRASES
from fourm.tokens import Segment
from tests import language_vocabularies
from tests.rows import SIZE, bundle, folder, image, tokenizer, written

__all__ = ["bundle", "folder", "tokenizer"]


@pytest.fixture(scope="module")
def talk(bundle: Any) -> Interleaved:
    return Interleaved(bundle)


def test_images_stand_where_the_text_says_between_their_tokens(talk: Interleaved):
    found = talk.prompt("a <image> and <image> red", [image(0), image(1)])
    assert written(talk, found) == "a [IMG] <0> [/IMG] and [IMG] <1> [/IMG] red"
    assert written(talk, talk.prompt("red", [image(0)])) == "[IMG] <0> [/IMG] red"
    assert written(talk, talk.prompt("red", draw=True)) == "red [IMG]"
    with pytest.raises(DataError, match="2 places for images, but 1 are given"):
        talk.prompt("<image> <image>", [image(0)])


def test_prompts_may_begin_with_a_token_and_images_without_any(bundle: Any):
    other = Interleaved(bundle, begin=None, end="<nothing>", start="[SOS]")
    assert written(other, other.prompt("a <image>", [image(2)], draw=True)) == "[SOS] a <2>"


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        (lambda t: t.caption(image(0)), "[IMG] <0> [/IMG]"),
        (lambda t: t.question("how many ?", [image(0)]), "[IMG] <0> [/IMG] how many ?"),
        (lambda t: t.question("how many ?", [image(0), image(1)]), "[IMG] <0> [/IMG] [IMG] <1> [/IMG] how many ?"),
        (lambda t: t.question("how many ?", []), "how many ?"),
        (lambda t: t.question("is <image> red ?", [image(0)]), "is [IMG] <0> [/IMG] red ?"),
        (
            lambda t: t.question("is <image> red ?", [image(0), image(1)], [(image(2), "a <image>", "two")]),
            "a [IMG] <2> [/IMG] two [IMG] <0> [/IMG] is [IMG] <1> [/IMG] red ?",
        ),
        (lambda t: t.editing(image(0), "how red <image>"), "how red [IMG] <0> [/IMG] [IMG]"),
        (
            lambda t: t.question("how many ?", [image(0)], [(image(1), "how many ?", "two")]),
            "[IMG] <1> [/IMG] how many ? two [IMG] <0> [/IMG] how many ?",
        ),
        (lambda t: t.drawing("a red chair"), "a red chair [IMG]"),
        (lambda t: t.editing(image(0), "red"), "[IMG] <0> [/IMG] red [IMG]"),
        (lambda t: t.blending([image(0), image(1)]), "[IMG] <0> [/IMG] [IMG] <1> [/IMG] [IMG]"),
        (
            lambda t: t.blending([image(0), image(1)], "<image> and <image>"),
            "[IMG] <0> [/IMG] and [IMG] <1> [/IMG] [IMG]",
        ),
        (
            lambda t: t.blending([image(0), image(1)], "red <image>"),
            "[IMG] <0> [/IMG] red [IMG] <1> [/IMG] [IMG]",
        ),
        (
            lambda t: t.composing([("a chair", image(1), image(2)), ("sofa", None, image(3))], "a chair and a sofa"),
            "a chair [IMG] <1> [/IMG] [IMG] <2> [/IMG] and a sofa [IMG] <3> [/IMG] [IMG]",
        ),
        (  # in the order of the text, whatever that of the subjects
            lambda t: t.composing([("sofa", None, image(3)), ("a chair", image(1), None)], "a chair and a sofa"),
            "a chair [IMG] <1> [/IMG] and a sofa [IMG] <3> [/IMG] [IMG]",
        ),
        (  # the same words twice are two subjects
            lambda t: t.composing([("a chair", image(1), None), ("a chair", image(2), None)], "a chair and a chair"),
            "a chair [IMG] <1> [/IMG] and a chair [IMG] <2> [/IMG] [IMG]",
        ),
    ],
)
def test_every_task_is_a_prompt(talk: Interleaved, ask: Any, expected: str):
    assert written(talk, ask(talk)) == expected


@pytest.mark.parametrize("kind", language_vocabularies.KINDS)
def test_examples_have_no_spaces_beside_images(bundle: Any, kind: str):
    """As documents, whose texts between images are encoded each by itself."""
    talk = Interleaved(bundle)
    talk.tokenizer = language_vocabularies.vocabulary(kind)
    found = talk.question("which?", [image(1)], [(image(0), "what?", "a bed")])
    texts = [segment.value.tolist() for segment in found if segment.modality == talk.row.text]
    ends = [[], [talk.row.end, *talk.tokenizer.encode("what? a bed")], [talk.row.end, *talk.tokenizer.encode("which?")]]
    begins = [[talk.row.begin], [talk.row.begin], []]
    assert texts == [[*text, *begin] for text, begin in zip(ends, begins)]


def test_conversations_begin_with_other_words_or_none(bundle: Any):
    own = told(bundle, chat=ChatConfig(system="a red "))
    talks = [own, *(Interleaved(own.bundle, system=words) for words in ("how many", ""))]
    begun, other, without = (written(talk, talk.chat([("how", "")])) for talk in talks)
    assert [begun, other] == [f"{words} {without}" for words in ("a red", "how many")]


def test_conversations_go_on_after_the_last_turn(bundle: Any):
    talk = Interleaved(bundle, phrases=PHRASES["vl_gpt"])
    found = talk.chat([("<image> a", "red"), ("how many ?", "")], [image(0)])
    line = written(talk, found)
    assert line.index("<0>") < line.index("red") < line.index("many")
    expected = talk.tokenizer.encode(" ASSISTANT:").tolist()
    assert found[-1].value[-len(expected) :].tolist() == expected


def told(bundle: Any, **form: Any) -> Interleaved:
    """The same model with what its folder says of its documents."""
    return Interleaved(SimpleNamespace(**{**vars(bundle), "documents": DocumentForm(**form)}))


def test_prompts_are_written_as_the_documents_of_the_model_were(bundle: Any):
    own = told(bundle, start="[SOS]")
    assert written(own, own.caption(image(0))) == "[SOS] <0>"
    both = told(bundle, start="[SOS]", image_begin="[IMG]", image_end="[/IMG]", after_image="a")
    assert written(both, both.caption(image(0))) == "[SOS] [IMG] <0> [/IMG] a"
    several = both.question(" many", [image(0), image(1)])
    assert written(both, several) == "[SOS] [IMG] <0> [/IMG] a [IMG] <1> [/IMG] a many"
    asked = told(bundle, phrases={"question": "<image>how {text} it is"})
    assert written(asked, asked.question("many", [image(0)])) == "<0> how many it is"


def test_options_win_over_what_the_model_says(bundle: Any):
    other = SimpleNamespace(**{**vars(bundle), "documents": DocumentForm("[SOS]", phrases="emu2")})
    own = Interleaved(other, start=None, begin="[IMG]", end="[/IMG]", phrases=PHRASES["plain"])
    assert written(own, own.question("how many ?", [image(0)])) == "[IMG] <0> [/IMG] how many ?"


CHAT = ChatConfig(system="based on it ", user="a ", assistant=" is ", end="[EOS]")


def test_conversations_are_the_ones_of_training(bundle: Any):
    talk = told(bundle, start="[SOS]", image_begin="[IMG]", image_end="[/IMG]", chat=CHAT)
    rules = InterleavedConfig(reader="chat", bos="[SOS]", image_begin="[IMG]", image_end="[/IMG]", chat=CHAT)
    turns = [("<image> how many ?", "two"), ("red and <image> ?", "red")]
    said = [{"from": who, "value": text} for turn in turns for who, text in zip(("human", "gpt"), turn)]
    line = json.dumps({"conversations": said, "images": ["0", "1"]}).encode()
    pieces = Packer(rules, talk.tokenizer, 3).pack(read_line(line, rules), np.random.default_rng(0), 1000) or []
    trained: list[int] = []
    for piece in pieces:
        words = [piece] if isinstance(piece, Words) else [*piece.before, *piece.after]
        trained += [int(i) for w in words for i in w.ids]

    found = talk.chat([turns[0], (turns[1][0], "")], [image(0), image(1)])

    prompt = [int(i) for segment in found if segment.modality == "text" for i in segment.value]
    red, end = talk.tokenizer.id_of("red"), talk.tokenizer.id_of("[EOS]")
    assert [*prompt, red, end] == trained
    line = "[SOS] based on it a [IMG] <0> [/IMG] how many ? is two [EOS] a red and [IMG] <1> [/IMG] ? is"
    assert written(talk, found) == line
    assert end in talk.stop


def test_a_model_of_conversations_is_asked_in_turns(bundle: Any):
    talk = told(bundle, chat=CHAT, after_image="it ")
    found = talk.question("how many ?", [image(0)], [(image(1), "red", "two")])
    assert written(talk, found) == "based on it a <1> it red is two [EOS] a <0> it how many ? is"
    placed = talk.question("is <image> red ?", [image(0)])
    assert written(talk, placed) == "based on it a is <0> red ? is"
    first = talk.chat([("red", "two"), ("how many ?", "")], [image(0)])  # without a place: before all
    assert written(talk, first) == "based on it a <0> it red is two [EOS] a how many ? is"
    own = told(bundle, chat=CHAT, phrases="plain")
    assert written(own, own.question("how many ?", [image(0)])) == "<0> how many ?"


def test_names_of_tokens_in_what_a_user_says_are_words(bundle: Any):
    talk = told(bundle, image_begin="[IMG]", image_end="[/IMG]", chat=CHAT)
    (found,) = talk.chat([("red [IMG]", "")])
    assert talk.tokenizer.id_of("[IMG]") not in found.value
    with pytest.raises(DataError, match="the conversation has 1 places <image>, but 0 images"):
        talk.chat([("<image>", "")])
    with pytest.raises(DataError, match="there are no turns"):
        talk.chat([])


def test_phrases_of_the_papers_hold_the_image_and_the_question(bundle: Any):
    for name, phrases in PHRASES.items():
        talk = Interleaved(bundle, phrases=phrases)
        line = written(talk, talk.question("how many ?", [image(0)], [(image(1), "red", "two")]))
        assert line.index("<1>") < line.index("two") < line.index("<0>") < line.index("many"), name


def test_boxes_are_drawn_as_white_rectangles_on_black(talk: Interleaved):
    found = (talk.box_image([0.25, 0.0, 0.75, 0.5]) + 1) / 2
    assert found.shape == (3, SIZE, SIZE)
    assert {*found.unique().tolist()} == {0.0, 1.0}
    rows, columns = found[0].nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 7, 4, 11)
    assert not found[0, 1:7, 5:11].any()  # only the line is white
    with pytest.raises(DataError, match="a box is"):
        talk.box_image([0.5, 0, 0.2, 1])


def test_images_are_drawn_painted_and_rebuilt(talk: Interleaved):
    seeds = torch.tensor([3, 4])
    prompts = [talk.drawing("a red chair"), talk.editing(image(0), "a blue sofa")]
    drawn = talk.draw(prompts, seeds)
    assert drawn.shape == (2, 3, SIZE, SIZE)
    torch.testing.assert_close(drawn[1:], talk.draw(prompts[1:], seeds[1:]), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(drawn[0], talk.draw([talk.drawing("how many")], seeds[:1])[0])
    assert not torch.allclose(drawn, talk.draw(prompts, seeds, guided=True))
    vectors = talk.encode([image(0), image(1)])
    expected = talk.bundle.tokenizers["image"].decode(vectors, seeds=seeds)
    torch.testing.assert_close(talk.paint(vectors, seeds), expected)


def test_guidance_moves_away_from_what_follows_the_empty_prompt(bundle: Any):
    """Emu's unconditional vectors: those generated behind the start and the begin of an image, and no word."""
    talk = Interleaved(bundle, start="[SOS]")
    seeds, prompts = torch.tensor([3, 4]), [talk.drawing("a red chair"), talk.drawing("a blue sofa")]
    nothing = [Segment("text", np.array([talk.tokenizer.id_of("[SOS]"), talk.tokenizer.id_of("[IMG]")]))]
    empty, red = talk.vectors([nothing], seeds[:1]), talk.vectors([talk.drawing("red")], seeds[:1])
    decoder = talk.bundle.tokenizers["image"]

    drawn = talk.draw(prompts, seeds, guided=True)

    torch.testing.assert_close(drawn, decoder.decode(talk.vectors(prompts, seeds), seeds=seeds, null=empty))
    assert not torch.allclose(drawn, decoder.decode(talk.vectors(prompts, seeds), seeds=seeds, null=red))


def always(bundle: Any, token: str) -> Any:
    """The same model, but one that would always choose a token."""
    model, id = copy.deepcopy(bundle.model), bundle.text.id_of(token)
    heads = model.heads

    def logits(name: str, hidden: torch.Tensor) -> torch.Tensor:
        found = type(heads).logits(heads, name, hidden)
        found[..., id] = 1e3
        return found

    heads.logits = logits
    return SimpleNamespace(**{**vars(bundle), "model": model})


def test_the_model_chooses_where_images_stand_among_its_words(bundle: Any):
    talk, seeds = Interleaved(always(bundle, "[IMG]")), torch.tensor([3, 4])
    prompts = [talk.prompt("a red chair"), talk.prompt("a blue sofa")]
    found = talk.write(prompts, seeds, RowWriting(max_tokens=2, max_images=2))
    assert [[type(part) for part in row] for row in found] == [[torch.Tensor, torch.Tensor, str]] * 2
    # The first is what is painted where one is asked for, and the second has a seed of its own.
    drawn = talk.draw([talk.prompt("a red chair", draw=True), talk.prompt("a blue sofa", draw=True)], seeds)
    torch.testing.assert_close(torch.stack([row[0] for row in found]), drawn, rtol=1e-3, atol=1e-3)  # type: ignore[misc]
    assert not torch.allclose(found[0][0], found[0][1], atol=1e-2)  # type: ignore[arg-type]


def test_a_prompt_may_open_the_first_of_the_images_and_none_may_come(bundle: Any):
    talk = Interleaved(always(bundle, "red"))
    opened, plain = talk.prompt("a [IMG]"), talk.prompt("a")
    writing = RowWriting(max_tokens=2, max_images=1)
    found = talk.write([opened, plain], torch.arange(2), writing)
    assert [[type(part) for part in row] for row in found] == [[torch.Tensor, str], [str]]
    assert found[1] == talk.answer([plain], torch.arange(1), RowWriting(max_tokens=2))
    with pytest.raises(ConfigError, match=r"text alone is asked for, but images are allowed.*use `write`"):
        talk.answer([plain], torch.arange(1), writing)


def test_a_model_that_paints_nothing_says_so_before_its_painter_is_missed(bundle: Any):
    blind = copy.deepcopy(bundle.model)
    blind.vector_heads = torch.nn.ModuleDict()
    talk, seeds = Interleaved(SimpleNamespace(**{**vars(bundle), "model": blind, "tokenizers": {}})), torch.arange(1)
    with pytest.raises(ConfigError, match=r"it has no head for the vectors of 'image'. Ask it about images"):
        talk.draw([talk.drawing("red")], seeds)
    with pytest.raises(ConfigError, match=r"it has no head for the vectors of 'image'. Ask it about images"):
        talk.write([talk.prompt("red")], seeds, RowWriting(max_images=1))
    opened = talk.prompt("a boot [IMG]")
    with pytest.raises(ConfigError, match="a prompt ends with the token that begins an image, but this model has no"):
        write_rows(blind, talk.row, [opened], seeds)
    bare = Interleaved(bundle, begin=None, end=None)
    with pytest.raises(ConfigError, match="nothing stands before images in its rows"):
        bare.write([bare.prompt("red")], seeds, RowWriting(max_images=1))


def test_rows_longer_than_those_of_training_are_told(talk: Interleaved, caplog: pytest.LogCaptureFixture):
    talk.answer([talk.prompt("red " * 61, [image(0)])], torch.arange(1), RowWriting(max_tokens=1))
    assert "the prompt has 66 tokens, those of images included, but this model has learned from rows of at most 64" in (
        caplog.text
    )
    caplog.clear()
    talk.answer([talk.prompt("red " * 59, [image(0)])], torch.arange(1), RowWriting(max_tokens=1))
    assert not caplog.text


def test_answers_are_text_and_stop_at_its_end(talk: Interleaved):
    prompts = [talk.caption(image(0)), talk.question("how many ?", [image(1)])]
    found = talk.answer(prompts, torch.arange(2), RowWriting(max_tokens=6))
    assert all(isinstance(text, str) for text in found)
    assert not any("[EOS]" in text for text in found)


def test_models_of_other_kinds_are_refused(bundle: Any):
    alone = SimpleNamespace(**{**vars(bundle), "tokenizers": {}})
    with pytest.raises(ConfigError, match=r"nothing that paints the vectors of 'image'.*tokenizers: \{image: FOLDER\}"):
        Interleaved(alone).draw([Interleaved(alone).drawing("red")], torch.arange(1))
    wrong = SimpleNamespace(reads={"image": (4, 12)})
    other = SimpleNamespace(**{**vars(bundle), "tokenizers": {"image": wrong}})
    with pytest.raises(ConfigError, match="paints 4 vectors of 12 .*modality 'image' is 3 vectors of 12 numbers"):
        Interleaved(other).draw([Interleaved(other).drawing("red")], torch.arange(1))
    with pytest.raises(ConfigError, match="without a text tokenizer"):
        Interleaved(SimpleNamespace(**{**vars(bundle), "text": None}))


def run(folder: Path, *arguments: Any) -> Any:
    return CliRunner().invoke(cli, ["prompt", str(folder / "model"), "--device", "cpu", *map(str, arguments)])


def test_the_command_answers_and_paints(folder: Path, tmp_path: Path):
    shown = ["--image", folder / "0.png"]
    one = run(folder, *shown, "--question", "how many ?", "--max-tokens", 4)
    assert one.exit_code == 0, one.output
    example = ["--example", folder / "1.png", "how many ?", "two"]
    few = run(folder, *shown, "--question", "how many ?", *example, *example, "--retrieve", 1, "--beams", 2)
    assert few.exit_code == 0, few.output
    painted = run(folder, "--draw", "a red chair", "--out", tmp_path, "--num-samples", 2)
    assert painted.exit_code == 0, painted.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "1.png"]
    turn = run(folder, *shown, "--turn", "what is it ?", "a chair", "--question", "how many ?", "--max-tokens", 4)
    assert turn.exit_code == 0, turn.output
    assert Image.open(tmp_path / "0.png").size == (SIZE, SIZE)


DRAWN = ["--temperature", "1", "--max-tokens", "8"]


def generate(folder: Path, *arguments: Any) -> Any:
    return CliRunner().invoke(cli, ["generate", str(folder / "model"), "--device", "cpu", *map(str, arguments)])


def test_both_commands_write_text_and_images_in_order(folder: Path, tmp_path: Path):
    order = ["--max-tokens", 4, "--temperature", 1, "--max-images", 2]
    asked = run(folder, "--text", "a red [IMG]", *order, "--num-samples", 2, "--out", tmp_path / "prompt")
    assert asked.exit_code == 0, asked.output
    lines = asked.output.splitlines()
    assert lines[0] == str(tmp_path / "prompt/0_0.png")  # the prompt has opened it
    assert str(tmp_path / "prompt/1_0.png") in lines
    question = ["--given", f"image={folder / '0.png'}", "--given", "text=how many [IMG]"]
    phrases = ["--phrases", "plain"]
    found = generate(folder, *question, *phrases, *order, "--to", "text,image", "--out", tmp_path / "generate")
    same = run(folder, "--image", folder / "0.png", "--question", "how many [IMG]", *phrases, *order,
               "--out", tmp_path / "same")  # fmt: skip
    assert found.exit_code == same.exit_code == 0, found.output
    text, *images = map(Path, found.output.splitlines())
    told = same.output.splitlines()
    assert text.read_text() == " ".join("<image>" if line.endswith(".png") else line for line in told) + "\n"
    painted = [Path(line) for line in told if line.endswith(".png")]
    assert painted
    assert [path.read_bytes() for path in images] == [path.read_bytes() for path in painted]
    assert images[0].name == "image_0.png"


def test_fourm_generate_takes_files_of_text_examples_and_turns(folder: Path, tmp_path: Path):
    shown, words = ["--given", f"image={folder / '0.png'}"], tmp_path / "question.txt"
    words.write_text("how many ?\n")

    def answers(name: str, given: list[Any], asked: list[Any], *options: Any) -> None:
        options = (*DRAWN, *options)
        found = generate(folder, *given, *options, "--to", "text", "--out", tmp_path / name)
        expected = run(folder, *asked, *options)
        assert found.exit_code == expected.exit_code == 0, found.output + expected.output
        assert (tmp_path / name / "text.txt").read_text() == expected.output

    asked = ["--image", folder / "0.png", "--question", "how many ?"]
    answers("file", [*shown, "--given", f"text={words}"], asked)
    examples = [a for n in (0, 1) for a in ("--example", folder / f"{n}.png", "how many ?", "two")]
    answers("examples", [*shown, "--given", f"text={words}"], asked, *examples, "--retrieve", 1)
    answers("turns", [*shown, "--given", f"text={words}"], asked, "--turn", "is it red ?", "it is")


def test_a_folder_that_cannot_be_made_is_told_before_the_work(folder: Path, tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr(Interleaved, "draw", None)
    (tmp_path / "file").write_text("here")
    found = run(folder, "--draw", "red", "--out", tmp_path / "file")
    assert isinstance(found.exception, ConfigError)
    assert "there is a file of the name" in str(found.exception)


def test_fourm_generate_gives_the_answers_of_fourm_prompt(folder: Path, tmp_path: Path):
    shown, words = ["--given", f"image={folder / '0.png'}"], ["--given", "text=how many ?"]
    found = generate(folder, *shown, *words, "--to", "text", "--num-samples", 2, *DRAWN, "--out", tmp_path / "text")
    asked = run(folder, "--image", folder / "0.png", "--question", "how many ?", "--num-samples", 2, *DRAWN)
    assert found.exit_code == 0, found.output
    assert [Path(path).name for path in found.output.splitlines()] == ["text_00.txt", "text_01.txt"]
    first, second = (Path(path).read_text() for path in found.output.splitlines())
    assert first + second == asked.output
    assert first != second

    other = ["--given", f"image#b={folder / '1.png'}"]
    painted = generate(folder, *shown, *other, "--to", "image", "--seed", 3, "--out", tmp_path / "image")
    drawn = run(folder, "--image", folder / "0.png", "--image", folder / "1.png", "--draw", "", "--seed", 3,
                "--out", tmp_path / "drawn")  # fmt: skip
    assert painted.exit_code == drawn.exit_code == 0, painted.output
    assert (tmp_path / "image/image.png").read_bytes() == (tmp_path / "drawn/3.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--given", "text=a", "--to", "text", "--max-images", "1"], "name them too, --to text,image"),
        (["--given", "text=none.txt", "--to", "text"], "there is no file 'none.txt'"),
        (["--given", "text= ", "--to", "text"], "the text is empty; leave text out"),
        (["--given", "text=a", "--to", "text", "--num-samples", "3"], "the same for every seed: give --temperature 1"),
        (["--given", "text=a", "--to", "image", "--beams", "2"], "--beams say how words are chosen: leave them out"),
        (["--given", "text=a", "--to", "text", "--ensemble"], "leave out --ensemble"),
        (["--prompts", "a.txt", "--to", "text"], "leave out --prompts"),
        (["--given", "text=a", "--given", "text#2=b", "--to", "text"], "the text is given twice"),
        (["--given", "depth=a.png", "--to", "text"], "cannot read 'depth'"),
        (["--given", "image=none.png", "--to", "text"], "cannot read the image none.png"),
    ],
)
def test_what_fourm_generate_cannot_ask_of_rows_is_explained(
    folder: Path, tmp_path: Path, arguments: list[str], message: str
):
    found = generate(folder, *arguments, "--out", tmp_path / "out")
    assert isinstance(found.exception, ConfigError | DataError)
    assert message in str(found.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--draw", "red"], "give the folder for them with --out"),
        (["--draw", "red", "--text", "blue"], "ask one thing at a time"),
        (["--turn", "how many ?", "two"], "--turn goes before a --question"),
        (["--text", "red [IMG]"], "the prompt ends with [IMG], where an image begins, but text alone is asked for"),
        (["--text", "red", "--max-images", 1], "give the folder for them with --out"),
        (["--draw", "red", "--max-images", 1], "--max-images is of answers in words"),
        (["--draw", "red", "--beams", 4, "--max-tokens", 3], "--beams, --max-tokens say how words are chosen"),
        (["--text", "red", "--guided"], "--guided is of images that are painted"),
        (["--text", "red", "--retrieve", 2], "--retrieve chooses of examples, but there are none"),
        (["--text", "red", "--top-k", 2], "the likeliest are taken: give --temperature 1 too"),
        (["--text", "red", "--num-samples", 2], "the same for every seed: give --temperature 1"),
        (["--text", "red", "--pair", "a.png", "b.png", "--count", 2], "for models of images alone: --pair, --count"),
        (["--text", "red", "--seed", 1 << 63], "the seed is 9223372036854775808; expected a whole number from -92"),
        (["--question", " "], "the question is empty: write one, or leave it out"),
        ([], "there is nothing to ask"),
        (["--image", "missing.png", "--question", "what"], "cannot read the image missing.png"),
    ],
)
def test_questions_that_cannot_be_answered_are_explained(folder: Path, arguments: list[str], message: str):
    found = run(folder, *arguments)
    assert found.exit_code != 0
    assert isinstance(found.exception, ConfigError | DataError | SystemExit)
    assert message in (str(found.exception) + found.output)


def test_segments_of_known_vectors_can_be_shown(talk: Interleaved):
    vectors = talk.encode([image(0)])[0]
    known = talk.prompt("a <image>", [vectors])
    assert isinstance(known[1], Segment)
    drawn = talk.prompt("a <image>", [image(0)])
    writing = RowWriting(max_tokens=4)
    assert talk.answer([known], torch.arange(1), writing) == talk.answer([drawn], torch.arange(1), writing)
