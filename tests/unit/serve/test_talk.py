"""What is asked in conversations is checked before work, and done as `fourm prompt` does it."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fourm.data.document_form import DocumentForm
from fourm.data.interleaved_configs import ChatConfig
from fourm.errors import ConfigError, DataError, FourmError
from fourm.generate.interleaved import RowWriting, writes_rows
from fourm.generate.interleaved_job import Asked, prompt
from fourm.generate.interleaved_prompts import Interleaved
from fourm.generate.phrases import phrases_of
from fourm.generate.subjects import Subject
from fourm.serve.conversation import Turn
from fourm.serve.limits import Limits
from fourm.serve.one_by_one import Busy, Finished
from fourm.serve.talk import Talker, answered, check_talk, document
from tests.rows import SIZE, bundle, image, tokenizer, written
from tests.unit.serve.conftest import encoded

__all__ = ["bundle", "tokenizer"]

LIMITS = Limits(upload_bytes=20_000, pixels=10_000, text=60, samples=3, images=2, tokens=9)


@pytest.fixture
def talker(bundle: Any, tmp_path: Path) -> Talker:
    (tmp_path / "results").mkdir()
    return Talker(bundle, tmp_path / "results")


@pytest.fixture
def conversing(bundle: Any, tmp_path: Path) -> Talker:
    """The same model, that has learned from conversations."""
    (tmp_path / "results").mkdir()
    form = DocumentForm("[SOS]", "[IMG]", "[/IMG]", chat=ChatConfig(user="a ", assistant=" is ", end=" "))
    return Talker(SimpleNamespace(**{**vars(bundle), "documents": form}), tmp_path / "results")


def file(seed: int = 0) -> bytes:
    return encoded(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8))


def check(talker: Talker, **options: Any) -> Any:
    limits = options.pop("limits", LIMITS)
    return check_talk(talker.model, limits, **{"kind": "ask", "text": "", "images": [], "max_tokens": 4, **options})


def last(talker: Talker, request: Any) -> Finished:
    news = list(talker.follow(request))
    assert isinstance(news[0], Busy)
    assert isinstance(news[-1], Finished)
    return news[-1]


def test_only_models_of_rows_have_this_page(bundle: Any) -> None:
    assert writes_rows(bundle.model)


def test_answers_are_those_of_the_command(talker: Talker, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(file())
    asked = Asked(question="how many ?", images=(tmp_path / "photo.png",))
    writing = RowWriting(0.7, max_tokens=6)
    expected = prompt(talker.bundle, asked, None, num_samples=2, seed=4, writing=writing)

    options = {"num_samples": 2, "seed": 4, "temperature": 0.7, "max_tokens": 6}
    request = check(talker, text=" how many ? ", images=[file()], **options)

    assert last(talker, request).texts == expected


def test_paintings_are_those_of_the_command(talker: Talker, tmp_path: Path) -> None:
    written = prompt(
        talker.bundle, Asked(draw="a red chair"), tmp_path / "out", num_samples=2, seed=3, writing=RowWriting()
    )
    for news in talker.follow(check(talker, kind="paint", text="a red chair", num_samples=2, seed=3)):
        if isinstance(news, Finished):
            packed, *painted = news.files
            assert [path.read_bytes() for path in painted] == [Path(path).read_bytes() for path in written]
            assert zipfile.ZipFile(packed).namelist() == ["painted_0.png", "painted_1.png"]
            assert Image.open(news.pictures["painted"][0]).width == 256  # small ones by whole pixels
    assert list(talker.folder.iterdir()) == []


PAINT = {"kind": "paint", "text": "a red chair"}
CHAIR = ("a red chair", file(1), "0.1, 0.2, 0.5, 0.9")


def test_subjects_are_those_of_the_command(talker: Talker, tmp_path: Path) -> None:
    (tmp_path / "chair.png").write_bytes(file(1))
    chair = Subject("a red chair", tmp_path / "chair.png", (0.1, 0.2, 0.5, 0.9))
    asked = Asked(draw="a red chair and a sofa", subjects=(chair, Subject("sofa", None, (0, 0, 1, 1))))
    (expected,) = prompt(talker.bundle, asked, tmp_path / "out", num_samples=1, seed=3, writing=RowWriting())

    subjects = [CHAIR, (None, None, None), ("sofa", None, "0,0,1,1"), ("", None, "")]
    roomy = replace(LIMITS, images=3)
    options = {"num_samples": 1, "seed": 3, "max_tokens": 4, "subjects": subjects}
    request = check_talk(talker.model, roomy, kind="paint", text=" a red chair and a sofa ", images=[], **options)

    assert [image is None for _, *images in request.turn.subjects for image in images] == [False, False, False, True]
    for news in talker.follow(request):
        if isinstance(news, Finished):
            assert news.files[1].read_bytes() == Path(expected).read_bytes()


def test_an_image_is_painted_anew_as_by_the_command(talker: Talker, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(file())
    asked = Asked(autoencode=tmp_path / "photo.png")
    written = prompt(talker.bundle, asked, tmp_path / "out", num_samples=2, seed=1, writing=RowWriting())
    for news in talker.follow(check(talker, kind="rebuild", images=[file()], num_samples=2, seed=1)):
        if isinstance(news, Finished):
            assert [path.read_bytes() for path in news.files[1:]] == [Path(path).read_bytes() for path in written]


def words(talker: Talker, request: Any) -> list[str]:
    return [
        " ".join(talker.model.tokenizer.token(int(i)) for i in segment.value)
        for segment in document(talker.model, request)
        if segment.modality == "text"
    ]


def read(talker: Talker, request: Any) -> str:
    return written(talker.model, document(talker.model, request))


BEFORE = (
    Turn("ask", "how many ?", (image(0),), ("two", "a")),
    Turn("paint", "a blue sofa", painted=(b"",), seen=image(1)),
    Turn("continue", "red is", answers=("blue <image>",)),
    Turn("ask", "", (image(2),), ("a sofa",)),
    Turn("rebuild", "", (image(3),), painted=(b"",), seen=image(4)),
)
SAID = (
    "[SOS] a [IMG] <0> [/IMG] how many ? is two a a blue sofa is [IMG] <1> [/IMG] a red is is blue a [IMG] <2> [/IMG] "
    "is a sofa a [IMG] <3> [/IMG] is [IMG] <4> [/IMG]"
)
ROOMY = {"limits": replace(LIMITS, images=9, text=600)}


def test_a_model_of_conversations_reads_all_that_was_said(conversing: Talker) -> None:
    asked = check(conversing, text="is it red ?", before=BEFORE, **ROOMY)
    assert read(conversing, asked) == f"{SAID} a is it red ? is"
    asked = check(conversing, text="is <image> red ?", images=[file()], before=BEFORE, **ROOMY)
    assert read(conversing, asked) == f"{SAID} a is [IMG] <?> [/IMG] red ? is"
    drawn = check(conversing, kind="paint", text="a chair", before=BEFORE, reads="all", **ROOMY)
    assert read(conversing, drawn) == f"{SAID} a a chair is [IMG]"
    assert read(conversing, check(conversing, text="red", kind="continue", before=BEFORE, **ROOMY)) == "[SOS] red"
    assert read(conversing, check(conversing, images=[file()])) == "[SOS] [IMG] <?> [/IMG]"


def test_what_phrases_put_as_a_turn_is_read_again_as_it_was_asked(conversing: Talker) -> None:
    phrases = {"caption": "a <image>how many ? is ", "draw": "a chair {text} is red ", "edit": "a <image> {text} is"}
    model = Interleaved(conversing.bundle, phrases=phrases_of(phrases))
    before = (Turn("ask", "", (image(0),), ("two",)), Turn("paint", "blue", painted=(b"",), seen=image(1)))

    def said(**options: Any) -> tuple[str, str]:
        request = check_talk(model, ROOMY["limits"], **{"text": "", "images": [], "max_tokens": 4, **options})
        return request.turn.reads, written(model, document(model, request))

    first = "[SOS] a [IMG] <0> [/IMG] how many ? is two a chair blue is red [IMG] <1> [/IMG]"
    assert said(kind="ask", images=[file()]) == ("nothing", "[SOS] a [IMG] <?> [/IMG] how many ? is")
    assert said(kind="ask", images=[file()], before=before) == ("all", f"{first} a [IMG] <?> [/IMG] how many ? is")
    assert said(kind="paint", text="sofa", before=before) == ("all", f"{first} a chair sofa is red [IMG]")
    edited = said(kind="paint", text="sofa", before=before, reads="last")
    assert edited == ("last", "[SOS] a [IMG] <1> [/IMG] sofa is [IMG]")


def test_other_models_read_the_last_image_with_a_question_that_has_none(talker: Talker) -> None:
    options = {"before": BEFORE, **ROOMY}
    assert read(talker, check(talker, text="a chair", **options)) == "[IMG] <4> [/IMG] a chair"
    assert read(talker, check(talker, text="a chair", reads="nothing", **options)) == "a chair"
    assert read(talker, check(talker, text="a chair", images=[file()], **options)) == "[IMG] <?> [/IMG] a chair"
    assert read(talker, check(talker, text="a chair", kind="paint", **options)) == "a chair [IMG]"
    changed = check(talker, text="red", kind="paint", reads="last", **options)
    assert read(talker, changed) == "[IMG] <4> [/IMG] red [IMG]"
    assert read(talker, check(talker, text="a chair", before=(Turn("ask", "a", (), ("b",)),))) == "a chair"


def test_what_is_painted_is_seen_later_as_the_model_sees_its_file(talker: Talker) -> None:
    request = check(talker, kind="paint", text="a red chair", num_samples=2)
    for news in talker.follow(request):
        if isinstance(news, Finished):
            (turn,) = answered(talker.model, request, news)
            expected = talker.model.read(next(path for path in news.files if path.name == "painted_0.png"))
    assert turn.seen is not None
    assert torch.equal(turn.seen, expected)
    assert len(turn.painted) == 2
    anew = check(talker, kind="rebuild", reads="last", before=(turn,))
    assert torch.equal(anew.turn.shown[0], expected)
    assert last(talker, anew).pictures["painted"]


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    place = tmp_path / "shots"
    place.mkdir()
    for number in range(4):
        (place / f"{number}.png").write_bytes(file(number))
        (place / f"{number}.txt").write_text(["red", "blue", "two", "chair"][number])
    return place


def test_examples_are_those_of_the_command(bundle: Any, shots: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    talker = Talker(bundle, tmp_path / "results", examples=shots)
    (tmp_path / "photo.png").write_bytes(file(7))
    asked = Asked(question="how many ?", images=(tmp_path / "photo.png",), many_examples=shots, retrieve=2)
    writing = RowWriting(max_tokens=6, num_beams=2)
    expected = prompt(bundle, asked, None, num_samples=1, seed=0, writing=writing)

    options = {"num_examples": 2, "has_examples": True, "num_beams": 2, "max_tokens": 6}
    request = check(talker, text="how many ?", images=[file(7)], **options)

    chosen = talker.examples(request.turn)
    assert len(chosen) == 2
    shown = document(talker.model, request, chosen)
    assert [segment.modality for segment in shown].count("image") == 3
    assert last(talker, request).texts == expected
    for path in shots.glob("*.png"):
        path.unlink()
    with pytest.raises(FourmError, match="^the examples of this server cannot be shown; its log says more$"):
        last(talker, request)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ConfigError, "nothing is asked: write something, or give an image"),
        ({"text": 3}, DataError, "the text: a value of type int; expected text"),
        ({"text": "a" * 61}, DataError, "the text: 61 characters; expected at most 60"),
        ({"text": "a\x00"}, DataError, "control characters"),
        ({"text": "a", "kind": "sing"}, ConfigError, "cannot do 'sing'; expected ask, continue, paint"),
        ({"kind": "continue", "images": [file()]}, ConfigError, "no text to go on with"),
        ({"images": "photo.png"}, DataError, "the images are no list of files"),
        ({"images": [None]}, DataError, "the images are no list of files"),
        ({"images": [b"a letter"]}, DataError, "image 1: this is not an image, or it is damaged"),
        ({"images": [file(), b"0" * 20_001]}, DataError, "image 2: a file of 0.0 MB; expected at most"),
        ({"images": [encoded(np.zeros((101, 100), np.uint8))]}, DataError, "image 1: the image is too large"),
        ({"images": [file()] * 3}, DataError, "3 images in this conversation; expected at most 2"),
        ({"kind": "rebuild", "text": "a", "images": [file()]}, ConfigError, "give one image and no words"),
        ({"kind": "rebuild", "images": [file()] * 2}, ConfigError, "give one image and no words"),
        ({"text": "a red chair", "subjects": [CHAIR]}, ConfigError, "choose to paint, write a text"),
        ({"kind": "paint", "images": [file()], "subjects": [CHAIR]}, ConfigError, "choose to paint, write a text"),
        ({**PAINT, "images": [file()], "subjects": [CHAIR]}, ConfigError, "images as theirs alone"),
        ({**PAINT, "subjects": [("a sofa", None, "0,0,1,1")]}, DataError, "'a sofa' is no part of the text"),
        ({**PAINT, "subjects": [("chair", None, "0,0,2,1")]}, DataError, "subject 1, 'chair': a box is '0,0,2,1'"),
        ({**PAINT, "subjects": [("chair", None, "there")]}, DataError, "subject 1, 'chair': a box is 'there'"),
        (
            {**PAINT, "subjects": [("chair", None, "")]},
            DataError,
            "subject 1: expected words of the text with an image",
        ),
        ({**PAINT, "subjects": [("", file(), "")]}, DataError, "subject 1: expected words of the text with an image"),
        ({**PAINT, "subjects": [("chair", b"no", "")]}, DataError, "subject 1: the image: this is not an image"),
        ({**PAINT, "subjects": [("chair", "a.png", "")]}, DataError, "the image: a value of type str; expected a file"),
        ({**PAINT, "subjects": [CHAIR, CHAIR]}, DataError, "is given more often than it stands there"),
        (
            {"kind": "paint", "text": "a red chair and sofa", "subjects": [CHAIR, ("sofa", file(), None)]},
            DataError,
            "3 images in this conversation; expected at most 2",
        ),
        ({"text": "a", "num_samples": 4}, ConfigError, "number of samples is 4"),
        ({"text": "a", "seed": -1}, ConfigError, "the seed is -1"),
        ({"text": "a", "num_beams": 9}, ConfigError, "number of beams is 9; expected .* from 1 to 8"),
        ({"text": "a", "num_beams": 2, "temperature": 1}, ConfigError, "set the temperature to 0, or the beams to 1"),
        ({"text": "a", "num_examples": 1}, ConfigError, "no examples to show: begin with fourm serve MODEL --examples"),
        ({"text": "a", "num_examples": 17}, ConfigError, "number of examples is 17; expected .* from 0 to 16"),
        ({"text": "a", "num_examples": 1, "has_examples": True}, ConfigError, "likeness to the first image: give one"),
        ({**PAINT, "num_examples": 1, "has_examples": True}, ConfigError, "shown before a question: ask one"),
        ({"text": "a", "reads": "some"}, ConfigError, "what is read is 'some'; expected auto, all, last, nothing"),
        ({"text": "a", "reads": "all"}, ConfigError, "this model has learned from no conversations"),
        ({"text": "a", "reads": "last"}, ConfigError, "there is no image in this conversation yet"),
        ({"text": "a", "temperature": float("nan")}, ConfigError, "the temperature is nan"),
        (
            {"text": "a", "max_tokens": 10},
            ConfigError,
            "length of answers is 10; expected .* from 1 to 9",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(
    talker: Talker, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check(talker, **options)


def test_a_conversation_has_an_end(conversing: Talker) -> None:
    long = (Turn("ask", "how many ?", (), ("two " * 12,)),)
    with pytest.raises(DataError, match="the conversation is too long, with 1 turns and 58 characters; begin a new"):
        check(conversing, text="a chair", before=long)
    shown = (Turn("ask", "a", (image(0), image(1)), ("b",)),)
    with pytest.raises(DataError, match="3 images in this conversation"):
        check(conversing, images=[file()], before=shown)


def test_a_model_without_a_painter_does_not_offer_it(bundle: Any, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    alone = Talker(SimpleNamespace(**{**vars(bundle), "tokenizers": {}}), tmp_path / "results")
    with pytest.raises(ConfigError, match="cannot do 'paint'; expected ask, continue$"):
        check(alone, kind="paint", text="red")


def test_work_ends_before_the_next_word_once_nobody_listens(talker: Talker) -> None:
    request = check_talk(talker.model, Limits(), kind="ask", text="a", images=[], max_tokens=512)
    passes = [0]
    hook = talker.bundle.model.decoder.register_forward_pre_hook(lambda *_: passes.__setitem__(0, passes[0] + 1))
    news = talker.follow(request)
    next(news)
    news.close()
    with talker._turn:
        pass
    hook.remove()
    assert passes[0] < 512


gradio = pytest.importorskip("gradio", reason="gradio is not installed: pip install 'fourm[serve]'")


def test_the_page_writes_nothing_as_markup(conversing: Talker) -> None:
    from fourm.serve.talk_page import _as_html

    turn = Turn("ask", "<script>a</script>", (torch.zeros(3, SIZE, SIZE),), ("<img src=x>",))
    found = _as_html(conversing.model, (turn,))
    assert "<script>" not in found
    assert "<img src=x>" not in found
    assert "&lt;script&gt;" in found
    assert found.count("<img ") == 1


def test_the_page_keeps_a_conversation_and_fetches_nothing(conversing: Talker, monkeypatch: Any) -> None:
    import asyncio

    from fourm.serve.talk_page import _run, build_talk_page

    page = build_talk_page(conversing, Limits(), title="toy")
    event = next(function for function in page.fns.values() if function.api_name == "ask")
    address = {"path": "http://localhost:1/photo.png", "meta": {"_type": "gradio.FileData"}}
    values: list[Any] = [
        [{"image": address, "caption": None}],
        "a",
        "ask",
        1,
        0,
        0,
        4,
        False,
        1,
        0,
        "auto",
        *[None] * 12,
        (),
    ]
    with pytest.raises(gradio.Error, match="this page fetches nothing from other hosts"):
        asyncio.run(page.preprocess_data(event, values, None))

    kept: Any = ()
    for text in ("how many ?", "a chair"):
        *_, (status, shown, answers, files, kept) = _run(
            conversing, Limits(), [[file()], text, "ask", 1, 0, 0, 4, False, 1, 0, "auto", kept]
        )
        assert "Done in" in status
        assert files is None
        assert text in shown
    assert [turn.text for turn in kept] == ["how many ?", "a chair"]
    assert kept[-1].answers == tuple(answers)
    with pytest.raises(gradio.Error, match="nothing is asked"):
        list(_run(conversing, Limits(), [None, "", "ask", 1, 0, 0, 4, False, 1, 0, "auto", kept]))


def test_wrong_values_are_answered_with_plain_text_and_shown_as_text(conversing: Talker) -> None:
    import asyncio

    from fourm.serve.talk_page import _run, build_talk_page

    page = build_talk_page(conversing, Limits(), title="toy")
    event = next(function for function in page.fns.values() if function.api_name == "ask")
    sent: list[Any] = [[], 3, "sing", 9, -1, "hot", 2.5, "x", 9, 17, "some", *[None] * 12, ()]
    read = asyncio.run(page.preprocess_data(event, sent, None))
    assert read[1:11] == sent[1:11]  # our own checks answer
    with pytest.raises(gradio.Error, match=r"another form than expected \(ValidationError\)") as caught:
        asyncio.run(page.preprocess_data(event, ["photo.png", *sent[1:]], None))
    assert not caught.value.print_exception

    answers = _run(conversing, Limits(), [None, "<image> a", "ask", 1, 0, 0, 4, False, 1, 0, "auto", ()])
    shown = [next(answers)[0], next(answers)[0]]
    while "Waiting" in shown[-1] or "Step" in shown[-1]:
        shown.append(next(answers)[0])
    with pytest.raises(gradio.Error) as caught:
        next(answers)
    assert "1 places &lt;image&gt;" in shown[-1]
    assert "1 places <image>" in caught.value.message
    assert not caught.value.print_exception
    assert not caught.value.visible
