"""Memory of the running process: measure it, limit it, prove that learning does not need more.

What is measured is what the kernel says of the process, from `/proc/self/smaps_rollup`: it walks
the page tables and is exact, where the counter behind `/proc/self/statm` is kept in batches on
newer kernels and drifts by pages. psutil's figures are recorded beside it.

Measuring must not itself need memory that grows: buffers and the table of samples exist, touched,
before the first step, and the garbage collector rests.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from zgedge import arena as files
from zgedge import network as net
from zgedge.errors import UsageError, ZgedgeError
from zgedge.runtime.learner import Learner
from zgedge.runtime.model import Model

PAGE = resource.getpagesize()
# Room between the data in use after warm-up and the ceiling. Large enough for what reading /proc
# takes and gives back, far below what a leak of a few bytes a step takes in 10,000 steps.
SLACK = max(64 * 1024, 4 * PAGE)
LEAST_STEPS = 100
WARMUP_SHARE = 100  # one step in a hundred
READINGS = 240
STREAM_BYTES = 1 << 20
STREAM_SAMPLES = 256

FIELDS = (
    "step", "rss", "uss", "psutil_rss", "psutil_uss", "peak", "minor_faults", "major_faults",
    "threads", "files", "data",
)  # fmt: skip
STEP, RSS, USS, PSUTIL_RSS, PSUTIL_USS, PEAK, MINOR, MAJOR, THREADS, FILES, DATA = range(11)

_PR_SET_THP_DISABLE = 41

Table = npt.NDArray[np.int64]


class Meter:
    """Reads the memory of this process into a table that exists before the first reading.

    `table` is int64 [readings, len(FIELDS)]: bytes, but for step, faults, threads and files.
    Raises ZgedgeError where the kernel has no `/proc/self/smaps_rollup` (older than 4.14).
    """

    def __init__(self, readings: int) -> None:
        try:
            self._rollup = os.open("/proc/self/smaps_rollup", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as e:
            raise ZgedgeError(
                "This kernel does not tell a process its exact memory (/proc/self/smaps_rollup).",
                "Linux 4.14 or newer does.",
            ) from e
        self._status = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
        self._text = bytearray(16 * 1024)
        self._into = [memoryview(self._text)]
        self._process = psutil.Process()
        self.table: Table = np.empty((readings, len(FIELDS)), np.int64)
        self.table.fill(0)
        self.count = 0

    def close(self) -> None:
        os.close(self._rollup)
        os.close(self._status)

    def read(self, step: int) -> Table:
        """Take a reading at `step`; returns its row of the table."""
        row: Table = self.table[self.count]
        # psutil first: what it holds for a moment is given back before the exact reading.
        full = self._process.memory_full_info()
        row[PSUTIL_RSS], row[PSUTIL_USS] = full.rss, full.uss
        row[THREADS] = self._process.num_threads()
        row[FILES] = self._process.num_fds()
        del full
        usage = resource.getrusage(resource.RUSAGE_SELF)
        row[MINOR], row[MAJOR] = usage.ru_minflt, usage.ru_majflt
        del usage
        self._fill(self._status)
        # Not ru_maxrss, which a process inherits from the one that started it.
        row[PEAK] = self._kilobytes(b"\nVmHWM:")
        row[DATA] = self._kilobytes(b"\nVmData:")
        self._fill(self._rollup)
        row[RSS] = self._kilobytes(b"\nRss:")
        row[USS] = self._kilobytes(b"\nPrivate_Clean:") + self._kilobytes(b"\nPrivate_Dirty:")
        # The kernel's own mark is kept in batches; the exact reading may be above it.
        row[PEAK] = max(row[PEAK], row[RSS])
        row[STEP] = step
        self.count += 1
        return row

    def again(self) -> None:
        """Forget all readings; the table stays."""
        self.count = 0

    def _fill(self, fd: int) -> None:
        read = os.preadv(fd, self._into, 0)
        self._text[read : read + 1] = b"\0"

    def _kilobytes(self, key: bytes) -> int:
        at = self._text.find(key) + len(key)
        return 1024 * int(self._text[at : self._text.find(b"k", at)])


def limit(slack: int = SLACK) -> int:
    """Set a ceiling: the kernel refuses this process any data memory beyond what it has now and
    `slack` bytes more (RLIMIT_DATA, the soft limit; `unlimit` lifts it). Returns it in bytes.
    """
    with open("/proc/self/status", encoding="ascii") as f:
        now = next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmData:"))
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    ceiling = now + slack
    if hard != resource.RLIM_INFINITY:
        ceiling = min(ceiling, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (ceiling, hard))
    return ceiling


def unlimit(soft: int = resource.RLIM_INFINITY) -> None:
    """Set the ceiling back to `soft` bytes, or as high as this process may."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard != resource.RLIM_INFINITY and (soft == resource.RLIM_INFINITY or soft > hard):
        soft = hard
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@dataclass(frozen=True)
class Proof:
    """What a proof found. Sizes are bytes.

    rss_growth, uss_growth  the maximum after warm-up less the value at its end
    peak        the most that was ever resident
    ceiling     data memory that the kernel allowed from the end of warm-up on
    rewired     connections replaced in all steps
    stopped_at  step at which the kernel refused memory, or None
    reasons     why it failed; empty where it passed
    table       int64 [readings, len(FIELDS)], from the end of warm-up on
    """

    passed: bool
    steps: int
    warmup_steps: int
    rss_growth: int
    uss_growth: int
    peak: int
    ceiling: int
    rewired: int
    arena_changed: bool
    stopped_at: int | None
    seconds: float
    reasons: tuple[str, ...]
    table: Table = field(repr=False, compare=False)

    @property
    def steps_per_second(self) -> float:
        done = self.stopped_at if self.stopped_at is not None else self.steps
        return (done - self.warmup_steps) / self.seconds if self.seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        """The proof as plain values, ready for JSON."""
        first, last = self.table[0], self.table[-1]
        return {
            "passed": self.passed,
            "steps": self.steps,
            "warmup_steps": self.warmup_steps,
            "rss_growth": self.rss_growth,
            "uss_growth": self.uss_growth,
            "peak": self.peak,
            "ceiling": self.ceiling,
            "rewired": self.rewired,
            "arena_changed": self.arena_changed,
            "stopped_at": self.stopped_at,
            "seconds": round(self.seconds, 3),
            "steps_per_second": round(self.steps_per_second),
            "rss": int(first[RSS]),
            "uss": int(first[USS]),
            "minor_faults": int(last[MINOR] - first[MINOR]),
            "major_faults": int(last[MAJOR] - first[MAJOR]),
            "threads": [int(first[THREADS]), int(self.table[:, THREADS].max())],
            "open_files": [int(first[FILES]), int(self.table[:, FILES].max())],
            "readings": len(self.table),
            "reasons": list(self.reasons),
        }


def remembered(model: Model, most: int) -> tuple[npt.NDArray[np.float32], list[Any]]:
    """Up to `most` samples that the replay holds, as raw values float32 [n, inputs], and their
    labels [n]: what a learner sees when it replays them, up to rounding. None behind a trunk,
    where features are held and pictures cannot be had back.
    """
    network = model.arena.network
    learner = None if network.trunk else model.arena.learner()
    n = min(most, learner["remembered"]) if learner else 0
    if not n:
        return np.empty((0, network.inputs), np.float32), []
    section = model.arena.section(net.REPLAY)
    wide = network.classes > 256
    start = (2 * network.classes + 3) // 4 * 4
    end = start + network.replay_samples * (2 if wide else 1)
    numbers = section[start:end].view("<u2") if wide else section[start:end]
    codes = section[end:].reshape(-1, network.replay_stride)[:n]
    codes = files.unpack_codes(codes, network.replay_bits, network.replay_values)
    if network.replay_pool:
        codes = files.spread_codes(codes, network.shape)
    classes = model.classes.tolist()
    return _raw(model, codes), [classes[i] for i in numbers[:n]]


def made_up(model: Model, n: int) -> tuple[npt.NDArray[np.float32], list[Any]]:
    """`n` samples [n, inputs] of clustered classes and their labels, in the model's raw units.

    Always the same for the same shape.
    """
    network = model.arena.network
    rng = np.random.Generator(np.random.PCG64(0))
    known = len(model.classes)
    numbers = np.arange(n) % known
    centers = rng.integers(0, 256, (min(n, known), network.inputs))
    noise = rng.integers(-32, 33, (n, network.inputs))
    codes = np.clip(centers[numbers] + noise, 0, 255).astype(np.uint8)
    classes = model.classes.tolist()
    return _raw(model, codes), [classes[i] for i in numbers]


def stream_for(model: Model) -> tuple[npt.NDArray[np.float32], list[Any], str]:
    """Samples to learn from where a person gave none, their labels, and what they are."""
    most = min(STREAM_SAMPLES, max(16, STREAM_BYTES // (4 * model.inputs)))
    x, labels = remembered(model, most)
    if len(x):
        return x, labels, "remembered"
    return (*made_up(model, most), "made up")


def _raw(model: Model, codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    scale, center = model.arena.input_coding()
    z_in = model.arena.scales[0][3]
    raw: npt.NDArray[np.float32] = (codes.astype(np.float32) - np.float32(z_in)) / scale + center
    return raw


@contextlib.contextmanager
def _steady() -> Iterator[None]:
    """No garbage collection and no huge pages: the kernel may join small pages into a huge one
    at any time, which would show as growth that nobody asked for."""
    libc = ctypes.CDLL(None)
    was = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    libc.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_THP_DISABLE, 0, 0, 0, 0)
        gc.unfreeze()
        if was:
            gc.enable()


def check_steps(steps: int, leak: int = 0) -> None:
    """Raises UsageError for a number of steps or a leak that means nothing."""
    if steps < LEAST_STEPS:
        raise UsageError(
            f"A proof of {steps} steps says nothing.",
            f"Warm-up is one step in a hundred: take {LEAST_STEPS} or more.",
        )
    if leak < 0:
        raise UsageError(f"A leak of {leak} bytes means nothing.")


def prove(
    learner: Learner,
    x: npt.NDArray[Any],
    y: list[Any],
    steps: int,
    *,
    leak: int = 0,
    slack: int = SLACK,
    started: Callable[[], None] | None = None,
    reading: Callable[[Table], None] | None = None,
) -> Proof:
    """Learn `steps` samples, one a tick, under a ceiling, and say whether memory grew.

    x, y     samples [n, inputs] and labels [n] to learn from, over and over
    leak     bytes that are planted as a leak at every step, to see that the proof notices
    started  called once, when nothing but learning is left to do
    reading  called with each row of the table as it is taken, warm-up included

    The learner's arena is changed, as learning changes it; a guard has no caution from here on,
    since of what hardly moves a proof shows nothing. Raises UsageError for fewer than 100
    steps, DataError for samples that the model cannot take.
    """
    check_steps(steps, leak)
    rows = list(learner.model.rows(x))
    learner.label_numbers(np.asarray(y))
    if learner.model.arena.calm:
        learner.configure(calm=0)
    warmup = max(1, steps // WARMUP_SHARE)
    marks = _marks(warmup, steps)
    meter = Meter(len(marks) + 1)  # one more for where the kernel stops it
    soft = resource.getrlimit(resource.RLIMIT_DATA)[0]
    wires = _wires(learner.model)
    was = learner.status()
    kept: list[bytes] = []
    stopped: int | None = None
    ceiling = done = 0
    try:
        with _steady():
            _touch(learner)
            # A rehearsal: the ceiling, and the warm-up steps with as many readings between them as
            # there will be. What is kept after the warm-up has its place from here on: an object
            # more at that moment may be the first of a new page.
            ceiling = limit(slack)
            unlimit(soft)
            for i in range(1, len(marks) + 1):
                until = warmup * i // len(marks)
                _learn(learner, rows, y, done, until, leak, kept)
                done = until
                row = meter.read(done)
                if reading is not None:
                    reading(row)
            meter.again()
            if started is not None:
                started()
            # Both before the reading that all others are compared with.
            ceiling = limit(slack)
            since = time.perf_counter()
            for mark in marks:
                try:
                    _learn(learner, rows, y, done, mark, leak, kept)
                    done = mark
                    row = meter.read(mark)
                    if reading is not None:
                        reading(row)
                except MemoryError:
                    unlimit(soft)
                    stopped = learner.status()["steps"] - was["steps"]
                    row = meter.read(stopped)
                    if reading is not None:
                        reading(row)
                    break
            seconds = time.perf_counter() - since
    finally:
        unlimit(soft)
        meter.close()
    table = meter.table[: meter.count]
    rewired = learner.status()["rewired"] - was["rewired"]
    changed = _wires(learner.model) != wires
    growth = [int(table[:, i].max() - table[0, i]) for i in (RSS, USS, THREADS, FILES)]
    reasons = []
    if stopped is not None:
        reasons.append(f"the kernel refused memory beyond the ceiling at step {stopped:,}")
    for what, more in zip(("RSS", "USS"), growth, strict=False):
        if more > 0:
            reasons.append(f"{what} grew by {more:,} bytes")
    for what, more in zip(("threads", "open files"), growth[2:], strict=True):
        if more > 0:
            reasons.append(f"{more} more {what} than after warm-up")
    if not changed:
        reasons.append("the weights and the wiring did not change: nothing was learned")
    if not rewired:
        has_wires = any(x.kind == net.SPARSE for x in learner.model.arena.network.layers)
        reasons.append(
            "no connection was rewired"
            + ("" if has_wires else ": this network is dense, and has no wires to move")
        )
    return Proof(
        passed=not reasons,
        steps=steps,
        warmup_steps=warmup,
        rss_growth=growth[0],
        uss_growth=growth[1],
        peak=int(table[:, [RSS, PEAK]].max()),  # the kernel's own mark may lag by pages
        ceiling=ceiling,
        rewired=rewired,
        arena_changed=changed,
        stopped_at=stopped,
        seconds=seconds,
        reasons=tuple(reasons),
        table=table,
    )


def _marks(warmup: int, steps: int) -> list[int]:
    """Steps after which memory is read: the end of warm-up, and evenly from there to the last."""
    return sorted({warmup + (steps - warmup) * i // READINGS for i in range(READINGS + 1)})


def _touch(learner: Learner) -> None:
    """Write every page that learning will write, so that none is new to the process later."""
    for memory in (learner.model.arena.buffer, learner._x_u8, learner._x_f32):
        pages = memory.reshape(-1)[:: PAGE // memory.itemsize]
        pages += memory.dtype.type(0)


def _wires(model: Model) -> tuple[int, int]:
    """Checksums of the weights and of the wiring."""
    arena = model.arena
    return zlib.crc32(arena.section(net.WEIGHTS).data), zlib.crc32(arena.section(net.INDICES).data)


def _learn(
    learner: Learner,
    rows: list[npt.NDArray[Any]],
    y: list[Any],
    done: int,
    until: int,
    leak: int,
    kept: list[bytes],
) -> None:
    """Learn steps `done` to `until`: sample k is row k modulo the number of rows."""
    learn = learner.learn_one
    n = len(rows)
    at = done % n
    for _ in range(until - done):
        learn(rows[at], y[at])
        at += 1
        if at == n:
            at = 0
        if leak:
            kept.append(bytes(leak))
