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
    slow = {"p50": 10.0, "p999": 31.0, "longest": 50.0}
    sound = {**found, "growth": still, "ticks": ticks, "commit_every": 60.0}
    assert service.reasons([sound]) == []
    bad: dict[str, dict[str, Any]] = {
        "rss grew by 4,096": {"growth": {**still, "rss": 4096}},
        "99.9 % of ticks took 3.10 times": {"ticks": slow},
        "samples were learned": {"learned": 5},
        "no connection was rewired": {"rewired": 0},
        "0 commits": {"commits": 0},
    }
    for why, change in bad.items():
        (reason,) = service.reasons([{**sound, **change}])
        assert why in reason
        # One of three runs is enough for all but the length of ticks.
        three = service.reasons([sound, {**sound, **change}, sound])
        assert three == ([] if change.get("ticks") is slow else [reason])
    text = "\n".join(service.markdown([sound, {**sound, "ticks": slow}, sound]))
    assert "| samples learned | 12,000 in " in text
    assert "took 2.00 times their median in the middle one of the runs (2.00 to 3.10)" in text


def test_results_show_what_they_must(root: Path) -> None:
    text = (root / "docs" / "results" / "service.md").read_text()
    table = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in text.splitlines()
             if line.startswith("|")}  # fmt: skip
    must = {"samples learned": "1,000,000 in ", "RSS growth": "0 of ", "USS growth": "0 of ",
            "disk growth": "0 of ", "open files, threads": r"\+0 of \d+, \+0 of"}  # fmt: skip
    for what, pattern in must.items():
        assert len(table[what]) >= 3
        for run in table[what]:
            assert re.match(pattern, run.strip()), (what, run)
