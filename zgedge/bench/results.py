"""What result files share: their heading, means with spread, and paired gains."""

from __future__ import annotations

import datetime
import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from zgedge.bench import timing
from zgedge.errors import ProofError, ZgedgeError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# Two-sided 95 % quantiles of Student's t for n - 1 degrees of freedom, n = 2 .. 21; of more samples
# that of 21, which is a little too wide for them.
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
)  # fmt: skip


R = TypeVar("R", bound="DataclassInstance")


def read_log(log: Path | None, kind: type[R]) -> Iterator[R]:
    """The runs of a log of JSON lines, of a dataclass `kind`. What is no such run, as a line that
    was cut off, is passed over.

    Raises ZgedgeError where the log cannot be read.
    """
    if log is None or not log.exists():
        return
    names = {field.name for field in fields(kind)}
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise ZgedgeError(f"Cannot read {log}: {error.strerror}.") from error
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and set(found) == names:
            yield kind(**found)


def append(log: Path | None, run: DataclassInstance) -> None:
    """Add a run to a log; nothing is done without one. Raises ZgedgeError where that fails."""
    if log is None:
        return
    try:
        # A run that was killed while it wrote may have left a line without its end.
        with log.open("ab+") as f:
            if f.tell():
                f.seek(-1, 2)
                if f.read(1) != b"\n":
                    f.write(b"\n")
            f.write(json.dumps(asdict(run)).encode() + b"\n")
    except OSError as error:
        raise ZgedgeError(
            f"Cannot write {log}: {error.strerror}.", "Check that its folder exists and has room."
        ) from error


def percent(values: Sequence[float]) -> str:
    """Mean and sample standard deviation of shares, in percent."""
    mean = 100 * statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.2f}"
    return f"{mean:.2f} ± {100 * statistics.stdev(values):.2f}"


def paired(after: Sequence[float], before: Sequence[float]) -> tuple[float, float | None]:
    """Mean gain in points, paired over seeds, and half its 95 % interval; None for one seed."""
    each = [100 * (a - b) for a, b in zip(after, before, strict=True)]
    mean = statistics.fmean(each)
    if len(each) < 2:
        return mean, None
    quantile = _T95[min(len(each) - 2, len(_T95) - 1)]
    return mean, quantile * statistics.stdev(each) / math.sqrt(len(each))


def gain_text(mean: float, half: float | None) -> str:
    """A gain with its interval; "no gain" where that has 0 in it."""
    if half is None:
        return f"{mean:+.2f} (one seed)"
    text = f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"
    return f"no gain: {text}" if mean - half <= 0 <= mean + half else text


def gain(after: Sequence[float], before: Sequence[float]) -> str:
    """Mean gain in points, paired over seeds, and its 95 % interval; "no gain" where it has 0."""
    return gain_text(*paired(after, before))


def command(module: str, out: str, **options: tuple[int, int]) -> str:
    """The command of a page: `options` are (value, default), and named where these differ."""
    words = ["python", "-m", module]
    for name, (value, usual) in options.items():
        words += [f"--{name}", str(value)] if value != usual else []
    return " ".join([*words, "--out", out])


def heading(
    title: str, command: str, seeds: Sequence[int], *, packages: Sequence[str]
) -> list[str]:
    """The first lines of a results file: what regenerates it, where and when it was measured."""
    about = timing.machine()
    versions = timing.versions(*packages)
    return [
        f"# {title}",
        "",
        f"Written by `{command}`; do not edit.",
        "",
        f"- Machine: {about['processor']}, {about['cores']} cores, {about['system']}.",
        f"- Versions: {', '.join(f'{name} {number}' for name, number in versions.items())}.",
        f"- Date: {datetime.datetime.now(datetime.UTC):%Y-%m-%d}. "
        + (f"Seeds: {', '.join(map(str, seeds))}; figures" if seeds else "Figures")
        + " are means ± standard deviation over seeds.",
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]


def write(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def conclude(
    found: dict[str, Any],
    lines: Sequence[str],
    wrong: Sequence[str],
    out: Path | None,
    as_json: bool,
) -> None:
    """End a bench that shows something: its page, what it prints, and why it does not hold.

    Raises SystemExit with the exit code of a proof that failed where `wrong` has a reason.
    """
    if out is not None:
        write(out, lines)
    click.echo(json.dumps({**found, "reasons": wrong}) if as_json else "\n".join(lines))
    for why in wrong:
        click.echo(f"NOT SHOWN: {why}", err=True)
    if wrong:
        raise SystemExit(ProofError.exit_code)
