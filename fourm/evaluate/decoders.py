"""Several decoders of the same tokens, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fourm.errors import ConfigError
from fourm.evaluate.outcome import Cell, Metrics, PictureTable
from fourm.evaluate.reconstruction import ReconstructionScores, decoding_in_words
from fourm.evaluate.samples import Samples
from fourm.generate.inputs import network_input
from fourm.report.pictures import draw
from fourm.rng import torch_seed
from fourm.tokenizers.base import load_tokenizer


def compare_decoders(
    folders: Mapping[str, Path], root: Path, num_samples: int | None, device: torch.device, *, num_pictures: int
) -> tuple[Metrics, PictureTable]:
    """Encode images once for each tokenizer, and decode them.

    Args:
        folders: label -> tokenizer folder; all of one modality.
        root: held-out data set.
        num_samples: images used; None: all.
        device: where the tokenizers run.
        num_pictures: rows of the table.

    Returns:
        `<modality>_by_<label>` -> metric -> value, and a table with a column for each decoder.

    Raises:
        ConfigError: if the tokenizers encode different modalities.
    """
    tokenizers: dict[str, Any] = {label: load_tokenizer(path, device) for label, path in folders.items()}
    modalities = {tokenizer.modality.name: tokenizer.modality for tokenizer in tokenizers.values()}
    if len(modalities) != 1:
        raise ConfigError(f"decoders are of {', '.join(sorted(modalities))}; give decoders of one modality")
    modality = next(iter(modalities.values()))
    samples = Samples(root, {modality.key: modality}, num_samples)
    scores = {label: ReconstructionScores(tokenizer, [], device) for label, tokenizer in tokenizers.items()}
    cells: list[list[Cell]] = []
    for start in range(0, len(samples), 32):
        numbers = range(start, min(start + 32, len(samples)))
        truth = samples.read(numbers)[modality.key]
        inputs = network_input(truth, modality, "decoders").to(device)
        seeds = torch.tensor([torch_seed("decoders", n) for n in numbers]).to(device)
        decoded = {}
        for label, tokenizer in tokenizers.items():
            ids = tokenizer.encode(inputs)
            decoded[label] = tokenizer.decode(ids, seeds=seeds).cpu()
            scores[label].add(ids, decoded[label], truth)
        for row in range(min(len(truth), num_pictures - start)):
            answers: list[Cell] = [draw(modality, images[row]) for images in decoded.values()]
            cells.append([draw(modality, truth[row]), *answers])
    sampled = [f"{label}: {decoding_in_words(t)}" for label, t in tokenizers.items() if hasattr(t, "sampling")]
    note = "Each image became tokens, and these alone the pictures beside it. "
    table = PictureTable(
        "decoders", "Decoders of the same tokens", note + "; ".join(sampled), ["original", *tokenizers], cells
    )
    return {f"{modality.key}_by_{label}": score.values()[0] for label, score in scores.items()}, table
