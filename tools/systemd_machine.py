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
from collections.abc import Callable, Iterator
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
PACKAGES = """systemd systemd-sysv udev kmod dropbear-bin busybox-static openssh-client passwd coreutils
dash procps linux-image-cloud-amd64 python3-minimal libpython3.11-stdlib grep sed tar gzip findutils
mawk""".split()
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

    def __init__(self, folder: Path) -> None:
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
        self.accelerator = "KVM" if os.access("/dev/kvm", os.R_OK | os.W_OK) else "TCG"
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


if __name__ == "__main__":
    m = Machine(Path("/tmp/zgx/machine"))
    try:
        m.accelerator = "TCG"
        print(m.start())
        print(m.folder)
        time.sleep(float(sys.argv[1]))
        with m.remote() as r:
            print(r.run("systemctl --version | head -1; systemctl is-system-running; systemctl --failed; df -h /; free; systemd-analyze; systemd-analyze blame | head; cat /sys/fs/cgroup/cgroup.controllers; journalctl -b -p warning --no-pager | tail -20"))
    finally:
        m.power_off()
