"""What models of visual sentences have to show (LVM, DeLVM): examples in the prompt help, and so does a teacher."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fourm.generate.rows import RowSampling, continue_rows, shot_perplexity
from fourm.modality import Discrete, Modality, ModalitySet, Sequence
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
        items = [objective.prepare([[Segment("visual", row)]], generator(0)) for row in rows.numpy()]
        batch = objective.collate(items)
        optimizer.zero_grad()
        objective.loss(network, batch).scalar(objective.counts(batch)).backward()
        optimizer.step()
    return network.eval()


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
        train(teacher, plain, chains(100 + seed, 3 * STEPS))
        taught = Distill(DistillConfig(Path("teacher")), teacher.modalities, teacher=teacher)
        networks = {
            "teacher": teacher,
            "plain": train(model(IDS, LENGTH, 10 + seed, **small), plain, chains(seed, STEPS)),
            "distilled": train(model(IDS, LENGTH, 10 + seed, **small), taught, chains(seed, STEPS)),
        }
        (rows,) = chains(999, 1, batch=256)
        batch = plain.collate([plain.prepare([[Segment("visual", row)]], generator(0)) for row in rows.numpy()])
        for name, network in networks.items():
            with torch.no_grad():
                losses[name].append(plain.loss(network, batch).scalar(plain.counts(batch)).item())
    means = {name: float(np.mean(found)) for name, found in losses.items()}
    assert means["teacher"] < means["distilled"] < means["plain"], losses
    assert all(d < p for d, p in zip(losses["distilled"], losses["plain"])), losses
