"""Drift and guard leave what the reference leaves, on every path that they have."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests import nets
from tests.core import reference
from tests.core.conftest import VARIANTS
from tests.worlds import World, start, stream, worlds
from zgedge import arena
from zgedge import network as net
from zgedge.errors import DataError, ModelError, UsageError
from zgedge.network import Network, conv, dense, mean_pool, sparse
from zgedge.runtime import Learner, Model, prover
from zgedge.runtime import core_library as core
from zgedge.runtime.adapting import adapt

TRUNK = (conv((6, 5, 1), 6, 3), mean_pool((6, 5, 6)))
NETWORKS: dict[str, Network] = {
    "sparse-b1": nets.network(
        (1, 40, 1), (sparse(40, 10, 8),), 4, watch=True, anchors=140, batch=8, replay_samples=24,
        replay_bits=4,
    ),
    "sparse-b4-no-replay": nets.network(
        (1, 40, 1), (sparse(40, 12, 12, 4), dense(12, 7)), 4, watch=True, anchors=150, batch=4
    ),
    "places-1-bit-batch-1": nets.network(
        (6, 7, 1), (sparse(42, 9, 10),), 4, watch=True, anchors=133, batch=1, replay_samples=24,
        replay_bits=1, replay_pool=2,
    ),
    "trunk": nets.network(
        (6, 5, 1), (), 4, watch=True, anchors=140, batch=8, trunk=TRUNK, replay_samples=20,
        replay_bits=8,
    ),
    "labels-of-two-bytes": nets.network(
        (1, 12, 1), (sparse(12, 8, 5),), 300, watch=True, anchors=120, batch=2
    ),
    "few-anchors": nets.network((1, 24, 1), (sparse(24, 9, 8, 4),), 4, watch=True, anchors=20),
    "watch-only": nets.network((1, 24, 1), (sparse(24, 9, 8),), 4, watch=True, batch=2),
}  # fmt: skip


def core_step(learner: Learner, x: npt.NDArray[np.float32], y: list[int]) -> None:
    n = len(y)
    learner._y[:n] = y
    learner._step(x, n, learner.batch - n)


def _warm(network: Network, steps: int) -> Model:
    """After so many steps in the old world: it is learned, and the watch knows what is usual."""
    model = start(network)
    learner = Learner(model)
    for x, y in stream(network, [steps]):
        core_step(learner, x, y)
    model.seal()
    return Model(nets.buffer(model.arena.buffer.tobytes()))


def _lockstep(name: str, lengths: list[int], warm: int = 500) -> tuple[Model, Counter[str]]:
    """Core and reference over the stream; what happened."""
    return _both(_warm(NETWORKS[name], warm), lengths)


def _both(model: Model, lengths: list[int]) -> tuple[Model, Counter[str]]:
    network = model.arena.network
    twin = reference.Learner(model.arena.buffer)
    learner = Learner(model)
    seen: Counter[str] = Counter()
    for i, (x, y) in enumerate(stream(network, [0, *lengths])):
        core_step(learner, x, y)
        twin.step(x, y, network.batch - len(y))
        assert (learner.tick.drift, learner.tick.guard) == twin.tick, f"step {i}"
        seen[f"drift {learner.tick.drift}"] += 1
        seen[f"guard {learner.tick.guard}"] += 1
        seen["anchored"] += learner.tick.anchored
        if i % 16 == 0:
            twin.check(model.arena.buffer)
            assert twin.watch(x[0])[1] == _watch(learner, x[0])
    twin.check(model.arena.buffer)
    model.seal()
    Model(nets.buffer(model.arena.buffer.tobytes()))
    return model, seen


def _watch(learner: Learner, x: npt.NDArray[np.float32]) -> int:
    learner.watch(x)
    return int(learner.tick.drift)


@pytest.mark.parametrize("name", NETWORKS)
def test_core_leaves_what_the_reference_leaves(name: str) -> None:
    _, seen = _lockstep(name, [220, 120], warm=60 if name == "labels-of-two-bytes" else 500)
    assert seen["anchored"] > 0 or name in ("few-anchors", "watch-only")


def test_a_trial_that_serves_the_new_world_opens_an_epoch() -> None:
    model, seen = _lockstep("sparse-b1", [300, 60, 300], 250)
    assert seen["drift 2"] > 0
    assert seen["guard 1"] > 0
    status = Learner(model).status()
    assert status["epoch"] == status["drift"]["confirmed"] > 0


SHOWN = 16  # anchors of a class that lacked them
LACKING = 1  # a class that none of the next three answers before it has learned anything


@pytest.mark.parametrize("room", ["full", "free"])
@pytest.mark.parametrize("name", ["sparse-b1", "places-1-bit-batch-1", "trunk"])
def test_a_class_that_anchors_lack(name: str, room: str) -> None:
    """What the reference leaves while it gets its anchors: where there is room, and where others
    make place."""
    model = _again(start(NETWORKS[name], lacks=LACKING), caution=6)
    if room == "free":
        keep = model.arena.network.anchors - 20
        model = _again(model, filled=keep, best=min(keep, _written(model)["best"]))
    assert _anchors_of(model, LACKING) == 0
    model, seen = _both(model, [150])
    assert seen["drift 2"] == _written(model)["drift"]["confirmed"] == 1
    assert _written(model)["epoch"] == 0
    assert _anchors_of(model, LACKING) >= SHOWN
    assert _written(model)["anchors"] == model.arena.network.anchors


@pytest.mark.parametrize("age", [700, 1700])
def test_a_new_class_never_makes_a_plastic_time_shorter(age: int) -> None:
    model = start(NETWORKS["sparse-b1"], lacks=LACKING)
    model = _again(model, age=age, rate=0.99884936**age)
    model, seen = _both(model, [150])
    now = _age(model)
    if age < 1000:
        assert _anchors_of(model, LACKING) >= SHOWN
        assert (seen["drift 2"], now) == (0, age + 150)
    else:
        assert seen["drift 2"]
        assert 1000 < now < 1150


def _age(model: Model) -> int:
    return int(model.arena.section(net.WATCH)[8:12].view("<u4")[0])


def test_many_new_samples_of_a_step_take_different_places() -> None:
    """A step of nothing but the class that is lacking."""
    network = replace(NETWORKS["sparse-b1"], batch=64)
    model = start(network, lacks=3)
    twin = reference.Learner(model.arena.buffer)
    learner = Learner(model)
    x, y = worlds(network)[0].draw(np.random.default_rng(8), 400)
    core_step(learner, x[y == 3][:64], [3] * 64)
    twin.step(x[y == 3][:64], [3] * 64, 0)
    twin.check(model.arena.buffer)
    assert _anchors_of(model, 3) == learner.tick.anchored == SHOWN


def test_a_class_that_is_known_is_not_new_where_many_of_it_come_in_a_step() -> None:
    network, blob = _trained(lacks=3)
    learner = Learner(Model(nets.buffer(blob)))
    x, y = worlds(network)[0].draw(np.random.default_rng(8), 400)
    rows = x[y == 3][:64]
    for at in range(0, 64, learner.batch):
        core_step(learner, rows[at : at + learner.batch], [3] * len(rows[at : at + learner.batch]))
        assert learner.tick.drift == 0
    assert _anchors_of(learner.model, 3) == SHOWN


def test_the_best_is_never_more_than_there_are_anchors() -> None:
    """A state accepted within the margin leaves a best above its own flags; then anchors that it
    has wrong give way to those of a class that it knows."""
    network = NETWORKS["sparse-b1"]
    model = start(network, lacks=3)
    buffer = nets.buffer(model.arena.buffer.tobytes())
    anchors, watch = (arena.Arena(buffer).section(kind) for kind in (net.ANCHORS, net.WATCH))
    flags = anchors[16 + network.anchors : 16 + 2 * network.anchors]
    flags[:], flags[:5] = 3, 0
    watch[8:12].view("<u4")[0], watch[12:16].view("<f4")[0] = 100, 0.4
    watch[16:20].view("<u4")[0] = network.anchors
    arena.sign(buffer.data)
    model = Model(buffer)
    twin, learner = reference.Learner(model.arena.buffer), Learner(model)
    rng = np.random.default_rng(0)
    for _ in range(150):
        x, y = worlds(network)[0].draw(rng, 1)
        core_step(learner, x, y.tolist())
        twin.step(x, y.tolist(), network.batch - 1)
        assert _written(model)["best"] <= _written(model)["anchors"]
    twin.check(model.arena.buffer)
    model.seal()
    Model(nets.buffer(model.arena.buffer.tobytes()))


def _anchors_of(model: Model, label: int) -> int:
    filled = _written(model)["anchors"]
    return int((model.arena.section(net.ANCHORS)[16 : 16 + filled] == label).sum())


def _in_trial(name: str) -> Model:
    """Shortly after drift was confirmed, some samples of the new world held back."""
    network = NETWORKS[name]
    model = _warm(network, 500)
    learner = Learner(model)
    after = 0
    for x, y in stream(network, [0, 400]):
        core_step(learner, x, y)
        after += learner.status()["trial"]
        if after == 100:
            break
    assert learner.status()["trial"]
    return model


MANY = [("sparse-b1", 0.2), ("sparse-b1", 0.4), ("trunk", 0.4)]


@pytest.mark.parametrize("calm", [2, 0])
@pytest.mark.parametrize("share", [0.2, 0.4])
@pytest.mark.parametrize("name", ["sparse-b1", "sparse-b4-no-replay", "trunk"])
def test_strange_inputs_and_some_errors_are_a_change(name: str, share: float, calm: int) -> None:
    """A share of the samples is of another world: fewer errors than confirm a change alone."""
    network = NETWORKS[name]
    model = _again(_warm(network, 900), calm=calm)
    twin, learner = reference.Learner(model.arena.buffer), Learner(model)
    rng, began = np.random.default_rng(4), []
    for i in range(1200):
        x, y = worlds(network)[int(rng.random() < share)].draw(rng, 1)
        core_step(learner, x, y.tolist())
        twin.step(x, y.tolist(), learner.batch - 1)
        assert (learner.tick.drift, learner.tick.guard) == twin.tick, f"step {i}"
        if learner.tick.drift == 2:
            began.append((_trial(model), _age(model)))
    twin.check(model.arena.buffer)
    if not calm:
        assert began in ([], [(1, 0)])
    else:  # where errors are many they confirm it by themselves before they have waited
        assert began[0] == (2, 0 if (name, share) in MANY else 1000)


def _trial(model: Model) -> int:
    return int(model.arena.section(net.WATCH)[4:6].view("<u2")[0])


def _again(model: Model, **fields: float) -> Model:
    """The model read again from its file, with some numbers of its watch or anchors changed."""
    model.seal()
    buffer = nets.buffer(model.arena.buffer.tobytes())
    for name, value in fields.items():
        of = net.ANCHORS if name == "filled" else net.WATCH
        at, kind = {
            "age": (8, "<u4"), "caution": (6, "<u2"), "best": (16, "<u4"), "filled": (4, "<u4"),
            "rate": (12, "<f4"), "calm": (92, "<u4"), "trial": (4, "<u2"),
        }[name]  # fmt: skip
        section = arena.Arena(buffer).section(of)
        section[at : at + np.dtype(kind).itemsize].view(kind)[0] = value
    arena.sign(buffer.data)
    return Model(buffer)


def test_a_trial_that_shows_nothing_is_taken_back() -> None:
    model = _again(_in_trial("sparse-b4-no-replay"), age=1996)
    twin = reference.Learner(model.arena.buffer)
    learner = Learner(model)
    accepted = model.arena.section(net.SNAPSHOT).copy()
    left = learner.status()["anchors"]
    for x, y in stream(NETWORKS["sparse-b4-no-replay"], [0, 0, 0, 4]):
        core_step(learner, x, y)
        twin.step(x, y, learner.batch - len(y))
    twin.check(model.arena.buffer)
    status = learner.status()
    assert (learner.tick.guard, status["drift"]["rejected"], status["epoch"]) == (2, 1, 0)
    assert (status["trial"], status["plasticity"]) == (False, 0.0)
    assert np.array_equal(model.arena.section(net.SNAPSHOT), accepted)
    biases = b"".join(model.arena.rows(i)[0].tobytes() for i in range(3))
    assert accepted.tobytes().startswith(biases)
    # From now on no sample of this stream becomes an anchor: its labels were not believed.
    for x, y in stream(NETWORKS["sparse-b4-no-replay"], [0, 0, 0, 60]):
        core_step(learner, x, y)
        assert not learner.tick.anchored
    assert learner.status()["anchors"] == left


@pytest.mark.parametrize("trial", [False, True], ids=["quiet", "trial"])
@pytest.mark.parametrize("what", ["accept", "rollback"])
def test_by_hand(what: str, trial: bool) -> None:
    model = _in_trial("sparse-b1") if trial else _warm(NETWORKS["sparse-b1"], 90)
    model = _again(model)
    twin = reference.Learner(model.arena.buffer)
    learner = Learner(model)
    epoch = learner.status()["epoch"]
    getattr(learner, what)()
    guard = twin.guard
    if what == "accept":
        guard.end_trial() if trial else guard.accept(sum(x.now for x in guard.anchors))
        guard.accepted += 1
    else:
        guard.reject() if trial else guard.rollback()
        guard.rolled_back += not trial
    twin.check(model.arena.buffer)
    for x, y in stream(NETWORKS["sparse-b1"], [20]):
        core_step(learner, x, y)
        twin.step(x, y, learner.batch - len(y))
    twin.check(model.arena.buffer)
    assert learner.status()["epoch"] == epoch + (trial and what == "accept")


@pytest.mark.parametrize("name", NETWORKS)
def test_every_variant_leaves_the_same_bytes(name: str) -> None:
    was = core.variant()
    found = []
    try:
        for variant in VARIANTS:
            core.select_variant(variant)
            model = start(NETWORKS[name])
            learner = Learner(model)
            for x, y in stream(NETWORKS[name], [400, 300, 300, 300, 100]):
                core_step(learner, x, y)
                learner.watch(x[0])
            model.seal()
            found.append(model.arena.buffer.tobytes())
    finally:
        core.select_variant(was)
    assert found.count(found[0]) == len(VARIANTS)


def test_what_is_held_back_teaches_nothing() -> None:
    network = NETWORKS["sparse-b4-no-replay"]
    model = start(network, strategy="static")
    learner = Learner(model)
    kinds = (net.WEIGHTS, net.INDICES, net.ROWS, net.RESIDUAL)
    held = 0
    for x, y in stream(network, [300]):
        before = [model.arena.section(kind).tobytes() for kind in kinds]
        learner.learn_one(x[0], int(y[0]))
        if learner.tick.guard == 0:
            same = before == [model.arena.section(kind).tobytes() for kind in kinds]
            assert same == bool(learner.tick.anchored)
            held += learner.tick.anchored
    assert held > 10


def test_frozen_watches_and_judges_nothing() -> None:
    model = _again(_in_trial("sparse-b1"))
    learner = Learner(model)
    learner.freeze()
    kinds = (net.WATCH, net.ANCHORS, net.SNAPSHOT, net.WEIGHTS)
    before = [model.arena.section(kind).tobytes() for kind in kinds]
    for x, y in stream(NETWORKS["sparse-b1"], [40]):
        core_step(learner, x, y)
    assert before == [model.arena.section(kind).tobytes() for kind in kinds]


def caught(call: Any) -> ModelError:
    with pytest.raises(ModelError) as error:
        call()
    return error.value


def test_a_file_without_them_says_so() -> None:
    network = nets.network((1, 24, 1), (sparse(24, 9, 8),), 4)
    learner = Learner(Model(nets.buffer(nets.file(network))))
    x, _ = nets.samples(network, 3)
    for call in (learner.accept, learner.rollback):
        with pytest.raises(ModelError, match="no anchors and no accepted state"):
            call()
    assert "larger budget" in str(caught(learner.accept))
    analytic = nets.network((1, 24, 1), (sparse(24, 9, 8),), 4, head="analytic")
    other = Learner(Model(nets.buffer(nets.file(analytic))))
    for call in (other.accept, other.rollback):
        assert "analytic head have no guard" in str(caught(call))
    assert learner.watch(x[0]) == learner.model.predict_one(x[0])
    assert learner.tick.drift == 0
    assert "guard" not in learner.status()


def test_watching_answers_what_a_prediction_does() -> None:
    model = start(NETWORKS["sparse-b1"])
    learner = Learner(model)
    x, _ = nets.samples(NETWORKS["sparse-b1"], 40)
    for row in (x * 3).astype(np.float32):
        assert learner.watch(row) == model.predict_one(row)
        small = np.clip(row, 0, 255).astype(np.uint8)
        assert learner.watch(small) == model.predict_one(small)
    assert learner.status()["drift"]["watched"] == 80
    with pytest.raises(DataError):
        learner.watch(np.full(40, np.nan, np.float32))
    assert learner.status()["drift"]["watched"] == 80


def test_strange_inputs_without_labels_are_a_warning() -> None:
    """Samples far beyond the scale of the inputs, and no label for any of them."""
    network = NETWORKS["sparse-b1"]
    model = _warm(network, 500)
    learner = Learner(model)
    rng = np.random.default_rng(5)
    x, _ = worlds(network)[0].draw(rng, 400)
    warned = []
    for row in x:
        learner.watch(row)
        warned.append(learner.tick.drift)
    assert sum(warned) <= 1
    for row in x[:100]:
        learner.watch(row + 1)
        warned.append(learner.tick.drift)
    assert sum(warned[400:]) >= 1
    assert learner.status()["drift"]["level"] == "warning"


# ---- what it is for ----


def _trained(
    anchors: int = 160, lacks: int | None = None, knows: bool = True
) -> tuple[Network, bytes]:
    """A network that is right in its world, and anchors of it; they, and what it learned where it
    knows no better, lack a class."""
    network = replace(NETWORKS["sparse-b1"], anchors=anchors)
    model = start(replace(network, watch=False, anchors=0))
    learner = Learner(model)
    for x, labels in stream(network, [700]):
        rows = [i for i, label in enumerate(labels) if knows or label != lacks]
        if rows:
            core_step(learner, x[rows], [labels[i] for i in rows])
    a = model.arena
    parameters = nets.parameters(network, seed=7)
    for i, layer in enumerate(parameters.layers):
        indices = a.indices(i)
        layer.weights, layer.bias = a.weights(i).copy(), a.rows(i)[0].copy()
        layer.indices = None if indices is None else indices.copy()
    parameters.learner = arena.LearnerParameters(key=1, rate=0.1)
    x, y = worlds(network)[0].draw(np.random.default_rng(1), anchors + 200 * (lacks is not None))
    chosen = np.flatnonzero(y != lacks)[:anchors]
    x, y = x[chosen], y[chosen]
    plain = Model(nets.buffer(arena.write(replace(network, watch=False, anchors=0), parameters)))
    codes = nets.reference_codes(parameters, x).astype(np.uint8)
    parameters.anchors = (codes, y, plain.predict_index(x)[0] == y)
    return network, arena.write(network, parameters)


def _accuracy(model: Model, world: World) -> float:
    x, y = world.draw(np.random.default_rng(99), 1000)
    return float((model.predict_index(x)[0] == y).mean())


def test_wrong_labels_do_not_make_it_worse_and_a_new_world_is_learned() -> None:
    """One configuration: first 40 % wrong labels, then another world, whose gain must stay."""
    network, blob = _trained()
    old, new = worlds(network)[:2]
    model = Model(nets.buffer(blob))
    learner = Learner(model)
    before = _accuracy(model, old)
    assert before > 0.9
    rng = np.random.default_rng(21)
    x, y = replace(old, wrong=0.4).draw(rng, 1500)
    plain = Learner(Model(nets.buffer(blob)))
    plain.model.arena.clear_anchors()
    plain.model.arena.section(net.WATCH)[20:24] = 0  # nor any from the stream
    lowest, best, poisoned = 1.0, learner.status()["best"], 1.0
    for i, (row, label) in enumerate(zip(x, y.tolist(), strict=True)):
        learner.learn_one(row, label)
        plain.learn_one(row, label)
        if i % 25 == 24:
            status = learner.status()
            assert status["best"] >= best, "a ratchet of small losses"
            best = status["best"]
            lowest = min(lowest, _accuracy(model, old))
            poisoned = min(poisoned, _accuracy(plain.model, old))
    assert learner.status()["epoch"] == 0
    assert lowest >= before - 0.02
    assert poisoned < before - 0.1
    was = _accuracy(model, new)
    x, y = new.draw(rng, 2100)
    for row, label in zip(x, y.tolist(), strict=True):
        learner.learn_one(row, label)
    assert learner.status()["epoch"] == 1
    assert was < 0.6
    assert _accuracy(model, new) > 0.9


def _of_class(model: Model, world: World, label: int) -> float:
    x, y = world.draw(np.random.default_rng(99), 1000)
    return float((model.predict_index(x[y == label])[0] == label).mean())


def test_a_new_class_is_learned_and_the_others_are_kept() -> None:
    network, blob = _trained(lacks=3, knows=False)
    world = worlds(network)[0]
    model = Model(nets.buffer(blob))
    learner = Learner(model)
    before = _accuracy(model, world)
    assert _of_class(model, world, 3) == 0
    assert before > 0.7
    x, y = world.draw(np.random.default_rng(21), 600)
    drifts = []
    for row, label in zip(x, y.tolist(), strict=True):
        learner.learn_one(row, label)
        drifts.append(learner.tick.drift)
    assert drifts.count(2) == 1
    status = learner.status()
    assert (status["epoch"], status["drift"]["confirmed"], status["trial"]) == (0, 1, False)
    assert 0 < status["plasticity"] < 0.5
    assert _of_class(model, world, 3) > 0.9
    assert _accuracy(model, world) > before + 0.2


def test_anchors_of_a_class_that_is_known_change_nothing_else() -> None:
    network, blob = _trained(lacks=3)
    model = Model(nets.buffer(blob))
    learner = Learner(model)
    x, y = worlds(network)[0].draw(np.random.default_rng(4), 400)
    for row, label in zip(x, y.tolist(), strict=True):
        learner.learn_one(row, label)
        assert learner.status()["caution"] >= 4
    assert _anchors_of(model, 3) >= SHOWN
    assert learner.status()["drift"]["confirmed"] == 0


def test_where_calm_is_zero_anchors_stay_as_they_are() -> None:
    """Files of before, and what is learned without caution."""
    network, blob = _trained(lacks=3, knows=False)
    model = Model(nets.buffer(blob))
    learner = Learner(model)
    x, y = worlds(network)[0].draw(np.random.default_rng(4), 200)
    with learner.without_caution():
        for row, label in zip(x, y.tolist(), strict=True):
            learner.learn_one(row, label)
    assert _anchors_of(model, 3) == 0


def test_a_quiet_world_is_learned_with_care_from_the_first_label() -> None:
    network, blob = _trained()
    learner = Learner(Model(nets.buffer(blob)))
    x, y = worlds(network)[0].draw(np.random.default_rng(4), 600)
    for row, label in zip(x, y.tolist(), strict=True):
        assert learner.status()["caution"] >= 4
        learner.learn_one(row, label)
    assert learner.status()["accepted"] > 0
    assert learner.status()["rewired"] == 0


def test_what_is_worth_learning_is_learned_faster_and_then_with_care_again() -> None:
    """From random weights anchors show clear gains; once the world is known there are none."""
    network = NETWORKS["sparse-b1"]
    learner = Learner(_again(start(network), caution=4))
    seen = []
    for x, y in stream(network, [1500]):
        core_step(learner, x, y)
        seen.append(learner.status()["caution"])
    assert min(seen) == 0
    assert learner.status()["rewired"] > 0
    assert min(seen[-200:]) >= 4


def test_only_where_a_guard_judges_is_there_caution() -> None:
    few = Model(nets.buffer(_trained(anchors=99)[1]))
    assert _written(few)["caution"] == 0
    many = Model(nets.buffer(_trained()[1]))
    assert _written(many)["caution"] == 4
    many.arena.clear_anchors()
    assert _written(many)["caution"] == 0


def test_what_is_given_to_be_learned_is_learned_without_caution() -> None:
    network, blob = _trained()
    model = Model(nets.buffer(blob))
    x, y = worlds(network)[0].draw(np.random.default_rng(4), 300)
    done = adapt(Learner(model), x, model.classes[y])
    assert done.rewired > 0
    assert model.arena.calm == _written(model)["caution"] == 4
    x, y = worlds(network)[0].draw(np.random.default_rng(5), 300)
    plain = Learner(Model(nets.buffer(blob)))
    for row, label in zip(x, y.tolist(), strict=True):
        plain.learn_one(row, label)
    assert plain.status()["rewired"] == 0


def test_a_proof_moves_wires_in_a_world_that_is_known(tmp_path: Path) -> None:
    network, blob = _trained()
    path = tmp_path / "m.zge"
    path.write_bytes(blob)
    x, y = worlds(network)[0].draw(np.random.default_rng(4), 300)
    found = prover.prove(str(path), 2000, samples=(x, y.tolist()))
    assert found["reasons"] == []
    assert path.read_bytes() == blob


def test_calm_is_set_and_kept_by_the_file(tmp_path: Path) -> None:
    learner = Learner(Model(nets.buffer(_trained()[1])))
    for calm in (0, 6, 2):
        learner.configure(calm=calm)
        assert learner.model.arena.calm == learner.status()["caution"] == calm
    for wrong in (7, -1, "4"):
        with pytest.raises(UsageError, match="calm"):
            learner.configure(calm=wrong)
    learner.save(tmp_path / "m.zge")
    assert Model.open(tmp_path / "m.zge").arena.calm == 2
    for without in (Model(nets.buffer(nets.file(nets.network()))), start(NETWORKS["watch-only"])):
        nothing = Learner(without)
        nothing.configure(calm=3)
        assert nothing.model.arena.calm == 0
    few = Learner(Model(nets.buffer(_trained(anchors=99)[1])))
    few.configure(calm=5)
    assert few.status()["caution"] == 0
    trial = Learner(_in_trial("sparse-b4-no-replay"))
    trial.configure(calm=5)
    assert trial.status()["caution"] == 0


def _written(model: Model) -> dict[str, Any]:
    status = model.arena.watch()
    assert status is not None
    return status
