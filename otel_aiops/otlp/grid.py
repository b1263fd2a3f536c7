"""One fixed logarithmic grid for exponential histograms, so that they have buckets like any other histogram."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

SCALE = 2  # four cells an octave: a bucket is 19 % wide, a percentile inside it is off by less
OCTAVES = 32  # 2^-32 .. 2^32 covers nanoseconds to gigabytes; what lies outside falls into the outermost cells
SIDE = 2 * OCTAVES << SCALE  # cells on each side of zero
FINEST, COARSEST = 20, -10  # scales that SDKs produce (OTLP data model, ExponentialHistogram)

_STEPS = np.arange(-SIDE // 2, SIDE // 2)
_ROOTS = np.array([2.0 ** (k / (1 << SCALE)) for k in range(1 << SCALE)])
# Only scaled by whole powers of two: exp2 rounds differently on other processors, and layouts are compared as bytes.
_EDGES = np.ldexp(_ROOTS[_STEPS % (1 << SCALE)], _STEPS >> SCALE)

# Cells: zero, then the positive ones upwards; the last one is open above.
POSITIVE_BOUNDS: bytes = _EDGES.astype("<f8").tobytes()
# Cells: negative ones from the largest magnitude down, zero, the positive ones upwards.
SIGNED_BOUNDS: bytes = np.concatenate([-_EDGES[::-1], _EDGES]).astype("<f8").tobytes()

POSITIVE_CELLS = SIDE + 1
SIGNED_CELLS = 2 * SIDE + 1


def lay(index: I64, count: F64, scale: I64) -> tuple[I64, F64, I64]:
    """Lay R buckets of exponential histograms on one side of the grid.

    Bucket `index` at `scale` covers (b^index, b^(index+1)] with b = 2^(2^-scale). A finer bucket goes whole into the
    cell that holds it; a coarser one is shared evenly, in the logarithm, by the cells that it covers.

    Shape:  index, count, scale (R,).
    Returns (cell in 0 .. SIDE-1, count, which of the R buckets it came from), all (Q,), Q >= R.
    Source: OpenTelemetry metrics data model, ExponentialHistogram, "Exponential scale" and "downscale".
    """
    fine = scale >= SCALE
    if fine.all():
        return np.clip((index >> (scale - SCALE)) + SIDE // 2, 0, SIDE - 1), count, np.arange(len(index))
    finer = np.maximum(scale - SCALE, 0)
    coarser = np.maximum(SCALE - scale, 0)
    width = np.int64(1) << coarser
    # Clip before the shift: offsets go to 2^31 and the shift to 12 more bits, well inside 64.
    first = np.where(fine, index >> finer, index << coarser) + SIDE // 2
    low = np.clip(first, 0, SIDE - 1)
    high = np.clip(first + width - 1, 0, SIDE - 1)
    cells = high - low + 1
    source = np.repeat(np.arange(len(index)), cells)
    ends = np.cumsum(cells)
    cell = np.repeat(low, cells) + np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - cells, cells)
    # What lies outside the grid belongs to the outermost cell, so shares are by the cells' part of the whole bucket.
    share = np.repeat(count / width, cells)
    outside_low = np.clip(-first, 0, width - 1)
    outside_high = np.clip(first + width - SIDE, 0, width - 1)
    share[ends - cells] += count / width * outside_low
    share[ends - 1] += count / width * outside_high
    return cell, share, source
