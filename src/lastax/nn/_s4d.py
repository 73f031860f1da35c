"""The S4D layer: one single-input single-output diagonal system a channel. Gu et al., NeurIPS 2022.

Bidirectional layers add the answer of a second `C` run backward from the last step; both directions
see the current input, as in S5.
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
from lastax.nn._initialization import as_complex, as_pair, initialize_log_step
from lastax.nn._s4d_eigenvalues import Eigenvalues, s4d_legs
from lastax.ssm._discretization import discretize_zoh, inverse_of
from lastax.ssm._multi_siso import MultiSISO, kept_counts
from lastax.ssm._replacement import check_replacement, unchanged_states, update_changed
from lastax.ssm._scan_methods import ScanMethod
from lastax.ssm._system import kept_indices


class S4D(eqx.Module):
    """`H` scalar systems with a step size each and, at first, as many states each.

    The arrays of the states are flat, those of channel 0 first; `counts` says how many each
    channel has. Real parts are stored as the logarithm of their negative, so that they stay
    negative. Complex parameters are real pairs on the last axis. `B` is None where it is 1 and
    not trained. Static facts are those of `S5`.
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
    discretize: Callable = eqx.field(static=True, default=discretize_zoh)
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
        discretize: Callable = discretize_zoh,
        step_range: tuple[float, float] = (1e-3, 1e-1),
        scan_method: ScanMethod | None = None,
    ) -> S4D:
        """Draw a layer of `channels` channels with `states` stored states (conjugate pairs) each.

        `eigenvalues` gives them, one of `S4D_EIGENVALUES`; left out, `legs`. Step sizes are
        log-uniform in `step_range`, `C` complex normal of unit variance, `D` standard normal. With
        `train_B` off, `B` stays what it starts from: it is 1, or becomes part of `C`.
        """
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
        """The discretized system, with all step sizes times `step_rescale`."""
        step = self._steps(step_rescale)
        Lambda = jax.lax.complex(-jnp.exp(self.log_decay), self.Lambda_im)
        lam, B = self.discretize(Lambda, self._continuous_B()[:, None], step)
        reverse = None if self.C_reverse is None else as_complex(self.C_reverse)
        C = as_complex(self.C)
        return MultiSISO(
            lam, B[:, 0], C, reverse, self.D, self.counts, self.conj_sym, self.scan_method
        )

    def __call__(
        self, u: Float[Array, "L H"], *, step_rescale: Scalar = 1.0
    ) -> Float[Array, "L H"]:
        """Apply the layer to one sequence, from rest."""
        return self.system(step_rescale)(u)

    def keep(self, mask: Bool[np.ndarray, " S"]) -> S4D:
        """A smaller layer: only the states where `mask` holds are left, in every array."""
        index = kept_indices(mask, self.log_decay.shape[0])
        return dataclasses.replace(
            self,
            log_decay=self.log_decay[index],
            Lambda_im=self.Lambda_im[index],
            B=None if self.B is None else self.B[index],
            C=self.C[index],
            C_reverse=None if self.C_reverse is None else self.C_reverse[index],
            counts=kept_counts(self.counts, mask),
        )

    def with_system(self, system: MultiSISO) -> S4D:
        """The layer, at the same step sizes, whose system is the given one.

        What the given one leaves as it is keeps its parameters to the bit. Where `B` is 1 and not
        trained, what it would have to be goes into `C`.

        Raises:
            ValueError: if states are in other channels, or one has `|lam| >= 1`.
        """
        own = self.system()
        check_replacement("S4D.with_system", own, system)
        if system.counts != self.counts:
            raise ValueError("S4D.with_system: the states are not in the channels of the layer")
        lam = np.asarray(system.lam, complex)
        if np.any(np.abs(lam) >= 1):
            raise ValueError("S4D.with_system: a state with |lam| >= 1 has no real part below 0")
        same_lam, same_B = unchanged_states(own, system)
        step = np.exp(np.asarray(self.log_step, float))[system.channel]
        with jax.enable_x64(True):
            column = np.asarray(system.B, complex)[:, None]
            found = inverse_of(self.discretize)(*map(jnp.asarray, (lam, column, step)))
            Lambda, B = np.asarray(found[0]), np.asarray(found[1])[:, 0]
        factor = np.ones_like(B) if self.B is not None else np.where(same_B, 1, B)

        def pair(z: np.ndarray) -> Array:
            return as_pair(jnp.asarray(z, jnp.result_type(self.C, 1j)))

        reverse = system.C_reverse
        return dataclasses.replace(
            self,
            log_decay=update_changed(same_lam, self.log_decay, np.log(-Lambda.real)),
            Lambda_im=update_changed(same_lam, self.Lambda_im, Lambda.imag),
            B=None if self.B is None else jnp.where(same_B[:, None], self.B, pair(B)),
            C=pair(factor * np.asarray(system.C)),
            C_reverse=None if reverse is None else pair(factor * np.asarray(reverse)),
            D=jnp.asarray(np.asarray(system.D), self.D.dtype),
        )

    def _steps(self, step_rescale: Scalar) -> Array:
        channel = np.repeat(np.arange(len(self.counts)), self.counts)
        return step_rescale * jnp.exp(self.log_step)[channel]

    def _continuous_B(self) -> Array:
        if self.B is not None:
            return as_complex(self.B)
        return jnp.ones(self.C.shape[0], jnp.result_type(self.C, 1j))
