"""What an evaluation hands over."""

from __future__ import annotations

from fourm.evaluate.outcome import Outcome, PictureTable


def test_outcomes_share_nothing() -> None:
    """Two evaluations in one process must not find each other's pictures."""
    one, other = Outcome({"rgb_to_depth": {"abs_rel": 0.1}}), Outcome({})
    one.tables.append(PictureTable("rgb_to_all", "Everything", "From RGB.", ["given"], [["-"]]))
    one.facts["samples"] = "8"

    assert (other.tables, other.facts, other.classes) == ([], {}, ())
