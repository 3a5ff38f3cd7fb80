"""Our own runtime for the speed tables, set up as the peers are."""

from __future__ import annotations

import ctypes
import time

import numpy as np
import numpy.typing as npt

from zgedge import arena
from zgedge.bench.peers import driver, elapsed
from zgedge.bench.timing import Runner
from zgedge.runtime import Learner, Model
from zgedge.runtime import core_library as core


def open_bytes(data: bytes) -> Model:
    """A model from a file's bytes, in memory of its own."""
    buffer = arena.aligned(len(data))
    buffer[:] = np.frombuffer(data, np.uint8)
    return Model(buffer, "the benchmark's network")


def predict_c(data: bytes, x: npt.NDArray[np.uint8], name: str = "zgedge, C core") -> Runner:
    """The core's `zge_model_predict_u8` from a C loop. x uint8 (n, inputs), raw values."""
    model = open_bytes(data)
    x = np.ascontiguousarray(x)
    classes = np.zeros(len(x), np.int32)
    predict = ctypes.cast(core.lib.zge_model_predict_u8, ctypes.c_void_p)
    run_loop = driver().driver_zge

    def run(calls: int) -> int:
        return elapsed(
            run_loop(
                *(predict, model._handle, x.ctypes.data, model.inputs, len(x)),
                *(classes.ctypes.data, calls),
            ),
            "The core",
        )

    def check() -> npt.NDArray[np.int32]:
        run(len(x))
        return classes

    return Runner(name, run, check, (model, x, classes))


def predict_python(data: bytes, x: npt.NDArray[np.uint8]) -> Runner:
    """`Model.predict_one` on raw rows of x (n, inputs), as an application calls it."""
    model = open_bytes(data)
    rows = list(x)

    def run(calls: int) -> int:
        predict_one, count, at = model.predict_one, len(rows), 0
        start = time.perf_counter_ns()
        for _ in range(calls):
            predict_one(rows[at])
            at = at + 1 if at + 1 < count else 0
        return time.perf_counter_ns() - start

    def check() -> npt.NDArray[np.int64]:
        return np.array([model.predict_one(row) for row in rows], np.int64)

    return Runner("zgedge, Model.predict_one", run, check)


class LearnerRunner:
    """A learner that is fed batch after batch; `runner` times it.

    The batches are `count` different ones, so that the network never learns them by heart: then
    there would be no error left to learn from, and steps would be cheaper than real ones.
    """

    def __init__(
        self, data: bytes, batch: int, name: str, *, pixels: bool, count: int = 64
    ) -> None:
        self.learner = Learner(open_bytes(data))
        rng = np.random.default_rng(3)
        shape = (count, batch, self.learner.model.inputs)
        if pixels:
            self.x: npt.NDArray[np.uint8] | npt.NDArray[np.float32] = rng.integers(
                0, 256, shape, np.uint8
            )
        else:
            self.x = rng.random(shape, np.float32)
        self.y = rng.integers(0, len(self.learner.model.classes), shape[:2])
        self.at = 0
        run = self._run_one if batch == 1 else self._run_many
        self.runner = Runner(name, run, self._check)

    def _run_many(self, calls: int) -> int:
        batches = list(zip(self.x, self.y, strict=True))
        learn_many, count, at = self.learner.learn_many, len(batches), self.at
        start = time.perf_counter_ns()
        for _ in range(calls):
            learn_many(*batches[at])
            at = at + 1 if at + 1 < count else 0
        took = time.perf_counter_ns() - start
        self.at = at
        return took

    def _run_one(self, calls: int) -> int:
        singles = list(zip(self.x[:, 0], self.y[:, 0].tolist(), strict=True))
        learn_one, count, at = self.learner.learn_one, len(singles), self.at
        start = time.perf_counter_ns()
        for _ in range(calls):
            x, y = singles[at]
            # Without replay, so that a step learns one sample, as the peers' steps do.
            learn_one(x, y, replay=0)
            at = at + 1 if at + 1 < count else 0
        took = time.perf_counter_ns() - start
        self.at = at
        return took

    def _check(self) -> npt.NDArray[np.int64]:
        status = self.learner.status()
        return np.array([status["steps"], status["rewired"]], np.int64)

    @property
    def rewired_per_step(self) -> float:
        """Connections replaced per learning step so far."""
        status = self.learner.status()
        return float(status["rewired"]) / max(int(status["steps"]), 1)
