"""Times as people write them: of a training, and of a prediction."""

from __future__ import annotations

import math
import re

from zgedge.errors import UsageError

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
LONGEST = 30 * 24 * 3600.0


def parse_duration(text: str) -> float:
    """Seconds of a time such as "90s", "10m" or "2h"; a bare number is seconds.

    Raises UsageError for anything else, for less than a second and for more than 30 days.
    """
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2].lower() not in _UNITS:
        raise UsageError(f"{text!r} is not a time.", "Write it as 90s, 10m or 2h.")
    seconds = float(match[1]) * _UNITS[match[2].lower()]
    if not 1.0 <= seconds <= LONGEST:
        raise UsageError(f"A training time of {text} is outside 1s to 720h.")
    return seconds


def format_duration(seconds: float) -> str:
    """A time as people write it: 600.0 -> "10 min"."""
    if seconds < 120.0:
        return f"{seconds:.3g} s"
    return f"{seconds / 60.0:.3g} min" if seconds < 7200.0 else f"{seconds / 3600.0:.3g} h"


def format_latency(seconds: float) -> str:
    """A time as people write it, in three digits: 0.0042 -> "4.2 ms".

    Rounded up, so that what takes so long is within the time that is written.
    """
    if seconds <= 0.0:
        return "0 us"
    unit = 10.0 ** (math.floor(math.log10(seconds)) - 2)
    # What a product or a power of ten has in its last bits is no part of a time.
    seconds = math.ceil(round(seconds / unit, 6)) * unit
    for size, name in ((1e-6, "us"), (1e-3, "ms")):
        if round(seconds / size, 6) < 1e3:
            return f"{seconds / size:.3g} {name}"
    return f"{seconds:.3g} s" if seconds < 1e3 else f"{seconds:.0f} s"
