"""Networks with a trunk on a device: the layers behind it learn and rewire, the trunk stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests import nets
from tests.core import reference
from zgedge import arena
from zgedge.network import REPLAY, conv, max_pool, sparse
from zgedge.runtime import Learner, Model, memory, prover

SHAPE = (12, 12, 1)
FIRST = conv(SHAPE, 8, 3)
POOL = max_pool(FIRST.out_shape)
LAST = conv(POOL.out_shape, 8, 3, add=2)
NET = nets.network(
    SHAPE, (sparse(LAST.outputs, 48, 24, 4),), 4, task="picture", trunk=(FIRST, POOL, LAST),
    replay_samples=64, replay_bits=4,
)  # fmt: skip


def stripes(n: int, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Noisy stripes at random places in four directions, [n, inputs], and their directions [n]."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, n)
    row, column = np.mgrid[:12, :12]
    along = np.stack([row, column, row + column, row - column])[y]
    waves = np.sin(along * 2.1 + rng.uniform(0, 6.3, (n, 1, 1)))
    x = np.clip(0.5 + 0.35 * waves + rng.normal(0, 0.15, along.shape), 0, 1)
    return x.reshape(n, -1).astype(np.float32), y


def learner() -> Learner:
    return Learner(Model(nets.buffer(nets.file(NET))))


def trunk_bytes(model: Model) -> bytes:
    found = [model.arena.trunk_weights(i) for i in range(len(NET.trunk))]
    rows = [a for i in range(len(NET.trunk)) for a in model.arena.trunk_rows(i)]
    return b"".join(a.tobytes() for a in (*found, *rows) if a is not None)


def test_layers_behind_a_trunk_learn_and_rewire_and_the_trunk_stays() -> None:
    device = learner()
    trunk, wires = trunk_bytes(device.model), device.model.arena.indices(0)
    x, y = stripes(2400, 1)
    x_test, y_test = stripes(1000, 2)
    for i in range(0, 2400, 16):
        device.anneal(i / 2400)
        device.learn_many(x[i : i + 16], y[i : i + 16])
    right = (device.model.predict_index(x_test)[0] == y_test).mean()
    assert right > 0.9
    assert device.status()["rewired"] > 300
    assert trunk_bytes(device.model) == trunk
    after = device.model.arena.indices(0)
    assert wires is not None
    assert after is not None
    assert (np.sort(wires) != np.sort(after)).any()


def test_learning_goes_on_from_the_file_as_it_would_have_without_it(tmp_path: Path) -> None:
    x, y = stripes(320, 3)
    whole, half = learner(), learner()
    for i in range(0, 160, 8):
        whole.learn_many(x[i : i + 8], y[i : i + 8])
        half.learn_many(x[i : i + 8], y[i : i + 8])
    half.save(tmp_path / "half.zge")
    again = Learner(tmp_path / "half.zge")
    for i in range(160, 320, 8):
        whole.learn_many(x[i : i + 8], y[i : i + 8])
        again.learn_many(x[i : i + 8], y[i : i + 8])
    # The generation counts the sealing between.
    whole.model.seal()
    assert whole.model.to_bytes() == again.model.to_bytes()


def test_one_by_one_and_together_predict_alike() -> None:
    model = learner().model
    x, _ = stripes(50, 4)
    together = model.logits(x)
    assert (together == np.stack([model.logits(row[None])[0] for row in x])).all()
    assert len({tuple(row) for row in together}) == 50


def test_memory_does_not_grow_behind_a_trunk(tmp_path: Path) -> None:
    device = learner()
    x, y = stripes(64, 5)
    device.remember(x, y)
    device.save(tmp_path / "m.zge")
    found = prover.prove(str(tmp_path / "m.zge"), 60_000)
    assert found["passed"], found["reasons"]
    assert (found["rss_growth"], found["uss_growth"]) == (0, 0)
    assert found["rewired"] > 300


def test_pictures_cannot_be_had_back_from_a_replay_of_features() -> None:
    device = learner()
    x, y = stripes(64, 6)
    device.remember(x, y)
    assert device.status()["remembered"] == 64
    assert memory.remembered(device.model, 64)[0].shape == (0, 144)
    assert memory.stream_for(device.model)[2] == "made up"


@pytest.mark.parametrize("bits", [4, 8])
def test_replay_holds_the_features_of_what_was_remembered(bits: int) -> None:
    net = nets.network(
        SHAPE, (sparse(LAST.outputs, 48, 24, 4),), 4, task="picture", trunk=NET.trunk,
        replay_samples=3, replay_bits=bits,
    )  # fmt: skip
    device = Learner(Model(nets.buffer(nets.file(net))))
    x, y = stripes(3, 7)
    device.remember(x, y)
    section = device.model.arena.section(REPLAY)
    held = section[-3 * net.replay_stride :].reshape(3, -1)
    p = nets.parameters(net)
    codes = reference.features(net, p.trunk, nets.reference_codes(p, x)).astype(np.uint8)
    assert (held == arena.pack_codes(codes, bits)).all()
