#!/bin/bash
# Install Chromium from the machine's packages, for the tests that open reports in a real browser.
#
# Nothing is done where a browser is there already. Installing needs root, or sudo that asks for no
# password; where neither is to be had, or the packages have no Chromium, it says what to do, and the
# tests that need a browser are skipped with that reason.
set -uo pipefail

for browser in chromium chromium-browser google-chrome google-chrome-stable; do
    if command -v "$browser" >/dev/null; then exit 0; fi
done

skip() {
    echo "chromium: $1; tests in a browser will be skipped"
    exit 0
}

command -v apt-get >/dev/null || skip "install it with this machine's packages (there is no apt-get)"
as=()
if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || skip "install it with: sudo apt-get install chromium"
    as=(sudo -n)
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
    "${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=2 \
        -o Acquire::http::Timeout=30 -o DPkg::Lock::Timeout=120 "$@" >>"$log" 2>&1
}
# Lists of packages may be missing or old: they are brought once an installation failed.
install() { apt install -y --no-install-recommends chromium fonts-dejavu-core; }
if { install || { apt update && install; }; } && command -v chromium >/dev/null; then
    echo "chromium: installed ($(chromium --version 2>/dev/null | cut -d' ' -f1,2))"
else
    tail -n 3 "$log"
    skip "not to be had from this machine's packages"
fi
