"""The native program beside the Python service: memory, growth, time to the first prediction, size.

python -m zgedge.bench.native [--json] [--steps 1000000] [--out docs/results/native.md]

Both run as processes of their own and are measured from outside, by what the kernel says of them.
The program is the one that `zgedge deploy` sends: built by ziglang, static.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from zgedge.bench import nets, results
from zgedge.devices import native
from zgedge.errors import ZgedgeError
from zgedge.runtime.prover import hold_files

ARENA = 256 * 1024
BESIDE = 512 * 1024  # bytes that the native program may take besides the arena
FIRST = 0.050  # seconds that it may take to its first prediction
WIDE, SMALL = (784, 256, 10), (64, 160, 10)
MORE = 10  # samples between two looks at something that is waited for
SETTLE = 4000  # steps before memory is read
READINGS = 200
STARTS = {"native": 21, "python": 5}


def wide_model() -> bytes:
    """A model that fills 256 KB, and no more, with what it remembers."""
    samples = 16
    one = len(nets.random_zge(WIDE, fan_in=64, pixels=False, replay_samples=samples))
    more = len(nets.random_zge(WIDE, fan_in=64, pixels=False, replay_samples=samples + 64))
    samples += 64 * (ARENA - one) // (more - one) - 1
    return nets.random_zge(WIDE, fan_in=64, pixels=False, replay_samples=samples)


def requests(inputs: int, n: int = 512, seed: int = 0) -> list[bytes]:
    """Requests to learn samples of clustered classes."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 10, n)
    centers = rng.uniform(0, 1, (10, inputs))
    x = np.clip(centers[y] + rng.normal(0, 0.2, (n, inputs)), 0, 1).round(3)
    return [
        json.dumps({"op": "learn", "x": row.tolist(), "y": int(label)}).encode() + b"\n"
        for row, label in zip(x, y, strict=True)
    ]


class Client:
    """One connection to a service."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._lines = self._socket.makefile("rb")

    def ask(self, line: bytes) -> dict[str, Any]:
        self._socket.sendall(line)
        reply: dict[str, Any] = json.loads(self._lines.readline())
        return reply

    def learn(self, lines: list[bytes], first: int, n: int) -> None:
        """Learn `n` samples from number `first` on, each after the reply to the one before: faster
        would be a flood. Raises ZgedgeError where one is refused."""
        for at in range(first, first + n):
            self._socket.sendall(lines[at % len(lines)])
            if not self._lines.readline().startswith(b'{"ok": true'):
                raise ZgedgeError("The service refused a sample.")

    def status(self) -> dict[str, Any]:
        return self.ask(b'{"op": "status"}\n')

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


def command(runtime: str) -> list[str]:
    if runtime == "native":
        return [str(native.build("x86_64"))]
    return [sys.executable, "-m", "zgedge"]


@contextlib.contextmanager
def running(runtime: str, model: Path, *options: str) -> Iterator[tuple[int, Client, float]]:
    """A service that runs: its process, a client, and when it was started."""
    state = Path(f"{model}.{runtime}")
    words = [*command(runtime), "run", str(model), "--state", str(state), *options]
    since = time.perf_counter()
    child = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
             "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )  # fmt: skip
    try:
        while True:
            try:
                client = Client(state / "socket")
                break
            except OSError as e:
                if child.poll() is not None or time.perf_counter() - since > 60:
                    raise ZgedgeError(f"The service did not start: {words}") from e
                time.sleep(0.0002)
        with contextlib.closing(client):
            yield child.pid, client, since
    finally:
        child.terminate()
        _, error = child.communicate()
        if child.returncode:
            click.echo(error.decode()[-300:], err=True)


def memory(pid: int) -> dict[str, int]:
    """RSS, PSS and anonymous memory of a process, in bytes, as the kernel walks its pages."""
    found: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
        name, value = line.split(":")
        found[name] = 1024 * int(value.split()[0])
    return {"rss": found["Rss"], "pss": found["Pss"], "anonymous": found["Anonymous"]}


def measure_memory(runtime: str, folder: Path, steps: int = SETTLE) -> dict[str, int]:
    """Memory of a service with a full arena of 256 KB that learns, and commits each second."""
    model = folder / "wide.zge"
    model.write_bytes(wide_model())
    lines = requests(WIDE[0])
    with running(runtime, model, "--commit-every", "1") as (pid, client, _):
        client.learn(lines, 0, steps)
        while client.status()["store"]["generation"] < 2:
            client.learn(lines, 0, MORE)
            time.sleep(0.02)
        client.learn(lines, 0, MORE)
        return {"arena": model.stat().st_size, **memory(pid)}


def measure_growth(
    runtime: str, folder: Path, steps: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Let a service learn so many samples; growth is the most after the first hundredth of them
    less what was then."""
    model = folder / "small.zge"
    model.write_bytes(nets.random_zge(SMALL, fan_in=16, pixels=False))
    lines = requests(SMALL[0])
    state = Path(f"{model}.{runtime}")
    with running(runtime, model, "--commit-every", "1") as (pid, client, _):
        done = steps // 100
        client.learn(lines, 0, done)
        while client.status()["store"]["generation"] < 2:
            client.learn(lines, done, MORE)
            done += MORE
            time.sleep(0.02)
        held = hold_files(pid)
        readings, since, first = [], time.perf_counter(), done
        for i in range(READINGS + 1):
            until = first + (steps - first) * i // READINGS
            client.learn(lines, done, until - done)
            done = until
            readings.append(
                {
                    "rss": memory(pid)["rss"],
                    "files": len(os.listdir(f"/proc/{pid}/fd")),
                    "threads": len(os.listdir(f"/proc/{pid}/task")),
                    "disk": sum(512 * path.stat().st_blocks for path in state.iterdir()),
                }
            )
            if i % 20 == 0:
                say(f"{runtime}: {done:,} samples, RSS {readings[-1]['rss']:,}")
        seconds = time.perf_counter() - since
        while (status := client.status())["queue"]["waiting"]:
            time.sleep(0.01)
        for file in held:
            file.close()
    return {
        "steps": steps, "learned": status["samples"], "seconds": seconds,
        "rewired": status["learner"]["rewired"], "commits": status["store"]["commits"],
        "dropped": status["queue"]["dropped"], "ticks": status["ticks"], "first": readings[0],
        "growth": {k: max(r[k] for r in readings) - readings[0][k] for k in readings[0]},
    }  # fmt: skip


def measure_start(runtime: str, folder: Path, times: int) -> dict[str, list[float]]:
    """Seconds from the start of the process to the reply to its first prediction: with a folder of
    state that is new, and with one that is there."""
    model = folder / "start.zge"
    model.write_bytes(wide_model())
    line = requests(WIDE[0], 1)[0].replace(b"learn", b"predict")
    state = Path(f"{model}.{runtime}")
    found: dict[str, list[float]] = {"new": [], "again": []}
    for _ in range(times):
        for path in state.iterdir() if state.exists() else ():
            path.unlink()
        for took in found.values():
            with running(runtime, model) as (_, client, since):
                if not client.ask(line)["ok"]:
                    raise ZgedgeError("The service refused a sample.")
                took.append(time.perf_counter() - since)
    return found


def measure(steps: int, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    found: dict[str, Any] = {"memory": {}, "growth": {}, "start": {}}
    for runtime in ("native", "python"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            say(f"{runtime}: memory")
            found["memory"][runtime] = measure_memory(runtime, folder)
            say(f"{runtime}: start")
            found["start"][runtime] = measure_start(runtime, folder, STARTS[runtime])
            if runtime == "native":
                found["growth"][runtime] = measure_growth(runtime, folder, steps, say)
    found["bytes"] = {m: native.build(m).stat().st_size for m in native.PROGRAM.targets}
    return found


def reasons(found: dict[str, Any]) -> list[str]:
    """Why the run did not show what it must."""
    told = found["memory"]["native"]
    wrong = []
    if told["rss"] > told["arena"] + BESIDE:
        wrong.append(f"RSS of {told['rss']:,} bytes, the arena has {told['arena']:,}")
    grown = found["growth"]["native"]
    wrong += [f"{name} grew by {more:,}" for name, more in grown["growth"].items() if more > 0]
    if grown["learned"] != grown["steps"] or not grown["rewired"]:
        wrong.append(f"{grown['learned']:,} samples learned, {grown['rewired']:,} rewired")
    for kind, took in found["start"]["native"].items():
        if statistics.median(took) > FIRST:
            wrong.append(f"{1000 * statistics.median(took):.0f} ms to the first prediction: {kind}")
    return wrong


def markdown(found: dict[str, Any]) -> list[str]:
    """The results file."""
    steps = found["growth"]["native"]["steps"]
    lines = results.heading(
        "The native program and the Python service",
        f"python -m zgedge.bench.native --steps {steps} --out docs/results/native.md",
        [],
        packages=("python", "numpy", "zgedge"),
    )[:-1]
    lines += [
        f"- Memory: a model of {found['memory']['native']['arena']:,} bytes (784 inputs, 256 "
        "sparse units, 10 classes, the rest remembered samples) that learns samples from the "
        "socket, one after another, and commits each second, after its second commit. What the "
        "kernel says of the process (smaps_rollup): RSS counts every page that it has, PSS its "
        "share of those that others have too, anonymous what is its own and no file's.",
        "- Start: from the start of the process to the reply to the first prediction over the "
        "socket, median, with a state folder that is new (its files are made at full length and "
        "synced) and with one that is there.",
        "",
    ]
    names = {"native": "native program", "python": "Python service"}
    body = []
    for runtime, name in names.items():
        told, start = found["memory"][runtime], found["start"][runtime]
        body.append(
            (
                name, f"{told['rss']:,}", f"{told['rss'] - told['arena']:,}", f"{told['pss']:,}",
                f"{told['anonymous']:,}", f"{1000 * statistics.median(start['new']):,.1f} ms",
                f"{1000 * statistics.median(start['again']):,.1f} ms",
            )
        )  # fmt: skip
    lines += results.table(
        ["runtime", "RSS, bytes", "of it beside the arena", "PSS", "anonymous",
         "start, new state", "start, state there"],
        body,
    )  # fmt: skip
    grown = found["growth"]["native"]
    lines += [
        "",
        f"## {steps:,} learning steps of the native program",
        "",
        f"A model of {SMALL[0]} inputs, {SMALL[1]} sparse units and {SMALL[2]} classes; requests "
        "through the socket, commits each second. Growth is the most after the first hundredth of "
        f"the steps and two commits less the value then, in {READINGS} readings from outside.",
        "",
    ]
    growth, first, ticks = grown["growth"], grown["first"], grown["ticks"]
    lines += results.table(
        ["what", "how much"],
        [
            ("samples learned", f"{grown['learned']:,} in {grown['seconds']:,.0f} s"),
            ("connections rewired", f"{grown['rewired']:,}"),
            ("commits", f"{grown['commits']:,}"),
            ("RSS growth", f"{growth['rss']:,} of {first['rss']:,} bytes"),
            ("disk growth", f"{growth['disk']:,} of {first['disk']:,} bytes"),
            ("open files, threads", f"+{growth['files']} of {first['files']}, "
                                    f"+{growth['threads']} of {first['threads']}"),
            ("tick, median", f"{ticks['p50']:,.1f} µs"),
            ("tick, 99.9 %", f"{ticks['p999']:,.1f} µs"),
        ],
    )  # fmt: skip
    lines += ["", "## Size of the program", ""]
    lines += results.table(
        ["machine", "bytes"], [(m, f"{size:,}") for m, size in found["bytes"].items()]
    )
    return lines


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Markdown file.")
@click.option("--steps", default=1_000_000, show_default=True, type=click.IntRange(1000))
def main(as_json: bool, out: Path | None, steps: int) -> None:
    """Measure the native program, and the Python service beside it."""
    found = measure(steps, lambda text: click.echo(text, err=True))
    results.conclude(found, markdown(found), reasons(found), out, as_json)


if __name__ == "__main__":
    main()
