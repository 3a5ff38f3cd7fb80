"""Resident memory of a process that learns, against Python with numpy and psutil alone.

    python -m zgedge.bench.memory [--json] [--out docs/results/memory.md] [--quick]

Each process does its work, says so, and waits; its memory is then read from outside
(`/proc/PID/smaps_rollup`, which is exact), so that measuring adds nothing to it.
"""

from __future__ import annotations

import compileall
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

import zgedge
from zgedge.bench import timing
from zgedge.bench.nets import random_zge
from zgedge.errors import ZgedgeError

KB = 1024
ALLOWED = 4 * 1024 * KB  # what a learning process may take beyond baseline and arena

_WAIT = "print('ready', flush=True); import sys; sys.stdin.readline()"
_BASELINE = f"import numpy, psutil\n{_WAIT}\n"
_LEARN = f"""
import sys
import numpy as np, psutil
from zgedge.runtime import Learner
path, steps = sys.argv[1], int(sys.argv[2])
learner = Learner(path)
n = learner.batch * learner.model.inputs
x = (np.arange(7 * n, dtype=np.uint32) * np.uint32(2654435761) >> np.uint32(24)).astype(np.uint8)
x = x.reshape(7, learner.batch, learner.model.inputs)
y = np.arange(learner.batch) % len(learner.model.classes)
for step in range(steps):
    learner.learn_many(x[step % 7], y)
    learner.learn_one(x[step % 7, 0], 0)
    learner.model.predict_one(x[step % 7, 1])
assert learner.status()["rewired"] > 0
assert not {{"torch", "sklearn", "onnx"}} & set(sys.modules)
{_WAIT}
"""
_TORCH = f"""
import numpy, psutil, torch
torch.set_num_threads(1)
net = torch.nn.Sequential(torch.nn.Linear(784, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
x, y = torch.rand(16, 784), torch.arange(16) % 10
for _ in range(10):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(net(x), y).backward()
    optimizer.step()
{_WAIT}
"""


@dataclass(frozen=True)
class Usage:
    """Resident bytes of repeated runs of one process: median, least and most."""

    name: str
    runs: tuple[int, ...]

    @property
    def median(self) -> int:
        """The middle of the runs, in bytes."""
        return round(statistics.median(self.runs))

    def as_json(self) -> dict[str, Any]:
        """Bytes."""
        return {
            "name": self.name,
            "median": self.median,
            "min": min(self.runs),
            "max": max(self.runs),
        }


def resident(code: str, *arguments: str) -> int:
    """Resident bytes of a Python process that has run `code`, which ends by waiting for a line.

    Raises ZgedgeError where the process fails.
    """
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=timing.clean_environment(os.environ),
    )
    assert child.stdout is not None
    try:
        if child.stdout.readline().strip() != "ready":
            raise ZgedgeError(f"A measured process failed: {child.communicate()[1].strip()}")
        rollup = Path(f"/proc/{child.pid}/smaps_rollup").read_text(encoding="ascii")
    finally:
        if child.poll() is None:
            child.communicate("\n")
    for line in rollup.splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * KB
    raise ZgedgeError("This kernel does not tell the resident memory of a process.")


def run(repeats: int, steps: int) -> dict[str, Any]:
    """Measure all processes `repeats` times, in turn. Returns what `--json` prints."""
    data = random_zge()
    # As an installation leaves it: compiling at the start would be measured too.
    compileall.compile_dir(Path(zgedge.__file__).parent, quiet=2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.zge")
        path.write_bytes(data)
        processes = [
            ("Python, numpy, psutil", _BASELINE, ()),
            ("zgedge, learning", _LEARN, (str(path), str(steps))),
        ]
        if "torch" in timing.versions("torch"):
            processes.append(("torch, learning the same", _TORCH, ()))
        taken: list[list[int]] = [[] for _ in processes]
        for _ in range(repeats):
            for i, (_, code, arguments) in enumerate(processes):
                taken[i].append(resident(code, *arguments))
    rows = [Usage(name, tuple(runs)) for (name, _, _), runs in zip(processes, taken, strict=True)]
    # The worst of ours against the best of the baseline: no spread can hide a miss.
    extra = max(rows[1].runs) - min(rows[0].runs) - len(data)
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "machine": timing.machine(),
        "versions": timing.versions("numpy", "psutil", "torch"),
        "repeats": repeats,
        "steps": steps,
        "arena": len(data),
        "rows": [row.as_json() for row in rows],
        "extra": extra,
        "allowed": ALLOWED,
        "passed": extra <= ALLOWED,
    }


def as_markdown(result: dict[str, Any]) -> str:
    """The results file."""
    about, versions, arena = result["machine"], result["versions"], result["arena"]
    baseline = result["rows"][0]["median"]
    lines = [
        "# Memory",
        "",
        "Written by `python -m zgedge.bench.memory --out docs/results/memory.md`; do not edit.",
        "",
        f"- Network: 784-256-10, fan-in 32, an arena of {arena:,} bytes, {result['steps']:,} times "
        "`learn_many` of 16 samples, `learn_one` with replay, and `predict_one`; connections are "
        "rewired all along.",
        f"- Machine: {about['processor']}, {about['system']}.",
        f"- Versions: {', '.join(f'{name} {number}' for name, number in versions.items())}.",
        f"- Date: {result['date']}.",
        f"- Method: resident memory (`Rss` of `smaps_rollup`) of processes of their own, "
        f"{result['repeats']} runs of each.",
        "",
        "| process | median MB | min-max MB | beyond the first |",
        "| --- | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['name']} | {_mb(row['median'])} | {_mb(row['min'])}-{_mb(row['max'])} "
            f"| {_mb(row['median'] - baseline)} MB |"
        )
    verdict = "met" if result["passed"] else "**not met**"
    lines += [
        "",
        f"Beyond Python, numpy, psutil and the arena, the highest run of ours less the lowest "
        f"without it: {_mb(result['extra'])} MB. Goal: at most {_mb(result['allowed'])} MB: "
        f"{verdict}.",
    ]
    return "\n".join(lines) + "\n"


def _mb(size: int) -> str:
    return f"{size / 1024**2:.2f}"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the table as Markdown to this file.",
)
@click.option("--quick", is_flag=True, help="One short run of each process.")
def main(as_json: bool, out: Path | None, quick: bool) -> None:
    """Measure the resident memory of a process that learns."""
    result = run(1, 200) if quick else run(5, 20_000)
    text = as_markdown(result)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    click.echo(json.dumps(result) if as_json else text, nl=as_json)


if __name__ == "__main__":
    main()
