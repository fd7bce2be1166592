"""What paints the vectors that a model of text and images says."""

from __future__ import annotations

from typing import Any

from fourm.errors import ConfigError
from fourm.generate.bundle import Bundle
from fourm.modality import Modality
from fourm.tokenizers.painting import check_painter


def painter(bundle: Bundle, modality: Modality) -> Any:
    """The decoder of the vectors of a modality.

    Raises:
        ConfigError: if the model came without one, or with one of other vectors.
    """
    if modality.name not in bundle.tokenizers:
        raise ConfigError(
            f"the model has nothing that paints the vectors of '{modality.name}': name a visual decoder in its recipe, "
            f"tokenizers: {{{modality.name}: FOLDER}}, or give one with --painter FOLDER"
        )
    decoder: Any = bundle.tokenizers[modality.name]
    check_painter(modality, decoder, "the decoder of the model")
    return decoder
