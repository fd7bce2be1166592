"""What `fourm doctor` tries on a machine with GPUs: whether they compute what the CPU does, and how fast they train."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fourm import recipes
from fourm.doctor import Check
from fourm.machine import peak_tflops
from fourm.objectives.masked import Masked
from fourm.recipe.cost import flops_per_sample
from fourm.recipe.schema import PretrainRecipe
from fourm.recipe.synthetic import synthetic_sample
from fourm.registry import implementation
from fourm.rng import generator
from fourm.train.configs import OptimizerConfig, TrainConfig
from fourm.train.optimizer import Updater, build_optimizer

GROUP = "GPU"
NAMES = ("parity", "torch.compile", "FlexAttention", "FSDP2", "collective bandwidth", "short training")
_TINY = [
    "modalities=[rgb@64,tok_rgb@64,tok_depth@64,caption,det]",
    "objective.components=[{input_alphas: {'*': 1}, target_alphas: {'*': 1}}]",
    "objective.num_input_tokens=64",
    "objective.num_target_tokens=64",
]
_TOLERANCE = 1e-4  # relative, in float32 without TF32
_BF16_TOLERANCE = 2e-2
_REDUCED_BYTES = 2**28
_STEPS = 20


def skipped(why: str) -> list[Check]:
    """All checks as not done."""
    return [Check(GROUP, name, "optional", f"skipped: {why}") for name in NAMES]


def gpu_checks() -> list[Check]:
    """Try everything; each failure is a line of its own, and the next check goes on."""
    if not torch.cuda.is_available():
        return skipped("torch sees no CUDA GPU here")
    device, count = torch.device("cuda", 0), torch.cuda.device_count()
    tries: dict[str, Callable[[], str]] = {
        "parity": lambda: parity(device),
        "torch.compile": lambda: compiled(device),
        "FlexAttention": lambda: flex(device),
        "FSDP2": lambda: f"{in_ranks(sharded, count, 'cuda')}, on {count} GPUs",
        "collective bandwidth": lambda: in_ranks(bandwidth, count, "cuda"),
        "short training": lambda: training(device, load("4m_b"), batch_size=64),
    }
    checks = []
    for name in NAMES:
        if name == "collective bandwidth" and count < 2:
            checks.append(Check(GROUP, name, "optional", "skipped: one GPU has nobody to exchange with"))
            continue
        checks.append(tried(name, tries[name]))
    return checks


def tried(name: str, attempt: Callable[[], str]) -> Check:
    """One line for a check that gives its finding, or fails in whatever way."""
    try:
        return Check(GROUP, name, "ok", attempt())
    except Exception as error:  # a broken driver or compiler raises anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return Check(GROUP, name, "missing", reason, "check the driver, the CUDA version of torch and its compiler")


def load(name: str, *overrides: str) -> PretrainRecipe:
    """A shipped recipe."""
    return recipes.load(name, PretrainRecipe, overrides, folder="pretrain")


def tiny(*overrides: str) -> PretrainRecipe:
    """A model that takes seconds wherever it runs."""
    return load("4m_tiny", *_TINY, *overrides)


def example(recipe: PretrainRecipe, count: int) -> tuple[Masked, Any]:
    """Objective and a batch of random samples."""
    modalities = recipe.modality_set()
    objective = Masked(recipe.objective, modalities)
    rng = generator(0, "doctor")
    return objective, objective.collate(
        [objective.prepare(synthetic_sample(modalities, rng), rng) for _ in range(count)]
    )


def model_of(recipe: PretrainRecipe, device: torch.device) -> nn.Module:
    """The model with its first weights, the same wherever it is."""
    model: nn.Module = implementation(recipe.model.target)(recipe.modality_set(), recipe.model, 0)
    return model.to(device)


def score(recipe: PretrainRecipe, model: nn.Module, device: torch.device, *, bf16: bool = False) -> tuple[float, float]:
    """Loss of a fixed batch, and the norm of its gradient."""
    objective, batch = example(recipe, 4)
    model.zero_grad()
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        loss = objective.loss(model, batch.to(device))
    scalar = loss.scalar(objective.counts(batch))
    scalar.backward()
    norm = torch.nn.utils.get_total_norm([_whole(p.grad) for p in model.parameters() if p.grad is not None])
    return float(scalar.detach()), float(norm)


def _whole(gradient: Tensor) -> Tensor:
    """A gradient that may be spread over ranks."""
    return gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient


def compare(what: str, found: tuple[float, float], expected: tuple[float, float], tolerance: float) -> str:
    """Whether loss and gradient norm agree.

    Raises:
        ArithmeticError: if they do not.
    """
    worst = max(abs(f - e) / max(abs(e), 1e-12) for f, e in zip(found, expected, strict=True))
    if not worst <= tolerance:
        raise ArithmeticError(
            f"{what} gives loss {found[0]:.6g} and gradient norm {found[1]:.6g}; expected {expected[0]:.6g} and "
            f"{expected[1]:.6g} within {tolerance:g}"
        )
    return f"loss and gradients within {worst:.1e}"


def parity(device: torch.device) -> str:
    """Loss and gradients of a device beside those of the CPU, in float32 and bfloat16."""
    recipe, cpu = tiny(), torch.device("cpu")
    expected = score(recipe, model_of(recipe, cpu), cpu)
    with _exact():
        exact = compare("the GPU", score(recipe, model_of(recipe, device), device), expected, _TOLERANCE)
    half = score(recipe, model_of(recipe, device), device, bf16=True)
    return f"{exact} of the CPU's; in bfloat16: {compare('bfloat16', half, expected, _BF16_TOLERANCE)}"


class _exact:
    """Float32 products without TF32."""

    def __enter__(self) -> None:
        self.before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = False

    def __exit__(self, *error: object) -> None:
        torch.backends.cuda.matmul.allow_tf32 = self.before


def compiled(device: torch.device) -> str:
    """The trunks compiled as one graph each, beside the same without."""
    recipe = tiny()
    expected = score(recipe, model_of(recipe, device), device)
    model: Any = model_of(recipe, device)
    for trunk in (model.encoder, model.decoder):
        for block in trunk.blocks:
            block.compile(fullgraph=True, dynamic=True)
    return compare("the compiled model", score(recipe, model, device), expected, 1e-3) + ", without graph breaks"


def flex(device: torch.device) -> str:
    """FlexAttention beside scaled_dot_product_attention on the decoder's patterns, with padding and without."""
    found, packed, expected = (
        score(recipe, model_of(recipe, device), device)
        for recipe in (tiny(f"model.backend={backend}") for backend in ("flex", "packed", "sdpa"))
    )
    padded = compare("FlexAttention", found, expected, 1e-3)
    return f"{padded}; {compare('without padding', packed, expected, 1e-3)}"


# ------------------------------------------------------------------ several ranks


def in_ranks(work: Callable[[torch.device], str], count: int, kind: str) -> str:
    """What rank 0 finds when one process per device does some work together.

    Args:
        work: a function of this module.
        count: processes.
        kind: `cuda` over NCCL, `cpu` over gloo.
    """
    context = torch.multiprocessing.get_context("spawn")
    found = context.SimpleQueue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_rank, (count, kind, port, work, found), nprocs=count)
    return str(found.get())


def _rank(rank: int, count: int, kind: str, port: int, work: Callable[[torch.device], str], found: Any) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    device = torch.device(kind, rank) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo", rank=rank, world_size=count)
    try:
        result = work(device)
        if rank == 0:
            found.put(result)
    finally:
        dist.destroy_process_group()


def sharded(device: torch.device) -> str:
    """A model whose weights are spread over all ranks, beside the whole one; every rank scores the same batch."""
    from torch.distributed.fsdp import fully_shard

    recipe = tiny()
    with _exact():
        expected = score(recipe, model_of(recipe, device), device)
        model: Any = model_of(recipe, device)
        for trunk in (model.encoder, model.decoder):
            for block in trunk.blocks:
                fully_shard(block)
        fully_shard(model)
        return compare("the sharded model", score(recipe, model, device), expected, _TOLERANCE)


def bandwidth(device: torch.device) -> str:
    """Bytes per second and rank that an all-reduce of a large tensor moves (ring, 2 (n - 1) / n of it)."""
    tensor = torch.zeros(_REDUCED_BYTES // 4, device=device)
    for repeat in range(6):
        if repeat == 1:  # the first one sets up the connections
            _wait(device)
            began = time.perf_counter()
        dist.all_reduce(tensor)
    _wait(device)
    ranks = dist.get_world_size()
    moved = 5 * _REDUCED_BYTES * 2 * (ranks - 1) / ranks
    return f"{moved / (time.perf_counter() - began) / 1e9:.1f} GB/s per rank over {ranks} ranks (all-reduce)"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ------------------------------------------------------------------ training


def training(device: torch.device, recipe: PretrainRecipe, batch_size: int, steps: int = _STEPS) -> str:
    """A short training on one batch: its loss has to fall; says the speed, and the utilisation where it is known."""
    objective, batch = example(recipe, batch_size)
    model = model_of(recipe, device).train()
    config = TrainConfig(max_steps=steps, batch_size=batch_size, optimizer=OptimizerConfig(lr=1e-3))
    updater = Updater(build_optimizer(model, config), None)
    batch, counts = batch.to(device), objective.counts(batch)
    losses = []
    for step in range(steps + 2):
        if step == 2:
            _wait(device)
            began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = objective.loss(model, batch)
        scalar = loss.scalar(counts)
        scalar.backward()
        updater.step(config.peak_lr)
        losses.append(scalar.detach())
    _wait(device)
    samples = steps * batch_size / (time.perf_counter() - began)
    first, last = float(losses[0]), float(losses[-1])
    if not last < first:
        raise ArithmeticError(f"the loss went from {first:.4g} to {last:.4g} in {steps} steps on one batch")
    share = _utilisation(recipe, objective, device, samples)
    return f"{recipe.name}: {samples:.3g} samples/s{share}, loss {first:.2f} -> {last:.2f}"


def _utilisation(recipe: PretrainRecipe, objective: Masked, device: torch.device, samples: float) -> str:
    peak = peak_tflops(device)
    if peak is None:
        return ""
    return f", MFU {samples * flops_per_sample(recipe, recipe.modality_set(), objective) / (peak * 1e12):.1%}"
