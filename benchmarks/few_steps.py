"""What a diffusion decoder loses when it takes few steps: time and likeness of several ways to sample, in one run.

    python benchmarks/few_steps.py outputs/quickstart/tokenizers/rgb_divae outputs/quickstart/rooms/test

Every batch is decoded in every way in turn, so that a machine whose speed changes is no easier on one than on another.
*Feature distance* is one minus the cosine of features of the tokenizer's own encoder, *fine detail* the energy above
half the Nyquist frequency over that of the originals, *another seed* the mean difference between two images of the same
tokens in units of the whole range.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from fourm import load_tokenizer
from fourm.evaluate import metrics
from fourm.evaluate.configs import TokenizerEvaluation
from fourm.evaluate.reconstruction import read_pairs

WAYS = (("ddim", 50), ("ddim", 8), ("dpm", 8), ("dpm", 7), ("unipc", 8), ("unipc", 7))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path, help="a saved one with a diffusion decoder")
    parser.add_argument("data", help="its modality's shards or files")
    parser.add_argument("--num-samples", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = load_tokenizer(options.tokenizer)
    if not hasattr(tokenizer, "use_sampling"):
        parser.error(f"the tokenizer in {options.tokenizer} decodes directly, without steps")
    config = TokenizerEvaluation(
        kind="tokenizer",
        tokenizer=options.tokenizer,
        data=str(options.data),
        output=Path(),
        num_samples=options.num_samples,
        batch_size=options.batch,
        num_workers=0,
    )
    batches, total = read_pairs(config, tokenizer.modality)
    seconds: dict[str, float] = defaultdict(float)
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    first, true_detail = 0, 0.0
    for inputs, truth in batches:
        ids = tokenizer.encode(inputs)
        seeds = torch.arange(first, first + len(ids))
        true_features = features(tokenizer, inputs)
        true_detail += float(metrics.high_frequency_energy(truth).sum())
        for scheduler, steps in WAYS:
            way = f"{scheduler} {steps}"
            tokenizer.use_sampling(scheduler=scheduler, num_steps=steps)
            if not first:  # what is set up once
                tokenizer.decode(ids, seeds=seeds)
            began = time.perf_counter()
            images = tokenizer.decode(ids, seeds=seeds)
            seconds[way] += time.perf_counter() - began
            found = sums[way]
            found["psnr"] += sum(map(metrics.psnr, images, truth))
            again = features(tokenizer, images * 2 - 1)
            found["distance"] += float((1 - F.cosine_similarity(true_features, again)).mean((1, 2)).sum())
            found["detail"] += float(metrics.high_frequency_energy(images).sum())
            if not first:
                other = tokenizer.decode(ids, seeds=seeds + 1000)
                found["seeds"] += float((images - other).abs().mean())
        first += len(ids)
    rows = {
        way: {
            "seconds": seconds[way],
            "times_as_fast": seconds["ddim 50"] / seconds[way],
            "psnr": found["psnr"] / total,
            "feature_distance": found["distance"] / total,
            "fine_detail": found["detail"] / true_detail,
            "another_seed": found["seeds"],
        }
        for way, found in sums.items()
    }
    if options.json:
        print(json.dumps(rows))
        return
    print("| decoder | seconds | times as fast | PSNR | feature distance | fine detail | another seed |")
    print("|---|---|---|---|---|---|---|")
    for way, row in rows.items():
        print(
            f"| {way} | {row['seconds']:.1f} | {row['times_as_fast']:.1f} | {row['psnr']:.1f} dB "
            f"| {row['feature_distance']:.3f} | {row['fine_detail']:.2f} | {row['another_seed']:.3f} |"
        )


@torch.no_grad()
def features(tokenizer: Any, values: Tensor) -> Tensor:
    """(B, d, h, w) of the encoder."""
    return cast(Tensor, tokenizer.encoder(values))


if __name__ == "__main__":
    main()
