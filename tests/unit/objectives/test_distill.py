"""A student asked beside its teacher: how far its answers are from the teacher's, and what that costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fourm import config as configs
from fourm.errors import ConfigError
from fourm.layouts import Discrete, Sequence
from fourm.modality import ModalitySet
from fourm.models.configs import LinearHeadConfig, MultimodalConfig
from fourm.models.multimodal import Multimodal
from fourm.objectives.configs import AutoregressiveConfig
from fourm.objectives.distill import Distill, divergence
from fourm.objectives.distill_config import DistillConfig
from fourm.objectives.reconstruct_config import ReconstructConfig
from fourm.rng import generator

MODEL = MultimodalConfig(
    dim=16, encoder_depth=0, decoder_depth=1, num_heads=2, tie_heads=False, embedding_std=0.4,
    vector_head=LinearHeadConfig(),
)  # fmt: skip


@pytest.fixture(scope="session")
def readable(modalities: ModalitySet) -> ModalitySet:
    return ModalitySet(replace(m, direction="both") if m.is_grid else m for m in modalities.values())


def distill(modalities: ModalitySet, teacher: Any = None, **options: Any) -> Distill:
    around = AutoregressiveConfig(modality_weights={"caption": 3.0})
    return Distill(DistillConfig(Path("teacher"), around, **options), modalities, teacher=teacher)


def batch(objective: Distill, sample: Any) -> Any:
    return objective.collate([objective.prepare(sample, generator(0, n)) for n in range(3)])


def noise(seed: int) -> Tensor:
    return 2 * torch.randn(5, 7, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_divergence_is_that_of_the_closed_form(temperature: float, reverse: bool) -> None:
    taught, answers = noise(0), noise(1)
    p, q = (torch.softmax(logits / temperature, -1) for logits in (taught, answers))
    if reverse:
        p, q = q, p
    expected = temperature**2 * (p * (p / q).log()).sum(-1)
    torch.testing.assert_close(divergence(taught, answers, temperature, reverse=reverse), expected)
    assert (expected > 0.01).all()
    torch.testing.assert_close(divergence(taught, taught, temperature, reverse=reverse), torch.zeros(5).double())


def test_at_high_temperatures_it_pulls_logits_together() -> None:
    """For T to infinity T^2 KL is half the mean squared distance of centred logits (Hinton et al. 2015, sec. 2.1)."""
    taught, answers = noise(0), noise(1)
    centred = [logits - logits.mean(-1, keepdim=True) for logits in (taught, answers)]
    expected = 0.5 * (centred[0] - centred[1]).square().mean(-1)
    torch.testing.assert_close(divergence(taught, answers, 1e4), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"temperature": 3.0}])
def test_a_student_that_is_its_teacher_has_its_own_loss_alone(
    readable: ModalitySet, sample: Any, options: dict[str, Any]
) -> None:
    teacher = Multimodal(readable, MODEL, seed=3)
    objective = distill(readable, teacher, **options)
    example = batch(objective, sample)
    own, taught = objective.of.loss(teacher, example), objective.loss(teacher, example)
    for name, (total, count) in own.parts.items():
        torch.testing.assert_close(taught.parts[name][0], total)
        assert taught.parts[name][1] == count


def test_a_token_costs_both_losses_by_their_weights(readable: ModalitySet, sample: Any) -> None:
    teacher, student = (Multimodal(readable, MODEL, seed=seed) for seed in (3, 4))
    objective = distill(readable, teacher, own_weight=0.5, weight=2.0, temperature=3.0)
    example = batch(objective, sample)
    with torch.no_grad():
        ours, theirs = student(example), teacher(example)
        loss = objective.loss(student, example)
    own = objective.of.score(ours, example)
    vectors = (ours["rgb"] - theirs["rgb"]).square().mean(-1).sum()
    torch.testing.assert_close(loss.parts["rgb"][0], 0.5 * own.parts["rgb"][0] + 2 * vectors)
    kl = divergence(theirs["caption"], ours["caption"], 3.0).sum()
    torch.testing.assert_close(loss.parts["caption"][0], 0.5 * own.parts["caption"][0] + 2 * kl)
    assert (loss.reduction, loss.weights) == (own.reduction, own.weights)
    assert objective.counts(example) == objective.of.counts(example)


def test_the_teacher_learns_nothing(readable: ModalitySet, sample: Any) -> None:
    teacher, student = (Multimodal(readable, MODEL, seed=seed) for seed in (3, 4))
    objective = distill(readable, teacher)
    assert objective.frozen == {"teacher": teacher}
    example = batch(objective, sample)
    objective.loss(student, example).scalar(objective.counts(example)).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in student.parameters())


def test_teacher_and_student_have_to_mean_the_same(readable: ModalitySet) -> None:
    fewer = readable.subset(list(readable)[:-1])
    with pytest.raises(ConfigError, match="objective.teacher reads rgb, depth"):
        distill(readable, Multimodal(fewer, MODEL))
    other = ModalitySet(replace(m, content=Discrete(51)) if m.name == "depth" else m for m in readable.values())
    with pytest.raises(ConfigError, match="vocab_size=51.* for 'depth', but the model .*vocab_size=50"):
        distill(readable, Multimodal(other, MODEL))


def test_teachers_know_all_positions_of_their_students(readable: ModalitySet) -> None:
    short = ModalitySet(replace(m, layout=Sequence(6, 6)) if m.name == "caption" else m for m in readable.values())
    with pytest.raises(ConfigError, match="knows 6 positions of 'caption', but the model has"):
        distill(readable, Multimodal(short, MODEL))
    turned = replace(MODEL, position_tables=False, rope_theta=100.0)
    assert distill(readable, Multimodal(short, turned)).frozen  # rotary positions have no end


def test_without_a_teacher_nothing_can_be_learned(readable: ModalitySet, sample: Any) -> None:
    objective = distill(readable)
    with pytest.raises(ConfigError, match=r"has no teacher .* set objective\.teacher"):
        objective.loss(Multimodal(readable, MODEL), batch(objective, sample))


def test_it_goes_around_objectives_that_ask_tokens() -> None:
    made = configs.build(DistillConfig, {"teacher": "x", "of": {"kind": "masked"}, "temperature": 2})
    assert made.of.num_input_tokens == 128
    assert configs.build(DistillConfig, configs.to_dict(made)) == made
    with pytest.raises(ConfigError, match=r"objective\.of has to ask tokens"):
        DistillConfig(Path("x"), ReconstructConfig())
