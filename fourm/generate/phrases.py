"""How questions are put to models of text and images."""

from __future__ import annotations

from dataclasses import dataclass

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
        user, assistant: before the turns of a conversation.
    """

    caption: str = IMAGE
    question: str = f"{IMAGE} {{text}}"
    example: str = f"{IMAGE} {{text}} {{answer}}"
    join: str = " "
    draw: str = "{text}"
    edit: str = f"{IMAGE} {{text}}"
    user: str = "[USER]: "
    assistant: str = " [ASSISTANT]: "


PHRASES: dict[str, Phrases] = {
    "plain": Phrases(),
    "vila": Phrases(caption=f"{IMAGE}\n", question=f"{IMAGE}\n{{text}}", example=f"{IMAGE}\n{{text}} {{answer}}"),
    "emu2": Phrases(
        question=f"{IMAGE} based on the picture, {{text}} short answer:",
        example=f"{IMAGE} based on the picture, {{text}} short answer: {{answer}}",
        join=". ",
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
