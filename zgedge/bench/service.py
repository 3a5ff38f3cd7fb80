"""A service that learns a million samples: memory, disk, open files and the length of ticks.

python -m zgedge.bench.service [--json] [--samples 1000000] [--runs 5]
    [--out docs/results/service.md]

`zgedge run` is a process of its own that reads rows from a pipe, learns, rewires and commits with
its default intervals. It is measured from outside, by what the kernel says of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from zgedge.bench import nets, results
from zgedge.errors import ZgedgeError
from zgedge.runtime import Model
from zgedge.runtime.prover import hold_files

WIDTHS = (64, 160, 10)
WARMUP = 100  # one sample in so many
READINGS = 200
LONGEST_TICK = 3  # of 99.9 %, in medians
BLOCK = 5000  # rows that are written again and again


def rows(seed: int = 0) -> list[bytes]:
    """Rows of clustered classes as CSV, the label last."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, WIDTHS[2], BLOCK)
    centers = rng.uniform(0, 1, (WIDTHS[2], WIDTHS[0]))
    x = np.clip(centers[y] + rng.normal(0, 0.2, (BLOCK, WIDTHS[0])), 0, 1)
    return [
        (",".join(f"{v:.3f}" for v in row) + f",{label}\n").encode()
        for row, label in zip(x, y, strict=True)
    ]


def memory(pid: int) -> tuple[int, int]:
    """RSS and USS of a process, in bytes, as the kernel walks its pages."""
    found: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
        name, value = line.split(":")
        found[name] = 1024 * int(value.split()[0])
    return found["Rss"], found["Private_Clean"] + found["Private_Dirty"]


def disk(folder: Path) -> int:
    """Bytes that the files of a folder take on the disk."""
    return sum(512 * path.stat().st_blocks for path in folder.iterdir())


def _first_in_line(pid: int) -> bool:
    """Let a process run before all that is not urgent, so that ticks are its own; False where that
    is not allowed."""
    try:
        os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(1))
    except OSError:
        return False
    return True


def constant_work(path: Path, calls: int) -> dict[str, float]:
    """How long this machine takes, in microseconds, for what is the same each time: one prediction
    of 32 rows. What 99.9 % of them took beyond the median is the machine's, and none of learning.
    """
    model = Model.open(path)
    x = np.linspace(0, 1, 32 * WIDTHS[0], dtype=np.float32).reshape(32, WIDTHS[0])
    first_in_line = _first_in_line(0)
    try:
        took = np.empty(calls)
        for i in range(calls):
            began = time.perf_counter()
            model.predict_index(x)
            took[i] = time.perf_counter() - began
    finally:
        if first_in_line:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    p50, p999 = 1e6 * np.percentile(took, [50, 99.9])
    return {"p50": float(p50), "p999": float(p999)}


def measure(
    samples: int,
    commit_every: float = 60.0,
    say: Callable[[str], None] = lambda text: None,
    warmup_share: int = WARMUP,
) -> dict[str, Any]:
    """Let a service learn so many samples; what grew, and its last status.

    Growth is the most after warm-up, one sample in `warmup_share`, less the value at its end.
    Raises ZgedgeError where the service fails.
    """
    text = rows()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.zge")
        path.write_bytes(nets.random_zge(WIDTHS, fan_in=16, pixels=False))
        child = subprocess.Popen(
            [sys.executable, "-m", "zgedge", "run", str(path), "--source", "-", "--json",
             "--commit-every", str(commit_every)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
                 "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )  # fmt: skip
        assert child.stdin is not None
        first_in_line = _first_in_line(child.pid)
        held = []
        state = Path(f"{path}.state")
        warmup = samples // warmup_share
        readings: list[tuple[int, ...]] = []
        try:
            done = 0
            for i in range(READINGS + 1):
                until = warmup + (samples - warmup) * i // READINGS
                while done < until:
                    n = min(BLOCK - done % BLOCK, until - done)
                    at = done % BLOCK
                    child.stdin.write(b"".join(text[at : at + n]))
                    done += n
                child.stdin.flush()
                if i == 0:
                    # What is in the pipe is learned first.
                    time.sleep(1.5)
                    held = hold_files(child.pid)
                pid = child.pid
                fds = len(os.listdir(f"/proc/{pid}/fd"))
                threads = len(os.listdir(f"/proc/{pid}/task"))
                readings.append((*memory(pid), disk(state), fds, threads))
                if i % 20 == 0:
                    say(f"{done:,} samples, RSS {readings[-1][0]:,}")
            out, error = child.communicate()
        except (OSError, ValueError) as e:
            child.kill()
            _, error = child.communicate()
            raise ZgedgeError(f"The service ended: {error.decode()[-300:]}") from e
        finally:
            for file in held:
                file.close()
        if child.returncode:
            raise ZgedgeError(f"The service failed: {error.decode()[-300:]}")
        status = json.loads(out)
        control = constant_work(path, samples // 10)
    names = ("rss", "uss", "disk", "files", "threads")
    growth = {
        name: max(row[i] for row in readings) - readings[0][i] for i, name in enumerate(names)
    }
    return {
        "samples": samples,
        "growth": growth,
        "first": dict(zip(names, readings[0], strict=True)),
        "seconds": status["uptime"],
        "ticks": status["ticks"],
        "constant_work": control,
        "rewired": status["learner"]["rewired"],
        "commits": status["store"]["commits"],
        "written": status["store"]["written"],
        "dropped": status["queue"]["dropped"],
        "learned": status["samples"],
        "commit_every": commit_every,
        "first_in_line": first_in_line,
    }


def reasons(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Why the runs did not show what they must: each that nothing grows and all is learned; the
    middle one of them, since other work on the machine comes and goes, how long a tick takes."""
    wrong = []
    for found in runs:
        wrong += [f"{name} grew by {more:,}" for name, more in found["growth"].items() if more > 0]
        if found["learned"] != found["samples"]:
            wrong.append(f"{found['learned']:,} of {found['samples']:,} samples were learned")
        if not found["rewired"]:
            wrong.append("no connection was rewired")
        if found["commits"] < 1 + found["seconds"] // max(found["commit_every"], 1) / 2:
            wrong.append(f"{found['commits']} commits in {found['seconds']:.0f} s")
    if (ratio := float(np.median([_tail(found["ticks"]) for found in runs]))) > LONGEST_TICK:
        wrong.append(f"99.9 % of ticks took {ratio:.2f} times the median")
    return wrong


def _tail(times: dict[str, float]) -> float:
    """What 99.9 % took, in medians."""
    return times["p999"] / times["p50"]


def markdown(runs: Sequence[dict[str, Any]]) -> list[str]:
    """The results file."""
    found = runs[0]
    lines = results.heading(
        "A service over a million samples",
        f"python -m zgedge.bench.service --samples {found['samples']} --runs "
        f"{len(runs)} --out docs/results/service.md",
        [],
        packages=("python", "numpy", "zgedge"),
    )[:-1]
    lines += [
        f"- `zgedge run` on a model of {WIDTHS[0]} inputs, {WIDTHS[1]} sparse units and "
        f"{WIDTHS[2]} classes; rows through a pipe, one learned a tick, 15 replayed with it. A "
        "tick is all that is done between two looks at the sources: a step of learning and "
        "rewiring, and sealing, copying or writing a piece of a commit. "
        + (
            "The service ran before other programs of this machine (SCHED_FIFO)."
            if all(run["first_in_line"] for run in runs)
            else "Other programs of this machine ran beside it."
        ),
        "- Growth is the most after warm-up (a hundredth of the samples) less the value at its "
        f"end, in {READINGS} readings of /proc from outside.",
        "",
    ]
    columns = [_column(run) for run in runs]
    body = [(what, *(column[what] for column in columns)) for what in columns[0]]
    tails = [_tail(run["ticks"]) for run in runs]
    return [
        *lines,
        *results.table(["what", *(f"run {i + 1}" for i in range(len(runs)))], body),
        "",
        f"99.9 % of ticks took {np.median(tails):.2f} times their median in the middle one of the "
        f"runs ({min(tails):.2f} to {max(tails):.2f}); at most {LONGEST_TICK} are asked. The last "
        "row is the machine itself: predictions of the same 32 rows, which are the same work each "
        "time.",
    ]


def _column(found: dict[str, Any]) -> dict[str, str]:
    """A run's figures, by what they are of."""
    ticks, growth, first = found["ticks"], found["growth"], found["first"]
    control = found["constant_work"]
    return {
        "samples learned": f"{found['learned']:,} in {found['seconds']:,.0f} s",
        "connections rewired": f"{found['rewired']:,}",
        "commits": f"{found['commits']:,}, {found['written']:,} bytes written",
        "RSS growth": f"{growth['rss']:,} of {first['rss']:,} bytes",
        "USS growth": f"{growth['uss']:,} of {first['uss']:,} bytes",
        "disk growth": f"{growth['disk']:,} of {first['disk']:,} bytes",
        "open files, threads": f"+{growth['files']} of {first['files']}, +{growth['threads']} "
                               f"of {first['threads']}",
        "tick, median": f"{ticks['p50']:,.1f} µs",
        "tick, 99.9 %": f"{ticks['p999']:,.1f} µs: {_tail(ticks):.2f} × median",
        "tick, longest": f"{ticks['longest']:,.0f} µs",
        "constant work, 99.9 %": f"{control['p999']:,.1f} µs: {_tail(control):.2f} × median",
    }  # fmt: skip


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Markdown file.")
@click.option("--samples", default=1_000_000, show_default=True, type=click.IntRange(1000))
@click.option("--commit-every", default=60.0, show_default=True, help="Seconds between commits.")
@click.option("--runs", default=5, show_default=True, type=click.IntRange(1))
def main(as_json: bool, out: Path | None, samples: int, commit_every: float, runs: int) -> None:
    """Let a service learn a million samples, a few times, and see that nothing grows."""
    found = []
    for i in range(runs):
        click.echo(f"run {i + 1} of {runs}", err=True)
        found.append(measure(samples, commit_every, lambda text: click.echo(text, err=True)))
    results.conclude({"runs": found}, markdown(found), reasons(found), out, as_json)


if __name__ == "__main__":
    main()
