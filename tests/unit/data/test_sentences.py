"""Visual sentences: which pictures follow one another, for every kind."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from fourm import config as configs
from fourm.data import sentences
from fourm.data.sentence_configs import SENTENCES, BalanceConfig, repeats
from fourm.data.sentences import Frame, natural_order
from fourm.errors import ConfigError

ROWS = range(10, 47)


def made(kind: str, rows: Any = ROWS, groups: Any = None, seed: int = 0, **options: Any) -> list[list[Frame]]:
    config = configs.build(SENTENCES.resolve(kind), options)
    return sentences.build(config, rows, groups or {}, np.random.default_rng(seed))


def every_row_once(found: list[list[Frame]], view: str) -> bool:
    return sorted(f.row for s in found for f in s if f.view == view) == list(ROWS)


def test_pairs_alternate_and_take_every_sample_once() -> None:
    found = made("pairs", views=("image", "depth"))
    assert [len(sentence) for sentence in found] == [16, 16, 16, 16, 10]
    for sentence in found:
        assert [frame.view for frame in sentence] == ["image", "depth"] * (len(sentence) // 2)
        assert all(x.row == y.row for x, y in zip(sentence[::2], sentence[1::2]))
    assert every_row_once(found, "image")
    assert made("pairs", views=("image", "depth"), seed=1) != found  # another epoch pairs others


def test_several_annotations_keep_their_order_within_a_sentence() -> None:
    views = ("image", "depth", "normal", "semseg")
    plain = made("pairs", views=views, num_images=12)
    assert all([f.view for f in s[:4]] == list(views) and len(s) in (12, 4) for s in plain)
    shuffled = made("pairs", views=views, num_images=12, shuffle=True)
    orders = [[f.view for f in s[:4]] for s in shuffled]
    assert all([f.view for f in s] == order * (len(s) // 4) for s, order in zip(shuffled, orders))
    assert len(set(map(tuple, orders))) > 3
    assert every_row_once(shuffled, "normal")


def test_a_part_of_the_annotations_leaves_room_for_more_samples() -> None:
    views = ("image", "depth", "normal", "semseg")
    found = made("pairs", range(2000), views=views, fewest_views=2)
    for sentence in found[:-1]:
        count = len({f.view for f in sentence})
        assert len({f.row for f in sentence}) == 16 // count
        assert len(sentence) <= 16
    shares = Counter(len({f.view for f in s}) for s in found)
    assert set(shares) == {2, 3, 4}
    assert sorted({f.row for s in found for f in s}) == list(range(2000))


def test_colours_and_gaps_are_filters_of_the_image() -> None:
    assert {f.view for s in made("colorization") for f in s[::2]} == {"image:gray"}
    assert {f.view for s in made("inpainting") for f in s[::2]} == {"image:masked"}
    assert {f.view for s in made("inpainting") for f in s[1::2]} == {"image"}


def test_frames_of_a_clip_have_even_distances() -> None:
    clips = {"long": range(1000), "short": range(1000, 1020), "tiny": range(1020, 1025), "still": [1025]}
    strides = set()
    for seed in range(30):
        long, short, tiny = made("video", groups=clips, seed=seed)  # a single frame is no clip
        rows = [f.row for f in long]
        assert len(rows) == 16
        (stride,) = set(np.diff(rows))
        strides.add(int(stride))
        assert {int(d) for d in np.diff([f.row for f in short])} == {1}
        assert [f.row for f in tiny] == list(range(1020, 1025))
        assert rows[0] >= 0
        assert rows[-1] < 1000
    assert strides == {10, 20, 30}


def test_annotated_clips_interleave_or_come_in_two_halves() -> None:
    clips = {"a": range(200)}
    (found,) = made("video", groups=clips, views=("image", "depth"))
    assert [f.view for f in found] == ["image", "depth"] * 8
    (found,) = made("video", groups=clips, views=("image", "depth"), layout="grouped")
    assert [f.view for f in found] == ["image"] * 8 + ["depth"] * 8
    assert [f.row for f in found[:8]] == [f.row for f in found[8:]]


def test_turns_go_round_in_both_directions() -> None:
    directions = set()
    for seed in range(20):
        (found,) = made("rotation", groups={"chair": range(100, 124)}, seed=seed)
        steps = {int(d) for d in np.diff([f.row for f in found]) % 24}
        assert len(found) == 16
        assert len(steps) == 1
        directions |= steps
    assert directions == {1, 23}


@pytest.mark.parametrize("padding", [0, 3])
def test_keys_are_in_natural_order(padding: int) -> None:
    keys = [f"clip{c}/{n:0{padding}d}" for c in (2, 10) for n in range(25)]
    assert sorted(sorted(keys), key=natural_order) == keys
    assert sorted(["b", "a/c", "7", "a/b", "a1b", "a"], key=natural_order) == ["7", "a", "a1b", "a/b", "a/c", "b"]


def test_a_category_stays_among_itself() -> None:
    groups = {"boot": range(40), "bag": range(40, 57)}
    found = made("category", groups=groups)
    assert sorted(len(s) for s in found) == [1, 8, 16, 16, 16]
    assert all(len({f.row < 40 for f in s}) == 1 for s in found)
    assert sorted(f.row for s in found for f in s) == list(range(57))


def test_single_images_stand_alone() -> None:
    found = made("single", views=("image", "depth"))
    assert all(len(s) == 1 for s in found)
    assert sorted(s[0].row for s in found) == list(ROWS)
    assert {s[0].view for s in found} == {"image", "depth"}


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("pairs", {"views": ()}, "views is empty"),
        ("pairs", {"views": ("image:blue",)}, "'image:blue' names no filter; known: black, gray, masked"),
        ("pairs", {"views": ("a", "b", "c"), "num_images": 2}, "a sentence of 2 images has no room for 3 views"),
        ("pairs", {"fewest_views": 3}, "fewest_views"),
        ("video", {"strides": ()}, "strides is empty"),
        ("video", {"strides": (0,)}, "strides"),
    ],
)
def test_sentences_that_cannot_be_are_refused(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(kind, **options)


def test_small_tasks_come_again_up_to_equal_tokens() -> None:
    tokens = {"large": 6400, "middle": 1600, "tail": 100, "none": 0}
    assert repeats(tokens, BalanceConfig()) == {"large": 1, "middle": 1, "tail": 1, "none": 1}
    assert repeats(tokens, BalanceConfig(share=0, most=100)) == {"large": 1, "middle": 4, "tail": 64, "none": 1}
    assert repeats(tokens, BalanceConfig(share=0.5, most=100)) == {"large": 1, "middle": 2, "tail": 8, "none": 1}
    assert repeats(tokens, BalanceConfig(share=0, most=5))["tail"] == 5
