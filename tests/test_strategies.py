"""One suite for every strategy of rewiring, on the host and on the device.

That emulated processors leave the same bytes is in tests/platform, whose small networks have every
strategy among them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from tests import nets, sparse
from zgedge import arena, data
from zgedge import network as net
from zgedge.budget import Task, sparse_plan
from zgedge.runtime import Learner, Model
from zgedge.runtime import core_library as core

torch = pytest.importorskip("torch", reason="torch is not installed")

from zgedge.train import train  # noqa: E402
from zgedge.train.rewiring import (  # noqa: E402
    STRATEGIES,
    Batch,
    Connections,
    Strategy,
    rewire,
)

STILL = ("static", "lottery")  # move no wire while they train
NETWORK = nets.network(
    (1, 32, 1), (net.sparse(32, 12, 12, 4), net.sparse(12, 9, 4)), 4, batch=4, replay_samples=10,
    replay_bits=4, traces=3,
)  # fmt: skip
STEPS = 240


def connections(seed: int = 0, per_row: int = 6, last: bool = False) -> Connections:
    """A layer of 9 rows over 20 blocks of 4, and a batch that it saw."""
    generator = torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randperm(20, generator=generator)[:per_row] for _ in range(9)])
    batch = Batch(
        torch.rand(32, 80, generator=generator), torch.randn(32, 9, generator=generator),
        torch.randn(32, 9, generator=generator), torch.randn(32, 5, generator=generator), last,
    )  # fmt: skip
    return Connections(
        torch.randn(9, per_row, 4, generator=generator), indices, 20,
        torch.randn(9, 20, 4, generator=generator), generator, batch,
    )  # fmt: skip


@cache
def trained(name: str, seed: int = 0) -> bytes:
    digits = data.load("digits")
    network = sparse_plan(Task.of(digits), 8192).network
    result = train(digits, network, strategy=name, seed=seed, steps=90)
    return arena.write(result.network, result.parameters)


@cache
def learned(name: str, seed: int = 0, variant: str | None = None) -> bytes:
    before = core.variant()
    core.select_variant(variant or before)
    learner = started(name, seed)
    x, y = nets.samples(NETWORK, 64)
    for i in range(STEPS):
        learner.learn_one(x[i % 64], int(y[i % 64]))
    learner.seal()
    core.select_variant(before)
    return learner.model.to_bytes()


def started(name: str, seed: int = 0) -> Learner:
    parameters = nets.parameters(NETWORK, 3)
    parameters.learner = arena.LearnerParameters(
        key=seed, rate=0.1, strategy=name, swaps=2, gather=6
    )
    return Learner(Model(nets.buffer(arena.write(NETWORK, parameters))))


class Host:
    """Checks of a strategy that trains."""

    names = tuple(STRATEGIES)

    @staticmethod
    def budget(name: str) -> None:
        blob = trained(name)
        assert len(blob) <= 8192
        model = Model(nets.buffer(blob))
        sparse.assert_arena(model.arena, model.arena.network)

    @staticmethod
    def fan_in_and_no_duplicate(name: str) -> None:
        for last in (False, True):
            c = connections(last=last)
            for progress in (0.0, 0.2, 0.5, 0.74):
                rewire(STRATEGIES[name](), c, progress)
                sparse.assert_wiring(c.indices.numpy(), 9, 6, 20)

    @staticmethod
    def new_weight_0(name: str) -> None:
        c, strategy = connections(), STRATEGIES[name]()
        strategy.begin(c)
        if name == "deepr":  # what has crossed zero since
            c.values[:, ::2] *= -1
        before = c.indices.clone()
        replaced = rewire(strategy, c, 0.0)
        assert (replaced is None) == (name in STILL)
        if replaced is None:
            replaced = torch.zeros(9, 6, dtype=torch.bool)
        assert torch.equal(c.indices != before, replaced)
        assert not c.values[replaced].any()
        assert c.values[~replaced].all()

    @staticmethod
    def full_rows_are_left_alone(name: str) -> None:
        c = connections(per_row=20)
        before = c.indices.clone()
        assert rewire(STRATEGIES[name](), c, 0.0) is None
        assert torch.equal(c.indices, before)

    @staticmethod
    def schedule_falls_to_nothing(name: str) -> None:
        strategy: Strategy = STRATEGIES[name]()
        shares = [strategy.fraction(p / 20) for p in range(21)]
        assert shares == sorted(shares, reverse=True)
        assert strategy.fraction(0.75) == strategy.fraction(1.0) == 0.0

    @staticmethod
    def same_seed_same_bytes(name: str) -> None:
        first = trained(name)
        trained.cache_clear()
        assert trained(name) == first
        assert trained(name, 1) != first

    @staticmethod
    def same_bytes_with_every_variant(name: str) -> None:
        """What its file goes on with on a device."""
        left = set()
        x, y = nets.samples(Model(nets.buffer(trained(name))).arena.network, 32)
        for variant in [v for v, usable in core.variants().items() if usable]:
            before = core.variant()
            core.select_variant(variant)
            learner = Learner(Model(nets.buffer(trained(name))), gather=8)
            for i in range(32):
                learner.learn_one(x[i], int(y[i]))
            learner.seal()
            left.add(learner.model.to_bytes())
            core.select_variant(before)
        assert len(left) == 1

    @staticmethod
    def device_goes_on(name: str) -> None:
        learner = Learner(Model(nets.buffer(trained(name))))
        assert learner.status()["strategy"] == STRATEGIES[name].device
        assert STRATEGIES[name].device in arena.STRATEGIES


class Device:
    """Checks of a strategy of the core."""

    names = arena.STRATEGIES

    @staticmethod
    def budget(name: str) -> None:
        model = Model(nets.buffer(learned(name)))
        sparse.assert_arena(model.arena, NETWORK)
        assert (Learner(model).status()["rewired"] > 0) == (name != "static")

    @staticmethod
    def fan_in_no_duplicate_and_new_weight_0(name: str) -> None:
        learner = started(name)
        a = learner.model.arena
        x, y = nets.samples(NETWORK, 64)
        moved = [0, 0]
        for step in range(STEPS):
            before = [(a.weights(i).copy(), a.indices(i)) for i in range(2)]
            learner.learn_one(x[step % 64], int(y[step % 64]))
            sparse.assert_arena(a, NETWORK)
            changed = 0
            for i, (weights, indices) in enumerate(before):
                now = a.indices(i)
                assert indices is not None
                assert now is not None
                block = NETWORK.layers[i].block
                fresh = sparse.assert_fresh((weights, indices), (a.weights(i), now), block)
                changed += fresh * block
                moved[i] += fresh
            # A random draw may bring back what has just gone.
            assert changed <= learner.tick.rewired
            assert changed == learner.tick.rewired or name == "set"
        assert all((n > 0) == (name != "static") for n in moved)

    @staticmethod
    def same_seed_same_bytes(name: str) -> None:
        first = learned(name)
        learned.cache_clear()
        assert learned(name) == first
        assert learned(name, 1) != first

    @staticmethod
    def same_bytes_with_every_variant(name: str) -> None:
        usable = [v for v, works in core.variants().items() if works]
        assert len({learned(name, 0, variant) for variant in usable}) == 1

    @staticmethod
    def another_strategy_begins_anew(name: str) -> None:
        model = Model(nets.buffer(learned(name)))
        learner = Learner(model)
        x, y = nets.samples(NETWORK, 5)
        while model.arena.section(net.LEARNER)[52:56].view("<u4")[0] == 0 and name != "static":
            learner.learn_one(x[0], int(y[0]))
        other = "set" if name != "set" else "rigl"
        learner.configure(strategy=other)
        hidden = 4 * 12 * NETWORK.batch
        assert not model.arena.section(net.SCRATCH)[hidden : hidden + 4 * 32].any()
        assert not model.arena.section(net.LEARNER)[52:56].any()
        assert not model.arena.section(net.LEARNER)[60:64].any()
        assert not model.arena.section(net.TRACES)[2:].any()
        model.seal()
        Model(nets.buffer(model.to_bytes()))


def checks(side: type[Host] | type[Device]) -> dict[str, Callable[[str], None]]:
    return {k: v.__func__ for k, v in vars(side).items() if isinstance(v, staticmethod)}


CASES = [
    pytest.param(check, name, id=f"{side.__name__.lower()}-{name}:{what}")
    for side in (Host, Device)
    for name in side.names
    for what, check in checks(side).items()
]


def test_no_strategy_and_no_check_was_lost() -> None:
    assert len(Host.names) == 8
    assert len(Device.names) == 6
    assert len(CASES) == 8 * 8 + 6 * 5
    assert tuple(STRATEGIES) == arena.TRAINING_STRATEGIES
    assert set(arena.STRATEGIES) <= set(STRATEGIES)


@pytest.mark.parametrize(("check", "name"), CASES)
def test_strategy(check: Callable[[str], None], name: str) -> None:
    check(name)


def test_attention_needs_traces() -> None:
    bare = nets.network((1, 32, 1), (net.sparse(32, 12, 12, 4),), 4, batch=4)
    model = Model(nets.buffer(nets.file(bare)))
    before = model.arena.buffer.copy()
    from zgedge.errors import UsageError

    with pytest.raises(UsageError, match="traces") as e:
        Learner(model, strategy="attention")
    assert "--rewire attention" in e.value.hint
    config = core.Config(rate=0.1, learn=0, strategy=5, swaps=1, gather=8)
    assert core.lib.zge_learner_configure(model._handle, config) == core.E_ARGUMENT
    assert np.array_equal(model.arena.buffer, before)


def test_traces_are_paid_by_the_replay() -> None:
    wide, plain = (Model(nets.buffer(trained(x))).arena for x in ("attention", "rigl"))
    assert len(wide.buffer) <= len(plain.buffer)
    assert wide.network.traces == 8
    assert 10 <= wide.network.replay_samples < plain.network.replay_samples


def test_attention_without_room_leaves_the_gradient_that_it_stands_for() -> None:
    digits = data.load("digits")
    network = sparse_plan(Task.of(digits), 4096, learning=False).network
    network = net.Network(network.shape, 10, network.layers, network.names_bytes)
    result = train(digits, network, strategy="attention", steps=3)
    assert result.network.traces == 0
    assert result.parameters.learner is not None
    assert result.parameters.learner.strategy == "rigl"
