"""What tables hold: the columns that are meant, and their cells as the content of files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from fourm.data.remote import RemoteFile
from fourm.errors import DataError, did_you_mean

_REMOTE_FILE = re.compile(r"(zip://[^:]*::)?hf://\S+")


def content(value: Any, feature: Any = None) -> bytes | None:
    """What a cell holds, as the content of a file: text, the bytes of an image, or JSON; None if it is empty.

    Args:
        value: of a row. A list of texts becomes one of lines.
        feature: its type, which gives classes their names.

    Raises:
        OSError: if it names a file that does not come with the data set.
    """
    if value is None:
        return None
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        return value["bytes"] if value["bytes"] is not None else _file(value["path"])
    if isinstance(value, bytes):
        return value
    if isinstance(value, int) and type(feature).__name__ == "ClassLabel":
        value = feature.int2str(value) if value >= 0 else ""
    if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
        value = "\n".join(" ".join(text.split()) for text in value)
    return value.encode() if isinstance(value, str) else json.dumps(value, default=str).encode()


def cell(row: Any, path: str) -> Any:
    """The value or type at `column` or, in nested columns, `column.field`; None if there is none."""
    for name in [path] if path in row else path.split("."):
        row = row.get(name) if isinstance(row, dict) else None
    return row


def check_columns(paths: Sequence[str], features: Any, name: str) -> list[str]:
    """The columns that are needed for some paths.

    Raises:
        DataError: if one is not there.
    """
    for path in paths:
        if cell(features, path) is None:
            raise DataError(f"{name} has no column '{path}'.{did_you_mean(path, features)}")
    return list(dict.fromkeys(path if path in features else path.partition(".")[0] for path in paths))


def image_column(features: dict[str, Any], wanted: str, name: str) -> str:
    """The column with images.

    Args:
        features: column -> its type.
        wanted: what the user said; empty: the only one.
        name: of the data set.

    Raises:
        DataError: if it is not there, or not clear.
    """
    if wanted:
        check_columns([wanted], features, name)
        return wanted
    kinds: tuple[Callable[[Any], bool], ...] = (
        lambda feature: type(feature).__name__ == "Image",
        lambda feature: isinstance(feature, dict) and feature.keys() == {"bytes", "path"},
        lambda feature: getattr(feature, "dtype", "") in ("binary", "large_binary"),
    )
    for is_image in kinds:
        found = [column for column, feature in features.items() if is_image(feature)]
        if len(found) == 1:
            return found[0]
        if found:
            raise DataError(f"{name} has images in several columns: choose with image.column={found[0]}, {found[1:]}")
    raise DataError(f"{name} has no column with images; its columns are {', '.join(features)}")


def _file(path: str | None) -> bytes | None:
    """The content of a file on the Hub; nothing on this machine is read because a data set names it."""
    if not path:
        return None
    if not _REMOTE_FILE.fullmatch(path):
        raise OSError(f"the row holds no bytes, but the path '{path}', which is not part of the data set")
    if path.startswith("zip://"):
        import fsspec

        with fsspec.open(path, "rb") as file:
            return bytes(file.read())
    with RemoteFile(path) as remote:
        return remote.readall()
