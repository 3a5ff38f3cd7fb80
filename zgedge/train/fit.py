"""The training loop."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from zgedge.arena import LayerParameters, TrunkParameters
from zgedge.data.dataset import Dataset
from zgedge.errors import DataError, UsageError
from zgedge.interrupts import Interrupts
from zgedge.network import DENSE, SPARSE, Network
from zgedge.train.augment import jitter, warp
from zgedge.train.checkpoint import Checkpoint, State, identity
from zgedge.train.inputs import choose_coding
from zgedge.train.log import TrainingLog
from zgedge.train.pack import (
    Grown,
    as_it_is,
    choose_anchors,
    choose_memories,
    fitted_replay,
    pack,
    unknown_threshold,
    why_no_guard,
    with_guard,
    with_traces,
)
from zgedge.train.quantized import QuantizedLayer, QuantizedNetwork, logits
from zgedge.train.recipe import Recipe, choose_recipe
from zgedge.train.result import Epoch, TrainResult
from zgedge.train.rewiring import STRATEGIES, Batch, Connections, Strategy, rewire
from zgedge.train.rewiring.base import clear
from zgedge.train.rewiring.lottery import REWIND
from zgedge.train.rewiring.static import Static
from zgedge.train.spare import roomy
from zgedge.train.start import Start
from zgedge.train.teacher import taught_loss, teacher_of, teacher_steps
from zgedge.train.tickets import plan_rounds, pruned
from zgedge.train.trunk import features
from zgedge.train.wiring import local_start, random_start

VALIDATION_SHARE, VALIDATION_MOST = 0.1, 5000

# Activation scales follow the weights up to here; then they stay, and the weights settle to them.
OBSERVE_UNTIL = 0.6
OBSERVE_EVERY, OBSERVE_FIRST = 10, 50

# Epochs, where they are not given: as many as make the wanted steps, fewer where a step is costly.
WANTED_STEPS = 18_000
MOST_OPERATIONS = 6e12
# A trunk's products run near the peak of a processor, and are worth more.
MOST_TRUNK_OPERATIONS = 3e13
FEWEST_EPOCHS, MOST_EPOCHS = 10, 200
# A trunk's weights see every place of a picture, so fewer passes settle them: of all data so many
# steps or passes are wanted, of few pictures more passes.
WANTED_TRUNK_STEPS, FEWEST_TRUNK_STEPS = 8_000, 1_500
MOST_TRUNK_EPOCHS = 70
GPU_BATCH = 256
# Operations of a step from which a second thread gains more than it costs.
THREADS_FROM = 4e9
TRUNK_THREADS_FROM = 2e8
# Batches over which batch norm's statistics are taken for a snapshot.
MEASURED_BATCHES = 16
# Of a training time this share tells what a step takes; steps before the caches are warm do not.
MEASURED_SHARE = 0.02
UNMEASURED_STEPS, LEAST_MEASURED = 3, 8
# Steps are planned for this share of what is left: the machine may have other things to do, too.
SURE_SHARE = 0.93
MANY_STEPS = 1_000_000
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


@dataclass
class _Snapshot:
    """The network at the end of an epoch: its integers, and the shadow weights behind them."""

    epoch: int
    step: int
    accuracy: float
    loss: float
    layers: list[LayerParameters]
    trunk: list[TrunkParameters]
    shadow: list[Tensor]


@dataclass
class _Place:
    """Where in an epoch a training is: the next batch, and what was rewired so far."""

    epoch: int
    batch: int
    rewired: list[int]


def check_checkpoint(
    path: str | os.PathLike[str],
    dataset: Dataset,
    *,
    strategy: str,
    seed: int,
    length: str,
    teacher: bool,
) -> None:
    """Raise what `fit` would of a checkpoint that is there, as far as that is known before a
    network is chosen. `length` is what `run_length` says."""
    Checkpoint(path, identity(dataset, None, strategy=strategy, seed=seed, length=length,
                              teacher=teacher))  # fmt: skip


def run_length(epochs: int | None, steps: int | None, train_time: float | None) -> str:
    """How long a run is, as its checkpoint knows it. A time is planned once: a run that goes on
    keeps the steps that were planned for it."""
    return f"{epochs} epochs, {steps} steps" if train_time is None else "a training time"


def fit(
    dataset: Dataset,
    network: Network,
    *,
    strategy: str,
    seed: int,
    epochs: int | None,
    steps: int | None,
    train_time: float | None,
    teacher: bool,
    checkpoint: str | os.PathLike[str] | None,
    progress: Callable[[Epoch], None] | None,
    log: str | os.PathLike[str] | None,
    unknown: bool,
    start: Start | None = None,
    fit_replay: bool = False,
    spare: int = 0,
    pending: int = 0,
) -> TrainResult:
    """See `zgedge.train.train`."""
    if strategy not in STRATEGIES:
        raise UsageError(
            f"{strategy!r} is not a way of rewiring.", f"Choose from {', '.join(STRATEGIES)}."
        )
    if start is not None and not STRATEGIES[strategy].from_start:
        takes = ", ".join(name for name, kind in STRATEGIES.items() if kind.from_start)
        raise UsageError(
            f"{strategy} begins with random weights, and this network's are given.",
            f"Choose from {takes}.",
        )
    if sum(length is not None for length in (epochs, steps, train_time)) > 1:
        raise UsageError("Epochs, steps and a training time are three ways to say one length.")
    if epochs is not None and epochs < 1:
        raise UsageError(f"{epochs} epochs are too few.", "Train for at least 1.")
    if steps is not None and steps < 1:
        raise UsageError(f"{steps} steps are too few.", "Train for at least 1.")
    if train_time is not None and not (0.0 < train_time < math.inf):
        raise UsageError(f"A training time of {train_time:g} seconds means nothing.")
    _check(dataset, network)
    if network.trunk:
        keep_memory()
    threads = threads_for(dataset, network)
    run = {} if checkpoint is None else identity(
        dataset, network, strategy=strategy, seed=seed, teacher=teacher, threads=threads,
        length=run_length(epochs, steps, train_time), device=device_for(network),
    )  # fmt: skip
    if run and start is not None:
        run["start"] = start.digest()
    kept = Checkpoint(checkpoint, run)
    writer = TrainingLog(log)
    try:
        # What cuDNN measures differs from run to run, and with it the order of its sums.
        steady = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
        # A state is only ever saved between two steps.
        with _threads(threads), steady, Interrupts(held=checkpoint is not None) as interrupts:
            grown: Grown = as_it_is
            if spare or pending:
                grown = partial(roomy, names=dataset.classes, spare=spare, pending=pending)
            task = _Task(
                dataset, network, strategy, seed, kept, interrupts, start, fit_replay, grown
            )  # fmt: skip
            return _run(task, epochs, steps, train_time, teacher, progress, writer, unknown)
    finally:
        writer.close()


@dataclass
class _Task:
    """What all trainings of a run share."""

    dataset: Dataset
    network: Network
    strategy: str
    seed: int
    checkpoint: Checkpoint
    interrupts: Interrupts
    start: Start | None
    fit_replay: bool
    grown: Grown

    def training(
        self,
        steps: int,
        teacher: QuantizedNetwork | None = None,
        network: Network | None = None,
        begin: Sequence[Tensor] | None = None,
    ) -> _Training:
        """`network` is another one than the task's, `begin` a state of it to begin with."""
        kind = STRATEGIES[self.strategy]
        strategy = kind() if self.start is None else kind(self.start.rewire, settled=True)
        return _Training(
            self, network or self.network, strategy, steps, teacher, start=self.start, begin=begin
        )

    def teaching(self, steps: int) -> _Training:
        """The training of a teacher for a student that trains for `steps`."""
        network = teacher_of(self.network)
        return _Training(self, network, Static(), teacher_steps(steps), None, rounds=False)


def _run(
    task: _Task,
    epochs: int | None,
    steps: int | None,
    train_time: float | None,
    teacher: bool,
    progress: Callable[[Epoch], None] | None,
    log: TrainingLog,
    unknown: bool,
) -> TrainResult:
    began = time.monotonic()
    saved = task.checkpoint.state
    if saved is not None:
        steps = saved["steps"]
    elif train_time is not None:
        steps = _steps_within(task, train_time, teacher)
    elif steps is None:
        steps = steps_of_epochs(task.dataset, task.network, epochs)
    taught_by = None
    if teacher:
        teaching = task.teaching(steps)
        teaching.began = began
        log.write("teacher", steps=teaching.total, trunk=_trunk_log(teaching.network),
                  layers=_layers_log(teaching.network))  # fmt: skip
        teaching.resume(saved and saved["teacher"])
        if saved is None or saved["student"] is None:
            teaching.loop(
                None,
                TrainingLog(None),
                lambda state: {
                    "steps": steps,
                    "teacher": state,
                    "student": None,
                    "search": saved and saved["search"],
                },
            )
        if teaching.best is not None:
            teaching.net.restore(teaching.best.shadow)
        taught_by = teaching.net
        done = teaching.state()
    taught = done if teacher else None
    spent, ticket = 0, None
    rounds = plan_rounds(STRATEGIES[task.strategy].rounds, task.network, steps)
    if rounds:
        spent = sum(length for _, length in rounds)
        if saved is None or saved["student"] is None:
            searched = saved and saved["search"]
            ticket = _search(
                task, rounds, taught_by, searched,
                lambda state: {"steps": steps, "teacher": taught, "student": None, "search": state},
            )  # fmt: skip
    training = task.training(steps - spent, taught_by, begin=ticket)
    training.began, training.spent = began, spent
    training.resume(saved and saved["student"])
    return training.run(
        progress,
        log,
        unknown,
        lambda state: {"steps": steps, "teacher": taught, "student": state, "search": None},
    )


def _search(
    task: _Task,
    rounds: Sequence[tuple[Network, int]],
    teacher: QuantizedNetwork | None,
    saved: State | None,
    whole: Callable[[State], State],
) -> list[Tensor]:
    """Train the wider networks of `rounds`, each from what the one before leaves; the state that
    the task's own network begins with."""
    first = 0 if saved is None else saved["round"]
    begin: list[Tensor] | None = None if saved is None else saved["begin"]
    early: list[Tensor] | None = None if saved is None else saved["early"]
    for number in range(first, len(rounds)):
        network, steps = rounds[number]
        training = task.training(steps, teacher, network, begin)
        if number == 0:
            training.early_at = max(1, int(REWIND * steps))
        at: State = {"round": number, "begin": begin, "early": early}
        if saved is not None and number == first:
            training.resume(saved["training"])
        training.loop(None, TrainingLog(None), partial(_within, whole, at))
        early = early if training.early is None else training.early
        assert early is not None
        after = rounds[number + 1][0] if number + 1 < len(rounds) else task.network
        begin = pruned(training.net, early, after)
        # The early weights of what is left, for the rounds to come.
        early = begin
    assert begin is not None
    return begin


def _within(whole: Callable[[State], State], at: State, training: State) -> State:
    """A checkpoint's state of a round's training."""
    return whole({**at, "training": training})


def _steps_within(task: _Task, seconds: float, teacher: bool) -> int:
    """Steps of a training that ends within `seconds` with all that is done besides.

    A training that is thrown away tells what a step, and the end of an epoch, take here and now.
    """
    began = time.monotonic()
    share = MEASURED_SHARE * seconds
    extra = 0.0
    teaching = task.teaching(MANY_STEPS) if teacher else None
    if teaching is not None:
        cost = teaching.cost(share)
        extra = teaching.total / MANY_STEPS * (cost.step + cost.epoch / teaching.per_epoch)
    training = task.training(MANY_STEPS, None if teaching is None else teaching.net)
    cost = training.cost(share)
    # Twice: the test rows go through the integers and through the float network.
    test = 2.0 * cost.epoch * len(task.dataset.x_test) / max(1, len(training.held_labels))
    left = seconds - (time.monotonic() - began) - test - cost.epoch
    return max(1, int(SURE_SHARE * left / (cost.step + cost.epoch / training.per_epoch + extra)))


def _trunk_log(network: Network) -> list[dict[str, Any]]:
    return [
        {
            "kind": layer.kind,
            "shape": list(layer.shape),
            "channels": layer.channels,
            "kernel": layer.kernel,
            "stride": layer.stride,
        }
        for layer in network.trunk
    ]


def _layers_log(network: Network) -> list[dict[str, Any]]:
    return [
        {
            "kind": layer.kind,
            "inputs": layer.inputs,
            "outputs": layer.outputs,
            "fan_in": layer.width,
            "block": layer.block,
        }
        for layer in network.layers
    ]


def _check(dataset: Dataset, network: Network) -> None:
    if dataset.features != network.inputs or len(dataset.classes) != network.classes:
        raise DataError(
            f"{dataset.name} has {dataset.features:,} inputs and {len(dataset.classes):,} classes, "
            f"the network {network.inputs:,} and {network.classes:,}.",
            "Plan a network for these data.",
        )
    if len(dataset.x_train) < 2:
        raise DataError(f"{dataset.name} has {len(dataset.x_train)} training rows; 2 are needed.")


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Fix torch's threads: another number sums in another order and would train other bytes."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_memory() -> None:
    """Let glibc keep what training frees, for the next step to use.

    Every step takes and frees tensors of megabytes. Handed back to the system each time, their
    pages are cleared and mapped anew, which takes as long as the convolutions themselves. Nothing
    happens where there is no glibc.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)


def split_validation(
    labels: npt.NDArray[np.int64], rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Positions to train on and positions held out, of every class the same share.

    Where the data are so few that nothing would be held out, both are all positions.
    """
    share = min(VALIDATION_SHARE, VALIDATION_MOST / len(labels))
    train, held = [], []
    for c in np.unique(labels):
        mine = rng.permutation(np.flatnonzero(labels == c))
        count = int(share * len(mine))
        held.append(mine[:count])
        train.append(mine[count:])
    held_out = np.sort(np.concatenate(held))
    kept = np.sort(np.concatenate(train))
    return kept, held_out if len(held_out) else kept


def batch_size(samples: int, network: Network) -> int:
    """Samples of a training step; batch norm's noise helps a small trunk more than smooth steps.

    A GPU takes more at a time: four times the samples take it about twice as long.
    """
    many = 64 if network.trunk else 128
    if device_for(network).type == "cuda":
        many = GPU_BATCH
    most = 32 if samples < 5000 else 64 if samples < 20_000 else many
    return min(samples, most)


def steps_of_epochs(dataset: Dataset, network: Network, epochs: int | None) -> int:
    """Steps of that many epochs, or of the default."""
    kept, _ = split_validation(dataset.y_train, np.random.default_rng(0))
    epochs = epochs or default_epochs(len(kept), network)
    return epochs * (len(kept) // batch_size(len(kept), network))


def threads_for(dataset: Dataset, network: Network) -> int:
    """Threads that training sums with: another number would train other bytes."""
    work = operations(network, batch_size(len(dataset.x_train), network))
    enough = TRUNK_THREADS_FROM if network.trunk else THREADS_FROM
    return 1 if work < enough else torch.get_num_threads()


def default_epochs(samples: int, network: Network) -> int:
    """Epochs for a task of that many training samples."""
    batch = batch_size(samples, network)
    most = MOST_TRUNK_OPERATIONS if network.trunk else MOST_OPERATIONS
    wanted = WANTED_TRUNK_STEPS if network.trunk else WANTED_STEPS
    per_epoch = samples // batch
    epochs = math.ceil(min(wanted, most / operations(network, batch)) / per_epoch)
    limit = MOST_EPOCHS
    if network.trunk:
        limit = max(MOST_TRUNK_EPOCHS, math.ceil(FEWEST_TRUNK_STEPS / per_epoch))
    return max(FEWEST_EPOCHS, min(limit, epochs))


def operations(network: Network, batch: int) -> int:
    """Multiplications and additions of one training step, layers as dense products."""
    trunk = sum(layer.operations for layer in network.trunk)
    return 6 * batch * (trunk + sum(layer.inputs * layer.outputs for layer in network.layers))


def optimizer_of(parameters: Sequence[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    """Adam (Kingma & Ba 2015); with decay, which is of matrices and filters alone, AdamW."""
    # The steps of all parameters together: a GPU has one kernel for them.
    fused = parameters[0].is_cuda
    if not recipe.decay:
        return torch.optim.Adam(parameters, lr=recipe.rate, fused=fused, foreach=not fused)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() > 1]},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=recipe.rate, weight_decay=recipe.decay, fused=fused, foreach=not fused
    )


def device_strategy(strategy: str, network: Network) -> str:
    """How a network that was trained so is rewired on a device. Where there is no room for the
    sketches of attention, the gradient that they stand for takes their place."""
    device = STRATEGIES[strategy].device
    return "rigl" if device == "attention" and not network.traces else device


def device_for(network: Network) -> torch.device:
    """A GPU where torch sees one and there is a trunk: other networks are too small to gain."""
    gpu = bool(network.trunk) and torch.cuda.is_available()
    return torch.device("cuda" if gpu else "cpu")


@dataclass(frozen=True)
class _Cost:
    """Seconds of a step, and of what an epoch takes besides its steps."""

    step: float
    epoch: float


class _Training:
    """One network in training; of a student and its teacher each has its own."""

    def __init__(
        self,
        task: _Task,
        network: Network,
        strategy: Strategy,
        steps: int,
        teacher: QuantizedNetwork | None,
        rounds: bool = True,
        start: Start | None = None,
        begin: Sequence[Tensor] | None = None,
    ) -> None:
        dataset = self.dataset = task.dataset
        self.task, self.network, self.strategy, self.seed = task, network, strategy, task.seed
        # Where there is none to move, a step that moves wires would only be lost.
        self.has_wires = any(layer.kind == SPARSE for layer in network.layers)
        self.teacher, self.rounds = teacher, rounds
        self.began = time.monotonic()
        self.rng = np.random.default_rng(self.seed)
        self.generator = torch.Generator().manual_seed(self.seed)
        self.coding = choose_coding(dataset, network.groups)
        codes = self.coding.encode(dataset.x_train)
        kept, held = split_validation(dataset.y_train, self.rng)
        self.held_codes, self.held_labels = codes[held], dataset.y_train[held]
        self.held_out = len(codes) - len(kept)  # 0 where the rows to train on stand for them
        self.codes = torch.from_numpy(codes[kept])
        self.labels = torch.from_numpy(dataset.y_train[kept])
        wiring = [
            self._start(i) if start is None else start.layers[i].indices
            for i in range(len(network.layers))
        ]
        self.device = device_for(network)
        self.targets = self.labels.to(self.device)
        self.net = QuantizedNetwork(
            network, self.coding, wiring, self.generator, self.device, start
        )
        if begin is not None:
            self.net.restore(begin)
        for layer in self.net.layers:
            if layer.indices is not None:
                with torch.no_grad():
                    strategy.begin(self._connections(layer))
        self.batch = batch_size(len(kept), network)
        self.per_epoch = len(kept) // self.batch
        self.total = steps
        self.epochs = math.ceil(steps / self.per_epoch)
        self.recipe = choose_recipe(dataset, network, self.epochs)
        self.started = start is not None
        if start is not None:
            self.recipe = replace(self.recipe, rate=start.rate * self.recipe.rate)
        self.optimizer = optimizer_of(self.net.parameters(), self.recipe)
        self.averages = (
            [p.detach().clone() for p in self.net.parameters()] if self.recipe.averaging else []
        )
        self.step = 0
        self.spent = 0  # steps of the rounds before this training
        # A copy of the network is kept at this step, where there is one.
        self.early_at: int | None = None
        self.early: list[Tensor] | None = None
        self.head_errors: Tensor | None = None
        self.history: list[Epoch] = []
        self.first_wires: dict[str, list[int]] = {}  # those that training began with
        self.best: _Snapshot | None = None
        self.top_accuracy = 0.0
        self.place = _Place(1, 0, [0] * len(network.layers))
        self.losses = torch.zeros((), dtype=torch.float64, device=self.device)
        self.epoch_rng = self.rng.bit_generator.state

    def _start(self, i: int) -> npt.NDArray[np.int64] | None:
        layer = self.network.layers[i]
        if layer.kind == DENSE:
            return None
        if i == 0 and self.dataset.kind != "table" and not self.network.trunk:
            return local_start(layer, self.dataset.shape, self.rng)
        return random_start(layer, self.rng)

    def run(
        self,
        progress: Callable[[Epoch], None] | None,
        log: TrainingLog,
        unknown: bool,
        whole: Callable[[State], State],
    ) -> TrainResult:
        """Train to the end, or to Ctrl-C. `whole` makes a checkpoint's state of this training's."""
        log.write(
            "start",
            data=self.dataset.name,
            strategy=self.task.strategy,
            seed=self.seed,
            epochs=self.epochs,
            steps=self.total,
            batch=self.batch,
            threads=torch.get_num_threads(),
            held_out=self.held_out,
            trunk=_trunk_log(self.network),
            layers=_layers_log(self.network),
        )
        if self.started and self.step == 0:
            self._keep_start()
        if not self.first_wires:
            self.first_wires = self._wires(self.net.integers()[0])
        log.write("wires", when="start", **self.first_wires)
        for epoch in self.history:  # of the process before, where there was one
            self._log_epoch(log, epoch)
        interrupted = False
        try:
            self.loop(progress, log, whole)
        except KeyboardInterrupt:
            interrupted = True
        best = self.best or self._snapshot(0, [self.codes[: self.batch]])
        log.write("wires", when="end", **self._wires(best.layers[0]))
        return self._result(best, self.task.strategy, log, unknown, interrupted)

    def _keep_start(self) -> None:
        """Take the start as the best so far: training may be too short to do better."""
        count = min(MEASURED_BATCHES, self.per_epoch)
        batches = [self.codes[k :: self.per_epoch][: self.batch] for k in range(count)]
        with torch.no_grad():
            for codes in batches:
                self.net.forward(codes.to(self.device), observe=True)
        self.best = self._snapshot(0, batches)
        self.top_accuracy = self.best.accuracy

    def loop(
        self,
        progress: Callable[[Epoch], None] | None,
        log: TrainingLog,
        whole: Callable[[State], State],
    ) -> None:
        """Train to the end from wherever this training is. Raises KeyboardInterrupt."""
        while self.place.epoch <= self.epochs:
            self._epoch(progress, log, whole)
        self.task.checkpoint.save(whole(self.state()))

    def _between_steps(self, whole: Callable[[State], State]) -> None:
        """Save where it is time to, or where Ctrl-C was pressed, which ends training here."""
        if self.task.interrupts.asked():
            self.task.checkpoint.save(whole(self.state()))
            raise KeyboardInterrupt
        if self.task.checkpoint.due():
            self.task.checkpoint.save(whole(self.state()))

    def state(self) -> State:
        """All that the rest of this training depends on."""
        best = self.best
        return {
            "net": self.net.state(),
            "averages": self.averages,
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "rng": self.epoch_rng,
            "early": self.early,
            "wires": self.first_wires,
            "step": self.step,
            "place": asdict(self.place),
            "losses": float(self.losses),
            "history": [asdict(epoch) for epoch in self.history],
            "best": best and (best.epoch, best.step, best.accuracy, best.loss, best.shadow),
            "top": self.top_accuracy,
            "seconds": time.monotonic() - self.began,
        }

    def resume(self, state: State | None) -> None:
        """Go on from where `state` was taken; from the start where it is None."""
        if state is None:
            return
        if state["best"] is not None:
            epoch, step, accuracy, loss, shadow = state["best"]
            self.net.restore(shadow)
            layers, trunk = self.net.integers(), self.net.trunk_integers()
            self.best = _Snapshot(epoch, step, accuracy, loss, layers, trunk, shadow)
        self.net.restore(state["net"])
        for own, saved in zip(self.averages, state["averages"], strict=True):
            own.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.rng.bit_generator.state = self.epoch_rng = state["rng"]
        self.early = state["early"]
        self.first_wires = state["wires"]
        self.step = state["step"]
        self.place = _Place(**state["place"])
        self.losses.fill_(state["losses"])
        self.history = [
            Epoch(**{**epoch, "rewired": tuple(epoch["rewired"])}) for epoch in state["history"]
        ]
        self.top_accuracy = state["top"]
        self.began -= state["seconds"]

    def cost(self, seconds: float) -> _Cost:
        """Train for about `seconds` to see what a step and an epoch take. The network is spent."""
        began = time.monotonic()
        codes, order = self._pictures()
        prepared = time.monotonic() - began
        started, taken = time.monotonic(), 0
        for i in range(self.per_epoch):
            if i == UNMEASURED_STEPS:
                started = time.monotonic()
            float(self._step(codes, order, i))  # waits for it
            taken = i + 1
            if taken >= LEAST_MEASURED and time.monotonic() - began >= seconds:
                break
        ended = time.monotonic()
        step = (ended - started) / max(1, taken - UNMEASURED_STEPS)
        self._snapshot(1, self._measured(codes, order))
        return _Cost(step, prepared + time.monotonic() - ended)

    def _pictures(self) -> tuple[Tensor, Tensor]:
        """Codes of an epoch, and their order."""
        self.epoch_rng = self.rng.bit_generator.state
        codes = self.codes
        if self.recipe.warps:
            codes = warp(codes, self.dataset.shape, self.rng)
        order = torch.from_numpy(self.rng.permutation(len(codes)))
        return codes.to(self.device), order.to(self.device)

    def _measured(self, codes: Tensor, order: Tensor) -> list[Tensor]:
        """Batches that batch norm's statistics are taken from."""
        count = min(MEASURED_BATCHES, self.per_epoch)
        return [codes[order[k * self.batch : (k + 1) * self.batch]] for k in range(count)]

    def _step(self, codes: Tensor, order: Tensor, i: int) -> Tensor:
        """One step, on batch i of the epoch; its loss, where the device may still be at it."""
        at = self.step / self.total
        chosen = order[i * self.batch : (i + 1) * self.batch]
        period = self.strategy.period(self.total)
        moves = self.has_wires and self.step > 0 and self.step % period == 0
        moves = moves and self.strategy.fraction(at) > 0.0
        observe = self.step < OBSERVE_FIRST or (
            at < OBSERVE_UNTIL and self.step % OBSERVE_EVERY == 0
        )
        for layer in self.net.layers:
            layer.tap.open = moves and self.strategy.uses_gradient
            layer.tap.watched = moves and self.strategy.uses_batch
        loss = self._loss(codes[chosen], self.targets[chosen], observe)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if moves:
            # As in RigL, such a step moves wires instead of weights.
            for k, layer in enumerate(self.net.layers):
                self.place.rewired[k] += self._rewire(layer, at)
        else:
            for group in self.optimizer.param_groups:
                group["lr"] = self.recipe.rate_at(self.step, self.total)
            self.optimizer.step()
        self._average()
        self.step += 1
        if self.step == self.early_at:
            self.early = self.net.state()
        return loss.detach()

    def _epoch(
        self,
        progress: Callable[[Epoch], None] | None,
        log: TrainingLog,
        whole: Callable[[State], State],
    ) -> None:
        codes, order = self._pictures()
        place = self.place
        steps = min(self.per_epoch, self.total - (place.epoch - 1) * self.per_epoch)
        while place.batch < steps:
            self._between_steps(whole)
            self.losses += self._step(codes, order, place.batch)
            place.batch += 1
        number = place.epoch
        snapshot = self._snapshot(number, self._measured(codes, order))
        self.top_accuracy = max(self.top_accuracy, snapshot.accuracy)
        # The latest epoch within one standard error of the highest accuracy: the held-out rows
        # cannot tell these apart, and the rate falls to 0, so the later one is the more settled.
        error = math.sqrt(
            self.top_accuracy * (1.0 - self.top_accuracy) / max(1, len(self.held_labels))
        )
        if snapshot.accuracy >= self.top_accuracy - error:
            self.best = snapshot
        epoch = Epoch(
            number,
            self.epochs,
            snapshot.accuracy,
            float(self.losses) / steps,
            self.recipe.rate_at(self.step - 1, self.total),
            tuple(place.rewired),
            time.monotonic() - self.began,
            sum(place.rewired) + (self.history[-1].rewired_so_far if self.history else 0),
            self.held_out,
        )
        self.history.append(epoch)
        self.place = _Place(number + 1, 0, [0] * len(self.network.layers))
        self.losses.zero_()
        self.epoch_rng = self.rng.bit_generator.state
        self._log_epoch(log, epoch)
        if progress is not None:
            progress(epoch)

    @staticmethod
    def _log_epoch(log: TrainingLog, epoch: Epoch) -> None:
        log.write(
            "epoch",
            epoch=epoch.epoch,
            accuracy=epoch.accuracy,
            loss=epoch.loss,
            rate=epoch.rate,
            rewired=list(epoch.rewired),
            seconds=epoch.seconds,
        )

    def _loss(self, codes: Tensor, labels: Tensor, observe: bool) -> Tensor:
        codes = self._moved(codes, self.step)
        found = self.net.forward(codes, observe=observe and self.rounds, rounds=self.rounds)
        if found.requires_grad and any(layer.tap.watched for layer in self.net.layers):
            found.register_hook(self._keep_head_errors)  # type: ignore[no-untyped-call]
        loss = functional.cross_entropy(found, labels, label_smoothing=self.recipe.smoothing)
        if self.teacher is None:
            return loss
        return taught_loss(loss, found, self.teacher.shadow(codes))

    def _moved(self, codes: Tensor, *draw: int) -> Tensor:
        """Codes as training sees them; `draw` numbers what is drawn for them."""
        if not self.recipe.shifts:
            return codes
        rng = np.random.default_rng((self.seed, *draw))
        return jitter(codes, self.dataset.shape, self.recipe.shifts, self.recipe.cutout, rng)

    def _keep_head_errors(self, errors: Tensor) -> None:
        self.head_errors = errors

    def _average(self) -> None:
        """Move the averaged weights towards the present ones, fast at first."""
        if self.averages:
            share = max(1.0 / (self.step + 1), 1.0 / (1.0 + self.recipe.averaging * self.total))
            with torch.no_grad():
                torch._foreach_lerp_(self.averages, self.net.parameters(), share)

    def _rewire(self, layer: QuantizedLayer, at: float) -> int:
        """Replace connections of a layer; how many weights were replaced."""
        tap = layer.tap
        if layer.indices is None:
            return 0
        connections = self._connections(layer)
        tap.gradient = tap.inputs = tap.outputs = tap.errors = None
        replaced = rewire(self.strategy, connections, at)
        if replaced is None:
            return 0
        # What the optimizer remembers is of the weights that went.
        for moment in self.optimizer.state[layer.values].values():
            if isinstance(moment, Tensor) and moment.shape == layer.values.shape:
                clear(moment, replaced)
        for own, average in zip(self.net.parameters(), self.averages, strict=False):
            if own is layer.values:
                clear(average, replaced)
        return int(replaced.sum()) * layer.layer.block

    def _connections(self, layer: QuantizedLayer) -> Connections:
        """A sparse layer as its strategy sees it, with what its tap caught."""
        tap, spec = layer.tap, layer.layer
        assert layer.indices is not None
        batch = None
        if tap.inputs is not None and tap.outputs is not None and tap.errors is not None:
            assert self.head_errors is not None
            last = layer is self.net.layers[-1]
            batch = Batch(tap.inputs, tap.outputs, tap.errors, self.head_errors, last)
        return Connections(
            layer.values.detach(),
            layer.indices,
            spec.inputs // spec.block,
            tap.gradient,
            self.generator,
            batch,
        )

    def _snapshot(self, epoch: int, batches: list[Tensor]) -> _Snapshot:
        """The network as it is now, with averaged weights where these are kept.

        batches  codes that batch norm's statistics are taken from
        """
        present = self.net.state() if self.averages else None
        with torch.no_grad():
            for own, average in zip(self.net.parameters(), self.averages, strict=False):
                own.copy_(average)
        if self.net.trunk is not None:
            # What moves in is black and lowers the means: statistics of pictures that stand still
            # are not those that the weights learned with.
            moved = (self._moved(b.to(self.device), self.step, k) for k, b in enumerate(batches))
            self.net.trunk.measure(moved, self.rounds)
        layers, trunk = self.net.integers(), self.net.trunk_integers()
        scores: npt.NDArray[Any]
        if self.rounds:
            sums = logits(self.network, layers, self.held_codes, trunk, self.device)
            scores = sums * (layers[-1].s_in * layers[-1].s_w)
        else:
            scores = self._shadow_logits(self.held_codes)
        accuracy = float((scores.argmax(axis=1) == self.held_labels).mean())
        labels = torch.from_numpy(self.held_labels)
        loss = float(functional.cross_entropy(torch.from_numpy(scores), labels))
        snapshot = _Snapshot(epoch, self.step, accuracy, loss, layers, trunk, self.net.state())
        if present is not None:
            self.net.restore(present)
        return snapshot

    def _wires(self, first: LayerParameters) -> dict[str, list[int]]:
        """Wires on each input of the first layer, as the log has them."""
        trunk, layer = self.network.trunk, self.network.layers[0]
        if first.indices is None:
            counts = np.full(layer.inputs, layer.outputs)
        else:
            blocks = np.bincount(first.indices.reshape(-1), minlength=layer.inputs // layer.block)
            counts = np.repeat(blocks, layer.block)
        shape = trunk[-1].out_shape if trunk else self.dataset.shape
        return {"shape": list(shape), "counts": counts.tolist()}

    def _shadow_logits(self, codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """What the float network makes of rows of codes: float32 [n, classes]."""
        chunk = 500 if self.network.trunk else 4096
        return np.concatenate([
            self.net.shadow(torch.from_numpy(codes[at : at + chunk]).to(self.device)).cpu().numpy()
            for at in range(0, len(codes), chunk)
        ])  # fmt: skip

    def _result(
        self,
        best: _Snapshot,
        strategy: str,
        log: TrainingLog,
        unknown: bool,
        interrupted: bool,
    ) -> TrainResult:
        accuracy = shadow_accuracy = None
        if len(self.dataset.x_test):
            codes = self.coding.encode(self.dataset.x_test)
            found = logits(self.network, best.layers, codes, best.trunk, self.device)
            found = found.argmax(axis=1)
            accuracy = float((found == self.dataset.y_test).mean())
            self.net.restore(best.shadow)
            right = self._shadow_logits(codes).argmax(axis=1) == self.dataset.y_test
            shadow_accuracy = float(right.mean())
        threshold = 0
        if unknown:
            held = logits(self.network, best.layers, self.held_codes, best.trunk, self.device)
            threshold = unknown_threshold(held, self.held_labels, best.layers[-1])
        memories, grown = None, self.task.grown
        no_guard = why_no_guard(self.network, self.network, 0, grown)
        if STRATEGIES[strategy].device == "attention":
            self.network = with_traces(self.network, grown)
        if self.network.learning and self.network.replay_samples:
            y = self.labels.numpy()
            if self.task.fit_replay:
                self.network = fitted_replay(
                    self.network, best.layers, self.codes.numpy(), y, grown
                )  # fmt: skip
            count = len(self.held_labels)
            plain, fitted = self.network, self.task.fit_replay
            if fitted:
                self.network = with_guard(plain, count, grown)
            no_guard = why_no_guard(plain, self.network, count, grown, fitted=fitted)
            room = self.network.replay_samples
            chosen = choose_memories(y, self.network.classes, room, self.rng)
            remembered = self.codes.numpy()[chosen]
            if self.network.trunk:
                remembered = features(self.network, best.trunk, remembered, self.device)
            memories = (remembered, y[chosen])
        parameters = pack(
            self.dataset,
            self.network,
            best.layers,
            best.trunk,
            self.coding,
            strategy=device_strategy(strategy, self.network),
            seed=self.seed,
            steps=best.step + self.spent,
            accuracy=accuracy,
            unknown=threshold,
            replay=memories,
            anchors=choose_anchors(
                self.network, best.layers, best.trunk, self.held_codes, self.held_labels, self.seed
            ),
        )
        seconds = time.monotonic() - self.began
        log.write(
            "end",
            best_epoch=best.epoch,
            accuracy=accuracy,
            validation_accuracy=best.accuracy if self.held_out else None,
            shadow_accuracy=shadow_accuracy,
            steps=best.step + self.spent,
            seconds=seconds,
            interrupted=interrupted,
        )
        return TrainResult(
            network=self.network,
            parameters=parameters,
            accuracy=accuracy,
            validation_accuracy=best.accuracy,
            validation_loss=best.loss,
            held_out=self.held_out,
            shadow_accuracy=shadow_accuracy,
            history=self.history,
            best_epoch=best.epoch,
            steps=best.step + self.spent,
            planned_steps=self.total + self.spent,
            threads=torch.get_num_threads(),
            seconds=seconds,
            interrupted=interrupted,
            no_guard=no_guard,
        )
