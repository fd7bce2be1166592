"""Composition root: the only place that knows every room. Recipes become models, data and jobs here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fourm.recipe.bundle import Bundle, generate, load_bundle, load_model, load_tokenizer
    from fourm.recipe.pretrained import backbone, load_network

__all__ = ["Bundle", "backbone", "generate", "load_bundle", "load_model", "load_network", "load_tokenizer"]


def __getattr__(name: str) -> Any:
    """Import torch only when something of it is used."""
    if name in __all__:
        where = "pretrained" if name in ("backbone", "load_network") else "bundle"
        return getattr(importlib.import_module(f"fourm.recipe.{where}"), name)
    raise AttributeError(f"module 'fourm.recipe' has no attribute '{name}'")
