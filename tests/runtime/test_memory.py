"""The proof that memory does not grow, and that it notices where it does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import nets
from zgedge import UsageError
from zgedge.bench import memory as bench
from zgedge.network import dense, sparse
from zgedge.runtime import Learner, Model, memory, prover

NET = nets.network(
    (8, 8, 1), (sparse(64, 96, 20, 4),), 10, task="picture", replay_samples=60, replay_bits=4
)


def alone(script: str) -> str:
    """What a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("proof") / "m.zge"
    learner = Learner(Model(nets.buffer(nets.file(NET))))
    x, y = nets.samples(NET, 60)
    learner.remember(x, y)
    learner.save(path)
    return str(path)


def test_proof_passes_with_growth_zero_and_real_learning(model: str) -> None:
    before = Path(model).read_bytes()
    found = prover.prove(model, 60_000)
    assert found["passed"], found["reasons"]
    assert (found["rss_growth"], found["uss_growth"]) == (0, 0)
    assert found["warmup_steps"] == 600
    assert found["rewired"] > 1000
    assert found["arena_changed"]
    assert found["heavy_modules"] == []
    assert found["ceiling"] > 0
    assert found["threads"][0] == found["threads"][1]
    assert Path(model).read_bytes() == before


def test_planted_leak_fails_at_ten_thousand_steps(model: str) -> None:
    found = prover.prove(model, 10_000, leak=64)
    assert not found["passed"]
    assert found["rss_growth"] > 0
    assert found["uss_growth"] > 0


def test_leak_that_reaches_the_ceiling_is_stopped_by_the_kernel(model: str) -> None:
    found = prover.prove(model, 10_000, leak=1000)
    assert found["stopped_at"] is not None
    assert found["stopped_at"] < 10_000
    assert any("ceiling" in reason for reason in found["reasons"])


def test_leak_of_a_byte_a_step_shows_as_growth(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A start that compiles what it imports leaves half a megabyte free, which the leak would fill:
    # the first proof compiles, the second finds it compiled.
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path))
    prover.prove(model, 100)
    found = prover.prove(model, 10_000, leak=1)
    assert not found["passed"], found["record"]


def test_all_is_set_before_the_first_reading_that_counts(model: str) -> None:
    """What is allocated between two readings is growth in the one layout of the heap in which it
    is the first of a new page; so the ceiling stands when the first of them is taken."""
    script = (
        "import resource\n"
        "from zgedge.runtime import Learner, memory\n"
        f"learner = Learner({model!r})\n"
        "x, y, _ = memory.stream_for(learner.model)\n"
        "limits = []\n"
        "def reading(row):\n"
        "    limits.append(resource.getrlimit(resource.RLIMIT_DATA)[0])\n"
        "proof = memory.prove(learner, x, y, 500, reading=reading)\n"
        "print([limit == proof.ceiling for limit in limits[-len(proof.table):]])\n"
    )
    seen = json.loads(alone(script).lower())
    assert len(seen) == 241
    assert all(seen)


@pytest.mark.parametrize("steps", [100, 1000, 10_000])
def test_short_runs_do_not_grow_by_the_measuring(model: str, steps: int) -> None:
    found = prover.prove(model, steps)
    assert (found["rss_growth"], found["uss_growth"]) == (0, 0)


def test_network_without_wires_is_not_proved(tmp_path: Path) -> None:
    path = tmp_path / "dense.zge"
    path.write_bytes(nets.file(nets.network((1, 16, 1), (dense(16, 8),), 3)))
    found = prover.prove(str(path), 2000)
    assert not found["passed"]
    assert found["reasons"] == [
        "no connection was rewired: this network is dense, and has no wires to move"
    ]


def test_given_samples_are_learned(model: str) -> None:
    x, y = nets.samples(NET, 40)
    found = prover.prove(model, 2000, samples=(x, y.tolist()))
    assert found["data"] == "given"
    assert found["passed"], found["reasons"]


@pytest.mark.parametrize(("steps", "leak"), [(99, 0), (0, 0), (-5, 0), (1000, -1)])
def test_steps_or_leak_that_mean_nothing(model: str, steps: int, leak: int) -> None:
    with pytest.raises(UsageError):
        prover.prove(model, steps, leak=leak)


def test_ceiling_is_enforced_by_the_kernel() -> None:
    script = (
        "from zgedge.runtime import memory\n"
        "memory.limit()\n"
        "try:\n"
        "    held = bytearray(64 << 20)\n"
        "except MemoryError:\n"
        "    memory.unlimit()\n"
        "    print('refused', len(bytearray(64 << 20)))\n"
    )
    assert alone(script).split() == ["refused", str(64 << 20)]


def test_remembered_samples_come_back_as_they_were(model: str) -> None:
    opened = Model.open(model)
    x, labels = memory.remembered(opened, 100)
    assert x.shape == (60, 64)
    assert set(labels) <= set(range(10))
    again = Learner(Model(nets.buffer(nets.file(NET))))
    again.remember(x, labels)
    assert np.array_equal(again.model.arena.section(10), opened.arena.section(10))


@pytest.mark.slow  # tests/bench/test_commands.py has the short run of it
def test_learning_process_stays_within_four_megabytes_of_its_parts() -> None:
    command = [sys.executable, "-m", "zgedge.bench.memory", "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert bench.ALLOWED == 4 << 20
    assert found["passed"], found


@pytest.mark.slow
def test_a_million_steps(model: str) -> None:
    found = prover.prove(model, 1_000_000)
    assert found["passed"], found["reasons"]
    assert found["rewired"] > 10_000


def test_peak_is_that_of_the_process_and_not_of_the_one_that_started_it(model: str) -> None:
    script = (
        "from zgedge.runtime import prover\n"
        "held = b'x' * (300 << 20)\n"
        f"print(prover.prove({model!r}, 200)['peak'])\n"
    )
    assert int(alone(script)) < 200 << 20
