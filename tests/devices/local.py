"""A board on this machine: the agent run by a shell here, as if it had no rights, in a folder.

What a connection would do is done by processes; it can be cut before, in and after each step.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from zgedge.devices.ssh import Result
from zgedge.errors import RemoteError


class Local:
    """A transport as `ssh.Remote` is one. `cut` is asked before and after each command, with the
    agent's word for it, and may cut the connection by raising; `kill_after` seconds into a command
    its processes are killed."""

    def __init__(self, shell: Sequence[str] = ("dash",), path: str | None = None) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="zge-local-", dir="/tmp"))
        self.home.chmod(0o755)
        tools = self.home / "tools"
        tools.mkdir()
        # It takes itself for a user without rights, whoever runs the tests: all stays in its home.
        self.tool("id", 'if [ "$1" = -u ]; then echo 1000; else echo user; fi')
        program = shutil.which(shell[0])
        assert program is not None
        self.tool("sh", f'exec {program} {" ".join(shell[1:])} "$@"')
        self.env = {
            "HOME": str(self.home), "PATH": f"{tools}:{path or os.environ['PATH']}",
            "LANG": "C.UTF-8",
        }  # fmt: skip
        self.cut: Callable[[str, str], None] = lambda _word, _when: None
        self.words: list[str] = []  # commands of the agent that were run
        self.kill_after: dict[str, float] = {}
        self.take: int | None = None  # bytes that a stream carries until it is cut

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
            raise RemoteError("The connection was cut.", reason="cut")
        if progress is not None:
            progress(len(data), size)
        return self._run(command, data, 60)

    def _run(self, command: str | Sequence[str], data: bytes, timeout: float | None) -> Result:
        words = ["sh", "-c", command] if isinstance(command, str) else list(command)
        words[0] = str(self.home / "tools" / "sh") if words[0] == "sh" else words[0]
        word = words[4] if len(words) > 4 and "agent-" in words[1] else "login"
        self.words.append(word)
        self.cut(word, "before")
        child = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=self.env, cwd="/", start_new_session=True,
        )  # fmt: skip
        try:
            wait = self.kill_after.pop(word, None)
            out, err = child.communicate(data, timeout if wait is None else wait)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            raise RemoteError("The connection was cut.", reason="cut") from None
        self.cut(word, "after")
        return Result(child.returncode, out, err.decode("utf-8", "replace"))

    def kill_all(self) -> None:
        """End what runs from this folder."""
        for _ in range(50):
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
                try:
                    if mark in (entry / "cmdline").read_bytes():
                        yield int(entry.name)
                except OSError:
                    pass

    def remove(self) -> None:
        self.kill_all()
        shutil.rmtree(self.home, ignore_errors=True)


@contextmanager
def local(shell: Sequence[str] = ("dash",), path: str | None = None) -> Iterator[Local]:
    made = Local(shell, path)
    try:
        yield made
    finally:
        made.remove()
