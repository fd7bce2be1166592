"""Tensors that may be spread over ranks: what of them is here, and the whole of them."""

from __future__ import annotations

from torch import Tensor, distributed
from torch.distributed.tensor import DTensor, Shard


def local(tensor: Tensor) -> Tensor:
    """The part that this rank holds, sharing its memory; all of a plain tensor."""
    detached = tensor.detach()
    return detached.to_local() if isinstance(detached, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The whole, which every rank must ask for at the same time; a plain tensor as it is."""
    detached = tensor.detach()
    if not isinstance(detached, DTensor):
        return tensor
    full = detached.full_tensor()
    # Parts of unequal size are gathered with padding, which would stay in memory, and which safetensors refuses.
    padded = full.untyped_storage().nbytes() > full.numel() * full.element_size()
    return full.clone() if padded else full


def local_rows(tensor: Tensor) -> slice:
    """Which rows of the whole are here: FSDP2 gives each rank the same number, and the last ones fewer or none."""
    rows = tensor.shape[0]
    start, stop = 0, rows
    if isinstance(tensor, DTensor):
        for dim, placement in enumerate(tensor.placements):
            if isinstance(placement, Shard):
                mesh = tensor.device_mesh
                share = -(-rows // mesh.size(dim))
                start = min(rows, mesh.get_local_rank(dim) * share)
                stop = min(rows, start + share)
    return slice(start, stop)


def spread_like(tensor: Tensor, part: Tensor) -> Tensor:
    """A tensor spread over the ranks as another one, from the part of it that is here."""
    if not isinstance(tensor, DTensor):
        return part
    return DTensor.from_local(
        part, tensor.device_mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
    )


def num_ranks() -> int:
    """Processes in the group; 1 without a group."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
