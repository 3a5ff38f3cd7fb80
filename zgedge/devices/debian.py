"""Debian's packages, fetched and unpacked without rights and without a trace on this machine."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from zgedge.errors import ZgedgeError

MIRROR = "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class Apt:
    """An apt of our own: it needs no rights, and leaves no trace on this machine."""

    def __init__(self, folder: Path, architecture: str, *, here: bool = False) -> None:
        """Lists of packages for an architecture, read into `folder`. `here`: what is installed on
        this machine counts as there."""
        self._folder = folder
        for name in ("state/lists/partial", "cache/archives/partial", "debs"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        mirror = os.environ.get("ZGEDGE_DEBIAN", MIRROR)
        (folder / "sources").write_text(f"deb [signed-by={KEYRING}] {mirror} bookworm main\n")
        status = "/var/lib/dpkg/status" if here else f"{folder}/status"
        (folder / "conf").write_text(
            f'Dir::State "{folder}/state"; Dir::State::status "{status}";\n'
            f'Dir::Cache "{folder}/cache"; Dir::Etc::sourcelist "{folder}/sources";\n'
            'Dir::Etc::sourceparts "-"; Dir::Etc::preferencesparts "-";\n'
            f'APT::Architecture "{architecture}"; APT::Architectures "{architecture}";\n'
            'APT::Sandbox::User "root"; Acquire::Languages "none"; Acquire::Retries "2";\n'
            'Acquire::http::Timeout "30"; Acquire::PDiffs "false";\n'
        )
        self._run("update")

    def download(self, packages: list[str]) -> list[Path]:
        self._run("download", *packages)
        return sorted((self._folder / "debs").glob("*.deb"))

    def needed(self, packages: list[str]) -> list[str]:
        """Packages and all that they need, without what only sets them up."""
        told = self._run("-s", "--no-install-recommends", "install", *packages)
        names = re.findall(r"^Inst (\S+)", told, re.MULTILINE)
        return [name for name in names if not re.match(r"perl|usrmerge|debconf|lib.*-perl", name)]

    def _run(self, *words: str) -> str:
        done = subprocess.run(
            ["apt-get", "-q", *words], cwd=self._folder / "debs", capture_output=True, text=True,
            env={**os.environ, "APT_CONFIG": str(self._folder / "conf"), "LC_ALL": "C"},
            timeout=300, check=False,
        )  # fmt: skip
        errors = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        if done.returncode or errors:
            raise ZgedgeError(
                f"Debian's packages cannot be had: {' '.join(errors)[:500] or done.stderr[:500]}",
                "A board is built from the internet once, and needs none later. ZGEDGE_DEBIAN may "
                "name another mirror.",
            )
        return done.stdout


def unpack(deb: Path, root: Path) -> None:
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as packed:
        done = subprocess.run(
            ["tar", "-C", root, "--keep-directory-symlink", "--exclude=./usr/share/doc",
             "--exclude=./usr/share/man", "--exclude=./usr/share/locale", "-xf", "-"],
            stdin=packed.stdout, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode or packed.returncode:
        raise ZgedgeError(f"Cannot unpack {deb.name}: {done.stderr.strip()[:500]}")
