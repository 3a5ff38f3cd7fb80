"""A float network that was trained elsewhere: plain arrays, and what they compute.

Its layers are those that a file of ours can have, its pictures lie as ours do (height, width,
channel), and batch norm is folded away. What differs from ours is kept: where a convolution's
windows begin, and what the network does to its input first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from zgedge.network import DEPTHWISE, MAX_POOL, MEAN_POOL, TrunkLayer

Floats = npt.NDArray[np.float32]
CHUNK = 500


@dataclass(frozen=True)
class PictureStep:
    """A layer of the trunk; behind one with weights comes a ReLU.

    layer    its geometry as ours
    padding  rows above and columns before the picture that its own windows cover; where they are
             not `layer.padding`, ours begin elsewhere
    weights  float32 [channels, incoming, k, k], or None
    bias     float32 [channels], or None
    """

    layer: TrunkLayer
    padding: tuple[int, int]
    weights: Floats | None = None
    bias: Floats | None = None

    @property
    def moved(self) -> bool:
        """Whether our windows begin elsewhere."""
        return self.layer.kind != MEAN_POOL and self.padding != self.layer.padding


@dataclass(frozen=True)
class DenseStep:
    """A layer behind the trunk, weights float32 [outputs, inputs]; a ReLU follows all but the last.

    The inputs of the first are the features in the order height, width, channel.
    """

    weights: Floats
    bias: Floats


@dataclass(frozen=True)
class FloatNetwork:
    """What was read.

    dims            of one input sample, as the file has them
    picture         (height, width, channels) where the file says so, else None
    channels_first  whether the file's pictures are [channels, height, width]
    scale, offset   float32 [1], [channels] or [inputs]: the network begins with x * scale + offset
    file_bytes      of the file and of the data outside it
    """

    dims: tuple[int, ...]
    picture: tuple[int, int, int] | None
    channels_first: bool
    scale: Floats
    offset: Floats
    trunk: tuple[PictureStep, ...]
    layers: tuple[DenseStep, ...]
    file_bytes: int

    @property
    def inputs(self) -> int:
        return math.prod(self.dims)

    @property
    def classes(self) -> int:
        return len(self.layers[-1].bias)

    def feed(self, x: npt.NDArray[Any]) -> Floats:
        """Rows [n, inputs] of ours as the file's network takes them: [n, *dims]."""
        rows = np.asarray(x, np.float32)
        if self.picture is not None and self.channels_first:
            rows = rows.reshape(len(rows), *self.picture).transpose(0, 3, 1, 2)
        return np.ascontiguousarray(rows.reshape(len(rows), *self.dims))

    def logits(self, x: npt.NDArray[Any]) -> Floats:
        """Logits float32 [n, classes] of rows [n, inputs] in the order height, width, channel."""
        out = [self._logits(np.asarray(x[at : at + CHUNK])) for at in range(0, len(x), CHUNK)]
        return np.concatenate([np.zeros((0, self.classes), np.float32), *out])

    def _logits(self, rows: npt.NDArray[Any]) -> Floats:
        with torch.no_grad():
            x = torch.from_numpy(np.asarray(rows, np.float32))
            if len(self.scale) in (1, self.inputs):
                x = x * torch.from_numpy(self.scale) + torch.from_numpy(self.offset)
            else:  # one for each channel, which lie side by side
                x = x.view(len(x), -1, len(self.scale))
                x = x * torch.from_numpy(self.scale) + torch.from_numpy(self.offset)
                x = x.reshape(len(x), -1)
            if self.trunk:
                x = self._features(x)
            for i, layer in enumerate(self.layers):
                x = x @ torch.from_numpy(layer.weights).t() + torch.from_numpy(layer.bias)
                if i + 1 < len(self.layers):
                    x = torch.relu(x)
        return x.numpy()

    def _features(self, x: Tensor) -> Tensor:
        pictures = x.view(len(x), *self.trunk[0].layer.shape).permute(0, 3, 1, 2)
        kept = [pictures]
        for step in self.trunk:
            layer = step.layer
            out = _step(step, kept[-1])
            if layer.add is not None:
                out = out + kept[layer.add]
            kept.append(torch.relu(out) if layer.has_weights else out)
        return kept[-1].permute(0, 2, 3, 1).reshape(len(x), -1)


def _step(step: PictureStep, x: Tensor) -> Tensor:
    layer = step.layer
    if layer.kind == MEAN_POOL:
        return x.mean(dim=(2, 3), keepdim=True)
    top, left = step.padding
    height, width, _ = layer.out_shape
    bottom = max(0, (height - 1) * layer.stride + layer.kernel - layer.shape[0] - top)
    right = max(0, (width - 1) * layer.stride + layer.kernel - layer.shape[1] - left)
    nothing = -math.inf if layer.kind == MAX_POOL else 0.0
    x = functional.pad(x, (left, right, top, bottom), value=nothing)
    if step.weights is None or step.bias is None:
        return functional.max_pool2d(x, layer.kernel, layer.stride)[:, :, :height, :width]
    groups = layer.channels if layer.kind == DEPTHWISE else 1
    out = functional.conv2d(
        x, torch.from_numpy(step.weights), torch.from_numpy(step.bias), layer.stride, groups=groups
    )
    return out[:, :, :height, :width]
