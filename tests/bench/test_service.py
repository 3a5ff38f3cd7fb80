"""The measurement of a service, short: `python -m zgedge.bench.service` does a million samples."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from zgedge.bench import service


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    # A short run warms up longer, so that the first commit is in the warm-up.
    return service.measure(12_000, commit_every=0.3, warmup_share=2)


def test_nothing_grows(found: dict[str, Any]) -> None:
    growth = found["growth"]
    # A few pages may still be new; a leak of 64 bytes a sample is 380 KB.
    assert growth["rss"] <= 16 * 1024
    assert growth["uss"] <= 16 * 1024
    assert (growth["disk"], growth["files"], growth["threads"]) == (0, 0, 0)
    assert found["learned"] == 12_000
    assert found["dropped"] == 0
    assert found["rewired"] > 1000
    assert found["commits"] >= 2


def test_what_was_not_shown_is_said(found: dict[str, Any]) -> None:
    still = dict.fromkeys(found["growth"], 0)
    ticks = {"p50": 10.0, "p999": 20.0, "longest": 50.0}
    sound = {**found, "growth": still, "ticks": ticks, "commit_every": 60.0}
    assert service.reasons(sound) == []
    bad: dict[str, dict[str, Any]] = {
        "rss grew by 4,096": {"growth": {**still, "rss": 4096}},
        "99.9 % of ticks": {"ticks": {"p50": 10.0, "p999": 31.0, "longest": 50.0}},
        "samples were learned": {"learned": 5},
        "no connection was rewired": {"rewired": 0},
        "0 commits": {"commits": 0},
    }
    for why, change in bad.items():
        (reason,) = service.reasons({**sound, **change})
        assert why in reason
    text = "\n".join(service.markdown(found))
    assert "| samples learned | 12,000 in " in text


def test_results_show_what_they_must(root: Path) -> None:
    text = (root / "docs" / "results" / "service.md").read_text()
    assert "| samples learned | 1,000,000 in " in text
    for what in ("RSS", "USS", "disk"):
        assert re.search(rf"^\| {what} growth \| 0 of ", text, re.MULTILINE), what
    assert re.search(r"^\| open files, threads \| \+0 of \d+, \+0 of \d+ \|", text, re.MULTILINE)
