"""AIMv2 encoders as transformers' `Aimv2VisionModel` saves them, under the names of their first publication.

Both layouts hold the same numbers; in that of transformers, queries, keys and values are three tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from fourm.errors import CheckpointError

PATCHES = "embeddings.patch_embed.weight"
"""A tensor that every file of this layout has."""
_RENAMED = (
    (r"^embeddings\.patch_embed\.", "preprocessor.patchifier.proj."),
    (r"^embeddings\.rms_norm\.", "preprocessor.patchifier.norm."),
    (r"^embeddings\.position_embedding\.weight$", "preprocessor.pos_embed"),
    (r"^rms_norm\.", "trunk.post_trunk_norm."),
    (r"^encoder\.layers\.", "trunk.blocks."),
    (r"\.rms_norm([12])\.", r".norm_\1."),
    (r"\.attention\.[qkv]_proj\.", ".attn.qkv."),
    (r"\.attention\.out_proj\.", ".attn.proj."),
    (r"\.ffn\.gate_proj\.", ".mlp.fc1."),
    (r"\.ffn\.down_proj\.", ".mlp.fc2."),
    (r"\.ffn\.up_proj\.", ".mlp.fc3."),
)
_POOLING = re.compile(r"head\.(cls_token|[kv]_proj\.\w+|output_proj\.\w+)")


class PublishedNames(Mapping[str, Tensor]):
    """The tensors of an encoder by their first names, each read when it is asked for.

    The pooling head, which `lit` models have and no published encoder, is left out.

    Args:
        state: tensors in the layout of transformers.

    Raises:
        CheckpointError: if a block has some of queries, keys and values alone.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._state = state
        self._parts: dict[str, list[str]] = {}
        for key in sorted(state):
            if not _POOLING.fullmatch(key):
                self._parts.setdefault(first_name(key), []).append(key)
        for name, parts in self._parts.items():
            if len(parts) != (expected := 3 if ".attn.qkv." in name else 1):
                raise CheckpointError(f"{name} should be made of {expected} tensors; there are {', '.join(parts)}")
            parts.sort(key=lambda key: "qkv".find(key.rpartition("_proj.")[0][-1:]))

    def __getitem__(self, name: str) -> Tensor:
        parts = [self._state[key] for key in self._parts[name]]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


def first_name(key: str) -> str:
    """What a tensor of transformers was called first."""
    for theirs, first in _RENAMED:
        key = re.sub(theirs, first, key)
    return key
