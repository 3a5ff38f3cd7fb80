"""The commands that write the tables run and print what they promise; no figure is judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from zgedge.bench import ours
from zgedge.bench.nets import random_zge


def command(module: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_speed_prints_its_json_and_writes_its_file(tmp_path: Path) -> None:
    for package in ("torch", "ai_edge_litert", "tflite"):
        pytest.importorskip(package)
    out = tmp_path / "results" / "speed.md"
    result = json.loads(command("zgedge.bench.speed", "--quick", "--json", "--out", str(out)))
    assert {"date", "machine", "versions", "variant", "rounds", "tables"} == set(result)
    assert {"torch", "numpy", "ai-edge-litert", "python"} <= set(result["versions"])
    tables = result["tables"]
    assert list(tables) == ["prediction_c", "prediction_python", "learning_1", "learning_16"]
    for table in tables.values():
        assert table["rows"][0]["name"].startswith("zgedge")
        assert table["rows"][0]["ratio"] == 1.0
        for row in table["rows"]:
            assert 0 < row["min_us"] <= row["median_us"] <= row["max_us"]
        if not table["missing"]:
            assert table["rival"] in [row["name"] for row in table["rows"]]
            assert table["passed"] in (True, False)
        assert f"## {table['title']}" in out.read_text(encoding="utf-8")


def test_memory_prints_its_json_and_writes_its_file(tmp_path: Path) -> None:
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("this kernel does not tell the resident memory of a process")
    out = tmp_path / "memory.md"
    result = json.loads(command("zgedge.bench.memory", "--quick", "--json", "--out", str(out)))
    assert {"arena", "rows", "extra", "allowed", "passed"} <= set(result)
    baseline, learning, *_ = result["rows"]
    assert result["extra"] == learning["max"] - baseline["min"] - result["arena"]
    assert result["passed"], result
    assert "# Memory" in out.read_text(encoding="utf-8")


@pytest.mark.parametrize("block", [1, 4, 16])
def test_our_c_loop_and_python_api_predict_the_same(block: int) -> None:
    data = random_zge(block=block, learning=False)
    x = np.random.default_rng(0).integers(0, 256, (32, 784), np.uint8)
    labels = ours.predict_python(data, x).check()
    np.testing.assert_array_equal(ours.predict_c(data, x).check(), labels)
    assert len(set(labels.tolist())) > 1, "a network that has but one answer"


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("pixels", [True, False])
def test_the_timed_learner_rewires_at_least_once_a_step(batch: int, pixels: bool) -> None:
    learner = ours.LearnerRunner(random_zge(pixels=pixels), batch, "learner", pixels=pixels)
    learner.runner.run(300)
    assert learner.learner.status()["steps"] == 300
    assert learner.rewired_per_step >= 1.0


def test_proof_prints_its_json_and_writes_its_file(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "proof.md"
    printed = command(
        "zgedge.bench.proof", "--seeds", "1", "--steps", "2000", "--budget", "4KB", "--json",
        "--out", str(out),
    )  # fmt: skip
    result = json.loads(printed)
    assert [row["leak"] for row in result["runs"]] == [0, 64, 64]
    assert "| 2,000 | none | 1 of 1 | 0 | 0 |" in out.read_text()
