"""What one state alone does at most, and on average: norms of its one-state subsystem.

Closed forms follow the array library of the system (numpy or JAX, also under `jit` and `grad`); a
state on or outside the unit circle has no finite norm and gets infinity.
"""

import numpy as np
from jaxtyping import Float

from lastax._typing import Array
from lastax.analysis._peak_gain import peak_gains
from lastax.ssm._multi_siso import AnySystem, subsystems


def hinf_norms(system: AnySystem) -> Float[Array, " P"]:
    """H-infinity norm of every state's subsystem: its largest gain over all frequencies.

    `||C_i|| ||B_i|| / (1 - |lam_i|)`, in closed form since the subsystem has rank one (Gwak et
    al., LAST, NeurIPS 2024, equation 7); a conjugate pair has at most twice that. If the system
    runs both ways, `||C_i||` is the sum of both directions' norms, which bounds the gain of the
    two together; `swept_hinf_norms` has the exact value.
    """
    return _over_distance(_gain(system), 1 - abs(system.lam))


def finite_horizon_hinf_norms(system: AnySystem, length: int) -> Float[Array, " P"]:
    """What of the H-infinity norm a sequence of `length` steps lets a state reach.

    `h_i (1 - |lam_i|^length)`: the sum of the first `length` terms of the geometric series that
    `1 / (1 - |lam_i|)` is the whole of. A state slower than the sequence is not overrated.
    """
    norms, modulus = hinf_norms(system), abs(system.lam)
    xp = modulus.__array_namespace__()
    stable = modulus < 1
    return norms * xp.where(stable, 1 - xp.where(stable, modulus, 0.0) ** length, 1.0)


def magnitudes(system: AnySystem) -> Float[Array, " P"]:
    """`|lam_i| ||B_i|| ||C_i||`: the size of a state's parameters, which knows no dynamics.

    If the system runs both ways, `||C_i||` is the sum of both directions' norms.
    """
    return abs(system.lam) * _gain(system)


def impulse_energies(system: AnySystem) -> Float[Array, " P"]:
    """Energy of every state's answer to a unit impulse in each input, over all time.

    `||C_i||^2 ||B_i||^2 / (1 - |lam_i|^2)`, the squared H2 norm of the complex subsystem. If the
    system runs both ways, the energies of both directions are added.
    """
    modulus = abs(system.lam)
    C = sum((norms**2 for norms in system.output_norms[1:]), system.output_norms[0] ** 2)
    return _over_distance(C * system.input_norms**2, (1 - modulus) * (1 + modulus))


def published_squared_hinf_norms(system: AnySystem) -> Float[Array, " P"]:
    """What the published LAST code puts in place of the squared norm. For comparison only.

    `||C||^2 ||B||^2 / ((1 - |lam|)^2 + 1e-8)`, and in both directions `(a + b) / 4` in place of
    `||C||^2`, with `a` and `b` the norms of either: linear in `C`, not squared, through the
    precedence of `**`. The 1e-8 halves the score at `1 - |lam| = 1e-4` and gives unstable states
    a finite one.
    """
    C = system.output_norms
    squared_C = C[0] ** 2 if len(C) == 1 else (C[0] + C[1]) / 4
    return squared_C * system.input_norms**2 / ((1 - abs(system.lam)) ** 2 + 1e-8)


def swept_hinf_norms(system: AnySystem, *, pairs: bool) -> Float[np.ndarray, " P"]:
    """The exact norm of every state's subsystem by a frequency sweep, on the host.

    With `pairs` the state and its conjugate together, as a real signal meets them; without, the
    complex state alone. Both directions together where the system has two. Independent of the
    closed forms, and some thousand times slower.
    """
    system = subsystems(system)
    lam, B, C = (np.asarray(a, complex) for a in (system.lam, system.B, system.C))
    C_reverse = None if system.C_reverse is None else np.asarray(system.C_reverse, complex)

    def output_vector(omega: np.ndarray, lam: np.ndarray, conj: bool) -> np.ndarray:
        """What a unit along the input direction gives: (P, W, H)."""
        z = np.exp(1j * omega)
        take = np.conj if conj else np.asarray
        vector = take(C).T[:, None, :] / (1 - lam[:, None] / z)[..., None]
        if C_reverse is not None:
            vector = vector + take(C_reverse).T[:, None, :] / (1 - lam[:, None] * z)[..., None]
        return vector

    input_norm = np.linalg.norm(B, axis=1)[:, None]
    # Between the input directions B_i and conj(B_i) of a pair.
    input_product = np.sum(B.conj() ** 2, axis=1)[:, None]
    share = 1.0 if system.conj_sym else 0.5

    def gains(omega: np.ndarray) -> np.ndarray:
        first = output_vector(omega, lam, conj=False)
        if not pairs:
            return np.linalg.norm(first, axis=-1) * input_norm
        # The subsystem is the rank-two matrix [v, w] [b; conj(b)]: its largest singular value is
        # the root of the largest eigenvalue of a product of two 2x2 Gram matrices.
        second = output_vector(omega, lam.conj(), conj=True)
        vv = np.sum(np.abs(first) ** 2, axis=-1)
        ww = np.sum(np.abs(second) ** 2, axis=-1)
        vw = np.sum(first.conj() * second, axis=-1)
        bb, bc = input_norm**2, input_product
        trace = bb * (vv + ww) + 2 * np.real(bc * vw)
        determinant = (bb**2 - np.abs(bc) ** 2) * (vv * ww - np.abs(vw) ** 2)
        root = np.sqrt(np.maximum(trace**2 / 4 - determinant, 0))
        return share * np.sqrt(trace / 2 + root)

    with np.errstate(divide="ignore", invalid="ignore"):
        peaks = peak_gains(gains, lam[:, None])
    return np.where(np.abs(lam) < 1, peaks, np.inf)


def _gain(system: AnySystem) -> Float[Array, " P"]:
    return sum(system.output_norms[1:], system.output_norms[0]) * system.input_norms


def _over_distance(gain: Array, distance: Array) -> Array:
    xp = gain.__array_namespace__()
    # What is not a number is neither, and stays so: hiding it would score a broken state.
    unstable = distance <= 0
    return xp.where(unstable, xp.inf, gain / xp.where(unstable, 1.0, distance))
