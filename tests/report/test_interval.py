"""How sure a measured share is."""

from __future__ import annotations

import pytest

from zgedge.report.interval import wilson, words


def test_wilson() -> None:
    # R: prop.test(96, 100, correct = FALSE) and prop.test(10, 20, correct = FALSE).
    assert wilson(96, 100) == pytest.approx((0.901629, 0.984337), abs=1e-5)
    assert wilson(10, 20) == pytest.approx((0.299298, 0.700702), abs=1e-5)


def test_all_right_is_no_certainty() -> None:
    low, high = wilson(96, 96)
    assert 0.95 < low < 0.97
    assert high == 1.0
    assert wilson(0, 96) == pytest.approx((1 - high, 1 - low))
    assert words(96, 96) == "95 % interval 96.15 to 100.00"
