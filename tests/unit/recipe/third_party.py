"""A model and an objective of another package, as entry points name them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fourm.models.configs import MultimodalConfig
from fourm.models.multimodal import Multimodal
from fourm.objectives.configs import MaskedConfig
from fourm.objectives.masked import Masked


class OwnModel(Multimodal):
    """The shared model under another name."""


@dataclass
class OwnModelConfig(MultimodalConfig):
    """Its config."""

    target: ClassVar[str] = "tests.unit.recipe.third_party:OwnModel"


class OwnMasked(Masked):
    """Counts double."""

    def num_tokens(self, batch: Any) -> int:
        return 2 * super().num_tokens(batch)


@dataclass
class OwnMaskedConfig(MaskedConfig):
    """Its config."""

    target: ClassVar[str] = "tests.unit.recipe.third_party:OwnMasked"
