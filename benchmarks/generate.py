"""Seconds that a model of a published size, with random weights, needs to write a caption or to follow a chain.

    python benchmarks/generate.py --preset tiny --task caption --tokens 256
    python benchmarks/generate.py --preset tiny --task caption --tokens 256 --no-cache
    python benchmarks/generate.py --preset tiny --task chain --guidance 2 --steps 10,10,10,10,9
    python benchmarks/generate.py --preset tiny --task chain --guidance 2 --steps 10,10,10,10,9 --context ordered

The model has the modalities of 4M-7 at 224 pixels with their real vocabularies. `caption` writes so many tokens,
whatever they are, with 196 CLIP tokens in view at temperature 0. `chain` goes from a caption to CLIP, depth, normal,
segmentation and RGB tokens (196 each) in random order (ROAR), every modality in view of the next ones. Random weights
cost what trained ones do, but repeat themselves when they write, which is easily guessed: `--no-draft` tells what a
text costs of which nothing can be guessed. With an ordered context, what has been encoded stays encoded, unless
`--no-cache` is given.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from typing import Any

import torch

from fourm import recipes
from fourm.generate.plan import GenerationPlan, Step
from fourm.generate.sampler import Sampler
from fourm.machine import choose_device
from fourm.models.configs import SIZES
from fourm.recipe.schema import PretrainRecipe
from fourm.registry import implementation

CHAIN = ("tok_clip@224", "tok_depth@224", "tok_normal@224", "tok_semseg@224", "tok_rgb@224")
CAPTION_TOKENS = 24
LONGEST_CAPTION = 256


def build(preset: str, context: str, device: torch.device) -> Any:
    """A 4M-7 model with random weights, ready to generate."""
    options = [f"model.preset={preset}", f"model.context={context}"]
    recipe = recipes.load("4m_tiny", PretrainRecipe, options, folder="pretrain")
    torch.manual_seed(0)
    with device:
        model = implementation(recipe.model.target)(recipe.modality_set(), recipe.model)
    return model.eval()


def task(options: argparse.Namespace, device: torch.device) -> tuple[GenerationPlan, dict[str, Any], int]:
    """The plan, what is given, and how many tokens are generated."""
    generator = torch.Generator().manual_seed(1)

    def ids(low: int, high: int, count: int) -> torch.Tensor:
        return torch.randint(low, high, (options.batch, count), generator=generator).to(device)

    if options.task == "caption":
        step = Step(
            "caption", "autoregressive", temperature=0.0, guidance=options.guidance,
            num_tokens=options.tokens, min_tokens=options.tokens,
        )  # fmt: skip
        positions = torch.arange(196, device=device).expand(options.batch, -1)
        given = {"tok_clip@224": {"ids": ids(0, 8192, 196), "positions": positions}}
        return GenerationPlan([step]), given, options.tokens * options.batch
    steps = [
        Step(target, "roar", num_steps=count, guidance=options.guidance, schedule="linear", grow_conditioning=True)
        for target, count in zip(CHAIN, options.steps, strict=True)
    ]
    return (
        GenerationPlan(steps),
        {"caption": {"ids": ids(5000, 29000, CAPTION_TOKENS)}},
        196 * len(steps) * options.batch,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(SIZES), default="tiny")
    parser.add_argument("--task", choices=["caption", "chain"], default="caption")
    parser.add_argument("--tokens", type=int, default=256, help=f"of the caption, at most {LONGEST_CAPTION}")
    parser.add_argument("--steps", type=lambda text: [int(n) for n in text.split(",")], default=[10, 10, 10, 10, 9])
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--context", choices=["full", "ordered"], default="full", help="pattern of the encoder")
    parser.add_argument("--no-cache", action="store_true")
    parser.add_argument("--no-draft", action="store_true", help="guess no tokens")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if not 1 <= options.tokens <= LONGEST_CAPTION:
        parser.error(f"--tokens is {options.tokens}; a caption holds 1 to {LONGEST_CAPTION}")
    if len(options.steps) != len(CHAIN):
        parser.error(f"--steps takes {len(CHAIN)} numbers, one for each of {', '.join(CHAIN)}")
    device = choose_device(options.device)
    model = build(options.preset, options.context, device)
    plan, given, num_tokens = task(options, device)
    seeds = torch.arange(options.batch, device=device)
    times = []
    for _ in range(options.repeats):
        # A new one each time: a sampler remembers its texts.
        sampler = Sampler(
            model, bf16=options.precision == "bf16", cache=not options.no_cache, draft=not options.no_draft
        )
        start = time.perf_counter()
        made = sampler.run(plan, given, seeds=seeds)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
        assert sum(ids.numel() for ids in made.ids.values()) == num_tokens
    seconds = min(times)
    figures = {
        "seconds": round(seconds, 4),
        "tokens_per_second": round(num_tokens / seconds, 1),
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
    }
    if options.json:
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name:<18} {value}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
