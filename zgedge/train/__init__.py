"""Training on the host: quantization-aware, sparse, rewired while it trains.

torch is imported when `train` is called, so that importing this package needs numpy alone.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from zgedge.data.dataset import Dataset
from zgedge.extras import need
from zgedge.network import Network
from zgedge.train.analytic import AnalyticHead, fit_analytic
from zgedge.train.result import Epoch, TrainResult
from zgedge.train.start import Start

if TYPE_CHECKING:
    from zgedge.train.importing import Imported

__all__ = [
    "AnalyticHead", "Epoch", "TrainResult", "fit_analytic", "import_onnx", "strategies", "train",
]  # fmt: skip

# Threads that wait for each other spin first, by default for milliseconds: where other programs run
# on the same cores, that takes the time from the one that is waited for, and a step three times as
# long. So few rounds are as fast on cores of its own. libgomp reads it when torch is imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def train(
    dataset: Dataset,
    network: Network,
    *,
    strategy: str = "rigl",
    seed: int = 0,
    epochs: int | None = None,
    steps: int | None = None,
    train_time: float | None = None,
    teacher: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Callable[[Epoch], None] | None = None,
    log: str | os.PathLike[str] | None = None,
    unknown: bool = False,
    start: Start | None = None,
    fit_replay: bool = False,
    spare: int = 0,
    pending: int = 0,
) -> TrainResult:
    """Train `network` on a data set and return the integers that its file holds.

    strategy    how connections are replaced while training: a name in `strategies()`
    seed        same data, network, strategy, seed and length on one machine: same bytes
    epochs      passes over the training rows; None chooses by the size of the task
    steps       optimizer steps instead, the last pass cut short where it must be
    train_time  seconds instead: the first steps are measured, and as many are planned as fit, all
                else that is done here included; `steps=result.planned_steps` gives the same bytes
    teacher     train a larger float network first, and this one on its answers as well
    checkpoint  file that a run which was interrupted goes on from; written every minute and at
                Ctrl-C
    progress    called after every epoch
    log         path of a JSON-lines log (`zgedge.train.log`); replaced where it exists
    unknown     store a threshold under which a prediction is *unknown*
    start       weights and wires of this network to begin with, instead of random ones
    fit_replay  choose at the end how remembered values are coded: the most samples in the bytes of
                the planned replay that the trained network still tells apart
    spare       classes that the file is to have room for besides, and `pending` samples that wait:
                what is added at the end, such as anchors, leaves that room; the result has none
                yet (`zgedge.train.seeded.roomy`)

    A tenth of the training rows, at most 5,000, is held out. The latest epoch that is within one
    standard error of the highest accuracy on them is returned: they cannot tell these apart, and
    the later one is more settled. The test rows are looked at once, at the end. Ctrl-C ends
    training early and that epoch of those so far is returned, with `interrupted` set.

    Raises MissingExtraError without torch, UsageError for an unknown strategy, a length below 1 or
    two of them, and a checkpoint of another run, DataError where data and network do not fit each
    other or hold NaN or infinities, ZgedgeError where the log or the checkpoint cannot be written.
    """
    need("torch", "train")
    fit = importlib.import_module("zgedge.train.fit")
    result: TrainResult = fit.fit(
        dataset,
        network,
        strategy=strategy,
        seed=seed,
        epochs=epochs,
        steps=steps,
        train_time=train_time,
        teacher=teacher,
        checkpoint=checkpoint,
        progress=progress,
        log=log,
        unknown=unknown,
        start=start,
        fit_replay=fit_replay,
        spare=spare,
        pending=pending,
    )
    return result


def import_onnx(
    path: str | os.PathLike[str],
    dataset: Dataset,
    budget: int,
    *,
    learning: bool = True,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    strategy: str = "rigl",
    seed: int = 0,
    epochs: int | None = None,
    steps: int | None = None,
    train_time: float | None = None,
    say: Callable[[str], None] | None = None,
    progress: Callable[[Epoch], None] | None = None,
    log: str | os.PathLike[str] | None = None,
) -> Imported:
    """Cut a float classifier down to `budget` bytes, quantize and fine-tune it (docs/import.md).

    path      of the ONNX file; its outputs are the classes in the data set's order
    learning  whether the file holds what learning on a device needs
    mean, std  the network takes (x - mean) / std of raw values x: one number, or one for each
              channel of a picture or each other input. Left out, what suits it best is found
    say       called with a line on what was found, as soon as it is
    and as in `train`; without a length fewer passes than for a network that begins at random.

    Raises MissingExtraError without torch or onnx, ModelError where the file is no ONNX file or
    holds what ours cannot, DataError where the data are not what the network takes or it is no
    better on them than a guess, BudgetError with the smallest size where it cannot be cut so far.
    """
    need("torch", "train")
    importing = importlib.import_module("zgedge.train.importing")
    found: Imported = importing.import_onnx(
        path,
        dataset,
        budget,
        learning=learning,
        mean=mean,
        std=std,
        strategy=strategy,
        seed=seed,
        epochs=epochs,
        steps=steps,
        train_time=train_time,
        say=say,
        progress=progress,
        log=log,
    )
    return found


def strategies() -> tuple[str, ...]:
    """Names of the rewiring strategies. Raises MissingExtraError without torch."""
    need("torch", "train")
    rewiring = importlib.import_module("zgedge.train.rewiring")
    return tuple(rewiring.STRATEGIES)
