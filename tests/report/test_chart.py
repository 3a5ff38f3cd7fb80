"""Charts of characters: nothing grown is a flat line, and growth reaches the top."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zgedge.report.chart import growth_chart

BLOCKS = set("▁▂▃▄▅▆▇█#")


def test_no_growth_is_a_flat_line() -> None:
    lines = growth_chart(list(range(10, 1010, 10)), [0] * 100, width=60, height=4)
    assert len(lines) == 6
    assert not BLOCKS & set("".join(lines))
    assert lines[0].strip().startswith("+4,096")
    assert lines[4].strip().startswith("+0 ┼─")
    assert lines[5].split() == ["10", "1,000"]


def test_growth_climbs_from_left_to_right() -> None:
    steps = list(range(1001))
    lines = growth_chart(steps, [1000 * s for s in steps], width=60, height=4)
    heights = [
        sum(1 for line in lines[:4] if column < len(line) and line[column] in BLOCKS)
        for column in range(lines[0].index("┤") + 1, 58)
    ]
    assert heights == sorted(heights)
    assert heights[-1] == 4
    assert "1,000,000" in lines[0]


def test_a_page_of_growth_is_seen() -> None:
    growth = [0] * 50 + [4096] * 50
    lines = growth_chart(list(range(100)), growth, width=60, height=4)
    assert "█" in lines[0]


def test_one_peak_is_not_lost_between_columns() -> None:
    growth = [0] * 1000
    growth[567] = 10_000_000
    lines = growth_chart(list(range(1000)), growth, width=40)
    assert sum(line.count("█") for line in lines) >= 4


def test_without_unicode_it_is_ascii() -> None:
    lines = growth_chart([1, 2, 3], [0, 4096, 8192], width=50, unicode=False)
    assert "".join(lines).isascii()
    assert "#" in lines[0]


@given(
    st.lists(st.integers(0, 2**40), min_size=1, max_size=300),
    st.integers(10, 120),
    st.integers(1, 12),
    st.booleans(),
)
def test_any_readings_fit_the_width(
    growth: list[int], width: int, height: int, unicode: bool
) -> None:
    steps = [100 + 7 * i for i in range(len(growth))]
    lines = growth_chart(steps, growth, width=width, height=height, unicode=unicode)
    assert len(lines) == height + 2
    margin = max(len(f"+{max(4096, *growth):,}"), 2)
    assert all(len(line) <= max(width, margin + 10 + len(f"{steps[-1]:,}")) for line in lines)


@pytest.mark.parametrize("text", [str, lambda n: f"{n / 1024:g} KB"])
def test_axis_is_written_as_asked(text: object) -> None:
    lines = growth_chart([1, 2], [0, 0], width=60, text=text)  # type: ignore[arg-type]
    assert f"+{text(4096)}" in lines[0]  # type: ignore[operator]
