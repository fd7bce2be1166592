"""Tables for a model with an ordered context: what is shown comes block after block, as generation will make it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fourm.tokens import TokenRow


def in_blocks(row: TokenRow, cut: np.ndarray, rng: np.random.Generator) -> TokenRow:
    """The same tokens, of which each sees its own block and those before it.

    Modalities come in a random order. Each is one block, as what is given; what can be generated step by step is cut
    into any number of blocks, few as likely as many: the logarithm of their number is uniform. Where the cuts are is
    uniform too, since schedules take few tokens first, or last, or as many each time.

    Args:
        row: an encoder's table, each modality's tokens side by side and, where they are cut, in random order.
        cut: (M,) bool, which modalities are cut.
        rng: source of randomness.
    """
    if not len(row):
        return row
    starts = np.flatnonzero(np.diff(row.modality, prepend=-1))
    runs = [np.arange(a, b) for a, b in zip(starts, [*starts[1:], len(row)], strict=True)]
    runs = [runs[i] for i in rng.permutation(len(runs))]
    ends: list[int] = []
    for run in runs:
        start = ends[-1] if ends else 0
        if cut[row.modality[run[0]]]:
            ends.extend(start + random_ends(len(run), rng))
        else:
            ends.append(start + len(run))
    order = np.concatenate(runs)
    sizes = np.diff(ends, prepend=0)
    return replace(
        row,
        modality=row.modality[order],
        position=row.position[order],
        ids=row.ids[order],
        target_ids=row.target_ids[order],
        reach=np.repeat(np.array(ends, row.reach.dtype), sizes),
        group=row.group[order],
        runs=None,
    )


def random_ends(length: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) where each of a random number of blocks ends, of which the last ends at `length`."""
    number = min(length, int(np.exp(rng.uniform(0.0, np.log(length + 1)))))
    inner = rng.permutation(length - 1)[: number - 1] + 1
    return np.append(np.sort(inner), length)
