"""The table of built-in modalities holds what the published models and the shipped recipes need."""

from __future__ import annotations

import pytest

from fourm import catalog
from fourm.errors import ConfigError
from fourm.layouts import Continuous, Discrete, Sequence
from fourm.modality import Modality
from fourm.tokenizers.teacher_configs import TEACHERS

# Name, pixels and patch of the grid (None: a sequence), tokens, vocabulary (None: vectors or pixels), how its files are
# read: the published registry of 4M-7 and 4M-21.
PUBLISHED: list[tuple[str, tuple[int, int] | None, int, int | None, str]] = [
    ("rgb@224", (224, 16), 196, None, "image"),
    ("caption", None, 256, 30_000, "text"),
    ("det", None, 256, 30_000, "boxes"),
    ("tok_rgb@224", (224, 16), 196, 16_384, "tokens"),
    ("tok_depth@224", (224, 16), 196, 8_192, "tokens"),
    ("tok_normal@224", (224, 16), 196, 8_192, "tokens"),
    ("tok_semseg@224", (224, 16), 196, 4_096, "tokens"),
    ("tok_clip@224", (224, 16), 196, 8_192, "tokens"),
    ("t5_caption", None, 77, None, "vectors"),
    ("metadata", None, 40, 30_000, "metadata"),
    ("human_poses", None, 275, 30_000, "poses"),
    ("color_palette", None, 23, 30_000, "palette"),
    ("sam_instance", None, 290, 30_000, "sam"),
    ("tok_canny_edge@224", (224, 16), 196, 8_192, "tokens"),
    ("tok_sam_edge@224", (224, 16), 196, 8_192, "tokens"),
    ("tok_dinov2@224", (224, 14), 256, 8_192, "tokens"),
    ("tok_imagebind@224", (224, 14), 256, 8_192, "tokens"),
    ("tok_dinov2_global", (224, 56), 16, 8_192, "tokens"),
    ("tok_imagebind_global", (224, 56), 16, 8_192, "tokens"),
    ("rgb@448", (448, 16), 784, None, "image"),
    ("tok_rgb@448", (448, 16), 784, 16_384, "tokens"),
    ("tok_depth@448", (448, 16), 784, 8_192, "tokens"),
    ("tok_normal@448", (448, 16), 784, 8_192, "tokens"),
    ("tok_clip@448", (448, 16), 784, 8_192, "tokens"),
    ("tok_semseg@448", (448, 16), 784, 4_096, "tokens"),
]
INPUT_ONLY = {"rgb@224", "rgb@448", "t5_caption"}
FOUR_M_7 = [
    *("caption", "det", "rgb@224", "tok_rgb@224", "tok_normal@224", "tok_depth@224", "tok_semseg@224", "tok_clip@224"),
]
FOUR_M_21 = [
    *("caption", "t5_caption", "det", "metadata", "rgb@224", "tok_rgb@224", "tok_normal@224", "tok_depth@224"),
    *("tok_semseg@224", "tok_clip@224", "human_poses", "tok_dinov2@224", "tok_dinov2_global", "tok_imagebind@224"),
    *("tok_imagebind_global", "tok_sam_edge@224", "tok_canny_edge@224", "color_palette", "sam_instance"),
]
# Raw modality, channels of what its tokenizer reads, pixels and patch, tokenized as.
ENCODED = [
    ("rgb_half@224", 3, (224, 16), "tok_rgb@224"),
    ("depth@224", 1, (224, 16), "tok_depth@224"),
    ("normal@224", 3, (224, 16), "tok_normal@224"),
    ("canny@224", 1, (224, 16), "tok_canny_edge@224"),
    ("canny@224", 1, (224, 16), "tok_sam_edge@224"),
    ("clip@224", 512, (224, 16), "tok_clip@224"),
    ("dinov2@224", 768, (224, 14), "tok_dinov2@224"),
    ("imagebind@224", 1280, (224, 14), "tok_imagebind@224"),
    ("dinov2_global@224", 768, (224, 224), "tok_dinov2_global"),
    ("imagebind_global@224", 1280, (224, 224), "tok_imagebind_global"),
]


@pytest.mark.parametrize(("name", "grid", "tokens", "vocab", "decode"), PUBLISHED)
def test_published_modalities_are_as_published(
    name: str, grid: tuple[int, int] | None, tokens: int, vocab: int | None, decode: str
) -> None:
    modality = catalog.get(name)
    assert modality.is_grid == (grid is not None)
    if grid is not None:
        assert (modality.grid.image_size, modality.grid.patch_size) == ((grid[0], grid[0]), grid[1])
    assert modality.num_tokens == tokens
    assert (modality.vocab_size if modality.is_discrete else None) == vocab
    assert modality.decode == decode
    assert modality.is_input
    assert modality.is_output == (name not in INPUT_ONLY)
    assert (modality.tokenizer is None) == (name in INPUT_ONLY)


@pytest.mark.parametrize(("names", "inputs", "outputs"), [(FOUR_M_7, 8, 7), (FOUR_M_21, 19, 17)], ids=["4M-7", "4M-21"])
def test_the_published_models_read_and_predict_modalities_of_the_catalog(
    names: list[str], inputs: int, outputs: int
) -> None:
    modalities = catalog.resolve(names)
    assert [m.name for m in modalities.inputs] == names
    assert [m.name for m in modalities.outputs] == [name for name in names if name not in INPUT_ONLY]
    assert (len(modalities.inputs), len(modalities.outputs)) == (inputs, outputs)
    assert {*FOUR_M_7, *FOUR_M_21} | {m[0] for m in PUBLISHED if m[0].endswith("@448")} == {m[0] for m in PUBLISHED}


@pytest.mark.parametrize("name", [name for name, grid, *_ in PUBLISHED if grid is not None and grid[0] == 448])
def test_twice_the_resolution_differs_in_the_number_of_tokens_only(name: str) -> None:
    large, small = catalog.get(name), catalog.get(name.replace("448", "224"))
    assert large.num_tokens == 4 * small.num_tokens
    for fact in ("content", "source", "decode", "direction", "positions", "normalization", "key", "channels"):
        assert getattr(large, fact) == getattr(small, fact)


@pytest.mark.parametrize(("raw", "channels", "grid", "tokens"), ENCODED)
def test_published_tokenizers_read_what_they_were_trained_on(
    raw: str, channels: int, grid: tuple[int, int], tokens: str
) -> None:
    modality = catalog.get(raw)
    assert catalog.get(tokens).tokenizer == raw
    assert modality.map_channels == channels
    assert (modality.grid.image_size, modality.grid.patch_size) == ((grid[0], grid[0]), grid[1])
    assert modality.direction == "input"


def test_class_maps_are_tokenized_with_void_as_their_first_class() -> None:
    modality = catalog.get("semseg_coco@224")
    assert (modality.vocab_size, modality.decode) == (134, "labels_void_first")
    assert catalog.get("tok_semseg@224").tokenizer == modality.name


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
        void = modality.decode == "labels_void_first"
        assert modality.content == Discrete(len(modality.classes) + void)


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
