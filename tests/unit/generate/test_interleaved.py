from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fourm.errors import CheckpointError, ConfigError, DataError
from fourm.generate.interleaved import Row, RowWriting, write_rows
from fourm.models.multimodal import Multimodal
from fourm.tokens import Document, Segment
from tests.unit.models.test_slots import CLOSE, OPEN, batch_of, model, objective, picture, words

ROW = Row("text", "image", OPEN, CLOSE)
SEEDS = torch.arange(4)
STOP = 17


def made(dim: int = 16, seed: int = 0) -> Multimodal:
    """A model whose choices depend on what it reads: heads and embeddings at random, large enough to matter."""
    torch.manual_seed(seed)
    own = model(dim, embedding_std=1.0).eval()
    for parameter in own.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    return own


def prompts() -> list[Document]:
    """Of different lengths: text alone, an image, two images, and one token."""
    return [
        [words(1, 2, 3)],
        [words(OPEN), Segment("image", picture(1)), words(CLOSE, 4)],
        [words(5, OPEN), Segment("image", picture(2)), words(CLOSE, OPEN), Segment("image", picture(3)), words(CLOSE)],
        [words(6)],
    ]


def write(own: Multimodal, documents: Any = None, row: Row = ROW, seeds: Any = None, **options: Any) -> Any:
    documents = prompts() if documents is None else documents
    return write_rows(own, row, documents, SEEDS[: len(documents)] if seeds is None else seeds, RowWriting(**options))


def same(one: Any, other: Any) -> bool:
    if [[s.modality for s in row] for row in one] != [[s.modality for s in row] for row in other]:
        return False
    pairs = [(a, b) for own, theirs in zip(one, other, strict=True) for a, b in zip(own, theirs, strict=True)]
    return all(a.value.shape == b.value.shape and np.allclose(a.value, b.value, rtol=1e-3, atol=1e-3) for a, b in pairs)


@pytest.mark.parametrize("dim", [16, 8])
@pytest.mark.parametrize("begin_image", [False, True])
def test_with_and_without_a_cache_the_same_comes_out(dim: int, begin_image: bool):
    own = made(dim)
    options = {"temperature": 1.0, "max_tokens": 12, "max_images": 2, "begin_image": begin_image}
    found = write(own, **options)
    assert same(found, write(own, cache=False, **options))
    if begin_image:
        assert all(row[0].modality == "image" for row in found)


def test_a_sample_does_not_depend_on_the_others_of_its_batch():
    own = made()
    options = {"temperature": 1.0, "max_tokens": 10, "max_images": 1, "begin_image": True}
    whole = write(own, **options)
    alone = [write(own, [prompt], seeds=SEEDS[n, None], **options)[0] for n, prompt in enumerate(prompts())]
    assert same(whole, alone)
    assert not same(whole, write(own, seeds=SEEDS + 100, **options))


def test_what_is_generated_is_what_training_would_ask_for():
    """Teacher-forced on its own output, the model predicts exactly that output, ids and vectors."""
    own = made(8)
    prompt = [words(1, 2, OPEN)]
    image, text = write(own, [prompt], max_tokens=5)[0]
    assert (image.modality, image.value.shape) == ("image", (3, 8))
    task = objective(own)
    document = [*prompt, image, words(CLOSE), text]
    answers = own(batch_of(task, [document]))
    torch.testing.assert_close(answers["image"], torch.from_numpy(image.value))
    asked = answers["text"][-len(text.value) :]
    limited = asked.clone()
    limited[:, OPEN] = -torch.inf  # an image more than allowed is never begun
    assert limited.argmax(-1).tolist() == text.value.tolist()


def test_vectors_are_read_back_as_values():
    """The second vector depends on the first: they are no single guess of all."""
    own = made()
    first = write(own, [[words(1, OPEN)]], max_tokens=0)[0][0].value
    hidden = own.decode(batch_of(objective(own), [[words(1, OPEN), Segment("image", first), words(1)]]).decoder)
    again = own.vector_heads["image"](hidden[0, 1:4], torch.arange(3))
    torch.testing.assert_close(again, torch.from_numpy(first))


def test_an_image_is_begun_by_the_prompt_by_the_option_or_by_the_model():
    own = made()
    opened = write(own, [[words(1, 2, OPEN)]], max_tokens=0)[0]
    asked = write(own, [[words(1, 2)]], max_tokens=0, begin_image=True)[0]
    assert same([opened], [asked])
    assert [segment.modality for segment in opened] == ["image"]
    with torch.no_grad():
        own.heads.weight[own.heads.map.slice("text")][OPEN] *= 0
    chosen = _always(own, OPEN)
    found = write(chosen, [[words(1, 2)]], max_tokens=3, max_images=2)[0]
    assert [segment.modality for segment in found] == ["image", "image", "text"]  # two, and then never again
    assert OPEN not in found[-1].value
    assert same([found[:1]], [write(chosen, [[words(1, 2)]], max_tokens=0, begin_image=True)[0]])


def _always(own: Multimodal, id: int) -> Multimodal:
    """A model that would always choose one id: its logit grows with the length of the last state."""
    heads = own.heads

    def logits(name: str, hidden: torch.Tensor) -> torch.Tensor:
        found = type(heads).logits(heads, name, hidden)
        found[..., id] = 1e3
        return found

    heads.logits = logits  # type: ignore[method-assign]
    return own


def test_without_ids_around_images_an_image_comes_first_where_it_is_asked_for():
    row = Row("text", "image")
    found = write(made(), [[words(1)], [words(2, 3)]], row=row, begin_image=True, max_tokens=2)
    assert [[segment.modality for segment in own] for own in found] == [["image", "text"]] * 2


def test_rows_end_at_stop_ids_and_after_so_many_tokens():
    own = _always(made(), STOP)
    assert write(own, stop=(STOP,)) == [[]] * 4
    assert [row[0].value.tolist() for row in write(own, max_tokens=2)] == [[STOP, STOP]] * 4
    suppressed = write(own, max_tokens=6, suppress=(STOP, CLOSE))
    assert all(len(row[0].value) == 6 and not {STOP, CLOSE} & {*row[0].value.tolist()} for row in suppressed)


def test_rows_that_end_early_do_not_disturb_others():
    own = made()
    free = write(own, max_tokens=12)
    stop = int(free[0][0].value[2])
    stopped = write(own, max_tokens=12, stop=(stop,))
    for whole, cut in zip(free, stopped, strict=True):
        ids = whole[0].value.tolist()
        expected = ids[: ids.index(stop)] if stop in ids else ids
        assert [i for segment in cut for i in segment.value.tolist()] == expected


def test_one_beam_is_greedy_choice_and_five_find_a_likelier_text():
    own = made(seed=3)
    greedy = write(own, max_tokens=6, stop=(STOP,))
    from fourm.generate.beams import search
    from fourm.generate.columns import Columns

    columns = Columns(own, "text", "image", prompts())
    with torch.no_grad():
        one = search(own, "text", columns, None, RowWriting(max_tokens=6, stop=(STOP,)), [OPEN])
    assert [ids.tolist() for ids in one] == [row[0].value.tolist() if row else [] for row in greedy]
    five = write(own, max_tokens=6, num_beams=5, suppress=(STOP,))
    plain = write(own, max_tokens=6, suppress=(STOP,))

    def likelihood(prompt: Document, ids: np.ndarray) -> float:
        columns = Columns(own, "text", "image", [[*prompt, Segment("text", ids)]])
        with torch.no_grad():
            hidden = own.decode(columns._table(0))[0, -len(ids) - 1 : -1]
        logits = own.heads.logits("text", hidden[None])[0].detach().clone()
        logits[:, [OPEN, STOP]] = -torch.inf
        return float(logits.log_softmax(-1).gather(-1, torch.from_numpy(ids)[:, None]).sum())

    better = [
        likelihood(p, b[0].value) - likelihood(p, g[0].value) for p, b, g in zip(prompts(), five, plain, strict=True)
    ]
    assert min(better) > -1e-4
    assert max(better) > 1e-3


def test_beams_are_the_same_with_a_cache_and_alone():
    own = made(seed=3)
    options = {"max_tokens": 6, "num_beams": 4, "stop": (STOP,)}
    whole = write(own, **options)
    assert same(whole, write(own, cache=False, **options))
    assert same(whole, [write(own, [prompt], **options)[0] for prompt in prompts()])


def test_beams_find_the_likeliest_text_of_all():
    """With as many beams as there are beginnings, the search is exhaustive."""
    own, prompt = made(seed=5), [words(1, 2)]
    found = write(own, [prompt], max_tokens=2, num_beams=18, suppress=(CLOSE,))[0][0].value
    best, best_score = None, -np.inf
    with torch.no_grad():
        for first in range(18):
            for second in range(18):
                from fourm.generate.columns import Columns

                columns = Columns(own, "text", "image", [[*prompt, words(first, second)]])
                logits = own.heads.logits("text", own.decode(columns._table(0))[:, 1:3])[0].clone()
                logits[:, [OPEN, CLOSE]] = -torch.inf
                score = float(logits.log_softmax(-1)[[0, 1], [first, second]].sum())
                if score > best_score:
                    best, best_score = [first, second], score
    assert found.tolist() == best


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([[]], "a prompt is empty"),
        ([[words(25)]], "not all within the vocabulary of 20"),
        ([[Segment("image", np.zeros((3, 9, 8), np.float32))]], r"this model reads images of \(3, 8, 8\)"),
        ([[Segment("image", np.zeros((2, 16), np.float32))]], "expected 3 vectors of 16 numbers for each"),
        ([[Segment("depth", np.zeros((1, 8, 8), np.float32))]], "a prompt holds 'depth'"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(documents: Any, message: str):
    with pytest.raises(DataError, match=message):
        write(made(), documents)


def test_models_that_cannot_do_it_are_refused():
    with pytest.raises(ConfigError, match="no head for vectors of images"):
        write(model(vector_head=None), begin_image=True)
    with pytest.raises(ConfigError, match="position_tables false"):
        write(model(position_tables=True))
    with pytest.raises(ConfigError, match="num_beams searches for one likeliest text"):
        RowWriting(num_beams=2, temperature=1.0)
    with pytest.raises(DataError, match="reads text alone"):
        write(made(), row=Row("text"))
    broken = made()
    with torch.no_grad():
        broken.decoder.norm.weight.fill_(torch.nan)
    with pytest.raises(CheckpointError, match="not finite"):
        write(broken)
