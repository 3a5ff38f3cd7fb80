"""Filters for pictures in colour that nothing is trained for: whitened patches of a few pictures.

Random patches of the data, whitened, do nearly as well as filters that are learned (Coates, Ng and
Lee 2011: An Analysis of Single-Layer Networks in Unsupervised Feature Learning). On grey digits
smooth noise does better (docs/continual.md).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]

MOST = 20_000  # patches that the whitening is taken from
CONTRAST = 10 / 255  # added to a patch's own: flat ones are noise
FLOOR = 1.0  # added to the variance along each axis, of patches whose variance is 1


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
