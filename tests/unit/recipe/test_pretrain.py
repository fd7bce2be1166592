"""How a pretraining recipe becomes a model, and what its tokens are checked against."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fourm import recipes
from fourm.data.packing_configs import WholeConfig
from fourm.data.shards import ShardWriter, write_source_facts
from fourm.errors import ConfigError, DataError
from fourm.layouts import Grid
from fourm.models.folder import save_model
from fourm.objectives.distill_config import DistillConfig
from fourm.recipe import pretrain
from fourm.recipe.schema import PretrainRecipe, TokenizerRecipe
from tests.unit.recipe.conftest import recipe


class FakeTokenizer:
    """As much of a tokenizer as the checks look at."""

    def __init__(self, vocab_size: int = 512, digest: str = "a" * 64, grid: Grid = Grid(8, 8, 8)) -> None:  # noqa: B008
        self.vocab_size, self.hash, self.grid = vocab_size, digest, grid
        self.codebook = torch.randn(vocab_size, 8, generator=torch.Generator().manual_seed(0))


def tokens(root: Path, digest: str) -> Path:
    with ShardWriter(root, 0, {"tok_depth": "npy"}) as writer:
        writer.write("0", {"tok_depth": b"x"})
    write_source_facts(root, "tok_depth", {"tokenizer_hash": digest})
    return root


def check(data: dict[str, Any], tokenizer: FakeTokenizer) -> None:
    made: Any = recipe(data=data, tokenizers={"tok_depth@64": "depth"})
    pretrain._check_tokens(made, made.modality_set(), {"tok_depth@64": tokenizer})  # type: ignore[dict-item]


def datasets(path: Path, **more: Any) -> dict[str, Any]:
    return {"datasets": {"rooms": {"path": str(path), **more}}}


def test_tokens_of_the_recipes_tokenizer_are_accepted(tmp_path: Path) -> None:
    check({"train": datasets(tokens(tmp_path, "a" * 64))}, FakeTokenizer())


def test_the_tokenizer_of_codes_within_a_text_need_not_fit_the_text(tmp_path: Path) -> None:
    modalities = {"rgb@64": {}, "tok_depth@64": {}, "sam_instance": {}}
    made: Any = recipe(
        modalities=modalities,
        tokenizers={"tok_depth@64": "depth", "sam_instance": "masks"},
        data={"train": datasets(tokens(tmp_path, "a" * 64))},
    )
    masks: Any = FakeTokenizer(1024, "c" * 64, Grid(4, 4, 16))
    found: Any = {"tok_depth@64": FakeTokenizer(), "sam_instance": masks}
    assert pretrain._check_tokens(made, made.modality_set(), found) == {"tok_depth@64": "a" * 64}


def test_an_ordered_context_is_stated_once() -> None:
    model = recipe().model
    for context in ("full", "ordered"):
        made = recipe(model={"kind": "multimodal", **vars(model), "context": context})
        assert pretrain.build_objective(made, made.modality_set(), None).ordered == (context == "ordered")
        assert pretrain.build_model(made, made.modality_set(), {}).is_ordered == (context == "ordered")


def test_an_ordered_context_needs_an_objective_that_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = recipe(model={"kind": "multimodal", **vars(recipe().model), "context": "ordered"})
    monkeypatch.setattr(pretrain, "implementation", lambda _: dict)
    with pytest.raises(ConfigError, match="context ordered needs objective.kind masked"):
        pretrain.build_objective(made, made.modality_set(), None)


@pytest.mark.parametrize("split", ["train", "val"])
def test_tokens_of_another_tokenizer_are_refused_in_training_and_in_evaluation(tmp_path: Path, split: str) -> None:
    good, bad = tokens(tmp_path / "good", "a" * 64), tokens(tmp_path / "bad", "b" * 64)
    data = {"train": datasets(good), "val": datasets(good)} | {split: datasets(bad)}

    with pytest.raises(DataError, match="bad/tok_depth holds tokens made with another tokenizer"):
        check(data, FakeTokenizer())


def test_data_without_these_tokens_is_not_looked_at(tmp_path: Path) -> None:
    check({"train": datasets(tokens(tmp_path, "b" * 64), modalities=["rgb@64"])}, FakeTokenizer())


def test_as_many_tokens_in_another_grid_are_refused(tmp_path: Path) -> None:
    """They would be decoded in the wrong places."""
    data = {"train": datasets(tokens(tmp_path, "a" * 64))}
    with pytest.raises(
        ConfigError, match=r"makes grids of 4 x 16 tokens, but the modality declares 8 x 8; correct mod"
    ):
        check(data, FakeTokenizer(grid=Grid(4, 16)))


def test_a_vocabulary_of_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"256 codes.*vocabulary of 512.*modalities\.tok_depth@64"):
        check({"train": datasets(tokens(tmp_path, "a" * 64))}, FakeTokenizer(vocab_size=256))


def test_the_same_seed_gives_the_same_weights() -> None:
    first, again, other = (
        pretrain.build_model(made, made.modality_set(), {}) for made in (recipe(), recipe(), recipe(seed=1))
    )

    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters()))
    assert not torch.equal(first.heads.weight, other.heads.weight)


def test_codebooks_start_the_embeddings_where_a_recipe_asks_for_it() -> None:
    model = {
        "kind": "multimodal",
        "dim": 32,
        "encoder_depth": 1,
        "decoder_depth": 1,
        "num_heads": 2,
        "codebook_init": True,
    }
    made, plain = recipe(model=model), recipe()
    tokenizers: Any = {"tok_depth@64": FakeTokenizer()}

    started = pretrain.build_model(made, made.modality_set(), tokenizers)

    before = pretrain.build_model(plain, plain.modality_set(), {})
    assert not torch.equal(started.heads.rows("tok_depth@64"), before.heads.rows("tok_depth@64"))
    assert torch.equal(started.heads.rows("caption"), before.heads.rows("caption"))
    with pytest.raises(ConfigError, match="codebook_init needs tokenizers"):
        pretrain.build_model(made, made.modality_set(), {})


@pytest.mark.parametrize(("toy", "large"), [("delvm_rooms_teacher", "delvm_1b"), ("delvm_rooms", "delvm_300m")])
def test_the_toys_of_delvm_are_made_as_the_large_models(toy: str, large: str) -> None:
    """The tokenizer's codes and no other ids, frozen codes and one matrix, biases, whole sentences that are kept apart,
    and a student of the teacher beside it.
    """
    small, published = (recipes.load(name, PretrainRecipe, folder="pretrain") for name in (toy, large))
    quantizer = recipes.load("toy_vqgan_rooms", TokenizerRecipe, folder="tokenizers").tokenizer.quantizer
    tokenizer = FakeTokenizer(quantizer.codebook_size)
    tokenizer.codebook = torch.randn(quantizer.codebook_size, quantizer.dim)
    model = pretrain.build_model(small, small.modality_set(), {"visual": tokenizer})  # type: ignore[dict-item]

    table = model.input_embedder.table
    assert torch.equal(table.rows("visual"), tokenizer.codebook)
    assert not table.weight.requires_grad
    assert table.projection.requires_grad
    with torch.device("meta"):
        like = pretrain.build_model(published, published.modality_set(), {})
    assert kinds(model) == kinds(like)
    for one in (small, published):
        for dataset in one.data.train.datasets.values():
            packing = dataset.packing
            assert isinstance(packing, WholeConfig)
            assert (packing.bos, packing.eos, packing.separate) == (None, None, True)
    assert small.objective.target == published.objective.target
    if isinstance(small.objective, DistillConfig):
        assert small.objective.teacher == recipes.load("delvm_rooms_teacher", PretrainRecipe, folder="pretrain").output


def kinds(model: Any) -> set[str]:
    """Names of the parameters of a model, whatever its depth."""
    return {re.sub(r"\.\d+\.", ".", name) for name, _ in model.named_parameters()}


def test_weights_of_another_model_are_the_start_where_its_modalities_are_the_same(tmp_path: Path) -> None:
    source = recipe(seed=3)
    save_model(pretrain.build_model(source, source.modality_set(), {}), tmp_path)
    larger = recipe(
        init_from=str(tmp_path),
        modalities={"rgb@64": {}, "tok_depth@64": {}, "tok_normal@64": {}, "caption": {"layout": {"max_tokens": 24}}},
    )

    started = pretrain.build_model(larger, larger.modality_set(), {})

    original = pretrain.build_model(source, source.modality_set(), {})
    assert torch.equal(started.heads.rows("tok_depth@64"), original.heads.rows("tok_depth@64"))
    assert all(torch.equal(a, b) for a, b in zip(started.encoder.parameters(), original.encoder.parameters()))


@pytest.mark.parametrize(
    ("asked", "tokenizers", "drawn"),
    [([], ["tok_depth@64"], ["tok_depth@64"]), (["caption"], ["tok_depth@64"], ["caption"]), ([], [], None)],
)
def test_pictures_show_all_grids_with_a_tokenizer_unless_targets_are_named(
    monkeypatch: Any, asked: list[str], tokenizers: list[str], drawn: list[str] | None
) -> None:
    shown: list[list[str]] = []
    monkeypatch.setattr("fourm.generate.pictures.sample_pictures", lambda *args: shown.append(args[3]) or {})
    made = recipe(pictures={"given": ["rgb@64"], "targets": asked})
    job: Any = SimpleNamespace(validation=["set"], modalities=made.modality_set(), recipe=made)
    bundle: Any = SimpleNamespace(tokenizers=dict.fromkeys(tokenizers))

    draw = pretrain._pictures(job, made.pictures, bundle)

    if drawn is None:
        assert draw is None
    else:
        assert draw is not None
        draw(1)
        assert shown == [drawn]


NEEDS_NO_DATA = [
    ({"objective": {"kind": "masked", "components": [{"input_alphas": {"rbg@64": 1}}]}}, "Did you mean 'rgb@64'"),
    ({"objective": {"kind": "masked", "components": [{"keep": {"captoin": "all"}}]}}, "Did you mean 'caption'"),
    (
        {"data": {"train": datasets(Path("rooms"), modalities=["rgb@64"])}},
        r"data\.train\.datasets\.rooms has rgb@64.*target alpha",
    ),
    ({"data": {"train": datasets(Path("rooms"), modality_name_map={"x": "dpth"})}}, "modality_name_map.*'dpth'"),
]


@pytest.mark.parametrize(("changes", "message"), NEEDS_NO_DATA)
def test_what_needs_no_data_is_found_before_processes_meet(
    text_file: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    def never(*args: object) -> None:
        raise AssertionError("a process group was started")

    monkeypatch.setattr(pretrain, "session", never)
    with pytest.raises(ConfigError, match=message):
        pretrain.run(recipe(tokenizers={"text": str(text_file)}, **changes))
