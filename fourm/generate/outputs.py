"""What the model answers: ids as images, labels, texts, boxes and all else that is written as text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fourm.generate.bundle import Bundle, device_of
from fourm.generate.codes import decode_codes
from fourm.generate.sampler import Generated
from fourm.generate.sampling import expected_embedding
from fourm.modality import Modality
from fourm.tokenizers.structured import KINDS


def decode(
    bundle: Bundle, name: str, generated: Generated, seeds: Tensor | None = None, *, expected: bool = False
) -> Any:
    """One target in natural units.

    Args:
        bundle: model and tokenizers.
        name: of the target.
        generated: what the sampler returned.
        seeds: (B,), for decoders that draw; None: as they draw by themselves.
        expected: decode the mean code under the kept probabilities instead of the drawn ids.

    Returns:
        images (B, C, H, W) on the CPU, labels (B, H, W), or a list of B texts or values with structure (boxes, facts,
        ...). Without a tokenizer the ids themselves: (B, N) or (B, h, w) of a grid, a list of B tensors (n,) of a
        sequence.
    """
    modality = bundle.model.modalities[name]
    ids = generated.ids[name]
    if not modality.is_grid:
        return decode_sequences(bundle, modality, ids)
    shape = (modality.grid.height, modality.grid.width)
    tokenizer = bundle.tokenizers.get(name)
    if tokenizer is None:
        return ids.cpu() if modality.tokenizer else ids.unflatten(1, shape).cpu()
    device = device_of(tokenizer)
    seeds = seeds if seeds is None else seeds.to(device)
    with torch.no_grad():
        if expected and name in generated.probabilities and tokenizer.codebook is not None:
            vectors = expected_embedding(generated.probabilities[name].to(device), tokenizer.codebook)
            values = tokenizer.decode_embeddings(vectors.unflatten(1, shape), seeds=seeds)
        else:
            values = tokenizer.decode(ids.unflatten(1, shape).to(device), seeds=seeds)
    return values.cpu()


def decode_sequences(bundle: Bundle, modality: Modality, ids: Tensor) -> list[Any]:
    """Texts, or values with structure, of (B, n) ids padded with -1; without a text tokenizer the ids of each sample.

    Codes within a text, such as those of masks, are decoded where the bundle has a tokenizer of that modality's name.
    """
    tokenizer = bundle.text
    if tokenizer is None:
        return [row[row >= 0] for row in ids.cpu()]
    texts = [tokenizer.decode(i for i in row if i >= 0) for row in ids.tolist()]
    kind = KINDS.get(modality.decode)
    if kind is None:
        return texts
    values = [kind.from_text(text, tokenizer.num_coordinates, modality.classes) for text in texts]
    decode_codes(bundle, modality, values)
    return values
