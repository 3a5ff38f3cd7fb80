"""Boards over the person's own ssh: one connection, and for each fault what to do about it."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.devices.fakes import fake_ssh
from zgedge.devices.emulated import Emulated
from zgedge.devices.ssh import Remote
from zgedge.errors import RemoteError


@pytest.fixture(scope="module")
def remote(a_board: Emulated) -> Iterator[Remote]:
    with Remote(a_board.host, config=a_board.ssh_config) as made:
        yield made


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = fake_ssh(tmp_path)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    return place


def fault(remote: Remote) -> RemoteError:
    """What a connection fails with."""
    with pytest.raises(RemoteError) as caught:
        remote.run("true")
    assert caught.value.exit_code == 7
    assert caught.value.hint
    return caught.value


# ---- what works ----


def test_commands_and_their_answers(remote: Remote) -> None:
    done = remote.run("echo out; echo err >&2; exit 3")
    assert (done.code, done.text, done.err) == (3, "out\n", "err\n")
    assert remote.run(["printf", "%s|", "it's", 'a "b"', "$HOME", "c\nd"]).text == (
        'it\'s|a "b"|$HOME|c\nd|'
    )
    data = bytes(range(256)) * 40
    assert remote.run("cat", input=data).out == data
    assert remote.run("cat").out == b""  # no input is an end, not a wait
    assert remote.check("echo fine") == "fine\n"
    with pytest.raises(RemoteError, match="no such thing"):
        remote.check("echo no such thing >&2; exit 1")
    # ssh's own exit code, and yet nothing was cut.
    assert remote.run("exit 255").code == 255


def test_one_connection_serves_all_commands(a_board: Emulated) -> None:
    log = a_board.root / "run/boot"
    before = log.read_text().count("auth succeeded")
    with Remote(a_board.host, config=a_board.ssh_config) as remote:
        for _ in range(3):
            remote.run("true")
        folder = Path(remote._folder)
        assert folder.is_dir()
    assert not folder.exists()
    assert log.read_text().count("auth succeeded") == before + 1


def test_a_stream_goes_with_progress(remote: Remote) -> None:
    data = os.urandom(3_000_000)
    told: list[tuple[int, int]] = []
    done = remote.stream(
        "sha256sum", io.BytesIO(data), size=len(data), progress=lambda *x: told.append(x)
    )
    assert done.text.split()[0] == hashlib.sha256(data).hexdigest()
    assert told[-1] == (len(data), len(data))
    assert [x for x, _ in told] == sorted({x for x, _ in told})
    assert len(told) > 10


def test_a_stream_that_nobody_reads_ends(remote: Remote) -> None:
    data = bytes(8_000_000)
    done = remote.stream("head -c 10 >/dev/null; exit 4", io.BytesIO(data), size=len(data))
    assert done.code == 4


def test_what_is_fetched(remote: Remote) -> None:
    target, told = io.BytesIO(), []
    done = remote.fetch(
        "head -c 300000 /dev/zero; echo note >&2; exit 2", target, size=300000,
        progress=lambda *x: told.append(x),
    )  # fmt: skip
    assert (done.code, done.err, len(target.getvalue())) == (2, "note\n", 300000)
    assert told[-1] == (300000, 300000)


# ---- what does not ----


def test_too_slow_is_said(remote: Remote) -> None:
    began = time.monotonic()
    with pytest.raises(RemoteError, match="for 0.5 s") as caught:
        remote.run("sleep 30", timeout=0.5)
    assert caught.value.reason == "timeout"
    with pytest.raises(RemoteError, match="for 0.5 s"):
        remote.stream("sleep 30", io.BytesIO(bytes(9_000_000)), size=9_000_000, stall=0.5)
    with pytest.raises(RemoteError, match="for 0.5 s"):
        remote.fetch("sleep 30", io.BytesIO(), stall=0.5)
    assert time.monotonic() - began < 15
    assert remote.run("true").code == 0


def test_a_cut_is_said_and_the_next_command_connects_again(board: Emulated) -> None:
    board.start()
    with Remote(board.host, config=board.ssh_config) as remote:
        remote.run("true")
        threading.Timer(0.7, board.cut).start()
        with pytest.raises(RemoteError, match="cut") as caught:
            remote.run("sleep 20")
        assert caught.value.reason == "cut"
        assert remote.run("true").code == 0
        threading.Timer(0.7, board.cut).start()
        with pytest.raises(RemoteError, match="cut"):
            remote.stream("sleep 20; cat", io.BytesIO(bytes(9_000_000)), size=9_000_000)
        os.kill(board.pid, signal.SIGKILL)
        assert fault(remote).reason in ("refused", "cut")


def config(board: Emulated, folder: Path, *changes: tuple[str, str]) -> Path:
    """The board's ssh configuration with some words changed."""
    text = board.ssh_config.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "config"
    path.write_text(text)
    return path


def test_a_host_key_that_is_not_known_is_never_taken(a_board: Emulated, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.touch()
    path = config(a_board, tmp_path, (f"{a_board.folder}/known_hosts", str(known)))
    error = fault(Remote(a_board.host, config=path))
    assert error.reason == "key-unknown"
    assert f"ssh -F {path} {a_board.host}" in (error.hint or "")
    assert known.read_text() == ""


def test_a_changed_host_key_is_said_and_not_taken(a_board: Emulated, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    other = (a_board.folder / "id_ed25519.pub").read_text().split()
    known.write_text(f"{a_board.host} {other[0]} {other[1]}\n")
    path = config(a_board, tmp_path, (f"{a_board.folder}/known_hosts", str(known)))
    error = fault(Remote(a_board.host, config=path))
    assert error.reason == "key-changed"
    assert f"ssh-keygen -R {a_board.host} -f {known}" in (error.hint or "")
    assert known.read_text().split()[2] == other[1]


def test_wrong_key_and_wrong_user(
    a_board: Emulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    path = config(a_board, tmp_path, (f"{a_board.folder}/id_ed25519", str(key)))
    error = fault(Remote(a_board.host, config=path))
    assert error.reason == "denied"
    assert str(key) in (error.hint or "")
    assert "The user was root" in (error.hint or "")
    error = fault(Remote(f"nobody@{a_board.host}", config=a_board.ssh_config))
    assert error.reason == "denied"
    assert "The user was nobody" in (error.hint or "")


def test_nobody_listens(a_board: Emulated) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and held, that nobody takes it
        remote = Remote(a_board.host, port=free.getsockname()[1], config=a_board.ssh_config)
        assert fault(remote).reason == "refused"


def test_no_such_host(tmp_path: Path) -> None:
    (tmp_path / "config").touch()
    error = fault(Remote("pi@no-such-board.invalid", config=tmp_path / "config"))
    assert error.reason == "unknown-host"
    assert "no-such-board.invalid" in error.message


def test_who_accepts_and_says_nothing_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "config").touch()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        remote = Remote(
            "127.0.0.1", port=silent.getsockname()[1], config=tmp_path / "config",
            options=["ConnectTimeout=1"],
        )  # fmt: skip
        remote._ssh.remove("ConnectTimeout=15")  # the first one counts
        remote._ssh.pop(remote._ssh.index("BatchMode=yes") + 1)
        assert fault(remote).reason == "timeout"


def test_a_damaged_configuration(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("NoSuchWord yes\n")
    error = fault(Remote("board", config=tmp_path / "config"))
    assert error.reason == "config"
    assert "nosuchword" in (error.hint or "").lower()
    error = fault(Remote("board", config=tmp_path / "gone"))
    assert error.reason == "no-config"
    assert "device emulate" in (error.hint or "")
    assert str(tmp_path / "gone") in (error.hint or "")
    said = "Can't open user config file /x: Permission denied"
    assert Remote("board").classify(said).reason == "config"


@pytest.mark.parametrize("host", ["", "-oProxyCommand=true", "a b", "a\nb", "\x1b[2J"])
def test_what_is_no_host(host: str) -> None:
    with pytest.raises(RemoteError, match="no name of a host"):
        Remote(host)


def test_no_ssh_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RemoteError, match="no ssh on this machine"):
        Remote("board")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("ssh: connect to host b port 22: Connection timed out", "timeout"),
        ("ssh: connect to host b port 22: No route to host", "unreachable"),
        ("kex_exchange_identification: read: Connection reset by peer", "cut"),
        ("Unable to negotiate with 1.2.3.4 port 22: no matching host key type found.",
         "negotiation"),
        ("Bad owner or permissions on /home/x/.ssh/config", "config"),
        ("Received disconnect from 1.2.3.4 port 22:2: Too many authentication failures", "denied"),
        ("something new", "other"),
        ("", "timeout"),
    ],
    ids=lambda x: x[:30],
)  # fmt: skip
def test_what_ssh_says(fake: Path, said: str, reason: str) -> None:
    (fake / "refuse").write_text(said)
    assert fault(Remote("pi@board")).reason == reason


def test_the_persons_own_ssh_is_asked_with_nothing_skipped(fake: Path) -> None:
    with Remote("pi@board", port=2222) as remote:
        assert remote.check("echo there") == "there\n"
    calls = (fake / "calls").read_text()
    assert "StrictHostKeyChecking" not in calls
    assert "UserKnownHostsFile" not in calls
    assert " -F " not in calls
    for line in calls.splitlines():
        assert "-p 2222" in line
        assert "BatchMode=yes" in line
        assert line.split(" -- ")[1].startswith("pi@board")


def test_nothing_is_left_behind(fake: Path) -> None:
    (fake / "refuse").write_text("Connection refused")
    before = set(Path("/tmp").glob("zge-ssh-*"))
    fault(Remote("pi@board"))
    (fake / "refuse").unlink()
    with Remote("pi@board") as remote:
        remote.run("true")
    assert set(Path("/tmp").glob("zge-ssh-*")) <= before
    assert shutil.which("ssh") == str(fake / "ssh")
