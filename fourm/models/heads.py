"""Heads that predict vectors: pixels of a patch, features of a place."""

from __future__ import annotations

from torch import Tensor, nn

from fourm.modality import Continuous, Modality
from fourm.models.configs import LinearHeadConfig


class LinearHead(nn.Module):
    """One linear layer.

    Args:
        modality: what is predicted, a continuous one.
        dim: width of the hidden states.
        config: has no options.
    """

    def __init__(self, modality: Modality, dim: int, config: LinearHeadConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, modality.content.dim if isinstance(modality.content, Continuous) else 0)

    def forward(self, hidden: Tensor, position: Tensor) -> Tensor:
        """Predict.

        Args:
            hidden: (n, dim) hidden states of the tokens that ask.
            position: (n,) their places in the modality of what they read.

        Returns:
            (n, content.dim) vectors.
        """
        return self.linear(hidden)
