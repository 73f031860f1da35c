"""The recurrence of scalar channels in a streaming cell, and the choice between both classes."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Complex, Float

from lastax._typing import Array
from lastax.nn._recurrence import Recurrence
from lastax.ssm._compensated import RecurrentState, advance
from lastax.ssm._convolution import channel_kernels, convolve, steps_per_chunk
from lastax.ssm._multi_siso import AnySystem, MultiSISO
from lastax.ssm._powers import double_word_power, power, power_tables
from lastax.ssm._scan_methods import join_halves, split_halves
from lastax.ssm._step_sizes import StepSizes


class ChannelRecurrence(Recurrence):
    """Unidirectional systems of one input and one output, as in `lastax.MultiSISO`.

    The states are ordered by channel. Channels can have different numbers of states.

    Attributes:
        B: input weights `[Re B, Im B]`, shape `(2 S,)`.
        C: output weights `[s Re C, -s Im C]`, shape `(2 S,)`.
        counts: number of states of each of the `H` channels.
    """

    counts: tuple[int, ...] = eqx.field(static=True, default=())

    def drive(self, u: Float[Array, " H"]) -> Float[Array, " Q"]:
        """The driving input of the states, `B u`, shape `(2 S,)`."""
        return jnp.tile(u[self._channel], 2) * self.B

    def observe(self, x: Float[Array, " Q"]) -> Float[Array, " H"]:
        """The part of the output that depends on the states, shape `(H,)`."""
        re, im = split_halves(x * self.C)
        zeros = jnp.zeros(len(self.counts), x.dtype)
        return zeros.at[self._channel].add(re + im, indices_are_sorted=True)

    def chunk(
        self,
        state: RecurrentState,
        u: Float[Array, "L H"],
        reset: Bool[Array, " L"] | None = None,
        step_rescale: Float[Array, " L"] | None = None,
    ) -> tuple[RecurrentState, Float[Array, "L H"]]:
        """The last state, and the outputs of `L >= 1` steps, by convolution as in a whole sequence.

        With `reset` or `step_rescale` the system is not the same at every step, and the states are
        computed by a parallel scan. Arguments and results are those of `Recurrence.chunk`.
        """
        if reset is not None or step_rescale is not None:
            return super().chunk(state, u, reset, step_rescale)
        length, lam = u.shape[0], jax.lax.complex(self.lam_re, self.lam_im)
        B, C, x = (jax.lax.complex(*split_halves(a)) for a in (self.B, self.C, state.value))
        # `C` has the opposite sign in its imaginary part.
        C = C.conj()
        kernel = channel_kernels(lam, C * B, self.counts, length)
        carried = channel_kernels(lam, C * lam * x, self.counts, length)
        y = convolve(u, kernel) + carried.T + jax.vmap(self.feedthrough)(u)
        end = _last_state(lam, B, u, self._channel)
        end = join_halves((end.real, end.imag))
        return advance(double_word_power(lam, length), state, end), y

    @property
    def _channel(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.counts)), self.counts)


def make_recurrence(
    system: AnySystem, step_sizes: StepSizes | None = None, *, compensated: bool = True
) -> Recurrence:
    """Split a unidirectional system into real arrays.

    Args:
        system: the system that a layer applies.
        step_sizes: how it depends on the step size, if that is known.
        compensated: carry the rounding errors of the states along.

    Returns:
        The recurrence, with the same numbers.
    """
    s = 2 if system.conj_sym else 1
    lam, B, C, D = (jnp.asarray(a) for a in (system.lam, system.B, system.C, system.D))
    C_split = jnp.concatenate([s * C.real, -s * C.imag], axis=-1)
    B_split = jnp.concatenate([B.real, B.imag])
    if isinstance(system, MultiSISO):
        arrays = lam.real, lam.imag, B_split, C_split, D
        return ChannelRecurrence(
            *arrays, compensated, system.scan_method, step_sizes, system.counts
        )
    arrays = lam.real, lam.imag, B_split.T, C_split.T, D.T
    return Recurrence(*arrays, compensated, system.scan_method, step_sizes)


def _last_state(
    lam: Complex[Array, " S"], B: Complex[Array, " S"], u: Float[Array, "L H"], channel: np.ndarray
) -> Complex[Array, " S"]:
    """The state after the steps of `u`, starting from zero, piece by piece."""
    steps = steps_per_chunk(len(u))
    pieces = -(-len(u) // steps)
    powers = power_tables(lam, steps, 1)[0][:, ::-1]
    padded = jnp.pad(u, ((pieces * steps - len(u), 0), (0, 0))).reshape(pieces, steps, u.shape[1])
    factor = power(lam, steps)

    def follow(state: Array, piece: Array) -> tuple[Array, None]:
        return factor * state + jnp.sum(powers * piece.T[channel], axis=1), None

    return B * jax.lax.scan(follow, jnp.zeros_like(lam), padded)[0]
