"""SIGKILL at random moments. `python -m zgedge.bench.kills` does more of the same."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from zgedge import arena
from zgedge.bench import kills, nets
from zgedge.runtime import Learner, Model
from zgedge.runtime.store import Store

KILLS = 300


def test_three_hundred_kills() -> None:
    """Every restart serves, and nothing is lost past the last commit. In a process of its own:
    one that forks should have no threads."""
    done = subprocess.run(
        [sys.executable, "-m", "zgedge.bench.kills", "--kills", str(KILLS), "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["faults"] == {}
    assert found["kills"] == KILLS
    assert found["served"] == KILLS - found["early"]
    assert found["early"] > 20
    assert found["asked"] > 5
    assert found["commits"] > 50
    assert found["samples"] > 100


@pytest.mark.parametrize("fault", ["none", "lost", "other"])
def test_a_fault_is_noticed(tmp_path: Path, fault: str) -> None:
    blob = nets.random_zge(kills.WIDTHS, fan_in=8, pixels=False, batch=4, replay_samples=32)
    x, y = kills.stream()
    learner = Learner(Model(arena.in_memory(blob)))
    undisturbed = Learner(Model(arena.in_memory(blob)))
    for i in range(20):
        learner.learn_one(x[i], int(y[i]))
    if fault == "other":
        learner.remember(x[:1], y[:1])
    learner.seal()
    with Store.open(tmp_path / "state", blob) as store:
        store.commit(learner.model.arena.buffer.data)
    found = kills.Found()
    committed = 21 if fault == "lost" else 20
    kills._judge(blob, str(tmp_path), undisturbed, committed, x, y, found)
    assert sum(found.faults.values()) == (fault != "none")
    (tmp_path / "state" / "slot-a").write_bytes(bytes(np.random.default_rng(0).bytes(1 << 17)))
    kills._judge(blob, str(tmp_path), undisturbed, 20, x, y, found)
    assert found.faults["a commit was lost"] == 1 + (fault == "lost")


def test_results_are_without_a_fault(root: Path) -> None:
    text = (root / "docs" / "results" / "kills.md").read_text()
    (count,) = re.findall(r"^\| kills \| ([\d,]+) \|", text, re.MULTILINE)
    assert int(count.replace(",", "")) >= 1000
    assert "| **faults** | **0** |" in text
    (came, of) = re.findall(r"came up and served \| ([\d,]+) of ([\d,]+) \|", text)[0]
    assert came == of
