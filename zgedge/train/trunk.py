"""The trunk in training: convolutions with batch norm that round as the integer core does.

Weights are rounded before the batch norm, each output channel in steps of its own. Batch norm
scales whole channels, so folding it into the multipliers and biases afterwards moves no weight to
another integer: what was trained is what is packed (Jacob et al., CVPR 2018, fold first and round
then). `features` is the exact pass, whose numbers are the core's (docs/arithmetic.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from zgedge.arena import TrunkParameters, weight_shape
from zgedge.network import CONV, DEPTHWISE, MAX_POOL, Network, TrunkLayer
from zgedge.train.rounding import CLIP_MOMENTUM, RoundThrough, float32, high_quantile
from zgedge.train.start import ConvStart, Start

BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.1
# Activation scales are read off this many pictures: of all places together they are enough.
OBSERVED_PICTURES = 8
# A multiplier below this is raised to it, so that its bias still fits int32 (gamma near 0).
LEAST_MULTIPLIER = 2.0**-22
# The conv part of a residual sum has half the range of its sum.
RESIDUAL_RANGE = 2.0

CPU = torch.device("cpu")
EXACT_CHUNK = 256
EXACT_IN_FLOAT32 = 2**24


class Scale:
    """The scale that the tensors of a residual chain, and those on both sides of a pool, share.

    clip   float32 scalar, real value of the top code 255; 0: not seen yet. It stays on the host,
           where every pass reads it: to ask a GPU for it would stop the GPU at each layer
    fixed  real value of one step where it is that of the picture's codes, else None
    """

    def __init__(self, fixed: float | None = None) -> None:
        self.fixed = fixed
        self.clip = torch.tensor(255.0 * (fixed or 0.0))
        self._seen: list[Tensor] = []

    @property
    def step(self) -> float:
        """Real value of one step, as the file stores it."""
        return self.fixed or float32(max(float(self.clip), 1e-3) / 255.0)

    def see(self, top: Tensor) -> None:
        """A layer of this pass has outputs up to `top`."""
        self._seen.append(top)

    def settle(self) -> None:
        """Move `clip` towards the highest of what was seen in this pass."""
        if self._seen and self.fixed is None:
            top = torch.stack(self._seen).max().cpu()
            self.clip.copy_(top if self.clip == 0 else torch.lerp(self.clip, top, CLIP_MOMENTUM))
        self._seen = []


def shared_scales(trunk: Sequence[TrunkLayer]) -> list[int]:
    """Number of the scale of each layer's input and, last, of the features; the picture's is 0.

    Pools of maxima keep the scale, and what is added has the scale of the sum.
    """
    root = list(range(len(trunk) + 1))
    for i, layer in enumerate(trunk):
        same = i if layer.kind == MAX_POOL else layer.add
        if same is not None:
            old, new = sorted((root[i + 1], root[same]), reverse=True)
            root = [new if r == old else r for r in root]
    numbers = {r: n for n, r in enumerate(sorted(set(root)))}
    return [numbers[r] for r in root]


class QuantizedConv:
    """One layer with weights: shadow weights, batch norm.

    values       float32 of `filter_shape`, channels last in memory
    gamma, beta  float32 [channels]
    mean, var    float32 [channels], running statistics of what the convolution gives
    """

    def __init__(self, layer: TrunkLayer, generator: torch.Generator) -> None:
        """Weights start normal with deviation sqrt(2 / taps) (He et al. 2015)."""
        self.layer = layer
        incoming = layer.shape[2] if layer.kind == CONV else 1
        shape = (layer.channels, incoming, layer.kernel, layer.kernel)
        values = torch.randn(shape, generator=generator) * math.sqrt(2.0 / layer.taps)
        self.values = values.to(memory_format=torch.channels_last).requires_grad_()
        self.gamma = torch.ones(layer.channels, requires_grad=True)
        self.beta = torch.zeros(layer.channels, requires_grad=True)
        self.mean = torch.zeros(layer.channels)
        self.var = torch.ones(layer.channels)

    def start(self, start: ConvStart) -> None:
        """Begin with these numbers instead of random ones."""
        self.values = (
            torch.from_numpy(start.values).clone(memory_format=torch.channels_last).requires_grad_()
        )
        self.gamma, self.beta = (
            torch.from_numpy(t).clone().requires_grad_() for t in (start.gamma, start.beta)
        )
        self.mean, self.var = (torch.from_numpy(t).clone() for t in (start.mean, start.var))

    def move(self, device: torch.device) -> None:
        self.values, self.gamma, self.beta = (
            t.detach().to(device).requires_grad_() for t in (self.values, self.gamma, self.beta)
        )
        self.mean, self.var = self.mean.to(device), self.var.to(device)

    def steps(self) -> Tensor:
        """Weight step of each output channel, float32 [channels, 1, 1, 1]."""
        return (self.values.detach().abs().amax(dim=(1, 2, 3), keepdim=True) / 127.0).clamp_min_(
            1e-12
        )

    def product(self, x: Tensor, rounds: bool) -> Tensor:
        """The convolution of x [n, channels, height, width], before batch norm."""
        values = self.values
        if rounds:
            values = RoundThrough.apply(values, self.steps(), -127.0, 127.0)  # type: ignore[no-untyped-call]
        return convolve(self.layer, x, values)

    def normed(self, z: Tensor, learns: bool, momentum: float) -> Tensor:
        """Batch norm by the batch, whose statistics the running ones follow, or by the latter."""
        return functional.batch_norm(
            z, self.mean, self.var, self.gamma, self.beta,
            training=learns, momentum=momentum, eps=BATCH_NORM_EPSILON,
        )  # fmt: skip

    def integers(self, s_in: float, s_out: float) -> TrunkParameters:
        """The integers of this layer, batch norm folded in with its running statistics."""
        values = self.values.detach().double().cpu()
        # The step is float32, as in `product`: the integers are those that were trained.
        step = self.steps().double().cpu()
        slope = self.gamma.detach().double().cpu() / torch.sqrt(
            self.var.double().cpu() + BATCH_NORM_EPSILON
        )
        shift = self.beta.detach().double().cpu() - self.mean.double().cpu() * slope
        integers = torch.round((self.values.detach() / self.steps()).cpu().double())
        per_unit = s_in * step.reshape(-1) * slope.abs() / s_out
        low = per_unit < LEAST_MULTIPLIER
        if bool(low.any()):
            # Such a channel hardly depends on its inputs; its weights shrink as its step grows.
            shrunk = values / step * (per_unit / LEAST_MULTIPLIER).reshape(-1, 1, 1, 1)
            integers = torch.where(low.reshape(-1, 1, 1, 1), torch.round(shrunk), integers)
        multiplier = per_unit.clamp_min(LEAST_MULTIPLIER)
        integers = integers.clamp(-127, 127) * torch.where(slope < 0, -1.0, 1.0).reshape(
            -1, 1, 1, 1
        )
        most = min(2**30, 2**31 - 1 - self.layer.taps * 255 * 127)  # a sum must fit int32
        bias = torch.round(shift / s_out / multiplier).clamp(-most, most)
        # [channels, incoming, k, k] to the file's order; a depthwise layer has its channels last.
        order = (0, 2, 3, 1) if self.layer.kind == CONV else (1, 2, 3, 0)
        weights = integers.permute(order).to(torch.int8).contiguous().numpy()
        return TrunkParameters(
            s_in=s_in,
            s_out=s_out,
            weights=weights.reshape(weight_shape(self.layer)),
            bias=bias.numpy().astype(np.int32),
            multiplier=multiplier.numpy().astype(np.float32),
        )


class QuantizedTrunk:
    """All layers of a trunk in training."""

    def __init__(self, network: Network, step: float, generator: torch.Generator) -> None:
        """step: real value of one step of the picture's codes."""
        self.trunk = network.trunk
        self.shape = network.shape
        self.convs = [
            QuantizedConv(layer, generator) if layer.has_weights else None for layer in self.trunk
        ]
        numbers = shared_scales(self.trunk)
        self.own_scales = [Scale(step), *(Scale() for _ in range(max(numbers)))]
        self.scales = [self.own_scales[n] for n in numbers]  # of each layer's input, the features
        self._momentum = BATCH_NORM_MOMENTUM

    def start(self, start: Start) -> None:
        """Begin with these numbers instead of random ones."""
        for conv, begin in zip(self.convs, start.trunk, strict=True):
            if conv is not None and begin is not None:
                conv.start(begin)

    def move(self, device: torch.device) -> None:
        for conv in self.convs:
            if conv is not None:
                conv.move(device)

    def parameters(self) -> list[Tensor]:
        found = [conv for conv in self.convs if conv is not None]
        return [t for conv in found for t in (conv.values, conv.gamma, conv.beta)]

    def statistics(self) -> list[Tensor]:
        """Running means and variances of every batch norm, and the clips."""
        found = [t for conv in self.convs if conv is not None for t in (conv.mean, conv.var)]
        return [*found, *(scale.clip for scale in self.own_scales)]

    def measure(self, batches: Iterable[Tensor], rounds: bool) -> None:
        """Set the running statistics to the means over batches of codes uint8 [n, inputs].

        Averaged weights need that: theirs are not the averages of the statistics.
        """
        with torch.no_grad():
            for seen, codes in enumerate(batches):
                self._momentum = 1.0 / (seen + 1)
                self.forward(codes, rounds=rounds)
        self._momentum = BATCH_NORM_MOMENTUM

    @property
    def s_out(self) -> float:
        """Real value of one step of the features."""
        return self.scales[-1].step

    def forward(
        self, codes: Tensor, *, learns: bool = True, observe: bool = False, rounds: bool = True
    ) -> Tensor:
        """Real features float32 [n, features] of codes uint8 [n, inputs].

        learns   batch norm by the batch; else by its running statistics
        observe  activation scales follow
        rounds   as the core does; else in float
        """
        x = pictures(codes, self.shape).float().mul_(self.scales[0].step)
        kept = [x]
        for i, layer in enumerate(self.trunk):
            x = self._layer(i, layer, x, kept, learns, observe, rounds)
            kept.append(x)
        if observe:
            for scale in self.own_scales:
                scale.settle()
        return x.permute(0, 2, 3, 1).reshape(len(codes), -1)

    def _layer(
        self,
        i: int,
        layer: TrunkLayer,
        x: Tensor,
        kept: list[Tensor],
        learns: bool,
        observe: bool,
        rounds: bool,
    ) -> Tensor:
        if layer.kind == MAX_POOL:
            return max_pool(layer, x)
        scale = self.scales[i + 1]
        conv = self.convs[i]
        if conv is None:
            z = x.mean(dim=(2, 3), keepdim=True)
        else:
            z = conv.normed(conv.product(x, rounds), learns, self._momentum)
        added = None if layer.add is None else kept[layer.add]
        if observe and scale.fixed is None:
            _observe(scale, z.detach(), added)
        if not (rounds and bool(scale.clip > 0)):
            return functional.relu(z if added is None else z + added)
        if added is None:
            return _in_steps(z, scale, 0, 255)
        # Whole steps stay whole when they are added; only the bounds are left to keep.
        return _bounded(_in_steps(z, scale, -128, 127) + added, float(scale.clip))

    def integers(self) -> list[TrunkParameters]:
        """The integers of every layer as they are now."""
        out = []
        for i, conv in enumerate(self.convs):
            s_in, s_out = self.scales[i].step, self.scales[i + 1].step
            out.append(TrunkParameters(s_in, s_out) if conv is None else conv.integers(s_in, s_out))
        return out


def _observe(scale: Scale, z: Tensor, added: Tensor | None) -> None:
    """Tell `scale` the high quantile of what comes of z [n, channels, height, width]."""
    z = z[:OBSERVED_PICTURES]
    if added is None:
        scale.see(high_quantile(z))
        return
    scale.see(high_quantile(z + added.detach()[:OBSERVED_PICTURES]))
    scale.see(high_quantile(z.abs()) * RESIDUAL_RANGE)


class _Steps(torch.autograd.Function):
    """RoundThrough in fewer passes over memory: bounds come first, and tell from the output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: float, low: float, high: float) -> Tensor:
        y = torch.clamp(x, low * step, high * step).mul_(1.0 / step).round_().mul_(step)
        ctx.save_for_backward(y)
        ctx.bounds = (low + 0.5) * step, (high - 0.5) * step
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (y,) = ctx.saved_tensors
        # One pass: the gradient where y lies strictly between the bounds.
        return torch.ops.aten.hardtanh_backward(gradients[0], y, *ctx.bounds), None, None, None


def _in_steps(x: Tensor, scale: Scale, low: int, high: int) -> Tensor:
    """x in whole steps of `scale`, from `low` to `high` of them; gradients pass in between."""
    out: Tensor = _Steps.apply(x, scale.step, float(low), float(high))  # type: ignore[no-untyped-call]
    return out


def _bounded(x: Tensor, top: float) -> Tensor:
    """x clamped to 0..top, with gradients where it was not."""
    return functional.hardtanh(x, 0.0, top)


def pictures(codes: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Codes [n, inputs] as pictures [n, channels, height, width] whose channels lie together."""
    return codes.view(len(codes), *shape).permute(0, 3, 1, 2)


def around(layer: TrunkLayer) -> tuple[int, int, int, int]:
    """Zeros that windows cover above, below, to the left and to the right, the smaller half
    first."""
    if not layer.same:
        return 0, 0, 0, 0
    top, left = layer.padding
    height, width, _ = layer.out_shape
    bottom = max(0, (height - 1) * layer.stride + layer.kernel - layer.shape[0]) - top
    right = max(0, (width - 1) * layer.stride + layer.kernel - layer.shape[1]) - left
    return top, bottom, left, right


def padded(layer: TrunkLayer, x: Tensor) -> Tensor:
    """x with the zeros around it that its windows cover."""
    top, bottom, left, right = around(layer)
    if not (top or bottom or left or right):
        return x
    return functional.pad(x, (left, right, top, bottom))


def convolve(layer: TrunkLayer, x: Tensor, values: Tensor) -> Tensor:
    """The convolution of x [n, channels, height, width], without bias."""
    groups = layer.channels if layer.kind == DEPTHWISE else 1
    top, bottom, left, right = around(layer)
    padding = (top, left)
    if padding != (bottom, right):  # which torch pads by a copy alone
        x, padding = padded(layer, x), (0, 0)
    return functional.conv2d(x, values, stride=layer.stride, padding=padding, groups=groups)


def max_pool(layer: TrunkLayer, x: Tensor) -> Tensor:
    """The largest of each window of x, which holds nothing below 0."""
    return functional.max_pool2d(padded(layer, x), layer.kernel, layer.stride)


def features(
    network: Network,
    trunk: Sequence[TrunkParameters],
    codes: npt.NDArray[np.uint8],
    device: torch.device = CPU,
) -> npt.NDArray[np.uint8]:
    """Codes [n, features] that the trunk gives for codes [n, inputs]: the core's numbers."""
    out = np.empty((len(codes), network.features), np.uint8)
    filters = [
        _exact_filter(layer, p, device) for layer, p in zip(network.trunk, trunk, strict=True)
    ]
    with torch.no_grad():
        for at in range(0, len(codes), EXACT_CHUNK):
            part = torch.from_numpy(codes[at : at + EXACT_CHUNK]).to(device)
            x = pictures(part, network.shape).float()
            kept = [x]
            for layer, p, values in zip(network.trunk, trunk, filters, strict=True):
                x = _exact_layer(layer, p, values, x, kept)
                kept.append(x)
            part = x.permute(0, 2, 3, 1).reshape(len(x), -1)
            out[at : at + EXACT_CHUNK] = part.to(torch.uint8).cpu().numpy()
    return out


def _exact_layer(
    layer: TrunkLayer, p: TrunkParameters, values: Tensor | None, x: Tensor, kept: list[Tensor]
) -> Tensor:
    if layer.kind == MAX_POOL:
        return max_pool(layer, x)
    if values is None or p.bias is None or p.multiplier is None:
        s_w = np.float32(1.0 / (layer.shape[0] * layer.shape[1]))
        multiplier = np.float32(np.float32(p.s_in) * s_w) / np.float32(p.s_out)
        total = x.double().sum(dim=(2, 3), keepdim=True).float()
        return torch.round((total * float(multiplier)).clamp_(0.0, 255.0))
    total = convolve(layer, x.to(values.dtype), values)
    total = total + torch.from_numpy(p.bias).to(values.device, values.dtype).view(1, -1, 1, 1)
    # This rounds a float64 sum once, as C's cast does.
    scaled = total.float() * torch.from_numpy(p.multiplier).to(values.device).view(1, -1, 1, 1)
    if layer.add is None:
        return torch.round(scaled.clamp_(0.0, 255.0))
    return (torch.round(scaled.clamp_(-128.0, 127.0)) + kept[layer.add]).clamp_(0.0, 255.0)


def _exact_filter(layer: TrunkLayer, p: TrunkParameters, device: torch.device) -> Tensor | None:
    """Weights as [channels, incoming, k, k], in float32 where that holds every sum, else float64.

    float64 is ten times slower and hardly ever needed: no sum of a layer is larger than 255 times
    the sum of a channel's weights, and float32 counts to 2^24. A GPU takes float64 always: in
    float32 its library may transform a convolution (Winograd), and fractions are not exact.
    """
    if p.weights is None or p.bias is None:
        return None
    order = (0, 3, 1, 2) if layer.kind == CONV else (2, 0, 1)
    weights = torch.from_numpy(p.weights).permute(order)
    if layer.kind == DEPTHWISE:
        weights = weights.unsqueeze(1)
    most = 255 * weights.double().abs().sum(dim=(1, 2, 3)).numpy() + np.abs(p.bias.astype(float))
    small = most.max() <= EXACT_IN_FLOAT32 and device.type == "cpu"
    exact = torch.float32 if small else torch.float64
    return weights.to(device, exact).contiguous(memory_format=torch.channels_last)
