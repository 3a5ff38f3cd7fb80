"""Rounding that gradients pass through, and where a scale ends: shared by layers and trunk."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

# The top code of an activation stands for this quantile of a layer's outputs.
CLIP_SHARE = 5e-4
CLIP_MOMENTUM = 0.05


class RoundThrough(torch.autograd.Function):
    """clamp(round_half_even(x / step), low, high) * step; gradient 0 where it was clamped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, low: float, high: float) -> Tensor:
        steps = torch.round(x / step)
        ctx.save_for_backward((steps >= low) & (steps <= high))
        return steps.clamp_(low, high).mul_(step)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None


def high_quantile(x: Tensor) -> Tensor:
    """The value that a share of `CLIP_SHARE` of x exceed, at least 1e-3."""
    flat = x.reshape(-1)
    return torch.topk(flat, max(1, int(CLIP_SHARE * flat.numel()))).values[-1].clamp_min(1e-3)


def float32(x: float) -> float:
    """The nearest float32: scales are stored so, and all is computed from what is stored."""
    return float(np.float32(x))
