"""Examples of the page: folders with one file per modality, named by it, as `fourm generate` writes them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from fourm.errors import ConfigError, FourmError
from fourm.serve.fields import Field
from fourm.serve.limits import Limits
from fourm.serve.request import check_request

_MOST = 50
Example = dict[str, str]
"""Name of a field -> its text, or the path of its file."""


def load_examples(folder: Path, into: Path, fields: Sequence[Field], limits: Limits) -> dict[str, Example]:
    """Copy examples to where the page may show them.

    Args:
        folder: one folder per example, each with files such as `rgb.png` or `caption.txt`; what the model cannot read
            is passed over.
        into: an empty folder of the page's own.
        fields: what the model reads.
        limits: those of requests: an example is one.

    Returns:
        name -> example.

    Raises:
        ConfigError: if there are none, or one is refused by the limits.
    """
    if not folder.is_dir():
        raise ConfigError(f"--examples {folder}: there is no such folder")
    known = {field.name: field for field in fields}
    examples: dict[str, Example] = {}
    for source in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))[:_MOST]:
        found = {path.stem: path for path in sorted(source.iterdir()) if path.is_file() and path.stem in known}
        given = {
            name: path.read_text(errors="replace") if known[name].is_text else path.read_bytes()
            for name, path in found.items()
        }
        if not given:
            continue
        try:
            check_request(fields, ["any"], limits, given=given, targets=["any"])
        except FourmError as error:
            raise ConfigError(f"--examples {source}: {error}") from error
        (into / source.name).mkdir(parents=True)
        examples[source.name] = {
            name: content if isinstance(content, str) else str(shutil.copy(found[name], into / source.name))
            for name, content in given.items()
        }
    if not examples:
        raise ConfigError(
            f"--examples {folder}: no folder in it holds a file that this model reads; expected, for instance, "
            f"{folder}/first/{fields[0].name}.png. Known: {', '.join(known)}"
        )
    return examples
