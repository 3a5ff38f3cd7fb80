"""The byte map: what each byte of a file, and of its budget, is for."""

from __future__ import annotations

from dataclasses import dataclass

from zgedge import network as net
from zgedge.budget import format_size
from zgedge.network import Network
from zgedge.report.screen import Screen, table

PREDICT, LEARN, UNUSED = "to predict", "to learn", "not used"

# Section: the letter that draws it, its colour, what it is for.
_LOOK = {
    0: ("h", "bright_black", "header, section table, alignment"),
    net.NET: ("n", "white", "shapes and scales"),
    net.NAMES: ("m", "white", "names of the classes"),
    net.INPUT: ("i", "white", "how raw values become 8-bit codes"),
    net.ROWS: ("r", "bright_blue", "bias and multiplier of every unit"),
    net.WEIGHTS: ("W", "blue", "8-bit weights"),
    net.INDICES: ("X", "cyan", "which inputs each unit looks at"),
    net.ACTIVATIONS: ("A", "green", "room for activations"),
    net.RESIDUAL: ("e", "yellow", "4 more bits a weight, for small steps"),
    net.LEARNER: ("l", "bright_red", "counters, rates, random generator"),
    net.SCRATCH: ("S", "bright_yellow", "errors and gradients of a step"),
    net.REPLAY: ("P", "magenta", "remembered samples"),
    net.ANCHORS: ("a", "bright_magenta", "samples that what was learned is judged by"),
    net.WATCH: ("w", "bright_red", "drift, plasticity, the guard"),
    net.SNAPSHOT: ("s", "bright_cyan", "the state that was accepted last"),
    net.ANALYTIC: ("D", "bright_yellow", "sums and second moments of the analytic head"),
    net.PENDING: ("Q", "magenta", "samples that wait for their label"),
    net.TRACES: ("T", "magenta", "sketches of inputs and errors"),
}


@dataclass(frozen=True)
class Part:
    """A run of bytes: the section's name, how many, and which of the three groups it is in."""

    name: str
    bytes: int
    group: str
    letter: str
    colour: str
    purpose: str


def parts(network: Network, budget: int = 0) -> list[Part]:
    """Every byte of the file in file order, then what is left of the budget."""
    sizes = network.section_bytes()
    found = {0: network.file_bytes - sum(sizes.values()), **sizes}
    out = []
    for kind, size in found.items():
        letter, colour, purpose = _LOOK[kind]
        group = LEARN if kind in net.LEARNING_SECTIONS else PREDICT
        name = net.SECTION_NAMES.get(kind, "header")
        out.append(Part(name, size, group, letter, colour, purpose))
    if budget > network.file_bytes:
        left = budget - network.file_bytes
        out.append(Part("unused", left, UNUSED, ".", "bright_black", "left of the budget"))
    return out


def cells(amounts: list[int], width: int) -> list[int]:
    """Share `width` cells among amounts in proportion; the rounding goes to the largest rests."""
    total = sum(amounts)
    exact = [width * amount / total for amount in amounts]
    out = [int(share) for share in exact]
    rests = sorted(range(len(amounts)), key=lambda i: out[i] - exact[i])
    for i in rests[: width - sum(out)]:
        out[i] += 1
    return out


def draw(out: Screen, network: Network, budget: int = 0) -> None:
    """Print the map: one bar for the whole budget, then a line for each part."""
    found = parts(network, budget)
    width = out.width - 4
    counts = cells([part.bytes for part in found], width)
    bar = [
        (part.letter * n, f"black on {part.colour}" if part.group != UNUSED else part.colour)
        for part, n in zip(found, counts, strict=True)
    ]
    out.spans([("  ", ""), *bar])
    total = sum(part.bytes for part in found)
    for group in (PREDICT, LEARN, UNUSED):
        members = [part for part in found if part.group == group]
        if not members:
            continue
        size = sum(part.bytes for part in members)
        out.line(f"  {group:<14}{size:>12,}  {size / total:>6.1%}", "bold")
        if group == UNUSED:
            continue
        for part in members:
            share = part.bytes / total
            out.spans(
                [
                    ("  ", ""),
                    (part.letter, f"black on {part.colour}"),
                    (f" {part.name:<12}{part.bytes:>12,}  {share:>6.1%}  {part.purpose}", ""),
                ]
            )


def layer_rows(network: Network) -> list[dict[str, object]]:
    """Each layer as plain values: what `train --json` and `info --json` list."""
    return [
        {
            "kind": layer.kind,
            "inputs": layer.inputs,
            "outputs": layer.outputs,
            "fan_in": layer.width,
            "block": layer.block,
            "connections": layer.weights,
            "sparsity": round(1 - layer.density, 4),
            "bytes": layer.inference_bytes,
        }
        for layer in network.layers
    ]


def trunk_rows(network: Network) -> list[dict[str, object]]:
    """Each trunk layer as plain values: what `train --json` and `info --json` list."""
    return [
        {
            "kind": layer.kind,
            "shape": list(layer.shape),
            "out_shape": list(layer.out_shape),
            "kernel": layer.kernel,
            "stride": layer.stride,
            "padding": "same" if layer.same else "valid",
            "adds_input_of": layer.add,
            "weights": layer.weights,
            "operations": layer.operations,
            "held_rows": held,
            "bytes": layer.weights + 8 * layer.rows,
        }
        for layer, held in zip(network.trunk, net.held_rows(network.trunk), strict=True)
    ]


def draw_trunk(out: Screen, network: Network) -> None:
    """Print the trunk: windows, pictures in and out, and the rows that are held of each."""
    rows = []
    held = net.held_rows(network.trunk)
    for i, (layer, count) in enumerate(zip(network.trunk, held, strict=True)):
        window = f"{layer.kernel} x {layer.kernel}" if layer.kind != net.MEAN_POOL else "all"
        if layer.stride > 1:
            window += f" / {layer.stride}"
        added = "" if layer.add is None else f" + input of {layer.add + 1}"
        size = layer.weights + 8 * layer.rows
        rows.append(
            [
                f"{i + 1} {layer.kind}{added}", window,
                f"{_by(layer.shape)} -> {_by(layer.out_shape)}", f"{layer.weights:,}",
                format_size(size) if size else "", f"{count} of {layer.shape[0]}",
            ]
        )  # fmt: skip
    heads = ["trunk, the same taps everywhere", "window", "picture", "weights", "size", "rows held"]
    table(out, heads, rows, right=(3, 4, 5))


def _by(shape: tuple[int, int, int]) -> str:
    return "x".join(str(n) for n in shape)


def draw_layers(out: Screen, network: Network) -> None:
    """Print the layers: shape, wiring, and how much of a dense layer is left out."""
    if network.trunk:
        draw_trunk(out, network)
        out.line()
    rows = []
    for i, layer in enumerate(network.layers):
        sparse = layer.kind != net.DENSE
        rows.append(
            [
                f"{len(network.trunk) + i + 1} {layer.kind}",
                f"{layer.inputs:,} -> {layer.outputs:,}",
                f"{layer.width:,} of {layer.inputs:,}" if sparse else "all",
                str(layer.block) if sparse else "",
                f"{layer.weights:,}", format_size(layer.inference_bytes),
                f"{1 - layer.density:.1%}",
            ]
        )  # fmt: skip
    heads = ["layer", "shape", "fan-in", "block", "weights", "size", "sparsity"]
    taken = 2 + sum(max(map(len, column)) + 2 for column in zip(heads, *rows, strict=True))
    width = max(4, min(16, out.width - taken))
    for row, layer in zip(rows, network.layers, strict=True):
        wired = max(1, round(width * layer.density))
        row.append("#" * wired + "." * (width - wired))
    table(out, [*heads, "wired" if width >= 5 else ""], rows, right=(3, 4, 5, 6))
