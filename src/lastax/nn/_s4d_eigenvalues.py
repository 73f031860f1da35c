"""Initial eigenvalues of an S4D channel.

Formulas of Gu et al., S4D, NeurIPS 2022, and of its reference implementation. `n` counts the stored
states from 0, and `N = 2 states` is the number of states with their conjugates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Complex, Float

from lastax.nn._hippo import hippo_normal_part

# `Lambda` and `B` of one channel, both `(states,)`.
Eigenvalues = tuple[Complex[np.ndarray, " N"], Complex[np.ndarray, " N"]]


def s4d_legs(states: int) -> Eigenvalues:
    """Eigenvalues and `B` of the normal part of HiPPO-LegS. S4D-LegS, section 4.

    Imaginary parts of `B` are clipped to [-2, 2], as in the reference implementation.
    """
    part = hippo_normal_part(2 * states)
    B = part.B[:states]
    return part.Lambda[:states], B.real + 1j * np.clip(B.imag, -2, 2)


def s4d_lin(states: int) -> Eigenvalues:
    """`Lambda_n = -1/2 - pi n i`, `B = 1`. S4D-Lin, equation 9."""
    return _with_unit_B(np.pi * np.arange(states))


def s4d_inv(states: int) -> Eigenvalues:
    """`Lambda_n = -1/2 - (N / pi) (N / (2n + 1) - 1) i`, `B = 1`. S4D-Inv, equation 8."""
    n, N = np.arange(states), 2 * states
    return _with_unit_B(N / np.pi * (N / (2 * n + 1) - 1))


def s4d_inv2(states: int) -> Eigenvalues:
    """`Lambda_n = -1/2 - (N / pi) (N / (n + 1) - 1) i`, `B = 1`.

    A variant of `s4d_inv` with about twice the frequencies. It is only in the reference
    implementation, where it is called `inv2`.
    """
    n, N = np.arange(states), 2 * states
    return _with_unit_B(N / np.pi * (N / (n + 1) - 1))


def s4d_quad(states: int) -> Eigenvalues:
    """`Lambda_n = -1/2 - (1 / pi) (2n + 1)^2 i`, `B = 1`.

    Frequencies grow quadratically from `1 / pi`. It is only in the reference implementation, where
    it is called `quad`.
    """
    return _with_unit_B((2 * np.arange(states) + 1) ** 2 / np.pi)


def s4d_real(states: int) -> Eigenvalues:
    """`Lambda_n = -(n + 1)`, `B = 1`: decay without oscillation. S4D-Real, section 4."""
    return -(np.arange(states) + 1.0) + 0j, np.ones(states, complex)


S4D_EIGENVALUES: Mapping[str, Callable[[int], Eigenvalues]] = MappingProxyType(
    {
        "legs": s4d_legs,
        "lin": s4d_lin,
        "inv": s4d_inv,
        "inv2": s4d_inv2,
        "quad": s4d_quad,
        "real": s4d_real,
    }
)


def _with_unit_B(frequencies: Float[np.ndarray, " N"]) -> Eigenvalues:
    """Eigenvalues of real part -1/2 and negative imaginary part, and `B = 1`."""
    return -0.5 - 1j * frequencies, np.ones(len(frequencies), complex)
