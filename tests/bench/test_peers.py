"""The learning peers all do the same step."""

from __future__ import annotations

import numpy as np
import pytest

from zgedge.bench import peers, timing

torch = pytest.importorskip("torch")

STEPS = (peers.torch_step, peers.torch_lean_step, peers.torch_manual_step, peers.numpy_step)


@pytest.mark.parametrize("batch", [1, 16])
def test_one_step_of_every_peer_leaves_the_same_weights(batch: int) -> None:
    start = peers.start_weights()[0]
    first, *others = [step(batch).check() for step in STEPS]
    assert np.abs(first - start).max() > 1e-4, "a step that moved nothing"
    for weights in others:
        np.testing.assert_allclose(weights, first, atol=1e-6)


def test_ratio_is_that_of_each_round() -> None:
    slow = timing.Spread("slow", 20, 10, 30, (10.0, 20.0, 30.0))
    fast = timing.Spread("fast", 2, 1, 5, (1.0, 2.0, 5.0))
    assert timing.ratio(slow, fast) == (10.0, 6.0, 10.0)


def test_measuring_goes_through_all_in_turn() -> None:
    order: list[str] = []

    def fake(name: str) -> timing.Runner:
        def run(calls: int) -> int:
            order.append(name)
            return calls * 1_000_000

        return timing.Runner(name, run, lambda: np.zeros(1))

    rows = timing.measure([fake("a"), fake("b")], rounds=3, slice_ms=2.0)
    assert order[-6:] == ["a", "b", "b", "a", "a", "b"]
    assert [row.median for row in rows] == [1000.0, 1000.0]


def test_clean_environment_unties_numpy_and_keeps_the_rest() -> None:
    clean = timing.clean_environment({"OPENBLAS_CORETYPE": "Haswell", "PATH": "/bin"})
    assert "OPENBLAS_CORETYPE" not in clean
    assert clean["PATH"] == "/bin"
    assert clean["OMP_NUM_THREADS"] == "1"
