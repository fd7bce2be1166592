"""The documents that the study of VILA's findings makes of those of `fourm prepare documents`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fourm.files import publish
from fourm.prepare.documents.names import SHOTS, bound_names
from fourm.rng import generator

Line = dict[str, Any]
TO_MEASURE = 255
"""Documents that bind names."""


def pairs_of(line: Line) -> Iterator[Line]:
    """The documents of one picture and the words behind it that a document falls into; all names in them are asked."""
    names, parts = line.get("names", ()), [p if isinstance(p, dict) else {"text": p} for p in line["parts"]]
    starts = [n for n, part in enumerate(parts) if "image" in part]
    for start, stop in zip(starts, [*starts[1:], len(parts)]):
        yield {"parts": [{**p, "asked": True} if p.get("text") in names else p for p in parts[start:stop]]}


def things_of(line: Line) -> Iterator[tuple[str, str]]:
    """Kind and picture of everything that a document binds names to."""
    pictures = [part["image"] for part in line["parts"] if "image" in part]
    said = [part["text"] for part in line["parts"] if part.get("text") in line["names"]]
    for picture, name in zip(pictures, said):
        yield line["kinds"][line["names"].index(name)], picture


def more_names(lines: Sequence[Line], number: int) -> Iterator[Line]:
    """So many documents that bind names to the things of others, as many of each number of examples."""
    shown: dict[str, list[str]] = {}
    for kind, picture in dict.fromkeys(pair for line in lines for pair in things_of(line)):
        shown.setdefault(kind, []).append(picture)
    enough = {kind: pictures for kind, pictures in shown.items() if len(pictures) > max(SHOTS)}
    for n in range(number):
        yield bound_names(enough, SHOTS[n % len(SHOTS)], generator("names", n))


def prepare(documents: Path, out: Path, cut: Sequence[str]) -> None:
    """Write the documents that are made of others, unless they are there."""
    for name, lines in {
        **{
            name: (pair for line in read(documents / "train" / f"{name}.jsonl") for pair in pairs_of(line))
            for name in cut
        },
        "test_names": more_names(read(documents / "test" / "names.jsonl"), TO_MEASURE),
    }.items():
        if not (out / f"{name}.jsonl").is_file():
            publish(out / f"{name}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def read(path: Path) -> list[Line]:
    """The lines of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
