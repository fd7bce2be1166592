"""Span masking with sentinels for sequences (T5, Raffel et al. 2020; 4M, sec. 2.2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fourm.objectives.configs import Keep
from fourm.tokens import SpecialIds

_SHRINK = 0.9  # of the visible share, whenever what is visible does not fit
_TRIES = 8
_SHARES = _SHRINK ** np.arange(_TRIES)


def draw_keep(keep: Keep, rng: np.random.Generator) -> float:
    """The share of a sequence that stays visible."""
    if keep == "all":
        return 1.0
    if keep == "binary":
        return float(rng.integers(0, 2))
    return float(rng.random())


def mask_spans(tokens: np.ndarray, kept: np.ndarray, special: SpecialIds) -> tuple[np.ndarray, np.ndarray]:
    """Replace each run of hidden tokens by a sentinel, and list the hidden runs behind their sentinels.

    Args:
        tokens: (L,) ids.
        kept: (L,) bool, False where the token is hidden.
        special: the vocabulary's sentinels; runs beyond their number stay visible.

    Returns:
        input: visible tokens with `S_1`, `S_2`, ... in place of the hidden runs.
        target: `S_1`, the first run, `S_2`, the second run, ..., and one more sentinel at the end.
    """
    hidden = ~kept
    starts = hidden.copy()
    starts[1:] &= kept[:-1]
    number = starts.cumsum()
    runs = int(number[-1]) if len(tokens) else 0
    if runs > (limit := special.num_sentinels - 2):
        hidden &= number <= limit
        starts &= hidden
        runs = limit
    # Each hidden run leaves its first place for the sentinel; the visible part is read off in order.
    sentinels = np.arange(special.sentinel_0 + 1, special.sentinel_0 + runs + 2)
    source = tokens.copy()
    source[starts] = sentinels[:-1]
    places = hidden.nonzero()[0]
    target = np.empty(len(places) + runs + 1, tokens.dtype)
    target[np.arange(len(places)) + number[places]] = tokens[places]
    target[starts[places].nonzero()[0] + np.arange(runs)] = sentinels[:-1]
    target[-1] = sentinels[-1]
    return source[~hidden | starts], target


def unmask_spans(visible: np.ndarray, target: np.ndarray, special: SpecialIds) -> np.ndarray:
    """The whole sequence from what `mask_spans` made of it, or from a model's answer.

    Total: whatever the target holds gives a result. Sentinels without an answer are left out.

    Args:
        visible: tokens with sentinels.
        target: sentinels, each followed by its run.
    """
    spans: dict[int, list[int]] = {}
    current: list[int] = []
    for token in target.tolist():
        if _is_sentinel(token, special):
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    out: list[int] = []
    for token in visible.tolist():
        out.extend(spans.get(token, []) if _is_sentinel(token, special) else [token])
    return np.asarray(out, np.int64)


def _is_sentinel(token: int, special: SpecialIds) -> bool:
    return special.sentinel_0 <= token < special.sentinel_0 + special.num_sentinels


def draw_span_mask(
    units: np.ndarray | Sequence[np.ndarray],
    input_budget: int,
    keep: Keep,
    special: SpecialIds,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Hide random units of a sequence so that what is visible fits the input budget.

    Args:
        units: (L,) tokens, each kept or hidden by itself; or chunks of them, kept or hidden whole.
        input_budget: most visible tokens; 0 hides everything and shows not even a sentinel.
        keep: how the visible share is drawn.
        special: the vocabulary's sentinels.
        rng: source of randomness.

    Returns:
        input and target ids, as `mask_spans`.
    """
    if isinstance(units, np.ndarray):
        tokens, lengths = units, None
    else:
        tokens = np.concatenate([np.zeros(0, np.int64), *units])
        lengths = np.array([len(unit) for unit in units], np.int64)
    if input_budget == 0 or len(tokens) == 0:
        _, target = mask_spans(tokens, np.zeros(len(tokens), bool), special)
        return tokens[:0], target
    share = draw_keep(keep, rng)
    while True:
        # Several tries at once, each with a smaller share; their lengths are cheaper than the masks themselves.
        shares = share * _SHARES
        kept = rng.random((_TRIES, len(units))) < shares[:, None]
        runs = (kept[:, :-1] > kept[:, 1:]).sum(1) + ~kept[:, 0]
        shown = kept.sum(1) if lengths is None else kept @ lengths
        for i in (shown + runs <= input_budget).nonzero()[0]:
            visible, target = mask_spans(tokens, kept[i] if lengths is None else np.repeat(kept[i], lengths), special)
            if len(visible) <= input_budget:
                return visible, target
        share = float(shares[-1]) * _SHRINK


def fit_target(target: np.ndarray, budget: int, special: SpecialIds, rng: np.random.Generator) -> np.ndarray:
    """Cut a target to its budget, beginning at a random sentinel so that every span has its turn.

    If what follows that sentinel is shorter than the budget, the cut begins at the earliest sentinel whose rest fits.
    """
    if len(target) <= budget:
        return target
    if budget <= 0:
        return target[:0]
    is_sentinel = (target >= special.sentinel_0) & (target < special.sentinel_0 + special.num_sentinels)
    starts = np.flatnonzero(is_sentinel)[:-1]
    start = int(starts[rng.integers(len(starts))])
    if len(target) - start >= budget:
        return target[start : start + budget]
    earliest = starts[len(target) - starts <= budget]
    return target[int(earliest[0]) :]


def leading_chunks(chunks: list[np.ndarray], limit: int) -> list[np.ndarray]:
    """The leading chunks whose tokens fit `limit` together."""
    lengths = np.cumsum([len(chunk) for chunk in chunks])
    return chunks[: int(np.searchsorted(lengths, limit, side="right"))]
