"""A larger float network whose answers a small one learns from (Hinton, Vinyals & Dean 2015)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from zgedge.network import CONV, Layer, Network, TrunkLayer, dense

# A teacher has this many times the channels and units of its student.
WIDER = 2
LEAST_UNITS = 256
# Of its student's steps it gets this share; it costs several times as much a step.
STEPS_SHARE = 0.5
TEMPERATURE = 3.0
WEIGHT = 0.7


def teacher_of(network: Network) -> Network:
    """A network for the same task, of the same form and wider where the format has room for it.

    It is trained in float and never written: its layers are only a description of its shape.
    """
    try:
        return _widened(network, WIDER)
    except ValueError:
        return _widened(network, 1)


def _widened(network: Network, times: int) -> Network:
    trunk: list[TrunkLayer] = []
    shape = network.shape
    for conv in network.trunk:
        channels = times * conv.channels if conv.kind == CONV else shape[2]
        trunk.append(replace(conv, shape=shape, channels=channels))
        shape = trunk[-1].out_shape
    inputs = shape[0] * shape[1] * shape[2]
    layers: list[Layer] = []
    for layer in network.layers[:-1]:
        layers.append(dense(inputs, max(LEAST_UNITS, times * layer.outputs)))
        inputs = layers[-1].outputs
    layers.append(dense(inputs, network.classes))
    return replace(
        network,
        trunk=tuple(trunk),
        layers=tuple(layers),
        learning=False,
        replay_samples=0,
        replay_bits=0,
    )


def teacher_steps(steps: int) -> int:
    """Steps of a teacher whose student trains for `steps`."""
    return max(1, round(STEPS_SHARE * steps))


def distillation(found: Tensor, taught: Tensor) -> Tensor:
    """Divergence of the student's softened answers from the teacher's; logits [n, classes]."""
    softened = functional.log_softmax(found / TEMPERATURE, dim=1)
    target = functional.softmax(taught / TEMPERATURE, dim=1)
    return functional.kl_div(softened, target, reduction="batchmean") * TEMPERATURE**2


def taught_loss(loss: Tensor, found: Tensor, taught: Tensor) -> Tensor:
    """The loss on labels mixed with that on a teacher's answers."""
    return torch.lerp(loss, distillation(found, taught), WEIGHT)
