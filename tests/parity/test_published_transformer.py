"""The transformer computes what the published one computes on the same deterministic weights."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fourm.convert import ml4m
from fourm.models.multimodal import Multimodal

SHARED = Path(os.environ.get("FOURM_SHARED", Path(__file__).resolve().parents[3] / "shared"))
GOLDENS = SHARED / "goldens"
pytestmark = pytest.mark.skipif(
    not GOLDENS.is_dir(), reason="golden numbers are not beside this checkout (set FOURM_SHARED)"
)


@pytest.fixture(scope="module", params=["fm7_swiglu_nobias", "fm7_gelu_bias", "fm21_swiglu_nobias"])
def golden(request: pytest.FixtureRequest) -> dict[str, Any]:
    return json.loads((GOLDENS / f"{request.param}.json").read_text())


@pytest.fixture(scope="module")
def fill() -> Any:
    spec = importlib.util.spec_from_file_location("golden_fill", GOLDENS / "fill.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.fill


@pytest.fixture(scope="module")
def published(golden: dict[str, Any], fill: Any) -> dict[str, torch.Tensor]:
    return {
        key: torch.from_numpy(np.ascontiguousarray(fill(key, shape, kind)))
        for key, (shape, kind, *_) in golden["tensors"].items()
    }


@pytest.fixture(scope="module")
def model(golden: dict[str, Any], published: dict[str, torch.Tensor]) -> Multimodal:
    modalities = ml4m.model_modalities(golden["config"])
    model = Multimodal(modalities, ml4m.model_config(golden["config"], published))
    model.load_state_dict(ml4m.model_state(published, model))
    return model.eval()


def pad(rows: list[list[int]]) -> torch.Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([row + [-1] * (width - len(row)) for row in rows], dtype=torch.int64).reshape(len(rows), width)


def batch(golden: dict[str, Any], model: Multimodal, fill: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    given, asked = {}, {}
    for name, facts in golden["batch"]["modalities"].items():
        m = model.modalities[name]
        if m.is_grid and m.is_discrete:
            given[name] = {"ids": pad(facts["input_ids"]), "positions": pad(facts["input_positions"])}
        elif m.is_grid:
            pixels = torch.from_numpy(fill(f"input.{golden['name']}.{name}", (2, 3, *m.grid.image_size), "normal:1.0"))
            given[name] = {"values": pixels, "positions": pad(facts["input_positions"])}
        elif m.is_discrete:
            given[name] = {"ids": pad(facts["input_ids"])}
        else:
            lengths = torch.tensor(facts["input_length"])
            vectors = torch.from_numpy(fill(f"input.{golden['name']}.{name}", (2, 77, 4096), "normal:1.0"))
            given[name] = {"values": vectors, "valid": torch.arange(77) < lengths[:, None]}
        if m.is_output and any(facts["target_ids"]):
            asked[name] = {"ids": pad(facts["target_ids"])}
            if m.is_grid:
                asked[name]["positions"] = pad(facts["target_positions"])
    return given, asked


def test_logits_and_cross_entropy_equal_the_published_ones(
    golden: dict[str, Any], model: Multimodal, fill: Any
) -> None:
    given, asked = batch(golden, model, fill)
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
