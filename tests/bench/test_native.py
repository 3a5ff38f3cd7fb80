"""The measurement of the native program, short: `python -m zgedge.bench.native` does a million
steps of the program that is deployed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.platform import builds
from tests.platform.needed import or_skip
from zgedge.bench import native
from zgedge.devices.native import PROGRAM


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("native")
    program = or_skip(lambda: builds.cmake(builds.NATIVE, "zgedge-native"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "command", lambda runtime: [str(program)])
        memory = native.measure_memory("native", folder, 200)
        start = native.measure_start("native", folder, 1)
        growth = native.measure_growth("native", folder, 3000, lambda text: None)
    return {
        "memory": {"native": memory, "python": memory}, "start": {"native": start, "python": start},
        "growth": {"native": growth}, "bytes": dict.fromkeys(PROGRAM.targets, 400_000),
    }  # fmt: skip


def test_what_is_measured(found: dict[str, Any]) -> None:
    memory, grown = found["memory"]["native"], found["growth"]["native"]
    assert native.ARENA - 1024 <= memory["arena"] <= native.ARENA
    assert memory["arena"] < memory["anonymous"] < memory["arena"] + native.BESIDE
    assert grown["learned"] == 3000
    assert grown["dropped"] == 0
    assert grown["growth"] == dict.fromkeys(("rss", "files", "threads", "disk"), 0) or (
        grown["growth"]["rss"] <= 16 * 1024  # a page of the program that is new; not a leak
    )
    text = "\n".join(native.markdown(found))
    assert "| samples learned | 3,000 in " in text


def test_what_was_not_shown_is_said(found: dict[str, Any]) -> None:
    still = dict.fromkeys(found["growth"]["native"]["growth"], 0)
    grown = {**found["growth"]["native"], "growth": still}
    memory = {"arena": 262_144, "rss": 262_144 + native.BESIDE, "pss": 1, "anonymous": 1}
    sound = {
        **found, "growth": {"native": grown}, "memory": {"native": memory},
        "start": {"native": {"new": [0.04, 9.0, 0.01], "again": [0.01]}},
    }  # fmt: skip
    assert native.reasons(sound) == []
    bad: dict[str, dict[str, Any]] = {
        "RSS of 786,433": {"memory": {"native": {**memory, "rss": memory["rss"] + 1}}},
        "disk grew by 512": {"growth": {"native": {**grown, "growth": {**still, "disk": 512}}}},
        "2,999 samples learned": {"growth": {"native": {**grown, "learned": 2999}}},
        "51 ms to the first": {"start": {"native": {"new": [0.051], "again": [0.01]}}},
    }
    for why, change in bad.items():
        (reason,) = native.reasons({**sound, **change})
        assert why in reason


def test_results_show_what_they_must(root: Path) -> None:
    text = (root / "docs" / "results" / "native.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| native program |"))
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    assert int(cells[1].replace(",", "")) <= native.BESIDE
    assert all(float(cell.removesuffix(" ms")) <= 1000 * native.FIRST for cell in cells[4:])
    assert "| samples learned | 1,000,000 in " in text
    for what in ("RSS", "disk"):
        assert re.search(rf"^\| {what} growth \| 0 of ", text, re.MULTILINE), what
    assert re.search(r"^\| open files, threads \| \+0 of \d+, \+0 of \d+ \|", text, re.MULTILINE)
    for machine in PROGRAM.targets:
        assert f"| {machine} | " in text
