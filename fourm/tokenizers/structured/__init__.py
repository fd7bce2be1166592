"""Values with structure as text, and back: one file per kind, and the table that all else asks. No torch here.

A modality names its kind in `decode`. Values are plain Python; each file says of what form. Reading takes any text,
also one that a model made badly, and always gives a valid value, an empty one if need be.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from fourm.errors import ConfigError
from fourm.tokenizers.structured.boxes import boxes_to_text, text_to_boxes
from fourm.tokenizers.structured.metadata import NUM_SCORES, chunks_to_metadata, metadata_to_chunks
from fourm.tokenizers.structured.palette import NUM_LEVELS, palette_to_text, text_to_palette
from fourm.tokenizers.structured.poses import poses_to_text, text_to_poses
from fourm.tokenizers.structured.sam import sam_to_text, text_to_sam
from fourm.tokenizers.structured.words import CODES_PER_AXIS

__all__ = [
    "KINDS", "Kind", "boxes_to_text", "chunks_to_metadata", "metadata_to_chunks", "palette_to_text", "poses_to_text",
    "sam_to_text", "text_to_boxes", "text_to_palette", "text_to_poses", "text_to_sam",
]  # fmt: skip

Writer = Callable[[Any, int, np.random.Generator | None], str | list[str]]
Reader = Callable[[str, int, Collection[str]], Any]


@dataclass(frozen=True)
class Kind:
    """One kind of structured value.

    Args:
        to_text: value, numbers an axis can take, and what shuffles (None: nothing) -> the text, or the chunks of it.
        from_text: any text, numbers an axis can take, and class names that count (none: any) -> a value.
        is_value: whether something is one value, and not a list of them.
        min_bins: fewest numbers an axis must be able to take.
        draws: whether `to_text` shuffles anything.
    """

    to_text: Writer
    from_text: Reader
    is_value: Callable[[Any], bool]
    min_bins: int = 2
    draws: bool = False

    def check_bins(self, name: str, num_bins: int) -> None:
        """Refuse a text tokenizer whose numbers are too few.

        Raises:
            ConfigError: if they are.
        """
        if num_bins < self.min_bins:
            raise ConfigError(
                f"modality '{name}': the text tokenizer has the numbers v0=0 to v0={num_bins - 1}; expected at least "
                f"{self.min_bins} of them. Train it with a larger num_coordinates"
            )


def _is_list_of(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and (not value or check(value[0]))


_is_mapping: Callable[[Any], bool] = lambda value: isinstance(value, Mapping)  # noqa: E731
_is_color: Callable[[Any], bool] = lambda color: len(color) > 0 and isinstance(color[0], Real)  # noqa: E731

KINDS: dict[str, Kind] = {
    "boxes": Kind(
        lambda value, num_bins, rng: boxes_to_text(value, num_bins=num_bins),
        lambda text, num_bins, classes: text_to_boxes(text, num_bins=num_bins, classes=classes),
        _is_list_of(_is_mapping),
    ),
    "metadata": Kind(
        lambda value, num_bins, rng: metadata_to_chunks(value, num_bins=num_bins, rng=rng),
        lambda text, num_bins, classes: chunks_to_metadata(text, num_bins=num_bins),
        _is_mapping,
        min_bins=NUM_SCORES,
        draws=True,
    ),
    "palette": Kind(
        lambda value, num_bins, rng: palette_to_text(value),
        lambda text, num_bins, classes: text_to_palette(text),
        _is_list_of(_is_color),
        min_bins=NUM_LEVELS,
    ),
    "poses": Kind(
        lambda value, num_bins, rng: poses_to_text(value, num_bins=num_bins, rng=rng),
        lambda text, num_bins, classes: text_to_poses(text, num_bins=num_bins),
        _is_list_of(_is_mapping),
        min_bins=CODES_PER_AXIS,
        draws=True,
    ),
    "sam": Kind(
        lambda value, num_bins, rng: sam_to_text(value, rng=rng),
        lambda text, num_bins, classes: text_to_sam(text),
        _is_list_of(_is_mapping),
        min_bins=CODES_PER_AXIS,
        draws=True,
    ),
}
"""Name, as in the `decode` of a modality -> how it is written and read."""
