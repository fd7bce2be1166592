"""An ordered context: what has been encoded stays, and nothing that is generated tells."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fourm.generate.context import Block, Growing, Memory, join, split
from fourm.generate.plan import GenerationPlan, Step
from fourm.generate.sampler import Generated, Sampler
from fourm.modality import ModalitySet
from fourm.models.multimodal import Multimodal
from fourm.nn.trunk import KVCache
from fourm.tokens import SpecialIds, TokenBatch
from tests.unit.generate.toy import SEEDS, build_model

Given = dict[str, dict[str, Tensor]]
SPECIAL = SpecialIds(num_sentinels=20)
CPU = torch.device("cpu")


def grid(target: str, **options: Any) -> Step:
    return Step(target, **{"scheme": "roar", "num_steps": 4, "keep_probabilities": True, **options})


def words(target: str, **options: Any) -> Step:
    return Step(target, "autoregressive", keep_probabilities=True, num_tokens=6, **options)


PLANS = {
    "chain": [grid("tok_depth@16"), grid("tok_rgb@16"), words("det")],
    "guided": [
        grid("tok_depth@16", guidance=2.0, grow_conditioning=True),
        words("det", guidance=2.0),
        grid("tok_rgb@16", guidance=2.0),
    ],
    "now and then guided": [grid("tok_depth@16"), grid("tok_rgb@16", guidance=3.0), grid("tok_edges@16", num_steps=1)],
    "most confident first": [
        grid("tok_depth@16", scheme="maskgit", guidance=1.5, grow_conditioning=True),
        grid("tok_rgb@16", scheme="maskgit"),
    ],
    "masked again": [
        grid("tok_depth@16", scheme="maskgit", remask=0.4, num_steps=5),
        grid("tok_rgb@16", scheme="maskgit", remask=0.4, guidance=2.0),
    ],
    "completed": [grid("tok_depth@16"), grid("tok_semseg@16"), words("caption"), grid("tok_rgb@16", guidance=2.0)],
    "several conditions": [
        grid("tok_depth@16", conditions={"rgb@16": 2.0, "tok_semseg@16": -1.0}, grow_conditioning=True),
        grid("tok_rgb@16", conditions={"caption": 2.0, "tok_depth@16": 0.5}),
    ],
}


@pytest.fixture(scope="module", params=[0, 2], ids=["", "registers"])
def ordered(modalities: ModalitySet, request: pytest.FixtureRequest) -> Multimodal:
    return build_model(modalities, context="ordered", num_register_tokens=request.param)


@pytest.fixture(scope="module")
def plain(modalities: ModalitySet) -> Multimodal:
    return build_model(modalities, context="ordered", num_register_tokens=2)


def run(model: Multimodal, steps: list[Step], given: Given, seeds: Tensor = SEEDS, **options: Any) -> Generated:
    return Sampler(model, SPECIAL, **options).run(GenerationPlan(steps), given, seeds=seeds)


def assert_same(one: Generated, other: Generated) -> None:
    for target, ids in one.ids.items():
        assert torch.equal(ids, other.ids[target])
        torch.testing.assert_close(one.probabilities[target], other.probabilities[target], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", PLANS)
def test_the_cache_changes_nothing(name: str, ordered: Multimodal, given: Given) -> None:
    assert_same(run(ordered, PLANS[name], given), run(ordered, PLANS[name], given, cache=False))


@pytest.mark.parametrize("name", PLANS)
def test_a_sample_does_not_depend_on_its_batch(name: str, plain: Multimodal, given: Given) -> None:
    together = run(plain, PLANS[name], given)
    for row in range(3):
        alone = {modality: {key: t[row : row + 1] for key, t in facts.items()} for modality, facts in given.items()}
        for target, ids in run(plain, PLANS[name], alone, SEEDS[row : row + 1]).ids.items():
            kept = together.ids[target][row]
            assert kept[kept >= 0].tolist() == ids[ids >= 0].tolist()


def test_nothing_given_is_a_beginning_too(ordered: Multimodal) -> None:
    assert_same(run(ordered, PLANS["chain"], {}), run(ordered, PLANS["chain"], {}, cache=False))


def test_bfloat16_continues_too(plain: Multimodal, given: Given) -> None:
    made = run(plain, PLANS["guided"], given, bf16=True)
    assert all(int(ids.max()) >= 0 for ids in made.ids.values())


def test_each_token_is_encoded_once(plain: Multimodal, given: Given) -> None:
    """Also from one target to the next: both chains together cost the tokens of one."""
    encoded: list[int] = []
    cross: list[int] = []
    handles = [
        plain.encoder.blocks[0].register_forward_hook(lambda _, inputs, __: encoded.append(inputs[0].shape[1])),
        plain.decoder.blocks[0].cross_attn.kv.register_forward_hook(lambda _, i, __: cross.append(i[0].shape[1])),
    ]
    given = {"rgb@16": given["rgb@16"], "caption": given["caption"]}
    run(plain, [grid("tok_depth@16", schedule="linear"), grid("tok_rgb@16", schedule="linear"), words("det")], given)
    for handle in handles:
        handle.remove()
    assert encoded == [2 + 16, 4, *[4] * 8]  # registers and pixels, caption, four steps of each grid
    assert sum(cross) == sum(encoded)


def test_the_branches_of_guidance_continue_as_well(plain: Multimodal, given: Given) -> None:
    encoded: list[int] = []
    handle = plain.encoder.blocks[0].register_forward_hook(lambda _, inputs, __: encoded.append(inputs[0].shape[1]))
    options = {"guidance": 2.0, "grow_conditioning": True, "schedule": "linear"}
    run(plain, [grid("tok_depth@16", **options), grid("tok_rgb@16", **options)], {"caption": given["caption"]})
    handle.remove()
    conditional = 2 + 4 + 16 + 12  # the last step of the last target is not read any more
    unconditional = 2 + 1 + 12 + 12  # its sentinel stays; the depth it wrote is emptied
    assert sum(encoded) == conditional + unconditional


def test_a_step_is_the_models_own_answer_to_the_same_blocks(plain: Multimodal, given: Given) -> None:
    """A second target, asked of the whole model with the first target's tokens in the blocks in which they came."""
    steps = [grid("tok_depth@16", schedule=[5, 11], num_steps=2), grid("tok_rgb@16", num_steps=1)]
    contents: list[Any] = []
    encode = Growing.encode

    def watched(self: Growing, *rest: Any) -> Any:
        context = encode(self, *rest)
        contents.append(join(self.blocks))
        return context

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Growing, "encode", watched)
        made = run(plain, steps, given)
    assert contents[-1]["tok_depth@16"]["blocks"].tolist() == [[0] * 5 + [1] * 11] * 3
    asked = {"tok_rgb@16": {"positions": torch.arange(16).expand(3, 16)}}
    with torch.no_grad():
        logits = plain.logits(contents[-1], asked)["tok_rgb@16"]
    torch.testing.assert_close(made.probabilities["tok_rgb@16"], logits.softmax(-1), atol=1e-5, rtol=1e-4)


def test_blocks_are_told_apart_and_joined_again() -> None:
    facts = {
        "positions": torch.tensor([[3, 1, -1, 0], [2, -1, 4, 5]]),
        "ids": torch.tensor([[7, 8, -1, 9], [6, -1, 5, 4]]),
        "blocks": torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1]]),
    }
    blocks = split("codes", facts)
    assert [block.facts["ids"].tolist() for block in blocks] == [[[7, 8], [6, -1]], [[-1, 9], [5, 4]]]
    joined = join([Block("caption", {"ids": torch.ones(2, 3)}), *blocks])
    assert list(joined) == ["caption", "codes"]
    assert all(torch.equal(joined["codes"][key], facts[key]) for key in facts)


def test_samples_may_come_in_blocks_of_their_own() -> None:
    facts = {
        "positions": torch.tensor([[3, 1, 0], [2, 4, 5]]),
        "ids": torch.tensor([[7, 8, 9], [6, 5, 4]]),
        "blocks": torch.tensor([[0, 0, 1], [0, 1, 1]]),
    }
    first, second = split("codes", facts)
    assert first.facts["positions"].tolist() == [[3, 1], [2, -1]]
    assert second.facts["positions"].tolist() == [[-1, 0], [4, 5]]


def test_of_changed_blocks_those_before_the_change_stay(plain: Multimodal, given: Given) -> None:
    memory = Memory(plain, 3, CPU)
    one, two, other = (Block(name, given[name]) for name in ("rgb@16", "caption", "vectors"))
    passed: list[TokenBatch] = []
    encode = plain.encode

    def watched(batch: TokenBatch, cache: KVCache | None = None) -> Any:
        passed.append(batch)
        return encode(batch, cache)

    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "encode", watched)
        (branch,) = memory.recall([[one, two, other]])
        whole = branch.encode(plain)
        copy = Block("caption", {"ids": given["caption"]["ids"].clone()})
        (again,) = memory.recall([[one, copy]])
        assert again is branch
        part = again.encode(plain)
        assert len(passed) == 3
        torch.testing.assert_close(part.hidden, whole.hidden[:, : part.hidden.shape[1]], rtol=0, atol=0)
        again.base = [one, other]
        changed = again.encode(plain)
        assert len(passed) == 4
        (fresh,) = Memory(plain, 3, CPU).recall([[one, other]])
        torch.testing.assert_close(changed.hidden, fresh.encode(plain).hidden)


def test_branches_go_to_those_who_know_most(plain: Multimodal, given: Given) -> None:
    memory = Memory(plain, 3, CPU)
    one, two, three = (Block(name, given[name]) for name in ("rgb@16", "caption", "vectors"))
    short, long = memory.recall([[one], [two, three]])
    for branch in (short, long):
        branch.encode(plain)
    (kept,) = memory.recall([[two, three, one]])
    assert kept is long
    assert memory.recall([[one, two], [two, three]]) == (short, long)
