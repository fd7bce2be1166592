"""fourm: train and use any-to-any masked multimodal models over aligned modalities."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LAZY = dict.fromkeys(("backbone", "load_model", "load_network", "load_tokenizer"), "fourm.recipe")
_PACKAGES = ("generate",)
"""Folders that are functions too."""

if TYPE_CHECKING:
    from fourm import generate
    from fourm.recipe import backbone, load_model, load_network, load_tokenizer

__all__ = ["__version__", "backbone", "generate", "load_model", "load_network", "load_tokenizer"]


def __getattr__(name: str) -> Any:
    """Import the public functions only when they are used: `import fourm` stays free of torch."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"fourm.{name}")
    raise AttributeError(f"module 'fourm' has no attribute '{name}'")
