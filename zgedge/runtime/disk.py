"""Files as disks: bounded reads and writes, and a sync that a thread of its own can wait for."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from typing import Protocol

DEEPER = 40  # calls of C on a stack, of which some lie deeper than any later one
PAGE = 4096  # what a flash memory programs at once
# The disk's own troubles, with which a service goes on. Others are mistakes, and said at the start.
TROUBLES = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.ENXIO,
            errno.ENODEV, errno.ESTALE}  # fmt: skip


class Syncable(Protocol):
    """What a power cut threatens."""

    def sync(self) -> None:
        """Return when what was written before lies where a power cut does not reach."""


class Disk(Syncable, Protocol):
    """A file of fixed length, as far as slots and logs need it. All raise OSError."""

    def pread(self, into: memoryview, at: int) -> int:
        """Read bytes from offset `at`; returns how many there were."""

    def pwrite(self, data: memoryview, at: int) -> int:
        """Write bytes at offset `at`; returns how many were taken."""

    def settle(self) -> None:
        """From here on `pread` gives what is on the disk, and a power cut changes nothing of it.

        What a process wrote that was killed is synced. Where a sync failed, then or now, the
        system forgets which pages it failed for and shows them as if they were safe, so what it
        remembers of the file is dropped. Raises nothing.
        """


class File:
    """An open file as a disk."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def pread(self, into: memoryview, at: int) -> int:
        return os.preadv(self.fd, [into], at)

    def pwrite(self, data: memoryview, at: int) -> int:
        return os.pwrite(self.fd, data, at)

    def sync(self) -> None:
        os.fdatasync(self.fd)

    def settle(self) -> None:
        with contextlib.suppress(OSError):
            os.fdatasync(self.fd)
        with contextlib.suppress(OSError):
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        os.close(self.fd)


class ReadOnly(File):
    """A file of a disk that takes no writes."""

    def pwrite(self, data: memoryview, at: int) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def sync(self) -> None:
        """Nothing was written."""


class Nowhere:
    """A disk that keeps nothing."""

    def pread(self, into: memoryview, at: int) -> int:
        return 0

    def pwrite(self, data: memoryview, at: int) -> int:
        return len(data)

    def sync(self) -> None:
        """Nothing was written."""

    def settle(self) -> None:
        """Nothing was written."""


def read_all(disk: Disk, into: memoryview, at: int) -> int:
    """Fill `into` from offset `at`; returns how many bytes there were before the end."""
    done = 0
    while done < len(into):
        n = disk.pread(into[done:], at + done)
        if n == 0:
            break
        done += n
    return done


def write_all(disk: Disk, data: memoryview, at: int) -> None:
    """Write all of `data` at offset `at`."""
    done = 0
    while done < len(data):
        n = disk.pwrite(data[done:], at + done)
        if n <= 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        done += n


def sync_now(disk: Disk) -> bool:
    """Sync a disk and wait for it."""
    disk.sync()
    return True


def _deep(calls: int) -> int:
    """Use so many calls of C on this thread's stack, of half a KB and more each. A wait for the
    lock of Python, or a sync that does wait, would else touch a page of it for the first time when
    the process has run for long."""
    return max(map(_deep, (calls - 1,))) if calls else 0


class Flusher:
    """Syncs disks in a thread of its own, because that may take long and does nothing else."""

    def __init__(self) -> None:
        self._work = threading.Semaphore(0)
        self._ready = threading.Event()
        self._disks: tuple[Syncable, ...] = ()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="zgedge-sync", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        _deep(DEEPER)
        while True:
            self._work.acquire()
            if not self._disks:
                return
            try:
                for disk in self._disks:
                    disk.sync()
            except OSError as e:
                self._error = e
            self._ready.set()

    def start(self, *disks: Syncable) -> None:
        self._disks, self._error = disks, None
        self._ready.clear()
        self._work.release()

    def ended(self, wait: bool) -> bool:
        """Whether the sync is over; raises the OSError that it ended with."""
        if wait:
            self._ready.wait()
        if not self._ready.is_set():
            return False
        if self._error is not None:
            raise self._error
        return True

    def close(self) -> None:
        self._disks = ()
        self._work.release()
        self._thread.join()


def open_file(path: str, size: int) -> Disk:
    """A file of the folder at its full length, every byte of it written once: later writes then
    need no room and change no record of the file system."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
    except OSError as e:
        if e.errno != errno.EROFS or not os.path.exists(path):
            raise
        return ReadOnly(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    try:
        have = os.fstat(fd).st_size
        if have < size:
            os.posix_fallocate(fd, 0, size)
            zeros = memoryview(bytes(min(size, 1 << 20)))
            for at in range(have, size, len(zeros)):
                write_all(File(fd), zeros[: size - at], at)
            os.fsync(fd)
            folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except BaseException:
        os.close(fd)
        raise
    return File(fd)


def close_disk(disk: Disk) -> None:
    close = getattr(disk, "close", None)
    if close is not None:
        close()
