"""Towers of any modality, how one vector is made of theirs, and the learned scale."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fourm.config import build
from fourm.errors import CheckpointError, ConfigError
from fourm.modality import ModalitySet
from fourm.models.contrastive import Contrastive, pool
from fourm.models.contrastive_configs import ContrastiveConfig
from fourm.models.folder import load_model, save_model
from fourm.models.multimodal import Multimodal
from fourm.train.optimizer import select_trainable
from fourm.transfer.backbone import Backbone
from fourm.transfer.configs import BackboneConfig

TRUNK = {
    "kind": "model",
    "model": {
        "kind": "multimodal", "dim": 16, "encoder_depth": 2, "decoder_depth": 1, "num_heads": 2, "embedding_std": 0.4,
    },
}  # fmt: skip
TIMM = {"kind": "timm", "name": "vit_tiny_patch16_224", "class_token": True, "norm": True,
        "options": {"patch_size": 4, "depth": 1, "embed_dim": 32, "num_heads": 2}}  # fmt: skip


def config(towers: dict[str, Any], **options: Any) -> ContrastiveConfig:
    return build(ContrastiveConfig, {"dim": 6, "towers": towers, **options})


def tower(pool: str = "mean", **changes: Any) -> dict[str, Any]:
    return {"encoder": {**TRUNK, **changes}, "pool": pool}


def made(modalities: ModalitySet, towers: dict[str, Any], seed: int = 0, **options: Any) -> Contrastive:
    return Contrastive(modalities.subset(list(towers)), config(towers, **options), seed).eval()


def inputs(number: int = 3) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "rgb@8": torch.randn(number, 3, 8, 8),
        "tok_depth@8": torch.randint(0, 11, (number, 16)),
        "caption": torch.randint(10, 300, (number, 5)),
        "facts": torch.randint(10, 300, (number, 4)),
        "vectors": torch.randn(number, 5, 7),
        "codes": torch.randint(0, 6, (number, 4)),
    }


@pytest.mark.parametrize("kind", ["mean", "first", "last", "query"])
def test_every_sort_of_modality_has_a_vector_of_unit_length(modalities: ModalitySet, kind: str) -> None:
    model = made(modalities, {name: tower(kind) for name in modalities})

    found = model(inputs())

    for name, vectors in found.items():
        assert vectors.shape == (3, 6), name
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
        assert not torch.allclose(vectors[0], vectors[1]), name


@pytest.mark.parametrize("kind", ["mean", "last", "query"])
@pytest.mark.parametrize("causal", [False, True])
def test_padding_changes_nothing(modalities: ModalitySet, kind: str, causal: bool) -> None:
    model = made(modalities, {"caption": tower(kind, causal=causal), "vectors": tower("mean")})
    ids, vectors = inputs()["caption"], inputs()["vectors"]
    padded = torch.cat([ids, torch.full((3, 4), -1)], 1)
    valid = torch.arange(5).expand(3, -1) < 3

    torch.testing.assert_close(model.embed("caption", padded), model.embed("caption", ids))
    torch.testing.assert_close(model.embed("vectors", vectors, valid), model.embed("vectors", vectors[:, :3]))


def test_a_causal_tower_reads_no_further(modalities: ModalitySet) -> None:
    model = made(modalities, {"caption": tower("last", causal=True), "rgb@8": tower()})
    ids = inputs()["caption"]
    changed = ids.clone()
    changed[:, -1] = 7

    before, after = (model.features("caption", value)[0] for value in (ids, changed))

    torch.testing.assert_close(before[:, :-1], after[:, :-1])
    assert not torch.allclose(before[:, -1], after[:, -1])


def test_pools_of_a_row_with_padding() -> None:
    hidden = torch.arange(12.0).view(1, 4, 3)
    valid = torch.tensor([[True, True, True, False]])

    assert pool(hidden, valid, "first").tolist() == [[0, 1, 2]]
    assert pool(hidden, valid, "last").tolist() == [[6, 7, 8]]
    assert pool(hidden, valid, "mean").tolist() == [[3, 4, 5]]
    assert pool(hidden, None, "last").tolist() == [[9, 10, 11]]


def test_a_tower_of_timm_reads_images_alone(modalities: ModalitySet) -> None:
    model = made(modalities, {"rgb@8": {"encoder": TIMM, "pool": "first"}, "caption": tower()})

    assert model.embed("rgb@8", inputs()["rgb@8"]).shape == (3, 6)
    with pytest.raises(ConfigError, match=r"model\.towers\.caption reads images"):
        made(modalities, {"rgb@8": tower(), "caption": {"encoder": TIMM}})


def test_modalities_and_towers_are_the_same(modalities: ModalitySet) -> None:
    towers = {"rgb@8": tower(), "caption": tower()}
    for names in (["rgb@8", "caption", "codes"], ["rgb@8", "codes"]):
        with pytest.raises(ConfigError, match="only one of the two"):
            Contrastive(modalities.subset(names), config(towers))


@pytest.mark.parametrize(("start", "most", "found"), [(1 / 0.07, 100.0, 1 / 0.07), (100.0, 100.0, 100.0)])
def test_the_scale_starts_as_published(modalities: ModalitySet, start: float, most: float, found: float) -> None:
    model = made(
        modalities, {"rgb@8": tower(), "caption": tower()}, logit_scale=start, max_logit_scale=most, logit_bias=-10.0
    )

    assert model.scale().item() == pytest.approx(found)
    assert model.logit_bias is not None
    assert model.logit_bias.item() == -10


def test_a_scale_beyond_its_limit_is_cut_and_only_comes_down(modalities: ModalitySet) -> None:
    model = made(modalities, {"rgb@8": tower(), "caption": tower()}, logit_scale=99.0)
    model.logit_scale.data.fill_(math.log(150.0))
    assert model.scale().item() == pytest.approx(100)

    for sign, expected in ((1, 100), (-1, 0)):
        model.logit_scale.grad = None
        (sign * model.scale()).backward()
        assert model.logit_scale.grad is not None
        assert model.logit_scale.grad.item() == pytest.approx(expected, rel=1e-5)


def test_a_scale_below_its_limit_goes_both_ways(modalities: ModalitySet) -> None:
    model = made(modalities, {"rgb@8": tower(), "caption": tower()}, logit_scale=50.0)
    for sign in (1, -1):
        model.logit_scale.grad = None
        (sign * model.scale()).backward()
        assert model.logit_scale.grad is not None
        assert model.logit_scale.grad.item() == pytest.approx(sign * 50, rel=1e-5)


def test_a_trained_encoder_is_a_tower_for_each_of_its_modalities(
    tmp_path: Path, make: Any, modalities: ModalitySet
) -> None:
    trained: Multimodal = make(num_register_tokens=2)
    save_model(trained, tmp_path)
    own = {"encoder": {"kind": "model", "path": str(tmp_path), "modality": "caption"}}
    seen = {"encoder": {"kind": "model", "path": str(tmp_path), "modality": "rgb@8"}}
    model = made(modalities, {"caption": own, "rgb@8": seen})
    ids = inputs()["caption"]

    table = trained.input_embedder.table.rows("caption")
    hidden, valid = model.features("caption", ids)

    assert hidden.shape == (3, 5, 16)
    assert valid is not None
    assert bool(valid.all())
    torch.testing.assert_close(model.towers["caption"].stem.weight, table)
    read = Backbone.from_model(trained, BackboneConfig(modalities=["caption"]))
    torch.testing.assert_close(hidden, read.forward_features({"caption": ids})[:, 2:])


def test_a_backbone_is_made_of_a_tower(modalities: ModalitySet) -> None:
    model = made(modalities, {"rgb@8": tower(), "caption": tower("last", causal=True)})
    images = inputs()["rgb@8"]

    read = Backbone.from_model(model, BackboneConfig(modalities=["rgb"])).eval()

    torch.testing.assert_close(read.forward_features(images), model.features("rgb@8", images)[0])
    with pytest.raises(ConfigError, match="all tokens see one another"):
        Backbone.from_model(model, BackboneConfig(modalities=["caption"]))
    with pytest.raises(ConfigError, match=r"a tower of its own: write one of rgb@8, caption"):
        Backbone.from_model(model, BackboneConfig(modalities=["rgb@8", "caption"]))


def test_a_tower_of_another_vocabulary_is_refused(tmp_path: Path, make: Any, modalities: ModalitySet) -> None:
    save_model(make(), tmp_path)
    other = ModalitySet(
        replace(m, content=replace(m.content, vocab_size=301)) if m.name == "caption" else m
        for m in modalities.subset(["rgb@8", "caption"]).values()
    )
    own = {"encoder": {"kind": "model", "path": str(tmp_path), "modality": "caption"}}

    with pytest.raises(ConfigError, match="its tower was trained on"):
        Contrastive(other, config({"caption": own, "rgb@8": tower()}))


def test_a_frozen_tower_answers_as_in_evaluation(modalities: ModalitySet) -> None:
    drops = {**TRUNK["model"], "drop_path": 0.5}
    model = made(modalities, {"rgb@8": tower(model=drops), "caption": tower(model=drops)})
    images, ids = inputs()["rgb@8"], inputs()["caption"]
    before = model.embed("rgb@8", images), model.embed("caption", ids)
    select_trainable(model, ["*"], ["towers.rgb@8.*"])

    model.train()
    torch.manual_seed(0)

    torch.testing.assert_close(model.embed("rgb@8", images), before[0])
    assert not torch.allclose(model.embed("caption", ids), before[1])


def test_it_is_saved_and_read(tmp_path: Path, modalities: ModalitySet) -> None:
    model = made(modalities, {"rgb@8": tower("query"), "caption": tower("last", causal=True)}, logit_bias=-3.0)
    save_model(model, tmp_path)

    again = load_model(tmp_path)

    chosen = {name: inputs()[name] for name in model.modalities}
    for name, vectors in model(chosen).items():
        torch.testing.assert_close(again(chosen)[name], vectors)
    assert not again.modalities.outputs


def test_it_starts_from_another_one(modalities: ModalitySet, make: Any) -> None:
    towers = {"rgb@8": tower(), "caption": tower()}
    source, target = made(modalities, towers, seed=1), made(modalities, towers, seed=2)

    target.start_from(source)

    assert all(torch.equal(value, target.state_dict()[name]) for name, value in source.state_dict().items())
    with pytest.raises(CheckpointError, match=r"encoder\.path"):
        target.start_from(make())
    with pytest.raises(CheckpointError, match="query"):
        made(modalities, {**towers, "caption": tower("query")}).start_from(source)
