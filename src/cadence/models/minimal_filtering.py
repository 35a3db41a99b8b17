"""Minimal filtering: several outputs of a short filter by fewer products (Winograd 1980).

Toom and Cook multiply polynomials by their values at a few points and interpolate; filtering is that
product's transpose. F(m, r) gives m outputs of r taps from m + r - 1 products in the place of m · r (for
networks Lavin & Gray 2015, arXiv 1509.09308, section 4). In exact arithmetic it is the same sum; in float32 a
few roundings more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Transforms", "transforms"]


class Transforms(NamedTuple):
    """Matrices to pass taps [p, r], inputs [p, p] and products [m, p] through, p = m + r - 1."""

    taps: NDArray[Any]
    inputs: NDArray[Any]
    outputs: NDArray[Any]


def transforms(num_outputs: int, num_taps: int, points: Sequence[float]) -> Transforms:
    """F(num_outputs, num_taps) at p - 1 different `points` and at infinity.

    Roundings stay small with few, small points, and exact ones at powers of two.
    """
    count = num_outputs + num_taps - 1
    assert len(points) == count - 1 == len(set(points))

    def powers(length: int) -> NDArray[Any]:
        """A polynomial of `length` coefficients at the points; at infinity its last coefficient."""
        finite = [[point**power for power in range(length)] for point in points]
        return np.array([*finite, [0.0] * (length - 1) + [1.0]])

    return Transforms(powers(num_taps), np.linalg.inv(powers(count)).T, powers(num_outputs).T)
