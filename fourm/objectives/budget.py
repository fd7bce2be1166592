"""How many tokens of each modality are shown and asked: Dirichlet budgets (4M, Mizrahi et al. 2023, sec. 2.2)."""

from __future__ import annotations

import numpy as np

from fourm.errors import ConfigError

_SMALLEST_ALPHA = 1e-9
_MAX_TRIES = 100


def draw_total(smallest: int | None, largest: int, rng: np.random.Generator) -> int:
    """A budget drawn uniformly from smallest..largest; always `largest` when `smallest` is None."""
    return largest if smallest is None else int(rng.integers(smallest, largest + 1))


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
    drawable = alphas > 0
    if not drawable.any():
        raise ConfigError("every modality has alpha 0: none can be drawn")
    budget = np.zeros(len(alphas), np.int64)
    for _ in range(_MAX_TRIES):
        shares = _dirichlet(alphas, drawable, rng)
        budget = np.floor(shares * total).astype(np.int64)
        for _ in range(total - int(budget.sum())):
            budget[np.argmax(_dirichlet(alphas, drawable, rng))] += 1
        budget = np.minimum(budget, capacity)
        if redistribute:
            budget = _hand_on(budget, shares, total, np.where(drawable, capacity, 0))
        if minimum is None or (budget >= np.minimum(minimum, capacity)).all():
            break
    return budget


def _dirichlet(alphas: np.ndarray, drawable: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    shares = np.zeros(len(alphas))
    if drawable.sum() == 1:
        shares[drawable] = 1.0
        return shares
    shares[drawable] = rng.dirichlet(np.maximum(alphas[drawable], _SMALLEST_ALPHA))
    if not np.isfinite(shares).all():  # tiny concentrations underflow: all mass lies on one of them
        shares[:] = 0.0
        shares[rng.choice(np.flatnonzero(drawable), p=alphas[drawable] / alphas[drawable].sum())] = 1.0
    return shares


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
