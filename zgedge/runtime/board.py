"""What whoever deploys asks of a board: which runtime is there, does it compute right, what state
has it. The native program answers the same questions in the same words.

python -m zgedge.runtime.board version
python -m zgedge.runtime.board golden MODEL GOLDEN
python -m zgedge.runtime.board digest MODEL --state DIR GOLDEN
python -m zgedge.runtime.board ask SOCKET [--timeout SECONDS]

Each prints one line of JSON, `ask` one for each line that it reads. A failure is
`{"ok": false, "error": ..., "hint": ..., "exit_code": ...}`, and that exit code.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import socket as sockets
import struct
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import click
import numpy as np
import numpy.typing as npt

import zgedge
from zgedge import arena as files
from zgedge import network as net
from zgedge.errors import DataError, ModelError, UsageError, ZgedgeError
from zgedge.runtime import core_library as core
from zgedge.runtime.disk import File
from zgedge.runtime.metrics import Resident
from zgedge.runtime.model import Model
from zgedge.runtime.store import NAMES, Slots, identity

MAGIC = b"ZGEG"
VERSION = 1
_HEAD = struct.Struct("<4sIIIIIII")
_COVERED = 28  # bytes of the header before its checksum
NO_LABEL = 0xFFFF
SAMPLES = 64  # of a golden file, where their values fit into GOLDEN_BYTES
GOLDEN_BYTES = 1 << 20
TIMED = 256  # calls that a latency is the median of, at least
GLANCES = 5  # at slots that a running service may be writing


# ---- golden files ----


@dataclass(frozen=True)
class Golden:
    """Inputs, and what a model makes of them.

    x        float32 [samples, inputs]
    logits   int32 [samples, classes], of the pristine model
    labels   uint16 [samples]: class numbers, `NO_LABEL` behind the learned ones
    learned  samples that are learned, the first ones, in their order
    arena    CRC-32 of the sealed arena after that; 0 where none is learned
    """

    x: npt.NDArray[np.float32]
    logits: npt.NDArray[np.int32]
    labels: npt.NDArray[np.uint16]
    learned: int
    arena: int

    def to_bytes(self) -> bytes:
        n, inputs = self.x.shape
        body = np.ascontiguousarray(self.x, "<f4").tobytes()
        body += np.ascontiguousarray(self.logits, "<i4").tobytes()
        body += np.ascontiguousarray(self.labels, "<u2").tobytes()
        body += b"\0" * (-len(body) % 4)
        head = _HEAD.pack(
            MAGIC, VERSION, n, inputs, self.logits.shape[1], self.learned, self.arena, 0
        )[:_COVERED]
        return head + struct.pack("<I", zlib.crc32(body, zlib.crc32(head))) + body

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Golden:
        """Raises DataError for what is no whole golden file."""
        try:
            with open(path, "rb") as f:
                data = f.read(files.MAX_FILE + 1)
        except OSError as e:
            raise DataError(f"Cannot read {path}: {e.strerror}.", "Check the path.") from e
        if len(data) < _HEAD.size or data[:4] != MAGIC:
            raise DataError(f"{path} is no golden file.", "`zgedge deploy` writes one.")
        _, version, n, inputs, classes, learned, arena, checksum = _HEAD.unpack_from(data)
        if version != VERSION:
            raise DataError(f"{path} is of version {version}; this zgedge reads {VERSION}.")
        floats, integers = 4 * n * inputs, 4 * n * classes
        body = data[_HEAD.size :]
        if len(body) != floats + integers + (2 * n + 3) // 4 * 4 or not n or learned > n:
            raise DataError(f"{path} is cut or longer than it says.", "Copy it again, whole.")
        if zlib.crc32(body, zlib.crc32(data[:_COVERED])) != checksum:
            raise DataError(f"{path} is damaged: its checksum differs.", "Copy it again, whole.")
        labels = np.frombuffer(body, "<u2", n, floats + integers).astype(np.uint16)
        return cls(
            np.frombuffer(body, "<f4", n * inputs).astype(np.float32).reshape(n, inputs),
            np.frombuffer(body, "<i4", n * classes, floats).astype(np.int32).reshape(n, classes),
            labels,
            learned,
            arena,
        )


class _Run:
    """A model as the golden test calls it, sample by sample, with pointers that are made once."""

    def __init__(self, model: Model) -> None:
        self.model = model
        network = model.arena.network
        self._x = np.zeros(model.inputs, np.float32)
        self._y = np.zeros(1, np.uint16)
        self._class = np.zeros(1, np.int32)
        self._score = np.zeros(1, np.uint16)
        self._logits = np.zeros(network.classes, np.int32)
        self._replay = network.batch - 1

    def logits(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
        self._x[:] = x
        core.check(
            core.lib.zge_model_logits_f32(
                self.model._handle, self._x.ctypes.data, 1, self._logits.ctypes.data
            ),
            self.model.name,
        )
        return self._logits

    def predict(self, x: npt.NDArray[np.float32]) -> int:
        """Nanoseconds that a prediction takes."""
        self._x[:] = x
        at, to, score = self._x.ctypes.data, self._class.ctypes.data, self._score.ctypes.data
        since = time.perf_counter_ns()
        status = core.lib.zge_model_predict_f32(self.model._handle, at, 1, to, score)
        took = time.perf_counter_ns() - since
        core.check(status, self.model.name)
        return took

    def learn(self, x: npt.NDArray[np.float32], label: int) -> int:
        """Nanoseconds that learning a sample takes."""
        self._x[:] = x
        self._y[0] = label
        at, y, to = self._x.ctypes.data, self._y.ctypes.data, self._class.ctypes.data
        since = time.perf_counter_ns()
        status = core.lib.zge_learner_step_f32(self.model._handle, at, y, 1, self._replay, to, None)
        took = time.perf_counter_ns() - since
        core.check(status, self.model.name)
        return took

    def sealed(self) -> int:
        """CRC-32 of the sealed arena."""
        self.model.seal()
        return zlib.crc32(self.model.arena.buffer.data)


def _mixed(n: int, salt: int) -> npt.NDArray[np.uint8]:
    """`n` fixed bytes that look random, the same with every version of numpy (a multiplicative
    hash)."""
    numbers = (np.arange(n, dtype=np.uint64) + np.uint64(salt)) * np.uint64(0x9E3779B97F4A7C15)
    numbers ^= numbers >> np.uint64(29)
    numbers *= np.uint64(0xBF58476D1CE4E5B9)
    return (numbers >> np.uint64(56)).astype(np.uint8)


def _kept(arena: files.Arena) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16]] | None:
    """Codes [n, inputs] and class numbers [n] of the samples that a file holds: its anchors, else
    what it remembers; None where it has none, or has what its trunk made of them."""
    network = arena.network
    if network.trunk or not network.learning:
        return None
    wide = 2 if network.classes > 256 else 1
    anchors = arena.section(net.ANCHORS)
    replay = arena.section(net.REPLAY)
    if len(anchors) and (held := struct.unpack_from("<I", anchors.data, 4)[0]):
        room, section, at = network.anchors, anchors, net.ANCHORS_BYTES
        data = at + room * (wide + 1)
    elif len(replay) and (held := (arena.learner() or {})["remembered"]):
        room, section = network.replay_samples, replay
        at = (2 * network.classes + 3) // 4 * 4
        data = at + room * wide
    else:
        return None
    labels = section[at : at + wide * held].view("<u2" if wide == 2 else np.uint8)
    stride = network.replay_stride
    packed = section[data : data + held * stride].reshape(held, stride)
    values = network.inputs
    if network.replay_pool:
        height, width, channels = network.shape
        values = -(-height // 2) * -(-width // 2) * channels
    codes = files.unpack_codes(packed, network.sample_bits, values)
    if network.replay_pool:
        codes = files.spread_codes(codes, network.shape)
    return codes, labels.astype(np.uint16)


def _raw(arena: files.Arena, codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Raw values whose codes are these, or nearly: the inverse of the input scales."""
    scale, center = arena.input_coding()
    group = np.arange(arena.network.inputs) % arena.network.groups
    zero = 0 if arena.network.trunk else arena.scales[0][3]
    steps = codes.astype(np.float32) - np.float32(zero)
    raw: npt.NDArray[np.float32] = steps / scale[group] + center[group]
    return raw


def own_samples(
    path: str | os.PathLike[str],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint16]]:
    """Samples to try a model with, from the file alone, and class numbers: its anchors, else what
    it remembers, and where that is little, fixed noise over the range of its inputs, of classes
    that take turns."""
    model = Model.open(path)
    arena, inputs = model.arena, model.inputs
    most = max(8, min(SAMPLES, GOLDEN_BYTES // (4 * inputs)))
    codes = _mixed(most * inputs, 7).reshape(most, inputs)
    numbers = np.arange(most, dtype=np.uint16) % np.uint16(len(model.classes))
    kept = _kept(arena)
    if kept is not None:
        # Spread over all that is held: neighbours may be of one class.
        take = np.unique(np.linspace(0, len(kept[1]) - 1, most).astype(np.int64))
        codes[: len(take)], numbers[: len(take)] = kept[0][take], kept[1][take]
    return _raw(arena, codes), numbers


def make_golden(path: str | os.PathLike[str], x: Any = None, y: Any = None) -> bytes:
    """A golden file for the model at `path`: what it makes of samples here must come out there.

    x  samples [n, inputs], raw values; None: samples from the file itself (`own_samples`)
    y  their labels [n], as the model has them; without them the classes take turns, which tries
       the arithmetic as well

    Same model and samples, same bytes. Raises ModelError for a bad file, DataError for bad
    samples, UsageError for labels without samples.
    """
    model = Model.open(path)
    numbers: npt.NDArray[np.uint16] | None = None
    if x is None:
        if y is not None:
            raise UsageError("There are labels, and no samples.")
        x, numbers = own_samples(path)
    x = np.asarray(model.rows(x), np.float32)
    if not len(x):
        raise DataError("There is no sample.")
    n, network = len(x), model.arena.network
    if y is not None and network.learning:
        from zgedge.runtime.learner import Learner

        numbers = Learner(model).label_numbers(y)
        if len(numbers) != n:
            raise DataError(f"There are {n} samples and {len(numbers)} labels.")
    if numbers is None:
        numbers = np.arange(n, dtype=np.uint16) % np.uint16(len(model.classes))
    run = _Run(model)
    logits = np.stack([run.logits(row).copy() for row in x])
    learned = n if network.learning else 0
    for row, number in zip(x[:learned], numbers, strict=False):
        run.learn(row, int(number))
    labels = numbers if learned else np.full(n, NO_LABEL, np.uint16)
    return Golden(x, logits, labels, learned, run.sealed() if learned else 0).to_bytes()


def run_golden(model_path: str, golden_path: str) -> dict[str, Any]:
    """Predict and learn what a golden file holds, in private memory, and compare every bit.

    Raises ModelError, DataError where a file is none or they do not belong together.
    """
    model = Model.open(model_path)
    golden = _fitting(model, golden_path)
    if golden.learned and not model.arena.network.learning:
        raise DataError(f"{golden_path} learns, and {model_path} was written to predict only.")
    if (golden.labels[: golden.learned] >= len(model.classes)).any():
        raise DataError(f"{golden_path} has a class that {model_path} has not.")
    run = _Run(model)
    for i, (x, want) in enumerate(zip(golden.x, golden.logits, strict=True)):
        got = run.logits(x)
        if not np.array_equal(got, want):
            j = int((got != want).argmax())
            return {
                "ok": False, "samples": len(golden.x), "learned": golden.learned, "sample": i,
                "error": f"Sample {i} differs: logit {j} is {got[j]}, not {want[j]}.",
                "hint": "This build or processor does not compute as it must: do not use it.",
                "exit_code": 1,
            }  # fmt: skip
    rounds = -(-TIMED // len(golden.x))
    predicts = [run.predict(x) for _ in range(rounds) for x in golden.x]
    learns = [
        run.learn(x, int(y))
        for x, y in zip(golden.x[: golden.learned], golden.labels, strict=False)
    ]
    if golden.learned and (sealed := run.sealed()) != golden.arena:
        return {
            "ok": False, "samples": len(golden.x), "learned": golden.learned, "sample": None,
            "error": f"After learning {golden.learned} samples the arena has the checksum "
                     f"{sealed:08x}, not {golden.arena:08x}.",
            "hint": "This build or processor does not learn as it must: do not use it.",
            "exit_code": 1,
        }  # fmt: skip
    resident = Resident()
    rss = resident.read()
    resident.close()
    return {
        "ok": True, "samples": len(golden.x), "learned": golden.learned,
        "p50_us": _quantile(predicts, 0.5), "p99_us": _quantile(predicts, 0.99),
        "learn_p50_us": _quantile(learns, 0.5) if learns else None,
        "rss_bytes": rss, "arena_bytes": len(model.arena.buffer),
    }  # fmt: skip


def _fitting(model: Model, path: str) -> Golden:
    golden = Golden.read(path)
    network = model.arena.network
    if (golden.x.shape[1], golden.logits.shape[1]) != (network.inputs, network.classes):
        raise DataError(
            f"{path} is for {golden.x.shape[1]} inputs and {golden.logits.shape[1]} classes; "
            f"{model.name} has {network.inputs} and {network.classes}.",
            "Take the golden file that came with this model.",
        )
    return golden


def _quantile(ns: list[int], q: float) -> float:
    return sorted(ns)[int(q * (len(ns) - 1))] / 1000


# ---- the learned state ----


def newest_state(model_path: str, folder: str) -> tuple[Model, str]:
    """The model as the learned state in `folder` has it, and where it is from. Nothing is written
    and no lock taken: a service may run there.

    Raises ModelError for the state of another model.
    """
    deployed = files.read_file(model_path)
    pristine = Model(files.in_memory(deployed.data), model_path)
    slots = None
    for _ in range(GLANCES):
        with contextlib.ExitStack() as stack:
            disks = []
            for name in NAMES:
                try:
                    fd = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError:
                    return pristine, "the deployed model"
                except OSError as e:
                    raise ZgedgeError(
                        f"Cannot read {folder}: {e.strerror}.", "Ask as the service's user."
                    ) from e
                stack.callback(os.close, fd)
                disks.append(File(fd))
            slots = Slots(disks, identity(deployed.data), len(deployed))
            state, scratch = files.aligned(len(deployed)), files.aligned(len(deployed))

            def refusal(_: memoryview, state: files.UInt8 = state) -> str | None:
                try:
                    Model(files.in_memory(state.data), model_path)
                except ModelError as e:
                    return e.message
                return None

            try:
                whole = slots.load(state.data, scratch.data, refusal)
            except ModelError as e:
                raise ModelError(f"{folder}: {e.message}", e.hint) from e
            if whole:
                return Model(state, model_path), f"commit {slots.generation}"
        # Both may have been rewritten while they were read.
        time.sleep(0.05)
    return pristine, "the deployed model"


def state_digest(model_path: str, folder: str, golden_path: str) -> dict[str, Any]:
    """What the learned state makes of golden inputs, and its checksum."""
    model, told = newest_state(model_path, folder)
    golden = _fitting(model, golden_path)
    state = zlib.crc32(model.arena.buffer.data)
    run = _Run(model)
    logits = 0
    for x in golden.x:
        logits = zlib.crc32(run.logits(x).astype("<i4").tobytes(), logits)
    return {"from": told, "logits": f"{logits:08x}", "state": f"{state:08x}"}


# ---- a conversation ----


def converse(path: str, lines: BinaryIO, out: BinaryIO, timeout: float) -> None:
    """Send each line to the service at `path`, and give its reply before the next is read.

    Raises ZgedgeError where no service answers.
    """
    try:
        with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as sock:
            sock.settimeout(timeout)
            sock.connect(path)
            with sock.makefile("rb") as replies:
                for line in lines:
                    sock.sendall(line if line.endswith(b"\n") else line + b"\n")
                    reply = replies.readline()
                    if not reply.endswith(b"\n"):
                        raise ConnectionResetError(104, os.strerror(104))
                    out.write(reply)
                    out.flush()
    except OSError as e:
        raise ZgedgeError(
            f"No service answers at {path}: {e.strerror or str(e) or 'it took too long'}.",
            "Look whether it runs.",
        ) from e


# ---- the command line ----


@click.group()
def _commands() -> None:
    """What whoever deploys asks of a board. Each command prints one line of JSON."""


@_commands.command()
def version() -> int:
    """Say which runtime this is."""
    return _say(
        {
            "zgedge": zgedge.__version__, "runtime": "python", "machine": platform.machine(),
            "variant": core.variant(), "python": platform.python_version(),
        }
    )  # fmt: skip


@_commands.command()
@click.argument("model")
@click.argument("golden_file", metavar="GOLDEN")
def golden(model: str, golden_file: str) -> int:
    """Compute what GOLDEN holds with MODEL, and compare every bit."""
    return _say(run_golden(model, golden_file))


@_commands.command()
@click.argument("model")
@click.argument("golden_file", metavar="GOLDEN")
@click.option("--state", required=True, metavar="DIR", help="Folder of learned state.")
def digest(model: str, golden_file: str, state: str) -> int:
    """Say what the learned state of MODEL makes of the inputs of GOLDEN."""
    return _say(state_digest(model, state, golden_file))


@_commands.command()
@click.argument("socket")
@click.option("--timeout", default=10.0, show_default=True, help="Seconds to wait for a reply.")
def ask(socket: str, timeout: float) -> int:
    """Send lines of standard input to a service, and print its replies."""
    converse(socket, sys.stdin.buffer, sys.stdout.buffer, timeout)
    return 0


def _say(found: dict[str, Any]) -> int:
    click.echo(json.dumps(found))
    return int(found.get("exit_code", 0))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    act: Callable[..., Any] = _commands.main
    try:
        return int(act(arguments, prog_name="zgedge.runtime.board", standalone_mode=False) or 0)
    except click.ClickException as e:
        failed = UsageError(e.format_message())
    except ZgedgeError as e:
        return _say({"ok": False, "error": e.message, "hint": e.hint, "exit_code": e.exit_code})
    return _say({"ok": False, "error": failed.message, "hint": None, "exit_code": 2})


if __name__ == "__main__":
    sys.exit(main())
