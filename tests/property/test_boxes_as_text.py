from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fourm.tokenizers.structured import boxes_to_text, text_to_boxes

CLASSES = ("bed", "potted plant", "t-shirt", "tv")
unit = st.floats(0, 1)


@st.composite
def instances(draw: st.DrawFn) -> list[dict]:
    found = []
    for _ in range(draw(st.integers(0, 6))):
        x, y = sorted((draw(unit), draw(unit))), sorted((draw(unit), draw(unit)))
        name = draw(st.sampled_from(CLASSES))
        found.append({"boxes": [x[0], y[0], x[1], y[1]], "class_name": name, "score": draw(unit)})
    return found


pieces = st.sampled_from(
    [*CLASSES, *(f"v{axis}={value}" for axis in range(5) for value in (0, 3, 63, 64, 1001)), "v0=", "=", "[EOS]"]
)


@given(instances(), st.integers(2, 2000))
def test_boxes_come_back_within_half_a_bin(boxes, num_bins):
    kept = [one for one in boxes if one["score"] >= 0.6]
    kept.sort(key=lambda one: one["boxes"][0] ** 2 + one["boxes"][1] ** 2)
    found = text_to_boxes(boxes_to_text(boxes, num_bins=num_bins), num_bins=num_bins, classes=CLASSES)
    assert [one["class_name"] for one in found] == [one["class_name"] for one in kept]
    for one, other in zip(found, kept):
        assert all(abs(a - b) <= 0.5 / (num_bins - 1) + 1e-9 for a, b in zip(one["boxes"], other["boxes"]))


@given(instances(), st.integers(2, 2000))
def test_writing_again_what_was_read_changes_nothing(boxes, num_bins):
    once = text_to_boxes(boxes_to_text(boxes, num_bins=num_bins), num_bins=num_bins)
    rewritten = boxes_to_text(once, num_bins=num_bins)
    again = text_to_boxes(rewritten, num_bins=num_bins)
    assert sorted(map(str, again)) == sorted(map(str, once))


@given(st.one_of(st.text(), st.lists(pieces).map(" ".join)), st.integers(2, 1000))
def test_any_text_gives_a_list_of_valid_boxes(text, num_bins):
    for one in text_to_boxes(text, num_bins=num_bins):
        x1, y1, x2, y2 = one["boxes"]
        assert 0 <= x1 <= x2 <= 1
        assert 0 <= y1 <= y2 <= 1
        assert one["class_name"]
