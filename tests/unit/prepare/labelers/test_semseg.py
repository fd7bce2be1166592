"""Semantic segmentation by universal networks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("scipy")

from transformers import (
    CLIPTokenizer,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    OneFormerConfig,
    OneFormerForUniversalSegmentation,
    OneFormerImageProcessor,
    OneFormerProcessor,
    SwinConfig,
)

from fourm.catalog import COCO_STUFF, COCO_THINGS, MODALITIES
from fourm.data.decode import decode
from fourm.errors import CheckpointError, ConfigError
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.coco import as_coco, coco_name
from fourm.prepare.labelers.network_configs import SemsegConfig
from fourm.prepare.labelers.semseg import Semseg

# The names of COCO's own files (panoptic_coco_categories.json), in their order.
OFFICIAL_STUFF = (
    "banner", "blanket", "bridge", "cardboard", "counter", "curtain", "door-stuff", "floor-wood", "flower", "fruit",
    "gravel", "house", "light", "mirror-stuff", "net", "pillow", "platform", "playingfield", "railroad", "river",
    "road", "roof", "sand", "sea", "shelf", "snow", "stairs", "tent", "towel", "wall-brick", "wall-stone",
    "wall-tile", "wall-wood", "water-other", "window-blind", "window-other", "tree-merged", "fence-merged",
    "ceiling-merged", "sky-other-merged", "cabinet-merged", "table-merged", "floor-other-merged", "pavement-merged",
    "mountain-merged", "grass-merged", "dirt-merged", "paper-merged", "food-other-merged", "building-other-merged",
    "rock-merged", "wall-other-merged", "rug-merged",
)  # fmt: skip
OFFICIAL = (*COCO_THINGS, *OFFICIAL_STUFF)
BACKBONE = SwinConfig(
    image_size=32, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=2,
    out_features=["stage1", "stage2", "stage3", "stage4"],
)  # fmt: skip
SIZE = {"shortest_edge": 64, "longest_edge": 128}


def numbered(names: Sequence[str]) -> dict[str, dict]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: n for n, name in enumerate(names)}}


def mask2former(folder: Path, names: Sequence[str]) -> Path:
    torch.manual_seed(0)
    config = Mask2FormerConfig(
        backbone_config=BACKBONE, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=16, num_queries=12,
        **numbered(names),
    )  # fmt: skip
    model = Mask2FormerForUniversalSegmentation(config)
    model.class_predictor.weight.data.mul_(100)
    model.save_pretrained(folder)
    Mask2FormerImageProcessor(size=SIZE, num_labels=len(names)).save_pretrained(folder)
    return folder


def oneformer(folder: Path, names: Sequence[str]) -> Path:
    torch.manual_seed(0)
    config = OneFormerConfig(
        backbone_config=BACKBONE, num_queries=6, conv_dim=32, mask_dim=32, hidden_dim=32, dim_feedforward=16,
        encoder_feedforward_dim=16, encoder_layers=1, decoder_layers=2, num_attention_heads=2, text_encoder_width=16,
        text_encoder_context_length=8, task_seq_len=8, max_seq_len=8, text_encoder_vocab_size=16,
        text_encoder_num_layers=1, text_encoder_proj_layers=1, text_encoder_n_ctx=2, query_dec_layers=1,
        is_training=False, **numbered(names),
    )  # fmt: skip
    OneFormerForUniversalSegmentation(config).save_pretrained(folder)
    (folder / "classes.json").write_text(json.dumps({n: {"name": name, "isthing": 0} for n, name in enumerate(names)}))
    (folder / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    images = OneFormerImageProcessor(size=SIZE, class_info_file="classes.json", repo_path=str(folder), num_text=2)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    OneFormerProcessor(images, tokenizer, max_seq_length=8, task_seq_length=8).save_pretrained(folder)
    return folder


def ids(labeler: Semseg, photos: list[Photo]) -> list[np.ndarray]:
    """Class ids as training reads them: 0 is void, the first class is 1."""
    modality = labeler.config.modality("semseg")
    return [decode(data, modality, lambda: "semseg") for data in labeler.label(photos)]


def test_the_official_names_of_coco_are_the_catalogs_in_the_same_order() -> None:
    assert tuple(map(coco_name, OFFICIAL)) == COCO_THINGS + COCO_STUFF


def test_classes_of_coco_are_matched_by_name(tmp_path: Path, photos: list[Photo]) -> None:
    names = ["N/A", *reversed(OFFICIAL)]
    labeler = Semseg(SemsegConfig(weights=mask2former(tmp_path, names)), "cpu")
    classes = labeler.config.modality("semseg").classes

    seen = set()
    for photo, found in zip(photos, ids(labeler, photos)):
        with torch.no_grad():
            outputs = labeler.model(**labeler.prepare(photo))
        size = photo.image.shape[:2]
        (raw,) = labeler.processor.post_process_semantic_segmentation(outputs, target_sizes=[size])
        of_model = np.array([coco_name(name) for name in names])[raw.numpy()]
        of_file = np.array(["n/a", *classes])[found]
        assert found.shape == size
        assert (of_model == of_file).mean() > 0.999
        seen |= set(found.flat)
    assert len(seen) > 3


def test_the_modality_of_coco_is_that_of_the_catalog() -> None:
    found, catalog = SemsegConfig().modality("semseg"), MODALITIES["semseg_coco@224"]

    assert (found.classes, found.vocab_size, found.decode) == (catalog.classes, 134, "labels_void_first")


def test_a_batch_gives_what_each_photograph_gives_alone(tmp_path: Path, photos: list[Photo]) -> None:
    labeler = Semseg(SemsegConfig(weights=mask2former(tmp_path, OFFICIAL)), "cpu")

    for photo, found in zip(photos, ids(labeler, photos)):
        assert (found == ids(labeler, [photo])[0]).mean() > 0.999


def test_other_vocabularies_are_kept_with_their_names(tmp_path: Path, photos: list[Photo]) -> None:
    weights = mask2former(tmp_path, ["wall", "sky", "motor bike"])
    labeler = Semseg(SemsegConfig(weights=weights, vocabulary="model"), "cpu")

    modality = labeler.config.modality("semseg")
    found = set(np.concatenate([one.ravel() for one in ids(labeler, photos)]).tolist())

    assert modality.classes == ("wall", "sky", "motor bike")
    assert modality.vocab_size == 4
    assert found <= {1, 2, 3}


def test_other_vocabularies_are_no_coco(tmp_path: Path) -> None:
    weights = mask2former(tmp_path, ["wall", "sky", "car"])

    with pytest.raises(ConfigError, match="wall, sky, car, ... Set vocabulary: model"):
        Semseg(SemsegConfig(weights=weights), "cpu")


def test_the_classes_of_a_model_are_known_without_torch(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"1": "sky", "0": "wall"}}))
    code = (
        "import sys; from pathlib import Path; from fourm.prepare.labelers.network_configs import SemsegConfig as C; "
        "print(C(weights=Path(sys.argv[1]), vocabulary='model').modality('semseg').classes, 'torch' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "('wall', 'sky') False"


def test_a_config_without_classes_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(CheckpointError, match="it has no 'id2label'.*`weights` to a local folder"):
        SemsegConfig(weights=tmp_path, vocabulary="model").modality("semseg")


def test_oneformer_is_told_what_to_do(tmp_path: Path, photos: list[Photo]) -> None:
    weights = oneformer(tmp_path, ["wall", "sky", "car"])
    labeler = Semseg(SemsegConfig(weights=weights, vocabulary="model"), "cpu")

    assert set(labeler.prepare(photos[0])) == {"pixel_values", "pixel_mask", "task_inputs"}
    for photo, found in zip(photos, ids(labeler, photos)):
        assert found.shape == photo.image.shape[:2]
        assert set(found.flat) <= {1, 2, 3}


def test_names_of_other_data_sets_for_cocos_classes_are_known() -> None:
    assert as_coco(["aeroplane", "tvmonitor", "N/A"], ["tv", "airplane"]) == ["airplane", "tv", None]
    assert as_coco(["sofa", "cup"], ["couch", "tv"]) is None
