"""The inside of an emulated board: a program of its own, run as root by zgedge.devices.emulated.

It makes new user, mount, process and host name namespaces, puts the board's root file system
together in them, lets the kernel run the board's programs by the emulator (for this namespace
alone: the machine's own settings stay as they are), and is then process 1 of the board: it starts
the SSH server and the start scripts in /etc/init.d, and adopts what they leave behind. With it the
whole board ends.

    python emulated_machine.py SETTINGS.json

On standard output come lines of `word text`: `pid N`, then `ready` or `failed WHY`.
"""

from __future__ import annotations

import ctypes
import glob
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from typing import Any

NEW_MOUNTS, NEW_NAMES, NEW_IPC, NEW_USERS, NEW_PIDS = (
    0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000,
)  # fmt: skip
NOSUID, NODEV, NOEXEC, BIND, REC, PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
ALL = "0 0 4294967295"  # each user of the board is the one of the same number here
PARENT_GONE = 1  # prctl: which signal comes when the parent ends
libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *args: Any) -> None:
    if getattr(libc, name)(*args) < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    os.makedirs(target, exist_ok=True)
    bind(source, target, kind, flags, options)


def bind(source: str, target: str, kind: str = "", flags: int = BIND, options: str = "") -> None:
    try:
        call(
            "mount", source.encode(), target.encode(), kind.encode() or None,
            ctypes.c_ulong(flags), options.encode() or None,
        )  # fmt: skip
    except OSError as e:
        raise OSError(e.errno, f"mount of {target}: {os.strerror(e.errno or 0)}") from None


def say(word: str, text: object = "") -> None:
    sys.stdout.write(f"{word} {text}\n")
    sys.stdout.flush()


def enter_namespaces() -> None:
    """New namespaces, in which all users of this machine have the numbers that they have."""
    ours, theirs = os.pipe()
    helper = os.fork()
    if helper == 0:  # only who is outside may write the maps
        os.close(theirs)
        os.read(ours, 1)
        parent = os.getppid()
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{parent}/{name}", "w") as f:
                f.write(ALL)
        os._exit(0)
    os.close(ours)
    try:
        call("unshare", NEW_USERS | NEW_MOUNTS | NEW_PIDS | NEW_NAMES | NEW_IPC)
    finally:
        os.close(theirs)
        _, status = os.waitpid(helper, 0)
    if status:
        raise OSError("the map of users cannot be written: that needs root rights")


def register(settings: dict[str, Any], root: str) -> None:
    """Let the kernel run the board's programs by the emulator, in this namespace alone."""
    place = f"{root}/proc/sys/fs/binfmt_misc"
    try:
        bind("binfmt_misc", place, "binfmt_misc", NOSUID | NODEV | NOEXEC)
        with open(f"{place}/register", "wb", buffering=0) as f:
            # F: opened now, so that the emulator need not lie on the board. C: sudo's bit counts.
            # P: the name that a program was called by stays, which tells busybox what to be.
            rule = f":{settings['name']}:M::{settings['magic']}:{settings['emulator']}:FCP"
            f.write(rule.encode())
    except OSError as e:
        # Before Linux 6.7 there is one for all, and it may have the rule.
        settings["register"] = str(e)


def probe(emulator: str) -> str | None:
    """Why a board cannot live on this machine; None where it can. Run in a process of its own."""
    try:
        enter_namespaces()
    except OSError as e:
        return f"this machine allows no namespaces ({e})"
    told, tell = os.pipe()
    if os.fork() == 0:
        why = ""
        try:
            bind("none", "/", flags=REC | PRIVATE)
            # Where this is refused something hides a part of /proc, as containers do.
            bind("proc", "/proc", "proc", NOSUID | NODEV | NOEXEC)
            known = os.path.exists(f"/proc/sys/fs/binfmt_misc/{emulator}")
            try:
                bind("none", "/proc/sys/fs/binfmt_misc", "binfmt_misc", NOSUID | NODEV | NOEXEC)
            except OSError:
                if not known:
                    why = f"{emulator} is not registered with this kernel, which is older than 6.7"
        except OSError as e:
            why = f"this machine lets no namespace mount ({e})"
        os.write(tell, why.encode())
        os._exit(0)
    os.close(tell)
    os.wait()
    return os.read(told, 4096).decode() or None


def copied(settings: dict[str, Any]) -> str:
    """The whole file system copied, once, for machines where none can be laid over another."""
    copy = str(settings["copy"])
    if not os.path.isdir(copy):
        part = copy + ".part"
        subprocess.run(["rm", "-rf", part], check=True)
        for source in (settings["lower"], settings["upper"]):
            subprocess.run(["cp", "-a", f"{source}/.", part], check=True)
        os.rename(part, copy)
    return copy


def put_together(settings: dict[str, Any]) -> str:
    """The board's root file system, mounted; returns its path."""
    root = str(settings["root"])
    bind("none", "/", flags=REC | PRIVATE)
    options = f"lowerdir={settings['lower']},upperdir={settings['upper']}"
    try:
        if not settings["overlay"]:
            raise OSError("it is not wanted")
        bind("overlay", root, "overlay", 0, f"{options},workdir={settings['work']}")
    except OSError:
        bind(copied(settings), root)
    mount("proc", f"{root}/proc", "proc", NOSUID | NODEV | NOEXEC)
    register(settings, root)
    mount("tmpfs", f"{root}/dev", "tmpfs", NOSUID, "mode=755,size=1m")
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        open(f"{root}/dev/{name}", "w").close()
        bind(f"/dev/{name}", f"{root}/dev/{name}")
    mount("devpts", f"{root}/dev/pts", "devpts", NOSUID | NOEXEC, "newinstance,ptmxmode=0666")
    os.symlink("pts/ptmx", f"{root}/dev/ptmx")
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink(f"/proc/self/fd{target}", f"{root}/dev/{name}")
    for folder, mode in (("dev/shm", 1777), ("tmp", 1777), ("run", 755), ("sys", 755)):
        mount("tmpfs", f"{root}/{folder}", "tmpfs", NOSUID | NODEV, f"mode={mode}")
    for folder, megabytes in settings["disks"].items():
        mount("tmpfs", root + folder, "tmpfs", NOSUID | NODEV, f"mode=755,size={megabytes}m")
    for path, text in settings["files"].items():
        # Over /proc a file can only be bound; the others are the board's own, as it came up.
        there = root + path
        if path.startswith("/proc/"):
            there = f"{root}/run/over{path.replace('/', '-')}"
        os.makedirs(os.path.dirname(there), exist_ok=True)
        if os.path.islink(there):
            os.unlink(there)
        with open(there, "w") as f:
            f.write(text)
        if text.startswith("#!"):
            os.chmod(there, 0o755)
        if path.startswith("/proc/"):
            bind(there, root + path)
    return root


def run_board(settings: dict[str, Any], lifeline: int) -> None:
    """Process 1 of the board. Does not return."""
    root = put_together(settings)
    socket.sethostname(settings["hostname"])
    os.chroot(root)
    os.chdir("/")
    environment = settings["environment"]
    log = os.open("/run/boot", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
    try:
        subprocess.run(["/bin/true"], env=environment, check=True, **quiet)
    except OSError as e:
        why = f" ({settings['register']})" if "register" in settings else ""
        raise OSError(f"this kernel does not run the board's programs: {e}{why}") from None
    server = subprocess.Popen(settings["server"], env=environment, **quiet)
    for _ in range(1000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", settings["port"])) == 0:
                break
        if server.poll() is not None:
            with open("/run/boot") as f:
                raise OSError(f"the SSH server ended: {f.read()[-500:].strip()}")
        time.sleep(0.01)
    else:
        raise OSError("the SSH server does not answer")
    starter = os.fork()
    if starter == 0:
        for script in sorted(glob.glob("/etc/init.d/zgedge-*")):
            if os.access(script, os.X_OK):
                subprocess.run([script, "start"], env=environment, check=False, **quiet)
        os._exit(0)
    say("ready")
    if settings["detached"]:
        null = os.open("/dev/null", os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
    waker, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    watched = [waker, *([] if settings["detached"] else [lifeline])]
    while True:
        ready, _, _ = select.select(watched, [], [])
        if lifeline in ready and not os.read(lifeline, 1):
            os._exit(0)  # whoever started the board has gone
        if waker in ready:
            os.read(waker, 4096)
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                os._exit(1)
            if pid == 0:
                break
            if pid == server.pid:
                os._exit(1)


def main() -> None:
    with open(sys.argv[1]) as f:
        settings = json.load(f)
    if settings["detached"] and os.fork():
        os._exit(0)
    try:
        enter_namespaces()
    except OSError as e:
        say("failed", e)
        sys.exit(1)
    pid = os.fork()
    if pid == 0:
        try:
            call("prctl", PARENT_GONE, signal.SIGKILL, 0, 0, 0)
            run_board(settings, sys.stdin.fileno())
        except OSError as e:
            say("failed", e)
        except BaseException:
            say("failed", traceback.format_exc().replace("\n", " | "))
        os._exit(1)
    say("pid", pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if settings["detached"]:
        null = os.open("/dev/null", os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
    os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
