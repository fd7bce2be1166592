"""Multi-head attention over an `AttentionPattern`; in every backend, a query that sees nothing yields zero."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.errors import ConfigError
from fourm.nn.cache import LayerCache
from fourm.nn.configs import Backend
from fourm.nn.position import Rotary
from fourm.patterns import AttentionPattern, Runs


@dataclass(frozen=True)
class AttentionMask:
    """An `AttentionPattern` made ready once for all blocks of a trunk.

    Args:
        backend: kernel that will use it.
        allowed: (B, 1, Q, K) bool for `sdpa`, float bias for `math`, a BlockMask for `flex`, the `Runs` of tokens
            without padding for `runs`; None: all see all.
        sees: (B, 1, Q, 1) bool, False where a query sees nothing; None: there is no such query.
    """

    backend: Backend
    allowed: Any
    sees: Tensor | None

    @classmethod
    def prepare(cls, pattern: AttentionPattern | None, backend: Backend, dtype: torch.dtype) -> AttentionMask:
        """Make a pattern ready.

        Args:
            pattern: who may attend to whom; None: all to all, for which the fused kernels are fastest everywhere.
            backend: `auto` is resolved by device, and so are those that leave padding out, where it stays.
            dtype: of the attention scores.
        """
        if pattern is None:
            return cls("math" if backend == "math" else "sdpa", None, None)
        device = pattern.reach.device.type
        if backend in ("auto", "runs", "packed"):
            backend = "math" if device in ("cpu", "meta") else "sdpa"
        dense = pattern.dense()[:, None]
        sees = dense.any(-1, keepdim=True)
        if dense.numel() == 0:  # nothing to attend with or to: the kernels of the other backends may refuse
            backend = "math"
        if backend == "flex":
            return cls(backend, pattern.block_mask(), sees)
        if backend == "sdpa":
            return cls(backend, dense | ~sees, sees)
        bias = torch.zeros(dense.shape, dtype=dtype, device=dense.device)
        return cls(backend, bias.masked_fill(~dense, torch.finfo(dtype).min), sees)

    def biased(self, bias: Tensor) -> AttentionMask:
        """The same with (1, H, Q, K) numbers added to the scores.

        Raises:
            ConfigError: if the kernel takes none.
        """
        allowed = self.allowed
        if self.backend not in ("math", "sdpa"):
            raise ConfigError(
                f"biases of attention by distance (relative_buckets) do not go with backend {self.backend}: use auto"
            )
        if allowed is not None and self.backend == "sdpa":
            allowed = (
                torch.zeros_like(bias)
                .expand(len(allowed), *bias.shape[1:])
                .masked_fill(~allowed, torch.finfo(bias.dtype).min)
            )
        return AttentionMask(self.backend, bias if allowed is None else allowed + bias, self.sees)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask) -> Tensor:
    """Softmax attention.

    Args:
        query: (B, H, Q, d).
        key: (B, H or fewer, K, d).
        value: (B, H or fewer, K, d).
        mask: who may attend to whom.

    Returns:
        (B, H, Q, d); zero where a query sees nothing.
    """
    grouped = bool(key.shape[1] != query.shape[1])  # traced shapes are tensors
    if mask.backend == "runs":
        return _attend_in_runs(query.to(value.dtype), key.to(value.dtype), value, mask.allowed)
    query, key = query.to(value.dtype), key.to(value.dtype)  # normalised heads stay in float32 under autocast
    if mask.backend == "flex":
        # What is compiled as a whole needs no kernel that is compiled by itself.
        kernel = _flex_kernel(query.is_cuda and not torch.compiler.is_compiling())
        out = kernel(query, key, value, block_mask=mask.allowed, enable_gqa=grouped)
    elif mask.backend == "sdpa" and not _is_single(query, mask):
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask.allowed, enable_gqa=grouped)
    else:
        out = _products(query, key, value, mask.allowed)
    return out if mask.sees is None else out.masked_fill(~mask.sees, 0.0)


def _products(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention as two products with the scores between them."""
    if key.shape[1] != query.shape[1]:
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    scores = scores if bias is None else scores + bias
    return scores.softmax(-1).to(value.dtype) @ value


def _is_single(query: Tensor, mask: AttentionMask) -> bool:
    """Whether one query per sample sees all: on CPU the fused kernel takes several times as long as two products."""
    return query.shape[2] == 1 and mask.allowed is None and query.device.type == "cpu"


def _attend_in_runs(query: Tensor, key: Tensor, value: Tensor, runs: Runs) -> Tensor:
    """Attention within each run alone: no product with what a mask would take away again.

    Args:
        query: (1, H, T, d) all tokens of all rows.
        key, value: (1, H or fewer, S, d).
    """
    if not query.shape[2] or not key.shape[2]:  # nothing to attend with or to
        return query * 0
    # Split and joined once each: the gradient of a slice would be as large as the whole.
    parts = zip(query.split(runs.queries, 2), key.split(runs.keys, 2), value.split(runs.keys, 2), runs.causal)
    return torch.cat([_attend_in_run(q, k, v, causal=causal) for q, k, v, causal in parts], 2)


_FEW_SCORES = 400_000
"""Of a head, so many that two products take half as long as the fused kernel of the CPU in bfloat16, seen with AMX."""


def _attend_in_run(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
    """As `_attend_in_runs`, within one run."""
    if not query.shape[2] or not key.shape[2]:
        return query * 0
    halves = query.device.type == "cpu" and query.dtype == torch.bfloat16
    if halves and not causal and query.shape[2] * key.shape[2] <= _FEW_SCORES:
        return _products(query, key, value)
    grouped = bool(key.shape[1] != query.shape[1])  # traced shapes are tensors
    return F.scaled_dot_product_attention(query, key, value, is_causal=causal, enable_gqa=grouped)


def _flex_kernel(compiled: bool) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    kernel: Callable[..., Any] = flex_attention
    return _compiled(kernel) if compiled else kernel


@lru_cache
def _compiled(kernel: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(kernel)


class Attention(nn.Module):
    """Self-attention, or attention to a context.

    Args:
        dim: width.
        num_heads: query heads.
        num_kv_heads: key and value heads.
        head_dim: channels of a head; None: dim / num_heads.
        cross: keys and values come from a context.
        context_dim: width of the context; None: `dim`.
        qkv_bias, proj_bias: biases of the projections.
        qk_norm: normalise queries and keys over the head's channels.
        norm_bias: whether these norms have biases.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        cross: bool = False,
        context_dim: int | None = None,
        qkv_bias: bool = True,
        proj_bias: bool = True,
        qk_norm: bool = False,
        norm_bias: bool = True,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads or num_heads
        self.head_dim = head_dim or dim // num_heads
        self.query_dim = num_heads * self.head_dim
        kv_dim = self.num_kv_heads * self.head_dim
        self.cross = cross
        if cross:
            self.q = nn.Linear(dim, self.query_dim, bias=qkv_bias)
            self.kv = nn.Linear(context_dim or dim, 2 * kv_dim, bias=qkv_bias)
        else:
            self.qkv = nn.Linear(dim, self.query_dim + 2 * kv_dim, bias=qkv_bias)
        self.proj = nn.Linear(self.query_dim, dim, bias=proj_bias)
        self.q_norm = nn.LayerNorm(self.head_dim, eps=norm_eps, bias=norm_bias) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(self.head_dim, eps=norm_eps, bias=norm_bias) if qk_norm else nn.Identity()

    def forward(
        self,
        x: Tensor,
        mask: AttentionMask,
        context: Tensor | None = None,
        cache: LayerCache | None = None,
        rotary: Rotary | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            x: (B, Q, dim).
            mask: who may attend to whom.
            context: (B, K, context_dim), for attention to a context; None: the cache knows all of it.
            cache: earlier keys and values. Those of a context are computed once: `context` is what has come since.
            rotary: turns queries and keys of self-attention by their places.

        Returns:
            (B, Q, dim).
        """
        if self.cross:
            query = self._heads(self.q(x), self.num_heads)
            if context is not None and cache is None and self._is_cheaper_unprojected(query, context, mask):
                return self.proj(self._attend_unprojected(query, context, mask).transpose(1, 2).flatten(2))
            if context is not None:
                key, value = self._key_value(self.kv(context))
                if cache is not None:
                    key, value = cache.append(key, value)
            else:
                key, value = cast(tuple[Tensor, Tensor], cast(LayerCache, cache).all)
        else:
            kv_dim = self.num_kv_heads * self.head_dim
            q, kv = self.qkv(x).split([self.query_dim, 2 * kv_dim], dim=-1)
            query = self._heads(q, self.num_heads)
            key, value = self._key_value(kv)
            key = key if rotary is None else rotary.turn(key)
            if cache is not None:
                key, value = cache.append(key, value)
        query = self.q_norm(query)
        out = attend(query if rotary is None else rotary.turn(query), key, value, mask)
        return self.proj(out.transpose(1, 2).flatten(2))

    def _is_cheaper_unprojected(self, query: Tensor, context: Tensor, mask: AttentionMask) -> bool:
        """Whether the queries had better come to the context than the context to the queries.

        A key of a context token costs d x context_dim products per head; to bring a query into the space of the context
        costs as much, and then scores are context_dim products instead of d.
        """
        if query.device.type != "cpu" or torch.is_grad_enabled() or mask.backend not in ("math", "sdpa"):
            return False
        plain = isinstance(self.k_norm, nn.Identity) and isinstance(self.q_norm, nn.Identity) and self.kv.bias is None
        queries, keys, width = query.shape[2], context.shape[1], context.shape[2]
        projected = 2 * self.num_kv_heads * keys * self.head_dim * width
        unprojected = 2 * self.num_heads * queries * width * (self.head_dim + keys)
        return plain and mask.sees is None and mask.allowed is None and unprojected < projected

    def _attend_unprojected(self, query: Tensor, context: Tensor, mask: AttentionMask) -> Tensor:
        """(B, H, Q, d) answers; as q (W_k c) = (W_k' q) c and s (W_v c) = W_v (s c), nothing but rounding differs.

        Args:
            query: (B, H, Q, d).
            context: (B, K, context_dim), all of it seen.
            mask: without effect.
        """
        key, value = self.kv.weight.view(2, self.num_kv_heads, self.head_dim, -1).repeat_interleave(
            self.num_heads // self.num_kv_heads, 1
        )
        asked = ((query * self.head_dim**-0.5) @ key).flatten(1, 2)
        mixed = (asked @ context.transpose(1, 2)).softmax(-1) @ context
        return mixed.unflatten(1, query.shape[1:3]) @ value.transpose(1, 2)

    def _key_value(self, kv: Tensor) -> tuple[Tensor, Tensor]:
        key, value = kv.chunk(2, dim=-1)
        return self.k_norm(self._heads(key, self.num_kv_heads)), self._heads(value, self.num_kv_heads)

    def _heads(self, x: Tensor, heads: int) -> Tensor:
        return x.unflatten(-1, (heads, self.head_dim)).transpose(1, 2)
