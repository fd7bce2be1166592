"""A tokenizer that is fetched when it is first needed: a model may know a dozen of them, and a user ask for one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fourm.modality import Modality


class Deferred:
    """Stands for a tokenizer until something of it but its modality is asked for.

    Args:
        modality: the raw modality that it encodes.
        fetch: loads it; may download.
    """

    def __init__(self, modality: Modality, fetch: Callable[[], Any]) -> None:
        self.modality = modality
        self._fetch, self._device, self._loaded = fetch, None, None

    def to(self, device: Any) -> Deferred:
        """Where it shall compute."""
        self._device = device
        if self._loaded is not None:
            self._loaded.to(device)
        return self

    def parameters(self) -> Any:
        """Those of the tokenizer."""
        return self._tokenizer.parameters()

    @property
    def _tokenizer(self) -> Any:
        if self._loaded is None:
            self._loaded = self._fetch()
            if self._device is not None:
                self._loaded.to(self._device)
        return self._loaded

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._tokenizer, name)
