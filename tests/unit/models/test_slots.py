"""Images that a model makes vectors of: read as tokens, asked as targets without a gradient, or given as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fourm.errors import ConfigError, DataError
from fourm.layouts import Continuous, Discrete, Sequence, Slots
from fourm.modality import Modality, ModalitySet, from_dict, to_dict
from fourm.models.configs import LinearHeadConfig, MultimodalConfig
from fourm.models.multimodal import Multimodal
from fourm.objectives.autoregressive import Autoregressive
from fourm.objectives.configs import AutoregressiveConfig
from fourm.rng import generator
from fourm.tokens import Document, Example, Segment, target_of

TEXT = Modality("text", Sequence(64, 64), Discrete(20), "text", "tokens")
OPEN, CLOSE = 18, 19


def image(dim: int = 16) -> Modality:
    return Modality("image", Slots(3, 8, 8), Continuous(dim), "rgb", "image", channels=3)


@dataclass
class StandInConfig:
    """One linear layer in the place of a tower and a pooler."""

    feeder: ClassVar[str] = f"{__name__}:StandIn"
    reads_slots: ClassVar[bool] = True
    projection: bool = False


class StandIn(nn.Module):
    def __init__(self, modality: Modality, config: StandInConfig, dim: int) -> None:
        super().__init__()
        size = getattr(modality.content, "dim", 0)
        self.shape = modality.num_tokens, size
        height, width = modality.image_size
        self.linear = nn.Linear(3 * height * width, modality.num_tokens * size)
        self.project = nn.Linear(size, dim, bias=False) if config.projection else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1)).unflatten(1, self.shape)  # type: ignore[no-any-return]


def model(dim: int = 16, **options: Any) -> Multimodal:
    """A language model of width 16 that reads and predicts vectors of `dim` numbers."""
    facts: dict[str, Any] = {
        "feeders": {"image": StandInConfig(projection=dim != 16)}, "position_tables": False, "embedding_std": 0.4,
        "vector_head": LinearHeadConfig(bias=False), **options,
    }  # fmt: skip
    config = MultimodalConfig(
        dim=16, encoder_depth=0, decoder_depth=2, num_heads=2, rope_theta=1e4, modality_embeddings=False,
        tie_heads=False, **facts,
    )  # fmt: skip
    return Multimodal(ModalitySet([TEXT, image(dim)]), config)


def objective(own: Multimodal, **options: Any) -> Autoregressive:
    return Autoregressive(AutoregressiveConfig(**options), own.modalities)


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(3, 8, 8)).astype(np.float32)


def words(*ids: int, asked: bool = True) -> Segment:
    return Segment("text", np.array(ids), asked)


def document(*pictures: np.ndarray, asked: bool = True) -> Document:
    """A text, pictures between their begin and end, which are not asked, and a text."""
    shown = [(words(OPEN, asked=False), Segment("image", p, asked), words(CLOSE, asked=False)) for p in pictures]
    return [words(1, 2, 3), *(segment for parts in shown for segment in parts), words(4, 5)]


def batch_of(task: Autoregressive, *rows: list[Document]) -> Example:
    return task.collate([task.prepare(row, generator(0, "row", n)) for n, row in enumerate(rows)])


def test_an_image_takes_as_many_places_as_it_has_vectors_and_each_place_asks_for_the_next() -> None:
    table = batch_of(objective(model()), [document(picture())]).decoder
    assert table.modality.tolist() == [[0, 0, 0, 0, 1, 1, 1, 0, 0]]
    assert table.position.tolist() == [[0, 1, 2, 0, 0, 1, 2, 0, 0]]
    assert table.target_ids.tolist() == [[2, 3, -1, -1, -1, -1, -1, 4, 5]]
    assert table.target_rows["image"].tolist() == [3, 4, 5]  # the begin and the first two vectors
    assert table.slots_read["image"].tolist() == table.slots_asked["image"].tolist() == [0, 1, 2]
    assert table.images["image"].shape == (1, 3, 8, 8)


def test_images_of_a_batch_are_numbered_through() -> None:
    table = batch_of(
        objective(model()),
        [document(picture(0), picture(1)), document(picture(2))],
        [document()],
        [document(picture(3))],
    ).decoder
    assert table.slots_read["image"].tolist() == list(range(12))
    assert table.slots_asked["image"].tolist() == list(range(12))
    assert torch.equal(table.images["image"], torch.from_numpy(np.stack([picture(n) for n in range(4)])))


def test_an_image_at_the_end_is_asked_whole_and_its_last_vector_is_not_read() -> None:
    table = batch_of(objective(model()), [[words(1, OPEN), Segment("image", picture())]]).decoder
    assert table.slots_read["image"].tolist() == [0, 1]
    assert table.slots_asked["image"].tolist() == [0, 1, 2]


def test_what_is_asked_are_the_vectors_themselves_and_the_loss_is_their_squared_error() -> None:
    own = model()
    task = objective(own, reduction="weighted", modality_weights={"image": 2.0})
    batch = batch_of(task, [document(picture(0))], [document(picture(1))])
    answers = own(batch)
    made = own.input_embedder.feeders["image"](batch.decoder.images["image"]).flatten(0, 1)
    assert torch.equal(answers[target_of("image")], made.detach())
    expected = 2.0 * (answers["image"] - made).square().mean()
    scored = torch.nn.functional.cross_entropy(answers["text"], batch.decoder.targets("text"))
    torch.testing.assert_close(task.loss(own, batch).scalar(task.counts(batch)), expected + scored)


def test_targets_have_no_gradient_but_what_is_read_has() -> None:
    own = model()
    task = objective(own, modality_weights={"text": 0.0})
    batch = batch_of(task, [[words(OPEN), Segment("image", picture()), words(1)]])
    task.loss(own, batch).scalar(task.counts(batch)).backward()
    gradient = own.input_embedder.feeders["image"].linear.weight.grad
    assert gradient is not None
    first, second, last = gradient.unflatten(0, (3, 16)).abs().sum((1, 2)).tolist()
    assert first > 0  # it is read, and the vectors behind it are asked
    assert second > 0
    assert last == 0  # it is a target alone


def test_the_last_vector_asks_for_the_embedding_of_the_end_if_the_config_says_so() -> None:
    own = model()
    task = objective(own, regress_end=True)
    table = batch_of(task, [document(picture())])
    assert table.decoder.slots_asked["image"].tolist() == [0, 1, 2, -1]
    assert table.decoder.target_rows["image"].tolist() == [3, 4, 5, 6]
    answers = own(table)
    torch.testing.assert_close(answers[target_of("image")][-1], own.input_embedder.table.rows("text")[CLOSE].detach())
    only_read = batch_of(task, [document(picture(), asked=False)]).decoder
    assert not len(only_read.target_rows["image"])


def test_the_embedding_of_the_end_has_no_gradient_as_a_target() -> None:
    """Nothing that is asked stands behind it, so that as an input it has none either; the begin is read and has one."""
    own = model()
    task = objective(own, regress_end=True, modality_weights={"text": 0.0})
    row = [words(OPEN), Segment("image", picture()), words(CLOSE, 1, asked=False)]
    batch = batch_of(task, [row])
    task.loss(own, batch).scalar(task.counts(batch)).backward()
    gradient = own.input_embedder.table.weight.grad
    assert gradient is not None
    assert batch.decoder.slots_asked["image"].tolist()[-1] == -1
    assert gradient[OPEN].abs().sum() > 0
    assert gradient[CLOSE].abs().sum() == 0


def test_vectors_are_regressed_in_their_own_space_and_read_through_the_projection() -> None:
    own = model(dim=8)
    task = objective(own)
    batch = batch_of(task, [document(picture())])
    answers = own(batch)
    assert answers["image"].shape == answers[target_of("image")].shape == (3, 8)
    feeder = own.input_embedder.feeders["image"]
    embedded = own.input_embedder(batch.decoder)
    torch.testing.assert_close(embedded.content[0, 4:7], feeder.project(feeder(batch.decoder.images["image"]))[0])


def test_known_vectors_read_the_same_as_the_image_they_are_made_of() -> None:
    own = model()
    task = objective(own)
    with torch.no_grad():
        vectors = own.input_embedder.feeders["image"](torch.from_numpy(picture())[None])[0].numpy()
    drawn, known = batch_of(task, [document(picture())]), batch_of(task, [document(vectors)])
    assert "image" not in known.decoder.images
    one, other = own(drawn), own(known)
    for name in one:
        torch.testing.assert_close(one[name], other[name])


def test_rows_of_text_alone_leave_a_gradient_of_zero_everywhere() -> None:
    own = model()
    task = objective(own)
    batch = batch_of(task, [[words(1, 2, 3)]])
    task.loss(own, batch).scalar(task.counts(batch)).backward()
    without = {name for name, p in own.named_parameters() if p.grad is None}
    assert not without  # else ranks with images would wait for those without
    assert not own.input_embedder.feeders["image"].linear.weight.grad.any()


def test_images_of_which_nothing_makes_vectors_are_refused() -> None:
    own = model(feeders={})
    batch = batch_of(objective(own), [document(picture())])
    with pytest.raises(ConfigError, match=r"set model\.feeders\.image"):
        own(batch)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((3, 8, 9), np.float32), r"shape \(3, 8, 9\); expected \(3, 8, 8\)"),
        (np.zeros((2, 16), np.float32), "2 vectors; expected 3"),
        (np.zeros((3, 15), np.float32), r"shape \(3, 15\); expected \(length, 16\)"),
    ],
)
def test_images_of_another_shape_are_refused(value: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        batch_of(objective(model()), [document(value)])


def test_pixels_and_vectors_in_one_batch_are_refused() -> None:
    with pytest.raises(DataError, match="some images of a batch are pixels, others vectors"):
        batch_of(objective(model()), [document(picture())], [document(np.zeros((3, 16), np.float32))])


def test_slots_are_written_and_read() -> None:
    facts = to_dict(image())
    assert facts["layout"] == {"kind": "slots", "num_tokens": 3, "height": 8, "width": 8}
    assert from_dict("image", facts) == image()
    assert image().image_size == (8, 8)
    with pytest.raises(ConfigError, match="slots hold vectors"):
        Modality("image", Slots(3, 8, 8), Discrete(4), "rgb", "image", channels=3)
    with pytest.raises(ConfigError, match="has slots where a grid is needed"):
        _ = image().grid
