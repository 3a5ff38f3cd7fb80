"""The service in one process: what it answers, learns, keeps, refuses and survives."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import nets
from tests.core import test_guard as guarded
from tests.runtime.test_store import Clock, Failing, flip
from tests.waiting import until
from tests.worlds import start, worlds
from zgedge import Learner, Model
from zgedge.errors import ModelError, UsageError, ZgedgeError
from zgedge.runtime import service as services
from zgedge.runtime import sockets
from zgedge.runtime.metrics import History, Rolling, Times, prometheus
from zgedge.runtime.service import Service
from zgedge.runtime.sockets import Server, ask
from zgedge.runtime.sources import Pipe, Reader, Row
from zgedge.runtime.store import Store

NET = nets.network(replay_samples=16, replay_bits=4, batch=4)
X, Y = nets.samples(NET, 4000)


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "m.zge"
    path.write_bytes(nets.file(NET))
    return str(path)


class Running:
    """A service in a thread, and a client."""

    def __init__(self, service: Service, path: str) -> None:
        self.service = service
        self.path = path
        self.result: dict[str, Any] | None = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.result = self.service.run()
        except BaseException as e:
            self.error = e

    def ask(self, **request: Any) -> dict[str, Any]:
        (reply,) = ask(self.path, iter([request]))
        return reply  # type: ignore[no-any-return]

    def send(self, data: bytes, replies: int | None = None) -> list[dict[str, Any]]:
        """Raw bytes to the socket; its replies, until it closes or there are so many."""
        found = []
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(60)
            sock.connect(self.path)
            sock.sendall(data)
            if replies is None:
                sock.shutdown(socket.SHUT_WR)
            with sock.makefile("rb") as lines:
                for line in lines:
                    found.append(json.loads(line))
                    if len(found) == replies:
                        break
        return found

    def wait(self, **values: Any) -> dict[str, Any]:
        """A status once it has these values."""
        return until(
            lambda: self.ask(op="status"),
            lambda status: all(status[name] == value for name, value in values.items()),
        )

    def stop(self) -> dict[str, Any]:
        self.service.stop("a test")
        self.thread.join(60)
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result


@pytest.fixture
def started(model: str, tmp_path: Path) -> Iterator[Any]:
    """Starts a service; all are stopped at the end."""
    made: list[Running] = []

    def start(**options: Any) -> Running:
        path = str(tmp_path / f"socket{len(made)}")
        options.setdefault("state", str(tmp_path / "state"))
        made.append(Running(Service(model, socket=path, **options), path))
        return made[-1]

    yield start
    for running in made:
        running.service.stop("the end")
        running.thread.join(60)
        assert not running.thread.is_alive()


# ---- requests ----


def test_predicts_as_the_model_does(model: str, started: Any) -> None:
    run = started()
    plain = Model.open(model)
    for x in X[:50]:
        reply = run.ask(op="predict", x=x.tolist())
        assert reply["ok"]
        assert reply["label"] == plain.predict_one(x)
        assert reply["score"] == plain.predict_index(x[None])[1][0] / 32768
    assert run.ask(op="status")["predictions"] == 50


def test_learns_as_the_learner_does_in_the_order_of_arrival(model: str, started: Any) -> None:
    run = started()
    lines = b"".join(
        json.dumps({"op": "learn", "x": x.tolist(), "y": int(y)}).encode() + b"\n"
        for x, y in zip(X[:600], Y[:600], strict=True)
    )
    assert all(reply["ok"] for reply in run.send(lines))
    run.wait(samples=600)
    found = run.stop()
    learner = Learner(model)
    for x, y in zip(X[:600], Y[:600], strict=True):
        learner.learn_one(x, int(y))
    assert found["learner"] == learner.status()
    assert found["correct"] == learner.status()["correct"]
    learner.seal()
    with Store.open(found["store"]["folder"], Path(model).read_bytes()) as store:
        assert bytes(store.load()) == learner.model.arena.buffer.tobytes()  # type: ignore[arg-type]


def test_prediction_waits_for_one_tick_at_most(model: str, started: Any) -> None:
    """With a full queue, a prediction is answered after no more than one more tick."""
    service = Service(model, socket=model + ".socket")
    for x, y in zip(X[:500], Y[:500], strict=True):
        service.queue.put(x, int(y))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(model + ".socket")
        service.turn()  # takes the connection
        sock.sendall(b'{"op": "predict", "x": ' + json.dumps(X[0].tolist()).encode() + b"}\n")
        before = service.samples
        service.turn()
        assert json.loads(sock.recv(65536))["ok"]
        assert service.samples <= before + 1
    assert service.queue.count >= 490
    service.close()


def test_an_integer_label_may_come_as_text(started: Any) -> None:
    run = started()
    assert run.ask(op="learn", x=X[0].tolist(), y=str(Y[0]))["ok"]
    assert run.ask(op="learn", x=X[0].tolist(), y=int(Y[0]))["ok"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"garbage", "not JSON"), (b"{}", "request"), (b"[]", "request"), (b"5", "request"),
        (b'{"op": "fly"}', "request"), (b'{"op": ["predict"]}', "request"), (b"\xff", "not UTF-8"),
        (b'{"op": "predict"}', "width"), (b'{"op": "predict", "x": [1, 2]}', "width"),
        (b'{"op": "predict", "x": "abc"}', "width"),
        (b'{"op": "predict", "x": [NaN' + b", 1" * 23 + b"]}", "not finite"),
        (b'{"op": "predict", "x": [1e39' + b", 1" * 23 + b"]}", "not finite"),
        (b'{"op": "predict", "x": ["a"' + b", 1" * 23 + b"]}", "not numbers"),
        (b'{"op": "learn", "x": [1' + b", 1" * 23 + b"]}", "label"),
        (b'{"op": "learn", "x": [1' + b", 1" * 23 + b'], "y": 4}', "label"),
        (b'{"op": "learn", "x": [1' + b", 1" * 23 + b'], "y": -1}', "label"),
        (b'{"op": "learn", "x": [1' + b", 1" * 23 + b'], "y": "never seen"}', "label"),
        (b'{"op": "learn", "x": [1' + b", 1" * 23 + b'], "y": [1]}', "label"),
        (b'{"op": "learn", "x": [1' + b", 1" * 23 + b'], "y": {}}', "label"),
        (b'{"op": "learn", "y": 1}', "width"), (b'{"op": "control"}', "request"),
        (b'{"op": "control", "do": "explode"}', "request"),
        (b'{"op": "control", "do": {}}', "request"), (b"[" * 60_000, "not JSON"),
        (b"x" * 70_000, "too long"), (b"", "not JSON"),
    ],
    ids=lambda v: v[:40] if isinstance(v, str) else None,
)  # fmt: skip
def test_bad_requests_are_refused_and_harm_nothing(started: Any, line: bytes, why: str) -> None:
    run = started()
    good = b'{"op": "learn", "x": ' + json.dumps(X[0].tolist()).encode() + b', "y": 1}\n'
    replies = run.send(good + line + b"\n" + good)
    assert [reply["ok"] for reply in replies] == [True, False, True]
    assert replies[1]["error"]
    assert replies[1]["exit_code"] == 3
    status = run.wait(samples=2)
    assert status["refused"] == {why: 1}
    assert status["events"][-1]["kind"] == "bad input"


def test_half_a_line_is_no_request(started: Any) -> None:
    run = started()
    assert run.send(b'{"op": "stat') == []
    assert run.send(b'{"op": "status"}\n{"op": "stat')[0]["ok"]
    assert run.ask(op="status")["clients"] == 1


def test_replies_keep_the_order_of_many_requests_in_one_piece(started: Any) -> None:
    run = started()
    plain = Model.open(run.service.path)
    data = b"".join(
        b'{"op": "predict", "x": ' + json.dumps(x.tolist()).encode() + b"}\n" for x in X[:300]
    )
    assert [r["label"] for r in run.send(data)] == plain.predict(X[:300]).tolist()


def test_a_client_that_never_reads_is_not_read_from(started: Any) -> None:
    run = started()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(run.path)
        sock.setblocking(False)
        sent = 0
        line = b'{"op": "status"}\n' * 100
        quiet = time.monotonic()
        while time.monotonic() - quiet < 0.3:
            try:
                sent += sock.send(line)
                quiet = time.monotonic()
            except BlockingIOError:
                time.sleep(0.01)
            assert sent < 10_000_000
        while not (clients := list(run.service._server._clients.values())):
            assert time.monotonic() - quiet < 60
            time.sleep(0.01)
        client = clients[0]
        assert len(client.out) < 4 * sockets.UNREAD
        assert run.ask(op="predict", x=X[0].tolist())["ok"]


def test_too_many_clients_are_told_so(started: Any) -> None:
    run = started()
    held = []
    for _ in range(sockets.CLIENTS):
        held.append(socket.socket(socket.AF_UNIX))
        held[-1].connect(run.path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(run.path)
        refusal = json.loads(sock.recv(1000))
        assert "too many clients" in refusal["error"]
        assert refusal["hint"]
        assert refusal["exit_code"] == 1
    for sock in held:
        sock.close()
    for _ in range(6000):
        with contextlib.suppress(ZgedgeError):
            if run.ask(op="status")["ok"]:
                break
        time.sleep(0.01)
    assert run.wait(clients=1)


def test_a_label_that_is_no_class_is_told_the_classes(started: Any) -> None:
    run = started()
    x = X[0].tolist()
    for label in (99, -1, "99"):
        reply = run.ask(op="learn", x=x, y=label)
        assert reply["error"].startswith(f"The label {label!r} is not a class of ")
        assert reply["hint"] == "Its classes are 0, 1, 2, 3."


@pytest.mark.parametrize("watch", ["maybe", "", 0, 1, None, []])
def test_watch_is_a_boolean(started: Any, watch: Any) -> None:
    run = started()
    reply = run.ask(op="predict", x=X[0].tolist(), watch=watch)
    assert (reply["ok"], reply["exit_code"]) == (False, 3)
    assert "true or false" in reply["error"]
    assert run.ask(op="predict", x=X[0].tolist(), watch=False)["ok"]


# ---- learning on request ----


def test_freeze_scores_and_learns_nothing_until_on(model: str, started: Any) -> None:
    run = started()
    assert run.ask(op="control", do="freeze")["learning"] == "frozen"
    before = run.ask(op="status")["learner"]
    for x, y in zip(X[:50], Y[:50], strict=True):
        run.ask(op="learn", x=x.tolist(), y=int(y))
    status = run.wait(samples=50)
    assert status["learner"] == before
    right = int((Model.open(model).predict(X[:50]) == Y[:50]).sum())
    assert (status["correct"], status["accuracy"]) == (right, right / 50)
    run.stop()
    run = started()  # it is still frozen
    assert run.ask(op="status")["learning"] == "frozen"
    assert run.ask(op="control", do="on")["learning"] == "on"
    run.ask(op="learn", x=X[0].tolist(), y=int(Y[0]))
    assert run.wait(samples=1)["learner"]["steps"] == 1


def test_commit_on_request(started: Any) -> None:
    run = started(commit_every=1e9)
    run.ask(op="learn", x=X[0].tolist(), y=int(Y[0]))
    run.wait(samples=1)
    assert run.ask(op="status")["store"]["commits"] == 0
    assert run.ask(op="control", do="commit")["ok"]
    assert run.ask(op="status")["store"]["commits"] == 1
    assert run.ask(op="control", do="commit")["ok"]  # nothing new, nothing written
    assert run.ask(op="status")["store"]["commits"] == 1


def test_stop_on_request(started: Any) -> None:
    run = started()
    assert run.ask(op="control", do="stop")["ok"]
    run.thread.join(60)
    assert run.result is not None
    assert run.result["stopped"] == "asked to"


def test_a_file_that_only_predicts(tmp_path: Path) -> None:
    path = tmp_path / "fixed.zge"
    net = nets.network(learning=False, batch=1)
    path.write_bytes(nets.file(net))
    run = Running(Service(str(path), socket=str(tmp_path / "s")), str(tmp_path / "s"))
    assert run.ask(op="predict", x=X[0].tolist())["ok"]
    reply = run.ask(op="learn", x=X[0].tolist(), y=0)
    assert (reply["ok"], reply["exit_code"]) == (False, 4)
    assert "predict only" in run.ask(op="control", do="freeze")["error"]
    status = run.ask(op="status")
    assert (status["learning"], status["learner"], status["store"]) == ("never", None, None)
    assert "zgedge_learning 0" in run.ask(op="metrics")["text"]
    run.stop()


# ---- labels that come later ----

LATE = nets.network(replay_samples=16, replay_bits=4, batch=4, pending=20)


@pytest.fixture
def late(tmp_path: Path) -> str:
    path = tmp_path / "late.zge"
    path.write_bytes(nets.file(LATE))
    return str(path)


def test_labels_by_id_are_learned_as_the_learner_does(late: str, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    run = Running(Service(late, state=str(tmp_path / "st"), socket=path), path)
    learner = Learner(late)
    for i in range(30):
        reply = run.ask(op="predict", x=X[i].tolist(), id=f"r{i}")
        assert reply["label"] == learner.hold(f"r{i}", X[i])
    for i in range(29, 9, -1):
        assert run.ask(op="label", id=f"r{i}", y=int(Y[i]))["ok"]
        learner.settle(f"r{i}", int(Y[i]))
    assert run.wait(samples=20)["learner"] == learner.status()
    assert run.ask(op="label", id="r0", y=0)["ok"]  # it went for a newer one
    assert run.wait(refused={"unknown id": 1})["samples"] == 20
    assert run.ask(op="label", id=7, y=0)["ok"]
    status = run.wait(refused={"unknown id": 2})
    assert status["learner"]["pending_unknown"] == 2
    for bad in ({"id": "r1", "y": 9}, {"id": "r1"}, {"y": 1}, {"id": [1], "y": 1},
                {"id": -1, "y": 1}, {"id": 1.5, "y": 1}):  # fmt: skip
        assert not run.ask(op="label", **bad)["ok"], bad
    assert not run.ask(op="predict", x=X[0].tolist(), id=-1)["ok"]
    run.ask(op="control", do="freeze")
    run.ask(op="label", id="r5", y=0)
    run.wait(refused={**run.ask(op="status")["refused"], "frozen": 1})
    run.stop()


def test_samples_that_wait_survive_a_restart(late: str, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    for turn in range(2):
        run = Running(Service(late, state=str(tmp_path / "st"), socket=path), path)
        if turn == 0:
            run.ask(op="predict", x=X[0].tolist(), id="a")
        else:
            assert run.ask(op="label", id="a", y=1)["ok"]
            run.wait(samples=1)
        run.stop()


def test_labels_by_id_in_rows(late: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    rows = [json.dumps({"x": x.tolist(), "id": i}) for i, x in enumerate(X[:10])]
    rows += [json.dumps({"id": i, "label": int(Y[i])}) for i in (3, 1, 99)]
    path.write_text("\n".join(rows))
    with path.open("rb") as f:
        found = Service(late, sources=[Pipe(f.fileno(), Reader(24))]).run()
    assert (found["predictions"], found["samples"]) == (10, 2)
    assert found["refused"] == {"unknown id": 1}
    assert found["learner"]["pending"] == 8


def test_a_file_without_a_table_keeps_no_samples(started: Any) -> None:
    run = started()
    reply = run.ask(op="label", id="a", y=1)
    assert not reply["ok"]
    assert "keeps no samples" in reply["error"]
    assert "--pending" in run.ask(op="predict", x=X[0].tolist(), id="a")["hint"]


# ---- drift and the guard ----


@pytest.fixture
def judged(tmp_path: Path) -> str:
    path = tmp_path / "judged.zge"
    path.write_bytes(start(guarded.NETWORKS["sparse-b1"]).to_bytes())
    return str(path)


def test_a_commit_waits_for_a_state_that_the_guard_accepted(judged: str, tmp_path: Path) -> None:
    clock = Clock()
    blob = Path(judged).read_bytes()
    store = Store.open(tmp_path / "s", blob, clock=clock, interval=0)
    service = Service(judged, store=store, clock=clock)
    assert service.status()["learner"]["guard"] == "on"
    x, y = worlds(guarded.NETWORKS["sparse-b1"])[0].draw(np.random.default_rng(2), 1500)
    assert service.learner is not None
    accepted = commits = waited = 0
    for i in range(1500):
        service.queue.put(x[i], int(y[i]))
        clock.now += 0.001
        busy = store.busy
        service.turn()
        accepted += service.learner.tick.guard == services.ACCEPTED
        if store.busy and not busy:
            commits += 1
            assert service.learner.tick.guard == services.ACCEPTED
        waited += not store.busy
        while i % 100 == 99 and store.busy:  # however long the disk takes
            service.turn()
    assert 3 <= commits <= accepted
    assert waited > 100
    service.close()
    with Store.open(tmp_path / "s", blob) as again:
        state = again.load()
    assert state is not None
    kept = Learner(Model(state)).status()
    assert kept["accepted"] > 0


def judged_service(judged: str, folder: Path, interval: float) -> tuple[Service, Clock]:
    clock = Clock()
    store = Store.open(folder, Path(judged).read_bytes(), clock=clock, interval=interval)
    return Service(judged, store=store, clock=clock), clock


def idle(service: Service, clock: Clock, seconds: float) -> list[float]:
    """Let time pass with nothing to learn; when commits ended."""
    assert service.store is not None
    found = []
    for _ in range(int(2 * seconds)):
        clock.now += 0.5
        before = service.store.generation
        service._next_second = clock.now  # it does not wait for the clock on the wall
        service.turn()
        found += [clock.now] * (service.store.generation - before)
    return found


def some(n: int) -> tuple[Any, Any]:
    return worlds(guarded.NETWORKS["sparse-b1"])[0].draw(np.random.default_rng(2), n)


def test_what_no_acceptance_follows_is_committed_when_it_is_quiet(
    judged: str, tmp_path: Path
) -> None:
    """A few labels and then silence: no state would ever be accepted."""
    service, clock = judged_service(judged, tmp_path / "s", 5)
    x, y = some(7)
    for row, label in zip(x, y, strict=True):
        service.queue.put(row, int(label))
        service.turn()
        assert not service._accepted
    assert service.status()["uncommitted"] == 7
    start = clock.now
    (at,) = idle(service, clock, 100)  # and nothing more: nothing has changed since
    assert services.QUIET <= at - start <= services.QUIET + 5
    assert service.status()["uncommitted"] == 0
    service.close()
    with Store.open(tmp_path / "s", Path(judged).read_bytes()) as again:
        state = again.load()
    assert state is not None
    learner = Learner(judged)
    for row, label in zip(x, y, strict=True):
        learner.learn_one(row, int(label))
    learner.seal()
    assert state.tobytes() == learner.model.arena.buffer.tobytes()  # the accepted state beside it


def test_what_is_never_accepted_is_committed_after_another_interval(
    judged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "ACCEPTED", 99)
    service, clock = judged_service(judged, tmp_path / "s", 20)
    assert service.store is not None
    x, y = some(400)
    start, ends, generation = clock.now, [], 0
    for row, label in zip(x, y, strict=True):
        service.queue.put(row, int(label))
        clock.now += 0.5
        service.turn()
        if service.store.generation > generation:
            generation = service.store.generation
            ends.append(clock.now - start)
    assert len(ends) == 4
    assert all(40 <= gap <= 45 for gap in np.diff([0, *ends]))
    service.close()


def test_what_is_only_watched_waits_for_an_acceptance(judged: str, tmp_path: Path) -> None:
    service, clock = judged_service(judged, tmp_path / "s", 5)
    for row in some(20)[0]:
        service.predict(row)
    assert service._dirty
    assert idle(service, clock, 60) == []
    service.close()


def test_a_late_commit_that_fails_is_tried_again(
    judged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, clock = judged_service(judged, tmp_path / "s", 5)
    assert service.store is not None
    slots = service.store._slots
    assert slots is not None
    service.queue.put(some(1)[0][0], 0)
    service.turn()

    def full(sync: Any) -> bool:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(slots, "_step", full)
        assert idle(service, clock, 20) == []
    assert service.store.failure is not None
    assert service.status()["uncommitted"] == 1
    assert len(idle(service, clock, 60)) == 1
    assert service.status()["uncommitted"] == 0
    service.close()


def test_one_fault_does_not_hide_another(late: str, tmp_path: Path) -> None:
    service = Service(late, state=str(tmp_path / "s"))
    for key in ("r7", "r7", 12):
        assert service.request(json.dumps({"op": "label", "id": key, "y": 1}).encode())["ok"]
        service.turn()
    assert service.last_refused == "a label: No sample with the id 12 waits for its label."
    service.request(b'{"op": "predict", "x": [1, 2]}')
    bad = [e["text"] for e in service.status()["events"] if e["kind"] == "bad input"]
    assert bad == [
        'a label: No sample with the id "r7" waits for its label.',
        "socket: 2 values; the model takes 24.",
    ]
    service.close()


def test_accept_and_rollback_by_hand(judged: str, model: str, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    run = Running(Service(judged, state=str(tmp_path / "st"), socket=path), path)
    before = run.ask(op="status")["learner"]
    assert run.ask(op="control", do="accept")["ok"]
    assert run.ask(op="control", do="rollback")["ok"]
    after = run.ask(op="status")
    assert after["learner"]["accepted"] == before["accepted"] + 1
    assert after["learner"]["rolled_back"] == before["rolled_back"] + 1
    assert [e["text"] for e in after["events"][-2:]] == ["by hand", "by hand"]
    assert "zgedge_guard 1" in run.ask(op="metrics")["text"]
    run.stop()
    run = Running(Service(model, socket=path), path)
    reply = run.ask(op="control", do="accept")
    assert (reply["ok"], reply["exit_code"]) == (False, 4)
    run.stop()


def test_samples_without_a_label_are_watched(judged: str, tmp_path: Path) -> None:
    service = Service(judged, state=str(tmp_path / "s"))
    learner = Learner(judged)
    network = guarded.NETWORKS["sparse-b1"]
    old, new = worlds(network)[:2]
    warned = 0
    for world, n in ((old, 400), (new, 400)):
        x, _ = world.draw(np.random.default_rng(5), n)
        for row in x:
            assert service.predict(row) == learner.watch(row)
            warned += learner.tick.drift > 0
    assert service.status()["learner"] == learner.status()
    assert warned
    assert "drift" in [e["kind"] for e in service.status()["events"]]
    # A question of health is no part of the stream.
    before = service.status()["learner"]["drift"]
    line = json.dumps({"op": "predict", "x": x[0].tolist(), "watch": False}).encode()
    assert service.request(line)["label"] == learner.model.predict_one(x[0])
    assert service.status()["learner"]["drift"] == before
    assert service.request(line.replace(b"false", b"true"))["ok"]
    learner.watch(x[0])
    assert service.status()["learner"]["drift"] == learner.status()["drift"] != before
    service.control("freeze")
    service.predict(x[0])
    assert service.status()["learner"]["drift"] == learner.status()["drift"]
    service.close()


# ---- floods and strange streams ----


def test_a_flood_drops_the_oldest_and_counts_them(model: str) -> None:
    service = Service(model, queue=64)
    learner = Learner(model)
    for x, y in zip(X[:640], Y[:640], strict=True):  # ten times what can wait
        service.queue.put(x, int(y))
    assert service.status()["queue"] == {"waiting": 64, "room": 64, "dropped": 576}
    while service.queue.count:
        service.turn()
    for x, y in zip(X[576:640], Y[576:640], strict=True):
        learner.learn_one(x, int(y))
    assert service.learner is not None
    assert service.learner.status() == learner.status()
    service.close()


def test_constant_input_and_all_labels_wrong(started: Any) -> None:
    run = started()
    one = b'{"op": "learn", "x": ' + json.dumps([0.5] * 24).encode() + b', "y": 2}\n'
    assert all(reply["ok"] for reply in run.send(one * 500))
    run.wait(samples=500)
    wrong = b"".join(
        json.dumps({"op": "learn", "x": x.tolist(), "y": (int(y) + 1) % 4}).encode() + b"\n"
        for x, y in zip(X[:500], Y[:500], strict=True)
    )
    assert all(reply["ok"] for reply in run.send(wrong))
    run.wait(samples=1000)
    run.stop()
    assert started().ask(op="predict", x=X[0].tolist())["ok"]


def test_a_clock_set_back_harms_nothing(started: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1.0)
    run = started(commit_every=0.01)
    for x, y in zip(X[:50], Y[:50], strict=True):
        run.ask(op="learn", x=x.tolist(), y=int(y))
    until(lambda: run.ask(op="status")["store"]["commits"])
    run.ask(op="learn", x=X[0].tolist(), y=0)
    run.wait(samples=51)
    run.stop()
    assert started().ask(op="status")["started_from"].startswith("commit ")


# ---- sources ----


def test_rows_of_a_pipe_are_learned_in_order_and_answered(model: str) -> None:
    read, write = os.pipe()
    told: list[dict[str, Any]] = []
    reader = Reader(24)
    service = Service(model, sources=[Pipe(read, reader)], answers=told.append)
    lines = []
    for i, (x, y) in enumerate(zip(X[:200], Y[:200], strict=True)):
        row = {"x": x.tolist(), "id": f"r{i}"}
        lines.append(json.dumps(row if i % 3 == 0 else {**row, "label": int(y)}))
    lines.insert(5, "garbage")
    thread = threading.Thread(
        target=lambda: (os.write(write, "\n".join(lines).encode()), os.close(write))
    )
    thread.start()
    found = service.run()
    thread.join()
    os.close(read)
    learner = Learner(model)
    for i, (x, y) in enumerate(zip(X[:200], Y[:200], strict=True)):
        learned = i % 3 != 0
        was = learner.learn_one(x, int(y)) if learned else learner.model.predict_one(x)
        want = {"row": i + 1 + (i >= 5), "predicted": was, "id": f"r{i}"}
        assert told[i] == ({**want, "label": int(y)} if learned else want)
    assert found["learner"] == learner.status()
    assert found["stopped"] == "its sources have ended"
    assert found["refused"] == {"not JSON": 1}
    assert found["sources"] == [
        {"source": "-", "rows": 200, "refused": 1, "ended": True, "state": None}
    ]


def test_a_label_without_a_sample_teaches_nothing(model: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([0.5] * 24) + '\n{"id": "a", "label": 1}\n')
    with path.open("rb") as f:
        found = Service(model, sources=[Pipe(f.fileno(), Reader(24))]).run()
    assert found["refused"] == {"unknown id": 1}
    assert found["learner"]["steps"] == 0


def test_nothing_of_a_pipe_is_dropped_however_fast_it_comes(model: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    rows = np.column_stack([X[:2000], Y[:2000]])
    np.savetxt(path, rows, delimiter=",", fmt=["%.6f"] * 24 + ["%d"])
    with path.open("rb") as f:
        found = Service(model, sources=[Pipe(f.fileno(), Reader(24))], queue=1).run()
    assert found["samples"] == 2000
    assert found["queue"]["dropped"] == 0


class Flood:
    """A source that pushes."""

    spec, ended, pushes, fd, dropped = "flood", False, True, None, 3

    def __init__(self) -> None:
        self.at = 0

    def take(self, row: Row, now: float) -> bool:
        row.x[:], row.label, row.name, row.given = X[self.at], int(Y[self.at]), None, True
        self.at += 1
        return True

    def wait(self, now: float) -> float:
        return 0.0

    def close(self) -> None:
        pass


def test_a_source_that_pushes_too_much_loses_the_oldest(model: str) -> None:
    service = Service(model, sources=[Flood()], queue=100)
    for _ in range(20):
        service.turn()
    found = service.status()
    assert found["samples"] == 20
    assert found["queue"]["dropped"] == 20 * services.PUSHED - 20 - found["queue"]["waiting"] + 3
    service.close()


def test_a_source_that_fails_ends_and_says_so(model: str, tmp_path: Path) -> None:
    class Broken(Flood):
        pushes = False

        def take(self, row: Row, now: float) -> bool:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    found = Service(model, state=str(tmp_path / "s"), sources=[Broken()]).run()
    assert found["sources"][0]["ended"]
    assert "flood: Input/output error" in [event["text"] for event in found["events"]]


# ---- state ----


def test_restart_goes_on_where_it_stopped(model: str, started: Any) -> None:
    learner = Learner(model)
    for part in range(3):
        run = started()
        status = run.ask(op="status")
        assert status["learner"] == learner.status()
        assert status["started_from"] == (f"commit {part}" if part else "the deployed model")
        for i in range(40 * part, 40 * part + 40):
            run.ask(op="learn", x=X[i].tolist(), y=int(Y[i]))
            learner.learn_one(X[i], int(Y[i]))
        run.stop()


def test_the_deployed_file_is_not_written(model: str, started: Any) -> None:
    before = Path(model).read_bytes()
    run = started()
    run.ask(op="learn", x=X[0].tolist(), y=int(Y[0]))
    run.stop()
    assert Path(model).read_bytes() == before


def commits(started: Any, n: int) -> None:
    for _ in range(n):
        run = started()
        run.ask(op="learn", x=X[0].tolist(), y=int(Y[0]))
        run.stop()


def test_a_damaged_slot_and_both(started: Any, tmp_path: Path) -> None:
    commits(started, 2)
    flip(tmp_path / "state" / "slot-b", 5000)
    run = started()
    status = run.ask(op="status")
    assert status["started_from"] == "commit 1"
    assert "slot-b is damaged: its state is torn" in [event["text"] for event in status["events"]]
    assert status["store"]["slots"][1].startswith("damaged")
    run.stop()
    flip(tmp_path / "state" / "slot-a", 5000)
    flip(tmp_path / "state" / "slot-b", 10)
    status = started().ask(op="status")
    assert status["started_from"] == "the deployed model"
    assert [s.partition(":")[0] for s in status["store"]["slots"]] == ["damaged", "damaged"]
    assert status["learner"]["steps"] == 0


def test_state_of_another_model(model: str, started: Any, tmp_path: Path) -> None:
    commits(started, 1)
    other = tmp_path / "other.zge"
    other.write_bytes(nets.file(NET, seed=5))
    with pytest.raises(ModelError, match="state of another model"):
        Service(str(other), state=str(tmp_path / "state"))


def test_two_services_on_one_state_or_one_socket(model: str, started: Any, tmp_path: Path) -> None:
    run = started()
    with pytest.raises(ZgedgeError, match="Another service learns in"):
        Service(model, state=str(tmp_path / "state"))
    with pytest.raises(ZgedgeError, match="Another service answers at"):
        Service(model, state=str(tmp_path / "state2"), socket=run.path)
    assert run.ask(op="status")["ok"]


def test_files_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        Service(str(tmp_path / "none.zge"))
    (tmp_path / "bad.zge").write_bytes(b"x" * 1000)
    with pytest.raises(ModelError):
        Service(str(tmp_path / "bad.zge"), state=str(tmp_path / "state"))
    assert not (tmp_path / "state").exists()


# ---- the socket's file ----


def test_socket_has_its_mode_and_goes_away(started: Any) -> None:
    run = started()
    mode = os.stat(run.path).st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o660
    run.stop()
    assert not os.path.exists(run.path)


def test_a_socket_that_a_killed_service_left_is_replaced(model: str, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    left = socket.socket(socket.AF_UNIX)
    left.bind(path)
    left.close()
    run = Running(Service(model, socket=path), path)
    assert run.ask(op="status")["ok"]
    run.stop()


def test_a_socket_is_there_only_once_it_listens(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "s")
    listen = socket.socket.listen
    seen: list[bool] = []

    def late(self: socket.socket, count: int) -> None:
        seen.append(os.path.exists(path))
        listen(self, count)

    monkeypatch.setattr(socket.socket, "listen", late)
    run = Running(Service(model, socket=path), path)
    assert run.ask(op="status")["ok"]
    run.stop()
    assert seen == [False]


def test_sockets_with_names_alike_begin_at_once(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen = socket.socket.listen
    runs: list[Running] = []

    def begin() -> None:
        runs.append(Running(Service(model, socket=str(tmp_path / "t")), str(tmp_path / "t")))

    def late(self: socket.socket, count: int) -> None:
        monkeypatch.setattr(socket.socket, "listen", listen)
        other = threading.Thread(target=begin)
        other.start()
        other.join()
        listen(self, count)

    monkeypatch.setattr(socket.socket, "listen", late)
    runs.append(Running(Service(model, socket=str(tmp_path / "s")), str(tmp_path / "s")))
    for run in runs:
        assert run.ask(op="status")["ok"]
        run.stop()
    assert len(runs) == 2


def test_a_start_that_was_cut_off_leaves_nothing_in_the_way(model: str, tmp_path: Path) -> None:
    beside = f".{os.getpid()}.{threading.get_native_id()}"  # until it listens
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / beside))
    run = Running(Service(model, socket=str(tmp_path / "s")), str(tmp_path / "s"))
    assert run.ask(op="status")["ok"]
    assert [p.name for p in tmp_path.iterdir() if p.is_socket()] == ["s"]
    run.stop()


def test_paths_that_no_socket_can_have(model: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="no socket"):
        Service(model, socket=str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(UsageError, match="107"):
        Service(model, socket=str(tmp_path / ("x" * 120)))
    with pytest.raises(ZgedgeError, match="Cannot listen at"):
        Service(model, socket=str(tmp_path / "none" / "s"))


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(ZgedgeError, match="No service answers at"):
        list(ask(str(tmp_path / "s"), iter([{"op": "status"}])))


# ---- disks and sockets that fail ----


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_learning_goes_on_while_the_disk_fails(model: str, tmp_path: Path, number: int) -> None:
    clock = Clock()
    plan = Failing(0, number, 10**9, writes_only=True)
    store = Store.open(
        tmp_path / "state", Path(model).read_bytes(), opener=plan.open, clock=clock, interval=1
    )
    service = Service(model, store=store, clock=clock)
    for i in range(50):
        service.queue.put(X[i], int(Y[i]))
        clock.now += 100
        service.turn()
    status = service.status()
    assert status["samples"] == 50
    assert os.strerror(number) in status["store"]["failure"]
    assert "zgedge_store_failing 1" in prometheus(status)
    assert [e["kind"] for e in status["events"]].count("commit failed") == 1
    plan.calls = 0
    clock.now += 1000
    for _ in range(10):
        clock.now += 1
        service.turn()
    status = service.status()
    assert status["store"]["failure"] is None
    assert status["store"]["commits"] == 1
    assert "after failures" in status["events"][-1]["text"]
    service.close()


def test_an_error_at_each_call_of_the_disk(model: str, tmp_path: Path) -> None:
    """Whichever call of slots and log fails, learning goes on, and what is on disk is whole."""

    def live(at: int) -> int:
        folder = tmp_path / str(at)
        clock = Clock()
        plan = Failing(at, errno.EIO)
        blob = Path(model).read_bytes()
        store = Store.open(folder, blob, opener=plan.open, clock=clock, interval=1)
        service = Service(model, store=store, clock=clock)
        for i in range(12):
            service.queue.put(X[i], int(Y[i]))
            clock.now += 20
            service.turn()
            service.event("bad input", f"row {i}")
        service.stop("a test")
        found = service.run()
        assert found["samples"] == 12
        with Store.open(folder, blob) as again:
            state = again.load(check=lambda found: Model(found))
            if found["store"]["failure"] is None:
                assert state is not None
                assert Learner(Model(state)).status() == found["learner"]
        return plan.count

    calls = live(10**9)
    assert calls > 15
    for at in range(calls):
        live(at)


class FailingSocket:
    """A socket whose calls fail one after another."""

    def __init__(self, real: socket.socket, plan: Failing) -> None:
        self._real = real
        self._plan = plan

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def fileno(self) -> int:
        return self._real.fileno()

    def accept(self) -> Any:
        self._plan.check()
        sock, address = self._real.accept()
        return FailingSocket(sock, self._plan), address

    def recv_into(self, into: memoryview) -> int:
        self._plan.check()
        return self._real.recv_into(into)

    def send(self, data: Any) -> int:
        self._plan.check()
        return self._real.send(data[:100])

    def setblocking(self, flag: bool) -> None:
        self._plan.check()
        self._real.setblocking(flag)


@pytest.mark.parametrize("number", [errno.ECONNRESET, errno.EMFILE, errno.EPIPE, errno.EAGAIN])
def test_an_error_at_each_call_of_a_socket(
    model: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whichever call fails costs its client at most; the next one is served."""
    listen = sockets._listen
    plan = Failing(10**9, number)
    monkeypatch.setattr(sockets, "_listen", lambda path: FailingSocket(listen(path), plan))
    service = Service(model, socket=model + ".socket")
    fds = len(os.listdir("/proc/self/fd"))

    def talk() -> bytes:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(model + ".socket")
            sock.setblocking(False)
            got = b""
            sock.send(b'{"op": "status"}\n')
            for _ in range(200):
                if service._selector.select(0) or service._server.waiting:  # type: ignore[union-attr]
                    service.turn()
                try:
                    data = sock.recv(65536)
                except BlockingIOError:
                    continue
                except ConnectionResetError:
                    break
                got += data
                if not data or got.endswith(b"\n"):
                    break
        for _ in range(5):
            if service._selector.select(0):
                service.turn()
        return got

    assert json.loads(talk())["ok"]
    calls = plan.count
    assert calls > 10
    for at in range(calls):
        plan.at, plan.count = at, 0
        talk()
        plan.at = 10**9
        assert json.loads(talk())["ok"], at
    assert len(os.listdir("/proc/self/fd")) == fds
    service.close()


def test_start_up_without_files_or_memory(model: str, tmp_path: Path) -> None:
    """Start-up that fails at any step leaves nothing open and nothing locked."""
    fds = os.listdir("/proc/self/fd")
    for name in ("_open", "queue"):
        with pytest.MonkeyPatch.context() as patch:

            def fail(*_: Any, **__: Any) -> Any:
                raise MemoryError

            if name == "queue":
                patch.setattr(services, "Queue", fail)
            else:
                patch.setattr(Service, "_open", fail)
            with pytest.raises(MemoryError):
                Service(model, state=str(tmp_path / "state"), socket=str(tmp_path / "s"))
    assert os.listdir("/proc/self/fd") == fds
    Service(model, state=str(tmp_path / "state"), socket=str(tmp_path / "s")).close()


# ---- metrics ----


def test_metrics_over_the_socket_and_in_a_file(started: Any, tmp_path: Path) -> None:
    path = tmp_path / "zgedge.prom"
    run = started(metrics_file=str(path), metrics_every=0.0)
    for x, y in zip(X[:20], Y[:20], strict=True):
        run.ask(op="learn", x=x.tolist(), y=int(y))
    run.ask(op="predict", x=X[0].tolist())
    run.wait(samples=20)
    text = run.ask(op="metrics")["text"]
    assert "\nzgedge_samples_total 20\n" in text
    assert "\nzgedge_predictions_total 1\n" in text
    assert 'zgedge_tick_seconds{quantile="0.5"}' in text
    for line in text.splitlines():
        name = line.split()[2] if line.startswith("#") else line.partition(" ")[0]
        assert name.startswith("zgedge_")
        if not line.startswith("#"):
            float(line.rpartition(" ")[2])
    families = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(families) == len(set(families)) > 15
    until(lambda: path.exists() and "zgedge_samples_total 20" in path.read_text())
    assert "zgedge_samples_total 20" in path.read_text()
    assert not list(tmp_path.glob("zgedge.prom.*"))


def test_metrics_that_cannot_be_written(started: Any, tmp_path: Path) -> None:
    run = started(metrics_file=str(tmp_path / "none" / "m.prom"), metrics_every=0.0)
    failure = until(lambda: run.ask(op="status")["metrics_failure"])
    assert "No such file or directory" in failure


def test_rolling_accuracy() -> None:
    rolling = Rolling(4)
    assert rolling.accuracy is None
    for right, want in [(1, 1), (0, 1 / 2), (1, 2 / 3), (1, 3 / 4), (0, 2 / 4), (0, 2 / 4)]:
        rolling.add(right)
        assert rolling.accuracy == want
    assert rolling.count == 4


def test_times_are_right_within_a_sixteenth() -> None:
    rng = np.random.default_rng(0)
    all_of = np.round(np.exp(rng.uniform(0, 20, 5000))).astype(int).tolist()
    times = Times()
    for ns in all_of:
        times.add(ns)
    for q in (0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0):
        exact = float(np.quantile(all_of, q, method="inverted_cdf"))
        assert abs(times.quantile(q) - exact) <= exact / 16 + 1, q
    assert times.quantile(1.0) <= times.longest == max(all_of)


def test_history_is_a_whole_life_in_so_many_points() -> None:
    history = History(points=8)
    for second in range(1000):
        history.second(10, 7, 2, int(second == 500), 100 + second)
    found = history.as_dict()
    points = len(found["samples"])
    assert 4 <= points < 8
    assert found["period"] == 128
    assert found["samples"] == [1280] * points
    assert sum(found["drift"]) == 1
    assert found["rss"] == [99 + 128 * (i + 1) for i in range(points)]
    assert history._table.shape == (8, 5)


# ---- it does not grow ----


def test_memory_is_flat_with_commits_and_rewiring(model: str, tmp_path: Path) -> None:
    from zgedge.runtime.memory import RSS, USS, Meter

    clock = Clock()
    service = Service(model, state=str(tmp_path / "s"), commit_every=1, clock=clock)
    meter = Meter(3)

    def live(samples: int) -> None:
        for i in range(samples):
            service.queue.put(X[i % 4000], int(Y[i % 4000]))
            clock.now += 0.005
            service.turn()
            while i % 200 == 199 and service.store.busy:  # the disk has a clock of its own
                service.turn()

    assert service.store is not None
    live(3000)
    blocks = sum(p.stat().st_blocks for p in (tmp_path / "s").iterdir())
    first = meter.read(0).copy()
    live(6000)
    last = meter.read(1)
    meter.close()
    status = service.status()
    assert status["store"]["commits"] > 10
    assert status["learner"]["rewired"] > 100
    # Other tests of this process leave free memory behind, which the allocator may touch again.
    assert last[RSS] - first[RSS] <= 64 * 1024
    assert last[USS] - first[USS] <= 64 * 1024
    assert sum(p.stat().st_blocks for p in (tmp_path / "s").iterdir()) == blocks
    service.close()


def test_serves_requests_of_one_service_only(model: str, tmp_path: Path) -> None:
    import selectors

    with selectors.DefaultSelector() as selector:
        server = Server(str(tmp_path / "s"), selector, lambda asked: {"ok": True}, 1000)
        with pytest.raises(ZgedgeError, match="Another service answers"):
            Server(str(tmp_path / "s"), selector, lambda asked: {"ok": True}, 1000)
        server.close()
