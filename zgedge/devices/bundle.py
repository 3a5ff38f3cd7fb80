"""The bundle: one file with all that a board needs, its hashes, and a signature over them.

```
zgedge-bundle 1 <bytes of the manifest> <bytes of the signature>
<manifest><signature><content of each file, in the manifest's order>
```

The manifest is text; docs/deploy.md has its grammar. It names no folder that could be left: a
path is `model.zge`, `golden.bin`, or one file in `bin/` or `wheels/`. The same inputs give the
same bytes: there is no time in it. The board reads it with `agent.sh`, this module on the desk.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from zgedge import arena as files
from zgedge.errors import ModelError, UsageError, ZgedgeError

MAGIC = b"zgedge-bundle 1 "
HEAD = "zgedge-manifest 1"
FIRST_LINE = 64  # bytes at most
MANIFEST_MOST = 64 * 1024
SIGNATURE_MOST = 16 * 1024
COUNTER_MOST = BYTES_MOST = 999_999_999  # the board's shell counts in 32 bits
FILES_MOST = 100
MACHINES = ("aarch64", "armv7l", "x86_64")
RUNTIMES = ("python", "native")
MODES = ("644", "755")
MODEL, GOLDEN = "model.zge", "golden.bin"
PROGRAM = "bin/zgedge-native"

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_PATH = re.compile(r"model\.zge|golden\.bin|(?:bin|wheels)/[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_HASH = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
_VERSION = re.compile(r"[0-9][A-Za-z0-9.+]{0,31}")


KEYS = "trusted"  # the file of keys, beside the folders of services


class BundleError(ModelError):
    """A bundle is not one, is damaged, or is not what it says. Nothing of it is used."""


def check_name(name: str) -> str:
    """A service's name, as it is. Raises UsageError."""
    if not _NAME.fullmatch(name) or name == KEYS:
        raise UsageError(
            f"{name!r} cannot name a service.",
            "A name has up to 32 of a-z, 0-9 and -, begins with no -, and is not that of a board's "
            f"list of keys, {KEYS!r}; give one with --name.",
        )
    return name


def name_of(model: str) -> str:
    """The name a model file's service has by itself: its stem, as far as a name can have it."""
    stem = re.sub(r"[^a-z0-9]+", "-", Path(model).stem.lower()).strip("-")[:32].strip("-")
    return "model" if stem in ("", KEYS) else stem


@dataclass(frozen=True)
class Entry:
    """A file of a bundle."""

    sha256: str
    size: int
    mode: str
    path: str

    def __str__(self) -> str:
        return f"file {self.sha256} {self.size} {self.mode} {self.path}"


@dataclass(frozen=True)
class Manifest:
    """What a bundle is: for which service, kind of board and processor, and its files."""

    name: str
    device: str
    machine: str
    runtime: str
    counter: int
    model: str
    zgedge: str
    files: tuple[Entry, ...]

    def pack(self) -> bytes:
        """The manifest's bytes. Raises BundleError for one that a board would refuse."""
        lines = [
            HEAD, f"name {self.name}", f"device {self.device}", f"machine {self.machine}",
            f"runtime {self.runtime}", f"counter {self.counter}", f"model {self.model}",
            f"zgedge {self.zgedge}", *map(str, self.files),
        ]  # fmt: skip
        raw = ("\n".join(lines) + "\n").encode()
        if parse_manifest(raw) != self:
            raise BundleError("The manifest does not read as it was written.")
        return raw

    @property
    def version(self) -> str:
        """The folder's name of this version on a board: counter and hash."""
        return f"{self.counter}-{hashlib.sha256(self.pack()).hexdigest()[:8]}"


def parse_manifest(raw: bytes) -> Manifest:
    """A manifest from its bytes. Raises BundleError that names the line that is wrong."""
    if len(raw) > MANIFEST_MOST:
        raise BundleError(f"The manifest has {len(raw):,} bytes; {MANIFEST_MOST:,} is the most.")
    if not raw.endswith(b"\n") or re.search(rb"[^\x20-\x7e\n]", raw):
        raise BundleError("The manifest is no text of whole lines.")
    lines = raw.decode("ascii")[:-1].split("\n")
    forms = (
        ("name", _NAME), ("device", _NAME), ("machine", re.compile("|".join(MACHINES))),
        ("runtime", re.compile("|".join(RUNTIMES))), ("counter", _NUMBER), ("model", _HASH),
        ("zgedge", _VERSION),
    )  # fmt: skip
    if lines[0] != HEAD:
        raise BundleError(f"Line 1 of the manifest is not {HEAD!r}.")
    values: dict[str, str] = {}
    for number, (key, form) in enumerate(forms, 2):
        line = lines[number - 1] if number <= len(lines) else ""
        if not line.startswith(f"{key} ") or not form.fullmatch(line[len(key) + 1 :]):
            raise BundleError(f"Line {number} of the manifest has no {key}.")
        values[key] = line[len(key) + 1 :]
    entries = [_entry(n, line) for n, line in enumerate(lines[8:], 9)]
    manifest = Manifest(
        values["name"], values["device"], values["machine"], values["runtime"],
        int(values["counter"]), values["model"], values["zgedge"], tuple(entries),
    )  # fmt: skip
    _check_files(manifest)
    return manifest


def _entry(number: int, line: str) -> Entry:
    words = line.split(" ")
    whole = (
        len(words) == 5
        and words[0] == "file"
        and _HASH.fullmatch(words[1])
        and _NUMBER.fullmatch(words[2])
        and words[3] in MODES
        and _PATH.fullmatch(words[4])
    )
    if not whole:
        raise BundleError(f"Line {number} of the manifest names no file that a bundle may have.")
    return Entry(words[1], int(words[2]), words[3], words[4])


def _check_files(manifest: Manifest) -> None:
    by_path = {entry.path: entry for entry in manifest.files}
    if len(by_path) != len(manifest.files) or len(by_path) > FILES_MOST:
        raise BundleError("The manifest names a file twice, or too many.")
    if sum(entry.size for entry in manifest.files) > BYTES_MOST:
        raise BundleError("The bundle's files are more than 1 GB.")
    if MODEL not in by_path or GOLDEN not in by_path:
        raise BundleError(f"A bundle has {MODEL} and {GOLDEN}; this one lacks one of them.")
    if by_path[MODEL].sha256 != manifest.model:
        raise BundleError(f"{MODEL} is not the model that the manifest names.")
    if manifest.runtime == "native" and PROGRAM not in by_path:
        raise BundleError(f"A bundle for the native program has {PROGRAM}; this one has not.")
    if manifest.runtime == "python" and not any(p.startswith("wheels/") for p in by_path):
        raise BundleError("A bundle for Python has wheels; this one has none.")


def entries(contents: Mapping[str, bytes]) -> tuple[Entry, ...]:
    """Entries of files, in the one order that a bundle has: by path."""
    return tuple(
        Entry(
            hashlib.sha256(contents[path]).hexdigest(), len(contents[path]),
            "755" if path.startswith("bin/") else "644", path,
        )
        for path in sorted(contents)
    )  # fmt: skip


def pack(manifest: Manifest, contents: Mapping[str, bytes], signature: bytes = b"") -> bytes:
    """A bundle's bytes. Raises BundleError where the contents are not those of the manifest."""
    raw = manifest.pack()
    if manifest.files != entries(contents):
        raise BundleError("The files are not those that the manifest names.")
    if len(signature) > SIGNATURE_MOST:
        raise BundleError(f"A signature of {len(signature):,} bytes is too long.")
    first = MAGIC + f"{len(raw)} {len(signature)}\n".encode()
    return b"".join([first, raw, signature, *(contents[e.path] for e in manifest.files)])


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read: every hash in it is right. Whether its signature is, says
    `keys.verify`."""

    manifest: Manifest
    raw: bytes  # of the manifest: what is signed
    signature: bytes
    contents: dict[str, bytes]


def read(data: bytes) -> Bundle:
    """A bundle from its bytes, everything checked but the signature. Raises BundleError."""
    first, newline, _ = data[:FIRST_LINE].partition(b"\n")
    sizes = first.removeprefix(MAGIC).split(b" ")
    whole = newline and first.startswith(MAGIC) and len(sizes) == 2
    if not whole or not all(_NUMBER.fullmatch(s.decode("latin-1")) for s in sizes):
        raise BundleError("This is no bundle of zgedge, or one of a later version.")
    at = len(first) + 1
    manifest_bytes, signature_bytes = int(sizes[0]), int(sizes[1])
    if manifest_bytes > MANIFEST_MOST or signature_bytes > SIGNATURE_MOST:
        raise BundleError("The bundle's manifest or signature is too long.")
    raw = data[at : at + manifest_bytes]
    at += manifest_bytes
    signature = data[at : at + signature_bytes]
    at += signature_bytes
    if len(data) < at:
        raise BundleError(f"The bundle ends after {len(data):,} bytes, in its manifest.")
    manifest = parse_manifest(raw)
    total = at + sum(entry.size for entry in manifest.files)
    if len(data) != total:
        raise BundleError(f"The bundle has {len(data):,} bytes; its manifest says {total:,}.")
    contents: dict[str, bytes] = {}
    for entry in manifest.files:
        content = data[at : at + entry.size]
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise BundleError(f"{entry.path} in the bundle is damaged: its hash is another.")
        contents[entry.path] = content
        at += entry.size
    return Bundle(manifest, raw, signature, contents)


def read_file(path: str | os.PathLike[str]) -> Bundle:
    """The bundle of a file. Raises BundleError, ZgedgeError where it cannot be read."""
    try:
        return read(Path(path).read_bytes())
    except OSError as e:
        raise ZgedgeError(f"Cannot read {os.fspath(path)}: {e.strerror}.") from e


def make(
    model: bytes,
    golden: bytes,
    *,
    name: str,
    device: str,
    machine: str,
    runtime: str,
    counter: int,
    version: str,
    others: Iterable[tuple[str, bytes]],
) -> tuple[Manifest, dict[str, bytes]]:
    """Manifest and contents of a bundle of `model`, its golden set and `others` (path, bytes).

    Raises BundleError for what no board would take, UsageError for a counter out of its range.
    """
    if not 0 < counter <= COUNTER_MOST:
        raise UsageError(f"A counter is from 1 to {COUNTER_MOST:,}, not {counter:,}.")
    contents = {MODEL: model, GOLDEN: golden, **dict(others)}
    digest = hashlib.sha256(model).hexdigest()
    found = Manifest(
        check_name(name), device, machine, runtime, counter, digest, version, entries(contents)
    )
    found.pack()
    return found, contents


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a bundle's file, at once or not at all. Raises ZgedgeError where that fails."""
    files.replace_file(path, data)
