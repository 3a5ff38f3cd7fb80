"""The search: the same choice each time, within the budget, and interrupted without loss."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from zgedge import data
from zgedge.bench.latency import parse_latency
from zgedge.budget import Task, plan
from zgedge.data import Dataset
from zgedge.errors import BudgetError
from zgedge.network import KB, Network
from zgedge.spec import spec_of
from zgedge.train import search
from zgedge.train.duration import format_latency


@pytest.fixture(scope="module")
def pictures() -> Dataset:
    """Bars, upright or lying, at any place: 8 x 8, two classes, enough to hold rows out."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    x = rng.integers(0, 60, (400, 8, 8)).astype(np.uint8)
    for i, lying in enumerate(y):
        at = rng.integers(0, 8)
        x[i][at if lying else slice(None), slice(None) if lying else at] = 255
    x = x.reshape(400, 64)
    return Dataset(
        name="bars", x_train=x, y_train=y, x_test=x[:20], y_test=1 - y[:20],
        classes=("up", "lying"), int_classes=False, shape=(8, 8, 1), kind="picture",
        feature_names=None,
    )  # fmt: skip


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search of three candidates and a few steps."""
    monkeypatch.setattr(search, "FIRST", 3)
    monkeypatch.setattr(search, "FIRST_STEPS", 4)
    monkeypatch.setattr(search, "FEWEST_HELD", 10)


@pytest.mark.usefixtures("short")
def test_search_is_the_same_each_time(pictures: Dataset) -> None:
    one, two = (search.choose(pictures, 12 * KB, seed=3) for _ in range(2))
    assert one.spec == two.spec
    assert [c.accuracy for c in one.considered] == [c.accuracy for c in two.considered]
    best = one.considered[0]
    assert one.plan.bytes <= 12 * KB
    assert spec_of(one.plan.network) == best.spec
    tried = [c for c in one.considered if c.trials]
    assert len(tried) == 3
    # The last round is longer, and the best was in it.
    assert best.trials[-1].steps == max(t.steps for c in tried for t in c.trials) == 8


@pytest.mark.usefixtures("short")
def test_test_rows_are_never_looked_at(pictures: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    inner = search.train

    def watched(dataset: Dataset, network: Network, **options: object) -> object:
        seen.append(len(dataset.x_test))
        return inner(dataset, network, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(search, "train", watched)
    search.choose(pictures, 12 * KB)
    assert seen
    assert set(seen) == {0}


@pytest.mark.usefixtures("short")
def test_interrupted_search_goes_on(
    pictures: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "state.search"
    inner, calls = search.train, 0

    def interrupted(dataset: Dataset, network: Network, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return inner(dataset, network, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(search, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search.choose(pictures, 12 * KB, memory=memory)
    assert len(memory.read_text().splitlines()) == 2
    with memory.open("ab") as file:
        file.write(b'\xff\n{"data": 1, "tri')  # damaged, and cut off in the middle of a line
    found = search.choose(pictures, 12 * KB, memory=memory)
    assert calls == 3 + 3  # five trials in all, two of them remembered
    monkeypatch.setattr(search, "train", inner)
    assert found.spec == search.choose(pictures, 12 * KB).spec


@pytest.mark.usefixtures("short")
def test_time_becomes_steps(pictures: Dataset) -> None:
    found = search.choose(pictures, 12 * KB, seconds=20.0)
    trials = found.considered[0].trials
    assert trials
    assert all(t.steps >= search.FEWEST_STEPS for t in trials)


@dataclass
class Clock:
    """A machine where a trial takes a fixed time and one for each step; `slows` times as long from
    the third on."""

    fixed: float
    step: float
    slows: float = 1.0
    now: float = 0.0
    trials: list[int] = field(default_factory=list)

    def rule(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let a search go by this clock, with trials of few rows."""
        monkeypatch.setattr(search, "FEWEST_HELD", 10)
        monkeypatch.setattr(search, "train", self.train)
        monkeypatch.setattr(search, "time", self)

    def monotonic(self) -> float:
        return self.now

    def train(
        self, dataset: Dataset, network: Network, *, steps: int, **options: object
    ) -> SimpleNamespace:
        self.trials.append(steps)
        slows = self.slows if len(self.trials) > len(search.PACE_STEPS) else 1.0
        self.now += slows * (self.fixed + self.step * steps)
        return SimpleNamespace(
            interrupted=False, validation_accuracy=0.5, validation_loss=1 / network.operations
        )


@pytest.mark.parametrize("seconds", [20.0, 60.0, 200.0, 2000.0])
@pytest.mark.parametrize("clock", [Clock(5.0, 0.05), Clock(0.1, 0.2), Clock(2.0, 0.1, 6.0)])
def test_a_search_keeps_to_its_time(
    pictures: Dataset, monkeypatch: pytest.MonkeyPatch, clock: Clock, seconds: float
) -> None:
    clock = replace(clock, trials=[])
    clock.rule(monkeypatch)
    monkeypatch.setattr(search, "_work", lambda one: 1.0)
    found = search.choose(pictures, 12 * KB, seconds=seconds)
    pace = 2 * clock.fixed + clock.step * sum(search.PACE_STEPS)
    longest = clock.fixed + clock.step * max(*clock.trials, search.FEWEST_STEPS)
    assert clock.now <= max(pace, search.OVERRUN * seconds + clock.slows * longest)
    if seconds == 2000.0:
        assert sum(bool(one.trials) for one in found.considered) >= 2
        assert clock.slows > 1 or clock.now > 0.7 * seconds
    if seconds < 2 * pace:
        assert "too short for trials" in found.considered[0].verdict


def test_a_search_by_time_that_was_interrupted_goes_on(
    pictures: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time is what trials took, so those that are remembered are found, and count."""
    memory = tmp_path / "state.search"
    clock = Clock(2.0, 0.0625)
    clock.rule(monkeypatch)
    whole = search.choose(pictures, 12 * KB, seconds=300.0, memory=memory)
    assert len(clock.trials) > 6
    lines = memory.read_bytes().splitlines(keepends=True)
    assert len(lines) == len(clock.trials)
    for kept in range(len(lines) + 1):
        memory.write_bytes(b"".join(lines[:kept]))
        before, clock.now = list(clock.trials), clock.now + 1000 + kept
        found = search.choose(pictures, 12 * KB, seconds=300.0, memory=memory)
        assert clock.trials[len(before) :] == before[kept : len(lines)]
        assert found.spec == whole.spec
        assert found.seconds == whole.seconds
        clock.trials = before[: len(lines)]


@pytest.mark.usefixtures("short")
def test_only_sound_trials_of_the_same_search_are_remembered(
    pictures: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "state.search"
    clock = Clock(2.0, 0.0625)
    monkeypatch.setattr(search, "train", clock.train)
    search.choose(pictures, 12 * KB, memory=memory)
    whole, made = memory.read_bytes(), len(clock.trials)
    lines = whole.splitlines(keepends=True)
    assert len(lines) == made > 3

    def trained(text: bytes, dataset: Dataset = pictures) -> int:
        memory.write_bytes(text)
        clock.trials.clear()
        search.choose(dataset, 12 * KB, memory=memory)
        return len(clock.trials)

    assert trained(whole) == 0
    # What follows a line that was cut off is a line of its own.
    assert trained(whole[:-5]) == 1
    assert trained(memory.read_bytes()) == 0
    # A trial that cannot have been written is made anew.
    for name, value in (
        ("loss", float("nan")), ("loss", "0.1"), ("loss", None), ("accuracy", [1]),
        ("seconds", float("inf")), ("seconds", -1.0), ("seconds", True), ("steps", 1.5),
    ):  # fmt: skip
        row = json.loads(lines[0])
        row["trial"][name] = value
        assert trained(json.dumps(row).encode() + b"\n" + b"".join(lines[1:])) == 1, (name, value)
    # Other labels, and another version, are another search.
    assert trained(whole, replace(pictures, y_train=1 - pictures.y_train)) == made
    monkeypatch.setattr("zgedge.__version__", "0.0.1")
    assert trained(whole) == made


def test_a_plan_that_shrinks_tells_anew_what_its_bytes_decide() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(400, 12)), rng.integers(0, 3, 400)
    names = tuple(f"column {i}" for i in range(12))
    rows = Dataset("t", x, y, x[:9], y[:9], ("a", "b", "c"), False, (1, 12, 1), "table", names)
    chosen = search.choose(rows, 16 * KB, trials=False)
    made = search.shrunk(chosen, rows, chosen.plan.bytes - 2000)
    told, before = [[what for what, _ in x.plan.reasons] for x in (made, chosen)]
    assert [what.split()[0] for what in told] == [what.split()[0] for what in before]
    assert f"replay of {made.plan.network.replay_samples:,} samples" in told
    assert "names of 12 columns" in told


@pytest.mark.usefixtures("short")
def test_a_slow_start_does_not_make_the_search_long(
    pictures: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, asked = search.train, []

    def slow_at_first(
        dataset: Dataset, network: Network, *, steps: int, **options: object
    ) -> object:
        asked.append(steps)
        assert steps < 10_000
        if len(asked) == 1:
            time.sleep(1)  # the second trial then seems to take less than no time
        return inner(dataset, network, steps=steps, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(search, "train", slow_at_first)
    search.choose(pictures, 12 * KB, seconds=0.5)
    assert asked[:2] == list(search.PACE_STEPS)


def test_few_rows_are_left_to_the_prior() -> None:
    digits = data.load("digits")
    found = search.choose(digits, 16 * KB)
    assert found.plan.network == plan(Task.of(digits), 16 * KB).network
    assert "held-out rows are too few" in found.considered[0].verdict
    assert not any(c.trials for c in found.considered)


def test_latency_that_nothing_meets_says_what_would(pictures: Dataset) -> None:
    def cost(network: Network) -> float:
        return network.operations * 1e-9

    with pytest.raises(BudgetError) as e:
        search.choose(pictures, 12 * KB, latency=cost, most_latency=1e-9, trials=False)
    found = search.choose(pictures, 12 * KB, latency=cost, most_latency=1.0, trials=False)
    fastest = min(found.considered, key=lambda c: c.latency or 0.0)
    assert fastest.spec in str(e.value)
    assert f"takes {format_latency(fastest.latency or 0.0)}, the least" in str(e.value)
    least = parse_latency(format_latency(fastest.latency or 0.0))
    assert search.choose(pictures, 12 * KB, latency=cost, most_latency=least, trials=False)
    # What is asked for is kept.
    slow = max(c.latency or 0.0 for c in found.considered)
    kept = search.choose(pictures, 12 * KB, latency=cost, most_latency=slow / 2, trials=False)
    assert all((c.latency or 0.0) <= slow / 2 for c in kept.considered)


def test_named_network_is_not_searched(pictures: Dataset) -> None:
    found = search.choose(pictures, 12 * KB, network="c3x8 c3/2x8 m s:4/4")
    assert found.spec.startswith("c3x8 c3/2x8 m s:4/4 b")
    assert len(found.considered) == 1
