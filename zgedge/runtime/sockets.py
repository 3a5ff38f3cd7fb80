"""A Unix socket with one JSON request a line, and one JSON reply a line, in order.

Nothing here blocks, and every buffer has an end: a client that sends without reading is not read
from, one that is too slow for its replies is closed, and there are sixteen clients at most.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from typing import Any

from zgedge.errors import UsageError, ZgedgeError
from zgedge.runtime.sources import LineError, Lines

CLIENTS = 16
REQUESTS = 16  # of a client between two ticks
UNREAD = 64 * 1024  # bytes of replies beyond which no more requests are read
MODE = 0o660
LONGEST = 107  # bytes of a socket's path (unix(7))

TOO_MANY = {
    "ok": False, "error": "There are too many clients.",
    "hint": "Ask again when another one has closed its connection.",
    "exit_code": ZgedgeError.exit_code,
}  # fmt: skip

# Gets each line, or why it could not be read, and gives what is replied as JSON.
Handler = Callable[[bytes | LineError], dict[str, Any]]


class _Client:
    def __init__(self, sock: socket.socket, limit: int) -> None:
        self.socket = sock
        self.lines = Lines(limit)
        self.out = bytearray()
        self.gone = False  # it will send no more


class Server:
    """Serves requests at `path`.

    Raises ZgedgeError where the socket cannot be made or another service answers there,
    UsageError for a path that no socket can have. A socket that is left from a process that has
    ended is replaced.
    """

    def __init__(
        self, path: str, selector: selectors.BaseSelector, answer: Handler, limit: int
    ) -> None:
        self.path = path
        self.refused = 0  # clients, because there were too many
        self._selector = selector
        self._answer = answer
        self._limit = limit
        self._clients: dict[int, _Client] = {}
        self._waiting: set[int] = set()  # have whole requests that were not served yet
        self._socket = _listen(path)
        self._inode = os.stat(path).st_ino
        selector.register(self._socket, selectors.EVENT_READ, self._accept)

    @property
    def clients(self) -> int:
        return len(self._clients)

    @property
    def waiting(self) -> bool:
        """Whether `serve` has something to do."""
        return bool(self._waiting)

    def serve(self) -> None:
        """Answer requests that are there already, a few of each client."""
        for fd in list(self._waiting):
            client = self._clients.get(fd)
            if client is not None:
                self._serve(client)

    def close(self) -> None:
        """Send what can be sent, close all, and remove the socket's file."""
        for client in list(self._clients.values()):
            with contextlib.suppress(OSError):
                client.socket.send(client.out)
            self._drop(client)
        self._selector.unregister(self._socket)
        self._socket.close()
        with contextlib.suppress(OSError):
            if os.stat(self.path).st_ino == self._inode:
                os.unlink(self.path)

    # ---- what the selector calls ----

    def _accept(self, mask: int) -> None:
        try:
            sock, _ = self._socket.accept()
        except OSError:
            return  # it has gone again, or there are too many open files
        if len(self._clients) >= CLIENTS:
            self.refused += 1
            with contextlib.suppress(OSError):
                sock.setblocking(False)
                sock.send(_line(TOO_MANY))
            sock.close()
            return
        try:
            sock.setblocking(False)
            client = _Client(sock, self._limit)
            self._selector.register(
                sock, selectors.EVENT_READ, lambda mask: self._event(client, mask)
            )
        except OSError:
            sock.close()
            return
        self._clients[sock.fileno()] = client

    def _event(self, client: _Client, mask: int) -> None:
        if client.socket.fileno() < 0:
            return  # closed in this very turn
        if mask & selectors.EVENT_READ and not client.lines.whole:
            try:
                n = client.socket.recv_into(client.lines.room())
                client.lines.filled(n)
                client.gone = n == 0
            except BlockingIOError:
                pass
            except OSError:
                self._drop(client)
                return
        self._serve(client)

    # ---- clients ----

    def _serve(self, client: _Client) -> None:
        fd = client.socket.fileno()
        for _ in range(REQUESTS):
            if len(client.out) > UNREAD:
                break
            reply = self._next(client)
            if reply is None:
                break
            client.out += _line(reply)
        if client.out:
            try:
                del client.out[: client.socket.send(client.out)]
            except BlockingIOError:
                pass
            except OSError:
                self._drop(client)
                return
        more = client.lines.whole
        full = len(client.out) > UNREAD
        if client.gone and not more and not client.out:
            self._drop(client)
            return
        if more and not full:
            self._waiting.add(fd)
        else:
            self._waiting.discard(fd)
        read = 0 if client.gone or more or full else selectors.EVENT_READ
        write = selectors.EVENT_WRITE if client.out else 0
        self._watch(client, read | write)

    def _watch(self, client: _Client, mask: int) -> None:
        """Wait for these events; for none of them the client is taken out."""
        key = self._selector.get_map().get(client.socket)
        if key is None:
            if mask:
                self._selector.register(client.socket, mask, lambda mask: self._event(client, mask))
        elif not mask:
            self._selector.unregister(client.socket)
        elif key.events != mask:
            self._selector.modify(client.socket, mask, key.data)

    def _next(self, client: _Client) -> dict[str, Any] | None:
        try:
            line = client.lines.next()
        except LineError as e:
            return self._answer(e)
        return None if line is None else self._answer(line)

    def _drop(self, client: _Client) -> None:
        fd = client.socket.fileno()
        self._watch(client, 0)
        self._clients.pop(fd, None)
        self._waiting.discard(fd)
        client.socket.close()


def _line(reply: dict[str, Any]) -> bytes:
    return json.dumps(reply).encode() + b"\n"


def _listen(path: str) -> socket.socket:
    """A socket that listens at `path`.

    Its file appears there only once it listens: between `bind` and `listen` a client would be
    refused, and another service would take it for one that is left over. Until then it has a name
    of its own beside it, which no other process and no other thread takes.
    """
    if len(os.fsencode(path)) > LONGEST:
        raise UsageError(
            f"The path of the socket has {len(os.fsencode(path))} bytes; {LONGEST} is the most.",
            "Name a shorter one with --socket.",
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = -1
    try:
        try:
            _free(path)
            folder = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY)
            # Through the folder, since its own path may leave no room for a name.
            beside = f"/proc/self/fd/{folder}/.{os.getpid()}.{threading.get_native_id()}"
            _free(beside)
            # Nobody else may connect before the mode is as it should be.
            mask = os.umask(0o777 & ~MODE)
            try:
                sock.bind(beside)
            finally:
                os.umask(mask)
            try:
                sock.listen(CLIENTS)
                os.link(beside, path)  # where another was faster, this fails
            finally:
                os.unlink(beside)
        except OSError as e:
            raise ZgedgeError(
                f"Cannot listen at {path}: {e.strerror or e}.", "Name another path with --socket."
            ) from e
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    finally:
        if folder >= 0:
            os.close(folder)
    return sock


def _free(path: str) -> None:
    """Remove a socket that nobody serves any more. Raises ZgedgeError where somebody does."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise UsageError(f"{path} is there already, and is no socket.", "Name another path.")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            os.unlink(path)
            return
        except TimeoutError:
            pass
    raise ZgedgeError(f"Another service answers at {path}.", "Stop it, or name another --socket.")


def ask(path: str, requests: Iterator[dict[str, Any]], timeout: float = 10) -> Iterator[Any]:
    """Send requests to a running service one after another, and give each reply.

    Raises ZgedgeError where no service answers at `path`.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        try:
            sock.connect(path)
            with sock.makefile("rwb") as lines:
                for request in requests:
                    lines.write(_line(request))
                    lines.flush()
                    line = lines.readline()
                    if not line.endswith(b"\n"):
                        raise ConnectionResetError(104, os.strerror(104))
                    yield json.loads(line)
        except OSError as e:
            raise ZgedgeError(
                f"No service answers at {path}: {e.strerror or 'it took too long'}.",
                "Start one with `zgedge run`, or name its socket with --socket.",
            ) from e
