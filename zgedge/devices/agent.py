"""Speaks with `agent.sh`, the board's side of a deployment, over a connection to the board."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from zgedge.devices.places import config_folder, make_folder
from zgedge.errors import RemoteError, UsageError, ZgedgeError

SCRIPT = Path(__file__).with_name("agent.sh")
HOME_ROOT = ".zgedge"  # in the home of who has no root rights there
STEP_SECONDS = 900.0  # that a step may take: an installation on a slow board
LOCK_SECONDS = 90.0  # that an earlier step of this desk is waited for

Progress = Callable[[int, int], None]
_ALIVE: set[str] = set()  # deployments of this process that hold a lock


class Outcome(Protocol):
    """What a command on the board came to."""

    @property
    def code(self) -> int: ...
    @property
    def out(self) -> bytes: ...
    @property
    def err(self) -> str: ...
    @property
    def text(self) -> str: ...


class Transport(Protocol):
    """What carries commands to a board; `ssh.Remote` is one."""

    def run(
        self,
        command: str | Sequence[str],
        *,
        input: bytes | BinaryIO | None = None,
        timeout: float | None = 60,
    ) -> Outcome: ...

    def stream(
        self,
        command: str | Sequence[str],
        source: BinaryIO,
        *,
        size: int,
        progress: Progress | None = None,
        stall: float = 60,
    ) -> Outcome: ...

    def close(self) -> None: ...


class DeployError(ZgedgeError):
    """A board refused a step, and why: `code` is one word of it, `rest` what the board
    said behind it. What served there goes on."""

    def __init__(
        self, message: str, hint: str | None = None, code: str = "failed", rest: str = ""
    ) -> None:
        super().__init__(message, hint)
        self.code = code
        self.rest = rest


# What the board's side says, and what that is for a person. {} is what stood behind it.
_WORDS: dict[str, tuple[str, str | None]] = {
    "locked": ("Another deployment works on this board.", "Try again {1}."),
    "lost": ("Another deployment took this board over.", "Run the command again when it is done."),
    "device": ("This service was set up on the board as one of kind {}.",
               "Take that --device, or another --name."),
    "trusted": ("The board trusts other keys already, so --trust changes nothing there.",
                "Let who set it up run: zgedge key trust YOUR.pub --host HOST."),
    "untrusting": ("The board trusts no key yet.",
                   "On first contact add --trust: it learns this desk's keys over your login."),
    "untrusted": ("The board does not trust the key that signed this.",
                  "Let who set it up run: zgedge key trust YOUR.pub --host HOST."),
    "unsigned": ("The board refused a bundle without a signature.", "Sign it: zgedge key new."),
    "verifier": ("The board cannot verify signatures: it has no ssh-keygen -Y (OpenSSH 8.2).",
                 "Install openssh-client there, or add --desk-verifies: this desk verifies then."),
    "older": ("The bundle is older than what runs there ({}).",
              "To go back to an installed version: zgedge rollback. Else add --allow-downgrade."),
    "name": ("The bundle is for a service named {}.", None),
    "machine": ("The bundle is for another processor than the board has ({}).",
                "Take the --device that fits; a 32-bit system on a 64-bit board is an armv7 one."),
    "manifest": ("The board refused the bundle's manifest: {}.", None),
    "bundle": ("The board refused the bundle: {}.", "Deploy again: it is made and copied anew."),
    "tampered": ("What came to the board is not what was sent: {}.", "Deploy again."),
    "missing": ("Something is missing on the board: {}.", "Deploy again."),
    "full": ("There is no room on the board: {}.", "Make room there (old logs, apt clean)."),
    "denied": ("The board does not let us write: {}.", "Log in as a user with root rights."),
    "python": ("The board has no Python that can be used (3.10 or newer): {}.",
               "Take --runtime native."),
    "instruction": ("The build does not run on this board: {}.",
                    "Take the --device that the board is; see zgedge device check."),
    "machine-program": ("The build does not run on this board: {}.", "Check --device."),
    "program": ("The runtime does not work on this board: {}.", "See zgedge device check."),
    "slow": ("The board is too slow, or out of memory: {}.", None),
    "golden": ("The golden test failed on the board: {}.",
               "This build does not compute there as it must. What served before goes on."),
    "rename": ("A switch would not be atomic there: {}.", "Install coreutils on the board."),
    "cc": ("The wheel has to be compiled on the board, and {}.",
           "Install the extra here: pip install 'zgedge[deploy]', or gcc on the board."),
    "cut": ("The copy was cut: {}.", "Deploy again: it goes on where it stopped."),
    "offset": ("The copy on the board is not as long as expected ({} bytes).", "Deploy again."),
    "nothing": ("There is nothing to do: {}.", None),
    "silent": ("No service answers on the board.", "See why: zgedge logs --host HOST."),
    "version": ("Version {}.", "Give another --counter."),
}  # fmt: skip


@dataclass
class Answer:
    """What a step said: lines `key value`, in their order."""

    lines: list[tuple[str, str]] = field(default_factory=list)

    def all(self, key: str) -> list[str]:
        return [value for k, value in self.lines if k == key]

    @property
    def replies(self) -> list[str]:
        """Lines of JSON that a service replied."""
        return [f"{key} {value}".rstrip() for key, value in self.lines if key.startswith("{")]

    def get(self, key: str, otherwise: str = "") -> str:
        found = self.all(key)
        return found[-1] if found else otherwise


def words_of(code: str, rest: str) -> DeployError:
    """The error for a line `error CODE REST`."""
    message, hint = _WORDS.get(code, ("The board failed: {}.", None))
    parts = rest.split()
    said = message.format(re.sub(r"[.:]+$", "", rest) or "no reason given")
    if hint is not None and "{1}" in hint:
        seconds = parts[1] if len(parts) > 1 else "a few"
        # It is at work there, and nobody knows for how long.
        hint = hint.format("", "when it has ended" if seconds == "0" else f"in {seconds} s")
    return DeployError(said, hint, code, rest)


class Agent:
    """The board's side, put there and asked. `root` as a profile has it; without root rights it is
    `.zgedge` in the home, which `at_home` says."""

    def __init__(self, transport: Transport, root: str, name: str) -> None:
        self.transport = transport
        self.name = name
        self.at_home = False
        self.uid = -1
        self._prefix: list[str] = []
        self.root = root
        self._installed = False
        self.token = f"{desk()}.{os.getpid()}.{secrets.token_hex(4)}"

    def connect(self) -> None:
        """Log in, find where to write, and put the agent there. Raises RemoteError, DeployError."""
        if self._installed:
            return
        done = self.transport.run(_PROBE)
        words = done.text.split("\n")
        if done.code or len(words) < 4 or not words[1].isdigit():
            raise RemoteError(
                f"The board's shell does not answer as one: {(done.err or done.text).strip()!r}.",
                "Does logging in print something, or start another program?", "shell",
            )  # fmt: skip
        home, uid, sudo = words[0], words[1], words[2]
        self.uid = int(uid)
        if uid != "0":
            if sudo == "yes":
                self._prefix = ["sudo", "-n"]
            else:
                self.at_home, self.root = True, f"{home}/{HOME_ROOT}"
        script = SCRIPT.read_bytes()
        self._path = f"{self.root}/agent-{hashlib.sha256(script).hexdigest()[:12]}.sh"
        done = self.transport.run(
            [*self._prefix, "sh", "-c", _PUT, "sh", self.root, self._path, str(len(script))],
            input=script,
        )
        if done.code:
            said = (done.err.strip() or done.text.strip()).splitlines()[-1:]
            text = said[0] if said else f"exit code {done.code}"
            raise words_of("full" if "No space" in text else "denied", text)
        self._installed = True

    def command(self, *words: str) -> list[str]:
        return [*self._prefix, "sh", self._path, self.root, self.name, *words]

    def call(
        self,
        *words: str,
        input: bytes | None = None,
        timeout: float | None = STEP_SECONDS,
        progress: Progress | None = None,
        source: BinaryIO | None = None,
        size: int = 0,
    ) -> Answer:
        """Run a command of the agent. Raises DeployError for one that it refuses."""
        self.connect()
        command = self.command(*words)
        if source is not None:
            done = self.transport.stream(command, source, size=size, progress=progress)
        else:
            done = self.transport.run(command, input=input, timeout=timeout)
        answer = Answer()
        # Not splitlines, which ends lines at characters that a label may have.
        for line in done.text.removesuffix("\n").split("\n"):
            key, _, value = line.partition(" ")
            answer.lines.append((key, value))
        last = answer.lines[-1] if answer.lines else ("", "")
        if last[0] == "error":
            code, _, rest = last[1].partition(" ")
            raise words_of(code, rest)
        if done.code or last[0] != "ok":
            said = (done.err.strip() or done.text.strip()).splitlines()[-1:]
            code = "full" if said and "No space left" in said[0] else "broken"
            raise words_of(code, f"{words[0]}: {said[0] if said else f'exit code {done.code}'}")
        return answer

    def fetch(self, *words: str) -> bytes:
        """The bytes that a command of the agent prints. Raises DeployError."""
        self.connect()
        done = self.transport.run(self.command(*words), timeout=STEP_SECONDS)
        if done.code:
            code, _, rest = done.text.removeprefix("error ").strip().partition(" ")
            raise words_of(code, rest)
        return done.out

    def step(self, command: str, *words: str, **options: object) -> Answer:
        """A command that the lock has to be held for."""
        return self.call(command, self.token, *words, **options)  # type: ignore[arg-type]

    @contextmanager
    def locked(self, say: Callable[[str], None]) -> Iterator[None]:
        """Hold the board's lock of this service. Raises DeployError where another has it."""
        dead, judged, until = "", False, time.monotonic() + LOCK_SECONDS
        while True:
            try:
                answer = self.call("lock", self.token, *([dead] if dead else []))
                break
            except DeployError as e:
                if e.code == "locked" and e.rest.startswith("board."):
                    if not judged:
                        say("The board judges a switch that was cut off; waiting for it ...")
                        judged, until = True, time.monotonic() + STEP_SECONDS
                    if time.monotonic() < until:
                        time.sleep(1)
                        continue
                owner = self._owner(e)
                # A deployment of this desk that was cut: its step may still run there.
                if owner is None or time.monotonic() > until:
                    raise
                if not dead:
                    say("A deployment from here was cut off; waiting for its last step to end ...")
                dead = owner
                time.sleep(1)
        for owner in answer.all("took-over"):
            say(f"Took over from a deployment that ended early ({owner}).")
        _ALIVE.add(self.token)
        try:
            yield
        finally:
            _ALIVE.discard(self.token)
            # Where that fails it is stale in a minute, or taken over by the next from here.
            with suppress(ZgedgeError):
                self.call("unlock", self.token, timeout=30)

    def _owner(self, e: DeployError) -> str | None:
        """Who holds the lock, where that was a process of this desk which has ended."""
        if e.code != "locked":
            return None
        owner = e.rest
        parts = owner.split()[0].split(".") if owner else []
        if len(parts) != 3 or parts[0] != desk() or not parts[1].isdigit():
            return None
        try:
            os.kill(int(parts[1]), 0)
        except ProcessLookupError:
            return owner.split()[0]
        except PermissionError:
            return None
        token = owner.split()[0]
        return token if int(parts[1]) == os.getpid() and token not in _ALIVE else None


_PROBE = """printf '%s\\n' "$HOME" "$(id -u)"
if [ "$(id -u)" != 0 ] && sudo -n true 2>/dev/null; then echo yes; else echo no; fi"""
_PUT = """set -eu
size() { echo $(($(wc -c <"$1"))); }
if [ ! -f "$2" ] || [ "$(size "$2")" != "$3" ]; then
    mkdir -p "$1"
    # A connection that is cut ends the input as its end does: only the length tells.
    cat >"$2.$$" && [ "$(size "$2.$$")" = "$3" ] || { rm -f "$2.$$"; exit 1; }
    sync
    mv -f "$2.$$" "$2"
else
    cat >/dev/null
fi"""


def desk() -> str:
    """What this desk is called in a lock: no name of a person, and the same tomorrow."""
    path = config_folder() / "desk"
    try:
        found = path.read_text().strip()
        if re.fullmatch(r"[a-z0-9-]{1,40}", found):
            return found
    except OSError:
        pass
    host = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().lower()).strip("-")[:20] or "desk"
    made = f"{host}-{secrets.token_hex(4)}"
    try:
        make_folder(path.parent, 0o700)
        path.write_text(made + "\n")
    except OSError as e:
        raise UsageError(f"Cannot write {path}: {e.strerror}.") from e
    return made
