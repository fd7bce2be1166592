"""Token tables to vectors: every row comes from its own modality's part of a table."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fourm.errors import ConfigError
from fourm.modality import ModalitySet
from fourm.models.embed import InputEmbedder
from fourm.models.tables import Heads, ModalityEmbedding, PositionTable, RowMap, TokenTable
from fourm.nn.init import initialise
from fourm.nn.position import sincos

DIM = 16


def test_rows_follow_one_another_and_absent_modalities_have_none(modalities: ModalitySet) -> None:
    rows = RowMap(modalities, {"caption": 5, "codes": 3})

    assert rows.rows == {"caption": (0, 5), "codes": (5, 8)}
    assert rows.total == 8
    assert rows.offsets == [0, 0, 0, 0, 0, 5]
    assert rows.slice("codes") == slice(5, 8)


def test_a_token_reads_the_row_of_its_modality(modalities: ModalitySet) -> None:
    table = TokenTable(modalities, [modalities["tok_depth@8"], modalities["codes"]], DIM, 1.0)
    initialise(table, 0)
    index = torch.tensor([[modalities.index("tok_depth@8"), modalities.index("codes")]])

    got = table(index, torch.tensor([[10, 2]]))

    assert torch.equal(got[0, 0], table.rows("tok_depth@8")[10])
    assert torch.equal(got[0, 1], table.rows("codes")[2])


@pytest.mark.parametrize("names", [("caption", "codes"), ("caption",), ("codes",), ("codes", "caption", "tok_depth@8")])
def test_positions_are_fixed_or_learned_as_the_modality_says(modalities: ModalitySet, names: tuple[str, ...]) -> None:
    chosen = modalities.subset(names)
    table = PositionTable(chosen, chosen.values(), DIM, 1.0)
    initialise(table, 0)
    index = torch.tensor([[chosen.index(name) for name in names for _ in range(2)]])
    got = table(index, torch.tensor([[1, 3] * len(names)]))

    for i, name in enumerate(names):
        learned = chosen[name].positions == "learned"
        rows = table.learned if learned else sincos(chosen[name].layout, DIM)
        assert rows is not None
        torch.testing.assert_close(got[0, 2 * i : 2 * i + 2], rows[[1, 3]])


def test_only_learned_positions_that_were_read_get_a_gradient(modalities: ModalitySet) -> None:
    chosen = modalities.subset(["caption", "codes"])
    table = PositionTable(chosen, chosen.values(), DIM, 1.0)
    initialise(table, 0)

    table(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 7, 2, 2]])).sum().backward()

    assert table.learned is not None
    assert table.learned.grad is not None
    assert table.learned.grad.sum(1).tolist() == [0, 0, 2 * DIM, 0]


def test_padding_embeds_to_zero(modalities: ModalitySet) -> None:
    from fourm.patterns import AttentionPattern
    from fourm.tokens import TokenBatch

    chosen = modalities.subset(["tok_depth@8"])
    embedder = InputEmbedder(chosen, DIM, 1.0, ModalityEmbedding(1, DIM, 1.0))
    initialise(embedder, 0)
    modality, ids = torch.tensor([[0, -1]]), torch.tensor([[4, -1]])
    batch = TokenBatch(
        modality, torch.zeros(1, 2).long(), ids, torch.full_like(ids, -1), AttentionPattern.full(modality >= 0)
    )

    content, place, _ = embedder(batch)

    assert content[0, 0].any()
    assert place[0, 0].any()
    assert not content[0, 1].any()
    assert not place[0, 1].any()


def test_heads_start_with_logits_of_about_unit_size(modalities: ModalitySet) -> None:
    heads = Heads(modalities, 256, 5.0)
    initialise(heads, 0)
    hidden = torch.randn(200, 256, generator=torch.Generator().manual_seed(0))

    assert heads.logits("caption", hidden).shape == (200, 300)
    assert 0.3 < heads.logits("caption", hidden).std() < 2


@pytest.mark.parametrize("name", ["values", "keys", "type", "training"])
def test_a_name_that_torch_uses_itself_is_refused_for_vectors(modalities: ModalitySet, name: str) -> None:
    chosen = ModalitySet([replace(modalities["vectors"], name=name), modalities["codes"]])
    with pytest.raises(ConfigError, match=f"modality '{name}'.*another name, for instance {name}_1"):
        InputEmbedder(chosen, DIM, 1.0, ModalityEmbedding(2, DIM, 1.0))
