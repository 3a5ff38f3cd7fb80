"""MQTT through paho-mqtt, against a small broker of the test's own that speaks MQTT 3.1.1."""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import nets
from tests.waiting import PATIENCE, until
from zgedge import Learner, MissingExtraError, UsageError
from zgedge.runtime.mqtt import Mqtt
from zgedge.runtime.service import Service
from zgedge.runtime.sources import LineError, Reader, Row

NET = nets.network(replay_samples=16, replay_bits=4, batch=4)
X, Y = nets.samples(NET, 500)


def closed_port() -> socket.socket:
    """One that refuses who connects, until it listens, and that nobody else can take."""
    there = socket.socket()
    there.bind(("127.0.0.1", 0))
    return there


class Broker:
    """What a client needs to connect, subscribe and be sent messages (MQTT 3.1.1, loopback)."""

    def __init__(self, password: bytes | None = None, server: socket.socket | None = None) -> None:
        self.password = password
        self.server = server or closed_port()
        self.server.listen()
        self.port = self.server.getsockname()[1]
        self.topics: list[str] = []
        self.acknowledged = 0
        self.connections = 0
        self._client: socket.socket | None = None
        self._subscribed = threading.Event()
        self._packet = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            with client:
                self._talk(client)

    def _read(self, client: socket.socket, n: int) -> bytes:
        data = b""
        while len(data) < n:
            more = client.recv(n - len(data))
            if not more:
                raise ConnectionResetError
            data += more
        return data

    def _talk(self, client: socket.socket) -> None:
        try:
            while True:
                kind = self._read(client, 1)[0] >> 4
                size = shift = 0
                while True:
                    byte = self._read(client, 1)[0]
                    size |= (byte & 127) << shift
                    shift += 7
                    if byte < 128:
                        break
                body = self._read(client, size)
                if kind == 1:  # CONNECT
                    self.connections += 1
                    good = self.password is None or body.endswith(self.password)
                    client.sendall(bytes([0x20, 2, 0, 0 if good else 5]))
                    if not good:
                        return
                elif kind == 8:  # SUBSCRIBE
                    n = struct.unpack_from(">H", body, 2)[0]
                    self.topics.append(body[4 : 4 + n].decode())
                    client.sendall(b"\x90\x03" + body[:2] + body[4 + n : 5 + n])
                    self._client = client
                    self._subscribed.set()
                elif kind == 12:  # PINGREQ
                    client.sendall(b"\xd0\x00")
                elif kind == 4:  # PUBACK
                    self.acknowledged += 1
                elif kind == 14:  # DISCONNECT
                    return
        except OSError:
            return

    def publish(self, *payloads: bytes) -> None:
        assert self._subscribed.wait(PATIENCE)
        data = b""
        for payload in payloads:
            self._packet = self._packet % 65535 + 1
            body = struct.pack(">H", 3) + b"a/b" + struct.pack(">H", self._packet) + payload
            size, length = b"", len(body)
            while True:
                size += bytes([length & 127 | (128 if length > 127 else 0)])
                length >>= 7
                if not length:
                    break
            data += b"\x32" + size + body
        assert self._client is not None
        self._client.sendall(data)

    def hang_up(self) -> None:
        assert self._client is not None
        self._subscribed.clear()
        self._client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.server.close()


@pytest.fixture
def broker() -> Iterator[Broker]:
    made = Broker()
    yield made
    made.close()


def test_a_broker_that_cannot_be_reached_is_told_of_once(tmp_path: Path) -> None:
    path = tmp_path / "m.zge"
    path.write_bytes(nets.file(NET))
    closed = closed_port()
    port = closed.getsockname()[1]
    source = Mqtt(f"mqtt://127.0.0.1:{port}/a/b", Reader(24))
    said: list[str] = []
    service = Service(str(path), state=str(tmp_path / "s"), sources=[source], say=said.append)
    found: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: found.append(service.run()))
    thread.start()
    try:
        until(lambda: bool(said))
        assert source.state == "cannot connect"
        time.sleep(1.5)  # it is tried again after a second
        assert said == [f"mqtt://127.0.0.1:{port}/a/b cannot connect; it is tried again."]
        Broker(server=closed)
        until(lambda: len(said) > 1)
        assert said[1:] == [f"mqtt://127.0.0.1:{port}/a/b has connected."]
    finally:
        service.stop("the end")
        thread.join(60)
        closed.close()
    assert [f"{e['text']}." for e in found[0]["events"] if e["kind"] == "source"] == said


def rows(source: Mqtt, n: int) -> list[tuple[list[float], object] | str]:
    row, found = Row(2), []

    def look() -> bool:
        try:
            while len(found) < n and source.take(row, 0.0):
                found.append((row.x.tolist(), row.label))
        except LineError as e:
            found.append(e.why)
        return len(found) == n

    until(look)
    return found


def test_messages_are_rows(broker: Broker) -> None:
    source = Mqtt(f"mqtt://127.0.0.1:{broker.port}/plant/+/line", Reader(2))
    broker.publish(b"1,2,x", b"garbage", b"3,4,y")
    assert rows(source, 3) == [([1, 2], "x"), "width", ([3, 4], "y")]
    assert broker.topics == ["plant/+/line"]
    assert source.state == "connected"
    source.close()


def test_a_message_may_be_json_and_may_be_too_long(broker: Broker) -> None:
    source = Mqtt(f"mqtt://127.0.0.1:{broker.port}/a/b", Reader(2))
    broker.publish(b'{"x": [1, 2], "label": "x"}', b"[" + b"1," * 50_000 + b"1]", b"\xff", b"[3,4]")
    assert rows(source, 4) == [([1, 2], "x"), "too long", "not UTF-8", ([3, 4], None)]
    source.close()


def test_a_flood_drops_the_oldest(broker: Broker) -> None:
    source = Mqtt(f"mqtt://127.0.0.1:{broker.port}/a/b", Reader(2))
    room = source._inbox.maxlen
    assert room is not None
    broker.publish(*(b"%d,0" % i for i in range(room + 300)))
    until(lambda: broker.acknowledged == room + 300)
    assert source.dropped == 300
    assert [x[0] for x, _ in rows(source, room)] == list(range(300, room + 300))
    source.close()


def test_a_broker_that_goes_away_is_found_again(broker: Broker) -> None:
    source = Mqtt(f"mqtt://127.0.0.1:{broker.port}/a/b", Reader(2))
    broker.publish(b"1,2")
    assert len(rows(source, 1)) == 1
    broker.hang_up()
    broker.publish(b"3,4")  # once it has subscribed again
    assert rows(source, 1) == [([3, 4], None)]
    assert broker.connections == 2
    source.close()


def test_no_broker_and_a_wrong_password() -> None:
    broker = Broker(password=b"secret")
    right = Mqtt(f"mqtt://me:secret@127.0.0.1:{broker.port}/a", Reader(2))
    broker.publish(b"1,2")
    assert len(rows(right, 1)) == 1
    right.close()
    wrong = Mqtt(f"mqtt://me:other@127.0.0.1:{broker.port}/a", Reader(2))
    assert "other" not in wrong.spec
    until(lambda: broker.connections > 2)  # it has been tried again
    assert wrong.state == "refused: Not authorized"
    assert wrong.trouble == "is refused: Not authorized; it is tried again"
    wrong.close()
    broker.close()
    with closed_port() as alone_there:
        alone = Mqtt(f"mqtt://127.0.0.1:{alone_there.getsockname()[1]}/a", Reader(2))
        assert not alone.take(Row(2), 0.0)
        until(lambda: alone.state, lambda state: state == "cannot connect")
        alone.close()


@pytest.mark.parametrize(
    "spec", ["mqtt://", "mqtt://host", "mqtt://host/", "mqtt:///topic", "mqtt://host:x/topic",
             "mqtt://host:99999/topic"],
)  # fmt: skip
def test_specs_that_are_none(spec: str) -> None:
    with pytest.raises(UsageError, match="no MQTT source"):
        Mqtt(spec, Reader(2))


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paho.mqtt", None)
    with pytest.raises(MissingExtraError, match=r"paho-mqtt is not installed.*zgedge\[mqtt\]"):
        Mqtt("mqtt://127.0.0.1/a", Reader(2))


def test_a_service_learns_from_messages(broker: Broker, tmp_path: Path) -> None:
    path = tmp_path / "m.zge"
    path.write_bytes(nets.file(NET))
    source = Mqtt(f"mqtt://127.0.0.1:{broker.port}/a/b", Reader(24))
    service = Service(str(path), sources=[source])
    thread = threading.Thread(target=service.run)
    thread.start()
    broker.publish(
        *(
            json.dumps({"x": x.tolist(), "label": int(y)}).encode()
            for x, y in zip(X[:200], Y[:200], strict=True)
        )
    )
    until(lambda: service.samples == 200)
    learner = Learner(str(path))
    for x, y in zip(X[:200], Y[:200], strict=True):
        learner.learn_one(x, int(y))
    assert service.learner is not None
    assert service.learner.status() == learner.status()
    assert np.array_equal(
        service.model.arena.section(4), learner.model.arena.section(4)
    )  # the weights
    service.stop("a test")
    thread.join(60)
    assert not thread.is_alive()
