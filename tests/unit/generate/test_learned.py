"""A model that has learned to copy copies, by every scheme."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fourm.generate.grids import GridCanvas, GridDecoder
from fourm.generate.plan import GenerationPlan, Step
from fourm.generate.sampler import Sampler
from fourm.layouts import Discrete, Grid, Sequence
from fourm.modality import Modality, ModalitySet
from fourm.models.multimodal import Multimodal
from fourm.tokens import SpecialIds
from tests.unit.generate.toy import build_model

SPECIAL = SpecialIds(num_sentinels=4)
VOCAB, PLACES, FIRST = 4, 4, 8
STEPS, LR = 130, 7e-3


def facts(a: Tensor) -> dict[str, Tensor]:
    return {"ids": a, "positions": torch.arange(PLACES).expand_as(a).where(a >= 0, -1)}


@pytest.fixture(scope="module")
def copier() -> Multimodal:
    """Trained for a second: b copies a, and the text spells it."""
    grids = [
        Modality(n, Grid(2, 2, 1), Discrete(VOCAB), source=n, decode="tokens", positions="learned") for n in ("a", "b")
    ]
    text = Modality("text", Sequence(8, 16), Discrete(FIRST + VOCAB), source="text", decode="text")
    model = build_model(ModalitySet([*grids, text]), encoder_depth=1, decoder_depth=1, embedding_std=1.0).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, fused=True)
    generator = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LR * (1 - step / STEPS)
        a = torch.randint(0, VOCAB, (32, PLACES), generator=generator)
        ends = torch.tensor([SPECIAL.end, SPECIAL.sentinel(2)]).expand(32, 2)
        line = torch.cat([torch.full((32, 1), SPECIAL.sentinel(1)), a + FIRST, ends], 1)
        some = facts(a.where(torch.rand(32, PLACES, generator=generator) < 0.3, -1))
        logits = model.logits({"a": facts(a), "b": some}, {"b": facts(a), "text": {"ids": line}})
        loss = F.cross_entropy(logits["b"].flatten(0, 1), a.flatten())
        loss = loss + F.cross_entropy(logits["text"].flatten(0, 1), line[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize(
    "options",
    [
        {"scheme": "roar"},
        {"scheme": "roar", "num_steps": 3},
        {"scheme": "maskgit", "num_steps": 3, "schedule": "linear"},
        {"scheme": "maskgit", "num_steps": 2, "top_k": 1},
    ],
)
def test_a_grid_is_copied(options: dict[str, Any], copier: Multimodal) -> None:
    a = torch.randint(0, VOCAB, (64, PLACES), generator=torch.Generator().manual_seed(1))
    plan = GenerationPlan([Step("b", temperature=0.3, **options)])
    b = Sampler(copier, SPECIAL).run(plan, {"a": facts(a)}, seeds=torch.arange(64)).ids["b"]
    assert (b == a).float().mean() > 0.95


def test_a_text_spells_the_grid_and_ends(copier: Multimodal) -> None:
    a = torch.randint(0, VOCAB, (64, PLACES), generator=torch.Generator().manual_seed(1))
    plan = GenerationPlan([Step("text", "autoregressive", temperature=0.3)])
    ids = Sampler(copier, SPECIAL).run(plan, {"a": facts(a)}, seeds=torch.arange(64)).ids["text"]
    assert ids.shape == (64, PLACES)
    assert (ids == a + FIRST).float().mean() > 0.95


@pytest.mark.parametrize("chained", [True, False])
def test_another_intermediate_changes_what_comes_next_in_a_chain_and_only_there(
    chained: bool, copier: Multimodal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same plan and seeds; only what the first step writes is replaced while the chain runs."""
    steps = [Step("a", num_steps=2), Step("b", temperature=0.3), Step("text", "autoregressive", temperature=0.3)]
    plan, seeds = GenerationPlan(steps, chained=chained), torch.arange(64)
    before = Sampler(copier, SPECIAL).run(plan, {}, seeds=seeds).ids
    fill = GridDecoder.run

    def meddle(self: GridDecoder, ids: Tensor) -> GridCanvas:
        canvas = fill(self, ids)
        if self.step.target == "a":
            canvas.ids = (canvas.ids + 1) % VOCAB
        return canvas

    monkeypatch.setattr(GridDecoder, "run", meddle)
    after = Sampler(copier, SPECIAL).run(plan, {}, seeds=seeds).ids
    assert torch.equal(after["a"], (before["a"] + 1) % VOCAB)
    if chained:
        for ids in (before, after):
            assert (ids["b"] == ids["a"]).float().mean() > 0.95
            assert (ids["text"] == ids["a"] + FIRST).float().mean() > 0.95
    else:
        assert torch.equal(before["b"], after["b"])
        assert torch.equal(before["text"], after["text"])
