"""The emulated board is a board: another processor, a disk and processes of its own, a real ssh."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.devices.conftest import CACHE, prepared
from tests.waiting import until
from zgedge.devices import emulated
from zgedge.devices.emulated import Emulated
from zgedge.devices.ssh import Remote
from zgedge.errors import UsageError, ZgedgeError


def remote(board: Emulated, user: str | None = None) -> Remote:
    return Remote(f"{user}@{board.host}" if user else board.host, config=board.ssh_config)


def test_it_is_another_processor(a_board: Emulated) -> None:
    with remote(a_board) as board:
        told = board.check("uname -m; id -u; python3 -c 'import platform, struct; "
                           "print(platform.machine(), platform.python_version()[:4])'")  # fmt: skip
        assert told.split() == ["aarch64", "0", "aarch64", "3.11"]
        # A real one has it not, and neither do many stock systems.
        assert board.run("python3 -c 'import ensurepip'").code == 1
        assert "verify" in board.run("ssh-keygen -Y nothing").err


def test_the_old_one_has_busybox_alone(an_old_board: Emulated) -> None:
    with remote(an_old_board) as board:
        assert board.check("uname -m").strip() == "armv7l"
        assert board.run("command -v python3 || command -v ssh-keygen").out == b""
        assert "BusyBox" in board.check("busybox | head -n 1")


def test_users_have_the_rights_of_a_stock_system(a_board: Emulated) -> None:
    with remote(a_board, "pi") as board:
        assert board.check("id -un; sudo -n id -u").split() == ["pi", "0"]
        assert board.run("touch /opt/file").code == 1
    with remote(a_board, "guest") as board:
        assert board.run("sudo -n id -u").code == 1


def test_newer_instructions_trap(a_board: Emulated) -> None:
    """sdot, which a Cortex-A76 has: mov and dot product in a program of a few bytes."""
    code = "2094824e"  # sdot v0.4s, v1.16b, v2.16b
    program = (
        "import ctypes, mmap; m = mmap.mmap(-1, 4096, prot=7); "
        f"m.write(bytes.fromhex('{code}c0035fd6')); "
        "ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()"
    )
    with remote(a_board) as board:
        assert board.run(f'python3 -c "{program}"; exit $?').code == 132
        assert board.run(f'QEMU_CPU=max python3 -c "{program}"').code == 0


def test_reboot_keeps_files_and_ends_processes(board: Emulated) -> None:
    board.start()
    port = board.port
    with remote(board) as there:
        there.check("echo kept >/opt/file; echo lost >/tmp/file; sleep 600 >/dev/null 2>&1 &")
        there.check("printf '#!/bin/sh\\necho $1 >>/opt/started\\n' >/etc/init.d/zgedge-x; "
                    "chmod 755 /etc/init.d/zgedge-x")  # fmt: skip
        inside = len(emulated._children(board.pid))
        board.reboot()
        assert board.port == port
        assert there.check("cat /opt/file; ls /tmp; pgrep -c sleep || true").split() == [
            "kept",
            "0",
        ]
        until((board.root / "opt/started").exists)
        assert (board.root / "opt/started").read_text() == "start\n"
        assert len(emulated._children(board.pid)) < inside


def test_boards_do_not_see_each_other(board: Emulated, a_board: Emulated) -> None:
    board.start()
    with remote(board) as one, remote(a_board) as other:
        one.check("echo mine >/opt/mine")
        assert other.run("test -e /opt/mine").code == 1
        assert one.check("hostname") != other.check("hostname")
    pid = board.pid
    board.stop()
    assert not emulated._lives(pid)
    assert not board.folder.exists()


def test_with_a_small_disk_no_clock_and_other_files(board: Emulated) -> None:
    board.start(
        disks={"/opt/zgedge": 4}, clock="1970-01-01 00:01:00",
        files={"/proc/meminfo": "MemTotal: 5120 kB\n", "/usr/local/bin/hi": "#!/bin/sh\necho hi\n"},
    )  # fmt: skip
    with remote(board) as there:
        assert "No space left" in there.run("head -c 9000000 /dev/zero >/opt/zgedge/file").err
        assert there.check("date +%s; python3 -c 'import time; print(int(time.time()))'; hi; "
                           "cat /proc/meminfo").split() == [
            "60", "60", "hi", "MemTotal:", "5120", "kB",
        ]  # fmt: skip


def test_with_a_whole_copy_of_the_file_system(board: Emulated) -> None:
    """For machines where no file system can be laid over another."""
    folder = board.folder / "with a blank, and 100% more"
    made = Emulated("emulated", cache=CACHE, overlay=False, folder=folder, name="copied")
    made.start()
    with remote(made) as there:
        there.check("echo kept >/opt/file")
        made.reboot()
        assert there.check("cat /opt/file").strip() == "kept"
    made.stop()


def test_it_goes_on_by_itself_and_is_found_again(tmp_path: Path) -> None:
    prepared("emulated")
    board = Emulated("emulated", name="mine", folder=tmp_path / "mine", cache=CACHE)
    board.start(detached=True)
    try:
        found = Emulated.attach(tmp_path / "mine")
        assert found is not None
        assert (found.pid, found.port, found.host, found.running) == (
            board.pid, board.port, "mine", True,
        )  # fmt: skip
    finally:
        board.stop()
    found = Emulated.attach(tmp_path / "mine")
    assert found is not None
    assert not found.running
    assert Emulated.attach(tmp_path / "nothing") is None
    # A number that another process has by now.
    text = (tmp_path / "mine/settings.json").read_text()
    (tmp_path / "mine/settings.json").write_text(
        text.replace(f'"pid": {board.pid}', f'"pid": {os.getpid()}')
    )
    found = Emulated.attach(tmp_path / "mine")
    assert found is not None
    found.stop()


def test_it_ends_with_whoever_started_it(tmp_path: Path) -> None:
    prepared("emulated")
    code = (
        "import sys; from pathlib import Path; from zgedge.devices.emulated import Emulated; "
        f"b = Emulated(cache=Path({str(CACHE)!r}), folder={str(tmp_path / 'b')!r}); b.start(); "
        "print(b.pid, flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [os.sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True  # type: ignore[attr-defined]
    )  # fmt: skip
    assert child.stdout is not None
    pid = int(child.stdout.readline())
    assert emulated._lives(pid)
    child.kill()
    child.communicate()
    until(lambda: not emulated._lives(pid))
    assert not emulated._lives(pid)


def test_two_builders_build_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Path] = []

    def build(kind: object, part: Path, progress: object) -> None:
        part.mkdir()
        built.append(part)
        time.sleep(0.2)

    monkeypatch.setattr(emulated, "unavailable", lambda: None)
    monkeypatch.setattr(emulated, "_build", build)
    threads = [
        threading.Thread(target=emulated.prepare, args=("emulated", tmp_path)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1


def test_a_board_that_two_bring_up_is_started_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    class Started:
        kind, running = emulated.KINDS["emulated"], True

        def __init__(self, kind: str, *, name: str, folder: Path) -> None:
            self.host, self.ssh_config = name, folder / "ssh_config"

        def start(self, **_: object) -> None:
            time.sleep(0.3)
            started.append(self.host)

        @classmethod
        def attach(cls, folder: Path) -> object:
            there = folder.name in started
            return cls("emulated", name=folder.name, folder=folder) if there else None

    monkeypatch.setenv("ZGEDGE_CONFIG", str(tmp_path))
    monkeypatch.setattr(emulated, "default_cache", lambda: tmp_path)
    monkeypatch.setattr(emulated, "unavailable", lambda: None)
    monkeypatch.setattr(emulated, "Emulated", Started)
    fresh: list[bool] = []
    threads = [
        threading.Thread(target=lambda: fresh.append(emulated.bring_up("emulated", "mine")[1]))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert started == ["mine"]
    assert sorted(fresh) == [False, False, True]


def test_a_failed_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(kind: object, part: Path, progress: object) -> None:
        part.mkdir()
        raise ZgedgeError("no network")

    monkeypatch.setattr(emulated, "unavailable", lambda: None)
    monkeypatch.setattr(emulated, "_build", build)
    with pytest.raises(ZgedgeError, match="no network"):
        emulated.prepare("emulated", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_why_none_can_run_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    why = emulated.unavailable.__wrapped__()
    assert why is not None
    assert "root rights" in why
    monkeypatch.setattr(emulated, "unavailable", lambda: why)
    with pytest.raises(ZgedgeError, match="root rights"):
        emulated.prepare("emulated")


@pytest.mark.parametrize("tool", ["apt-get", "ssh-keygen"])
def test_a_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch, tool: str) -> None:
    real = emulated.shutil.which
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(emulated.shutil, "which", lambda name: None if name == tool else real(name))
    why = emulated.unavailable.__wrapped__()
    assert why is not None
    assert f"no {tool} " in why


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="emulated-armv7"):
        Emulated("vax")
