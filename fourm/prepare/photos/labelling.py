"""The labelers of a recipe at work: every photograph gets all its labels, or is rejected with the reason."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from fourm.errors import CheckpointError, ConfigError, DataError, MissingExtraError
from fourm.machine import choose_device
from fourm.prepare.labelers.base import Labeler, Photo
from fourm.prepare.photos.recipe import PhotosRecipe
from fourm.prepare.photos.record import Rejected
from fourm.registry import implementation

_LOG = logging.getLogger(__name__)
_FATAL = (ConfigError, CheckpointError, MissingExtraError, MemoryError)
_SUSPICIOUS = 4


class Labelling:
    """Labels the photographs of one shard after another.

    Args:
        recipe: its labelers are built when the first photograph needs them.
        number: of this process on its machine; each takes a GPU of its own where there are several.
    """

    def __init__(self, recipe: PhotosRecipe, number: int = 0) -> None:
        self.recipe = recipe
        self.number = number
        self._labelers: dict[str, Labeler] = {}
        self.begin(0)

    def begin(self, shard: int) -> None:
        """Start a shard."""
        self.shard = shard
        self.rejected: list[Rejected] = []
        self._asked: Counter[str] = Counter()
        self._broke: Counter[str] = Counter()

    def label(self, photos: list[Photo], sources: Sequence[str]) -> list[Photo]:
        """The photographs with all these labels; those that one of them cannot be made for are added to `rejected`.

        Args:
            photos: with the labels that these are made from.
            sources: labels, each after those it uses.

        Raises:
            ConfigError, CheckpointError, MissingExtraError, MemoryError: if a labeler cannot work at all.
        """
        for source in sources:
            kept = []
            for photo, answer in zip(photos, self._answers(source, photos), strict=True):
                if isinstance(answer, Exception):
                    reason = f"label '{source}' cannot be made: {str(answer) or type(answer).__name__}"
                    self.rejected.append(Rejected(photo.origin.file, reason, source, self.shard))
                    self._broke[source] += not isinstance(answer, DataError)
                else:
                    kept.append(replace(photo, labels={**photo.labels, source: answer}))
            self._asked[source] += len(photos)
            photos = kept
        return photos

    def check(self) -> None:
        """See that no labeler broke on every photograph of the shard: that is its fault, not theirs.

        Raises:
            ConfigError: naming the label and what it met.
        """
        for source, broke in self._broke.items():
            if broke == self._asked[source] >= _SUSPICIOUS:
                reason = next(entry.reason for entry in self.rejected if entry.by == source)
                raise ConfigError(
                    f"labels.{source} broke on all {broke} photographs of a shard, so that none is rejected for it: "
                    f"{reason}. Correct its settings, or leave the label out"
                )

    def _answers(self, source: str, photos: list[Photo]) -> list[bytes | Exception]:
        """A file for each photograph, or why there is none. What fails together is tried one by one."""
        if not photos:
            return []
        try:
            return [*self._labeler(source).label(photos)]
        except _FATAL:
            raise
        except Exception as error:
            if _is_of_the_gpu(error):
                raise ConfigError(f"labels.{source}: the GPU failed: {error}") from None
            if len(photos) > 1:
                return [self._answers(source, [photo])[0] for photo in photos]
            if type(error).__name__ == "OutOfMemoryError":  # torch's, for the memory of GPUs
                raise ConfigError(f"labels.{source}: not enough memory for one photograph: {error}") from None
            _LOG.debug("label %s of %s", source, photos[0].origin.file, exc_info=True)
            return [error]

    def _labeler(self, source: str) -> Labeler:
        if source not in self._labelers:
            config = self.recipe.labels[source].located(self.recipe.input)
            device = str(choose_device(self.recipe.device, self.number)) if config.network else "cpu"
            self._labelers[source] = implementation(config.target)(config, device)
        return self._labelers[source]


def _is_of_the_gpu(error: Exception) -> bool:
    """Whether a GPU is in a state in which everything fails until the process ends."""
    return type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error)
