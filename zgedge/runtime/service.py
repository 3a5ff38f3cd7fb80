"""The service: predicts at once, learns one tick at a time, and keeps what it learned.

One loop, no thread but the one that waits for the disk. In each turn it answers what was asked,
takes a row of its sources, learns one sample and writes one piece of a commit; so a prediction
waits for one tick at most. Samples are learned in the order in which they arrived. Everything that
a sample needs exists before the first: the queue, the row, counters, the copy for a commit.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import time
from collections.abc import Callable, Sequence
from socket import socketpair
from typing import Any, Self

import numpy as np

from zgedge import arena as files
from zgedge.errors import DataError, ModelError, UsageError, ZgedgeError
from zgedge.runtime.events import cut
from zgedge.runtime.learner import Learner
from zgedge.runtime.metrics import POINTS, History, Resident, Rolling, Times, prometheus
from zgedge.runtime.model import Model
from zgedge.runtime.notify import Notify
from zgedge.runtime.sockets import Server
from zgedge.runtime.sources import LineError, Reader, Row, Source, line_limit, parse
from zgedge.runtime.store import Store

QUEUE_BYTES = 1 << 20
QUEUE_MOST = 1024
PUSHED = 64  # rows taken from a source that pushes between two ticks
SYNCING = 0.002  # seconds between two looks at a sync that is under way
SAME_EVENT = 60.0  # seconds in which a kind of event is logged once
EVENTS = 20  # in a status
QUIET = 10.0  # seconds without anything learned after which no state is waited for any more
IDS = 64  # texts of ids that are remembered, to name one in an event
ID_TEXT = 40  # of their bytes, whole characters

CONFIRMED = 2  # of zge_tick's drift
ACCEPTED, ROLLED_BACK = 1, 2  # of its guard

Answer = Callable[[dict[str, Any]], None]


class Queue:
    """Learning samples that wait, in arrays that exist from the start; the oldest goes first.

    A full queue drops its oldest: what is newest says most about the world as it is.
    """

    def __init__(self, room: int, inputs: int) -> None:
        # Written to, so that its pages are the process's from the start.
        self._x = np.full((room, inputs), 0, np.float32)
        self._y = np.zeros(room, np.int32)
        self._key = np.zeros(room, np.uint64)
        self._held = np.zeros(room, np.bool_)
        self._first = 0
        self.room = room
        self.count = 0
        self.dropped = 0

    def put(self, x: Any, number: int) -> None:
        """Add a sample of the class with that number."""
        at = self._next(number)
        self._x[at] = x
        self._held[at] = False

    def put_label(self, key: int, number: int) -> None:
        """Add the label of a sample that is kept under the id `key`."""
        at = self._next(number)
        self._key[at] = key
        self._held[at] = True

    def _next(self, number: int) -> int:
        if self.count == self.room:
            self.pop()
            self.dropped += 1
        at = (self._first + self.count) % self.room
        self._y[at] = number
        self.count += 1
        return at

    def pop(self) -> tuple[Any, int | None, int]:
        """The oldest: values, good until the next `put`, the id of a sample that is kept instead
        or None, and the class number."""
        at = self._first
        self._first = (at + 1) % self.room
        self.count -= 1
        return self._x[at], int(self._key[at]) if self._held[at] else None, int(self._y[at])


class Service:
    """A model that is served and goes on learning.

    model         path of the deployed file, which is not written
    state         folder of learned state; None: nothing is kept
    socket        path of the socket to serve; None: none
    sources       where rows come from, besides the socket
    answers       called with a dict for each row of a source: what was predicted. Where that raises
                  OSError the service stops as it does for a signal, and `run` raises it then
    commit_every  least seconds between two commits
    queue         learning samples that may wait; None: as many as a megabyte holds, 1,024 at most
    metrics_file  file to write metrics to, each `metrics_every` seconds
    say           called with a line for a person: of a source that brings nothing, and why

    Raises ModelError for a file that is no model or state of another one, ZgedgeError where the
    folder or the socket is in use or cannot be had, UsageError for options that mean nothing.
    """

    def __init__(
        self,
        model: str,
        *,
        state: str | None = None,
        socket: str | None = None,
        sources: Sequence[Source] = (),
        answers: Answer | None = None,
        commit_every: float = 60.0,
        queue: int | None = None,
        erase: int | None = None,
        metrics_file: str | None = None,
        metrics_every: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        store: Store | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.path = model
        self._say = say
        self._clock = clock
        self._started = clock()
        self._answers = answers
        self._unanswered: OSError | None = None
        self._metrics_file = metrics_file
        self._metrics_every = metrics_every
        self._metrics_at = 0.0
        self._metrics_failure: str | None = None
        self.sources = list(sources)
        self._server: Server | None = None
        self.store = store
        self._stopping: str | None = None
        self._notify = Notify()
        deployed = files.read_file(model)
        Model(files.in_memory(deployed.data), model)  # what does not open is no base for any state
        self._selector = selectors.DefaultSelector()
        self._wake, self._waker = socketpair()
        for end in (self._wake, self._waker):
            end.setblocking(False)
        self._selector.register(self._wake, selectors.EVENT_READ, self._woken)
        try:
            if self.store is None and state is not None:
                options = {} if erase is None else {"erase": erase}
                self.store = Store.open(
                    state, deployed, interval=commit_every, background=True, clock=clock, **options
                )
            self.model = self._open(deployed)
            self.learner = Learner(self.model) if self.model.arena.network.learning else None
            # Frozen, labelled samples are scored and not learned.
            self.frozen = self.learner is None or self.learner.status()["learn"] == "none"
            inputs = self.model.inputs
            room = max(16, min(QUEUE_MOST, QUEUE_BYTES // (4 * inputs))) if queue is None else queue
            if room < 1:
                raise UsageError(f"A queue of {room} samples means nothing.", "Take 1 or more.")
            self.queue = Queue(room, inputs)
            self._row = Row(inputs)
            if socket is not None:
                self._server = self._listen(socket)
        except BaseException:
            self.close()
            raise
        self.rolling = Rolling()
        self.times = Times()
        self.history = History()
        self._resident = Resident()
        self._rss = self._rss_first = self._rss_most = self._resident.read()
        self.predictions = self.samples = self.correct = self.rewired = self.drifts = 0
        self.scored = 0  # of the samples: not learned, because learning was frozen
        self._watched = self.learner is not None and self.model.arena.network.watch
        self._guarded = self._judged()
        self._accepted = False  # the state as it is now
        self.refused: dict[str, int] = {}
        self.last_refused: str | None = None  # where it was, and why
        self._logged: dict[str, float] = {}
        self._before = (0, 0, 0, 0)  # samples, correct, rewired, drifts at the last second
        self._next_second = self._started + 1
        self._dirty = False
        self._failing = False
        # When the first and the last of what no commit has yet was learned; None: there is nothing.
        self._owed: float | None = None
        self._owing: float | None = None  # the first, of what the commit under way has
        self._learned_at = 0.0
        self._begun = self._safe = 0  # samples learned, at the start of a commit and on the disk
        self._ids: list[tuple[int, str] | None] = [None] * IDS
        self._dropped = 0
        self._from_source: int | None = None  # number of the source's row in the queue
        self._rows = [0] * len(self.sources)
        self._refused_rows = [0] * len(self.sources)
        self._troubles: list[str | None] = [None] * len(self.sources)
        for source in self.sources:
            if source.fd is not None:
                self._selector.register(source.fd, selectors.EVENT_READ, _nothing)

    def _listen(self, path: str) -> Server:
        try:
            return Server(path, self._selector, self.request, line_limit(self.model.inputs))
        except UsageError:
            raise
        except ZgedgeError as e:
            failure = None if self.store is None else self.store.failure
            if failure is None or os.path.dirname(path) != self.store.folder:  # type: ignore[union-attr]
                raise
            raise ZgedgeError(
                f"{e.message} {failure}",
                "Name another place with --socket: learning goes on in memory then.",
            ) from e

    def _open(self, deployed: files.UInt8) -> Model:
        """The newest state that opens, or the deployed model."""
        self.started_from = "the deployed model"
        state = None
        if self.store is not None:
            state = self.store.load(check=lambda found: Model(found, self.path))
        if state is None:
            return Model(deployed, self.path)
        assert self.store is not None
        self.started_from = f"commit {self.store.loaded}"
        return Model(state, self.path)

    # ---- the loop ----

    def run(self) -> dict[str, Any]:
        """Serve until `stop`, or until the last of its sources has ended. Returns the last status,
        with `stopped`: why. Signals are the caller's (`StopSignals`)."""
        if self.store is not None:
            for damage in self.store.damages:
                self.event("slot damaged", damage)
            self.event("started", f"from {self.started_from}")
        self._rehearse()
        gc.collect()
        gc.freeze()
        self._rss = self._rss_first = self._rss_most = self._resident.read()
        try:
            self._notify.say("READY=1")
            while self._stopping is None:
                self.turn()
            self._notify.say("STOPPING=1")
            self._finish()
            if self._unanswered is not None:
                raise self._unanswered
            return {**self.status(), "stopped": self._stopping}
        finally:
            gc.unfreeze()
            self.close()

    def _rehearse(self) -> None:
        """Do once what is done rarely, so that no memory and no code is new to the process later:
        a commit into nothing, points of the history that become one, a status as text, rows."""
        if self.store is not None:
            self.store.rehearse()
        history = History()
        for _ in range(2 * POINTS):
            history.second(0, 0, 0, 0, 0)
        status = self.status(history=True)
        prometheus(status)
        json.dumps(status)
        inputs = len(self._row.x)
        values = ",".join(f"{0.1 + i / 9e6:.7f}" for i in range(inputs))
        for form, line in (("csv", values), ("json", f'{{"x": [{values}], "label": null}}')):
            for _ in range(2):
                Reader(inputs, form).read(line.encode(), self._row)
        self._row.given = False

    def stop(self, why: str) -> None:
        """End the loop after this turn: what waits is learned, and the state committed. Any thread
        may call it, and a signal's handler."""
        self._stopping = self._stopping or why
        with contextlib.suppress(OSError):  # full: it is awake; closed: it has ended
            self._waker.send(b"\0")

    def _woken(self, mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake.recv(64)

    def turn(self) -> None:
        """One turn: requests, rows, one tick, one piece of a commit."""
        for key, mask in self._selector.select(self._patience()):
            key.data(mask)
        if self._server is not None and self._server.waiting:
            self._server.serve()
        now = self._clock()
        self._take(now)
        if self.queue.count or (self.store is not None and (self.store.busy or self._due())):
            since = time.perf_counter_ns()
            if self.queue.count:
                self._tick()
            if self.store is not None:
                self._keep(self.store)
            self.times.add(time.perf_counter_ns() - since)
        if now >= self._next_second:
            self._second(now)
        self._notify.alive(now)

    def _patience(self) -> float:
        """Seconds to wait for events where there is nothing else to do."""
        if self.queue.count or (self._server is not None and self._server.waiting):
            return 0.0
        now = self._clock()
        wait = max(0.0, self._next_second - now)
        if self._notify.every is not None:
            wait = max(0.0, min(wait, self._notify.next - now))
        for source in self.sources:
            if not source.ended:
                wait = min(wait, source.wait(now))
        if self.store is not None and self.store.busy:
            wait = min(wait, SYNCING if self.store.syncing else 0.0)
        return wait

    def _take(self, now: float) -> None:
        """Rows of sources: of those that can wait one, and only when nothing waits already."""
        for i, source in enumerate(self.sources):
            if source.ended:
                continue
            most = PUSHED if source.pushes else 1 - min(1, self.queue.count)
            fd = source.fd
            for _ in range(most):
                try:
                    if not source.take(self._row, now):
                        break
                    self._use(self._row, i)
                    self._rows[i] += 1
                except DataError as e:
                    self._refused_rows[i] += 1
                    self._refuse(e, _where(source))
                except OSError as e:
                    self._tell(f"{source.spec}: {e.strerror}")
                    source.ended = True
                    break
            if source.ended:
                self._end(source, fd)
            else:
                self._trouble(i, source)

    def _trouble(self, i: int, source: Source) -> None:
        """Say once that a source cannot bring anything, and when it can again."""
        trouble: str | None = getattr(source, "trouble", None)
        before, self._troubles[i] = self._troubles[i], trouble
        if trouble == before:
            return
        self._tell(f"{source.spec} {trouble or getattr(source, 'well', '')}")

    def _tell(self, told: str) -> None:
        """Of a source, as an event and to a person."""
        self.event("source", told)
        if self._say is not None:
            self._say(f"{told}.")

    def _end(self, source: Source, fd: int | None) -> None:
        if fd is not None:
            self._selector.unregister(fd)
        source.close()
        if all(other.ended for other in self.sources):
            self.event("source", f"{source.spec} has ended")
            self.stop("its sources have ended")  # which the last words say
        else:
            self._tell(f"{source.spec} has ended")

    def _use(self, row: Row, source: int) -> None:
        """Predict or learn a row of a source."""
        if not row.given:
            self._settle(row.name, row.label)
            return
        if row.label is None or self.learner is None:
            keep = row.name is not None and self.model.arena.network.pending
            self._answer(row, self.predict(row.x, row.name if keep else None), source)
            return
        number = self._number(row.label)
        self.queue.put(row.x, number)
        if self._answers is not None:
            if self.sources[source].pushes:
                self._answer(row, self.predict(row.x), source)
            else:
                self._from_source = source

    def _answer(self, row: Row, predicted: Any, source: int) -> None:
        """Tell what was predicted for a row, where anyone asked for it."""
        if self._answers is None:
            return
        told: dict[str, Any] = {"row": self.sources[source].number, "predicted": predicted}
        if row.label is not None:
            told["label"] = row.label
        if row.name is not None:
            told["id"] = row.name
        try:
            self._answers(told)
        except OSError as e:  # nobody reads, or there is no room: no reason to lose what it learned
            self._answers, self._unanswered = None, e
            self.stop("nobody takes its answers")

    def _tick(self) -> None:
        """Learn the sample that has waited longest; where learning is frozen, score it only."""
        x, key, number = self.queue.pop()
        assert self.learner is not None
        label = self.model._labels[number]
        if self.frozen and key is not None:
            self._refuse(LineError("frozen", "A label came while learning is frozen."), "an id")
            return
        if self.frozen:
            predicted = self.model.predict_one(x)
            right = int(predicted == label)
            self.scored += 1
        else:
            try:
                if key is None:
                    predicted = self.learner.learn_one(x, label)
                else:
                    predicted = self.learner.settle(key, label)
            except DataError:  # of an id: samples were looked at when they came
                self._dirty = True  # it is counted
                told = f"No sample with the id {self._id_told(key)} waits for its label."
                self._refuse(LineError("unknown id", told), "a label")
                return
            tick = self.learner.tick
            right = tick.correct
            self.rewired += tick.rewired
            self._changed()
            self._accepted = tick.guard == ACCEPTED
            if tick.guard == ROLLED_BACK:
                self.event("rolled back", "the anchors saw it become worse")
            if tick.drift:
                self._drifted(tick.drift)
        self.samples += 1
        self.correct += right
        self.rolling.add(right)
        if self._from_source is not None:
            source, self._from_source = self._from_source, None
            self._answer(self._row, predicted, source)

    def _drifted(self, drift: int) -> None:
        self.drifts += drift == CONFIRMED
        self.event("drift", "confirmed" if drift == CONFIRMED else "a warning")

    # ---- keeping what was learned ----

    def _due(self) -> bool:
        """Whether to begin a commit: it is time, and where a guard judges what is learned it has
        accepted the state as it is now, or was waited for long enough."""
        if not self._dirty or self.store is None:
            return False
        return (self._accepted or not self._guarded or self._late()) and self.store.due()

    def _late(self) -> bool:
        """Whether what was learned is to be kept as it is, as at a clean stop: for a whole interval
        no accepted state came when one could have been committed, or nothing more is learned, and
        so nothing accepted. The state accepted last lies in the arena, to go back to."""
        assert self.store is not None
        if self._owed is None:
            return False
        now = self._clock()
        return now - self._learned_at >= QUIET or now - self._owed >= max(
            QUIET, 2 * self.store.interval
        )

    def _changed(self) -> None:
        """Something was learned, or decided, that is not to be lost."""
        self._dirty = True
        self._learned_at = self._clock()
        if self._owed is None:
            self._owed = self._learned_at

    def _judged(self) -> bool:
        """Whether the guard is on: it has anchors enough."""
        learner = self.learner
        return learner is not None and learner.status().get("guard") == "on"

    def _keep(self, store: Store) -> None:
        """Begin a commit where it is time for one, or write a piece of it."""
        if store.busy:
            if not store.step():
                self._kept(store)
        elif self._due():
            self._begin(store)

    def _begin(self, store: Store) -> None:
        self.model.seal()
        self._dirty = False
        self._owing, self._owed = self._owed, None
        self._begun = self.samples - self.scored
        store.begin(self.model.arena.buffer.data)
        if not store.busy:
            self._kept(store)

    def _kept(self, store: Store) -> None:
        """A commit has ended."""
        failing = store.failure is not None
        if failing:
            self._dirty = True
            self._owed = self._owed if self._owing is None else self._owing
        else:
            self._safe = self._begun
        if failing and not self._failing:
            self.event("commit failed", store.failure or "")
        elif self._failing and not failing:
            self.event("committed", f"commit {store.generation}, after failures")
        self._failing = failing

    def commit(self) -> str | None:
        """Commit now, whatever the interval, and wait for it; why that failed, or None."""
        if self.store is None:
            return "There is no folder for learned state."
        if self.store.busy:
            self.store.finish()
            self._kept(self.store)
        if self._dirty:
            self._begin(self.store)
            self.store.finish()
            self._kept(self.store)
        return self.store.failure

    def _keep_now(self, changed: bool = True) -> str | None:
        """Commit what a person has decided: that is rare, and no tick may come to commit it. Why
        that failed, or None; learning goes on in memory then."""
        if changed:
            self._changed()
        return None if self.store is None else self.commit()

    def _finish(self) -> None:
        """What a clean stop owes: samples that were taken are learned, and all is committed."""
        while self.queue.count:
            self._tick()
        if self.store is None:
            return
        self.event("stopped", self._stopping or "")
        self.commit()
        self.store.log.flush()
        self.store.log.sync()

    def close(self) -> None:
        """Let go of everything, without a commit."""
        self._notify.close()
        if self._server is not None:
            self._server.close()
            self._server = None
        for source in self.sources:
            source.close()
        self.sources = []
        if self.store is not None:
            self.store.close()
        self._selector.close()
        self._wake.close()
        self._waker.close()

    # ---- once a second ----

    def _second(self, now: float) -> None:
        self._next_second = max(self._next_second + 1, now)
        self._rss = self._resident.read()
        self._rss_most = max(self._rss_most, self._rss)
        was, self._before = self._before, (self.samples, self.correct, self.rewired, self.drifts)
        samples, correct, rewired, drifts = self._before
        self.history.second(
            samples - was[0], correct - was[1], rewired - was[2], drifts - was[3], self._rss
        )
        self._guarded = self._judged()  # a new epoch fills its anchors
        if self.queue.dropped > self._dropped:
            self.event("dropped", "a flood", value=self.queue.dropped - self._dropped)
            self._dropped = self.queue.dropped
        if self._metrics_file is not None and now >= self._metrics_at:
            self._metrics_at = now + self._metrics_every
            self._write_metrics(self._metrics_file)

    def _write_metrics(self, path: str) -> None:
        """Replace the file at once, so that nobody reads half of it."""
        new = f"{path}.{os.getpid()}"
        try:
            with open(new, "w", encoding="utf-8") as f:
                f.write(prometheus(self.status()))
            os.replace(new, path)
            self._metrics_failure = None
        except OSError as e:
            self._metrics_failure = f"Metrics are not written to {path}: {e.strerror}."
            with contextlib.suppress(OSError):
                os.unlink(new)

    def event(self, kind: str, text: str = "", *, value: int = 0, about: str | None = None) -> None:
        """Log an event; the same kind once a minute for what it is about, else for its text."""
        if self.store is None:
            return
        now, key = self._clock(), f"{kind} {text if about is None else about}"
        if now - self._logged.get(key, -SAME_EVENT) < SAME_EVENT:
            return
        if len(self._logged) > 100:
            self._logged.clear()
        self._logged[key] = now
        step = self.learner.status()["steps"] if self.learner is not None else 0
        self.store.log.add(kind, text, step=step, value=value)

    # ---- requests ----

    def predict(self, x: Any, key: int | str | None = None, *, watch: bool = True) -> Any:
        """The label of a sample [inputs]; it is kept under the id `key` until its own comes. One
        that is no part of the stream, such as a question of health, is not to be watched."""
        if key is not None and not self.frozen:
            if self.learner is None:
                raise ModelError(f"{self.path} was written to predict only.")
            self.learner.hold(key, x)
            self._changed()
        label = self.model.predict_one(x)
        self.predictions += 1
        if watch and self._watched and not self.frozen:
            assert self.learner is not None
            self.learner.watch(x)
            self._dirty = True
            if self.learner.tick.drift:
                self._drifted(self.learner.tick.drift)
        return label

    def _number(self, label: Any) -> int:
        assert self.learner is not None
        if isinstance(label, bool) or not isinstance(label, str | int | float):
            raise LineError("label", f"{json.dumps(label)[:40]} is no label.")
        try:
            return int(self.learner.label_numbers([label])[0])
        except DataError as e:
            raise LineError("label", e.message, e.hint) from e

    def _refuse(self, e: DataError, where: str) -> None:
        why = e.why if isinstance(e, LineError) else "other"
        self.refused[why] = self.refused.get(why, 0) + 1
        self.last_refused = f"{where}: {e.message}"
        # One fault that comes all the time hides no other.
        self.event("bad input", self.last_refused, value=self.refused[why], about=why)

    def request(self, line: bytes | LineError) -> dict[str, Any]:
        """Answer a request of the socket, an object with `op` and what that needs as JSON, or what
        could not be read as a line."""
        try:
            if isinstance(line, LineError):
                raise line
            asked = parse(line)
            op = asked.get("op") if isinstance(asked, dict) else None
            act = self._OPERATIONS.get(op) if isinstance(op, str) else None
            if act is None:
                known = ", ".join(self._OPERATIONS)
                raise LineError("request", f'A request is an object whose "op" is {known}.')
            return {"ok": True, **act(self, asked)}
        except DataError as e:
            self._refuse(e, "socket")
            return _failed(e)
        except ZgedgeError as e:
            return _failed(e)

    def _predict(self, asked: dict[str, Any]) -> dict[str, Any]:
        self._row.set(asked.get("x"))
        watch = asked.get("watch", True)
        if not isinstance(watch, bool):
            raise LineError("request", '"watch" is true or false.')
        label = self.predict(self._row.x, asked.get("id"), watch=watch)
        return {"label": label, "score": self.model._score.value / 32768}

    def _learn(self, asked: dict[str, Any]) -> dict[str, Any]:
        if self.learner is None:
            raise ModelError(f"{self.path} was written to predict only.")
        self._row.set(asked.get("x"))
        self.queue.put(self._row.x, self._number(asked.get("y")))
        return {"waiting": self.queue.count, "dropped": self.queue.dropped}

    def _label(self, asked: dict[str, Any]) -> dict[str, Any]:
        self._settle(asked.get("id"), asked.get("y"))
        return {"waiting": self.queue.count, "dropped": self.queue.dropped}

    def _settle(self, key: Any, label: Any) -> None:
        """Learn, in its turn, the sample that is kept under an id."""
        if self.learner is None:
            raise ModelError(f"{self.path} was written to predict only.")
        if not self.model.arena.network.pending:
            raise LineError("unknown id", f"{self.path} keeps no samples until their label comes.")
        try:
            number = files.id_number(key)
        except (TypeError, ValueError) as e:
            raise LineError("id", "An id is a text, or a whole number below 2^64.") from e
        self.queue.put_label(number, self._number(label))
        text = cut(key, ID_TEXT) if isinstance(key, str) else ""
        self._ids[number % IDS] = (number, text) if text else None

    def _id_told(self, number: int | None) -> str:
        """An id as it was given, where that is still known; else its number."""
        known = None if number is None else self._ids[number % IDS]
        return f'"{known[1]}"' if known is not None and known[0] == number else str(number)

    def _name_class(self, asked: dict[str, Any]) -> dict[str, Any]:
        if self.learner is None:
            raise ModelError(f"{self.path} was written to predict only.")
        name = asked.get("name")
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise LineError("class", 'The "name" of a class is a text or a whole number.')
        try:
            number = self.learner.add_class(name)
        except DataError as e:
            raise LineError("class", e.message, e.hint) from e
        label = self.model._labels[number]
        self.event("learning", f"a new class: {label}")
        spare = self.model.arena.network.classes - number - 1
        return {"label": label, "spare": spare, "failure": self._keep_now()}

    def _status(self, asked: dict[str, Any]) -> dict[str, Any]:
        return self.status(history=bool(asked.get("history")))

    def _metrics(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"text": prometheus(self.status())}

    def _control(self, asked: dict[str, Any]) -> dict[str, Any]:
        do = asked.get("do")
        failure = self.control(do if isinstance(do, str) else "")
        return {"learning": self.learning, "failure": failure}

    def control(self, do: str) -> str | None:
        """Do what a person asks for, and commit that; why it is in memory only, or None. Raises
        LineError for what is not known, ModelError where the file was written to predict only,
        ZgedgeError where it is to commit and the disk fails."""
        act = self._CONTROLS.get(do)
        if act is None:
            raise LineError("request", f'"do" is one of {", ".join(self._CONTROLS)}.')
        if self.learner is None and do != "stop":
            raise ModelError(f"{self.path} was written to predict only.")
        return act(self)

    def _on(self) -> str | None:
        assert self.learner is not None
        before = self.learner.status()["learn"]
        self.learner.unfreeze()
        self.frozen = False
        self.event("learning", "on")
        return self._keep_now(changed=before != "all")

    def _freeze(self) -> str | None:
        assert self.learner is not None
        before = self.learner.status()["learn"]
        self.learner.freeze()
        self.frozen = True
        self.event("learning", "frozen")
        return self._keep_now(changed=before != "none")

    def _accept(self) -> str | None:
        assert self.learner is not None
        self.learner.accept()
        self._accepted = True
        self.event("accepted", "by hand")
        return self._keep_now()

    def _roll_back(self) -> str | None:
        assert self.learner is not None
        self.learner.rollback()
        self._accepted = True
        self.event("rolled back", "by hand")
        return self._keep_now()

    def _commit_now(self) -> str | None:
        if (why := self.commit()) is not None:
            raise ZgedgeError(why)
        return None

    _OPERATIONS: dict[str, Callable[[Service, dict[str, Any]], dict[str, Any]]] = {  # noqa: RUF012
        "predict": _predict, "learn": _learn, "label": _label, "status": _status,
        "metrics": _metrics, "control": _control, "class": _name_class,
    }  # fmt: skip
    _CONTROLS: dict[str, Callable[[Service], str | None]] = {  # noqa: RUF012
        "on": _on, "freeze": _freeze, "accept": _accept, "rollback": _roll_back,
        "commit": _commit_now,
        "stop": lambda self: self.stop("asked to"),
    }  # fmt: skip

    # ---- status ----

    @property
    def learning(self) -> str:
        """ "on", "frozen", or "never" for a file that was written to predict only."""
        if self.learner is None:
            return "never"
        return "frozen" if self.frozen else "on"

    def status(self, history: bool = False) -> dict[str, Any]:
        """Everything that is known of the service; times in seconds, but for those of ticks, which
        are in microseconds."""
        times = self.times
        arena = self.model.arena
        found: dict[str, Any] = {
            "model": self.path,
            "bytes": len(arena.buffer),
            "budget": arena.budget or None,
            "started_from": self.started_from,
            "uptime": round(self._clock() - self._started, 3),
            "learning": self.learning,
            "predictions": self.predictions,
            "samples": self.samples,
            "scored": self.scored,
            "uncommitted": None if self.store is None
            else self.samples - self.scored - self._safe,
            "correct": self.correct,
            "drifts": self.drifts,
            "accuracy": self.rolling.accuracy,
            "window": self.rolling.count,
            "refused": dict(self.refused),
            "last_refused": self.last_refused,
            "queue": {
                "waiting": self.queue.count,
                "room": self.queue.room,
                "dropped": self.queue.dropped + sum(s.dropped for s in self.sources),
            },
            "ticks": {
                "count": times.count,
                **{
                    name: times.quantile(q) / 1000 if times.count else None
                    for name, q in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999))
                },
                "longest": times.longest / 1000 if times.count else None,
            },
            "memory": {"rss": self._rss, "first": self._rss_first, "most": self._rss_most},
            "learner": None if self.learner is None else self.learner.status(),
            "store": None if self.store is None else self.store.status(),
            "clients": 0 if self._server is None else self._server.clients,
            "sources": [
                {"source": s.spec, "rows": rows, "refused": refused, "ended": s.ended,
                 "state": getattr(s, "state", None)}
                for s, rows, refused in zip(
                    self.sources, self._rows, self._refused_rows, strict=True
                )
            ],
            "metrics_failure": self._metrics_failure,
            "events": [] if self.store is None else [
                vars(event) for event in self.store.log.tail(EVENTS)
            ],
        }  # fmt: skip
        if history:
            found["history"] = self.history.as_dict()
        return found


def _failed(e: ZgedgeError) -> dict[str, Any]:
    return {"ok": False, "error": e.message, "hint": e.hint, "exit_code": e.exit_code}


def _where(source: Source) -> str:
    """The place of what a source read last, short: an event has 80 bytes."""
    name = source.spec if "://" in source.spec else os.path.basename(source.spec.rstrip("/"))
    place = getattr(source, "place", "")
    return f"{name or source.spec}, {place}" if place else name or source.spec


def _nothing(mask: int) -> None:
    """A source became readable; it is asked in its turn."""


class StopSignals:
    """SIGTERM, SIGINT and SIGHUP stop a service cleanly while this is entered; SIGHUP not where it
    was ignored, as under `nohup`: that one is to outlive its terminal.

    It is entered before the service is made: one that can be reached can be stopped, and leaves no
    socket behind. A signal that comes before `stop` is told which service is stopped by it then.
    """

    def __enter__(self) -> Self:
        self._service: Service | None = None
        self._came: str | None = None
        stops = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            stops.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, self._note) for number in stops}
        return self

    def __exit__(self, *raised: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        self._came = self._came or signal.Signals(number).name
        if self._service is not None:
            self._service.stop(self._came)

    def stop(self, service: Service) -> None:
        """Name the service that they stop."""
        self._service = service
        if self._came is not None:
            service.stop(self._came)
