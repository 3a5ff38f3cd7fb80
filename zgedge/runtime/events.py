"""What happened to a service, in a ring of fixed records in a file of fixed length.

A record carries its number and a checksum, so what a power cut tore is passed over, and the place
where the ring goes on is found from the numbers alone. The ring is in memory too: where the disk
fails, events are kept there and written as soon as it works again.
"""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zgedge.runtime.disk import Disk, close_disk, read_all, write_all

LOG = "events"
RECORDS = 2048
TEXT = 80
_RECORD = struct.Struct(f"<HBxQqQqq{TEXT}s")
_CHECKSUM = struct.Struct("<I")
RECORD_BYTES = _RECORD.size + _CHECKSUM.size
LOG_BYTES = RECORDS * RECORD_BYTES

# Numbers of kinds are their places here: new ones go to the end.
KINDS = (
    "none", "started", "stopped", "committed", "commit failed", "slot damaged", "bad input",
    "dropped", "drift", "accepted", "rolled back", "learning", "source", "client",
)  # fmt: skip


def cut(text: str, most: int) -> str:
    """At most `most` bytes of UTF-8, with no half character at the end."""
    return text.encode(errors="replace")[:most].decode(errors="ignore")


@dataclass(frozen=True)
class Event:
    """One thing that happened. `step` is the learner's count; `value` and `more` are the kind's."""

    number: int
    time: float  # seconds since 1970, by the clock on the wall: it may be wrong
    kind: str
    step: int
    value: int
    more: int
    text: str


class EventLog:
    """A ring of the last 2,048 events; `attach` gives it a disk to be written to."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._ring = bytearray(LOG_BYTES)
        self._view = memoryview(self._ring)
        self._wall = wall
        self._disk: Disk | None = None
        self._unsynced = False
        self.number = 0  # of the last event
        self.behind = 0  # events, the newest, that are not on the disk
        self.pages = 0  # written
        self.failure: str | None = None

    @property
    def written_through(self) -> bool:
        """Whether there is a disk."""
        return self._disk is not None

    def attach(self, disk: Disk) -> None:
        """Go on where the ring on `disk` ends; events so far come behind it. Raises OSError, and
        takes no disk then."""
        ring = bytearray(LOG_BYTES)
        try:
            read_all(disk, memoryview(ring), 0)
        except OSError:
            close_disk(disk)
            raise
        new = [self._fields(bytes(self._record(n))) for n in self._kept(self.number)]
        self._ring[:] = ring
        found = (self._event(at) for at in range(0, LOG_BYTES, RECORD_BYTES))
        self.number = max((event.number for event in found if event is not None), default=0)
        self.behind = 0
        self._disk = disk
        for kind, size, _, *rest in new:
            self._put(kind, size, *rest)
        self.flush()

    def add(
        self, kind: str, text: str = "", *, step: int = 0, value: int = 0, more: int = 0
    ) -> None:
        """Note an event. Text is cut to 80 bytes of UTF-8."""
        raw = cut(text, TEXT).encode()
        when = int(self._wall() * 1000)
        self._put(KINDS.index(kind), len(raw), when, step, value, more, raw)
        self.flush()

    def flush(self) -> None:
        """Write events that are not on the disk yet; `failure` says where that failed."""
        if self._disk is None or not self.behind:
            return
        try:
            for number in self._kept(self.behind):
                at = self._at(number)
                write_all(self._disk, self._view[at : at + RECORD_BYTES], at)
                self._unsynced = True
                self.behind -= 1
                self.pages += 1
        except OSError as e:
            self.failure = f"Events are not written: {e.strerror}."
            return
        self.failure = None

    def sync(self) -> None:
        """Make what was written safe. Raises nothing: a log that fails must not fail a commit."""
        if self._disk is None or not self._unsynced:
            return
        try:
            self._unsynced = False  # before, because more may be written meanwhile
            self._disk.sync()
            self.failure = None
        except OSError as e:
            self._unsynced = True
            self.failure = f"Events are not written: {e.strerror}."

    def tail(self, n: int) -> list[Event]:
        """The last `n` events, the oldest first."""
        found = (self._event(self._at(number)) for number in self._kept(n))
        return [event for event in found if event is not None and event.number > self.number - n]

    def close(self) -> None:
        if self._disk is not None:
            close_disk(self._disk)
            self._disk = None

    # ---- records ----

    @staticmethod
    def _at(number: int) -> int:
        return (number - 1) % RECORDS * RECORD_BYTES

    def _kept(self, last: int) -> range:
        """Numbers of the `last` newest events, of which the ring holds no more than its length."""
        return range(self.number - min(last, RECORDS) + 1, self.number + 1)

    def _record(self, number: int) -> memoryview:
        at = self._at(number)
        return self._view[at : at + RECORD_BYTES]

    @staticmethod
    def _fields(record: bytes | memoryview) -> tuple[Any, ...]:
        return _RECORD.unpack_from(record)

    def _put(self, kind: int, size: int, *rest: Any) -> None:
        """The next record; `rest` is time, step, value, more and text."""
        self.number += 1
        at = self._at(self.number)
        _RECORD.pack_into(self._ring, at, kind, size, self.number, *rest)
        checksum = zlib.crc32(self._view[at : at + _RECORD.size])
        _CHECKSUM.pack_into(self._ring, at + _RECORD.size, checksum)
        self.behind = min(self.behind + 1, RECORDS)

    def _event(self, at: int) -> Event | None:
        """The event at a place; None where there is no whole one."""
        (checksum,) = _CHECKSUM.unpack_from(self._ring, at + _RECORD.size)
        if checksum != zlib.crc32(self._view[at : at + _RECORD.size]):
            return None
        kind, size, number, when, step, value, more, raw = self._fields(
            self._view[at : at + RECORD_BYTES]
        )
        if number < 1 or self._at(number) != at:
            return None
        name = KINDS[kind] if kind < len(KINDS) else f"kind {kind}"
        text = raw[:size].decode(errors="replace")
        return Event(number, when / 1000, name, step, value, more, text)
