from __future__ import annotations

import numpy as np
import pytest

from fourm.prepare.rooms.caption import Seen, describe, visible_objects
from fourm.prepare.rooms.classes import CLASSES, OBJECTS, objects_in


def _seen(
    kind: str, x: float, *, depth: float = 3.0, share: float = 0.05, colour: str = "red", half: float = 0.1
) -> Seen:
    return Seen(kind, colour, share, (x - half, 0.4, x + half, 0.7), depth)


def _captions(seen: list[Seen], draws: int = 30) -> list[str]:
    named = {item.kind for item in seen}
    return [text for seed in range(draws) for text in describe(np.random.default_rng(seed), seen, named)]


def test_every_caption_names_exactly_the_given_classes(rng: np.random.Generator) -> None:
    for seed in range(100):
        rng = np.random.default_rng(seed)
        kinds = rng.choice(OBJECTS, rng.integers(1, 7))
        seen = [_seen(kind, rng.uniform(0.1, 0.9), depth=rng.uniform(1, 6)) for kind in kinds]
        named = set(kinds[: rng.integers(1, len(kinds) + 1)].tolist())
        for text in describe(rng, seen, named):
            assert objects_in(text) == named, text


def test_left_and_right_are_those_of_the_image() -> None:
    captions = _captions([_seen("sofa", 0.2), _seen("lamp", 0.8)])
    assert any("sofa to the left of a" in text or "sofa left of a" in text for text in captions)
    assert any("lamp to the right of a" in text or "lamp right of a" in text for text in captions)
    assert not any("sofa right" in text or "sofa to the right" in text for text in captions)
    assert not any("lamp left" in text or "lamp to the left" in text for text in captions)


def test_what_is_nearer_and_overlaps_is_in_front() -> None:
    captions = _captions([_seen("table", 0.5, depth=2.0), _seen("bed", 0.52, depth=4.0)])
    assert any("table in front of a" in text for text in captions)
    assert any("bed behind a" in text for text in captions)
    assert not any("table behind" in text or "bed in front" in text for text in captions)


def test_close_things_at_one_depth_have_no_relation() -> None:
    captions = _captions([_seen("table", 0.5), _seen("bed", 0.53)])
    assert not any(word in text for text in captions for word in ("left", "right", "behind", "front"))


def test_several_of_a_kind_are_counted_and_share_a_colour_word_only_if_equal() -> None:
    equal = _captions([_seen("chair", 0.2, colour="blue"), _seen("chair", 0.8, colour="blue")])
    assert any("two blue chairs" in text for text in equal)
    mixed = _captions([_seen("chair", 0.2, colour="blue"), _seen("chair", 0.8, colour="red")])
    assert all("two chairs" in text and "blue" not in text for text in mixed)


def test_barely_visible_members_are_not_counted() -> None:
    captions = _captions([_seen("chair", 0.2), _seen("chair", 0.8, share=0.003)])
    assert not any("two" in text for text in captions)


def test_wording_varies_and_articles_fit() -> None:
    captions = _captions([_seen("rug", 0.3, colour="orange"), _seen("bed", 0.7)])
    assert len(set(captions)) > 15
    assert any("an orange rug" in text for text in captions)
    assert not any("a orange" in text or "an red" in text for text in captions)


def test_an_empty_view_names_nothing() -> None:
    captions = describe(np.random.default_rng(0), [_seen("bed", 0.5, share=0.001)], set())
    assert captions
    assert all(objects_in(text) == set() for text in captions)


@pytest.mark.parametrize(("pixels", "named"), [(120, set()), (121, {"bed"})])
def test_classes_are_named_from_one_thirty_fourth_of_the_image(pixels: int, named: set[str]) -> None:
    semseg = np.zeros((64, 64), np.uint8)
    semseg.ravel()[:pixels] = CLASSES.index("bed")
    semseg.ravel()[-5:] = 255
    assert visible_objects(semseg) == named
