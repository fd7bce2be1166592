"""The data of the published systems, as shipped: what they say of it, and what a document of theirs becomes by it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourm import recipes
from fourm.data.configs import DataConfig
from fourm.data.interleaved_configs import InterleavedConfig
from fourm.data.interleaved_packing import Packer, Piece, Words
from fourm.data.interleaved_parts import Text
from fourm.data.interleaved_readers import conversation, read_line
from fourm.paths import recipe_folder
from tests.interleaved import PUBLISHED, Written
from tests.language_vocabularies import KINDS, vocabulary

FILES = sorted((recipe_folder() / "documents").glob("*.yaml"))


@dataclass
class Mixture:
    """What these files hold: the data of a recipe."""

    data: DataConfig


def packings(name: str) -> dict[str, InterleavedConfig]:
    mixture = recipes.load(recipe_folder() / "documents" / f"{name}.yaml", Mixture)
    return {data: dataset.packing for data, dataset in mixture.data.train.datasets.items()}


def written(packing: InterleavedConfig, **changes: Any) -> str:
    write = Written()
    write.packer = Packer(replace(packing, **changes), write.vocabulary, 2)
    return write(read_line(json.dumps(PUBLISHED[packing.reader]).encode(), packing))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_data_set_packs_a_document_of_its_form(path: Path) -> None:
    for packing in packings(path.stem).values():
        assert written(replace(packing, drop_single_image=0.0))


def test_vila_puts_images_before_their_sentences() -> None:
    stage = packings("vila_2")
    assert written(stage["mmc4"]) == "<s> {0.jpg} *\\n *one. {1.jpg} *\\n *two. {2.jpg} *\\n *three. *</s>"
    assert (stage["mmc4"].max_images, stage["coyo"].group, stage["coyo"].num_tokens) == (6, 4, 4096)


def test_vila_asks_answers_in_vicunas_template() -> None:
    found = written(packings("vila_3")["llava"])
    assert found.startswith("<s> A chat between")
    assert found.endswith("USER: {a.jpg} \\n what? ASSISTANT: *a *bed *</s>")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["vila_3", "emu_instruct", "emu2_chat", "vl_gpt_instruct"])
def test_conversations_have_the_ids_of_their_text_as_a_whole(name: str, kind: str) -> None:
    """The published code encodes all of a conversation at once; an answer must not differ, nor a prompt up to it."""
    packing = next(p for p in packings(name).values() if p.reader == "chat")
    said = [("human", "what?"), ("gpt", "a bed"), ("human", "where?"), ("gpt", "3 left")]
    words, chat = vocabulary(kind), packing.chat
    packer = Packer(packing, words, 2)
    line = json.dumps({"conversations": [{"from": role, "value": text} for role, text in said]})
    pieces = packer.pack(read_line(line.encode(), packing), np.random.default_rng(0), 1000) or []

    user, assistant = chat.user.strip(), chat.assistant.strip()
    first = f"{chat.system}{user} what? {assistant} a bed{chat.end}{user} where? {assistant}"
    start = words.id_of("<s>")
    assert ids(pieces) == [start, *words.encode(f"{first} 3 left{chat.end}")]
    answer = ids(pieces)[1 + len(words.encode(first)) :]
    assert ids(pieces, asked=True)[-len(answer) :] == answer

    shown = [(role, [Text(text, asked=False)]) for role, text in said[:3]]
    prompt = packer.pack(conversation(chat, shown, begun=""), np.random.default_rng(0), 1000) or []
    assert ids(prompt) == [start, *words.encode(first)]


@pytest.mark.parametrize("kind", KINDS)
def test_documents_have_the_ids_of_their_text_as_a_whole(kind: str) -> None:
    words = vocabulary(kind)
    parts = [Text("question: which?", asked=False), Text("answer:", asked=False), Text("red"), Text("or", asked=False)]
    pieces = Packer(InterleavedConfig(), words, 2).pack(parts, np.random.default_rng(0), 1000) or []
    assert ids(pieces) == words.encode("question: which? answer: red or").tolist()
    before, after = (len(words.encode(text)) for text in ("question: which? answer:", "question: which? answer: red"))
    assert ids(pieces, asked=True) == ids(pieces)[before:after]


def ids(pieces: Sequence[Piece], asked: bool = False) -> list[int]:
    """Those of all words; or of those that are asked."""
    return [int(i) for piece in pieces if isinstance(piece, Words) and piece.asked >= asked for i in piece.ids]


def test_emu_does_not_ask_for_the_tokens_around_images() -> None:
    stage = packings("emu_1")
    assert written(stage["mmc4"], image_first=1.0) == "<s> [IMG] *{0.jpg} [/IMG] *one. *two. *three. *</s>"
    assert {s.image_first for name, s in stage.items() if name != "storyboards"} == {0.5}
    assert (stage["mmc4"].num_tokens, stage["mmc4_stretches"].num_tokens) == (1024, 512)
    assert written(packings("emu_instruct")["llava"]).endswith(
        "[USER] : [IMG] {a.jpg} [/IMG] \\n what? [ASSISTANT] : *a *bed *</s>"
    )


def test_emu2_asks_captions_first_then_images_too_and_last_of_all_one_image_alone() -> None:
    assert written(packings("emu2_1")["captions"]) == "<s> [IMG] {a.jpg} [/IMG] *a *bed *</s>"
    assert written(packings("emu2_2")["pairs"], image_first=1.0) == "<s> [IMG] *{a.jpg} [/IMG] *a *bed *</s>"
    assert written(packings("emu2_gen")["text_to_image"]) == "<s> a bed [IMG] *{a.jpg} [/IMG] </s>"


def test_vl_gpt_asks_where_images_begin() -> None:
    stage = packings("vl_gpt")
    assert written(stage["cc3m"], image_first=1.0) == "<s> *[IMG] *{a.jpg} *[/IMG] *a *bed *</s>"
    assert written(stage["mmc4"], image_first=1.0).count(".jpg") == 2  # those of at least 0.24
    assert (stage["obelics"].drop_single_image, stage["obelics"].num_tokens) == (0.8, 512)
    turns = written(packings("vl_gpt_instruct")["llava"])
    assert turns.endswith("USER: [IMG] {a.jpg} [/IMG] \\n what? ASSISTANT: *a *bed *</s>")
