"""Where samples come from: rows as text, and what brings them.

A source is asked for one row at a time (`take`), and asked only when there is time to use it, so
what a pipe or a file holds is never dropped. Nothing here blocks.
"""

from __future__ import annotations

import contextlib
import csv
import ctypes
import json
import os
import select
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from zgedge.columns import is_number, some, unlike
from zgedge.errors import DataError, MissingExtraError, UsageError

CHUNK = 64 * 1024
LEAST_LINE = 64 * 1024
FORMS = ("csv", "json")
LARGE = 1 << 20  # bytes of a file's samples whose memory is given back when they are used


class LineError(DataError):
    """A line that cannot be used. `why` is a word or two to count it by."""

    def __init__(self, why: str, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.why = why


class Row:
    """A sample as it came in; one is used again for every sample of a source.

    x      float32 [inputs]; meaningful where `given`
    label  as the row has it, None without one
    name   what a delayed label refers to, None without one
    """

    def __init__(self, inputs: int) -> None:
        self.x = np.zeros(inputs, np.float32)
        self.given = False
        self.label: Any = None
        self.name: Any = None

    def set(self, values: Any) -> None:
        """Take the numbers of a sample. Raises LineError for other than `inputs` finite ones."""
        if not isinstance(values, list) or len(values) != len(self.x):
            n = len(values) if isinstance(values, list) else "no list of"
            raise LineError("width", f"{n} values; the model takes {len(self.x)}.")
        try:
            with np.errstate(over="ignore"):
                self.x[:] = values
        except (TypeError, ValueError, OverflowError) as e:
            raise LineError("not numbers", f"The values are not all numbers: {e}.") from e
        if not np.isfinite(self.x).all():
            raise LineError("not finite", "A value is NaN, infinite or too large.")
        self.given = True


class Lines:
    """Cuts bytes into lines, of at most `limit` bytes; what is longer is thrown away, once told.

    The bytes lie in one buffer that is there from the start and never another one. `number` is that
    of the line that was given or told of last, from 1 on, and goes on through `clear` and `skip`.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.number = 0
        self._data = bytearray(limit + 1 + CHUNK)
        self._view = memoryview(self._data)
        self._at = 0
        self._end = 0
        self._skip = False

    def room(self) -> memoryview:
        """Where at most CHUNK more bytes may be written; then say `filled`. There is none while
        there are lines to take."""
        if self._at:
            left = self._end - self._at
            self._view[:left] = self._view[self._at : self._end]
            self._at, self._end = 0, left
        return self._view[self._end : self._end + CHUNK]

    def filled(self, n: int) -> None:
        self._end += n

    def feed(self, data: bytes) -> None:
        """Add at most CHUNK bytes."""
        self.room()[: len(data)] = data
        self.filled(len(data))

    def next(self) -> bytes | None:
        """A line without its end; None where there is no whole one. Raises LineError."""
        end = self._data.find(b"\n", self._at, self._end)
        if end < 0:
            if self._skip or self._end - self._at > self.limit:
                first, self._skip = not self._skip, True
                self._at = self._end = 0
                if first:
                    self.number += 1
                    raise LineError("too long", f"A line has more than {self.limit:,} bytes.")
            return None
        at, self._at = self._at, end + 1
        if self._skip:
            self._skip = False
            return self.next()
        self.number += 1
        if end - at > self.limit:
            raise LineError("too long", f"A line has more than {self.limit:,} bytes.")
        return bytes(self._view[at:end]).removesuffix(b"\r")

    @property
    def whole(self) -> bool:
        """Whether `next` would give a line."""
        return self._data.find(b"\n", self._at, self._end) >= 0

    def rest(self) -> bytes:
        """What stands behind the last end of line, which is forgotten."""
        rest = b"" if self._skip else bytes(self._view[self._at : self._end])
        self.number += bool(rest)
        self.clear()
        return rest

    def clear(self) -> None:
        self._at = self._end = 0
        self._skip = False

    def skip(self) -> None:
        """The next line has begun already, and is none."""
        self.clear()
        self._skip = True


def line_limit(inputs: int) -> int:
    """Bytes of the longest line that a model of so many inputs takes."""
    return max(LEAST_LINE, 32 * inputs)


class Reader:
    """Rows out of text: CSV, or a JSON object or list a line.

    label, name  columns (CSV) or keys (JSON) of the label and of the name of a sample
    features     names of the inputs, where the model knows them
    window       rows of a window, where the model was trained on windows: a line has a whole one

    CSV has a header where not one of its first line's values is a number, or where it names all
    inputs. Where the model knows names, the inputs are found by them, and a header without them
    makes the rows under it useless; else they are the columns that are left, in their order, and
    the label is the last column unless it is named. Without a header a row has the inputs, and
    behind them a label or none. JSON has `{"x": [...]}`, with the label and the name beside it, or
    a list of the inputs.
    """

    def __init__(
        self,
        inputs: int,
        form: str | None = None,
        label: str | None = None,
        name: str | None = None,
        features: Sequence[str] | None = None,
        window: int | None = None,
    ) -> None:
        if form is not None and form not in FORMS:
            raise UsageError(f"form={form!r} is none of {', '.join(FORMS)}.")
        self.inputs = inputs
        self.form = form
        self._features = features
        self._window = window
        self._named_label = label
        self._label_key, self._name_key = label or "label", name or "id"
        self._columns: tuple[list[int], int | None, int | None] | None = None
        self._width = 0
        self._unfit: str | None = None
        self.apart = False  # lines come from anywhere: one says nothing of those that follow

    def begin(self) -> None:
        """A new file begins: it may have a header."""
        self._columns = self._unfit = None

    def read(self, line: bytes, row: Row) -> bool:
        """Read a line into `row`; False where there is no sample in it. Raises LineError."""
        row.given, row.label, row.name = False, None, None
        try:
            text = line.decode("utf-8-sig").strip()
        except UnicodeDecodeError as e:
            raise LineError("not UTF-8", f"A line is not UTF-8 at byte {e.start}.") from e
        if not text:
            return False
        if self.form is None:
            self.form = "json" if text[0] in "{[" else "csv"
        try:
            return self._json(text, row) if self.form == "json" else self._csv(text, row)
        except LineError as e:
            if self._window is None or e.why != "width":
                raise
            raise LineError(
                "width",
                f"{e.message} A line must have a whole window, {self._window} rows of "
                f"{self.inputs // self._window} values, the oldest first: none is cut here.",
            ) from e

    def _json(self, text: str, row: Row) -> bool:
        found = parse(text)
        if isinstance(found, list):
            row.set(found)
            return True
        if not isinstance(found, dict):
            raise LineError("no row", "A line is neither a JSON object nor a list.")
        row.label, row.name = found.get(self._label_key), found.get(self._name_key)
        if "x" in found:
            row.set(found["x"])
        elif row.label is None or row.name is None:
            raise LineError("no row", 'A line has no "x".')
        return True

    def _csv(self, text: str, row: Row) -> bool:
        cells = text.split(",")
        if self._unfit is not None and any(map(is_number, cells)):
            raise LineError("names", self._unfit)
        if self._columns is None and not self._begin_csv(text):
            return False
        assert self._columns is not None
        inputs, label, name = self._columns
        if len(cells) == self._width + 1 and label is None and name is None:
            label = self._width  # a label behind the inputs
        elif len(cells) != self._width:
            raise LineError(
                "width", f"A row has {len(cells)} values; the model takes {self.inputs}."
            )
        if label is not None:
            row.label = cells[label].strip().strip('"') or None
        if name is not None:
            row.name = cells[name].strip().strip('"') or None
        try:
            row.set([float(cells[i]) for i in inputs])
        except ValueError as e:
            if isinstance(e, LineError):
                raise
            raise LineError("not numbers", f"The values are not all numbers: {e}.") from e
        return True

    def _begin_csv(self, text: str) -> bool:
        """Settle the columns by the first line; False where it is a header."""
        names = _header_names(text)
        features = self._features or ()
        known = set(features)
        header = not any(map(is_number, names)) or (bool(known) and known <= set(names))
        if not header:
            if self._named_label is not None:
                raise LineError("no header", f"There is no header to find {self._label_key!r} in.")
            self._columns, self._width = (list(range(self.inputs)), None, None), self.inputs
            return True
        places = list(range(len(names)))
        name = names.index(self._name_key) if self._name_key in set(names) - known else None
        if name is not None:
            places.remove(name)
        label = None
        if self._label_key in set(names) - known:
            label = names.index(self._label_key)
        elif self._named_label is not None:
            raise LineError("no header", f"The header has no column {self._label_key!r}.")
        if label is not None:
            places.remove(label)
        # Rows in an order that nobody knows would be answered, and learned, wrongly.
        lack, twice = unlike(features, names)
        if lack:
            # Words that say nothing of columns, such as NA in each, are of no other row.
            shares = len(lack) < len(features) or label is not None or name is not None
            apart = len(set(names)) == len(names) > 1
            raise self._not_fit(f"no {some(lack)}", shares or apart)
        if twice:
            raise self._not_fit(f"more than one {some(twice)}", True)
        if features:
            self._unfit = None
            left = [i for i in places if names[i] not in known]
            at = {text: i for i, text in enumerate(names)}
            places = [at[feature] for feature in features]
            if label is None and len(left) == 1:
                label = left[0]
        elif label is None and len(places) == self.inputs + 1:
            label = places.pop()
        if len(places) != self.inputs:
            raise LineError(
                "width",
                f"The header names {len(places)} inputs; the model takes {self.inputs}.",
            )
        self._columns, self._width = (places, label, name), len(names)
        return False

    def _not_fit(self, what: str, header: bool) -> LineError:
        """The error of a line that is none of numbers and, where it is a header and rows come one
        after another, of every row under it."""
        why = f"The header has {what}; the model knows its inputs by their names."
        if header and not self.apart:
            self._unfit = why
        return LineError("names", why)


def parse(text: str | bytes) -> Any:
    """JSON that a stranger sent. Raises LineError."""
    try:
        return json.loads(text if isinstance(text, str) else text.decode("utf-8-sig"))
    except UnicodeDecodeError as e:
        raise LineError("not UTF-8", f"A line is not UTF-8 at byte {e.start}.") from e
    except (ValueError, RecursionError) as e:
        raise LineError("not JSON", f"A line is not JSON: {e}.") from e


def _header_names(text: str) -> list[str]:
    """The names in a header, of which one in quotes may hold commas."""
    try:
        return [name.strip() for name in next(csv.reader([text], skipinitialspace=True))]
    except (csv.Error, StopIteration):
        return [cell.strip() for cell in text.split(",")]


class Source(Protocol):
    """Brings rows. `fd` can be waited on, where there is one."""

    spec: str
    ended: bool
    pushes: bool  # rows come whether there is time for them or not
    dropped: int  # rows that were lost because there was none

    @property
    def number(self) -> int:
        """Of the line, message or sample that `take` read last, good or bad, from 1 on."""

    @property
    def fd(self) -> int | None:
        """What becomes readable when there may be a row."""

    def take(self, row: Row, now: float) -> bool:
        """The next row into `row`; False where there is none now. Raises LineError for one that
        cannot be used. `now` is of a clock that only goes forward."""

    def wait(self, now: float) -> float:
        """Seconds until it is worth asking again, if `fd` does not become readable before."""

    def close(self) -> None:
        """Let go of what is open."""


class _Text:
    """Where a source of lines is."""

    _lines: Lines

    @property
    def number(self) -> int:
        return self._lines.number

    @property
    def place(self) -> str:
        return f"line {self.number:,}"


class Pipe(_Text):
    """Lines of a file descriptor until it ends: standard input."""

    pushes = False
    dropped = 0

    def __init__(self, fd: int, reader: Reader, spec: str = "-") -> None:
        self.spec = spec
        self.ended = False
        self._fd = fd
        self._reader = reader
        self._lines = Lines(line_limit(reader.inputs))
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        try:
            # A file on a disk is always ready, and cannot be waited on.
            with select.epoll() as probe:
                probe.register(fd, select.EPOLLIN)
            self._waitable = True
        except OSError:
            self._waitable = False

    @property
    def fd(self) -> int | None:
        return self._fd if self._waitable and not self.ended else None

    def take(self, row: Row, now: float) -> bool:
        while not self.ended:
            line = self._lines.next()
            if line is None:
                if not self._poll.poll(0):
                    return False
                n = os.readv(self._fd, [self._lines.room()])
                if n:
                    self._lines.filled(n)
                    continue
                self.ended = True
                line = self._lines.rest()
            if self._reader.read(line, row):
                return True
        return False

    def wait(self, now: float) -> float:
        return 0.0 if self._lines.whole or not (self._waitable or self.ended) else 3600.0

    def close(self) -> None:
        """The descriptor is whoever's gave it."""


class Followed(_Text):
    """Lines that are added to a file, as `tail -F` shows them: through rotation and truncation.

    begin  take what is in the file at the start too; else only what comes after
    """

    EVERY = 0.25
    pushes = False
    dropped = 0
    well = "is there now"

    def __init__(self, path: str, reader: Reader, *, begin: bool = False) -> None:
        self.spec = path
        self.ended = False
        self.fd = None
        self._reader = reader
        self._lines = Lines(line_limit(reader.inputs))
        self._file: int | None = None
        self._inode: tuple[int, int] | None = None
        self._offset = 0
        self._next = 0.0
        self._open(begin=begin)

    @property
    def trouble(self) -> str | None:
        return "is not there yet, and is waited for" if self._file is None else None

    @property
    def state(self) -> str | None:
        return None if self._file is not None or self.ended else "waits for the file"

    def _open(self, begin: bool) -> None:
        try:
            fd = os.open(self.spec, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return  # it may come yet
        found = os.fstat(fd)
        if stat.S_ISDIR(found.st_mode):  # a file may come in its place yet
            os.close(fd)
            return
        self._file, self._inode = fd, (found.st_dev, found.st_ino)
        self._offset = 0
        self._reader.begin()
        self._lines.clear()
        if not begin and found.st_size:
            with contextlib.suppress(LineError):  # a header, perhaps
                self._header(fd)
            self._offset = found.st_size
            if os.pread(fd, 1, found.st_size - 1) != b"\n":  # the rest of a line is no line
                self._lines.skip()

    def _header(self, fd: int) -> None:
        first = os.pread(fd, CHUNK, 0).partition(b"\n")[0]
        self._reader.read(first, Row(self._reader.inputs))

    def take(self, row: Row, now: float) -> bool:
        while True:
            line = self._lines.next()
            if line is not None:
                if self._reader.read(line, row):
                    return True
                continue
            if not self._more(now):
                return False

    def _feed(self) -> bool:
        if self._file is None:
            return False
        n = os.preadv(self._file, [self._lines.room()], self._offset)
        self._offset += n
        self._lines.filled(n)
        return n > 0

    def _more(self, now: float) -> bool:
        """Read on, or find that the file is another one; False where there is nothing now."""
        if self._feed():
            return True
        if now < self._next:
            return False
        self._next = now + self.EVERY
        try:
            found = os.stat(self.spec)
        except OSError:
            return False  # moved away: the new one may come yet
        if self._file is None or (found.st_dev, found.st_ino) != self._inode:
            if self._feed():  # written after the last look, before it was moved
                self._next = now
                return True
            half = self._lines.rest()
            self.close()
            self._open(begin=True)
            if half:
                raise LineError("half a line", "The file ended within a line.")
            return self._file is not None
        if found.st_size < self._offset:
            self._offset = 0
            self._reader.begin()
            self._lines.clear()
            return True
        return False

    def wait(self, now: float) -> float:
        return 0.0 if self._lines.whole else max(0.0, self._next - now)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _without(path: str, message: str) -> str:
    """A message about a file without the file, which is told beside it."""
    rest = message.removeprefix(path).lstrip(" ,:")
    return rest if rest and message.startswith(path) else message


# Reads a file of samples: values [n, inputs], and their labels or None. Raises DataError.
Loader = Callable[[str], tuple[npt.NDArray[Any], list[Any] | None]]


class Watched:
    """Files that come into a folder, or into a folder of it, whose name is their label then.

    A file is read once it has stopped changing for a second. What is remembered of a folder is a
    number for each file that is in it.
    """

    pushes = False
    dropped = 0
    EVERY = 1.0
    SETTLE = 1.0

    def __init__(self, path: str, inputs: int, load: Loader, *, begin: bool = False) -> None:
        self.spec = path
        self.ended = False
        self.fd = None
        self.number = 0
        self._load = load
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
        self._seen: dict[int, None] = {}
        self._waiting: dict[int, float] = {}
        self._ready: list[tuple[str, str | None]] = []
        self._name = ""
        self._x: npt.NDArray[Any] | None = None
        self._labels: list[Any] | None = None
        self._label: str | None = None
        self._at = 0
        self._next = 0.0
        self.place = ""  # of the last sample, or of the file that none could be read from
        if not begin:
            self._seen = dict.fromkeys(key for key, _, _ in self._scan())

    def _scan(self) -> Iterator[tuple[int, str, str | None]]:
        """Files: what tells one from another, path, and label by its folder."""
        folders: list[tuple[str, str | None]] = [(self.spec, None)]
        for folder, label in folders:
            try:
                entries = sorted(os.scandir(folder), key=lambda e: e.name)
            except OSError:
                continue
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                try:
                    if entry.is_dir():
                        if label is None:
                            folders.append((entry.path, entry.name))
                        continue
                    found = entry.stat()
                except OSError:
                    continue  # gone already
                key = hash((entry.path, found.st_ino, found.st_size, found.st_mtime_ns))
                yield key, entry.path, label

    def _look(self, now: float) -> None:
        self._next = now + self.EVERY
        seen: dict[int, None] = {}
        waiting: dict[int, float] = {}
        for key, path, label in self._scan():
            if key in self._seen:
                seen[key] = None
            elif now - (since := self._waiting.get(key, now)) >= self.SETTLE:
                seen[key] = None
                self._ready.append((path, label))
            else:
                waiting[key] = since
        self._seen, self._waiting = seen, waiting

    def take(self, row: Row, now: float) -> bool:
        row.given, row.label, row.name = False, None, None
        while self._x is None or self._at >= len(self._x):
            self._forget()
            if not self._ready:
                if now >= self._next:
                    self._look(now)
                if not self._ready:
                    return False
            path, self._label = self._ready.pop(0)
            self._at = 0
            self._name = os.path.relpath(path, self.spec)
            self.place = self._name
            try:
                self._x, self._labels = self._load(path)
            except DataError as e:
                raise LineError("file", _without(path, e.message)) from e
            except MissingExtraError as e:
                # One file must not end the service, at this start and at each that follows.
                raise LineError(
                    "not installed",
                    f"{e.package} is not installed, which reads it: pip install {e.package}",
                ) from e
        at, self._at = self._at, self._at + 1
        self.number += 1
        self.place = f"{self._name}, row {self._at:,}"
        row.name = None
        row.label = self._label if self._labels is None else self._labels[at]
        with np.errstate(over="ignore"):
            row.x[:] = self._x[at]
        if not np.isfinite(row.x).all():
            raise LineError("not finite", "A value is NaN, infinite or too large.")
        row.given = True
        return True

    def wait(self, now: float) -> float:
        return 0.0 if self._x is not None or self._ready else max(0.0, self._next - now)

    def _forget(self) -> None:
        """Let go of the file that was read last. Its memory is freed then, but the C library would
        keep it for the process."""
        large = self._x is not None and self._x.nbytes > LARGE
        self._x = self._labels = None
        if large and self._trim is not None:
            self._trim(0)

    def close(self) -> None:
        self._x = None


class Awaited:
    """What is not there at the start: a file or a folder, which it is once it has come.

    file, folder  make the source of either; all that is in it is new
    """

    EVERY = 0.25
    pushes = False
    dropped = 0
    fd = None
    well = "is there now"

    def __init__(self, path: str, file: Callable[[], Source], folder: Callable[[], Source]) -> None:
        self.spec = path
        self._file, self._folder = file, folder
        self._source: Source | None = None
        self._ended = False
        self._next = 0.0

    @property
    def ended(self) -> bool:
        return self._ended if self._source is None else self._source.ended

    @ended.setter
    def ended(self, ended: bool) -> None:
        self._ended = ended
        if self._source is not None:
            self._source.ended = ended

    @property
    def number(self) -> int:
        return 0 if self._source is None else self._source.number

    @property
    def place(self) -> str:
        return getattr(self._source, "place", "")

    @property
    def trouble(self) -> str | None:
        if self._source is None:
            return "is not there yet, and is waited for"
        return getattr(self._source, "trouble", None)

    @property
    def state(self) -> str | None:
        if self._source is None:
            return None if self._ended else "waits for it"
        return getattr(self._source, "state", None)

    def take(self, row: Row, now: float) -> bool:
        if self._source is None:
            if now < self._next:
                return False
            self._next = now + self.EVERY
            try:
                mode = os.stat(self.spec).st_mode
            except OSError:
                return False
            self._source = self._folder() if stat.S_ISDIR(mode) else self._file()
        return self._source.take(row, now)

    def wait(self, now: float) -> float:
        return max(0.0, self._next - now) if self._source is None else self._source.wait(now)

    def close(self) -> None:
        if self._source is not None:
            self._source.close()
