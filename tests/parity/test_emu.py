"""Emu and Emu2 from the published names: towers written out, T5 and Llama of transformers give the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import fourm
from fourm.convert.emu import load_emu
from fourm.data.document_form import DocumentForm
from fourm.errors import CheckpointError
from fourm.models.multimodal import Multimodal
from fourm.nn.position import relative_bucket
from fourm.objectives.autoregressive import Autoregressive
from fourm.objectives.configs import AutoregressiveConfig
from fourm.recipe.bundle import load_bundle
from fourm.rng import generator
from fourm.tokens import Segment
from tests.end_to_end.conftest import run
from tests.parity.test_llama import llama

State = dict[str, Tensor]
BEFORE, AFTER = [1, 5, 9], [7, 20, 33]
WIDTHS = {"emu": 176, "emu2": 224}
QUERIES, T5_DIM, TEXT_DIM = 5, 32, 256


def tower(width: int, seed: int = 0) -> State:
    """Random tensors of an EVA of 4 x 4 patches and two blocks."""
    torch.manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width), "pos_embed": (1, 17, width), "patch_embed.proj.weight": (width, 3, 2, 2),
        "patch_embed.proj.bias": (width,),
    }  # fmt: skip
    for i in range(2):
        block = {
            "norm1.weight": (width,), "norm1.bias": (width,), "norm2.weight": (width,), "norm2.bias": (width,),
            "attn.q_bias": (width,), "attn.v_bias": (width,), "attn.qkv.weight": (3 * width, width),
            "attn.proj.weight": (width, width), "attn.proj.bias": (width,), "mlp.fc1.weight": (40, width),
            "mlp.fc1.bias": (40,), "mlp.fc2.weight": (width, 40), "mlp.fc2.bias": (width,),
        }  # fmt: skip
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    return {k: torch.randn(s) * (0.5 if len(s) < 2 else s[-1] ** -0.5) for k, s in shapes.items()}


def eva(state: State, image: Tensor, heads: int, post_norm: bool) -> Tensor:
    """The tower as published: keys have no bias; Emu2 normalises what a layer gives, and not what it reads."""
    width = state["cls_token"].shape[-1]
    x = F.conv2d(image, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=2)
    x = torch.cat([state["cls_token"], x.flatten(2).transpose(1, 2)], 1) + state["pos_embed"]
    for i in range(2):
        part = {k.removeprefix(f"blocks.{i}."): v for k, v in state.items() if k.startswith(f"blocks.{i}.")}

        def norm(number: int, y: Tensor, part: State = part) -> Tensor:
            return F.layer_norm(y, (width,), part[f"norm{number}.weight"], part[f"norm{number}.bias"], 1e-6)

        def attention(y: Tensor, part: State = part) -> Tensor:
            bias = torch.cat([part["attn.q_bias"], torch.zeros(width), part["attn.v_bias"]])
            q, k, v = F.linear(y, part["attn.qkv.weight"], bias).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            seen = (q @ k.transpose(-2, -1) * (width // heads) ** -0.5).softmax(-1) @ v
            return F.linear(seen.transpose(1, 2).flatten(2), part["attn.proj.weight"], part["attn.proj.bias"])

        def mlp(y: Tensor, part: State = part) -> Tensor:
            hidden = F.gelu(F.linear(y, part["mlp.fc1.weight"], part["mlp.fc1.bias"]))
            return F.linear(hidden, part["mlp.fc2.weight"], part["mlp.fc2.bias"])

        x = x + (norm(1, attention(x)) if post_norm else attention(norm(1, x)))
        x = x + (norm(2, mlp(x)) if post_norm else mlp(norm(2, x)))
    return x


def c_former(width: int) -> Any:
    """T5's decoder, which attends to vectors of another width."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(3)
    config = T5Config(
        d_model=T5_DIM, d_kv=16, num_heads=2, d_ff=48, num_layers=2, vocab_size=11, relative_attention_num_buckets=4,
        relative_attention_max_distance=128, dropout_rate=0.0, initializer_factor=1.0,
    )  # fmt: skip
    decoder = T5ForConditionalGeneration(config).decoder.eval()
    for block in decoder.block:
        for name in ("k", "v"):
            setattr(block.layer[1].EncDecAttention, name, nn.Linear(width, T5_DIM, bias=False))
    for name, parameter in decoder.named_parameters():
        if "layer_norm" in name or "relative" in name:
            parameter.data.add_(0.5 * torch.randn(parameter.shape))
    return decoder


class Published:
    """A tiny random model of either version, with the names of its tensors, and what it computes."""

    def __init__(self, version: str) -> None:
        self.version, width = version, WIDTHS[version]
        self.visual, self.language = tower(width), llama(
            hidden_size=TEXT_DIM, num_attention_heads=2, vocab_size=60, initializer_range=0.08
        )  # fmt: skip
        torch.manual_seed(4)
        self.state = {f"visual.{k}": v for k, v in self.visual.items()}
        self.state |= {f"decoder.lm.{k}": v for k, v in self.language.state_dict().items()}
        if version == "emu":
            self.norm, self.resampler, self.last = nn.LayerNorm(width), c_former(width), nn.Linear(T5_DIM, TEXT_DIM)
            self.norm.eps, self.queries = 1e-6, torch.randn(1, QUERIES, T5_DIM)
            self.norm.weight.data.add_(torch.randn(width))
            self.head = torch.randn(TEXT_DIM, TEXT_DIM) / 16
            self.state |= {f"ln_visual.{k}": v for k, v in self.norm.state_dict().items()}
            self.state |= {f"cformer.cformer.{k}": v for k, v in self.resampler.state_dict().items()}
            self.state |= {f"cformer.projection.{k}": v for k, v in self.last.state_dict().items()}
            self.state |= {"cformer.causal_tokens": self.queries, "decoder.lm.stu_regress_head.weight": self.head}
        else:
            self.up, self.head = torch.randn(TEXT_DIM, width) / 15, torch.randn(width, TEXT_DIM) / 16
            self.state |= {"decoder.lm.project_up.weight": self.up, "decoder.lm.project_down.weight": self.head}
        self.state = {k: v.detach().clone() for k, v in self.state.items()}

    @torch.no_grad()
    def vectors(self, image: Tensor) -> Tensor:
        """What is regressed."""
        x = eva(self.visual, image, 2, self.version == "emu2")
        if self.version == "emu2":
            return F.avg_pool2d(x[:, 1:].transpose(1, 2).unflatten(2, (4, 4)), 2).flatten(2).transpose(1, 2)
        found = self.resampler(inputs_embeds=self.queries, encoder_hidden_states=self.norm(x), use_cache=False)
        return self.last(found.last_hidden_state)

    @torch.no_grad()
    def answers(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and vectors that every place of a row predicts: text, an image, text."""
        embed, vectors = self.language.get_input_embeddings(), self.vectors(image)
        read = vectors @ self.up.T if self.version == "emu2" else vectors
        row = torch.cat([embed(torch.tensor([BEFORE])), read, embed(torch.tensor([AFTER]))], 1)
        hidden = self.language.model(inputs_embeds=row).last_hidden_state[0]
        return self.language.lm_head(hidden), hidden @ self.head.T


@pytest.fixture(scope="module", params=["emu", "emu2"])
def theirs(request: pytest.FixtureRequest) -> Published:
    return Published(request.param)


def image() -> Tensor:
    return torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def write(model: Published, folder: Path) -> Path:
    """As published: Emu a file of torch in `multimodal_encoder`, Emu2 with the names of transformers."""
    inner = folder / "multimodal_encoder"
    inner.mkdir(parents=True)
    if model.version == "emu":
        torch.save(model.state, inner / "pytorch_model.bin")
        return folder
    renamed = {f"model.{k}" if "project" not in k else k.removeprefix("decoder.lm."): v for k, v in model.state.items()}
    save_file(renamed, inner / "model.safetensors")
    (inner / "config.json").write_text(json.dumps({"hidden_size": TEXT_DIM, "num_attention_heads": 2}))
    return folder


def convert(version: str, source: Path, out: Path) -> Multimodal:
    options = ["--num-tokens", 4] if version == "emu2" else []
    assert run("convert", version, source, out, *options) == 0
    return fourm.load_model(out)


@torch.no_grad()
def ours(model: Multimodal, given: Tensor) -> tuple[Tensor, Tensor]:
    row = [
        Segment("text", np.array(BEFORE)), Segment("image", given[0].numpy()), Segment("text", np.array([*AFTER, 0])),
    ]  # fmt: skip
    task = Autoregressive(AutoregressiveConfig(), model.modalities)
    table = task.collate([task.prepare([row], generator(0, "row"))]).decoder
    hidden = model.decode(table)[0]
    return model.heads.logits("text", hidden), model.vector_heads["image"](hidden, table.position[0])


def test_a_converted_model_makes_and_predicts_the_published_numbers(theirs: Published, tmp_path: Path) -> None:
    model = convert(theirs.version, write(theirs, tmp_path / "published"), tmp_path / "model")

    with torch.no_grad():
        made = model.input_embedder.feeders["image"](image())
    logits, vectors = ours(model, image())
    expected_logits, expected_vectors = theirs.answers(image())

    assert (made - theirs.vectors(image())).abs().max() < 1e-4
    assert expected_logits.std() > 0.5
    assert (logits - expected_logits).abs().max() < 1e-4
    assert (vectors - expected_vectors).abs().max() < 1e-4
    assert model.modalities["image"].normalization == "clip"


def test_a_converted_model_knows_how_its_documents_are_written(theirs: Published, tmp_path: Path) -> None:
    published = write(theirs, tmp_path / "published")
    convert(theirs.version, published, tmp_path / "gen")
    convert(theirs.version, published / "multimodal_encoder", tmp_path / "base")

    gen, base = (load_bundle(tmp_path / name).documents for name in ("gen", "base"))

    is_second = theirs.version == "emu2"
    assert gen == DocumentForm("<s>", "[IMG]", "[/IMG]", phrases="emu2_gen" if is_second else None)
    assert base == DocumentForm("<s>", "[IMG]", "[/IMG]", phrases="emu2" if is_second else None)


def test_older_names_and_wrappers_are_known(theirs: Published, tmp_path: Path) -> None:
    older = {
        k.replace("lm.project_down", "lm.stu_regress_head").replace("decoder.lm.project_up", "vl_adapter.projection"): v
        for k, v in theirs.state.items()
    }
    torch.save({"module": {f"module.{k}": v.bfloat16() for k, v in older.items()}}, tmp_path / "emu.pt")

    torch.save({k: v.bfloat16().float() for k, v in theirs.state.items()}, tmp_path / "plain.pt")

    older_state, state = (
        load_emu(tmp_path / name, theirs.version, 4).network.state_dict() for name in ("emu.pt", "plain.pt")
    )

    assert all(torch.equal(older_state[name], state[name]) for name in state)


def test_every_tensor_is_taken_or_named(theirs: Published, tmp_path: Path) -> None:
    more = {"visual.norm.weight": torch.ones(3), "visual.head.bias": torch.ones(3)}
    torch.save({**theirs.state, **more}, tmp_path / "emu.pt")
    loaded = load_emu(tmp_path / "emu.pt", theirs.version, 4)
    unread = {*more, *([] if theirs.version == "emu2" else ["cformer.cformer.embed_tokens.weight"])}

    assert set(loaded.imported.kept) == unread
    numbers = sum(v.numel() for v in loaded.network.state_dict().values())
    assert numbers == sum(v.numel() for k, v in theirs.state.items() if k not in unread)

    torch.save({**theirs.state, "visual.blocks.0.ls1.gamma": torch.ones(3)}, tmp_path / "emu.pt")
    with pytest.raises(CheckpointError, match="without a place: visual.blocks.0.ls1.gamma"):
        load_emu(tmp_path / "emu.pt", theirs.version, 4)
    first = next(k for k in theirs.state if k.endswith("mlp.fc2.bias"))
    torch.save({k: v for k, v in theirs.state.items() if k != first}, tmp_path / "emu.pt")
    with pytest.raises(CheckpointError, match=f"missing: {first}"):
        load_emu(tmp_path / "emu.pt", theirs.version, 4)


@pytest.mark.parametrize("middle", ["", ".default"])
def test_lora_of_emu_i_is_merged(tmp_path: Path, middle: str) -> None:
    theirs, state = Published("emu"), {}
    for name, value in theirs.state.items():
        own = name.replace("decoder.lm.model", "decoder.lm.base_model.model.model").replace(
            "decoder.lm.lm_head", "decoder.lm.base_model.model.lm_head"
        )
        if name.endswith("self_attn.q_proj.weight"):
            first, second = torch.randn(8, TEXT_DIM) / 16, torch.randn(TEXT_DIM, 8) / 4
            stem = own.removesuffix(".weight")
            state |= {f"{stem}.lora_A{middle}.weight": first, f"{stem}.lora_B{middle}.weight": second}
            theirs.language.state_dict()[name.removeprefix("decoder.lm.")].add_(16 / 8 * second @ first)
        state[own] = value
    torch.save(state, tmp_path / "emu.pt")

    model = load_emu(tmp_path / "emu.pt", "emu").network

    assert (ours(model, image())[0] - theirs.answers(image())[0]).abs().max() < 1e-4


def test_one_version_is_not_taken_for_the_other(theirs: Published, tmp_path: Path) -> None:
    torch.save(theirs.state, tmp_path / "emu.pt")
    other = "emu2" if theirs.version == "emu" else "emu"

    with pytest.raises(CheckpointError, match=f"no model of {other}.*it looks like {theirs.version}"):
        load_emu(tmp_path / "emu.pt", other)


def test_distances_fall_into_the_buckets_of_t5() -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    back = torch.arange(-3, 300)
    expected = T5Attention._relative_position_bucket(-back, bidirectional=False, num_buckets=32, max_distance=128)

    assert torch.equal(relative_bucket(back.float(), 32, 128), expected)
