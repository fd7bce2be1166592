"""A small 4M-21 run on shards in the published layout: the loss of every modality falls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourm import catalog, recipes
from fourm.prepare.made_up import captions, write_made_up
from fourm.recipe import pretrain
from fourm.recipe.schema import PretrainRecipe
from fourm.report.runs import load_runs
from fourm.tokenizers.text import train_wordpiece

STEPS = 200


def recipe(root: Path) -> PretrainRecipe:
    """`4m21_b` with a narrow trunk, one data set and a mixture in which every modality has its share."""
    own = [
        *("model.preset=tiny", "model.dim=64", "model.encoder_depth=1", "model.decoder_depth=1", "model.num_heads=2"),
        "model.embedding_std=0.4",
        f"data.train.datasets.cc12m.path={root / 'data'}",
        "data.train.datasets.coyo700m=null",
        "data.train.datasets.c4=null",
        "data.val.datasets.cc12m=null",
        "data.num_workers=0",
        "objective.datasets.coyo700m=null",
        "objective.datasets.c4=null",
        "objective.components=[{input_alphas: {'*': 1}, target_alphas: {'*': 1}, keep: {color_palette: binary}}]",
        f"tokenizers.text={root / 'text.json'}",
        "init_from=null",
        *("train.max_tokens=null", f"train.max_steps={STEPS}", "train.batch_size=8", "train.log_every_steps=10"),
        *("train.optimizer.base_lr=null", "train.optimizer.lr=3e-3", "train.schedule.warmup_tokens=null"),
        *("train.device=cpu", "train.precision=fp32", "train.tensorboard=false", "train.eval_every_steps=null"),
        *("train.save_every_steps=null", f"output={root / 'run'}"),
    ]
    return recipes.load("4m21_b", PretrainRecipe, own, folder="pretrain")


@pytest.mark.slow
def test_every_modality_of_4m21_is_learned(tmp_path: Path) -> None:
    train_wordpiece([*captions(200), *_words()], classes=catalog.COCO_THINGS, out=tmp_path / "text.json")
    made = recipe(tmp_path)
    modalities = made.modality_set()
    assert (len(modalities.inputs), len(modalities.outputs)) == (19, 17)
    write_made_up(tmp_path / "data", modalities, 96, shard_size=32)

    pretrain.run(made)

    (run,) = load_runs([tmp_path / "run"])
    assert run.complete
    for modality in modalities.outputs:
        losses = np.array(run.series("train", f"loss/{modality.name}")[1])
        assert np.isfinite(losses).all()
        assert losses[-3:].mean() < 0.9 * losses[:3].mean(), (modality.name, losses)


def _words() -> list[str]:
    """What texts with structure are written in."""
    return ["human pose global camera shape point polygon none color"] * 4


def made_up_sample(root: Path, names: list[str]) -> dict[str, Any]:
    """The first of three made-up samples, as training reads it."""
    from fourm.data.configs import CropConfig, DatasetConfig
    from fourm.data.dataset import build_dataset
    from fourm.rng import generator

    modalities = catalog.resolve(names)
    write_made_up(root, modalities, 3, shard_size=2)
    config = DatasetConfig(str(root), crop=CropConfig("crop_settings"))
    return build_dataset("made up", config, modalities).sample(0, generator(0))


def test_made_up_shards_are_read_as_the_published_ones_are(tmp_path: Path) -> None:
    names = list(recipes.load("4m21_b", PretrainRecipe, folder="pretrain").modality_set())
    sample = made_up_sample(tmp_path, names)

    assert sample["rgb@224"].shape == (3, 224, 224)
    assert sample["tok_dinov2@224"].shape == (256,)
    assert sample["t5_caption"].shape[1] == 4096
    assert isinstance(sample["caption"], str)
    assert all(sample[name] is not None for name in names)


def test_the_same_seed_makes_the_same_bytes(tmp_path: Path) -> None:
    modalities = catalog.resolve(["tok_clip@224", "caption", "sam_instance"])
    for folder in ("a", "b"):
        write_made_up(tmp_path / folder, modalities, 3)
    tars = sorted((tmp_path / "a").rglob("*.tar"))
    assert len(tars) == 4
    assert all(tar.read_bytes() == (tmp_path / "b" / tar.relative_to(tmp_path / "a")).read_bytes() for tar in tars)
