"""The S4D layer: one diagonal system with one input and one output per channel.

Gu et al., NeurIPS 2022. Bidirectional layers add a backward recurrence with its own `C`, and both
directions include the current step, as in S5.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from lastax._typing import Array, PRNGKeyArray, Scalar
from lastax.nn._checks import check_sizes
from lastax.nn._diagonal_layer import DiagonalLayer, check_stable, continuous_parameters
from lastax.nn._initialization import as_complex, as_pair, initialize_log_step
from lastax.nn._s4d_eigenvalues import Eigenvalues, s4d_legs
from lastax.ssm._discretization import Discretization, discretize_zoh
from lastax.ssm._multi_siso import MultiSISO, kept_counts
from lastax.ssm._replacement import check_replacement, unchanged_states, update_changed
from lastax.ssm._scan_methods import ScanMethod
from lastax.ssm._step_sizes import StepSizes, step_sizes_of
from lastax.ssm._system import kept_indices, take_states


class S4D(DiagonalLayer):
    """`H` continuous diagonal systems, one per channel, with `S` stored states in total.

    Arrays of states are flat and start with the states of channel 0. Channels can have different
    numbers of states after pruning. Complex parameters are real pairs on the last axis.

    Attributes:
        log_decay: `log(-Re(Lambda))`, which keeps real parts negative, shape `(S,)`.
        Lambda_im: imaginary parts of the eigenvalues, shape `(S,)`.
        B: input weights, shape `(S, 2)`; None if they are 1 and not trained.
        C: output weights, shape `(S, 2)`.
        C_reverse: output weights of the backward recurrence, shape `(S, 2)`; None if the layer is
            unidirectional.
        D: feedthrough, shape `(H,)`.
        log_step: logarithms of the step sizes, shape `(H,)`.
        counts: number of states per channel; `H` integers with sum `S`.
        conj_sym: each stored state represents a conjugate pair.
        discretize: discretization rule.
        scan_method: algorithm of the recurrence; None chooses by device and length.
    """

    log_decay: Float[Array, " S"]
    Lambda_im: Float[Array, " S"]
    B: Float[Array, "S 2"] | None
    C: Float[Array, "S 2"]
    C_reverse: Float[Array, "S 2"] | None
    D: Float[Array, " H"]
    log_step: Float[Array, " H"]
    counts: tuple[int, ...] = eqx.field(static=True)
    conj_sym: bool = eqx.field(static=True, default=True)
    discretize: Discretization = eqx.field(static=True, default=discretize_zoh)
    scan_method: ScanMethod | None = eqx.field(static=True, default=None)

    @classmethod
    def initialize(
        cls,
        channels: int,
        states: int,
        *,
        key: PRNGKeyArray,
        eigenvalues: Callable[[int], Eigenvalues] | None = None,
        train_B: bool = True,
        bidirectional: bool = False,
        discretize: Discretization = discretize_zoh,
        step_range: tuple[float, float] = (1e-3, 1e-1),
        scan_method: ScanMethod | None = None,
    ) -> S4D:
        """Draw a layer.

        Step sizes are log-uniform, `C` is complex normal of variance 1 and `D` is standard normal.

        Args:
            channels: number of channels `H`.
            states: number of stored states (conjugate pairs) per channel.
            key: random key.
            eigenvalues: initial eigenvalues and `B` of a channel, for example an entry of
                `S4D_EIGENVALUES`; None for `s4d_legs`.
            train_B: make `B` a parameter. If false, `B` is 1, and its initial value is a factor of
                the initial `C`.
            bidirectional: add a backward recurrence.
            discretize: discretization rule.
            step_range: smallest and largest step size.
            scan_method: algorithm of the recurrence; None chooses by device and length.

        Returns:
            The layer.

        Raises:
            ValueError: if `channels` or `states` is not positive, or unless
                `0 < step_range[0] <= step_range[1]`.
        """
        check_sizes("S4D.initialize", channels=channels, states=states)
        C_key, C_reverse_key, D_key, step_key = jax.random.split(key, 4)
        Lambda, B = (eigenvalues or s4d_legs)(states)
        size = channels * states

        def draw_C(key: PRNGKeyArray) -> Array:
            C = jax.random.normal(key, (size, 2)) * 0.5**0.5
            return C if train_B else as_pair(as_complex(C) * jnp.asarray(np.tile(B, channels)))

        return cls(
            log_decay=jnp.asarray(np.tile(np.log(-Lambda.real), channels), jnp.float32),
            Lambda_im=jnp.asarray(np.tile(Lambda.imag, channels), jnp.float32),
            B=as_pair(jnp.asarray(np.tile(B, channels), jnp.complex64)) if train_B else None,
            C=draw_C(C_key),
            C_reverse=draw_C(C_reverse_key) if bidirectional else None,
            D=jax.random.normal(D_key, (channels,)),
            log_step=initialize_log_step(
                channels, minimum=step_range[0], maximum=step_range[1], key=step_key
            ),
            counts=(states,) * channels,
            discretize=discretize,
            scan_method=scan_method,
        )

    def system(self, step_rescale: Scalar = 1.0) -> MultiSISO:
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
        C = as_complex(layer.C)
        continuous_B = jnp.ones_like(C) if layer.B is None else as_complex(layer.B)
        lam, B = self.discretize(Lambda, continuous_B[:, None], step)
        reverse = None if layer.C_reverse is None else as_complex(layer.C_reverse)
        return MultiSISO(
            lam, B[:, 0], C, reverse, layer.D, self.counts, self.conj_sym, self.scan_method
        )

    def step_sizes(self, step_rescale: Scalar = 1.0) -> StepSizes | None:
        """How the system depends on the step size; None for other discretization rules."""
        Lambda, step = self._checked(step_rescale)._continuous(step_rescale)
        return step_sizes_of(self.discretize, Lambda * step)

    def _continuous(self, step_rescale: Scalar) -> tuple[Array, Array]:
        """Eigenvalues `Lambda` and step sizes of all states."""
        channel = np.repeat(np.arange(len(self.counts)), self.counts)
        step = take_states(step_rescale * jnp.exp(self.log_step), channel)
        return jax.lax.complex(-jnp.exp(self.log_decay), self.Lambda_im), step

    def keep(self, mask: Bool[np.ndarray, " S"]) -> S4D:
        """Remove states.

        Args:
            mask: true for each state to keep, shape `(S,)`.

        Returns:
            A smaller layer. Its states keep their order.
        """
        index = kept_indices(mask, self._checked().log_decay.shape[0])
        return dataclasses.replace(
            self,
            log_decay=take_states(self.log_decay, index),
            Lambda_im=take_states(self.Lambda_im, index),
            B=None if self.B is None else take_states(self.B, index),
            C=take_states(self.C, index),
            C_reverse=None if self.C_reverse is None else take_states(self.C_reverse, index),
            counts=kept_counts(self.counts, mask),
        )

    def with_system(self, system: MultiSISO) -> S4D:
        """Set the parameters such that `system()` computes the same outputs as the given system.

        Step sizes stay, and parameters of unchanged eigenvalues and entries of `B` stay bitwise
        equal. If `B` is not trained, its change becomes a factor of `C`.

        Args:
            system: a system with the shapes, directions and `conj_sym` of `system()`.

        Returns:
            The layer with new parameters.

        Raises:
            ValueError: if the system does not fit the layer, its numbers of states per channel
                differ, or a state has `|lam| >= 1`.
        """
        before = self.system()
        check_replacement("S4D.with_system", before, system)
        if system.counts != self.counts:
            raise ValueError(
                f"S4D.with_system: the layer has {self.counts} states per channel, but the system "
                f"has {system.counts}"
            )
        exact = self._exact_system()
        same_lam, same_B = unchanged_states(before, exact, system)
        # In float32, an eigenvalue of the layer may have rounded to the unit circle.
        lam = np.where(same_lam, exact.lam, np.asarray(system.lam, complex))
        check_stable("S4D.with_system", lam)
        step = np.exp(np.asarray(self.log_step, float))[system.channel]
        column = np.asarray(system.B, complex)[:, None]
        own = self._checked()._continuous(1.0)[0]
        Lambda, column = continuous_parameters(
            self.discretize, lam, column, step, own=own, own_step=step, same=same_lam
        )
        B = column[:, 0]
        factor = np.ones_like(B) if self.B is not None else np.where(same_B, 1, B)
        return self._with_outputs(
            system,
            factor,
            log_decay=update_changed(same_lam, self.log_decay, np.log(-Lambda.real)),
            Lambda_im=update_changed(same_lam, self.Lambda_im, Lambda.imag),
            B=None if self.B is None else jnp.where(same_B[:, None], self.B, self._pair(B)),
        )
