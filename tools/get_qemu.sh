#!/bin/bash
# Bring emulators for 64-bit and 32-bit Arm into .cache/qemu, for the tests that run the core there.
#
# They are unpacked from Debian's or Ubuntu's package qemu-user-static; nothing is installed and no
# setting of this machine changes. Where that is not possible the emulators of this machine are used,
# and where there are none the tests that need them are skipped with that reason.
set -uo pipefail
cd "$(dirname "$0")/.."
to=.cache/qemu
emulators="qemu-aarch64 qemu-arm"

have() { for e in $emulators; do [ -x "$to/$e" ] && "$to/$e" --version >/dev/null 2>&1 || return 1; done; }

from_machine() {
    for e in $emulators; do
        found=$(command -v "$e-static" || command -v "$e") || return 1
        ln -sf "$found" "$to/$e"
    done
}

from_package() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    local apt
    apt=$(mktemp -d) || return 1
    (
        set -e
        mkdir -p "$apt"/state/lists/partial "$apt"/cache/archives/partial
        : >"$apt/state/status"
        # An apt of our own, with the machine's sources: it needs no rights and leaves no trace.
        cat >"$apt/apt.conf" <<C
Dir::State "$apt/state"; Dir::State::status "$apt/state/status"; Dir::Cache "$apt/cache";
APT::Sandbox::User "$(id -un)"; Acquire::Languages "none"; Acquire::http::Timeout "30"; Acquire::Retries "2";
C
        export APT_CONFIG="$apt/apt.conf"
        apt-get -qq update
        cd "$apt"
        apt-get -qq download qemu-user-static
        dpkg-deb -x qemu-user-static_*.deb unpacked
    ) >"$to/log" 2>&1 || { rm -rf "$apt"; return 1; }
    for e in $emulators; do cp "$apt/unpacked/usr/bin/$e-static" "$to/$e.part" && mv "$to/$e.part" "$to/$e"; done
    rm -rf "$apt"
}

mkdir -p "$to"
if have; then exit 0; fi
if from_machine && have; then
    echo "qemu: the emulators of this machine"
elif from_package && have; then
    echo "qemu: unpacked into $to"
else
    echo "qemu: not to be had here (see $to/log); tests on emulated Arm will be skipped"
fi
exit 0
