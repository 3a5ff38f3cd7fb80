"""The native program and the Python service, each as a process that a test talks to."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.waiting import until
from zgedge.runtime.sockets import ask

PYTHON, NATIVE = "python", "native"


class Served:
    """A service that runs as a process of its own, and a client of it.

    `runtime` is "python", or the command of a native program, before emulators.
    """

    def __init__(
        self,
        runtime: str | Sequence[str],
        model: Path,
        folder: Path,
        *options: str,
        env: dict[str, str] | None = None,
        file_limit: int | None = None,
        ignored: signal.Signals | None = None,
        start: bool = True,
        as_json: bool = True,
    ) -> None:
        self.path = str(folder / "socket")
        self.state = folder / "state"
        if runtime == PYTHON:
            command = [sys.executable, "-m", "zgedge"]
        else:
            command = [runtime] if isinstance(runtime, str) else list(runtime)
        command += ["run", str(model), "--state", str(self.state), "--socket", self.path]

        def limit() -> None:
            if ignored is not None:
                signal.signal(ignored, signal.SIG_IGN)
            if file_limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))

        self.process = subprocess.Popen(
            [*command, *(["--json"] if as_json else []), *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=limit,
            # Bytecode that the limit cuts would stay, and break what imports it next.
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1",
                 **(env or {})},
        )  # fmt: skip
        if start:
            self.wait_for_socket()

    def wait_for_socket(self) -> None:
        for _ in range(12000):
            with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(OSError):
                sock.connect(self.path)
                return
            if self.process.poll() is not None:
                raise AssertionError(self.process.communicate())
            time.sleep(0.005)
        self.process.kill()
        raise AssertionError(f"no socket: {self.process.communicate()}")

    def ask(self, **request: Any) -> dict[str, Any]:
        (reply,) = ask(self.path, iter([request]))
        return reply  # type: ignore[no-any-return]

    def ask_all(self, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Requests one after another on one connection."""
        return list(ask(self.path, iter(requests), timeout=60))

    def send(self, lines: Sequence[bytes]) -> list[dict[str, Any]]:
        """Lines as they are, each after the reply to the one before."""
        found = []
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(60)
            sock.connect(self.path)
            with sock.makefile("rb") as replies:
                for line in lines:
                    sock.sendall(line + b"\n")
                    found.append(json.loads(replies.readline()))
        return found

    def learn(self, x: Any, y: Any) -> None:
        """Learn samples, and wait until the last one is."""
        before = self.ask(op="status")["samples"]
        replies = self.ask_all(
            [
                {"op": "learn", "x": row.tolist(), "y": int(label)}
                for row, label in zip(x, y, strict=True)
            ]
        )
        assert all(reply["ok"] for reply in replies)
        self.wait(lambda status: status["samples"] == before + len(y))

    def wait(self, when: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """A status once it is so."""
        return until(lambda: self.ask(op="status"), when, each=0.005)

    def stop(self, code: int = 0) -> dict[str, Any]:
        """Stop it with SIGTERM; its last status."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended(code)

    def ended(self, code: int = 0) -> dict[str, Any]:
        out, error = self.process.communicate(timeout=60)
        assert self.process.returncode == code, (self.process.returncode, out, error)
        if not out:
            return {"error": error}
        return json.loads(out.splitlines()[0])  # type: ignore[no-any-return]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=60)


def newest(state: Path, model: Path) -> bytes:
    """The state that a folder holds; nothing is changed in it."""
    from zgedge.runtime.board import newest_state

    found, _ = newest_state(str(model), str(state))
    return found.arena.buffer.tobytes()
