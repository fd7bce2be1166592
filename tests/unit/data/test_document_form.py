"""Recipes say by their rules how documents are written around their models."""

from __future__ import annotations

import pytest

from fourm import config as configs
from fourm import recipes
from fourm.data.document_form import DocumentForm, form_of
from fourm.data.interleaved_configs import ChatConfig, InterleavedConfig
from fourm.data.packing_configs import WholeConfig
from fourm.errors import ConfigError
from fourm.recipe.schema import PretrainRecipe


def form(name: str) -> DocumentForm:
    found = recipes.load(name, PretrainRecipe, folder="pretrain").document_form
    assert found is not None
    return found


def test_rules_of_several_data_sets_are_taken_together() -> None:
    chat = ChatConfig(user="U ")
    rules = [
        InterleavedConfig(reader="text", chat=ChatConfig(user="none ")),
        InterleavedConfig(bos="<s>", image_begin="[IMG]", image_end="[/IMG]", after_image="\n"),
        InterleavedConfig(bos="<other>", reader="chat", chat=chat),
    ]
    assert form_of(rules, "emu2") == DocumentForm("<s>", "[IMG]", "[/IMG]", "\n", chat, "emu2")


def test_tokens_without_text_have_no_form() -> None:
    assert form_of([WholeConfig(), None]) is None


@pytest.mark.parametrize(
    ("name", "start", "begin", "after", "user", "phrases"),
    [
        ("vila_7b_1", "<s>", None, "\n", None, None),
        ("vila_7b_3", "<s>", None, "\n", "USER: ", None),
        ("emu_13b_1", "<s>", "[IMG]", "", None, None),
        ("emu_13b_instruct", "<s>", "[IMG]", "", "[USER]: ", None),
        ("emu2_33b_2", "<s>", "[IMG]", "", None, "emu2"),
        ("emu2_33b_chat", "<s>", "[IMG]", "", "[USER]: ", None),
        ("vl_gpt_7b_1", "<s>", "[IMG]", "", None, "vl_gpt"),
        ("emu2_fashion_2", "[SOS]", "[IMG]", "", None, None),
    ],
)
def test_shipped_stages_say_what_their_data_have(
    name: str, start: str, begin: str | None, after: str, user: str | None, phrases: str | None
) -> None:
    found = form(name)
    said = (found.start, found.image_begin, found.after_image, found.chat and found.chat.user, found.phrases)
    assert said == (start, begin, after, user, phrases)


def test_rooms_are_asked_about_as_in_their_questions() -> None:
    found = form("vila_rooms_3")
    assert (found.start, found.image_begin, found.chat and found.chat.user) == ("[SOS]", None, "[USER] ")
    assert found.phrases["question"] == "<image>question: {text} answer:"


@pytest.mark.parametrize(
    ("phrases", "message"),
    [
        ("emu3", "phrases is 'emu3'.*emu2"),
        ({"ask": "{text}"}, "phrases.ask is not a known key"),
        ({"draw": "{words}"}, "phrases.draw is '{words}'; in braces it may have {text} and {answer}"),
    ],
)
def test_phrases_that_cannot_be_used_are_refused_with_the_recipe(phrases: object, message: str) -> None:
    recipe = configs.to_dict(recipes.load("vila_rooms_3", PretrainRecipe, folder="pretrain"))
    with pytest.raises(ConfigError, match=message):
        configs.build(PretrainRecipe, {**recipe, "phrases": phrases})
