"""The exact facts of rooms that documents are made of.

Rooms on disk have boxes, but neither colours nor distances. A room is a pure function of its seed: it is furnished and
looked at once more, without its light, and what is seen is compared with what is stored.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from fourm.data.files import publish
from fourm.data.source import Source, open_source
from fourm.errors import DataError
from fourm.prepare.rooms.caption import Group, Seen, group_objects
from fourm.workers import Work


@dataclass(frozen=True)
class Room:
    """What a view of a room shows.

    Args:
        image: name of its picture.
        seen: its visible objects, largest first.
        named: kinds that captions name.
        captions: true sentences about it.
    """

    image: str
    seen: tuple[Seen, ...]
    named: tuple[str, ...]
    captions: tuple[str, ...]

    @property
    def groups(self) -> list[Group]:
        """The objects of every kind that is named, largest first."""
        return group_objects(list(self.seen), set(self.named))

    def single(self, kind: str) -> Seen | None:
        """The object of a kind, if there is exactly one, large enough to be named."""
        found = [item for item in self.seen if item.kind == kind]
        return found[0] if len(found) == 1 and kind in self.named else None


class FactsShard(NamedTuple):
    """Rooms of one shard: where they are, and where their facts go."""

    rooms: str
    out: Path
    shard: int
    start: int
    stop: int
    seed: int
    size: int

    @property
    def path(self) -> Path:
        """The file of the facts."""
        return self.out / "facts" / f"shard-{self.shard:05d}.jsonl"


def start(number: int) -> Work[FactsShard]:
    """The work of a process."""
    return write_facts


def write_facts(task: FactsShard, on_room: Callable[[], None]) -> None:
    """Look at the rooms of one shard.

    Raises:
        DataError: if they are not what this version of fourm renders.
    """
    source, lines = open_source(task.rooms, ["det", "caption"]), []
    for n in range(task.start, task.stop):
        lines.append(json.dumps(_facts(source, n, task), separators=(",", ":")))
        on_room()
    publish(task.path, "".join(line + "\n" for line in lines).encode())


def read_facts(path: Path) -> list[Room]:
    """The rooms of a shard.

    Raises:
        DataError: if its facts are damaged.
    """
    try:
        return [_room(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} does not hold the facts of rooms: {error}. Remove it, and it is made anew") from None


def _facts(source: Source, n: int, task: FactsShard) -> dict[str, object]:
    from fourm.prepare.rooms.caption import visible_objects
    from fourm.prepare.rooms.encode import labels_of_room, look

    key, stored = source.key(n), source.read(n)
    room, view = labels_of_room(task.seed, int(key), task.size)
    seen = look(room, view)
    boxes = [(item["class_name"], tuple(item["boxes"])) for item in json.loads(stored["det"])["instances"]]
    if boxes != [(item.kind, item.box) for item in seen]:
        raise DataError(
            f"{source.where(n, 'det')} is not what this version of fourm renders for room {key} of seed {task.seed}: "
            "render the rooms again with `fourm prepare rooms`, into another folder"
        )
    return {
        "image": f"images/rgb/shard-{task.shard:05d}.tar/{key}.png",
        "seen": [asdict(item) for item in seen],
        "named": sorted(visible_objects(view.semseg)),
        "captions": json.loads(stored["caption"]),
    }


def _room(facts: dict[str, object]) -> Room:
    seen = tuple(Seen(**{**item, "box": tuple(item["box"])}) for item in facts["seen"])  # type: ignore[attr-defined]
    return Room(str(facts["image"]), seen, tuple(facts["named"]), tuple(facts["captions"]))  # type: ignore[arg-type]
