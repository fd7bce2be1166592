"""Names of files, which may hold anything, as keys and as templates of the files beside them."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath

from fourm.errors import ConfigError

_LONGEST = 80
_OTHER = re.compile(r"[^A-Za-z0-9_/-]+")
_PLACE = re.compile(r"\{([^{}]*)\}")
_PLACES = ("path", "folder", "stem")


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
    """The file a template means for a photograph.

    Args:
        template: `{path}.txt`, `{folder}/{stem}.txt`, `masks/{stem}.png`.
        path: name of the photograph without its ending.
    """
    whole = PurePosixPath(path)
    values = {"path": path, "folder": str(whole.parent), "stem": whole.name}
    filled = _PLACE.sub(lambda match: values[match[1]], template)
    return filled.removeprefix("./")


def check_template(template: str) -> None:
    """See that a template names a place for every photograph.

    Raises:
        ConfigError: for unknown places, or none.
    """
    places = _PLACE.findall(template)
    if not places or not set(places) <= set(_PLACES):
        raise ConfigError(
            f"file is '{template}'; expected a template with {{path}}, {{folder}} or {{stem}} of the photograph, "
            "for instance {path}.txt or masks/{stem}.png"
        )
