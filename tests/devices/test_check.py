"""A look at a board says what is there, what will not do, and how to mend it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.conftest import refused, run, run_json
from tests.devices.fakes import fake_ssh, tool
from zgedge.devices import check, profiles
from zgedge.devices.check import FAULT, OK, WARNING, Facts, Finding
from zgedge.devices.emulated import Emulated
from zgedge.devices.ssh import Remote
from zgedge.errors import RemoteError

NOW = 1_800_000_000.0
# What a Raspberry Pi 4 with its stock system would say, line by line.
PI = """zgedge=1
kernel=6.12.47+rpt-rpi-v8
machine=aarch64
elf=183
model=Raspberry Pi 4 Model B Rev 1.4
system=Debian GNU/Linux 12 (bookworm)
glibc=glibc 2.36
libc=GNU C Library (Debian GLIBC 2.36-9+rpt2+deb12u12) stable release version 2.36.
python=python3 3.11.2 venv ensurepip
memory=3882404
available=3500000
page=4096
disk=24000000 /
writable=no
rootfs=rw,noatime 0 0
clock=1800000001
features=fp asimd evtstrm crc32 cpuid
parts=0xd08
temperature=48686
throttled=0x0
cgroup=2 cpuset cpu io memory pids
service=systemd 252
verifier=yes
uid=1000
user=pi
sudo=yes
end=1
"""


def facts(*changes: tuple[str, str]) -> Facts:
    text = PI
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return check.parse(text, NOW)


def found(facts: Facts, device: str = "rpi4", runtime: str | None = None) -> dict[str, Finding]:
    return {f.name: f for f in check.judge(facts, profiles.load(device), runtime)}


def test_a_stock_board_is_good() -> None:
    told = found(facts())
    assert {f.level for f in told.values()} == {OK}
    assert set(told) == {
        "machine", "model", "processor", "python", "libc", "runtime", "service", "signatures",
        "memory", "disk", "clock", "temperature", "throttling", "cgroup", "rights",
    }  # fmt: skip


# What is wrong: lines that differ, the device, and the finding with its words.
WRONG = {
    "32-bit system": ([("elf=183", "elf=40")], "rpi4", "machine", FAULT, "--device armv7"),
    "other processor": ([("elf=183", "elf=62"), ("machine=aarch64", "machine=x86_64")], "rpi4",
                        "machine", FAULT, "x86_64"),
    "other board": ([], "rpi3", "model", WARNING, "--device rpi4"),
    "older processor": ([], "rpi5", "processor", FAULT, "asimddp"),
    "silent processor": ([("features=fp asimd evtstrm crc32 cpuid\n", "")], "rpi4", "processor",
                         WARNING, "golden test"),
    "little memory": ([("memory=3882404", "memory=500000")], "rpi4", "memory", WARNING, "1,024"),
    "no memory": ([("memory=3882404", "memory=90000")], "rpi4", "memory", FAULT, "native"),
    "silent memory": ([("memory=3882404\n", "")], "rpi4", "memory", WARNING, "does not say"),
    "full disk": ([("disk=24000000 /", "disk=9000 /")], "rpi4", "disk", FAULT, "8 MB free"),
    "read-only": ([("rootfs=rw", "rootfs=ro")], "rpi4", "writable", FAULT, "read-only"),
    "1970": ([("clock=1800000001", "clock=61")], "rpi4", "clock", WARNING, "1970-01-01"),
    "hot": ([("temperature=48686", "temperature=85000")], "rpi4", "temperature", WARNING, "85"),
    "under-voltage": ([("throttled=0x0", "throttled=0x1")], "rpi4", "throttling", WARNING,
                      "now: under-voltage"),
    "was throttled": ([("throttled=0x0", "throttled=0x50000")], "rpi4", "throttling", WARNING,
                      "since it was started: under-voltage, throttled"),
    "uncounted": ([(" memory pids", " pids")], "rpi4", "cgroup", WARNING, "MemoryMax"),
    "no manager": ([("service=systemd 252\n", "")], "rpi4", "service", WARNING, "init"),
    "no ssh-keygen": ([("verifier=yes\n", "")], "rpi4", "signatures", WARNING, "no ssh-keygen"),
    "old ssh-keygen": ([("verifier=yes", "verifier=old")], "rpi4", "signatures", WARNING, "8.2"),
    "no rights": ([("sudo=yes", "sudo=password")], "rpi4", "rights", WARNING, "password"),
    "no sudo": ([("sudo=yes", "sudo=none")], "rpi4", "rights", WARNING, "no sudo"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_and_how_to_mend_it(name: str) -> None:
    changes, device, finding, level, words = WRONG[name]
    told = found(facts(*changes), device)[finding]
    assert told.level == level
    assert words in f"{told.what} {told.mend}"
    if name != "silent memory":
        assert told.mend


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "no Python 3"), ("python=python3 3.9.2 venv ensurepip\n", "3.9.2"),
        ("python=python3 3.11.2 no: there is no module venv\n", "no module venv"),
        ("python=python3 Illegal instruction\n", "0.0.0"),
    ],
)  # fmt: skip
def test_without_a_python_the_native_program_is_taken(line: str, said: str) -> None:
    board = facts(("python=python3 3.11.2 venv ensurepip\n", line))
    told = found(board)
    assert told["python"].level == OK
    assert said in told["python"].what
    assert told["runtime"].what == "native, not python"
    wanted = found(board, runtime="python")["python"]
    assert wanted.level == FAULT
    assert "--runtime native" in (wanted.mend or "")


def test_an_old_libc_has_the_native_program() -> None:
    board = facts(("glibc=glibc 2.36", "glibc=glibc 2.27"))
    assert found(board)["runtime"].what == "native, not python"
    assert found(board, runtime="python")["libc"].level == FAULT
    nothing = facts(
        ("glibc=glibc 2.36\n", ""), ("libc=GNU C", "libc=nothing"), ("version 2.36", "")
    )
    assert check.choose(nothing, profiles.load("rpi4")) == "native"
    # musl, or a getconf that is missing: libc itself says which it is.
    assert facts(("glibc=glibc 2.36\n", "")).glibc == "2.36"
    found(facts(("glibc=glibc 2.36", f"glibc=glibc 2.{'9' * 5000}")))  # a number that is none


def test_the_newest_python_that_works_counts() -> None:
    board = facts(
        ("ensurepip\n", "ensurepip\npython=python3.13 3.13.1 venv\npython=python3.14 x\n")
    )
    assert board.python is not None
    assert board.python.version == (3, 13, 1)
    assert "the bundle brings pip" in found(board)["python"].what


@pytest.mark.parametrize(
    "text",
    [
        "", "Welcome!\n" + PI, PI.replace("end=1\n", ""), PI + "end=1\n", PI + "uid=0\n",
        PI.replace("uid=1000", "uid=root"), PI.replace("memory=3882404", "memory=many"),
        PI.replace("zgedge=1", "zgedge=2"), PI + "shell=evil\n", PI.replace("machine=aarch64", ""),
        PI.replace("clock=1800000001", "clock=-5"), PI.replace("uid=1000\n", ""),
    ],
)  # fmt: skip
def test_an_answer_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="."):
        check.parse(text, NOW)


@pytest.mark.parametrize(
    "line",
    ["temperature=hot", "throttled=many", "disk=?", "disk=", "cgroup=", "service=", "python=",
     "features=" + "a " * 300],
)  # fmt: skip
def test_values_that_make_no_sense_are_passed_over(line: str) -> None:
    key = line.split("=")[0]
    kept = "".join(x + "\n" for x in PI.splitlines() if not x.startswith(f"{key}="))
    board = check.parse(kept.replace("end=1", f"{line}\nend=1"), NOW)
    check.judge(board, profiles.load("rpi4"))


def test_a_32_bit_system_on_a_64_bit_kernel_has_what_an_armv7_has() -> None:
    board = facts(("elf=183", "elf=40"), ("model=Raspberry Pi 4 Model B Rev 1.4\n", ""))
    told = found(board, "armv7")
    assert told["machine"].level == OK
    assert told["processor"].level == OK
    assert told["runtime"].what == "native"


# ---- on boards ----


@pytest.mark.parametrize("kind", ["emulated", "emulated-armv7"])
def test_emulated_boards_are_what_their_profiles_say(
    kind: str, request: pytest.FixtureRequest
) -> None:
    board: Emulated = request.getfixturevalue("a_board" if kind == "emulated" else "an_old_board")
    profile = profiles.load(kind)
    with Remote(board.host, config=board.ssh_config) as remote:
        facts = check.look(remote, profile)
    told = {f.name: f for f in check.judge(facts, profile)}
    assert {f.name for f in told.values() if f.level != OK} == (
        set() if kind == "emulated" else {"signatures"}
    )
    assert told["runtime"].what == profile.runtime
    if kind == "emulated":
        # Its processor is a Pi 4's, not a Pi 5's.
        facts = replace(facts, model=None)
        names = {f.name: f.level for f in check.judge(facts, profiles.load("rpi5"))}
        assert names["processor"] == FAULT
        assert {f.level for f in check.judge(facts, profiles.load("rpi4"))} == {OK}


def test_a_board_in_trouble(board: Emulated) -> None:
    board.start(
        clock="1970-01-01 00:01:00", disks={"/opt/zgedge": 8},
        files={
            "/proc/meminfo": "MemTotal:      460000 kB\n",
            "/sys/class/thermal/thermal_zone0/temp": "84500\n",
            "/usr/local/bin/vcgencmd": "#!/bin/sh\necho throttled=0x50005\n",
        },
    )  # fmt: skip
    profile = profiles.load("rpi4")
    with Remote(board.host, config=board.ssh_config) as remote:
        told = {f.name: f.level for f in check.judge(check.look(remote, profile), profile)}
    assert {name for name, level in told.items() if level == FAULT} == {"disk"}
    assert {name for name, level in told.items() if level == WARNING} == {
        "model", "memory", "clock", "temperature", "throttling",
    }  # fmt: skip
    with Remote(f"guest@{board.host}", config=board.ssh_config) as remote:
        told = {f.name: f.level for f in check.judge(check.look(remote, profile), profile)}
    # Of somebody without root rights all goes home, where there is room.
    assert (told["disk"], told["rights"]) == (OK, WARNING)


# ---- the commands ----


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This machine as a board, by a program `ssh` that runs commands here."""
    place = fake_ssh(tmp_path)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    monkeypatch.setenv("ZGEDGE_CONFIG", str(tmp_path / "settings"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return place


def test_a_login_that_talks_is_refused(here: Path) -> None:
    tool(here, "uname", "echo Welcome; echo to the machine")
    with Remote("board") as remote, pytest.raises(RemoteError, match="makes sense") as caught:
        check.look(remote, profiles.load("rpi4"))
    assert "must print nothing" in (caught.value.hint or "")


def test_check_ends_with_1_where_something_will_not_work(here: Path) -> None:
    machine = os.uname().machine
    mine = {"x86_64": "x86-64", "aarch64": "aarch64"}.get(machine, "x86-64")
    other = "rpi4" if machine == "x86_64" else "x86-64"
    told = run_json("device", "check", "board", "--device", mine)
    assert told["ok"]
    assert told["device"] == mine
    text = run("device", "check", "board", "--device", mine).stdout
    assert "compared with" in text
    told = run_json("device", "check", "board", "--device", other, code=1)
    assert not told["ok"]
    assert told["findings"][0]["level"] == FAULT
    assert (
        "it will not run there" in run("device", "check", "board", "--device", other, code=1).stdout
    )


def test_check_knows_boards_by_name_and_the_last_one(here: Path) -> None:
    assert "You added no board" in refused("device", "check", code=2)
    run("device", "add", "pi@board.local", "--device", "x86-64", "--port", "2222")
    run("device", "add", "pi@other", "--device", "rpi4", "--name", "hall")
    told = run_json("device", "check", "board")
    assert (told["host"], told["device"]) == ("pi@board.local", "x86-64")
    assert "-p 2222" in (here / "calls").read_text()
    assert run_json("device", "check")["host"] == "pi@board.local"
    assert run_json("device", "list")["boards"][0]["name"] == "board"
    assert "no device 'pi'" in refused("device", "check", "board", "--device", "pi", code=2)


def test_a_board_that_cannot_be_reached_ends_with_7(here: Path) -> None:
    (here / "refuse").write_text("ssh: connect to host b port 22: Connection refused")
    assert "SSH server" in refused("device", "check", "pi@b", "--device", "rpi4", code=7)
    assert "SSH server" in refused("device", "add", "pi@b", code=7)
    assert run_json("device", "list")["boards"] == []


def test_add_asks_a_board_what_it_is(here: Path) -> None:
    made = run_json("device", "add", "pi@board", "--name", "hall")["board"]
    assert made["device"] in ("x86-64", "aarch64")
    assert made["last_used"] == 1
    assert "Added hall" in run("device", "add", "pi@board", "--name", "hall").stdout


def test_add_refuses_what_is_wrong(here: Path, tmp_path: Path) -> None:
    assert "Give the board" in refused("device", "add", code=2)
    assert "no device" in refused("device", "add", "b", "--device", "vax", code=2)
    assert "no name" in refused("device", "add", "b", "--device", "rpi4", "--name", "a b", code=2)
    (tmp_path / "kiosk.toml").write_text("machine = 4\n")
    assert "title is missing" in refused(
        "device", "add", "--profile", tmp_path / "kiosk.toml", code=2
    )


def test_add_a_kind_and_a_board_of_it_and_forget_it(here: Path, tmp_path: Path) -> None:
    text = (profiles.BUILT_IN / "rpi4.toml").read_text()
    (tmp_path / "kiosk.toml").write_text(
        text.replace('title = "Raspberry Pi 4"', 'title = "A kiosk"')
    )
    assert "A kiosk" in run("device", "add", "--profile", tmp_path / "kiosk.toml").stdout
    told = run_json("device", "add", "pi@b", "--profile", tmp_path / "kiosk.toml")
    assert (told["profile"], told["board"]["device"]) == ("kiosk", "kiosk")
    assert "A kiosk" in run("device", "list").stdout
    assert "kiosk: A kiosk" in run("device", "show", "kiosk").stdout
    run("device", "add", "b", "--forget")
    assert "no board 'b'" in refused("device", "add", "b", "--forget", code=2)


def test_emulate_starts_a_board_that_is_one_of_yours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.devices.conftest import CACHE, prepared

    prepared("emulated-armv7")
    monkeypatch.setenv("ZGEDGE_CONFIG", str(tmp_path / "settings"))
    monkeypatch.setattr("zgedge.devices.emulated.default_cache", lambda: CACHE)
    kind = ("device", "emulate", "emulated-armv7", "--name", f"of-{os.getpid()}")
    made = run_json(*kind, "--new")
    try:
        assert "runs already" in run(*kind).stdout
        assert "of kind emulated-armv7" in refused("device", "emulate", *kind[3:], code=2)
        assert run_json("device", "check", made["name"])["ok"]
    finally:
        assert run_json(*kind, "--stop")["running"] is False
    assert run_json("device", "list")["boards"] == []
    assert "No emulated board" in refused(*kind, "--stop", code=2)
    assert "No board of kind" in refused("device", "emulate", "vax", code=2)
