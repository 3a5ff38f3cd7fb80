"""What starts a service on a board: a systemd unit with the least rights, or a plain init script.

Both run the program that `current` points at on the model there, with the state there, so that a
switch to another version is a matter of that one link. Both start it again when it fails, each time
later, and end it when it gives no sign of life.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from zgedge.errors import UsageError

KB = 1024
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
ROOT = re.compile(r"(~)?(/[A-Za-z0-9._-]+){1,8}")
WATCHDOG = 30  # seconds without a sign of life
HEARTBEATS = {"native": 10, "python": 60}  # seconds; to ask, a Python starts

# What a process may take beyond its arenas (the one that learns, the one that is written, one to
# spare), in bytes: its queue of a megabyte, programs, libraries. About 7 MB and 65 MB are used.
_DATA = {"native": 16 << 20, "python": 192 << 20}
_WHOLE = {"native": 32 << 20, "python": 256 << 20}


def limit_data(runtime: str, arena_bytes: int) -> int:
    """Bytes that the service's memory may have by RLIMIT_DATA, in whole KB."""
    return -(-(3 * arena_bytes + _DATA[_runtime(runtime)]) // KB) * KB


def memory_max(runtime: str, arena_bytes: int) -> int:
    """The same for all that the control group counts, libraries and the disk's cache too."""
    return -(-(3 * arena_bytes + _WHOLE[_runtime(runtime)]) // KB) * KB


def systemd_unit(
    name: str,
    *,
    root: str,
    runtime: str,
    arena_bytes: int,
    user: str = "zgedge",
    commit_every: float = 60,
    erase_block: int = 128 * KB,
    sources: tuple[str, ...] = (),
    network: bool = False,
) -> str:
    """The text of `zgedge-NAME.service` for a service in `root`/`name`.

    It may write only the folders `state` and `run` there, which must belong to `user`. Without
    `network` it has no network at all, and only its Unix socket; the network is for sources that
    need it (mqtt).
    """
    _check(name, root, runtime, user, commit_every, erase_block)
    if root.startswith("~"):
        raise UsageError("A systemd unit needs a folder with an absolute path.")
    folder = f"{root}/{name}"
    program = "bin/zgedge-native" if runtime == "native" else "venv/bin/zgedge"
    words = [
        f"{folder}/current/{program}", "run", f"{folder}/current/model.zge",
        *_options(commit_every, erase_block, sources),
        "--state", f"{folder}/current/state", "--socket", f"{folder}/run/socket",
    ]  # fmt: skip
    home = "read-only" if root.startswith(("/home/", "/root/")) else "yes"
    families = "AF_UNIX AF_INET AF_INET6" if network else "AF_UNIX"
    isolated = "" if network else "PrivateNetwork=yes\nIPAddressDeny=any\n"
    online = "After=network-online.target\nWants=network-online.target\n" if network else ""
    return f"""[Unit]
Description=zgedge: {name}
ConditionPathExists={folder}/current/model.zge
StartLimitIntervalSec=0
{online}
[Service]
Type=notify
NotifyAccess=main
ExecStart={" ".join(_quoted(word) for word in words)}
WatchdogSec={WATCHDOG}
TimeoutStartSec=120
TimeoutStopSec=60
Restart=on-failure
RestartSec=2
# From systemd 254 on each start waits longer; before, systemd says that it does not know these two.
RestartSteps=8
RestartMaxDelaySec=300

User={user}
Group={user}
UMask=0007
Environment=OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1
SyslogIdentifier=zgedge-{name}
LogRateLimitIntervalSec=60
LogRateLimitBurst=200

LimitDATA={limit_data(runtime, arena_bytes)}
LimitCORE=0
MemoryMax={memory_max(runtime, arena_bytes)}
MemorySwapMax=0
TasksMax=32

ReadWritePaths={folder}/state {folder}/run
ProtectSystem=strict
ProtectHome={home}
PrivateTmp=yes
PrivateDevices=yes
DevicePolicy=closed
{isolated}RestrictAddressFamilies={families}
PrivateUsers=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectProc=invisible
ProcSubset=all
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
PrivateIPC=yes
KeyringMode=private
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources @obsolete
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


def init_script(
    name: str,
    *,
    root: str,
    runtime: str,
    arena_bytes: int,
    user: str = "-",
    commit_every: float = 60,
    erase_block: int = 128 * KB,
    sources: tuple[str, ...] = (),
    heartbeat: int | None = None,
) -> str:
    """The text of an init script for a service in `root`/`name`: start, stop, restart, status.

    `root` may begin with ~, the home of whoever runs it. `user`: whom the service runs as where
    root starts it; - is whoever starts it. `heartbeat`: seconds between two signs of life.
    """
    _check(name, root, runtime, user, commit_every, erase_block)
    folder = f'"$HOME"{root[1:]}/{name}' if root.startswith("~") else f"{root}/{name}"
    options = shlex.join(_options(commit_every, erase_block, sources))
    if "'" in options:
        raise UsageError("A source of an init script can have no blanks or quotes.")
    settings = f"""#!/bin/sh
### BEGIN INIT INFO
# Provides:          zgedge-{name}
# Required-Start:    $local_fs $remote_fs
# Required-Stop:     $local_fs $remote_fs
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
# Short-Description: zgedge: {name}
### END INIT INFO
NAME={name} S={folder}
RUNTIME={runtime} RUN_AS={user}
OPTIONS='{options}'
LIMIT_KB={limit_data(runtime, arena_bytes) // KB}
HEARTBEAT={heartbeat or HEARTBEATS[runtime]}
"""
    return settings + (Path(__file__).resolve().parent / "init.sh").read_text()


def _options(commit_every: float, erase_block: int, sources: tuple[str, ...]) -> list[str]:
    words = ["--commit-every", f"{commit_every:g}", "--erase-block", str(erase_block)]
    for source in sources:
        words += ["--source", source]
    return words


def _quoted(word: str) -> str:
    """A word of ExecStart: systemd's own quoting, and its % and $ are no signs to it."""
    if any(not c.isprintable() for c in word):
        raise UsageError(f"{word!r} cannot stand in a unit.")
    word = word.replace("%", "%%").replace("$", "$$")
    if re.fullmatch(r"[A-Za-z0-9_@%+=:,./~$-]+", word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _runtime(runtime: str) -> str:
    if runtime not in HEARTBEATS:
        raise UsageError(f"There is no runtime {runtime!r}.", "There are python and native.")
    return runtime


def _check(
    name: str, root: str, runtime: str, user: str, commit_every: float, erase_block: int
) -> None:
    _runtime(runtime)
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name of a service.", "Small letters, digits and - do.")
    if not ROOT.fullmatch(root) or ".." in root.split("/"):
        raise UsageError(f"{root!r} is no folder for a service.", "Give an absolute path.")
    if user != "-" and not USER.fullmatch(user):
        raise UsageError(f"{user!r} is no user's name.")
    if not 1 <= commit_every <= 86400 * 7:
        raise UsageError(f"Commits each {commit_every} seconds mean nothing.")
    if erase_block < 4096 or erase_block & (erase_block - 1):
        raise UsageError(f"An erase block of {erase_block} bytes means nothing.")
