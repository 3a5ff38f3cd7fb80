"""A service killed at random moments, again and again: does it come up, and with what?

python -m zgedge.bench.kills [--json] [--kills 10000] [--out docs/results/kills.md]

A service that learns and commits all the time is a child of this process and is killed with
SIGKILL. What then lies on the disk must be whole, no older than the last commit that the service
had seen end, and exactly what a learner has that was never disturbed. The next service starts from
it, on the socket that the killed one left.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from zgedge import arena, network
from zgedge.bench import nets, results
from zgedge.errors import ProofError
from zgedge.runtime import Learner, Model
from zgedge.runtime.service import Service
from zgedge.runtime.sockets import ask
from zgedge.runtime.sources import Row
from zgedge.runtime.store import Store

WIDTHS = (32, 24, 4)
SAMPLES = 997
LONGEST = 0.012  # seconds that a service lives once it serves
EARLY = 0.15  # share of services that are killed while they start
ASKED = 0.1  # share that are asked for a prediction before they are killed
LEARNED = (network.WEIGHTS, network.INDICES, network.ROWS, network.RESIDUAL, network.REPLAY)
_REPORT = struct.Struct("<BQ")
READY, COMMITTED = 1, 2


class Endless:
    """Samples over and over; which comes next follows from how many were learned."""

    spec, ended, pushes, fd, dropped, number = "samples", False, False, None, 0, 0

    def __init__(self, x: npt.NDArray[np.float32], y: npt.NDArray[np.int64]) -> None:
        self.x, self.y = x, y
        self.at = 0

    def take(self, row: Row, now: float) -> bool:
        i = self.at % len(self.x)
        self.at += 1
        row.x[:], row.label, row.name, row.given = self.x[i], int(self.y[i]), None, True
        return True

    def wait(self, now: float) -> float:
        return 0.0

    def close(self) -> None:
        """Nothing is open."""


class Reporting(Service):
    """Tells the process that will kill it which commits have ended."""

    report = -1
    _sealed = 0

    def _begin(self, store: Store) -> None:
        assert self.learner is not None
        self._sealed = self.learner.status()["samples"]
        super()._begin(store)

    def _kept(self, store: Store) -> None:
        super()._kept(store)
        if store.failure is None:
            os.write(self.report, _REPORT.pack(COMMITTED, self._sealed))


@dataclass
class Found:
    """What so many kills found."""

    kills: int = 0
    early: int = 0
    served: int = 0  # services that came up and took their first turn
    asked: int = 0
    commits: int = 0  # that the services had seen end
    samples: int = 0  # in the last state
    torn: int = 0  # kills that left a slot torn
    faults: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def stream(seed: int = 0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Samples [n, inputs] of clustered classes, and their labels [n]."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, WIDTHS[2], SAMPLES)
    centers = rng.uniform(0, 1, (WIDTHS[2], WIDTHS[0]))
    x = centers[y] + rng.normal(0, 0.2, (SAMPLES, WIDTHS[0]))
    return x.astype(np.float32), y


def measure(kills: int, seed: int = 0, say: Callable[[str], None] = lambda text: None) -> Found:
    """Kill a service so many times."""
    found = Found()
    rng = random.Random(seed)
    x, y = stream()
    since = time.perf_counter()
    # In memory where that can be: a kill loses nothing of what the system holds, and a commit that
    # waits for no disk is hit more often.
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        path = os.path.join(folder, "model.zge")
        blob = nets.random_zge(WIDTHS, fan_in=8, pixels=False, batch=4, replay_samples=32)
        Path(path).write_bytes(blob)
        undisturbed = Learner(Model(arena.in_memory(blob)))
        place = os.path.join(folder, "socket")
        committed = 0
        gc.freeze()  # a service looks for garbage as it starts; here there is a lot that is none
        while found.kills < kills:
            committed = max(committed, _one(path, folder, place, rng, x, y, found))
            _judge(blob, folder, undisturbed, committed, x, y, found)
            if found.kills % 500 == 0:
                say(f"{found.kills:,} kills, {found.commits:,} commits, "
                    f"{sum(found.faults.values())} faults")  # fmt: skip
    gc.unfreeze()
    found.seconds = time.perf_counter() - since
    return found


def _one(
    path: str,
    folder: str,
    place: str,
    rng: random.Random,
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.int64],
    found: Found,
) -> int:
    """Start a service, kill it; the samples in the last commit that it saw end."""
    early = rng.random() < EARLY
    wait, asks = rng.uniform(0, LONGEST), rng.random() < ASKED
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            _serve(path, folder, place, write, x, y)
        finally:
            os._exit(1)
    os.close(write)
    try:
        if not early:
            first = os.read(read, _REPORT.size)
            if len(first) == _REPORT.size:
                found.served += 1
                if asks:
                    (reply,) = ask(place, iter([{"op": "predict", "x": x[0].tolist()}]))
                    found.asked += bool(reply["ok"])
            else:
                found.faults["a service did not come up"] += 1
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found.kills += 1
        found.early += early
        data = b""
        while more := os.read(read, 1 << 16):
            data += more
    finally:
        os.close(read)
    whole = len(data) // _REPORT.size * _REPORT.size
    ended = [samples for kind, samples in _REPORT.iter_unpack(data[:whole]) if kind == COMMITTED]
    found.commits += len(ended)
    return max(ended, default=0)


def _serve(
    path: str,
    folder: str,
    place: str,
    report: int,
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.int64],
) -> None:
    """The child: learn and commit without a pause."""
    source = Endless(x, y)
    service = Reporting(
        path, state=os.path.join(folder, "state"), socket=place, sources=[source], commit_every=0.0
    )
    service.report = report
    assert service.learner is not None
    source.at = service.learner.status()["samples"]
    service.turn()
    os.write(report, _REPORT.pack(READY, source.at))
    service.run()


def _judge(
    blob: bytes,
    folder: str,
    undisturbed: Learner,
    committed: int,
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.int64],
    found: Found,
) -> None:
    """Open what a kill left, and compare it with a learner that was never disturbed."""
    with Store.open(os.path.join(folder, "state"), blob) as store:
        state = store.load(check=lambda found: Model(found))
        found.torn += any(slot.startswith("damaged") for slot in store.slots)
    if state is None:
        found.faults["a commit was lost"] += committed > 0
        return
    learner = Learner(Model(state))
    samples = learner.status()["samples"]
    done = undisturbed.status()["samples"]
    if samples < max(committed, found.samples):
        found.faults["a commit was lost"] += 1
        return
    found.samples = samples
    for i in range(done, samples):
        undisturbed.learn_one(x[i % SAMPLES], int(y[i % SAMPLES]))
    same = all(
        np.array_equal(learner.model.arena.section(kind), undisturbed.model.arena.section(kind))
        for kind in LEARNED
    )
    found.faults["another state than without the kill"] += not same
    found.faults += Counter()  # without the zeros


def markdown(found: Found, kills: int, seed: int) -> list[str]:
    """The results file."""
    lines = results.heading(
        "SIGKILL at random moments",
        results.command(
            "zgedge.bench.kills", "docs/results/kills.md", kills=(kills, 0), seed=(seed, 0)
        ),
        [],
        packages=("python", "numpy", "zgedge"),
    )[:-1]
    lines += [
        "- A service that learns and commits without a pause, killed up to "
        f"{1000 * LONGEST:.0f} ms after it serves, or while it starts; the next one starts from "
        "what it left.",
        "- After each kill: a slot opens; it is no older than the last commit that the service "
        "had seen end; weights, wiring, biases and remembered samples are to the byte those of a "
        "learner that was never disturbed.",
        "",
    ]
    rows = [
        ("kills", f"{found.kills:,}"),
        ("of them while it started", f"{found.early:,}"),
        ("services that came up and served", f"{found.served:,} of {found.kills - found.early:,}"),
        ("predictions asked for and given", f"{found.asked:,}"),
        ("commits that had ended", f"{found.commits:,}"),
        ("kills that left a slot torn", f"{found.torn:,}"),
        ("samples in the last state", f"{found.samples:,}"),
        ("**faults**", f"**{sum(found.faults.values())}**"),
        ("seconds", f"{found.seconds:,.0f}"),
    ]
    return lines + results.table(["what", "how many"], rows)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Markdown file.")
@click.option("--kills", default=10_000, show_default=True, help="How many.")
@click.option("--seed", default=0, show_default=True, help="Of the moments.")
def main(as_json: bool, out: Path | None, kills: int, seed: int) -> None:
    """Kill a service that learns, again and again."""
    found = measure(kills, seed, lambda text: click.echo(text, err=True))
    lines = markdown(found, kills, seed)
    if out is not None:
        results.write(out, lines)
    told: dict[str, Any] = vars(found)
    click.echo(json.dumps(told) if as_json else "\n".join(lines))
    if found.faults:
        raise SystemExit(ProofError.exit_code)


if __name__ == "__main__":
    main()
