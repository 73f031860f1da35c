"""The LRU layer: a diagonal recurrence in discrete time. Orvieto et al., ICML 2023."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from lastax._typing import Array, PRNGKeyArray, Scalar
from lastax.nn._checks import check_sizes
from lastax.nn._diagonal_layer import SMALLEST_LAM, DiagonalLayer, check_stable
from lastax.nn._initialization import as_complex
from lastax.ssm._replacement import check_replacement, unchanged_states, update_changed
from lastax.ssm._scan_methods import ScanMethod
from lastax.ssm._step_sizes import StepSizes
from lastax.ssm._system import System, kept_indices, take_states


class LRU(DiagonalLayer):
    """One discrete diagonal system with `P` complex states, `H` inputs and `H` outputs.

    `lam = exp(-exp(nu_log) + i exp(theta_log))`, so `|lam| < 1` always holds. States do not
    represent conjugate pairs. Complex parameters are real pairs on the last axis.

    Attributes:
        nu_log: logarithms of the decay rates per step, shape `(P,)`.
        theta_log: logarithms of the angles in radians per step, shape `(P,)`.
        gamma_log: logarithms of factors on `B`, initially `sqrt(1 - |lam|^2)`, shape `(P,)`.
        B: input map before scaling, shape `(P, H, 2)`.
        C: output map, shape `(H, P, 2)`.
        C_reverse: output map of the backward recurrence, shape `(H, P, 2)`; None if the layer is
            unidirectional.
        D: feedthrough, shape `(H,)` for a diagonal matrix or `(H, H)`.
        scan_method: algorithm of the recurrence; None chooses by device and length.
    """

    nu_log: Float[Array, " P"]
    theta_log: Float[Array, " P"]
    gamma_log: Float[Array, " P"]
    B: Float[Array, "P H 2"]
    C: Float[Array, "H P 2"]
    C_reverse: Float[Array, "H P 2"] | None
    D: Float[Array, " H"] | Float[Array, "H H"]
    scan_method: ScanMethod | None = eqx.field(static=True, default=None)

    @classmethod
    def initialize(
        cls,
        channels: int,
        states: int,
        *,
        key: PRNGKeyArray,
        radius_range: tuple[float, float] = (0.9, 0.999),
        phase_maximum: float = 6.28,
        bidirectional: bool = False,
        scan_method: ScanMethod | None = None,
    ) -> LRU:
        """Draw a layer with eigenvalues uniform in a sector of a ring.

        `|lam|^2` is uniform between the squares of `radius_range`. The parts of `B` are normal of
        standard deviation `1/sqrt(2 H)`, those of `C` of `1/sqrt(P)`, and `D` is standard normal.

        Args:
            channels: number of inputs and outputs `H`.
            states: number of states `P`.
            key: random key.
            radius_range: smallest and largest `|lam|`.
            phase_maximum: largest angle of `lam`, in radians. Angles are uniform from 0.
            bidirectional: add a backward recurrence.
            scan_method: algorithm of the recurrence; None chooses by device and length.

        Returns:
            The layer.

        Raises:
            ValueError: if `channels` or `states` is not positive, or unless
                `0 < radius_range[0] < radius_range[1] < 1` and `phase_maximum > 0`.
        """
        check_sizes("LRU.initialize", channels=channels, states=states)
        low, high = radius_range
        if not (0 < low < high < 1 and phase_maximum > 0):
            raise ValueError(
                "LRU.initialize: radius_range must ascend within (0, 1) and phase_maximum must be "
                f"positive, got {radius_range} and {phase_maximum}"
            )
        radius_key, phase_key, B_key, C_key, C_reverse_key, D_key = jax.random.split(key, 6)
        tiny = np.finfo(np.float32).tiny
        squared = jax.random.uniform(radius_key, (states,), minval=low**2, maxval=high**2)
        phase = phase_maximum * jax.random.uniform(phase_key, (states,), minval=tiny)

        def draw_C(key: PRNGKeyArray) -> Array:
            return jax.random.normal(key, (channels, states, 2)) * states**-0.5

        return cls(
            nu_log=jnp.log(-0.5 * jnp.log(squared)),
            theta_log=jnp.log(phase),
            gamma_log=0.5 * jnp.log1p(-squared),
            B=jax.random.normal(B_key, (states, channels, 2)) * (2 * channels) ** -0.5,
            C=draw_C(C_key),
            C_reverse=draw_C(C_reverse_key) if bidirectional else None,
            D=jax.random.normal(D_key, (channels,)),
            scan_method=scan_method,
        )

    def system(self, step_rescale: Scalar = 1.0) -> System:
        """The discrete system, resampled to steps of `step_rescale` times the length.

        The layer is interpreted as the zero-order hold of a continuous system. With
        `r = step_rescale`, `lam` becomes `lam^r` and `B` is multiplied by
        `(lam^r - 1) / (lam - 1)`.

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
        z = jax.lax.complex(-jnp.exp(layer.nu_log), jnp.exp(layer.theta_log))
        held = jnp.expm1(step_rescale * z) / jnp.expm1(z)
        B = (held * jnp.exp(layer.gamma_log))[:, None] * as_complex(layer.B)
        return System(
            lam=jnp.exp(step_rescale * z),
            B=B,
            C=as_complex(layer.C),
            C_reverse=None if layer.C_reverse is None else as_complex(layer.C_reverse),
            D=layer.D,
            conj_sym=False,
            scan_method=self.scan_method,
        )

    def step_sizes(self, step_rescale: Scalar = 1.0) -> StepSizes:
        """How the system depends on the step size."""
        layer = self._checked()
        return StepSizes(
            -step_rescale * jnp.exp(layer.nu_log), step_rescale * jnp.exp(layer.theta_log)
        )

    def keep(self, mask: Bool[np.ndarray, " P"]) -> LRU:
        """Remove states.

        Args:
            mask: true for each state to keep, shape `(P,)`.

        Returns:
            A smaller layer. Its states keep their order.
        """
        index = kept_indices(mask, self._checked().nu_log.shape[0])
        return dataclasses.replace(
            self,
            nu_log=take_states(self.nu_log, index),
            theta_log=take_states(self.theta_log, index),
            gamma_log=take_states(self.gamma_log, index),
            B=take_states(self.B, index),
            C=take_states(self.C, index, axis=1),
            C_reverse=None
            if self.C_reverse is None
            else take_states(self.C_reverse, index, axis=1),
        )

    def with_system(self, system: System) -> LRU:
        """Set the parameters such that `system()` returns the given system.

        Parameters of unchanged eigenvalues and rows of `B` stay bitwise equal.

        Args:
            system: a system with the shapes, directions and `conj_sym` of `system()`.

        Returns:
            The layer with new parameters.

        Raises:
            ValueError: if the system does not fit the layer, or a state has `|lam| >= 1`.
        """
        own = self.system()
        check_replacement("LRU.with_system", own, system)
        exact = self._exact_system()
        same_lam, same_B = unchanged_states(own, exact, system)
        # In float32, an eigenvalue of the layer may have rounded to the unit circle.
        lam = np.where(same_lam, exact.lam, np.asarray(system.lam, complex))
        check_stable("LRU.with_system", lam)
        modulus = np.maximum(np.abs(lam), SMALLEST_LAM)
        # The logarithm needs a positive angle.
        angle = np.angle(lam) % (2 * np.pi)
        angle = np.where(angle == 0, 2 * np.pi, angle)
        gamma = np.sqrt((1 - modulus) * (1 + modulus))
        gamma = np.where(same_B, np.exp(np.asarray(self.gamma_log, float)), gamma)
        return self._with_outputs(
            system,
            nu_log=update_changed(same_lam, self.nu_log, np.log(-np.log(modulus))),
            theta_log=update_changed(same_lam, self.theta_log, np.log(angle)),
            gamma_log=update_changed(same_B, self.gamma_log, np.log(gamma)),
            B=jnp.where(
                same_B[:, None, None], self.B, self._pair(np.asarray(system.B) / gamma[:, None])
            ),
        )
