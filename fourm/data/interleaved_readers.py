"""One function per form of documents that the field has: what a line of a file holds -> parts.

A new form is one function and one line in `FORMS`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from fourm.data.interleaved_configs import ChatConfig, InterleavedConfig
from fourm.data.interleaved_parts import Image, Part, Text, image_name, parts_from_json, texts

Form = Callable[[Any, InterleavedConfig], list[Part]]
_Item = TypeVar("_Item")
_PLACE = "<image>"
_USERS = ("human", "user")
_ASSISTANTS = ("gpt", "assistant")
_SYSTEM = "system"


def documents(line: Any, config: InterleavedConfig) -> list[Part]:
    """Our own form."""
    return parts_from_json(line)


def pairs(line: Any, config: InterleavedConfig) -> list[Part]:
    """`image`, a name or several, and `caption` or `text`, of which there may be alternatives (LAION, COYO)."""
    caption = texts(_first(line, "caption", "text", "txt"))
    similarity = next((line[k] for k in ("similarity", "clip_similarity_vitb32", "clip_similarity") if k in line), None)
    names = line["image"] if isinstance(line["image"], list) else [line["image"]]
    number = None if similarity is None else float(similarity)
    return [*(Image(image_name(name), paired=True, similarity=number) for name in names), Text(caption)]


def mmc4(line: Any, config: InterleavedConfig) -> list[Part]:
    """MMC4 (Zhu et al. 2023): sentences, and images that are matched to one of them."""
    sentences = [text.strip() for text in line["text_list"]]
    images: dict[int, list[Part]] = {}
    # Which ones are the first is told by their list, and not by the sentences that they belong to.
    most = None if config.window == "random" else config.max_images
    chosen = [info for info in line["image_info"] if config.takes(_similarity(info))][:most]
    for info in chosen:
        matched = int(info["matched_text_index"])
        if not 0 <= matched < len(sentences):
            raise ValueError(f"matched_text_index is {matched}, of {len(sentences)} sentences")
        image = Image(image_name(info["image_name"]), paired=True, similarity=_similarity(info))
        images.setdefault(matched, []).append(image)
    return [part for n, text in enumerate(sentences) for part in (*images.get(n, ()), Text(text))]


def _similarity(info: Mapping[str, Any]) -> float | None:
    said = info.get("matched_sim")
    return None if said is None else float(said)


def obelics(line: Any, config: InterleavedConfig) -> list[Part]:
    """OBELICS (Laurençon et al. 2023): two lists of one length, where one has a text or image, the other has none."""
    images, words = line["images"], line["texts"]
    if len(images) != len(words):
        raise ValueError(f"{len(images)} images beside {len(words)} texts; expected lists of one length")
    found: list[Part] = []
    for image, text in zip(images, words):
        if image is not None:
            found.append(Image(image_name(image)))
        if text is not None and text.strip():
            found.append(Text(text.strip()))
    return found


def chat(line: Any, config: InterleavedConfig) -> list[Part]:
    """LLaVA's `conversations`, or `messages` with roles; `<image>` is where the next image stands.

    Images that have no place stand at the beginning.
    """
    turns = [_turn(turn) for turn in _first(line, "conversations", "messages")]
    named = line.get("image", line.get("images", []))
    names = [image_name(name) for name in (named if isinstance(named, list) else [named])]
    return conversation(config.chat, with_images(turns, names))


def with_images(turns: Sequence[tuple[str, str]], images: Sequence[str | int]) -> list[tuple[str, list[Part]]]:
    """What is said in turns as parts.

    Args:
        turns: who speaks, and what is said, with `<image>` where the next image stands.
        images: those that have no place stand at the beginning of what a user says first.

    Raises:
        ValueError: if there are more places than images.
    """
    names = list(images)
    places = sum(text.count(_PLACE) for _, text in turns)
    if places > len(names):
        raise ValueError(f"{places} places {_PLACE}, but {len(names)} images")
    missing, said = len(names) - places, list[tuple[str, list[Part]]]()
    for role, words in turns:
        asked = role in _ASSISTANTS
        unplaced = 0 if role not in (*_USERS, *_ASSISTANTS) else missing
        parts = list[Part](Image(names.pop(0), asked) for _ in range(unplaced))
        missing -= unplaced
        said.append((role, parts + _placed(words, names, asked)))
    return said


def conversation(
    template: ChatConfig, turns: Sequence[tuple[str, Sequence[Part]]], begun: str | None = None
) -> list[Part]:
    """Turns as one document.

    Args:
        template: what stands between them.
        turns: who speaks, and what is said.
        begun: what another answer begins with, which a model is to go on with; it may be empty. None: there is none.
    """
    found: list[Part] = [Text(template.system, asked=False, template=True)] if template.system else []
    words = (begun or "").rstrip(" ")  # those at its end begin the words that are to come
    goes_on = [] if begun is None else [("assistant", [Text(words)] if words else [])]
    for role, said in (*turns, *goes_on):
        answers = role in _ASSISTANTS
        if answers or role in _USERS:
            before = template.assistant if answers else template.user
            # Spaces are the beginning of a word that follows, and there is none.
            before = before.rstrip(" ") if answers and not (said and isinstance(said[0], Text)) else before
            found.append(Text(before, asked=False, template=True))
        found += said
        if answers and template.end:
            found.append(Text(template.end, template=True))
    return found[:-1] if goes_on and template.end else found


def frames(line: Any, config: InterleavedConfig) -> list[Part]:
    """Frames of a video with subtitles, in the order of their times (Emu's storyboards); or with one caption."""
    shown = line["frames"]
    if "subtitles" not in line:
        names = [image_name(frame["image"] if isinstance(frame, dict) else frame) for frame in shown]
        chosen = _even(names, config.max_images)
        return [*(Image(name, paired=True) for name in chosen), Text(texts(_first(line, "caption", "text")))]
    # Of a stretch that is drawn later on, its own images are counted.
    most = None if config.window == "random" else config.max_images
    shown = _even(sorted(shown, key=lambda frame: float(frame["time"])), most)
    # At the same time, what is seen comes before what is said.
    events: list[tuple[float, int, Part]] = [(float(f["time"]), 0, Image(image_name(f["image"]))) for f in shown]
    events += [(float(s["time"]), 1, Text(str(s["text"]).strip())) for s in line["subtitles"]]
    return [part for *_, part in sorted(events, key=lambda event: event[:2])]


def text(line: Any, config: InterleavedConfig) -> list[Part]:
    """A text alone."""
    return [Text(line)] if isinstance(line, str) else [Text(texts(_first(line, "text", "content")))]


FORMS: Mapping[str, Form] = {
    "documents": documents,
    "pairs": pairs,
    "mmc4": mmc4,
    "obelics": obelics,
    "chat": chat,
    "frames": frames,
    "text": text,
}


def read_line(line: bytes, config: InterleavedConfig) -> list[Part]:
    """The document of a line.

    Raises:
        ValueError: if it is damaged or of another form; the message says how.
    """
    content = line.decode("utf-8").strip()
    if config.reader == "text" and not content.startswith("{"):
        return [Text(content)]
    try:
        return FORMS[config.reader](json.loads(content), config)
    except KeyError as error:
        raise ValueError(f"there is no {error}") from None
    except (TypeError, AttributeError) as error:
        raise ValueError(f"it does not have this form ({error})") from None


def _turn(turn: Any) -> tuple[str, str]:
    role, said = _first(turn, "from", "role"), _first(turn, "value", "content")
    if not isinstance(said, str):
        raise ValueError(f"a turn says {said!r}; expected a text")
    if role not in (known := (*_USERS, *_ASSISTANTS, _SYSTEM)):
        raise ValueError(f"a turn is that of {role!r}; known: {', '.join(known)}")
    return str(role), said


def _placed(text: str, names: list[str | int], asked: bool) -> list[Part]:
    """A text with images in their places; the names that are used leave the list."""
    found: list[Part] = []
    for n, words in enumerate(re.split(re.escape(_PLACE), text)):
        if n:
            found.append(Image(names.pop(0), asked))
        if words:
            found.append(Text(words, asked))
    return found


def _even(items: list[_Item], most: int | None) -> list[_Item]:
    """At most so many at even distances, each from the middle of its share."""
    if most is None or len(items) <= most:
        return items
    return [items[(2 * i + 1) * len(items) // (2 * most)] for i in range(most)]


def _first(line: Any, *keys: str) -> Any:
    for key in keys:
        if key in line:
            return line[key]
    raise KeyError(" or ".join(keys))
