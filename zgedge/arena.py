"""The .zge file: written from a network and its parameters, read as views onto one buffer.

The file is the arena (docs/format.md). The core checks everything when it opens one
(`zgedge.runtime.core`); this module lays files out, and gives names to the bytes of a file that the
core has accepted.
"""

from __future__ import annotations

import operator
import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from zgedge import network as net
from zgedge.errors import ModelError, ZgedgeError
from zgedge.network import Layer, Network, TrunkLayer

MAGIC = b"\x89ZGE"
FORMAT_VERSION = 1
MAX_FILE = 1 << 30
E_SIZE = -4  # the core's status for a file of the wrong length
KINDS = {
    net.SPARSE: 1, net.DENSE: 2, net.CONV: 17, net.DEPTHWISE: 18, net.MAX_POOL: 19,
    net.MEAN_POOL: 20,
}  # fmt: skip
KIND_NAMES = {number: name for name, number in KINDS.items()}
TRUNK_KINDS = frozenset((net.CONV, net.DEPTHWISE, net.MAX_POOL, net.MEAN_POOL))
RESERVED_KINDS = {16: "conv1d", 32: "spiking"}
RESIDUAL_NONE, RESIDUAL_INDEX, RESIDUAL_SECTION = 0, 1, 2
# Rewiring on a device, by the numbers of the format.
STRATEGIES = ("static", "set", "rigl", "hebbian", "three-factor", "attention")
# Rewiring while training on a host; the file goes on with one of those above.
TRAINING_STRATEGIES = (
    "rigl", "set", "hebbian", "three-factor", "attention", "deepr", "lottery", "static",
)  # fmt: skip
LEARN = ("all", "head", "none")
# Which new samples a full replay takes (docs/arithmetic.md, 5.6).
KEEP = ("fade", "reservoir")
NO_NAME = b"\xff"  # fills the room behind a name, and that of a class that has none yet
NAME_ROOM = 24  # bytes for each name of a file with spare classes, unless a name needs more
ANALYTIC_PACE = 32  # steps of an analytic head's solve in a tick

_HEADER = struct.Struct("<4sHHIIQII16x")
_ENTRY = struct.Struct("<HHIII")
_NET = struct.Struct("<IHHIIIHHHHIHHIQIfIBBH")
_LAYER = struct.Struct("<BBBBIIIfff4x")
_TRUNK = struct.Struct("<BBBBIIIfffBBBx")
_PENDING = struct.Struct("<QQQII")
_LEARNER = struct.Struct("<QQQQIIfHHBBHIIIQ")
_TRACES = struct.Struct("<HHHH")
_ANCHORS = struct.Struct("<IIII")
_WATCH = struct.Struct("<IHHIfIIIIII6QII")
_DETECTOR = struct.Struct("<IIQI4x")
FEWEST_ANCHORS = 100  # below which the guard is off
FEWEST_SEEN = 30  # values before a detector's mean is one
BOUNDS = (15 * 65_536, 8 * 65_536)  # of the detectors of errors and of doubt
ONE = 65_536  # of a fraction in 16.16 fixed point
LENGTH = 2000  # steps of plasticity after drift
ASSUMED = 100  # samples that a detector's mean from training counts as

UInt8 = npt.NDArray[np.uint8]


@dataclass
class LayerParameters:
    """Integers and scales of one layer.

    weights     int8 [outputs, width], -127..127
    indices     uint16 [outputs, per_row], block numbers; None in a dense layer
    bias        int32 [outputs], in units of s_in * s_w
    multiplier  float32 [outputs], s_in * s_w / s_out (of the head: s_in * s_w)
    z_in        zero point of the incoming activations; 0 in all but the first layer
    s_in, s_w, s_out  real value of one step of an activation in, a weight, an activation out
    """

    weights: npt.NDArray[np.int8]
    indices: npt.NDArray[np.uint16] | None
    bias: npt.NDArray[np.int32]
    multiplier: npt.NDArray[np.float32]
    s_in: float
    s_w: float
    s_out: float = 1.0
    z_in: int = 0


@dataclass
class TrunkParameters:
    """Integers and scales of one trunk layer; a pool has scales only.

    weights     int8 [channels, kernel, kernel, incoming channels] of a convolution, or
                [kernel, kernel, channels] of a depthwise one; None in a pool
    bias        int32 [channels], in units of s_in and the channel's weight step; None in a pool
    multiplier  float32 [channels], s_in * weight step / s_out; None in a pool
    s_in, s_out  real value of one step of an activation in, an activation out
    """

    s_in: float
    s_out: float
    weights: npt.NDArray[np.int8] | None = None
    bias: npt.NDArray[np.int32] | None = None
    multiplier: npt.NDArray[np.float32] | None = None


@dataclass
class LearnerParameters:
    """How a learner starts. `rate` is in units of the float network, per step; a guard that sees
    nothing to learn halves it `calm` times, 0..6 (docs/guard.md)."""

    key: int = 0
    rate: float = 0.05
    learn: str = "all"
    strategy: str = "rigl"
    swaps: int = 1
    gather: int = 64
    keep: str = "fade"
    pace: int = ANALYTIC_PACE
    calm: int = 4


@dataclass
class Parameters:
    """All numbers that a file holds besides its shapes.

    input_scale   float32 [groups], steps per unit of a raw value
    input_center  float32 [groups], raw value that is coded as the zero point
    replay        (codes uint8 [n, features], labels int [n]) to remember from the start, or None
    anchors       (codes uint8 [n, features], labels int [n], right bool [n]): samples to judge by,
                  and whether this network, reading them as they are packed, has each right
    accuracy      test accuracy at training, 0..1, or None
    """

    input_scale: npt.NDArray[np.float32]
    input_center: npt.NDArray[np.float32]
    layers: Sequence[LayerParameters]
    class_names: Sequence[str]
    int_classes: bool = False
    feature_names: Sequence[str] | None = None
    unknown: int = 0
    accuracy: float | None = None
    seed: int = 0
    steps: int = 0
    samples: int = 0
    budget: int = 0
    learner: LearnerParameters | None = None
    replay: tuple[UInt8, npt.NDArray[np.int64]] | None = None
    anchors: tuple[UInt8, npt.NDArray[np.int64], npt.NDArray[np.bool_]] | None = None
    trunk: Sequence[TrunkParameters] = ()


def names_blob(
    class_names: Iterable[str],
    feature_names: Iterable[str] | None = None,
    *,
    spare: int | None = None,
) -> bytes:
    """Names in UTF-8, each closed by a zero byte.

    Where `spare` is given, so many classes that have no name yet follow, and each class has the
    same room, at least 24 bytes. Raises ZgedgeError for a name with a zero byte in it, or an empty
    one where there is room.
    """
    names = [_encoded(name) for name in class_names]
    if spare is not None:
        room = max(NAME_ROOM, *map(len, names))
        if not all(names):
            raise ZgedgeError("A class has an empty name.", "Rename it.")
        names = [name.ljust(room, NO_NAME) for name in [*names, *[b""] * spare]]
    blob = b"".join(name + b"\0" for name in names)
    return blob + b"".join(_encoded(name) + b"\0" for name in feature_names or ())


def _encoded(name: str) -> bytes:
    if "\0" in name:
        raise ZgedgeError(f"The name {name!r} has a zero byte in it.", "Rename it.")
    return name.encode()


def id_number(key: int | str) -> int:
    """The 64-bit id of a sample that waits for its label.

    A whole number of 0..2^64 - 1 is its own; of a text it is the FNV-1a hash of its UTF-8 bytes
    (docs/format.md). Raises TypeError for anything else, ValueError for a number outside.
    """
    if isinstance(key, str):
        number = 0xCBF29CE484222325
        for byte in key.encode():
            number = (number ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
        return number
    number = operator.index(key)
    if not 0 <= number < 1 << 64:
        raise ValueError(f"{number} is outside 0..2^64 - 1")
    return number


def _integer(text: str) -> int:
    """A decimal integer as docs/format.md has it: `int` alone takes 1_000 and other scripts too."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError(f"{text[:20]!r} is not an integer")
    return int(text)


def _twice(names: Iterable[Any]) -> Any | None:
    """The first name that was there before."""
    seen = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def learning_coefficients(layers: Sequence[LayerParameters]) -> list[tuple[float, float]]:
    """Step of a weight and of a bias for integer error 1, input 1 and rate 1, for each layer.

    An error of the head is 1/127; one layer down it is multiplied by that layer's weight scale.
    A weight moves in units of s_w / 16, a bias in units of s_in * s_w (docs/arithmetic.md).
    """
    out = []
    error = 1.0 / 127.0
    for layer in reversed(layers):
        out.append((16.0 * layer.s_in * error / layer.s_w, error / (layer.s_in * layer.s_w)))
        error *= layer.s_w
    return out[::-1]


def weight_shape(layer: TrunkLayer) -> tuple[int, ...]:
    """Shape of a trunk layer's weights; () of a pool."""
    window = (layer.kernel, layer.kernel)
    if layer.kind == net.CONV:
        return (layer.channels, *window, layer.shape[2])
    return (*window, layer.channels) if layer.kind == net.DEPTHWISE else ()


def residual_place(layer: Layer, steps: bool) -> int:
    if not steps:
        return RESIDUAL_NONE
    return RESIDUAL_INDEX if layer.residual_in_index else RESIDUAL_SECTION


def floor_bias(width: int) -> int:
    """The least bias of a row of `width` weights; of the head, that of a class never learned."""
    return -(2**31 - 1 - width * 255 * 127)


def pool_codes(codes: UInt8, shape: tuple[int, int, int]) -> UInt8:
    """Means of 2 x 2 places of pictures [n, inputs] of `shape`, rounded half up: [n, values].

    At the lower and right edges of odd pictures fewer places make one.
    """
    pictures = codes.reshape(len(codes), *shape).astype(np.int64)
    edges = [np.arange(0, side, 2) for side in shape[:2]]
    sums = np.add.reduceat(np.add.reduceat(pictures, edges[0], axis=1), edges[1], axis=2)
    rows, columns = (np.minimum(2, side - e) for side, e in zip(shape, edges, strict=False))
    places = (rows[:, None] * columns)[None, :, :, None]
    means: UInt8 = ((sums + places // 2) // places).astype(np.uint8)
    return means.reshape(len(codes), -1)


def pack_codes(codes: UInt8, bits: int) -> UInt8:
    """Samples [n, values] of 8-bit codes as a replay holds them: [n, stride]."""
    if bits == 8:
        return codes
    step, each = 255 // ((1 << bits) - 1), 8 // bits
    levels = (codes.astype(np.uint16) + step // 2) // step
    levels = np.pad(levels, ((0, 0), (0, -levels.shape[1] % each)))
    levels = levels.reshape(len(levels), -1, each) << np.arange(0, 8, bits, dtype=np.uint16)
    packed: UInt8 = levels.sum(axis=2).astype(np.uint8)
    return packed


def unpack_codes(packed: UInt8, bits: int, values: int) -> UInt8:
    """The 8-bit codes [n, values] that samples [n, stride] of a replay stand for."""
    if bits == 8:
        return packed
    each = packed[:, :, None] >> np.arange(0, 8, bits, dtype=np.uint8) & np.uint8((1 << bits) - 1)
    codes: UInt8 = each.reshape(len(packed), -1) * np.uint8(255 // ((1 << bits) - 1))
    return codes[:, :values]


def spread_codes(pooled: UInt8, shape: tuple[int, int, int]) -> UInt8:
    """Pictures [n, inputs] of `shape` whose places have the means [n, values] of their 2 x 2."""
    height, width, channels = shape
    cells = pooled.reshape(len(pooled), -(-height // 2), -(-width // 2), channels)
    whole = cells.repeat(2, axis=1).repeat(2, axis=2)[:, :height, :width]
    return np.ascontiguousarray(whole).reshape(len(pooled), -1)


def write(network: Network, p: Parameters) -> bytes:
    """The file's bytes. Same network and parameters, same bytes.

    Raises ZgedgeError where parameters do not fit the network.
    """
    named = network.known or network.classes
    spare = network.classes - named
    blob = names_blob(p.class_names, p.feature_names, spare=spare if network.known else None)
    if len(blob) != network.names_bytes or len(p.class_names) != named:
        raise ZgedgeError("The names do not fit the network's description.")
    if (twice := _twice(p.class_names)) is not None:
        raise ZgedgeError(f"Two classes are called {twice!r}.", "Rename one of them.")
    out = bytearray(network.file_bytes)
    sections = list(network.sections())
    filled = 0 if p.replay is None else min(len(p.replay[1]), network.replay_samples)
    try:
        parts: dict[int, bytes] = {net.NET: _net_bytes(network, p), net.NAMES: blob}
        if network.learning:
            parts[net.LEARNER] = _learner_bytes(p, filled)
        if network.head == net.ANALYTIC_HEAD:
            parts[net.ANALYTIC] = _analytic_bytes(network, p)
        if network.pending:
            parts[net.PENDING] = _PENDING.pack(0, 0, 0, network.pending, 0).ljust(
                network.section_bytes()[net.PENDING], b"\0"
            )
    except OverflowError as e:
        raise ZgedgeError("A scale of the network is too large for float32.") from e
    parts[net.INPUT] = (
        np.asarray(p.input_scale, "<f4").tobytes() + np.asarray(p.input_center, "<f4").tobytes()
    )
    rows, weights, indices = bytearray(), bytearray(), bytearray()
    for conv, t in zip(network.trunk, p.trunk, strict=True):
        if not conv.has_weights or t.weights is None:
            continue
        if t.weights.shape != weight_shape(conv) or t.weights.dtype != np.int8:
            raise ZgedgeError(f"Weights of {t.weights.shape} do not fit {conv}.")
        rows += np.asarray(t.bias, "<i4").tobytes() + np.asarray(t.multiplier, "<f4").tobytes()
        weights += np.ascontiguousarray(t.weights).tobytes()
    every = _with_spare(p.layers, spare)
    for layer, q in zip(network.layers, every, strict=True):
        if q.weights.shape != (layer.outputs, layer.width) or q.weights.dtype != np.int8:
            raise ZgedgeError(f"Weights of {q.weights.shape} do not fit {layer}.")
        rows += np.asarray(q.bias, "<i4").tobytes() + np.asarray(q.multiplier, "<f4").tobytes()
        weights += np.ascontiguousarray(q.weights).tobytes()
        if q.indices is not None:
            indices += np.ascontiguousarray(q.indices, "<u2").tobytes()
    parts |= {net.ROWS: bytes(rows), net.WEIGHTS: bytes(weights), net.INDICES: bytes(indices)}
    if network.learning and network.replay_samples and p.replay is not None:
        parts[net.REPLAY] = _replay_bytes(network, p.replay[0][:filled], p.replay[1][:filled])
    if network.section_bytes().get(net.TRACES):
        # All zero but the number of parts.
        traces = _TRACES.pack(network.traces, 0, 0, 0)
        parts[net.TRACES] = traces.ljust(network.section_bytes()[net.TRACES], b"\0")
    elif network.learning and p.learner and p.learner.strategy == "attention":
        raise ZgedgeError(
            "The attention strategy needs traces, which this network was not planned with.",
            "Plan it with traces, or choose another strategy.",
        )
    if network.learning and network.watch:
        parts[net.WATCH] = _watch_bytes(network, p)
    if network.learning and network.anchors:
        parts[net.ANCHORS] = _anchors_bytes(network, p)
        parts[net.SNAPSHOT] = _snapshot_bytes(network, every)
    for kind, offset, size in sections:
        part = parts.get(kind, b"")
        if part and len(part) != size:
            name = net.SECTION_NAMES[kind]
            raise ZgedgeError(f"Section {name} has {len(part)} bytes where {size} are planned.")
        out[offset : offset + len(part)] = part
    _HEADER.pack_into(
        out, 0, MAGIC, FORMAT_VERSION, len(sections), len(out), network.align, 0, 0,
        int(network.learning),
    )  # fmt: skip
    for i, (kind, offset, size) in enumerate(sections):
        at = net.HEADER_BYTES + i * net.ENTRY_BYTES
        _ENTRY.pack_into(out, at, kind, 0, offset, size, 0)
    sign(memoryview(out))
    return bytes(out)


def _with_spare(layers: Sequence[LayerParameters], spare: int) -> list[LayerParameters]:
    """The layers with rows behind the head's for classes that nothing was learned of."""
    out = list(layers)
    if not spare:
        return out
    head = out[-1]
    width = head.weights.shape[1]
    indices = head.indices
    if indices is not None:
        indices = np.vstack([indices, *[indices[-1:]] * spare])
    out[-1] = replace(
        head,
        weights=np.vstack([head.weights, np.zeros((spare, width), np.int8)]),
        indices=indices,
        bias=np.append(head.bias, np.full(spare, floor_bias(width), np.int32)),
        multiplier=np.append(head.multiplier, np.full(spare, head.multiplier[-1], np.float32)),
    )
    return out


def _net_bytes(network: Network, p: Parameters) -> bytes:
    height, width, channels = network.shape
    flags = int(p.int_classes) | (2 if p.feature_names else 0)
    blob = _NET.pack(
        network.inputs, network.classes, len(network.trunk) + len(network.layers),
        network.groups, height, width,
        channels, net.TASKS.index(network.task), network.batch, p.unknown, network.replay_samples,
        network.replay_bits, flags, p.budget, p.seed, p.steps,
        -1.0 if p.accuracy is None else p.accuracy, p.samples, network.replay_pool,
        net.HEADS.index(network.head), network.known,
    )  # fmt: skip
    for conv, t in zip(network.trunk, p.trunk, strict=True):
        # The weight step of a mean pool is one over what it adds up; convolutions have one a row.
        s_w = 1.0 / (conv.shape[0] * conv.shape[1]) if conv.kind == net.MEAN_POOL else 1.0
        blob += _TRUNK.pack(
            KINDS[conv.kind], conv.kernel, 0, 0, conv.inputs, conv.outputs, conv.taps,
            t.s_in, s_w, t.s_out, conv.stride, int(conv.same),
            0 if conv.add is None else conv.add + 1,
        )  # fmt: skip
    for layer, q in zip(network.layers, p.layers, strict=True):
        blob += _LAYER.pack(
            KINDS[layer.kind], layer.block, residual_place(layer, network.steps), q.z_in,
            layer.inputs, layer.outputs, layer.width, q.s_in, q.s_w, q.s_out,
        )  # fmt: skip
    return blob


def _learner_bytes(p: Parameters, filled: int) -> bytes:
    k = p.learner or LearnerParameters(key=p.seed)
    blob = _LEARNER.pack(
        0, 0, 0, 0, k.key & 0xFFFFFFFF, 0, k.rate, LEARN.index(k.learn),
        STRATEGIES.index(k.strategy), k.swaps, KEEP.index(k.keep), k.gather, 0, filled, 0, 0,
    )  # fmt: skip
    for weight, bias in learning_coefficients(p.layers):
        blob += struct.pack("<ff", weight, bias)
    return blob


def _analytic_bytes(network: Network, p: Parameters) -> bytes:
    pace = (p.learner or LearnerParameters()).pace
    return struct.pack("<IIII", 0, 0, 0, pace).ljust(network.section_bytes()[net.ANALYTIC], b"\0")


def _replay_bytes(network: Network, codes: UInt8, labels: npt.NDArray[np.int64]) -> bytes:
    room = network.replay_samples
    wide = network.classes > 256
    counts = np.zeros(((2 * network.classes + 3) // 4 * 2,), "<u2")
    counts[: network.classes] = np.bincount(labels, minlength=network.classes)
    held = np.zeros(room, "<u2" if wide else np.uint8)
    held[: len(labels)] = labels
    data = np.zeros((room, network.replay_stride), np.uint8)
    data[: len(codes)] = pack_sample(network, codes)
    return counts.tobytes() + held.tobytes() + data.tobytes()


def anchors_held(network: Network, p: Parameters) -> int:
    """Anchors that a file starts with."""
    return 0 if p.anchors is None else min(len(p.anchors[1]), network.anchors)


def _anchors_bytes(network: Network, p: Parameters) -> bytes:
    room, held = network.anchors, anchors_held(network, p)
    labels = np.zeros(room, "<u2" if network.classes > 256 else np.uint8)
    flags = np.zeros(room, np.uint8)
    data = np.zeros((room, network.replay_stride), np.uint8)
    if p.anchors is not None:
        codes = p.anchors[0][:held]
        labels[:held] = p.anchors[1][:held]
        flags[:held] = 3 * p.anchors[2][:held]
        data[:held] = pack_sample(network, codes)
    head = _ANCHORS.pack(room, held, 0, 0)
    return head + labels.tobytes() + flags.tobytes() + data.tobytes()


def pack_sample(network: Network, codes: UInt8) -> UInt8:
    """Features [n, features] as the replay and the anchors hold them: [n, stride]."""
    if network.replay_pool:
        codes = pool_codes(codes, network.shape)
    return pack_codes(codes, network.sample_bits)


def _watch_bytes(network: Network, p: Parameters) -> bytes:
    """A quiet watch that knows from training how often, and how surely, the network is right."""
    held = anchors_held(network, p)
    right = 0 if p.anchors is None else int(p.anchors[2][:held].sum())
    usual = 0 if p.accuracy is None else round(ONE * p.accuracy)
    usual = ONE * right // held if held else usual
    calm = (p.learner or LearnerParameters()).calm if network.anchors else 0
    caution = calm if held >= FEWEST_ANCHORS else 0
    counters = (0,) * 6
    blob = _WATCH.pack(
        0, 0, caution, LENGTH, 0.0, right, network.anchors, 0, 0, 0, usual, *counters, usual, calm
    )
    known = ASSUMED if usual else 0
    blob += _DETECTOR.pack(known, 0, known * (ONE - usual), 0)
    known = ASSUMED if held else 0
    return blob + _DETECTOR.pack(known, 0, known * ONE, 0)


def _snapshot_bytes(network: Network, layers: Sequence[LayerParameters]) -> bytes:
    blob = b"".join(np.asarray(q.bias, "<i4").tobytes() for q in layers)
    blob += b"".join(
        np.ascontiguousarray(q.indices, "<u2").tobytes() for q in layers if q.indices is not None
    )
    blob += b"".join(np.ascontiguousarray(q.weights).tobytes() for q in layers)
    return blob.ljust(network.snapshot_bytes, b"\0")


def _trunk_layer(
    kind: str, shape: tuple[int, int, int], outputs: int, kernel: int, stride: int, same: int
) -> TrunkLayer:
    """The layer of a record, whose channels follow from its number of outputs."""
    incoming = 1 if kind == net.CONV else shape[2]
    layer = TrunkLayer(kind, shape, incoming, kernel, stride, bool(same))
    height, width, _ = layer.out_shape
    return replace(layer, channels=outputs // (height * width))


def sign(view: memoryview) -> None:
    """Renew every checksum of a laid-out file, in place."""
    sections = struct.unpack_from("<H", view, 6)[0]
    for i in range(sections):
        at = net.HEADER_BYTES + i * net.ENTRY_BYTES
        _, _, offset, size, _ = _ENTRY.unpack_from(view, at)
        struct.pack_into("<I", view, at + 12, zlib.crc32(view[offset : offset + size]))
    struct.pack_into("<I", view, 24, 0)
    end = net.HEADER_BYTES + sections * net.ENTRY_BYTES
    struct.pack_into("<I", view, 24, zlib.crc32(view[:end]))


def replace_file(path: str | os.PathLike[str], data: bytes | UInt8) -> None:
    """Write a file so that `path` is at every moment either the old file or the whole new one.

    A link stays: the file that it leads to is replaced. Raises ZgedgeError where the folder is
    missing, read-only or full, or where something is there that is not a file; what is there is
    untouched then.
    """
    import tempfile  # not at the top: it costs a device 0.6 MB that predicting does not need

    named, path = os.fspath(path), os.path.realpath(path)
    if os.path.exists(path) and not os.path.isfile(path):
        # A rename would put a file in the place of a device such as /dev/null.
        raise ZgedgeError(f"Cannot write {named}: it is not a file.", "Choose the name of a file.")
    folder = os.path.dirname(path)
    temporary = None
    try:
        fd, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=folder)
        with os.fdopen(fd, "wb") as f:
            f.write(data if isinstance(data, bytes) else data.data)
            f.flush()
            os.fchmod(f.fileno(), 0o666 & ~_umask())
            os.fsync(f.fileno())
        os.replace(temporary, path)
        temporary = None
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    except OSError as e:
        raise ZgedgeError(
            f"Cannot write {named}: {e.strerror}.",
            "Check that the folder exists, can be written and has room; nothing was changed.",
        ) from e
    finally:
        if temporary is not None:
            os.unlink(temporary)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_file(path: str | os.PathLike[str]) -> UInt8:
    """A file's bytes in memory of their own that starts at a multiple of 64 bytes.

    Raises ModelError where there is no such file, it cannot be read, or it is larger than any
    model.
    """
    try:
        with open(path, "rb") as f:
            size = os.fstat(f.fileno()).st_size
            if size > MAX_FILE:  # before memory is taken for it
                raise ModelError(
                    f"{path}: {size:,} bytes are more than a model has.", "Check the path.",
                    status=E_SIZE,
                )  # fmt: skip
            buffer = aligned(size)
            read = f.readinto(buffer.data)
    except OSError as e:
        raise ModelError(f"Cannot read {path}: {e.strerror}.", "Check the path.") from e
    if read != size:
        raise ModelError(f"Cannot read {path}: it changed while it was read.", "Try again.")
    return buffer


def aligned(size: int) -> UInt8:
    """Zeroed memory of `size` bytes that starts at a multiple of 64 bytes."""
    room = np.zeros(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size]


def in_memory(data: bytes | memoryview) -> UInt8:
    """A file's bytes as `read_file` gives them: writable, from a multiple of 64 bytes on."""
    buffer = aligned(len(data))
    buffer.data[:] = data
    return buffer


class Arena:
    """Views onto the bytes of a file that the core has accepted; writing to one writes the arena.

    `buffer` is uint8 [bytes]. The views stay valid for as long as the buffer does. Raises
    ValueError where names are not UTF-8, two classes have one name, or integer names are none.
    """

    def __init__(self, buffer: UInt8) -> None:
        self.buffer = buffer
        (_, version, count, _, align, _, _, flags) = _HEADER.unpack_from(buffer.data, 0)
        self.version: int = version
        self.offsets: dict[int, tuple[int, int]] = {}
        for i in range(count):
            kind, _, offset, size, _ = _ENTRY.unpack_from(
                buffer.data, net.HEADER_BYTES + i * net.ENTRY_BYTES
            )
            self.offsets[kind] = (offset, size)
        at = self.offsets[net.NET][0]
        (
            _, classes, layers, groups, height, width, channels, task, batch, self.unknown,
            replay_samples, replay_bits, names, self.budget, self.seed, self.steps, accuracy,
            self.samples, replay_pool, head, known,
        ) = _NET.unpack_from(buffer.data, at)  # fmt: skip
        self.accuracy: float | None = None if accuracy < 0 else float(accuracy)
        self.int_classes = bool(names & 1)
        self.scales: list[tuple[float, float, float, int]] = []
        self.trunk_scales: list[tuple[float, float]] = []
        self.trunk_steps: list[float] = []  # of a mean pool: one over the values that it adds up
        shapes, trunk = [], []
        picture = (height, width, channels)
        for i in range(layers):
            record = buffer[at + net.NET_BYTES + i * net.LAYER_BYTES :].data
            kind, block, _, z_in, inputs, outputs, fan_in, s_in, s_w, s_out = _LAYER.unpack_from(
                record
            )
            if KIND_NAMES[kind] in TRUNK_KINDS:
                stride, same, add = _TRUNK.unpack_from(record)[-3:]
                trunk.append(_trunk_layer(KIND_NAMES[kind], picture, outputs, block, stride, same))
                if add:
                    trunk[-1] = replace(trunk[-1], add=add - 1)
                picture = trunk[-1].out_shape
                self.trunk_scales.append((s_in, s_out))
                self.trunk_steps.append(s_w)
                continue
            shapes.append(Layer(KIND_NAMES[kind], inputs, outputs, fan_in, block))
            self.scales.append((s_in, s_w, s_out, z_in))
        self.network = Network(
            shape=(height, width, channels), classes=classes, layers=tuple(shapes),
            names_bytes=self.offsets[net.NAMES][1], groups=groups, task=net.TASKS[task],
            learning=bool(flags & 1), batch=batch, replay_samples=replay_samples,
            replay_bits=replay_bits, replay_pool=replay_pool, align=align, trunk=tuple(trunk),
            traces=self._traces(), watch=net.WATCH in self.offsets,
            anchors=self._anchor_room(), head=net.HEADS[head], known=known,
            pending=self._pending_room(),
        )  # fmt: skip
        names_of = bytes(self.section(net.NAMES)).split(b"\0")[:-1]
        texts = [x.rstrip(NO_NAME).decode() for x in names_of]
        self.class_names = tuple(texts[: known or classes])
        labels = map(_integer, self.class_names) if self.int_classes else self.class_names
        if (twice := _twice(labels)) is not None:
            raise ValueError(f"two classes are called {twice!r}")
        self.feature_names = tuple(texts[classes:]) if names & 2 else None

    def clear_anchors(self) -> None:
        """Take out all anchors, and the samples of a trial, which ends; the room stays.

        The guard is off then: without a judge there is no caution that could end.
        """
        anchors, watch = self.section(net.ANCHORS), self.section(net.WATCH)
        if not len(anchors):
            return
        anchors[4:] = 0
        watch[4:8] = watch[16:20] = watch[24:36] = 0
        watch[20:24].view("<u4")[0] = self.network.anchors

    @property
    def calm(self) -> int:
        """Caution of a quiet world (docs/guard.md); 0 where there is no guard."""
        section = self.section(net.WATCH)
        return int(_WATCH.unpack_from(section.data)[-1]) if len(section) else 0

    def set_calm(self, calm: int) -> None:
        """Set `calm`, 0..6, and where the guard is on and the world quiet the caution, to it."""
        state = self.watch()
        if state is None or not self._anchor_room():
            return
        section = self.section(net.WATCH)
        section[92:96].view("<u4")[0] = calm
        if state["guard"] == "on" and not state["trial"] and not state["plasticity"]:
            section[6:8].view("<u2")[0] = calm

    def clear_pending(self) -> None:
        """Take out the samples that wait for their label; the room and the counters stay."""
        table = self.section(net.PENDING)
        table[net.PENDING_BYTES :] = 0

    def _anchor_room(self) -> int:
        section = self.section(net.ANCHORS)
        return int(_ANCHORS.unpack_from(section.data)[0]) if len(section) else 0

    def section(self, kind: int) -> UInt8:
        """Bytes of a section; empty where the file has none."""
        offset, size = self.offsets.get(kind, (0, 0))
        return self.buffer[offset : offset + size]

    def _traces(self) -> int:
        """Parts of the sketches."""
        section = self.section(net.TRACES)
        return int(_TRACES.unpack_from(section.data)[0]) if len(section) else 0

    def _pending_room(self) -> int:
        table = self.section(net.PENDING)
        return int(_PENDING.unpack_from(table.data)[3]) if len(table) else 0

    def pending(self) -> dict[str, int]:
        """Samples that wait for their label, and how many went unlearned."""
        table = self.section(net.PENDING)
        if not len(table):
            return {"pending": 0, "pending_dropped": 0, "pending_unknown": 0}
        dropped, unknown, _, room, _ = _PENDING.unpack_from(table.data)
        entries = table[net.PENDING_BYTES :][: room * net.PENDING_ENTRY_BYTES].view("<u8")
        return {
            "pending": int(np.count_nonzero(entries[::2])),
            "pending_dropped": dropped, "pending_unknown": unknown,
        }  # fmt: skip

    def set_accuracy(self, accuracy: float) -> None:
        """Write the test accuracy, 0..1; the checksums are for the next sealing."""
        struct.pack_into("<f", self.section(net.NET).data, 52, accuracy)
        self.accuracy = accuracy

    def analytic(self) -> dict[str, Any] | None:
        """State of an analytic head as views: `scale`, `cursor`, `rounds`, `pace`, `scores`
        int64 [classes], `counts` uint32 [classes], `sums` and `values` int32 [classes, width],
        `triangle` int32; None where the head is another."""
        section = self.section(net.ANALYTIC)
        if not len(section):
            return None
        classes, width = self.network.classes, self.network.layers[-1].inputs
        names = ("scale", "cursor", "rounds", "pace")
        out: dict[str, Any] = dict(
            zip(names, struct.unpack_from("<IIII", section.data), strict=True)
        )
        at = net.ANALYTIC_BYTES
        for name, kind, shape in (
            ("scores", "<i8", (classes,)), ("counts", "<u4", (classes,)),
            ("sums", "<i4", (classes, width)), ("values", "<i4", (classes, width)),
            ("triangle", "<i4", (width * (width + 1) // 2,)),
        ):  # fmt: skip
            size = int(np.dtype(kind).itemsize * np.prod(shape))
            out[name] = section[at : at + size].view(kind).reshape(shape)
            at += size
        return out

    @property
    def generation(self) -> int:
        return int(_HEADER.unpack_from(self.buffer.data, 0)[5])

    def weights(self, i: int) -> npt.NDArray[np.int8]:
        """int8 [outputs, width] of layer i."""
        layers = self.network.layers
        start = sum(layer.weights for layer in self.network.trunk)
        start += sum(layer.weights for layer in layers[:i])
        flat = self.section(net.WEIGHTS)[start : start + layers[i].weights]
        return flat.view(np.int8).reshape(layers[i].outputs, layers[i].width)

    def raw_indices(self, i: int) -> npt.NDArray[np.uint16] | None:
        """uint16 [outputs, per_row] as stored, spare bits included; None in a dense layer."""
        layers = self.network.layers
        if layers[i].kind == net.DENSE:
            return None
        start = sum(2 * layer.indices for layer in layers[:i])
        flat = self.section(net.INDICES)[start : start + 2 * layers[i].indices]
        return flat.view("<u2").reshape(layers[i].outputs, layers[i].per_row)

    def indices(self, i: int) -> npt.NDArray[np.uint16] | None:
        """Block numbers uint16 [outputs, per_row], a copy without spare bits; None if dense."""
        raw = self.raw_indices(i)
        if raw is None:
            return None
        return raw & np.uint16((1 << self.network.layers[i].index_bits) - 1)

    def rows(self, i: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Bias int32 [outputs] and multiplier float32 [outputs] of layer i."""
        layers = self.network.layers
        start = sum(8 * x.rows for x in self.network.trunk)
        start += sum(8 * layer.outputs for layer in layers[:i])
        half = 4 * layers[i].outputs
        rows = self.section(net.ROWS)[start : start + 2 * half]
        return rows[:half].view("<i4"), rows[half:].view("<f4")

    def trunk_weights(self, i: int) -> npt.NDArray[np.int8] | None:
        """int8 of `weight_shape` of trunk layer i; None of a pool."""
        trunk = self.network.trunk
        if not trunk[i].has_weights:
            return None
        start = sum(layer.weights for layer in trunk[:i])
        flat = self.section(net.WEIGHTS)[start : start + trunk[i].weights]
        return flat.view(np.int8).reshape(weight_shape(trunk[i]))

    def trunk_rows(self, i: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Bias int32 [channels] and multiplier float32 [channels] of trunk layer i."""
        trunk = self.network.trunk
        start = sum(8 * x.rows for x in trunk[:i])
        half = 4 * trunk[i].rows
        rows = self.section(net.ROWS)[start : start + 2 * half]
        return rows[:half].view("<i4"), rows[half:].view("<f4")

    def input_coding(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Scale and centre, float32 [groups] each."""
        both = self.section(net.INPUT).view("<f4")
        return both[: self.network.groups], both[self.network.groups :]

    def learner(self) -> dict[str, Any] | None:
        """Counters and settings of the learner; None where the file cannot learn."""
        if not self.network.learning:
            return None
        (
            step, samples, rewired, clamped, key, cursor, rate, learn, strategy, swaps, keep,
            gather, _, filled, _, correct,
        ) = _LEARNER.unpack_from(self.section(net.LEARNER).data)  # fmt: skip
        return {
            "steps": step, "samples": samples, "rewired": rewired, "clamped": clamped, "key": key,
            "cursor": cursor, "rate": rate, "learn": LEARN[learn],
            "strategy": STRATEGIES[strategy], "swaps": swaps, "gather": gather,
            "keep": KEEP[keep], "remembered": filled, "correct": correct,
        }  # fmt: skip

    def watch(self) -> dict[str, Any] | None:
        """State of drift and guard, as `Learner.status` names it; None where nothing is watched."""
        section = self.section(net.WATCH)
        if not len(section):
            return None
        (
            epoch, trial, caution, age, _, best, _, _, _, _, recent, warnings, confirmed,
            accepted, rolled_back, rejected, watched, usual, _,
        ) = _WATCH.unpack_from(section.data)  # fmt: skip
        room, filled, right = self.network.anchors, 0, 0
        if room:
            anchors = self.section(net.ANCHORS)
            filled = int(_ANCHORS.unpack_from(anchors.data)[1])
            start = net.ANCHORS_BYTES + room * (2 if self.network.classes > 256 else 1)
            right = int((anchors[start : start + filled] >> 1).sum())
        on = filled >= FEWEST_ANCHORS
        return {
            "epoch": epoch, "anchors": filled, "anchors_right": right, "best": best,
            "smallest_drop": 100 * max(0.01, 2 * (best * (filled - best)) ** 0.5 / filled**1.5)
            if on else None,
            "guard": "on" if on else "off", "trial": bool(trial), "caution": caution,
            "plasticity": 1 - age / LENGTH, "accepted": accepted, "rolled_back": rolled_back,
            "drift": {
                "level": self._drift_level(section, bool(trial)), "warnings": warnings,
                "confirmed": confirmed, "rejected": rejected, "recent": recent / ONE,
                "usual": usual / ONE or None, "watched": watched,
            },
        }  # fmt: skip

    @staticmethod
    def _drift_level(section: UInt8, trial: bool) -> str:
        if trial:
            return "confirmed"
        for at, bound in zip((96, 120), BOUNDS, strict=True):
            seen, held, _, total = _DETECTOR.unpack_from(section.data, at)
            if held or (seen >= FEWEST_SEEN and total > bound // 2):
                return "warning"
        return "quiet"
