"""A tiny model that learns on this machine and must leave the bytes that it leaves everywhere."""

from __future__ import annotations

import zlib

import numpy as np

from zgedge import arena
from zgedge.network import Network, dense, sparse
from zgedge.runtime import core_library as core
from zgedge.runtime.learner import Learner
from zgedge.runtime.model import Model

STEPS = 500
# CRC-32 of the arena afterwards, the same for every processor and kernel variant.
EXPECTED = 2382347328


def _mixed(n: int, salt: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint32]]:
    """`n` fixed numbers 0..255 that look random (a multiplicative hash)."""
    numbers = np.arange(n, dtype=np.uint32) + np.uint32(salt * 7919)
    mixed: np.ndarray[tuple[int, ...], np.dtype[np.uint32]] = (
        numbers * np.uint32(2654435761) >> np.uint32(16)
    ) & np.uint32(255)
    return mixed


def file() -> bytes:
    """The tiny model: 32 inputs, 24 sparse units of fan-in 8, 4 classes."""
    names = ("north", "east", "south", "west")
    network = Network(
        shape=(1, 32, 1), classes=4, layers=(sparse(32, 24, 8), dense(24, 4)),
        names_bytes=len(arena.names_blob(names)), task="picture", batch=8,
        replay_samples=32, replay_bits=4,
    )  # fmt: skip
    layers = []
    s_in = 1 / 255
    for i, layer in enumerate(network.layers):
        w = _mixed(layer.weights, i + 1).reshape(layer.outputs, layer.width).astype(np.int32) - 128
        indices = None
        if layer.per_row:
            rows = np.arange(layer.outputs)[:, None] * 5 + np.arange(layer.per_row) * 3
            indices = (rows % layer.inputs).astype(np.uint16)
        s_w, s_out = 1 / 256, 2 / 255
        last = i + 1 == len(network.layers)
        multiplier = np.full(layer.outputs, s_in * s_w / (1 if last else s_out), np.float32)
        layers.append(
            arena.LayerParameters(
                np.clip(w, -127, 127).astype(np.int8), indices,
                np.zeros(layer.outputs, np.int32), multiplier, s_in, s_w, 1.0 if last else s_out,
            )
        )  # fmt: skip
        s_in = s_out
    return arena.write(
        network,
        arena.Parameters(
            input_scale=np.ones(1, np.float32), input_center=np.zeros(1, np.float32),
            layers=layers, class_names=names,
            learner=arena.LearnerParameters(key=1, rate=0.1, gather=8),
        ),
    )  # fmt: skip


def run() -> int:
    """Learn with the kernel variant in use; returns the CRC-32 of the arena, to be `EXPECTED`."""
    blob = file()
    buffer = arena.aligned(len(blob))
    buffer[:] = np.frombuffer(blob, np.uint8)
    learner = Learner(Model(buffer, "self test"))
    x = _mixed(64 * 32, 9).reshape(64, 32).astype(np.uint8)
    y = (x[:, :16].astype(np.int64).sum(axis=1) // 512).clip(0, 3)
    labels = learner.model.classes.tolist()
    for step in range(STEPS):
        learner.learn_one(x[step % 64], labels[y[step % 64]])
    learner.seal()
    return zlib.crc32(buffer.data)


def run_all() -> dict[str, bool]:
    """Run with every kernel variant that this processor has: name, and whether the bytes agree."""
    before = core.variant()
    found = {}
    try:
        for name, usable in core.variants().items():
            if usable:
                core.select_variant(name)
                found[name] = run() == EXPECTED
    finally:
        core.select_variant(before)
    return found
