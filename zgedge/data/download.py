"""Fetching a file from an address that the person states: resumed, checked, whole or not there.

What has arrived is kept in FILE.part, with FILE.part.json saying what it is a part of. A later
call asks for the rest only, on the condition (If-Range) that the file on the server is still the
same. FILE itself appears by a rename once everything has arrived.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zgedge.data.dataset import data_folder
from zgedge.errors import DataError, UsageError, ZgedgeError

Progress = Callable[[int, int | None], None]

_ATTEMPTS = 3
_PIECE = 1 << 18
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")


class _BrokenError(Exception):
    """The connection ended early; what arrived is kept and the next attempt goes on from there."""


@dataclass(frozen=True)
class _State:
    """What a partial file is a part of."""

    url: str
    validator: str | None  # a strong ETag or a date, good for If-Range
    total: int | None

    @staticmethod
    def load(path: Path) -> _State | None:
        try:
            stored = json.loads(path.read_text("utf-8"))
            return _State(stored["url"], stored["validator"], stored["total"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.__dict__), "utf-8")


def get(
    name: str,
    url: str | None = None,
    sha256: str | None = None,
    dest: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    timeout: float = 30.0,
) -> Path:
    """Fetch one file of the data set `name` and return its path.

    `url`: where from, http or https; there is no default, since data sets have many mirrors and
    conditions of use. `sha256`: the checksum (64 hex digits) that the file must have. `dest`: the
    folder it goes to, by default `data_folder() / name`; the file has the last part of the
    address as its name. `progress(done, total)` is called with bytes; total is None where the
    server does not say. `timeout`: seconds without an answer.

    A file that is already there is kept where its checksum fits or none is given. An interrupted
    fetch is resumed. Raises `UsageError` for an address, a name or a checksum of wrong form,
    `DataError` where the checksum differs (nothing is kept then), `ZgedgeError` where the server,
    the connection or the disk fails (what arrived is kept).
    """
    if url is None:
        raise UsageError(
            f"No address to fetch {name} from.", "State it: zgedge data get NAME --url ADDRESS."
        )
    parsed = urllib.parse.urlsplit(url)
    if parsed.scheme not in ("http", "https") or not parsed.netloc:
        raise UsageError(f"{url!r} is no http or https address.")
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise UsageError(f"{sha256!r} is no SHA-256 checksum.", "It has 64 hexadecimal digits.")
    if dest is None and not _SAFE_NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot name a data set.", "Use letters, digits, '.', '-', '_'.")
    file_name = urllib.parse.unquote(parsed.path).rpartition("/")[2]
    if not _SAFE_NAME.fullmatch(file_name):
        raise UsageError(f"{url!r} does not end in a file name.")
    folder = data_folder() / name if dest is None else Path(dest)
    target = folder / file_name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if target.exists() and (sha256 is None or _digest(target) == sha256.lower()):
            return target
        _fetch(url, target, sha256, progress, timeout)
    except OSError as error:
        raise ZgedgeError(
            f"{target} cannot be written: {error.strerror or error}.",
            "Check the folder and the free space, then run it again; it goes on from there.",
        ) from error
    return target


def _fetch(
    url: str, target: Path, sha256: str | None, progress: Progress | None, timeout: float
) -> None:
    part = target.with_name(target.name + ".part")
    state_path = target.with_name(target.name + ".part.json")
    failure = ""
    for _ in range(_ATTEMPTS):
        resumed = part.exists() and part.stat().st_size > 0
        try:
            _receive(url, part, state_path, progress, timeout)
        except _BrokenError as error:
            failure = str(error)
            continue
        found = _digest(part) if sha256 is not None else None
        if found is None or sha256 is None or found == sha256.lower():
            os.replace(part, target)
            state_path.unlink(missing_ok=True)
            return
        part.unlink()
        state_path.unlink(missing_ok=True)
        failure = f"the resumed file has the checksum {found}"
        if not resumed:  # a resumed file may have been joined from two versions: try once whole
            raise DataError(
                f"{url} has the checksum {found}, not {sha256.lower()}.",
                "The file or the checksum is not the one you mean. Nothing was kept.",
            )
    arrived = part.stat().st_size if part.exists() else 0
    raise ZgedgeError(
        f"{url} could not be fetched: {failure} ({arrived} bytes arrived).",
        "Run it again; it goes on from there.",
    )


def _receive(
    url: str, part: Path, state_path: Path, progress: Progress | None, timeout: float
) -> None:
    """One attempt: returns when the file is whole, raises `_BrokenError` when another may help."""
    state = _State.load(state_path)
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    # Without a validator nothing tells whether the server still has the same file.
    if have and state is not None and state.url == url and state.validator is not None:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", state.validator)
    else:
        have = 0
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            if have and not _continues(response, have, state):
                if response.status == 206:
                    part.unlink()
                    raise _BrokenError("the server sent another piece than was asked for")
                have = 0
            length = response.headers.get("Content-Length")
            total = have + int(length) if length and length.isdecimal() else None
            if not have:
                _State(url, _validator(response.headers), total).save(state_path)
            _store(response, part, have, total, progress)
    except urllib.error.HTTPError as error:
        with contextlib.closing(error):
            if error.code == 416 and have:
                if _CONTENT_RANGE.fullmatch(error.headers.get("Content-Range", "")) and (
                    error.headers["Content-Range"] == f"bytes */{have}"
                ):
                    return
                part.unlink()
                raise _BrokenError("the file on the server has changed") from error
            raise ZgedgeError(
                f"{url} could not be fetched: the server answered {error.code} {error.reason}.",
                "Check the address.",
            ) from error
    except urllib.error.URLError as error:
        raise _BrokenError(f"{error.reason}") from error
    except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise _BrokenError(f"no answer came ({type(error).__name__})") from error


def _continues(response: Any, have: int, state: _State | None) -> bool:
    """Whether the answer is the rest of the partial file."""
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status != 206 or found is None or found[1] is None or int(found[1]) != have:
        return False
    total = None if state is None else state.total
    return total is None or found[3] == "*" or int(found[3]) == total


def _validator(headers: Any) -> str | None:
    etag = headers.get("ETag")
    if etag and not etag.startswith("W/"):  # a weak tag does not promise the same bytes
        return str(etag)
    date = headers.get("Last-Modified")
    return None if date is None else str(date)


def _store(
    response: Any, part: Path, have: int, total: int | None, progress: Progress | None
) -> None:
    done = have
    with part.open("r+b" if have else "wb") as file:
        file.seek(have)
        file.truncate()
        while True:
            try:
                piece = response.read(_PIECE)
            except (OSError, http.client.HTTPException) as error:
                raise _BrokenError(
                    f"the connection ended early ({type(error).__name__})"
                ) from error
            if not piece:
                break
            file.write(piece)
            done += len(piece)
            if progress is not None:
                progress(done, total)
        file.flush()
        os.fsync(file.fileno())
    if total is not None and done < total:
        raise _BrokenError(f"the connection ended after {done} of {total} bytes")


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
