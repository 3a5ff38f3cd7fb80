"""Signatures of bundles: OpenSSH's own, made and verified by `ssh-keygen -Y`.

In the person's settings lie `key` and `key.pub`, and `trusted`: an allowed-signers file with the
keys that this desk, and the boards it sets up, take bundles from. A key that an agent or a token
keeps is used by naming its public half.
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zgedge import arena as files
from zgedge.devices.places import config_folder, make_folder
from zgedge.errors import UsageError, ZgedgeError

BUNDLES = "zgedge-bundle"  # namespaces: a signature of one kind is none of the other
TRUST = "zgedge-trust"
SIGNER = "zgedge"  # the one principal of the allowed-signers files
OPTIONS = f'namespaces="{BUNDLES},{TRUST}"'
TIMEOUT = 60.0  # a token may ask to be touched

_LINE = re.compile(
    r"(ssh-ed25519|ecdsa-[\w@.-]+|sk-[\w@.-]+|ssh-rsa) ([A-Za-z0-9+/]+={0,2})(?: .*)?"
)


@dataclass(frozen=True)
class Key:
    """The public half of a key: `kind`, `body` as OpenSSH writes them, and a comment."""

    kind: str
    body: str
    comment: str

    @property
    def line(self) -> str:
        return f"{self.kind} {self.body} {self.comment}".rstrip()

    @property
    def allowed(self) -> str:
        """Its line in an allowed-signers file."""
        return f"{SIGNER} {OPTIONS} {self.line}"


def parse(line: str) -> Key:
    """A key from its line in a .pub file. Raises UsageError."""
    text = line.strip()
    if not _LINE.fullmatch(text):
        raise UsageError(
            "This is no public key of OpenSSH.",
            "Give the file that ends in .pub, or its one line: ssh-ed25519 AAAA... name.",
        )
    kind, body, *comment = text.split(" ", 2)
    clean = re.sub(r"[^\x21-\x7e]+", "-", comment[0])[:64] if comment else ""
    return Key(kind, body, clean)


def own_path() -> Path:
    """The desk's own key; it may not exist."""
    return config_folder() / "key"


def trusted_path() -> Path:
    return config_folder() / "trusted"


def own() -> Key:
    """The public half of the desk's own key. Raises ZgedgeError where there is none."""
    return public(own_path(), "Make one with: zgedge key new.")


def public(
    path: str | os.PathLike[str],
    hint: str = "Make one with: zgedge key new, or name yours with --key.",
) -> Key:
    """The public half of the key in `path`, or beside it. Raises ZgedgeError, with that hint."""
    file = Path(path)
    if file.suffix != ".pub":
        file = file.with_name(file.name + ".pub")
    try:
        return parse(file.read_text())
    except (OSError, UnicodeDecodeError) as e:
        if file != Path(path) and Path(path).exists():
            told = f"{path} is no public key, and there is no {file} beside it."
        else:
            told = f"There is no key {file}."
        raise ZgedgeError(told, hint) from e


def new(comment: str) -> Key:
    """Make the desk's own key, and trust it. Raises UsageError where there is one already."""
    path = own_path()
    if path.exists():
        raise UsageError(
            f"There is a key already: {path}.",
            "Boards trust it. To take another, move it and its .pub away first.",
        )
    make_folder(path.parent, 0o700)
    _keygen(["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])
    key = own()
    trust(key)
    return key


def make_own(say: Callable[[str], None], key: str | None = None) -> None:
    """Make the key of a desk that has none, and say so; one that is named must be there. The desk
    trusts its own in any case: that may have been cut off when it was made."""
    if key is not None:
        public(key)
    elif not own_path().exists():
        made = new(f"{getpass.getuser()}@{socket.gethostname()}")
        say(f"Made this desk's key: {fingerprint(made)} in {own_path()}.")
    else:
        trust(own())


def trusted() -> list[Key]:
    """The keys that bundles are taken from, here and on boards that are set up from here."""
    try:
        lines = trusted_path().read_text().splitlines()
    except FileNotFoundError:
        return []
    except OSError as e:
        raise ZgedgeError(f"Cannot read {trusted_path()}: {e.strerror}.") from e
    except UnicodeDecodeError as e:
        raise _damaged(str(e)) from e
    head = f"{SIGNER} {OPTIONS} "
    try:
        return [parse(line[len(head) :]) for line in lines if line.startswith(head)]
    except UsageError as e:
        raise _damaged("a line of it has no key") from e


def _damaged(why: str) -> ZgedgeError:
    return ZgedgeError(
        f"{trusted_path()} is damaged: {why}.",
        "Mend it, or remove it and let others in again with: zgedge key trust KEY.pub.",
    )


def trust(key: Key) -> bool:
    """Trust a key from now on; whether it was not trusted before."""
    known = trusted()
    if any(k.body == key.body for k in known):
        return False
    make_folder(config_folder(), 0o700)
    files.replace_file(trusted_path(), allowed_signers([*known, key]))
    return True


def allowed_signers(known: Sequence[Key]) -> bytes:
    """An allowed-signers file of these keys."""
    return "".join(f"{key.allowed}\n" for key in known).encode()


def fingerprint(key: Key) -> str:
    """As `ssh-keygen -l` prints it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "key.pub")
        path.write_text(key.line + "\n")
        return _keygen(["-l", "-f", str(path)]).decode().split()[1]


def sign(data: bytes, key: str | os.PathLike[str] | None = None, namespace: str = BUNDLES) -> bytes:
    """The armored signature of `data` by `key` (a private key's file, or a .pub whose other half
    the agent has), else by the desk's own. The same data and an ed25519 key give the same bytes.

    Raises ZgedgeError where there is no such key or it cannot sign.
    """
    path = Path(own_path() if key is None else key)
    public(path)  # says what to do where there is none
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "data")
        file.write_bytes(data)
        _keygen(["-q", "-Y", "sign", "-f", str(path), "-n", namespace, str(file)])
        return Path(folder, "data.sig").read_bytes()


def verify(data: bytes, signature: bytes, known: bytes, namespace: str = BUNDLES) -> bool:
    """Whether `signature` is one of `data` by a key of the allowed-signers file `known`."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("signature", "signers")]
        for path, content in zip(paths, (signature, known), strict=True):
            path.write_bytes(content)
        command = ["-q", "-Y", "verify", "-f", str(paths[1]), "-I", SIGNER, "-n", namespace,
                   "-s", str(paths[0])]  # fmt: skip
        try:
            _keygen(command, data)
        except _RefusedError:
            return False
    return True


class _RefusedError(ZgedgeError):
    """ssh-keygen said no."""


def _keygen(arguments: Sequence[str], data: bytes = b"") -> bytes:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise ZgedgeError(
            "There is no ssh-keygen on this machine.", "Install OpenSSH's client, 8.2 or newer."
        )
    try:
        done = subprocess.run(
            [program, *arguments], input=data, capture_output=True, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as e:
        raise ZgedgeError("ssh-keygen took too long: it waits for a passphrase or a token.",
                          "Load the key into ssh-agent first, with ssh-add.") from e  # fmt: skip
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split())
        raise _RefusedError(f"ssh-keygen failed: {said or f'exit code {done.returncode}'}.")
    return done.stdout
