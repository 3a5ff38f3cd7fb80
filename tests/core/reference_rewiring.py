"""What the strategies of rewiring score growth by, in plain numpy, written from docs/arithmetic.md.

Like the rest of the reference it shares no code with the core.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zgedge import network as net
from zgedge.arena import Arena

Ints = npt.NDArray[np.int64]
NATS_16 = 255


def toward_zero(v: int, n: int) -> int:
    return v // n if v >= 0 else -(-v // n)


def centred(activity: Ints, before: int, count: int) -> tuple[Ints, int]:
    """The Hebbian signal of a unit's activities, and their sum with those before.

    count  samples gathered, these included
    """
    total = before + int(activity.sum())
    mean = (total + count // 2) // count
    return np.array([toward_zero(int(y) - mean, 2) for y in activity]), total


def packed(sums: Ints) -> Ints:
    """Sums as int8, divided by one power of two."""
    most, shift = int(np.abs(sums).max()), 0
    while most >> shift > 126:
        shift += 1
    return (sums + ((1 << shift) >> 1)) >> shift


@dataclass
class Traces:
    """Sketches of one layer's inputs and units, of the last `parts` visits."""

    parts: int
    query: Ints  # [most rows] what the part in the making has so far
    keys: list[Ints]
    queries: list[Ints]
    next: int = 0

    @classmethod
    def of(cls, a: Arena) -> Traces | None:
        """Those of a file as it is written first."""
        sparse = [x for x in a.network.layers if x.kind == net.SPARSE]
        if not a.network.traces or not sparse:
            return None
        assert not a.section(net.TRACES)[2:].any()
        rows = max(x.outputs for x in sparse)
        return cls(a.network.traces, np.zeros(rows, np.int64), [], [])

    def forget(self) -> None:
        self.query[:] = 0
        self.keys, self.queries, self.next = [], [], 0

    def close(self, grad: Ints, rows: int, row: int) -> Ints:
        """File the part away; what the unit's query makes of each input."""
        key, query = packed(grad), packed(self.query[:rows])
        self.query[:rows] = 0
        if len(self.keys) < self.parts:
            self.keys.append(key)
            self.queries.append(query)
        else:
            self.keys[self.next], self.queries[self.next] = key, query
        self.next = (self.next + 1) % self.parts
        found = np.zeros(len(grad), np.int64)
        for k, q in zip(self.keys, self.queries, strict=True):
            found += k * q[row]
        return found

    def section(self, a: Arena, layer: net.Layer) -> bytes:
        """The bytes of the section."""
        size = len(a.section(net.TRACES))
        head = np.array([self.parts, len(self.keys), self.next, 0], "<u2").tobytes()
        most = max(x.outputs for x in a.network.layers if x.kind == net.SPARSE)
        queries = np.zeros(self.parts * most, np.int8)
        for p, q in enumerate(self.queries):
            queries[p * layer.outputs : (p + 1) * layer.outputs] = q
        keys = b"".join(k.astype(np.int8).tobytes() for k in self.keys)
        return (head + self.query.astype("<i4").tobytes() + queries.tobytes() + keys).ljust(
            size, b"\0"
        )


def sampled(size: Ints, table: list[int], draw: int) -> int:
    """A block drawn from the softmax of their sizes; the number of blocks where all are 0."""
    top = int(size.max())
    if top == 0:
        return len(size)
    scale = np.float32(NATS_16) / np.float32(top)
    below = np.rint((top - size).astype(np.float32) * scale).astype(np.int64)
    weights = [table[b] if s else 0 for s, b in zip(size.tolist(), below.tolist(), strict=True)]
    left = draw * sum(weights) >> 32
    for i, weight in enumerate(weights):
        if left < weight:
            return i
        left -= weight
    raise AssertionError("the weights sum up to more than what was drawn")
