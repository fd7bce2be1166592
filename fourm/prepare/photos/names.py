"""Names of files, which may hold anything, as keys and as templates of the files beside them."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from fourm.errors import ConfigError

_LONGEST = 80
_OTHER = re.compile(r"[^A-Za-z0-9_/-]+")
_PLACE = re.compile(r"\{([^{}]*)\}")
_COLUMN = re.compile(r"\{column:([^{}]+)\}(?:\.\w+)?")
_PLACES = ("path", "folder", "stem")
_PARENTS = re.compile(r"\{folder\}/(?:\.\./)*")


def split(file: str) -> tuple[str, str]:
    """`cats/tom.v2.jpg` -> `cats/tom.v2`, `jpg`. The ending is what follows the last dot."""
    folder, slash, name = file.rpartition("/")
    stem, dot, ending = name.rpartition(".")
    return (folder + slash + stem, ending) if stem and dot else (file, "")


def safe_key(path: str) -> str:
    """A key for a file name without its ending: as it is where that is plain, otherwise made plain and told apart.

    Args:
        path: any text, for instance `cats/tom`.

    Returns:
        letters, digits and `_ - /`, at most 89 of them; different for different paths.
    """
    plain = "/".join(part for part in _OTHER.sub("_", path).split("/") if part.strip("_")).lstrip("-")
    if plain == path and len(plain) <= _LONGEST:
        return plain
    digest = hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
    return f"{plain[:_LONGEST].rstrip('/')}-{digest}".removeprefix("-")


def beside(template: str, path: str) -> str:
    """The file a template means for a photograph; the template itself where it means a column.

    Args:
        template: `{path}.txt`, `{folder}/{stem}.txt`, `masks/{stem}.png`.
        path: name of the photograph without its ending.
    """
    whole = PurePosixPath(path)
    values = {"path": path, "folder": str(whole.parent), "stem": whole.name}
    filled = _PLACE.sub(lambda match: values.get(match[1], match[0]), template)
    # At the top, {folder} is a dot. Other names stay as they are: what is odd about them is part of them.
    return posixpath.normpath(filled) if "{folder}" in template else filled.removeprefix("./")


def matcher(templates: Sequence[str]) -> Callable[[str], bool]:
    """What tells whether a file may go with some photograph, by its name alone."""
    kinds = {"path": ".+", "folder": ".+", "stem": "[^/]+", "parents": "(?:.+/)?"}
    patterns = []
    for template in templates:
        *texts, last = _PLACE.split(_PARENTS.sub("{parents}", template.removeprefix("./")))
        pairs = zip(texts[::2], texts[1::2], strict=True)
        patterns.append("".join(re.escape(text) + kinds[place] for text, place in pairs) + re.escape(last))
    return re.compile("|".join(patterns) or "(?!)", re.DOTALL).fullmatch  # type: ignore[return-value]


def column_of(template: str) -> str | None:
    """The column of a data set that a template means; None if it means files.

    Args:
        template: `{column:caption}`; `{column:mask}.png` says also of what kind its bytes are; `{column:meta.label}` is
            a field within a column.
    """
    match = _COLUMN.fullmatch(template)
    return match[1] if match else None


def check_template(template: str) -> None:
    """See that a template names a place for every photograph.

    Raises:
        ConfigError: for unknown places, or none.
    """
    if column_of(template):
        raise ConfigError(f"file is '{template}', but only data sets have columns, not files: see their input, hf:NAME")
    places = _PLACE.findall(template)
    if not places or not set(places) <= set(_PLACES):
        raise ConfigError(
            f"file is '{template}'; expected a template with {{path}}, {{folder}} or {{stem}} of the photograph, "
            "for instance {path}.txt or masks/{stem}.png"
        )
