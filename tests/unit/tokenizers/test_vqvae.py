from __future__ import annotations

import copy
import json
import re
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from fourm.config import build, to_dict
from fourm.errors import CheckpointError, ConfigError, DataError
from fourm.layouts import Continuous, Discrete, Grid
from fourm.modality import Modality
from fourm.nn.position import resize_table
from fourm.tokenizers.base import load_tokenizer
from fourm.tokenizers.configs import VQVAEConfig
from fourm.tokenizers.saved import saved_hash
from fourm.tokenizers.vqvae import VQVAE

RGB = Modality(
    "rgb", Grid(2, 2, 8), Continuous(192), "rgb", "image", channels=3, value_range=(0.0, 1.0), normalization="half"
)
LABELS = Modality("semseg", Grid(16, 16, 1), Discrete(5), "semseg", "labels")
CONV = {"kind": "conv", "stem": 4, "widths": [8, 16], "num_blocks": [1, 1], "groups": 4}
VIT = {"kind": "vit", "dim": 16, "depth": 1, "num_heads": 2, "patch_size": 8}
EMA = {"kind": "ema", "codebook_size": 12, "dim": 4}
MLP = {"kind": "mlp", "width": 16, "depth": 1}
MEMCODES = {"kind": "memcodes", "num_heads": 6, "codebook_size": 9, "dim": 12}
VECTOR = Modality("pose", Grid(1, 1), Continuous(10), "pose", "features", channels=10)


def make(modality: Modality = RGB, network: dict = CONV, **quantizer) -> VQVAE:
    torch.manual_seed(0)
    kind = {} if "kind" in quantizer else EMA
    config = build(VQVAEConfig, {"encoder": network, "decoder": network, "quantizer": {**kind, **quantizer}})
    return VQVAE(modality, config)


def image(modality: Modality, batch: int = 3, device: str = "cpu") -> torch.Tensor:
    if modality.is_discrete:
        return torch.randint(0, modality.vocab_size, (batch, 16, 16), device=device)
    return torch.randn(batch, 3, 16, 16, device=device)


@pytest.mark.parametrize("network", [CONV, VIT], ids=["conv", "vit"])
@pytest.mark.parametrize("modality", [RGB, LABELS], ids=["colours", "labels"])
def test_shapes_and_ranges_of_ids_and_images(modality, network):
    model = make(modality, network).eval()
    ids = model.encode(image(modality))
    assert ids.shape == (3, 2, 2)
    assert ids.dtype == torch.int64
    assert 0 <= ids.min() <= ids.max() < model.vocab_size == 12
    decoded, raw = model.decode(ids), model.decode(ids, raw=True)
    if modality.is_discrete:
        assert decoded.shape == (3, 16, 16)
        assert raw.shape == (3, 5, 16, 16)
        assert torch.equal(decoded, raw.argmax(1))
    else:
        assert decoded.shape == raw.shape == (3, 3, 16, 16)
        assert 0 <= decoded.min() <= decoded.max() <= 1


@pytest.mark.parametrize("shape", [(2, 24), (24,), (2, 1, 4, 6)])
@pytest.mark.parametrize("quantizer", [EMA, MEMCODES], ids=lambda q: q["kind"])
def test_ids_that_are_no_grid_are_refused_with_the_shape_they_should_have(quantizer, shape):
    model = make(RGB, CONV, **quantizer).eval()
    rows, columns = model.grid.height, model.grid.width
    expected = rf"token ids have shape {re.escape(str(shape))}; .* \(batch, {rows}, {columns}\) for images of 'rgb'"
    with pytest.raises(DataError, match=expected):
        model.decode(torch.zeros(shape, dtype=torch.int64))


def test_forward_is_encode_then_decode():
    model = make().eval()
    x = image(RGB)
    result = model(x)
    assert torch.equal(result.ids, model.encode(x))
    torch.testing.assert_close(result.output, model.decode(result.ids, raw=True))


def test_decoding_codes_equals_decoding_their_ids_and_mixtures_of_codes_decode_too():
    model = make().eval()
    ids = torch.randint(0, 12, (2, 2, 2))
    codebook = model.codebook
    assert codebook is not None
    one_hot = F.one_hot(ids, 12).float()
    torch.testing.assert_close(model.decode_embeddings(one_hot @ codebook), model.decode(ids))
    assert model.decode_embeddings(torch.full((2, 2, 2, 12), 1 / 12) @ codebook).isfinite().all()


def test_codes_of_several_heads_make_the_grid_of_tokens_finer_than_that_of_places():
    vector, image_like = make(VECTOR, MLP, **MEMCODES).eval(), make(RGB, CONV, **MEMCODES).eval()
    assert (vector.latent_grid, vector.grid) == (Grid(1, 1, 1), Grid(2, 3, 1))
    assert (image_like.latent_grid, image_like.grid) == (Grid(2, 2, 8), Grid(4, 6, 1))
    for model, x in ((vector, torch.randn(5, 10, 1, 1)), (image_like, torch.randn(5, 3, 16, 16))):
        ids = model.encode(x)
        assert ids.shape == (5, model.grid.height, model.grid.width) == model(x).ids.shape
        assert model.decode(ids).shape == x.shape
        assert ids.max() < model.vocab_size == 9
        assert model.codebook is None


def test_vectors_of_several_heads_decode_as_their_ids_do():
    model = make(RGB, CONV, **MEMCODES).eval()
    ids = torch.randint(0, 9, (2, 4, 6))
    vectors = model.quantizer.lookup(ids)
    assert vectors.shape == (2, 2, 2, 12)
    torch.testing.assert_close(model.decode_embeddings(vectors), model.decode(ids))


def test_the_draws_of_a_quantizer_belong_to_the_seeds_of_the_samples():
    model = make(VECTOR, MLP, **MEMCODES).train()
    x, seeds = torch.randn(3, 10, 1, 1), torch.tensor([4, 5, 6])
    whole, alone, other = model(x, seeds), model(x[1:2], seeds[1:2]), model(x[1:2], seeds[2:])
    assert torch.equal(whole.ids[1:2], alone.ids)
    assert not torch.equal(alone.ids, other.ids)


@pytest.mark.parametrize("quantizer", [MEMCODES, {"kind": "fsq", "levels": [5, 4, 3]}], ids=lambda q: q["kind"])
def test_every_quantizer_is_saved_and_loaded_with_its_tokens_and_hash(tmp_path, quantizer):
    model = make(VECTOR, MLP, **quantizer).train()
    model(torch.randn(4, 10, 1, 1))
    model.save(tmp_path)
    again, x = load_tokenizer(tmp_path), torch.randn(4, 10, 1, 1)
    assert torch.equal(again.encode(x), model.eval().encode(x))
    assert (again.hash, again.grid, again.config) == (model.hash, model.grid, model.config)


def test_a_frozen_quantizer_takes_the_likeliest_codes_also_in_training():
    source = make(VECTOR, MLP, **MEMCODES)
    config = build(VQVAEConfig, {**to_dict(source.config), "freeze_encoder": True})
    model = VQVAE(VECTOR, config).train()
    model.adopt_encoder(source)
    x = torch.randn(3, 10, 1, 1)
    result = model(x, torch.tensor([1, 2, 3]))
    assert torch.equal(result.ids, source.encode(x))
    result.output.sum().backward()
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None} == {
        "decoder",
        "post_quant_proj",
    }


def test_encoding_is_inference_even_in_training_mode():
    model = make().train()
    before = copy.deepcopy(model.state_dict())
    assert not model.encode(image(RGB)).requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_void_labels_neither_fail_nor_depend_on_their_number():
    model = make(LABELS).eval()
    labels = image(LABELS, 1)
    labels[:, :4] = -1
    other = labels.clone()
    other[:, :4] = 255
    assert torch.equal(model(labels).output, model(other).output)


def test_gradients_reach_every_parameter():
    for modality, network, quantizer in ((RGB, CONV, EMA), (LABELS, VIT, EMA), (LABELS, CONV, MEMCODES)):
        model = make(modality, network, **quantizer)
        result = model(image(modality))
        (result.output.square().mean() + result.commitment.mean()).backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_a_vit_decodes_other_sizes_by_resizing_its_positions():
    model = make(RGB, {**VIT, "grid_size": 4}).eval()
    assert model.encode(torch.randn(1, 3, 16, 16)).shape == (1, 2, 2)
    assert model.decode(model.encode(torch.randn(1, 3, 32, 24))).shape == (1, 3, 32, 24)


@pytest.mark.parametrize("network", [CONV, VIT], ids=["conv", "vit"])
@pytest.mark.parametrize("modality", [RGB, LABELS], ids=["colours", "labels"])
def test_a_training_step_runs_on_meta_tensors(modality, network):
    with torch.device("meta"):
        model = make(modality, network)
    result = model(image(modality, device="meta"))
    (result.output.float().mean() + result.commitment.mean()).backward()


def test_save_and_load_give_the_same_tokens_hash_and_config(tmp_path):
    model = make(LABELS).train()
    model(image(LABELS))
    digest = model.save(tmp_path)
    again = load_tokenizer(tmp_path)
    x = image(LABELS)
    assert isinstance(again, VQVAE)
    assert torch.equal(again.encode(x), model.eval().encode(x))
    assert again.hash == digest == model.hash == saved_hash(tmp_path)
    assert again.modality == model.modality
    assert again.config == model.config
    assert not any(parameter.requires_grad for parameter in again.parameters())
    assert not again.training


def test_saving_over_an_earlier_tokenizer_replaces_it(tmp_path):
    make().save(tmp_path)
    second = make(codebook_size=20)
    second.save(tmp_path)
    assert load_tokenizer(tmp_path).hash == second.hash
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_hash_changes_with_whatever_changes_tokens_and_not_with_the_decoder():
    model = make()
    hashes = {model.hash}
    with torch.no_grad():
        model.decoder.layers[-1].bias[0] += 1e-3
        assert {model.hash} == hashes
        model.encoder.layers[0].bias[0] += 1e-3
        hashes.add(model.hash)
        model.quantizer.codebook[0, 0] += 1e-3
        hashes.add(model.hash)
    model.modality = Modality(**{**vars(RGB), "name": "other"})
    hashes.add(model.hash)
    assert len(hashes) == 4


def test_hash_does_not_know_how_the_codebook_was_trained():
    model = make()
    digest = model.hash
    model.config = replace(model.config, quantizer=replace(model.config.quantizer, decay=0.5, revive_below=0.0, seed=9))
    assert model.hash == digest


def test_config_survives_plain_values():
    config = make(RGB, VIT).config
    assert build(VQVAEConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"not a saved tokenizer: it has no config\.json"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_is_found_in_the_output_of_its_training(tmp_path):
    digest = make(RGB).save(tmp_path / "model")
    assert load_tokenizer(tmp_path).hash == load_tokenizer(tmp_path / "model").hash == digest


def test_truncated_weights_are_refused(tmp_path):
    make().save(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load_tokenizer(tmp_path)


def test_weights_of_another_tokenizer_are_refused(tmp_path):
    make().save(tmp_path / "a")
    other = make()
    with torch.no_grad():
        other.quantizer.codebook.mul_(-1)
    other.save(tmp_path / "b")
    (tmp_path / "b" / "model.safetensors").replace(tmp_path / "a" / "model.safetensors")
    with pytest.raises(CheckpointError, match="do not belong together"):
        load_tokenizer(tmp_path / "a")


def test_an_unknown_kind_or_format_is_refused(tmp_path):
    make().save(tmp_path)
    path = tmp_path / "config.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "kind": "vqvaa"}))
    with pytest.raises(CheckpointError, match=r"'vqvaa' is not known.*Did you mean 'vqvae'"):
        load_tokenizer(tmp_path)
    path.write_text(json.dumps({**facts, "format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        load_tokenizer(tmp_path)


def test_an_image_that_patches_do_not_fit_is_refused():
    odd = Modality("odd", Grid(5, 5, 2), Continuous(12), "odd", "image", channels=3)
    with pytest.raises(ConfigError, match="10 x 10 pixels, not a multiple of the tokenizer's patch size 8"):
        make(odd)


def test_networks_of_different_patch_size_are_refused():
    with pytest.raises(ConfigError, match="agree on pixels per token: 8 and 16"):
        build(VQVAEConfig, {"encoder": VIT, "decoder": {**VIT, "patch_size": 16}})


def test_learns_to_rebuild_a_few_images(one_thread):
    torch.manual_seed(0)
    grid = torch.linspace(0, 3, 16)
    waves = [torch.sin(a * grid[:, None] + b * grid[None]) for a, b in ((1, 0), (0, 2), (2, 1), (1, 3))]
    x = torch.stack(waves)[:, None].expand(-1, 3, -1, -1).contiguous()
    model = make(RGB, {**CONV, "widths": [16, 32]}, codebook_size=16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        result = model(x)
        loss = (result.output - x).abs().mean() + result.commitment.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    error = (model.eval().decode(model.encode(x), raw=True) - x).abs().mean()
    assert error < 0.15  # the mean absolute value of the images is 0.56


def test_a_second_stage_goes_on_from_the_whole_first_one():
    first = make(RGB, VIT).train()
    first(image(RGB))
    second = make(RGB, VIT, decay=0.9)
    second.adopt(first)
    x = image(RGB)
    assert torch.equal(second.eval()(x).output, first.eval()(x).output)
    assert second.encode(x).equal(first.encode(x))


def test_position_tables_are_enlarged_so_that_images_of_the_old_size_read_almost_the_same():
    wide = {**VIT, "dim": 32}
    first = make(RGB, {**wide, "grid_size": 4})
    second = make(RGB, {**wide, "grid_size": 8})
    second.adopt(first)
    old, new = first.encoder.blocks, second.encoder.blocks
    assert new.pos_emb.shape[-2:] == (8, 8)
    torch.testing.assert_close(resize_table(new.pos_emb, 4, 4), old.pos_emb, atol=0.15, rtol=0)
    torch.testing.assert_close(new.pos_emb, resize_table(old.pos_emb, 8, 8))


@pytest.mark.parametrize(
    ("modality", "network", "message"),
    [
        (RGB, {**VIT, "depth": 2}, r"only one has .*blocks\.1"),
        (RGB, {**VIT, "dim": 32}, "has shape .* here and"),
        (LABELS, VIT, "with decode image, this one for 'semseg' with labels"),
        (Modality(**{**vars(RGB), "normalization": "imagenet"}), VIT, "with normalization half.*imagenet"),
    ],
)
def test_another_network_or_other_numbers_are_not_gone_on_from(modality, network, message):
    with pytest.raises(CheckpointError, match=message):
        make(modality, network).adopt(make(RGB, VIT))


def test_a_tokenizer_is_loaded_for_decoding_as_asked(tmp_path):
    make(RGB, VIT).save(tmp_path / "run" / "model")
    ids = torch.randint(0, 12, (2, 2, 2))
    plain, fast = load_tokenizer(tmp_path / "run"), load_tokenizer(tmp_path / "run" / "model", precision="bf16")
    assert next(fast.decoder.parameters()).dtype == torch.bfloat16
    assert fast.hash == plain.hash
    assert fast.decode(ids).dtype == torch.float32
    torch.testing.assert_close(fast.decode(ids), plain.decode(ids), atol=0.05, rtol=0)
    with pytest.raises(ConfigError, match="decodes in one pass: num_steps"):
        load_tokenizer(tmp_path / "run", sampling={"num_steps": 3})


# ---------------------------------------------------------------- masks, and features that a teacher makes

MASK = Modality("mask", Grid(2, 2, 8), Continuous(64), "mask", "gray", channels=1, normalization="mask")
MAP = Modality(
    "map", Grid(2, 2, 16), Continuous(64), "rgb", "image",
    teacher="tiny", channels=3, value_range=(0.0, 1.0), normalization="imagenet",
)  # fmt: skip
TEACHER = {"kind": "timm", "name": "test_vit", "pretrained": False}


def make_for_map(**teacher) -> VQVAE:
    torch.manual_seed(0)
    network = {**VIT, "patch_size": 1}
    return VQVAE(
        MAP,
        build(
            VQVAEConfig, {"encoder": network, "decoder": network, "quantizer": EMA, "teacher": {**TEACHER, **teacher}}
        ),
    ).eval()


def test_masks_decode_to_probabilities_of_the_logits():
    model = make(MASK, VIT).eval()
    ids = model.encode((torch.rand(2, 1, 16, 16) > 0.5).float())
    torch.testing.assert_close(model.decode(ids), torch.sigmoid(model.decode(ids, raw=True)))


def test_a_tokenizer_of_features_reads_images_or_the_features_themselves():
    model, images = make_for_map(), torch.randn(3, 3, 32, 32)
    features = model.features(images)
    assert features.shape == (3, 64, 2, 2)
    assert model.grid == Grid(2, 2, 1)
    assert torch.equal(model.features(features), features)
    assert torch.equal(model.encode(images), model.encode(features))
    assert model.decode(model.encode(images)).shape == (3, 64, 2, 2)
    result = model(features)
    torch.testing.assert_close(result.output, model.decode(result.ids, raw=True))


def test_the_teacher_is_no_part_of_the_tokenizer(tmp_path):
    model = make_for_map()
    names, digest = set(model.state_dict()), model.hash
    model.load_teacher()
    assert set(model.state_dict()) == names
    assert digest == model.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.config == model.config
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(again.encode(images), model.encode(images))


def test_another_teacher_is_another_tokenizer_but_not_another_place_of_its_weights():
    digest = make_for_map().hash
    assert make_for_map(weights="elsewhere.safetensors", bf16=True).hash == digest
    assert make_for_map(output="blocks").hash != digest


def test_a_map_that_patches_do_not_fit_is_refused():
    with pytest.raises(ConfigError, match="2 x 2 places in the map of its teacher, not a multiple of .* 8"):
        VQVAE(MAP, build(VQVAEConfig, {"encoder": VIT, "decoder": VIT, "teacher": TEACHER}))
    with pytest.raises(ConfigError, match="teacher is 'tiny'.*tokenizer.teacher"):
        make(MAP, {**VIT, "patch_size": 1})
