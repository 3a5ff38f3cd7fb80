"""The analytic head: integers as the reference has them, and near a float64 solve."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from tests import nets
from tests.core import reference
from tests.core.conftest import VARIANTS
from zgedge import arena
from zgedge import network as net
from zgedge.errors import ModelError, UsageError
from zgedge.network import Network, conv, max_pool, sparse
from zgedge.runtime import Learner, Model
from zgedge.runtime import core_library as core

TRUNK = (conv((8, 7, 1), 3, same=False), max_pool((6, 5, 3)))
NETWORKS: dict[str, Network] = {
    "sparse": nets.network((1, 24, 1), (sparse(24, 12, 8, 4),), 4, head="analytic"),
    "batch-1": nets.network((1, 24, 1), (sparse(24, 12, 6),), 4, head="analytic", batch=1),
    "two-hidden": nets.network(
        (1, 33, 1), (sparse(33, 17, 5), sparse(17, 9, 3)), 3, head="analytic", batch=8
    ),
    "inputs-alone": nets.network((1, 13, 1), (), 4, head="analytic", batch=2),
    "table": nets.network((1, 11, 1), (), 5, groups=11, task="table", head="analytic"),
    "trunk": nets.network((8, 7, 1), (), 5, trunk=TRUNK, head="analytic", batch=4),
    "many-classes": nets.network((1, 9, 1), (), 40, head="analytic", batch=4),
    "waits": nets.network((1, 24, 1), (sparse(24, 12, 6),), 4, head="analytic", pending=3),
}


def start(name: str, pace: int = 7) -> tuple[Model, reference.Learner]:
    network = NETWORKS[name]
    parameters = nets.parameters(network, seed=len(name))
    parameters.learner = arena.LearnerParameters(key=5, pace=pace)
    buffer = nets.buffer(arena.write(network, parameters))
    return Model(buffer, name), reference.Learner(buffer)


def _run(model: Model, twin: reference.Learner, steps: int, check_every: int = 7) -> None:
    network = model.arena.network
    learner = Learner(model)
    x, y = nets.samples(network, 4 * network.batch + 8, seed=5)
    rng = np.random.default_rng(7)
    for step in range(steps):
        n = int(rng.integers(1, network.batch + 1))
        chosen = rng.integers(0, len(x), n)
        learner._y[:n] = y[chosen]
        learner._step(x[chosen], n, 0)
        twin.step(x[chosen], y[chosen].tolist(), 0)
        if step % check_every == 0 or step == steps - 1:
            twin.check(model.arena.buffer)


@pytest.mark.parametrize("name", NETWORKS)
def test_core_leaves_what_the_reference_leaves(name: str, variant: str) -> None:
    model, twin = start(name)
    _run(model, twin, 60)
    assert twin.analytic is not None
    assert twin.analytic.rounds > 0
    Learner(model).solve(3)
    network = model.arena.network
    round_ = network.classes * network.layers[-1].inputs
    twin.analytic.solve(3 * round_ - twin.analytic.cursor)
    twin._take_head()
    twin.check(model.arena.buffer)
    model.seal()
    Model(nets.buffer(model.arena.buffer.tobytes()))


def _patched(name: str, *, scale: int = 0, counts: int = 0) -> npt.NDArray[np.uint8]:
    """A file whose statistics stand just below where they are halved."""
    model, _ = start(name)
    _run(model, reference.Learner(model.arena.buffer), 30, 1000)
    state = model.arena.analytic()
    assert state is not None
    if counts:
        state["counts"][:] = 1
        state["counts"][0] = counts - len(state["counts"]) + 1
        state["sums"][:] = np.clip(state["sums"], -255, 255)
        state["sums"][0] = np.arange(len(state["sums"][0])) * (counts // 16)
        c, j = divmod(state["cursor"], len(state["sums"][0]))
        state["scores"][:] = state["sums"].astype(np.int64) @ state["values"][c] if j else 0
    if scale:
        section = model.arena.section(net.ANALYTIC)
        struct.pack_into("<I", section.data, 0, scale)
    triangle = state["triangle"]
    triangle[np.argmax(triangle)] = (1 << 30) - 1
    triangle[np.argmin(triangle)] = -(1 << 30)
    model.seal()
    return nets.buffer(model.arena.buffer.tobytes())


@pytest.mark.parametrize("name", ["sparse", "two-hidden", "inputs-alone", "many-classes"])
@pytest.mark.parametrize("patch", [{}, {"scale": 3}, {"scale": 16}, {"counts": (1 << 23) - 3}])
def test_halving_is_the_references(name: str, patch: dict[str, int], variant: str) -> None:
    model = Model(_patched(name, **patch))
    twin = reference.Learner(model.arena.buffer)
    assert twin.analytic is not None
    status = Learner(model).status()
    twin.samples, twin.correct, twin.clamped = (
        status["samples"], status["correct"], status["clamped"],
    )  # fmt: skip
    before = twin.analytic.scale
    _run(model, twin, 60, 1)
    if patch.get("scale") == 16 or patch.get("counts"):
        assert twin.analytic.halvings > 0
    if patch.get("scale") == 16:
        assert twin.analytic.scale == 16
    elif not patch.get("counts"):
        assert twin.analytic.scale > before


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_thousands_of_steps_are_the_references(name: str) -> None:
    for variant in VARIANTS:
        core.select_variant(variant)
        model, twin = start(name)
        _run(model, twin, 3000, 500)


def digits() -> tuple[npt.NDArray[np.uint8], ...]:
    from sklearn.datasets import load_digits

    data = load_digits()
    x = (data.data * 15).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], data.target[order].astype(np.uint16)
    return x[:1200], y[:1200], x[1200:], y[1200:]


def _digits_model(units: int = 120) -> Model:
    network = nets.network((8, 8, 1), (sparse(64, units, 16),), 10, head="analytic", task="picture")
    parameters = nets.parameters(network, seed=3)
    rng = np.random.default_rng(1)
    layer = parameters.layers[0]
    layer.weights[:] = rng.integers(-100, 101, layer.weights.shape)
    layer.bias[:] = rng.integers(-40_000, 40_000, layer.bias.shape)
    layer.multiplier[:] = 1 / 400
    parameters.input_scale[:] = 1
    parameters.input_center[:] = 0
    layer.z_in = 0
    return Model(nets.buffer(arena.write(network, parameters)), "digits")


def features_of(model: Model, x: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """What the head sees, by the second implementation."""
    twin = reference.Learner(model.arena.buffer)
    twin.forward(twin.codes(x).T)
    return (twin.layers[-1].x - twin.layers[-1].z).T.astype(np.float64)


def float64_accuracy(
    f: npt.NDArray[np.float64], y: npt.NDArray[np.uint16],
    ft: npt.NDArray[np.float64], yt: npt.NDArray[np.uint16],
) -> float:  # fmt: skip
    """Of the same discriminants, solved at once by numpy."""
    n, width = len(f), f.shape[1]
    counts = np.bincount(y).astype(float)
    sums = np.stack([f[y == c].sum(0) for c in range(len(counts))])
    means, middle = sums / counts[:, None], sums.sum(0) / n
    within = (f.T @ f - sums.T @ means) / n
    spread = np.diag(within)
    a = within + np.diag(spread / 64 + f.var(0) * width / (4 * n) + 1)
    v = np.linalg.solve(a, (means - middle).T).T
    bias = np.log(counts / n) - 0.5 * (v * (means + middle)).sum(1)
    return float(((ft @ v.T + bias).argmax(1) == yt).mean())


def test_digits_are_within_a_third_of_a_point_of_a_float64_solve() -> None:
    x, y, xt, yt = digits()
    model = _digits_model()
    expected = float64_accuracy(features_of(model, x), y, features_of(model, xt), yt)
    learner = Learner(model)
    learner.learn_many(x, y)
    learner.solve()
    assert expected > 0.95
    assert (model.predict(xt) == yt).mean() == pytest.approx(expected, abs=0.0034)


def test_any_order_gives_the_same_sums_and_the_same_weights() -> None:
    x, y, xt, _ = digits()
    states = []
    for order in (np.arange(len(x)), np.argsort(y, kind="stable"), np.argsort(-y.astype(int))):
        model = _digits_model(60)
        learner = Learner(model)
        learner.learn_many(x[order], y[order])
        state = model.arena.analytic()
        assert state is not None
        state["values"][:] = 0  # the solve of each order is under way at another place
        learner.solve(64)
        states.append((state["counts"], state["sums"], state["triangle"], model.logits(xt)))
    for other in states[1:]:
        for mine, theirs in zip(states[0][:3], other[:3], strict=True):
            assert np.array_equal(mine, theirs)
        # A cursor in the middle of a round is all that differs, and 64 rounds make it nothing.
        assert (states[0][3].argmax(1) == other[3].argmax(1)).mean() > 0.99


def test_classes_one_after_another_are_all_remembered() -> None:
    x, y, xt, yt = digits()
    model = _digits_model()
    learner = Learner(model)
    order = np.argsort(y, kind="stable")
    for i in order:
        learner.learn_one(x[i], int(y[i]))
    learner.solve()
    assert (model.predict(xt) == yt).mean() > 0.95


def test_a_class_without_samples_is_not_predicted() -> None:
    x, y, xt, _ = digits()
    model = _digits_model()
    learner = Learner(model)
    few = y < 4
    learner.learn_many(x[few], y[few])
    learner.solve()
    assert set(model.predict(xt).tolist()) == {0, 1, 2, 3}


def test_frozen_it_counts_nothing() -> None:
    x, y, _, _ = digits()
    model = _digits_model(30)
    learner = Learner(model)
    learner.freeze()
    before = model.arena.section(net.ANALYTIC).copy()
    learner.learn_many(x[:64], y[:64])
    assert np.array_equal(before, model.arena.section(net.ANALYTIC))
    assert learner.status()["samples"] == 64


@pytest.mark.parametrize("name", NETWORKS)
def test_another_strategy_changes_nothing_that_it_learns(name: str) -> None:
    """There is no gradient to forget: layers below this head stay as they are."""
    network = NETWORKS[name]
    x, y = nets.samples(network, 60)
    left = []
    for strategies in ((), ("rigl", "static", "set")):
        learner = Learner(Model(nets.buffer(nets.file(network))))
        for strategy in strategies:
            learner.configure(strategy=strategy)
        for row, label in zip(x, y.tolist(), strict=True):
            learner.learn_one(row, label)
        left.append(learner.model.arena.section(net.ANALYTIC).tobytes())
    assert left[0] == left[1]


def test_solve_is_for_this_head_alone() -> None:
    model = Model(nets.buffer(nets.file(nets.network())))
    with pytest.raises(UsageError, match="no analytic head"):
        Learner(model).solve()
    model, _ = start("sparse")
    for rounds in (0, 4097):
        with pytest.raises(UsageError):
            Learner(model).solve(rounds)


def test_shapes_that_the_head_cannot_have() -> None:
    for options in (
        {"learning": False, "batch": 1}, {"replay_samples": 4, "replay_bits": 8},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="analytic"):
            replace(NETWORKS["sparse"], **options)
    with pytest.raises(ValueError, match="analytic"):
        nets.network((1, 512, 1), (), 3, head="analytic")
    with pytest.raises(ValueError, match="analytic"):
        nets.network((1, 9, 1), (), 257, head="analytic")
    with pytest.raises(ValueError, match="none of"):
        nets.network((1, 9, 1), (), 3, head="other")


def _refused(change: object) -> int:
    """Status of a file whose analytic section was changed by `change(section, state)`."""
    model, _ = start("sparse")
    _run(model, reference.Learner(model.arena.buffer), 20, 1000)
    state = model.arena.analytic()
    change(model.arena.section(net.ANALYTIC), state)  # type: ignore[operator]
    model.seal()
    with pytest.raises(ModelError) as error:
        Model(nets.buffer(model.arena.buffer.tobytes()))
    assert "analytic" in str(error.value)
    assert error.value.status is not None
    return error.value.status


@pytest.mark.parametrize(
    ("field", "value"), [(0, 17), (4, 48), (4, 2**32 - 1), (12, 0), (12, 4097)]
)
def test_a_number_outside_its_range_is_refused(field: int, value: int) -> None:
    assert _refused(lambda s, _: struct.pack_into("<I", s.data, field, value)) == -12


@pytest.mark.parametrize("place", [0, 1, 5, 47])
def test_statistics_that_contradict_themselves_are_refused(place: int) -> None:
    def sums(_: object, state: dict[str, npt.NDArray[np.int32]]) -> None:
        flat = state["sums"].reshape(-1)
        flat[place] = 255 * state["counts"].sum() + 1

    def values(_: object, state: dict[str, npt.NDArray[np.int32]]) -> None:
        state["values"].reshape(-1)[place] = -(1 << 23) - 1

    def triangle(_: object, state: dict[str, npt.NDArray[np.int32]]) -> None:
        state["triangle"][place] = 1 << 30

    def scores(_: object, state: dict[str, npt.NDArray[np.int64]]) -> None:
        state["scores"][place % 4] += 1

    for change in (sums, values, triangle, scores):
        assert _refused(change) == -12
    assert _refused(lambda _, s: s["counts"].fill(1 << 22)) == -12


def test_a_hostile_state_that_opens_stays_inside(variant: str) -> None:
    """The largest numbers that pass, again and again: no value leaves what a file may hold."""
    rng = np.random.default_rng(0)
    for seed in range(20):
        model, _ = start("sparse", pace=100)
        state = model.arena.analytic()
        assert state is not None
        state["counts"][:] = rng.choice([0, 1, 2, (1 << 21) - 1], state["counts"].shape)
        most = 255 * state["counts"].astype(np.int64)[:, None]
        state["sums"][:] = rng.choice([-1, 0, 1], state["sums"].shape) * most
        state["values"][:] = rng.choice([-(1 << 23), 0, 1 << 23], state["values"].shape)
        state["triangle"][:] = rng.choice([-(1 << 30), 0, (1 << 30) - 1], state["triangle"].shape)
        scores = state["sums"].astype(np.int64) @ state["values"][1]
        state["scores"][:] = scores if seed % 2 else 0
        cursor = state["values"].shape[1] + seed % 2
        struct.pack_into("<II", model.arena.section(net.ANALYTIC).data, 0, seed % 17, cursor)
        model.seal()
        model = Model(nets.buffer(model.arena.buffer.tobytes()))
        learner = Learner(model)
        x, y = nets.samples(model.arena.network, 16, seed=seed)
        learner.learn_many(x, y)
        learner.solve(2)
        model.seal()
        Model(nets.buffer(model.arena.buffer.tobytes()))
