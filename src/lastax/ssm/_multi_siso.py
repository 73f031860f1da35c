"""A system of scalar channels, each with states of its own."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.export import is_symbolic_dim
from jaxtyping import Bool, Complex, Float, Int

from lastax._typing import Array
from lastax.ssm._convolution import channel_kernels, convolve, response_in_pieces
from lastax.ssm._precision import at_least_float32, in_dtype_of
from lastax.ssm._recurrence import diagonal_scan, diagonal_step, state_after
from lastax.ssm._scan_methods import ScanMethod
from lastax.ssm._system import System, kept_indices, safe_abs, take_states


class MultiSISO(eqx.Module):
    """`H` single-input single-output diagonal systems, unidirectional or bidirectional.

    State `i` belongs to one channel `h`: `x_k = lam_i x_{k-1} + B_i u_{h,k}`. The output `y_{h,k}`
    is `s Re(sum_i C_i x_i) + D_h u_{h,k}`, summed over the states of channel `h`, with `s` and
    `C_reverse` as in `System`. Channels may have different numbers of states, including none, so
    that a removed state leaves no padding behind.

    Arrays are JAX or NumPy arrays, and inputs can have half precision, as in `System`. The states
    are ordered by channel.

    Attributes:
        lam: eigenvalues, shape `(S,)`.
        B: input weights, shape `(S,)`.
        C: output weights, shape `(S,)`.
        C_reverse: output weights of the backward states, shape `(S,)`, or None if the system is
            unidirectional.
        D: feedthrough of each channel, shape `(H,)`.
        counts: number of states of each of the `H` channels.
        conj_sym: whether each stored state stands for a conjugate pair.
        scan_method: method of the recurrence of `run`, as in `diagonal_scan`.
    """

    lam: Complex[Array, " S"]
    B: Complex[Array, " S"]
    C: Complex[Array, " S"]
    C_reverse: Complex[Array, " S"] | None
    D: Float[Array, " H"]
    counts: tuple[int, ...] = eqx.field(static=True)
    conj_sym: bool = eqx.field(static=True, default=True)
    scan_method: ScanMethod | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        """Check the numbers of channels and states."""
        if len(self.counts) != self.D.shape[0] or sum(self.counts) != self.lam.shape[0]:
            raise ValueError(
                f"MultiSISO: counts has {sum(self.counts)} states in {len(self.counts)} channels, "
                f"but the arrays have {self.lam.shape[0]} states and {self.D.shape[0]} channels"
            )

    @property
    def states(self) -> int:
        """Number of stored states `S` of all channels. A conjugate pair counts as one."""
        return self.lam.shape[0]

    @property
    def channel(self) -> Int[np.ndarray, " S"]:
        """The channel of each state, shape `(S,)`, ascending."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @property
    def input_norms(self) -> Float[Array, " S"]:
        """`|B_i|` of each state, shape `(S,)`."""
        return safe_abs(self.B)

    @property
    def output_norms(self) -> tuple[Float[Array, " S"], ...]:
        """`|C_i|` of each state, shape `(S,)`, for each direction."""
        return tuple(safe_abs(C) for C in (self.C, self.C_reverse) if C is not None)

    def keep(self, mask: Bool[np.ndarray, " S"]) -> MultiSISO:
        """The system of the states where `mask` is true. A channel may lose all of its states.

        Raises:
            ValueError: unless `mask` is a boolean array of shape `(S,)`.
        """
        index = kept_indices(mask, self.states)
        return dataclasses.replace(
            self,
            lam=take_states(self.lam, index),
            B=take_states(self.B, index),
            C=take_states(self.C, index),
            C_reverse=None if self.C_reverse is None else take_states(self.C_reverse, index),
            counts=kept_counts(self.counts, mask),
        )

    def __call__(self, u: Float[Array, "L H"]) -> Float[Array, "L H"]:
        """The output `(L, H)` for the input `u` from the zero state, computed by convolution.

        With a symbolic length, as in `jax.export`, it is computed in pieces.
        """
        active = np.flatnonzero(self.counts)
        own, u = u, at_least_float32(jnp.asarray(u))
        y = self.D[None, :] * u
        if is_symbolic_dim(u.shape[0]):
            y = y + self._in_pieces(u, self.C)
            if self.C_reverse is not None:
                y = y + self._in_pieces(u[::-1], self.C_reverse)[::-1]
        elif len(active) == len(self.counts):
            y = y + convolve(u, *self.kernels(u.shape[0]))
        elif len(active) > 0:
            kernels = (kernel[active] for kernel in self.kernels(u.shape[0]))
            y = y.at[:, active].add(convolve(u[:, active], *kernels))
        return in_dtype_of(y, own)

    def _in_pieces(self, u: Array, C: Array) -> Array:
        lam, B = jnp.asarray(self.lam), jnp.asarray(self.B)
        s = 2 if self.conj_sym else 1
        return response_in_pieces(lam, B, s * jnp.asarray(C), self.counts, u)

    def kernels(self, length: int) -> tuple[Float[Array, "H L"], ...]:
        """Impulse responses of all channels without `D`, shape `(H, length)`, for each direction.

        The kernel of the backward direction is ordered from the impulse backward in time.
        """
        s = 2 if self.conj_sym else 1
        lam, B = jnp.asarray(self.lam), jnp.asarray(self.B)
        return tuple(
            channel_kernels(lam, s * C * B, self.counts, length)
            for C in (self.C, self.C_reverse)
            if C is not None
        )

    def run(
        self,
        u: Float[Array, "L H"],
        initial: Complex[Array, " S"] | None = None,
        *,
        steps: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "L H"], Complex[Array, " S"]]:
        """The output of the forward recurrence from a given state.

        For a unidirectional system and a zero state it equals the result of a call. The backward
        part of a bidirectional system is not included.

        Args:
            u: input, shape `(L, H)`.
            initial: state before the first step, shape `(S,)`; zero by default.
            steps: number of steps before the last state; all by default.

        Returns:
            The output, shape `(L, H)`, and the last state, shape `(S,)`.
        """
        own, u = u, at_least_float32(jnp.asarray(u))
        states, last = diagonal_scan(
            jnp.asarray(self.lam), self._drive(u), initial=initial, method=self.scan_method
        )
        if steps is not None:
            last = state_after(steps, states, initial)
        return in_dtype_of(self._observe(states) + self.D[None, :] * u, own), last

    def step(
        self, state: Complex[Array, " S"], u: Float[Array, " H"]
    ) -> tuple[Complex[Array, " S"], Float[Array, " H"]]:
        """One step of `run`.

        Args:
            state: state before the step, shape `(S,)`.
            u: input of the step, shape `(H,)`.

        Returns:
            The next state, shape `(S,)`, and the output, shape `(H,)`.

        Raises:
            ValueError: if the system is bidirectional, since its output depends on later inputs.
        """
        if self.C_reverse is not None:
            raise ValueError(
                "MultiSISO.step: a bidirectional system needs the full sequence; call the system"
            )
        row = at_least_float32(u)[None, :]
        state = diagonal_step(jnp.asarray(self.lam), state, self._drive(row)[0])
        return state, in_dtype_of(self._observe(state[None, :])[0] + self.D * row[0], u)

    def _drive(self, u: Array) -> Array:
        return jnp.asarray(self.B)[None, :] * u[:, self.channel]

    def _observe(self, states: Array) -> Array:
        s = 2 if self.conj_sym else 1
        parts = s * (states * jnp.asarray(self.C)[None, :]).real
        zeros = jnp.zeros((states.shape[0], len(self.counts)), parts.dtype)
        return zeros.at[:, self.channel].add(parts, indices_are_sorted=True)


AnySystem = System | MultiSISO


def kept_counts(counts: tuple[int, ...], mask: Bool[np.ndarray, " S"]) -> tuple[int, ...]:
    """The number of states of each channel that `mask` keeps."""
    channel = np.repeat(np.arange(len(counts)), counts)
    kept = np.bincount(channel[np.asarray(mask)], minlength=len(counts))
    return tuple(int(count) for count in kept)


def subsystems(system: AnySystem) -> System:
    """A `System` with the same one-state subsystems as `system`.

    The states of a `MultiSISO` share neither inputs nor outputs. As one-state subsystems, they are
    the same as the states of a single-channel `System`.
    """
    if isinstance(system, System):
        return system
    reverse = system.C_reverse
    return System(
        lam=system.lam,
        B=system.B[:, None],
        C=system.C[None, :],
        C_reverse=None if reverse is None else reverse[None, :],
        D=system.D[:1],
        conj_sym=system.conj_sym,
        scan_method=system.scan_method,
    )


def channel_systems(system: MultiSISO) -> list[System]:
    """Each channel of `system` as a separate `System` with one input and one output."""
    edges = np.cumsum((0, *system.counts))
    parts = []
    for channel, (start, end) in enumerate(itertools.pairwise(edges)):
        reverse = system.C_reverse
        parts.append(
            System(
                lam=system.lam[start:end],
                B=system.B[start:end, None],
                C=system.C[None, start:end],
                C_reverse=None if reverse is None else reverse[None, start:end],
                D=system.D[channel : channel + 1],
                conj_sym=system.conj_sym,
                scan_method=system.scan_method,
            )
        )
    return parts


def joined_channels(system: MultiSISO, parts: Sequence[System]) -> MultiSISO:
    """The system whose channels are `parts`, with the settings of `system` and NumPy arrays."""
    reverse = [np.asarray(part.C_reverse)[0] for part in parts if part.C_reverse is not None]
    # The annotations of the fields name JAX arrays for static checkers, see `_typing`.
    arrays: dict[str, Any] = {
        "lam": np.concatenate([part.lam for part in parts]),
        "B": np.concatenate([np.asarray(part.B)[:, 0] for part in parts]),
        "C": np.concatenate([np.asarray(part.C)[0] for part in parts]),
        "C_reverse": np.concatenate(reverse) if reverse else None,
        "D": np.concatenate([part.D for part in parts]),
    }
    return dataclasses.replace(system, counts=tuple(part.states for part in parts), **arrays)
