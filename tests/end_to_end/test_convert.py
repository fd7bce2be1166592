"""Published checkpoints in all their forms become folders of fourm, and come back byte for byte."""

from __future__ import annotations

import argparse
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import fourm
from fourm import catalog
from fourm.convert import checkpoints
from fourm.errors import CheckpointError, FourmError
from fourm.modality import ModalitySet
from fourm.models.configs import MultimodalConfig
from fourm.models.folder import save_model
from fourm.models.multimodal import Multimodal
from fourm.recipe.bundle import load_bundle
from fourm.registry import implementation
from fourm.tokenizers import published_text
from fourm.tokenizers.configs import VQVAEConfig
from fourm.tokenizers.network_configs import MLPConfig
from fourm.tokenizers.quantizer_configs import MemcodesConfig
from fourm.tokenizers.text import train_wordpiece
from tests.end_to_end.conftest import run

NAMES = ["rgb@224", "tok_depth@224", "tok_dinov2_global", "color_palette"]
DIM = 16


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of ours, with tied heads as in training."""
    config = MultimodalConfig(dim=DIM, encoder_depth=1, decoder_depth=1, num_heads=2, tie_heads=True)
    folder = tmp_path_factory.mktemp("trained") / "model"
    save_model(Multimodal(ModalitySet(map(catalog.get, NAMES)), config, seed=1), folder)
    return folder


@pytest.fixture(scope="module")
def published(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in the published layout."""
    folder = tmp_path_factory.mktemp("hub") / "someones-4m"
    assert run("convert", "to-ml4m", trained, folder) == 0
    return folder


@pytest.fixture(scope="module")
def poses(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tokenizer of body poses."""
    mlp = MLPConfig(width=16, depth=1)
    config = VQVAEConfig(encoder=mlp, decoder=mlp, quantizer=MemcodesConfig(8, 32, 64))
    folder = tmp_path_factory.mktemp("poses") / "model"
    torch.manual_seed(0)
    implementation(config.target)(catalog.get("smpl_pose"), config).save(folder)
    return folder


def scores(model: Multimodal) -> torch.Tensor:
    given = {"tok_depth@224": {"ids": torch.tensor([[5, 6]]), "positions": torch.tensor([[0, 9]])}}
    asked = {"color_palette": {"ids": torch.tensor([[5, 1207, 214, 3]])}}
    with torch.no_grad():
        return model.logits(given, asked)["color_palette"]


def one_file(folder: Path, path: Path) -> Path:
    """The form with its config in the metadata."""
    config = json.loads((folder / "config.json").read_text())
    save_file(load_file(folder / "model.safetensors"), path, {key: str(value) for key, value in config.items()})
    return path


def training_file(folder: Path, path: Path) -> Path:
    """What the public training writes: arguments without the model's sizes, optimizer and all."""
    arguments = argparse.Namespace(model="fm_mine", epochs=3, num_heads=2, output_dir="out")
    state = load_file(folder / "model.safetensors")
    torch.save({"model": state, "epoch": 3, "args": arguments, "optimizer": {"state": {}}, "scaler": None}, path)
    return path


@pytest.mark.parametrize("form", ["folder", "one.safetensors", "checkpoint-final.pth"])
def test_every_form_computes_what_ours_computes(trained: Path, published: Path, tmp_path: Path, form: str) -> None:
    source = published
    if form.endswith("safetensors"):
        source = one_file(published, tmp_path / form)
    elif form.endswith("pth"):
        source = training_file(published, tmp_path / form)
    expected = scores(fourm.load_model(trained))

    torch.testing.assert_close(scores(fourm.load_model(source)), expected, atol=1e-6, rtol=0)
    assert run("convert", "ml4m", source, tmp_path / "out") == 0
    torch.testing.assert_close(scores(fourm.load_model(tmp_path / "out")), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("end", ["folder", "file.safetensors"])
def test_a_round_trip_gives_the_bytes_back(published: Path, tmp_path: Path, end: str) -> None:
    state = load_file(published / "model.safetensors")
    drawn = torch.Generator().manual_seed(0)
    unread = "decoder_embeddings.tok_depth@224.token_emb.weight"
    state[unread] = torch.randn(state[unread].shape, generator=drawn)
    (tmp_path / "hub").mkdir()
    save_file(state, tmp_path / "hub" / "model.safetensors")
    config = json.loads((published / "config.json").read_text())
    (tmp_path / "hub" / "config.json").write_text(json.dumps(config))

    assert run("convert", "ml4m", tmp_path / "hub", tmp_path / "ours") == 0
    assert run("convert", "to-ml4m", tmp_path / "ours", tmp_path / end) == 0

    back = tmp_path / end / "model.safetensors" if end == "folder" else tmp_path / end
    again = load_file(back)
    assert again.keys() == state.keys()
    assert all(again[key].numpy().tobytes() == state[key].numpy().tobytes() for key in state)
    if end == "folder":
        assert json.loads((tmp_path / end / "config.json").read_text()) == config


def test_a_model_of_other_modalities_comes_back_from_its_own_export(tmp_path: Path) -> None:
    modalities = catalog.resolve(
        {"tok_depth@64": {}, "radar": {"layout": {"kind": "grid", "height": 4, "width": 4, "patch_size": 8},
         "content": {"kind": "discrete", "vocab_size": 77}, "source": "radar", "decode": "tokens"}}
    )  # fmt: skip
    config = MultimodalConfig(dim=DIM, encoder_depth=1, decoder_depth=1, num_heads=1)
    save_model(Multimodal(modalities, config), tmp_path / "model")

    assert run("convert", "to-ml4m", tmp_path / "model", tmp_path / "hub") == 0

    loaded = fourm.load_model(tmp_path / "hub")
    assert dict(loaded.modalities) == dict(sorted(modalities.items()))


def test_a_tokenizer_goes_out_and_comes_back(poses: Path, tmp_path: Path, capsys: Any) -> None:
    assert run("convert", "to-ml4m", poses, tmp_path / "hub") == 0
    assert run("convert", "ml4m", tmp_path / "hub", tmp_path / "ours") == 0
    assert "encodes smpl_pose into 32 codes" in capsys.readouterr().out
    x = torch.randn(3, 207, 1, 1)
    ours, back = fourm.load_tokenizer(poses), fourm.load_tokenizer(tmp_path / "ours")
    assert torch.equal(ours.encode(x), back.encode(x))
    assert torch.equal(fourm.load_tokenizer(tmp_path / "hub").decode(ours.encode(x)), ours.decode(ours.encode(x)))


def test_a_network_that_was_never_published_stays(tmp_path: Path, capsys: Any) -> None:
    config = VQVAEConfig()
    implementation(config.target)(catalog.get("rgb@64"), config).save(tmp_path / "conv")
    assert run("convert", "to-ml4m", tmp_path / "conv", tmp_path / "hub") == 1
    assert "has no counterpart in the published layout" in capsys.readouterr().err
    assert not (tmp_path / "hub").exists()


def test_loading_takes_little_more_memory_than_the_file(tmp_path: Path) -> None:
    """Measured in a process of its own, on a model of which tables that have to be joined are the larger part."""
    import subprocess
    import sys

    names = ["caption", "det", "metadata", "sam_instance", "color_palette", "human_poses", "rgb@224"]
    config = MultimodalConfig(dim=256, encoder_depth=2, decoder_depth=2, num_heads=4, tie_heads=False)
    save_model(Multimodal(ModalitySet(map(catalog.get, names)), config), tmp_path / "model")
    assert run("convert", "to-ml4m", tmp_path / "model", tmp_path / "hub") == 0
    size = (tmp_path / "hub" / "model.safetensors").stat().st_size
    code = """
import resource, sys, torch
import fourm, fourm.convert.job, fourm.models.multimodal, fourm.recipe.bundle, safetensors.torch
rss = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = rss()
model = fourm.load_model(sys.argv[1])
total = sum(float(p.sum()) for p in model.parameters())
print(rss() - before)
"""
    for folder in ("hub", "model"):
        ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / folder)], capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        assert int(ended.stdout) <= 1.3 * size, folder


@pytest.fixture
def broken(published: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    folder = tmp_path / "broken"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "modalities.json"):
        (folder / name).write_bytes((published / name).read_bytes())
    return folder


def change_state(folder: Path, **changes: torch.Tensor | None) -> None:
    path = folder / "model.safetensors"
    state = {**load_file(path), **changes}
    save_file({key: value for key, value in state.items() if value is not None}, path)


def test_a_truncated_file_is_refused(broken: Path, tmp_path: Path, capsys: Any) -> None:
    path = broken / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    assert run("convert", "ml4m", broken, tmp_path / "out") == 1
    assert "is not a complete safetensors file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_tensor_is_named(broken: Path) -> None:
    change_state(broken, **{"encoder.0.mlp.fc2.weight": None})
    with pytest.raises(CheckpointError, match=r"missing: encoder\.0\.mlp\.fc2\.weight"):
        fourm.load_model(broken)


def test_a_shape_that_does_not_fit_is_named(broken: Path) -> None:
    change_state(broken, **{"decoder_proj_context.weight": torch.zeros(DIM, DIM + 1)})
    with pytest.raises(CheckpointError, match=r"decoder_proj_context\.weight has shape \(16, 17\).*\(16, 16\)"):
        fourm.load_model(broken)


def test_an_unknown_modality_is_named(broken: Path) -> None:
    (broken / "modalities.json").unlink()
    config = json.loads((broken / "config.json").read_text())
    config["domains_out"] = [*config["domains_out"], "tok_thermal@224"]
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="modality that fourm does not know: modality 'tok_thermal@224'"):
        fourm.load_model(broken)


def test_a_foreign_file_is_told_apart(tmp_path: Path) -> None:
    save_file({"model.layers.0.self_attn.q_proj.weight": torch.zeros(2, 2)}, tmp_path / "llama.safetensors")
    with pytest.raises(CheckpointError, match=r"not a published 4M checkpoint.*looks like a language model"):
        fourm.load_model(tmp_path / "llama.safetensors")


class Bomb:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("exploded"),))


def test_code_in_a_pickle_does_not_run(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {}, "args": Bomb()}, tmp_path / "evil.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps({"model": {}, "args": Bomb()}))
    for name in ("evil.pth", "old.pth"):
        with pytest.raises(CheckpointError, match="cannot be loaded safely"):
            fourm.load_model(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_odd_training_files_are_refused_in_words(tmp_path: Path) -> None:
    for number, content in enumerate([{"model": [1]}, {"model": {}, "args": "x"}, [1, 2]]):
        torch.save(content, tmp_path / f"{number}.pth")
        with pytest.raises(CheckpointError, match="expected a|not a published 4M checkpoint"):
            fourm.load_model(tmp_path / f"{number}.pth")


@pytest.mark.parametrize("key", ["quantize.codes", "encoder.linear_in.weight", "decoder.linear_out.bias"])
def test_a_missing_tensor_of_a_tokenizer_is_named(poses: Path, tmp_path: Path, key: str) -> None:
    run("convert", "to-ml4m", poses, tmp_path / "hub")
    change_state(tmp_path / "hub", **{key: None})
    with pytest.raises(CheckpointError, match=key):
        fourm.load_tokenizer(tmp_path / "hub")


def test_a_tensor_of_another_rank_is_refused_in_words(broken: Path) -> None:
    change_state(broken, mask_token=torch.tensor(1.0))
    with pytest.raises(CheckpointError, match="has not the form of the published ones"):
        fourm.load_model(broken)


def test_a_missing_text_tokenizer_says_where_it_is_found(published: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv(published_text.TEXT_TOKENIZER_VARIABLE, raising=False)
    with pytest.raises(FourmError, match="text_tokenizer_4m_wordpiece_30k.json, which is not on the Hub"):
        fourm.generate(published, {"color_palette": [[1, 2, 3]]}, ["tok_dinov2_global"])
    monkeypatch.setenv(published_text.TEXT_TOKENIZER_VARIABLE, str(tmp_path / "gone.json"))
    with pytest.raises(CheckpointError, match=r"no text tokenizer at .*gone\.json; published models speak through"):
        load_bundle(published)


def test_models_and_tokenizers_are_not_mixed_up(published: Path, poses: Path, tmp_path: Path) -> None:
    run("convert", "to-ml4m", poses, tmp_path / "hub")
    with pytest.raises(CheckpointError, match="is a tokenizer; load it with load_tokenizer"):
        fourm.load_model(tmp_path / "hub")
    with pytest.raises(CheckpointError, match="is a transformer; load it with load_model"):
        fourm.load_tokenizer(published)


def test_a_published_model_finds_its_tokenizers_when_they_are_needed(
    published: Path, monkeypatch: Any, tmp_path: Path, poses: Path
) -> None:
    asked = []
    train_wordpiece(["a red sofa"], 4300, out=tmp_path / "text.json")

    def snapshot(repository: str, **options: Any) -> str:
        asked.append(repository)
        return str(poses)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setenv(published_text.TEXT_TOKENIZER_VARIABLE, str(tmp_path / "text.json"))
    assert load_bundle(published).tokenizers == {}  # exported by fourm: its tokenizers are its own
    shutil.copytree(published, tmp_path / "theirs")
    (tmp_path / "theirs" / "modalities.json").unlink()
    bundle = load_bundle(tmp_path / "theirs")
    assert bundle.text is not None
    assert bundle.tokenizers.keys() == {"tok_depth@224", "tok_dinov2_global"}
    assert bundle.tokenizers["tok_depth@224"].modality.name == "depth@224"
    assert asked == []

    assert bundle.tokenizers["tok_dinov2_global"].vocab_size == 32

    assert asked == ["EPFL-VILAB/4M_tokenizers_DINOv2-B14-global_8k_16_224"]


def test_converted_tokenizers_can_be_copied_along(published: Path, poses: Path, tmp_path: Path, capsys: Any) -> None:
    words = ("convert", "ml4m", published, tmp_path / "out", "--tokenizer")
    assert run(*words, f"tok_nothing={poses}") == 1
    assert "'tok_nothing' is no token modality of this model" in capsys.readouterr().err
    assert run(*words, f"tok_depth@224={poses}") == 1
    assert "has 32 codes, but 'tok_depth@224' of this model 8192" in capsys.readouterr().err


def test_the_licence_is_told_once(published: Path, tmp_path: Path, caplog: Any) -> None:
    checkpoints._TOLD.clear()
    named = tmp_path / "4M-21_B"
    named.mkdir()
    for name in ("config.json", "model.safetensors", "modalities.json"):
        (named / name).write_bytes((published / name).read_bytes())
    for _ in range(2):
        fourm.load_model(named)
    assert run("convert", "ml4m", named, tmp_path / "converted") == 0
    checkpoints._TOLD.clear()
    fourm.load_model(tmp_path / "converted")
    told = [record.getMessage() for record in caplog.records if "License" in record.getMessage()]
    assert len(told) == 2
    assert "EPFL-VILAB/4M-21_B are under the Apple Sample Code License" in told[0]


def test_uploading_makes_a_repository_with_a_card(trained: Path, monkeypatch: Any, capsys: Any) -> None:
    calls: dict[str, Any] = {}

    class Api:
        def create_repo(self, name: str, **options: Any) -> str:
            calls["repo"] = (name, options["private"])
            return f"https://hub/{name}"

        def upload_file(self, **options: Any) -> None:
            calls["card"] = options["path_or_fileobj"].decode()

        def upload_folder(self, **options: Any) -> None:
            calls["folder"] = options["folder_path"]

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert run("upload", trained, "me/depth-model", "--private") == 0
    assert capsys.readouterr().out.strip() == "https://hub/me/depth-model"
    assert calls["repo"] == ("me/depth-model", True)
    assert calls["folder"] == trained
    assert 'fourm.load_model("me/depth-model")' in calls["card"]
    assert run("upload", trained, "no-organisation") == 1
    assert run("upload", trained.parent / "nothing", "me/x") == 1
