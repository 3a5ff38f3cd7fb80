"""The store: slots on real files, bad ones, disks that fail at each call, wear, the event log."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests import nets
from zgedge.errors import ModelError, UsageError, ZgedgeError
from zgedge.network import dense
from zgedge.runtime import Learner, Model, disk, events
from zgedge.runtime import store as stores
from zgedge.runtime.disk import Disk, File
from zgedge.runtime.events import EventLog
from zgedge.runtime.store import DAY, PAGE, Store

NET = nets.network(replay_samples=16, replay_bits=4, batch=4)
BLOB = nets.file(NET)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def opened(folder: Path, blob: bytes = BLOB, **options: object) -> Store:
    return Store.open(folder, blob, **options)


def states(n: int, seed: int = 0) -> Iterator[memoryview]:
    """Sealed arenas of a model that learns."""
    learner = Learner(Model(nets.buffer(BLOB)))
    x, y = nets.samples(NET, 4 * n, seed)
    for i in range(n):
        for k in range(4):
            learner.learn_one(x[4 * i + k], y[4 * i + k])
        learner.seal()
        yield memoryview(learner.model.to_bytes())


# ---- what it is for ----


def test_newest_state_comes_back(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        assert store.load() is None
        assert store.slots == ["empty", "empty"]
        for state in states(3):
            assert store.commit(state)
        assert store.status()["generation"] == 3
    with opened(tmp_path) as store:
        back = store.load()
        assert back is not None
        assert bytes(back) == bytes(state)
        assert store.slots == ["whole", "whole"]
        assert store.loaded == 3
        assert Model(back).arena.generation


def test_disk_has_its_full_length_from_the_start_and_never_another(tmp_path: Path) -> None:
    def sizes() -> dict[str, tuple[int, int]]:
        return {p.name: (p.stat().st_size, p.stat().st_blocks) for p in tmp_path.iterdir()}

    with opened(tmp_path, erase=PAGE) as store:
        first = sizes()
        assert set(first) == {"slot-a", "slot-b", "events", "lock"}
        slot = -(-(PAGE + len(BLOB)) // PAGE) * PAGE
        assert first["slot-a"][0] == first["slot-b"][0] == slot
        assert first["slot-a"][1] * 512 >= slot
        for state in states(20):
            store.commit(state)
            store.log.add("committed")
        assert sizes() == first
    with opened(tmp_path, erase=PAGE):
        assert sizes() == first


def test_slots_are_padded_to_erase_blocks(tmp_path: Path) -> None:
    with opened(tmp_path):
        assert (tmp_path / "slot-a").stat().st_size == 128 * 1024
    assert stores.slot_bytes(128 * 1024) == 256 * 1024


def test_a_commit_is_made_of_bounded_pieces(tmp_path: Path) -> None:
    blob = nets.file(nets.network((1, 900, 1), (dense(900, 90),)))
    with opened(tmp_path, blob) as store:
        calls = []
        assert store._slots is not None
        for file in store._slots.disks:
            assert isinstance(file, File)

            def pwrite(data: memoryview, at: int, fd: int = file.fd) -> int:
                calls.append(len(data))
                return os.pwrite(fd, data, at)

            file.pwrite = pwrite  # type: ignore[method-assign]
        store.begin(memoryview(blob))
        assert store.busy
        steps = 1
        while store.step():
            steps += 1
        assert steps == len(calls) + 1 == -(-len(blob) // stores.PIECE) + 2
        assert max(calls) <= stores.PIECE
        assert not store.busy
        assert store.generation == 1


def test_the_state_is_copied_when_a_commit_begins(tmp_path: Path) -> None:
    first, second = map(bytes, states(2))
    state = bytearray(first)
    with opened(tmp_path) as store:
        store.begin(memoryview(state))
        state[:] = second
        assert store.finish()
    with opened(tmp_path) as store:
        assert bytes(store.load()) == first  # type: ignore[arg-type]


def test_background_sync_does_not_wait(tmp_path: Path) -> None:
    import threading

    gate = threading.Event()

    class Slow(File):
        def sync(self) -> None:
            gate.wait()
            super().sync()

    def opener(path: str, size: int) -> Disk:
        file = disk.open_file(path, size)
        assert isinstance(file, File)
        return Slow(file.fd)

    (state,) = states(1)
    with opened(tmp_path, background=True, opener=opener) as store:
        store.begin(state)
        for _ in range(100):
            assert store.step()
        assert store.busy
        gate.set()
        assert store.finish()
        assert store.generation == 1


# ---- intervals and wear ----


def test_least_interval_by_a_clock_that_only_goes_forward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    (state,) = states(1)
    with opened(tmp_path, clock=clock, interval=60) as store:
        assert not store.due()
        clock.now += 60
        assert store.due()
        monkeypatch.setattr("time.time", lambda: 0.0)  # the wall's clock is set back
        store.commit(state)
        assert not store.due()
        clock.now += 59.9
        assert not store.due()
        clock.now += 0.2
        assert store.due()


def test_wear_is_counted_in_whole_pages_and_kept(tmp_path: Path) -> None:
    clock = Clock()
    pages = PAGE + -(-len(BLOB) // PAGE) * PAGE
    (state,) = states(1)
    with opened(tmp_path, clock=clock) as store:
        clock.now += DAY / 2
        store.commit(state)
        store.commit(state)
        found = store.status()
        assert (found["commits"], found["written"]) == (2, 2 * pages)
        assert found["written_a_day"] == 4 * pages
        store.log.add("started")
        assert store.status()["written"] == 2 * pages + PAGE
        store.commit(state)
    with opened(tmp_path, clock=clock) as store:
        store.load()
        found = store.status()
        assert (found["commits"], found["written"]) == (3, 3 * pages + PAGE)
        assert found["written_today"] == 3 * pages + PAGE
        clock.now += DAY / 2 + 1
        store.commit(state)
        found = store.status()
        assert found["running"] == DAY + 1
        assert found["written_today"] == pages
        assert found["written_day_before"] == 3 * pages + PAGE
        clock.now += 3 * DAY
        store.commit(state)
        assert store.status()["written_day_before"] == 0


# ---- slots that are damaged or another's ----


def two_commits(folder: Path) -> list[bytes]:
    made = [bytes(state) for state in states(2)]
    with opened(folder) as store:
        for state in made:
            store.commit(memoryview(state))
    return made


@pytest.mark.parametrize("at", [0, 5, 40, 100, 127, PAGE, PAGE + 100, PAGE + len(BLOB) - 1])
def test_a_damaged_slot_falls_back_to_the_other(tmp_path: Path, at: int) -> None:
    first, second = two_commits(tmp_path)
    flip(tmp_path / "slot-b", at)
    with opened(tmp_path) as store:
        assert bytes(store.load()) == first  # type: ignore[arg-type]
        assert store.slots[0] == "whole"
        assert store.slots[1].startswith("damaged: ")
        assert store.commit(memoryview(second))
    with opened(tmp_path) as store:
        assert bytes(store.load()) == second  # type: ignore[arg-type]
        assert store.slots == ["whole", "whole"]


def test_both_damaged_says_so_and_starts_from_the_deployed_model(tmp_path: Path) -> None:
    two_commits(tmp_path)
    flip(tmp_path / "slot-a", PAGE + 7)
    flip(tmp_path / "slot-b", 30)
    with opened(tmp_path) as store:
        assert store.load() is None
        assert store.slots == ["damaged: its state is torn", "damaged: its header is torn"]
        (state,) = states(1, seed=5)
        assert store.commit(state)
    with opened(tmp_path) as store:
        assert bytes(store.load()) == bytes(state)  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [0, 60, PAGE, PAGE + 50])
def test_a_slot_that_was_cut(tmp_path: Path, length: int) -> None:
    first, _ = two_commits(tmp_path)
    os.truncate(tmp_path / "slot-b", length)
    with opened(tmp_path) as store:  # its length is restored, what it held is not
        assert bytes(store.load()) == first  # type: ignore[arg-type]
        assert (tmp_path / "slot-b").stat().st_size == (tmp_path / "slot-a").stat().st_size


def test_every_flipped_bit_of_a_header_is_noticed(tmp_path: Path) -> None:
    two_commits(tmp_path)
    raw = (tmp_path / "slot-b").read_bytes()[: stores.HEADER_BYTES]
    assert stores.Header.unpack(raw) is not None
    for bit in range(8 * len(raw)):
        bad = bytearray(raw)
        bad[bit // 8] ^= 1 << bit % 8
        assert stores.Header.unpack(bytes(bad)) is None, bit


def test_a_state_that_the_core_refuses_falls_back(tmp_path: Path) -> None:
    first, second = two_commits(tmp_path)
    wrong = bytearray(second)
    wrong[-1] ^= 1
    with opened(tmp_path) as store:
        store.load()
        store.commit(memoryview(first))
        store.commit(memoryview(wrong))
    with opened(tmp_path) as store:
        back = store.load(check=lambda state: Model(state))
        assert bytes(back) == first  # type: ignore[arg-type]
        assert "checksum" in store.slots[1]


@pytest.mark.parametrize("damage", ["none", "header of the other"])
def test_a_file_of_another_model_is_refused(tmp_path: Path, damage: str) -> None:
    two_commits(tmp_path)
    if damage != "none":
        flip(tmp_path / "slot-b", 30)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    other = bytearray(BLOB)
    other[-1] ^= 1
    with (
        opened(tmp_path, bytes(other)) as store,
        pytest.raises(ModelError, match=r"holds the state of another model.*--state"),
    ):
        store.load()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_slot_of_a_later_version_is_refused(tmp_path: Path) -> None:
    two_commits(tmp_path)
    raw = bytearray((tmp_path / "slot-b").read_bytes())
    raw[4] = 2
    raw[112:128] = stores.digest(bytes(raw[:112]))
    (tmp_path / "slot-b").write_bytes(raw)
    with opened(tmp_path) as store, pytest.raises(ModelError, match="later zgedge"):
        store.load()


# ---- one owner ----


def test_two_services_on_one_folder_are_refused(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(ZgedgeError, match="Another service learns in"):
        opened(tmp_path)
    opened(tmp_path).close()


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(ZgedgeError, match="Cannot keep learned state in"):
        opened(tmp_path / "state")


@pytest.mark.parametrize("options", [{"erase": 1000}, {"erase": 12288}, {"interval": -1.0}])
def test_options_that_mean_nothing(tmp_path: Path, options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="means nothing"):
        opened(tmp_path, **options)


# ---- disks that fail ----


class Failing:
    """Fails the calls of all files, from the one numbered `at` on for `calls`."""

    def __init__(self, at: int, number: int, calls: int = 1, writes_only: bool = False) -> None:
        self.at, self.number, self.calls, self.count = at, number, calls, 0
        self.writes_only = writes_only

    def check(self, write: bool = True) -> None:
        if self.writes_only and not write:
            return
        self.count += 1
        if self.at <= self.count - 1 < self.at + self.calls:
            raise OSError(self.number, os.strerror(self.number))

    def open(self, path: str, size: int) -> Disk:
        self.check()
        file = disk.open_file(path, size)
        assert isinstance(file, File)
        return FailingFile(file.fd, self)


class FailingFile(File):
    def __init__(self, fd: int, plan: Failing) -> None:
        super().__init__(fd)
        self.plan = plan

    def pread(self, into: memoryview, at: int) -> int:
        self.plan.check(write=False)
        return super().pread(into, at)

    def pwrite(self, data: memoryview, at: int) -> int:
        self.plan.check()
        return super().pwrite(data, at)

    def sync(self) -> None:
        self.plan.check()
        super().sync()


def work(folder: Path, plan: Failing) -> tuple[list[bytes], int]:
    """Two commits, an event with each; the states, and how many commits ended well."""
    clock = Clock()
    made = [bytes(state) for state in states(2, seed=3)]
    well = 0
    with opened(folder, opener=plan.open, clock=clock) as store:
        store.load()
        for state in made:
            store.log.add("committed")
            ended = store.commit(memoryview(state))
            assert ended == (store.failure is None)
            well += ended
            clock.now += 10_000
    return made, well


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS])
def test_an_error_at_each_call_in_turn(tmp_path: Path, number: int) -> None:
    counting = Failing(10**9, number)
    work(tmp_path / "count", counting)
    assert counting.count >= 16
    for at in range(counting.count):
        folder = tmp_path / str(at)
        earlier = two_commits(folder)
        made, well = work(folder, Failing(at, number))
        assert well >= 1, at  # one error costs one commit at most
        with opened(folder) as store:
            back = store.load()
            assert back is not None, at
            assert bytes(back) in (made[1], made[0], earlier[1]), at
            if well == 2:
                assert bytes(back) == made[1], at
        shutil.rmtree(folder)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("at", [0, 1, 2, 7, 12])
def test_a_disk_that_goes_on_failing(tmp_path: Path, number: int, at: int) -> None:
    _, second = two_commits(tmp_path)
    plan = Failing(at, number, 10**9, writes_only=True)
    clock = Clock()
    (state,) = states(1, seed=8)
    with opened(tmp_path, opener=plan.open, clock=clock, interval=0) as store:
        back = store.load()
        assert back is None or bytes(back) == second
        for _ in range(5):
            clock.now += 20_000
            store.log.add("bad input", "a row")
            store.commit(state)
        assert os.strerror(number) in (store.failure or "")
        assert store.status()["failure"] == store.failure
        assert not store.due()  # not at once again
        clock.now += stores.RETRY_LEAST / 2
        assert not store.due()
        clock.now += stores.RETRY_MOST
        assert store.due()
        plan.calls = 0  # the disk is well again
        assert store.commit(state)
        assert store.failure is None
        assert store.log.failure is None
        assert store.log.behind == 0
        assert [e.text for e in store.log.tail(3)] == ["a row"] * 3
    with opened(tmp_path) as store:
        assert bytes(store.load()) == bytes(state)  # type: ignore[arg-type]
        assert [e.text for e in store.log.tail(3)] == ["a row"] * 3


def test_retries_are_rarer_and_rarer(tmp_path: Path) -> None:
    clock = Clock()
    (state,) = states(1)
    plan = Failing(3, errno.EIO, 10**9, writes_only=True)
    with opened(tmp_path, opener=plan.open, clock=clock, interval=0) as store:
        store.load()
        waits = []
        for _ in range(10):
            store.commit(state)
            waits.append(0.0)
            while not store.due():
                clock.now += 1
                waits[-1] += 1
        assert waits[:4] == [5, 10, 20, 40]
        assert waits[-1] == stores.RETRY_MOST


def test_a_disk_that_could_not_be_opened_is_looked_at_before_it_is_written(tmp_path: Path) -> None:
    two_commits(tmp_path)
    plan = Failing(0, errno.EIO)
    clock = Clock()
    other = bytearray(BLOB)
    other[-1] ^= 1
    for blob, ends in ((BLOB, True), (bytes(other), False)):
        plan.count = 0
        with opened(tmp_path, blob, opener=plan.open, clock=clock) as store:
            assert store.load() is None
            assert store.failure
            assert store.commit(memoryview(blob)) is ends
            if ends:
                assert store.generation == 3
            else:
                assert "another model" in (store.failure or "")


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="needs root")
def test_a_read_only_file_system(tmp_path: Path) -> None:
    """Read, not written; and written as soon as it can be."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", folder], capture_output=True).returncode:
        pytest.skip("may not mount")
    try:
        first, second = two_commits(folder)
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        clock = Clock()
        with opened(folder, clock=clock) as store:
            assert bytes(store.load()) == second  # type: ignore[arg-type]
            assert not store.commit(memoryview(first))
            assert "Read-only file system" in (store.failure or "")
            with pytest.raises(ZgedgeError, match="Another service"):
                opened(folder)
            subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
            clock.now += 1e6
            assert store.commit(memoryview(first))
            assert store.generation == 3
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="needs root")
def test_a_full_disk(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=200k", "none", folder]
    if subprocess.run(options, capture_output=True).returncode:
        pytest.skip("may not mount")
    try:
        clock = Clock()
        (state,) = states(1)
        with opened(folder, clock=clock) as store:
            assert store.load() is None
            assert "No space left on device" in (store.failure or "")
            assert not store.commit(state)
            subprocess.run(["mount", "-o", "remount,size=10m", folder], check=True)
            clock.now += 1e6
            assert store.commit(state)
        with opened(folder) as store:
            assert bytes(store.load()) == bytes(state)  # type: ignore[arg-type]
    finally:
        subprocess.run(["umount", folder], check=True)


def test_start_without_memory(tmp_path: Path) -> None:
    """The kernel refuses memory at start-up: an error, and no file is harmed."""
    two_commits(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    code = (
        "import resource, sys\n"
        "from zgedge.runtime.store import Store\n"
        "big = bytes(1 << 26)\n"
        "now = next(int(l.split()[1]) for l in open('/proc/self/status') if 'VmData' in l) * 1024\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (now + (1 << 20),) * 2)\n"
        "try:\n    Store.open(sys.argv[1], big)\n"
        "except MemoryError:\n    print('no memory')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "no memory\n", done.stderr
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


# ---- the event log ----


def log_at(path: Path) -> EventLog:
    log = EventLog(wall=lambda: 1700000000.5)
    log.attach(disk.open_file(str(path), events.LOG_BYTES))
    return log


def test_events_come_back_in_order(tmp_path: Path) -> None:
    log = log_at(tmp_path / "events")
    log.add("started", "digits.zge", step=7)
    log.add("drift", "level 2", step=9, value=-3, more=1 << 40)
    log.close()
    again = log_at(tmp_path / "events")
    one, two = again.tail(5)
    assert (one.number, one.kind, one.text, one.step, one.time) == (
        1, "started", "digits.zge", 7, 1700000000.5,
    )  # fmt: skip
    assert (two.number, two.kind, two.value, two.more) == (2, "drift", -3, 1 << 40)
    again.add("stopped")
    assert again.number == 3


def test_the_ring_keeps_the_last_and_the_file_its_length(tmp_path: Path) -> None:
    log = log_at(tmp_path / "events")
    for i in range(events.RECORDS + 100):
        log.add("bad input", step=i)
    assert (tmp_path / "events").stat().st_size == events.LOG_BYTES
    log.close()
    log = log_at(tmp_path / "events")
    assert log.number == events.RECORDS + 100
    kept = log.tail(10_000)
    assert [e.step for e in kept] == list(range(100, events.RECORDS + 100))


def test_a_text_is_cut_between_characters(tmp_path: Path) -> None:
    log = EventLog()
    log.add("source", "ä" * 100)
    log.add("source", "x" + "ä" * 100)
    log.add("source", "\udcff")
    assert [e.text for e in log.tail(3)] == ["ä" * 40, "x" + "ä" * 39, "?"]


def test_torn_records_are_passed_over(tmp_path: Path) -> None:
    """Whatever is torn, what comes back is what was added, and the ring goes on."""
    rng = random.Random(0)
    path = tmp_path / "events"
    log = log_at(path)
    for i in range(40):
        log.add("bad input", f"row {i}", step=i)
    log.close()
    whole = path.read_bytes()
    for _ in range(60):
        raw = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(45 * events.RECORD_BYTES)
            raw[at : at + rng.randint(1, 200)] = rng.randbytes(rng.randint(1, 200))
        path.write_bytes(raw[: events.LOG_BYTES].ljust(events.LOG_BYTES, b"\0"))
        log = log_at(path)
        for event in log.tail(50):
            assert (event.text, event.step) == (f"row {event.step}", event.number - 1)
        log.add("stopped")
        assert log.tail(1)[0].kind == "stopped"
        assert log.tail(1)[0].number == log.number <= 41
        log.close()


def test_a_log_cut_at_every_byte_of_a_record(tmp_path: Path) -> None:
    path = tmp_path / "events"
    log = log_at(path)
    for i in range(3):
        log.add("bad input", step=i)
    log.close()
    whole = path.read_bytes()
    size = events.RECORD_BYTES
    for n in range(size):
        path.write_bytes(whole[: 2 * size + n] + bytes(events.LOG_BYTES - 2 * size - n))
        log = log_at(path)
        # The last byte of a checksum may be zero.
        assert [e.step for e in log.tail(9)] in ([0, 1], [0, 1, 2]), n
        assert log.number == 2 or whole[2 * size + n : 3 * size].strip(b"\0") == b""
        log.close()


def test_events_before_there_is_a_disk_are_written_later(tmp_path: Path) -> None:
    log = log_at(tmp_path / "events")
    log.add("started")
    log.close()
    log = EventLog()
    log.add("bad input", "early")
    assert not log.written_through
    log.attach(disk.open_file(str(tmp_path / "events"), events.LOG_BYTES))
    log.close()
    log = log_at(tmp_path / "events")
    assert [(e.number, e.kind) for e in log.tail(5)] == [(1, "started"), (2, "bad input")]


# ---- learning is not harmed by committing ----


def test_commits_change_nothing_of_what_is_learned(tmp_path: Path) -> None:
    x, y = nets.samples(NET, 200)
    plain, kept = (Learner(Model(nets.buffer(BLOB))) for _ in range(2))
    with opened(tmp_path) as store:
        for i in range(200):
            plain.learn_one(x[i], y[i])
            kept.learn_one(x[i], y[i])
            if not store.busy and i % 7 == 0:
                kept.seal()
                store.begin(kept.model.arena.buffer.data)
            store.step()
        store.finish()
    assert plain.status() == kept.status()
    for kind in plain.model.arena.offsets:
        a, b = plain.model.arena.section(kind), kept.model.arena.section(kind)
        if kind not in (stores.files.net.ACTIVATIONS, stores.files.net.SCRATCH):
            assert np.array_equal(a, b), kind


def test_the_thread_that_syncs_touches_its_stack_when_it_starts() -> None:
    """Else a page of it is new to the process at some commit months later."""
    code = """import threading
from zgedge.runtime.disk import Flusher

def touched():
    found, size = [], 0
    for line in open("/proc/self/smaps", encoding="ascii"):
        word, _, value = line.partition(":")
        if word == "Size":
            size = int(value.split()[0])
        elif word == "Rss" and size == 777 * 4:
            found.append(int(value.split()[0]))
    return found

threading.stack_size(777 << 12)
flusher = Flusher()
while not touched() or touched()[0] < 24:
    pass
flusher.close()
print("touched")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "touched\n", done.stderr


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0x10
    path.write_bytes(raw)
