"""Where the wires of a sparse layer start."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from zgedge.network import Layer


def random_start(layer: Layer, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Block numbers [outputs, per_row], ascending, drawn evenly and without repetition."""
    blocks = layer.inputs // layer.block
    rows = [np.sort(rng.choice(blocks, layer.per_row, replace=False)) for _ in range(layer.outputs)]
    return np.stack(rows).astype(np.int64)


def local_start(
    layer: Layer, shape: tuple[int, int, int], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Block numbers [outputs, per_row], ascending: each row looks at one round patch.

    `shape` is the input's (height, width, channels). A row's blocks are those nearest to a point
    drawn evenly over the picture, a tenth of it left out at each edge, where pictures say little.
    """
    height, width, channels = shape
    inputs = np.arange(layer.inputs)
    of_block = (layer.inputs // layer.block, layer.block)
    y = (inputs // (width * channels)).reshape(of_block).mean(axis=1)
    x = (inputs % (width * channels) // channels).reshape(of_block).mean(axis=1)
    out = np.empty((layer.outputs, layer.per_row), np.int64)
    for row in range(layer.outputs):
        at_y = (height - 1) * rng.uniform(0.1, 0.9)
        at_x = (width - 1) * rng.uniform(0.1, 0.9)
        # The jitter settles equal distances by chance instead of always towards one corner.
        far = (y - at_y) ** 2 + (x - at_x) ** 2 + rng.uniform(0.0, 1e-3, len(y))
        out[row] = np.sort(np.argpartition(far, layer.per_row - 1)[: layer.per_row])
    return out
