"""The recurrence of a streaming cell: a discretized system as real arrays.

Complex numbers of `P` states are real arrays of `2 P`: all real parts first, then all imaginary
parts. One step uses real arithmetic only.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from lastax._typing import Array, Scalar
from lastax.ssm._compensated import RecurrentState, advance
from lastax.ssm._convolution import steps_per_chunk
from lastax.ssm._powers import SplitComplex, double_word_power, multiply, power_tables
from lastax.ssm._recurrence import scan_split
from lastax.ssm._scan_methods import ScanMethod, join_halves, split_halves
from lastax.ssm._step_sizes import StepSizes
from lastax.ssm._varying_scan import varying_scan


class Recurrence(eqx.Module):
    """A unidirectional system of `H` inputs and outputs, as in `lastax.System`.

    `x_k = lam x_{k-1} + B u_k` and `y_k = C x_k + D u_k`. The real arrays `B` and `C` contain the
    imaginary parts, and `C` contains the factor 2 of conjugate pairs.

    Attributes:
        lam_re: real parts of the eigenvalues, shape `(P,)`.
        lam_im: imaginary parts of the eigenvalues, shape `(P,)`.
        B: input map `[Re B, Im B]`, shape `(H, 2 P)`, for the product `u @ B`.
        C: output map `[s Re C, -s Im C]`, shape `(2 P, H)`, for the product `x @ C`.
        D: feedthrough, shape `(H,)` for a diagonal matrix, or `(H, H)` for the product `u @ D`.
        compensated: carry the rounding errors of the states along.
        scan_method: algorithm of `chunk`; None chooses by device and length.
        step_sizes: how `lam` and `B` depend on the step size; None if that is not known.
    """

    lam_re: Float[Array, " P"]
    lam_im: Float[Array, " P"]
    B: Float[Array, "H Q"] | Float[Array, " Q"]
    C: Float[Array, "Q H"] | Float[Array, " Q"]
    D: Float[Array, " H"] | Float[Array, "H H"]
    compensated: bool = eqx.field(static=True, default=True)
    scan_method: ScanMethod | None = eqx.field(static=True, default=None)
    step_sizes: StepSizes | None = None

    def init(self) -> RecurrentState:
        """The zero state."""
        zeros = jnp.zeros(2 * self.lam_re.shape[0], self.lam_re.dtype)
        return RecurrentState(zeros, zeros if self.compensated else None)

    def drive(self, u: Float[Array, " H"]) -> Float[Array, " Q"]:
        """The driving input of the states, `B u`, shape `(2 P,)`."""
        return u @ self.B

    def observe(self, x: Float[Array, " Q"]) -> Float[Array, " H"]:
        """The part of the output that depends on the states, `C x`, shape `(H,)`."""
        return x @ self.C

    def feedthrough(self, u: Float[Array, " H"]) -> Float[Array, " H"]:
        """The part of the output that depends on the current input only, `D u`, shape `(H,)`."""
        return u @ self.D if self.D.ndim == 2 else u * self.D

    def step(
        self, state: RecurrentState, u: Float[Array, " H"], step_rescale: Scalar | None = None
    ) -> tuple[RecurrentState, Float[Array, " H"]]:
        """The next state, and the output of one step, shape `(H,)`."""
        lam, driven = (self.lam_re, self.lam_im), self.drive(u)
        if step_rescale is not None:
            lam, driven = self._resampled(step_rescale, driven)
        zeros = jnp.zeros_like(self.lam_re)
        state = advance((lam, (zeros, zeros)), state, driven)
        return state, self.observe(state.value) + self.feedthrough(u)

    def chunk(
        self,
        state: RecurrentState,
        u: Float[Array, "L H"],
        reset: Bool[Array, " L"] | None = None,
        step_rescale: Float[Array, " L"] | None = None,
    ) -> tuple[RecurrentState, Float[Array, "L H"]]:
        """The last state, and the outputs of `L >= 1` steps.

        The states are the sum of two parts: the response to `u` from the zero state, by a parallel
        scan, and powers of `lam` times the given state. Only the second part reaches across chunks,
        and double-word arithmetic keeps it precise.

        Args:
            state: state before the chunk.
            u: input, shape `(L, H)`.
            reset: true for each step before which the state becomes zero, shape `(L,)`.
            step_rescale: factor on the step sizes at each step, shape `(L,)`. The state is then
                not compensated within the chunk.

        Returns:
            The state after the chunk, and the output, shape `(L, H)`.
        """
        length, lam = u.shape[0], jax.lax.complex(self.lam_re, self.lam_im)
        driven = jax.vmap(self.drive)(u)
        if step_rescale is not None:
            factors, driven = jax.vmap(self._resampled)(step_rescale, driven)
            states = _split_scan(jax.lax.complex(*factors), driven, reset, state.value)
            y = jax.vmap(self.observe)(states) + jax.vmap(self.feedthrough)(u)
            return RecurrentState(states[-1], self.init().error), y
        carried = _powers_times(lam, split_halves(state.value), length)
        if reset is None:
            states = scan_split(lam, driven, (False,), method=self.scan_method)[0]
        else:
            states = _split_scan(jnp.broadcast_to(lam, (length, *lam.shape)), driven, reset)
            cleared = jnp.cumsum(reset) > 0
            carried = jnp.where(cleared[:, None], 0, carried)
            state = jax.tree.map(lambda leaf: jnp.where(cleared[-1], 0, leaf), state)
        last = advance(double_word_power(lam, length), state, states[-1])
        y = jax.vmap(self.observe)(states + carried) + jax.vmap(self.feedthrough)(u)
        return last, y

    def _resampled(self, step_rescale: Scalar, driven: Array) -> tuple[SplitComplex, Array]:
        """The eigenvalues and the driving input for another step size."""
        assert self.step_sizes is not None
        lam, factor = self.step_sizes.at(step_rescale)
        return lam, join_halves(multiply(factor, split_halves(driven)))


def _split_scan(
    lam: Array, b: Array, reset: Array | None, initial: Array | None = None
) -> Float[Array, "L Q"]:
    """`varying_scan` of complex factors, with split real and imaginary parts."""
    start = None if initial is None else jax.lax.complex(*split_halves(initial))
    states = varying_scan(lam, jax.lax.complex(*split_halves(b)), initial=start, reset=reset)
    return join_halves((states.real, states.imag))


def _powers_times(lam: Array, x: tuple[Array, Array], length: int) -> Float[Array, "L Q"]:
    """`lam^k x` for `k` from 1 to `length`, with split real and imaginary parts."""
    steps = steps_per_chunk(length)
    inner, outer = power_tables(lam, steps, -(-length // steps))
    scaled = (lam * jax.lax.complex(*x))[:, None] * outer
    powers = inner.T[None] * scaled.T[:, None]
    states = powers.reshape(powers.shape[0] * steps, lam.shape[0])[:length]
    return join_halves((states.real, states.imag))
