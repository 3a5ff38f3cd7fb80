"""A program `ssh` that runs commands on this machine, or fails as it is told."""

from __future__ import annotations

from pathlib import Path

_FAKE = r"""#!/bin/sh
# Told by files beside it: `refuse` is what a connection ends with.
here=$(dirname "$0")
printf '%s\n' "$*" >>"$here/calls"
socket='' master=no
while [ $# -gt 0 ]; do
    case $1 in
        -M) master=yes ;;
        -S) socket=$2; shift ;;
        -G) printf 'user pi\nidentityfile %s\n' "$here/ssh"; exit 0 ;;
        -F | -p | -o) shift ;;
        --) shift; break ;;
    esac
    shift
done
if [ $master = yes ]; then
    if [ -e "$here/refuse" ]; then cat "$here/refuse" >&2; exit 255; fi
    : >"$socket"
    exec sleep 600
fi
PATH="$here/board:/usr/bin:/bin" exec sh -c "$2"
"""


def fake_ssh(folder: Path) -> Path:
    """The folder with the program, to be put first in PATH. Programs in its folder `board` are
    those of the board, before this machine's."""
    place = folder / "fake-ssh"
    (place / "board").mkdir(parents=True)
    (place / "ssh").write_text(_FAKE)
    (place / "ssh").chmod(0o755)
    return place


def tool(place: Path, name: str, script: str) -> None:
    """Give the board a program."""
    path = place / "board" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
