"""Start a model from one with other modalities, as 4M-21 from 4M-7: tables are copied modality by modality."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from fourm.errors import CheckpointError
from fourm.layouts import Discrete
from fourm.modality import Modality
from fourm.models.configs import MultimodalConfig
from fourm.models.multimodal import Multimodal
from fourm.models.tables import PositionTable, TokenTable
from fourm.nn.towers import TimmTower

_LOG = logging.getLogger(__name__)
_SAME = ("num_heads", "activation", "norm", "position_tables", "modality_embeddings")
"""Options of a model that its weights were trained with and that no shape of theirs tells."""


@dataclass(frozen=True)
class Transplant:
    """What was done.

    Args:
        copied: modalities whose weights came from the source.
        fresh: modalities that keep their initial weights.
        dropped: modalities of the source that the target lacks.
    """

    copied: list[str]
    fresh: list[str]
    dropped: list[str]


@torch.no_grad()
def copy_weights(source: Multimodal, target: Multimodal) -> Transplant:
    """Copy all weights of `source` that have a place in `target`.

    A text may have a larger vocabulary here, by tokens such as `[IMG]`: the new rows are the mean of the others (Emu).
    The feeder of a new modality keeps its own weights; towers may read images of another size.

    Args:
        source: a trained model.
        target: a new model with the same trunk; its modalities may differ.

    Returns:
        which modalities were copied, stayed new, or were dropped.

    Raises:
        CheckpointError: if the trunks differ, or a shared modality has another vocabulary or layout.
    """
    _check_options(source.config, target.config)
    shared = [name for name in target.modalities if name in source.modalities]
    for name in shared:
        old, new = source.modalities[name], target.modalities[name]
        if not _fits(old, new):
            raise CheckpointError(
                f"modality '{name}' is {old.layout} x {old.content} in the source and "
                f"{new.layout} x {new.content} here; "
                "give the new one another name, or the same layout and content; texts may get a larger vocabulary"
            )
        if old.is_discrete and (added := new.vocab_size - old.vocab_size):
            _LOG.warning(
                "'%s' has %d tokens more than in the source, whose rows start as the mean of all others; the first %d "
                "must mean the same as there", name, added, old.vocab_size,
            )  # fmt: skip
    _copy_common(source, target)
    _copy_tables(source, target, shared)
    result = Transplant(
        shared,
        [name for name in target.modalities if name not in source.modalities],
        [name for name in source.modalities if name not in target.modalities],
    )
    _LOG.info(
        "started from trained weights: %s; new: %s", ", ".join(shared) or "none", ", ".join(result.fresh) or "none"
    )
    return result


def _check_options(old: MultimodalConfig, new: MultimodalConfig) -> None:
    """See that weights mean the same in a model of other options.

    Raises:
        CheckpointError: naming all options that differ.
    """
    differ = [key for key in _SAME if getattr(old, key) != getattr(new, key)]
    differ += ["num_kv_heads"] if (old.num_kv_heads or old.num_heads) != (new.num_kv_heads or new.num_heads) else []
    differ += ["rope_theta"] if (old.rope_theta is None) != (new.rope_theta is None) else []
    differ += ["tie_heads"] if new.tie_heads and not old.tie_heads else []
    if differ:
        told = "; ".join(f"model.{key} is {getattr(new, key)} here and {getattr(old, key)} there" for key in differ)
        raise CheckpointError(
            f"init_from: {told}. Weights mean something else then: the section `model` of the source's config.json has "
            "all its options"
        )
    for key in ("norm_eps", "rope_theta"):
        if getattr(old, key) != getattr(new, key):
            _LOG.warning("model.%s is %s, but %s in the source", key, getattr(new, key), getattr(old, key))


def _fits(old: Modality, new: Modality) -> bool:
    """Whether the weights of a modality mean the same here."""
    if not old.is_grid and isinstance(old.content, Discrete) and isinstance(new.content, Discrete):
        larger = new.content.vocab_size >= old.content.vocab_size
        return larger and (new.positions != "learned" or old.layout.num_positions == new.layout.num_positions)
    if old.is_slots and new.is_slots:  # poolers without parameters make any number of vectors
        return old.content == new.content
    return old.content == new.content and old.layout.num_positions == new.layout.num_positions


def _copy_common(source: Multimodal, target: Multimodal) -> None:
    """Everything that is not a table over modalities."""
    tables = {
        f"{prefix}.{key}"
        for model in (source, target)
        for prefix, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, TokenTable | PositionTable) or prefix.endswith("modality_embedding")
        for key in module.state_dict(keep_vars=True)
    }
    theirs, ours = source.state_dict(), target.state_dict()
    towers = {prefix: module for prefix, module in target.named_modules() if isinstance(module, TimmTower)}
    new = tuple(f"input_embedder.feeders.{m}." for m in target.modalities if m not in source.input_embedder.feeders)
    for name, value in ours.items():
        if name in tables or name.startswith(("input_embedder.projections.", "vector_heads.", *new)):
            continue
        source_value = theirs.get(name)
        for prefix, tower in towers.items() if source_value is not None else ():
            if name.startswith(f"{prefix}."):
                source_value = tower.fitted(name.removeprefix(f"{prefix}."), cast(Tensor, source_value))
        if source_value is None or source_value.shape != value.shape:
            found = "nothing" if source_value is None else tuple(source_value.shape)
            raise CheckpointError(
                f"init_from: {name} is {tuple(value.shape)} here and {found} in the source; the trunks must be the same"
            )
        value.copy_(source_value)


def _copy_tables(source: Multimodal, target: Multimodal, names: list[str]) -> None:
    """Rows and projections of the shared modalities."""
    for part in ("input_embedder", "target_embedder"):
        old, new = getattr(source, part), getattr(target, part)
        for name in names if old is not None and new is not None else ():
            if old.modality_embedding is not None and new.modality_embedding is not None:
                new.modality_embedding.weight[target.modalities.index(name)] = old.modality_embedding.weight[
                    source.modalities.index(name)
                ]
            _copy_rows(old.table, new.table, name)
            if old.positions is not None and new.positions is not None:
                _copy_positions(old.positions, new.positions, name)
    for name in names:
        _copy_rows(source.heads, target.heads, name)
        for old, new in (
            (source.input_embedder.projections, target.input_embedder.projections),
            (source.vector_heads, target.vector_heads),
        ):
            if name in old and name in new:
                new[name].load_state_dict(old[name].state_dict())


def _copy_rows(old: TokenTable, new: TokenTable, name: str) -> None:
    if name in old.map.rows and name in new.map.rows:
        rows = old.rows(name)
        added = new.rows(name).shape[0] - rows.shape[0]
        new.rows(name).copy_(torch.cat([rows, rows.mean(0, keepdim=True).expand(added, -1)]))


def _copy_positions(old: PositionTable, new: PositionTable, name: str) -> None:
    source, target = old.learned_rows(name), new.learned_rows(name)
    if old.learned is not None and new.learned is not None and source is not None and target is not None:
        new.learned[target] = old.learned[source]
