from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fourm.config import build
from fourm.errors import CheckpointError, ConfigError, MissingExtraError
from fourm.layouts import Continuous, Grid
from fourm.modality import Modality
from fourm.tokenizers import saved
from fourm.tokenizers.base import load_tokenizer
from fourm.tokenizers.configs import VQControlNetConfig
from fourm.tokenizers.stable_diffusion import StableDiffusion
from fourm.tokenizers.stable_diffusion_configs import StableDiffusionConfig
from fourm.tokenizers.vqcontrolnet import VQControlNet

RGB = Modality(
    "rgb", Grid(2, 2, 8), Continuous(192), "rgb", "image", channels=3, value_range=(0.0, 1.0), normalization="half"
)
TINY = {
    "source": None, "image_size": 32, "widths": [8, 16], "num_blocks": 1, "num_heads": 2, "groups": 4, "text_dim": 12,
    "text_length": 5, "vae_widths": [4, 8, 8], "vae_blocks": 1,
}  # fmt: skip
CONFIG = {
    "encoder": {"kind": "conv", "stem": 4, "widths": [8, 16], "num_blocks": [1, 1], "groups": 4},
    "quantizer": {"kind": "ema", "codebook_size": 12, "dim": 4},
    "stem_widths": [4, 8],
    "sampling": {"num_steps": 2},
}


def make(modality: Modality = RGB, *, opened: bool = True, frozen: Any = None, **values: Any) -> VQControlNet:
    torch.manual_seed(0)
    config = build(VQControlNetConfig, {**CONFIG, "stable_diffusion": {**TINY, **(frozen or {})}, **values})
    model = VQControlNet(modality, config)
    if opened:  # a fresh ControlNet says nothing, whatever it is shown
        for parameter in model.decoder.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def images(batch: int = 2, device: str = "cpu") -> torch.Tensor:
    return torch.rand(batch, 3, 16, 16, device=device) * 2 - 1


def test_a_training_pass_predicts_the_noise_of_latents():
    result = make()(images(), torch.tensor([4, 5]))
    assert result.output.shape == result.target.shape == (2, 4, 8, 8)  # of an image of 32 x 32
    assert result.ids.shape == (2, 2, 2)
    assert result.target.std().item() == pytest.approx(1, abs=0.2)


def test_images_come_out_in_the_size_of_the_modality():
    model = make().eval()
    decoded = model.decode(torch.zeros(1, 2, 2, dtype=torch.int64))
    assert decoded.shape == (1, 3, 16, 16)
    assert 0 <= decoded.min() <= decoded.max() <= 1
    assert model.decode(torch.zeros(1, 2, 4, dtype=torch.int64)).shape == (1, 3, 16, 32)


def test_without_a_size_of_its_own_it_works_on_the_modality_s():
    result = make(frozen={"image_size": None})(images())
    assert result.output.shape == (2, 4, 4, 4)


def test_each_sample_owns_what_is_drawn_for_it():
    model, x, seeds = make().eval(), images(), torch.tensor([4, 5])
    whole, last = model(x, seeds), model(x[1:], seeds[1:])
    torch.testing.assert_close(whole.output[1:], last.output)
    torch.testing.assert_close(whole.target[1:], last.target)
    torch.testing.assert_close(model.decode(whole.ids, seeds=seeds)[1:], model.decode(whole.ids[1:], seeds=seeds[1:]))


def test_codes_steer_the_image_and_a_fresh_network_leaves_stable_diffusion_as_it_is():
    latents, timestep = torch.randn(1, 4, 8, 8), torch.tensor([400])
    zeros, ones = torch.zeros(1, 2, 2, dtype=torch.int64), torch.ones(1, 2, 2, dtype=torch.int64)
    fresh, steered = make(opened=False).eval(), make().eval()
    frozen = fresh.decoder.frozen
    alone = frozen.unet(latents, timestep, frozen.empty_prompt, return_dict=False)[0]
    torch.testing.assert_close(fresh.denoise(latents, timestep, ones), alone)
    assert not torch.allclose(steered.denoise(latents, timestep, ones), steered.denoise(latents, timestep, zeros))


def test_a_fresh_controlnet_is_a_copy_of_the_unet_unless_it_begins_at_random():
    def is_copy(model: VQControlNet) -> bool:
        ours, theirs = model.decoder.controlnet.state_dict(), model.decoder.frozen.unet.state_dict()
        shared = [name for name in ours if name.startswith(("conv_in.", "time_", "down_blocks.", "mid_block."))]
        assert len(shared) > 50
        return all(torch.equal(ours[name], theirs[name]) for name in shared)

    assert is_copy(make(opened=False))
    assert not is_copy(make(opened=False, copy_unet=False))


def test_where_no_code_is_shown_stable_diffusion_paints_alone():
    """Hence guidance needs no dropout: it moves away from what would be painted without codes."""
    model = make(sampling={"num_steps": 2, "guidance": 2.5}).eval()
    frozen, latents, timestep = model.decoder.frozen, torch.randn(2, 4, 8, 8), torch.tensor([400, 400])
    keep = torch.tensor([True, False])[:, None, None].expand(-1, 2, 2)
    out = model.decoder(latents, timestep, torch.randn(2, 4, 2, 2), keep)
    alone = frozen.unet(latents, timestep, frozen.empty_prompt.expand(2, -1, -1), return_dict=False)[0]
    torch.testing.assert_close(out[1], alone[1])
    assert not torch.allclose(out[0], alone[0])
    plain = make().eval()
    ids = torch.ones(1, 2, 2, dtype=torch.int64)
    assert not torch.allclose(model.decode(ids), plain.decode(ids))


def test_hidden_codes_do_not_matter():
    model = make().eval()
    latents, timestep, codes = torch.randn(1, 4, 8, 8), torch.tensor([400]), torch.randn(1, 4, 2, 2)
    keep = torch.tensor([[[True, False], [True, True]]])
    changed = codes.clone()
    changed[:, :, 0, 1] = 7.0
    torch.testing.assert_close(
        model.decoder(latents, timestep, codes, keep), model.decoder(latents, timestep, changed, keep)
    )


def test_latents_are_drawn_around_the_mean_and_come_back():
    """Encoding with no noise and decoding is what the frozen autoencoder does by itself."""
    frozen = make().decoder.frozen
    image = images(1)
    latents = frozen.encode(image, torch.zeros(1, 4, 4, 4))
    expected = frozen.vae.encode(image).latent_dist
    torch.testing.assert_close(latents, expected.mean * 0.18215)
    one = frozen.encode(image, torch.ones(1, 4, 4, 4))
    torch.testing.assert_close(one - latents, expected.std * 0.18215)
    torch.testing.assert_close(frozen.decode(latents), frozen.vae.decode(expected.mean).sample)


def test_stable_diffusion_is_neither_trained_nor_saved(tmp_path: Path):
    model = make(adapter_blocks=1)
    names = [name for name, _ in model.named_parameters()] + list(model.state_dict())
    assert not [name for name in names if "unet" in name or "vae" in name or "prompt" in name]
    frozen = model.decoder.frozen
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model.train()
    assert not any(module.training for module in frozen.modules())
    result = model(images())
    ((result.output - result.target).square().mean() + result.commitment.mean()).backward()
    optimizer.step()
    assert all(torch.equal(before[name], value) for name, value in frozen.state_dict().items())
    model.save(tmp_path)
    size = (tmp_path / saved.WEIGHTS_FILE).stat().st_size
    assert size < 1.2 * 4 * sum(value.numel() for value in model.state_dict().values())
    reference = saved.read_facts(tmp_path)["config"]["stable_diffusion"]
    assert build(StableDiffusionConfig, reference) == model.config.stable_diffusion


def test_a_saved_tokenizer_paints_the_same_and_makes_tokens_without_stable_diffusion(tmp_path: Path):
    model = make().eval()
    digest = model.save(tmp_path)
    again = load_tokenizer(tmp_path)
    x, ids = images(), torch.ones(1, 2, 2, dtype=torch.int64)
    assert again.hash == digest
    assert torch.equal(again.encode(x), model.encode(x))
    assert not again.decoder._frozen
    torch.testing.assert_close(again.decode(ids), model.decode(ids))


def test_tokens_do_not_depend_on_the_decoder():
    assert make().hash == make(copy_unet=False, frozen={"seed": 3}).hash


def test_a_frozen_encoder_leaves_only_the_controlnet_to_train():
    model = make(freeze_encoder=True)
    result = model(images())
    result.output.square().mean().backward()
    trained = {name.partition(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {"decoder"}


def test_gradients_reach_every_parameter():
    model = make(adapter_blocks=1)
    result = model(images())
    ((result.output - result.target).square().mean() + result.commitment.mean()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_a_training_step_runs_on_meta_tensors():
    with torch.device("meta"):
        model = make(opened=False, condition_dropout=0.1).to("meta")
    result = model(images(device="meta"), torch.arange(2, device="meta"))
    ((result.output - result.target).mean() + result.commitment.mean()).backward()
    assert all(p.is_meta for p in model.decoder.frozen.parameters())


def test_the_frozen_model_moves_and_converts_along():
    model = make().eval()
    other = copy.deepcopy(model).for_decoding(precision="bf16")
    assert other.decoder.frozen.unet.dtype == torch.bfloat16
    ids = torch.ones(1, 2, 2, dtype=torch.int64)
    torch.testing.assert_close(other.decode(ids), model.decode(ids), rtol=0, atol=0.1)


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """A tiny model in the layout of the published ones."""
    pytest.importorskip("transformers")
    from transformers import CLIPTextConfig, CLIPTextModel

    frozen = StableDiffusion(build(StableDiffusionConfig, TINY))
    frozen.unet.save_pretrained(tmp_path / "unet")
    frozen.vae.save_pretrained(tmp_path / "vae")
    torch.manual_seed(2)
    text = CLIPTextConfig(
        hidden_size=12, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=5
    )
    CLIPTextModel(text).save_pretrained(tmp_path / "text_encoder")
    return tmp_path


def test_a_model_is_read_from_a_folder_in_the_layout_of_diffusers(layout: Path):
    from transformers import CLIPTextModel

    ours = StableDiffusion(build(StableDiffusionConfig, {**TINY, "source": str(layout)}))
    known = StableDiffusion(build(StableDiffusionConfig, TINY))
    for part in ("unet", "vae"):
        theirs = getattr(known, part).state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in getattr(ours, part).state_dict().items())
    prompt = torch.tensor([[49406, 49407, 49407, 49407, 49407]])
    expected = CLIPTextModel.from_pretrained(layout / "text_encoder")(prompt).last_hidden_state
    torch.testing.assert_close(ours.empty_prompt, expected)


def test_a_model_of_other_sizes_is_refused(layout: Path):
    with pytest.raises(CheckpointError, match=r"other sizes.*num_heads 2 \(recipe: 4\)"):
        StableDiffusion(build(StableDiffusionConfig, {**TINY, "source": str(layout), "num_heads": 4}))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_model_that_cannot_be_read_is_an_error_with_a_remedy(layout: Path, part: str):
    for file in (layout / part).glob("*.safetensors"):
        file.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"cannot be read from .*CreativeML OpenRAIL-M.*source to the folder"):
        make(frozen={"source": str(layout)})


def test_pickled_weights_are_not_read(layout: Path):
    (weights,) = (layout / "unet").glob("*.safetensors")
    torch.save(torch.nn.Linear(2, 2).state_dict(), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(CheckpointError, match="with safetensors in"):
        StableDiffusion(build(StableDiffusionConfig, {**TINY, "source": str(layout)}))


def test_without_transformers_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fourm\[labelers\]'"):
        StableDiffusion(StableDiffusionConfig())


def test_the_default_sizes_are_those_of_stable_diffusion_1_5():
    with torch.device("meta"):
        frozen = StableDiffusion(StableDiffusionConfig())
    assert sum(p.numel() for p in frozen.unet.parameters()) == 859_520_964
    assert sum(p.numel() for p in frozen.vae.parameters()) == 83_653_863
    assert frozen.empty_prompt.shape == (1, 77, 768)


@pytest.mark.parametrize(
    ("modality", "values", "message"),
    [
        (Modality("d", Grid(2, 2, 8), Continuous(64), "d", "gray", channels=1, normalization="half"), {}, "1 channels"),
        (RGB, {"stem_widths": []}, "stem_widths is empty"),
        (RGB, {"frozen": {"image_size": 30}}, "image_size is 30; expected a multiple of 4"),
        (RGB, {"frozen": {"widths": [8, 13]}}, "not multiples of groups"),
    ],
)
def test_what_does_not_fit_is_refused(modality: Modality, values: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        make(modality, **values)
