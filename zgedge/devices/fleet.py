"""Many boards in waves: a few first, then more, and no further once one falls short.

The file of hosts has a line for each board: its host or its name among the person's boards, and
what differs from the command's options, such as `pi@plant-3.local device=rpi3 port=2222`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zgedge.errors import UsageError, ZgedgeError

WAVES = "1,10%,100%"
GOOD = ("healthy", "unchanged")
_OPTIONS = ("device", "port", "name")


@dataclass(frozen=True)
class Line:
    """A board of a fleet."""

    host: str
    device: str | None = None
    port: int | None = None
    name: str | None = None


def read(path: str) -> list[Line]:
    """The boards of a file. Raises UsageError that names the line which is wrong."""
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"Cannot read {path}: {getattr(e, 'strerror', None) or e}.") from e
    found: list[Line] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        options = dict(word.partition("=")[::2] for word in words[1:])
        bad = [key for key in options if key not in _OPTIONS or not options[key]]
        port = options.get("port")
        if bad or words[0].startswith("-") or (port and not re.fullmatch(r"[0-9]{1,5}", port)):
            raise UsageError(
                f"{path}, line {number}: {line.strip()!r} is no board.",
                "A line is HOST, and behind it device=KIND, port=N, name=NAME where they differ.",
            )
        found.append(Line(words[0], options.get("device"), int(port) if port else None,
                          options.get("name")))  # fmt: skip
    if not found:
        raise UsageError(f"{path} names no board.", "A line is a host, as ssh takes it.")
    twice = {line.host for line in found if [x.host for x in found].count(line.host) > 1}
    if twice:
        raise UsageError(f"{path} names {sorted(twice)[0]} twice.")
    return found


def waves(text: str, count: int) -> list[int]:
    """How many boards are done after each wave: "1,10%,100%" of 50 is [1, 5, 50].

    Raises UsageError for what is no list of growing numbers or shares.
    """
    sizes: list[int] = []
    for word in text.split(","):
        found = re.fullmatch(r"\s*([0-9]{1,6})(%?)\s*", word)
        if found is None or int(found[1]) == 0 or (found[2] and int(found[1]) > 100):
            raise UsageError(f"{word!r} is no size of a wave.", f"Give --waves like {WAVES}.")
        n = -(-int(found[1]) * count // 100) if found[2] else int(found[1])
        n = min(max(n, 1), count)
        if not sizes or n > sizes[-1]:
            sizes.append(n)
        elif n < sizes[-1]:
            raise UsageError(f"The waves {text} do not grow.", f"Give --waves like {WAVES}.")
    if sizes[-1] < count:
        sizes.append(count)
    return sizes


def roll_out(
    lines: Sequence[Line],
    sizes: Sequence[int],
    deploy: Callable[[Line], dict[str, Any]],
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Deploy to each board in turn, wave by wave, and stop at the first that falls short.

    `deploy` gives what a deployment came to, or raises. Returns a report: for each board `host`,
    `wave`, `outcome` (`untouched` for those that were not reached), `version`, `error`, `hint`
    and `seconds`; `stopped_at` is the board that fell short, or None.
    """
    boards: list[dict[str, Any]] = []
    stopped: str | None = None
    wave = 0
    for i, line in enumerate(lines):
        while i >= sizes[wave]:
            wave += 1
        entry: dict[str, Any] = {
            "host": line.host, "wave": wave + 1, "outcome": "untouched", "version": None,
            "error": None, "hint": None, "seconds": None,
        }  # fmt: skip
        boards.append(entry)
        if stopped is not None:
            continue
        if i == (sizes[wave - 1] if wave else 0):
            say(f"Wave {wave + 1} of {len(sizes)}: {sizes[wave] - i} of {len(lines)} boards.")
        since = time.monotonic()
        try:
            found = deploy(line)
            entry["outcome"], entry["version"] = found["outcome"], found["version"]
            if found["outcome"] not in GOOD:
                entry["error"] = found["reason"]
        except ZgedgeError as e:
            entry["outcome"], entry["error"], entry["hint"] = "failed", e.message, e.hint
        except Exception as e:  # whatever it is: what came of the boards before it is not lost
            entry["outcome"], entry["error"] = "failed", f"{type(e).__name__}: {e}"
        entry["seconds"] = round(time.monotonic() - since, 1)
        if entry["outcome"] not in GOOD:
            stopped = line.host
            say(f"{line.host} fell short: {entry['error']}. No further board is touched.")
    return {
        "boards": boards, "waves": list(sizes), "stopped_at": stopped,
        "good": sum(b["outcome"] in GOOD for b in boards),
        "untouched": sum(b["outcome"] == "untouched" for b in boards),
    }  # fmt: skip


def planned(lines: Sequence[Line], sizes: Sequence[int]) -> dict[str, Any]:
    """The report of a fleet that nothing was done to."""

    def nothing(line: Line) -> dict[str, Any]:
        return {"outcome": "unchanged", "version": None, "reason": None}

    report = roll_out(lines, sizes, nothing)
    for board in report["boards"]:
        board.update(outcome="untouched", seconds=None)
    return {**report, "good": 0, "untouched": len(lines)}
