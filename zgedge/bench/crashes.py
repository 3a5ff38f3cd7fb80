"""Power cuts, kills and failing disks, simulated: does the store come up, and with what?

python -m zgedge.bench.crashes [--json] [--states 1000000] [--out docs/results/crashes.md]

The store's own code (`zgedge.runtime.store.Slots`) runs on simulated disks that remember what a
sync made safe and what is still under way. At every write and every sync the power is cut, again
and again, each time with another choice of what had reached the disk; every such state is loaded.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from zgedge.bench import results
from zgedge.errors import ProofError
from zgedge.runtime.disk import PAGE, Disk
from zgedge.runtime.store import Slots, identity

MODEL = identity(b"the deployed model")
CUTS = ("ordered", "torn", "reordered", "garbage")


class KilledError(Exception):
    """The process is killed here."""


@dataclass
class World:
    """What a run does to the disks, and what it draws from."""

    rng: random.Random
    sector: int
    lies: bool = False
    fail: float = 0.0  # share of calls that end with EIO
    kill: float = 0.0  # share of calls at which the process is killed


class SimulatedFile:
    """A file whose writes are safe only once they are synced.

    `cache` is what a running system reads; `durable` is what is certainly on the disk; `pending`
    are writes that a power cut may lose, tear or take in any order, sector by sector.
    """

    def __init__(self, image: bytes, world: World, at_call: Callable[[], None]) -> None:
        self.cache = bytearray(image)
        self.durable = bytearray(image)
        self.pending: list[tuple[int, bytes]] = []
        self._world = world
        self._at_call = at_call
        self._lied: list[int] = []

    def pread(self, into: memoryview, at: int) -> int:
        data = self.cache[at : at + len(into)]
        into[: len(data)] = data
        return len(data)

    def pwrite(self, data: memoryview, at: int) -> int:
        world = self._world
        size = len(data)
        if world.fail and world.rng.random() < world.fail:
            if world.rng.random() < 0.5:  # part of it got there
                self._write(data[: world.rng.randrange(size)], at)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if world.rng.random() < 0.1:  # a short write
            size = world.rng.randint(1, size)
        self._write(data[:size], at)
        self._at_call()
        return size

    def _write(self, data: memoryview, at: int) -> None:
        raw = bytes(data)
        self.cache[at : at + len(raw)] = raw
        sector, done = self._world.sector, 0
        while done < len(raw):
            n = sector - (at + done) % sector
            self.pending.append((at + done, raw[done : done + n]))
            done += n

    def sync(self) -> None:
        world = self._world
        if world.fail and world.rng.random() < world.fail:
            # The system forgets which pages it failed to write: the cache shows them as if they
            # were safe, and no later sync writes them.
            for at, data in self.pending:
                if world.rng.random() < 0.5:
                    self.durable[at : at + len(data)] = data
            self.pending.clear()
            self._at_call()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if world.lies:
            # Its cache drains in the end: what was synced some syncs ago is there.
            self._lied.append(len(self.pending))
            if len(self._lied) > world.rng.randint(0, 2):
                self._apply(self._lied.pop(0))
        else:
            self._apply(len(self.pending))
        self._at_call()

    def settle(self) -> None:
        with contextlib.suppress(OSError):
            self.sync()
        # What the system remembered is dropped; a disk that lies still answers from its own cache.
        self.cache[:] = self.durable
        for at, data in self.pending:
            self.cache[at : at + len(data)] = data

    def _apply(self, count: int) -> None:
        for at, data in self.pending[:count]:
            self.durable[at : at + len(data)] = data
        del self.pending[:count]
        self._lied = [n - count for n in self._lied if n > count]

    def after_cut(self, how: str) -> bytearray:
        """What a power cut leaves, drawn anew at each call."""
        image, rng = bytearray(self.durable), self._world.rng
        pending = self.pending
        if not pending:
            return image
        if how in ("ordered", "torn"):
            last = rng.randint(0, len(pending))
            for at, data in pending[:last]:
                image[at : at + len(data)] = data
            if how == "torn" and last < len(pending):
                at, data = pending[last]
                n = rng.randint(0, len(data))
                image[at : at + n] = data[:n]
            return image
        share = rng.random()
        for at, data in rng.sample(pending, len(pending)) if rng.random() < 0.5 else pending:
            if rng.random() >= share:
                continue
            if rng.random() < 0.1:
                a, b = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
                image[at + a : at + b] = data[a:b]
            else:
                image[at : at + len(data)] = data
        if how == "garbage":
            at, data = rng.choice(pending)
            image[at : at + len(data)] = rng.randbytes(len(data))
        return image


@dataclass
class Tally:
    """States by what they were and what came up from them."""

    states: int = 0
    came_up: Counter[str] = field(default_factory=Counter)
    cuts: Counter[str] = field(default_factory=Counter)
    unreadable: int = 0
    wrong: int = 0  # accepted, and never committed
    older: int = 0  # than the last completed commit
    commits: int = 0
    failures: int = 0
    kills: int = 0

    def add(self, other: Tally) -> None:
        for name, value in vars(other).items():
            mine = getattr(self, name)
            if isinstance(mine, Counter):
                mine.update(value)
            else:
                setattr(self, name, mine + value)


@dataclass(frozen=True)
class Geometry:
    """Sizes of a store. Small ones are as good as real ones, and a thousand times as fast."""

    payload: int
    page: int
    piece: int
    sector: int

    @property
    def slot(self) -> int:
        return self.page + self.payload


SMALL = Geometry(payload=400, page=128, piece=100, sector=32)
REAL = Geometry(payload=40_000, page=PAGE, piece=16_384, sector=512)


class History:
    """One device's life after life: commits, and a power cut at every call of its disks."""

    def __init__(self, world: World, geometry: Geometry, tally: Tally, most: int) -> None:
        self.world = world
        self.geometry = geometry
        self.tally = tally
        self.most = most
        self.written: dict[int, bytes] = {}  # serial number -> state
        self.serial = 0
        self.completed = 0  # serial of the last commit that ended well
        self.files: list[SimulatedFile] = []
        self._into = memoryview(bytearray(geometry.payload))
        self._scratch = memoryview(bytearray(geometry.payload))
        self._state = bytearray(world.rng.randbytes(geometry.payload))
        self._next: list[bytearray] | None = None

    def next_state(self) -> memoryview:
        """The next state to commit: a tenth of its bytes are other than before."""
        rng = self.world.rng
        self.serial += 1
        at = rng.randrange(8, self.geometry.payload - self.geometry.payload // 10)
        n = self.geometry.payload // 10
        self._state[at : at + n] = rng.randbytes(n)
        self._state[:8] = self.serial.to_bytes(8, "little")
        self.written[self.serial] = bytes(self._state)
        return memoryview(self._state)

    def slots(self, disks: list[Disk]) -> Slots:
        g = self.geometry
        return Slots(disks, MODEL, g.payload, page=g.page, piece=g.piece)

    def look(self, images: list[bytearray], how: str) -> int:
        """Load one state after a cut and judge it; the serial number of what came up, or 0."""
        tally = self.tally
        tally.states += 1
        tally.cuts[how] += 1
        slots = self.slots([Image(image) for image in images])
        try:
            whole = slots.load(self._into, self._scratch)
        except Exception:
            tally.unreadable += 1
            return 0
        if not whole:
            # The deployed model serves. With a disk that tells the truth that may only be so as
            # long as no commit has ended.
            tally.came_up["the deployed model"] += 1
            tally.older += not self.world.lies and self.completed > 0
            return 0
        serial = int.from_bytes(self._into[:8], "little")
        if self.written.get(serial) != bytes(self._into):
            tally.wrong += 1
            return 0
        if serial >= self.completed:
            tally.came_up["the last commit or a newer one"] += 1
        else:
            tally.came_up["an older commit"] += 1
            tally.older += not self.world.lies
        return serial

    def at_call(self) -> None:
        """Between two calls of the disks: cut the power in every way, and perhaps be killed."""
        for how in CUTS:
            if self.tally.states >= self.most:
                raise KilledError
            images = [file.after_cut(how) for file in self.files]
            self.look(images, how)
            self._next = images
        if self.world.kill and self.world.rng.random() < self.world.kill:
            self.tally.kills += 1
            raise KilledError

    def start(self) -> Slots:
        """A process starts on the disks as they are."""
        slots = self.slots(list(self.files))
        slots.load(self._into, self._scratch)
        return slots

    def live(self, commits: int) -> None:
        """Until the power fails: so many commits, started again where it is killed."""
        slots = None
        for _ in range(commits):
            try:
                if slots is None:
                    slots = self.start()
                state = self.next_state()
                slots.commit(state)
                self.completed = self.serial
                self.tally.commits += 1
            except OSError:
                self.tally.failures += 1
            except KilledError:
                slots = None
            if self.tally.states >= self.most:
                return

    def run(self) -> None:
        empty = bytes(self.geometry.slot)
        images = [bytearray(empty), bytearray(empty)]
        while self.tally.states < self.most:
            self.files = [SimulatedFile(bytes(i), self.world, self.at_call) for i in images]
            self._next = None
            self.live(self.world.rng.randint(1, 30 if self.world.lies else 6))
            if self._next is None:
                continue
            # The power comes back: what that cut left is what the next life starts from.
            images = self._next
            came = self.look(images, "ordered")
            self.completed = min(self.completed, came) if self.world.lies else came
            for old in [n for n in self.written if n < self.serial - 100]:
                del self.written[old]


class Image(SimulatedFile):
    """A disk that is only looked at."""

    def __init__(self, image: bytearray) -> None:
        self.cache = image

    def settle(self) -> None:
        """Nothing is under way."""


def every_byte(tally: Tally, commits: int = 3) -> None:
    """Writes in order, and the power cut after every single byte of every one of them."""
    world = World(random.Random(0), SMALL.sector)
    history = History(world, SMALL, tally, 1 << 62)
    images = [bytearray(SMALL.slot), bytearray(SMALL.slot)]
    for _ in range(commits):
        files = [SimulatedFile(bytes(image), world, lambda: None) for image in images]
        history.files = files
        slots = history.start()
        slots.commit(history.next_state())
        target = slots.newest or 0
        trace: list[tuple[int, bytes]] = []
        again = [Recorder(bytes(image), world, trace) for image in images]
        other = history.slots(list(again))
        other.load(history._into, history._scratch)
        other.commit(memoryview(history._state))
        image = bytearray(images[target])
        for at, data in trace:
            for n in range(len(data)):
                image[at + n] = data[n]
                pair = [bytearray(i) for i in images]
                pair[target] = bytearray(image)
                history.look(pair, "every byte")
        history.completed = history.serial
        images[target] = image
        tally.commits += 1


class Recorder(SimulatedFile):
    """A disk that notes its writes, whole and in order."""

    def __init__(self, image: bytes, world: World, trace: list[tuple[int, bytes]]) -> None:
        super().__init__(image, world, lambda: None)
        self._trace = trace

    def pwrite(self, data: memoryview, at: int) -> int:
        self._trace.append((at, bytes(data)))
        self._write(data, at)
        return len(data)


def rows() -> Iterator[tuple[str, float, dict[str, Any], Geometry]]:
    """The table's rows: what it is, its share of the states, the world, sizes."""
    yield "a disk that keeps its word", 0.34, {}, SMALL
    yield "the same, real sizes", 0.01, {}, REAL
    yield "and the process killed", 0.15, {"kill": 0.03}, SMALL
    yield "and calls that fail with EIO", 0.2, {"kill": 0.02, "fail": 0.05}, SMALL
    yield "a disk that lies about syncs", 0.3, {"lies": True, "kill": 0.01}, SMALL


def measure(
    states: int, seed: int = 0, say: Callable[[str], None] = lambda text: None
) -> dict[str, Tally]:
    """Simulate about `states` states; a tally for each row of the table."""
    found: dict[str, Tally] = {}
    exact = Tally()
    every_byte(exact)
    found["every byte of every write, in order"] = exact
    for i, (name, share, options, geometry) in enumerate(rows()):
        tally = Tally()
        most = max(1, round(share * states))
        # A new device every so often: empty disks are a state of their own.
        part = 0
        while tally.states < most:
            world = World(random.Random(f"{seed}/{i}/{part}"), geometry.sector, **options)
            one = Tally()
            History(world, geometry, one, min(2000, most - tally.states)).run()
            tally.add(one)
            part += 1
        found[name] = tally
        say(f"{name}: {tally.states:,} states, {tally.unreadable} unreadable, "
            f"{tally.wrong} wrong, {tally.older} older")  # fmt: skip
    return found


def sound(found: dict[str, Tally]) -> bool:
    """Whether every state came up with a state that had been committed, and none too old."""
    return not any(t.unreadable or t.wrong or t.older for t in found.values())


def markdown(found: dict[str, Tally], states: int, seconds: float) -> list[str]:
    """The results file."""
    lines = results.heading(
        "Power cuts: what the store comes up with",
        f"python -m zgedge.bench.crashes --states {states} --out docs/results/crashes.md",
        [],
        packages=("python", "zgedge"),
    )[:-1]
    total = sum(t.states for t in found.values())
    lines += [
        f"- {total:,} states after a power cut, {seconds:,.0f} s. Each is a choice, at one call of "
        "one of the disks, of what had reached them: all up to a point; that and part of a "
        "sector; any sectors in any order; and one of them full of garbage.",
        "- *Unreadable*: loading ends with an error. *Wrong*: a state comes up that was never "
        "committed. *Too old*: it is older than the last commit that had ended, on a disk that "
        "keeps its word. A disk that lies may lose any of the last commits, and both slots may be "
        "torn: then the deployed model serves.",
        f"- Sizes: a state of {SMALL.payload} bytes in sectors of {SMALL.sector}; real: "
        f"{REAL.payload:,} bytes in sectors of {REAL.sector}, the header on a page of "
        f"{REAL.page:,}.",
        "",
    ]
    kinds = ("the last commit or a newer one", "an older commit", "the deployed model")
    body = [
        [
            name, f"{t.states:,}", t.unreadable, t.wrong, t.older,
            *(f"{t.came_up[kind]:,}" for kind in kinds), f"{t.commits:,}", f"{t.kills:,}",
            f"{t.failures:,}",
        ]
        for name, t in found.items()
    ]  # fmt: skip
    head = ["disk", "states", "unreadable", "wrong", "too old", "came up: last or newer", "older",
            "deployed model", "commits", "kills", "failed calls"]  # fmt: skip
    return lines + results.table(head, body)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Markdown file.")
@click.option("--states", default=1_000_000, show_default=True, help="States to load.")
@click.option("--seed", default=0, show_default=True, help="Of what is drawn.")
def main(as_json: bool, out: Path | None, states: int, seed: int) -> None:
    """Cut the power of a simulated device in a million ways."""
    since = time.perf_counter()
    found = measure(states, seed, lambda text: click.echo(text, err=True))
    lines = markdown(found, states, time.perf_counter() - since)
    if out is not None:
        results.write(out, lines)
    rows = {name: {**vars(t), "came_up": t.came_up, "cuts": t.cuts} for name, t in found.items()}
    click.echo(json.dumps({"sound": sound(found), "rows": rows}) if as_json else "\n".join(lines))
    if not sound(found):
        raise SystemExit(ProofError.exit_code)


if __name__ == "__main__":
    main()
