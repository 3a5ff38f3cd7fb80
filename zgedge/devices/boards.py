"""The boards of a person: which there are, how they are reached, and which was used last.

They are kept in `boards.json` in the folder of settings, which is replaced whole.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from zgedge.devices.places import config_folder, make_folder
from zgedge.errors import UsageError, ZgedgeError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Board:
    """One board. `device` is its profile's name; `ssh_config` a configuration file of its own, None
    for the person's; `last_used` counts up: the highest was used last, by no clock."""

    name: str
    host: str
    device: str
    ssh_config: str | None = None
    port: int | None = None
    last_used: int = 0


def path() -> Path:
    return config_folder() / "boards.json"


def load() -> list[Board]:
    """All boards, the one that was used last first. Raises ZgedgeError for a damaged file."""
    try:
        found = json.loads(path().read_text())
        if not isinstance(found, dict) or found["version"] != 1:
            raise ValueError("another version")
        boards = [_checked(entry) for entry in found["boards"]]
    except FileNotFoundError:
        return []
    except OSError as e:
        raise ZgedgeError(f"Cannot read {path()}: {e.strerror}.") from e
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise ZgedgeError(
            f"{path()} is damaged: {e}.", "Mend it, or remove it and add your boards again."
        ) from e
    return sorted(boards, key=lambda board: -board.last_used)


def _checked(entry: Any) -> Board:
    if not isinstance(entry, dict) or set(entry) != {field.name for field in fields(Board)}:
        raise ValueError("an entry is no board")
    board = Board(**entry)
    for text in (board.name, board.host, board.device):
        if not isinstance(text, str) or not text:
            raise ValueError("an entry has no name, host or device")
    if not (board.ssh_config is None or isinstance(board.ssh_config, str)):
        raise ValueError("an entry has an ssh_config that is no path")
    if not (board.port is None or type(board.port) is int) or type(board.last_used) is not int:
        raise ValueError("an entry has a number that is none")
    return board


def add(board: Board) -> Board:
    """Take a board in, or change the one of the same name; it counts as used last."""
    if not NAME.fullmatch(board.name):
        raise UsageError(
            f"{board.name!r} is no name for a board.", "Letters, digits, . _ and - do."
        )
    if board.host.startswith("-") or not board.host or not board.host.isprintable():
        raise UsageError(f"{board.host!r} is no host.", "Give it as ssh takes it: user@name.")
    if board.port is not None and not 0 < board.port < 65536:
        raise UsageError(f"{board.port} is no port.", "Ports are 1 to 65535.")
    with _changing() as boards:
        made = replace(board, last_used=_next(boards))
        boards[:] = [*(b for b in boards if b.name != board.name), made]
    return made


def remove(name: str) -> bool:
    """Forget a board; whether there was one of that name."""
    with _changing() as boards:
        kept = [board for board in boards if board.name != name]
        there = len(kept) < len(boards)
        boards[:] = kept
    return there


def used(name: str) -> None:
    """Note that a board is the one that was used last."""
    with _changing() as boards:
        count = _next(boards)
        boards[:] = [replace(b, last_used=count) if b.name == name else b for b in boards]


def find(name: str) -> Board | None:
    """The board of that name, else one of that host, with or without its user."""
    boards = load()
    for board in boards:
        if board.name == name:
            return board
    for board in boards:
        if name in (board.host, board.host.rpartition("@")[2]):
            return board
    return None


def last_used(device: str | None = None) -> Board | None:
    """The board that was used last, of that kind where one is asked for."""
    return next((b for b in load() if device is None or b.device == device), None)


def _next(boards: list[Board]) -> int:
    return 1 + max((board.last_used for board in boards), default=0)


@contextmanager
def _changing() -> Iterator[list[Board]]:
    """The boards, to be changed; written when the block ends well. One process at a time."""
    folder = make_folder(path().parent)
    part = folder / f".boards.{os.getpid()}"
    try:
        with (folder / ".boards.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            boards = load()
            yield boards
            text = json.dumps({"version": 1, "boards": [asdict(b) for b in boards]}, indent=1)
            with part.open("w") as f:
                f.write(text + "\n")
                f.flush()
                os.fsync(f.fileno())
            part.replace(path())
    except OSError as e:
        raise ZgedgeError(f"Cannot write {path()}: {e.strerror}.") from e
    finally:
        part.unlink(missing_ok=True)
