"""What each strategy scores; what all of them keep is in tests/test_strategies.py."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import numpy as np
import torch

from tests import sparse
from zgedge import arena, data
from zgedge.budget import Task, named, sparse_plan
from zgedge.errors import UsageError
from zgedge.train import train
from zgedge.train.rewiring import STRATEGIES, Batch, Connections, Strategy, rewire
from zgedge.train.rewiring.lottery import survivors
from zgedge.train.start import LayerStart, Start
from zgedge.train.tickets import plan_rounds


def _connections(seed: int = 0, per_row: int = 6, blocks: int = 20, block: int = 4) -> Connections:
    generator = torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randperm(blocks, generator=generator)[:per_row] for _ in range(9)])
    return Connections(
        torch.randn(9, per_row, block, generator=generator), indices, blocks,
        torch.randn(9, blocks, block, generator=generator), generator,
    )  # fmt: skip


def _seen(last: bool = False) -> Connections:
    """Nine rows over 20 single inputs, and a batch of 256 random samples."""
    c = _connections(block=1)
    g = c.generator
    batch = Batch(
        torch.rand(256, 20, generator=g), torch.randn(256, 9, generator=g),
        torch.randn(256, 9, generator=g), torch.randn(256, 4, generator=g), last,
    )  # fmt: skip
    return replace(c, batch=batch)


def test_hebbian_is_the_covariance_of_input_and_activity() -> None:
    c = _seen()
    assert c.batch is not None
    x, y = c.batch.inputs.numpy(), c.batch.outputs.relu().numpy()
    expected = [[np.cov(x[:, i], y[:, r], bias=True)[0, 1] for i in range(20)] for r in range(9)]
    found = STRATEGIES["hebbian"]().grow(c).numpy() / 256
    assert np.allclose(found, np.abs(expected), atol=1e-5)


def test_hebbian_units_of_a_last_layer_are_as_active_as_their_class_is_right() -> None:
    c = _seen(last=True)
    assert c.batch is not None
    right = (c.batch.errors < 0).float()
    expected = (right - right.mean(0)).t() @ c.batch.inputs
    assert torch.allclose(STRATEGIES["hebbian"]().grow(c), expected.abs(), atol=1e-4)


def test_three_factors_need_activity_and_see_no_weight_of_the_network() -> None:
    c = _seen()
    assert c.batch is not None
    c.batch.outputs[:, 4] = -1.0  # a unit that is never active has no eligibility
    c.batch.errors.zero_()  # what comes back through the network's weights is not used
    found = STRATEGIES["three-factor"]().grow(c)
    assert not found[4].any()
    assert bool((found[torch.arange(9) != 4] > 0).all())
    assert torch.equal(found, STRATEGIES["three-factor"]().grow(c))  # fixed signs
    last = _seen(last=True)
    assert last.batch is not None
    own = (last.batch.errors.t() @ last.batch.inputs).abs()
    assert torch.allclose(STRATEGIES["three-factor"]().grow(last), own, atol=1e-5)


def test_attention_draws_what_the_gradient_is_large_for() -> None:
    c = _seen()
    assert c.batch is not None
    c.indices[:] = torch.arange(14, 20).repeat(9, 1)[:, :6]
    c.batch.errors[:] = 3 * (c.batch.inputs[:, [3]] - 0.5)  # all units want input 3
    drawn = [int(STRATEGIES["attention"]().grow(c)[0].argmax()) for _ in range(200)]
    assert drawn.count(3) > 60
    assert len(set(drawn)) > 3  # by chance, not always the largest
    assert not set(drawn) & set(range(14, 20))


def test_deep_rewiring_replaces_what_crossed_zero_and_no_more() -> None:
    strategy, c = STRATEGIES["deepr"](), _connections(per_row=6, blocks=40, block=1)
    strategy.begin(c)
    assert rewire(strategy, c, 0.74) is None
    crossed = torch.zeros(9, 6, dtype=torch.bool)
    crossed[2, [0, 3, 5]] = crossed[7, 1] = True
    c.values[crossed] *= -1
    before = c.indices.clone()
    replaced = rewire(strategy, c, 0.74)
    assert replaced is not None
    assert torch.equal(replaced, crossed)
    assert torch.equal(c.indices != before, crossed)
    sparse.assert_wiring(c.indices.numpy(), 9, 6, 40)


def test_survivors_have_the_largest_weights_in_the_order_of_their_inputs() -> None:
    values = torch.tensor([[[0.1], [-5.0], [3.0], [0.0], [3.0]]])
    indices = torch.tensor([[9, 7, 8, 1, 2]])
    places = survivors(values, indices, 3)
    assert indices.gather(1, places).tolist() == [[2, 7, 8]]
    assert survivors(values, indices, 2).tolist() == [[1, 2]]  # of two equal ones the first


def test_rounds_of_a_lottery_become_narrower_and_share_the_steps() -> None:
    network = sparse_plan(Task.of(data.load("digits")), 4096).network
    rounds = plan_rounds(STRATEGIES["lottery"].rounds, network, 1000)
    widths = [x.layers[0].width for x, _ in rounds]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] > network.layers[0].width
    assert widths[0] <= network.inputs
    assert [steps for _, steps in rounds] == [150] * 3
    assert plan_rounds(STRATEGIES["lottery"].rounds, network, 30) == []
    assert plan_rounds(STRATEGIES["rigl"].rounds, network, 1000) == []


def test_lottery_keeps_wires_that_became_large_and_the_length_that_was_asked_for() -> None:
    digits = data.load("digits")
    network = sparse_plan(Task.of(digits), 4096, learning=False).network
    made = {
        name: train(digits, network, strategy=name, steps=400) for name in ("lottery", "static")
    }
    layer = network.layers[0]
    for result in made.values():
        assert result.planned_steps == 400
        assert result.steps <= 400
        sparse.assert_layer(layer, *(getattr(result.parameters.layers[0], x)
                                     for x in ("weights", "indices")))  # fmt: skip
    wires = [made[x].parameters.layers[0].indices for x in made]
    assert wires[0] is not None
    assert wires[1] is not None
    assert (wires[0] != wires[1]).mean() > 0.3
    # Fixed wires lie in a patch each; those that won lie wherever weights grew.
    spread = [np.ptp(x.astype(int), axis=1).mean() for x in wires if x is not None]
    assert spread[0] > spread[1]


def test_lottery_goes_on_from_a_checkpoint_of_any_round(tmp_path: Path) -> None:
    digits = data.load("digits")
    network = sparse_plan(Task.of(digits), 4096, learning=False).network

    def run(stop: int | None, path: Path | None) -> bytes:
        from zgedge.train import fit as fitting

        step, taken = fitting._Training._step, [0]

        def counted(self: object, *args: object) -> float:
            taken[0] += 1
            if taken[0] == stop:
                signal.raise_signal(signal.SIGINT)
            return step(self, *args)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fitting._Training, "_step", counted)
            result = train(digits, network, strategy="lottery", steps=120, checkpoint=path)
        return arena.write(network, result.parameters)

    whole = run(None, None)
    for stop in (2, 9, 30, 50):
        path = tmp_path / f"{stop}"
        with pytest.raises(KeyboardInterrupt):
            run(stop, path)
        assert run(None, path) == whole


@pytest.mark.parametrize("name", ["deepr", "lottery"])
def test_what_begins_at_random_takes_no_weights(name: str) -> None:
    digits = data.load("digits")
    network = sparse_plan(Task.of(digits), 4096).network
    layers = tuple(
        LayerStart(
            np.zeros((x.outputs, x.width), np.float32), None, np.zeros(x.outputs, np.float32)
        )
        for x in network.layers
    )
    with pytest.raises(UsageError, match="random"):
        train(digits, network, strategy=name, start=Start((), layers, 1.0, 1.0), steps=1)


def test_smallest_go_and_steepest_come_with_ties_to_the_lower() -> None:
    c = _connections(per_row=4, blocks=10, block=1)
    assert c.gradient is not None
    c.values[:] = torch.tensor([0.5, 0.1, 0.1, 0.9]).view(1, 4, 1)
    c.indices[:] = torch.tensor([0, 2, 4, 6])
    c.gradient[:] = torch.tensor([9.0, 1, 9, 3, 9, 3, 9, 0, 2, 0]).view(1, 10, 1)
    replaced = rewire(STRATEGIES["rigl"](), c, 0.0)
    assert replaced is not None
    assert replaced.int().tolist() == [[0, 1, 0, 0]] * 9  # of two equal weights the first
    assert c.indices.tolist() == [[0, 3, 4, 6]] * 9  # of two equal gradients the lower input


def test_new_strategy_is_two_scores() -> None:
    class Hub(Strategy):
        device = "static"

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
