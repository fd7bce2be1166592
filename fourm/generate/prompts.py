"""Many inputs from one place: lines of text, lines of JSON, a folder of files, or a data set."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourm.data.paths import is_pattern
from fourm.data.source import Source, open_source
from fourm.errors import ConfigError, DataError
from fourm.generate.bundle import Bundle, raw_modality
from fourm.generate.files import safe_name
from fourm.generate.inputs import GivenValue, find_given, give
from fourm.generate.names import means_tokens
from fourm.generate.natural import take
from fourm.generate.reading import read_bytes
from fourm.modality import Modality

_KEY, _KNOWN = "key", "known"


@dataclass(frozen=True)
class Prompt:
    """One input.

    Args:
        key: names the folder of its results.
        names: of what it gives, as written.
        read: a name, and the one of its own whose value it is to be made of, -> value.
        known: name -> its part that counts, as `natural.take` has it.
        content: called for all that it is made of, to tell whether it has changed.
    """

    key: str
    names: tuple[str, ...]
    read: Callable[[str, str], GivenValue]
    known: Mapping[str, Any]
    content: Callable[[], Iterable[str | bytes]]

    def digest(self) -> str:
        """A hash of its names and content.

        Raises:
            DataError: if one of its files cannot be read.
        """
        found = hashlib.sha256()
        for part in (",".join(self.names), *self.content()):
            data = part.encode() if isinstance(part, str) else part
            found.update(b"%d " % len(data) + data)
        return found.hexdigest()


class Prompts:
    """Inputs by number. Each is read when it is asked for, and one that is damaged harms no other.

    Args:
        keys: of all, as their source has them.
        places: where each lies, for errors.
        open: number and key -> the prompt.
    """

    def __init__(self, keys: Sequence[str], places: Callable[[int], str], open: Callable[[int, str], Prompt]) -> None:
        self.keys = [safe_name(key.replace("/", "_")) for key in keys]
        self._counts = Counter(self.keys)
        self.place, self._open = places, open

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, number: int) -> Prompt:
        """One prompt.

        Raises:
            DataError: if it is none, or shares its key with another one.
        """
        key = self.keys[number]
        if self._counts[key] > 1:
            raise DataError(f"{self._counts[key]} prompts have the key '{key}'; give each its own, a name for a folder")
        return self._open(number, key)


def open_prompts(bundle: Bundle, written: str) -> Prompts:
    """The inputs that `--prompts` names.

    Args:
        bundle: model and tokenizers.
        written: `captions.txt` or `NAME=captions.txt`, one text per line; `FILE.jsonl`, a mapping of names and values
            per line (strings of images are paths beside the file; `key` names the results, `known` holds masks);
            `NAME=FOLDER` of files; or `NAME,NAME=DATA`, a data set.

    Raises:
        ConfigError: for names that the model cannot read, or none where they are needed.
        DataError: if there are no such prompts.
    """
    before, place = split_prompts(written)
    names = [name.strip() for name in before.split(",") if name.strip()]
    path = Path(place)
    for name in names:
        find_given(bundle, name)
    if path.suffix == ".jsonl" and not names:
        return _json_lines(bundle, path)
    if path.suffix == ".txt":
        return _text_lines(bundle, path, names)
    if is_pattern(place) or _is_there(path, Path.is_dir):
        if not names:
            raise ConfigError(
                f"--prompts {written}: say what the model is to see of it: rgb={place} or rgb,caption={place}"
            )
        return _files(bundle, place, names)
    there = (
        "expected lines in .txt or .jsonl"
        if _is_there(path, Path.exists)
        else "there is no such file or folder; expected a file"
    )
    raise DataError(f"--prompts {written}: {there} (captions.txt, prompts.jsonl), NAME=FOLDER or NAMES=DATA")


def _is_there(path: Path, is_it: Callable[[Path], bool]) -> bool:
    try:
        return is_it(path)
    except (OSError, ValueError):  # longer than a name can be
        return False


def split_prompts(written: str) -> tuple[str, str]:
    """The names of `NAME,NAME=PLACE`, empty if there are none, and the place."""
    names, equals, place = written.partition("=")
    return (names, place) if equals else ("", written)


def _text_lines(bundle: Bundle, path: Path, names: Sequence[str]) -> Prompts:
    if len(names) > 1:
        raise ConfigError(
            f"--prompts {','.join(names)}={path}: a line holds one text; name one modality, or use .jsonl"
        )
    name = names[0] if names else _only_text(bundle)
    lines = _lines(path)
    return Prompts(
        [f"{number:06d}" for number, _ in lines],
        lambda n: f"{path}, line {lines[n][0] + 1}",
        lambda n, key: Prompt(key, (name,), lambda name, _: give(bundle, name, lines[n][1]), {}, lambda: [lines[n][1]]),
    )


def _only_text(bundle: Bundle) -> str:
    texts = [m.name for m in bundle.model.modalities.inputs if m.decode == "text"]
    if "caption" in texts or len(texts) == 1:
        return "caption" if "caption" in texts else texts[0]
    raise ConfigError(
        f"--prompts: say which text the lines are, NAME=FILE; this model reads: {', '.join(texts) or 'none'}"
    )


def _json_lines(bundle: Bundle, path: Path) -> Prompts:
    lines = _lines(path)
    records = [_record(line) for _, line in lines]

    def open_line(n: int, key: str) -> Prompt:
        record = records[n]
        if isinstance(record, str):
            raise DataError(record)
        values = {name: value for name, value in record.items() if name not in (_KEY, _KNOWN)}
        known = record.get(_KNOWN, {})
        if not values or not isinstance(known, Mapping):
            raise DataError('expected values by name, for instance {"caption": "a red sofa"}')
        parts = {name: part if part == "some" else path.parent / str(part) for name, part in known.items()}

        def read(name: str, own: str) -> GivenValue:
            return _from_json(bundle, name, values[own], path.parent, parts.get(own))

        def content() -> Iterator[str | bytes]:
            yield lines[n][1]
            for name, value in values.items():
                if _is_path(bundle, name, value):
                    yield _read_file(path.parent / value, f"given {name}")
            for name, part in parts.items():
                if isinstance(part, Path):
                    yield _read_file(part, f"known {name}")

        return Prompt(key, tuple(values), read, parts, content)

    keys = [
        str(record.get(_KEY, f"{number:06d}")) if isinstance(record, Mapping) else f"{number:06d}"
        for (number, _), record in zip(lines, records, strict=True)
    ]
    return Prompts(keys, lambda n: f"{path}, line {lines[n][0] + 1}", open_line)


def _from_json(bundle: Bundle, name: str, value: Any, folder: Path, known: Any) -> GivenValue:
    """A value of a line: a path, seen from the file's folder, a text, or something with structure."""
    modality, _ = find_given(bundle, name)
    if _is_path(bundle, name, value):
        value = folder / value
    elif isinstance(value, Mapping) and modality.decode == "boxes" and "instances" in value:
        value = value["instances"]
    elif modality.is_grid or not modality.is_discrete:
        raise DataError(f"given {name}: {value!r:.60}; expected the path of a file")
    elif isinstance(value, Mapping) and modality.decode != "metadata":
        raise DataError(f"given {name}: {value!r:.60}; expected a text or a value of '{modality.name}'")
    elif isinstance(value, list) and modality.decode == "text":
        raise DataError(f"given {name}: {value!r:.60}; expected one text per line of the file")
    return take(bundle, name, value, known)


def _is_path(bundle: Bundle, name: str, value: Any) -> bool:
    modality, _ = find_given(bundle, name)
    return isinstance(value, str) and (modality.is_grid or not modality.is_discrete)


def _read_file(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: cannot read {path}: {error}") from None


def _record(line: str) -> Mapping[str, Any] | str:
    """A line's mapping, or what is wrong with it."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"this is no JSON: {error}"
    return record if isinstance(record, Mapping) else f"expected a mapping of names and values, found {line[:60]}"


def _lines(path: Path) -> list[tuple[int, str]]:
    """Lines that hold something, with their numbers from 0."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"--prompts {path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"--prompts {path}: this is no text in UTF-8: {error}") from None
    lines = [(number, line) for number, line in enumerate(text.split("\n")) if line.strip()]
    if not lines:
        raise DataError(f"--prompts {path}: the file is empty")
    return lines


def _files(bundle: Bundle, place: str, names: Sequence[str]) -> Prompts:
    """Samples of a data set, or the files of one folder."""
    sources = {name: _source(bundle, name) for name in names}
    path = Path(place)
    is_one_folder = len(names) == 1 and path.is_dir() and not (path / sources[names[0]]).is_dir()
    if is_one_folder:
        path = path.resolve()
        sources, place = {names[0]: path.name}, str(path.parent)
    source: Source = open_source(place, sources.values())
    if not len(source):
        raise DataError(f"--prompts {','.join(names)}={place}: there are no files")

    def open_sample(n: int, key: str) -> Prompt:
        def read(name: str, own: str) -> GivenValue:
            return read_bytes(bundle, name, source.read(n)[sources[own]], source.where(n, sources[own]))

        def content() -> Iterator[bytes]:
            files = source.read(n)
            return (files[sources[name]] for name in names)

        return Prompt(key, tuple(names), read, {}, content)

    only = next(iter(sources.values())) if len(sources) == 1 else None
    return Prompts([source.key(n) for n in range(len(source))], lambda n: source.where(n, only), open_sample)


def _source(bundle: Bundle, name: str) -> str:
    """The folder of a data set that holds what a name stands for."""
    modality: Modality = find_given(bundle, name)[0]
    return modality.source if means_tokens(name, modality) else raw_modality(bundle, modality).source
