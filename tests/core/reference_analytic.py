"""The analytic head and the table of waiting samples once more, from docs/arithmetic.md and
docs/format.md: Python's integers, one equation at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from zgedge.arena import Arena

SAMPLES = 1 << 23
VALUE = 1 << 23
SCALE = 16
ONE = 1 << 20
BIAS = 1 << 30
LN2 = 726817

Ints = npt.NDArray[np.int64]


def over(a: int, b: int) -> int:
    """a / b, cut off towards zero."""
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def modulo(v: int) -> int:
    """A signed number of 64 bits."""
    return (v + 2**63) % 2**64 - 2**63


def within(v: int, most: int) -> int:
    return min(most, max(-most, v))


def log2(v: int) -> int:
    """In steps of 2^-20, cut off: of a 32-bit mantissa that is squared 20 times."""
    whole = v.bit_length() - 1
    x, log = v << (31 - whole), whole
    for _ in range(20):
        x = x * x >> 31
        log *= 2
        if x >> 32:
            log += 1
            x >>= 1
    return log


class AnalyticHead:
    def __init__(self, a: Arena) -> None:
        state = a.analytic()
        assert state is not None
        self.scale, self.cursor = state["scale"], state["cursor"]
        self.rounds, self.pace = state["rounds"], state["pace"]
        self.counts = [int(c) for c in state["counts"]]
        self.sums = state["sums"].astype(np.int64)
        self.values = state["values"].astype(np.int64)
        self.scores = [int(s) for s in state["scores"]]
        self.classes, self.width = self.sums.shape
        self.lower = np.tril_indices(self.width)
        self.moments = np.zeros((self.width, self.width), np.int64)
        self.moments[self.lower] = state["triangle"]
        self.moments += np.tril(self.moments, -1).T
        self.halvings = 0  # of everything
        self.weights: Ints | None = None  # what was published last
        self.bias: list[int] = []
        self.step = np.float32(0)
        self.s_in = np.float32(a.scales[-1][0])

    def add(self, u: Ints, label: int) -> None:
        n = sum(self.counts)
        products = np.outer(u, u)
        if self.scale:
            offset = (n * 0x9E3779B9 & 0xFFFFFFFF) >> (32 - self.scale)
            products = (products + offset) >> self.scale
        self.moments += products
        self.sums[label] += u
        self.counts[label] += 1
        self.score()
        if ((self.moments >= 1 << 30) | (self.moments < -(1 << 30))).any():
            if self.scale < SCALE:
                self.moments = (self.moments + 1) >> 1
                self.scale += 1
            else:
                self.halve()
        if n + 1 >= SAMPLES:
            self.halve()

    def halve(self) -> None:
        self.halvings += 1
        for c, have in enumerate(self.counts):
            left = (have + 1) // 2
            for j in range(self.width if have else 0):
                self.sums[c, j] = over(int(self.sums[c, j]) * left, have)
            self.counts[c] = left
        self.score()
        self.moments = (self.moments + 1) >> 1

    def score(self) -> None:
        """Sums of each class times the values of the one that is under way; 0 between classes."""
        c, j = divmod(self.cursor, self.width)
        self.scores = [int(s) for s in self.sums @ self.values[c]] if j else [0] * self.classes

    def solve(self, steps: int) -> None:
        n = sum(self.counts)
        for _ in range(steps if n else 0):
            c, j = divmod(self.cursor, self.width)
            if j == 0:
                self.scores = [int(s) for s in self.sums @ self.values[c]]
            if self.counts[c]:
                self.one(c, j, n)
            self.cursor += 1
            if j + 1 == self.width:
                self.scores = [0] * self.classes
            if self.cursor == self.classes * self.width:
                self.cursor = 0
                self.publish(n)
                self.rounds += 1

    def one(self, c: int, j: int, n: int) -> None:
        sums = [int(s) for s in self.sums[:, j]]
        seen = [k for k in range(self.classes) if self.counts[k]]
        total = sum(sums[k] for k in seen)
        spread = sum(sums[k] ** 2 // self.counts[k] for k in seen)
        between = sum(
            sums[k] * within(over(self.scores[k], self.counts[k]), 2**31 - 1) for k in seen
        )
        v = int(self.values[c, j])
        own = int(self.moments[j, j]) << self.scale
        width = max(0, own - spread) * 256 // n
        all_ = max(0, own - total * total // n) * 256 // n
        ridge = width // 64 + all_ * self.width // (4 * n) + 256
        moment = int(self.moments[j] @ self.values[c])
        whole = over(moment, n)
        rest = over(sums[c] * ONE, self.counts[c]) - over(total * ONE, n) + over(between, n)
        rest -= whole * (1 << self.scale) + over((moment - whole * n) * (1 << self.scale), n)
        rest -= over(modulo(ridge * v), 256)
        move = within(over(modulo(rest * 256), width + ridge), 2 * VALUE)
        moved = within(v + move, VALUE)
        self.values[c, j] = moved
        for k in range(self.classes):
            self.scores[k] += sums[k] * (moved - v)

    def publish(self, n: int) -> None:
        most = max(1, int(np.abs(self.values).max()))
        self.step = np.float32(np.float32(most) / np.float32(133169152)) / self.s_in
        self.weights = np.zeros(self.values.shape, np.int64)
        self.bias = []
        self.scores = [0] * self.classes
        everything = self.sums.sum(0)
        for c in range(self.classes):
            if not self.counts[c]:
                self.bias.append(-(2**31 - 1 - self.width * 255 * 127))
                continue
            size = (np.abs(self.values[c]) * 254 + most) // (2 * most)
            self.weights[c] = np.where(self.values[c] < 0, -size, size)
            middle = over(int(self.weights[c] @ self.sums[c]), self.counts[c])
            middle += over(int(self.weights[c] @ everything), n)
            share = over((log2(self.counts[c]) - log2(n)) * LN2, ONE)
            self.bias.append(within(over(share * 127, most) - over(middle, 2), BIAS))

    def check(self, a: Arena) -> None:
        state = a.analytic()
        assert state is not None
        mine: dict[str, Any] = {
            "scale": self.scale, "cursor": self.cursor, "rounds": self.rounds,
            "pace": self.pace, "scores": self.scores, "counts": self.counts, "sums": self.sums,
            "values": self.values, "triangle": self.moments[self.lower],
        }  # fmt: skip
        for name, value in mine.items():
            assert np.array_equal(state[name], value), name
        if self.weights is not None:
            assert np.array_equal(a.weights(-1 % len(a.network.layers)), self.weights)
            bias, multiplier = a.rows(len(a.network.layers) - 1)
            assert bias.tolist() == self.bias
            assert np.float32(a.scales[-1][1]) == self.step
            assert (multiplier == self.s_in * self.step).all()
