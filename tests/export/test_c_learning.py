"""Generated learners leave the very bytes that the learner of this package leaves."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests import nets
from tests.export import c_programs, models
from tests.export.c_programs import program
from tests.worlds import start, worlds
from zgedge import arena
from zgedge.export import c_run, source, to_c
from zgedge.network import Network, conv, dense, depthwise, mean_pool, sparse
from zgedge.runtime import Learner, Model

NETWORKS: dict[str, Network] = {
    # Residual bits in the indices and in a section, one scale and one for each input, 4 and 8 bits.
    "b1": nets.network(
        (8, 8, 1), (sparse(64, 32, 16, 1),), 10, task="picture", replay_samples=24, replay_bits=4
    ),
    "b4-table": nets.network(
        (1, 24, 1), (sparse(24, 12, 8, 4), sparse(12, 9, 3, 1)), 4, groups=24,
        replay_samples=9, replay_bits=8, batch=8,
    ),
    "trunk": nets.network(
        (9, 7, 2), (sparse(60, 16, 20, 4),), 5, task="picture", replay_samples=12, replay_bits=4,
        trunk=(
            conv((9, 7, 2), 5), conv((9, 7, 5), 5, add=1), depthwise((9, 7, 5), 3, 2, same=False),
        ),
    ),
    "mean": nets.network(
        (6, 6, 1), (dense(8, 16),), 3, task="picture", replay_samples=8, replay_bits=8, batch=4,
        trunk=(conv((6, 6, 1), 8), mean_pool((6, 6, 8))),
    ),
    # All that a file can have beside: drift that is watched for, a guard, samples that wait for
    # their label, traces.
    "all": nets.network(
        (1, 40, 1), (sparse(40, 10, 8),), 4, watch=True, anchors=140, pending=3, traces=2, batch=8,
        replay_samples=24, replay_bits=4,
    ),
    "all-trunk": nets.network(
        (6, 5, 1), (sparse(6, 8, 4),), 4, watch=True, anchors=140, pending=3, batch=8,
        trunk=(conv((6, 5, 1), 6, 3), mean_pool((6, 5, 6))), replay_samples=20, replay_bits=8,
    ),
    "no-replay": nets.network((1, 24, 1), (sparse(24, 12, 8, 8),), 300, batch=1),
    "sizes": nets.network(
        (1, 24, 1), (sparse(24, 16, 8, 8),), 5, batch=2, replay_samples=11, replay_bits=8
    ),
}  # fmt: skip
# Inputs, units, classes, batch and replay of networks whose files are as long as that of "sizes",
# which is the first; the next two have fewer inputs, or classes, and nothing else that is checked.
SIZES = (
    (24, 16, 5, 2, 11), (16, 16, 5, 2, 19), (24, 16, 3, 2, 15), (16, 16, 4, 4, 7),
    (16, 8, 3, 8, 15), (16, 16, 5, 4, 3),
)  # fmt: skip
# The label is out of range, or more is replayed than there is room for.
NOT_STARTED, LABEL, RANGE, SAVED = -3, -4, -5, -6


def stream(network: Network, n: int = 120) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
    if not network.watch:
        return nets.samples(network, n)
    parts = [
        world.draw(np.random.default_rng(n), n)
        for world, n in zip(worlds(network), (300, 301, 60), strict=False)
    ]
    x, y = (np.concatenate(part) for part in zip(*parts, strict=True))
    return x, y


def begun(network: Network) -> Model:
    """The model that a learner of the table starts from."""
    return start(network) if network.watch else models.opened(network)


def taught(
    network: Network, x: npt.NDArray[Any], y: npt.NDArray[Any], replay: int
) -> tuple[list[int], Model]:
    """What the package's learner says of each sample, and the model after them."""
    model = begun(network)
    learner = Learner(model)
    return [learner.learn_one(a, b, replay=replay) for a, b in zip(x, y, strict=True)], model


@functools.cache
def learner_of(name: str, target: str = "native") -> c_run.Program:
    """A network of the table as a program that learns; made once."""
    return program(to_c(begun(NETWORKS[name]), learning=True, samples=True), target)


@functools.cache
def sanitized(name: str) -> c_run.Program:
    """The same with the sanitizers of addresses and of undefined behaviour in it."""
    options = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Wno-error"]
    made = to_c(begun(NETWORKS[name]), learning=True, samples=True)
    return program(made, optimize="-O0", options=options)


def teach(
    built: c_run.Program, x: npt.NDArray[Any], y: npt.NDArray[Any], replay: int
) -> tuple[list[int], bytes]:
    """The same of a generated learner, and its arena sealed."""
    _, said, sealed = built.run(
        c_run.start(), c_run.learn(built.export, x, y, replay), c_run.seal(built.export)
    )
    return list(said["result"]), sealed["arena"][0].tobytes()


@pytest.mark.parametrize(
    ("name", "target"),
    [
        *((name, "native") for name in NETWORKS if name != "sizes"),
        *((name, "cortex-m4") for name in ("b1", "trunk")),
        ("b4-table", "armv7"),
        *(
            pytest.param(name, target, marks=pytest.mark.slow)
            for name in NETWORKS
            if name != "sizes"
            for target in ("aarch64", "armv7", "cortex-m4")
            if (name, target)
            not in (("b1", "cortex-m4"), ("trunk", "cortex-m4"), ("b4-table", "armv7"))
        ),
    ],
)
def test_the_same_stream_leaves_the_same_bytes(name: str, target: str) -> None:
    network = NETWORKS[name]
    x, y = stream(network)
    replay = network.batch - 1
    was, model = taught(network, x, y, replay)
    said, left = teach(learner_of(name, target), x, y, replay)
    assert said == was
    assert left == model.to_bytes()
    state = model.arena.learner()
    assert state is not None
    if name in ("b1", "b4-table", "trunk"):
        assert state["rewired"] > 0
        assert state["clamped"] > 0
    assert state["remembered"] == network.replay_samples
    if network.watch:
        guard = model.arena.watch()
        assert guard is not None
        assert guard["accepted"] > 0
        assert guard["drift"]["confirmed"] + guard["rolled_back"] > 0


@pytest.mark.parametrize(
    "level", ["-O2", *(pytest.param(o, marks=pytest.mark.slow) for o in ("-O1", "-O3", "-Og"))]
)
def test_compilers_have_nothing_to_say_of_all_sections(level: str, tmp_path: Path, cc: str) -> None:
    """Of the sections that `zgedge train` writes, which are more than any one feature needs."""
    for name in ("all", "all-trunk"):
        to_c(begun(NETWORKS[name]), learning=True).write(tmp_path)
        done = subprocess.run(
            [cc, "-std=c11", level, *c_run.WARNINGS, "-c", "zge.c", "-o", "zge.o"], cwd=tmp_path,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def test_learning_from_codes_differs_in_the_count_of_clamped_alone() -> None:
    network = NETWORKS["trunk"]
    x, y = stream(network)
    codes = source.input_coding(models.opened(network).arena).codes(x)
    was, model = taught(network, x, y, 3)
    said, left = teach(learner_of("trunk"), codes, y, 3)
    assert said == was
    copy = nets.buffer(left)
    at = model.arena.offsets[11][0] + 24  # section LEARNER, counter of clamped values
    assert not copy[at : at + 8].any()
    copy[at : at + 8] = model.arena.buffer[at : at + 8]
    model.seal()
    arena.sign(copy.data)
    assert np.array_equal(copy, model.arena.buffer)


def test_it_learns_and_goes_on_from_what_was_saved() -> None:
    network = NETWORKS["b1"]
    x, y = stream(network, 600)
    built = learner_of("b1")
    export = built.export
    answers = built.run(
        c_run.start(), c_run.learn(export, x[:300], y[:300], 15), c_run.seal(export)
    )
    saved = answers[-1]["arena"][0].tobytes()
    answers = built.run(
        c_run.start(saved), c_run.learn(export, x[300:], y[300:], 15), c_run.seal(export)
    )
    model = Model(nets.buffer(saved))
    learner = Learner(model)
    was = [learner.learn_one(a, b, replay=15) for a, b in zip(x[300:], y[300:], strict=True)]
    assert answers[0]["result"][0] == 0
    assert list(answers[1]["result"]) == was
    assert answers[2]["arena"][0].tobytes() == model.to_bytes()
    right = answers[1]["result"] == y[300:]
    first = c_programs.predicted(built, x[300:])["result"] == y[300:]
    assert right.mean() > 0.9 > 0.4 > first.mean()


def test_a_learned_model_is_exported_as_it_is() -> None:
    model = models.learned(NETWORKS["b1"])
    x, _ = stream(NETWORKS["b1"], 60)
    for learning in (False, True):
        made = to_c(model, learning=learning)
        c_programs.same_as_core(program(made, optimize="-O0"), model, x)
    twin = Model(nets.buffer(model.to_bytes()))
    made = to_c(model, learning=True, samples=True)
    (_, sealed) = program(made, optimize="-O0").run(c_run.start(), c_run.seal(made))
    assert sealed["arena"][0].tobytes() == twin.to_bytes()


def test_settings() -> None:
    network = NETWORKS["b1"]
    export = learner_of("b1").export
    x, y = stream(network, 40)
    model = models.opened(network)
    learner = Learner(model)
    learner.configure(rate=0.5, learn="head")
    for a, b in zip(x, y, strict=True):
        learner.learn_one(a, b, replay=2)
    learner.forget()
    answers = learner_of("b1").run(
        c_run.start(), c_run.configure(0.5, 1), c_run.configure(0.0, 1), c_run.configure(9.0, 1),
        c_run.configure(0.5, 3), c_run.configure(float("nan"), 0),
        c_run.learn(export, x, y, 2), c_run.forget(), c_run.seal(export),
    )  # fmt: skip
    assert [int(a["result"][0]) for a in answers[:6]] == [0, 0, *[RANGE] * 4]
    assert answers[-1]["arena"][0].tobytes() == model.to_bytes()


# ---- samples of a person ----


def test_remembered_samples_leave_only_where_asked() -> None:
    model = models.remembering()
    state = model.arena.learner()
    assert state is not None
    held = state["remembered"]
    assert held > 0
    bare, full = (to_c(model, learning=True, samples=s) for s in (False, True))
    assert (bare.samples, full.samples) == (0, held)
    assert bare.flash_bytes < full.flash_bytes
    for export, count in ((bare, 0), (full, held)):
        built = program(export, optimize="-O0")
        _, sealed = built.run(c_run.start(), c_run.seal(export))
        copy = Model(nets.buffer(sealed["arena"][0].tobytes()))
        left = copy.arena.learner()
        assert left is not None
        assert left["remembered"] == count
        offset, size = copy.arena.offsets[10]
        assert bool(copy.arena.buffer[offset : offset + size].any()) == (count > 0)


# ---- wrong input ----


def test_wrong_input_is_refused_and_changes_nothing() -> None:
    network = NETWORKS["b1"]
    built = learner_of("b1")
    export = built.export
    x, y = stream(network, 3)
    codes = np.zeros((1, network.inputs), np.uint8)
    broken = x.copy()
    broken[:, 5] = np.nan
    before = built.run(
        c_run.quantize(export, x[:1]), c_run.predict(export, codes), c_run.forget(),
        c_run.learn(export, x, y, 0), c_run.configure(0.1, 0), c_run.seal(export),
    )  # fmt: skip
    assert [int(a["result"][0]) for a in before[:5]] == [NOT_STARTED] * 5
    assert not before[5]["arena"].any()
    answers = built.run(
        c_run.start(), c_run.learn(export, x, np.full(3, 10), 0),
        c_run.learn(export, x, np.full(3, 65536), 0),
        c_run.learn(export, x, y, 16), c_run.learn(export, broken, y, 0), c_run.seal(export),
    )  # fmt: skip
    assert [set(a["result"].tolist()) for a in answers[1:5]] == [{LABEL}, {LABEL}, {RANGE}, {-2}]
    assert answers[5]["arena"][0].tobytes() == models.opened(network).to_bytes()


def test_what_was_saved_is_checked_whole() -> None:
    model = models.learned(NETWORKS["b1"])
    saved = model.to_bytes()
    rng = np.random.default_rng(0)
    flipped = []
    for at in rng.integers(0, len(saved) * 8, 200):
        copy = bytearray(saved)
        copy[at // 8] ^= 1 << at % 8
        flipped.append(bytes(copy))
    built = learner_of("b1")
    commands = [c_run.start(x) for x in (*flipped, bytes(len(saved)))]
    answers = built.run(*commands, c_run.start(saved))
    assert {int(a["result"][0]) for a in answers[:-1]} == {SAVED}
    assert answers[-1]["result"][0] == 0


def test_a_saved_state_of_other_shapes_is_refused() -> None:
    """Sound files of the same length, of networks whose sizes the program has not."""
    same = [
        nets.network((1, i, 1), (sparse(i, u, 8, 8),), c, batch=b, replay_samples=r, replay_bits=8)
        for i, u, c, b, r in SIZES
    ]
    assert {n.file_bytes for n in same} == {same[0].file_bytes}
    built = sanitized("sizes")
    answers = built.run(*(c_run.start(nets.file(n)) for n in same))
    assert [int(a["result"][0]) for a in answers] == [0, *[SAVED] * 5]


@pytest.mark.parametrize(
    "name", ["sizes", *(pytest.param(x, marks=pytest.mark.slow) for x in ("b1", "trunk"))]
)
def test_sanitizers_find_nothing_while_it_learns(name: str) -> None:
    network = NETWORKS[name]
    x, y = stream(network, 60)
    said, _ = teach(sanitized(name), x, y, network.batch - 1)
    assert said == taught(network, x, y, network.batch - 1)[0]
