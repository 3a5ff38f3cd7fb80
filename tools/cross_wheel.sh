#!/bin/bash
# cross_wheel.sh aarch64|armv7l|x86_64 [FOLDER]: a wheel for another processor, in FOLDER (dist).
#
# zig from PyPI is the compiler, so nothing but the extra `deploy` is needed. The wheel runs with glibc
# 2.28 (2018) and newer and with every Python from 3.10 on.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
processor=${1:-}
folder=${2:-$here/dist}
python=${PYTHON:-$here/.venv/bin/python}
case $processor in
    aarch64 | x86_64) target=$processor-linux-gnu ;;
    armv7l) target=armv7-linux-gnueabihf ;;
    *)
        echo "usage: tools/cross_wheel.sh aarch64|armv7l|x86_64 [FOLDER]" >&2
        exit 2
        ;;
esac
tag=manylinux_2_28_$processor
[ "$processor" = armv7l ] && tag=manylinux_2_31_armv7l # there is no older tag for 32-bit Arm

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
# By its path, so that CMake need not know this Python.
ZIG=$("$python" -c "import importlib.util as u; print(*u.find_spec('ziglang').submodule_search_locations)")/zig
export ZIG
# The project says both itself. Said here as well, CMake's trial programs have them too: for each level that
# something is linked with, zig builds its own libraries once more.
export CFLAGS="-O3 ${CFLAGS:-}" LDFLAGS="-s ${LDFLAGS:-}"
"$python" -m pip --disable-pip-version-check -q wheel "$here" --no-deps --no-build-isolation -w "$build" \
    -C "cmake.args=-DCMAKE_TOOLCHAIN_FILE=$here/cmake/$target.cmake" -C install.strip=false
# The build names this machine; the file inside is for the other one.
wheel=$("$python" -m wheel tags --remove --platform-tag "$tag" "$build"/zgedge-*.whl)
mkdir -p "$folder"
mv "$build/$wheel" "$folder/"
echo "$folder/$wheel"
