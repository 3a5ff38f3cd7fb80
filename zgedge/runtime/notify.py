"""systemd's notifications (sd_notify), without its library: a service says when it is ready, that
its loop goes round, and that it stops. Without $NOTIFY_SOCKET nothing is said."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping


class Notify:
    """Says what systemd wants to know.

    The watchdog is told from the loop itself, so that a loop that hangs is noticed: thrice in the
    time that systemd waits ($WATCHDOG_USEC).
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self.every: float | None = None  # seconds between two signs of life; None: no watchdog
        self.next = 0.0
        self._socket: socket.socket | None = None
        path = environment.get("NOTIFY_SOCKET", "")
        if not path:
            return
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            self._socket.connect("\0" + path[1:] if path.startswith("@") else path)
        except (OSError, ValueError):
            self.close()
            return
        microseconds = environment.get("WATCHDOG_USEC", "")
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        if mine and microseconds.isascii() and microseconds.isdigit() and int(microseconds) > 0:
            self.every = int(microseconds) / 1e6 / 3

    def say(self, text: str) -> None:
        """Send a notification; nobody has to hear it."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.send(text.encode())

    def alive(self, now: float) -> None:
        """The loop goes round, at `now` of a clock that only goes forward."""
        if self.every is not None and now >= self.next:
            self.say("WATCHDOG=1")
            self.next = now + self.every

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
