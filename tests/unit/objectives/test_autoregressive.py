"""Rows that are read token by token: what is asked where, who sees whom, and what it costs to be wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fourm.errors import ConfigError, DataError
from fourm.layouts import Continuous, Grid
from fourm.modality import Modality, ModalitySet
from fourm.models.configs import LinearHeadConfig, MultimodalConfig
from fourm.models.multimodal import Multimodal
from fourm.objectives.autoregressive import Autoregressive
from fourm.objectives.configs import AutoregressiveConfig
from fourm.rng import generator
from fourm.tokens import Segment, TokenRow

Sample = dict[str, Any]
MODEL = MultimodalConfig(
    dim=16, encoder_depth=0, decoder_depth=2, num_heads=2, tie_heads=False, embedding_std=0.4,
    vector_head=LinearHeadConfig(),
)  # fmt: skip


@pytest.fixture(scope="session")
def readable(modalities: ModalitySet) -> ModalitySet:
    return ModalitySet(replace(m, direction="both") if m.is_grid else m for m in modalities.values())


def objective(modalities: ModalitySet, **options: Any) -> Autoregressive:
    return Autoregressive(AutoregressiveConfig(**options), modalities)


def row(own: Autoregressive, sample: Any, n: int = 0) -> TokenRow:
    return own.prepare(sample, generator(0, "rows", n))


def test_every_token_is_read_and_asks_the_next(readable: ModalitySet, sample: Sample) -> None:
    table = row(objective(readable, order=["depth", "codes"]), sample)
    ids = [*sample["depth"].flatten().tolist(), 0, 1, 2, 3]
    assert table.ids.tolist() == ids[:-1]
    assert table.target_ids.tolist() == ids[1:]
    assert table.modality.tolist() == [1] * 16 + [5] * 3
    assert table.target_modality is not None
    assert table.target_modality.tolist() == [1] * 15 + [5] * 4
    assert table.position.tolist() == [*range(16), 0, 1, 2]
    assert table.reach.tolist() == list(range(1, 20))
    assert table.runs == ((19, True),)


def test_texts_begin_and_end_with_special_ids_of_which_the_end_alone_is_asked(
    readable: ModalitySet, sample: Sample
) -> None:
    table = row(objective(readable, order=["depth", "caption", "facts"]), sample)
    assert table.ids[16:28].tolist() == [2, *sample["caption"].tolist(), 3]
    assert table.ids[28:].tolist() == [2, 401, 501, 402, 502, 403, 503]
    assert table.target_modality is not None
    assert table.target_ids[15] == table.target_modality[15] == -1  # the start
    assert table.target_ids[26] == 3
    assert table.target_ids[27] == -1
    assert table.target_ids[-1] == 3


def test_what_is_only_read_is_not_asked(readable: ModalitySet, sample: Sample) -> None:
    table = row(objective(readable, order=["vectors", "depth"]), sample)
    assert table.target_modality is not None
    assert table.target_modality.tolist() == [-1] * 4 + [1] * 16
    assert np.array_equal(table.values["vectors"], sample["vectors"])
    assert table.target_values["vectors"].shape == (0, 7)


def test_vectors_ask_the_next_vector_and_texts_after_them(readable: ModalitySet, sample: Sample) -> None:
    own = objective(readable, order=["rgb", "codes"])
    table = row(own, sample)
    batch = own.collate([table, table])
    assert batch.encoder is None
    patches = table.values["rgb"]
    assert patches.shape == (16, 12)
    assert np.array_equal(table.target_values["rgb"], patches[1:])
    assert batch.decoder.num_targets == {"rgb": 30, "codes": 8}
    assert batch.decoder.targets("codes").tolist() == [0, 1, 2, 3] * 2
    assert torch.equal(batch.decoder.targets("rgb")[:15], torch.from_numpy(patches[1:]))
    assert batch.decoder.target_rows["rgb"].tolist() == [*range(15), *range(19, 34)]


def test_missing_modalities_and_places_without_a_label_are_left_out(readable: ModalitySet, sample: Sample) -> None:
    labels = sample["depth"].copy()
    labels[0] = -1
    table = row(objective(readable, order=["rgb", "depth", "codes"]), {"depth": labels, "codes": sample["codes"]})
    assert table.position.tolist() == [*range(4, 16), 0, 1, 2]
    assert len(row(objective(readable), {})) == 0
    assert len(row(objective(readable), {"codes": np.array([[1, -1], [-1, -1]])})) == 0


def test_orders_are_drawn_where_they_are_to_change(readable: ModalitySet, sample: Sample) -> None:
    own = objective(readable, order=["depth", "codes"], shuffle=True)
    assert {int(row(own, sample, n).modality[0]) for n in range(20)} == {1, 5}


def test_rows_are_cut_to_their_budget(readable: ModalitySet, sample: Sample) -> None:
    own = objective(readable, order=["rgb", "depth", "codes"], max_tokens=17)
    table = row(own, sample)
    assert len(table) == 17
    assert table.target_ids[-1] == sample["depth"].flatten()[1]
    assert len(table.values["rgb"]) == 16
    assert own.num_tokens(own.collate([table] * 3)) == 51
    assert objective(readable, order=["depth", "codes"]).budget == 19
    assert objective(readable, order=["depth", "caption"]).budget == 16 + 1 + 12 - 1


def test_ids_can_be_read_without_being_asked(readable: ModalitySet, sample: Sample) -> None:
    table = row(objective(readable, order=["depth", "codes"], skip_ids=[0, 7]), sample)
    whole = row(objective(readable, order=["depth", "codes"]), sample)
    assert table.ids.tolist() == whole.ids.tolist()
    assert table.target_modality is not None
    assert table.target_ids.tolist() == [-1 if i in (0, 7) else i for i in whole.target_ids.tolist()]
    assert ((table.target_modality == -1) == (table.target_ids == -1)).all()


# ------------------------------------------------------------------ a prefix


def test_a_prefix_is_seen_as_a_whole_and_not_asked(readable: ModalitySet, sample: Sample) -> None:
    own = objective(readable, order=["rgb"], prefix="uniform")
    seen = set()
    for n in range(200):
        table = row(own, {"rgb": sample["rgb"]}, n)
        assert table.target_modality is not None
        scored = int((table.target_modality >= 0).sum())
        prefix = 16 - scored
        seen.add(prefix)
        assert table.reach.tolist() == [max(k + 1, prefix) for k in range(15)]
        assert len(table.target_values["rgb"]) == scored
        assert (table.target_modality[prefix - 1 :] == 0).all()
        assert table.runs is None or prefix == 1
    assert seen == set(range(1, 16))


def outputs(model: Multimodal, own: Autoregressive, table: TokenRow) -> torch.Tensor:
    with torch.no_grad():
        return model.decode(own.collate([table]).decoder)[0]


def test_nothing_leaks_from_what_is_asked(readable: ModalitySet, sample: Sample) -> None:
    own = objective(readable, order=["rgb"], prefix="uniform")
    model = Multimodal(readable, MODEL).eval()
    for n in range(20):
        table = row(own, sample, n)
        prefix = int(table.reach[0])
        before = outputs(model, own, table)
        for place in (prefix - 1, min(prefix, 14), 14):
            values = table.values["rgb"].copy()
            values[place] += 1
            changed = (outputs(model, own, replace(table, values={"rgb": values})) - before).abs().amax(-1) > 1e-6
            first = 0 if place < prefix else place
            assert changed.tolist() == [k >= first for k in range(15)]


# ------------------------------------------------------------------ documents


def sentence(sample: Sample) -> list[Segment]:
    return [Segment("depth", sample["depth"], asked=False), Segment("codes", sample["codes"])]


def test_documents_share_a_row_and_do_not_see_one_another(readable: ModalitySet, sample: Sample) -> None:
    own = objective(readable, max_tokens=60)
    table = row(own, [sentence(sample), [Segment("caption", np.array([300, 301, 302]))], sentence(sample)])
    assert len(table) == 19 + 2 + 19
    assert table.runs == ((19, True), (2, True), (19, True))
    assert table.group.tolist() == [0] * 19 + [1] * 2 + [2] * 19
    assert table.target_modality is not None
    assert table.target_modality.tolist() == [-1] * 15 + [5] * 4 + [2] * 2 + [-1] * 15 + [5] * 4
    assert table.ids[19:21].tolist() == [300, 301]
    alone = row(own, [sentence(sample)])
    model = Multimodal(readable, replace(MODEL, rope_theta=100.0, position_tables=False)).eval()
    torch.testing.assert_close(outputs(model, own, table)[21:], outputs(model, own, alone), atol=1e-5, rtol=1e-5)


def test_a_packed_row_costs_the_same_with_and_without_a_mask(readable: ModalitySet, sample: Sample) -> None:
    own = objective(readable, max_tokens=60)
    batch = own.collate([row(own, [sentence(sample)] * 2), row(own, [sentence(sample)] * 3)])
    found = []
    for backend in ("math", "sdpa", "runs"):
        options = {"backend": backend, "rope_theta": 100.0, "num_heads": 4, "num_kv_heads": 2}
        model = Multimodal(readable, replace(MODEL, **options))
        found.append(own.loss(model, batch).scalar(own.counts(batch)))
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


def test_a_row_beyond_its_budget_is_an_error(readable: ModalitySet, sample: Sample) -> None:
    with pytest.raises(DataError, match=r"38 tokens to read, more than the 37 .* pack shorter rows"):
        row(objective(readable, max_tokens=37), [sentence(sample)] * 2)


# ------------------------------------------------------------------ the loss


def test_ids_cost_their_cross_entropy_and_vectors_their_squared_error(readable: ModalitySet, sample: Sample) -> None:
    own = objective(readable, order=["rgb", "codes"], standardize=True, modality_weights={"codes": 3.0})
    model = Multimodal(readable, MODEL).eval()
    batch = own.collate([row(own, sample), row(own, {"rgb": sample["rgb"]})])
    with torch.no_grad():
        loss, hidden = own.loss(model, batch), model.decode(batch.decoder)
    patches = batch.decoder.targets("rgb")
    patches = (patches - patches.mean(1, keepdim=True)) / (patches.var(1, keepdim=True) + 1e-6).sqrt()
    answers = model.vector_heads["rgb"].linear(torch.cat([hidden[0, :15], hidden[1, :15]]))
    squared = ((answers - patches) ** 2).sum().item() / 12
    logits = model.heads.logits("codes", hidden[0, 15:19])
    entropy = -torch.log_softmax(logits, -1)[range(4), range(4)].sum().item()
    assert own.parts == ("rgb", "codes")
    assert loss.parts["rgb"][0].item() == pytest.approx(squared, rel=1e-4)
    assert loss.parts["codes"][0].item() == pytest.approx(entropy, rel=1e-4)
    counts = own.counts(batch)
    assert counts == {"rgb": 30, "codes": 4}
    assert loss.scalar(counts).item() == pytest.approx((squared + 3 * entropy) / (30 + 3 * 4), rel=1e-4)


# ------------------------------------------------------------------ errors


def test_what_cannot_be_read_is_refused(modalities: ModalitySet) -> None:
    with pytest.raises(ConfigError, match=r"codes is an output alone: set its direction to both"):
        objective(modalities)


def test_something_has_to_be_predicted(readable: ModalitySet) -> None:
    with pytest.raises(ConfigError, match=r"no modality is predicted"):
        objective(readable, order=["vectors"])


def test_a_single_number_has_no_deviation(readable: ModalitySet) -> None:
    gray = ModalitySet([Modality("gray", Grid(4, 4, 1), Continuous(1), "gray", "gray", channels=1)])
    with pytest.raises(ConfigError, match="standardize: a vector of 'gray' has one number"):
        objective(gray, standardize=True)
    assert objective(gray).budget == 15


def test_names_are_checked(readable: ModalitySet) -> None:
    with pytest.raises(ConfigError, match=r"objective\.order: 'dept' .*Did you mean 'depth'"):
        objective(readable, order=["dept"])
    with pytest.raises(ConfigError, match=r"data\.val\.datasets\.b has vectors, none of which is predicted"):
        objective(readable).check_data({"a": ["depth"]}, {"b": ["vectors"]})


def test_vectors_need_a_head(readable: ModalitySet, sample: Sample) -> None:
    own = objective(readable, order=["rgb"])
    model = Multimodal(readable, replace(MODEL, vector_head=None))
    with pytest.raises(ConfigError, match=r"vectors of 'rgb', for which the model has no head: set model\.vector_head"):
        own.loss(model, own.collate([row(own, sample)]))


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        (Segment("depth", np.zeros(15, np.int64)), "modality 'depth': a sample has 15 tokens; expected 16"),
        (Segment("caption", np.array([300, 600])), "modality 'caption': token 600 is outside its vocabulary of 600"),
        (Segment("caption", np.array([-1])), "modality 'caption': token -1 is outside its vocabulary"),
        (Segment("vectors", np.zeros((5, 8))), r"modality 'vectors': a sample has shape \(5, 8\)"),
    ],
)
def test_segments_that_do_not_fit_name_the_modality(readable: ModalitySet, segment: Segment, message: str) -> None:
    with pytest.raises(DataError, match=message):
        row(objective(readable), [[segment]])
