"""Parameter groups, the optimizer over them, and its state by parameter name."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fourm.errors import ConfigError, did_you_mean
from fourm.train.configs import OptimizerConfig, ParameterRule, TrainConfig
from fourm.train.muon import Muon
from fourm.train.shards import whole


def select_trainable(model: nn.Module, trainable: Iterable[str], freeze: Iterable[str]) -> None:
    """Let only the parameters require gradients that match `trainable` and not `freeze`.

    Raises:
        ConfigError: if a pattern matches nothing, or nothing is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    chosen = matching_names(names, trainable, "train.trainable") - matching_names(names, freeze, "train.freeze")
    chosen &= {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not chosen:
        raise ConfigError("train.trainable and train.freeze leave no parameter to train")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)


def matching_names(names: list[str], patterns: Iterable[str], key: str) -> set[str]:
    """The names that some shell pattern matches.

    Raises:
        ConfigError: if a pattern matches nothing.
    """
    found: set[str] = set()
    for pattern in patterns:
        hits = fnmatch.filter(names, pattern)
        if not hits:
            raise ConfigError(f"{key}: '{pattern}' matches no parameter.{did_you_mean(pattern, names)}")
        found.update(hits)
    return found


def is_decayed(name: str, parameter: Tensor) -> bool:
    """Weight decay is for all weights, embeddings included, but for no norm and no bias (as the public 4M training)."""
    return parameter.ndim > 1 and not name.endswith("bias")


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Groups of trainable parameters with the same weight decay and learning rate.

    Returns:
        dicts with `params`, `weight_decay`, `lr_scale` for torch optimizers.

    Raises:
        ConfigError: if a rule matches no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    for rule in config.rules:
        matching_names(names, [rule.match], "train.optimizer.rules")
    orthogonal = set()
    if config.kind == "muon":
        orthogonal = matching_names(names, config.matrices, "train.optimizer.matrices")
    groups: dict[tuple[float, float, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rule = next((r for r in config.rules if fnmatch.fnmatchcase(name, r.match)), ParameterRule("*"))
            decay = config.weight_decay if is_decayed(name, parameter) else 0.0
            decay = decay if rule.weight_decay is None else rule.weight_decay
            is_matrix = name in orthogonal and parameter.ndim >= 2
            groups.setdefault((decay, rule.lr_scale, is_matrix), []).append(parameter)
    return [
        {"params": p, "weight_decay": decay, "lr_scale": scale, "orthogonal": is_matrix}
        for (decay, scale, is_matrix), p in groups.items()
    ]


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """The optimizer of the trainable parameters, fused where the device has such a kernel (CPU too: 3 to 5 times
    faster).
    """
    groups = parameter_groups(model, config.optimizer)
    for group in groups:
        if group["orthogonal"]:  # so that one schedule moves both rates
            group["lr_scale"] *= config.optimizer.matrix_lr / config.peak_lr
    fused = config.optimizer.fused
    if fused is None:
        devices = {parameter.device.type for group in groups for parameter in group["params"]}
        fused = devices <= {"cpu", "cuda", "mps"}
    c = config.optimizer
    return Muon(
        groups,
        momentum=c.momentum,
        lr=config.peak_lr,
        betas=c.betas,
        eps=c.eps,
        weight_decay=c.weight_decay,
        fused=fused,
    )


class Updater:
    """One optimizer step: learning rate, clipping, skipping; nothing of it waits for the device.

    Args:
        optimizer: AdamW or Muon.
        clip_grad: largest gradient norm, or None.
    """

    def __init__(self, optimizer: torch.optim.AdamW, clip_grad: float | None) -> None:
        self.optimizer = optimizer
        self.clip_grad = clip_grad
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.fused = bool(optimizer.defaults["fused"])

    def step(
        self, lr: float, *, measure: bool = False, leaves_out: Callable[[Tensor], Tensor | None] | None = None
    ) -> Tensor | None:
        """Update the weights and clear the gradients.

        Args:
            lr: learning rate before the groups' own factors.
            measure: compute the gradient norm even if neither clipping nor `leaves_out` needs it.
            leaves_out: from the () gradient norm before clipping, whether the weights stay as they are: () bool;
                None: they do not.

        Returns:
            () gradient norm before clipping, on the device, if it was computed.
        """
        norm = None
        skip = None
        if measure or self.clip_grad is not None or leaves_out is not None:
            grads = [p.grad for p in self.parameters if p.grad is not None]
            norm = whole(torch.nn.utils.get_total_norm(grads, foreach=None))
            skip = None if leaves_out is None else leaves_out(norm)
            if self.clip_grad is not None:
                torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip_grad, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        if not self._skips(skip):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _skips(self, skip: Tensor | None) -> bool:
        if self.fused:
            # The fused kernel leaves weights and moments alone where found_inf is 1, without telling the host.
            found = None if skip is None else skip.to(torch.float32)
            self.optimizer.found_inf = found  # type: ignore[attr-defined]
            return False
        return skip is not None and bool(skip)


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as `parameter name/entry`; parameters that never had a gradient have none."""
    return {
        f"{name}/{entry}": value
        for name, parameter in model.named_parameters()
        for entry, value in optimizer.state.get(parameter, {}).items()
    }


def empty_state(model: nn.Module, optimizer: torch.optim.Optimizer, keys: Iterable[str]) -> dict[str, Tensor]:
    """Tensors to load a saved state into, for the saved keys whose parameters are still trained."""
    fused = bool(optimizer.defaults.get("fused"))
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    parameters = {name: p for name, p in model.named_parameters() if id(p) in trained}
    state = {}
    for key in keys:
        name, _, entry = key.rpartition("/")
        if name in parameters:
            parameter = parameters[name]
            device = parameter.device if fused else torch.device("cpu")
            counter = torch.zeros((), dtype=torch.float32, device=device)
            state[key] = counter if entry == "step" else torch.zeros_like(parameter)
    return state


def set_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Put a state made by `optimizer_state` back."""
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for key, value in state.items():
        name, _, entry = key.rpartition("/")
        optimizer.state[parameters[name]][entry] = value
