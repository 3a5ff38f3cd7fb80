"""The command that writes docs/results/platforms.md, and that page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.platform import builds, networks
from tools import coverage_of_arena, platforms
from zgedge import network as net

pytestmark = pytest.mark.xdist_group("platform")


@pytest.mark.slow
@pytest.mark.usefixtures("native")
def test_the_table_of_platforms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(networks, "SMALL", networks.SMALL[:1])
    page = tmp_path / "page.md"
    done = CliRunner().invoke(platforms.main, ["--quick", "--json", "--out", str(page)])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert [x["name"] for x in result["rows"]] == [x.name for x in networks.SMALL]
    assert all(same for x in result["rows"] for same in x["same"].values())
    text = page.read_text()
    for row in result["rows"]:
        assert f"| {row['name']} | {row['network']} |" in text
    assert "differs**" not in text


@pytest.mark.usefixtures("native")
def test_a_difference_fails_and_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "SMALL", networks.SMALL[:1])
    where, missing = platforms.platforms()
    other = builds.replay

    def flawed(*rest: Any, **more: Any) -> builds.Result:
        result = other(*rest, **more)
        if rest[4] != "portable":
            result.data = result.data[:-1] + bytes([result.data[-1] ^ 1])
        return result

    if len({x.variant for x in where}) < 2:
        pytest.skip("nothing to compare with")
    monkeypatch.setattr(platforms, "platforms", lambda: (where, missing))
    monkeypatch.setattr(builds, "replay", flawed)
    done = CliRunner().invoke(platforms.main, ["--quick"])
    assert done.exit_code == 1
    assert "**differs**" in done.stdout


def test_layers_in_words() -> None:
    layers = (net.sparse(32, 18, 12, 4), net.sparse(18, 9, 5), net.dense(9, 3))
    network = net.Network((1, 32, 1), 3, layers, 6)
    assert platforms.describe(network) == "32 → 18 of 12 by 4 → 9 of 5 → 3"
    trunk = (net.conv((4, 5, 1), 2), net.depthwise((4, 5, 2), add=1), net.mean_pool((4, 5, 2)))
    network = net.Network((4, 5, 1), 3, (net.dense(2, 3),), 6, trunk=trunk)
    assert platforms.describe(network) == (
        "4 × 5 × 1 → conv 4 × 5 × 2 → depthwise + 4 × 5 × 2 → mean-pool 1 × 1 × 2 → 3"
    )


@pytest.mark.parametrize("page", ["platforms", "bytes_used"])
def test_the_recorded_pages_say_that_promises_are_kept(root: Path, page: str) -> None:
    text = (root / "docs" / "results" / f"{page}.md").read_text()
    rows = [x.split("|")[1:-1] for x in text.splitlines() if x.startswith("| ")]
    head, body = [x.strip() for x in rows[0]], [[y.strip() for y in x] for x in rows[2:]]
    if page == "platforms":
        assert [x[0] for x in body] == [x.name for x in (*networks.SMALL, *networks.LARGE)]
        assert all(x == "same" for row in body for x in row[head.index("SHA-256") + 1 :])
    else:
        assert {x[1].replace(" ", "") for x in body} == set(coverage_of_arena.BUDGETS)
        touched = head.index("touched")
        assert all(float(row[touched].rstrip("%")) >= 97 for row in body)
