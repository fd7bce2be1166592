from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fourm.config import build
from fourm.errors import CheckpointError, ConfigError, DataError
from fourm.layouts import Continuous, Discrete, Grid
from fourm.modality import Modality
from fourm.objectives.reconstruct import Reconstruct
from fourm.objectives.reconstruct_config import ReconstructConfig
from fourm.tokenizers.base import load_tokenizer
from fourm.tokenizers.diffusers_parts import Latents, make_unet
from fourm.tokenizers.visual_decoder import VisualDecoder
from fourm.tokenizers.visual_decoder_configs import CrossUNetConfig, LatentsConfig, VisualDecoderConfig

RGB = Modality(
    "rgb", Grid(4, 4, 4), Continuous(48), "rgb", "image", channels=3, value_range=(0.0, 1.0), normalization="half"
)
CONV = {"kind": "conv", "stem": 4, "widths": [8], "num_blocks": [1], "groups": 4}
OWN = {"image": {"encoder": CONV, "empty": "black"}}
GIVEN = {"generated": {"num_tokens": 5, "dim": 8}}
TWO = {"text": {"num_tokens": 5, "dim": 12}, "image": {"num_tokens": 3, "dim": 8, "attends": "apart"}}
UNET = {"widths": [8, 16], "num_blocks": 1, "attention_depth": [0, 1], "num_heads": [2, 2], "groups": 4}
LATENTS = {"source": None, "widths": [4, 8], "num_blocks": 1, "groups": 4}
SD15 = {"preset": "sd15", "widths": [8, 8, 16, 16], "num_heads": [2, 2, 2, 2], "num_blocks": 1, "groups": 4}
SDXL = {
    "preset": "sdxl", "widths": [8, 8, 16], "num_heads": [1, 2, 4], "attention_depth": [0, 1, 2], "num_blocks": 1,
    "groups": 4,
}  # fmt: skip
LAYOUTS = [(SD15, {**LATENTS}), (SDXL, {**LATENTS, "scale": 0.13025})]


def make(conditions: Any = None, modality: Modality = RGB, **values: Any) -> VisualDecoder:
    torch.manual_seed(0)
    config = {"conditions": conditions or OWN, "unet": UNET, "sampling": {"num_steps": 2}, **values}
    return VisualDecoder(modality, build(VisualDecoderConfig, config))


def images(batch: int = 2, device: str = "cpu") -> torch.Tensor:
    return torch.rand(batch, 3, 16, 16, device=device) * 2 - 1


def two(batch: int = 2) -> dict[str, torch.Tensor]:
    return {"text": torch.randn(batch, 5, 12), "image": torch.randn(batch, 3, 8)}


def test_an_image_becomes_vectors_and_vectors_an_image():
    model = make().eval()
    vectors = model.encode(images())
    assert vectors.shape == (2, 16, 8)
    assert model.num_tokens == 16
    decoded = model.decode(vectors)
    assert decoded.shape == (2, 3, 16, 16)
    assert 0 <= decoded.min() <= decoded.max() <= 1


def test_every_single_vector_reaches_the_picture():
    model = make().eval()
    vectors = torch.randn(1, 16, 8).repeat(17, 1, 1)
    vectors[torch.arange(1, 17), torch.arange(16)] += 1
    painted = model.decode(vectors, seeds=torch.zeros(17, dtype=torch.int64), raw=True)
    assert all(not torch.allclose(painted[0], other) for other in painted[1:])


def test_each_sample_owns_what_is_drawn_for_it():
    model, x, seeds = make().eval(), images(), torch.tensor([4, 5])
    whole, last = model(x, seeds), model(x[1:], seeds[1:])
    torch.testing.assert_close(whole.output[1:], last.output)
    torch.testing.assert_close(whole.target[1:], last.target)
    vectors = model.encode(x)
    painted = model.decode(vectors, seeds=seeds)
    torch.testing.assert_close(painted[1:], model.decode(vectors[1:], seeds=seeds[1:]))
    assert not torch.allclose(painted, model.decode(vectors, seeds=seeds + 1))


def test_training_asks_for_the_noise_that_was_added():
    model, x, seeds = make(condition_dropout=0.0), images(64), torch.arange(64)
    target = model(x, seeds).target
    assert target.std().item() == pytest.approx(1, abs=0.05)
    assert target.mean((2, 3)).std().item() == pytest.approx(1 / 16, rel=0.3)
    offset = make(condition_dropout=0.0, noise_offset=0.5)(x, seeds).target
    assert offset.mean((2, 3)).std().item() == pytest.approx(0.5, rel=0.3)  # the same in all places of a channel


def test_a_dropped_condition_is_the_null_one():
    """All conditions dropped: what is predicted does not depend on them."""
    model = make(GIVEN, condition_dropout=0.999).eval()
    x, seeds = images(), torch.arange(2)
    one, other = (model(x, seeds, {"generated": torch.randn(2, 5, 8)}).output for _ in range(2))
    assert torch.equal(one, other)
    always = make(GIVEN, condition_dropout=0.0).eval()
    one, other = (always(x, seeds, {"generated": torch.randn(2, 5, 8)}).output for _ in range(2))
    assert not torch.allclose(one, other)


def test_a_condition_can_be_dropped_alone():
    """Then what is predicted depends on the other one, and each has draws of its own."""
    model = make({**TWO, "image": {**TWO["image"], "dropout": 0.999}}, unet={**UNET, "cross_dim": 12}).eval()
    x, seeds = images(), torch.arange(2)
    text, image = torch.randn(2, 5, 12), torch.randn(2, 3, 8)

    def at(text: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return model(x, seeds, {"text": text, "image": image}).output

    assert torch.equal(at(text, image), at(text, torch.randn(2, 3, 8)))
    assert not torch.allclose(at(text, image), at(torch.randn(2, 5, 12), image))


def test_guidance_moves_away_from_the_null_condition():
    model = make(GIVEN, sampling={"num_steps": 1, "clip": False}).eval()
    vectors, seeds = torch.randn(1, 5, 8), torch.tensor([3])

    def at(weight: float, **options: Any) -> torch.Tensor:
        return model.use_sampling(guidance=weight).decode(vectors, seeds=seeds, raw=True, **options)

    blind, seeing, guided = at(0.0), at(1.0), at(3.0)
    torch.testing.assert_close(guided, blind + 3 * (seeing - blind), rtol=1e-3, atol=1e-3)
    zeros = model.use_sampling(guidance=1.0).decode(torch.zeros(1, 5, 8), seeds=seeds, raw=True)
    torch.testing.assert_close(blind, zeros)
    prompted = torch.randn(5, 8)  # Emu: what the model generates for the empty prompt
    torch.testing.assert_close(at(3.0, null=vectors[0]), seeing, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(at(3.0, null=prompted), guided)


def test_the_null_condition_of_an_autoencoder_is_the_image_of_zeros():
    model = make(sampling={"num_steps": 1, "clip": False}).eval()
    black = model.encode(torch.zeros(1, 3, 16, 16))
    vectors, seeds = model.encode(images(1)), torch.tensor([3])
    blind = model.use_sampling(guidance=0.0).decode(vectors, seeds=seeds, raw=True)
    seeing = model.use_sampling(guidance=1.0).decode(black, seeds=seeds, raw=True)
    torch.testing.assert_close(blind, seeing, rtol=1e-3, atol=1e-3)


def test_the_null_condition_may_come_from_a_file_and_is_saved(tmp_path: Path):
    vectors = torch.randn(5, 8)
    save_file({"vectors": vectors}, tmp_path / "null.safetensors")
    null = {"empty": "file", "empty_file": str(tmp_path / "null.safetensors")}
    model = make({"generated": {**GIVEN["generated"], **null}}, sampling={"num_steps": 1, "guidance": 0.0}).eval()
    model.save(tmp_path / "saved")
    (tmp_path / "null.safetensors").unlink()
    again = load_tokenizer(tmp_path / "saved")
    expected = again.use_sampling(guidance=1.0).decode(vectors[None])
    torch.testing.assert_close(model.decode(torch.randn(1, 5, 8)), expected)


def test_a_gain_makes_what_is_added_to_the_null_condition_heard(tmp_path: Path):
    null, said = torch.randn(5, 8), torch.randn(2, 5, 8) / 100
    save_file({"vectors": null}, tmp_path / "null.safetensors")
    given = {**GIVEN["generated"], "empty": "file", "empty_file": str(tmp_path / "null.safetensors"), "gain": 100.0}
    amplified, plain = make({"generated": given}).eval(), make(GIVEN).eval()  # of which none is zeros
    plain.load_state_dict(amplified.state_dict(), strict=False)
    seeds = torch.arange(2)
    expected = plain.decode(said * 100, seeds=seeds, raw=True)
    torch.testing.assert_close(amplified.decode(null + said, seeds=seeds, raw=True), expected, rtol=1e-3, atol=1e-3)
    x = images()
    expected = plain(x, seeds, {"generated": said * 100}).output
    torch.testing.assert_close(amplified(x, seeds, {"generated": null + said}).output, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("normalization", ["half", "imagenet"])
def test_what_is_painted_does_not_depend_on_what_the_encoder_reads(normalization: str):
    modality = replace(RGB, normalization=normalization)
    model = make(modality=modality)
    natural = torch.rand(2, 3, 16, 16)
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    read = (natural - mean) / std if normalization == "imagenet" else natural * 2 - 1
    torch.testing.assert_close(model._to_values(read, torch.arange(2)), natural * 2 - 1, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("unet", "latents"), LAYOUTS, ids=["sd15", "sdxl"])
def test_the_published_layouts_paint_latents(unet: dict[str, Any], latents: dict[str, Any], tmp_path: Path):
    model = make(unet=unet, latents=latents).eval()
    x, seeds = images(), torch.arange(2)
    result = model(x, seeds)
    assert result.output.shape == result.target.shape == (2, 4, 8, 8)
    assert not [name for name in model.state_dict() if "vae" in name]
    model.save(tmp_path)
    again, vectors = load_tokenizer(tmp_path), model.encode(x)
    torch.testing.assert_close(again.decode(vectors, seeds=seeds), model.decode(vectors, seeds=seeds))


def test_sdxl_is_told_the_mean_of_the_vectors_and_the_size_of_the_image():
    model = make(unet=SDXL, latents=LATENTS).eval()
    told: dict[str, torch.Tensor] = {}
    network = model.decoder.network
    network.register_forward_pre_hook(
        lambda _, args, options: told.update(options["added_cond_kwargs"]), with_kwargs=True
    )
    assert network.config.projection_class_embeddings_input_dim == 8 + 6 * 256  # Emu2: 1792 + 1536 = 3328
    vectors = model.encode(images())
    model._predict(torch.randn(2, 4, 8, 8), torch.tensor([5, 5]), {"image": vectors})
    torch.testing.assert_close(told["text_embeds"], vectors.mean(1))
    assert told["time_ids"].tolist() == [[16, 16, 0, 0, 16, 16]] * 2


@pytest.mark.parametrize(
    ("preset", "dims", "millions", "expected"),
    [
        ("sd15", (768, None), 859.52, {"down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
                                       "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3}),
        ("sdxl", (2048, 1280), 2567.46, {"down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
                                         "up_block_types": ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
                                         "addition_embed_type": "text_time",
                                         "projection_class_embeddings_input_dim": 2816}),
    ],
    ids=["sd15", "sdxl"],
)  # fmt: skip
def test_presets_are_the_published_sizes(preset: str, dims: Any, millions: float, expected: dict[str, Any]):
    """At the lengths of their own text vectors, the U-Nets have the published numbers of parameters."""
    with torch.device("meta"):
        network = make_unet(build(CrossUNetConfig, {"preset": preset}), 4, *dims)
    assert {name: getattr(network.config, name) for name in expected} == expected
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_a_published_unet_is_a_start_for_another_condition(tmp_path: Path):
    torch.manual_seed(3)
    unet, latents = build(CrossUNetConfig, SD15), build(LatentsConfig, LATENTS)
    published = make_unet(unet, 4, 20)
    published.save_pretrained(tmp_path / "unet")
    vae = Latents(replace(latents, seed=5)).vae
    vae.save_pretrained(tmp_path / "vae")
    model = make(unet={**SD15, "source": str(tmp_path)}, latents={**LATENTS, "source": str(tmp_path)})
    ours, theirs = model.decoder.network.state_dict(), published.state_dict()
    fresh = (
        {name for name, value in ours.items() if not torch.equal(value, theirs[name])}
        if ours.keys() == theirs.keys()
        else None
    )
    assert fresh
    assert all(".attn2.to_k." in name or ".attn2.to_v." in name for name in fresh)  # they read vectors of 8, not 20
    assert model.space is not None
    mean = vae.encode(images(1)).latent_dist.mean
    torch.testing.assert_close(model.space.decode(mean * 0.18215), vae.decode(mean).sample)


def test_a_published_model_of_other_sizes_is_refused(tmp_path: Path):
    make_unet(build(CrossUNetConfig, SD15), 4, 8).save_pretrained(tmp_path / "unet")
    with pytest.raises(CheckpointError, match=r"other sizes than tokenizer.unet says: widths \(8, 8, 16, 16\)"):
        make(unet={**SD15, "widths": [8, 8, 8, 8], "source": str(tmp_path)}, latents=LATENTS)
    with pytest.raises(CheckpointError, match=r"vae/ cannot be read.*tokenizer.latents.source"):
        make(unet=SD15, latents={**LATENTS, "source": str(tmp_path)})


def test_two_conditions_are_seen_side_by_side_or_one_behind_the_other():
    for attends in ("apart", "joint"):
        conditions = {**TWO, "image": {**TWO["image"], "attends": attends}}
        model = make(conditions, unet={**UNET, "cross_dim": 12}).eval()
        first, seeds = two(), torch.zeros(2, dtype=torch.int64)
        painted = model.decode(first, seeds=seeds)
        for name in first:
            changed = {**first, name: torch.randn_like(first[name])}
            assert not torch.allclose(painted, model.decode(changed, seeds=seeds))
    own = [name for name in make(TWO, unet={**UNET, "cross_dim": 12}).state_dict() if "to_k_ip" in name]
    assert len(own) == 4  # one of each layer that attends to a condition


def test_two_conditions_come_back_from_disk(tmp_path: Path):
    model, vectors = make(TWO, unet={**UNET, "cross_dim": 12}).eval(), two()
    model.save(tmp_path)
    torch.testing.assert_close(load_tokenizer(tmp_path).decode(vectors), model.decode(vectors))


def test_saving_keeps_everything(tmp_path: Path):
    model = make(sampling={"num_steps": 3, "scheduler": "euler", "clip": False}).eval()
    digest = model.save(tmp_path)
    again, x = load_tokenizer(tmp_path), images()
    assert again.hash == digest
    assert torch.equal(again.encode(x), model.encode(x))
    torch.testing.assert_close(again.decode(model.encode(x)), model.decode(model.encode(x)))
    assert again.hash == make(unet={**UNET, "num_blocks": 2}).hash  # vectors are the same, whatever paints


def test_a_frozen_encoder_leaves_only_the_unet_to_train():
    model = make(freeze_encoder=True).train()
    model.adopt_encoder(make())
    model(images()).output.square().mean().backward()
    assert {name.partition(".")[0] for name, p in model.named_parameters() if p.grad is not None} == {"decoder"}
    with pytest.raises(CheckpointError, match="same networks"):
        model.adopt(make(unet={**UNET, "widths": [8, 8]}))


@pytest.mark.parametrize("conditions", [OWN, TWO], ids=["own", "two"])
def test_gradients_reach_every_parameter(conditions: Any):
    model = make(conditions, unet={**UNET, "cross_dim": 12})
    given = None if conditions is OWN else two(8)
    result = model(images(8), torch.arange(8), given)
    (result.output - result.target).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_a_training_step_runs_on_meta_tensors():
    with torch.device("meta"):
        model = make(unet=SDXL, latents=LATENTS).to("meta")
    result = model(images(device="meta"), torch.arange(2, device="meta"))
    (result.output - result.target).mean().backward()


def test_vectors_beside_the_images_are_read_scored_and_counted():
    model = make(GIVEN)
    objective = Reconstruct(ReconstructConfig(), RGB, model.num_tokens, given=model.given, has_codes=False)
    rng = np.random.default_rng(0)
    samples = [{"rgb": images(1)[0].numpy(), "generated": rng.normal(size=(5, 8))} for _ in range(3)]
    batch = objective.collate([objective.prepare(sample, rng) for sample in samples]).to("cpu")
    assert batch.given["generated"].shape == (3, 5, 8)
    loss = objective.loss(model, batch)
    assert loss.parts.keys() == objective.counts(batch).keys() == {"reconstruct"}
    expected = model(batch.images, batch.seeds, batch.given)
    error = (expected.output - expected.target).square().mean()
    torch.testing.assert_close(loss.scalar(objective.counts(batch)), error)
    with pytest.raises(DataError, match="4 vectors of 'generated', expected 5"):
        objective.prepare({**samples[0], "generated": np.zeros((4, 8))}, rng)
    with pytest.raises(DataError, match="a sample has no 'generated'"):
        objective.prepare({"rgb": samples[0]["rgb"]}, rng)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modality": Modality("semseg", Grid(16, 16, 1), Discrete(5), "semseg", "labels")}, "holds no colours"),
        ({"modality": replace(RGB, layout=Grid(3, 3, 5), content=Continuous(75))}, "by the U-Net's 2"),
        ({"unet": {**UNET, "widths": [8] * 6, "attention_depth": [0] * 6, "num_heads": [2] * 6}}, "the U-Net's 32"),
        ({"unet": {**UNET, "num_heads": [3, 2]}}, "width 8 does not divide into num_heads 3"),
        ({"unet": {**UNET, "num_heads": [2]}}, "have 2, 2 and 1 levels"),
        ({"unet": {"preset": "sd21"}}, "preset 'sd21' is not known"),
        ({"conditions": TWO}, "set tokenizer.unet.cross_dim"),
        ({"conditions": {"a": {**TWO["image"]}}}, "has to be joint"),
        ({"conditions": {"a": {"num_tokens": 5}}}, "vectors made elsewhere, or by kind vision, need both"),
        ({"conditions": {"a": {"num_tokens": 5, "dim": 8, "empty": "black"}}}, "is black, which needs an encoder"),
        ({"conditions": {"a": {"num_tokens": 5, "dim": 8, "empty": "file"}}}, "belong together"),
        ({"noise": {"prediction": "sample"}, "sampling": {"scheduler": "pndm", "clip": False}}, "does not go with"),
        ({"sampling": {"guidance": 2.0}, "condition_dropout": 0.0}, "never been without its condition"),
        ({"latents": LATENTS, "modality": replace(RGB, channels=1, content=Continuous(16))}, "takes 3 colours"),
        ({"latents": LATENTS, "unet": {**UNET, "patch_size": 2}}, "latents are painted one by one"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(values: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        make(**values)


def test_vectors_that_do_not_fit_are_refused():
    model = make(GIVEN).eval()
    with pytest.raises(DataError, match=r"shape \(1, 4, 8\); expected \(batch, 5, 8\)"):
        model.decode(torch.zeros(1, 4, 8))
    with pytest.raises(DataError, match="made elsewhere: give them beside the images"):
        model.encode(images())
    with pytest.raises(DataError, match="needs those of generated"):
        model.decode({"other": torch.zeros(1, 5, 8)})
    with pytest.raises(ConfigError, match="images of 17 x 16 pixels"):
        model.decode(torch.zeros(1, 5, 8), size=(17, 16))


VISION = {
    "kind": "vision",
    "tower": {"kind": "timm", "name": "vit_tiny_patch16_224", "options": {"patch_size": 4, "depth": 1}},
    "pooler": {"kind": "resampler", "dim": 16, "depth": 1, "num_heads": 2},
}  # fmt: skip


def test_a_tower_and_a_pooler_make_the_vectors(tmp_path: Path):
    """The parts of the feeder of an interleaved model."""
    model = make({"image": {"encoder": VISION, "num_tokens": 6, "dim": 12, "empty": "black"}}).eval()
    x = images()
    vectors = model.encode(x)
    assert vectors.shape == (2, 6, 12)
    assert vectors.isfinite().all()
    model.save(tmp_path)
    again = load_tokenizer(tmp_path)
    torch.testing.assert_close(again.encode(x), vectors)
    torch.testing.assert_close(again.decode(vectors), model.decode(vectors))


@pytest.mark.slow
def test_an_autoencoder_learns_to_paint_the_image_that_its_vectors_are_of():
    """Images of one of four colours: after seconds the colour comes back, whatever the noise."""
    torch.manual_seed(0)
    colours = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1]])
    model = make(
        {"image": {"encoder": CONV}},
        unet={**UNET, "widths": [16, 32]},
        noise={"schedule": "cosine", "prediction": "v"},
        sampling={"scheduler": "dpm", "num_steps": 8},
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(100):
        x = colours[torch.randint(4, (16,))][:, :, None, None].repeat(1, 1, 16, 16)
        result = model(x, torch.arange(16) + 16 * step)
        loss = (result.output - result.target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    x = colours[:, :, None, None].repeat(1, 1, 16, 16)
    painted = model.decode(model.encode(x), seeds=torch.arange(4) + 77, raw=True).mean((2, 3))
    assert (painted[:, None] - colours).square().sum(-1).argmin(1).tolist() == [0, 1, 2, 3]
    assert (painted - colours).abs().mean() < 0.3


def test_vectors_of_a_map_know_their_places():
    """Attention has no order: of an image of one colour, equal vectors could not be told apart."""
    vectors = make().encode(torch.zeros(1, 3, 16, 16))[0]
    assert torch.cdist(vectors, vectors).add(torch.eye(16)).min() > 0.05


def test_an_encoder_may_read_the_image_smaller_than_it_is_painted():
    """CLIP reads 224 pixels, Stable Diffusion paints 512."""
    own = {"encoder": VISION, "num_tokens": 3, "dim": 8, "empty": "black"}
    model = make({"image": {**own, "size": 8}}).eval()
    assert model.conditions.encoders["image"].tower.grid == (2, 2)
    grey = torch.full((1, 3, 16, 16), 0.3)
    small = model.conditions.encoders["image"](grey[:, :, :8, :8])
    torch.testing.assert_close(model.encode(grey), small)
    assert model.decode(small, seeds=torch.tensor([1])).shape == (1, 3, 16, 16)
    assert model(images(), torch.arange(2)).output.shape == (2, 3, 16, 16)
    assert model.hash != make({"image": {**own, "size": 16}}).hash
    with pytest.raises(ConfigError, match="no encoder of kind vision reads it"):
        make({"image": {"encoder": CONV, "size": 8}})
