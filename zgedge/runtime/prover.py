"""The proof in a process of its own, which holds Python, numpy, psutil and the core, and no more.

The process that asks sends the samples, and shows what comes back while it runs. It also keeps the
files mapped that the other process has mapped (libraries, the interpreter). A page of a file counts
as unshared memory (USS) when nobody else has it mapped, so without this the USS of a process would
jump whenever some other Python program on the machine ends.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from zgedge import errors
from zgedge.errors import ProofError, ZgedgeError
from zgedge.runtime import memory
from zgedge.runtime.learner import Learner

Reading = Callable[[dict[str, int]], None]

_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_HEAVY = ("torch", "sklearn", "onnx", "tflite", "rich", "matplotlib")


def prove(
    path: str,
    steps: int,
    *,
    samples: tuple[npt.NDArray[Any], list[Any]] | None = None,
    leak: int = 0,
    reading: Reading | None = None,
) -> dict[str, Any]:
    """Run `zgedge.runtime.memory.prove` on the model file `path` in a fresh process.

    samples  [n, inputs] raw values and [n] labels; None: those that the file remembers, or, where
             there are none or it remembers features of pictures, made-up ones
    leak     bytes to plant as a leak at every step
    reading  called with each reading of memory, a value for every name in `memory.FIELDS`

    Returns `memory.Proof.as_dict`, with `data` (what was learned from) and `record` (the readings,
    a list for every field, from the end of warm-up on). The file is not changed.
    Raises ModelError, DataError or UsageError as the proof does; ProofError where the process ends
    without a verdict.
    """
    memory.check_steps(steps, leak)
    child = subprocess.Popen(
        [sys.executable, "-m", "zgedge.runtime.prover"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    try:
        return _converse(child, path, steps, samples, leak, reading)
    finally:
        if child.poll() is None:
            child.kill()
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        child.wait()


def _converse(
    child: subprocess.Popen[bytes],
    path: str,
    steps: int,
    samples: tuple[npt.NDArray[Any], list[Any]] | None,
    leak: int,
    reading: Reading | None,
) -> dict[str, Any]:
    assert child.stdin is not None
    assert child.stdout is not None
    order: dict[str, Any] = {"path": path, "steps": steps, "leak": leak, "samples": None}
    x = None
    if samples is not None:
        x = samples[0]
        x = np.ascontiguousarray(x if x.dtype == np.uint8 else x.astype(np.float32))
        order["samples"] = {"shape": x.shape, "dtype": x.dtype.str, "labels": samples[1]}
    held: list[mmap.mmap] = []
    try:
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(json.dumps(order).encode() + b"\n")
            if x is not None:
                child.stdin.write(x.data)
            child.stdin.flush()
        for line in child.stdout:
            word, _, rest = line.decode().partition(" ")
            if word == "reading" and reading is not None:
                reading(dict(zip(memory.FIELDS, map(int, rest.split()), strict=True)))
            elif word == "ready":
                held += hold_files(child.pid)
                child.stdin.write(b"go\n")
                child.stdin.flush()
            elif word == "error":
                raise _error(json.loads(rest))
            elif word == "proof":
                found: dict[str, Any] = json.loads(rest)
                return found
    finally:
        for file in held:
            file.close()
    status = child.wait()
    ended = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    why = b"" if child.stderr is None else child.stderr.read()
    last = why.decode(errors="replace").strip().splitlines()[-1:]
    raise ProofError(
        f"The process under proof {ended} before there was a verdict{': ' if last else '.'}"
        + "".join(last)
    )


def hold_files(pid: int) -> list[mmap.mmap]:
    """Map, and read in, every file that a process has mapped."""
    paths = set()
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as f:
        for line in f:
            parts = line.rstrip("\n").split(maxsplit=5)
            if len(parts) == 6 and parts[5].startswith("/"):
                paths.add(parts[5])
    held = []
    for path in paths:
        # A file that was replaced since, or that only the other process may read, stays out.
        with contextlib.suppress(OSError, ValueError), open(path, "rb") as f:
            flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
            held.append(mmap.mmap(f.fileno(), 0, flags=flags, prot=mmap.PROT_READ))
    return held


def _error(found: dict[str, Any]) -> ZgedgeError:
    kind = getattr(errors, found["kind"], ZgedgeError)
    error: ZgedgeError = kind(found["message"], found["hint"])
    return error


def main() -> None:
    """The process under proof: an order on standard input, readings and a verdict on output."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    orders, out = sys.stdin.buffer, sys.stdout.fileno()

    def say(word: str, value: object) -> None:
        data = f"{word} {json.dumps(value)}\n".encode()
        while data:
            data = data[os.write(out, data) :]

    def started() -> None:
        say("ready", None)
        orders.readline()

    def reading(row: memory.Table) -> None:
        os.write(out, b"reading %d %d %d %d %d %d %d %d %d %d %d\n" % (*row,))

    order = json.loads(orders.readline())
    try:
        learner = Learner(order["path"])
        given = order["samples"]
        if given is None:
            x, y, what = memory.stream_for(learner.model)
        else:
            x = np.empty(given["shape"], given["dtype"])
            x[...] = np.frombuffer(orders.read(x.nbytes), x.dtype).reshape(x.shape)
            y, what = given["labels"], "given"
        proof = memory.prove(
            learner, x, y, order["steps"], leak=order["leak"], started=started, reading=reading
        )
    except ZgedgeError as e:
        say("error", {"kind": type(e).__name__, "message": e.message, "hint": e.hint})
        return
    record = {name: proof.table[:, i].tolist() for i, name in enumerate(memory.FIELDS)}
    modules = [name for name in _HEAVY if name in sys.modules]
    say("proof", {**proof.as_dict(), "data": what, "heavy_modules": modules, "record": record})


if __name__ == "__main__":
    main()
