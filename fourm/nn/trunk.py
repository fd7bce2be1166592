"""The transformer trunk that every system shares: pre-norm blocks of self-attention, cross-attention and an MLP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fourm.nn.attention import Attention, AttentionMask
from fourm.nn.cache import LayerCache
from fourm.nn.configs import TrunkConfig
from fourm.nn.packing import Packing, Way, has_flex, packed_mask, packed_pattern, way_of
from fourm.nn.position import RelativeBias, Rotary, places
from fourm.nn.precision import product_dtype
from fourm.patterns import AttentionPattern, Runs

__all__ = ["Block", "KVCache", "Mlp", "Trunk", "TrunkConfig"]


def make_norm(config: TrunkConfig, dim: int | None = None) -> nn.Module:
    """The normalisation layer a trunk config names, of its own width or another one."""
    if config.norm == "rmsnorm":
        return nn.RMSNorm(dim or config.dim, eps=config.norm_eps)
    return nn.LayerNorm(dim or config.dim, eps=config.norm_eps, bias=config.norm_bias)


class Mlp(nn.Module):
    """Two-layer MLP; `swiglu` gates the hidden layer: fc2(silu(fc1 x) * fc3 x) (Shazeer 2020)."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.fc1 = nn.Linear(config.dim, config.mlp_dim, bias=config.mlp_bias)
        self.fc2 = nn.Linear(config.mlp_dim, config.dim, bias=config.mlp_bias)
        self.fc3 = (
            nn.Linear(config.dim, config.mlp_dim, bias=config.mlp_bias) if config.activation == "swiglu" else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        hidden = self.fc1(x)
        if self.fc3 is not None:
            return self.fc2(F.silu(hidden) * self.fc3(x))
        if self.activation == "relu":
            return self.fc2(F.relu(hidden))
        if self.activation == "silu":
            return self.fc2(F.silu(hidden))
        return self.fc2(F.gelu(hidden, approximate="tanh" if self.activation == "gelu_tanh" else "none"))


class DropPath(nn.Module):
    """Leave out a residual branch for whole samples (Huang et al. 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, dim) -> (B, N, dim); survivors are scaled up by 1 / (1 - rate)."""
        if not self.training or self.rate == 0:
            return x
        keep = torch.empty(x.shape[0], 1, 1, dtype=x.dtype, device=x.device).bernoulli_(1 - self.rate)
        return x * keep / (1 - self.rate)


class BlockCache:
    """What one block remembers between decoding steps: its own keys and values, and those of the context.

    Args:
        own: whether it remembers its own.
        context: those of a context that are known already.
    """

    def __init__(self, own: bool, context: LayerCache | None = None) -> None:
        self.own = LayerCache() if own else None
        self.context = LayerCache() if context is None else context


class KVCache:
    """Keys and values of all blocks of a trunk, for passes that continue one another. A context may grow in between.

    Args:
        depth: number of blocks.
        own: remember the tokens that pass through. False: the context alone, where each pass has tokens of its own.
    """

    def __init__(self, depth: int, *, own: bool = True) -> None:
        self.blocks = [BlockCache(own) for _ in range(depth)]
        self.own = own
        self.cross: AttentionMask | None = None

    @property
    def length(self) -> int:
        """Number of tokens that have passed through."""
        own = self.blocks[0].own
        return 0 if own is None else own.length

    def keep(self, length: int) -> None:
        """Forget all but the first tokens, or without tokens of its own all but the first of the context."""
        if not self.own:
            self.cross = None
        for block in self.blocks:
            (block.context if block.own is None else block.own).keep(length)

    def select(self, rows: Tensor) -> None:
        """Go on with these samples (B,), which may repeat; of tokens of its own alone."""
        for block in self.blocks:
            if block.own is not None:
                block.own.select(rows)

    def string(self) -> KVCache:
        """A cache for tokens that are written one by one against the same context."""
        cache = KVCache(0)
        cache.blocks = [BlockCache(True, block.context) for block in self.blocks]
        return cache


class Block(nn.Module):
    """x += attn(norm1 x);  x += cross_attn(query_norm x, context_norm context);  x += mlp(norm2 x)."""

    def __init__(self, config: TrunkConfig, drop_path: float = 0.0) -> None:
        super().__init__()
        options = {
            "num_kv_heads": config.num_kv_heads,
            "head_dim": config.head_dim,
            "qkv_bias": config.qkv_bias,
            "proj_bias": config.proj_bias,
            "qk_norm": config.qk_norm,
            "norm_bias": config.norm_bias,
            "norm_eps": config.norm_eps,
        }
        self.norm1 = make_norm(config)
        self.attn = Attention(config.dim, config.num_heads, **options)  # type: ignore[arg-type]
        if config.cross_attention:
            self.query_norm = make_norm(config)
            self.context_norm = make_norm(config, config.context_dim) if config.context_norm else nn.Identity()
            self.cross_attn = Attention(
                config.dim,
                config.num_heads,
                cross=True,
                context_dim=config.context_dim,
                **options,  # type: ignore[arg-type]
            )
        self.norm2 = make_norm(config)
        self.mlp = Mlp(config)
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        x: Tensor,
        mask: AttentionMask,
        context: Tensor | None = None,
        cross_mask: AttentionMask | None = None,
        cache: BlockCache | None = None,
        rotary: Rotary | None = None,
    ) -> Tensor:
        """Run the block.

        Args:
            x: (B, N, dim).
            mask: of the self-attention.
            context: (B, K, context_dim), for blocks with cross-attention.
            cross_mask: of the cross-attention.
            cache: keys and values of earlier decoding steps.
            rotary: position embeddings of the self-attention.

        Returns:
            (B, N, dim).
        """
        own = cache.own if cache else None
        x = x + self.drop_path(self.attn(self.norm1(x), mask, cache=own, rotary=rotary))
        if context is not None and cross_mask is not None:
            context_cache = cache.context if cache else None
            known = context_cache.length if context_cache is not None else 0
            new = None if known and known == context.shape[1] else self.context_norm(context[:, known:])
            x = x + self.drop_path(self.cross_attn(self.query_norm(x), cross_mask, new, context_cache))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Trunk(nn.Module):
    """A stack of blocks and a final norm."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.config = config
        rates = torch.linspace(0, config.drop_path, config.depth, device="cpu").tolist() if config.depth else []
        self.blocks = nn.ModuleList(Block(config, rate) for rate in rates)
        self.norm = make_norm(config)
        self.relative = None if config.relative_buckets is None else RelativeBias(config)

    def forward(
        self,
        x: Tensor,
        *,
        attention: AttentionPattern | Sequence[AttentionPattern | None] | None,
        context: Tensor | None = None,
        cross: AttentionPattern | None = None,
        cache: KVCache | None = None,
        layers: tuple[int, ...] | None = None,
    ) -> Tensor | list[Tensor]:
        """Run the stack.

        Args:
            x: (B, N, dim).
            attention: who attends to whom; with a cache, its keys are all tokens so far. None: all to all. A sequence
                holds one for each block.
            context: (B, K, context_dim) for cross-attention.
            cross: who attends to which context token; None: all to all. With a cache of its own tokens, all queries see
                the same, and the context stays.
            cache: earlier keys and values; the new ones are added to it.
            layers: return the outputs of these blocks (without the final norm) as a list instead.

        Returns:
            (B, N, dim), or a list of them.
        """
        way = "padded" if cache is not None or layers is not None else self._way(x, attention, context, cross)
        if way == "runs":
            return self._forward_runs(x, cast(AttentionPattern, attention), context, cross)
        if way == "packed":
            return self._forward_packed(x, cast(AttentionPattern, attention), context, cross)
        dtype = product_dtype(x)
        patterns = attention if isinstance(attention, Sequence) else [attention] * len(self.blocks)
        # Blocks mostly share a pattern, which is made ready once.
        ready = {id(p): AttentionMask.prepare(p, self.config.backend, dtype) for p in patterns}
        if self.relative is not None:
            bias = self.relative(x.shape[1], 0 if cache is None else cache.length)
            ready = {key: mask.biased(bias.to(dtype)) for key, mask in ready.items()}
        masks = [ready[id(pattern)] for pattern in patterns]
        cross_mask = self._cross_mask(cross, dtype, cache) if context is not None else None
        rotary = self._rotary(x, [x.shape[1]], 0 if cache is None else cache.length)
        outputs = []
        for i, block in enumerate(self.blocks):
            block_cache = cache.blocks[i] if cache is not None else None
            if self.config.activation_checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, masks[i], context, cross_mask, None, rotary, use_reentrant=False)
            else:
                x = block(x, masks[i], context, cross_mask, block_cache, rotary)
            if layers is not None and i in layers:
                outputs.append(x)
                if i == max(layers):
                    break
        return outputs if layers is not None else self.norm(x)

    def _rotary(self, x: Tensor, rows: Sequence[int], start: int = 0) -> Rotary | None:
        """Rotary embeddings of rows of so many tokens, one after the other, which begin at place `start`."""
        if self.config.rope_theta is None:
            return None
        longest = places(start, max(rows, default=0), x.device)
        position = longest if len(rows) == 1 else torch.cat([longest[:row] for row in rows])
        return Rotary.at(position, self.config.head_width, self.config.rope_theta)

    def _cross_mask(self, cross: AttentionPattern | None, dtype: torch.dtype, cache: KVCache | None) -> AttentionMask:
        """The mask of the context; that of one query serves all later ones of a string."""
        if cache is not None and cache.cross is not None:
            return cache.cross
        mask = AttentionMask.prepare(cross, self.config.backend, dtype)
        if cache is not None and cache.own and (cross is None or cross.reach.shape[1] == 1):
            cache.cross = mask
        return mask

    def _way(self, x: Tensor, attention: Any, context: Tensor | None, cross: AttentionPattern | None) -> Way:
        """What is done with padding."""
        if not isinstance(attention, AttentionPattern) or self.relative is not None:
            return "padded"
        if self.training and self.config.drop_path:  # which leaves out whole rows
            return "padded"
        shape = int(x.shape[0]), int(x.shape[1])
        flex = has_flex(x.device, self.config.head_width * product_dtype(x).itemsize)
        learns = torch.is_grad_enabled()
        way = way_of(self.config.backend, x.device.type, shape, attention, flex=flex, learns=learns)
        if context is None or way == "padded":
            return way
        known = cross is not None and (cross.runs is not None if way == "runs" else cross.key_capacity is not None)
        return way if known else "padded"

    def _forward_runs(
        self, x: Tensor, attention: AttentionPattern, context: Tensor | None, cross: AttentionPattern | None
    ) -> Tensor:
        """The stack on the tokens of all rows without their padding, which comes out as zero."""
        runs = cast(Runs, attention.runs)
        mask, cross_mask, shape = AttentionMask("runs", runs, None), None, x.shape
        x = _pack(x, runs.rows)
        if context is not None and cross is not None and cross.runs is not None:
            cross_mask = AttentionMask("runs", cross.runs, None)
            context = _pack(context, cross.runs.key_rows)
        x = self._blocks(x, mask, context, cross_mask, self._rotary(x, runs.rows))
        return _unpack(self.norm(x), runs.rows, shape[1])

    def _forward_packed(
        self, x: Tensor, attention: AttentionPattern, context: Tensor | None, cross: AttentionPattern | None
    ) -> Tensor:
        """The same in one row with one attention, which is made on the device."""
        backend, dtype = self.config.backend, product_dtype(x)
        queries = Packing.of(attention.group >= 0, cast(int, attention.capacity))
        mask, cross_mask = packed_mask(packed_pattern(attention, queries, queries), backend, dtype), None
        if context is not None and cross is not None:
            keys = Packing.of(cross.keys >= 0, cast(int, cross.key_capacity))
            cross_mask = packed_mask(packed_pattern(cross, queries, keys), backend, dtype)
            context = keys.pack(context)
        theta = self.config.rope_theta
        rotary = None if theta is None else Rotary.at(queries.column, self.config.head_width, theta)
        return queries.unpack(self.norm(self._blocks(queries.pack(x), mask, context, cross_mask, rotary)))

    def _blocks(
        self,
        x: Tensor,
        mask: AttentionMask,
        context: Tensor | None,
        cross_mask: AttentionMask | None,
        rotary: Rotary | None,
    ) -> Tensor:
        """All blocks, under masks that they share."""
        for block in self.blocks:
            if self.config.activation_checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, mask, context, cross_mask, None, rotary, use_reentrant=False)
            else:
                x = block(x, mask, context, cross_mask, None, rotary)
        return x


def _pack(x: Tensor, rows: Sequence[int]) -> Tensor:
    """(B, N, dim) with so many tokens at the beginning of each row -> (1, their sum, dim)."""
    sizes = [size for row in rows for size in (row, x.shape[1] - row)]
    return torch.cat(x.flatten(0, 1).split(sizes)[::2])[None]


def _unpack(x: Tensor, rows: Sequence[int], length: int) -> Tensor:
    """The inverse of `_pack`, with zeros where nothing was."""
    parts = x[0].split(list(rows))
    return torch.stack([F.pad(part, (0, 0, 0, length - len(part))) for part in parts])
