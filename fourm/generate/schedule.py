"""How many tokens each decoding step takes, and how hot each step draws. Closed forms, free of torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fourm.errors import ConfigError, DataError

_ONEX_SPAN = 100.0
"""`onex` spreads the tokens of a target over x in [1, 100]."""


def cosine_counts(num_tokens: int, num_steps: int) -> list[int]:
    """Few tokens first, many at the end (MaskGIT, Chang et al. 2022, sec. 3.3).

    After step t, floor(N cos(pi/2 t/T)) tokens are missing; every step takes at least one token while there are any.
    """
    missing, counts = num_tokens, []
    for step in range(1, num_steps + 1):
        share = math.cos(math.pi / 2 * step / num_steps)
        left = 0 if step == num_steps else max(0, min(missing - 1, math.floor(num_tokens * share)))
        counts.append(missing - left)
        missing = left
    return counts


def linear_counts(num_tokens: int, num_steps: int) -> list[int]:
    """As even as whole numbers allow; the larger counts come first, as in 4M."""
    count, larger = divmod(num_tokens, num_steps)
    return [count + (step < larger) for step in range(num_steps)]


def check_counts(counts: Sequence[int], num_steps: int, where: str) -> None:
    """See that a list of counts can be a schedule.

    Raises:
        ConfigError: if it is empty, has negative numbers or another length than `num_steps`.
    """
    if not counts or min(counts) < 0:
        raise ConfigError(f"{where}: schedule is {list(counts)}; expected whole numbers of 0 or more, one per step")
    if len(counts) != num_steps:
        raise ConfigError(f"{where}: schedule has {len(counts)} counts, but num_steps is {num_steps}")


def token_counts(schedule: str | Sequence[int], num_missing: Sequence[int], num_steps: int) -> NDArray[np.int64]:
    """Tokens of each step for each sample.

    Args:
        schedule: `cosine`, `linear` or the counts themselves.
        num_missing: (B,) tokens each sample lacks.
        num_steps: T.

    Returns:
        (T, B); each column sums to its sample's missing tokens.

    Raises:
        DataError: if listed counts have another sum.
    """
    columns: dict[int, list[int]] = {}
    for missing in set(num_missing):
        if schedule == "cosine":
            columns[missing] = cosine_counts(missing, num_steps)
        elif schedule == "linear":
            columns[missing] = linear_counts(missing, num_steps)
        else:
            columns[missing] = _listed([int(n) for n in schedule], missing)
    return np.array([columns[missing] for missing in num_missing], np.int64).reshape(len(num_missing), num_steps).T


def _listed(counts: list[int], missing: int) -> list[int]:
    if sum(counts) != missing:
        raise DataError(
            f"the schedule {counts} takes {sum(counts)} tokens, but {missing} are missing; "
            "correct the counts, or use schedule cosine or linear"
        )
    return counts


def parse_temperature_schedule(schedule: str, where: str) -> tuple[str, float, float]:
    """Kind, smallest temperature and power of a temperature schedule.

    Raises:
        ConfigError: if it is neither `constant`, `linear` nor `onex:MIN:POWER`.
    """
    kind, *numbers = str(schedule).split(":")
    try:
        if kind == "onex" and len(numbers) == 2:
            smallest, power = float(numbers[0]), float(numbers[1])
            if 0 <= smallest < math.inf and 0 < power < math.inf:
                return kind, smallest, power
        elif kind in ("constant", "linear") and not numbers:
            return kind, 0.0, 0.0
    except ValueError:
        pass
    raise ConfigError(
        f"{where}: temperature_schedule is '{schedule}'; expected constant, linear or onex:MIN:POWER, for instance "
        "onex:0.5:0.5"
    )


def temperatures(schedule: str, temperature: float, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The temperature of each step.

    With s the share of tokens decoded before step i, counted from 0, and c the share after it: constant T; linear
    T (1 - s); onex, for N tokens, the rule the published settings of 4M were chosen with::

        x = 1 + 99 i / (N - 1),    y = (x ** -power - 100 ** -power) / (1 - 100 ** -power)
        MIN + (T - MIN) (1 - c) y

    Args:
        schedule: `constant`, `linear` or `onex:MIN:POWER`.
        temperature: T.
        counts: (T, B) from `token_counts`.

    Returns:
        (T, B).
    """
    kind, smallest, power = parse_temperature_schedule(schedule, "plan")
    done = np.cumsum(counts, 0) - counts
    share = done / np.maximum(counts.sum(0), 1)
    if kind == "constant":
        return np.full(counts.shape, float(temperature))
    if kind == "linear":
        return temperature * (1 - share)
    total = counts.sum(0)
    x = 1 + (_ONEX_SPAN - 1) * np.arange(len(counts))[:, None] / np.maximum(total - 1, 1)
    end = _ONEX_SPAN**-power
    fall = np.maximum(x**-power - end, 0) / (1 - end)  # empty steps behind the last token have larger x
    return smallest + (temperature - smallest) * (1 - (done + counts) / np.maximum(total, 1)) * fall
