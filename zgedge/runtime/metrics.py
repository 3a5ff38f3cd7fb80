"""What a service counts, in memory that exists from the start, and its metrics as text."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from typing import Any

import numpy as np

WINDOW = 1000  # labelled samples of the rolling accuracy
POINTS = 120  # of the history
FIELDS = ("samples", "correct", "rewired", "drift", "rss")


class Rolling:
    """Share of the last labelled samples that were predicted rightly before they were learned."""

    def __init__(self, window: int = WINDOW) -> None:
        self._ring = bytearray(window)
        self._at = 0
        self.count = 0
        self.right = 0

    def add(self, right: int) -> None:
        self.right += right - self._ring[self._at]
        self._ring[self._at] = right
        self._at = (self._at + 1) % len(self._ring)
        self.count = min(self.count + 1, len(self._ring))

    @property
    def accuracy(self) -> float | None:
        return self.right / self.count if self.count else None


class Times:
    """Durations in nanoseconds, in buckets that are a sixteenth of their value wide."""

    def __init__(self) -> None:
        self._buckets = array("Q", bytes(8 * 64 * 16))
        self.count = 0
        self.longest = 0

    def add(self, ns: int) -> None:
        bits = ns.bit_length()
        self._buckets[bits * 16 + (ns >> (bits - 5) & 15) if bits > 4 else ns] += 1
        self.count += 1
        if ns > self.longest:
            self.longest = ns

    def quantile(self, q: float) -> int:
        """The middle of the bucket that the share `q` of all durations ends in."""
        left = q * self.count
        for i, n in enumerate(self._buckets):
            left -= n
            if n and left <= 0:
                if i < 16:
                    return i
                bits, part = divmod(i, 16)
                width = 1 << (bits - 5)
                return min(self.longest, (16 + part) * width + width // 2)
        return self.longest


class History:
    """A service's whole life in 120 points: when they are full, two become one, of twice the time.

    Each point has the labelled samples of its time, those predicted rightly, connections rewired,
    drifts confirmed, and the most memory that was resident.
    """

    def __init__(self, points: int = POINTS) -> None:
        self._table = np.zeros((points, len(FIELDS)))
        self.count = 0  # points that are full
        self.period = 1  # seconds of a point
        self._seconds = 0  # in the one that is filled

    def second(self, samples: int, correct: int, rewired: int, drift: int, rss: int) -> None:
        """Add what one second brought."""
        row = self._table[self.count]
        row[:4] += (samples, correct, rewired, drift)
        row[4] = max(row[4], rss)
        self._seconds += 1
        if self._seconds < self.period:
            return
        self._seconds = 0
        self.count += 1
        if self.count < len(self._table):
            return
        pairs = self._table.reshape(len(self._table) // 2, 2, len(FIELDS))
        self.count = len(pairs)
        self._table[: self.count, :4] = pairs[:, :, :4].sum(axis=1)
        self._table[: self.count, 4] = pairs[:, :, 4].max(axis=1)
        self._table[self.count :] = 0
        self.period *= 2

    def as_dict(self) -> dict[str, Any]:
        rows = self._table[: self.count].astype(np.int64)
        found = {name: rows[:, i].tolist() for i, name in enumerate(FIELDS)}
        return {"period": self.period, **found}


class Resident:
    """Resident memory of this process, in bytes, as /proc/self/statm has it."""

    def __init__(self) -> None:
        self._page = os.sysconf("SC_PAGE_SIZE")
        self._fd = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> int:
        return int(os.pread(self._fd, 256, 0).split()[1]) * self._page

    def close(self) -> None:
        os.close(self._fd)


def prometheus(status: dict[str, Any]) -> str:
    """A service's status in Prometheus' text form, version 0.0.4."""
    return "".join(_lines(status))


def _lines(s: dict[str, Any]) -> Iterator[str]:
    def one(name: str, kind: str, about: str, *values: tuple[str, Any]) -> Iterator[str]:
        told = [(labels, value) for labels, value in values if value is not None]
        if told:
            yield f"# HELP zgedge_{name} {about}\n# TYPE zgedge_{name} {kind}\n"
        for labels, value in told:
            yield f"zgedge_{name}{labels} {value}\n"

    learner, store, ticks, memory = s["learner"], s["store"], s["ticks"], s["memory"]
    yield from one("up_seconds", "gauge", "Time since the service started.", ("", s["uptime"]))
    yield from one("predictions_total", "counter", "Samples predicted without a label.",
                   ("", s["predictions"]))  # fmt: skip
    yield from one("samples_total", "counter", "Labelled samples learned or scored.",
                   ("", s["samples"]))  # fmt: skip
    yield from one("correct_total", "counter", "Of those, predicted rightly beforehand.",
                   ("", s["correct"]))  # fmt: skip
    yield from one("accuracy", "gauge", f"Share of the last {WINDOW} labelled samples.",
                   ("", s["accuracy"]))  # fmt: skip
    yield from one("refused_total", "counter", "Rows and requests that could not be used.",
                   *((f'{{why="{why}"}}', n) for why, n in s["refused"].items()))  # fmt: skip
    yield from one("dropped_total", "counter", "Learning samples dropped in a flood.",
                   ("", s["queue"]["dropped"]))  # fmt: skip
    yield from one("queue", "gauge", "Learning samples that wait.", ("", s["queue"]["waiting"]))
    yield from one("learning", "gauge", "1 while it learns, 0 while frozen.",
                   ("", int(s["learning"] == "on")))  # fmt: skip
    if learner is not None:
        yield from one("steps_total", "counter", "Learning steps of this model.",
                       ("", learner["steps"]))  # fmt: skip
        yield from one("rewired_total", "counter", "Connections replaced.",
                       ("", learner["rewired"]))  # fmt: skip
        if "drift" in learner:
            yield from one("drift_total", "counter", "Drifts confirmed.",
                           ("", learner["drift"]["confirmed"]))  # fmt: skip
            yield from one("epoch", "gauge", "Epoch of the anchors.", ("", learner["epoch"]))
            yield from one("guard", "gauge", "1 while a guard judges what is learned.",
                           ("", int(learner["guard"] == "on")))  # fmt: skip
            yield from one("accepted_total", "counter", "States that the guard accepted.",
                           ("", learner["accepted"]))  # fmt: skip
            yield from one("rolled_back_total", "counter", "States that were taken back.",
                           ("", learner["rolled_back"]))  # fmt: skip
    yield from one("tick_seconds", "gauge", "Duration of a tick.",
                   *((f'{{quantile="{q}"}}', None if ticks[key] is None else ticks[key] / 1e6)
                     for q, key in (("0.5", "p50"), ("0.99", "p99"), ("0.999", "p999"),
                                    ("1", "longest"))))  # fmt: skip
    yield from one("resident_bytes", "gauge", "Memory of the process.", ("", memory["rss"]))
    yield from one("arena_bytes", "gauge", "The model, all of it.", ("", s["bytes"]))
    if store is not None:
        yield from one("commits_total", "counter", "States written to disk.",
                       ("", store["commits"]))  # fmt: skip
        yield from one("written_bytes_total", "counter", "Bytes written to the state's folder.",
                       ("", store["written"]))  # fmt: skip
        yield from one("commit_age_seconds", "gauge", "Time since the last commit.",
                       ("", store["since_commit"]))  # fmt: skip
        yield from one("store_failing", "gauge", "1 while the state cannot be written.",
                       ("", int(store["failure"] is not None)))  # fmt: skip
