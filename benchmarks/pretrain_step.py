"""Seconds of one pretraining step of a published size: forward, backward and AdamW, on samples of random content.

    python benchmarks/pretrain_step.py --preset tiny --modalities 4m7 --batch 4 --budget 128 --precision fp32
    python benchmarks/pretrain_step.py --preset tiny --modalities 4m7 --batch 2 --budget 1024 --reference --json

`--reference` is the same model as the public code runs it: all tokens of all modalities are embedded, modality by
modality, the used ones are picked out by sorting, padding up to the budgets goes through every layer, and attention is
a masked product. Both give the same losses (`--compare` says how close). Masks are those of `4m_tiny` and `4m21_b`.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fourm import recipes
from fourm.machine import choose_device, keep_freed_memory
from fourm.models.configs import SIZES
from fourm.models.multimodal import Multimodal
from fourm.objectives.base import Loss
from fourm.objectives.masked import Masked
from fourm.patterns import AttentionPattern
from fourm.recipe.schema import PretrainRecipe
from fourm.recipe.synthetic import synthetic_sample
from fourm.registry import implementation
from fourm.rng import generator
from fourm.tokens import Example, TokenBatch
from fourm.train.configs import OptimizerConfig, TrainConfig
from fourm.train.optimizer import Updater, build_optimizer

RECIPES = {"4m7": "4m_tiny", "4m21": "4m21_b"}
NUM_BATCHES = 4


def recipe_of(options: argparse.Namespace) -> PretrainRecipe:
    overrides = [
        f"model.preset={options.preset}",
        f"objective.num_input_tokens={options.budget}",
        f"objective.num_target_tokens={options.budget}",
    ]
    if options.reference:
        overrides.append("model.backend=math")
    return recipes.load(RECIPES[options.modalities], PretrainRecipe, overrides, folder="pretrain")


def make_batches(objective: Masked, batch_size: int) -> list[Example]:
    """A few batches of random samples that have every modality."""
    found = []
    for n in range(NUM_BATCHES):
        rng = generator(0, "benchmark", n)
        samples = [synthetic_sample(objective.modalities, rng) for _ in range(batch_size)]
        found.append(objective.collate([objective.prepare(sample, rng) for sample in samples]))
    return found


# ------------------------------------------------------------------ the reference


class Reference:
    """A model and its loss as the public code computes them (spec of the step: 4M's `FourM.forward`).

    Args:
        model: whose weights are used.
        objective: names the modalities.
        budget: input and target tokens that every sample is padded to.
    """

    def __init__(self, model: Multimodal, objective: Masked, budget: int) -> None:
        self.model, self.objective, self.budget = model, objective, budget

    def full(self, batch: TokenBatch, *, target: bool) -> dict[str, dict[str, Tensor]]:
        """What a loader of the public code hands over: all places of every modality, and which of them are used.

        Returns:
            modality -> `ids`, `position`, `used` (B, L), `values` (B, L, dim), and for targets `asked` (B, L), `reach`
            and `order` (B, L), the token's place in our table.
        """
        modalities = self.model.modalities
        chosen = modalities.outputs if target else modalities.inputs
        found: dict[str, dict[str, Tensor]] = {}
        for m in chosen:
            length = m.num_tokens if m.is_grid else 2 * (m.num_tokens + 1)
            table = {
                "ids": torch.zeros(batch.num_samples, length, dtype=torch.int64),
                "position": torch.arange(length).expand(batch.num_samples, -1).clone() % m.layout.num_positions,
                "used": torch.zeros(batch.num_samples, length, dtype=torch.bool),
                "asked": torch.zeros(batch.num_samples, length, dtype=torch.int64),
            }
            number = modalities.index(m.name)
            if not m.is_discrete:
                table["values"] = torch.zeros(batch.num_samples, length, m.content.dim)  # type: ignore[union-attr]
            rows, columns = (batch.modality == number).nonzero(as_tuple=True)
            # Grids keep their places; sequences begin at their first one.
            places = batch.position[rows, columns]
            table["used"][rows, places] = True
            table["position"][rows, places] = places
            table["ids"][rows, places] = batch.ids[rows, columns].clamp(min=0)
            table["asked"][rows, places] = batch.target_ids[rows, columns].clamp(min=0)
            if "values" in table:
                table["values"][rows, places] = batch.values[m.name]
            found[m.name] = table
        return found

    def pick(self, parts: list[Tensor], used: Tensor) -> tuple[list[Tensor], Tensor]:
        """The used tokens of each sample in their order, padded to the budget (B, budget, ...), and which are there."""
        place = torch.arange(used.shape[1], device=used.device) * 1e-6
        sort = torch.argsort((~used).float() + place, dim=1)[:, : self.budget]
        picked = [p.gather(1, sort[..., None].expand(-1, -1, p.shape[-1]) if p.ndim == 3 else sort) for p in parts]
        return picked, used.gather(1, sort)

    def loss(self, tables: tuple[dict[str, Any], dict[str, Any]]) -> Loss:
        """Cross-entropy of the asked tokens, part by part."""
        model, modalities = self.model, self.model.modalities
        shown, asked = tables
        x, emb, used, _ = self._inputs(shown)
        (x, emb), valid = self.pick([x, emb], used)
        x, emb = x * valid[..., None], emb * valid[..., None]
        hidden = model.encoder(x + emb, attention=AttentionPattern.full(valid))
        context = model.context_projection(hidden) + emb
        y, number, used, labels, causal = self._targets(asked)
        (y, number, labels, causal), there = self.pick([y, number, labels, causal], used)
        y = y * there[..., None]
        pattern = self._pattern(number, causal, there)
        out = model.decoder(y, attention=pattern, context=context, cross=AttentionPattern.cross(there, valid))
        weights, parts = model.heads.parts(), {}
        for m in modalities.outputs:
            chosen = there & (number == modalities.index(m.name))
            logits = F.linear(out[chosen], weights[m.name])
            count = float(chosen.sum())
            parts[m.name] = (F.cross_entropy(logits.float(), labels[chosen], reduction="sum"), count)
        form = self.objective.config.reduction
        return Loss(parts, "token" if form == "token" else "modality", self.objective.loss_weights)

    def _inputs(self, shown: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        embedder = self.model.input_embedder
        weights, parts = embedder.table.parts(), []
        for name, table in shown.items():
            number = torch.full_like(table["ids"], self.model.modalities.index(name))
            if "values" in table:
                content = embedder.projections[name](table["values"])
            else:
                content = F.embedding(table["ids"], weights[name])
            place = embedder.positions(number, table["position"]) + embedder.modality_embedding(number)
            parts.append((content, place, table["used"], number))
        return tuple(torch.cat(p, 1) for p in zip(*parts))  # type: ignore[return-value]

    def _targets(self, asked: dict[str, Any]) -> tuple[Tensor, ...]:
        embedder, modalities = self.model.target_embedder, self.model.modalities
        weights, parts = embedder.table.parts(), []
        for name, table in asked.items():
            number = torch.full_like(table["ids"], modalities.index(name))
            is_grid = modalities[name].is_grid
            if is_grid:
                content = embedder.mask_token.expand(*number.shape, -1)
            else:
                content = F.embedding(table["ids"], weights[name])
            place = embedder.positions(number, table["position"]) + embedder.modality_embedding(number)
            causal = torch.full_like(number, int(not is_grid))
            parts.append((content + place, number, table["used"], table["asked"], causal))
        return tuple(torch.cat(p, 1) for p in zip(*parts))

    def _pattern(self, number: Tensor, causal: Tensor, there: Tensor) -> AttentionPattern:
        """Grids see their own modality, sequences what came before; modalities do not see one another."""
        index = torch.arange(number.shape[1], device=number.device, dtype=torch.int32).expand_as(number) + 1
        reach = torch.where(causal.bool(), index, number.shape[1])
        group = torch.where(there, number, -1).to(torch.int32)
        return AttentionPattern(reach=torch.where(there, reach, 0).to(torch.int32), group=group)


# ------------------------------------------------------------------ measuring


def steps_of(
    options: argparse.Namespace, device: torch.device
) -> tuple[list[Callable[[], Tensor]], Updater, list[int]]:
    """The forward passes of some batches, the optimizer, and the tokens that each batch uses."""
    recipe = recipe_of(options)
    modalities = recipe.modality_set()
    objective = Masked(recipe.objective, modalities)
    model = implementation(recipe.model.target)(modalities, recipe.model, 0).to(device).train()
    if options.compile:
        model.compile()
    config = TrainConfig(max_steps=1, optimizer=OptimizerConfig(lr=1e-4), precision=options.precision)
    updater = Updater(build_optimizer(model, config), None)
    made = make_batches(objective, options.batch)
    used = [int(b.encoder.valid.sum() + b.decoder.valid.sum()) for b in made]  # type: ignore[union-attr]
    reference = Reference(model, objective, options.budget)

    def forward(batch: Example) -> Callable[[], Tensor]:
        counts = objective.counts(batch)
        if options.reference:
            tables = tuple(
                _move(reference.full(t, target=t is batch.decoder), device) for t in (batch.encoder, batch.decoder)
            )
            return lambda: reference.loss(tables).scalar(counts)  # type: ignore[arg-type]
        moved = batch.to(device)
        return lambda: objective.loss(model, moved).scalar(counts)

    return [forward(batch) for batch in made], updater, used


def _move(tables: dict[str, dict[str, Tensor]], device: torch.device) -> dict[str, dict[str, Tensor]]:
    return {name: {key: value.to(device) for key, value in table.items()} for name, table in tables.items()}


def measure(options: argparse.Namespace) -> dict[str, float]:
    device = choose_device(options.device)
    if device.type == "cpu" and not options.reference:
        keep_freed_memory()  # as trainings do
    forwards, updater, used = steps_of(options, device)
    whole, passes, on_cores, losses = [], [], [], []
    for n in range(options.warmup + options.steps):
        began, busy = time.perf_counter(), time.process_time()
        with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
            loss = forwards[n % NUM_BATCHES]()
        loss.backward()
        _wait(device)
        middle = time.perf_counter()
        updater.step(1e-4)
        _wait(device)
        if n < NUM_BATCHES:
            losses.append(float(loss.detach()))
        if n >= options.warmup:
            passes.append(middle - began)
            whole.append(time.perf_counter() - began)
            on_cores.append(time.process_time() - busy)
    seconds = statistics.median(whole)
    return {
        "seconds_per_step": round(seconds, 4),
        "seconds_forward_backward": round(statistics.median(passes), 4),
        "core_seconds_per_step": round(statistics.median(on_cores), 4),
        "tokens_per_second": round(options.batch * 2 * options.budget / seconds, 1),
        "used_tokens_per_step": round(sum(used) / len(used), 1),
        "first_loss": round(losses[0], 5),
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def compare(options: argparse.Namespace) -> float:
    """The largest relative difference between our losses and the reference's."""
    device = choose_device(options.device)
    worst = 0.0
    with torch.no_grad():
        both = [steps_of(_with(options, reference=flag), device)[0] for flag in (False, True)]
        for ours, theirs in zip(*both, strict=True):
            worst = max(worst, abs(float(ours()) / float(theirs()) - 1))
    return worst


def _with(options: argparse.Namespace, **changes: Any) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(options), **changes})


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(SIZES), default="tiny")
    parser.add_argument("--modalities", choices=sorted(RECIPES), default="4m7")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--budget", type=int, default=128, help="input tokens, and as many target tokens")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--reference", action="store_true", help="the same model as the public code runs it")
    parser.add_argument("--compare", action="store_true", help="say how far our losses are from the reference's")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--steps", type=int, default=8, help="the median counts")
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


def main() -> None:
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    figures = {"largest_difference": compare(options)} if options.compare else measure(options)
    print(json.dumps(figures) if options.json else "\n".join(f"{name:<26}{value}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
