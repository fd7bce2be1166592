"""Nats per token that models give to true rooms, asked as a chain asks: what an ordered context costs in quality.

    python benchmarks/chain_likelihood.py outputs/quickstart/model/model outputs/quickstart/model_ordered/model

Two chains run over held-out rooms, from a caption and from the pixels. Each grid is asked in a random order and in so
many steps, in view of its own true tokens of earlier steps and of all that comes before it in the chain. The order and
the steps are the same for all models, and no draw of theirs is involved: lower is better, and differences are exact.
"""

from __future__ import annotations

import argparse
import json

import torch
from torch import Tensor
from torch.nn import functional as F

from fourm import recipes
from fourm.data.dataset import build_dataset
from fourm.generate.pictures import facts_of
from fourm.generate.schedule import linear_counts
from fourm.models.multimodal import Multimodal
from fourm.recipe.bundle import Bundle, load_bundle
from fourm.recipe.encoders import text_encoders
from fourm.recipe.schema import PretrainRecipe
from fourm.rng import generator

CHAINS = {
    "caption": ("tok_semseg@64", "tok_depth@64", "tok_normal@64", "tok_rgb@64"),
    "rgb@64": ("tok_depth@64", "tok_normal@64", "tok_semseg@64"),
}
Facts = dict[str, dict[str, Tensor]]


def read(bundle: Bundle, root: str, count: int) -> Facts:
    """The first held-out rooms, whole, as tensors of `fourm.models.ask`."""
    recipe = recipes.load("rooms", PretrainRecipe, [f"variables.root={root}"], folder="pretrain")
    modalities = bundle.model.modalities
    dataset = build_dataset(
        "rooms", recipe.data.val.datasets["rooms"], modalities, text_encoders(modalities, bundle.text)
    )
    samples = [dataset.sample(n, generator(0, n)) for n in range(min(count, len(dataset)))]
    return {name: facts_of(bundle, modalities[name], samples) for name in {*CHAINS, *sum(CHAINS.values(), ())}}


@torch.inference_mode()
def chain(model: Multimodal, start: str, rooms: Facts, num_steps: int) -> dict[str, float]:
    """Target -> nats per token."""
    given: Facts = {start: rooms[start]}
    nats = {}
    for target in CHAINS[start]:
        truth = rooms[target]["ids"].flatten(1)
        draws = generator(1, target)
        order = torch.from_numpy(draws.permuted([range(truth.shape[1])] * len(truth), axis=1))
        ids = truth.gather(1, order)
        blocks = torch.arange(num_steps).repeat_interleave(torch.tensor(linear_counts(ids.shape[1], num_steps)))
        total = 0.0
        for number in range(num_steps):
            done = int((blocks < number).sum())
            shown = {"ids": ids[:, :done], "positions": order[:, :done], "blocks": blocks[:done].expand(len(ids), -1)}
            asked = slice(done, done + int((blocks == number).sum()))
            logits = model.logits({**given, target: shown}, {target: {"positions": order[:, asked]}})[target]
            total += float(F.cross_entropy(logits.float().flatten(0, 1), ids[:, asked].flatten(), reduction="sum"))
        nats[target] = total / ids.numel()
        given[target] = {"ids": ids, "positions": order, "blocks": blocks.expand(len(ids), -1)}
    return nats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="model folders of the rooms recipes")
    parser.add_argument("--root", default="outputs/quickstart", help="of the quick start's rooms and tokenizers")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for path in options.models:
        bundle = load_bundle(path)
        rooms = read(bundle, options.root, options.samples)
        figures[path] = {start: chain(bundle.model.eval(), start, rooms, options.steps) for start in CHAINS}
    if options.json:
        print(json.dumps(figures))
        return
    for start, targets in CHAINS.items():
        for target in targets:
            row = "  ".join(f"{figures[path][start][target]:8.4f}" for path in options.models)
            print(f"{start:<8} -> {target:<14} {row}")


if __name__ == "__main__":
    main()
