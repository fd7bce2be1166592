"""What models of visual sentences have to show (LVM, DeLVM): examples in the prompt, a teacher and balance help."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fourm.data import sentences
from fourm.data.sentence_configs import BalanceConfig, PairsConfig, repeats
from fourm.generate.rows import RowSampling, continue_rows, shot_perplexity
from fourm.layouts import Discrete, Sequence
from fourm.modality import Modality, ModalitySet
from fourm.models.configs import MultimodalConfig
from fourm.models.multimodal import Multimodal
from fourm.objectives.autoregressive import Autoregressive
from fourm.objectives.configs import AutoregressiveConfig
from fourm.objectives.distill import Distill
from fourm.objectives.distill_config import DistillConfig
from fourm.rng import generator
from fourm.tokens import Segment

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def model(vocab_size: int, longest: int, seed: int, **sizes: Any) -> Multimodal:
    row = Modality("visual", Sequence(longest, longest), Discrete(vocab_size), "visual", "tokens")
    values = {"preset": "lvm_debug", "embedding_std": 0.3, "head_std": None, **sizes}
    return Multimodal(ModalitySet([row]), MultimodalConfig(**MultimodalConfig.expand(values)), seed)


def train(network: Multimodal, objective: Any, batches: Iterator[Tensor], lr: float = 3e-3) -> Multimodal:
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, betas=(0.9, 0.95))
    for rows in batches:
        optimizer.zero_grad()
        loss(network, objective, rows).backward()
        optimizer.step()
    return network.eval()


def loss(network: Multimodal, objective: Any, rows: Tensor) -> Tensor:
    """Nats per token of (B, L) ids."""
    batch = objective.collate([objective.prepare([[Segment("visual", row)]], generator(0)) for row in rows.numpy()])
    found: Tensor = objective.loss(network, batch).scalar(objective.counts(batch))
    return found


# ------------------------------------------------------------------ LVM

SHAPES, COLORS, TOKENS, PAIRS = 8, 4, 4, 4


def recolored(count: int, seed: int) -> Tensor:
    """(count, 2 PAIRS, TOKENS) shapes and the same shapes in the colour of their sentence."""
    rng = np.random.default_rng(seed)
    shapes = rng.integers(0, SHAPES, (count, PAIRS, 1, TOKENS))
    color = rng.integers(1, COLORS + 1, (count, 1, 1, 1))
    return torch.from_numpy(np.concatenate([shapes, shapes + SHAPES * color], 2).reshape(count, 2 * PAIRS, TOKENS))


def test_examples_in_the_prompt_say_what_is_asked() -> None:
    network = model(SHAPES * (COLORS + 1), 2 * PAIRS * TOKENS, 0, dim=64, mlp_hidden_dim=96, num_heads=4)
    objective = Autoregressive(AutoregressiveConfig(), network.modalities)
    train(network, objective, (recolored(32, step).flatten(1) for step in range(300)))

    sentences = recolored(128, 10_000)
    perplexity = shot_perplexity(network, "visual", sentences, [0, 1, 3])
    assert perplexity[3] < perplexity[0]
    # Without examples the first token of an answer has any of the colours, and the others that of the first.
    assert perplexity[0] == pytest.approx(COLORS ** (1 / TOKENS), abs=0.1)
    assert perplexity[3] < 1.1
    answers = continue_rows(
        network, "visual", sentences[:, :-1].flatten(1), TOKENS, torch.arange(128), RowSampling(temperature=0)
    )
    assert (answers == sentences[:, -1]).float().mean() > 0.95


# ------------------------------------------------------------------ DeLVM

IDS, LENGTH, STEPS = 16, 33, 150


def chains(seed: int, steps: int, language: int = 0, batch: int = 16) -> Iterator[Tensor]:
    """(batch, LENGTH) rows whose next id depends on the two before it, in the same way in all of them."""
    table = np.random.default_rng(language).dirichlet(np.full(IDS, 0.3), (IDS, IDS)).cumsum(-1)
    for step in range(steps):
        rng = np.random.default_rng((seed, step))
        rows = np.zeros((batch, LENGTH), np.int64)
        rows[:, :2] = rng.integers(0, IDS, (batch, 2))
        for n in range(2, LENGTH):
            place = rng.random((batch, 1)) > table[rows[:, n - 2], rows[:, n - 1]]
            rows[:, n] = np.minimum(place.sum(1), IDS - 1)
        yield torch.from_numpy(rows)


def test_a_student_with_a_teacher_learns_more_than_without_and_less_than_the_teacher() -> None:
    losses: dict[str, list[float]] = {"plain": [], "distilled": [], "teacher": []}
    for seed in range(3):
        small = {"dim": 32, "mlp_hidden_dim": 48, "num_heads": 2}
        teacher = model(IDS, LENGTH, seed, dim=64, mlp_hidden_dim=96, num_heads=4)
        plain = Autoregressive(AutoregressiveConfig(), teacher.modalities)
        train(teacher, plain, chains(seed, STEPS))
        taught = Distill(DistillConfig(Path("teacher")), teacher.modalities, teacher=teacher)
        networks = {
            "teacher": teacher,
            "plain": train(model(IDS, LENGTH, 10 + seed, **small), plain, chains(seed, STEPS)),
            "distilled": train(model(IDS, LENGTH, 10 + seed, **small), taught, chains(seed, STEPS)),
        }
        (rows,) = chains(999, 1, batch=256)
        for name, network in networks.items():
            with torch.no_grad():
                losses[name].append(loss(network, plain, rows).item())
    means = {name: float(np.mean(found)) for name, found in losses.items()}
    logging.getLogger(__name__).info("losses: %s", losses)  # docs/delvm.md tells them
    assert means["teacher"] < means["distilled"] < means["plain"], losses
    assert all(t < d < p for t, d, p in zip(losses["teacher"], losses["distilled"], losses["plain"])), losses


TASKS = {"large": 2048, "middle": 1024, "tail": 64}
UNSEEN = range(2048, 2304)


def picture(row: int, view: str) -> np.ndarray:
    """(TOKENS,) ids: an image of shapes; an answer replaces each shape, as its task always does."""
    image = np.random.default_rng(row).integers(0, SHAPES, TOKENS)
    if view == "image":
        return image
    number = 1 + list(TASKS).index(view)
    return np.random.default_rng(number).permutation(SHAPES)[image] + SHAPES * number


def documents(task: str, rows: range, times: int, seed: int) -> np.ndarray:
    """(n, 2 PAIRS TOKENS) ids of a task that comes so often, each time in other sentences."""
    pairs = PairsConfig(("image", task), num_images=2 * PAIRS)
    built = [s for time in range(times) for s in sentences.build(pairs, rows, {}, generator(seed, task, time))]
    return np.stack([np.concatenate([picture(*frame) for frame in sentence]) for sentence in built])


def test_a_small_task_is_learned_better_if_it_comes_again_until_it_has_more_tokens() -> None:
    unseen = torch.from_numpy(documents("tail", UNSEEN, 1, 0))
    losses: dict[float, list[float]] = {1.0: [], 0.0: []}
    for seed in range(3):
        for share, found in losses.items():
            times = repeats(TASKS, BalanceConfig(share))
            rows = np.concatenate([documents(task, range(n), times[task], seed) for task, n in TASKS.items()])
            order = np.concatenate([generator(seed, epoch).permutation(len(rows)) for epoch in range(8)])
            batches = (torch.from_numpy(rows[order[16 * step : 16 * (step + 1)]]) for step in range(150))
            network = model(SHAPES * 4, 2 * PAIRS * TOKENS, seed, dim=64, mlp_hidden_dim=96, num_heads=4)
            objective = Autoregressive(AutoregressiveConfig(), network.modalities)
            train(network, objective, batches)
            with torch.no_grad():
                found.append(loss(network, objective, unseen).item())
    assert all(balanced < plain for plain, balanced in zip(*losses.values())), losses
