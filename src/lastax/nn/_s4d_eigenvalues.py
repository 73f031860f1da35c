"""TODO nn._s4d_eigenvalues."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Complex

from lastax.nn._hippo import hippo_normal_part

# Eigenvalues and input map of the `N` stored states that every channel starts from.
Eigenvalues = tuple[Complex[np.ndarray, " N"], Complex[np.ndarray, " N"]]


def s4d_lin(states: int) -> Eigenvalues:
    """`Lambda_n = -1/2 - pi n i`, `B = 1`. Gu et al., S4D, equation 9."""
    n = np.arange(states)
    return -0.5 - 1j * np.pi * n, np.ones(states, complex)


def s4d_inv(states: int) -> Eigenvalues:
    """`Lambda_n = -1/2 - (N/pi) (N/(2n+1) - 1) i`, `N = 2 states`, `B = 1`. S4D, equation 8."""
    n, N = np.arange(states), 2 * states
    return -0.5 - 1j * N / np.pi * (N / (2 * n + 1) - 1), np.ones(states, complex)


def s4d_legs(states: int) -> Eigenvalues:
    """The normal part of HiPPO-LegS, and its `B` with imaginary parts cut at 2 as published."""
    part = hippo_normal_part(2 * states)
    B = part.B[:states]
    return part.Lambda[:states], B.real + 1j * np.clip(B.imag, -2, 2)


def s4d_real(states: int) -> Eigenvalues:
    """`Lambda_n = -(n + 1)`, `B = 1`: no oscillation. S4D, section 4."""
    return -(np.arange(states) + 1.0) + 0j, np.ones(states, complex)


S4D_EIGENVALUES: Mapping[str, Callable[[int], Eigenvalues]] = MappingProxyType(
    {"legs": s4d_legs, "lin": s4d_lin, "inv": s4d_inv, "real": s4d_real}
)
