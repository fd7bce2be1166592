"""What holds of every objective that asks tokens, whatever it asks."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fourm.modality import ModalitySet
from fourm.models.configs import LinearHeadConfig, MultimodalConfig
from fourm.models.multimodal import Multimodal
from fourm.objectives.autoregressive import Autoregressive
from fourm.objectives.configs import AutoregressiveConfig, MaskComponent, MaskedConfig
from fourm.objectives.distill import Distill
from fourm.objectives.distill_config import DistillConfig
from fourm.objectives.masked import Masked
from fourm.rng import generator
from fourm.tokens import Segment, TokenRow

Sample = dict[str, Any]
SMALL = MultimodalConfig(
    dim=16, encoder_depth=1, decoder_depth=1, num_heads=2, num_register_tokens=1, embedding_std=0.4
)
ALONE = MultimodalConfig(
    dim=16, encoder_depth=0, decoder_depth=2, num_heads=2, tie_heads=False, embedding_std=0.4,
    vector_head=LinearHeadConfig(),
)  # fmt: skip
LLAMA = replace(
    ALONE, num_heads=4, num_kv_heads=2, norm="rmsnorm", rope_theta=100.0, position_tables=False,
    modality_embeddings=False, tie_heads=True, mlp_hidden_dim=20, init_std=0.1,
)  # fmt: skip


@dataclass
class Case:
    """An objective, a model for it, and how it gets its samples."""

    objective: Any
    model: MultimodalConfig
    documents: bool = False

    def sample(self, sample: Sample) -> Any:
        if not self.documents:
            return sample
        names = [name for name in ("rgb", "depth", "codes") if name in sample]
        found = [Segment(name, sample[name], asked=name != "codes") for name in names]
        return [found, found[:1], [], list(reversed(found))]

    def items(self, sample: Sample, count: int = 4) -> list[Any]:
        return [self.objective.prepare(self.sample(sample), generator(0, "masks", n)) for n in range(count)]

    def batch(self, sample: Sample, count: int = 4) -> Any:
        return self.objective.collate(self.items(sample, count))

    def build(self, **options: Any) -> Multimodal:
        return Multimodal(self.objective.modalities, replace(self.model, **options))


def predicted(modalities: ModalitySet) -> ModalitySet:
    """The same with grids that are read and predicted."""
    return ModalitySet(replace(m, direction="both") if m.is_grid else m for m in modalities.values())


CASES = ["masked", "autoregressive", "prefix", "documents", "distilled"]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, modalities: ModalitySet) -> Case:
    weights = {"*": 0.5, "caption": 3.0}
    if request.param == "masked":
        component = MaskComponent(input_alphas={"*": 0.5})
        return Case(Masked(MaskedConfig(16, 16, components=[component], modality_weights=weights), modalities), SMALL)
    if request.param == "distilled":
        around = AutoregressiveConfig(shuffle=True, modality_weights=weights)
        config = DistillConfig(Path("teacher"), around, own_weight=0.5, weight=2.0, temperature=3.0)
        readable = predicted(modalities)
        teacher = Multimodal(readable, replace(ALONE, decoder_depth=1), seed=3)
        return Case(Distill(config, readable, teacher=teacher), ALONE)
    prefix: Any = "uniform" if request.param == "prefix" else "none"
    documents = request.param == "documents"
    asked = AutoregressiveConfig(
        prefix=prefix, shuffle=True, standardize=True, modality_weights=weights, max_tokens=100 if documents else None
    )
    return Case(Autoregressive(asked, predicted(modalities)), LLAMA if documents else ALONE, documents)


def tables(item: Any) -> list[TokenRow]:
    return [item] if isinstance(item, TokenRow) else list(item)


def test_preparing_is_a_function_of_sample_and_generator(case: Case, sample: Sample) -> None:
    one = case.items(sample, 20)
    np.random.seed(3)  # noqa: NPY002
    for a, b in zip(one, case.items(sample, 20), strict=True):
        for x, y in zip(tables(a), tables(b), strict=True):
            for name in (field.name for field in fields(TokenRow)):
                ours, theirs = getattr(x, name), getattr(y, name)
                if isinstance(ours, dict):
                    assert ours.keys() == theirs.keys()
                    assert all(np.array_equal(ours[k], theirs[k]) for k in ours)
                else:
                    assert np.array_equal(ours, theirs)


def test_the_sample_is_not_changed(case: Case, sample: Sample) -> None:
    before = {name: np.copy(value) for name, value in sample.items() if name != "facts"}
    case.items(sample, 20)
    assert all(np.array_equal(before[name], sample[name]) for name in before)


@pytest.mark.parametrize("reduction", ["token", "modality"])
def test_micro_batches_give_the_loss_and_gradients_of_the_joint_batch(
    case: Case, sample: Sample, reduction: Any
) -> None:
    objective = case.objective
    getattr(objective, "of", objective).reduction = reduction
    model = case.build()
    # The second half lacks depth and codes: these parts are absent from one micro-batch.
    poor = {name: value for name, value in sample.items() if name not in ("depth", "codes")}
    pairs = [*case.items(sample, 3), *case.items(poor, 3)]
    joint, halves = case.objective.collate(pairs), [case.objective.collate(p) for p in (pairs[:2], pairs[2:])]
    counts = [objective.counts(half) for half in halves]
    totals = {name: sum(count[name] for count in counts) for name in objective.parts}
    assert totals == objective.counts(joint)

    expected = objective.loss(model, joint).scalar(totals)
    expected.backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    shares = [objective.loss(model, half).scalar(totals) for half in halves]
    for share in shares:
        share.backward()
    assert sum(s.item() for s in shares) == pytest.approx(expected.item(), rel=1e-5)
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("empty", [False, True])
def test_every_parameter_gets_a_gradient_whatever_the_batch_holds(case: Case, sample: Sample, empty: bool) -> None:
    """Data-parallel training waits for every one of them."""
    model = case.build()
    example = case.batch({} if empty else {name: sample[name] for name in ("depth", "caption")})
    loss = case.objective.loss(model, example).scalar(case.objective.counts(example))
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert (loss.item() == 0) == empty


@pytest.mark.parametrize("totals_as_tensors", [False, True])
@pytest.mark.parametrize("reduction", ["token", "modality"])
@pytest.mark.parametrize("options", [{}, {"qk_norm": True, "drop_path": 0.1, "activation_checkpointing": True}])
def test_a_training_step_never_waits_for_the_device(
    case: Case, sample: Sample, reduction: Any, options: dict[str, Any], totals_as_tensors: bool
) -> None:
    """On the meta device every read of a value raises, so a step that runs there has no host synchronisation."""
    objective = case.objective
    getattr(objective, "of", objective).reduction = reduction
    for teacher in objective.frozen.values():
        teacher.to("meta")
    with torch.device("meta"):
        model = case.build(**options).train()
    examples = [case.batch(sample), case.batch({}), case.batch(sample, 2)]
    totals: Any = {name: sum(objective.counts(e)[name] for e in examples) for name in objective.parts}
    if totals_as_tensors:
        totals = {name: torch.tensor(count).to("meta") for name, count in totals.items()}
    for example in examples:
        loss = objective.loss(model, example.to("meta", non_blocking=True)).scalar(totals)
        assert loss.device.type == "meta"
        assert loss.shape == ()
        loss.backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


def test_it_is_learned(case: Case, sample: Sample) -> None:
    model = case.build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    example, losses = case.batch(sample), []
    for _ in range(30):
        loss = case.objective.loss(model, example).scalar(case.objective.counts(example))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
