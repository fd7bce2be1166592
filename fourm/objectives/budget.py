"""How many tokens of each modality are shown and asked: Dirichlet budgets (4M, Mizrahi et al. 2023, sec. 2.2)."""

from __future__ import annotations

import numpy as np

from fourm.errors import ConfigError

_SMALLEST_ALPHA = 1e-9
_MAX_TRIES = 100


def draw_total(smallest: int | None, largest: int, rng: np.random.Generator) -> int:
    """A budget drawn uniformly from smallest..largest; always `largest` where `smallest` is None or not smaller."""
    return largest if smallest is None or smallest >= largest else int(rng.integers(smallest, largest + 1))


def dirichlet_budget(
    alphas: np.ndarray,
    total: int,
    capacity: np.ndarray,
    rng: np.random.Generator,
    *,
    minimum: np.ndarray | None = None,
    redistribute: bool = False,
) -> np.ndarray:
    """Split `total` tokens over modalities.

    Shares are drawn from a Dirichlet distribution and rounded down; the remainder goes, token by token, to the largest
    share of further draws. What exceeds a modality's capacity is lost, as in the published training, unless
    `redistribute` is set.

    Args:
        alphas: (M,) concentration per modality; 0 never draws it.
        total: tokens to hand out.
        capacity: (M,) most tokens each modality can take.
        rng: source of randomness.
        minimum: (M,) fewest tokens of each; draws are repeated, at most 100 times, until they hold.
        redistribute: hand the excess on to modalities with room, in proportion to their shares.

    Returns:
        (M,) int64 budgets, each <= capacity, summing to at most `total`.

    Raises:
        ConfigError: if every alpha is 0.
    """
    drawable = (alphas > 0).nonzero()[0]
    if len(drawable) == 0:
        raise ConfigError("every modality has alpha 0: none can be drawn")
    concentration = np.maximum(alphas[drawable], _SMALLEST_ALPHA)
    shares = np.zeros(len(alphas))
    for _ in range(_MAX_TRIES):
        shares[drawable] = rng.dirichlet(concentration)
        budget = (shares * total).astype(np.int64)
        remainder = total - int(budget.sum())
        if remainder:
            winners = drawable[rng.dirichlet(concentration, remainder).argmax(1)]
            budget += np.bincount(winners, minlength=len(alphas))
        budget = np.minimum(budget, capacity)
        if redistribute:
            budget = _hand_on(budget, shares, total, np.where(alphas > 0, capacity, 0))
        if minimum is None or (budget >= np.minimum(minimum, capacity)).all():
            break
    return budget


def _hand_on(budget: np.ndarray, shares: np.ndarray, total: int, capacity: np.ndarray) -> np.ndarray:
    """Fill up to `total` where there is room, in proportion to the shares."""
    left = total - int(budget.sum())
    while left > 0:
        room = capacity - budget
        weights = np.where(room > 0, np.maximum(shares, 1e-6), 0.0)
        if not weights.any():
            break
        extra = np.minimum(np.ceil(weights / weights.sum() * left).astype(np.int64), room)
        # Rounding up may overshoot: the last ones give way.
        budget = budget + np.minimum(extra, np.maximum(left - (np.cumsum(extra) - extra), 0))
        left = total - int(budget.sum())
    return budget
