"""What one model of a chain hands on to the next: values of the modalities that both have, in the same tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from fourm.errors import ConfigError
from fourm.generate.branches import Facts
from fourm.generate.bundle import Bundle
from fourm.generate.names import base_name
from fourm.generate.plan import Step
from fourm.generate.sequences import pad
from fourm.modality import Modality
from fourm.tokenizers.deferred import Deferred
from fourm.tokens import SpecialIds

_hashes: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def readable(there: Mapping[str, tuple[Facts, Bundle]], reader: Bundle, steps: Sequence[Step]) -> dict[str, Facts]:
    """What of all that there is a model reads.

    Args:
        there: name -> value as the sampler takes it, and the model that it is of.
        reader: the model that is to read it.
        steps: for which; what none of them sees, or is guided by, is not handed on.

    Raises:
        ConfigError: if a modality of the same name means something else there.
    """
    modalities, found = reader.model.modalities, {}
    for name, (facts, source) in there.items():
        key = base_name(name)
        if name != key and not any(name in step.conditions for step in steps):
            continue
        if source is not reader:
            if key not in modalities or not modalities[key].is_input or not any(step.can_see(key) for step in steps):
                continue
            _check_same(key, source, reader)
        found[name] = facts
    return found


def as_given(ids: Tensor, modality: Modality, special: SpecialIds) -> dict[str, Tensor]:
    """Generated ids, as later steps are given them.

    Args:
        ids: (B, N) of a grid; of a sequence without its end, padded with -1.
        modality: whose they are.
        special: the end token.
    """
    if modality.is_grid:
        return {"ids": ids, "positions": torch.arange(modality.num_tokens, device=ids.device).expand_as(ids)}
    rows = [[*row[row >= 0].tolist(), special.end][: modality.num_tokens] for row in ids]
    return {"ids": pad(rows, ids.device)}


def _check_same(name: str, source: Bundle, reader: Bundle) -> None:
    one, other = source.model.modalities[name], reader.model.modalities[name]
    differs = None
    if _facts(one) != _facts(other):
        differs = f"as {_facts(one)} and as {_facts(other)}"
    elif one.is_grid and not _same_tokens(source.tokenizers.get(name), reader.tokenizers.get(name)):
        differs = "in tokens of different tokenizers"
    elif not one.is_grid and one.is_discrete and not _same_tokens(source.text, reader.text):
        differs = "in words of different text tokenizers"
    if differs is not None:
        raise ConfigError(
            f"the models of this plan know '{name}' {differs}, so that one cannot hand it on to the other: take models "
            "that were trained with the same tokens, or let the step not see it (`sees`)"
        )


def _facts(modality: Modality) -> tuple[Any, ...]:
    layout = modality.layout if modality.is_grid else None
    return (layout, modality.content, None if modality.is_discrete else (modality.value_range, modality.normalization))


def _same_tokens(one: Any, other: Any) -> bool:
    """Whether two tokenizers give the same ids, as far as is known: a model may have come without."""
    if one is other or one is None or other is None:
        return True
    if isinstance(one, Deferred) and isinstance(other, Deferred):
        return one.modality == other.modality  # the published one of that modality, for both
    return _hash(one) == _hash(other)


def _hash(tokenizer: Any) -> str:
    """Its hash, which reads all weights, kept."""
    if tokenizer not in _hashes:
        _hashes[tokenizer] = tokenizer.hash
    return _hashes[tokenizer]
