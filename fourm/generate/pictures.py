"""Sample pictures during training: what the model makes of held-out samples, beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fourm.generate.bundle import Bundle, device_of, raw_modality
from fourm.generate.chain import generate, sample_seeds
from fourm.generate.defaults import default_plan
from fourm.generate.inputs import GivenValue
from fourm.generate.names import short_name
from fourm.generate.outputs import decode_sequences
from fourm.generate.sequences import pad
from fourm.modality import Modality, ModalitySet
from fourm.report.grid import grid
from fourm.report.pictures import draw
from fourm.rng import generator
from fourm.tokenizers.units import to_natural


class Dataset(Protocol):
    """Samples as the model is trained on: normalised images, ids of tokens and texts."""

    modalities: ModalitySet

    def __len__(self) -> int: ...

    def sample(self, n: int, rng: np.random.Generator) -> dict[str, Any]: ...


def sample_pictures(
    bundle: Bundle, dataset: Dataset, given: Sequence[str], targets: Sequence[str], num_samples: int, seed: int
) -> dict[str, Image.Image]:
    """One labelled picture: given modalities, then each target as predicted and as it truly is.

    Args:
        bundle: the model as it stands, and its tokenizers.
        dataset: held-out samples.
        given: modalities to show the model.
        targets: modalities to predict, each from what is given alone.
        num_samples: rows.
        seed: of samples and draws.

    Returns:
        name -> picture.
    """
    modalities = bundle.model.modalities
    count = min(num_samples, len(dataset))
    samples = [dataset.sample(n, generator(seed, "pictures", n)) for n in range(count)]
    values = [
        GivenValue(name, name, facts_of(bundle, modalities[name], samples), modalities[name], [None] * count)
        for name in given
    ]
    plan = default_plan(
        [modalities[name] for name in targets], given, modalities, partial(raw_modality, bundle), chained=False
    )
    answers = generate(bundle, values, plan, sample_seeds(seed, count), expected=True)
    columns, cells = [], []
    for name in given:
        columns.append(f"{short_name(modalities[name])} (given)")
        cells.append(_draw(bundle, modalities[name], _truth(bundle, modalities[name], samples)))
    for name in targets:
        columns.append(short_name(modalities[name]))
        truth = _truth(bundle, modalities[name], samples) if name in dataset.modalities else answers[name]
        cells.append(_draw(bundle, modalities[name], answers[name], like=truth))
        if name in dataset.modalities:
            columns.append("truth")
            cells.append(_draw(bundle, modalities[name], truth))
    return {"samples": grid([list(row) for row in zip(*cells, strict=True)], columns=columns)}


def facts_of(bundle: Bundle, modality: Modality, samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """One modality of the samples as the model is given it, whole."""
    values = [samples[i][modality.name] for i in range(len(samples))]
    if not modality.is_grid and modality.is_discrete:
        end = bundle.text.special.end
        return {"ids": pad([[*_flat(v), end][: modality.num_tokens] for v in values], torch.device("cpu"))}
    if not modality.is_grid:
        length = max(map(len, values))
        padded = [np.pad(v, ((0, length - len(v)), (0, 0))) for v in values]
        valid = torch.arange(length) < torch.tensor([len(v) for v in values])[:, None]
        return {"values": torch.from_numpy(np.stack(padded)), "valid": valid}
    stacked = torch.from_numpy(np.stack(values))
    positions = torch.arange(modality.num_tokens).expand(len(values), -1)
    return {"ids" if modality.is_discrete else "values": stacked, "positions": positions}


def _truth(bundle: Bundle, modality: Modality, samples: Sequence[dict[str, Any]]) -> Any:
    """One modality of the samples in natural units; tokens as their tokenizer shows them."""
    values = [sample[modality.name] for sample in samples]
    if not modality.is_grid:
        if not modality.is_discrete:
            return [None] * len(values)
        return decode_sequences(bundle, modality, pad([_flat(v) for v in values], torch.device("cpu")))
    stacked = torch.from_numpy(np.stack(values))
    tokenizer = bundle.tokenizers.get(modality.name)
    if tokenizer is not None:
        ids = stacked.reshape(len(values), modality.grid.height, modality.grid.width)
        return tokenizer.decode(ids.to(device_of(tokenizer)), seeds=torch.arange(len(values))).cpu()
    return stacked if modality.is_discrete else to_natural(stacked, modality)


def _draw(bundle: Bundle, modality: Modality, values: Any, like: Any = None) -> list[Image.Image]:
    """Pictures of values; features of several samples, and those `like` them, share their colours."""
    raw = raw_modality(bundle, modality)
    return [draw(raw, value, like=values if like is None else like) for value in values]


def _flat(value: Any) -> list[int]:
    """Ids of a text, or of the chunks of one."""
    return [int(i) for chunk in value for i in chunk] if isinstance(value, list) else [int(i) for i in value]
