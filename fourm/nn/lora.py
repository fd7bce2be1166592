"""Low-rank adapters of linear layers (LoRA, Hu et al. 2022).

Own code, as the layers keep their names and weights here, which `peft` would wrap: freezing, layer-wise rates,
checkpoints and loading go by name.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.errors import ConfigError, did_you_mean
from fourm.nn.configs import LoRAConfig


class LoRALinear(nn.Linear):
    """y = W x + b + scale * up(down(x)); `up` starts at zero, so that nothing changes at first.

    Args:
        base: whose weights it takes over, frozen.
        rank: of the change.
        scale: of the change.
        parts: rows of the weight, and whether they change; those that do have changes of their own. None: all as one.
        dropout: of what the change reads.
    """

    def __init__(
        self,
        base: nn.Linear,
        rank: int,
        scale: float,
        parts: Sequence[tuple[int, bool]] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(base.in_features, base.out_features, base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.scale, self.rank, self.dropout = scale, rank, dropout
        self.parts = [(base.out_features, True)] if parts is None else list(parts)
        changing = [rows for rows, changes in self.parts if changes]
        device = base.weight.device
        self.lora_down = nn.Parameter(torch.empty(rank * len(changing), base.in_features, device=device))
        self.lora_up = nn.Parameter(torch.zeros(sum(changing), rank, device=device))
        nn.init.kaiming_uniform_(self.lora_down, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        low = F.linear(F.dropout(x, self.dropout, self.training), self.lora_down)
        if len(self.parts) == 1:
            return super().forward(x) + self.scale * F.linear(low, self.lora_up)
        ups, lows = iter(self._ups()), iter(low.split(self.rank, -1))
        change = [
            F.linear(next(lows), next(ups)) if changes else low.new_zeros(*x.shape[:-1], rows)
            for rows, changes in self.parts
        ]
        return super().forward(x) + self.scale * torch.cat(change, -1)

    def _ups(self) -> Sequence[Tensor]:
        return self.lora_up.split([rows for rows, changes in self.parts if changes])

    def change(self) -> Tensor:
        """(out, in) what is added to the weight."""
        ups, downs = iter(self._ups()), iter(self.lora_down.split(self.rank))
        return self.scale * torch.cat(
            [
                next(ups) @ next(downs) if changes else self.weight.new_zeros(rows, self.in_features)
                for rows, changes in self.parts
            ]
        )

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain layer that computes the same."""
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        plain.weight = nn.Parameter(self.weight + self.change())
        plain.bias = self.bias
        return plain


def add_lora(module: nn.Module, config: LoRAConfig, seed: int, *, freeze: bool = True) -> int:
    """Give the linear layers that match adapters, and freeze their own weights.

    Args:
        module: whose layers they are.
        config: which, and of what rank.
        seed: of the initial weights.
        freeze: all else in the module too; else it is left as it is.

    Returns:
        how many there are.

    Raises:
        ConfigError: if a pattern matches no linear layer.
    """
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    chosen: dict[str, None] = {}
    for pattern in config.match:
        hits = fnmatch.filter(layers, pattern)
        if not hits:
            raise ConfigError(
                f"lora.match: '{pattern}' is no linear layer of the network.{did_you_mean(pattern, layers)}"
            )
        chosen.update({name: None for name in hits if layers[name].weight.requires_grad})  # others are not read
    if freeze:
        module.requires_grad_(False)
    scale = 1.0 if config.alpha is None else config.alpha / config.rank
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name in chosen:
            layers[name].requires_grad_(False)
            parts = _parts(module, name, config.fused)
            _replace(module, name, LoRALinear(layers[name], config.rank, scale, parts, config.dropout))
    return len(chosen)


def _parts(module: nn.Module, name: str, fused: str | None) -> list[tuple[int, bool]] | None:
    """Rows of queries, keys and values of a layer that holds all three, and which of them change."""
    owner, _, leaf = name.rpartition(".")
    if fused is None or leaf != "qkv":
        return None
    layer = cast(nn.Linear, module.get_submodule(name))
    queries = getattr(module.get_submodule(owner), "query_dim", layer.in_features)
    keys = (layer.out_features - queries) // 2
    return [(rows, part in fused) for part, rows in (("q", queries), ("k", keys), ("v", keys))]


def has_lora(module: nn.Module) -> bool:
    """Whether any layer is adapted."""
    return any(isinstance(layer, LoRALinear) for layer in module.modules())


def merge_lora(module: nn.Module) -> None:
    """Turn adapted layers into plain ones that compute the same."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, LoRALinear):
            _replace(module, name, layer.merged())


def _replace(module: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, layer)
