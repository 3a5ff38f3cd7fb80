"""Layers that nothing is trained for: filters, and the means of what they answer.

Random patches of the data, whitened, do nearly as well as filters that are learned, and their
answers are best summed over parts of the picture (Coates, Ng and Lee 2011: An Analysis of
Single-Layer Networks in Unsupervised Feature Learning). On grey digits smooth noise does better
than patches, and the largest answer better than the sum (docs/continual.md); of more noise than is
needed those filters are kept that are least alike (Gonzalez 1985: Clustering to Minimize the
Maximum Intercluster Distance).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from zgedge.arena import TrunkParameters, weight_shape
from zgedge.errors import MissingExtraError
from zgedge.network import KERNELS, Network, TrunkLayer, depthwise

Float = npt.NDArray[np.float64]

DRAWN = 3  # filters of noise, for each one that is kept
MOST = 20_000  # patches that the whitening is taken from
CONTRAST = 10 / 255  # added to a patch's own: flat ones are noise
FLOOR = 1.0  # added to the variance along each axis, of patches whose variance is 1
FULL = 127  # every weight of a mean
TOP = 0.9999  # share of the answers, or of their means, that a code can express


def smooth_noise(rng: np.random.Generator, count: int, kernel: int) -> Float:
    """`count` filters [count, kernel * kernel] of length 1 for grey pictures, as little alike as
    may be; all but those of one tap have a mean of 0."""
    noise = rng.standard_normal((DRAWN * count, kernel + 8, kernel + 8))
    near = np.exp(-0.5 * np.arange(-4, 5) ** 2)
    for axis in (1, 2):
        noise = np.lib.stride_tricks.sliding_window_view(noise, 9, axis=axis) @ near
    filters = noise.reshape(len(noise), -1)
    if kernel > 1:
        filters -= filters.mean(axis=1, keepdims=True)
    filters /= np.linalg.norm(filters, axis=1, keepdims=True)
    return np.asarray(filters[_least_alike(filters, count)], np.float64)


def _least_alike(filters: Float, count: int) -> list[int]:
    """Numbers of `count` filters [n, taps] of length 1, each the one least like all before it."""
    chosen = [0]
    nearest = filters @ filters[0]
    while len(chosen) < count:
        chosen.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, filters @ filters[chosen[-1]])
    return chosen


def whitened_patches(rng: np.random.Generator, patches: Float, count: int) -> Float:
    """`count` filters [count, taps] of mean 0 and length 1 from patches [n, taps] of values 0 .. 1:
    some of them, whitened twice, once for the patch and once for what it will be compared with."""
    some = patches[rng.permutation(len(patches))[:MOST]]
    some = some - some.mean(axis=1, keepdims=True)
    some /= np.sqrt((some**2).mean(axis=1, keepdims=True) + CONTRAST**2)
    some -= some.mean(axis=0)
    variance, axes = np.linalg.eigh(np.cov(some.T))
    white = (axes / np.sqrt(np.maximum(variance, 0) + FLOOR)) @ axes.T
    chosen = some[np.arange(count) % len(some)]
    # Of a picture without any contrast, noise is left.
    chosen = (chosen + 1e-3 * rng.standard_normal(chosen.shape)) @ white
    chosen /= np.linalg.norm(chosen, axis=1, keepdims=True) + 1e-9
    filters = chosen @ white
    filters -= filters.mean(axis=1, keepdims=True)
    filters /= np.linalg.norm(filters, axis=1, keepdims=True) + 1e-9
    return np.asarray(filters, np.float64)


def means_of(shape: tuple[int, int, int], places: int) -> TrunkLayer | None:
    """The layer whose windows, `places` along a side, cover a square of `shape`; None where the
    format has none. It is a depthwise convolution: pools of means are of whole pictures."""
    stride = shape[0] // places
    window = shape[0] - (places - 1) * stride
    if shape[0] != shape[1] or window not in KERNELS[1:]:
        return None
    try:
        return depthwise(shape, window, stride, same=False)
    except ValueError:
        return None


def with_means(
    network: Network, trunk: Sequence[TrunkParameters], codes: npt.NDArray[np.uint8]
) -> list[TrunkParameters]:
    """`trunk` and, behind it, the means that are the last layer of the network's.

    codes  uint8 [n, inputs], samples that tell how far the means reach

    Raises MissingExtraError without torch, whose exact pass gives the core's numbers.
    """
    try:
        from zgedge.train.trunk import features
    except ModuleNotFoundError as error:
        raise MissingExtraError("train", "torch") from error
    layer, s_in = network.trunk[-1], trunk[-1].s_out
    size = layer.kernel**2 * FULL
    means = TrunkParameters(
        s_in, s_in,
        weights=np.full(weight_shape(layer), FULL, np.int8),
        bias=np.zeros(layer.channels, np.int32),
        multiplier=np.full(layer.channels, 1.0 / size, np.float32),
    )  # fmt: skip
    found = features(network, [*trunk, means], codes)
    s_out = s_in * max(float(np.quantile(found, TOP)), 1.0) / 255
    multiplier = np.full(layer.channels, s_in / (size * s_out), np.float32)
    return [*trunk, replace(means, s_out=s_out, multiplier=multiplier)]
