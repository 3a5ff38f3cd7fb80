"""A look for boards speaks to hosts that something here names, on private addresses alone."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import PATIENCE
from zgedge.devices import boards, scan


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ZGEDGE_CONFIG", str(tmp_path / "settings"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(scan, "STOCK_NAMES", ())
    monkeypatch.setattr(scan, "WAIT", 0.3)
    (tmp_path / ".ssh").mkdir()
    return tmp_path


@pytest.fixture
def server() -> Iterator[int]:
    """The port of something that greets as an SSH server does."""
    with socket.socket() as listening:
        listening.bind(("", 0))
        listening.listen()

        def greet() -> None:
            while True:
                try:
                    link, _ = listening.accept()
                except OSError:
                    return
                with link:
                    link.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_hosts_of_all_sources(home: Path, server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "WAIT", PATIENCE)
    boards.add(boards.Board("mine", "pi@127.0.0.2", "rpi4", None, server))
    (home / ".ssh/config").write_text(
        f"Host pi *.local\n  HostName 127.0.0.1\n  Port {server}\n"
        "Host far\n  HostName 127.0.0.9\n  ProxyJump pi\n"
    )
    (home / ".ssh/known_hosts").write_text(
        f"[127.0.0.3]:{server} ssh-ed25519 AAAA\n|1|abc|def ssh-ed25519 AAAA\n# a note\n"
        "127.0.0.4,127.0.0.5 ssh-ed25519 AAAA\n8.8.8.8 ssh-rsa A\nno.such.invalid ssh-rsa A\n"
    )
    (home / "avahi-browse").write_text(
        "#!/bin/sh\necho '+;eth0;IPv4;pi;_ssh._tcp;local'\n"
        f"echo '=;eth0;IPv4;pi;_ssh._tcp;local;127.0.0.6;127.0.0.6;{server};'\n"
    )
    (home / "avahi-browse").chmod(0o755)
    found, missing = scan.scan()
    answering = {one.host: one.source for one in found if one.greeting}
    assert answering == {
        "127.0.0.1": "ssh's pi", "127.0.0.2": "board mine", "127.0.0.3": "known hosts",
        "127.0.0.6": "announces itself",
    }  # fmt: skip
    assert {one.host for one in found if not one.greeting} == {"127.0.0.4", "127.0.0.5"}
    assert found[0].greeting == "SSH-2.0-OpenSSH_9.2p1 Debian-2"
    assert missing == ["1 known hosts have no readable name (HashKnownHosts)"]


def test_what_cannot_be_asked_is_said() -> None:
    found, missing = scan.scan()
    assert found == []
    assert len(missing) == 3
    assert "avahi-browse" in missing[2]


def test_nothing_outside_is_spoken_to(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoken: list[object] = []
    monkeypatch.setattr(socket, "create_connection", lambda address, wait: spoken.append(address))
    (home / ".ssh/known_hosts").write_text("8.8.8.8 ssh-rsa A\n2001:4860::8888 ssh-rsa A\n")
    assert scan.scan()[0] == []
    assert spoken == []
