"""Random networks of ours for the tables: real files, no training needed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from zgedge import arena
from zgedge.network import DENSE, Network, dense, sparse


def random_zge(
    widths: tuple[int, int, int] = (784, 256, 10),
    fan_in: int = 32,
    block: int = 1,
    *,
    learning: bool = True,
    pixels: bool = True,
    batch: int = 16,
    replay_samples: int = 64,
    seed: int = 0,
) -> bytes:
    """A .zge file of a sparse layer of constant fan-in and a dense head, with random weights.

    Raw inputs are uint8 0..255 where `pixels`, else floats 0..1. Classes are the integers from 0.
    Hidden scales and biases are such that most units are active and few clamp. The learner visits
    one row at every step, whatever the batch (`gather` is 1). A visit replaces two connections, or
    none where the row's unit had no error in that step: on average more than one a step.
    """
    inputs, hidden, classes = widths
    rng = np.random.default_rng(seed)
    layers = (sparse(inputs, hidden, fan_in, block), dense(hidden, classes))
    names = [str(i) for i in range(classes)]
    network = Network(
        shape=(1, inputs, 1),
        classes=classes,
        layers=layers,
        names_bytes=len(arena.names_blob(names)),
        task="picture" if pixels else "table",
        learning=learning,
        batch=batch if learning else 1,
        replay_samples=replay_samples if learning else 0,
        replay_bits=4 if learning and replay_samples else 0,
        align=64,
    )
    indices = np.sort(
        rng.permuted(np.tile(np.arange(inputs // block), (hidden, 1)), axis=1)[
            :, : fan_in // block
        ],
        axis=1,
    ).astype(np.uint16)
    s_in = 1.0 / 255.0
    # A bias of one standard deviation of the sum keeps five units in six active.
    bias = round(58.0 * 147.0 * fan_in**0.5)
    first = _layer(
        rng, (hidden, fan_in), indices, s_in, 1.0 / (80.0 * fan_in**0.5), 3.0 / 255.0, bias
    )
    head = _layer(rng, (classes, hidden), None, first.s_out, 1.0 / (80.0 * hidden**0.5), 1.0)
    parameters = arena.Parameters(
        input_scale=np.full(1, 1.0 if pixels else 255.0, np.float32),
        input_center=np.zeros(1, np.float32),
        layers=[first, head],
        class_names=names,
        int_classes=True,
        learner=arena.LearnerParameters(key=seed, rate=0.01, strategy="rigl", swaps=2, gather=1),
    )
    return arena.write(network, parameters)


def random_parameters(network: Network, seed: int = 0) -> arena.Parameters:
    """Random numbers for any network, such that most units are active and few clamp.

    Raw inputs of pictures are uint8 0..255, of other tasks floats around 0. Classes are the
    integers from 0, whose names must have `network.names_bytes`.
    """
    rng = np.random.default_rng(seed)
    s_in = 1.0 / 255.0
    trunk = []
    for conv in network.trunk:
        if not conv.has_weights:
            trunk.append(arena.TrunkParameters(s_in, s_in))
            continue
        spread = 58.0 * 147.0 * conv.taps**0.5  # standard deviation of the sums
        trunk.append(
            arena.TrunkParameters(
                s_in,
                s_in,
                weights=rng.integers(-100, 101, arena.weight_shape(conv)).astype(np.int8),
                bias=np.full(conv.channels, round(spread), np.int32),
                multiplier=np.full(conv.channels, 60.0 / spread, np.float32),
            )
        )
    layers = []
    for i, layer in enumerate(network.layers):
        indices = None
        if layer.kind != DENSE:
            blocks = layer.inputs // layer.block
            rows = [np.sort(rng.permutation(blocks)[: layer.per_row]) for _ in range(layer.outputs)]
            indices = np.array(rows, np.uint16)
        last = i + 1 == len(network.layers)
        bias = round(58.0 * 147.0 * layer.width**0.5)
        s_w = 1.0 / (80.0 * layer.width**0.5)
        made = _layer(
            rng, (layer.outputs, layer.width), indices, s_in, s_w, 1.0 if last else s_in, bias
        )
        if not (i or network.trunk) and network.groups > 1:
            made.z_in = 128
        layers.append(made)
    return arena.Parameters(
        input_scale=np.full(network.groups, 1.0 if network.groups == 1 else 32.0, np.float32),
        input_center=np.zeros(network.groups, np.float32),
        layers=layers,
        class_names=[str(i) for i in range(network.classes)],
        int_classes=True,
        learner=arena.LearnerParameters(key=seed),
        trunk=trunk,
    )


def _layer(
    rng: np.random.Generator,
    shape: tuple[int, int],
    indices: npt.NDArray[np.uint16] | None,
    s_in: float,
    s_w: float,
    s_out: float,
    bias: int = 0,
) -> arena.LayerParameters:
    """A layer with weights over the range that training leaves, +-100 of 127."""
    return arena.LayerParameters(
        weights=rng.integers(-100, 101, shape).astype(np.int8),
        indices=indices,
        bias=np.full(shape[0], bias, np.int32),
        multiplier=np.full(shape[0], s_in * s_w / s_out, np.float32),
        s_in=s_in,
        s_w=s_w,
        s_out=s_out,
    )
