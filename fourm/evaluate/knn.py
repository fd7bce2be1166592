"""k nearest neighbours: what features say about classes without training anything."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_CHUNK = 1024


def knn_scores(
    features: Tensor, known: Tensor, labels: Tensor, num_classes: int, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """Votes of the most similar known samples, weighed by exp(cosine / temperature) (Wu et al. 2018, sec. 3.4).

    Args:
        features: (N, D).
        known: (M, D) features of samples whose classes are known.
        labels: (M,) their classes.
        num_classes: number of classes.
        k: neighbours that vote, all where there are fewer; 20 at temperature .07 as in 4M-21.
        temperature: of the weights.

    Returns:
        (N, num_classes) weights of the votes.
    """
    known = F.normalize(known.float(), dim=1)
    votes = features.new_zeros(len(features), num_classes, dtype=torch.float32)
    for start in range(0, len(features), _CHUNK):
        part = F.normalize(features[start : start + _CHUNK].float(), dim=1)
        similarity, index = (part @ known.T).topk(min(k, len(known)), dim=1)
        votes[start : start + _CHUNK].scatter_add_(1, labels[index], (similarity / temperature).exp())
    return votes
