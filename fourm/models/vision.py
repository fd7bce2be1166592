"""The feeder of interleaved models: a tower and a pooler make the tokens of a whole image."""

from __future__ import annotations

from torch import Tensor, nn

from fourm.errors import ConfigError
from fourm.layouts import Continuous
from fourm.modality import Modality
from fourm.models.vision_configs import VisionFeederConfig
from fourm.nn.towers import ImageFacts
from fourm.nn.vision import VisionEncoder


class VisionFeeder(VisionEncoder):
    """Images to the vectors of their tokens, and these to what the model reads.

    Args:
        modality: with the layout `slots`: so many vectors of content.dim numbers of an image.
        config: of its parts.
        dim: width of the model.

    Raises:
        ConfigError: if the parts do not go with one another, with the modality or the model.
        CheckpointError: if weights of the tower cannot be loaded.
    """

    def __init__(self, modality: Modality, config: VisionFeederConfig, dim: int) -> None:
        if not isinstance(modality.content, Continuous) or modality.channels is None or not modality.is_slots:
            raise ConfigError(
                f"model.feeders: '{modality.name}' is no image of continuous tokens; expected layout.kind slots, "
                "content.kind continuous, and channels"
            )
        made = modality.content.dim
        if made != dim and not config.projection:
            raise ConfigError(
                f"modality '{modality.name}' has content.dim {made}, but the model reads {dim} numbers for each token: "
                f"set model.feeders.{modality.name}.projection to true, or content.dim to {dim}"
            )
        height, width = modality.image_size
        image = ImageFacts(modality.name, height, width, modality.channels, modality.normalization)
        try:
            super().__init__(image, modality.num_tokens, made, config)
        except ConfigError as error:
            raise ConfigError(f"model.feeders.{modality.name}: {error}") from None
        self.projection = nn.Linear(made, dim, bias=False) if config.projection else None

    def project(self, vectors: Tensor) -> Tensor:
        """(..., content.dim) vectors of tokens, made here or given -> (..., dim) that the model reads."""
        return vectors if self.projection is None else self.projection(vectors)
