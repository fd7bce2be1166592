"""Ranges of the numbers in a config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import Any

from fourm.errors import ConfigError


def check_range(
    config: object, *names: str, least: float = -inf, above: float = -inf, most: float = inf, below: float = inf
) -> None:
    """See that numbers of a config lie in a range. None is no number; of lists and mappings every number counts.

    Args:
        config: a config dataclass.
        names: fields or properties of it.
        least, most: the range with its ends.
        above, below: the range without them.

    Raises:
        ConfigError: naming the field, its value and the range.
    """
    for name in names:
        for key, value in _numbers(name, getattr(config, name)):
            if not (least <= value <= most and above < value < below):
                low = f"{least} or more" if least > -inf else f"a number above {above}"
                high = f" and at most {most}" if most < inf else f" and below {below}" if below < inf else ""
                raise ConfigError(f"{key} is {value}; expected {low}{high}")


def check_widths(widths: Sequence[int], groups: int) -> None:
    """See that there are channels of levels, and that group norms divide them.

    Raises:
        ConfigError: naming those that they do not.
    """
    if not widths:
        raise ConfigError("widths is empty; expected channels of each level, for instance [128, 256]")
    odd = [width for width in widths if width % groups]
    if odd:
        raise ConfigError(f"widths {odd} are not multiples of groups {groups}")


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        yield from ((f"{name}.{key}", number) for key, number in value.items())
    elif isinstance(value, list | tuple):
        yield from ((f"{name}[{i}]", number) for i, number in enumerate(value))
    elif value is not None:
        yield name, value
