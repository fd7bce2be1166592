"""Language models of transformers' Llama and ours are the same function, in either direction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fourm
from fourm.convert.llama import load_llama
from fourm.errors import CheckpointError
from fourm.generate.rows import RowSampling, _hidden, continue_rows, log_likelihood
from fourm.models.multimodal import Multimodal
from tests.end_to_end.conftest import run

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped queries": {"num_key_value_heads": 2},
    "biases": {"attention_bias": True, "num_key_value_heads": 1, "rms_norm_eps": 1e-5},
    "wide heads": {"head_dim": 16, "num_key_value_heads": 2, "attention_bias": True},
    "narrow heads": {"head_dim": 6},
    "tied": {"tie_word_embeddings": True, "mlp_bias": True, "rope_parameters": {"rope_theta": 500.0}},
}


def llama(seed: int = 0, **options: Any) -> Any:
    """A tiny random model of transformers, with weights so large that it has opinions."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes = {
        "hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 3, "num_attention_heads": 4,
        "vocab_size": 60, "max_position_embeddings": 64, "initializer_range": 0.3,
    }  # fmt: skip
    model = LlamaForCausalLM(LlamaConfig(**{**sizes, **options})).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:  # which begin as constants
            parameter.data.add_(0.2 * torch.randn(parameter.shape))
    return model


@pytest.fixture(params=list(KINDS))
def theirs(request: pytest.FixtureRequest) -> Any:
    return llama(**KINDS[request.param])


@pytest.fixture
def ours(theirs: Any, tmp_path: Path) -> Multimodal:
    theirs.save_pretrained(tmp_path / "llama")
    assert run("convert", "llama", tmp_path / "llama", tmp_path / "model") == 0
    return fourm.load_model(tmp_path / "model")


def ids(batch: int = 2, length: int = 20) -> Tensor:
    return torch.randint(60, (batch, length), generator=torch.Generator().manual_seed(3))


def logits(model: Multimodal, row: Tensor) -> Tensor:
    with torch.no_grad():
        return model.heads.logits("visual", _hidden(model, "visual", row))


def test_logits_are_the_same(theirs: Any, ours: Multimodal) -> None:
    with torch.no_grad():
        expected = theirs(ids()).logits
    assert expected.std() > 0.5
    torch.testing.assert_close(logits(ours, ids()), expected, atol=1e-5, rtol=1e-5)
    scores = expected.log_softmax(-1)[:, 11:-1].gather(-1, ids()[:, 12:, None])[..., 0]
    torch.testing.assert_close(
        log_likelihood(ours, "visual", ids()[:, :12], ids()[:, 12:]), scores, atol=1e-4, rtol=1e-5
    )


@pytest.mark.parametrize("cache", [True, False])
def test_generation_with_a_cache_takes_the_same_tokens(theirs: Any, ours: Multimodal, cache: bool) -> None:
    expected = theirs.generate(
        ids(),
        attention_mask=torch.ones_like(ids()),
        max_new_tokens=16,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    found = continue_rows(ours, "visual", ids(), 16, torch.arange(2), RowSampling(temperature=0, cache=cache))
    assert found.tolist() == expected[:, 20:].tolist()


def test_a_model_comes_back_as_it_was(theirs: Any, ours: Multimodal, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    assert run("convert", "to-llama", tmp_path / "model", tmp_path / "back") == 0
    again = LlamaForCausalLM.from_pretrained(tmp_path / "back").eval()
    assert again.state_dict().keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    with torch.no_grad():
        torch.testing.assert_close(again(ids()).logits, theirs(ids()).logits)


def test_transformers_generates_on_where_we_do(theirs: Any, ours: Multimodal, tmp_path: Path) -> None:
    """No id ends a sentence of codes, as 2 does a text of Llama."""
    from transformers import LlamaForCausalLM

    assert run("convert", "to-llama", tmp_path / "model", tmp_path / "back") == 0
    again = LlamaForCausalLM.from_pretrained(tmp_path / "back").eval()
    assert (again.config.bos_token_id, again.config.eos_token_id, again.config.pad_token_id) == (None, None, None)
    again.lm_head.weight.data.zero_()
    again.lm_head.weight.data[2] = again.model.norm.weight.data.sign()
    found = again.generate(ids()[:1], attention_mask=torch.ones_like(ids()[:1]), max_new_tokens=6, do_sample=True)
    assert found.shape == (1, 26)


def test_delvm_is_read_as_it_was_published(tmp_path: Path) -> None:
    """InternLM's config, half precision in a file of torch, and the frequencies of the rotary positions beside it."""
    theirs = llama(attention_bias=True)
    state = {name: value.half() for name, value in theirs.state_dict().items()}
    theirs.load_state_dict(state)
    for block in range(3):
        state[f"model.layers.{block}.self_attn.rotary_emb.inv_freq"] = 10_000 ** (-torch.arange(0, 8, 2) / 8)
    config = {
        "architectures": ["InternLMForCausalLM"], "model_type": "internlm", "bias": True, "hidden_act": "silu",
        "auto_map": {"AutoConfig": "configuration_internlm.InternLMConfig"}, "hidden_size": 32, "vocab_size": 60,
        "intermediate_size": 44, "num_attention_heads": 4, "num_hidden_layers": 3, "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "torch_dtype": "float16",
    }  # fmt: skip
    (tmp_path / "delvm").mkdir()
    (tmp_path / "delvm" / "config.json").write_text(json.dumps(config))
    torch.save(state, tmp_path / "delvm" / "pytorch_model.bin")
    assert run("convert", "llama", tmp_path / "delvm", tmp_path / "model") == 0
    ours = fourm.load_model(tmp_path / "model")
    assert ours.modalities["visual"].num_tokens == 2049
    with torch.no_grad():
        torch.testing.assert_close(logits(ours, ids()), theirs(ids()).logits, atol=1e-5, rtol=1e-5)


def test_the_tokenizer_has_to_make_ids_of_the_model(hub: Any, tmp_path: Path, capsys: Any) -> None:
    llama().save_pretrained(tmp_path / "llama")
    assert run("convert", "vqgan", hub("lvm_vqgan_small"), tmp_path / "vqgan") == 0
    options = ["convert", "llama", tmp_path / "llama", tmp_path / "model", "--tokenizer"]
    assert run(*options, tmp_path / "vqgan") == 1
    assert "has 512 codes, but 'visual' of this model 60" in capsys.readouterr().err
    assert run(*options, tmp_path) == 1
    assert not (tmp_path / "model").exists()


def test_weights_may_lie_in_several_files(tmp_path: Path) -> None:
    theirs = llama(num_key_value_heads=2)
    theirs.save_pretrained(tmp_path / "llama", max_shard_size="20KB")
    parts = sorted((tmp_path / "llama").glob("*.safetensors"))
    assert len(parts) > 2
    model = load_llama(tmp_path / "llama").network
    with torch.no_grad():
        torch.testing.assert_close(logits(model, ids()), theirs(ids()).logits, atol=1e-5, rtol=1e-5)
    parts[1].unlink()
    with pytest.raises(CheckpointError, match=f"has no {parts[1].name}"):
        load_llama(tmp_path / "llama")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act gelu; only silu"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            "rope_type linear; only default",
        ),
    ],
)
def test_what_a_trunk_has_not_is_refused(tmp_path: Path, options: Any, message: str) -> None:
    llama(**options).save_pretrained(tmp_path / "llama")
    with pytest.raises(CheckpointError, match=message):
        load_llama(tmp_path / "llama")


def test_another_model_has_no_place_in_llama(tmp_path: Path) -> None:
    from fourm import catalog
    from fourm.convert.llama import to_llama
    from fourm.modality import ModalitySet
    from fourm.models.configs import MultimodalConfig
    from fourm.models.folder import save_model

    modalities = ModalitySet([catalog.get("tok_rgb@64")])
    save_model(Multimodal(modalities, MultimodalConfig(16, 1, 1, 2)), tmp_path / "model")
    with pytest.raises(CheckpointError, match="this model has norm layernorm"):
        to_llama(tmp_path / "model", tmp_path / "out")
    with pytest.raises(CheckpointError, match="no language model of the Llama layout"):
        load_llama(tmp_path / "model")


def test_a_width_that_heads_do_not_divide_has_no_place_in_llama() -> None:
    from fourm.convert.llama import modalities, published_config
    from fourm.models.configs import MultimodalConfig
    from fourm.models.presets import LLAMA

    config = MultimodalConfig(32, 0, 1, 5, head_dim=6, rope_theta=1e4, mlp_hidden_dim=44, **LLAMA)
    model = Multimodal(modalities({"vocab_size": 60, "max_position_embeddings": 64}), config)
    with pytest.raises(CheckpointError, match="whose width, 32, is no multiple of its 5 heads"):
        published_config(model)


def test_frozen_codes_are_multiplied_out(tmp_path: Path) -> None:
    """As DeLVM was published: transformers has one table of embeddings."""
    from transformers import LlamaForCausalLM

    from fourm.convert.llama import modalities, to_llama
    from fourm.models.configs import MultimodalConfig
    from fourm.models.folder import save_model

    values = {"preset": "delvm_300m", "dim": 32, "num_heads": 4, "mlp_hidden_dim": 44, "decoder_depth": 2}
    config = MultimodalConfig(**MultimodalConfig.expand({**values, "code_dim": 6, "init_std": 0.3, "head_std": 0.3}))
    own = modalities({"vocab_size": 60, "max_position_embeddings": 64})
    model = Multimodal(own, config).eval()
    model.set_codes({"visual": torch.randn(60, 6, generator=torch.Generator().manual_seed(0))})
    save_model(model, tmp_path / "model")
    again = fourm.load_model(tmp_path / "model")
    torch.testing.assert_close(logits(again, ids()), logits(model, ids()))
    to_llama(tmp_path / "model", tmp_path / "llama")
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "llama").eval()
    assert theirs.config.attention_bias
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids()).logits, logits(model, ids()), atol=1e-5, rtol=1e-5)


def test_qwen2_has_biases_of_queries_keys_and_values_alone(tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=32, intermediate_size=44, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=60, max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.add_(torch.randn(parameter.shape))
    model.save_pretrained(tmp_path)

    found = load_llama(tmp_path).network

    assert (found.config.qkv_bias, found.config.proj_bias) == (True, False)
    assert (logits(found, ids()) - model(ids()).logits).abs().max() < 1e-4


def test_a_sliding_window_is_refused(tmp_path: Path) -> None:
    model = llama()
    model.config.use_sliding_window = True
    model.save_pretrained(tmp_path)

    with pytest.raises(CheckpointError, match="use_sliding_window True; only False"):
        load_llama(tmp_path)


def vocabulary(path: Path) -> None:
    """A tokenizer of 60 words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"user": 0, "the": 1, "[UNK]": 2, **{f"w{i}": i for i in range(3, 60)}}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(path))


@pytest.mark.parametrize("tied", [False, True])
def test_new_tokens_begin_as_the_mean_of_all_rows_or_of_words(tmp_path: Path, tied: bool) -> None:
    from tokenizers import Tokenizer

    theirs = llama(tie_word_embeddings=tied)
    theirs.save_pretrained(tmp_path / "llama")
    vocabulary(tmp_path / "llama/tokenizer.json")
    options = ("--modality", "text", "--add", "[IMG]", "--add", "[USER]=the user")

    assert run("convert", "llama", tmp_path / "llama", tmp_path / "model", *options) == 0
    model = fourm.load_model(tmp_path / "model")

    assert model.modalities["text"].vocab_size == 62
    for table, rows in (
        (model.input_embedder.table.weight, theirs.get_input_embeddings().weight),
        (model.heads.weight, theirs.lm_head.weight),
    ):
        assert torch.equal(table[:60], rows)
        assert torch.allclose(table[60], rows.mean(0))
        assert torch.allclose(table[61], (rows[0] + rows[1]) / 2)
    tokenizer = Tokenizer.from_file(str(tmp_path / "model/tokenizers/text.json"))
    assert tokenizer.encode("w5[IMG]the").ids == [5, 60, 1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--add", "[IMG]"], "add --modality text"),
        (["--modality", "text", "--add", "user"], "has the token user already"),
        (["--modality", "text", "--add", "[IMG]", "--text-tokenizer", "nowhere.json"], "nowhere.json is missing"),
        (["--modality", "text", "--add", "[IMG]= "], "knows nothing"),
    ],
)
def test_tokens_that_cannot_be_added_are_named(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    llama().save_pretrained(tmp_path / "llama")
    vocabulary(tmp_path / "llama/tokenizer.json")

    assert run("convert", "llama", tmp_path / "llama", tmp_path / "model", *options) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows_gives_it_more(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    theirs = llama()
    theirs.save_pretrained(tmp_path / "llama")
    vocabulary(tmp_path / "own.json")
    tokenizer = Tokenizer.from_file(str(tmp_path / "own.json"))
    tokenizer.add_special_tokens(["[IMG]", "[/IMG]"])
    tokenizer.save(str(tmp_path / "own.json"))
    options = ("--modality", "text", "--text-tokenizer", tmp_path / "own.json", "--add", "[IMG]=user")

    assert run("convert", "llama", tmp_path / "llama", tmp_path / "model", *options) == 0

    table, rows = fourm.load_model(tmp_path / "model").heads.weight, theirs.lm_head.weight
    assert len(table) == 62
    assert torch.equal(table[60], rows[0])
    assert torch.allclose(table[61], rows.mean(0))
