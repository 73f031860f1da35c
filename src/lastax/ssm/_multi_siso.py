"""The system of a layer of scalar channels: many small systems that share no state."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Complex, Float, Int

from lastax._typing import Array
from lastax.ssm._convolution import channel_kernels, convolve
from lastax.ssm._recurrence import diagonal_scan, diagonal_step
from lastax.ssm._scan_methods import ScanMethod
from lastax.ssm._system import System, kept_index


class MultiSISO(eqx.Module):
    """`H` single-input single-output diagonal systems, in one direction of time or in both.

    State `i` belongs to one channel `h`: `x_k = lam_i x_{k-1} + B_i u_{h,k}`, and `y_{h,k}` is
    `s Re(sum_i C_i x_i) + D_h u_{h,k}` over the states of the channel, with `s` and `C_reverse` as
    in `System`. The arrays are flat, the states of channel 0 first; `counts` tells how many each
    channel has, which may be none, so that removing states leaves nothing behind.

    Arrays are JAX's or numpy's, as in `System`.
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
        """Compare numbers of channels and states."""
        if len(self.counts) != self.D.shape[0] or sum(self.counts) != self.lam.shape[0]:
            raise ValueError(
                f"MultiSISO: {self.lam.shape[0]} states and {self.D.shape[0]} channels, but "
                f"counts are {sum(self.counts)} states in {len(self.counts)} channels"
            )

    @property
    def states(self) -> int:
        """Number of stored states `S` of all channels: what is counted, scored and removed."""
        return self.lam.shape[0]

    @property
    def channel(self) -> Int[np.ndarray, " S"]:
        """The channel of each state, ascending."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @property
    def input_norms(self) -> Float[Array, " S"]:
        """`|B_i|` of every state."""
        return abs(self.B)

    @property
    def output_norms(self) -> tuple[Float[Array, " S"], ...]:
        """`|C_i|` of every state, for each direction."""
        return tuple(abs(C) for C in (self.C, self.C_reverse) if C is not None)

    def keep(self, mask: Bool[np.ndarray, " S"]) -> MultiSISO:
        """The system with the states where `mask` holds; a channel may lose all of its own."""
        index = kept_index(mask, self.states)
        return dataclasses.replace(
            self,
            lam=self.lam[index],
            B=self.B[index],
            C=self.C[index],
            C_reverse=None if self.C_reverse is None else self.C_reverse[index],
            counts=kept_counts(self.counts, mask),
        )

    def __call__(self, u: Float[Array, "L H"]) -> Float[Array, "L H"]:
        """The response to `u` from rest, by convolution with the kernels of all channels."""
        alive = np.flatnonzero(self.counts)
        y = self.D[None, :] * u
        if len(alive) == 0:
            return y
        kernels = self.kernels(u.shape[0])
        if len(alive) == len(self.counts):
            return y + convolve(u, *kernels)
        return y.at[:, alive].add(convolve(u[:, alive], *(kernel[alive] for kernel in kernels)))

    def kernels(self, length: int) -> tuple[Float[Array, "H L"], ...]:
        """What each channel answers to a unit impulse, without `D`, for each direction.

        The one that runs backward in time is given from the impulse backward.
        """
        s = 2 if self.conj_sym else 1
        lam, B = jnp.asarray(self.lam), jnp.asarray(self.B)
        return tuple(
            channel_kernels(lam, s * C * B, self.counts, length)
            for C in (self.C, self.C_reverse)
            if C is not None
        )

    def run(
        self, u: Float[Array, "L H"], initial: Complex[Array, " S"] | None = None
    ) -> tuple[Float[Array, "L H"], Complex[Array, " S"]]:
        """The forward response to `u` from the state `initial`, and the state it ends in.

        Computed as a recurrence; from rest and in one direction it is what a call computes.
        """
        driven = self._drive(u)
        states, last = diagonal_scan(
            jnp.asarray(self.lam), driven, initial=initial, method=self.scan_method
        )
        return self._observe(states) + self.D[None, :] * u, last

    def step(
        self, state: Complex[Array, " S"], u: Float[Array, " H"]
    ) -> tuple[Complex[Array, " S"], Float[Array, " H"]]:
        """One step of a stream: the next state and output, equal to those of `run`.

        Raises:
            ValueError: if the system also runs backward: it needs the future.
        """
        if self.C_reverse is not None:
            raise ValueError("MultiSISO.step: a bidirectional system needs the whole sequence")
        state = diagonal_step(jnp.asarray(self.lam), state, self._drive(u[None, :])[0])
        return state, self._observe(state[None, :])[0] + self.D * u

    def _drive(self, u: Array) -> Array:
        return jnp.asarray(self.B)[None, :] * u[:, self.channel]

    def _observe(self, states: Array) -> Array:
        s = 2 if self.conj_sym else 1
        parts = s * (states * jnp.asarray(self.C)[None, :]).real
        silent = jnp.zeros((states.shape[0], len(self.counts)), parts.dtype)
        return silent.at[:, self.channel].add(parts, indices_are_sorted=True)


AnySystem = System | MultiSISO


def kept_counts(counts: tuple[int, ...], mask: Bool[np.ndarray, " S"]) -> tuple[int, ...]:
    """How many states each channel has left where `mask` holds."""
    channel = np.repeat(np.arange(len(counts)), counts)
    left = np.bincount(channel[np.asarray(mask)], minlength=len(counts))
    return tuple(int(count) for count in left)


def subsystems(system: AnySystem) -> System:
    """A system whose one-state subsystems are those of `system`.

    The states of a `MultiSISO` share neither input nor output; taken by themselves they are those
    of a system of one channel.
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
    """Each channel as a system of its own, one input and one output."""
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


def joined_channels(system: MultiSISO, parts: list[System]) -> MultiSISO:
    """The system whose channels are the given ones, in place of those of `system`.

    Arrays are numpy's.
    """
    reverse = [np.asarray(part.C_reverse)[0] for part in parts if part.C_reverse is not None]
    arrays: dict[str, Any] = {
        "lam": np.concatenate([part.lam for part in parts]),
        "B": np.concatenate([np.asarray(part.B)[:, 0] for part in parts]),
        "C": np.concatenate([np.asarray(part.C)[0] for part in parts]),
        "C_reverse": np.concatenate(reverse) if reverse else None,
        "D": np.concatenate([part.D for part in parts]),
    }
    return dataclasses.replace(system, counts=tuple(part.states for part in parts), **arrays)
