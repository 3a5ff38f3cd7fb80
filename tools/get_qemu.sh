#!/bin/bash
# Bring emulators into .cache/qemu: of 64-bit and 32-bit Arm programs, for the tests that run the core
# there, and of a board with a Cortex-M4, for the tests of exported C.
#
# They are unpacked from Debian's or Ubuntu's packages qemu-user-static and qemu-system-arm (with the
# libraries that this machine lacks); nothing is installed and no setting of this machine changes.
# Where that is not possible the emulators of this machine are used, and where there are none the tests
# that need them are skipped with that reason.
set -uo pipefail
cd "$(dirname "$0")/.."
to=.cache/qemu
users="qemu-aarch64 qemu-arm"
board="qemu-system-arm"

have() { for e in "$@"; do [ -x "$to/$e" ] && "$to/$e" --version >/dev/null 2>&1 || return 1; done; }

from_machine() {
    for e in "$@"; do
        found=$(command -v "$e-static" || command -v "$e") || return 1
        ln -sf "$found" "$to/$e"
    done
}

# unpack PACKAGE: it, and the packages that it needs and this machine lacks, under $apt/unpacked. An apt of
# our own, with the machine's sources and list of packages: it needs no rights and leaves no trace.
unpack() (
    set -e
    mkdir -p "$apt"/state/lists/partial "$apt"/cache/archives/partial
    cat >"$apt/apt.conf" <<C
Dir::State "$apt/state"; Dir::State::status "/var/lib/dpkg/status"; Dir::Cache "$apt/cache";
APT::Sandbox::User "$(id -un)"; Acquire::Languages "none"; Acquire::http::Timeout "30"; Acquire::Retries "2";
C
    export APT_CONFIG="$apt/apt.conf"
    apt-get -qq update
    cd "$apt"
    packages=$(apt-get -s --no-install-recommends install "$1" | sed -n 's/^Inst \([^ ]*\).*/\1/p')
    # shellcheck disable=SC2086 # a word each
    apt-get -qq download $packages
    for deb in *.deb; do dpkg-deb -x "$deb" unpacked; done
)

# from_package PACKAGE KEEP: unpack, then run KEEP, which takes what is needed out of $apt/unpacked.
from_package() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    apt=$(mktemp -d) || return 1
    local ok=0
    { unpack "$1" && "$2"; } >"$to/log" 2>&1 || ok=1
    rm -rf "$apt"
    return $ok
}

keep_users() {
    for e in $users; do
        cp "$apt/unpacked/usr/bin/$e-static" "$to/$e.part" && mv "$to/$e.part" "$to/$e" || return 1
    done
}

# The program finds the unpacked libraries beside it.
keep_board() {
    local libraries
    rm -rf "$to/board.part"
    mkdir -p "$to/board.part/lib" || return 1
    cp "$apt/unpacked/usr/bin/$board" "$to/board.part/" || return 1
    for libraries in "$apt"/unpacked/usr/lib/*-linux-gnu* "$apt"/unpacked/lib/*-linux-gnu*; do
        [ -d "$libraries" ] && cp -a "$libraries/." "$to/board.part/lib/"
    done
    rm -rf "$to/board.part/lib/qemu" # modules of screens and sound
    rm -rf "$to/board" && mv "$to/board.part" "$to/board" || return 1
    cat >"$to/$board.part" <<'C'
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")/board
LD_LIBRARY_PATH="$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" exec "$here/qemu-system-arm" "$@"
C
    chmod +x "$to/$board.part" && mv "$to/$board.part" "$to/$board"
}

# bring WHAT PACKAGE KEEP EMULATORS...
bring() {
    local what=$1 package=$2 keep=$3
    shift 3
    if have "$@"; then return; fi
    if from_machine "$@" && have "$@"; then
        echo "qemu: $what of this machine"
    elif from_package "$package" "$keep" && have "$@"; then
        echo "qemu: $what unpacked into $to"
    else
        rm -f "${@/#/$to/}"
        echo "qemu: no $what to be had here (see $to/log); tests on emulated Arm will be skipped"
    fi
}

mkdir -p "$to"
# shellcheck disable=SC2086 # a word each
bring "emulators of programs" qemu-user-static keep_users $users
bring "emulator of a board" qemu-system-arm keep_board $board
exit 0
