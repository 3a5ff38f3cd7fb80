"""A network in training: float shadow weights, a forward pass that rounds as the integer core does.

Rounding passes gradients straight through (Bengio et al. 2013); scales follow the weights and, for
activations, a high quantile of what each layer gives. `logits` is the exact pass: it sums integers
in float64 (784 products of 255 and 127 are beyond what float32 holds) and requantizes in float32,
so its numbers are the core's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zgedge.arena import LayerParameters, TrunkParameters
from zgedge.network import DENSE, Layer, Network
from zgedge.train.inputs import InputCoding
from zgedge.train.rounding import CLIP_MOMENTUM, RoundThrough, float32, high_quantile
from zgedge.train.start import LayerStart, Start
from zgedge.train.trunk import CPU, QuantizedTrunk, features

# Largest weight, in steps, at the end of training. Learning on a device needs room above it.
FULL_RANGE = 127
HIDDEN_WITH_HEADROOM = 100
HEAD_WITH_HEADROOM = 80

# Room above the quantile that the top code of an activation stands for.
LEARNING_CLIP = 1.5

EXACT_CHUNK = 4096


@dataclass
class GradientTap:
    """Where a sparse layer leaves its dense gradient when `open` is set, and what it did with the
    batch when `watched` is.

    gradient  float32 [rows, blocks, block] of the last backward pass, or None
    inputs    float32 [n, inputs] of the last pass, or None
    outputs   float32 [n, rows], what it gave, biases included
    errors    float32 [n, rows], the gradient that came back
    """

    open: bool = False
    watched: bool = False
    gradient: Tensor | None = None
    inputs: Tensor | None = None
    outputs: Tensor | None = None
    errors: Tensor | None = None


def scatter_dense(values: Tensor, indices: Tensor, inputs: int) -> Tensor:
    """The matrix [rows, inputs] of a sparse layer's values [rows, per_row, block], 0 elsewhere."""
    rows, _, block = values.shape
    dense = values.new_zeros(rows, inputs // block, block)
    dense.scatter_(1, indices.unsqueeze(-1).expand(values.shape), values)
    return dense.view(rows, inputs)


class SparseProduct(torch.autograd.Function):
    """x [n, inputs] times the transpose of a sparse matrix: [n, rows].

    Only values and indices are kept for the backward pass: the dense matrix lives for one product
    at a time, so a network never holds a dense copy of more than one layer.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, indices: Tensor, tap: GradientTap) -> Tensor:
        ctx.save_for_backward(x, values, indices)
        ctx.tap = tap
        return x @ scatter_dense(values, indices, x.shape[1]).t()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        (out,) = gradients
        x, values, indices = ctx.saved_tensors
        rows, _, block = values.shape
        dense = (out.t() @ x).view(rows, -1, block)
        to_values = dense.gather(1, indices.unsqueeze(-1).expand(values.shape))
        if ctx.tap.open:
            ctx.tap.gradient = dense
        if ctx.tap.watched:
            ctx.tap.inputs, ctx.tap.errors = x, out
        del dense
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = out @ scatter_dense(values, indices, x.shape[1])
        return to_x, to_values, None, None


class QuantizedLayer:
    """One layer: shadow weights, wiring, scales.

    values   float32 [outputs, per_row, block], or [outputs, inputs] in a dense layer
    indices  int64 [outputs, per_row] block numbers, or None
    bias     float32 [outputs], real
    clip     float32 scalar, real value of an output's top code 255; 0: not seen yet
    levels   steps that the largest weight has, at most 127
    """

    def __init__(
        self,
        layer: Layer,
        indices: npt.NDArray[np.int64] | None,
        levels: int,
        clip_headroom: float,
        gain: float,
        generator: torch.Generator,
    ) -> None:
        """Weights start normal with deviation gain / sqrt(fan-in) (He et al. 2015), biases at 0."""
        self.layer = layer
        self.levels = levels
        self.clip_headroom = clip_headroom
        self.tap = GradientTap()
        self.clip = torch.zeros(())
        shape: tuple[int, ...] = (layer.outputs, layer.inputs)
        self.indices: Tensor | None = None
        if indices is not None:
            shape = (layer.outputs, layer.per_row, layer.block)
            self.indices = torch.from_numpy(indices)
        scale = gain / math.sqrt(layer.width)
        self.values = (torch.randn(shape, generator=generator) * scale).requires_grad_()
        self.bias = torch.zeros(layer.outputs, requires_grad=True)

    def start(self, start: LayerStart) -> None:
        """Begin with these numbers instead of random ones; the wiring is given before."""
        self.values = torch.from_numpy(start.values).clone().requires_grad_()
        self.bias = torch.from_numpy(start.bias).clone().requires_grad_()

    def move(self, device: torch.device) -> None:
        self.values = self.values.detach().to(device).requires_grad_()
        self.bias = self.bias.detach().to(device).requires_grad_()
        self.clip = self.clip.to(device)
        if self.indices is not None:
            self.indices = self.indices.to(device)

    def product(self, x: Tensor, values: Tensor) -> Tensor:
        """x [n, inputs] times `values` in this layer's wiring, plus bias: [n, outputs]."""
        if self.indices is None:
            return x @ values.t() + self.bias
        out = SparseProduct.apply(x, values, self.indices, self.tap)  # type: ignore[no-untyped-call]
        out = torch.add(out, self.bias)
        if self.tap.watched:
            self.tap.outputs = out.detach()
        return out

    def rounded(self) -> Tensor:
        """The shadow values as int8 weights hold them, with gradients passed through."""
        step = (self.values.detach().abs().max() / self.levels).clamp_min_(1e-12)
        out: Tensor = RoundThrough.apply(self.values, step, -127.0, 127.0)  # type: ignore[no-untyped-call]
        return out

    def activate(self, z: Tensor) -> Tensor:
        """ReLU of z [n, outputs] in 255 steps up to `clip`."""
        out: Tensor = RoundThrough.apply(z, self.clip / 255.0, 0.0, 255.0)  # type: ignore[no-untyped-call]
        return out

    def observe(self, z: Tensor) -> None:
        """Move `clip` towards the high quantile of z [n, outputs]."""
        with torch.no_grad():
            top = high_quantile(z) * self.clip_headroom
            self.clip.copy_(top if self.clip == 0 else torch.lerp(self.clip, top, CLIP_MOMENTUM))

    def integers(self, s_in: float, z_in: int, last: bool) -> LayerParameters:
        """The integers of this layer as it is now, indices ascending in each row.

        s_in, z_in  real value of one step of the inputs, and the code of 0
        last        whether this is the head, whose outputs are not requantized
        """
        values = self.values.detach().cpu().double()
        s_w = float32(max(float(values.abs().max()) / self.levels, 1e-12))
        s_out = 1.0 if last else float32(max(float(self.clip), 1e-3) / 255.0)
        weights = torch.round(values / s_w).clamp(-127, 127).to(torch.int8)
        indices = None
        if self.indices is not None:
            ascending, order = self.indices.cpu().sort(dim=1)
            indices = ascending.numpy().astype(np.uint16)
            weights = weights.gather(1, order.unsqueeze(-1).expand(weights.shape))
        most = min(2**30, 2**31 - 1 - self.layer.width * 255 * 127)  # a sum must fit int32
        bias = torch.round(self.bias.detach().cpu().double() / (s_in * s_w)).clamp(-most, most)
        outputs = self.layer.outputs
        return LayerParameters(
            weights=np.ascontiguousarray(weights.reshape(outputs, -1).numpy()),
            indices=indices,
            bias=bias.numpy().astype(np.int32),
            multiplier=np.full(outputs, s_in * s_w / s_out, np.float32),
            s_in=s_in,
            s_w=s_w,
            s_out=s_out,
            z_in=z_in,
        )


class QuantizedNetwork:
    """All layers of a network in training, its trunk (None where there is none) included."""

    def __init__(
        self,
        network: Network,
        coding: InputCoding,
        wiring: Sequence[npt.NDArray[np.int64] | None],
        generator: torch.Generator,
        device: torch.device | None = None,
        start: Start | None = None,
    ) -> None:
        """wiring: block numbers [outputs, per_row] for each layer, None for a dense one."""
        self.network = network
        self.zero = coding.zero
        self.step = float32(coding.step)
        self.trunk = QuantizedTrunk(network, self.step, generator) if network.trunk else None
        self.layers = []
        for i, (layer, indices) in enumerate(zip(network.layers, wiring, strict=True)):
            head = i + 1 == len(network.layers)
            levels = FULL_RANGE
            if network.learning:
                levels = HEAD_WITH_HEADROOM if head else HIDDEN_WITH_HEADROOM
            self.layers.append(
                QuantizedLayer(
                    layer,
                    indices,
                    levels,
                    LEARNING_CLIP if network.learning else 1.0,
                    1.0 if head else math.sqrt(2.0),
                    generator,
                )
            )
        if start is not None:
            for own, begin in zip(self.layers, start.layers, strict=True):
                own.start(begin)
            if self.trunk is not None:
                self.trunk.start(start)
        if device is not None and device.type != "cpu":
            for own_layer in self.layers:
                own_layer.move(device)
            if self.trunk is not None:
                self.trunk.move(device)

    def parameters(self) -> list[Tensor]:
        own = [t for layer in self.layers for t in (layer.values, layer.bias)]
        return [*(self.trunk.parameters() if self.trunk else []), *own]

    def state(self) -> list[Tensor]:
        """Copies of all that training changes; `restore` brings it back."""
        return [t.detach().clone() for t in self.tensors()]

    def restore(self, state: Sequence[Tensor]) -> None:
        """Set everything to what `state` returned, in place. Raises ValueError for another net."""
        own = self.tensors()
        if [t.shape for t in own] != [t.shape for t in state]:
            raise ValueError("the state is of another network")
        with torch.no_grad():
            for tensor, saved in zip(own, state, strict=True):
                tensor.copy_(saved)

    def tensors(self) -> list[Tensor]:
        """All that training changes, in the order of `state`."""
        found = self.parameters()
        for layer in self.layers:
            found += [layer.clip] if layer.indices is None else [layer.clip, layer.indices]
        return [*found, *(self.trunk.statistics() if self.trunk else [])]

    def real(self, codes: Tensor) -> Tensor:
        """Codes uint8 [n, inputs] as the real values float32 that the first layer sees."""
        return codes.float().sub_(self.zero).mul_(self.step)

    def forward(
        self, codes: Tensor, *, observe: bool = False, learns: bool = True, rounds: bool = True
    ) -> Tensor:
        """Real logits float32 [n, classes].

        observe  activation scales follow
        learns   batch norm by the batch; else by its statistics
        rounds   as the core does; else in float, only the inputs are rounded
        """
        if self.trunk is None:
            x = self.real(codes)
        else:
            x = self.trunk.forward(codes, learns=learns, observe=observe, rounds=rounds)
        for layer in self.layers[:-1]:
            z = layer.product(x, layer.rounded() if rounds else layer.values)
            if observe:
                layer.observe(z)
            x = layer.activate(z) if rounds else torch.relu(z)
        head = self.layers[-1]
        return head.product(x, head.rounded() if rounds else head.values)

    def shadow(self, codes: Tensor) -> Tensor:
        """Real logits float32 [n, classes] of the float network: only the inputs are rounded."""
        with torch.no_grad():
            return self.forward(codes, learns=False, rounds=False)

    def integers(self) -> list[LayerParameters]:
        """The integers of every layer behind the trunk as they are now."""
        out = []
        s_in, z_in = self.step, self.zero
        if self.trunk is not None:
            s_in, z_in = self.trunk.s_out, 0
        for i, layer in enumerate(self.layers):
            out.append(layer.integers(s_in, z_in, i + 1 == len(self.layers)))
            s_in, z_in = out[-1].s_out, 0
        return out

    def trunk_integers(self) -> list[TrunkParameters]:
        """The integers of every layer of the trunk as they are now."""
        return self.trunk.integers() if self.trunk else []


def logits(
    network: Network,
    layers: Sequence[LayerParameters],
    codes: npt.NDArray[np.uint8],
    trunk: Sequence[TrunkParameters] = (),
    device: torch.device = CPU,
) -> npt.NDArray[np.int64]:
    """Integer logits [n, classes] of codes [n, inputs]: the same numbers as the core's.

    device  where the trunk is computed
    """
    if len(codes) == 0:
        return np.zeros((0, network.classes), np.int64)
    parts = []
    for at in range(0, len(codes), EXACT_CHUNK):
        part = codes[at : at + EXACT_CHUNK]
        if network.trunk:
            part = features(network, trunk, part, device)
        x = torch.from_numpy(part).double()
        for i, (layer, p) in enumerate(zip(network.layers, layers, strict=True)):
            x = (x - p.z_in) @ _exact_matrix(layer, p).t() + torch.from_numpy(p.bias)
            if i + 1 < len(layers):
                # float64 holds the sum (below 2^53), and this rounds it once, as C's cast does.
                x = x.float() * torch.from_numpy(p.multiplier)
                x = torch.round(x).clamp_(0.0, 255.0).double()
        parts.append(x.to(torch.int64).numpy())
    return np.concatenate(parts)


def _exact_matrix(layer: Layer, p: LayerParameters) -> Tensor:
    """Weights as float64 [outputs, inputs]."""
    weights = torch.from_numpy(p.weights).double()
    if layer.kind == DENSE or p.indices is None:
        return weights
    values = weights.view(layer.outputs, layer.per_row, layer.block)
    return scatter_dense(values, torch.from_numpy(p.indices.astype(np.int64)), layer.inputs)
