#!/bin/bash
# make_venv.sh FOLDER [PYTHON]: a virtual environment with Python 3.11 or newer.
set -euo pipefail
folder=$1
wanted=${2:-}

# Usable: new enough, able to make environments, and not a stub that only says it is not installed.
usable() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

if [ -n "$wanted" ]; then
    candidates=("$wanted")
else
    candidates=(python3 python3.13 python3.12 python3.11 python3.14 python)
fi
for python in "${candidates[@]}"; do
    if usable "$python"; then
        echo "$folder: $("$python" --version) ($(command -v "$python"))"
        "$python" -m venv "$folder"
        exit 0
    fi
done
{
    echo "zgedge needs Python 3.11 or newer with its venv module. Tried: ${candidates[*]}."
    echo "On Debian, Raspberry Pi OS and Ubuntu: sudo apt install python3 python3-venv"
    echo "If another one is here, name it: make demo PYTHON=/path/to/python3"
} >&2
exit 1
