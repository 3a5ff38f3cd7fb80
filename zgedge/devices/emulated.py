"""An emulated board: Debian's packages for another processor, run by qemu behind a real SSH server.

    board = Emulated("emulated")
    board.start()
    ...                            # ssh -F board.ssh_config board.host
    board.stop()

Nothing is installed on this machine and none of its settings change: packages are unpacked into a
folder, by an apt with a configuration of its own, and the board lives in namespaces of its own.
Each board has a writable copy of the root file system, so boards do not see each other. It shares
the network of this machine, and its SSH server is on 127.0.0.1. It is no boundary of security.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from zgedge.devices import boards
from zgedge.devices.debian import KEYRING, Apt, unpack
from zgedge.devices.places import cache_folder, make_folder
from zgedge.errors import UsageError, ZgedgeError

SSH_CONFIG = "ssh_config"  # of a board's folder
RECIPE = 2  # counted up where roots that were built earlier are not good any more
Progress = Callable[[int, int, str], None]

_SERVER = "dropbear-bin libc6 libcrypt1 libgcc-s1 libgmp10 libtomcrypt1 libtommath1 zlib1g"
_PYTHON = (
    "libpython3.11-minimal libpython3.11-stdlib python3.11-minimal python3-minimal libbz2-1.0 \
libexpat1 libffi8 liblzma5 libssl3 libstdc++6 libuuid1"
)
_SIGNATURES = (
    "openssh-client openssh-sftp-server libbsd0 libcbor0.8 libcom-err2 libedit2 libfido2-1 \
libgssapi-krb5-2 libk5crypto3 libkeyutils1 libkrb5-3 libkrb5support0 libmd0 libncursesw6 libtinfo6 \
libudev1"
)
_SUDO = "sudo libaudit1 libcap-ng0 libpam-modules libpam0g"
_TOOLS = "busybox-static coreutils dash findutils grep gzip libacl1 libattr1 libcap2 libfaketime \
libgcrypt20 libgpg-error0 liblz4-1 libpcre2-8-0 libproc2-0 libselinux1 libsystemd0 libzstd1 mawk \
procps sed tar"


@dataclass(frozen=True)
class Kind:
    """What a kind of emulated board is made of."""

    name: str
    title: str
    debian: str  # Debian's word for the processor
    emulator: str
    cpu: str  # the emulator's word for it
    magic: str  # the first bytes of its programs, and which of them count
    packages: str
    model: str
    cpuinfo: str


_MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
_CORE = """processor\t: {n}
BogoMIPS\t: 108.00
Features\t: {features}
CPU implementer\t: 0x41
CPU architecture: {architecture}
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 3

"""


def _cpuinfo(architecture: int, part: str, features: str) -> str:
    return "".join(
        _CORE.format(n=n, features=features, architecture=architecture, part=part) for n in range(4)
    )


KINDS = {
    # The processor of a Raspberry Pi 4 and its stock system's Python, without ensurepip.
    "emulated": Kind(
        "emulated", "64-bit Arm board with Python 3.11", "arm64", "qemu-aarch64", "cortex-a72",
        r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:" + _MASK,
        f"{_SERVER} {_TOOLS} {_PYTHON} {_SIGNATURES} {_SUDO}", "Emulated 64-bit board",
        _cpuinfo(8, "0xd08", "fp asimd evtstrm crc32 cpuid"),
    ),
    # An old 32-bit one: busybox, no Python, and no program that verifies signatures.
    "emulated-armv7": Kind(
        "emulated-armv7", "32-bit Arm board without Python", "armhf", "qemu-arm", "cortex-a7",
        r"\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x28\x00:" + _MASK,
        f"{_SERVER} busybox-static", "Emulated 32-bit board",
        _cpuinfo(7, "0xc07", "half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt "
                 "vfpd32 lpae evtstrm"),
    ),
}  # fmt: skip


def default_cache() -> Path:
    """Where roots are kept once they are built."""
    return cache_folder() / "boards"


@functools.cache
def unavailable() -> str | None:
    """Why no board can be emulated on this machine; None where it can."""
    if sys.platform != "linux":
        return "boards are emulated on Linux only"
    if os.geteuid() != 0:
        return "starting an emulated board needs root rights (its SSH server changes users)"
    for name, package in (
        ("apt-get", "apt"), ("dpkg-deb", "dpkg"), ("tar", "tar"), ("ssh", "openssh-client"),
        ("ssh-keygen", "openssh-client"),
    ):  # fmt: skip
        if shutil.which(name) is None:
            return f"there is no {name} on this machine (package {package})"
    if not os.path.exists(KEYRING):
        return f"Debian's keys are not here: {KEYRING} (package debian-archive-keyring)"
    probe = f"import sys; sys.path.insert(0, {str(_HERE)!r}); import emulated_machine as m; "
    probe += "print(m.probe('qemu-aarch64') or '')"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", probe], capture_output=True, text=True, check=False,
        timeout=30,
    )  # fmt: skip
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it ended"]
        return f"this machine allows no namespaces ({last[0]})"
    return done.stdout.strip() or None


_HERE = Path(__file__).resolve().parent


# ---- building ----


def prepare(kind: str, cache: Path | None = None, progress: Progress | None = None) -> Path:
    """The folder with a kind's root file system and emulator, built where it is not there yet.

    `progress(done, total, what)` is told while it is built, which takes some ten seconds.
    """
    made = _kind(kind)
    if why := unavailable():
        raise ZgedgeError(f"No board can be emulated here: {why}.")
    cache = cache or default_cache()
    mark = hashlib.sha256(f"{RECIPE}\n{made}".encode()).hexdigest()[:12]
    folder = cache / f"{kind}-{mark}"
    if folder.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "lock"):
        if folder.exists():
            return folder
        part = cache / f"{folder.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        try:
            _build(made, part, progress or (lambda done, total, what: None))
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _kind(name: str) -> Kind:
    if name not in KINDS:
        raise UsageError(
            f"No board of kind {name!r} is emulated.", f"There are: {', '.join(KINDS)}."
        )
    return KINDS[name]


def _build(kind: Kind, part: Path, progress: Progress) -> None:
    progress(0, 4, "reading lists of packages")
    boards = Apt(part / "apt", kind.debian)
    progress(1, 4, "downloading packages")
    debs = boards.download(kind.packages.split())
    progress(2, 4, "bringing the emulator")
    _bring_emulator(kind, part)
    progress(3, 4, "unpacking")
    root = part / "root"
    for folder in ("bin", "sbin", "lib"):
        (root / "usr" / folder).mkdir(parents=True)
        (root / folder).symlink_to(f"usr/{folder}")
    for deb in debs:
        unpack(deb, root)
    _setup(kind, root)
    shutil.rmtree(part / "apt")
    progress(4, 4, "built")


def _bring_emulator(kind: Kind, part: Path) -> None:
    """A static emulator: that of $ZGEDGE_QEMU or this machine, else the one of Debian's package."""
    target = part / kind.emulator
    own = os.environ.get("ZGEDGE_QEMU")
    for found in (
        os.path.join(own, kind.emulator) if own else None, shutil.which(f"{kind.emulator}-static"),
    ):  # fmt: skip
        if found and os.path.isfile(found) and _is_static(Path(found)):
            shutil.copy(found, target)
            return
    here = subprocess.run(
        ["dpkg", "--print-architecture"], capture_output=True, text=True, check=True
    ).stdout.strip()
    (deb,) = Apt(part / "apt-here", here).download(["qemu-user-static"])
    (part / "here").mkdir()
    unpack(deb, part / "here")
    shutil.copy(part / "here" / "usr" / "bin" / f"{kind.emulator}-static", target)
    shutil.rmtree(part / "apt-here")
    shutil.rmtree(part / "here")


def _is_static(path: Path) -> bool:
    with path.open("rb") as f:
        head = f.read(4096)
    return head[:4] == b"\x7fELF" and b"/ld-linux" not in head and b"/ld-musl" not in head


def _setup(kind: Kind, root: Path) -> None:
    """What an installer would have done."""
    etc = root / "etc"
    for folder in (
        "etc/init.d", "proc", "sys", "dev", "run", "tmp", "root", "home/pi", "home/guest",
        "var/log", "var/tmp", "opt",
    ):  # fmt: skip
        (root / folder).mkdir(parents=True, exist_ok=True)
    for applet in _applets(kind, root):
        # Real tools before busybox's: only what is missing.
        if not any((root / "usr" / place / applet).exists() for place in ("bin", "sbin")):
            (root / "usr/bin" / applet).symlink_to("busybox")
    if kind.name == "emulated":
        (root / "usr/bin/awk").unlink(missing_ok=True)
        (root / "usr/bin/awk").symlink_to("mawk")
    (etc / "passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\npi:x:1000:1000::/home/pi:/bin/sh\n"
        "guest:x:1001:1001::/home/guest:/bin/sh\nnobody:x:65534:65534::/nonexistent:/bin/false\n"
    )
    (etc / "group").write_text(
        "root:x:0:\ntty:x:5:\nsudo:x:27:pi\npi:x:1000:\nguest:x:1001:\nnogroup:x:65534:\n"
    )
    (etc / "shadow").write_text(
        "".join(f"{u}:*:19000:0:99999:7:::\n" for u in ("root", "pi", "guest"))
    )
    (etc / "shadow").chmod(0o600)
    (etc / "shells").write_text("/bin/sh\n")
    (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nshadow: files\nhosts: files\n")
    (etc / "os-release").write_text(
        f'PRETTY_NAME="Debian 12 on an emulated {kind.cpu}"\nID=debian\nVERSION_ID="12"\n'
    )
    if (root / "usr/bin/sudo").exists():
        (etc / "sudoers").write_text("root ALL=(ALL) ALL\npi ALL=(ALL) NOPASSWD: ALL\n")
        (etc / "sudoers").chmod(0o440)
        (etc / "pam.d").mkdir(exist_ok=True)
        rules = "".join(f"{rule} required pam_permit.so\n" for rule in ("account", "session"))
        (etc / "pam.d/sudo").write_text("auth required pam_deny.so\n" + rules)
    for name, number in (("pi", 1000), ("guest", 1001)):
        os.chown(root / "home" / name, number, number)
    for name in ("root", "home/pi", "home/guest"):
        (root / name).chmod(0o700)
    (root / "tmp").chmod(0o1777)


def _applets(kind: Kind, root: Path) -> list[str]:
    done = subprocess.run(
        [root.parent / kind.emulator, root / "bin/busybox", "--list"], capture_output=True,
        text=True, check=True, timeout=60,
    )  # fmt: skip
    return [name for name in done.stdout.split() if name != "busybox"]


# ---- running ----


class Emulated:
    """One board. `user` is whom one is by its ssh configuration: root, `pi` (who may sudo without a
    password) or `guest` (who may not); `user@` before the host names another.

    `folder` keeps what the board has on its disk; without one it is made, and removed by `stop`.
    The root file system is laid under it, or copied into it whole without `overlay`, and where
    that cannot be done.
    """

    def __init__(
        self,
        kind: str = "emulated",
        *,
        name: str | None = None,
        folder: str | os.PathLike[str] | None = None,
        cache: Path | None = None,
        user: str = "root",
        overlay: bool = True,
    ) -> None:
        self.kind = _kind(kind)
        self._overlay = overlay
        self._cache = cache
        self._own = folder is None
        self.folder = Path(folder or tempfile.mkdtemp(prefix="zgedge-board-")).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.host = name or f"{kind}-{self.folder.name.lower().replace('_', '-')}"
        self.user = user
        self.port = 0
        self.pid = 0
        self._process: subprocess.Popen[str] | None = None
        self._settings: dict[str, object] = {}

    @property
    def ssh_config(self) -> Path:
        return self.folder / SSH_CONFIG

    @property
    def root(self) -> Path:
        """The board's root file system as this machine sees it, while the board runs."""
        return Path(f"/proc/{self.pid}/root")

    def __enter__(self) -> Emulated:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(
        self,
        *,
        disks: Mapping[str, int] | None = None,
        files: Mapping[str, str] | None = None,
        clock: str | None = None,
        detached: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """Start the board, and return once its SSH server answers.

        `disks`: folders that are a file system of their own, in MB, empty with each start.
        `files`: texts that lie on the board, in /proc and /sys too. `clock`: the time that its
        dynamically linked programs see, standing still, such as "1970-01-01 00:01:00".
        `detached`: it goes on after this process.
        """
        base = prepare(self.kind.name, self._cache, progress)
        self._make_keys(base)
        over = {
            "/proc/cpuinfo": self.kind.cpuinfo,
            "/sys/firmware/devicetree/base/model": self.kind.model + "\0",
            **(files or {}),
        }
        if clock is not None:
            library = next((base / "root/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
            if library is None:
                raise UsageError(f"The clock of a board {self.kind.name} cannot be set.")
            over["/etc/ld.so.preload"] = f"/{library.relative_to(base / 'root')}\n"
            over["/etc/faketimerc"] = f"{clock}\n"
        over["/etc/hosts"] = f"127.0.0.1 localhost {self.host}\n"
        for name in ("upper", "work", "root"):
            (self.folder / name).mkdir(exist_ok=True)
        self._settings = {
            "root": str(self.folder / "root"), "lower": str(base / "root"),
            "upper": str(self.folder / "upper"), "work": str(self.folder / "work"),
            "copy": str(self.folder / "copy"), "overlay": self._overlay,
            "name": self.kind.emulator, "magic": self.kind.magic,
            "emulator": str(base / self.kind.emulator), "hostname": self.host,
            "disks": dict(disks or {}), "files": over, "detached": detached, "pid": 0,
            "kind": self.kind.name, "user": self.user,
            "environment": {
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "QEMU_CPU": self.kind.cpu, "HOME": "/root", "LANG": "C.UTF-8",
            },
        }  # fmt: skip
        self._boot()

    @classmethod
    def attach(cls, folder: str | os.PathLike[str], cache: Path | None = None) -> Emulated | None:
        """The board that lives in `folder`, running or not; None where none ever did."""
        try:
            with open(os.path.join(folder, "settings.json")) as f:
                settings = json.load(f)
            board = cls(
                settings["kind"], name=settings["hostname"], folder=folder, cache=cache,
                user=settings["user"],
            )  # fmt: skip
            board.port, board.pid = settings["port"], settings["pid"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        board._settings = settings
        if not board.running:
            board.pid = 0
        return board

    @property
    def running(self) -> bool:
        """Whether its process 1 is there; its number may be that of another process by now."""
        try:
            words = Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return self.pid > 0 and str(self.folder / "settings.json").encode() in words

    def stop(self) -> None:
        """Pull the plug: all its processes end at once."""
        self._kill()
        if self._own:
            shutil.rmtree(self.folder, ignore_errors=True)

    def reboot(self, wait: float = 0) -> None:
        """Pull the plug, and start again after `wait` seconds: files stay, processes do not."""
        self._kill()
        time.sleep(wait)
        self._boot()

    def cut(self) -> None:
        """Cut all SSH connections; the server goes on."""
        for pid in _children(self.pid):
            if _name(pid) == "dropbear":
                for session in _children(pid):
                    _signal(session, signal.SIGKILL)

    # ---- inside ----

    def _make_keys(self, base: Path) -> None:
        """A key of the board, one of the person's, and an ssh configuration that knows both."""
        key = self.folder / "id_ed25519"
        if self.ssh_config.exists():
            return
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "zgedge emulated board",
             "-f", key], check=True, stdin=subprocess.DEVNULL, capture_output=True,
        )  # fmt: skip
        etc = self.folder / "upper/etc/dropbear"
        etc.mkdir(parents=True)
        made = subprocess.run(
            [base / self.kind.emulator, "-L", base / "root", base / "root/usr/bin/dropbearkey",
             "-t", "ed25519", "-f", etc / "host_key"], capture_output=True, text=True, check=True,
        )  # fmt: skip
        found = re.search(r"^ssh-ed25519 \S+", made.stdout, re.MULTILINE)
        assert found is not None
        (self.folder / "known_hosts").write_text(f"{self.host} {found[0]}\n")
        for home, number in (("root", 0), ("home/pi", 1000), ("home/guest", 1001)):
            place = self.folder / "upper" / home / ".ssh"
            place.mkdir(parents=True)
            shutil.copy(f"{key}.pub", place / "authorized_keys")
            (place / "authorized_keys").chmod(0o600)
            for path in (place.parent, place, place / "authorized_keys"):
                os.chown(path, number, number)
                if path.is_dir():
                    path.chmod(0o700)

    def _boot(self) -> None:
        for _ in range(3):
            with socket.socket() as free:
                free.bind(("127.0.0.1", self.port))
                self.port = free.getsockname()[1]
            try:
                self._run_machine()
                return
            except ZgedgeError as e:
                if "in use" not in e.message:
                    raise
                self.port = 0

    def _run_machine(self) -> None:
        self._settings["port"] = self.port
        files = self._settings["files"]
        assert isinstance(files, dict)
        files["/proc/sys/kernel/random/boot_id"] = f"{uuid.uuid4()}\n"  # the kernel is not its own
        self._settings["server"] = [
            "/usr/sbin/dropbear", "-F", "-E", "-s", "-e", "-m", "-p", f"127.0.0.1:{self.port}",
            "-r", "/etc/dropbear/host_key", "-P", "/run/dropbear.pid",
        ]  # fmt: skip
        self._write_settings()
        place = str(self.folder).replace("%", "%%")
        self.ssh_config.write_text(
            f"Host {self.host}\n  HostName 127.0.0.1\n  Port {self.port}\n  User {self.user}\n"
            f'  HostKeyAlias {self.host}\n  IdentityFile "{place}/id_ed25519"\n'
            f"  IdentitiesOnly yes\n  IdentityAgent none\n  CheckHostIP no\n"
            f'  UserKnownHostsFile "{place}/known_hosts"\n  GlobalKnownHostsFile /dev/null\n'
            "  StrictHostKeyChecking yes\n"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_HERE / "emulated_machine.py"),
             str(self.folder / "settings.json")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        told = []
        for line in self._process.stdout:
            word, _, text = line.strip().partition(" ")
            told.append(line.strip())
            if word == "pid":
                self.pid = int(text)
            elif word == "ready":
                self._write_settings()
                if self._settings["detached"]:
                    self._forget_process()
                return
            elif word == "failed":
                break
        self._kill()
        raise ZgedgeError(f"The board does not start: {' '.join(told)[-600:]}.")

    def _write_settings(self) -> None:
        self._settings["pid"] = self.pid
        (self.folder / "settings.json").write_text(json.dumps(self._settings))

    def _forget_process(self) -> None:
        """Of a board that goes on by itself: what started it has ended already."""
        assert self._process is not None
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()
        self._process = None

    def _kill(self) -> None:
        if self.running:
            os.kill(self.pid, signal.SIGKILL)  # process 1, and with it all others
            while _lives(self.pid):
                time.sleep(0.005)
        if self._process is not None:
            self._process.kill()
            self._forget_process()
        self.pid = 0


def running_board(kind: str, name: str | None = None) -> Emulated | None:
    """The person's own board of that kind and name (the kind's where none is given), running or
    not; None where there never was one. Raises UsageError for a name or a kind that cannot be."""
    _kind(kind)
    name = name or kind
    if not boards.NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name for a board.", "Letters, digits, . _ and - do.")
    there = Emulated.attach(_place(name))
    if there is not None and there.kind.name != kind:
        raise UsageError(
            f"The board {name} is of kind {there.kind.name}.",
            "Choose another --name, or that kind.",
        )
    return there


@contextmanager
def _alone(kind: str, name: str | None) -> Iterator[Emulated | None]:
    """That board, while no other process starts or stops it. Raises as `running_board`."""
    running_board(kind, name)
    folder = _place(name or kind)
    make_folder(folder.parent)
    with _locked(folder.with_name(f".{folder.name}.lock")):  # no board's name begins so
        yield running_board(kind, name)


def pull_plug(kind: str, name: str | None = None) -> str:
    """Stop the person's own board of that kind and name, and take it off their boards; its disk is
    kept. Returns its name. Raises UsageError where it does not run."""
    with _alone(kind, name) as there:
        if there is None or not there.running:
            raise UsageError(
                f"No emulated board {name or kind} runs.", "zgedge device list shows boards."
            )
        there.stop()
        boards.remove(there.host)
        return there.host


def is_own(board: boards.Board) -> bool:
    """Whether that board of the person's is one that `bring_up` made, be it there still or not."""
    own = (board.name, str(_place(board.name).resolve() / SSH_CONFIG), None)
    return board.device in KINDS and (board.host, board.ssh_config, board.port) == own


def bring_up(
    kind: str, name: str | None = None, *, new: bool = False, progress: Progress | None = None
) -> tuple[Emulated, bool]:
    """The person's own board of that kind and name, running and among their boards; and whether it
    had to be started. It goes on after this process. `new`: with an empty disk. Raises UsageError,
    and ZgedgeError where no board can be emulated."""
    folder = _place(name or kind)
    with _alone(kind, name) as there:
        fresh = new or there is None or not there.running
        if fresh:
            if why := unavailable():
                raise ZgedgeError(f"No board can be emulated here: {why}.")
            if there is not None:
                there.stop()
            if new:
                shutil.rmtree(folder, ignore_errors=True)
            there = Emulated(kind, name=name or kind, folder=folder)
            there.start(detached=True, progress=progress)
        assert there is not None
        boards.add(boards.Board(there.host, there.host, kind, str(there.ssh_config)))
    return there, fresh


def _place(name: str) -> Path:
    return default_cache() / "running" / name


def _lives(pid: int) -> bool:
    """Whether a process is there that has not ended; process 1 ends after all others."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]


def _name(pid: int) -> str:
    """Which program a process of a board runs; the emulator is before it on its command line."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    names = [os.path.basename(word).decode() for word in words[:2]]
    return names[1] if names[0].startswith("qemu") else names[0]


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
