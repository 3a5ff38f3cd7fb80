"""One suite for every strategy: budget, no duplicate, weight 0, order, determinism."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import numpy as np
import torch

from zgedge import data
from zgedge.arena import STRATEGIES as DEVICE
from zgedge.budget import Task, named
from zgedge.train import train
from zgedge.train.rewiring import STRATEGIES, Connections, Strategy, rewire

MEMBERS = sorted(STRATEGIES)


def test_no_strategy_was_lost() -> None:
    assert len(MEMBERS) == 3
    assert set(DEVICE) <= set(MEMBERS)


def _connections(seed: int = 0, per_row: int = 6, blocks: int = 20, block: int = 4) -> Connections:
    generator = torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randperm(blocks, generator=generator)[:per_row] for _ in range(9)])
    return Connections(
        torch.randn(9, per_row, block, generator=generator), indices, blocks,
        torch.randn(9, blocks, block, generator=generator), generator,
    )  # fmt: skip


@pytest.mark.parametrize("name", MEMBERS)
def test_rows_keep_their_number_without_repetition(name: str) -> None:
    c = _connections()
    for progress in (0.0, 0.2, 0.5, 0.74):
        rewire(STRATEGIES[name](), c, progress)
        assert c.indices.shape == (9, 6)
        assert all(len(set(row)) == 6 for row in c.indices.tolist())
        assert int(c.indices.min()) >= 0
        assert int(c.indices.max()) < 20


@pytest.mark.parametrize("name", MEMBERS)
def test_new_connections_start_at_zero_and_others_are_untouched(name: str) -> None:
    c = _connections()
    values, indices = c.values.clone(), c.indices.clone()
    places = rewire(STRATEGIES[name](), c, 0.0)
    moved = torch.zeros(9, 6, dtype=torch.bool)
    if places is not None:
        moved.scatter_(1, places, True)
        assert bool((c.indices[moved] != indices[moved]).all())
    assert bool((c.values[moved] == 0).all())
    assert torch.equal(c.values[~moved], values[~moved])
    assert torch.equal(c.indices[~moved], indices[~moved])
    assert (places is None) == (name == "static")


@pytest.mark.parametrize("name", MEMBERS)
def test_same_chance_same_wires(name: str) -> None:
    a, b = _connections(3), _connections(3)
    for c in (a, b):
        rewire(STRATEGIES[name](), c, 0.1)
    assert torch.equal(a.indices, b.indices)


@pytest.mark.parametrize("name", MEMBERS)
def test_schedule_falls_to_nothing(name: str) -> None:
    strategy: Strategy = STRATEGIES[name]()
    shares = [strategy.fraction(p / 20) for p in range(21)]
    assert shares == sorted(shares, reverse=True)
    assert strategy.fraction(0.75) == strategy.fraction(1.0) == 0.0


@pytest.mark.parametrize("name", MEMBERS)
def test_full_rows_are_left_alone(name: str) -> None:
    c = _connections(per_row=20)
    before = c.indices.clone()
    assert rewire(STRATEGIES[name](), c, 0.0) is None
    assert torch.equal(c.indices, before)


def test_smallest_go_and_steepest_come_with_ties_to_the_lower() -> None:
    c = _connections(per_row=4, blocks=10, block=1)
    assert c.gradient is not None
    c.values[:] = torch.tensor([0.5, 0.1, 0.1, 0.9]).view(1, 4, 1)
    c.indices[:] = torch.tensor([0, 2, 4, 6])
    c.gradient[:] = torch.tensor([9.0, 1, 9, 3, 9, 3, 9, 0, 2, 0]).view(1, 10, 1)
    places = rewire(STRATEGIES["rigl"](), c, 0.0)
    assert places is not None
    assert places.tolist() == [[1]] * 9  # of two equal weights the first
    assert c.indices.tolist() == [[0, 3, 4, 6]] * 9  # of two equal gradients the lower input


def test_new_strategy_is_two_scores() -> None:
    class Hub(Strategy):
        def drop(self, connections: Connections) -> torch.Tensor:
            return connections.values.abs().sum(dim=2)

        def grow(self, connections: Connections) -> torch.Tensor:
            flat = connections.indices.reshape(-1)
            count = torch.bincount(flat, minlength=connections.blocks)
            return count.float().expand(len(connections.indices), -1)

    c = _connections()
    assert rewire(Hub(), c, 0.0) is not None
    assert all(len(set(row)) == 6 for row in c.indices.tolist())


def test_a_network_without_wires_loses_no_step_to_moving_them() -> None:
    digits = data.load("digits")
    network = named(Task.of(digits), 4096, "c3x4 p2 m", learning=False).network
    done = [train(digits, network, strategy=name, steps=120).parameters for name in STRATEGIES]
    for other in done[1:]:
        assert np.array_equal(other.layers[0].weights, done[0].layers[0].weights)
        assert other.trunk[0].weights is not None
        assert done[0].trunk[0].weights is not None
        assert np.array_equal(other.trunk[0].weights, done[0].trunk[0].weights)
