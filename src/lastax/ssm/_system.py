"""The discretized system that one layer applies. Norms, scores and certificates all take one."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Complex, Float, Int

from lastax._typing import Array
from lastax.ssm._products import product
from lastax.ssm._recurrence import diagonal_scan, diagonal_step, scan_split
from lastax.ssm._scan_methods import ScanMethod


class System(eqx.Module):
    """A multi-input multi-output diagonal system, in one direction of time or in both.

    `x_k = diag(lam) x_{k-1} + B u_k`, `y_k = s Re(C x_k) + D u_k`, where `s` is 2 if each stored
    state stands for a conjugate pair and 1 if not. With `C_reverse` the states also run backward,
    `x'_k = diag(lam) x'_{k+1} + B u_k`, and `s Re(C_reverse x'_k)` is added to `y_k`.

    `D` is the diagonal of a matrix, or the whole matrix, whose rows are outputs.

    `scan_method` is the way the recurrence is computed, as `diagonal_scan` names it.

    Arrays are JAX's or numpy's. Norms, scores and frequency responses stay in their library and
    precision; responses in time are computed by JAX.
    """

    lam: Complex[Array, " P"]
    B: Complex[Array, "P H"]
    C: Complex[Array, "H P"]
    C_reverse: Complex[Array, "H P"] | None
    D: Float[Array, " H"] | Float[Array, "H H"]
    conj_sym: bool = eqx.field(static=True, default=True)
    scan_method: ScanMethod | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        """Compare shapes, for those who run without type checks."""
        for name, C in (("C", self.C), ("C_reverse", self.C_reverse)):
            if C is not None and C.shape != self.B.shape[::-1]:
                raise ValueError(
                    f"System: B is {self.B.shape}, so {name} must be {self.B.shape[::-1]}, "
                    f"got {C.shape}"
                )

    @property
    def states(self) -> int:
        """Number of stored states `P`: what is counted, scored and removed."""
        return self.lam.shape[0]

    @property
    def feedthrough_matrix(self) -> Float[Array, "H H"]:
        """`D` as a matrix, from the input (columns) to the output (rows) at once."""
        if self.D.ndim == 2:
            return self.D
        return self.D.__array_namespace__().eye(self.D.shape[0], dtype=self.D.dtype) * self.D[None]

    @property
    def input_norms(self) -> Float[Array, " P"]:
        """`||B_i||` of every state."""
        return (abs(self.B) ** 2).sum(axis=1) ** 0.5

    @property
    def output_norms(self) -> tuple[Float[Array, " P"], ...]:
        """`||C_i||` of every state, for each direction."""
        maps = (C for C in (self.C, self.C_reverse) if C is not None)
        return tuple((abs(C) ** 2).sum(axis=0) ** 0.5 for C in maps)

    def keep(self, mask: Bool[np.ndarray, " P"]) -> System:
        """The system with the states where `mask` holds, in the same order; no others are left."""
        index = kept_index(mask, self.states)
        reverse = None if self.C_reverse is None else self.C_reverse[:, index]
        return dataclasses.replace(
            self, lam=self.lam[index], B=self.B[index], C=self.C[:, index], C_reverse=reverse
        )

    def __call__(self, u: Float[Array, "L H"]) -> Float[Array, "L H"]:
        """The response to `u` from rest."""
        maps = [self.C] if self.C_reverse is None else [self.C, self.C_reverse]
        directions = (False, True)[: len(maps)]
        driven = product(u, jnp.concatenate([self.B.real, self.B.imag]).T)
        states = scan_split(self.lam, driven, directions, method=self.scan_method)
        y = self._pass(u)
        s = 2 if self.conj_sym else 1
        for C, x in zip(maps, states, strict=True):
            # Re(C x) as a real product: half the arithmetic of a complex one.
            y = y + product(x, s * jnp.concatenate([C.real, -C.imag], axis=1).T)
        return y

    def run(
        self, u: Float[Array, "L H"], initial: Complex[Array, " P"] | None = None
    ) -> tuple[Float[Array, "L H"], Complex[Array, " P"]]:
        """The forward response to `u` from the state `initial`, and the state it ends in.

        Feeding a sequence in pieces, each from the state the last one ended in, gives the same
        numbers as feeding it whole. What runs backward in time is left out.
        """
        driven = _drive(self.B, u)
        states, last = diagonal_scan(self.lam, driven, initial=initial, method=self.scan_method)
        return self._observe(self.C, states) + self._pass(u), last

    def step(
        self, state: Complex[Array, " P"], u: Float[Array, " H"]
    ) -> tuple[Complex[Array, " P"], Float[Array, " H"]]:
        """One step of a stream: the next state and output, equal to those of `run`.

        Raises:
            ValueError: if the system also runs backward: it needs the future.
        """
        if self.C_reverse is not None:
            raise ValueError("System.step: a bidirectional system needs the whole sequence")
        state = diagonal_step(self.lam, state, _drive(self.B, u[None, :])[0])
        return state, self._observe(self.C, state[None, :])[0] + self._pass(u[None, :])[0]

    def _pass(self, u: Array) -> Array:
        return product(u, self.D.T) if self.D.ndim == 2 else self.D[None, :] * u

    def _observe(self, C: Array, states: Array) -> Array:
        # Re(C x) as real products: half the arithmetic of a complex one.
        s = 2 if self.conj_sym else 1
        return s * (states.real @ C.real.T - states.imag @ C.imag.T)


def kept_index(mask: Bool[np.ndarray, " _"], states: int) -> Int[np.ndarray, " K"]:
    """Positions at which a mask holds.

    Raises:
        ValueError: unless the mask has one truth value for each of `states` states.
    """
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.shape != (states,):
        raise ValueError(
            f"a mask must be {states} truth values, one a state; got {mask.dtype}{list(mask.shape)}"
        )
    return np.flatnonzero(mask)


def check_replacement(name: str, own: Any, system: Any) -> None:
    """Compare a system with the one that it is to replace; one `D` may be a matrix, one not.

    Raises:
        ValueError: if it has other states, channels or directions, or states stand for pairs in
            one of them alone.
    """
    shapes = [
        [np.shape(array) for array in (s.lam, s.B, s.C, s.C_reverse)] + [len(s.D)]
        for s in (own, system)
    ]
    if shapes[0] != shapes[1] or own.conj_sym != system.conj_sym:
        raise ValueError(
            f"{name}: the layer has {own.states} states and B {list(own.B.shape)}, the system "
            f"{system.states} and {list(system.B.shape)}; directions and conjugate pairs must be "
            "equal too"
        )


def unchanged(own: Any, system: Any) -> tuple[Bool[np.ndarray, " P"], Bool[np.ndarray, " P"]]:
    """Which eigenvalues, and which rows of `B` with their eigenvalue, are the same to the bit."""
    same_lam = np.asarray(own.lam) == np.asarray(system.lam)
    same_B = (np.asarray(own.B) == np.asarray(system.B)).reshape(len(same_lam), -1).all(axis=1)
    return same_lam, same_lam & same_B


def write(same: Bool[np.ndarray, " P"], old: Array, new: np.ndarray) -> Array:
    """A parameter of each state: the old one where nothing changed."""
    return jnp.where(same, old, jnp.asarray(new, old.dtype))


def _drive(B: Complex[Array, "P H"], u: Float[Array, "L H"]) -> Complex[Array, "L P"]:
    return jax.lax.complex(u @ B.real.T, u @ B.imag.T)


def frequency_response(system: System, omega: Float[Array, " W"]) -> Complex[Array, "W H H"]:
    """`G(e^{j omega})` of the real-signal operator that the layer applies.

    Axes are frequency (radians a step), output, input. `D` included.
    """
    return transfer_function(real_system(system), omega) + system.feedthrough_matrix[None]


def transfer_function(system: System, omega: Float[Array, " W"]) -> Complex[Array, "W H H"]:
    """`sum_i C_i B_i / (1 - lam_i e^{-j omega})`, plus the backward half at `-omega`.

    The literal complex map from `u` to `C x`: no real part, no conjugates, no `D`.
    """
    xp = system.lam.__array_namespace__()
    z = xp.exp(1j * omega)[:, None]
    lam = system.lam[None, :]
    response = (system.C[None] / (1 - lam / z)[:, None, :]) @ system.B
    if system.C_reverse is not None:
        response = response + (system.C_reverse[None] / (1 - lam * z)[:, None, :]) @ system.B
    return response


def real_system(system: System) -> System:
    """The same operator with every conjugate written out: `2P` states, `y = C x + D u` is real.

    Norms of the whole system are norms of this one.
    """
    xp = system.lam.__array_namespace__()
    share = 1.0 if system.conj_sym else 0.5

    def with_conjugate(C: Array) -> Array:
        return share * xp.concat([C, xp.conj(C)], axis=1)

    return System(
        lam=xp.concat([system.lam, xp.conj(system.lam)]),
        B=xp.concat([system.B, xp.conj(system.B)]),
        C=with_conjugate(system.C),
        C_reverse=None if system.C_reverse is None else with_conjugate(system.C_reverse),
        D=system.D,
        conj_sym=False,
        scan_method=system.scan_method,
    )


def impulse_response(system: System, length: int, *, position: int = 0) -> Float[Array, "L H H"]:
    """Outputs over `length` steps to a unit impulse in each input at step `position`.

    Axes are step, output, input. A bidirectional system also answers before `position`.
    """
    inputs = system.B.shape[1]
    impulses = jnp.zeros((inputs, length, inputs), system.D.dtype)
    impulses = impulses.at[jnp.arange(inputs), position, jnp.arange(inputs)].set(1)
    return jnp.moveaxis(jax.vmap(system)(impulses), 0, -1)
