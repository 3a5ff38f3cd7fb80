"""A look at a real board, compared with the profile of what it should be.

One script of plain sh is sent over ssh; it prints lines `key=value`, which are read strictly. Each
finding says what is there, whether it will do, and what to do where it will not.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from zgedge.devices.agent import Transport
from zgedge.devices.profiles import Profile, of_model
from zgedge.errors import RemoteError

OK, WARNING, FAULT = "ok", "warning", "fault"
OLDEST_PYTHON = (3, 10)
CLOCK_OFF = 300  # seconds by which a board's clock may differ from this machine's
DISK_MB = {"python": 400, "native": 40}  # two versions of a service beside each other
MEMORY_MB = {"python": 200, "native": 24}
HOT = 80.0  # degrees; from here on a Raspberry Pi slows down

_ELF = {"62": "x86_64", "183": "aarch64", "40": "armv7l"}
# What the kernel of a 64-bit Arm processor does not list, since all of them have it.
_IMPLIED = {"asimd": ("neon", "vfpv3", "vfpv4", "half", "thumb")}

# For dash and busybox. What a board does not have, it does not print, or prints nothing for.
SCRIPT = r"""
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin:/usr/local/bin"
say() { printf '%s=%s\n' "$1" "$2"; }
look() {
say zgedge 1
say kernel "$(uname -r)"
say machine "$(uname -m)"
say elf "$(head -c 20 /bin/sh | od -An -tu1 -j 18 -N 2 | { read -r a b; echo "$a"; })"
for f in /proc/device-tree/model /sys/firmware/devicetree/base/model; do
    [ -r $f ] && { say model "$(tr -d '\0' <$f)"; break; }
done
say system "$(sed -n 's/^PRETTY_NAME="*\([^"]*\)"*/\1/p' /etc/os-release 2>/dev/null)"
say glibc "$(getconf GNU_LIBC_VERSION 2>/dev/null)"
for f in /lib/*-linux-gnu*/libc.so.6 /lib/libc.so.6 /lib64/libc.so.6; do
    [ -r "$f" ] && { say libc "$($f 2>/dev/null | head -n 1)"; break; }
done
done_with=' '
for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
    real=$(readlink -f "$(command -v $p 2>/dev/null)" 2>/dev/null) || continue
    case $real$done_with in '' | *" $real "*) continue ;; esac
    done_with="$done_with$real "
    say python "$p $($p -I -S -c 'import sys
print("%d.%d.%d" % sys.version_info[:3])
try:
    import ctypes, zipimport
    from importlib.util import find_spec
    print("venv" if find_spec("venv") else "no: there is no module venv")
    if find_spec("ensurepip"): print("ensurepip")
except Exception as e:
    print("no: %s" % e)
' 2>&1 | tail -n 3 | tr '\n' ' ')"
done
say memory "$(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)"
say available "$(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo)"
say page "$(getconf PAGESIZE 2>/dev/null)"
# Without root rights all goes to the user's home.
[ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null || ROOT=$HOME/.zgedge
place=$ROOT
while [ ! -d "$place" ]; do place=$(dirname "$place"); done
say disk "$(df -Pk "$place" | tail -n 1 | { read -r a b c d e f; echo "$d $f"; })"
if touch "$place/.zgedge-check" 2>/dev/null; then
    rm -f "$place/.zgedge-check"
    say writable yes
else
    say writable no
fi
while read -r a b c d; do [ "$b" = / ] && say rootfs "$d"; done </proc/mounts
say clock "$(date +%s)"
say features "$(sed -n 's/^\(Features\|flags\)[^:]*: *//p' /proc/cpuinfo | head -n 1)"
say parts "$(sed -n 's/^CPU part[^:]*: *//p' /proc/cpuinfo | sort -u | tr '\n' ' ')"
for f in /sys/class/thermal/thermal_zone*/temp; do
    [ -r "$f" ] && say temperature "$(cat "$f" 2>/dev/null)"
done
if command -v vcgencmd >/dev/null 2>&1; then
    say throttled "$(vcgencmd get_throttled 2>/dev/null | sed -n 's/^throttled=//p')"
fi
if [ -r /sys/fs/cgroup/cgroup.controllers ]; then
    say cgroup "2 $(cat /sys/fs/cgroup/cgroup.controllers)"
elif [ -r /proc/cgroups ]; then
    say cgroup "1 $(sed -n 's/^memory[[:space:]].*[[:space:]]1$/memory/p' /proc/cgroups)"
fi
if [ -d /run/systemd/system ]; then
    version=$(systemctl --version 2>/dev/null | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
    say service "systemd $version"
elif [ -d /etc/init.d ]; then
    say service init
fi
if command -v ssh-keygen >/dev/null 2>&1; then
    case $(ssh-keygen -Y check-novalidate 2>&1 </dev/null) in
        *"illegal option"* | *"unknown option"* | *"invalid option"*) say verifier old ;;
        *) say verifier yes ;;
    esac
fi
say uid "$(id -u)"
say user "$(id -un 2>/dev/null)"
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then say sudo none
    elif sudo -n true 2>/dev/null; then say sudo yes
    else say sudo password
    fi
fi
say end 1
}
look | tr -cd '\012\040-\176' | cut -c 1-600
"""
_KEYS = {
    "zgedge", "kernel", "machine", "elf", "model", "system", "libc", "glibc", "python", "memory",
    "available", "page", "disk", "writable", "rootfs", "clock", "features", "parts", "temperature",
    "throttled", "cgroup", "service", "verifier", "uid", "user", "sudo", "end",
}  # fmt: skip
_MANY = {"python", "temperature", "rootfs"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: `what` there is, and in `mend` what to do about it."""

    name: str
    level: str
    what: str
    mend: str | None = None


@dataclass(frozen=True)
class Python:
    """One Python of a board."""

    command: str
    version: tuple[int, int, int]
    usable: bool
    ensurepip: bool
    why: str


@dataclass(frozen=True)
class Facts:
    """What a board says of itself. None where it does not say."""

    kernel: str
    machine: str
    kernel_machine: str
    model: str | None
    system: str | None
    glibc: str | None
    pythons: tuple[Python, ...]
    memory_mb: int | None
    page_bytes: int | None
    free_mb: int | None
    mounted_at: str | None
    writable: bool
    read_only: bool
    clock: int | None
    clock_off: float | None
    features: frozenset[str]
    temperature: float | None
    throttled: int | None
    cgroup: str | None
    service: str | None
    systemd: int | None
    verifier: str | None
    uid: int
    user: str
    sudo: str | None

    @property
    def python(self) -> Python | None:
        """The newest that serves; it needs no ensurepip, since bundles bring pip."""
        usable = [p for p in self.pythons if p.usable and p.version[:2] >= OLDEST_PYTHON]
        return max(usable, key=lambda p: p.version, default=None)

    @property
    def rights(self) -> bool:
        return self.uid == 0 or self.sudo == "yes"


def look(remote: Transport, profile: Profile, *, timeout: float = 60) -> Facts:
    """Ask a board about itself. Raises RemoteError where it cannot be reached or makes no sense."""
    began = time.time()
    result = remote.run(f"ROOT='{profile.root}'\n{SCRIPT}", timeout=timeout)
    now = (began + time.time()) / 2
    try:
        return parse(result.text, now)
    except ValueError as e:
        said = result.err.strip().splitlines()[-1:] or [""]
        raise RemoteError(
            f"The board answers nothing that makes sense: {e}. {said[0]}".rstrip(),
            "Its login shell may print something of its own: `ssh HOST true` must print nothing.",
            reason="failed",
        ) from e


def parse(text: str, now: float) -> Facts:
    """Facts from what SCRIPT printed. Raises ValueError for a line that it cannot have printed."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, sign, value = line.partition("=")
        if not sign or key not in _KEYS:
            raise ValueError(f"{line[:60]!r} is no line of the check")
        found.setdefault(key, []).append(value.strip())
    for key, values in found.items():
        if len(values) > 1 and key not in _MANY:
            raise ValueError(f"{key} was said twice")
    if found.get("zgedge") != ["1"] or found.get("end") != ["1"]:
        raise ValueError("the answer is not whole")

    def one(key: str) -> str | None:
        return (found.get(key) or [""])[0] or None

    def number(key: str) -> int | None:
        value = one(key)
        if value is not None and not re.fullmatch(r"\d{1,18}", value):
            raise ValueError(f"{key} is {value[:60]!r}")
        return None if value is None else int(value)

    uid, kernel_machine = number("uid"), one("machine")
    if uid is None or kernel_machine is None:
        raise ValueError("it says neither user nor machine")
    disk = (one("disk") or "").split(" ", 1)
    free = int(disk[0]) // 1024 if re.fullmatch(r"\d{1,18}", disk[0]) else None
    libc = re.search(r"glibc (2\.\d{1,4})|version (2\.\d{1,4})", f"{one('glibc')} {one('libc')}")
    memory, clock = number("memory"), number("clock")
    warmest = max((int(t) for t in found.get("temperature", []) if re.fullmatch(r"\d+", t)),
                  default=None)  # fmt: skip
    throttled = one("throttled")
    service = (one("service") or "").split()
    words = set((one("features") or "").split())
    for word, more in _IMPLIED.items():
        if word in words:
            words.update(more)
    return Facts(
        kernel=one("kernel") or "?",
        machine=_ELF.get(one("elf") or "", _family(kernel_machine)),
        kernel_machine=_family(kernel_machine), model=one("model"), system=one("system"),
        glibc=None if libc is None else libc[1] or libc[2],
        pythons=tuple(_pythons(found.get("python", []))),
        memory_mb=None if memory is None else memory // 1024, page_bytes=number("page"),
        free_mb=free, mounted_at=disk[1] if len(disk) > 1 else None,
        writable=one("writable") == "yes",
        read_only="ro" in (found.get("rootfs") or [""])[-1].split(" ")[0].split(","),
        clock=clock, clock_off=None if clock is None else clock - now,
        features=frozenset(words),
        temperature=None if warmest is None else warmest / 1000,
        throttled=int(throttled, 16) if throttled and re.fullmatch(r"0x[0-9a-f]{1,8}", throttled)
        else None,
        cgroup=one("cgroup"), service=service[0] if service else None,
        systemd=int(service[1]) if len(service) > 1 and service[1].isdigit() else None,
        verifier=one("verifier"), uid=uid, user=one("user") or str(uid), sudo=one("sudo"),
    )  # fmt: skip


def _family(machine: str) -> str:
    """The processors that share programs, by one name."""
    if machine in ("armv7l", "armv8l"):
        return "armv7l"
    return "aarch64" if machine == "arm64" else machine


def _pythons(lines: list[str]) -> Iterator[Python]:
    for line in lines:
        command, _, rest = line.partition(" ")
        version = re.match(r"(\d{1,2})\.(\d{1,3})\.(\d{1,3}) (.*)", rest)
        if version is None:  # it does not even start
            yield Python(command, (0, 0, 0), False, False, rest[:200])
            continue
        numbers = (int(version[1]), int(version[2]), int(version[3]))
        words = version[4].split()
        usable = words[:1] == ["venv"]
        why = "" if usable else version[4].removeprefix("no: ")
        yield Python(command, numbers, usable, "ensurepip" in words, why)


# ---- judging ----


def judge(facts: Facts, profile: Profile, runtime: str | None = None) -> list[Finding]:
    """Findings on a board, the worst first, for `runtime` or the one that suits."""
    chosen = runtime or choose(facts, profile)
    found = [*_machine(facts, profile), *_software(facts, profile, chosen),
             *_room(facts, profile, chosen), *_state(facts), *_rights(facts, profile)]  # fmt: skip
    return sorted(
        found, key=lambda finding: (OK, WARNING, FAULT).index(finding.level), reverse=True
    )


def choose(facts: Facts, profile: Profile) -> str:
    """The runtime that a board is given: the profile's, or native where its Python will not do."""
    if profile.runtime == "native" or not profile.wheel_platform:
        return "native"
    if facts.python is None or not _libc_will_do(facts, profile):
        return "native"
    return "python"


def _libc_will_do(facts: Facts, profile: Profile) -> bool:
    if facts.glibc is None:
        return False
    return _version(facts.glibc) >= _version(profile.libc)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _machine(facts: Facts, profile: Profile) -> Iterator[Finding]:
    told = f"{facts.machine}, Linux {facts.kernel}"
    if facts.machine == profile.machine:
        yield Finding("machine", OK, told)
    elif facts.machine == "armv7l" and facts.kernel_machine == "aarch64":
        yield Finding(
            "machine", FAULT,
            f"The kernel is 64-bit and the system is 32-bit: its programs are {facts.machine}.",
            "Deploy with --device armv7, or install the board's 64-bit system.",
        )  # fmt: skip
    else:
        yield Finding(
            "machine", FAULT,
            f"Its programs are {facts.machine}, and a {profile.name} has {profile.machine}.",
            "Deploy with the --device that it is: `zgedge device list`.",
        )  # fmt: skip
    if facts.model is not None:
        named = of_model(facts.model)
        if profile.models and not any(facts.model.startswith(m) for m in profile.models):
            other = f" Deploy with --device {named.name}." if named else ""
            yield Finding(
                "model", WARNING, f"It says that it is a {facts.model}, not a {profile.title}.",
                f"Make sure that it is the board you mean.{other}",
            )  # fmt: skip
        else:
            yield Finding("model", OK, facts.model)
    missing = sorted(set(profile.features) - facts.features)
    if missing and facts.machine == profile.machine and facts.features:
        yield Finding(
            "processor", FAULT,
            f"It lacks instructions that a {profile.cpu} has: {', '.join(missing)}.",
            "A program built for that processor would stop there. Deploy with the --device that it "
            f"is, or with --device {_generic(facts.machine)}.",
        )  # fmt: skip
    elif facts.features:
        yield Finding("processor", OK, f"it has what a {profile.cpu} has")
    else:
        yield Finding("processor", WARNING, "It does not say which instructions it has.",
                      "The golden test on the board shows whether the programs run.")  # fmt: skip
    if facts.page_bytes is not None and facts.page_bytes != profile.page_bytes:
        yield Finding(
            "page", OK, f"{facts.page_bytes:,} bytes, where {profile.page_bytes:,} are usual"
        )


def _generic(machine: str) -> str:
    return {"armv7l": "armv7", "x86_64": "x86-64"}.get(machine, "aarch64")


def _software(facts: Facts, profile: Profile, runtime: str) -> Iterator[Finding]:
    best = facts.python
    newest = max(facts.pythons, key=lambda p: p.version, default=None)
    if best is not None:
        numbers = ".".join(map(str, best.version))
        pip = "" if best.ensurepip else ", without ensurepip: the bundle brings pip"
        yield Finding("python", OK, f"{numbers}{pip}")
    else:
        level = OK if runtime == "native" else FAULT
        if newest is None:
            told = "There is no Python 3."
        elif newest.version[:2] < OLDEST_PYTHON:
            told = f"Its newest Python is {'.'.join(map(str, newest.version))}, and 3.10 is needed."
        else:
            told = f"Its Python makes no environments: {newest.why}."
        yield Finding(
            "python", level, told if level == FAULT else f"{told} The native program needs none.",
            "Deploy with --runtime native, or install python3 and python3-venv there."
            if level == FAULT else None,
        )  # fmt: skip
    if profile.libc:
        if _libc_will_do(facts, profile):
            yield Finding("libc", OK, f"glibc {facts.glibc}")
        else:
            level = OK if runtime == "native" else FAULT
            there = f"glibc {facts.glibc}" if facts.glibc else "no glibc that it tells of"
            told = f"There is {there}, and wheels need {profile.libc}."
            yield Finding(
                "libc", level, f"{told} The native program needs none." if level == OK else told,
                "Deploy with --runtime native." if level == FAULT else None,
            )  # fmt: skip
    why = "" if runtime == profile.runtime else f", not {profile.runtime}"
    yield Finding("runtime", OK, f"{runtime}{why}")
    if facts.service == "systemd":
        yield Finding("service", OK, f"systemd {facts.systemd or ''}".rstrip())
    elif facts.service == "init":
        yield Finding("service", OK, "no systemd: an init script starts and watches the service")
    else:
        yield Finding(
            "service", WARNING, "There is neither systemd nor /etc/init.d.",
            "The service runs, and does not come up after a boot: start ROOT/NAME/init there.",
        )  # fmt: skip
    if facts.verifier == "yes":
        yield Finding("signatures", OK, "ssh-keygen verifies them there")
    else:
        there = (
            "has no ssh-keygen" if facts.verifier is None else "has an ssh-keygen older than 8.2"
        )
        yield Finding(
            "signatures", WARNING, f"It {there}: it cannot verify a bundle's signature itself.",
            "Install OpenSSH 8.2 or newer there, or deploy with the option that lets this machine "
            "verify alone.",
        )  # fmt: skip


def _room(facts: Facts, profile: Profile, runtime: str) -> Iterator[Finding]:
    least = MEMORY_MB[runtime]
    if facts.memory_mb is None:
        yield Finding("memory", WARNING, "It does not say how much memory it has.")
    elif facts.memory_mb < least:
        yield Finding(
            "memory", FAULT, f"{facts.memory_mb:,} MB, and the {runtime} service wants {least:,}.",
            "Deploy with --runtime native." if runtime == "python" else None,
        )  # fmt: skip
    elif facts.memory_mb < 0.8 * profile.memory_mb:
        yield Finding(
            "memory", WARNING,
            f"{facts.memory_mb:,} MB, where a {profile.title} has {profile.memory_mb:,} or more.",
            "Make sure that it is the board you mean.",
        )  # fmt: skip
    else:
        yield Finding("memory", OK, f"{facts.memory_mb:,} MB")
    wanted = DISK_MB[runtime]
    if facts.free_mb is None:
        yield Finding("disk", WARNING, f"It does not say what is free where {profile.root} is.")
    elif facts.free_mb < wanted:
        yield Finding(
            "disk", FAULT,
            f"{facts.free_mb:,} MB free at {facts.mounted_at}; {wanted:,} are wanted.",
            "Make room there: sudo apt clean, sudo journalctl --vacuum-size=50M.",
        )  # fmt: skip
    else:
        yield Finding("disk", OK, f"{facts.free_mb:,} MB free at {facts.mounted_at}")
    if facts.read_only and not facts.writable:
        yield Finding(
            "writable", FAULT, "Its disk is mounted read-only.",
            "An overlay or a worn card does that: sudo raspi-config, Performance Options; or "
            "dmesg | grep mmc.",
        )  # fmt: skip


def _state(facts: Facts) -> Iterator[Finding]:
    if facts.clock is None or facts.clock_off is None:
        yield Finding("clock", WARNING, "It does not say what time it is.")
    elif abs(facts.clock_off) > CLOCK_OFF:
        there = time.strftime("%Y-%m-%d %H:%M", time.gmtime(min(facts.clock, 1 << 36)))
        yield Finding(
            "clock", WARNING, f"It has {there} UTC. Times of events there will be wrong.",
            "Nothing depends on it. To set it: sudo timedatectl set-ntp true, or sudo date -s.",
        )  # fmt: skip
    else:
        yield Finding("clock", OK, f"{abs(facts.clock_off):.0f} s from this machine's")
    if facts.temperature is not None:
        warm = facts.temperature >= HOT
        yield Finding(
            "temperature", WARNING if warm else OK, f"{facts.temperature:.0f} °C",
            "It slows down when hot: give it air or a heat sink." if warm else None,
        )  # fmt: skip
    if facts.throttled is not None:
        now = [what for bit, what in _THROTTLED if facts.throttled >> bit & 1]
        before = [what for bit, what in _THROTTLED if facts.throttled >> (bit + 16) & 1]
        if now or before:
            when = "now" if now else "since it was started"
            yield Finding(
                "throttling", WARNING, f"{when}: {', '.join(now or before)}",
                "Under-voltage: a better supply or cable. Heat: air or a heat sink.",
            )  # fmt: skip
        else:
            yield Finding("throttling", OK, "none since it was started")
    if facts.cgroup is not None:
        counted = "memory" in facts.cgroup.split()
        if counted or facts.service != "systemd":
            yield Finding("cgroup", OK, "counts memory" if counted else "not used without systemd")
        else:
            yield Finding(
                "cgroup", WARNING,
                "Its control group does not count memory: MemoryMax= does nothing.",
                "LimitDATA= holds all the same. To have both: add cgroup_enable=memory to "
                "/boot/firmware/cmdline.txt and reboot.",
            )  # fmt: skip


_THROTTLED = ((0, "under-voltage"), (1, "frequency capped"), (2, "throttled"),
              (3, "soft temperature limit"))  # fmt: skip


def _rights(facts: Facts, profile: Profile) -> Iterator[Finding]:
    if facts.uid == 0:
        yield Finding("rights", OK, "root")
    elif facts.sudo == "yes":
        yield Finding("rights", OK, f"{facts.user}, with sudo and no password")
    else:
        there = {"password": "sudo asks for a password", None: "there is no sudo"}.get(
            facts.sudo if facts.sudo != "none" else None, "no sudo"
        )
        yield Finding(
            "rights", WARNING,
            f"{facts.user} has no root rights ({there}): all goes to ~/.zgedge, without a unit.",
            "For a service that comes up with the board: log in as root, or give the user sudo "
            "without a password, as Raspberry Pi OS does.",
        )  # fmt: skip


def as_dict(facts: Facts) -> dict[str, Any]:
    """Facts for --json."""
    best = facts.python
    return {
        "machine": facts.machine, "kernel": facts.kernel, "model": facts.model,
        "system": facts.system, "glibc": facts.glibc,
        "python": None if best is None else ".".join(map(str, best.version)),
        "memory_mb": facts.memory_mb, "free_mb": facts.free_mb, "page_bytes": facts.page_bytes,
        "clock_off": None if facts.clock_off is None else round(facts.clock_off),
        "temperature": facts.temperature, "throttled": facts.throttled,
        "service": facts.service, "verifier": facts.verifier == "yes", "user": facts.user,
        "root_rights": facts.rights,
    }  # fmt: skip
