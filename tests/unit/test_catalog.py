"""The table of built-in modalities holds what the published models and the shipped recipes need."""

from __future__ import annotations

import pytest

from fourm import catalog
from fourm.errors import ConfigError
from fourm.modality import Continuous, Discrete, Modality, Sequence
from fourm.tokenizers.teacher_configs import TEACHERS

# Name, tokens, vocabulary (None: vectors), as in the published registry of 4M-7 and 4M-21.
PUBLISHED = [
    ("rgb@224", 196, None),
    ("rgb@448", 784, None),
    ("caption", 256, 30_000),
    ("det", 256, 30_000),
    ("tok_rgb@224", 196, 16_384),
    ("tok_depth@224", 196, 8_192),
    ("tok_normal@224", 196, 8_192),
    ("tok_semseg@224", 196, 4_096),
    ("tok_clip@224", 196, 8_192),
    ("tok_rgb@448", 784, 16_384),
    ("tok_depth@448", 784, 8_192),
    ("tok_normal@448", 784, 8_192),
    ("tok_semseg@448", 784, 4_096),
    ("tok_clip@448", 784, 8_192),
    ("t5_caption", 77, None),
    ("metadata", 40, 30_000),
    ("human_poses", 275, 30_000),
    ("color_palette", 23, 30_000),
    ("sam_instance", 290, 30_000),
    ("tok_canny_edge@224", 196, 8_192),
    ("tok_sam_edge@224", 196, 8_192),
    ("tok_dinov2@224", 256, 8_192),
    ("tok_imagebind@224", 256, 8_192),
    ("tok_dinov2_global", 16, 8_192),
    ("tok_imagebind_global", 16, 8_192),
]


@pytest.mark.parametrize(("name", "tokens", "vocab"), PUBLISHED)
def test_published_modalities_have_the_published_sizes(name: str, tokens: int, vocab: int | None) -> None:
    modality = catalog.get(name)
    assert modality.num_tokens == tokens
    assert (modality.vocab_size if modality.is_discrete else None) == vocab
    assert modality.is_input
    assert modality.is_output == modality.is_discrete


def test_published_facts_that_are_not_sizes() -> None:
    assert catalog.get("rgb@224").normalization == "imagenet"
    assert catalog.get("rgb@224").content == Continuous(16 * 16 * 3)
    assert catalog.get("t5_caption").content == Continuous(4096)
    assert catalog.get("metadata").unit == "chunk"
    assert {m.name for m in catalog.MODALITIES.values() if m.positions == "learned"} == {
        "tok_dinov2_global",
        "tok_imagebind_global",
    }
    assert all(m.layout.num_positions == 512 for m in catalog.MODALITIES.values() if isinstance(m.layout, Sequence))


@pytest.mark.parametrize("modality", catalog.MODALITIES.values(), ids=lambda m: m.name)
def test_every_token_modality_names_a_known_tokenizer_of_the_same_grid(modality: Modality) -> None:
    if modality.tokenizer is None:
        return
    if modality.tokenizer == "text":
        assert not modality.is_grid
        return
    raw = catalog.get(modality.tokenizer)
    assert raw.tokenizer is None
    assert raw.grid.image_size == modality.grid.image_size


@pytest.mark.parametrize(("name", "dim"), [("dinov2_global", 768), ("imagebind_global", 1280), ("smpl_pose", 207)])
def test_global_features_are_one_vector(name: str, dim: int) -> None:
    modality = catalog.get(name)
    assert (modality.grid.image_size, modality.channels, modality.decode) == ((1, 1), dim, "features")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("clip@224", (512, 14, 14)),
        ("clip@448", (512, 28, 28)),
        ("dinov2@224", (768, 16, 16)),
        ("imagebind@224", (1280, 16, 16)),
        ("dinov2_global@224", (768, 1, 1)),
        ("imagebind_global@224", (1280, 1, 1)),
    ],
)
def test_features_are_made_of_images_by_a_known_teacher(name: str, shape: tuple[int, int, int]) -> None:
    modality = catalog.get(name)
    assert (modality.map_channels, *modality.map_size()) == shape
    assert modality.teacher in TEACHERS
    assert (modality.source, modality.decode, modality.normalization) == ("rgb", "image", "imagenet")


def test_instance_masks_are_small_masks() -> None:
    mask = catalog.get("sam_mask")
    assert (mask.grid.image_size, mask.channels, mask.normalization, mask.num_tokens) == ((64, 64), 1, "mask", 16)


@pytest.mark.parametrize("modality", catalog.MODALITIES.values(), ids=lambda m: m.name)
def test_the_source_is_a_folder_name_and_labels_fit_their_classes(modality: Modality) -> None:
    assert "@" not in modality.source
    if modality.classes:
        assert modality.content == Discrete(len(modality.classes))


def test_names_resolve_in_the_order_given() -> None:
    assert list(catalog.resolve(["caption", "rgb@64"])) == ["caption", "rgb@64"]


def test_inline_entries_build_on_the_catalog() -> None:
    modalities = catalog.resolve(
        {
            "rgb@64": {},
            "caption": {"layout": {"max_tokens": 40}, "content": {"vocab_size": 700}},
            "tok_mine": {"base": "tok_rgb@64", "content": {"vocab_size": 9}},
        }
    )
    assert modalities["rgb@64"] == catalog.get("rgb@64")
    assert modalities["caption"].num_tokens == 40
    assert modalities["caption"].vocab_size == 700
    assert modalities["caption"].decode == "text"
    assert modalities["tok_mine"].vocab_size == 9
    assert modalities["tok_mine"].tokenizer == "rgb@64"


def test_an_inline_entry_may_stand_alone() -> None:
    heat = {
        "layout": {"kind": "grid", "height": 4, "width": 4, "patch_size": 8},
        "content": {"kind": "continuous", "dim": 64},
        "channels": 1,
        "decode": "gray",
        "direction": "input",
    }
    modality = catalog.resolve({"heat@32": heat})["heat@32"]
    assert (modality.source, modality.num_tokens) == ("heat", 16)


def test_null_leaves_a_modality_out() -> None:
    assert list(catalog.resolve({"rgb@64": {}, "tok_rgb@64": None, "caption": {}})) == ["rgb@64", "caption"]


def test_a_lone_name_is_a_list_of_one() -> None:
    assert list(catalog.resolve("rgb@64")) == ["rgb@64"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (5, "modalities is 5; expected names of the catalog, or a mapping"),
        (None, "modalities is None"),
        ([1, 2], "modalities holds 1; expected names of the catalog"),
        ([["rgb@64"]], r"modalities holds \['rgb@64'\]"),
        ({"rgb@64": 5}, "modality 'rgb@64' is 5; expected its facts"),
        ({"heat": [1]}, r"modality 'heat' is \[1\]"),
        ({"rgb@64": {"layout": 5}}, "modality 'rgb@64': 'layout' is missing"),
        ({"rgb@64": {"layout": {"kind": ["grid"]}}}, "layout.kind is"),
        ({"rgb@64": {"base": ["depth@64"]}}, "is not in the catalog"),
    ],
)
def test_other_forms_are_explained(spec: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        catalog.resolve(spec)


@pytest.mark.parametrize("spec", [["capton"], {"capton": {}}, {"x": {"base": "capton"}}])
def test_unknown_names_are_answered_with_the_closest(spec: object) -> None:
    with pytest.raises(ConfigError, match=r"'capton' is not in the catalog\..*Did you mean 'caption'\?"):
        catalog.resolve(spec)
