"""Norms of one-state subsystems: the largest and the average effect of each state.

The closed forms keep the array library of the system: NumPy, or JAX also under `jit` and `grad`.
States on or outside the unit circle have no finite norm and get infinity.
"""

import numpy as np
from jaxtyping import Float

from lastax._typing import Array
from lastax.analysis._peak_gain import peak_gains
from lastax.analysis._single import check_single
from lastax.ssm._multi_siso import AnySystem, subsystems


def hinf_norms(system: AnySystem) -> Float[Array, " P"]:
    """H-infinity norm of each one-state subsystem: its largest gain over all frequencies.

    `||C_i|| ||B_i|| / (1 - |lam_i|)`, in closed form because the subsystem has rank one (Gwak et
    al., LAST, NeurIPS 2024, equation 7). The norm of a conjugate pair is at most twice this value.
    For bidirectional systems, `||C_i||` is the sum of the norms of both directions. The result is
    then an upper bound; `swept_hinf_norms` computes the exact value.

    Args:
        system: the system.

    Returns:
        One norm per state, shape `(P,)`; infinity where `|lam_i| >= 1`.
    """
    check_single("hinf_norms", system)
    return _over_distance(_gain(system), 1 - abs(system.lam))


def finite_horizon_hinf_norms(system: AnySystem, length: int) -> Float[Array, " P"]:
    """The part of the H-infinity norm that each state can reach within `length` steps.

    `h_i (1 - |lam_i|^length)` with `h_i` from `hinf_norms`: the first `length` terms of the
    geometric series with the limit `1 / (1 - |lam_i|)`. A state that is slower than the sequence is
    therefore not overrated.

    Args:
        system: the system.
        length: number of steps of the sequences.

    Returns:
        One norm per state, shape `(P,)`; infinity where `|lam_i| >= 1`.

    Raises:
        ValueError: if `length` is not a positive integer.
    """
    check_single("finite_horizon_hinf_norms", system)
    if not isinstance(length, int | np.integer) or length < 1:
        raise ValueError(
            f"finite_horizon_hinf_norms: length must be a positive number of steps, got {length!r}"
        )
    norms, modulus = hinf_norms(system), abs(system.lam)
    xp = modulus.__array_namespace__()
    stable = modulus < 1
    return norms * xp.where(stable, 1 - xp.where(stable, modulus, 0.0) ** length, 1.0)


def magnitudes(system: AnySystem) -> Float[Array, " P"]:
    """Parameter magnitude of each state, `|lam_i| ||B_i|| ||C_i||`, which ignores the dynamics.

    For bidirectional systems, `||C_i||` is the sum of the norms of both directions.

    Args:
        system: the system.

    Returns:
        One magnitude per state, shape `(P,)`.
    """
    check_single("magnitudes", system)
    return abs(system.lam) * _gain(system)


def impulse_energies(system: AnySystem) -> Float[Array, " P"]:
    """Energy of the response of each state to a unit impulse in each input, over all time.

    `||C_i||^2 ||B_i||^2 / (1 - |lam_i|^2)`, the squared H2 norm of the complex one-state subsystem.
    The energies of both directions are added.

    Args:
        system: the system.

    Returns:
        One energy per state, shape `(P,)`; infinity where `|lam_i| >= 1`.
    """
    check_single("impulse_energies", system)
    modulus = abs(system.lam)
    C = sum((norms**2 for norms in system.output_norms[1:]), system.output_norms[0] ** 2)
    return _over_distance(C * system.input_norms**2, (1 - modulus) * (1 + modulus))


def published_squared_hinf_norms(system: AnySystem) -> Float[Array, " P"]:
    """The squared norm as the published LAST code computes it, for comparison only.

    `||C||^2 ||B||^2 / ((1 - |lam|)^2 + 1e-8)`. For bidirectional systems, the published code uses
    `(a + b) / 4` instead of `||C||^2`, with the norms `a` and `b` of both directions. The
    precedence of `**` makes it linear in `C`. The 1e-8 halves the value at `1 - |lam| = 1e-4` and
    makes the values of unstable states finite.

    Args:
        system: the system.

    Returns:
        One value per state, shape `(P,)`.
    """
    check_single("published_squared_hinf_norms", system)
    C = system.output_norms
    squared_C = C[0] ** 2 if len(C) == 1 else (C[0] + C[1]) / 4
    return squared_C * system.input_norms**2 / ((1 - abs(system.lam)) ** 2 + 1e-8)


def swept_hinf_norms(system: AnySystem, *, pairs: bool) -> Float[np.ndarray, " P"]:
    """The exact H-infinity norm of each one-state subsystem, from a frequency sweep on the host.

    The sweep does not use the closed forms. It takes several thousand times longer. Both directions
    of a bidirectional system are combined exactly.

    Args:
        system: the system.
        pairs: if true, the subsystem is the state with its conjugate, acting on real signals; if
            false, it is the complex state alone.

    Returns:
        One norm per state, shape `(P,)`; infinity where `|lam_i| >= 1`.
    """
    check_single("swept_hinf_norms", system)
    if system.states == 0:
        return np.zeros(0)
    system = subsystems(system)
    lam, B, C = (np.asarray(a, complex) for a in (system.lam, system.B, system.C))
    C_reverse = None if system.C_reverse is None else np.asarray(system.C_reverse, complex)

    def output_vector(omega: np.ndarray, lam: np.ndarray, conj: bool) -> np.ndarray:
        """Response `(P, W, H)` of each state to a unit input along its input direction."""
        z = np.exp(1j * omega)
        maybe_conj = np.conj if conj else np.asarray
        vector = maybe_conj(C).T[:, None, :] / (1 - lam[:, None] / z)[..., None]
        if C_reverse is not None:
            vector = (
                vector + maybe_conj(C_reverse).T[:, None, :] / (1 - lam[:, None] * z)[..., None]
            )
        return vector

    input_norm = np.linalg.norm(B, axis=1)[:, None]
    # Inner product of the input directions B_i and conj(B_i) of a pair.
    input_product = np.sum(B.conj() ** 2, axis=1)[:, None]
    scale = 1.0 if system.conj_sym else 0.5

    def gains(omega: np.ndarray) -> np.ndarray:
        first = output_vector(omega, lam, conj=False)
        if not pairs:
            return np.linalg.norm(first, axis=-1) * input_norm
        # The subsystem is the rank-two matrix [v, w] [b; conj(b)]. Its largest singular value is
        # the root of the largest eigenvalue of a product of two 2x2 Gram matrices.
        second = output_vector(omega, lam.conj(), conj=True)
        vv = np.sum(np.abs(first) ** 2, axis=-1)
        ww = np.sum(np.abs(second) ** 2, axis=-1)
        vw = np.sum(first.conj() * second, axis=-1)
        bb, bc = input_norm**2, input_product
        trace = bb * (vv + ww) + 2 * np.real(bc * vw)
        determinant = (bb**2 - np.abs(bc) ** 2) * (vv * ww - np.abs(vw) ** 2)
        root = np.sqrt(np.maximum(trace**2 / 4 - determinant, 0))
        return scale * np.sqrt(trace / 2 + root)

    with np.errstate(divide="ignore", invalid="ignore"):
        peaks = peak_gains(gains, lam[:, None])
    # A broken state, whose eigenvalue is NaN, has the norm NaN.
    return np.where(np.abs(lam) >= 1, np.inf, peaks)


def _gain(system: AnySystem) -> Float[Array, " P"]:
    """`||C_i|| ||B_i||`, with the output norms added over the directions."""
    return sum(system.output_norms[1:], system.output_norms[0]) * system.input_norms


def _over_distance(gain: Array, distance: Array) -> Array:
    xp = gain.__array_namespace__()
    # A distance of NaN counts as stable, so that the norm is NaN and the broken state is visible.
    unstable = distance <= 0
    return xp.where(unstable, xp.inf, gain / xp.where(unstable, 1.0, distance))
