"""The encoder as a backbone: the model's own features at its size, maps at any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fourm.errors import CheckpointError, ConfigError, DataError
from fourm.layouts import Continuous, Grid
from fourm.modality import Modality, ModalitySet
from fourm.models.ask import given_table
from fourm.models.multimodal import Multimodal
from fourm.transfer.backbone import Backbone
from fourm.transfer.configs import BackboneConfig

Make = Callable[..., Backbone]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def integers(high: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


def everywhere(num_tokens: int) -> Tensor:
    return torch.arange(num_tokens).expand(2, -1)


def encoded(model: Multimodal, given: dict[str, dict[str, Tensor]]) -> Tensor:
    table = given_table(given, model.modalities, 2, torch.device("cpu"))
    content, place, _ = model.input_embedder(table)
    return model.encoder(content + place, attention=table.attention)  # type: ignore[no-any-return]


@torch.no_grad()
def test_features_at_native_size_are_the_encoders(model: Multimodal, make: Make) -> None:
    images = draw(2, 3, 16, 16)

    features = make("rgb").forward_features(images)

    expected = encoded(model, {"rgb@16": {"values": images, "positions": everywhere(16)}})
    torch.testing.assert_close(features, expected)


@torch.no_grad()
def test_features_of_every_sort_of_modality_together_are_the_encoders(model: Multimodal, make: Make) -> None:
    images, depth, codes = draw(2, 3, 16, 16), integers(11, 2, 16), integers(6, 2, 4)
    caption, vectors = integers(300, 2, 6), draw(2, 5, 7)
    caption[1, 4:] = -1

    features = make("rgb", "tok_depth", "codes", "caption", "vectors").forward_features(
        {"rgb": images, "tok_depth": depth, "codes": codes, "caption": caption, "vectors": vectors}
    )

    expected = encoded(
        model,
        {
            "rgb@16": {"values": images, "positions": everywhere(16)},
            "tok_depth@16": {"ids": depth, "positions": everywhere(16)},
            "codes": {"ids": codes, "positions": everywhere(4)},
            "caption": {"ids": caption},
            "vectors": {"values": vectors, "valid": torch.ones(2, 5)},
        },
    )
    valid = torch.ones(2, features.shape[1], dtype=torch.bool)
    valid[1, 16 + 16 + 4 + 4 : 16 + 16 + 4 + 6] = False
    torch.testing.assert_close(features[valid], expected[valid])


@torch.no_grad()
def test_registers_come_first(make_model: Callable[..., Multimodal], make: Make) -> None:
    model = make_model(num_register_tokens=3)
    backbone = make("rgb", of=model)
    images = draw(2, 3, 16, 16)

    features = backbone.forward_features(images)

    table = given_table(
        {"rgb@16": {"values": images, "positions": everywhere(16)}}, model.modalities, 2, torch.device("cpu")
    )
    context = model.encode(table).hidden
    _, place, _ = model.input_embedder(table)
    expected = model.context_projection(features) + torch.cat([torch.zeros(2, 3, 16), place], 1)
    assert backbone.num_prefix_tokens == 3
    torch.testing.assert_close(expected, context)


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 48), (20, 18)])
def test_maps_of_a_pyramid_have_four_strides(make: Make, height: int, width: int) -> None:
    backbone = make("rgb", pyramid="simple", out_channels=8)

    maps = backbone(draw(2, 3, height, width))

    rows, columns = -(-height // 4), -(-width // 4)
    expected = [(4 * rows, 4 * columns), (2 * rows, 2 * columns), (rows, columns), (-(-rows // 2), -(-columns // 2))]
    assert list(maps) == ["0", "1", "2", "3"]
    assert [tuple(value.shape) for value in maps.values()] == [(2, 8, *size) for size in expected]
    assert backbone.out_channels == 8


@torch.no_grad()
def test_maps_without_a_pyramid_are_the_layers(make: Make) -> None:
    images = draw(2, 3, 16, 24)
    backbone = make("rgb", out_layers=[1, -1])

    maps = backbone(images)

    last = backbone.forward_features(images)
    assert list(maps) == ["0", "1"]
    torch.testing.assert_close(maps["1"], last.transpose(1, 2).reshape(2, 16, 4, 6))
    assert not torch.allclose(maps["0"], maps["1"])
    assert (backbone.out_channels, backbone.num_features, backbone.patch_size) == (16, 16, 4)


@torch.no_grad()
def test_a_pyramid_of_four_layers_takes_one_for_each_level(make: Make) -> None:
    images = draw(1, 3, 16, 16)
    backbone = make("rgb", out_layers=[0, 1, 2, 3], pyramid="simple", out_channels=8)
    layers = make("rgb", out_layers=[0, 1, 2, 3])(images)

    maps = backbone(images)

    assert backbone.pyramid is not None
    torch.testing.assert_close(maps["2"], backbone.pyramid.levels[2](layers["2"]))


@torch.no_grad()
def test_positions_of_another_size_lie_between_those_of_the_model(make: Make) -> None:
    """At twice the size, the mean place of each two by two tokens is that of the token they make up."""
    backbone = make("rgb")

    small, large = backbone.stems["rgb@16"].place((4, 4)), backbone.stems["rgb@16"].place((8, 8))

    means = torch.nn.functional.avg_pool2d(large.T.reshape(1, 16, 8, 8), 2).flatten(2)[0].T
    slow = slice(2, 4)  # sines and cosines over the rows that hardly bend between two places
    torch.testing.assert_close(means[:, 1], small[:, 1], atol=0.02, rtol=0)
    torch.testing.assert_close(means[:, slow], small[:, slow], atol=0.15, rtol=0)


@torch.no_grad()
def test_learned_positions_are_interpolated(make: Make) -> None:
    stem = make("rgb", "codes").stems["codes"]

    assert torch.equal(stem.place((2, 2)), stem.positions + stem.modality)
    assert stem.place((4, 4)).shape == (16, 16)


@torch.no_grad()
def test_windows_keep_far_tokens_apart(make: Make) -> None:
    images = draw(1, 3, 32, 32)
    changed = images.clone()
    changed[..., 16:, 16:] += 1

    def reacts(**options: Any) -> Tensor:
        backbone = make("rgb", **options)
        return (backbone(images)["0"] - backbone(changed)["0"]).abs().amax(1)[0] > 1e-6

    windowed = reacts(window=4, global_blocks=[])
    assert windowed[4:, 4:].all()
    assert not windowed[:4].any()
    assert not windowed[:, :4].any()
    assert reacts(window=4, global_blocks=[2]).all()
    assert reacts(window=8, global_blocks=[]).all()  # one window


@torch.no_grad()
def test_windows_hold_the_tokens_of_all_modalities_there(make: Make) -> None:
    backbone = make("rgb", "tok_depth", window=4, global_blocks=[], merge="first")
    images, depth = draw(1, 3, 32, 32), integers(11, 1, 8, 8)
    changed = depth.clone()
    changed[:, :4, :4] = (changed[:, :4, :4] + 1) % 11

    first, second = (backbone({"rgb": images, "tok_depth": d})["0"] for d in (depth, changed))

    reacts = (first - second).abs().amax(1)[0] > 1e-6
    assert reacts[:4, :4].all()
    assert not reacts[4:].any()


@torch.no_grad()
@pytest.mark.parametrize("merge", ["mean", "first"])
def test_a_missing_modality_of_one_sample_is_as_if_it_were_never_given(make: Make, merge: str) -> None:
    backbone = make("rgb", "tok_depth", merge=merge)
    images, depth = draw(2, 3, 16, 16), integers(11, 2, 16)

    maps = backbone({"rgb": images, "tok_depth": depth}, present={"tok_depth@16": torch.tensor([True, False])})

    torch.testing.assert_close(maps["0"][:1], backbone({"rgb": images[:1], "tok_depth": depth[:1]})["0"])
    torch.testing.assert_close(maps["0"][1:], backbone({"rgb": images[1:]})["0"])


@torch.no_grad()
def test_a_subset_of_channels_keeps_its_patch_weights(make: Make) -> None:
    """An image that is zero in the channels left out gives the same features."""
    images = draw(2, 3, 16, 16)
    images[:, 1] = 0
    every, two = make("rgb"), make("rgb", channels={"rgb": [0, 2]})

    expected = every.forward_features(images)

    torch.testing.assert_close(two.forward_features(images), expected)
    torch.testing.assert_close(two.forward_features(images[:, [0, 2]]), expected)
    assert two.stems["rgb@16"].projection.weight.shape == (16, 32)


@torch.no_grad()
def test_from_scratch_is_the_same_network_with_other_weights(model: Multimodal) -> None:
    config = BackboneConfig(modalities=["rgb"])
    trained = Backbone.from_model(model, config, seed=1)

    scratch, again = (Backbone.from_model(model, config, pretrained=False, seed=1) for _ in range(2))

    assert {k: v.shape for k, v in scratch.state_dict().items()} == {
        k: v.shape for k, v in trained.state_dict().items()
    }
    weight = "encoder.blocks.0.attn.qkv.weight"
    assert not torch.equal(scratch.state_dict()[weight], trained.state_dict()[weight])
    assert all(torch.equal(a, b) for a, b in zip(scratch.state_dict().values(), again.state_dict().values()))


def test_new_modalities_start_at_random_beside_trained_ones(model: Multimodal) -> None:
    near = Modality("near@16", Grid(4, 4, 4), Continuous(16), "near", "gray", direction="input", channels=1)
    config = BackboneConfig(modalities=["rgb", "near@16"], new=["near@16"])

    backbone = Backbone.from_model(model, config, new=ModalitySet([near]))

    assert backbone({"rgb": draw(1, 3, 16, 16), "near": draw(1, 1, 16, 16)})["0"].shape == (1, 16, 4, 4)
    assert torch.equal(backbone.stems["rgb@16"].projection.weight, model.input_embedder.projections["rgb@16"].weight)


def test_a_modality_that_is_named_new_starts_at_random_although_the_model_knows_it(model: Multimodal) -> None:
    config = BackboneConfig(modalities=["rgb", "codes"], new=["codes"])

    backbone = Backbone.from_model(model, config, new=model.modalities.subset(["codes"]))

    assert not torch.equal(backbone.stems["codes"].weight, model.input_embedder.table.rows("codes"))


def test_layers_are_numbered_from_the_embedders_to_what_follows_the_blocks(make: Make) -> None:
    backbone = make("rgb", pyramid="simple")

    layers = {name: backbone.layer_of(name) for name, _ in backbone.named_parameters()}

    assert backbone.num_layers == 6
    assert {layers[n] for n in layers if n.startswith("stems.")} == {0}
    assert [layers[f"encoder.blocks.{i}.norm1.weight"] for i in range(4)] == [1, 2, 3, 4]
    assert {layers[n] for n in layers if n.startswith(("pyramid.", "encoder.norm"))} == {5}


def test_embedders_of_new_modalities_learn_as_fast_as_a_head(model: Multimodal) -> None:
    config = BackboneConfig(modalities=["rgb", "codes"], new=["codes"])
    backbone = Backbone.from_model(model, config, new=model.modalities.subset(["codes"]))

    assert backbone.layer_of("stems.codes.weight") == backbone.num_layers - 1
    assert backbone.layer_of("stems.rgb@16.projection.weight") == 0


def test_new_modalities_that_are_not_read_are_told() -> None:
    with pytest.raises(ConfigError, match="new names 'depth', which is not among modalities: rgb"):
        BackboneConfig(modalities=["rgb"], new=["depth"])


def test_maps_need_no_host_synchronisation(model: Multimodal) -> None:
    """On meta tensors everything that would wait for the device raises."""
    with torch.device("meta"):
        backbone = Backbone(
            model.modalities.subset(["rgb@16", "tok_depth@16"]),
            model.config,
            BackboneConfig(modalities=["rgb", "tok_depth"], pyramid="simple", window=2),
        )
        maps = backbone({"rgb": torch.zeros(2, 3, 32, 32), "tok_depth": torch.zeros(2, 8, 8, dtype=torch.int64)})
    assert maps["0"].shape == (2, 256, 32, 32)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"modalities": ["canny"]}, CheckpointError, "does not read 'canny'. It reads caption, rgb@16"),
        ({"modalities": ["rgb"], "out_layers": [4]}, ConfigError, "the encoder has 4"),
        ({"modalities": ["rgb"], "window": 2, "global_blocks": [9]}, ConfigError, "global_blocks names block 9"),
        ({"modalities": ["caption"], "pyramid": "simple"}, ConfigError, "places in the image"),
        ({"modalities": ["rgb"], "channels": {"rgb": [3]}}, ConfigError, "expected some of its channels, 0 to 2"),
        ({"modalities": ["rgb"], "channels": {"canny": [0]}}, ConfigError, "channels names 'canny'"),
        ({"modalities": ["rgb"], "image_size": 18}, ConfigError, "the nearest that does is 16"),
    ],
)
def test_what_does_not_fit_is_told(
    model: Multimodal, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Backbone.from_model(model, BackboneConfig(**options))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rgb": torch.zeros(1, 2, 16, 16)}, "expected (B, 3, H, W)"),
        ({"depth": torch.zeros(1, 1, 16, 16)}, "'depth' is none of this backbone's modalities"),
        ({"tok_depth": torch.zeros(1, 5, dtype=torch.int64)}, "expected (B, 16), or (B, rows, columns)"),
        ({"caption": torch.zeros(1, 4, dtype=torch.int64)}, "has places in the image, so there is no map"),
        ({}, "nothing is given"),
    ],
)
def test_inputs_that_do_not_fit_are_told(make: Make, given: dict[str, Tensor], message: str) -> None:
    import re

    with pytest.raises(DataError, match=re.escape(message)):
        make("rgb", "tok_depth", "caption")(given)
