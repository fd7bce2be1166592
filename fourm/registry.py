"""Names that resolve to implementations, imported only when they are built."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Any

from fourm.errors import ConfigError, did_you_mean


def implementation(target: str) -> Any:
    """What `module:attribute` names, imported now; configs name the class they are for in their `target`."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


class Registry(Mapping[str, str]):
    """A table `kind -> "module:attribute"`.

    Third parties add kinds through the entry-point group `fourm.<slot>`; an entry there never replaces a built-in kind.

    Args:
        slot: the name of the place in a recipe (for instance `objective`), used in error messages.
        kinds: built-in kinds and where to import them from.
    """

    def __init__(self, slot: str, kinds: Mapping[str, str]) -> None:
        self.slot = slot
        self._kinds = dict(kinds)
        self._discovered = False

    def __getitem__(self, kind: str) -> str:
        if kind not in self._kinds:
            self._discover()
        return self._kinds[kind]

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(sorted(self._kinds))

    def __len__(self) -> int:
        self._discover()
        return len(self._kinds)

    def resolve(self, kind: str, *, where: str = "") -> Any:
        """Import and return what `kind` names.

        Raises:
            ConfigError: if the kind is not known; the message lists the known ones and the closest.
        """
        try:
            target = self[kind]
        except KeyError:
            place = f" ({where})" if where else ""
            raise ConfigError(f"{self.slot} '{kind}' is not known{place}.{did_you_mean(kind, self)}") from None
        try:
            return implementation(target)
        except AttributeError:
            module, _, attribute = target.partition(":")
            raise ConfigError(f"{self.slot} '{kind}' names '{target}', but {module} has no '{attribute}'") from None

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        for entry in importlib.metadata.entry_points(group=f"fourm.{self.slot}"):
            self._kinds.setdefault(entry.name, entry.value)
