"""A board on this machine: the agent run by a shell here, as a user without rights, in a folder.

What a connection would do is done by processes, and it can be cut before, in and after each step.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from zgedge.devices.ssh import Result
from zgedge.errors import RemoteError

NOBODY = 65534


def cut_off() -> RemoteError:
    return RemoteError("The connection to local was cut.", reason="cut")


class Local:
    """A transport as `ssh.Remote` is one.

    `cut` is asked before and after each command, with the agent's word for it, and cuts the
    connection by raising. `drop[word]`: seconds into that command after which the connection is
    gone, while it goes on there; `crash[word]`: after which the whole board stops. `take`: bytes
    that a copy carries until it is cut.
    """

    def __init__(self, shell: Sequence[str] = ("dash",)) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="zge-local-", dir="/tmp"))
        self.home.chmod(0o755)
        # As root one becomes nobody: all that a board gets stays in its home.
        self.user = NOBODY if os.geteuid() == 0 else None
        (self.home / "tools").mkdir()
        program = shutil.which(shell[0])
        assert program is not None
        self.tool("sh", f'exec {program} {" ".join(shell[1:])} "$@"')
        self.tool("sync", ":")  # this machine's other disks have no part in a test
        if self.user is not None:
            os.chown(self.home, self.user, self.user)
        self.env = {
            "HOME": str(self.home), "PATH": f"{self.home}/tools:{os.environ['PATH']}",
            "LANG": "C.UTF-8", "ZGEDGE_START": "10",
        }  # fmt: skip
        self.cut: Callable[[str, str], None] = lambda _word, _when: None
        self.words: list[str] = []  # commands of the agent that were run
        self.drop: dict[str, float] = {}
        self.crash: dict[str, float] = {}
        self.take: int | None = None
        self.says: dict[str, str] = {}  # instead of what the agent says to a word
        self._left: list[subprocess.Popen[bytes]] = []

    def tool(self, name: str, script: str) -> None:
        """Put a program before those of this machine."""
        path = self.home / "tools" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    @property
    def root(self) -> Path:
        return self.home / ".zgedge"

    def close(self) -> None:
        pass

    def run(
        self,
        command: str | Sequence[str],
        *,
        input: bytes | BinaryIO | None = None,
        timeout: float | None = 60,
    ) -> Result:
        assert input is None or isinstance(input, bytes)
        return self._run(command, input or b"", timeout)

    def stream(
        self, command: Any, source: BinaryIO, *, size: int, progress: Any = None, stall: float = 60
    ) -> Result:
        data = source.read(size)
        if self.take is not None:
            self._run(command, data[: self.take], 60)
            raise cut_off()
        if progress is not None:
            progress(len(data), size)
        return self._run(command, data, 60)

    def agent(self, *words: str, input: bytes = b"", name: str = "m") -> Result:
        """Run the agent as it is in the source tree."""
        from zgedge.devices.agent import SCRIPT

        script = self.home / "agent.sh"
        if not script.exists():
            shutil.copyfile(SCRIPT, script)
        return self._run(["sh", str(script), str(self.root), name, *words], input, 60)

    def _run(self, command: str | Sequence[str], data: bytes, timeout: float | None) -> Result:
        words = ["sh", "-c", command] if isinstance(command, str) else list(command)
        words[0] = str(self.home / "tools" / "sh") if words[0] == "sh" else words[0]
        word = words[4] if len(words) > 4 and "agent" in words[1] else "login"
        self.words.append(word)
        self.cut(word, "before")
        if word in self.says:
            return Result(0, self.says[word].encode(), "")
        child = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=self.env, cwd="/", user=self.user, group=self.user,
            extra_groups=None if self.user is None else [], start_new_session=True,
        )  # fmt: skip
        drop, crash = self.drop.pop(word, None), self.crash.pop(word, None)
        wait = timeout if drop is None and crash is None else drop or crash
        try:
            out, err = child.communicate(data, wait)
        except subprocess.TimeoutExpired:
            if crash is not None:
                self.kill_all()
                os.killpg(child.pid, signal.SIGKILL)
                child.communicate()
            else:
                # What runs there goes on, and nobody reads what it says.
                self._left.append(child)
                for pipe in (child.stdin, child.stdout, child.stderr):
                    assert pipe is not None
                    with suppress(BrokenPipeError):
                        pipe.close()
            raise cut_off() from None
        self.cut(word, "after")
        return Result(child.returncode, out, err.decode("utf-8", "replace"))

    def kill_all(self) -> None:
        """End what runs from this folder, as a power cut does."""
        for _ in range(3000):
            found = list(self.processes())
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not found:
                break
            time.sleep(0.02)

    def processes(self) -> Iterator[int]:
        mark = str(self.home).encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with suppress(OSError):
                    if mark in (entry / "cmdline").read_bytes():
                        yield int(entry.name)

    def remove(self) -> None:
        self.kill_all()
        for child in self._left:
            child.wait()
        shutil.rmtree(self.home, ignore_errors=True)

    # ---- the service there ----

    def start(self, name: str) -> None:
        """What the start of a board does."""
        assert self._run(["sh", str(self.root / name / "init"), "start"], b"", 60).code == 0

    def answers(self, name: str) -> bool:
        try:
            return bool(self.ask({"op": "status"}, name)["ok"])
        except OSError:
            return False

    def ask(self, request: dict[str, Any], name: str = "m", timeout: float = 5) -> dict[str, Any]:
        """Ask the service through its socket, as a program on the board does. Raises OSError."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(timeout)
            s.connect(str(self.root / name / "run" / "socket"))
            s.sendall(json.dumps(request).encode() + b"\n")
            line = b""
            while not line.endswith(b"\n"):
                piece = s.recv(1 << 16)
                if not piece:
                    raise ConnectionResetError
                line += piece
        return json.loads(line)  # type: ignore[no-any-return]

    def current(self, name: str = "m") -> str:
        return os.readlink(self.root / name / "current").removeprefix("versions/")

    def owner(self) -> int:
        return os.getuid() if self.user is None else self.user


class Poller:
    """Asks a service for predictions without a pause; notes when it did not answer."""

    def __init__(self, board: Local, x: Sequence[float], name: str = "m") -> None:
        self.board, self.x, self.name = board, list(x), name
        self.answered = 0
        self.failed = 0
        self.longest = 0.0  # seconds without an answer
        self.labels: list[Any] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll)

    def __enter__(self) -> Poller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def see(self, answers: int, seconds: float = 60.0) -> None:
        """Wait until so many more questions were answered."""
        until = self.answered + answers
        end = time.monotonic() + seconds
        while self.answered < until:
            assert time.monotonic() < end, "the service does not answer any more"
            time.sleep(0.005)

    def _poll(self) -> None:
        since: float | None = None
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                reply = self.board.ask({"op": "predict", "x": self.x}, self.name)
                self.labels.append(reply["label"])
                self.answered += 1
                if since is not None:
                    self.longest = max(self.longest, time.monotonic() - since)
                since = None
            except OSError:
                self.failed += 1
                since = since or began
            time.sleep(0.005)
        if since is not None:
            self.longest = max(self.longest, time.monotonic() - since)


@contextmanager
def local(shell: Sequence[str] = ("dash",)) -> Iterator[Local]:
    made = Local(shell)
    try:
        yield made
    finally:
        made.remove()
