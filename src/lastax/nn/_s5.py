"""The S5 layer: a diagonal system of many inputs and outputs. Smith et al., ICLR 2023."""

from __future__ import annotations

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from lastax._typing import Array, PRNGKeyArray, Scalar
from lastax.nn._checks import check_sizes
from lastax.nn._diagonal_layer import DiagonalLayer, check_stable, continuous_parameters
from lastax.nn._hippo import hippo_block_basis
from lastax.nn._initialization import (
    InitializeC,
    as_complex,
    initialize_B,
    initialize_log_step,
    lecun_normal_C,
)
from lastax.ssm._discretization import Discretization, discretize_zoh
from lastax.ssm._replacement import check_replacement, unchanged_states, update_changed
from lastax.ssm._scan_methods import ScanMethod
from lastax.ssm._step_sizes import StepSizes, step_sizes_of
from lastax.ssm._system import System, kept_indices, take_states

# Upper bound of the real parts of clipped eigenvalues, as in the published code.
LARGEST_REAL_PART = -1e-4


class S5(DiagonalLayer):
    """One continuous diagonal system with `P` stored states, `H` inputs and `H` outputs.

    Complex parameters are real pairs on the last axis, because optimizers do not treat complex
    arrays uniformly.

    Attributes:
        Lambda_re: real parts of the eigenvalues, shape `(P,)`.
        Lambda_im: imaginary parts of the eigenvalues, shape `(P,)`.
        B: input map, shape `(P, H, 2)`.
        C: output map, shape `(H, P, 2)`.
        C_reverse: output map of the backward recurrence, shape `(H, P, 2)`; None if the layer is
            unidirectional.
        D: feedthrough, shape `(H,)` for a diagonal matrix or `(H, H)`.
        log_step: logarithms of the step sizes, shape `(P,)`.
        conj_sym: each stored state represents a conjugate pair.
        discretize: discretization rule.
        clip_eigenvalues: clip real parts of eigenvalues to at most -1e-4.
        scan_method: algorithm of the recurrence; None chooses by device and length.
    """

    Lambda_re: Float[Array, " P"]
    Lambda_im: Float[Array, " P"]
    B: Float[Array, "P H 2"]
    C: Float[Array, "H P 2"]
    C_reverse: Float[Array, "H P 2"] | None
    D: Float[Array, " H"] | Float[Array, "H H"]
    log_step: Float[Array, " P"]
    conj_sym: bool = eqx.field(static=True, default=True)
    discretize: Discretization = eqx.field(static=True, default=discretize_zoh)
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
        discretize: Discretization = discretize_zoh,
        initialize_C: InitializeC = lecun_normal_C,
        clip_eigenvalues: bool = False,
        step_range: tuple[float, float] = (1e-3, 1e-1),
        scan_method: ScanMethod | None = None,
    ) -> S5:
        """Draw a layer.

        Step sizes are log-uniform and `D` is standard normal.

        Args:
            channels: number of inputs and outputs `H`.
            states: number of stored states `P`.
            key: random key.
            blocks: number of HiPPO-LegS matrices whose eigenvalues the layer starts from.
            bidirectional: add a backward recurrence.
            conj_sym: store one state of each conjugate pair.
            discretize: discretization rule.
            initialize_C: draws `C` and `C_reverse`.
            clip_eigenvalues: clip real parts of eigenvalues to at most -1e-4.
            step_range: smallest and largest step size.
            scan_method: algorithm of the recurrence; None chooses by device and length.

        Returns:
            The layer.

        Raises:
            ValueError: if `channels` or `states` is not positive, if `states` is not a multiple of
                `blocks`, or unless `0 < step_range[0] <= step_range[1]`.
        """
        check_sizes("S5.initialize", channels=channels, states=states)
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
        """Discretize the layer.

        Args:
            step_rescale: factor on all step sizes. 2 runs the layer on data of half the sampling
                rate.

        Returns:
            The discrete system that the layer applies. Its dtype is at least float32.

        Raises:
            ValueError: if parameters are missing, if the layer is a stack of layers, or if
                `step_rescale` is not positive.
        """
        layer = self._checked(step_rescale)
        Lambda, step = layer._continuous(step_rescale)
        lam, B = self.discretize(Lambda, as_complex(layer.B), step)
        reverse = None if layer.C_reverse is None else as_complex(layer.C_reverse)
        C = as_complex(layer.C)
        return System(lam, B, C, reverse, layer.D, self.conj_sym, self.scan_method)

    def step_sizes(self, step_rescale: Scalar = 1.0) -> StepSizes | None:
        """How the system depends on the step size; None for other discretization rules."""
        Lambda, step = self._checked(step_rescale)._continuous(step_rescale)
        return step_sizes_of(self.discretize, Lambda * step)

    def _continuous(self, step_rescale: Scalar) -> tuple[Array, Array]:
        """Eigenvalues `Lambda` and step sizes."""
        real = self.Lambda_re
        if self.clip_eigenvalues:
            real = jnp.minimum(real, LARGEST_REAL_PART)
        return jax.lax.complex(real, self.Lambda_im), step_rescale * jnp.exp(self.log_step)

    def keep(self, mask: Bool[np.ndarray, " P"]) -> S5:
        """Remove states.

        Args:
            mask: true for each state to keep, shape `(P,)`.

        Returns:
            A smaller layer. Its states keep their order.
        """
        index = kept_indices(mask, self._checked().log_step.shape[0])
        return dataclasses.replace(
            self,
            Lambda_re=take_states(self.Lambda_re, index),
            Lambda_im=take_states(self.Lambda_im, index),
            B=take_states(self.B, index),
            C=take_states(self.C, index, axis=1),
            C_reverse=None
            if self.C_reverse is None
            else take_states(self.C_reverse, index, axis=1),
            log_step=take_states(self.log_step, index),
        )

    def with_system(self, system: System) -> S5:
        """Set the parameters such that `system()` returns the given system.

        Parameters of unchanged eigenvalues and rows of `B` stay bitwise equal. Step sizes stay
        too, with one exception: with clipped eigenvalues, a state that is too slow for its step
        size gets a smaller one.

        Args:
            system: a system with the shapes, directions and `conj_sym` of `system()`.

        Returns:
            The layer with new parameters.

        Raises:
            ValueError: if the system does not fit the layer, or if eigenvalues are clipped and a
                changed state has `|lam| >= 1`.
        """
        before = self.system()
        check_replacement("S5.with_system", before, system)
        same_lam, same_B = unchanged_states(before, self._exact_system(), system)
        lam, B = np.asarray(system.lam, complex), np.asarray(system.B, complex)
        step = np.exp(np.asarray(self.log_step, float))
        parameters = functools.partial(
            continuous_parameters,
            self.discretize,
            lam,
            B,
            own=self._checked()._continuous(1.0)[0],
            own_step=step,
            same=same_lam,
        )
        Lambda, continuous_B = parameters(step)
        if self.clip_eigenvalues:
            check_stable("S5.with_system, with clip_eigenvalues", lam[~same_lam])
            # The margin of 0.1 % covers the rounding of the parameters to float32.
            shorter = np.minimum(1, Lambda.real / (1.001 * LARGEST_REAL_PART))
            step = np.where(same_lam, step, step * shorter)
            Lambda, continuous_B = parameters(step)
        return self._with_outputs(
            system,
            Lambda_re=update_changed(same_lam, self.Lambda_re, Lambda.real),
            Lambda_im=update_changed(same_lam, self.Lambda_im, Lambda.imag),
            B=jnp.where(same_B[:, None, None], self.B, self._pair(continuous_B)),
            log_step=update_changed(same_lam, self.log_step, np.log(step)),
        )
