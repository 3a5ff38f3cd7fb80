"""What holds of every sparse layer at any time, asserted in one place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from zgedge.arena import Arena
from zgedge.network import Layer, Network

Ints = npt.NDArray[Any]


def assert_wiring(indices: Ints, rows: int, per_row: int, blocks: int) -> None:
    """Every row has its number of connections, all to inputs that there are, none twice."""
    assert indices.shape == (rows, per_row), "the fan-in changed"
    assert int(indices.min()) >= 0
    assert int(indices.max()) < blocks, "an input that is none"
    assert all(len(set(row)) == per_row for row in indices.tolist()), "an input twice"


def assert_layer(layer: Layer, weights: Ints, indices: Ints | None) -> None:
    """A layer of a file: its wiring, and weights that int8 holds symmetrically."""
    assert weights.shape == (layer.outputs, layer.width)
    assert int(np.abs(weights.astype(int)).max()) <= 127
    assert (indices is None) == (layer.per_row == 0)
    if indices is not None:
        assert_wiring(indices, layer.outputs, layer.per_row, layer.inputs // layer.block)


def assert_arena(arena: Arena, network: Network) -> None:
    """An arena is still that of `network`, in as many bytes, and every layer is sound."""
    assert arena.network == network
    assert len(arena.buffer) == network.file_bytes
    for i, layer in enumerate(network.layers):
        assert_layer(layer, arena.weights(i), arena.indices(i))


def assert_fresh(before: Sequence[Ints], after: Sequence[Ints], block: int) -> int:
    """Connections that changed have weight 0; how many changed.

    before, after  (weights [rows, width], indices [rows, per_row]) of one layer
    """
    changed = before[1] != after[1]
    weights = after[0].reshape(*changed.shape, block)
    assert not weights[changed].any(), "a new connection does not start at 0"
    return int(changed.sum())
