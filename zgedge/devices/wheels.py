"""The wheels that a board's Python environment is made of, for the board's processor.

zgedge's own is put together here, from the sources that run: its library is compiled by zig for
the board, and the archive has no times and no order of its own, so the same sources give the same
bytes. What it depends on, and pip to install all of it, comes through this Python's pip, which
obeys the person's own index. All of it is kept in the cache.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import io
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import zgedge
from zgedge.devices import cross
from zgedge.devices.cross import Say
from zgedge.devices.places import cache_folder, make_folder
from zgedge.errors import ZgedgeError

PACKAGE = Path(zgedge.__file__).resolve().parent
LIBRARY = "zgedge/runtime/libzge.so"
NEEDED = ("numpy", "psutil", "click")
PLATFORMS = {"aarch64": "manylinux_2_28_aarch64", "armv7l": "manylinux_2_31_armv7l",
             "x86_64": "manylinux_2_28_x86_64"}  # fmt: skip
OLDEST_MANYLINUX = 17
FETCH_SECONDS = 600.0
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time that a zip archive can name

# For glibc 2.28 and newer, as the toolchain files in `cmake` have it.
CORE = cross.Product(
    "core", "library", "libzge.so",
    {"aarch64": "aarch64-linux-gnu.2.28", "armv7l": "arm-linux-gnueabihf.2.28",
     "x86_64": "x86_64-linux-gnu.2.28"},
    # Without -O3 at the link, zig puts what it has beside the core in, unused.
    ("-fPIC",), ("-shared", "-s", "-O3"),
)  # fmt: skip


def own(machine: str, *, compiled: bool = True, say: Say = lambda _: None) -> tuple[str, bytes]:
    """Name and bytes of this zgedge's wheel for a processor.

    `compiled` False leaves the library out and the sources in: the board compiles it.
    Raises MissingExtraError where it is to be compiled here and there is no compiler.
    """
    version = zgedge.__version__
    tag = f"py3-none-{PLATFORMS[machine] if compiled else 'any'}"
    contents = dict(_package(everything=not compiled))
    if compiled:
        contents[LIBRARY] = cross.build(CORE, machine, say=say).read_bytes()
    info = f"zgedge-{version}.dist-info"
    contents[f"{info}/METADATA"] = _metadata()
    contents[f"{info}/WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: zgedge\n"
        f"Root-Is-Purelib: {'false' if compiled else 'true'}\nTag: {tag}\n"
    ).encode()
    contents[f"{info}/entry_points.txt"] = b"[console_scripts]\nzgedge = zgedge.cli:main\n"
    record = "".join(
        f"{path},sha256={_record_hash(contents[path])},{len(contents[path])}\n"
        for path in sorted(contents)
    )
    contents[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    return f"zgedge-{version}-{tag}.whl", _archive(contents)


def _package(*, everything: bool) -> Iterator[tuple[str, bytes]]:
    """Files of the package that a device may need: no caches, no library, and of the core's
    sources those for other compilers only where `everything` is asked for."""
    core = PACKAGE / "runtime" / "core"
    for path in sorted(PACKAGE.rglob("*")):
        apart = path.name in ("zge_arm.h", "zge_x86.h") and path.parent == core
        hidden = any(p.startswith((".", "__pycache__")) for p in path.relative_to(PACKAGE).parts)
        wanted = path.is_file() and not hidden and path.suffix not in (".so", ".pyc")
        if wanted and (everything or not apart):
            yield f"zgedge/{path.relative_to(PACKAGE)}", path.read_bytes()


def _metadata() -> bytes:
    """Name, version and dependencies, as they were stated when this zgedge was installed."""
    lines = [
        "Metadata-Version: 2.1", "Name: zgedge", f"Version: {zgedge.__version__}",
        "Requires-Python: >=3.10",
    ]  # fmt: skip
    stated = importlib.metadata.requires("zgedge") or []
    lines += [f"Requires-Dist: {need}" for need in stated if "extra ==" not in need]
    return ("\n".join(lines) + "\n").encode()


def _record_hash(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")


def _archive(contents: dict[str, bytes]) -> bytes:
    """A zip archive of them, sorted, stored as they are: no compressor's version is in it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(contents):
            member = zipfile.ZipInfo(path, _EPOCH)
            member.create_system, member.external_attr = 3, 0o100644 << 16
            archive.writestr(member, contents[path])
    return out.getvalue()


# ---- what it depends on ----


def dependencies(
    machine: str, python: str, platform: str, say: Say = lambda _: None
) -> dict[str, bytes]:
    """Names and bytes of the wheels of numpy, psutil, click and pip for a board's Python, such as
    "3.11", fetched once and kept. `platform` is the newest that the board takes.

    Raises ZgedgeError where there is none of one of them, or no network.
    """
    folder = make_folder(cache_folder() / "wheels") / f"{platform}-{python}"
    if not folder.exists():
        say(f"Fetching {', '.join(NEEDED)} and pip for {machine}, Python {python} ...")
        with tempfile.TemporaryDirectory(prefix=".part-", dir=folder.parent) as part:
            _download(python, platforms(platform), part)
            try:
                Path(part).chmod(0o755)
                os.rename(part, folder)
                os.mkdir(part)  # for whoever removes it
            except OSError:
                if not folder.exists():  # another process was faster
                    raise
    found = {path.name: path.read_bytes() for path in sorted(folder.glob("*.whl"))}
    for name in (*NEEDED, "pip"):
        if not any(file.startswith(f"{name}-") for file in found):
            raise ZgedgeError(f"{folder} has no wheel of {name}.", "Remove it: it is made again.")
    return found


def platforms(newest: str) -> list[str]:
    """`manylinux_2_28_aarch64` and the older ones that a board which takes it takes too."""
    found = re.fullmatch(r"manylinux_2_(\d+)_(\w+)", newest)
    if found is None:
        return [newest]
    tags = [f"manylinux_2_{i}_{found[2]}" for i in range(int(found[1]), OLDEST_MANYLINUX - 1, -1)]
    return [*tags, f"manylinux2014_{found[2]}"]


def _download(python: str, tags: list[str], folder: str) -> None:
    short = python.replace(".", "")
    command = [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q", "--no-deps",
        "--only-binary=:all:", "--implementation", "cp", "--python-version", python,
        "--abi", f"cp{short}", "--abi", "abi3", "--abi", "none", "-d", folder,
    ]  # fmt: skip
    for tag in tags:
        command += ["--platform", tag]
    needs = [n for n in (importlib.metadata.requires("zgedge") or []) if "extra ==" not in n]
    _run([*command, *needs, "pip"], FETCH_SECONDS, "fetch the wheels of what zgedge depends on")


def requirements(found: dict[str, bytes]) -> bytes:
    """A requirements file that pins these wheels by their hashes, for a board that fetches them
    itself."""
    lines = []
    for file in sorted(found):
        name, version = file.split("-")[:2]
        if name != "pip":
            digest = hashlib.sha256(found[file]).hexdigest()
            lines.append(f"{name}=={version} --hash=sha256:{digest}\n")
    return "".join(lines).encode()


def _run(command: list[str], seconds: float, what: str) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as e:
        raise ZgedgeError(f"Could not {what} in {seconds:.0f} s.") from e
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise ZgedgeError(f"Could not {what}:\n{said}")
