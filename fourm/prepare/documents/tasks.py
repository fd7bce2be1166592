"""The kinds of documents that are made, one function each. A new kind is one function and one line in a table."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fourm.data.interleaved_files import read_image
from fourm.data.shards import ShardWriter
from fourm.prepare.documents import pictures, sentences
from fourm.prepare.documents.facts import Room
from fourm.prepare.documents.names import SHOTS, bound_names
from fourm.prepare.documents.questions import Question, balanced, questions
from fourm.prepare.rooms.caption import Seen
from fourm.rng import generator

Line = dict[str, Any]
_TURNS = 4
_STORY = 2, 4
_BOXES = 3
_PICTURES_PER_SHARD = 1000
_FRAME_SECONDS = 2


@dataclass(frozen=True)
class Scene:
    """Rooms to make documents of.

    Args:
        rooms: their facts.
        data: folder of the rooms.
        out: folder of the documents.
        seed: of everything that is drawn.
    """

    rooms: Sequence[Room]
    data: Path
    out: Path
    seed: int

    def rng(self, task: str, n: int) -> np.random.Generator:
        """The randomness of document n of a task."""
        return generator("documents", self.seed, task, n)

    def picture(self, room: Room) -> Image.Image:
        """The picture of a room."""
        return Image.open(io.BytesIO(read_image(self.out, room.image))).convert("RGB")

    def labels(self, room: Room) -> NDArray[np.uint8]:
        """(H, W) the class of every pixel of a room."""
        name = "/".join(("semseg", *Path(room.image).parts[2:]))  # in place of images/rgb
        return np.asarray(Image.open(io.BytesIO(read_image(self.data, name))))

    @cached_property
    def questions(self) -> Sequence[Question]:
        """Balanced questions about all rooms."""
        return questions(self.rooms, self.seed)


class Album:
    """Pictures that a task makes, in tars below `images`.

    Args:
        out: folder of the documents.
        task: which.
    """

    def __init__(self, out: Path, task: str) -> None:
        self.root, self.task, self.count = out / "images", task, 0
        self._waiting: list[tuple[str, bytes]] = []

    def add(self, data: bytes) -> str:
        """The name of one more picture."""
        shard, key = divmod(self.count, _PICTURES_PER_SHARD)
        self._waiting.append((f"{key:06d}", data))
        self.count += 1
        if len(self._waiting) == _PICTURES_PER_SHARD:
            self.close()
        return f"images/{self.task}/shard-{shard:05d}.tar/{key:06d}.png"

    def close(self) -> None:
        """Write what is not written yet."""
        if not self._waiting:
            return
        with ShardWriter(self.root, (self.count - 1) // _PICTURES_PER_SHARD, {self.task: "png"}) as writer:
            for key, data in self._waiting:
                writer.write(key, {self.task: data})
        self._waiting = []


def captions(scene: Scene, album: Album) -> Iterator[Line]:
    """A picture and captions to draw from; read as `pairs`."""
    for room in scene.rooms:
        yield {"image": room.image, "caption": list(room.captions)}


def stories(scene: Scene, album: Album) -> Iterator[Line]:
    """Several rooms one after another with sentences between them."""
    for n in range(len(scene.rooms)):
        rng = scene.rng("stories", n)
        count = min(int(rng.integers(_STORY[0], _STORY[1] + 1)), len(scene.rooms))
        others = rng.permutation(len(scene.rooms))[:count].tolist()
        rooms = [scene.rooms[i] for i in dict.fromkeys([n, *others])][:count]
        yield {"parts": sentences.story(rooms, rng)}


def asked(scene: Scene, album: Album) -> Iterator[Line]:
    """A picture, a question about it and its answer, which alone is asked."""
    for question in scene.questions:
        yield _asked(scene.rooms[question.room].image, question)


def chat(scene: Scene, album: Album) -> Iterator[Line]:
    """Conversations of several turns about a picture; read as `chat`."""
    by_room: defaultdict[int, list[Question]] = defaultdict(list)
    for question in scene.questions:
        by_room[question.room].append(question)
    for n, room in enumerate(scene.rooms):
        rng, own = scene.rng("chat", n), by_room[n]
        chosen = [own[i] for i in rng.permutation(len(own))[:_TURNS]]
        yield {"image": room.image, "conversations": sentences.conversation(room, chosen, rng)}


def text(scene: Scene, album: Album) -> Iterator[Line]:
    """Descriptions, questions about them, counting and lists, without any picture; read as `text`."""
    for n, room in enumerate(scene.rooms):
        for words in sentences.texts(scene.rooms, scene.rng("text", n), room):
            yield {"text": words}


def text_questions(scene: Scene, album: Album) -> Iterator[Line]:
    """A description, a question that it answers, and the answer, which alone is asked."""
    passages: list[str] = []
    found: list[Question] = []
    for n, room in enumerate(scene.rooms):
        words, about = sentences.passage(room, scene.rng("text_questions", n))
        passages.append(words)
        found += [Question(n, kind, question, answer) for kind, question, answer in about]
    for question in sorted(balanced(found, scene.seed), key=lambda q: (q.room, q.text)):
        line = _asked(None, question)
        line["parts"][0]["text"] = f"{passages[question.room]} {line['parts'][0]['text']}"
        yield line


def text_to_image(scene: Scene, album: Album) -> Iterator[Line]:
    """A caption and its picture."""
    for room in scene.rooms:
        yield {"parts": [{"text": list(room.captions), "asked": False}, {"image": room.image}]}


def boxes(scene: Scene, album: Album) -> Iterator[Line]:
    """Some things and where they are, each place drawn as a picture, and the room that has them there (Emu2-Gen)."""
    for n, room in enumerate(scene.rooms):
        rng = scene.rng("boxes", n)
        single = _single(room)
        if not single:
            continue
        size = min(scene.picture(room).size)
        parts: list[Any] = [{"text": "a room with", "asked": False}]
        for i in rng.permutation(len(single))[: int(rng.integers(1, _BOXES + 1))]:
            parts.append({"text": _called(single[i]), "asked": False})
            parts.append({"image": album.add(pictures.drawn_box(single[i].box, size)), "asked": False})
        yield {"parts": [*parts, {"image": room.image}]}


def subjects(scene: Scene, album: Album) -> Iterator[Line]:
    """Some things as they look, half of them behind their places, and the room that has them (Emu2-Gen)."""
    return _with_subjects(scene, album, lambda room: None)


def cut_outs(scene: Scene, album: Album) -> Iterator[Line]:
    """The same with things cut out: what is around them is transparent, for `packing.subject_background`."""
    return _with_subjects(scene, album, scene.labels)


def _with_subjects(scene: Scene, album: Album, labels: Callable[[Room], NDArray[np.uint8] | None]) -> Iterator[Line]:
    for n, room in enumerate(scene.rooms):
        rng, picture, classes = scene.rng("subjects", n), scene.picture(room), labels(room)
        found = ((item, pictures.alone(item, picture, classes)) for item in _single(room))
        shown = [(item, data) for item, data in found if data is not None]
        parts: list[Any] = [{"text": "a room with", "asked": False}]
        for i in rng.permutation(len(shown))[: int(rng.integers(1, _BOXES + 1))]:
            item, data = shown[i]
            parts.append({"text": _called(item), "asked": False})
            if rng.random() < 0.5:
                box = pictures.drawn_box(item.box, min(picture.size))
                parts.append({"image": album.add(box), "asked": False})
            parts.append({"image": album.add(data), "asked": False})
        if len(parts) > 1:
            yield {"parts": [*parts, {"image": room.image}]}


def _single(room: Room) -> list[Seen]:
    """The things of which a room has one."""
    return [item for group in room.groups if (item := room.single(group.kind)) is not None]


def _called(item: Seen) -> str:
    """`an orange bed`."""
    return sentences.article(item.kind if item.kind == "plant" else f"{item.colour} {item.kind}")


def names(scene: Scene, album: Album) -> Iterator[Line]:
    """Few-shot documents that bind words that mean nothing to things of rooms, which are shown alone."""
    shown: defaultdict[str, list[str]] = defaultdict(list)
    for room in scene.rooms:
        for kind, data in pictures.things(room, scene.picture(room)):
            shown[kind].append(album.add(data))
    yield from few_shot(shown, len(scene.rooms), scene.rng)


def few_shot(
    shown: Mapping[str, Sequence[str]], num: int, rng: Callable[[str, int], np.random.Generator]
) -> Iterator[Line]:
    """So many documents that bind names, as many of each number of examples."""
    enough = {kind: names for kind, names in shown.items() if len(names) > max(SHOTS)}
    for n in range(num if len(enough) > 2 else 0):
        yield bound_names(enough, SHOTS[n % len(SHOTS)], rng("names", n))


def frames(scene: Scene, album: Album) -> Iterator[Line]:
    """A look along a room as frames, and what comes into view as subtitles; read as `frames`."""
    for room in scene.rooms:
        shown, appears = pictures.look_along(room, scene.picture(room))
        if not appears:
            continue
        seen = [{"image": album.add(data), "time": n * _FRAME_SECONDS} for n, data in enumerate(shown)]
        said: defaultdict[int, list[str]] = defaultdict(list)
        for frame, item in appears:
            said[frame].append(_called(item))
        subtitles = [
            {
                "text": f"{'we see' if frame == 0 else 'now'} {sentences.join_words(words)}.",
                "time": frame * _FRAME_SECONDS,
            }
            for frame, words in sorted(said.items())
        ]
        yield {"frames": seen, "subtitles": subtitles}


def _asked(image: str | None, question: Question) -> Line:
    shown = [] if image is None else [{"image": image, "asked": False}]
    words = [{"text": sentences.prompt(question.text), "asked": False}, {"text": question.answer, "asked": True}]
    return {"parts": [*shown, *words], "kind": question.kind, "question": question.text, "answer": question.answer}


Task = Callable[[Scene, Album], Iterator[Line]]
TASKS: Mapping[str, Task] = {
    "captions": captions,
    "stories": stories,
    "questions": asked,
    "chat": chat,
    "text": text,
    "text_questions": text_questions,
    "text_to_image": text_to_image,
    "boxes": boxes,
    "subjects": subjects,
    "cut_outs": cut_outs,
    "names": names,
    "frames": frames,
}
"""Task -> what makes its documents of rooms."""
READERS: Mapping[str, str] = {"captions": "pairs", "chat": "chat", "text": "text", "frames": "frames"}
"""Task -> `packing.reader`, where it is not `documents`."""
