"""Numbers of a config that are out of their range are told with the range."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from fourm.errors import ConfigError
from fourm.ranges import check_range, check_widths


@dataclass
class Numbers:
    count: int | None = 3
    share: float = 0.5
    pair: tuple[float, float] = (0.0, 0.9)
    table: dict[str, float] = field(default_factory=lambda: {"rgb": 1.0})

    @property
    def twice(self) -> int:
        return 2 * (self.count or 0)


def test_numbers_in_their_range_pass_and_null_is_no_number() -> None:
    check_range(Numbers(), "count", "share", "pair", "table", least=0)
    check_range(Numbers(count=None), "count", least=1)


@pytest.mark.parametrize(
    ("config", "name", "bounds", "message"),
    [
        (Numbers(count=0), "count", {"least": 1}, r"^count is 0; expected 1 or more$"),
        (Numbers(share=0.0), "share", {"above": 0}, r"^share is 0\.0; expected a number above 0$"),
        (Numbers(share=1.5), "share", {"least": 0, "most": 1}, r"^share is 1\.5; expected 0 or more and at most 1$"),
        (Numbers(share=1.0), "share", {"above": 0, "below": 1}, r"expected a number above 0 and below 1$"),
        (Numbers(pair=(0.0, 1.0)), "pair", {"least": 0, "below": 1}, r"^pair\[1\] is 1\.0"),
        (Numbers(table={"rgb": 1.0, "depth": -1.0}), "table", {"least": 0}, r"^table\.depth is -1\.0"),
        (Numbers(count=0), "twice", {"least": 1}, r"^twice is 0"),
        (Numbers(share=float("nan")), "share", {"least": 0}, r"^share is nan"),
    ],
)
def test_other_numbers_are_named_with_what_was_expected(
    config: Numbers, name: str, bounds: dict[str, float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_range(config, name, **bounds)


def test_widths_are_there_and_multiples_of_groups() -> None:
    check_widths([8, 16], 8)
    with pytest.raises(ConfigError, match=r"widths \[12, 20\] are not multiples of groups 8"):
        check_widths([12, 16, 20], 8)
    with pytest.raises(ConfigError, match="widths is empty; expected channels of each level"):
        check_widths([], 8)
