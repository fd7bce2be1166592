"""Tables from plain tensors: what is given in one, what is asked in the other."""

from __future__ import annotations

import torch

from fourm.modality import ModalitySet
from fourm.models.ask import ask, given_table, patchify

CPU = torch.device("cpu")


def test_patches_are_read_row_by_row_with_channels_last() -> None:
    image = torch.arange(2 * 4 * 4).reshape(1, 2, 4, 4)

    patches = patchify(image, 2)

    assert patches.shape == (1, 4, 8)
    # Upper right patch: rows 0 and 1, columns 2 and 3, and of each pixel both channels.
    assert patches[0, 1].tolist() == [2, 18, 3, 19, 6, 22, 7, 23]


def test_what_is_given_stands_side_by_side_with_its_padding(modalities: ModalitySet) -> None:
    given = {
        "tok_depth@8": {"ids": torch.tensor([[3, 4]]), "positions": torch.tensor([[7, -1]])},
        "caption": {"ids": torch.tensor([[50, 60, -1]])},
    }

    table = given_table(given, modalities, 1, CPU)

    depth, caption = modalities.index("tok_depth@8"), modalities.index("caption")
    assert table.modality.tolist() == [[depth, -1, caption, caption, -1]]
    assert table.position.tolist() == [[7, 0, 0, 1, 0]]
    assert table.ids.tolist() == [[3, -1, 50, 60, -1]]
    assert (table.target_ids == -1).all()
    assert table.attention.dense()[0, 0].tolist() == [True, False, True, True, False]


def test_pixels_are_the_patches_of_the_places_named(modalities: ModalitySet) -> None:
    pixels = torch.arange(3 * 64, dtype=torch.float32).reshape(1, 3, 8, 8)
    given = {"rgb@8": {"values": pixels, "positions": torch.tensor([[9, 2]])}}

    table = given_table(given, modalities, 1, CPU)

    assert torch.equal(table.values["rgb@8"], patchify(pixels, 2)[0, [9, 2]])
    assert table.value_rows["rgb@8"].tolist() == [0, 1]
    assert table.values["vectors"].shape == (0, 7)  # not given, but the model looks for it


def test_grids_are_asked_in_parallel_and_texts_causally(modalities: ModalitySet) -> None:
    table, columns = ask(
        {"codes": {"positions": torch.tensor([[3, 1]])}, "caption": {"ids": torch.tensor([[5, 80, 6]])}}, modalities
    )

    assert columns == {"codes": (0, 2), "caption": (2, 4)}
    assert table.ids.tolist() == [[-1, -1, 5, 80]]
    assert table.attention.dense()[0].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
