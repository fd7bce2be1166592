"""A tower, a projector and a language model of transformers, put together as LLaVA and VILA do, are our model."""

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
from fourm.convert.vila import load_vila
from fourm.errors import CheckpointError
from fourm.models.multimodal import Multimodal
from fourm.objectives.autoregressive import Autoregressive
from fourm.objectives.configs import AutoregressiveConfig
from fourm.recipe.bundle import load_bundle
from fourm.rng import generator
from fourm.tokens import Segment
from tests.end_to_end.conftest import run
from tests.parity.test_llama import llama

PROJECTOR = "mm_projector/model.safetensors"
BEFORE, AFTER = [1, 5, 9], [7, 7, 20, 33]
CASES = {
    "clip, linear": ("clip", "linear", "patch"),
    "clip with its class token, mlp": ("clip", "mlp2x_gelu", "cls_patch"),
    "siglip, downsample": ("siglip", "mlp_downsample", "cls_patch"),
    "siglip, fixed downsample": ("siglip", "mlp_downsample_2x2_fix", "patch"),
    "siglip, 3 x 3": ("siglip", "mlp_downsample_3x3_fix", "patch"),
}


def tower(kind: str) -> Any:
    """A tiny random tower of 5 x 5 patches; a pixel on the right and at the bottom is no part of any."""
    from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(1)
    sizes = {"hidden_size": 24, "intermediate_size": 31, "num_hidden_layers": 3, "num_attention_heads": 2}
    images = {"image_size": 21 if kind == "siglip" else 20, "patch_size": 4}
    network, config = (CLIPVisionModel, CLIPVisionConfig) if kind == "clip" else (SiglipVisionModel, SiglipVisionConfig)
    made = network(config(**sizes, **images)).eval()
    for name, parameter in made.named_parameters():
        if "layers" in name or "embed" in name:
            parameter.data.add_(0.2 * torch.randn(parameter.shape))
    return made


class Downsample(nn.Module):
    """Squares of the map side by side, in the order of the tokens that a version has."""

    def __init__(self, side: int, by_columns: bool) -> None:
        super().__init__()
        self.side, self.by_columns = side, by_columns

    def forward(self, x: Tensor) -> Tensor:
        maps = x.transpose(1, 2).unflatten(2, (5, 5))
        maps = F.pad(maps, (0, -5 % self.side, 0, -5 % self.side))
        # `unfold` gives channels first; VILA has the places of a square first.
        squares = F.unfold(maps, self.side, stride=self.side).unflatten(1, (24, -1)).transpose(1, 2).flatten(1, 2)
        count = maps.shape[-1] // self.side
        grid = squares.unflatten(2, (count, count))
        return (grid.transpose(2, 3) if self.by_columns else grid).flatten(2).transpose(1, 2)


def projector(kind: str, dim: int = 32) -> nn.Module:
    torch.manual_seed(2)
    if kind == "linear":
        return nn.Linear(24, dim)
    if kind == "mlp2x_gelu":
        return nn.Sequential(nn.Linear(24, dim), nn.GELU(), nn.Linear(dim, dim))
    if kind == "mlp_downsample_3x3_fix":
        return nn.Sequential(
            Downsample(3, False), nn.LayerNorm(216), nn.Linear(216, 72), nn.GELU(), nn.LayerNorm(72),
            nn.Linear(72, dim), nn.GELU(), nn.Linear(dim, dim),
        )  # fmt: skip
    return nn.Sequential(
        Downsample(2, kind == "mlp_downsample"), nn.LayerNorm(96), nn.Linear(96, dim), nn.GELU(), nn.Linear(dim, dim)
    )


def write(folder: Path, kind: str, layers: str, feature: str, **language: Any) -> tuple[Any, Any, nn.Module]:
    """The parts, saved as VILA saves them; `language` are options of the language model."""
    parts = llama(num_key_value_heads=2, **language), tower(kind), projector(layers)
    parts[0].save_pretrained(folder / "llm")
    parts[1].save_pretrained(folder / "vision_tower")
    (folder / "mm_projector").mkdir()
    save_file({f"layers.{k}": v for k, v in parts[2].state_dict().items()}, folder / "mm_projector/model.safetensors")
    (folder / "mm_projector/config.json").write_text(
        json.dumps({"model_type": "v2l_projector", "mm_projector_type": layers})
    )
    (folder / "config.json").write_text(
        json.dumps({"mm_vision_select_layer": -2, "mm_vision_select_feature": feature, "mm_hidden_size": 24})
    )
    return parts


@torch.no_grad()
def theirs(parts: Any, image: Tensor, kind: str, feature: str) -> Tensor:
    """Logits of a row: text, an image, text."""
    language, seeing, project = parts
    hidden = seeing(pixel_values=image, output_hidden_states=True).hidden_states[-2]
    vectors = project(hidden[:, 1:] if kind == "clip" and feature == "patch" else hidden)
    embed = language.get_input_embeddings()
    row = torch.cat([embed(torch.tensor([BEFORE])), vectors, embed(torch.tensor([AFTER]))], 1)
    return language(inputs_embeds=row).logits[0]


@torch.no_grad()
def ours(model: Multimodal, image: Tensor) -> Tensor:
    """The same; what comes last is asked and not read, so that one more token is put behind."""
    row = [
        Segment("text", np.array(BEFORE)), Segment("image", image[0].numpy(), False),
        Segment("text", np.array([*AFTER, 0])),
    ]  # fmt: skip
    task = Autoregressive(AutoregressiveConfig(), model.modalities)
    table = task.collate([task.prepare([row], generator(0, "row"))]).decoder
    return model.heads.logits("text", model.decode(table)[0])


@pytest.mark.parametrize("case", list(CASES))
def test_logits_of_a_converted_folder_are_those_of_its_parts(case: str, tmp_path: Path) -> None:
    kind, layers, feature = CASES[case]
    parts = write(tmp_path / "vila", kind, layers, feature)
    size = 21 if kind == "siglip" else 20
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))

    assert run("convert", "vila", tmp_path / "vila", tmp_path / "model") == 0
    model = fourm.load_model(tmp_path / "model")

    expected, found = theirs(parts, image, kind, feature), ours(model, image)
    assert expected.std() > 0.5
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-4
    assert model.modalities["image"].normalization == ("half" if kind == "siglip" else "clip")


def test_a_language_model_may_share_its_embeddings_with_its_head(tmp_path: Path) -> None:
    parts = write(tmp_path / "vila", "siglip", "mlp_downsample_2x2_fix", "patch", tie_word_embeddings=True)
    image = torch.randn(1, 3, 21, 21, generator=torch.Generator().manual_seed(0))

    assert run("convert", "vila", tmp_path / "vila", tmp_path / "model") == 0

    expected = theirs(parts, image, "siglip", "patch")
    assert (ours(fourm.load_model(tmp_path / "model"), image) - expected).abs().max() < 1e-4


def test_every_tensor_is_taken_or_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = write(tmp_path, "siglip", "mlp_downsample", "patch")

    loaded = load_vila(tmp_path)

    unread = {name for name in loaded.published.tensors if name in loaded.imported.kept}
    behind = {
        f"vision_tower.{name}"
        for name in parts[1].state_dict()
        if name.startswith(("post_", "head", "encoder.layers.2"))
    }
    assert unread == behind
    total = sum(p.numel() for part in parts for p in part.parameters())
    numbers = sum(t.numel() for t in loaded.network.state_dict().values())
    assert numbers == total - sum(loaded.published.tensors[name].numel() for name in unread)
    assert run("convert", "vila", tmp_path, tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert f"{len(unread)} tensors are not read, such as vision_tower." in printed
    assert "21 x 21 pixels as 9 tokens" in printed
    assert "without a text tokenizer" in printed


def test_a_tokenizer_of_the_language_model_comes_along(tmp_path: Path) -> None:
    write(tmp_path / "vila", "clip", "linear", "patch")
    (tmp_path / "vila/llm/tokenizer.json").write_text("{}")

    assert run("convert", "vila", tmp_path / "vila", tmp_path / "model") == 0

    assert (tmp_path / "model/tokenizers/text.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("names", "start", "user"),
    [
        (["<unk>", "<s>", "</s>"], "<s>", "USER: "),
        (["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>"], "<|begin_of_text|>", "user<|end_header_id|>"),
        (["<|endoftext|>", "<|im_start|>", "<|im_end|>"], None, "<|im_start|>user"),
    ],
)
def test_the_vocabulary_tells_how_conversations_are_written(
    names: list[str], start: str | None, user: str, tmp_path: Path
) -> None:
    from tokenizers import AddedToken, Tokenizer, models

    tokenizer = Tokenizer(models.WordLevel({name: n for n, name in enumerate(names)}, unk_token=names[0]))
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
    write(tmp_path / "vila", "clip", "linear", "patch")
    tokenizer.save(str(tmp_path / "vila/llm/tokenizer.json"))

    assert run("convert", "vila", tmp_path / "vila", tmp_path / "model") == 0

    form = load_bundle(tmp_path / "model").documents
    assert form is not None
    assert form.chat is not None
    assert (form.start, form.image_begin, form.after_image) == (start, None, "\n")
    assert user in form.chat.user


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda f: save_file({"layers.weight": torch.zeros(32, 24), "x": torch.zeros(1)}, f / PROJECTOR),
         ["missing: mm_projector.layers.bias", "without a place: mm_projector.x"]),
        (lambda f: change(f / "mm_projector/config.json", mm_projector_type="cabs"), ["cabs", "mlp_downsample"]),
        (lambda f: change(f / "vision_tower/config.json", model_type="vit_mae"), ["vit_mae", "siglip_vision_model"]),
        (lambda f: change(f / "vision_tower/config.json", layer_norm_eps=1e-3), ["layer_norm_eps 0.001", "1e-05"]),
        (lambda f: change(f / "config.json", s2=True), ["s2 is true in config.json", "several scales"]),
        (lambda f: (f / "mm_projector").rename(f / "projector"), ["no folder mm_projector", "llm, vision_tower"]),
    ],
)  # fmt: skip
def test_what_cannot_be_converted_is_refused_and_named(break_it: Any, words: list[str], tmp_path: Path) -> None:
    write(tmp_path / "vila", "clip", "linear", "patch")
    break_it(tmp_path / "vila")

    with pytest.raises(CheckpointError) as error:
        load_vila(tmp_path / "vila")

    assert all(word in str(error.value) for word in words), error.value
