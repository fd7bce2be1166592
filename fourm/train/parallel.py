"""How ranks share a model: each has all of it (DDP), or each has a part (FSDP2, HSDP)."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager
from inspect import signature
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.nn import functional as F

from fourm.errors import ConfigError
from fourm.machine import use_bf16
from fourm.models.tables import TokenTable
from fourm.nn.init import HasTables
from fourm.nn.trunk import Block
from fourm.objectives.base import Objective
from fourm.train.configs import TrainConfig
from fourm.train.distributed import World
from fourm.train.ema import WeightAverage
from fourm.train.forward import LossModule
from fourm.train.shards import local, local_rows, whole

_UNITS = (Block, TokenTable)
"""What is gathered, used and let go by itself; everything else is small and is gathered for the whole step."""


def _units(model: nn.Module) -> Iterator[nn.Module]:
    """What is shared out by itself; networks of other libraries name such parts as `shard_units`."""
    for module in model.modules():
        if isinstance(module, _UNITS):
            yield module
        yield from getattr(module, "shard_units", ())


class Parallel(Protocol):
    """A model on several ranks.

    Attributes:
        model: has the parameters that are optimised and saved.
        module: runs a micro-batch, as `LossModule` does.
    """

    model: nn.Module
    module: nn.Module

    def micro_batch(self, last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of a micro-batch; `last`: of its step."""
        ...

    def exported(self, average: WeightAverage | None) -> AbstractContextManager[None]:
        """The caller's model is whole and carries the averaged weights, if there are any; on every rank together."""
        ...


def parallelise(model: nn.Module, objective: Objective, config: TrainConfig, world: World) -> Parallel:
    """Place a model on the ranks' devices as the recipe says.

    Raises:
        ConfigError: if the model cannot be shared out so.
    """
    if world.size > 1 and config.parallel.kind == "fsdp":
        return Sharded(model, objective, config, world)
    return Replicated(model, objective, config, world)


class Replicated:
    """Every rank holds all weights, and gradients are averaged in the backward pass; also for one process alone."""

    def __init__(self, model: nn.Module, objective: Objective, config: TrainConfig, world: World) -> None:
        model.to(world.device).train()
        if config.compile:
            model.compile()
        self.model = model
        module = LossModule(model, objective, world.device.type, use_bf16(config.precision, world.device))
        self.module: nn.Module = module
        self._data_parallel = world.size > 1
        if self._data_parallel:
            self.module = _data_parallel(module, world, find_unused=config.find_unused_parameters)

    def micro_batch(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients travel once in a step."""
        skips = self._data_parallel and not last
        return self.module.no_sync() if skips else contextlib.nullcontext()  # type: ignore[operator]

    def exported(self, average: WeightAverage | None) -> AbstractContextManager[None]:
        """The model itself."""
        return average.applied() if average else contextlib.nullcontext()


def _data_parallel(module: nn.Module, world: World, *, find_unused: bool) -> nn.Module:
    # Running buffers (codebooks, batch statistics) follow rank 0; constant tables are not persistent and stay.
    wrapper = nn.parallel.DistributedDataParallel
    # torch 2.15 gave the option another name.
    name = "forward_sync_buffers" if "forward_sync_buffers" in signature(wrapper).parameters else "broadcast_buffers"
    renamed: dict[str, Any] = {name: bool(_running_buffers(module))}
    return wrapper(
        module,
        device_ids=[world.device] if world.device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        find_unused_parameters=find_unused,
        **renamed,
    )


def _running_buffers(module: nn.Module) -> list[str]:
    saved = module.state_dict().keys()
    return [name for name, buffer in module.named_buffers() if name in saved and buffer.is_floating_point()]


class Sharded:
    """Every rank holds a part of each weight, its gradient and its optimizer state (FSDP2; Zhao et al. 2023).

    The ranks train a sharded copy; the caller's model has weights only while it is evaluated or exported, and is on the
    meta device otherwise. Its first weights are taken from rank 0, so the other ranks may build it on the meta device.

    A block, and a concatenated table with the head that is tied to it, is a unit: gathered before use, freed after.

    Raises:
        ConfigError: for a model with running statistics, or ranks that do not divide into groups.
    """

    def __init__(self, model: nn.Module, objective: Objective, config: TrainConfig, world: World) -> None:
        if running := _running_buffers(model):
            raise ConfigError(
                f"train.parallel.kind fsdp cannot keep the running statistics of this model ({running[0]}) the same on "
                "all ranks; set train.parallel.kind=ddp"
            )
        bf16 = use_bf16(config.precision, world.device)
        options = self._options(config, world, bf16)
        self._plain, self._device = model, world.device
        self.model = _meta_copy(model).train()
        if bf16:
            for module in self.model.modules():
                module.__class__ = _NORMS.get(type(module), type(module))
        for unit in list(_units(self.model)):
            if config.compile and isinstance(unit, Block):
                unit.compile()
            fully_shard(unit, **options)
            for name in getattr(unit, "forward_methods", ()):
                register_fsdp_forward_method(unit, name)
        # The loss module is the root, as objectives may call any method of the model.
        self.module: nn.Module = LossModule(self.model, objective, world.device.type, bf16)
        fully_shard(self.module, **options)
        self._fill(world)

    @staticmethod
    def _options(config: TrainConfig, world: World, bf16: bool) -> dict[str, Any]:
        c = config.parallel
        group = c.shard_ranks or world.size
        kind = world.device.type
        if group == world.size:
            mesh = init_device_mesh(kind, (world.size,), mesh_dim_names=("shard",))
        else:
            mesh = init_device_mesh(kind, (world.size // group, group), mesh_dim_names=("replicate", "shard"))
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if bf16 else None,
            reduce_dtype=torch.bfloat16 if c.reduce == "bf16" else torch.float32,
            # Autocast chooses the precision of each operation; what flows between blocks stays as it is.
            cast_forward_inputs=False,
        )
        return {"mesh": mesh, "mp_policy": policy, "reshard_after_forward": c.reshard_after_forward}

    @torch.no_grad()
    def _fill(self, world: World) -> None:
        """Take the weights from rank 0, one at a time, and let go of the caller's."""
        self.model.to_empty(device=world.device)
        for module in self.model.modules():
            if isinstance(module, HasTables):
                with torch.device(world.device):
                    module.fill_tables()
        sources = dict(self._plain.named_parameters()) | dict(self._plain.named_buffers())
        for name, target in [*self.model.named_parameters(), *self.model.named_buffers()]:
            source = sources[name]
            on_main = source.detach().to(world.device).contiguous() if world.is_main else None
            value = torch.empty(source.shape, dtype=source.dtype, device=world.device) if on_main is None else on_main
            dist.broadcast(value, src=0)
            local(target).copy_(value[local_rows(target)] if target.ndim else value)
        self._release()

    def micro_batch(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients are shared out after each micro-batch: kept whole, they would need the memory of all weights."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def exported(self, average: WeightAverage | None) -> Iterator[None]:
        """The caller's model, gathered on every rank: for so long a rank needs the memory of all weights."""
        averaged = average.mean if average else {}
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                _assign(self._plain, name, whole(averaged.get(name, parameter)))
            for name, buffer in self.model.named_buffers():
                _assign(self._plain, name, buffer)
        try:
            yield
        finally:
            self._release()

    def _release(self) -> None:
        for name, tensor in [*self._plain.named_parameters(), *self._plain.named_buffers()]:
            _assign(self._plain, name, torch.empty_like(tensor, device="meta"))


class _LayerNorm(nn.LayerNorm):
    """A norm whose weights are gathered in another precision than what it reads, which not every kernel takes."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = (None if p is None else p.to(x.dtype) for p in (self.weight, self.bias))
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class _RMSNorm(nn.RMSNorm):
    """The same without a mean."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


_NORMS: dict[type[nn.Module], type[nn.Module]] = {nn.LayerNorm: _LayerNorm, nn.RMSNorm: _RMSNorm}


def _meta_copy(model: nn.Module) -> nn.Module:
    """The same model without weights."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)


def _assign(model: nn.Module, name: str, value: Tensor) -> None:
    """Put another tensor in the place of a parameter or buffer."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    old = module._parameters.get(leaf)
    if old is None:
        module._buffers[leaf] = value
    else:
        module._parameters[leaf] = nn.Parameter(value, old.requires_grad)
