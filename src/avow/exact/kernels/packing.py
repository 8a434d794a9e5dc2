"""Weights as kernels read them (kernels/simd.py): panels of 16 columns, pairs of k, zeros where there is no value."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from avow.exact.kernels.simd import COLUMNS, DEPTHWISE_ORDER

Integers = NDArray[Any]
Reals = NDArray[np.float64]


def _rounded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def panels(weights: Integers) -> Integers:
    """[N, segments, run] → int16[⌈N/16⌉, segments, ⌈run/2⌉, 16, 2]"""
    columns, segments, run = weights.shape
    wide, even = _rounded(columns, COLUMNS), _rounded(run, 2)
    padded = np.zeros((wide, segments, even), np.int16)
    padded[:columns, :, :run] = weights
    blocks = padded.reshape(wide // COLUMNS, COLUMNS, segments, even // 2, 2)
    return np.ascontiguousarray(blocks.transpose(0, 2, 3, 1, 4))


def grouped_panels(weights: Integers, groups: int) -> Integers:
    """[O, segments, run] of a convolution → the panels of each group in turn."""
    columns = len(weights) // groups
    return np.concatenate([panels(weights[start : start + columns]) for start in range(0, len(weights), columns)])


def depthwise(weights: Integers) -> Integers:
    """[C, taps] → int16[⌈C/16⌉, ⌈taps/2⌉, 2, 16], in the order of the tile's interleaving; a missing last tap weighs nothing."""
    channels, taps = weights.shape
    wide, even = _rounded(channels, COLUMNS), _rounded(taps, 2)
    padded = np.zeros((wide, even), np.int16)
    padded[:channels, :taps] = weights
    blocks = padded.reshape(wide // COLUMNS, COLUMNS, even // 2, 2)
    # Both taps of a pair in one line of 32: channel n of the first at n, of the second at 16 + n.
    lines = np.ascontiguousarray(blocks.transpose(0, 2, 3, 1)).reshape(wide // COLUMNS, even // 2, 2 * COLUMNS)
    return np.ascontiguousarray(lines[:, :, np.array(DEPTHWISE_ORDER)])


def per_column(values: Integers, columns: int, groups: int, dtype: Any) -> Any:
    """One value for each column, or one for all, padded with zeros to whole panels per group."""
    each = columns // groups
    spread = np.broadcast_to(values, (columns,)).reshape(groups, each)
    padded = np.zeros((groups, _rounded(each, COLUMNS)), dtype)
    padded[:, :each] = spread
    return padded


def scales(multipliers: Integers, shifts: Integers) -> Reals:
    """M · 2⁻ˢ, exact: m < 2^15, s ≤ 45."""
    result: Reals = np.ldexp(multipliers.astype(np.float64), -shifts.astype(np.int64))
    return result
