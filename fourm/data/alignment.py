"""Whether the sources of a data set hold the same samples in the same order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest

from fourm.errors import DataError


def check_same(what: str, names: Mapping[str, Sequence[str]], remedy: str) -> None:
    """Compare lists that should be equal in all sources.

    Raises:
        DataError: naming the first difference.
    """
    (first, expected), *others = names.items()
    for source, found in others:
        if found == expected:
            continue
        for position, (a, b) in enumerate(zip_longest(expected, found)):
            if a != b:
                raise DataError(
                    f"{what}: sources '{first}' and '{source}' are not aligned. First difference at position "
                    f"{position}: '{first}' has {_named(a)}, '{source}' has {_named(b)} (of {len(expected)} and "
                    f"{len(found)}). {remedy}"
                )


def _named(name: str | None) -> str:
    return "nothing" if name is None else f"'{name}'"
