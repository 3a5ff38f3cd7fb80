"""No shape makes the core touch a byte that is not its own, or a number that C does not define.

Networks of many shapes predict and learn with every kernel variant, once in memory that ends at a
page which nobody may touch, once under the sanitizers. All variants must leave the same bytes.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests import nets
from tests.attacks.conftest import CORE
from zgedge import arena
from zgedge import network as net
from zgedge.network import Layer, Network, conv, dense, depthwise, max_pool, mean_pool, sparse

pytestmark = pytest.mark.xdist_group("attacks")


def _edges() -> Iterator[Network]:
    """Shapes around the lengths that vector code works in, chosen."""
    for block in net.BLOCKS:  # every batch with every block
        for batch in (1, 2, 4, 8, 16, 32, 64):
            layers = (sparse(4 * block, 17, 2 * block, block), dense(17, 5))
            yield nets.network((1, 4 * block, 1), layers, 3, batch=batch, replay_samples=7,
                               replay_bits=4 if batch % 3 == 1 else 8)  # fmt: skip
    for width in (1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 47, 48, 63, 64, 65, 96, 127, 129):
        # Rows by sixteens, with tails, inputs just as many as are looked at: gathers at the end.
        for outputs in (16, 33):
            yield nets.network((1, width, 1), (sparse(width, outputs, width),), 2, batch=16)
            yield nets.network((1, width, 1), (sparse(width, outputs, width),), 2).for_inference()
        yield nets.network((1, width, 1), (dense(width, 16), dense(16, width)), 3, batch=16)
    for inputs in (127, 128, 129, 1023, 1024, 1025, 1153):  # tables of 128 inputs, up to eight
        layers = (dense(inputs, inputs), sparse(inputs, 35, 40))
        yield nets.network((1, inputs, 1), layers, 3, batch=4).for_inference()
    for blocks in (1, 2, 3, 4, 5, 7, 8, 9):
        for block in (4, 8, 16):
            n = blocks * block
            yield nets.network((1, n, 1), (sparse(n, 18, n, block),), 2).for_inference()
    yield nets.network((1, 4097, 1), (sparse(4097, 16, 5),), 2, batch=2)  # no room in an index
    yield nets.network((1, 4096, 1), (sparse(4096, 16, 33),), 2, batch=2)
    yield nets.network((1, 24, 1), (), 300, batch=16, replay_samples=9, replay_bits=4)
    yield nets.network((1, 1, 1), (), 2, batch=1)


def _trunks() -> Iterator[Network]:
    """Pictures whose rows begin and end just where the memory of the trunk does."""
    for channels in nets.CHANNELS:
        for width in (1, 2, 5):
            trunk = (conv((3, width, channels), 17, 3), conv((3, width, 17), channels, 1, 2),
                     depthwise((2, (width + 1) // 2, channels), 5))  # fmt: skip
            yield nets.network((3, width, channels), (), 2, trunk=trunk, learning=False, batch=1)
        trunk = (depthwise((4, 3, channels), 3, 2), mean_pool((2, 2, channels)))
        yield nets.network((4, 3, channels), (), 2, trunk=trunk, batch=2)
        trunk = (max_pool((5, 5, channels), 3, 2), conv((2, 2, channels), 4, 1, same=False))
        yield nets.network((5, 5, channels), (), 2, trunk=trunk, batch=16, replay_samples=3,
                           replay_bits=4)  # fmt: skip
    for kernel in (1, 3, 5, 7):
        for stride in (1, 2, 3, 4):
            for channels in (1, 3, 16):
                shape = (9, 8, channels)
                trunk = (
                    conv(shape, 5, kernel, stride),
                    depthwise(conv(shape, 5, 1, stride).out_shape),
                )
                yield nets.network(shape, (), 2, trunk=trunk, batch=4)
                trunk = (conv(shape, 33, kernel, stride, same=False),)
                yield nets.network(shape, (), 2, trunk=trunk, learning=False, batch=1)
    yield nets.network((2, 2, 4096), (), 2, trunk=(conv((2, 2, 4096), 9, 1),), batch=1)


def _random_trunks(count: int) -> Iterator[Network]:
    rng = np.random.default_rng(1)
    for _ in range(count):
        shape = (int(rng.integers(1, 12)), int(rng.integers(1, 12)), int(rng.choice(nets.CHANNELS)))
        trunk = nets.random_trunk(rng, shape, int(rng.choice([1, 2, 3, 5, 9, 32])), 400)
        features, learning = trunk[-1].outputs, rng.random() < 0.7
        samples = int(rng.integers(0, 20)) if learning else 0
        hidden = (sparse(features, 9, int(rng.integers(1, min(features, 40) + 1))),)
        yield nets.network(
            shape, hidden if rng.random() < 0.7 else (), 3, trunk=trunk, learning=learning,
            batch=int(2 ** rng.integers(0, 7)) if learning else 1, replay_samples=samples,
            replay_bits=int(rng.choice([4, 8])) if samples else 0,
            align=int(rng.choice([8, 16, 32, 64])),
        )  # fmt: skip


def _random(count: int) -> Iterator[Network]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        block = int(rng.choice(net.BLOCKS))
        inputs = block * int(rng.integers(1, 90 // block + 2))
        layers: list[Layer] = []
        width = inputs
        for _ in range(int(rng.integers(0, 4))):
            b = block if width % block == 0 else 1
            outputs = b * int(rng.integers(1, 40 // b + 2))
            per_row = int(rng.integers(1, width // b + 1))
            layers.append(
                sparse(width, outputs, per_row * b, b) if rng.random() < 0.7
                else dense(width, outputs)
            )  # fmt: skip
            width = outputs
        learning = rng.random() < 0.7
        samples = int(rng.integers(0, 20)) if learning else 0
        yield nets.network(
            (1, inputs, 1), tuple(layers), int(rng.integers(2, 20)),
            learning=learning, batch=int(2 ** rng.integers(0, 7)) if learning else 1,
            groups=inputs if rng.random() < 0.3 else 1,
            replay_samples=samples, replay_bits=int(rng.choice([4, 8])) if samples else 0,
            align=int(rng.choice([8, 16, 32, 64])),
        )  # fmt: skip


def _extreme(network: Network, seed: int) -> bytes:
    """The network with every number at a bound of what the loader lets through."""
    rng = np.random.default_rng(seed)
    p = nets.parameters(network, seed)
    tiny, huge = np.float32(1e-45), np.float32(2.9e38)
    for layer, w in zip(network.layers, p.layers, strict=True):
        w.weights[:] = rng.choice([-127, 127], w.weights.shape) if seed % 2 else 127
        most = 2**31 - 1 - layer.width * 255 * 127
        w.bias[:] = rng.choice([-most, most], w.bias.shape)
        w.multiplier[:] = rng.choice([tiny, huge, np.float32(1e-9)], w.multiplier.shape)
    p.layers[0].z_in = 0 if network.trunk else (0, 255, 128)[seed % 3]
    p.trunk = nets.trunk_parameters(network.trunk, rng, 1 / 255, extreme=True)
    p.input_scale[:] = rng.choice([tiny, huge], p.input_scale.shape)
    p.input_center[:] = rng.choice([-huge, huge, 0], p.input_center.shape)
    data = bytearray(arena.write(network, p))
    starts = {kind: start for kind, start, _ in network.sections()}
    for i in range(len(network.layers)):
        at = starts[net.NET] + net.NET_BYTES + (len(network.trunk) + i) * net.LAYER_BYTES + 16
        np.frombuffer(data, "<f4", 3, at)[:] = (1e18, 1e18, rng.choice([1e-38, 1e38]))
    if network.learning:
        at = starts[net.LEARNER]
        steps = np.frombuffer(data, "<f4", 2 * len(network.layers), at + net.LEARNER_BYTES)
        steps[:] = rng.choice([tiny, huge, np.float32(1.0)], len(steps))
        np.frombuffer(data, "<f4", 1, at + 40)[:] = 8.0
    arena.sign(memoryview(data))
    return bytes(data)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("files")
    paths = []
    networks = [*_edges(), *_random(60), *_trunks(), *_random_trunks(40)]
    for i, network in enumerate(networks):
        # Every other network has a zero point that is not zero.
        p = nets.parameters(network, i)
        p.layers[0].z_in = 0 if i % 2 or network.trunk else 128
        for kind, data in (("plain", arena.write(network, p)), ("extreme", _extreme(network, i))):
            if kind == "extreme" and i % 3:
                continue
            path = folder / f"{i}-{kind}.zge"
            path.write_bytes(data)
            paths.append(str(path))
    wide = nets.network((1, 65_536, 1), (sparse(65_536, 3, 65_536, 16), dense(3, 4)), 2, batch=1)
    for seed in (0, 1):
        path = folder / f"wide-{seed}.zge"
        path.write_bytes(_extreme(replace(wide, batch=1 + seed), seed))
        paths.append(str(path))
    return paths


def _run(program: Path, files: list[str], steps: int) -> list[list[str]]:
    done = subprocess.run([program, "1", str(steps), *files], capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [line.split() for line in done.stdout.splitlines()]


def test_memory_that_ends_at_a_page_nobody_may_touch(shipped: Path, files: list[str]) -> None:
    lines = _run(shipped, files, 12)
    assert len(lines) == len(files)
    # Of arenas whose length is a multiple of 8, the very next byte is watched.
    assert sum(slack == "0" for _, slack, _ in lines) > len(files) / 4


def test_sanitizers_find_nothing(sanitized: Path, files: list[str]) -> None:
    assert len(_run(sanitized, files, 6)) == len(files)


def test_a_read_behind_the_arena_is_seen(
    cc: str, tmp_path: Path, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The core with a fault planted: the checksum of a section takes one byte more.
    from tests.attacks import conftest

    broken = tmp_path / "core"
    broken.mkdir()
    for source in CORE.glob("zge*.[ch]"):
        text = source.read_text()
        if source.name == "zge_arena.c":
            good = "if (zge_crc32(0, a + offset, bytes) !="
            assert good in text
            text = text.replace(good, "if (zge_crc32(0, a + offset, bytes + 1) == 1 || " + good[4:])
        (broken / source.name).write_text(text)
    monkeypatch.setattr(conftest, "CORE", broken)
    program = conftest.compile_with_core(cc, tmp_path, conftest.HERE / "geometry.c", ("-O1",))
    done = subprocess.run([program, "1", "1", *files], capture_output=True, check=False)
    assert done.returncode < 0  # a signal ended it
