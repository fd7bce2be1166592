"""Low-rank adapters of linear layers (LoRA, Hu et al. 2022).

Own code, as the layers keep their names and weights here, which `peft` would wrap: freezing, layer-wise rates,
checkpoints and loading go by name.
"""

from __future__ import annotations

import fnmatch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.errors import ConfigError, did_you_mean
from fourm.transfer.head_configs import LoRAConfig


class LoRALinear(nn.Linear):
    """y = W x + b + scale * up(down(x)); `up` starts at zero, so that nothing changes at first.

    Args:
        base: whose weights it takes over, frozen.
        rank: of the change.
        scale: of the change.
    """

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        super().__init__(base.in_features, base.out_features, base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.scale = scale
        device = base.weight.device
        self.lora_down = nn.Parameter(torch.empty(rank, base.in_features, device=device))
        self.lora_up = nn.Parameter(torch.zeros(base.out_features, rank, device=device))
        nn.init.kaiming_uniform_(self.lora_down, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return super().forward(x) + self.scale * F.linear(F.linear(x, self.lora_down), self.lora_up)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain layer that computes the same."""
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        plain.weight = nn.Parameter(self.weight + self.scale * self.lora_up @ self.lora_down)
        plain.bias = self.bias
        return plain


def add_lora(module: nn.Module, config: LoRAConfig) -> int:
    """Give the linear layers that match adapters, and freeze all else in the module.

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
                f"lora.match: '{pattern}' is no linear layer of the backbone.{did_you_mean(pattern, layers)}"
            )
        chosen.update(dict.fromkeys(hits))
    module.requires_grad_(False)
    scale = 1.0 if config.alpha is None else config.alpha / config.rank
    for name in chosen:
        _replace(module, name, LoRALinear(layers[name], config.rank, scale))
    return len(chosen)


def merge_lora(module: nn.Module) -> None:
    """Turn adapted layers into plain ones that compute the same."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, LoRALinear):
            _replace(module, name, layer.merged())


def _replace(module: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, layer)
