"""Where a training starts, if not at random: weights and wires that were found elsewhere."""

from __future__ import annotations

import hashlib
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ConvStart:
    """A trunk layer with weights: filters float32 [channels, incoming, k, k] and its batch norm.

    mean, var    float32 [channels], of what the convolution gives
    gamma, beta  float32 [channels], deviation and mean of what batch norm makes of it
    """

    values: Floats
    gamma: Floats
    beta: Floats
    mean: Floats
    var: Floats


@dataclass(frozen=True)
class LayerStart:
    """A layer behind the trunk.

    values   float32 [outputs, per_row, block], or [outputs, inputs] in a dense layer
    indices  int64 [outputs, per_row] block numbers, ascending, or None
    bias     float32 [outputs]
    """

    values: Floats
    indices: npt.NDArray[np.int64] | None
    bias: Floats


@dataclass(frozen=True)
class Start:
    """A network's beginning; None for a pool.

    rate    share of the usual learning rate
    rewire  share of the connections that are usually replaced
    """

    trunk: tuple[ConvStart | None, ...]
    layers: tuple[LayerStart, ...]
    rate: float
    rewire: float

    def digest(self) -> str:
        """Tells one start from another."""
        found = hashlib.sha256(f"{self.rate!r} {self.rewire!r}".encode())
        for part in (*self.trunk, *self.layers):
            for array in () if part is None else astuple(part):
                found.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
        return found.hexdigest()[:16]
