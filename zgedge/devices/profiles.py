"""What a board is: a profile for each kind, in TOML, checked field by field.

The ones that come with zgedge lie in zgedge/devices/profiles, a person's own in the folder
`profiles` of their settings; one there takes the place of the one of the same name here.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from zgedge.devices.places import config_folder, make_folder
from zgedge.errors import UsageError, ZgedgeError

BUILT_IN = Path(__file__).resolve().parent / "profiles"
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
MACHINES = ("aarch64", "armv7l", "x86_64")
RUNTIMES = ("python", "native")
SERVICES = ("systemd", "init")
LARGEST = 1 << 16  # bytes of a profile


@dataclass(frozen=True)
class Profile:
    """One kind of board.

    name            how one asks for it: --device NAME
    title           its name in the world
    models          what /proc/device-tree/model begins with on such a board; empty: not told
    machine         `uname -m` of its user land: aarch64, armv7l or x86_64
    cpu             the processor, as compilers and qemu call it
    cores           how many of them
    features        words of /proc/cpuinfo that each such board has
    system          its stock system
    libc            the oldest glibc that the wheels run with; empty: none is needed
    stock_libc      the glibc of the stock system; empty: not known
    python          Pythons of stock systems; empty: none that can be used
    runtime         which program serves there by itself: python or native
    wheel_platform  the platform tag of wheels for it; empty: there are none
    memory_mb       memory of the smallest model
    page_bytes      a page of memory
    erase_block     bytes that its disk erases at once
    service         what starts services: systemd or init
    root            the folder that all is written to where one has root rights
    needs_sudo      whether the stock system's user is not root
    accelerator     what the accelerator takes; none: there is none
    predict_factor  a prediction's time there, in times of this host's
    estimated       fields that nobody measured or documents
    """

    name: str
    title: str
    models: tuple[str, ...]
    machine: str
    cpu: str
    cores: int
    features: tuple[str, ...]
    system: str
    libc: str
    stock_libc: str
    python: tuple[str, ...]
    runtime: str
    wheel_platform: str
    memory_mb: int
    page_bytes: int
    erase_block: int
    service: str
    root: str
    needs_sudo: bool
    accelerator: str
    predict_factor: float
    estimated: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


_TEXT = {
    "machine": "|".join(MACHINES), "runtime": "|".join(RUNTIMES), "service": "|".join(SERVICES),
    "cpu": r"[a-z0-9][a-z0-9.+_-]*", "libc": r"(2\.\d{1,2})?", "stock_libc": r"(2\.\d{1,2})?",
    "wheel_platform": r"(manylinux_2_\d{1,2}_(aarch64|armv7l|x86_64))?",
    "root": r"(/[A-Za-z0-9._-]+){1,8}", "title": r".{1,80}", "system": r".{1,120}",
    "accelerator": r".{1,120}",
}  # fmt: skip
_WORDS = {"models": r".{1,80}", "features": r"[a-z0-9_]+", "python": r"3\.\d{1,2}",
          "estimated": r"[a-z_]+"}  # fmt: skip
_NUMBERS = {"cores": (1, 1024), "memory_mb": (8, 1 << 22), "page_bytes": (4096, 65536),
            "erase_block": (4096, 1 << 26)}  # fmt: skip
_POWERS = ("page_bytes", "erase_block")


def validate(table: dict[str, Any], name: str, where: str) -> Profile:
    """A profile from what a file says. Raises UsageError, with field and place, for all else."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name of a profile.",
            "It has at most 32 small letters, digits and dashes, and begins with no dash.",
        )
    known = [field.name for field in fields(Profile) if field.name != "name"]

    def wrong(field: str, what: str) -> UsageError:
        return UsageError(f"{where}: {field} {what}.", "docs/devices.md tells what each field is.")

    for field in table:
        if field not in known:
            raise wrong(field, "is no field of a profile")
    made: dict[str, Any] = {"name": name}
    for field in known:
        if field not in table:
            raise wrong(field, "is missing")
        value = table[field]
        if field in _TEXT:
            if not isinstance(value, str) or not re.fullmatch(_TEXT[field], value):
                raise wrong(field, f"must be a text of the form {_TEXT[field]}, not {value!r}")
        elif field in _WORDS:
            good = isinstance(value, list) and all(
                isinstance(word, str) and re.fullmatch(_WORDS[field], word) for word in value
            )
            if not good:
                raise wrong(field, f"must be a list of texts like {_WORDS[field]}, not {value!r}")
            value = tuple(value)
        elif field in _NUMBERS:
            low, high = _NUMBERS[field]
            if type(value) is not int or not low <= value <= high:
                raise wrong(
                    field, f"must be a whole number from {low:,} to {high:,}, not {value!r}"
                )
            if field in _POWERS and value & (value - 1):
                raise wrong(field, f"must be a power of two, not {value:,}")
        elif field == "needs_sudo":
            if type(value) is not bool:
                raise wrong(field, f"must be true or false, not {value!r}")
        else:
            if type(value) not in (int, float) or not 0.01 <= value <= 10000:
                raise wrong(field, f"must be a number from 0.01 to 10,000, not {value!r}")
            value = float(value)
        made[field] = value
    profile = Profile(**made)
    if profile.runtime == "python" and not (profile.wheel_platform and profile.libc):
        raise wrong(
            "runtime", "is python, and wheel_platform or libc says that there are no wheels"
        )
    if profile.wheel_platform and not profile.wheel_platform.endswith(f"_{profile.machine}"):
        raise wrong("wheel_platform", f"is for another machine than {profile.machine}")
    for field in profile.estimated:
        if field not in known:
            raise wrong("estimated", f"names {field!r}, which is no field")
    return profile


def read(path: Path) -> Profile:
    """The profile in a file; its name is the file's. Raises ZgedgeError, which says where."""
    try:
        data = path.read_bytes()
        if len(data) > LARGEST:
            raise UsageError(f"{path} is too long for a profile ({len(data):,} bytes).")
        table = tomllib.loads(data.decode())
    except OSError as e:
        raise ZgedgeError(f"Cannot read the profile {path}: {e.strerror}.") from e
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as e:
        raise UsageError(f"{path} is no TOML: {e}.", "Copy one of zgedge's and change it.") from e
    return validate(table, path.stem, str(path))


def own_folder() -> Path:
    """Where a person's own profiles lie. It may not exist."""
    return config_folder() / "profiles"


def names() -> list[str]:
    """All profiles, those of zgedge first."""
    own = sorted(path.stem for path in own_folder().glob("*.toml"))
    first = [path.stem for path in BUILT_IN.glob("*.toml")]
    first.sort(key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))
    return first + [name for name in own if name not in first]


_ORDER = ("rpi-zero2w", "rpi3", "rpi4", "rpi5", "jetson-nano", "jetson-orin-nano",
          "jetson-agx-orin", "aarch64", "armv7", "x86-64", "emulated",
          "emulated-armv7")  # fmt: skip


# Other names that boards are known by.
ALIASES = {"rpi-zero2": "rpi-zero2w"}


def load(name: str) -> Profile:
    """The profile of that name. Raises UsageError where there is none."""
    if NAME.fullmatch(name):
        other = ALIASES.get(name, name)
        for path in (own_folder() / f"{name}.toml", BUILT_IN / f"{other}.toml"):
            if path.is_file():
                return read(path)
    raise UsageError(
        f"There is no device {name!r}.",
        f"There are: {', '.join(names())}. `zgedge device add --profile FILE` adds one.",
    )


def add(source: str | os.PathLike[str]) -> Profile:
    """Take a person's profile into their settings, whole or not at all."""
    path = Path(source)
    profile = read(path)
    folder = make_folder(own_folder())
    target = folder / f"{profile.name}.toml"
    part = folder / f".{profile.name}.{os.getpid()}"
    try:
        part.write_bytes(path.read_bytes())
        part.replace(target)
    except OSError as e:
        raise ZgedgeError(f"Cannot write {target}: {e.strerror}.") from e
    finally:
        part.unlink(missing_ok=True)
    return profile


def of_model(model: str) -> Profile | None:
    """The kind of board that names itself so in /proc/device-tree/model."""
    for name in names():
        profile = load(name)
        if any(model.startswith(begin) for begin in profile.models):
            return profile
    return None
