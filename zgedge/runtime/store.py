"""Learned state on disk: two slots, of which one is always whole (docs/store.md has every byte).

A commit goes into the slot that does not hold the newest state, and counts once all its bytes and
their digest are there. So whatever a power cut leaves of the writes under way, the other slot is
untouched. `Slots` is that rule over two disks; a test gives it disks that lose, tear and reorder.
`Store` adds what a service needs: files that exist at their full length from the start, one owner,
a least time between commits, wear, and going on in memory where the disk fails.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from zgedge import arena as files
from zgedge.errors import ModelError, UsageError, ZgedgeError
from zgedge.runtime.disk import (
    PAGE,
    TROUBLES,
    Disk,
    Flusher,
    Nowhere,
    ReadOnly,
    close_disk,
    open_file,
    read_all,
    sync_now,
    write_all,
)
from zgedge.runtime.events import LOG, LOG_BYTES, EventLog

MAGIC = b"\x89ZGS"
VERSION = 1
ERASE = 128 * 1024  # what it erases at once
PIECE = 16 * 1024  # written between two ticks
INTERVAL = 60.0  # seconds between commits
RETRY_LEAST, RETRY_MOST = 5.0, 900.0  # seconds until a failed commit is tried again
DAY = 86_400
DIGEST = 16

_HEADER = struct.Struct("<4sHH16sQIIQQQQQ16x16s")
HEADER_BYTES = _HEADER.size + DIGEST
NAMES = ("slot-a", "slot-b")

EMPTY, WHOLE, DAMAGED = "empty", "whole", "damaged"
LOST = f"{DAMAGED}: it is empty, and held a state"
_STATE, _HEAD, _SYNC = range(3)  # what a commit does next


def digest(data: bytes | memoryview) -> bytes:
    """BLAKE2b of 128 bits: of torn states none passes, where one in 2^32 would pass a CRC-32."""
    return hashlib.blake2b(data, digest_size=DIGEST, usedforsecurity=False).digest()


def identity(model: bytes | memoryview) -> bytes:
    """What a deployed model file is known by: the digest of all its bytes. The file itself is
    never written, so a file that differs anywhere is another model."""
    return digest(model)


def rounded(n: int, to: int) -> int:
    return -(-n // to) * to


def slot_bytes(payload_bytes: int, page: int = PAGE, erase: int = ERASE) -> int:
    """Length of a slot's file: header page and payload, up to the end of an erase block."""
    return rounded(page + payload_bytes, erase)


@dataclass
class Wear:
    """What was written, and over how much running time; it travels in the slots' headers.

    Time is that of a running service, from a clock that cannot be set.
    """

    commits: int = 0
    written: int = 0  # bytes, whole pages
    seconds: int = 0
    today: int = 0  # bytes, since a whole number of days of running
    day_before: int = 0

    def pass_time(self, seconds: int) -> None:
        days = seconds // DAY - self.seconds // DAY
        if days > 0:
            self.day_before = self.today if days == 1 else 0
            self.today = 0
        self.seconds = max(self.seconds, seconds)

    def add(self, size: int) -> None:
        self.written += size
        self.today += size


@dataclass(frozen=True)
class Header:
    """What the first bytes of a slot say."""

    model: bytes
    generation: int
    payload_at: int
    payload_bytes: int
    wear: Wear
    payload: bytes  # its digest

    def pack(self) -> bytes:
        w = self.wear
        head = _HEADER.pack(
            MAGIC, VERSION, HEADER_BYTES, self.model, self.generation, self.payload_at,
            self.payload_bytes, w.commits, w.written, w.seconds, w.today, w.day_before,
            self.payload,
        )  # fmt: skip
        return head + digest(head)

    @classmethod
    def unpack(cls, raw: bytes) -> Header | None:
        """The header; None where its bytes are no whole one. Raises ModelError for one of a later
        version."""
        if len(raw) < HEADER_BYTES or raw[:4] != MAGIC:
            return None
        head = raw[: _HEADER.size]
        if digest(head) != raw[_HEADER.size : HEADER_BYTES]:
            return None
        (
            _, version, _, model, generation, at, size, commits, written, seconds, today, before,
            payload,
        ) = _HEADER.unpack(head)  # fmt: skip
        if version != VERSION:
            raise ModelError(
                f"A slot of version {version} was written by a later zgedge.",
                "Install that version, or name another folder with --state.",
            )
        wear = Wear(commits, written, seconds, today, before)
        return cls(model, generation, at, size, wear, payload)


class Slots:
    """Two slots on two disks, and commits between them in bounded pieces.

    model          identity of the deployed model; slots of another one are refused
    payload_bytes  length of a state, that of the model file
    """

    def __init__(
        self,
        disks: Sequence[Disk],
        model: bytes,
        payload_bytes: int,
        *,
        page: int = PAGE,
        piece: int = PIECE,
    ) -> None:
        self.disks = disks
        self.model = model
        self.payload_bytes = payload_bytes
        self.page = page
        self.piece = piece
        self.found = [EMPTY, EMPTY]
        self.generation = 0  # of the newest whole slot
        self.newest: int | None = None
        self.wear = Wear()
        self._payload: memoryview | None = None
        self._at = 0
        self._phase = _STATE
        self._hash: Any = None

    # ---- loading ----

    def load(
        self,
        into: memoryview,
        scratch: memoryview,
        check: Callable[[memoryview], str | None] | None = None,
    ) -> bool:
        """Read the newest whole state into `into` [payload_bytes]; False where no slot has one.

        `scratch` is as long, and overwritten. `check` may refuse a state for what is in it, by
        saying why. Raises ModelError for a slot of another model or of a later version.
        """
        for disk in self.disks:
            disk.settle()
        heads = [self._look(i) for i in (0, 1)]
        self.generation, self.newest, self.wear = 0, None, Wear()
        order = sorted((0, 1), key=lambda i: -(h.generation if (h := heads[i]) else 0))
        for i in order:
            head = heads[i]
            if head is None:
                continue
            why = self._read(i, head, into)
            if why is None and check is not None:
                why = check(into)
            if why is None:
                self.found[i] = WHOLE
                self.generation, self.newest, self.wear = head.generation, i, head.wear
                self._survey(1 - i, heads[1 - i], scratch)
                if self.found[1 - i] == EMPTY and self.generation > 1:
                    self.found[1 - i] = LOST  # the commit before this one went there
                return True
            self.found[i] = f"{DAMAGED}: {why}"
        return False

    def _look(self, i: int) -> Header | None:
        raw = bytearray(HEADER_BYTES)
        try:
            n = read_all(self.disks[i], memoryview(raw), 0)
        except OSError as e:
            self.found[i] = f"{DAMAGED}: {e.strerror}"
            return None
        head = Header.unpack(bytes(raw[:n]))
        if head is None:
            self.found[i] = f"{DAMAGED}: its header is torn" if any(raw) else EMPTY
            return None
        if head.model != self.model or head.payload_bytes != self.payload_bytes:
            raise ModelError(
                f"{NAMES[i]} holds the state of another model.",
                "Name another folder with --state, or move this one away.",
            )
        return head

    def _read(self, i: int, head: Header, into: memoryview) -> str | None:
        """Read slot i's state; why it cannot be used, or None."""
        try:
            n = read_all(self.disks[i], into, head.payload_at)
        except OSError as e:
            return str(e.strerror)
        if n < len(into):
            return f"it ends after {n:,} of {len(into):,} bytes"
        return None if digest(into) == head.payload else "its state is torn"

    def _survey(self, i: int, head: Header | None, scratch: memoryview) -> None:
        """Note whether the older slot is whole too; its state is not needed."""
        if head is None or self.found[i].startswith(DAMAGED):
            return
        why = self._read(i, head, scratch)
        self.found[i] = WHOLE if why is None else f"{DAMAGED}: {why}"

    # ---- committing ----

    @property
    def busy(self) -> bool:
        """Whether a commit is under way."""
        return self._payload is not None

    @property
    def target(self) -> int:
        """The slot that a commit writes: never the one with the newest state."""
        return 0 if self.newest is None else 1 - self.newest

    def begin(self, payload: memoryview) -> None:
        """Start to commit; `payload` [payload_bytes] must stay as it is until the commit ends."""
        if len(payload) != self.payload_bytes:
            raise UsageError(f"A state has {self.payload_bytes:,} bytes, not {len(payload):,}.")
        self._payload = payload
        self._at = 0
        self._phase = _STATE
        self._hash = hashlib.blake2b(digest_size=DIGEST, usedforsecurity=False)
        self.found[self.target] = f"{DAMAGED}: a commit is under way"

    def step(self, sync: Callable[[Disk], bool] = sync_now) -> bool:
        """Do one bounded piece of a commit; True while there is more.

        First the state, then the header, then a sync: `sync` syncs a disk and returns True, or
        False where it has not ended yet. Raises OSError; the commit has ended then, and its slot
        is the next one's too.
        """
        try:
            return self._step(sync)
        except OSError:
            self._payload = None
            self.found[self.target] = f"{DAMAGED}: a commit failed"
            raise

    def _step(self, sync: Callable[[Disk], bool]) -> bool:
        assert self._payload is not None
        disk = self.disks[self.target]
        if self._phase == _STATE:
            part = self._payload[self._at : self._at + self.piece]
            write_all(disk, part, self.page + self._at)
            self._hash.update(part)
            self._at += len(part)
            if self._at == self.payload_bytes:
                self._phase = _HEAD
        elif self._phase == _HEAD:
            self.wear.commits += 1
            self.wear.add(self.page + rounded(self.payload_bytes, self.page))
            head = Header(
                self.model, self.generation + 1, self.page, self.payload_bytes, self.wear,
                self._hash.digest(),
            )  # fmt: skip
            write_all(disk, memoryview(head.pack()), 0)
            self._phase = _SYNC
        elif sync(disk):
            self.newest = self.target
            self.generation += 1
            self.found[self.newest] = WHOLE
            self._payload = None
            return False
        return True

    def commit(self, payload: memoryview) -> None:
        """Write a state and wait until it is safe. Raises OSError."""
        self.begin(payload)
        while self.step():
            pass


class Store:
    """The learned state of one deployed model, in a folder that one process owns.

    Use `Store.open`. A commit is `begin`, `step` after every tick until `busy` is false, or all at
    once `commit`. None of the three raises for a disk that fails: `failure` says what is wrong,
    and `due` when it is worth another try.
    """

    def __init__(
        self,
        folder: str,
        model: memoryview,
        *,
        interval: float = INTERVAL,
        erase: int = ERASE,
        background: bool = False,
        clock: Callable[[], float] = time.monotonic,
        opener: Callable[[str, int], Disk] | None = None,
    ) -> None:
        self.folder = folder
        self.interval = interval
        self.failure: str | None = None
        self.loaded: int | None = None
        self._erase = erase
        self._clock = clock
        self._opener = opener or open_file
        self._identity = identity(model)
        self._bytes = len(model)
        self._copy = files.aligned(self._bytes).data
        self._copy[:] = model  # touched: no page of it is new to the process later
        self._slots: Slots | None = None
        self._lock: int | None = None
        self._flusher = Flusher() if background else None
        self._syncing = self._wait = False
        self._started = clock()
        self._base = 0
        self._last: float | None = None  # when the last commit ended
        self._retry = RETRY_LEAST
        self._not_before = 0.0
        self.log = EventLog()
        self._counted = 0  # pages of the log that the wear has

    @classmethod
    def open(cls, folder: str | os.PathLike[str], model: Any, **options: Any) -> Store:
        """Own `folder`, which is made where it is missing, for the learned state of `model`.

        model       bytes of the deployed model file, as an array or anything else with a buffer
        interval    least seconds between two commits
        erase       bytes of an erase block: a power of two, 4,096 or more
        background  sync in a thread of its own, so that `step` does not wait for the disk
        clock       seconds that only go forward
        opener      opens a file of the folder at a length: for tests

        Raises ZgedgeError where another process owns the folder or it cannot be used, UsageError
        for a bad option, ModelError for a slot of another model. A disk that is full, read-only or
        broken raises nothing: `failure` says so, and the state stays in memory.
        """
        erase, interval = options.get("erase", ERASE), options.get("interval", INTERVAL)
        if erase < PAGE or erase & (erase - 1):
            raise UsageError(
                f"An erase block of {erase} bytes means nothing.",
                f"Take a power of two from {PAGE} on.",
            )
        if not interval >= 0:
            raise UsageError(
                f"An interval of {interval} seconds means nothing.", "Take 0 seconds or more."
            )
        view = memoryview(model).cast("B")
        store = cls(os.fspath(folder), view, **options)
        try:
            store._own()
            try:
                store._prepare()
            except OSError as e:
                store._met(e)
        except BaseException:
            store.close()
            raise
        return store

    # ---- the folder ----

    def _own(self) -> None:
        path = os.path.join(self.folder, "lock")
        try:
            os.makedirs(self.folder, mode=0o770, exist_ok=True)
            try:
                self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
            except OSError as e:
                if e.errno != errno.EROFS:
                    raise
                self._lock = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise ZgedgeError(
                f"Another service learns in {self.folder}.",
                "Stop it, or name another folder with --state.",
            ) from e
        except OSError as e:
            self._met(e)

    def _met(self, e: OSError) -> None:
        """Go on in memory where the disk is in trouble. Raises ZgedgeError for a folder that
        cannot be used."""
        if e.errno not in TROUBLES:
            raise ZgedgeError(
                f"Cannot keep learned state in {self.folder}: {e.strerror}.",
                "Name a folder that this user may write to with --state.",
            ) from e
        self._trouble(e)

    def _prepare(self) -> None:
        """Have all files at their full length, on disk: it does not grow afterwards. Raises
        OSError."""
        opened: list[Disk] = []
        # Where it could not be made before, this says why, and makes it once that is possible.
        os.makedirs(self.folder, mode=0o770, exist_ok=True)
        try:
            if self._slots is None:
                size = slot_bytes(self._bytes, PAGE, self._erase)
                for name in NAMES:
                    opened.append(self._opener(os.path.join(self.folder, name), size))
                self._slots = Slots(opened, self._identity, self._bytes)
                opened = []
            self._prepare_log()
        except OSError:
            for disk in opened:
                close_disk(disk)
            raise

    def _prepare_log(self) -> None:
        if self.log.written_through:
            return
        try:
            self.log.attach(self._opener(os.path.join(self.folder, LOG), LOG_BYTES))
        except OSError as e:
            self.log.failure = f"Events are not written: {e.strerror}."

    def _again(self) -> None:
        """Open what could not be opened, or not for writing, before. What lies there was perhaps
        never looked at. Raises OSError, ModelError."""
        slots = self._slots
        if slots is not None and any(isinstance(disk, ReadOnly) for disk in slots.disks):
            for disk in slots.disks:
                close_disk(disk)
            self._slots = slots = None
        self._prepare()
        if slots is None and self._slots is not None:
            self._slots.load(self._copy, self._copy)
            self._base = max(self._base, self._slots.wear.seconds)

    def _trouble(self, e: OSError | ZgedgeError) -> None:
        """Go on in memory, and try again later."""
        why = e.message if isinstance(e, ZgedgeError) else f"{e.strerror}."
        self.failure = f"Learned state is not kept in {self.folder}: {why}"
        self._not_before = self._clock() + self._retry
        self._retry = min(2 * self._retry, RETRY_MOST)

    def close(self) -> None:
        """Give the folder free. A commit that is under way is not ended."""
        if self._flusher is not None:
            self._flusher.close()
            self._flusher = None
        if self._slots is not None:
            for disk in self._slots.disks:
                close_disk(disk)
            self._slots = None
        self.log.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- loading ----

    def load(self, check: Callable[[files.UInt8], object] | None = None) -> files.UInt8 | None:
        """The newest whole state, in memory of its own that a Model can be opened in; None where
        there is none, and the deployed model is what to start from (`slots` says why).

        `check` raises ModelError for a state that cannot be used; then the other slot is tried.
        """
        slots = self._slots
        if slots is None:
            return None
        state = files.aligned(self._bytes)

        def refusal(_: memoryview) -> str | None:
            try:
                if check is not None:
                    check(state)
            except ModelError as e:
                return e.message
            return None

        try:
            whole = slots.load(state.data, self._copy, refusal)
        except ModelError as e:
            raise ModelError(f"{self.folder}: {e.message}", e.hint) from e
        self._base = slots.wear.seconds
        self._started = self._clock()
        if not whole:
            return None
        self.loaded = slots.generation
        return state

    def rehearse(self) -> None:
        """Commit into nothing, so that whatever a commit needs of the process is there before the
        first: no memory is new to it later."""
        slots = Slots((Nowhere(), Nowhere()), self._identity, self._bytes)
        kept, self._slots = self._slots, slots
        # A commit into nothing does not make a disk well, and is none that had been.
        trouble = self.failure, self._not_before, self._retry, self._last
        try:
            slots.begin(self._copy)
            while self.step(wait=True):
                pass
        finally:
            self._slots = kept
            self.failure, self._not_before, self._retry, self._last = trouble

    @property
    def slots(self) -> list[str]:
        """What was found in each slot: "empty", "whole" or "damaged: why"."""
        return [EMPTY, EMPTY] if self._slots is None else list(self._slots.found)

    @property
    def damages(self) -> list[str]:
        """Which slot is damaged, and why, of each that is."""
        return [
            f"{name} is {found}"
            for name, found in zip(NAMES, self.slots, strict=True)
            if found.startswith(DAMAGED)
        ]

    # ---- committing ----

    @property
    def busy(self) -> bool:
        """Whether a commit is under way."""
        return self._slots is not None and self._slots.busy

    @property
    def syncing(self) -> bool:
        """Whether a commit only waits for the disk."""
        return self._syncing

    @property
    def generation(self) -> int:
        """How many commits made the newest state on disk; 0: none."""
        return 0 if self._slots is None else self._slots.generation

    def due(self) -> bool:
        """Whether a commit may begin: none is under way, and the last one is long enough ago."""
        now = self._clock()
        since = self._started if self._last is None else self._last
        return not self.busy and now - since >= self.interval and now >= self._not_before

    def begin(self, state: memoryview) -> None:
        """Start to commit `state`, a sealed arena, of which a copy is taken."""
        if self.busy:
            raise UsageError("A commit is under way; end it before the next.")
        if self.failure is not None or not self.log.written_through:
            try:
                self._again()
            except (OSError, ModelError) as e:
                self._trouble(e)
                return
        slots = self._slots
        if slots is None:
            return
        self._copy[:] = state
        self.log.flush()
        slots.wear.pass_time(self._base + int(self._clock() - self._started))
        slots.wear.add(PAGE * (self.log.pages - self._counted))
        self._counted = self.log.pages
        slots.begin(self._copy)

    def step(self, wait: bool = False) -> bool:
        """Do one bounded piece of the commit; True while there is more. `wait` waits for a sync
        that is under way in the background."""
        slots = self._slots
        if slots is None or not slots.busy:
            return False
        self._wait = wait
        try:
            if slots.step(self._sync):
                return True
        except OSError as e:
            self._syncing = False
            self._trouble(e)
            return False
        self.failure = None
        self._last = self._clock()
        self._not_before, self._retry = 0.0, RETRY_LEAST
        return False

    def _sync(self, disk: Disk) -> bool:
        if self._flusher is None:
            disk.sync()
            self.log.sync()
            return True
        if not self._syncing:
            self._flusher.start(disk, self.log)
            self._syncing = True
        if not self._flusher.ended(self._wait):
            return False
        self._syncing = False
        return True

    def finish(self) -> bool:
        """Do all that is left of the commit; whether the state is safe."""
        while self.step(wait=True):
            pass
        return self._slots is not None and self.failure is None

    def commit(self, state: memoryview) -> bool:
        """Commit `state` and wait until it is safe; False where the disk failed (`failure`)."""
        self.finish()
        self.begin(state)
        return self.finish()

    def status(self) -> dict[str, Any]:
        """What is known of the state on disk; times in seconds."""
        now = self._clock()
        wear = Wear() if self._slots is None else self._slots.wear
        seconds = self._base + int(now - self._started)
        logged = PAGE * (self.log.pages - self._counted)
        return {
            "folder": self.folder,
            "slots": self.slots,
            "generation": self.generation,
            "loaded": self.loaded,
            "commits": wear.commits,
            "interval": self.interval,
            "since_commit": None if self._last is None else round(now - self._last, 3),
            "busy": self.busy,
            "written": wear.written + logged,
            "written_a_day": round((wear.written + logged) * DAY / max(seconds, 3600)),
            "written_today": wear.today + logged,
            "written_day_before": wear.day_before,
            "running": seconds,
            "failure": self.failure,
            "log_failure": self.log.failure,
        }
