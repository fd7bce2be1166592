"""Published checkpoints as networks of ours, in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fourm import catalog
from fourm.convert import checkpoints, ml4m, ml4m_tokenizer_configs, ml4m_tokenizers, vqgan
from fourm.convert.ml4m_tokenizer_modality import tokenizer_modality
from fourm.convert.published import Published
from fourm.convert.rules import Imported, read
from fourm.errors import CheckpointError, ConfigError
from fourm.modality import Modality, from_dict
from fourm.models.multimodal import Multimodal
from fourm.nn.init import adopt_weights
from fourm.registry import implementation


class Loaded(NamedTuple):
    """A published network in memory.

    Args:
        network: in evaluation mode, on the CPU.
        published: what it came from.
        imported: its weights, and what else the file held.
    """

    network: Any
    published: Published
    imported: Imported


def summary(published: Published, network: torch.nn.Module, out: Path) -> list[str]:
    """What became of a checkpoint, in lines for people: from where to where, and how much of it."""
    numbers = sum(p.numel() for p in network.parameters()) / 1e6
    return [
        f"{published.source} -> {out}",
        f"{len(published.tensors)} published tensors, {numbers:.1f} M parameters here",
    ]


def load_published_model(published: Published, *, keep: bool = False) -> Loaded:
    """A published transformer as a model of ours.

    Args:
        published: the checkpoint.
        keep: also read what exporting it again needs.

    Raises:
        CheckpointError: if weights are missing, left over or of another shape, or a modality is unknown.
    """
    if not published.is_transformer:
        raise CheckpointError(f"{published.source} is a tokenizer; load it with load_tokenizer")
    checkpoints.tell_licence(published.source)
    with naming(published.source):
        config = ml4m.complete_config(published.config, published.tensors)
        modalities = ml4m.model_modalities(config, published.modalities)
        with torch.device("meta"):
            model = Multimodal(modalities, ml4m.model_config(config, published.tensors))
        with torch.device("cpu"):
            found = read(ml4m.rules(model), published.tensors, model.state_dict(), spare=ml4m.spare(model), keep=keep)
        adopt_weights(model, found.state)
    return Loaded(model.eval(), published, found)


def load_published_tokenizer(
    published: Published, modality: str | Modality | None = None, *, keep: bool = False
) -> Loaded:
    """A published image tokenizer as one of ours.

    Args:
        published: the checkpoint.
        modality: raw modality that it encodes, or its name in the catalog; None: as config, name or shapes say.
        keep: also read what exporting it again needs.

    Raises:
        CheckpointError: as `load_published_model`.
    """
    if not published.is_tokenizer:
        raise CheckpointError(f"{published.source} is a transformer; load it with load_model")
    checkpoints.tell_licence(published.source)
    if published.is_vqgan:
        return _load_vqgan(published, modality, keep)
    with naming(published.source):
        config = ml4m_tokenizer_configs.tokenizer_config(published.config, published.tensors)
        if modality is None:
            known = next(iter((published.modalities).items()), None)
            raw = (
                from_dict(*known)
                if known is not None
                else tokenizer_modality(published.config, config, published.tensors, published.source)
            )
        else:
            raw = catalog.get(modality) if isinstance(modality, str) else modality
        with torch.device("meta"):
            model = implementation(config.target)(raw, config)
        own = ml4m_tokenizers.stored(model)
        found = read(ml4m_tokenizers.rules(model), published.tensors, own, keep=keep)
        adopt_weights(model, ml4m_tokenizers.complete_state(found.state, config))
    return Loaded(model.requires_grad_(False).eval(), published, found)


def _load_vqgan(published: Published, modality: str | Modality | None, keep: bool) -> Loaded:
    with naming(published.source):
        config = vqgan.tokenizer_config(published.config)
        raw = catalog.get(modality) if isinstance(modality, str) else modality
        with torch.device("meta"):
            model = implementation(config.target)(raw or vqgan.tokenizer_modality(published.config, config), config)
        found = read(vqgan.rules(model), published.tensors, vqgan.stored(model), keep=keep)
        adopt_weights(model, vqgan.complete_state(found.state))
    return Loaded(model.requires_grad_(False).eval(), published, found)


@contextlib.contextmanager
def naming(source: str) -> Iterator[None]:
    """Errors inside the block name the checkpoint."""
    try:
        yield
    except (CheckpointError, ConfigError, ValueError) as error:
        raise CheckpointError(f"{source}: {error}") from None
    except KeyError as error:
        raise CheckpointError(
            f"{source}: the tensor or key {error} is missing; its config asks for it. Is the file complete, and the "
            "config its own?"
        ) from None
    except (IndexError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"{source}: a tensor or a value of the config has not the form of the published ones: {error}"
        ) from None
