"""Facts about an image as text: `v1=<type> v0=<value>` for each (4M-21, Bachmann et al. 2024, sec. 3.1), and back.

What is written and what is read are not quite inverse, since the published models learned it so: a score in [0, 1] is
written as floor(49 s) and read as its fiftieth. It comes back up to two fiftieths lower; written again, its bin is the
same or the one before. Sizes come back as the next lower multiple of 32.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real

import numpy as np

from fourm.errors import DataError, did_you_mean
from fourm.tokenizers.structured.words import NUMBER

NUM_SCORES = 50
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Field:
    """How one fact becomes a whole number. By default it is a count.

    Args:
        step: units that share a number.
        high: upper end of a score, which begins at 0 and has `NUM_SCORES` bins; None: not a score.
        most: the largest value there can be; larger ones than `high` share its last bin. None: `high`, or without end.
        edges: where bins of unequal width begin, after the first.
        middles: what these bins are read as.
    """

    step: int = 1
    high: float | None = None
    most: float | None = None
    edges: tuple[float, ...] = ()
    middles: tuple[float, ...] = ()

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the largest value there can be; a picture has one pixel at least."""
        most = self.most if self.most is not None else self.high if self.high is not None else math.inf
        return 1.0 if self.step > 1 else 0.0, most

    @property
    def is_whole(self) -> bool:
        """Whether it counts something."""
        return self.high is None and not self.edges

    @property
    def expected(self) -> str:
        """What its values have to be, in words."""
        least, most = self.limits
        return f"a whole number from {least:g} on" if self.is_whole else f"a number from {least:g} to {most:g}"

    def holds(self, value: float) -> bool:
        """Whether there can be such a value."""
        least, most = self.limits
        return least - _ROUNDING <= value <= most + _ROUNDING and not (self.is_whole and value != math.floor(value))

    def largest(self, num_bins: int) -> int:
        """The largest number it can be written as."""
        return len(self.edges) if self.edges else NUM_SCORES - 1 if self.high is not None else num_bins - 1

    def write(self, value: float, num_bins: int) -> int:
        """The number of a value."""
        if self.edges:
            return bisect_right(self.edges, value)
        if self.high is not None:
            return int(min(max(value, 0.0), self.high) / self.high * (NUM_SCORES - 1))
        return min(max(math.floor(value) // self.step, 0), num_bins - 1)

    def read(self, number: int) -> float | int:
        """The value of a number."""
        if self.edges:
            return self.middles[number]
        return number * self.step if self.high is None else self.high * (number / NUM_SCORES)


FIELDS: dict[str, Field] = {
    "original_width": Field(step=32),
    "original_height": Field(step=32),
    "caption_n_chars": Field(),
    "caption_n_words": Field(),
    "caption_n_sentences": Field(),
    "n_humans": Field(),
    "n_sam_instances": Field(),
    "n_coco_instances": Field(),
    "coco_instance_diversity": Field(),
    "colorfulness": Field(high=150, most=377),  # 255 sqrt(2 (1 + .3^2)), of Hasler and Suesstrunk 2003
    "brightness": Field(high=255),
    "contrast": Field(high=127, most=127.5),
    "saturation": Field(high=255),
    "entropy": Field(high=10),
    "walkability": Field(high=1),
    "objectness": Field(high=1),
    "semantic_diversity": Field(),
    "geometric_complexity": Field(high=0.75, most=1),
    "occlusion_score": Field(high=0.25, most=1),
    "watermark_score": Field(most=1, edges=(0.5,), middles=(0.0, 1.0)),
    "aesthetic_score": Field(most=10, edges=(4.5, 5.5), middles=(4.0, 5.0, 6.0)),
}
"""Name -> its form. The place in this table is the type in the text."""

_NAMES = tuple(FIELDS)
_FACT = re.compile(rf"(?<!\S)v1=({NUMBER})\s+v0=({NUMBER})(?!\S)")
_TYPES = {name: number for number, name in enumerate(_NAMES)}


def metadata_to_chunks(
    facts: Mapping[str, float], *, num_bins: int = 1000, rng: np.random.Generator | None = None
) -> list[str]:
    """One text for each fact, which is masked as a whole.

    Args:
        facts: name -> number, of the names in `FIELDS`; any may be missing.
        num_bins: numbers an axis can take, at least `NUM_SCORES`; larger counts are written as the largest.
        rng: shuffles the facts; None: they come in the order of `FIELDS`.

    Raises:
        DataError: for unknown names, or what is not a finite number.
    """
    if not isinstance(facts, Mapping):
        raise DataError(f"metadata is {type(facts).__name__}; expected names and numbers")
    for name, value in facts.items():
        if name not in FIELDS:
            raise DataError(f"metadata holds '{name}'.{did_you_mean(str(name), FIELDS)}")
        if not isinstance(value, Real) or not math.isfinite(value):
            raise DataError(f"metadata: {name} is {value!r}; expected a finite number. Leave out what is not known")
    names = sorted(facts, key=_TYPES.__getitem__)
    if rng is not None:
        names = [names[place] for place in rng.permutation(len(names))]
    return [f"v1={_TYPES[name]} v0={FIELDS[name].write(float(facts[name]), num_bins)}" for name in names]


def chunks_to_metadata(text: str | Iterable[str], *, num_bins: int = 1000) -> dict[str, float | int]:
    """The facts in a text, or in chunks of it. Whatever is not a fact is passed over; the last of two counts.

    Args:
        text: what `metadata_to_chunks` writes, or anything else.
        num_bins: as in `metadata_to_chunks`.

    Returns:
        name -> number, in the order of `FIELDS`.
    """
    found: dict[int, float | int] = {}
    for match in _FACT.finditer(text if isinstance(text, str) else " ".join(text)):
        kind, number = int(match[1]), int(match[2])
        if kind < len(_NAMES) and number <= FIELDS[_NAMES[kind]].largest(num_bins):
            found[kind] = FIELDS[_NAMES[kind]].read(number)
    return {_NAMES[kind]: found[kind] for kind in sorted(found)}
