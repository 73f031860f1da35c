"""Differentiable measures of how many states a system uses, as terms of a training loss.

Both are 1 if all states matter equally, and smaller if few states matter. They do not change when
the whole input, the whole output or a state is rescaled. So a network cannot lower them by scaling
a layer down and the weights after it up. Scaling single channels differently does change them.

A state with `|lam| >= 1` counts as one just inside the unit circle, and its gradient along `|lam|`
is zero. It dominates all others, so the penalty of such a layer is small. The penalties do not make
layers stable: S4D and LRU layers always are, and S5 layers need `clip_eigenvalues=True`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lastax._typing import Array
from lastax.analysis._single import check_single
from lastax.ssm._multi_siso import AnySystem, MultiSISO, subsystems
from lastax.ssm._precision import exact_products
from lastax.ssm._system import System, safe_sqrt, squares

SystemPenalty = Callable[[AnySystem], Float[Array, ""]]

# The smallest `1 - |lam|^2`. An eigenvalue with a smaller one is moved toward the origin.
_MARGIN = 1e-6
# Singular values below this share of the largest one are mostly rounding errors in float32. Their
# gradients fade out.
_NEGLIGIBLE = 1e-3


def modal_penalty(system: AnySystem) -> Float[Array, ""]:
    """Sum of the square roots of the impulse energies, relative to its largest possible value.

    The value is `sum_i r_i / sqrt(P sum_i r_i^2)`. Here `r_i` is the root of `impulse_energies`,
    `||C_i|| ||B_i|| / sqrt(1 - |lam_i|^2)`. The cost is linear in the number of states. The sum
    alone is the modal regularizer of Forgione et al. (CDC 2024). A network can lower the sum alone
    by a smaller `C` and larger weights after the layer.

    Args:
        system: the system of one layer.

    Returns:
        A scalar from `1 / sqrt(P)` to 1; 0 for a system without states or without response.
    """
    check_single("modal_penalty", system)
    single = subsystems(system)
    C = _stacked_outputs(single)
    energies = jnp.sum(squares(C), axis=0) * jnp.sum(squares(single.B), axis=1)
    energies = energies / (1 - squares(_inside(single.lam)))
    return _concentration(jnp.sum(safe_sqrt(energies)), jnp.sum(energies), system.states)


def hankel_penalty(system: AnySystem) -> Float[Array, ""]:
    """Sum of the Hankel singular values, relative to its largest possible value.

    The value is `sum_i s_i / sqrt(2 P sum_i s_i^2)`, with `s` from `hankel_singular_values`. It is
    small if balanced truncation can remove most of the state space. Unlike `modal_penalty`, it
    detects that states with similar poles can replace each other. Each channel of a `MultiSISO` has
    its own singular values. The cost is two eigendecompositions and one singular value
    decomposition of `2 P` by `2 P` matrices, per channel of a `MultiSISO`. Hankel singular value
    regularization: Schwerdtner et al. (NeurIPS 2025).

    Args:
        system: the system of one layer.

    Returns:
        A scalar from `1 / sqrt(2 P)` to 1; 0 for a system without states or without response.
    """
    check_single("hankel_penalty", system)
    if system.states == 0:
        return jnp.zeros(())
    lam, B, C = _per_channel(system) if isinstance(system, MultiSISO) else _as_one(system)
    # Of unstable states, the formulas of the Gramians give indefinite matrices.
    lam = _inside(lam)
    reached = jax.vmap(_reached)(lam, B)
    observed = jax.vmap(_reached)(lam.conj(), C.swapaxes(1, 2).conj())
    sums, squares = jax.vmap(_singular_sums)(reached, observed)
    return _concentration(jnp.sum(sums), jnp.sum(squares), 2 * system.states)


# The penalties by the names of `--state-penalty`.
STATE_PENALTIES: Mapping[str, SystemPenalty] = MappingProxyType(
    {"modal": modal_penalty, "hankel": hankel_penalty}
)


def _concentration(total: Array, squares: Array, count: int) -> Array:
    """The sum of `count` values, relative to its largest value for the same sum of squares."""
    norm = safe_sqrt(count * squares)
    return jnp.where(norm > 0, total / jnp.where(norm > 0, norm, 1), 0)


def _stacked_outputs(system: System) -> Array:
    """The output matrices of both directions, as outputs of one system."""
    reverse = [] if system.C_reverse is None else [jnp.asarray(system.C_reverse)]
    return jnp.concatenate([jnp.asarray(system.C), *reverse])


def _as_one(system: System) -> tuple[Array, Array, Array]:
    """Eigenvalues, inputs and outputs with a leading axis of size 1."""
    return (
        jnp.asarray(system.lam)[None],
        jnp.asarray(system.B)[None],
        _stacked_outputs(system)[None],
    )


def _per_channel(system: MultiSISO) -> tuple[Array, Array, Array]:
    """Eigenvalues, inputs and outputs of each channel, padded with states that do nothing."""
    counts = np.asarray(system.counts)
    within = np.arange(system.states) - np.repeat(np.cumsum(counts) - counts, counts)

    def padded(values: Array) -> Array:
        zeros = jnp.zeros((len(counts), counts.max()), values.dtype)
        return zeros.at[system.channel, within].set(values)

    outputs = [C for C in (system.C, system.C_reverse) if C is not None]
    C = jnp.stack([padded(jnp.asarray(C)) for C in outputs], axis=1)
    return padded(jnp.asarray(system.lam)), padded(jnp.asarray(system.B))[:, :, None], C


@exact_products
def _reached(lam: Array, B: Array) -> Array:
    """Controllability Gramian `(2 P, 2 P)` in the real coordinates `sqrt(2) [Re x; Im x]`."""
    own = B @ B.conj().T / (1 - lam[:, None] * lam[None, :].conj())
    cross = B @ B.T / (1 - lam[:, None] * lam[None, :])
    upper = jnp.concatenate([(own + cross).real, (cross - own).imag], axis=1)
    lower = jnp.concatenate([(own + cross).imag, (own - cross).real], axis=1)
    return jnp.concatenate([upper, lower])


@jax.custom_jvp
def _singular_sums(reached: Array, observed: Array) -> tuple[Array, Array]:
    """Sum and sum of squares of the Hankel singular values of two Gramians."""
    return _singular_sums_and_factors(reached, observed)[0]


@exact_products
def _singular_sums_and_factors(
    reached: Array, observed: Array
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """The sums, and the derivatives of the first one by both Gramians.

    The sum is `tr((P Q)^(1/2))`. With `P = L L^T`, `Q = R R^T` and `R^T L = U S V^T` its
    derivatives are `L^-T V S V^T L^-1 / 2` by `P`, which equals `R U S^-1 U^T R^T / 2`, and
    `L V S^-1 V^T L^T / 2` by `Q`.
    """
    L, R = _factor(reached), _factor(observed)
    U, S, Vt = jnp.linalg.svd(R.T @ L)
    # `1 / S`, which fades out below the negligible share.
    floor = _NEGLIGIBLE * S[0]
    inverse = jnp.where(S[0] > 0, S / jnp.where(S[0] > 0, S**2 + floor**2, 1), 0)
    by_reached = (R @ U * (inverse / 2)[None, :]) @ (R @ U).T
    by_observed = (L @ Vt.T * (inverse / 2)[None, :]) @ (L @ Vt.T).T
    return (jnp.sum(S), jnp.sum(S**2)), (by_reached, by_observed)


@_singular_sums.defjvp
@exact_products
def _singular_sums_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    (reached, observed), (d_reached, d_observed) = primals, tangents
    sums, (by_reached, by_observed) = _singular_sums_and_factors(reached, observed)
    d_sum = jnp.vdot(by_reached, d_reached) + jnp.vdot(by_observed, d_observed)
    # The sum of squares is `tr(P Q)`.
    d_squares = jnp.vdot(observed, d_reached) + jnp.vdot(reached, d_observed)
    return sums, (d_sum, d_squares)


def _factor(gramian: Array) -> Array:
    """`L` with `L L^T = gramian`, also where rounding errors made it slightly indefinite."""
    values, vectors = jnp.linalg.eigh(gramian)
    return vectors * jnp.sqrt(jnp.maximum(values, 0))[None, :]


def _inside(lam: Array) -> Array:
    """The eigenvalues, moved so that `1 - |lam|^2` is at least the margin."""
    moduli, limit = squares(lam), 1 - _MARGIN
    outside = moduli > limit
    return jnp.where(outside, lam * jnp.sqrt(limit / jnp.where(outside, moduli, 1)), lam)
