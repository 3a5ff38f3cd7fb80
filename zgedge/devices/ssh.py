"""A board at the other end of the person's own OpenSSH client.

Their configuration, agent, jump hosts and known hosts hold. No password is handled, and a host key
is never taken unseen. One connection serves all commands of a `Remote`.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO

from zgedge.errors import RemoteError

CONNECT = 15  # seconds until a board that does not answer is given up
ALIVE = 5  # seconds between two signs of life of an idle connection; three may be missing
CHUNK = 1 << 16
LOST = 255  # the exit code of ssh itself
Progress = Callable[[int, int], None]

# What ssh says, and what that is; the first that fits. In a message {host} is filled in.
_FAULTS: tuple[tuple[str, str, str, str], ...] = (
    ("unknown-host", r"Could not resolve hostname",
     "There is no host {host}.",
     "Check the name, or give the address of the board: user@192.168.1.20."),
    ("refused", r"Connection refused",
     "{host} is there, and no SSH server answers on it.",
     "Turn SSH on: on a Raspberry Pi `sudo raspi-config`, Interface Options. Check the port."),
    ("key-changed", r"REMOTE HOST IDENTIFICATION HAS CHANGED|host key .* has changed",
     "The host key of {host} is not the one that is known.",
     "Another board may answer there, or its system was installed anew. If you know why: "
     "{forget}"),
    ("key-unknown", r"Host key verification failed|host key is known",
     "The host key of {host} is not known on this machine.",
     "Connect once by hand, compare the fingerprint with the board's, and say yes: {by_hand}"),
    ("no-config", r"Can't open user config file .*: No such file",
     "There is no such ssh configuration.",
     "Start an emulated board anew with zgedge device emulate, or check --ssh-config."),
    ("config", r"Bad configuration option|Bad owner or permissions|terminating, \d+ bad|"
     r"Can't open user config|garbage at end of line|no argument after keyword|bad number",
     "ssh cannot use its configuration.",
     "Mend what it says below in its configuration file."),
    ("denied", r"Permission denied|Too many authentication failures",
     "{host} lets nobody in with the keys that were tried.",
     ""),
    ("timeout", r"timed out|Timeout, server",
     "{host} does not answer.",
     "Is it on, and on this network? Check the address, and that no firewall is between."),
    ("unreachable", r"No route to host|Network is unreachable|Host is down",
     "There is no way to {host}.",
     "Is it on, and on this network? Check the address."),
    ("negotiation", r"Unable to negotiate|no matching",
     "{host} and this machine's ssh share no method.",
     "Its SSH server is very old: allow what it offers in ~/.ssh/config, for this host alone."),
    ("cut", r"Connection (closed|reset)|Broken pipe|lost connection|kex_exchange_identification|"
     r"disconnect|read from master failed|master is dead|Control socket|mux_client",
     "The connection to {host} was cut.",
     "Run the same command again: it goes on where it stopped."),
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What a command on the board came to."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode("utf-8", "replace")


class Remote:
    """A host that commands are run on: `host` is what one gives to ssh, `user@name` too.

    `config` is an ssh configuration file that takes the place of the person's own; `options` are
    further `-o` settings. Connects with the first command, and again after a cut.
    """

    def __init__(
        self,
        host: str,
        *,
        port: int | None = None,
        config: str | os.PathLike[str] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        if (
            not host
            or host.startswith("-")
            or any(c.isspace() or not c.isprintable() for c in host)
        ):
            raise RemoteError(
                f"{host!r} is no name of a host.", "Give one as ssh takes it: user@name.",
                reason="unknown-host",
            )  # fmt: skip
        found = shutil.which("ssh")
        if found is None:
            raise RemoteError(
                "There is no ssh on this machine.", "Install OpenSSH's client: apt install "
                "openssh-client.", reason="no-client",
            )  # fmt: skip
        self.host, self.port = host, port
        self._ssh = [found, *(["-F", os.fspath(config)] if config is not None else [])]
        if port is not None:
            self._ssh += ["-p", str(port)]
        for option in (
            "BatchMode=yes", f"ConnectTimeout={CONNECT}", f"ServerAliveInterval={ALIVE}",
            "ServerAliveCountMax=3", "LogLevel=ERROR", "RequestTTY=no", "RemoteCommand=none",
            "ClearAllForwardings=yes", "ForwardAgent=no", "PermitLocalCommand=no", *options,
        ):  # fmt: skip
            self._ssh += ["-o", option]
        self._folder = ""
        self._master: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Remote:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ---- commands ----

    def run(
        self,
        command: str | Sequence[str],
        *,
        input: bytes | BinaryIO | None = None,
        timeout: float | None = 60,
    ) -> Result:
        """Run a shell script (a text) or a program (a sequence) on the board.

        Its exit code is in the result (255 for a program that a signal ended). Raises RemoteError
        where the board cannot be reached, the connection is cut, or `timeout` seconds have passed;
        what runs there may then go on.
        """
        stdin: int | BinaryIO = subprocess.DEVNULL if input is None else subprocess.PIPE
        if input is not None and not isinstance(input, bytes):
            stdin, input = input, None
        self.connect()
        with self._client(command, stdin, subprocess.PIPE) as child:
            try:
                out, err = child.communicate(input, timeout)
            except subprocess.TimeoutExpired:
                raise self._too_slow(timeout or 0) from None
        return self._ended(child.returncode, out, err)

    def check(
        self,
        command: str | Sequence[str],
        *,
        input: bytes | BinaryIO | None = None,
        timeout: float | None = 60,
    ) -> str:
        """`run`, and the text that was printed. Raises RemoteError where it fails on the board."""
        result = self.run(command, input=input, timeout=timeout)
        if result.code:
            said = result.err.strip() or result.text.strip() or f"exit code {result.code}"
            raise RemoteError(f"A command failed on {self.host}: {said}", reason="failed")
        return result.text

    def stream(
        self,
        command: str | Sequence[str],
        source: BinaryIO,
        *,
        size: int,
        progress: Progress | None = None,
        stall: float = 60,
    ) -> Result:
        """Run a command on the board with `size` bytes of `source` as its input.

        `progress(sent, size)` is told as they go. Raises RemoteError where nothing moves for
        `stall` seconds. Ends early, with its exit code, where the command reads no more.
        """
        self.connect()
        with self._client(command, subprocess.PIPE, subprocess.PIPE) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            assert child.stderr is not None
            os.set_blocking(child.stdin.fileno(), False)
            gathered: dict[IO[bytes], list[bytes]] = {child.stdout: [], child.stderr: []}
            sent, waiting, moved = 0, b"", time.monotonic()
            while gathered:
                if child.stdin.closed:
                    writers = []
                else:
                    if not waiting and sent < size:
                        waiting = source.read(min(CHUNK, size - sent))
                    if not waiting:
                        child.stdin.close()
                    writers = [] if child.stdin.closed else [child.stdin]
                reading, writing, _ = select.select(list(gathered), writers, [], 1.0)
                if writing:
                    try:
                        count = os.write(child.stdin.fileno(), waiting)
                    except BlockingIOError:
                        count = 0
                    except BrokenPipeError:
                        child.stdin.close()
                        count = 0
                    sent, waiting = sent + count, waiting[count:]
                    if count and progress is not None:
                        progress(sent, size)
                for pipe in reading:
                    data = os.read(pipe.fileno(), CHUNK)
                    if data:
                        gathered[pipe].append(data)
                    else:
                        parts = gathered.pop(pipe)
                        if pipe is child.stdout:
                            out = b"".join(parts)
                        else:
                            err = b"".join(parts)
                if reading or writing:
                    moved = time.monotonic()
                elif time.monotonic() - moved > stall:
                    raise self._too_slow(stall)
            child.wait()
        return self._ended(child.returncode, out, err)

    def fetch(
        self,
        command: str | Sequence[str],
        target: BinaryIO,
        *,
        size: int = 0,
        progress: Progress | None = None,
        stall: float = 60,
    ) -> Result:
        """Run a command on the board and write what it prints to `target`; `out` stays empty."""
        self.connect()
        with (
            tempfile.TemporaryFile() as errors,
            self._client(command, subprocess.DEVNULL, subprocess.PIPE, errors) as child,
        ):
            assert child.stdout is not None
            done = 0
            while True:
                ready, _, _ = select.select([child.stdout], [], [], stall)
                if not ready:
                    raise self._too_slow(stall)
                data = os.read(child.stdout.fileno(), CHUNK)
                if not data:
                    break
                target.write(data)
                done += len(data)
                if progress is not None:
                    progress(done, size)
            child.wait()
            errors.seek(0)
            err = errors.read()
        return self._ended(child.returncode, b"", err)

    # ---- the connection ----

    def connect(self) -> None:
        """Connect where there is no connection. Raises RemoteError, which says what to do."""
        if self._master is not None and self._master.poll() is None:
            return
        self.close()
        # Short: a socket's path has 107 bytes at most.
        self._folder = tempfile.mkdtemp(prefix="zge-ssh-", dir="/tmp")
        with open(os.path.join(self._folder, "said"), "w+b") as said:
            self._master = subprocess.Popen(
                [*self._ssh, "-M", "-N", "-o", "ControlPersist=no", "-S", self._socket, "--",
                 self.host],
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=_environment(),
                start_new_session=True,
            )  # fmt: skip
            # A host may have several addresses, each with its own wait.
            until = time.monotonic() + 4 * CONNECT
            while not os.path.exists(self._socket):
                if self._master.poll() is not None or time.monotonic() > until:
                    said.seek(0)
                    text = said.read().decode("utf-8", "replace")
                    self.close()
                    raise self.classify(text or "timed out")
                time.sleep(0.01)

    def close(self) -> None:
        """End the connection. Commands that go on there are not stopped."""
        if self._master is not None:
            if self._master.poll() is None:
                self._master.terminate()
                try:
                    self._master.wait(3)
                except subprocess.TimeoutExpired:
                    self._master.kill()
            self._master.wait()
            self._master = None
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = ""

    @property
    def _socket(self) -> str:
        return os.path.join(self._folder, "s")

    @contextmanager
    def _client(
        self,
        command: str | Sequence[str],
        stdin: int | BinaryIO,
        stdout: int,
        stderr: int | IO[bytes] = subprocess.PIPE,
    ) -> Iterator[subprocess.Popen[bytes]]:
        # The login shell may be any: it only has to start sh.
        words = ["sh", "-c", command] if isinstance(command, str) else list(command)
        child = subprocess.Popen(
            [*self._ssh, "-o", "ControlMaster=no", "-S", self._socket, "--", self.host,
             "exec " + shlex.join(words)],
            stdin=stdin, stdout=stdout, stderr=stderr, env=_environment(), start_new_session=True,
        )  # fmt: skip
        try:
            yield child
        except BaseException:
            child.send_signal(signal.SIGKILL)
            raise
        finally:
            for pipe in (child.stdin, child.stdout, child.stderr):
                if pipe is not None and not pipe.closed:
                    with suppress(BrokenPipeError):
                        pipe.close()
            child.wait()

    def _ended(self, code: int, out: bytes, err: bytes) -> Result:
        said = err.decode("utf-8", "replace")
        if code == LOST:
            lost = self._master is not None and self._master.poll() is not None
            if not lost and self._master is not None:
                # The connection and its commands end together, in either order.
                with suppress(subprocess.TimeoutExpired):
                    self._master.wait(0.2)
                    lost = True
            if lost or any(re.search(fault[1], said) for fault in _FAULTS):
                raise self.classify(said or "Connection closed")
        return Result(code, out, said)

    def _too_slow(self, seconds: float) -> RemoteError:
        return RemoteError(
            f"Nothing came from {self.host} for {seconds:g} s.",
            "Run the same command again: it goes on where it stopped.", reason="timeout",
        )  # fmt: skip

    def classify(self, said: str) -> RemoteError:
        """The error for what ssh said."""
        lines = said.strip().splitlines() or ["nothing"]
        fault = next((x for x in _FAULTS if re.search(x[1], said, re.IGNORECASE)), None)
        if fault is None:
            return RemoteError(f"ssh to {self.host} failed.", f"It said: {lines[-1]}")
        reason, _, message, hint = fault
        if reason in ("config", "no-config"):
            hint += f" It said: {lines[0]}"
        elif reason == "key-changed":
            hint = hint.format(forget=self._forget(said))
        elif reason == "key-unknown":
            hint = hint.format(by_hand=shlex.join(self._by_hand()))
        elif reason == "denied":
            hint = self._keys()
        return RemoteError(message.format(host=self.host), hint, reason=reason)

    def _by_hand(self) -> list[str]:
        words = ["ssh"]
        if "-F" in self._ssh:
            words += ["-F", self._ssh[self._ssh.index("-F") + 1]]
        if self.port is not None:
            words += ["-p", str(self.port)]
        return [*words, self.host]

    def _forget(self, said: str) -> str:
        found = re.search(r"Offending .*key in (.+):\d+", said)
        name = self.host.rpartition("@")[2]
        if self.port not in (None, 22):
            name = f"[{name}]:{self.port}"
        file = ["-f", found[1].strip()] if found else []
        return shlex.join(["ssh-keygen", "-R", name, *file]) + ", and connect once by hand."

    def _keys(self) -> str:
        """Which keys were tried, and how a board gets one."""
        settings = subprocess.run(
            [*self._ssh, "-G", "--", self.host], capture_output=True, text=True, timeout=10,
            env=_environment(), check=False,
        ).stdout  # fmt: skip
        words = [line.split(" ", 1) for line in settings.splitlines() if " " in line]
        user = next((rest for word, rest in words if word == "user"), "?")
        files = [Path(rest).expanduser() for word, rest in words if word == "identityfile"]
        there = [str(file) for file in files if file.exists()]
        told = "Tried: " + ", ".join(there) if there else "There is no key file here"
        if os.environ.get("SSH_AUTH_SOCK"):
            told += ", and the keys of the agent"
        return (
            f"The user was {user}. {told}. Put a key of yours there: ssh-copy-id {self.host}; a "
            "key with a passphrase has to be in the agent (ssh-add)."
        )


def _environment() -> dict[str, str]:
    """ssh's own words, untranslated, are what faults are told by."""
    return {**os.environ, "LC_ALL": "C"}
