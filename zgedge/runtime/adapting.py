"""Learning from a set of labelled samples at a desk: a run of known length."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zgedge.errors import DataError, UsageError
from zgedge.runtime.learner import Learner

ANNEAL_EVERY = 16  # steps between two settings of the rate; a finer schedule changes nothing


@dataclass(frozen=True)
class Adapted:
    """Steps taken, connections replaced, and of the samples how many were right before each was
    learned (samples read again count again).
    """

    steps: int
    samples: int
    rewired: int
    correct: int


def adapt(
    learner: Learner,
    x: npt.NDArray[Any],
    y: npt.NDArray[Any],
    *,
    steps: int | None = None,
    rate: float | None = None,
    strategy: str | None = None,
    seed: int = 0,
    progress: Callable[[int, int, Adapted], None] | None = None,
) -> Adapted:
    """Learn samples x [n, inputs] of labels y [n], in an order drawn by `seed`.

    steps     None: each sample passes once, one a step, with as many remembered ones beside it as
              a step has room for. Else that many steps of a whole batch, the samples read again
              and again.
    rate      the rate that falls to a tenth over the run; None: that of `Learner.anneal`
    strategy  rewiring in this run; None: the file's
    progress  called now and then with steps done, steps in all, and what happened so far

    The settings that the file had are in force again afterwards. A guard judges as ever, but
    without its caution: what is given here is there to be learned.
    Raises DataError for samples or labels that do not fit, UsageError for steps below 1.
    """
    if steps is not None and steps < 1:
        raise UsageError(f"{steps} steps are too few.", "Take 1 or more.")
    if not len(x):
        raise DataError("There are no samples to learn from.")
    x = learner.model.rows(x)
    learner.label_numbers(y)
    was = learner.status()
    rng = np.random.default_rng(seed)
    once = steps is None
    total = len(x) if steps is None else steps
    schedule = {} if rate is None else {"rate": rate}
    size = 1 if once else min(learner.batch, len(x))
    order = rng.permutation(len(x))
    at = 0
    learner.configure(strategy=strategy)
    with learner.without_caution(), _settings_kept(learner, was):
        for step in range(total):
            if step % ANNEAL_EVERY == 0:
                learner.anneal(step / total, **schedule)
                if progress is not None:
                    progress(step, total, _so_far(learner, was))
            if once:
                row = order[step]
                learner.learn_one(x[row], y[row])
                continue
            if at + size > len(order):
                order, at = rng.permutation(len(x)), 0
            chosen = order[at : at + size]
            at += size
            learner.learn_many(x[chosen], y[chosen])
    done = _so_far(learner, was)
    if progress is not None:
        progress(total, total, done)
    return done


@contextmanager
def _settings_kept(learner: Learner, was: dict[str, Any]) -> Iterator[None]:
    """The settings of the status `was` are in force again afterwards."""
    try:
        yield
    finally:
        learner.configure(
            rate=was["rate"], strategy=was["strategy"], swaps=was["swaps"], gather=was["gather"]
        )


def _so_far(learner: Learner, was: dict[str, Any]) -> Adapted:
    now = learner.status()
    return Adapted(*(now[name] - was[name] for name in ("steps", "samples", "rewired", "correct")))
