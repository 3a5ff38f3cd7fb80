"""Networks as plain data: shapes and byte counts, no weights.

The byte counts here are the file's (docs/format.md); the core demands the very same lengths when it
opens an arena, so a mistake on either side is an error and never a silent overlap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

KB = 1024
MAX_INPUTS = 65_536
MAX_CLASSES = 4_096
MAX_LAYERS = 8
MAX_TRUNK = 32
MAX_CHANNELS = 4_096
MAX_TAPS = 4_096  # weights of an output channel
KERNELS = (1, 3, 5, 7)
MAX_POOL_KERNEL = 8
MAX_STRIDE = 4
MAX_BATCH = 64
MAX_REPLAY = 65_535
MAX_ANCHORS = 65_535
MAX_ANALYTIC = 511  # inputs of an analytic head
MAX_ANALYTIC_CLASSES = 256
MAX_PENDING = 4_096
BLOCKS = (1, 4, 8, 16)
REPLAY_BITS = (1, 2, 4, 8)
REPLAY_POOLS = (0, 2)

SPARSE, DENSE = "sparse", "dense"
CONV, DEPTHWISE, MAX_POOL, MEAN_POOL = "conv", "depthwise", "max-pool", "mean-pool"
TASKS = ("table", "picture", "series")
SOFTMAX, ANALYTIC_HEAD = "softmax", "analytic"
HEADS = (SOFTMAX, ANALYTIC_HEAD)

# Sections in the order in which they stand in a file; the numbers are the format's.
NET, NAMES, INPUT, WEIGHTS, INDICES, ROWS, ACTIVATIONS, RESIDUAL, SCRATCH, REPLAY, LEARNER = range(
    1, 12
)
ANCHORS, WATCH, SNAPSHOT, ANALYTIC, TRACES, PENDING = 12, 13, 14, 15, 16, 17
ORDER = (
    NET, NAMES, INPUT, ROWS, WEIGHTS, INDICES, ACTIVATIONS, RESIDUAL, LEARNER, SCRATCH, REPLAY,
    ANCHORS, WATCH, SNAPSHOT, ANALYTIC, TRACES, PENDING,
)  # fmt: skip
SECTION_NAMES = {
    NET: "network", NAMES: "names", INPUT: "input", WEIGHTS: "weights", INDICES: "indices",
    ROWS: "rows", ACTIVATIONS: "activations", RESIDUAL: "residual", SCRATCH: "scratch",
    REPLAY: "replay", LEARNER: "learner", ANCHORS: "anchors", WATCH: "watch", SNAPSHOT: "snapshot",
    ANALYTIC: "analytic", TRACES: "traces", PENDING: "pending",
}  # fmt: skip
LEARNING_SECTIONS = (
    RESIDUAL, SCRATCH, REPLAY, LEARNER, ANCHORS, WATCH, SNAPSHOT, ANALYTIC, TRACES, PENDING,
)  # fmt: skip

HEADER_BYTES = 48
ENTRY_BYTES = 16
NET_BYTES = 64
LAYER_BYTES = 32
LEARNER_BYTES = 72
LEARNER_LAYER_BYTES = 8
TRACES_BYTES = 8
MAX_TRACES = 64
ANALYTIC_BYTES = 16
PENDING_BYTES = 32
PENDING_ENTRY_BYTES = 16
PENDING_BITS = 8  # of a value that waits, where no replay says otherwise
RESIDUAL_BITS = 4
WATCH_BYTES = 144
ANCHORS_BYTES = 16  # and for each anchor its sample and a byte of flags
ANCHOR_BITS = 4  # of a value where there is no replay to share its packing with


def _round4(n: int) -> int:
    return (n + 3) // 4 * 4


def _align(n: int, align: int) -> int:
    return (n + align - 1) // align * align


@dataclass(frozen=True)
class Layer:
    """One layer with weights.

    `width` is the fan-in of each of the `outputs` rows, counted in inputs; in a sparse layer it is
    made of `width / block` blocks of `block` neighbouring inputs that share one index.
    """

    kind: str
    inputs: int
    outputs: int
    width: int
    block: int = 1

    def __post_init__(self) -> None:
        if self.kind not in (SPARSE, DENSE):
            raise ValueError(f"layer kind {self.kind!r} is neither sparse nor dense")
        if not (1 <= self.inputs <= MAX_INPUTS and 1 <= self.outputs <= MAX_INPUTS):
            raise ValueError(f"layer of {self.inputs} x {self.outputs} is outside the format")
        if self.kind == DENSE and (self.width != self.inputs or self.block != 1):
            raise ValueError("a dense layer looks at every input, in blocks of 1")
        if self.block not in BLOCKS or self.width % self.block or self.inputs % self.block:
            raise ValueError(f"blocks of {self.block} do not divide {self.width} of {self.inputs}")
        if not 1 <= self.width <= self.inputs:
            raise ValueError(f"fan-in {self.width} is outside 1..{self.inputs}")

    @property
    def per_row(self) -> int:
        """Indices of a row."""
        return 0 if self.kind == DENSE else self.width // self.block

    @property
    def weights(self) -> int:
        return self.outputs * self.width

    @property
    def indices(self) -> int:
        return self.outputs * self.per_row

    @property
    def density(self) -> float:
        """Share of the possible connections that exist."""
        return self.width / self.inputs

    @property
    def index_bits(self) -> int:
        """Bits of an index; those above are spare."""
        return (self.inputs // self.block - 1).bit_length()

    @property
    def residual_in_index(self) -> bool:
        """Whether a weight's residual bits fit into the spare bits of its index."""
        return self.kind == SPARSE and self.block == 1 and self.index_bits <= 16 - RESIDUAL_BITS

    @property
    def inference_bytes(self) -> int:
        """Weights, indices and row data."""
        return self.weights + 2 * self.indices + 8 * self.outputs


def sparse(inputs: int, outputs: int, fan_in: int, block: int = 1) -> Layer:
    return Layer(SPARSE, inputs, outputs, fan_in, block)


def dense(inputs: int, outputs: int) -> Layer:
    return Layer(DENSE, inputs, outputs, inputs)


@dataclass(frozen=True)
class TrunkLayer:
    """One layer of the trunk: pictures in, pictures out, the same taps at every place.

    `shape` is (height, width, channels) of what comes in, `channels` what goes out. A convolution
    sees all incoming channels, a depthwise one and a pool only its own; a mean pool takes the whole
    picture, and its kernel and stride are 1. With `same` padding the picture keeps
    ceil(size / stride) rows, of the padding the smaller half comes first; else only whole windows
    count. `add` is the number of the trunk layer whose input is added to the output, or None.
    """

    kind: str
    shape: tuple[int, int, int]
    channels: int
    kernel: int = 1
    stride: int = 1
    same: bool = True
    add: int | None = None

    def __post_init__(self) -> None:
        height, width, incoming = self.shape
        if self.kind not in (CONV, DEPTHWISE, MAX_POOL, MEAN_POOL):
            raise ValueError(f"trunk layer kind {self.kind!r} is none that there is")
        if self.kind in (CONV, DEPTHWISE) and self.kernel not in KERNELS:
            raise ValueError(f"a kernel of {self.kernel} is none of {KERNELS}")
        if self.kind == MAX_POOL and not 2 <= self.kernel <= MAX_POOL_KERNEL:
            raise ValueError(f"a pool of {self.kernel} is outside 2..{MAX_POOL_KERNEL}")
        if self.kind == MEAN_POOL and (self.kernel, self.stride, self.same) != (1, 1, True):
            raise ValueError("a mean pool takes the whole picture")
        if self.kind != CONV and self.channels != incoming:
            raise ValueError(f"a {self.kind} layer keeps its {incoming} channels")
        if self.kind in (MAX_POOL, MEAN_POOL) and self.add is not None:
            raise ValueError("a pool adds nothing")
        if not 1 <= self.stride <= MAX_STRIDE:
            raise ValueError(f"a stride of {self.stride} is outside 1..{MAX_STRIDE}")
        if not 1 <= self.channels <= MAX_CHANNELS or self.taps > MAX_TAPS:
            raise ValueError(f"{self.channels} channels of {self.taps} taps are outside the format")
        if self.kind != MEAN_POOL and not self.same and self.kernel > min(height, width):
            raise ValueError(f"a window of {self.kernel} is larger than {height} x {width}")
        if not (1 <= self.inputs <= MAX_INPUTS and 1 <= self.outputs <= MAX_INPUTS):
            raise ValueError(f"pictures of {self.inputs} or {self.outputs} are outside the format")

    def _out(self, size: int) -> int:
        return -(-size // self.stride) if self.same else (size - self.kernel) // self.stride + 1

    @property
    def out_shape(self) -> tuple[int, int, int]:
        if self.kind == MEAN_POOL:
            return 1, 1, self.channels
        return self._out(self.shape[0]), self._out(self.shape[1]), self.channels

    @property
    def padding(self) -> tuple[int, int]:
        """Rows above and columns before the picture that a window may cover."""
        if not self.same:
            return 0, 0
        top, left = (
            max(0, (self._out(size) - 1) * self.stride + self.kernel - size) // 2
            for size in self.shape[:2]
        )
        return top, left

    @property
    def inputs(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def outputs(self) -> int:
        height, width, channels = self.out_shape
        return height * width * channels

    @property
    def has_weights(self) -> bool:
        return self.kind in (CONV, DEPTHWISE)

    @property
    def taps(self) -> int:
        """Weights of an output channel."""
        if not self.has_weights:
            return 0
        return self.kernel * self.kernel * (self.shape[2] if self.kind == CONV else 1)

    @property
    def weights(self) -> int:
        return self.channels * self.taps

    @property
    def rows(self) -> int:
        """Output channels that have a bias and a multiplier."""
        return self.channels if self.has_weights else 0

    @property
    def operations(self) -> int:
        """Multiply-adds of one picture; comparisons or additions of a pool."""
        if self.kind == MEAN_POOL:
            return self.inputs
        return self.outputs * (self.taps or self.kernel * self.kernel)


def conv(
    shape: tuple[int, int, int], channels: int, kernel: int = 3, stride: int = 1, *,
    same: bool = True, add: int | None = None,
) -> TrunkLayer:  # fmt: skip
    return TrunkLayer(CONV, shape, channels, kernel, stride, same, add)


def depthwise(
    shape: tuple[int, int, int], kernel: int = 3, stride: int = 1, *,
    same: bool = True, add: int | None = None,
) -> TrunkLayer:  # fmt: skip
    return TrunkLayer(DEPTHWISE, shape, shape[2], kernel, stride, same, add)


def max_pool(
    shape: tuple[int, int, int], kernel: int = 2, stride: int = 2, *, same: bool = False
) -> TrunkLayer:
    return TrunkLayer(MAX_POOL, shape, shape[2], kernel, stride, same)


def mean_pool(shape: tuple[int, int, int]) -> TrunkLayer:
    return TrunkLayer(MEAN_POOL, shape, shape[2])


def held_rows(trunk: Sequence[TrunkLayer]) -> tuple[int, ...]:
    """Rows of each trunk layer's input that are in memory at once.

    The trunk runs row by row: whenever a layer's next row can be made, the deepest such layer
    makes it, else the next row of the picture comes in. A row of layer i's input leaves when
    layer i, and the layer that adds it, need it no more. This replays just that (the core does the
    same when it opens a file) and counts.
    """
    return _held_rows(
        tuple(
            _Rows(
                x.shape[0], x.shape[0] if x.kind == MEAN_POOL else x.out_shape[0], x.kernel,
                x.stride, x.padding[0], x.add,
            )
            for x in trunk
        )
    )  # fmt: skip


class _Rows(NamedTuple):
    """What of a trunk layer decides when its rows are made."""

    coming: int
    made: int
    kernel: int
    stride: int
    top: int
    add: int | None


# A search counts the bytes of one geometry at many widths.
@lru_cache(maxsize=4096)
def _held_rows(trunk: tuple[_Rows, ...]) -> tuple[int, ...]:
    depth = len(trunk)
    users = [[t, *(i for i, x in enumerate(trunk) if x.add == t)] for t in range(depth)]
    made = [0] * (depth + 1)  # rows made of each layer's input and, last, of the features
    held = [0] * depth

    def first(user: int, t: int) -> int:
        """First row of layer t's input that `user` still needs."""
        row = made[user + 1]
        if row == trunk[user].made:
            return trunk[t].coming
        if user != t:
            return row
        return max(0, row * trunk[t].stride - trunk[t].top)

    def ready(i: int) -> bool:
        layer, row = trunk[i], made[i + 1]
        last = row * layer.stride - layer.top + layer.kernel
        return row < layer.made and min(layer.coming, last) <= made[i]

    def make(t: int) -> None:
        made[t] += 1
        if t < depth:
            held[t] = max(held[t], made[t] - min(first(user, t) for user in users[t]))

    i = depth - 1
    while depth and made[depth] < trunk[-1].made:
        if i < 0:
            make(0)
            i = 0
        elif ready(i):
            make(i + 1)
            i = min(i + 1, depth - 1)
        else:
            i -= 1
    return tuple(held)


@dataclass(frozen=True)
class Network:
    """A whole network and what it needs to learn: enough to count every byte of its file.

    `trunk` are the layers of pictures before `layers`, which are those that learn on a device; the
    first of these looks at the `features`: what the trunk gives, or the inputs where there is none.
    `names_bytes` is the length of the class (and feature) names, each with its closing zero.
    `groups` is 1 where one scale serves all inputs, else the number of inputs. A replay holds of a
    sample its features at `replay_bits` each or, where `replay_pool` is 2, the means of 2 x 2
    places of the picture. `traces` are the parts of the sketches that the attention strategy learns
    with, 0 for none.

    `watch` is whether drift is watched for; `anchors` are samples, packed as those of the replay,
    by which what was learned is judged, and they come with the state that was accepted last.

    `head` says how the last layer learns; before an analytic one nothing does. `known` are the
    classes that have a name where others wait for one, 0 where all have one. `pending` samples can
    wait for their label.
    """

    shape: tuple[int, int, int]
    classes: int
    layers: tuple[Layer, ...]
    names_bytes: int
    groups: int = 1
    task: str = "table"
    learning: bool = True
    batch: int = 16
    replay_samples: int = 0
    replay_bits: int = 0
    replay_pool: int = 0
    anchors: int = 0
    watch: bool = False
    align: int = 8
    trunk: tuple[TrunkLayer, ...] = ()
    traces: int = 0
    head: str = SOFTMAX
    known: int = 0
    pending: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.traces <= MAX_TRACES:
            raise ValueError(f"{self.traces} parts of traces are outside 0..{MAX_TRACES}")
        if not 1 <= len(self.layers) <= MAX_LAYERS:
            raise ValueError(f"{len(self.layers)} layers are outside 1..{MAX_LAYERS}")
        if not 2 <= self.classes <= MAX_CLASSES:
            raise ValueError(f"{self.classes} classes are outside 2..{MAX_CLASSES}")
        self._check_trunk()
        self._check_replay()
        self._check_head()
        width = self.features
        for layer in self.layers:
            if layer.inputs != width:
                raise ValueError(f"a layer of {layer.inputs} inputs follows {width} units")
            width = layer.outputs
        if width != self.classes:
            raise ValueError(f"the last layer has {width} units for {self.classes} classes")

    def _check_replay(self) -> None:
        if self.replay_bits not in (REPLAY_BITS if self.replay_samples else (0,)):
            raise ValueError(f"a replay at {self.replay_bits} bits is none that there is")
        if self.replay_pool not in REPLAY_POOLS:
            raise ValueError(f"a replay of {self.replay_pool} x {self.replay_pool} places is none")
        if self.replay_pool and (self.trunk or self.groups != 1 or not self.replay_samples):
            raise ValueError("places are put together in the replay of a picture without a trunk")
        if not 0 <= self.anchors <= MAX_ANCHORS or (self.anchors and not self.watch):
            raise ValueError(
                f"{self.anchors} anchors are outside the format, or nothing is watched"
            )

    def _check_head(self) -> None:
        if self.head not in HEADS:
            raise ValueError(f"a head {self.head!r} is none of {', '.join(HEADS)}")
        if not 0 <= self.known <= self.classes:
            raise ValueError(f"{self.known} of {self.classes} classes cannot have a name")
        if not 0 <= self.pending <= MAX_PENDING or (self.pending and not self.learning):
            raise ValueError(f"{self.pending} samples cannot wait for a label")
        if self.head != ANALYTIC_HEAD:
            return
        if self.layers[-1].kind != DENSE or self.layers[-1].inputs > MAX_ANALYTIC:
            raise ValueError(f"an analytic head is dense, of at most {MAX_ANALYTIC} inputs")
        if (
            not self.learning
            or self.replay_samples
            or self.traces
            or self.watch
            or self.classes > MAX_ANALYTIC_CLASSES
        ):
            raise ValueError(
                "an analytic head learns, without replay, traces, watch or anchors, up to "
                f"{MAX_ANALYTIC_CLASSES} classes"
            )

    def _check_trunk(self) -> None:
        if not self.trunk:
            return
        if len(self.trunk) > MAX_TRUNK or self.groups != 1:
            raise ValueError(f"a trunk has at most {MAX_TRUNK} layers and one input scale")
        shape = self.shape
        for i, layer in enumerate(self.trunk):
            if layer.shape != shape:
                raise ValueError(f"a trunk layer of {layer.shape} follows {shape}")
            if layer.kind == MEAN_POOL and i + 1 < len(self.trunk):
                raise ValueError("a mean pool is the last layer of a trunk")
            shape = layer.out_shape
            if layer.add is not None and not (
                0 <= layer.add <= i and self.trunk[layer.add].shape == shape
            ):
                raise ValueError(f"trunk layer {i} cannot add the input of layer {layer.add}")

    @property
    def inputs(self) -> int:
        height, width, channels = self.shape
        return height * width * channels

    @property
    def features(self) -> int:
        """Inputs of the first layer behind the trunk."""
        return self.trunk[-1].outputs if self.trunk else self.inputs

    @property
    def connections(self) -> int:
        return sum(x.weights for x in self.trunk) + sum(x.weights for x in self.layers)

    @property
    def operations(self) -> int:
        """Multiply-adds of one prediction."""
        return sum(x.operations for x in self.trunk) + sum(x.weights for x in self.layers)

    @property
    def trunk_bytes(self) -> int:
        """Memory that the trunk works in: sums of a mean pool, held rows, a row to spread."""
        if not self.trunk:
            return 0
        last = self.trunk[-1]
        size = 4 * last.channels if last.kind == MEAN_POOL else 0
        for layer, rows in zip(self.trunk, held_rows(self.trunk), strict=True):
            size += rows * layer.shape[1] * layer.shape[2]
        if self.batch > 1 and last.kind != MEAN_POOL:
            size += last.out_shape[1] * last.channels
        return size

    @property
    def replay_coding(self) -> str:
        """How a sample is remembered, in words."""
        bits = f"{self.replay_bits} bit{'s' if self.replay_bits > 1 else ''} a value"
        return f"at {bits}" + (", the means of 2 x 2 places" if self.replay_pool else "")

    @property
    def replay_values(self) -> int:
        """Values that are remembered of a sample."""
        if not self.replay_pool:
            return self.features
        height, width, channels = self.shape
        return -(-height // 2) * -(-width // 2) * channels

    @property
    def steps(self) -> bool:
        """Whether layers learn step by step: what needs errors and residual bits."""
        return self.learning and self.head == SOFTMAX

    @property
    def replay_stride(self) -> int:
        """Bytes of one sample that is kept, its label apart."""
        return (self.replay_values * self.sample_bits + 7) // 8

    @property
    def sample_bits(self) -> int:
        """Bits of a value of a sample that is kept: remembered, an anchor, or waiting for its
        label; 0 where there is none."""
        if self.replay_bits:
            return self.replay_bits
        return ANCHOR_BITS if self.anchors else PENDING_BITS if self.pending else 0

    @property
    def replay_sample_bytes(self) -> int:
        return self.replay_stride + (2 if self.classes > 256 else 1)

    @property
    def snapshot_bytes(self) -> int:
        """What an accepted state takes: biases, indices, weights and residual bits."""
        return sum(4 * x.outputs + 2 * x.indices + x.weights for x in self.layers) + sum(
            (x.weights + 1) // 2 for x in self.layers if not x.residual_in_index
        )

    def section_bytes(self) -> dict[int, int]:
        """Bytes of each section that this network has, in file order."""
        sizes = {
            NET: NET_BYTES + LAYER_BYTES * (len(self.trunk) + len(self.layers)),
            NAMES: self.names_bytes,
            INPUT: 8 * self.groups,
            ROWS: sum(8 * x.rows for x in self.trunk) + sum(8 * x.outputs for x in self.layers),
            WEIGHTS: self.connections,
            INDICES: sum(2 * layer.indices for layer in self.layers),
            ACTIVATIONS: _round4(self.trunk_bytes)
            + sum(_round4(layer.inputs * self.batch) for layer in self.layers)
            + 4 * self.classes * self.batch,
        }
        if self.learning:
            sizes[LEARNER] = LEARNER_BYTES + LEARNER_LAYER_BYTES * len(self.layers)
            if self.pending:
                each = PENDING_ENTRY_BYTES + self.replay_stride
                sizes[PENDING] = PENDING_BYTES + self.pending * each
        if self.steps:
            hidden = max((layer.inputs for layer in self.layers[1:]), default=0)
            rewirable = max((x.inputs for x in self.layers if x.kind == SPARSE), default=0)
            sizes[RESIDUAL] = sum(
                (layer.weights + 1) // 2 for layer in self.layers if not layer.residual_in_index
            )
            sizes[SCRATCH] = (
                4 * hidden * self.batch
                + 4 * rewirable
                + sum(_round4(layer.outputs * self.batch) for layer in self.layers)
            )
            if self.replay_samples:
                sizes[REPLAY] = (
                    _round4(2 * self.classes) + self.replay_samples * self.replay_sample_bytes
                )
            if self.traces and rewirable:
                rows = max(x.outputs for x in self.layers if x.kind == SPARSE)
                sizes[TRACES] = TRACES_BYTES + 4 * rows + self.traces * (rows + rewirable)
            if self.watch:
                sizes[WATCH] = WATCH_BYTES
            if self.anchors:
                sizes[ANCHORS] = ANCHORS_BYTES + self.anchors * (self.replay_sample_bytes + 1)
                sizes[SNAPSHOT] = self.snapshot_bytes
        if self.head == ANALYTIC_HEAD:
            width = self.layers[-1].inputs
            each = 12 + 8 * width  # a class: its score, its count, its sums and its values
            sizes[ANALYTIC] = ANALYTIC_BYTES + self.classes * each + 2 * width * (width + 1)
        return {kind: sizes[kind] for kind in ORDER if sizes.get(kind)}

    def sections(self) -> Iterator[tuple[int, int, int]]:
        """Kind, offset and bytes of each section, in file order."""
        sizes = self.section_bytes()
        at = HEADER_BYTES + ENTRY_BYTES * len(sizes)
        for kind, size in sizes.items():
            at = _align(at, self.align)
            yield kind, at, size
            at += size

    @property
    def file_bytes(self) -> int:
        """Length of the file, to the byte."""
        *_, (_kind, offset, size) = self.sections()
        return offset + size

    def for_inference(self) -> Network:
        """The same network without what only learning needs."""
        return replace(
            self, learning=False, batch=1, replay_samples=0, replay_bits=0, replay_pool=0, traces=0,
            anchors=0, watch=False, head=SOFTMAX, pending=0,
        )  # fmt: skip

    @property
    def inference_bytes(self) -> int:
        """Length of the file written with `--no-learning`."""
        return self.for_inference().file_bytes
