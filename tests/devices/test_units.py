"""What starts a service on a board: the unit has the least rights, the init script keeps it up."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.waiting import until
from zgedge.devices import emulated, units
from zgedge.devices.emulated import Emulated
from zgedge.devices.ssh import Remote
from zgedge.errors import UsageError

# Stands in for the service: `mode` in its folder says what it does.
STUB = """#!/bin/sh
S=${0%/current/*}
mode() { cat "$S/mode" 2>/dev/null; }
case $1 in
    ask)
        [ "$(mode)" = mute ] && exit 1
        echo '{"ok": true}'
        ;;
    run)
        echo "started $*" >>"$S/events"
        id -u >>"$S/users"
        [ "$(mode)" = crash ] && exit 3
        [ "$(mode)" = done ] && exit 0
        trap 'echo stopped >>"$S/events"; exit 0' TERM
        while :; do
            [ "$(mode)" = noisy ] && head -c 100000 /dev/zero | tr '\\\\0' x
            sleep 0.2 &
            wait $!
        done
        ;;
esac
"""


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


# ---- the unit ----


def unit(runtime: str = "native", **more: object) -> str:
    return units.systemd_unit(
        "digits", root="/opt/zgedge", runtime=runtime, arena_bytes=262144, **more,  # type: ignore[arg-type]
    )  # fmt: skip


def analyze(tmp_path: Path, text: str, *words: str) -> str:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze on this machine")
    path = tmp_path / "zgedge-digits.service"
    path.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "--no-pager", *words, str(path)], capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.parametrize("runtime", ["native", "python"])
@pytest.mark.parametrize("network", [False, True])
def test_exposure_is_that_of_least_rights(tmp_path: Path, runtime: str, network: bool) -> None:
    told = analyze(tmp_path, unit(runtime, network=network), "security", "--offline=true")
    found = re.search(r"Overall exposure level for zgedge-digits.service: ([\d.]+)", told)
    assert found is not None, told
    assert float(found[1]) <= (1.5 if network else 1.0)


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    (tmp_path / "digits/current/bin").mkdir(parents=True)
    program = tmp_path / "digits/current/bin/zgedge-native"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    root = str(tmp_path) if units.ROOT.fullmatch(str(tmp_path)) else "/opt/zgedge"
    text = units.systemd_unit("digits", root=root, runtime="native", arena_bytes=4096, user="root")
    told = analyze(tmp_path, text, "verify")
    left = [line for line in told.splitlines() if "RestartSteps" not in line]
    assert [line for line in left if "RestartMaxDelaySec" not in line] == []


def test_unit_may_write_two_folders_and_reach_nothing() -> None:
    text = unit()
    assert "ReadWritePaths=/opt/zgedge/digits/state /opt/zgedge/digits/run\n" in text
    for line in (
        "ProtectSystem=strict", "PrivateNetwork=yes", "RestrictAddressFamilies=AF_UNIX",
        "NoNewPrivileges=yes", "CapabilityBoundingSet=", "User=zgedge", "UMask=0007",
        "WatchdogSec=30", "Restart=on-failure", "Type=notify", "NotifyAccess=main",
    ):  # fmt: skip
        assert f"\n{line}\n" in text
    assert "\nPrivateNetwork" not in unit(network=True)


def test_limits_follow_the_arena() -> None:
    small, large = units.limit_data("native", 4096), units.limit_data("native", 1 << 20)
    assert large - small == 3 * ((1 << 20) - 4096)
    assert small % 1024 == 0
    assert f"\nLimitDATA={units.limit_data('python', 262144)}\n" in unit("python")
    assert units.memory_max("python", 4096) > units.limit_data("python", 4096)


@pytest.mark.parametrize(
    ("word", "quoted"),
    [("inbox", "inbox"), ("a b", '"a b"'), ("100%", "100%%"), ("$HOME", "$$HOME"),
     ('say "x"', '"say \\"x\\""')],
)  # fmt: skip
def test_words_of_a_unit_are_quoted(word: str, quoted: str) -> None:
    assert f" --source {quoted} " in unit(sources=(word,))


@pytest.mark.parametrize(
    "wrong",
    [{"name": "Up"}, {"name": "a/b"}, {"name": ""}, {"root": "opt"}, {"root": "/opt/../etc"},
     {"root": "/opt/a b"}, {"runtime": "perl"}, {"user": "Root User"}, {"commit_every": 0},
     {"erase_block": 5000}, {"sources": ("a\nExecStart=evil",)}],
    ids=str,
)  # fmt: skip
def test_what_cannot_stand_in_a_unit_is_refused(wrong: dict[str, object]) -> None:
    given: dict[str, object] = {
        "name": "digits", "root": "/opt/zgedge", "runtime": "native", "arena_bytes": 4096, **wrong,
    }  # fmt: skip
    with pytest.raises(UsageError):
        units.systemd_unit(str(given.pop("name")), **given)  # type: ignore[arg-type]


def test_unit_needs_an_absolute_folder() -> None:
    with pytest.raises(UsageError, match="absolute"):
        units.systemd_unit("digits", root="~/.zgedge", runtime="native", arena_bytes=4096)


def test_init_script_takes_no_quotes() -> None:
    with pytest.raises(UsageError, match="quotes"):
        script("/opt/zgedge", sources=("it's",))


# ---- the init script ----


def script(root: str, **more: object) -> str:
    return units.init_script(
        "digits", root=root, runtime="native", arena_bytes=4096, heartbeat=1, **more,  # type: ignore[arg-type]
    )  # fmt: skip


class Service:
    """An installed service whose program is the stub, under the shell of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "digits"
        version = self.folder / "versions/1-00000000"
        (version / "bin").mkdir(parents=True)
        (self.folder / "run").mkdir()
        (version / "model.zge").touch()
        (version / "bin/zgedge-native").write_text(STUB)
        (version / "bin/zgedge-native").chmod(0o755)
        (self.folder / "current").symlink_to("versions/1-00000000")
        (self.folder / "init").write_text(script(str(folder)))

    def __call__(self, action: str, code: int = 0) -> str:
        done = subprocess.run(
            ["/bin/sh", str(self.folder / "init"), action], capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def mode(self, text: str) -> None:
        (self.folder / "mode").write_text(text)

    def lines(self, name: str) -> list[str]:
        try:
            return (self.folder / name).read_text().splitlines()
        except FileNotFoundError:
            return []

    def pid(self, name: str) -> int:
        return int(self.lines(name)[0].split()[0])


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path)
    yield made
    made.mode("")
    made("stop")


def test_start_status_stop(service: Service) -> None:
    assert "stopped" in service("status", code=3)
    service("start")
    until(lambda: service.lines("events"))
    assert service.lines("events") == [
        f"started run {service.folder}/current/model.zge --state {service.folder}/current/state "
        f"--socket {service.folder}/run/socket --commit-every 60 --erase-block 131072"
    ]
    assert f"process {service.pid('init.child')}" in service("status")
    service("start")  # which is there already
    assert len(service.lines("events")) == 1
    service("stop")
    assert service.lines("events")[-1] == "stopped"
    assert "stopped" in service("status", code=3)
    service("stop")


def test_restart_is_a_stop_in_order_and_a_start(service: Service) -> None:
    service("start")
    until(lambda: service.lines("events"))
    service("restart")
    until(lambda: len(service.lines("events")) == 3)
    assert [line.split()[0] for line in service.lines("events")] == [
        "started",
        "stopped",
        "started",
    ]


def test_a_crash_is_followed_by_later_and_later_starts(service: Service) -> None:
    service.mode("crash")
    service("start")
    until(lambda: len(service.lines("events")) == 3)
    told = [line for line in service.lines("log") if "ended with code 3" in line]
    assert [line.rpartition("again in ")[2] for line in told[:2]] == ["1 s", "2 s"]
    assert "waits until it is started again" in service("status")
    service("stop")  # between two starts


def test_a_killed_service_is_started_again(service: Service) -> None:
    service("start")
    until(lambda: service.lines("events"))
    os.kill(service.pid("init.child"), signal.SIGKILL)
    until(lambda: len(service.lines("events")) == 2)


def test_a_service_that_ends_in_order_is_let_go(service: Service) -> None:
    service.mode("done")
    service("start")
    until(lambda: any("in order" in line for line in service.lines("log")))
    until(lambda: not (service.folder / "init.pid").exists())
    service("status", code=3)


def test_a_service_without_a_sign_of_life_is_ended_and_started_again(service: Service) -> None:
    service("start")
    until(lambda: service.lines("events"))
    first = service.pid("init.child")
    time.sleep(2.5)  # a sign of life is seen
    service.mode("mute")
    until(lambda: any("no sign of life" in line for line in service.lines("log")))
    service.mode("")
    until(lambda: len(service.lines("events")) == 2)
    until(lambda: service.pid("init.child") != first)
    assert not lives(first)


def test_a_service_is_stopped_whose_supervisor_was_killed(service: Service) -> None:
    service("start")
    until(lambda: service.lines("events"))
    child = service.pid("init.child")
    boss = service.pid("init.pid")
    os.kill(boss, signal.SIGKILL)
    until(lambda: not lives(boss))
    assert "is stopped" in service("status", code=3)
    service("start")
    assert not lives(child)
    until(lambda: [x.split()[0] for x in service.lines("events")][-2:] == ["stopped", "started"])


def test_the_log_is_kept_short(service: Service) -> None:
    service.mode("noisy")
    service("start")
    until(lambda: (service.folder / "log.1").exists())
    time.sleep(2)
    sizes = [(service.folder / name).stat().st_size for name in ("log", "log.1")]
    # What comes between two looks at it may be over.
    assert sizes[1] == 131072
    assert sizes[0] < 131072 + 20 * 100_000


def test_the_number_of_an_ended_process_is_nobodys(service: Service) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    other = subprocess.Popen(["sleep", "60"])
    try:
        for text in (f"{other.pid} 1 {boot}\n", f"{other.pid} x other-boot\n", "", "x\n"):
            (service.folder / "init.pid").write_text(text)
            (service.folder / "init.child").write_text(text)
            assert "stopped" in service("status", code=3)
            service("stop")
            assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_nothing_installed_is_said(service: Service) -> None:
    (service.folder / "current").unlink()
    assert "nothing is installed" in service("start", code=5)


def test_a_supervisor_that_is_slow_keeps_no_switch_from_being_judged(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, script in (("setsid", "exec /bin/sleep 10"), ("sleep", "exec /bin/sleep 0.01")):
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    (service.folder / "pending").touch()
    (service.folder / "agent.sh").write_text(f'echo "$2 $3" >{service.folder}/judged\n')
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
        assert "supervisor does not start" in service("start", code=1)
    until(lambda: service.lines("judged") == ["digits boot"])


def test_wrong_action_is_said(service: Service) -> None:
    assert "start|stop|restart|status" in service("explode", code=2)


@pytest.mark.parametrize(
    "kind", [pytest.param("emulated", marks=pytest.mark.slow), "emulated-armv7"]
)
def test_init_script_on_a_board(kind: str, request: pytest.FixtureRequest) -> None:
    """Under the shells and tools of the boards: dash with coreutils, and busybox alone."""
    name = "board" if kind == "emulated" else "old_board"
    made: Emulated = request.getfixturevalue(name)
    made.start()
    text = script("/opt/zgedge", user="guest")
    with Remote(made.host, config=made.ssh_config) as remote:
        remote.check(
            "mkdir -p /opt/zgedge/digits/run; cd /opt/zgedge/digits; "
            "mkdir -p versions/1-0/bin; ln -s versions/1-0 current; : >current/model.zge; "
            "chmod 777 .; cat >init; chmod 755 init; ln -s $PWD/init /etc/init.d/zgedge-digits",
            input=text.encode(),
        )
        remote.check(
            "cat >/opt/zgedge/digits/current/bin/zgedge-native; "
            "chmod 755 /opt/zgedge/digits/current/bin/zgedge-native", input=STUB.encode(),
        )  # fmt: skip
        remote.check("/etc/init.d/zgedge-digits start")
        users = made.root / "opt/zgedge/digits/users"
        until(lambda: users.exists() and users.read_text() == "1001\n")
        made.reboot()
        until(lambda: (made.root / "opt/zgedge/digits/users").read_text() == "1001\n" * 2)
        assert "runs" in remote.check("/etc/init.d/zgedge-digits status")
        remote.check("/etc/init.d/zgedge-digits stop")
        events = made.root / "opt/zgedge/digits/events"
        assert [line.split()[0] for line in events.read_text().splitlines()] == [
            "started", "started", "stopped",
        ]  # fmt: skip
        assert remote.run("/etc/init.d/zgedge-digits status").code == 3


@pytest.mark.slow
def test_under_real_systemd(tmp_path: Path) -> None:
    """The whole of docs/results/systemd.md, with one power cut."""
    if why := emulated.unavailable():
        pytest.skip(why)
    tool = ROOT / "tools" / "systemd_machine.py"
    done = subprocess.run(
        [sys.executable, str(tool), "--cuts", "1", "--out", str(tmp_path / "page.md")],
        capture_output=True, text=True, timeout=3600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "ended by its watchdog" in (tmp_path / "page.md").read_text()
