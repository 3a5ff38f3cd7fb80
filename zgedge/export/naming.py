"""What the graphs of ONNX and TFLite call their tensors, and the shape of a sample in both.

A tensor is called `layer/role`, and what goes in and comes out by these names.
"""

from __future__ import annotations

from zgedge.arena import Arena

INPUT, LOGITS, PROBABILITIES = "input", "logits", "probabilities"
CODES = "codes"  # role of a tensor of activations


def input_shape(arena: Arena) -> tuple[int, ...]:
    """Shape of one sample: a picture [height, width, channels], a window [rows, columns] of a
    series, or a row of features."""
    network = arena.network
    if network.trunk or (network.task == "picture" and network.shape[0] > 1):
        return network.shape
    return network.shape[:2] if network.task == "series" else (network.inputs,)


def layer_name(arena: Arena, i: int) -> str:
    """Of layer i behind the trunk, by its kind and number; the last one is the head."""
    layers = arena.network.layers
    return "head" if i + 1 == len(layers) else f"{layers[i].kind}{i}"


def trunk_name(arena: Arena, i: int) -> str:
    """Of trunk layer i, by its kind and number."""
    return f"{arena.network.trunk[i].kind.replace('-', '_')}{i}"
