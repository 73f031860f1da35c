"""The S5 layer: one multi-input multi-output diagonal system. Smith et al., ICLR 2023."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from lastax._typing import Array, PRNGKeyArray, Scalar
from lastax.nn._hippo import hippo_block_basis
from lastax.nn._initialization import (
    InitializeC,
    as_complex,
    as_pair,
    initialize_B,
    initialize_log_step,
    lecun_normal_C,
)
from lastax.ssm._discretization import discretize_zoh, inverse_of
from lastax.ssm._replacement import check_replacement, unchanged_states, update_changed
from lastax.ssm._scan_methods import ScanMethod
from lastax.ssm._system import System, kept_indices

# Real parts are kept below this when eigenvalues are clipped, so that the layer stays stable.
LARGEST_REAL_PART = -1e-4


class S5(eqx.Module):
    """Continuous eigenvalues, input and output maps and step sizes of `P` stored states.

    All parameters are real arrays (complex ones as pairs on the last axis), since optimizers treat
    complex leaves differently. `C_reverse` is there if the layer runs in both directions. The
    static facts say how the parameters are read: each stored state as a conjugate pair
    (`conj_sym`), the discretization rule, whether real parts are clipped to stay negative, and how
    the recurrence is computed (None: as fits the device and the length).
    """

    Lambda_re: Float[Array, " P"]
    Lambda_im: Float[Array, " P"]
    B: Float[Array, "P H 2"]
    C: Float[Array, "H P 2"]
    C_reverse: Float[Array, "H P 2"] | None
    D: Float[Array, " H"] | Float[Array, "H H"]
    log_step: Float[Array, " P"]
    conj_sym: bool = eqx.field(static=True, default=True)
    discretize: Callable = eqx.field(static=True, default=discretize_zoh)
    clip_eigenvalues: bool = eqx.field(static=True, default=False)
    scan_method: ScanMethod | None = eqx.field(static=True, default=None)

    @classmethod
    def initialize(
        cls,
        channels: int,
        states: int,
        *,
        key: PRNGKeyArray,
        blocks: int = 1,
        bidirectional: bool = False,
        conj_sym: bool = True,
        discretize: Callable = discretize_zoh,
        initialize_C: InitializeC = lecun_normal_C,
        clip_eigenvalues: bool = False,
        step_range: tuple[float, float] = (1e-3, 1e-1),
        scan_method: ScanMethod | None = None,
    ) -> S5:
        """Draw a layer of `channels` inputs and outputs and `states` stored states.

        Eigenvalues are those of `blocks` HiPPO-LegS matrices, step sizes log-uniform in
        `step_range`, `D` standard normal.

        Raises:
            ValueError: if `states` is not a multiple of `blocks`, or the range is not positive.
        """
        B_key, C_key, C_reverse_key, D_key, step_key = jax.random.split(key, 5)
        basis = hippo_block_basis(states, blocks=blocks, conj_sym=conj_sym)
        return cls(
            Lambda_re=jnp.asarray(basis.Lambda.real),
            Lambda_im=jnp.asarray(basis.Lambda.imag),
            B=initialize_B(basis.V_inverse, channels, key=B_key),
            C=initialize_C(basis.V, channels, key=C_key),
            C_reverse=initialize_C(basis.V, channels, key=C_reverse_key) if bidirectional else None,
            D=jax.random.normal(D_key, (channels,)),
            log_step=initialize_log_step(
                states, minimum=step_range[0], maximum=step_range[1], key=step_key
            ),
            conj_sym=conj_sym,
            discretize=discretize,
            clip_eigenvalues=clip_eigenvalues,
            scan_method=scan_method,
        )

    def system(self, step_rescale: Scalar = 1.0) -> System:
        """The discretized system, with all step sizes times `step_rescale`.

        A network trained at one sampling rate runs at half of it with a rescaling of 2.
        """
        real = self.Lambda_re
        if self.clip_eigenvalues:
            real = jnp.minimum(real, LARGEST_REAL_PART)
        Lambda = jax.lax.complex(real, self.Lambda_im)
        step = step_rescale * jnp.exp(self.log_step)
        lam, B = self.discretize(Lambda, as_complex(self.B), step)
        reverse = None if self.C_reverse is None else as_complex(self.C_reverse)
        C = as_complex(self.C)
        return System(lam, B, C, reverse, self.D, self.conj_sym, self.scan_method)

    def __call__(
        self, u: Float[Array, "L H"], *, step_rescale: Scalar = 1.0
    ) -> Float[Array, "L H"]:
        """Apply the layer to one sequence, from rest."""
        return self.system(step_rescale)(u)

    def keep(self, mask: Bool[np.ndarray, " P"]) -> S5:
        """A smaller layer: only the states where `mask` holds are left, in every array."""
        index = kept_indices(mask, self.log_step.shape[0])
        return dataclasses.replace(
            self,
            Lambda_re=self.Lambda_re[index],
            Lambda_im=self.Lambda_im[index],
            B=self.B[index],
            C=self.C[:, index],
            C_reverse=None if self.C_reverse is None else self.C_reverse[:, index],
            log_step=self.log_step[index],
        )

    def with_system(self, system: System) -> S5:
        """The layer whose system is the given one, of as many states.

        What the given one leaves as it is keeps its parameters to the bit. Step sizes stay, but
        where eigenvalues are clipped: there they are shortened for a state that is too slow to be
        written otherwise.

        Raises:
            ValueError: if the number of states differs, or eigenvalues are clipped and one has
                `|lam| >= 1`.
        """
        own = self.system()
        check_replacement("S5.with_system", own, system)
        same_lam, same_B = unchanged_states(own, system)
        lam, B = np.asarray(system.lam, complex), np.asarray(system.B, complex)
        step = np.exp(np.asarray(self.log_step, float))
        Lambda, continuous_B = self._continuous(lam, B, step)
        if self.clip_eigenvalues:
            if np.any(np.abs(lam[~same_lam]) >= 1):
                raise ValueError("S5.with_system: |lam| >= 1, but eigenvalues are clipped")
            # A little more than needed: parameters are rounded.
            shorter = np.minimum(1, Lambda.real / (1.001 * LARGEST_REAL_PART))
            step = np.where(same_lam, step, step * shorter)
            Lambda, continuous_B = self._continuous(lam, B, step)

        def pair(z: Any) -> Array:
            return as_pair(jnp.asarray(np.asarray(z), jnp.result_type(self.B, 1j)))

        return dataclasses.replace(
            self,
            Lambda_re=update_changed(same_lam, self.Lambda_re, Lambda.real),
            Lambda_im=update_changed(same_lam, self.Lambda_im, Lambda.imag),
            B=jnp.where(same_B[:, None, None], self.B, pair(continuous_B)),
            C=pair(system.C),
            C_reverse=None if system.C_reverse is None else pair(system.C_reverse),
            D=jnp.asarray(np.asarray(system.D), self.D.dtype),
            log_step=update_changed(same_lam, self.log_step, np.log(step)),
        )

    def _continuous(
        self, lam: np.ndarray, B: np.ndarray, step: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        with jax.enable_x64(True):
            found = inverse_of(self.discretize)(*map(jnp.asarray, (lam, B, step)))
            return np.asarray(found[0]), np.asarray(found[1])
