"""Boards on the local network, as far as this machine knows of any.

No address is tried that nothing here names: boards that were added, hosts in ssh's configuration
and known hosts, machines that announce themselves (avahi-browse, where it is installed), and the
name that a Raspberry Pi has by itself. Only private addresses are spoken to, and nobody logs in:
a board answers with the greeting of its SSH server.
"""

from __future__ import annotations

import ipaddress
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from zgedge.devices import boards

STOCK_NAMES = ("raspberrypi.local", "raspberrypi")
WAIT = 2.0  # seconds for one host
MOST = 256  # hosts


@dataclass(frozen=True)
class Found:
    """A host, where its name is from, and how its SSH server greets; None where none answers."""

    host: str
    port: int
    source: str
    address: str | None
    greeting: str | None


def scan() -> tuple[list[Found], list[str]]:
    """Hosts, those that answer first, and the sources that could not be asked, with the reason."""
    missing: list[str] = []
    named: dict[tuple[str, int], str] = {}
    for host, port, source in _candidates(missing):
        named.setdefault((host, port), source)
    hosts = [(host, port, source) for (host, port), source in named.items()][:MOST]
    with ThreadPoolExecutor(32) as pool:
        found = [one for one in pool.map(lambda told: _greet(*told), hosts) if one is not None]
    return sorted(found, key=lambda one: (one.greeting is None, one.host)), missing


def _candidates(missing: list[str]) -> Iterator[tuple[str, int, str]]:
    for board in boards.load():
        if board.ssh_config is None:
            yield board.host.rpartition("@")[2], board.port or 22, f"board {board.name}"
    for name in STOCK_NAMES:
        yield name, 22, "a Raspberry Pi's own name"
    home = Path.home() / ".ssh"
    yield from _configured(home / "config", missing)
    yield from _known(home / "known_hosts", missing)
    yield from _announced(missing)


def _configured(path: Path, missing: list[str]) -> Iterator[tuple[str, int, str]]:
    """Hosts of ssh's configuration, by their addresses there."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        missing.append(f"there is no {path}")
        return
    for block in re.split(r"^\s*Host\s+", text, flags=re.IGNORECASE | re.MULTILINE)[1:]:
        first = block.splitlines()[0].split() if block.splitlines() else []
        name = re.search(r"^\s*HostName\s+(\S+)", block, re.IGNORECASE | re.MULTILINE)
        port = re.search(r"^\s*Port\s+(\d{1,5})\s*$", block, re.IGNORECASE | re.MULTILINE)
        if re.search(r"^\s*Proxy(Jump|Command)", block, re.IGNORECASE | re.MULTILINE):
            continue  # not reached from here
        for alias in first:
            if not set(alias) & set("*?!"):
                yield name[1] if name else alias, int(port[1]) if port else 22, f"ssh's {alias}"


def _known(path: Path, missing: list[str]) -> Iterator[tuple[str, int, str]]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        missing.append(f"there is no {path}")
        return
    hashed = 0
    for line in lines:
        words = line.split()
        if not words or words[0].startswith(("#", "@")):
            continue
        if words[0].startswith("|"):
            hashed += 1
            continue
        for name in words[0].split(","):
            bracketed = re.fullmatch(r"\[([^\]]+)\]:(\d{1,5})", name)
            host, port = (bracketed[1], int(bracketed[2])) if bracketed else (name, 22)
            if not set(host) & set("*?!"):
                yield host, port, "known hosts"
    if hashed:
        missing.append(f"{hashed:,} known hosts have no readable name (HashKnownHosts)")


def _announced(missing: list[str]) -> Iterator[tuple[str, int, str]]:
    browse = shutil.which("avahi-browse")
    if browse is None:
        missing.append("there is no avahi-browse here (package avahi-utils)")
        return
    try:
        told = subprocess.run(
            [browse, "-rtp", "_ssh._tcp"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as e:
        missing.append(f"avahi-browse does not answer: {e}")
        return
    for line in told.splitlines():
        cells = line.split(";")
        if cells[0] == "=" and len(cells) >= 9 and cells[2] == "IPv4" and cells[8].isdigit():
            yield cells[6], int(cells[8]), "announces itself"


def _greet(host: str, port: int, source: str) -> Found | None:
    """How a host answers; None where its name leads nowhere, or to no private address."""
    try:
        told = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return None
    addresses = [str(entry[4][0]) for entry in told]
    private = [a for a in addresses if ipaddress.ip_address(a.partition("%")[0]).is_private]
    if not private:
        return None
    for address in private:
        try:
            with socket.create_connection((address, port), WAIT) as link:
                link.settimeout(WAIT)
                line = link.recv(255).split(b"\n")[0].decode("ascii", "replace").strip()
        except OSError:
            continue
        return Found(host, port, source, address, line if line.startswith("SSH-") else None)
    return Found(host, port, source, private[0], None)
