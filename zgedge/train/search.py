"""Which network to train: candidates of equal bytes, told apart by short trainings.

Successive halving (Jamieson & Talwalkar, AISTATS 2016): all candidates are trained for some steps,
the worse half is dropped, the others are trained anew for twice as many, until two are left. Only
held-out rows are looked at, never test rows, and ranked by their cross-entropy: it tells networks
apart sooner than their accuracy does. The prior (`zgedge.space.expected_error`) says which are
tried.
"""

from __future__ import annotations

import json
import math
import os
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

import zgedge
from zgedge.budget import (
    Candidate,
    Plan,
    Task,
    candidates,
    named,
    picture_plan,
    sparse_plan,
    too_small,
)
from zgedge.data.dataset import Dataset
from zgedge.errors import BudgetError, ZgedgeError
from zgedge.network import Network
from zgedge.spec import spec_of
from zgedge.train import strategies, train
from zgedge.train.duration import format_latency

# Candidates of the first round, and of those the most that are much alike.
FIRST, ALIKE = 8, 1
# Steps of the first round, where no time is given; twice as many in each that follows.
FIRST_STEPS = 120
# Held-out rows under which a short training says less than the prior.
FEWEST_HELD = 200
# Share of a training time that the search takes, and what is tried first to know its pace.
SEARCH_SHARE = 0.25
PACE_STEPS = (4, 24)
PACE_DOUBT = 4.0  # a step takes at least this part of the second trial's mean step
FEWEST_STEPS = 30
# A search that takes so many times its time ends with what it knows.
OVERRUN = 1.25
# Work of a layer besides its multiply-adds, in multiply-adds of a sample.
LAYER_WORK = 50_000

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Trial:
    """A short training: its network and length, accuracy and cross-entropy on held-out rows."""

    spec: str
    steps: int
    seed: int
    accuracy: float
    loss: float
    seconds: float


@dataclass
class Considered:
    """A candidate, what is known of it before it is trained, and how its trials went.

    `latency` is predicted, in seconds of one prediction; None where none was asked for.
    """

    network: Network
    candidate: Candidate | None
    latency: float | None = None
    trials: list[Trial] = field(default_factory=list)
    verdict: str = "not tried"

    @property
    def spec(self) -> str:
        return spec_of(self.network)

    @property
    def name(self) -> str:
        family = self.candidate.family if self.candidate is not None else None
        return "no trunk" if family is None else str(family)

    @property
    def accuracy(self) -> float | None:
        """Of the longest trial."""
        return self.trials[-1].accuracy if self.trials else None


@dataclass(frozen=True)
class Choice:
    """The plan to train, and all that was considered for it, the chosen one first.

    `seconds` is what the search took, with what it took before it was interrupted; `spent` what its
    trials took of that, 0 without any.
    """

    plan: Plan
    considered: tuple[Considered, ...]
    seconds: float
    spent: float = 0.0

    @property
    def spec(self) -> str:
        """The chosen network, for `--network`."""
        return spec_of(self.plan.network)


def choose(
    dataset: Dataset,
    budget: int,
    *,
    learning: bool = True,
    network: str | None = None,
    latency: Callable[[Network], float] | None = None,
    most_latency: float | None = None,
    seconds: float | None = None,
    trials: bool = True,
    fits: Callable[[Network], bool] | None = None,
    seed: int = 0,
    strategy: str = "rigl",
    memory: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Choice:
    """The network to train on a data set in at most `budget` bytes.

    network       text of a network that is taken as it is (`zgedge.spec`)
    latency       predicted seconds of one prediction, by which candidates are shown and, where
                  `most_latency` is given, left out
    seconds       time for the search; None: as many steps as are set here, whatever they take
    trials        False: nothing is trained, the prior decides
    fits          candidates for which it is False are left out, where there are others
    memory        JSON lines of trials, from which a search that was interrupted goes on
    progress      called as (done, of, what is tried) before each trial

    Same data, budget and seed, and no `seconds`: same choice. Ctrl-C raises KeyboardInterrupt.
    Raises BudgetError where nothing fits, or nothing is as fast as asked, UsageError where the text
    of a network is none, and what `train` raises.
    """
    began = time.monotonic()
    task = Task.of(dataset)
    if network is not None:
        plan = named(task, budget, network, learning=learning)
        found = [Considered(plan.network, None, verdict="named")]
    else:
        found = _candidates(task, budget, learning)
        if fits is not None:
            found = [one for one in found if fits(one.network)] or found
    if latency is not None:
        for one in found:
            one.latency = latency(one.network)
    if most_latency is not None:
        found = _fast_enough(found, most_latency, plural=network is None)
    if network is not None:
        return Choice(plan, tuple(found), time.monotonic() - began)
    tried = _different(found)
    if seconds is not None:
        # In equal times a network without a trunk takes many times the steps: ahead at first.
        tried = [one for one in tried if one.candidate is not None] or tried
    spent = 0.0
    held = _held_rows(dataset) if dataset.kind == "picture" and trials else 0
    if len(tried) == 1 or held < FEWEST_HELD:
        why = "likeliest by the prior"
        if len(tried) > 1 and trials and dataset.kind == "picture":
            rows = "1 held-out row is" if held == 1 else f"{held:,} held-out rows are"
            why += f"; {rows} too few for trials"
        tried[0].verdict = why
    else:
        search = _Search(dataset, seed, strategy, memory, progress)
        tried = search.run(tried, seconds)
        began -= search.remembered
        spent = search.spent
    rest = [one for one in found if all(one is not other for other in tried)]
    plan = _plan(tried[0], task, budget, learning)
    return Choice(plan, (*tried, *rest), time.monotonic() - began, spent)


def shrunk(choice: Choice, dataset: Dataset, budget: int) -> Choice:
    """The same network in at most `budget` bytes: its replay is what gives them up.

    Raises BudgetError where it does not fit without any.
    """
    old = choice.plan
    made = named(
        Task.of(dataset), budget, text_again(old), learning=old.network.learning
    )  # fmt: skip
    # What the new bytes decide is told anew, in the place of what was told of the old ones.
    told = {kind: r for r in made.reasons if (kind := _of_bytes(r[0])) is not None}
    reasons = tuple(told.get(_of_bytes(what) or "", (what, why)) for what, why in old.reasons)
    first = replace(choice.considered[0], network=made.network)
    plan = replace(old, network=made.network, budget=budget, saturated=False, reasons=reasons)
    return replace(choice, plan=plan, considered=(first, *choice.considered[1:]))


def _of_bytes(what: str) -> str | None:
    """Which choice of a plan its bytes decide, by the reason's words; None: none of them."""
    if what.startswith("replay of "):
        return "replay"
    return "names" if what.startswith(("names of ", "no names of ")) else None


def text_again(planned: Plan) -> str:
    """The text that plans this network again. A replay that is fitted at the end is left out: a
    text that names it would hold it to what was planned."""
    if not planned.fit_replay:
        return spec_of(planned.network)
    return spec_of(replace(planned.network, replay_samples=0, replay_bits=0, replay_pool=0))


def _candidates(task: Task, budget: int, learning: bool) -> list[Considered]:
    """All that fit, the likeliest first. Raises BudgetError where nothing does."""
    found = [Considered(c.network, c) for c in candidates(task, budget, learning=learning)]
    try:
        found.append(Considered(sparse_plan(task, budget, learning=learning).network, None))
    except BudgetError:
        if not found:
            raise too_small(task, budget, learning=learning) from None
    return found


def _fast_enough(found: list[Considered], most: float, plural: bool) -> list[Considered]:
    """Those predicted to take at most `most` seconds. Raises BudgetError where none does."""
    kept = [one for one in found if one.latency is not None and one.latency <= most]
    if not kept:
        fastest = min(found, key=lambda one: one.latency or 0.0)
        took, asked = format_latency(fastest.latency or 0.0), format_latency(most)
        raise BudgetError(
            f"No network takes {asked} or less for a prediction."
            if plural
            else f"The network that was named takes more than {asked} for a prediction.",
            f"{fastest.spec!r} takes {took}, the least of all: ask for that or more."
            if plural
            else f"It is predicted to take {took}.",
        )
    return kept


def _different(found: list[Considered]) -> list[Considered]:
    """The likeliest of each sort, as many as are tried, and the one without a trunk."""
    out: list[Considered] = []
    sorts: list[tuple[object, ...]] = []
    for one in found:
        family = one.candidate.family if one.candidate is not None else None
        if family is None:
            out.append(one)  # stands last
            break
        sort = (family.stride, family.stages, family.depth, family.block, family.head)
        if sorts.count(sort) < ALIKE and len(out) < FIRST - 1:
            sorts.append(sort)
            out.append(one)
    return out


def _plan(one: Considered, task: Task, budget: int, learning: bool) -> Plan:
    if one.candidate is None:
        return sparse_plan(task, budget, learning=learning)
    return picture_plan(one.candidate, task, budget, (one.name, one.verdict))


def _held_rows(dataset: Dataset) -> int:
    """Rows that trials are judged by. Raises MissingExtraError without torch."""
    strategies()
    from zgedge.train.fit import VALIDATION_MOST, VALIDATION_SHARE

    return min(VALIDATION_MOST, int(VALIDATION_SHARE * len(dataset.x_train)))


@dataclass(frozen=True)
class _Cost:
    """Seconds of a trial besides its steps, and of a unit of a step's work."""

    fixed: float
    unit: float


def _rounds(count: int) -> int:
    return max(1, math.ceil(math.log2(count)))


def _trials(count: int) -> int:
    """Trials of all rounds, of which each leaves half."""
    return sum(math.ceil(count / 2**r) for r in range(_rounds(count)))


def _affordable(tried: Sequence[Considered], cost: _Cost, seconds: float) -> int:
    """How many of the likeliest have the time for all their trials, of the fewest steps."""
    for count in range(len(tried), 1, -1):
        work = max(_work(one) for one in tried[:count])
        if _trials(count) * (cost.fixed + FEWEST_STEPS * cost.unit * work) <= seconds:
            return count
    return 1


def _unit(cost: _Cost, one: Considered) -> float:
    """Seconds of a unit of work by the trials of a candidate."""
    return max(
        max(t.seconds - cost.fixed, t.seconds / PACE_DOUBT) / (t.steps * _work(one))
        for t in one.trials
    )


class _Search:
    """Successive halving over candidates, from short trainings that a file remembers."""

    def __init__(
        self,
        dataset: Dataset,
        seed: int,
        strategy: str,
        memory: str | os.PathLike[str] | None,
        progress: Progress | None,
    ) -> None:
        none = np.zeros(0, dataset.y_test.dtype)
        # Without test rows: nothing here may look at them.
        self.dataset = replace(dataset, x_test=dataset.x_test[:0], y_test=none)
        self.seed, self.strategy = seed, strategy
        self.progress = progress or (lambda done, total, what: None)
        self.memory = None if memory is None else Path(memory)
        labels = zlib.crc32(np.ascontiguousarray(dataset.y_train).data)
        self.data = zlib.crc32(np.ascontiguousarray(dataset.x_train[:1000]).data, labels)
        self.known = self._remembered()
        self.done = self.total = 0
        # Seconds of all trials, and of those that were remembered. Time is counted by what trials
        # took, so that a search that goes on comes to the same steps, and finds its trials.
        self.spent = self.remembered = 0.0

    def run(self, tried: list[Considered], seconds: float | None) -> list[Considered]:
        """The candidates, the best first. `seconds` bounds the search where it is given: as many
        of the likeliest are tried as it has room for, and a round that takes too long is broken
        off, in which those that were best before come first."""
        cost = left = None
        alive, out = list(tried), []
        if seconds is not None:
            cost = self._cost(alive[0])
            left = max(0.0, seconds - self.spent)
            count = _affordable(alive, cost, left)
            alive, out = alive[:count], alive[count:]
            for one in out:
                one.verdict = "no time for a trial"
        if len(alive) == 1:
            alive[0].verdict = "likeliest by the prior; the time is too short for trials"
            return [*alive, *out]
        among, rounds = len(alive), _rounds(len(alive))
        self.total = _trials(len(alive))
        for r in range(rounds):
            late: list[Considered] = []
            for one, steps in zip(alive, self._steps(alive, r, rounds, left, cost), strict=True):
                over = seconds is not None and self.spent > OVERRUN * seconds
                if over and one is not alive[0]:
                    one.verdict = "no time for a longer trial" if r else "no time for a trial"
                    late.append(one)
                    continue
                one.trials.append(self.trial(one.network, steps))
            alive = [one for one in alive if one not in late]
            alive.sort(key=lambda one: one.trials[-1].loss)
            last = bool(late) or r + 1 == rounds
            keep = 1 if last else math.ceil(len(alive) / 2)
            for one in alive[keep:]:
                one.verdict = f"behind after {one.trials[-1].steps:,} steps"
            out = alive[keep:] + late + out
            alive = alive[:keep]
            if last:
                break
            if cost is not None:  # what a step of each takes is known from now on
                cost = replace(cost, unit=max(_unit(cost, one) for one in alive))
        best = alive[0]
        best.verdict = (
            f"best of {among} in short trainings: {best.accuracy:.1%} of the held-out rows "
            f"after {best.trials[-1].steps:,} steps"
        )
        return [best, *out]

    def _steps(
        self,
        alive: Sequence[Considered],
        r: int,
        rounds: int,
        seconds: float | None,
        cost: _Cost | None,
    ) -> list[int]:
        """Steps of each in round r: equal ones, or as many as fit into equal times."""
        if seconds is None or cost is None:
            return [FIRST_STEPS * 2**r] * len(alive)
        each = seconds / rounds / len(alive) - cost.fixed
        return [max(FEWEST_STEPS, int(each / (cost.unit * _work(one)))) for one in alive]

    def _cost(self, one: Considered) -> _Cost:
        """What trials take, from two of few steps. The first of them may be slow for reasons of
        its own, such as threads that start, and their difference then says nothing; so a step
        takes no less than a share of what the second took."""
        short, long = (self.trial(one.network, steps) for steps in PACE_STEPS)
        step = (long.seconds - short.seconds) / (PACE_STEPS[1] - PACE_STEPS[0])
        step = max(step, long.seconds / PACE_STEPS[1] / PACE_DOUBT)
        return _Cost(max(0.0, long.seconds - PACE_STEPS[1] * step), step / _work(one))

    def trial(self, network: Network, steps: int) -> Trial:
        """Train for so many steps, or remember it. Raises KeyboardInterrupt at Ctrl-C."""
        spec = spec_of(network)
        key = (self.data, spec, steps, self.seed, self.strategy)
        self.progress(min(self.done, self.total), self.total, spec)
        if key in self.known:
            self.remembered += self.known[key].seconds
        else:
            began = time.monotonic()
            result = train(
                self.dataset, network, strategy=self.strategy, seed=self.seed, steps=steps
            )
            if result.interrupted:
                raise KeyboardInterrupt
            seconds = time.monotonic() - began
            found = Trial(
                spec, steps, self.seed, result.validation_accuracy, result.validation_loss, seconds
            )
            self._remember(key, found)
        self.done += steps not in PACE_STEPS
        self.spent += self.known[key].seconds
        return self.known[key]

    def _remembered(self) -> dict[tuple[int, str, int, int, str], Trial]:
        known = {}
        try:
            lines = self.memory.read_bytes().splitlines() if self.memory else []
        except OSError:
            lines = []  # none yet
        for line in lines:
            try:
                row = json.loads(line)
                trial = Trial(**row["trial"])
                if row["version"] == zgedge.__version__ and _is_sound(trial):
                    known[row["data"], trial.spec, trial.steps, trial.seed, row["strategy"]] = trial
            except (ValueError, KeyError, TypeError):
                continue  # cut off by an interruption, or by an earlier version
        return known

    def _remember(self, key: tuple[int, str, int, int, str], trial: Trial) -> None:
        self.known[key] = trial
        if self.memory is None:
            return
        row = {
            "version": zgedge.__version__, "data": key[0], "strategy": key[-1],
            "trial": asdict(trial),
        }  # fmt: skip
        try:
            with self.memory.open("a+b") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":  # cut off by an interruption
                        file.write(b"\n")
                file.write(json.dumps(row).encode() + b"\n")
        except OSError as e:
            raise ZgedgeError(f"Cannot write {self.memory}: {e.strerror}.") from e


def _is_sound(trial: Trial) -> bool:
    """Whether a trial that was read holds numbers with which a search can go on."""
    whole = all(type(n) is int and n >= 0 for n in (trial.steps, trial.seed))
    real = (trial.accuracy, trial.loss, trial.seconds)
    return (
        whole
        and trial.steps > 0
        and isinstance(trial.spec, str)
        and all(type(x) in (int, float) and math.isfinite(x) for x in real)
        and trial.seconds >= 0
    )


def _work(one: Considered) -> float:
    """Multiply-adds of a training step and sample, and what each layer costs besides."""
    return one.network.operations + LAYER_WORK * (len(one.network.trunk) + 1)
