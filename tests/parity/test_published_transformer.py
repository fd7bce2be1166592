"""The transformer computes what the published one computes on the same deterministic weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fourm
from fourm.models.ask import given_table
from fourm.models.multimodal import Multimodal
from fourm.objectives.base import Loss
from fourm.objectives.configs import MaskedConfig
from fourm.objectives.masked import Masked
from fourm.objectives.table import TableBuilder, select_patches
from fourm.tokens import Example, TokenRow, collate
from tests.parity import rebuild


@pytest.fixture(scope="module", params=["fm7_swiglu_nobias", "fm7_gelu_bias", "fm21_swiglu_nobias"])
def golden(request: pytest.FixtureRequest) -> dict[str, Any]:
    return rebuild.golden(request.param)


@pytest.fixture(scope="module")
def model(golden: dict[str, Any], hub: Callable[[str], Path]) -> Multimodal:
    return fourm.load_model(hub(golden["name"]))


def pad(rows: list[list[int]]) -> torch.Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([row + [-1] * (width - len(row)) for row in rows], dtype=torch.int64).reshape(len(rows), width)


def batch(golden: dict[str, Any], model: Multimodal) -> tuple[dict[str, Any], dict[str, Any]]:
    given, asked = {}, {}
    for name, facts in golden["batch"]["modalities"].items():
        m = model.modalities[name]
        if m.is_grid and m.is_discrete:
            given[name] = {"ids": pad(facts["input_ids"]), "positions": pad(facts["input_positions"])}
        elif m.is_grid:
            pixels = rebuild.values(f"input.{golden['name']}.{name}", [2, 3, *m.grid.image_size], "normal:1.0")
            given[name] = {"values": pixels, "positions": pad(facts["input_positions"])}
        elif m.is_discrete:
            given[name] = {"ids": pad(facts["input_ids"])}
        else:
            lengths = torch.tensor(facts["input_length"])
            vectors = rebuild.values(f"input.{golden['name']}.{name}", [2, 77, 4096], "normal:1.0")
            given[name] = {"values": vectors, "valid": torch.arange(77) < lengths[:, None]}
        if m.is_output and any(facts["target_ids"]):
            asked[name] = {"ids": pad(facts["target_ids"])}
            if m.is_grid:
                asked[name]["positions"] = pad(facts["target_positions"])
    return given, asked


def test_logits_and_cross_entropy_equal_the_published_ones(golden: dict[str, Any], model: Multimodal) -> None:
    given, asked = batch(golden, model)
    with torch.no_grad():
        logits = model.logits(given, asked)
    compared = 0
    for name, expected in golden["expected"]["modalities"].items():
        if not expected["target_ids"]:
            continue
        rows = []
        labels = asked[name]["ids"] if model.modalities[name].is_grid else asked[name]["ids"][:, 1:]
        for sample in range(2):
            rows.append(logits[name][sample][labels[sample] >= 0])
        got = torch.cat(rows)
        target = torch.tensor(expected["target_ids"])
        assert torch.equal(labels[labels >= 0], target), name
        entropy = torch.nn.functional.cross_entropy(got, target, reduction="none")
        torch.testing.assert_close(got[:, :16], torch.tensor(expected["logits_head"]), atol=2e-4, rtol=0)
        torch.testing.assert_close(entropy, torch.tensor(expected["cross_entropy"]), atol=2e-4, rtol=0)
        assert got.argmax(1).tolist() == expected["argmax"], name
        compared += len(target)
    assert compared > 20


def test_the_published_loss_is_the_reduction_modality(golden: dict[str, Any], model: Multimodal) -> None:
    """Mean over all output modalities of their mean cross-entropy, absent ones counting as zero."""
    given, asked = batch(golden, model)
    with torch.no_grad():
        logits = model.logits(given, asked)
    parts: dict[str, tuple[torch.Tensor, float]] = {}
    for m in model.modalities.outputs:
        got, labels = torch.zeros(0, m.vocab_size), torch.zeros(0, dtype=torch.int64)
        if m.name in asked:
            every = asked[m.name]["ids"] if m.is_grid else asked[m.name]["ids"][:, 1:]
            got, labels = logits[m.name][every >= 0], every[every >= 0]
        parts[m.name] = (torch.nn.functional.cross_entropy(got, labels, reduction="sum"), float(len(labels)))
    counts = {name: count for name, (_, count) in parts.items()}
    assert set(parts) == set(golden["expected"]["per_modality_loss"])
    for name, expected in golden["expected"]["per_modality_loss"].items():
        total, count = parts[name]
        assert total.item() / max(count, 1) == pytest.approx(expected, abs=2e-4), name
    loss = Loss(parts, "modality").scalar(counts)
    assert loss.item() == pytest.approx(golden["expected"]["loss_mod"], abs=2e-4)


def test_the_encoder_output_equals_the_published_one(golden: dict[str, Any], model: Multimodal) -> None:
    given, _ = batch(golden, model)
    assert list(given) == sorted(given)
    table = given_table(given, model.modalities, 2, torch.device("cpu"))
    with torch.no_grad():
        content, place, _ = model.input_embedder(table)
        hidden = model.encoder(content + place, attention=table.attention)
    first = table.valid.int().argmax(1)
    got = hidden[torch.arange(2), first, :16]
    expected = torch.tensor(golden["expected"]["encoder_output_first_token_head"])
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=0)


def test_the_training_table_scores_as_the_published_model(golden: dict[str, Any], model: Multimodal) -> None:
    """The same numbers through the tables that the data loader builds, pixels patchified in numpy."""
    example = Example(*(collate(rows, model.modalities) for rows in training_rows(golden, model)))
    objective = Masked(MaskedConfig(reduction="modality"), model.modalities)
    with torch.no_grad():
        loss = objective.loss(model, example).scalar(objective.counts(example))
    assert loss.item() == pytest.approx(golden["expected"]["loss_mod"], abs=2e-4)


def training_rows(golden: dict[str, Any], model: Multimodal) -> tuple[list[TokenRow], list[TokenRow]]:
    """The tables of both samples, as `Masked.prepare` makes them."""
    given, _ = batch(golden, model)
    encoder, decoder = [], []
    for sample in range(2):
        inputs, targets = TableBuilder(full=True), TableBuilder(separate=True)
        for name, facts in golden["batch"]["modalities"].items():
            m, index = model.modalities[name], model.modalities.index(name)
            if not m.is_grid and not m.is_discrete:
                vectors = given[name]["values"][sample, : facts["input_length"][sample]].numpy()
                inputs.add(index, np.arange(len(vectors)), name=name, values=vectors)
            elif not m.is_discrete:
                places = np.array(facts["input_positions"][sample], np.int64)
                pixels = given[name]["values"][sample].numpy()
                inputs.add(index, places, name=name, values=select_patches(pixels, m, places))
            else:
                ids = np.array(facts["input_ids"][sample], np.int64)
                places = np.array(facts["input_positions"][sample], np.int64) if m.is_grid else np.arange(len(ids))
                inputs.add(index, places, ids=ids)
            target = np.array(facts["target_ids"][sample] if m.is_output else [], np.int64)
            if m.is_grid:
                targets.add(
                    index, np.array(facts.get("target_positions", [[]] * 2)[sample], np.int64), target_ids=target
                )
            elif len(target) > 1:
                places = np.arange(len(target) - 1)
                targets.add(index, places, ids=target[:-1], target_ids=target[1:], causal=True)
        encoder.append(inputs.build())
        decoder.append(targets.build())
    return encoder, decoder


@torch.no_grad()
def test_a_published_checkpoint_loads_as_a_backbone(
    golden: dict[str, Any], model: Multimodal, hub: Callable[[str], Path]
) -> None:
    """At the size it was trained at, its features are those of the encoder; at another size there are maps."""
    backbone = fourm.backbone(hub(golden["name"]), ["rgb"])
    grid = model.modalities["rgb@224"].grid
    images = rebuild.values("backbone.rgb", [2, 3, *grid.image_size], "normal:1.0")
    positions = torch.arange(grid.num_tokens).expand(2, -1)
    table = given_table(
        {"rgb@224": {"values": images, "positions": positions}}, model.modalities, 2, torch.device("cpu")
    )

    content, place, _ = model.input_embedder(table)
    torch.testing.assert_close(
        backbone.forward_features(images), model.encoder(content + place, attention=table.attention)
    )
    assert [tuple(m.shape[1:]) for m in backbone(images[:1, :, :64, :96]).values()] == [
        (256, 16, 24), (256, 8, 12), (256, 4, 6), (256, 2, 3),
    ]  # fmt: skip
