"""Networks as plain data: shapes and byte counts, no weights.

The byte counts here are the file's (docs/format.md); the core demands the very same lengths when it
opens an arena, so a mistake on either side is an error and never a silent overlap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

KB = 1024
MAX_INPUTS = 65_536
MAX_CLASSES = 4_096
MAX_LAYERS = 8
MAX_BATCH = 64
MAX_REPLAY = 65_535
BLOCKS = (1, 4, 8, 16)

SPARSE, DENSE = "sparse", "dense"
TASKS = ("table", "picture", "series")

# Sections in the order in which they stand in a file; the numbers are the format's.
NET, NAMES, INPUT, WEIGHTS, INDICES, ROWS, ACTIVATIONS, RESIDUAL, SCRATCH, REPLAY, LEARNER = range(
    1, 12
)
ORDER = (
    NET, NAMES, INPUT, ROWS, WEIGHTS, INDICES, ACTIVATIONS, RESIDUAL, LEARNER, SCRATCH, REPLAY,
)  # fmt: skip
SECTION_NAMES = {
    NET: "network", NAMES: "names", INPUT: "input", WEIGHTS: "weights", INDICES: "indices",
    ROWS: "rows", ACTIVATIONS: "activations", RESIDUAL: "residual", SCRATCH: "scratch",
    REPLAY: "replay", LEARNER: "learner",
}  # fmt: skip
LEARNING_SECTIONS = (RESIDUAL, SCRATCH, REPLAY, LEARNER)

HEADER_BYTES = 48
ENTRY_BYTES = 16
NET_BYTES = 64
LAYER_BYTES = 32
LEARNER_BYTES = 72
LEARNER_LAYER_BYTES = 8
RESIDUAL_BITS = 4


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
class Network:
    """A whole network and what it needs to learn: enough to count every byte of its file.

    `names_bytes` is the length of the class (and feature) names, each with its closing zero.
    `groups` is 1 where one scale serves all inputs, else the number of inputs.
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
    align: int = 8

    def __post_init__(self) -> None:
        if not 1 <= len(self.layers) <= MAX_LAYERS:
            raise ValueError(f"{len(self.layers)} layers are outside 1..{MAX_LAYERS}")
        if not 2 <= self.classes <= MAX_CLASSES:
            raise ValueError(f"{self.classes} classes are outside 2..{MAX_CLASSES}")
        width = self.inputs
        for layer in self.layers:
            if layer.inputs != width:
                raise ValueError(f"a layer of {layer.inputs} inputs follows {width} units")
            width = layer.outputs
        if width != self.classes:
            raise ValueError(f"the last layer has {width} units for {self.classes} classes")

    @property
    def inputs(self) -> int:
        height, width, channels = self.shape
        return height * width * channels

    @property
    def connections(self) -> int:
        return sum(layer.weights for layer in self.layers)

    @property
    def replay_stride(self) -> int:
        """Bytes of one remembered sample, its label apart."""
        return (self.inputs * self.replay_bits + 7) // 8

    @property
    def replay_sample_bytes(self) -> int:
        return self.replay_stride + (2 if self.classes > 256 else 1)

    def section_bytes(self) -> dict[int, int]:
        """Bytes of each section that this network has, in file order."""
        sizes = {
            NET: NET_BYTES + LAYER_BYTES * len(self.layers),
            NAMES: self.names_bytes,
            INPUT: 8 * self.groups,
            ROWS: sum(8 * layer.outputs for layer in self.layers),
            WEIGHTS: sum(layer.weights for layer in self.layers),
            INDICES: sum(2 * layer.indices for layer in self.layers),
            ACTIVATIONS: sum(_round4(layer.inputs * self.batch) for layer in self.layers)
            + 4 * self.classes * self.batch,
        }
        if self.learning:
            hidden = max((layer.inputs for layer in self.layers[1:]), default=0)
            rewirable = max((x.inputs for x in self.layers if x.kind == SPARSE), default=0)
            sizes[RESIDUAL] = sum(
                (layer.weights + 1) // 2 for layer in self.layers if not layer.residual_in_index
            )
            sizes[LEARNER] = LEARNER_BYTES + LEARNER_LAYER_BYTES * len(self.layers)
            sizes[SCRATCH] = (
                4 * hidden * self.batch
                + 4 * rewirable
                + sum(_round4(layer.outputs * self.batch) for layer in self.layers)
            )
            if self.replay_samples:
                sizes[REPLAY] = (
                    _round4(2 * self.classes) + self.replay_samples * self.replay_sample_bytes
                )
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
        return replace(self, learning=False, batch=1, replay_samples=0, replay_bits=0)

    @property
    def inference_bytes(self) -> int:
        """Length of the file written with `--no-learning`."""
        return self.for_inference().file_bytes
