"""Power cuts, kills and failing disks, simulated. `python -m zgedge.bench.crashes` has a million
states; here are twenty thousand of the same, and stores that are built wrong and must be caught."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from zgedge.bench import crashes
from zgedge.bench.crashes import SMALL, History, SimulatedFile, Tally, World
from zgedge.runtime import store
from zgedge.runtime.disk import Disk
from zgedge.runtime.store import Slots

STATES = 20_000
ROWS = [row[0] for row in crashes.rows()]


@pytest.fixture(scope="module")
def found() -> dict[str, Tally]:
    return crashes.measure(STATES)


def test_no_state_is_unreadable_or_wrong(found: dict[str, Tally]) -> None:
    assert sum(t.states for t in found.values()) >= STATES
    for name, tally in found.items():
        assert (tally.unreadable, tally.wrong) == (0, 0), name


def test_no_state_is_older_than_the_last_completed_commit(found: dict[str, Tally]) -> None:
    for name, tally in found.items():
        assert tally.older == 0, name


def test_the_simulator_did_all_that_it_says(found: dict[str, Tally]) -> None:
    assert list(found)[1:] == ROWS
    assert found["every byte of every write, in order"].states == 3 * (SMALL.payload + 128)
    for tally in list(found.values())[1:]:
        assert set(tally.cuts) == set(crashes.CUTS)
        assert tally.commits
        assert all(tally.came_up.values())
    assert found["and the process killed"].kills > 10
    assert found["and calls that fail with EIO"].failures > 20
    lying = found["a disk that lies about syncs"]
    assert min(lying.came_up.values()) > 100
    assert len(lying.came_up) == 3


def broken(
    monkeypatch: pytest.MonkeyPatch, name: str, to: Callable[..., object], **options: object
) -> Tally:
    """What the simulator finds of slots that have one method replaced."""
    monkeypatch.setattr(Slots, name, to)
    tally = Tally()
    for seed in range(10):
        one = Tally()
        world = World(random.Random(seed), SMALL.sector, **options)  # type: ignore[arg-type]
        History(world, SMALL, one, 400).run()
        tally.add(one)
    return tally


def test_notices_a_commit_into_the_newest_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    same = property(lambda self: 0 if self.newest is None else self.newest)
    assert broken(monkeypatch, "target", same).older  # type: ignore[arg-type]


def test_notices_a_payload_that_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(self: Slots, i: int, head: store.Header, into: memoryview) -> None:
        store.read_all(self.disks[i], into, head.payload_at)

    assert broken(monkeypatch, "_read", read).wrong


def test_notices_a_commit_without_a_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Slots._step

    def quick(self: Slots, sync: object) -> bool:
        return step(self, lambda disk: True)

    assert broken(monkeypatch, "_step", quick).older


def test_notices_a_start_that_trusts_what_the_system_remembers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SimulatedFile, "settle", lambda self: None)
    found = [
        broken(monkeypatch, "busy", Slots.busy, kill=0.2, fail=0.2),  # type: ignore[arg-type]
    ]
    assert any(t.older for t in found)


def test_notices_an_error_in_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(self: Slots, i: int) -> None:
        raise ValueError("torn")

    monkeypatch.setattr(Slots, "_look", look)
    tally = Tally()
    world = World(random.Random(0), SMALL.sector)
    history = History(world, SMALL, tally, 10)
    history.look([bytearray(SMALL.slot), bytearray(SMALL.slot)], "ordered")
    assert tally.unreadable == 1


def test_simulated_disk_keeps_what_was_synced_and_may_lose_the_rest() -> None:
    world = World(random.Random(0), 8)
    file = SimulatedFile(bytes(64), world, lambda: None)
    disk: Disk = file
    store.write_all(disk, memoryview(b"a" * 32), 0)
    disk.sync()
    store.write_all(disk, memoryview(b"b" * 64), 0)
    for how in crashes.CUTS:
        images = {bytes(file.after_cut(how)) for _ in range(200)}
        assert len(images) > 5, how
        assert all(len(image) == 64 for image in images)
        if how != "garbage":
            assert all(re.fullmatch(rb"[ab]{32}[b\0]{32}", image) for image in images)
    back = bytearray(64)
    assert disk.pread(memoryview(back), 0) == 64
    assert bytes(back) == b"b" * 64


def test_results_are_of_a_million_states(root: Path) -> None:
    text = (root / "docs" / "results" / "crashes.md").read_text()
    (total,) = re.findall(r"^- ([\d,]+) states after a power cut", text, re.MULTILINE)
    assert int(total.replace(",", "")) >= 1_000_000
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ") and "---" not in line and "unreadable" not in line
    ]
    assert [row[0] for row in rows] == ["every byte of every write, in order", *ROWS]
    assert all(row[2:5] == ["0", "0", "0"] for row in rows)
