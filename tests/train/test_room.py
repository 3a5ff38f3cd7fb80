"""Room for new classes and samples that wait: found whatever is chosen, and searched once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from tests.train.test_search import Clock, pictures
from zgedge import data
from zgedge.budget import Task
from zgedge.data import Dataset
from zgedge.errors import BudgetError
from zgedge.network import KB
from zgedge.spec import spec_of
from zgedge.train import search
from zgedge.train.room import Fits, with_room
from zgedge.train.search import Choice
from zgedge.train.spare import room_for

__all__ = ["pictures"]

Choose = Callable[[int, float | None, Fits | None], Choice]


def _with_room(
    dataset: Dataset, choose: Choose, size: int, spare: int, pending: int,
    seconds: float | None = None,
) -> Choice:  # fmt: skip
    return with_room(
        choose, lambda found, share: search.shrunk(found, dataset, share),
        size, dataset.classes, spare, pending, seconds,
    )  # fmt: skip


def _total(dataset: Dataset, found: Choice, spare: int, pending: int) -> int:
    network = found.plan.network
    return network.file_bytes + room_for(network, dataset.classes, spare, pending)


def _table(inputs: int, classes: int) -> Dataset:
    x = np.random.default_rng(0).normal(size=(200, inputs)).astype(np.float32)
    names = tuple(f"c{i}" for i in range(classes))
    return Dataset(
        "made", x, np.arange(200) % classes, x[:0], np.zeros(0, np.int64), names, False,
        (1, inputs, 1), "table",
    )  # fmt: skip


@dataclass
class Drifting(Clock):
    """One on which all else takes a time, too, and never the same one twice."""

    asked: int = 0

    def monotonic(self) -> float:
        self.asked += 1
        self.now += 0.001 * (1 + self.asked % 7)
        return self.now


def test_a_search_by_time_beside_room_goes_on(
    pictures: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "state.search"
    clock = Drifting(2.0, 0.0625)
    clock.rule(monkeypatch)

    def choose(share: int, left: float | None, fits: Fits | None) -> Choice:
        return search.choose(pictures, share, seconds=left, trials=fits is not None, memory=memory)

    whole = _with_room(pictures, choose, 12 * KB, 3, 8, 300.0)
    trained = list(clock.trials)
    assert len(trained) > 6
    lines = memory.read_bytes().splitlines(keepends=True)
    assert len(lines) == len(trained)
    for kept in (3, len(lines)):
        memory.write_bytes(b"".join(lines[:kept]))
        clock.trials.clear()
        found = _with_room(pictures, choose, 12 * KB, 3, 8, 300.0)
        # All that are remembered are found; how many steps the next has, they decided.
        assert clock.trials[:1] == trained[kept : kept + 1]
    assert not clock.trials
    assert found.plan.network == whole.plan.network
    assert found.spent == whole.spent > 0


@pytest.mark.parametrize("seconds", [None, 100.0])
def test_room_takes_no_second_search(seconds: float | None) -> None:
    digits = data.load("digits")
    asked: list[tuple[float | None, bool]] = []

    def choose(share: int, left: float | None, fits: Fits | None) -> Choice:
        asked.append((left, fits is not None))
        found = search.choose(digits, share, trials=False)
        if fits is not None:
            return replace(found, seconds=80.0, spent=75.0)
        return replace(found, seconds=1.0)

    found = _with_room(digits, choose, 48 * KB, 3, 8, seconds)
    assert _total(digits, found, 3, 8) <= 48 * KB
    # The time of all trials is given whole, and all that passed is told.
    assert [left for left, trials in asked if trials] == [seconds]
    assert found.spent == 75.0
    assert found.seconds == 80.0 + len([1 for _, trials in asked if not trials])


@pytest.mark.parametrize(("spare", "place"), [(3, 1), (20, 1), (100, 1)])
def test_what_trials_chose_is_kept_where_its_room_takes_more(spare: int, place: int) -> None:
    digits = data.load("digits")
    task, size = Task.of(digits), 48 * KB
    won: list[Choice] = []

    def choose(share: int, left: float | None, fits: Fits | None) -> Choice:
        found = search.choose(digits, share, trials=False, fits=fits)
        if fits is None:
            return found
        best = replace(found.considered[place], verdict="best of all")
        rest = [one for i, one in enumerate(found.considered) if i != place]
        plan = search._plan(best, task, share, True)
        won.append(replace(found, plan=plan, considered=(best, *rest), seconds=80.0, spent=75.0))
        return won[-1]

    found = _with_room(digits, choose, size, spare, 0, 75.0)
    assert len(won) == 1
    assert _total(digits, won[0], spare, 0) > size >= _total(digits, found, spare, 0)
    bare = [
        replace(x.plan.network, replay_samples=0, replay_bits=0, align=8) for x in (found, won[0])
    ]
    assert bare[0] == bare[1]
    # What is shown is what there is now.
    assert found.considered[0].spec == found.spec == spec_of(found.plan.network)
    assert found.considered[0].verdict == "best of all"
    assert found.plan.reasons[0] == won[0].plan.reasons[0]
    replay = [what for what, _ in found.plan.reasons if what.startswith("replay of")]
    assert replay == [f"replay of {found.plan.network.replay_samples:,} samples"]
    assert found.considered[1:] == won[0].considered[1:]
    assert found.spent == 75.0


def test_the_plan_without_trials_stands_where_what_they_chose_leaves_no_room() -> None:
    digits = data.load("digits")
    asked = []

    def choose(share: int, left: float | None, fits: Fits | None) -> Choice:
        asked.append(fits is not None)
        found = search.choose(digits, share, trials=False)
        if fits is None:
            return found
        huge = search.choose(digits, 64 * KB, network="d512").plan
        first = replace(found.considered[0], network=huge.network)
        return replace(found, plan=huge, considered=(first,), spent=100.0)

    found = _with_room(digits, choose, 16 * KB, 3, 0, 100.0)
    assert _total(digits, found, 3, 0) <= 16 * KB
    assert sum(asked) == 1
    assert found.spent == 100.0


@pytest.mark.parametrize(("spare", "pending"), [(3, 0), (5, 50), (100, 0), (17, 300)])
@pytest.mark.parametrize("name", ["digits", "table"])
def test_every_larger_budget_works_too(name: str, spare: int, pending: int) -> None:
    dataset = data.load("digits") if name == "digits" else _table(256, 8)
    plans = 0

    def choose(share: int, left: float | None, fits: Fits | None) -> Choice:
        nonlocal plans
        plans += 1
        return search.choose(dataset, share, trials=False)

    named: set[int | None] = set()
    works = []
    for size in (1000, 2048, 3500, 4700, 8 * KB, 13 * KB, 14 * KB, 15 * KB, 20 * KB, 30 * KB):
        plans = 0
        try:
            found = _with_room(dataset, choose, size, spare, pending)
        except BudgetError as error:
            refused = error
        else:
            works.append(size)
            assert _total(dataset, found, spare, pending) <= size
            continue
        assert f"{spare} spare classes and {pending} samples" in str(refused)
        assert not works
        assert plans <= 30
        named.add(refused.smallest)
    # One budget is named as enough, and it is no more than was seen to be.
    assert len(named) == 1
    least = named.pop() or 0
    assert not works or least <= works[0]
    assert _total(dataset, _with_room(dataset, choose, least, spare, pending), spare, pending)


def test_a_latency_that_nothing_meets_is_told_as_that() -> None:
    digits = data.load("digits")

    def choose(share: int, left: float | None, fits: Fits | None) -> Choice:
        return search.choose(
            digits, share, trials=False, latency=lambda _: 1.0, most_latency=1e-9
        )  # fmt: skip

    with pytest.raises(BudgetError, match="No network takes") as e:
        _with_room(digits, choose, 16 * KB, 3, 0)
    assert e.value.smallest is None
