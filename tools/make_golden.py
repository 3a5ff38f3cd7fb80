"""Golden files: small .zge files, and the answers that every later version must still give.

    python tools/make_golden.py           make files that have no pin yet; renew the listings in
                                          docs/format.md
    python tools/make_golden.py --check   verify everything, write nothing

`tests/golden/golden.json` pins for each file its SHA-256, the integer logits of 16 samples, and
the SHA-256 of the sealed arena after 1,000 learning steps. A golden file stays for ever: when the
format gets a new version, files of that version are added, and those of old versions must still be
read, with these same answers. So a file or an answer that exists is never written again; one that
differs is an error. `tests/test_golden.py` pins golden.json itself.

All numbers come from the integer generator below, so they do not change with any library.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from zgedge import arena  # noqa: E402
from zgedge import network as net  # noqa: E402
from zgedge.network import (  # noqa: E402
    Layer,
    Network,
    TrunkLayer,
    conv,
    dense,
    depthwise,
    max_pool,
    mean_pool,
    sparse,
)
from zgedge.runtime import Learner, Model  # noqa: E402
from zgedge.runtime import core_library as core  # noqa: E402

FOLDER = ROOT / "tests" / "golden"
PINS = FOLDER / "golden.json"
FORMAT = ROOT / "docs" / "format.md"
LISTED = ("v1-tiny", "v1-trunk-tiny")  # files that docs/format.md prints whole
STEPS = 1000  # learning steps whose outcome is pinned
SAMPLES = 16  # samples whose logits are pinned
# Learning steps before a file is written, so that residuals, gradient and replay hold something.
WARM = 100

Floats = npt.NDArray[np.float32]


class Lcg:
    """Numbers that look random: x <- x * 6364136223846793005 + 1442695040888963407 modulo 2^64
    (Knuth's MMIX), of which the high 32 bits are used. The seed is the first x."""

    def __init__(self, seed: int) -> None:
        self.x = seed

    def below(self, n: int) -> int:
        """Uniform in 0 .. n - 1."""
        self.x = (self.x * 6364136223846793005 + 1442695040888963407) & (1 << 64) - 1
        return (self.x >> 32) * n >> 32

    def between(self, low: int, high: int) -> int:
        """Uniform in low .. high."""
        return low + self.below(high - low + 1)


@dataclass(frozen=True)
class Golden:
    """How a golden file is made. `values` is the largest raw value of a picture, 0 for a table."""

    seed: int
    network: Network
    class_names: tuple[str, ...]
    feature_names: tuple[str, ...] | None = None
    int_classes: bool = False
    values: int = 255
    unknown: int = 0
    strategy: str = "rigl"
    swaps: int = 1
    gather: int = 16
    rate: float = 0.25
    keep: str = "fade"
    calm: int = 0
    right: int = 3  # quarters of the anchors
    new: int = 0  # of the last classes: neither anchors nor what the file has learned are of them
    weight_scale: float = 2.0**-9

    @property
    def held(self) -> int:
        """Anchors that the file has; all that there is room for where a class is new, which then
        takes the place of others."""
        return self.network.anchors if self.new else self.network.anchors * 3 // 4

    @property
    def sizes(self) -> range:
        """New samples of a learning step: step t learns sizes[t % len(sizes)]."""
        return range(1, min(4, self.network.batch) + 1)


def _golden(
    seed: int,
    shape: tuple[int, int, int],
    layers: Sequence[Layer],
    class_names: Sequence[str],
    feature_names: tuple[str, ...] | None = None,
    *,
    options: dict[str, Any],
    spare: int = 0,
    **more: Any,
) -> Golden:
    named = len(class_names)
    names = len(arena.names_blob(class_names, feature_names, spare=spare or None))
    known = named if spare else 0
    network = Network(shape, named + spare, tuple(layers), names, known=known, **options)
    return Golden(seed, network, tuple(class_names), feature_names, **more)


GOLDEN: dict[str, Golden] = {
    # Small enough to be printed whole.
    "v1-tiny": _golden(
        1, (2, 2, 1), (sparse(4, 3, 2), dense(3, 2)), ("no", "yes"),
        options={"task": "picture", "batch": 2, "replay_samples": 2, "replay_bits": 4},
        gather=4,
    ),
    # Residual bits in the indices; half-byte replay of raw values 0 .. 16, as in the digits.
    "v1-sparse-b1-replay-4": _golden(
        2, (8, 8, 1), (sparse(64, 20, 12), dense(20, 10)), tuple(map(str, range(10))),
        options={"task": "picture", "batch": 8, "replay_samples": 21, "replay_bits": 4},
        int_classes=True, values=16, swaps=2,
    ),
    # Residual bits in their section; replay of whole codes.
    "v1-sparse-b4-replay-8": _golden(
        3, (12, 4, 1), (sparse(48, 14, 16, 4), dense(14, 4)), ("rest", "walk", "run", "fall"),
        options={"task": "series", "batch": 4, "replay_samples": 11, "replay_bits": 8},
        strategy="set",
    ),
    # Everything odd, zero point 128, a scale for each column.
    "v1-two-hidden-table": _golden(
        4, (1, 21, 1), (sparse(21, 17, 5), sparse(17, 12, 8), dense(12, 3)), ("-1", "0", "12"),
        options={"groups": 21, "batch": 16, "replay_samples": 7, "replay_bits": 4},
        int_classes=True, values=0, swaps=2, gather=40,
    ),
    "v1-dense-no-learning": _golden(
        5, (1, 20, 1), (dense(20, 9), dense(9, 3)), ("low", "middle", "high"),
        options={"groups": 20, "learning": False, "batch": 1},
        values=0,
    ),
    "v1-sparse-b16-unknown": _golden(
        6, (8, 8, 1), (sparse(64, 24, 32, 16), dense(24, 6)), tuple(map(str, range(6))),
        options={"task": "picture", "learning": False, "batch": 1, "align": 64},
        int_classes=True, unknown=20000, weight_scale=2.0**-7,
    ),
    # One layer, no replay, no section of residual bits; names in more than ASCII.
    "v1-names": _golden(
        7, (1, 5, 1), (sparse(5, 3, 4),), ("Ахатина", "café au lait", "砂"),
        ("température °C", "pH", "mass / kg", "Δt", ""),
        options={"groups": 5, "batch": 2},
        values=0, gather=8,
    ),
    # A trunk small enough to be printed whole.
    "v1-trunk-tiny": _golden(
        8, (3, 3, 1), (sparse(8, 3, 2), dense(3, 2)), ("no", "yes"),
        options={
            "task": "picture", "learning": False, "batch": 1,
            "trunk": (
                conv((3, 3, 1), 2), depthwise((3, 3, 2), add=1),
                max_pool((3, 3, 2), same=True),
            ),
        },
    ),
    # Two additions of one picture, windows that end at the edge, half-byte replay of features.
    "v1-trunk-add-replay-4": _golden(
        9, (8, 9, 1), (sparse(36, 12, 9), dense(12, 5)), tuple(map(str, range(5))),
        options={
            "task": "picture", "batch": 8, "replay_samples": 21, "replay_bits": 4,
            "trunk": (
                conv((8, 9, 1), 6), conv((8, 9, 6), 6, add=1), conv((8, 9, 6), 6, 1, add=1),
                max_pool((8, 9, 6), 3, 2), conv((3, 4, 6), 9, 3, 2),
            ),
        },
        int_classes=True, values=16, swaps=2,
    ),
    # Strides, odd everything, a mean at the end; replay of whole codes.
    "v1-trunk-mean-replay-8": _golden(
        10, (11, 7, 3), (sparse(17, 9, 6), dense(9, 4)), ("rest", "walk", "run", "fall"),
        options={
            "task": "picture", "batch": 4, "replay_samples": 11, "replay_bits": 8,
            "trunk": (
                depthwise((11, 7, 3), 5, 2), conv((6, 4, 3), 17, 1), depthwise((6, 4, 17), add=2),
                mean_pool((6, 4, 17)),
            ),
        },
        strategy="set",
    ),
    "v1-trunk-no-learning": _golden(
        11, (12, 10, 2), (dense(32, 3),), ("low", "middle", "high"),
        options={
            "task": "picture", "learning": False, "batch": 1, "align": 64,
            "trunk": (
                conv((12, 10, 2), 5, 3, same=False), depthwise((10, 8, 5), 7, same=False),
                conv((4, 2, 5), 16, 5, 4), max_pool((1, 1, 16), 2, 3, same=True),
                conv((1, 1, 16), 32, 1),
            ),
        },
        unknown=12000,
    ),
    # Two bits of the means of 2 x 2 places, of pictures with odd sides.
    "v1-replay-2-places": _golden(
        12, (7, 5, 2), (sparse(70, 15, 9), dense(15, 4)), tuple(map(str, range(4))),
        options={
            "task": "picture", "batch": 8, "replay_samples": 19, "replay_bits": 2,
            "replay_pool": 2,
        },
        int_classes=True, values=16,
    ),
    # A bit for each value of a row that does not fill its last byte.
    "v1-replay-1": _golden(
        13, (1, 21, 1), (sparse(21, 12, 6), dense(12, 3)), ("-1", "0", "12"),
        options={"groups": 21, "batch": 4, "replay_samples": 9, "replay_bits": 1},
        int_classes=True, values=0,
    ),
    # What the strategies that came later gather: the activity of a unit, fixed signs, sketches.
    "v1-hebbian": _golden(
        14, (1, 40, 1), (sparse(40, 14, 16, 4), dense(14, 4)), ("rest", "walk", "run", "fall"),
        options={"groups": 40, "batch": 8, "replay_samples": 9, "replay_bits": 4},
        values=0, strategy="hebbian", gather=21,
    ),
    "v1-three-factor": _golden(
        15, (8, 8, 1), (sparse(64, 18, 9), sparse(18, 11, 5), dense(11, 5)),
        tuple(map(str, range(5))),
        options={"task": "picture", "batch": 4, "replay_samples": 12, "replay_bits": 2},
        int_classes=True, values=16, strategy="three-factor", swaps=2,
    ),
    "v1-attention": _golden(
        16, (8, 8, 1), (sparse(64, 18, 16, 8), sparse(18, 5, 6)), tuple(map(str, range(5))),
        options={
            "task": "picture", "batch": 8, "replay_samples": 12, "replay_bits": 4, "traces": 3,
        },
        int_classes=True, values=16, strategy="attention",
    ),
    # Anchors, the accepted state and the detectors; the last file has only these.
    "v1-guard": _golden(
        18, (6, 6, 1), (sparse(36, 14, 8, 4), dense(14, 4)), tuple(map(str, range(4))),
        options={
            "task": "picture", "batch": 8, "replay_samples": 16, "replay_bits": 4,
            "watch": True, "anchors": 128,
        },
        int_classes=True, values=16,
    ),
    "v1-guard-no-replay": _golden(
        19, (1, 20, 1), (sparse(20, 12, 7), dense(12, 3)), ("rest", "walk", "run"),
        options={"groups": 20, "batch": 4, "watch": True, "anchors": 110},
        values=0, swaps=3, gather=4,
    ),
    # A guard that is careful in a quiet world.
    "v1-guard-calm": _golden(
        24, (1, 20, 1), (sparse(20, 12, 7), dense(12, 3)), ("rest", "walk", "run"),
        options={"groups": 20, "batch": 4, "watch": True, "anchors": 150},
        values=0, swaps=3, gather=4, calm=4, right=0,
    ),
    # A class that neither its anchors nor the samples before had.
    "v1-guard-new-class": _golden(
        25, (6, 6, 1), (sparse(36, 14, 8, 4), dense(14, 4)), tuple(map(str, range(4))),
        options={
            "task": "picture", "batch": 8, "replay_samples": 16, "replay_bits": 4,
            "watch": True, "anchors": 120,
        },
        int_classes=True, values=16, calm=4, right=0, new=1,
    ),
    # Classes that got their name on the way and one that has none, samples that wait.
    "v1-spare-pending": _golden(
        21, (1, 20, 1), (sparse(20, 12, 7), dense(12, 5)), ("rest", "walk", "run"),
        options={
            "groups": 20, "batch": 4, "replay_samples": 9, "replay_bits": 4, "pending": 4,
        },
        values=0, spare=2,
    ),
    "v1-watch": _golden(
        20, (1, 20, 1), (sparse(20, 12, 7), dense(12, 3)), ("rest", "walk", "run"),
        options={"groups": 20, "batch": 2, "watch": True}, values=0, gather=4,
    ),
    # A reservoir, of rows that fill no byte.
    "v1-reservoir": _golden(
        22, (1, 21, 1), (sparse(21, 12, 6), dense(12, 3)), ("-1", "0", "12"),
        options={"groups": 21, "batch": 4, "replay_samples": 10, "replay_bits": 2},
        int_classes=True, values=0, keep="reservoir",
    ),
    # Running sums of features, solved a few steps a tick; samples that wait.
    "v1-analytic": _golden(
        23, (6, 5, 1), (sparse(60, 19, 12), dense(19, 4)), ("rest", "walk", "run", "fall"),
        options={
            "task": "picture", "batch": 4, "head": "analytic", "pending": 3,
            "trunk": (conv((6, 5, 1), 10), max_pool((6, 5, 10))),
        },
        values=16,
    ),
}  # fmt: skip


def trunk_parameters(
    trunk: Sequence[TrunkLayer], s_in: float, lcg: Lcg
) -> list[arena.TrunkParameters]:
    """Numbers of a trunk, under which about half of all values are above zero."""
    out: list[arena.TrunkParameters] = []
    for layer in trunk:
        if not layer.has_weights:
            out.append(arena.TrunkParameters(s_in, s_in))
            continue
        weights = [lcg.between(-110, 110) for _ in range(layer.weights)]
        multiplier = [
            (4 + r % 3) * 2.0 ** -(7 + layer.taps.bit_length() // 2) for r in range(layer.channels)
        ]
        s_out = 2.0**-7
        if layer.add is not None:
            s_out = s_in if layer.add == len(out) else out[layer.add].s_in
        out.append(
            arena.TrunkParameters(
                s_in, s_out,
                weights=np.array(weights, np.int8).reshape(arena.weight_shape(layer)),
                bias=np.array([lcg.between(0, 4000) for _ in range(layer.channels)], np.int32),
                multiplier=np.array(multiplier, np.float32),
            )
        )  # fmt: skip
        s_in = s_out
    return out


def anchors(
    golden: Golden, lcg: Lcg
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Any features and labels, some quarters of them right."""
    network = golden.network
    n = golden.held
    codes = [[lcg.below(256) for _ in range(network.features)] for _ in range(n)]
    labels = [lcg.below(network.classes - golden.new) for _ in range(n)]
    right = [lcg.below(4) >= 4 - golden.right for _ in range(n)]
    return np.array(codes, np.uint8), np.array(labels), np.array(right)


def parameters(golden: Golden) -> arena.Parameters:
    """The network's numbers. Every scale that no other number fixes is a power of two."""
    lcg = Lcg(golden.seed)
    network = golden.network
    table = golden.values == 0
    s_in, z_in = (1 / 32, 128) if table else (1 / 255, 0)
    trunk = trunk_parameters(network.trunk, s_in, lcg)
    s_in = trunk[-1].s_out if trunk else s_in
    layers = []
    for i, layer in enumerate(network.layers):
        last = i + 1 == len(network.layers)
        # A class without a name has no numbers yet: the writer gives it its row.
        rows = network.known if last and network.known else layer.outputs
        blocks = layer.inputs // layer.block
        indices = []
        for _ in range(rows if layer.per_row else 0):
            left = list(range(blocks))
            indices.append([left.pop(lcg.below(len(left))) for _ in range(layer.per_row)])
        weights = [lcg.between(-110, 110) for _ in range(rows * layer.width)]
        s_w, s_out = golden.weight_scale, 1.0 if last else 2.0**-7
        layers.append(
            arena.LayerParameters(
                weights=np.array(weights, np.int8).reshape(rows, layer.width),
                indices=np.array(indices, np.uint16) if indices else None,
                bias=np.array([lcg.between(-2000, 2000) for _ in range(rows)], np.int32),
                multiplier=np.full(rows, s_in * s_w / s_out, np.float32),
                s_in=s_in, s_w=s_w, s_out=s_out, z_in=z_in,
            )
        )  # fmt: skip
        s_in, z_in = s_out, 0
    groups = range(network.groups)
    scale = [lcg.between(24, 40) if table else 255 / golden.values for _ in groups]
    center = [lcg.between(-64, 64) / 64 if table else 0 for _ in groups]
    return arena.Parameters(
        input_scale=np.array(scale, np.float32),
        input_center=np.array(center, np.float32),
        anchors=anchors(golden, lcg) if network.anchors else None,
        layers=layers,
        class_names=golden.class_names,
        trunk=trunk,
        int_classes=golden.int_classes,
        feature_names=golden.feature_names,
        unknown=golden.unknown,
        accuracy=0.75,
        seed=golden.seed,
        steps=WARM,
        samples=WARM,
        budget=8192,
        learner=arena.LearnerParameters(
            key=0x5EED0000 + golden.seed, rate=golden.rate, strategy=golden.strategy,
            swaps=golden.swaps, gather=golden.gather, keep=golden.keep, calm=golden.calm,
        ),
    )  # fmt: skip


def stream(golden: Golden, n: int, seed: int) -> tuple[Floats, list[int]]:
    """Samples float32 [n, inputs], and class numbers [n]: a prototype for each class, and noise.

    Raw values are whole numbers 0 .. values in a picture, multiples of 1/64 in a table. The stream
    of seed 1, which comes before, has no sample of a new class.
    """
    inputs = golden.network.inputs
    top, unit = (golden.values, 1) if golden.values else (384, 64)
    lcg = Lcg(golden.seed * 1000)
    prototypes = [[lcg.between(0, top) for _ in range(inputs)] for _ in golden.class_names]
    lcg = Lcg(golden.seed * 1000 + seed)
    x = np.empty((n, inputs), np.float32)
    y = []
    for row in x:
        y.append(lcg.below(len(prototypes) - (golden.new if seed == 1 else 0)))
        for j, value in enumerate(prototypes[y[-1]]):
            noisy = value + lcg.between(-top // 4, top // 4)
            row[j] = min(max(noisy, 0), top) if golden.values else (noisy - top // 2) / unit
    return x, y


def learn(blob: bytes, golden: Golden, steps: int, seed: int) -> bytes:
    """The sealed arena after `steps` steps of the stream, each filled up from the replay.

    Step t takes the next `sizes[t % len(sizes)]` samples; pictures go in as uint8, tables as
    float32.
    """
    buffer = arena.aligned(len(blob))
    buffer[:] = np.frombuffer(blob, np.uint8)
    learner = Learner(Model(buffer, "golden"))
    sizes = [golden.sizes[t % len(golden.sizes)] for t in range(steps)]
    x, y = stream(golden, sum(sizes), seed)
    rows = x.astype(np.uint8) if golden.values else x
    labels = [learner.model._labels[c] for c in y]
    at = before = 0
    network = golden.network
    for t, n in enumerate(sizes):
        learner.learn_many(rows[at : at + n], labels[at : at + n], replay=learner.batch - n)
        if network.pending:
            learner.hold(t, rows[at])
            if t % 2:
                learner.settle(t - 1, labels[before])
        before, at = at, at + n
    if len(learner.model.classes) < network.classes:
        learner.add_class(f"new {seed}")
        learner.learn_one(rows[0], f"new {seed}")
    learner.seal()
    return buffer.tobytes()


def make(golden: Golden) -> bytes:
    """The file's bytes; a file that can learn has learned WARM steps."""
    blob = arena.write(golden.network, parameters(golden))
    return learn(blob, golden, WARM, seed=1) if golden.network.learning else blob


def answers(blob: bytes, golden: Golden) -> dict[str, Any]:
    """What is pinned of a file: its digest, logits, and the digest after learning."""
    buffer = arena.aligned(len(blob))
    buffer[:] = np.frombuffer(blob, np.uint8)
    logits = Model(buffer, "golden").logits(stream(golden, SAMPLES, seed=2)[0])
    found: dict[str, Any] = {
        "bytes": len(blob),
        "sha256": hashlib.sha256(blob).hexdigest(),
        "logits": logits.tolist(),
    }
    if golden.network.learning:
        after = learn(blob, golden, STEPS, seed=3)
        found["learned_sha256"] = hashlib.sha256(after).hexdigest()
    return found


# ---- the listings in docs/format.md ----

_ROW = re.compile(r"^\| (\d+) \| ([uif]\d+)(?:\[(\d+)\])? \| `(\w+)` \|", re.MULTILINE)
_FORMATS = {"u8": "<B", "u16": "<H", "u32": "<I", "u64": "<Q", "f32": "<f"}
_TABLES = (
    "header", "entry", "net", "layer", "trunk", "learner", "rate", "traces",
    "anchors", "watch", "detector",
    "analytic", "pending",
)  # fmt: skip


@dataclass(frozen=True)
class Field:
    """A row of an offset table in docs/format.md; `count` is 0 for a single number."""

    offset: int
    type: str
    count: int
    name: str

    @property
    def bytes(self) -> int:
        return struct.calcsize(_FORMATS[self.type]) * max(self.count, 1)


def tables(text: str) -> dict[str, list[Field]]:
    """The offset tables of docs/format.md, in the order in which they stand there."""
    found: list[list[Field]] = []
    for match in _ROW.finditer(text):
        offset, kind, count, name = match.groups()
        if offset == "0":
            found.append([])
        found[-1].append(Field(int(offset), kind, int(count or 0), name))
    return dict(zip(_TABLES, found, strict=True))


def _title(kind: int) -> str:
    return "NET" if kind == net.NET else net.SECTION_NAMES[kind].upper()


def _hex(offset: int, part: bytes, note: str = "") -> str:
    return f"{offset:04x}  {part.hex(' '):<47}  {note}".rstrip()


def _fields(blob: bytes, at: int, fields: Sequence[Field]) -> Iterator[str]:
    for field in fields:
        part = blob[at + field.offset : at + field.offset + field.bytes]
        value = ""
        if not field.count:
            number = struct.unpack(_FORMATS[field.type], part)[0]
            if field.name in ("checksum", "key"):
                value = f" {number:#010x}"
            else:
                value = f" {number:.9g}" if field.type == "f32" else f" {number}"
        yield _hex(at + field.offset, part, field.name + value)


def _runs(blob: bytes, at: int, size: int, note: Callable[[bytes], str] | str) -> Iterator[str]:
    """Lines of up to 16 bytes; a text is the note of the first line."""
    for start in range(at, at + size, 16):
        part = blob[start : min(start + 16, at + size)]
        if callable(note):
            yield _hex(start, part, note(part))
        else:
            yield _hex(start, part, note if start == at else "")


def _numbers(layout: str) -> Callable[[bytes], str]:
    def note(part: bytes) -> str:
        values = [v[0] for v in struct.iter_unpack(layout, part)]
        return " ".join(f"{v:.9g}" if isinstance(v, float) else str(v) for v in values)

    return note


def _halves(part: bytes) -> str:
    return " ".join(str((half ^ 8) - 8) for byte in part for half in (byte & 15, byte >> 4))


def _indices(layer: Layer, learning: bool) -> Callable[[bytes], str]:
    """Indices of a layer, and its residual bits where they are among them."""

    def note(part: bytes) -> str:
        values = [v[0] for v in struct.iter_unpack("<H", part)]
        if not learning:
            return " ".join(map(str, values))
        mask = (1 << layer.index_bits) - 1
        both = " ".join(f"{v & mask}:{(v >> 12 ^ 8) - 8}" for v in values)
        return both + "  (index:residual)"

    return note


def listing(blob: bytes, network: Network, text: str) -> str:
    """A golden file, byte by byte, with the names of the tables in `text`. The network has one
    sparse layer and a head; a max pool, if anything, ends its trunk."""
    table = tables(text)
    hidden, head = network.layers
    named: list[tuple[str, TrunkLayer | Layer]] = [
        *((f"trunk layer {i}", x) for i, x in enumerate(network.trunk)),
        *((f"layer {i}", x) for i, x in enumerate(network.layers)),
    ]
    lines: list[str] = ["header", *_fields(blob, 0, table["header"])]
    lines += ["", "section table: kind, flags, offset, bytes, checksum"]
    sections = list(network.sections())
    for i, (kind, offset, size) in enumerate(sections):
        at = net.HEADER_BYTES + i * net.ENTRY_BYTES
        name = _title(kind)
        lines.append(_hex(at, blob[at : at + net.ENTRY_BYTES], f"{name}, {size} from {offset:#x}"))
    end = net.HEADER_BYTES + net.ENTRY_BYTES * len(sections)
    for kind, at, size in sections:
        if at > end:
            lines.append(_hex(end, blob[end:at], "padding"))
        lines += ["", f"section {kind}, {_title(kind)}"]
        end = at + size
        if kind == net.NET:
            lines += _fields(blob, at, table["net"])
            for i, (name, layer) in enumerate(named):
                lines.append(f"  {name}")
                fields = table["trunk" if isinstance(layer, TrunkLayer) else "layer"]
                lines += _fields(blob, at + net.NET_BYTES + i * net.LAYER_BYTES, fields)
        elif kind == net.NAMES:
            lines += _runs(blob, at, size, lambda part: repr(part.decode()))
        elif kind == net.INPUT:
            lines += _runs(blob, at, 4, lambda part: "scale " + _numbers("<f")(part))
            lines += _runs(blob, at + 4, 4, lambda part: "center " + _numbers("<f")(part))
        elif kind == net.ROWS:
            for name, layer in named:
                half = 4 * (layer.rows if isinstance(layer, TrunkLayer) else layer.outputs)
                if half:
                    lines += [f"  {name}: bias, then multiplier"]
                    lines += _runs(blob, at, half, _numbers("<i"))
                    lines += _runs(blob, at + half, half, _numbers("<f"))
                    at += 2 * half
        elif kind == net.WEIGHTS:
            for name, layer in named:
                if layer.weights:
                    lines += [f"  {name}"]
                    lines += _runs(blob, at, layer.weights, _numbers("<b"))
                    at += layer.weights
        elif kind == net.INDICES:
            lines += _runs(blob, at, size, _indices(hidden, network.learning))
        elif kind == net.RESIDUAL:
            lines += _runs(blob, at, size, _halves)
        elif kind == net.LEARNER:
            lines += _fields(blob, at, table["learner"])
            for i in range(len(network.layers)):
                lines.append(f"  layer {i}")
                lines += _fields(
                    blob, at + net.LEARNER_BYTES + i * net.LEARNER_LAYER_BYTES, table["rate"]
                )
        elif kind == net.SCRATCH:
            back = 4 * head.inputs * network.batch
            row = 4 * hidden.inputs
            lines += _runs(blob, at, back, "back: zero")
            lines += _runs(blob, at + back, row, lambda part: "grad " + _numbers("<i")(part))
            lines += _runs(blob, at + back + row, size - back - row, "delta: zero")
        elif kind == net.REPLAY:
            samples, stride = network.replay_samples, network.replay_stride
            lines += _runs(blob, at, 4, lambda part: "counts " + _numbers("<H")(part))
            lines += _runs(blob, at + 4, samples, lambda part: "labels " + _numbers("<B")(part))
            for i in range(samples):
                start = at + 4 + samples + i * stride
                lines += _runs(
                    blob, start, stride,
                    lambda part: "codes "
                    + " ".join(str(17 * half) for b in part for half in (b & 15, b >> 4)),
                )  # fmt: skip
        else:
            working = network.trunk_bytes
            rest = "rows of the trunk: zero" if working else "zero"
            lines += _runs(blob, at, working, rest)
            lines += _runs(blob, at + working, size - working, "zero")
    return "\n".join(lines)


def documented(text: str) -> str:
    """docs/format.md with the listings of the files that are there."""
    for name in LISTED:
        path = FOLDER / f"{name}.zge"
        if path.exists():
            lines = listing(path.read_bytes(), GOLDEN[name].network, text)
            mark = f"<!-- listing of {name} -->"
            block = f"{mark}\n\n```text\n{lines}\n```\n\n<!-- end of listing -->"
            pattern = re.escape(mark) + r".*?<!-- end of listing -->"
            text = re.sub(pattern, lambda _, block=block: block, text, flags=re.DOTALL)  # type: ignore[misc]
    return text


# ---- verifying and writing ----


def problems(pins: dict[str, Any]) -> list[str]:
    """What differs from golden.json, with the kernel variant in use; empty where all is well."""
    found = []
    files = {path.stem for path in FOLDER.glob("*.zge")}
    found += [f"{name}.zge is in no pin" for name in sorted(files - set(pins))]
    for name, pin in pins.items():
        path = FOLDER / f"{name}.zge"
        if name not in GOLDEN or not path.is_file():
            found.append(f"{name} is pinned, and {path.name} or how it is made is missing")
            continue
        blob = path.read_bytes()
        if hashlib.sha256(blob).hexdigest() != pin["sha256"]:
            found.append(f"{name}.zge has other bytes than those pinned")
            continue
        now = answers(blob, GOLDEN[name])
        found += [
            f"{name}.zge: {key} differs"
            for key in sorted({*now, *pin})
            if now.get(key) != pin.get(key)
        ]
        version = struct.unpack_from("<H", blob, 4)[0]
        if version == arena.FORMAT_VERSION and make(GOLDEN[name]) != blob:
            found.append(f"{name}.zge is written with other bytes today")
    return found


@click.command()
@click.option("--check", is_flag=True, help="Verify, and write nothing.")
def main(check: bool) -> None:
    """Make the golden files that are missing; verify those that exist."""
    pins: dict[str, Any] = json.loads(PINS.read_text()) if PINS.exists() else {}
    if not check:
        FOLDER.mkdir(exist_ok=True)
        for name, golden in GOLDEN.items():
            if name not in pins:
                blob = make(golden)
                (FOLDER / f"{name}.zge").write_bytes(blob)
                pins[name] = answers(blob, golden)
                click.echo(f"{name}.zge: {len(blob):,} bytes")
        pins = {name: pins[name] for name in sorted(pins, key=[*GOLDEN, *pins].index)}
        PINS.write_text(as_json(pins))
    found = [f"{name} is not pinned" for name in GOLDEN if name not in pins]
    for name, usable in core.variants().items():
        if usable:
            core.select_variant(name)
            found += [f"{text} ({name} kernels)" for text in problems(pins)]
    text = FORMAT.read_text()
    if (wanted := documented(text)) != text:
        if check:
            found.append("docs/format.md shows other bytes than its files have")
        else:
            FORMAT.write_text(wanted)
    for line in found:
        click.echo(line, err=True)
    if found:
        sys.exit(1)
    click.echo(f"{len(pins)} golden files as pinned, with every kernel variant of this processor")


def as_json(pins: dict[str, Any]) -> str:
    """JSON with a row of logits on a line."""
    text = json.dumps(pins, indent=2)
    return (
        re.sub(r"\[\s+(-?\d[^\[\]]*?)\s+\]", lambda m: "[" + " ".join(m[1].split()) + "]", text)
        + "\n"
    )


if __name__ == "__main__":
    main()
