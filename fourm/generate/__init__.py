"""Generation: any modality from any others, step by step along a plan.

The package itself is the function: `fourm.generate(model, given={...}, to=[...])`.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fourm.generate.results import Results


class _Callable(ModuleType):
    """A package that can be called: `fourm.generate` is this folder and the function it is for."""

    def __call__(self, *arguments: Any, **options: Any) -> Results:
        """Generate any modalities from any others; see `fourm.recipe.bundle.generate`."""
        # The composition root opens models; it stands above this folder, so it is named, not imported.
        results: Results = importlib.import_module("fourm.recipe").generate(*arguments, **options)
        return results


sys.modules[__name__].__class__ = _Callable
