"""A whole virtual machine with real systemd, and what the unit does in it.

    python tools/systemd_machine.py --out docs/results/systemd.md

Debian's packages (systemd, its kernel, a small SSH server) are unpacked into a disk image, and qemu
from Debian's package too; nothing is installed, and no root rights are needed. KVM makes it quick
where there is one. A small model is then deployed to it as to any board, the service is hung,
killed and starved, and the power goes in the middle of switches.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from zgedge.devices import units  # noqa: E402
from zgedge.devices.debian import Apt, unpack  # noqa: E402
from zgedge.devices.ssh import Remote  # noqa: E402
from zgedge.errors import RemoteError  # noqa: E402

CACHE = ROOT / ".cache" / "systemd"
RECIPE = "1"
PACKAGES = [
    "systemd", "systemd-sysv", "udev", "kmod", "dropbear-bin", "busybox-static", "openssh-client",
    "passwd", "coreutils", "dash", "procps", "linux-image-cloud-amd64", "python3-minimal",
    "libpython3.11-stdlib", "grep", "sed", "tar", "gzip", "findutils", "mawk",
]  # fmt: skip
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "ext4")
UNITS = {
    "network.service": """[Unit]
Description=Network
DefaultDependencies=no
Before=network.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/busybox sh -c 'busybox ip link set lo up; for i in /sys/class/net/e*; do \
d=$(basename $i); busybox ip link set $d up; busybox ip addr add 10.0.2.15/24 dev $d; done'
""",
    "ssh.service": """[Unit]
Description=SSH server
After=network.service
Requires=network.service
[Service]
ExecStart=/usr/sbin/dropbear -F -E -s -m -p 22 -r /etc/dropbear/host_key
Restart=always
""",
}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---- building ----


def build() -> Path:
    """The folder with qemu, kernel, first file system and disk image."""
    if (CACHE / "recipe").exists() and (CACHE / "recipe").read_text() == RECIPE:
        return CACHE
    shutil.rmtree(CACHE, ignore_errors=True)
    CACHE.mkdir(parents=True)
    say("downloading Debian's packages for the machine and for qemu ...")
    apt = Apt(CACHE / "apt", "amd64")
    root = CACHE / "root"
    for folder in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / folder).mkdir(parents=True)
        (root / folder).symlink_to(f"usr/{folder}")
    for deb in apt.download(apt.needed(PACKAGES)):
        unpack(deb, root)
    here = Apt(CACHE / "apt-here", "amd64", here=True)
    (CACHE / "qemu/usr/lib").mkdir(parents=True)
    (CACHE / "qemu/lib").symlink_to("usr/lib")
    for deb in here.download(here.needed(["qemu-system-x86"])):
        unpack(deb, CACHE / "qemu")
    shutil.rmtree(CACHE / "apt")
    shutil.rmtree(CACHE / "apt-here")
    say("putting the machine together ...")
    version = next((root / "lib/modules").iterdir()).name
    shutil.copy(root / f"boot/vmlinuz-{version}", CACHE / "kernel")
    (CACHE / "initrd").write_bytes(first_files(root, version))
    shutil.rmtree(root / "boot")
    set_up(root)
    with (CACHE / "disk").open("wb") as f:
        f.truncate(1 << 30)
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-E", "root_owner=0:0", "-d", root, CACHE / "disk"],
        check=True,
    )  # fmt: skip
    shutil.rmtree(root)
    (CACHE / "recipe").write_text(RECIPE)
    return CACHE


def first_files(root: Path, version: str) -> bytes:
    """An archive (cpio) with busybox and the modules that the disk needs."""
    folder = root / "lib/modules" / version
    subprocess.run(
        [root / "bin/kmod", "static-nodes"], capture_output=True, check=False
    )  # says early where it cannot run here
    depmod = CACHE / "depmod"
    depmod.symlink_to(root / "bin/kmod")
    libraries = f"{root}/usr/lib/x86_64-linux-gnu"
    subprocess.run(
        [depmod, "-b", root, version], check=True, env={"LD_LIBRARY_PATH": libraries}
    )  # fmt: skip
    depmod.unlink()
    needs = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        name, _, rest = line.partition(":")
        needs[Path(name).name.split(".")[0].replace("-", "_")] = [name, *rest.split()]
    order: list[str] = []
    for module in MODULES:
        # One that is built in has no file.
        order += [path for path in reversed(needs.get(module, [])) if path not in order]
    load = "".join(f"busybox insmod /modules/{Path(path).name}\n" for path in order)
    init = f"""#!/bin/busybox sh
export PATH=/bin
busybox mkdir -p /proc /sys /dev /root
busybox mount -t devtmpfs devtmpfs /dev
busybox mount -t proc proc /proc
{load}while [ ! -b /dev/vda ]; do busybox sleep 0.05; done
busybox mount -t ext4 -o rw /dev/vda /root
busybox umount /proc
busybox mount --move /dev /root/dev
exec busybox switch_root /root /lib/systemd/systemd
"""
    files = {
        "init": (0o100755, init.encode()),
        "bin/busybox": (0o100755, (root / "bin/busybox").read_bytes()),
        **{f"modules/{Path(p).name}": (0o100644, (folder / p).read_bytes()) for p in order},
    }
    archive = b"".join(
        [cpio(name, 0o040755, b"") for name in ("bin", "modules", "dev", "proc", "root", "sys")]
        + [cpio(name, mode, data) for name, (mode, data) in files.items()]
    )
    return archive + cpio("TRAILER!!!", 0, b"")


def cpio(name: str, mode: int, data: bytes) -> bytes:
    fields = [1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def set_up(root: Path) -> None:
    """What an installer would have done."""
    for folder in ("etc/systemd/system/multi-user.target.wants", "etc/dropbear", "root/.ssh",
                   "var/log/journal", "proc", "sys", "dev", "run", "tmp", "opt"):  # fmt: skip
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "root/.ssh").chmod(0o700)
    (root / "root").chmod(0o700)
    (root / "tmp").chmod(0o1777)
    for name, text in UNITS.items():
        (root / "etc/systemd/system" / name).write_text(text)
        wants = root / "etc/systemd/system/multi-user.target.wants" / name
        wants.symlink_to(f"/etc/systemd/system/{name}")
    (root / "etc/systemd/system/default.target").symlink_to("/lib/systemd/system/multi-user.target")
    for name in (
        "getty.target", "systemd-pcrphase.service", "systemd-pcrphase-sysinit.service",
        # No device comes or goes, and without KVM to ask for all of them takes half a minute.
        "systemd-udevd.service", "systemd-udev-trigger.service", "systemd-udevd-kernel.socket",
        "systemd-udevd-control.socket", "systemd-update-utmp.service",
        "systemd-update-utmp-runlevel.service", "systemd-user-sessions.service",
    ):  # fmt: skip
        (root / "etc/systemd/system" / name).symlink_to("/dev/null")
    etc = {
        "passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/usr/sbin/nologin\n",
        "group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\nsystemd-journal:x:101:\n",
        "shadow": "root:*:19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\n",
        "gshadow": "root:*::\n", "shells": "/bin/sh\n", "hostname": "machine\n", "machine-id": "",
        "hosts": "127.0.0.1 localhost machine\n", "fstab": "", "login.defs": "SYS_UID_MAX 999\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\n",
    }  # fmt: skip
    for name, text in etc.items():
        (root / "etc" / name).write_text(text)
    (root / "etc/shadow").chmod(0o600)
    awk = root / "usr/bin/awk"
    if not awk.exists() and not awk.is_symlink():
        awk.symlink_to("mawk")
    key = CACHE / "id_ed25519"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "machine", "-f", key], check=True
    )
    shutil.copy(f"{key}.pub", root / "root/.ssh/authorized_keys")
    (root / "root/.ssh/authorized_keys").chmod(0o600)
    libraries = f"{root}/usr/lib/x86_64-linux-gnu"
    made = subprocess.run(
        [root / "usr/bin/dropbearkey", "-t", "ed25519", "-f", root / "etc/dropbear/host_key"],
        capture_output=True, text=True, check=True, env={"LD_LIBRARY_PATH": libraries},
    )  # fmt: skip
    found = re.search(r"^ssh-ed25519 \S+", made.stdout, re.MULTILINE)
    assert found is not None
    (CACHE / "known_hosts").write_text(f"machine {found[0]}\n")


# ---- the machine ----


class Machine:
    """One virtual machine on a disk of its own."""

    def __init__(self, folder: Path, accelerator: str | None) -> None:
        self.folder = folder
        self.cache = build()
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "--sparse=always", self.cache / "disk", folder / "disk"], check=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.config = folder / "ssh_config"
        self.config.write_text(
            f"Host machine\n  HostName 127.0.0.1\n  Port {self.port}\n  User root\n"
            f"  HostKeyAlias machine\n  IdentityFile {self.cache}/id_ed25519\n"
            f"  IdentitiesOnly yes\n  IdentityAgent none\n  CheckHostIP no\n"
            f"  UserKnownHostsFile {self.cache}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
            "  StrictHostKeyChecking yes\n"
        )
        there = "KVM" if os.access("/dev/kvm", os.R_OK | os.W_OK) else "TCG"
        self.accelerator = accelerator or there
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Turn it on; seconds until its SSH server lets one in."""
        if self.accelerator == "KVM":
            try:
                return self._start(40)
            except TimeoutError:
                say("KVM does not run a kernel here: the machine is emulated whole (TCG)")
                self.power_off()
                self.accelerator = "TCG"
        return self._start(300)

    def _start(self, most: float) -> float:
        began = time.monotonic()
        qemu = self.cache / "qemu"
        self._log = (self.folder / "console").open("ab")
        self._process = subprocess.Popen(
            [
                qemu / "usr/bin/qemu-system-x86_64", "-L", qemu / "usr/share/qemu", "-L",
                qemu / "usr/share/seabios", "-machine", "pc", "-accel", self.accelerator.lower(),
                "-m", "512", "-smp", "1", "-nodefaults", "-display", "none", "-no-reboot",
                "-serial", "stdio", "-kernel", self.cache / "kernel", "-initrd",
                self.cache / "initrd", "-append", "console=ttyS0 panic=1 mitigations=off",
                "-drive", f"file={self.folder}/disk,if=virtio,format=raw,cache=writeback",
                "-netdev", f"user,id=n,hostfwd=tcp:127.0.0.1:{self.port}-:22",
                "-device", "virtio-net-pci,netdev=n,romfile=",
            ],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
            env={**os.environ, "LD_LIBRARY_PATH": f"{qemu}/usr/lib/x86_64-linux-gnu"},
        )  # fmt: skip
        while True:
            if self._process.poll() is not None:
                raise SystemExit(f"The machine does not start: see {self.folder}/console")
            if time.monotonic() - began > most:
                raise TimeoutError(f"The machine does not answer: see {self.folder}/console")
            try:
                with self.remote() as remote:
                    remote.run("true", timeout=30)
                return time.monotonic() - began
            except RemoteError:
                time.sleep(0.2)

    def power_off(self) -> None:
        """Pull the plug: what the machine's kernel had not written to the disk is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._log.close()
            self._process = None

    def remote(self) -> Remote:
        return Remote("machine", config=self.config)


# ---- what is tried ----


class Desk:
    """The command line of the desk, with settings of its own, and what it is told of the board."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.environment = {
            **os.environ, "ZGEDGE_CONFIG": str(machine.folder / "settings"), "OMP_NUM_THREADS": "1",
        }  # fmt: skip

    def start(self, *words: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "zgedge.cli", *map(str, words)], cwd=self.machine.folder,
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *words: object) -> dict[str, Any]:
        child = self.start(*words, "--json")
        out, err = child.communicate(timeout=900)
        if child.returncode:
            raise SystemExit(f"zgedge {' '.join(map(str, words))}: {out}{err}")
        found = json.loads(out)
        assert isinstance(found, dict)
        return found

    def board(self, script: str, data: bytes = b"") -> str:
        with self.machine.remote() as remote:
            return remote.check(f"cd /opt/zgedge/digits; {script}", input=data, timeout=120)

    def ask(self, *requests: dict[str, Any]) -> list[dict[str, Any]]:
        lines = "".join(json.dumps(request) + "\n" for request in requests)
        told = self.board("current/bin/zgedge-native ask run/socket --timeout 60", lines.encode())
        return [json.loads(line) for line in told.splitlines()]

    def pid(self) -> int:
        return int(self.board("systemctl show -p ExecMainPID --value zgedge-digits"))

    def wait(self, condition: Callable[[], bool], most: float, what: str) -> float:
        """Seconds until something is so."""
        began = time.monotonic()
        while True:
            with contextlib.suppress(RemoteError):
                if condition():
                    return time.monotonic() - began
            if time.monotonic() - began > most:
                raise SystemExit(f"{what} did not come in {most:.0f} s")
            time.sleep(0.5)

    def answers(self) -> bool:
        (told,) = self.ask({"op": "status"})
        return bool(told["ok"])


def record(
    folder: Path, cuts: int, seed: int, accelerator: str | None = None
) -> list[tuple[str, str]]:
    """Try everything; pairs (what, what came of it). Raises SystemExit where something is wrong."""
    from zgedge import data
    from zgedge.runtime import Model

    rows: list[tuple[str, str]] = []

    def note(what: str, told: str) -> None:
        say(f"{what}: {told}")
        rows.append((what, told))

    shutil.rmtree(folder, ignore_errors=True)
    machine = Machine(folder, accelerator)
    desk = Desk(machine)
    try:
        booted = machine.start()
        versions = desk.board("cd /; systemctl --version | head -n 1; uname -r").splitlines()
        note("the machine", f"{versions[0]}, Linux {versions[1]}, 512 MB; {machine.accelerator}, "
             f"{booted:.0f} s to boot")  # fmt: skip
        desk.run("train", "--budget", "16KB", "--epochs", 3, "--network", "s136:20/4 b4 r99",
                 "--out", "digits.zge")  # fmt: skip
        desk.run("key", "new")
        desk.run("device", "add", "machine", "--device", "x86-64", "--ssh-config", machine.config)
        began = time.monotonic()
        deploy = ("deploy", "digits.zge", "--host", "machine", "--runtime", "native", "--watch", 5)
        desk.run(*deploy, "--trust")
        note("`zgedge deploy`, native program", f"healthy after {time.monotonic() - began:.0f} s")
        show = desk.board(
            "systemctl show -p ActiveState,NRestarts,LimitDATA,MemoryMax,MemoryCurrent,User "
            "zgedge-digits; systemd-analyze security --no-pager zgedge-digits | tail -n 1"
        )
        facts = dict(line.split("=", 1) for line in show.splitlines() if "=" in line)
        (exposure,) = re.findall(r": ([\d.]+) ", show)
        assert facts["ActiveState"] == "active"
        assert float(exposure) <= 1.5
        note("`systemd-analyze security`, of the unit as it runs", f"{exposure}")
        process = desk.board("p=$(systemctl show -p ExecMainPID --value zgedge-digits); "
                             "cat /proc/$p/status /proc/$p/limits /proc/$p/net/dev")  # fmt: skip
        (rss,) = re.findall(r"VmRSS:\s+(\d+) kB", process)
        assert f"Max data size             {facts['LimitDATA']}" in process
        assert re.search(r"NoNewPrivs:\s+1", process)
        assert re.search(r"Seccomp:\s+2", process)
        assert re.search(r"Uid:\s+[1-9]", process)
        assert re.findall(r"^\s*(\w+):.*\d$", process.split("Inter-")[1], re.MULTILINE) == ["lo"]
        most, used, whole = (int(facts[key]) for key in ("LimitDATA", "MemoryCurrent", "MemoryMax"))
        note(
            "its process", f"resident {rss} KB, user `{facts['User']}`, no new privileges, system "
            f"calls filtered, no network but `lo`, data at most {most:,} bytes, {used:,} of "
            f"{whole:,} counted",
        )  # fmt: skip

        digits = data.load("digits")
        x = digits.x_test[:100]
        model = Model.open(folder / "digits.zge")
        expected = [model.predict_one(row) for row in x]
        asked = [{"op": "predict", "x": [float(v) for v in row]} for row in x]
        assert [told["label"] for told in desk.ask(*asked)] == expected
        note("100 rows predicted through the socket", "as on this machine, every one")

        def learn(first: int, count: int) -> None:
            desk.ask(*[
                {"op": "learn", "x": [float(v) for v in digits.x_train[i]],
                 "y": expected[0].__class__(digits.y_train[i])}
                for i in range(first, first + count)
            ])  # fmt: skip

        def status() -> dict[str, Any]:
            return desk.ask({"op": "status"})[0]

        learn(0, 200)
        desk.wait(lambda: status()["learner"]["samples"] >= 200, 60, "learning")
        desk.ask({"op": "control", "do": "commit"})
        desk.wait(lambda: status()["store"]["commits"] >= 1, 60, "a commit")
        learn(200, 50)  # these are lost with the process
        told = status()
        note("200 samples learned and committed", f"commit {told['store']['commits']}, "
             f"{told['learner']['rewired']:,} connections rewired")  # fmt: skip

        before = desk.pid()
        desk.board(f"kill -STOP {before}")
        hung = desk.wait(lambda: desk.pid() not in (0, before) and desk.answers(), 180, "a restart")
        journal = desk.board("journalctl -u zgedge-digits --no-pager -o cat")
        assert "Watchdog timeout" in journal, journal
        told = status()
        assert told["started_from"].startswith("commit "), told["started_from"]
        assert told["learner"]["samples"] == 200
        note("hung (SIGSTOP)", f"ended by its watchdog, and answers again after {hung:.0f} s, from "
             f"{told['started_from']}")  # fmt: skip

        before = desk.pid()
        desk.board(f"kill -KILL {before}")
        down = desk.wait(lambda: desk.pid() not in (0, before) and desk.answers(), 60, "a restart")
        note("killed (SIGKILL)", f"answers again after {down:.0f} s, from "
             f"{status()['started_from']}")  # fmt: skip

        machine.power_off()
        booted = machine.start()
        desk.wait(desk.answers, 120, "the service after a power cut")
        assert status()["learner"]["samples"] == 200
        note("power cut while it serves", f"up {booted:.0f} s after the power, from "
             f"{status()['started_from']}")  # fmt: skip

        began = time.monotonic()
        desk.run(*deploy, "--counter", 2)
        assert desk.board("readlink current").startswith("versions/2-")
        note("`zgedge deploy` again", f"a second version beside the first, healthy after "
             f"{time.monotonic() - began:.0f} s, learned state kept "
             f"({status()['learner']['samples']} samples)")  # fmt: skip
        assert status()["learner"]["samples"] >= 200
        began = time.monotonic()
        desk.run("rollback", "--host", "machine", "--watch", 2)
        switch = time.monotonic() - began
        note("`zgedge rollback`: a switch undisturbed", f"{switch:.0f} s")

        def link() -> str:
            found = desk.board("readlink current").strip()
            assert re.fullmatch(r"versions/[12]-[0-9a-f]{8}", found), found
            return found

        def moved(was: str) -> bool:
            return link() != was

        # By turns at any time until the link has moved, and while the board watches what is new.
        chance = random.Random(seed)
        outcomes: dict[str, int] = {}
        for cut in range(cuts):
            was = link()
            child = desk.start("rollback", "--host", "machine", "--watch", 30)
            if cut % 2:
                desk.wait(partial(moved, was), 300, "a switch")
            time.sleep(chance.random() * (10 if cut % 2 else switch))
            machine.power_off()
            child.kill()
            child.communicate()
            machine.start()
            desk.wait(desk.answers, 120, f"the service after power cut {cut}")
            assert status()["learner"]["samples"] >= 200
            desk.wait(lambda: "no" in desk.board("[ -e pending ] && echo yes || echo no"), 300,
                      f"the board's own judgement after power cut {cut}")  # fmt: skip
            verdict = desk.board("tail -n 1 history").strip().split(" ", 1)[1]
            kind = f"{'after the link had moved' if cut % 2 else 'at any time'}: {verdict}"
            outcomes[kind] = outcomes.get(kind, 0) + 1
            say(f"cut {cut + 1} of {cuts}: serves {link()}, {kind}")
        note(f"power cut in the middle of a switch, {cuts} times", "serves each time, with the "
             "learned state; the board itself ended the switch. The power went "
             + "; ".join(f"{kind} ({n})" for kind, n in sorted(outcomes.items())))  # fmt: skip
        desk.run(*deploy, "--counter", 3)
        assert desk.board("readlink current").startswith("versions/3-")
        assert status()["learner"]["samples"] >= 200
        note("`zgedge deploy` after all that", "version 3 serves, with the learned state")
        return rows
    finally:
        machine.power_off()


def page(rows: list[tuple[str, str]]) -> str:
    processor = platform.processor() or platform.machine()
    text = f"""# The unit under real systemd

`python tools/systemd_machine.py --out docs/results/systemd.md`; on {processor}. A virtual
machine is made from Debian's packages, and a small model of digits (16 KB) is deployed to it by
`zgedge deploy`, over SSH, as to any board. Its speed is not a board's. To cut the power, qemu is
killed: what the machine's kernel had not written is lost.

| what | what came of it |
| --- | --- |
"""
    text += "".join(f"| {what} | {told} |\n" for what, told in rows)
    text += f"""
The unit, as `zgedge.devices.units` writes it:

```ini
{units.systemd_unit("digits", root="/opt/zgedge", runtime="native", arena_bytes=16384).strip()}
```
"""
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="page to write")
    parser.add_argument("--cuts", type=int, default=8, help="power cuts in the middle of a switch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--accelerator", choices=("KVM", "TCG"), help="what runs the machine")
    options = parser.parse_args()
    text = page(record(CACHE / "run", options.cuts, options.seed, options.accelerator))
    if options.out is None:
        print(text)
    else:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
