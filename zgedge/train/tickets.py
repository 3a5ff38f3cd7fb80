"""Rounds of training and pruning before a training: wider networks, which it is cut from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from zgedge.network import SPARSE, Network
from zgedge.train.quantized import QuantizedNetwork
from zgedge.train.rewiring.lottery import ROUND_SHARE, survivors

# In a shorter training a round would have too few steps to tell weights apart.
FEWEST_STEPS = 40


def plan_rounds(
    factors: Sequence[float], network: Network, steps: int
) -> list[tuple[Network, int]]:
    """The network of each round and its steps, of a training that has `steps` with all rounds."""
    if steps < FEWEST_STEPS or not any(layer.kind == SPARSE for layer in network.layers):
        return []
    return [(widened(network, factor), int(ROUND_SHARE * steps)) for factor in factors]


def widened(network: Network, factor: float) -> Network:
    """The network with `factor` times the connections in each row of its sparse layers, as far as
    there are inputs."""
    layers = tuple(
        replace(x, width=min(x.inputs, round(x.per_row * factor) * x.block))
        if x.kind == SPARSE
        else x
        for x in network.layers
    )
    return replace(network, layers=layers)


def pruned(net: QuantizedNetwork, early: Sequence[Tensor], network: Network) -> list[Tensor]:
    """The state of `network`, narrower than `net`: the connections whose weights are largest in
    `net` now, with the weights of `early`, a state of `net`. `net` is left in that state."""
    places = [
        survivors(own.values.detach(), own.indices, layer.per_row)
        if own.indices is not None
        else None
        for own, layer in zip(net.layers, network.layers, strict=True)
    ]
    net.restore(early)
    of_tensor: dict[int, Tensor] = {}
    for own, keep in zip(net.layers, places, strict=True):
        if keep is None or own.indices is None:
            continue
        of_block = keep.unsqueeze(-1).expand(-1, -1, own.layer.block)
        of_tensor[id(own.values)] = own.values.detach().gather(1, of_block)
        of_tensor[id(own.indices)] = own.indices.gather(1, keep)
    return [of_tensor.get(id(t), t.detach().clone()) for t in net.tensors()]
