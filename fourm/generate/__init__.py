"""Generation: any modality from any others, step by step along a plan.

`fourm.generate(model, given, targets)` is the short way; see `fourm.generate.job.any_to_any`.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    """This package, callable: importing any part of it puts it in the place of the function `fourm.generate`."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        # The function loads models with all their parts, so it lives with the recipes, above this package.
        return importlib.import_module("fourm.recipe.bundle").generate(*args, **options)


sys.modules[__name__].__class__ = _Package
