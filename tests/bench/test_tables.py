"""The accuracy and adaptation tables on short runs: every row, counted from real files."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from click.testing import CliRunner

from zgedge import data
from zgedge.bench import accuracy, adaptation, results
from zgedge.budget import Task


def test_gain_with_an_interval_that_has_zero_is_no_gain() -> None:
    assert results.gain([0.9, 0.8, 0.7], [0.8, 0.9, 0.7]).startswith("no gain")
    # Gains of 1, 2 and 3 points: mean 2, half width 4.303 * 1 / sqrt(3).
    assert results.gain([0.91, 0.92, 0.93], [0.9, 0.9, 0.9]) == "no gain: +2.00 [-0.48, +4.48]"
    assert results.gain([0.910, 0.911, 0.912], [0.9, 0.9, 0.9]) == "+1.10 [+0.85, +1.35]"


def test_mean_and_spread_are_in_percent() -> None:
    assert results.percent([0.9, 0.92]) == "91.00 ± 1.41"
    assert results.percent([0.5]) == "50.00"


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real training, of one epoch."""
    monkeypatch.setattr(accuracy, "train", functools.partial(accuracy.train, epochs=1))


@pytest.mark.usefixtures("short")
def test_equal_bytes_has_every_row_within_its_bytes_and_resumes(tmp_path: Path) -> None:
    log, out = tmp_path / "runs.jsonl", tmp_path / "table.md"
    call = ["equal-bytes", "--budget", "4KB", "--seeds", "0,1"]
    call += ["--log", str(log), "--out", str(out)]
    done = CliRunner().invoke(accuracy.main, [*call, "--json"], catch_exceptions=False)
    runs = json.loads(done.stdout)["runs"]
    assert {run["row"] for run in runs} == set(accuracy.EQUAL_ROWS)
    assert len(runs) == 2 * len(accuracy.EQUAL_ROWS)
    assert all(0.9 * 4096 < run["bytes"] <= 4096 for run in runs)
    assert all(run["rewired"] == 0 for run in runs if not run["row"].startswith("rewired"))
    text = out.read_text()
    assert all(row in text for row in accuracy.EQUAL_ROWS)
    kept = log.read_text()
    CliRunner().invoke(accuracy.main, call, catch_exceptions=False)
    assert log.read_text() == kept  # nothing was trained again


@pytest.mark.usefixtures("short")
def test_budgets_table(tmp_path: Path) -> None:
    out = tmp_path / "digits.md"
    call = ["budgets", "--budget", "2KB,16KB", "--seeds", "0", "--out", str(out)]
    done = CliRunner().invoke(accuracy.main, call, catch_exceptions=False)
    assert done.exit_code == 0
    assert "16 KB" in out.read_text()


def test_dense_network_is_the_largest_that_fits() -> None:
    task = Task.of(data.load("digits"))
    network = accuracy.dense_network(task, 4096)
    assert network.file_bytes <= 4096
    assert 4096 - network.file_bytes < network.layers[0].inputs + network.classes + 16


def test_adaptation_wins_back_what_a_permutation_took(mnist_dir: Path) -> None:
    mnist = data.load("mnist", data_dir=mnist_dir.parent)
    world = adaptation.world(mnist, seed=0, epochs=1)
    before = adaptation._accuracy(world.model(0), world.before)
    shifted = adaptation._accuracy(world.model(0), world.after)
    frozen = adaptation.reread(world, 0, 200, "weights only")
    rewired = adaptation.reread(world, 0, 200, "rewired")
    assert before > 0.8
    assert shifted < 0.3
    assert rewired > frozen + 0.05
    assert adaptation.one_pass(world, 64, "rewired") > 0.6
