"""Samples per second of one core, from shards in the published 4M layout to batches of 32 that are ready for the model.

    python benchmarks/data_pipeline.py DIR --make 3000 --modalities tok_rgb@224,tok_depth@224,caption,det --budget 128
    python benchmarks/data_pipeline.py DIR --modalities rgb@224,tok_rgb@224,caption --budget 128 --json

DIR holds one folder per modality (`tok_rgb`, `tok_rgb@224` or the like) with shard-00000.tar, ..., and may hold
crop_settings. `--make` writes made-up samples of the named modalities first. Reading, decoding, cropping, text to ids,
masks and collation are measured, all in this process. The files come from the system's cache after the first pass.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch

from fourm import catalog
from fourm.data.configs import CropConfig, DatasetConfig
from fourm.data.dataset import AlignedDataset, build_dataset
from fourm.data.loader import Loader
from fourm.data.mixture import Mixture
from fourm.errors import ConfigError
from fourm.modality import ModalitySet
from fourm.objectives.configs import MaskComponent, MaskedConfig
from fourm.objectives.masked import Masked
from fourm.prepare.made_up import captions, write_made_up
from fourm.recipe.encoders import adopt_vocabulary, text_encoders
from fourm.tokenizers.text import TextTokenizer, train_wordpiece

BATCH_SIZE = 32
ALPHA = 0.5


def modality_set(names: str) -> ModalitySet:
    """Modalities of the catalog by their names; `tok_rgb` is short for `tok_rgb@224`."""
    found = []
    for name in names.split(","):
        try:
            found.append(catalog.get(name.strip()))
        except ConfigError:
            found.append(catalog.get(f"{name.strip()}@224"))
    return ModalitySet(found)


def text_tokenizer(path: str | None) -> TextTokenizer:
    """The tokenizer of a file, or one that is trained on made-up captions."""
    path = path or os.environ.get("FOURM_TEXT_TOKENIZER")
    if path:
        return TextTokenizer.load(Path(path))
    return train_wordpiece(captions(2000), classes=catalog.COCO_THINGS)


def open_dataset(folder: Path, modalities: ModalitySet, text: TextTokenizer) -> AlignedDataset:
    """The shards in a folder, with their stored crops if there are some."""
    folders = {
        m.name: next((n for n in (m.source, m.name) if (folder / n).is_dir()), m.source) for m in modalities.values()
    }
    decoded = {m.decode for m in modalities.values()}
    # Boxes are shares of an image, stored crops its pixels: without the image they do not meet.
    sized = "image" in decoded or not decoded & {"boxes", "poses"}
    stored = (folder / "crop_settings").is_dir() and sized
    kind: Literal["none", "center", "crop_settings"] = "crop_settings" if stored else "center" if sized else "none"
    config = DatasetConfig(
        str(folder),
        format="shards",
        crop=CropConfig(kind),
        modality_name_map={f: name for name, f in folders.items() if f != modalities[name].source},
    )
    return build_dataset("benchmark", config, modalities, text_encoders(modalities, text))


def batches(dataset: AlignedDataset, objective: Masked) -> Iterator[Any]:
    loader = Loader(
        Mixture({dataset.name: dataset}), objective.prepare, objective.collate, batch_size=BATCH_SIZE, pin_memory=False
    )
    return (batch for batch, _ in loader)


def measure(
    folder: Path, modalities: ModalitySet, budget: int, seconds: float, text: TextTokenizer
) -> dict[str, float]:
    modalities = adopt_vocabulary(modalities, text)
    component = MaskComponent(input_alphas={"*": ALPHA}, target_alphas={"*": ALPHA})
    objective = Masked(MaskedConfig(budget, budget, components=[component]), modalities, text.special)
    dataset = open_dataset(folder, modalities, text)
    source = batches(dataset, objective)
    for _ in range(max(4, min(len(dataset), 2000) // BATCH_SIZE)):
        next(source)
    count, began, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        next(source)
        count += BATCH_SIZE
    spent, on_core = time.perf_counter() - began, time.process_time() - cpu
    return {
        "samples_per_second": round(count / spent, 1),
        "samples_per_core_second": round(count / on_core, 1),
        "samples": count,
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--modalities", default="tok_rgb@224,tok_depth@224,tok_semseg@224,tok_clip@224,caption,det")
    parser.add_argument("--budget", type=int, default=128, help="input tokens, and as many target tokens")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to measure")
    parser.add_argument("--make", type=int, default=0, metavar="N", help="write N made-up samples into DIR first")
    parser.add_argument(
        "--text-tokenizer", default=None, help="its file; by default $FOURM_TEXT_TOKENIZER, or a new one"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    modalities = modality_set(options.modalities)
    if options.make:
        write_made_up(options.folder, modalities, options.make)
    figures = measure(
        options.folder, modalities, options.budget, options.seconds, text_tokenizer(options.text_tokenizer)
    )
    print(json.dumps(figures) if options.json else "\n".join(f"{name:<24}{value}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
