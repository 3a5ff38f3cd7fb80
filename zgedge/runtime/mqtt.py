"""Rows as MQTT messages, one a message, through paho-mqtt (the extra `mqtt`).

paho's own thread connects, and connects again where a broker goes away; a message then waits in a
bounded inbox, from which the oldest falls out.
"""

from __future__ import annotations

import os
import select
from collections import deque
from typing import Any
from urllib.parse import unquote

from zgedge.errors import MissingExtraError, UsageError
from zgedge.runtime.sources import LineError, Reader, Row, line_limit

INBOX = 1024  # messages
INBOX_BYTES = 1 << 20


class Mqtt:
    """Messages of a topic: `mqtt://[user:password@]host[:port]/topic`, `mqtts://` with TLS."""

    pushes = True

    def __init__(self, spec: str, reader: Reader) -> None:
        try:
            from paho.mqtt import client as paho
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError as e:
            raise MissingExtraError("mqtt", "paho-mqtt") from e
        self.spec = _public(spec)
        self.ended = False
        self.dropped = 0
        self.number = 0
        self.state = "connecting"
        self.trouble: str | None = None  # why there is no connection, once that is known
        self.well = "has connected"
        host, port, user, password, topic = _parts(spec)
        self._topic = topic
        self._reader = reader
        reader.apart = True
        self._limit = line_limit(reader.inputs)
        room = max(16, min(INBOX, INBOX_BYTES // (8 * reader.inputs)))
        self._inbox: deque[bytes] = deque(maxlen=room)
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = self._connected
        self._client.on_connect_fail = self._failed
        self._client.on_disconnect = self._disconnected
        self._client.on_message = self._message
        if user is not None:
            self._client.username_pw_set(user, password)
        if spec.startswith("mqtts:"):
            self._client.tls_set()
        self._client.reconnect_delay_set(1, 60)
        self._client.connect_async(host, port)
        self._client.loop_start()

    # ---- in paho's thread ----

    def _connected(self, client: Any, userdata: Any, flags: Any, code: Any, more: Any) -> None:
        if code.is_failure:
            self.state = f"refused: {code}"
            self.trouble = f"is {self.state}; it is tried again"
            return
        client.subscribe(self._topic, qos=1)
        self.state, self.trouble = "connected", None

    def _failed(self, client: Any, userdata: Any) -> None:
        self.state = "cannot connect"
        self.trouble = "cannot connect; it is tried again"

    def _disconnected(self, client: Any, userdata: Any, flags: Any, code: Any, more: Any) -> None:
        if self.trouble is None:  # one that was refused is cut off, too, and stays refused
            self.state = "connecting"

    def _message(self, client: Any, userdata: Any, message: Any) -> None:
        if len(self._inbox) == self._inbox.maxlen:
            self.dropped += 1
        # One that is too long is told of when it is taken.
        self._inbox.append(message.payload[: self._limit + 1])
        try:
            os.write(self._write, b"\0")
        except OSError:
            return  # the pipe is full, so it is readable already

    # ---- in the service's ----

    @property
    def fd(self) -> int | None:
        return self._read

    @property
    def place(self) -> str:
        return f"message {self.number:,}"

    def take(self, row: Row, now: float) -> bool:
        while True:
            try:
                payload = self._inbox.popleft()
            except IndexError:
                try:
                    os.read(self._read, 4096)
                except BlockingIOError:
                    return False
                if not self._inbox:
                    return False
                continue
            self.number += 1
            if len(payload) > self._limit:
                raise LineError("too long", f"A message has more than {self._limit:,} bytes.")
            if self._reader.read(payload, row):
                return True

    def wait(self, now: float) -> float:
        return 0.0 if self._inbox else 3600.0

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        os.close(self._read)
        os.close(self._write)


def _parts(spec: str) -> tuple[str, int, str | None, str | None, str]:
    scheme, _, rest = spec.partition("://")
    place, _, topic = rest.partition("/")
    who, at, where = place.rpartition("@")
    host, colon, port = where.rpartition(":")
    if not colon:
        host, port = where, "8883" if scheme == "mqtts" else "1883"
    if not (host and topic and port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise UsageError(f"{_public(spec)} is no MQTT source.", "Write mqtt://host[:port]/topic.")
    user, _, password = who.partition(":")
    return host, int(port), unquote(user) if at else None, unquote(password) or None, topic


def _public(spec: str) -> str:
    """Without the password."""
    scheme, _, rest = spec.partition("://")
    place, slash, topic = rest.partition("/")
    return f"{scheme}://{place.rpartition('@')[2]}{slash}{topic}"
