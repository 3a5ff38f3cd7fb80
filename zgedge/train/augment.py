"""Slightly moved, turned, sheared and stretched copies of pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

WARPS = 32
TURN_DEGREES = 8.0
STRETCH = 0.08
SHEAR = 0.08
SHIFT = 1.0 / 28.0  # of a side


def warp(codes: Tensor, shape: tuple[int, int, int], rng: np.random.Generator) -> Tensor:
    """A copy of pictures, each under one of `WARPS` random affine maps drawn anew at every call.

    codes  uint8 [n, inputs] in the order of `shape` (height, width, channels); the copy has the
           same order of pictures
    Values are interpolated bilinearly and rounded to codes again; beyond its edge a picture goes on
    as its border. All pictures of one map are done together, inputs first, so that the four taps of
    the interpolation are gathers of whole rows.
    """
    out = torch.empty_like(codes)
    for chosen in np.array_split(rng.permutation(len(codes)), min(WARPS, len(codes))):
        taps, weights = _affine(shape, rng)
        pictures = torch.from_numpy(chosen)
        source = codes[pictures].t().contiguous().float()
        mixed = source[torch.from_numpy(taps[0])] * torch.from_numpy(weights[0])
        for tap, weight in zip(taps[1:], weights[1:], strict=True):
            mixed.addcmul_(source[torch.from_numpy(tap)], torch.from_numpy(weight))
        out[pictures] = mixed.round_().clamp_(0, 255).to(torch.uint8).t()
    return out


def jitter(
    codes: Tensor,
    shape: tuple[int, int, int],
    shift: int,
    cutout: int,
    rng: np.random.Generator,
) -> Tensor:
    """A copy of pictures, each moved by up to `shift` pixels a way and every other one mirrored.

    codes   uint8 [n, inputs] in the order of `shape` (height, width, channels)
    cutout  side of a square around a random pixel that becomes 0, as what moves in does
    """
    height, width, channels = shape
    count = len(codes)
    drawn: list[npt.NDArray[Any]] = [
        rng.integers(-shift, shift + 1, count),
        rng.integers(-shift, shift + 1, count),
        rng.random(count) < 0.5,
    ]
    if cutout:
        drawn += [rng.integers(0, height, count), rng.integers(0, width, count)]
    # All that is drawn goes to the pictures' device at once; the pixels are moved there.
    per_picture = torch.from_numpy(np.array(drawn, np.int64)).to(codes.device).unsqueeze(-1)
    y, x = (torch.arange(side, device=codes.device) for side in (height, width))
    rows, columns = y + per_picture[0], x + per_picture[1]
    columns = torch.where(per_picture[2] > 0, width - 1 - columns, columns)
    inside = _within(rows, height).unsqueeze(2) & _within(columns, width).unsqueeze(1)
    if cutout:
        down = _within(y - per_picture[3] + cutout // 2, cutout)
        across = _within(x - per_picture[4] + cutout // 2, cutout)
        inside &= ~(down.unsqueeze(2) & across.unsqueeze(1))
    at = rows.clamp(0, height - 1).unsqueeze(2) * width + columns.clamp(0, width - 1).unsqueeze(1)
    at += torch.arange(0, count * height * width, height * width, device=codes.device).view(
        -1, 1, 1
    )
    moved = codes.reshape(count * height * width, channels)[at.view(-1)]
    moved *= inside.view(-1, 1)
    return moved.view(count, -1)


def _within(x: Tensor, end: int) -> Tensor:
    return (x >= 0) & (x < end)


def _affine(
    shape: tuple[int, int, int], rng: np.random.Generator
) -> tuple[list[npt.NDArray[np.int64]], list[npt.NDArray[np.float32]]]:
    """The four inputs [inputs] that each input of a warp mixes, and their shares [inputs, 1]."""
    height, width, channels = shape
    angle = np.deg2rad(rng.uniform(-TURN_DEGREES, TURN_DEGREES))
    stretch_y, stretch_x = np.exp(rng.uniform(-STRETCH, STRETCH, 2))
    shear = rng.uniform(-SHEAR, SHEAR)
    shift_y, shift_x = rng.uniform(-SHIFT, SHIFT, 2)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    y -= (height - 1) / 2
    x -= (width - 1) / 2
    from_y = (np.cos(angle) * y + (shear - np.sin(angle)) * x) * stretch_y
    from_x = (np.sin(angle) * y + np.cos(angle) * x) * stretch_x
    from_y = np.clip(from_y + (height - 1) / 2 + shift_y * height, 0, height - 1)
    from_x = np.clip(from_x + (width - 1) / 2 + shift_x * width, 0, width - 1)
    low_y = np.floor(from_y).astype(np.int64)
    low_x = np.floor(from_x).astype(np.int64)
    taps, weights = [], []
    for dy in (0, 1):
        for dx in (0, 1):
            pixel = np.minimum(low_y + dy, height - 1) * width + np.minimum(low_x + dx, width - 1)
            share_y = from_y - low_y if dy else 1 - (from_y - low_y)
            share_x = from_x - low_x if dx else 1 - (from_x - low_x)
            tap = pixel.reshape(-1, 1) * channels + np.arange(channels)
            taps.append(tap.reshape(-1))
            share = np.repeat((share_y * share_x).reshape(-1), channels)
            weights.append(share.astype(np.float32).reshape(-1, 1))
    return taps, weights
