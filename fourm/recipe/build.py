"""From configs to the classes they name."""

from __future__ import annotations

import importlib
from typing import Any


def implementation(config: Any) -> Any:
    """The class a config names in its `target`, imported now."""
    module, _, name = type(config).target.partition(":")
    return getattr(importlib.import_module(module), name)
