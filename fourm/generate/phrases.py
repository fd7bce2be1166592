"""How questions are put to models of text and images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from fourm import config as configs
from fourm.errors import ConfigError, did_you_mean

IMAGE = "<image>"
"""Where an image stands in the text of a prompt."""


@dataclass(frozen=True)
class Phrases:
    """How questions are put; `{text}` stands for what is asked, and images for their places.

    Args:
        caption: asks what an image shows.
        question: asks about images.
        example: the same with its answer `{answer}`, as an example before a question.
        join: between examples.
        draw: asks for an image.
        edit: asks for another image like a given one.
        compose: asks for an image of subjects that are shown or have places.
        subject: the words of such a subject.
        place: its place, drawn as an image.
        user, assistant: before the turns of a conversation.
    """

    caption: str = IMAGE
    question: str = f"{IMAGE} {{text}}"
    example: str = f"{IMAGE} {{text}} {{answer}}"
    join: str = " "
    draw: str = "{text}"
    edit: str = f"{IMAGE} {{text}}"
    compose: str = "{text}"
    subject: str = "{text}"
    place: str = IMAGE
    user: str = "[USER]: "
    assistant: str = " [ASSISTANT]: "


_EMU2 = Phrases(
    question=f"{IMAGE} based on the picture, {{text}} short answer:",
    example=f"{IMAGE} based on the picture, {{text}} short answer: {{answer}}",
    join=". ",
)
PHRASES: dict[str, Phrases] = {
    "plain": Phrases(),
    "vila": Phrases(caption=f"{IMAGE}\n", question=f"{IMAGE}\n{{text}}", example=f"{IMAGE}\n{{text}} {{answer}}"),
    "emu2": _EMU2,
    "emu2_gen": replace(
        _EMU2,
        compose="<grounding>{text}",
        subject="<phrase>{text}</phrase>",
        place=f"<object>{IMAGE}</object>",
    ),
    "vl_gpt": Phrases(
        caption=f"{IMAGE} Please describe this image in detail in one sentence. It shows",
        question=f"{IMAGE} Based on the image, {{text}} Short answer:",
        example=f"{IMAGE} Based on the image, {{text}} Short answer: {{answer}}",
        draw="An image of {text}.",
        user="USER: ",
        assistant=" ASSISTANT: ",
    ),
}
"""Those of the papers: VILA (Lin et al. 2023), Emu2 (Sun et al. 2024, sec. 3), VL-GPT (Zhu et al. 2023, sec. 4)."""


def phrases_of(said: str | Mapping[str, Any] | None, after_image: str = "") -> Phrases:
    """The phrases of a name, or plain ones with changes.

    Args:
        said: a name; or key of `Phrases` -> text; None: plain ones.
        after_image: between images and text, where nothing else is said.

    Raises:
        ConfigError: if there are none of that name, or a phrase has other places than it may have.
    """
    if isinstance(said, str):
        if said not in PHRASES:
            raise ConfigError(f"phrases is '{said}'.{did_you_mean(said, PHRASES)}")
        return PHRASES[said]
    shown = f"{IMAGE}{after_image or ' '}{{text}}"
    plain = {"caption": IMAGE + after_image, "question": shown, "example": f"{shown} {{answer}}", "edit": shown}
    found = configs.build(Phrases, {**plain, **(said or {})}, key="phrases")
    for field in fields(found):
        try:
            getattr(found, field.name).format(text="", answer="")
        except (KeyError, IndexError, ValueError):
            raise ConfigError(
                f"phrases.{field.name} is {getattr(found, field.name)!r}; in braces it may have {{text}} and {{answer}}"
            ) from None
    return found


def asks_in_turns(said: str | Mapping[str, Any] | None) -> bool:
    """Whether nothing is said of questions, which a model of conversations is then asked as a turn."""
    return said is None or (not isinstance(said, str) and "question" not in said)
