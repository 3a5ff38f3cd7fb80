"""Timing that compares fairly: one core, one run, everything in turn, medians and extremes."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy.typing as npt

# Variables that tie numerical libraries to an older processor's kernels, and one that has Python
# compile its sources at every start; a benchmark runs without.
_TIED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "PYTHONDONTWRITEBYTECODE")
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Runner:
    """Something to be timed, set up and ready.

    `run(calls)` makes that many calls and returns how many nanoseconds they took. `check()`
    returns what calls compute, for tests; its form depends on the runner. `keep` holds what must
    live as long as the runner.
    """

    name: str
    run: Callable[[int], int]
    check: Callable[[], npt.NDArray[Any]]
    keep: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Spread:
    """Microseconds per call: median, least and most over the rounds, and each round's."""

    name: str
    median: float
    least: float
    most: float
    rounds: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        """For `--json`: everything but the single rounds."""
        return {
            "name": self.name,
            "median_us": round(self.median, 4),
            "min_us": round(self.least, 4),
            "max_us": round(self.most, 4),
        }


def loop(step: Callable[[], object]) -> Callable[[int], int]:
    """A `Runner.run` that calls a Python function again and again."""

    def run(calls: int) -> int:
        start = time.perf_counter_ns()
        for _ in range(calls):
            step()
        return time.perf_counter_ns() - start

    return run


def measure(runners: Sequence[Runner], rounds: int, slice_ms: float) -> list[Spread]:
    """Time the runners in turn: `rounds` rounds, in each every runner for about `slice_ms`.

    Interleaving lets a slow moment of the machine hit all alike. Every second round goes through
    the runners backwards, so that none always follows the same one.
    """
    calls = [_calls_for(runner, slice_ms) for runner in runners]
    took: list[list[float]] = [[] for _ in runners]
    for number in range(rounds):
        order = range(len(runners))
        for i in order if number % 2 == 0 else reversed(order):
            took[i].append(runners[i].run(calls[i]) / calls[i] / 1000.0)
    return [
        Spread(runner.name, statistics.median(t), min(t), max(t), tuple(t))
        for runner, t in zip(runners, took, strict=True)
    ]


def _calls_for(runner: Runner, slice_ms: float) -> int:
    """How many calls take about `slice_ms`; finding out also warms the runner up."""
    calls = 4
    while True:
        took = max(runner.run(calls), 1)
        if took >= slice_ms * 250_000:
            return max(1, round(calls * slice_ms * 1e6 / took))
        calls *= 4


def ratio(slow: Spread, fast: Spread) -> tuple[float, float, float]:
    """How many times faster `fast` is: the median over the rounds, and the least and most."""
    each = [s / f for s, f in zip(slow.rounds, fast.rounds, strict=True)]
    return statistics.median(each), min(each), max(each)


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a benchmark: one thread, numpy free to take its best kernels."""
    clean = {name: value for name, value in environment.items() if name not in _TIED}
    clean.update(dict.fromkeys(_ONE_THREAD, "1"))
    return clean


def restart_clean(module: str) -> None:
    """Replace this process by `python -m module` with the same arguments in a clean environment.

    Does nothing where the environment is clean already. For use under `__name__ == "__main__"`.
    """
    clean = clean_environment(os.environ)
    if clean != dict(os.environ):
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], clean)


def pin() -> None:
    """Stay on one core, the last that this process may use."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def machine() -> dict[str, str]:
    """What the figures were measured on, in words."""
    model, flags = platform.processor() or platform.machine(), ""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model"):
                model = value.strip()
            if name.strip() in ("flags", "Features") and not flags:
                flags = value
    except OSError:
        pass  # no Linux; the platform's own word must do
    known = ("avx2", "avx512f", "avx512_vnni", "amx_int8", "asimd", "asimddp", "i8mm")
    return {
        "processor": model,
        "instructions": " ".join(name for name in known if name in flags.split()),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "load": f"{os.getloadavg()[0]:.2f}",
    }


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python and of these distributions, those that are installed."""
    out = {"python": platform.python_version()}
    for package in packages:
        try:
            out[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return out
