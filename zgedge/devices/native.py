"""The native program for a board: the core and `zgedge/runtime/native` in one static file without
Python (docs/native.md), compiled here for the board's processor."""

from __future__ import annotations

from pathlib import Path

from zgedge import runtime
from zgedge.devices import cross
from zgedge.errors import ZgedgeError

NATIVE = Path(runtime.__file__).parent / "native"


def sources() -> list[Path]:
    """What the program is made of besides the core. Raises ZgedgeError where it is not there."""
    found = sorted(NATIVE.glob("*.[ch]"))
    if not found:
        raise ZgedgeError(
            f"The sources of the native program are not in {NATIVE}.", "Install zgedge again."
        )
    return found


PROGRAM = cross.Product(
    "native program", "native", "zgedge-native",
    {"aarch64": "aarch64-linux-musl", "armv7l": "arm-linux-musleabihf",
     "x86_64": "x86_64-linux-musl"},
    ("-ffunction-sections", "-fdata-sections", "-fno-unwind-tables",
     "-fno-asynchronous-unwind-tables"),
    ("-static", "-s", "-Wl,--gc-sections"),
    sources, ("-std=c11", "-Os", "-ffp-contract=off", "-fvisibility=hidden"),
)  # fmt: skip


def build(machine: str, cpu: str | None = None, say: cross.Say = lambda _: None) -> Path:
    """The native program for `machine`; see `cross.build`, which says what it raises."""
    return cross.build(PROGRAM, machine, cpu, say)
