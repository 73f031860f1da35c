"""The discrete-time system that a layer applies, its responses and its frequency response."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Bool, Complex, Float, Int, Shaped

from lastax._typing import Array
from lastax.ssm._precision import at_least_float32, exact_products, in_dtype_of
from lastax.ssm._products import product
from lastax.ssm._recurrence import diagonal_scan, diagonal_step, scan_output, state_after
from lastax.ssm._scan_methods import ScanMethod

SystemT = TypeVar("SystemT", bound=eqx.Module)


class System(eqx.Module):
    """A multi-input multi-output diagonal system, unidirectional or bidirectional.

    `x_k = diag(lam) x_{k-1} + B u_k` and `y_k = s Re(C x_k) + D u_k`, where `s` is 2 if `conj_sym`
    and 1 otherwise. A bidirectional system also has states that run backward in time,
    `x'_k = diag(lam) x'_{k+1} + B u_k`, and adds `s Re(C_reverse x'_k)` to `y_k`.

    Arrays are JAX or NumPy arrays. Norms, scores and frequency responses keep their library and
    dtype. Responses in time are computed by JAX. For inputs in bfloat16 or float16, states are in
    float32, and the output has the dtype of the input.

    Attributes:
        lam: eigenvalues, shape `(P,)`.
        B: input matrix, shape `(P, H)`.
        C: output matrix, shape `(H, P)`.
        C_reverse: output matrix of the backward states, shape `(H, P)`, or None if the system is
            unidirectional.
        D: feedthrough, either a diagonal of shape `(H,)` or a dense matrix of shape `(H, H)` whose
            rows are outputs.
        conj_sym: whether each stored state stands for a conjugate pair.
        scan_method: method of the recurrence, as in `diagonal_scan`.
    """

    lam: Complex[Array, " P"]
    B: Complex[Array, "P H"]
    C: Complex[Array, "H P"]
    C_reverse: Complex[Array, "H P"] | None
    D: Float[Array, " H"] | Float[Array, "H H"]
    conj_sym: bool = eqx.field(static=True, default=True)
    scan_method: ScanMethod | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        """Check the shapes, also when the type checks are off."""
        for name, C in (("C", self.C), ("C_reverse", self.C_reverse)):
            if C is not None and C.shape != self.B.shape[::-1]:
                raise ValueError(
                    f"System: B has shape {self.B.shape}, so {name} must have shape "
                    f"{self.B.shape[::-1]}, got {C.shape}"
                )

    @property
    def states(self) -> int:
        """Number of stored states `P`. A conjugate pair counts as one."""
        return self.lam.shape[0]

    @property
    def feedthrough_matrix(self) -> Float[Array, "H H"]:
        """`D` as a dense matrix, shape `(H, H)`. Rows are outputs, columns are inputs."""
        if self.D.ndim == 2:
            return self.D
        return self.D.__array_namespace__().eye(self.D.shape[0], dtype=self.D.dtype) * self.D[None]

    @property
    def input_norms(self) -> Float[Array, " P"]:
        """Norm `||B_i||` of the input row of each state, shape `(P,)`."""
        return safe_sqrt(squares(self.B).sum(axis=1))

    @property
    def output_norms(self) -> tuple[Float[Array, " P"], ...]:
        """Norm `||C_i||` of the output column of each state, shape `(P,)`, for each direction."""
        maps = (C for C in (self.C, self.C_reverse) if C is not None)
        return tuple(safe_sqrt(squares(C).sum(axis=0)) for C in maps)

    def keep(self, mask: Bool[np.ndarray, " P"]) -> System:
        """The system of the states where `mask` is true, in the same order.

        Raises:
            ValueError: unless `mask` is a boolean array of shape `(P,)`.
        """
        index = kept_indices(mask, self.states)
        reverse = self.C_reverse
        return dataclasses.replace(
            self,
            lam=take_states(self.lam, index),
            B=take_states(self.B, index),
            C=take_states(self.C, index, axis=1),
            C_reverse=None if reverse is None else take_states(reverse, index, axis=1),
        )

    def __call__(self, u: Float[Array, "L H"]) -> Float[Array, "L H"]:
        """The output `(L, H)` for the input `u`, starting from the zero state."""
        maps = [self.C] if self.C_reverse is None else [self.C, self.C_reverse]
        directions = (False, True)[: len(maps)]
        own, u = u, at_least_float32(u)
        driven = product(u, jnp.concatenate([self.B.real, self.B.imag]).T)
        s = 2 if self.conj_sym else 1
        # Re(C x) as a real product, which costs half as much as a complex product.
        weights = [s * jnp.concatenate([C.real, -C.imag], axis=1).T for C in maps]
        y = scan_output(self.lam, driven, weights, directions, method=self.scan_method)
        return in_dtype_of(self._feedthrough(u) + y, own)

    def run(
        self,
        u: Float[Array, "L H"],
        initial: Complex[Array, " P"] | None = None,
        *,
        steps: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "L H"], Complex[Array, " P"]]:
        """The output of the forward recurrence from a given state.

        Use it to process a long sequence in pieces: pass the last state of each piece as `initial`
        to the next one. The backward part of a bidirectional system is not included.

        Args:
            u: input, shape `(L, H)`.
            initial: state before the first step, shape `(P,)`; zero by default.
            steps: number of steps before the last state; all by default.

        Returns:
            The output, shape `(L, H)`, and the last state, shape `(P,)`.
        """
        own, u = u, at_least_float32(u)
        driven = _drive(self.B, u)
        states, last = diagonal_scan(self.lam, driven, initial=initial, method=self.scan_method)
        if steps is not None:
            last = state_after(steps, states, initial)
        return in_dtype_of(self._observe(self.C, states) + self._feedthrough(u), own), last

    def step(
        self, state: Complex[Array, " P"], u: Float[Array, " H"]
    ) -> tuple[Complex[Array, " P"], Float[Array, " H"]]:
        """One step of `run`.

        Args:
            state: state before the step, shape `(P,)`.
            u: input of the step, shape `(H,)`.

        Returns:
            The next state, shape `(P,)`, and the output, shape `(H,)`.

        Raises:
            ValueError: if the system is bidirectional, since its output depends on later inputs.
        """
        if self.C_reverse is not None:
            raise ValueError(
                "System.step: a bidirectional system needs the full sequence; call the system"
            )
        row = at_least_float32(u)[None, :]
        state = diagonal_step(self.lam, state, _drive(self.B, row)[0])
        y = self._observe(self.C, state[None, :])[0] + self._feedthrough(row)[0]
        return state, in_dtype_of(y, u)

    def _feedthrough(self, u: Array) -> Array:
        return product(u, self.D.T) if self.D.ndim == 2 else self.D[None, :] * u

    def _observe(self, C: Array, states: Array) -> Array:
        # Re(C x) as real products, which cost half as much as a complex product.
        s = 2 if self.conj_sym else 1
        return s * (states.real @ C.real.T - states.imag @ C.imag.T)


def frequency_response(
    system: System, omega: Float[Array, " W"] | Float[np.ndarray, " W"]
) -> Complex[Array, "W H H"]:
    """Frequency response `G(e^{j omega})` of the operator on real signals, with `D`.

    Args:
        system: the system.
        omega: frequencies in radians per step, shape `(W,)`.

    Returns:
        The response, shape `(W, H, H)`. Axes are frequency, output and input.
    """
    return transfer_function(real_system(system), omega) + system.feedthrough_matrix[None]


@exact_products
def transfer_function(
    system: System, omega: Float[Array, " W"] | Float[np.ndarray, " W"]
) -> Complex[Array, "W H H"]:
    """Transfer function of the complex map from `u` to `C x`, without `D`.

    `sum_i C_i B_i / (1 - lam_i e^{-j omega})`, plus the backward part at `-omega`. It takes no real
    part and adds no conjugate states.

    Args:
        system: the system.
        omega: frequencies in radians per step, shape `(W,)`.

    Returns:
        The response, shape `(W, H, H)`. Axes are frequency, output and input.
    """
    xp = system.lam.__array_namespace__()
    z = xp.exp(1j * omega)[:, None]
    lam = system.lam[None, :]
    response = (system.C[None] / (1 - lam / z)[:, None, :]) @ system.B
    if system.C_reverse is not None:
        response = response + (system.C_reverse[None] / (1 - lam * z)[:, None, :]) @ system.B
    return response


def real_system(system: System) -> System:
    """The same operator as a system of `2 P` states, with each conjugate state written out.

    Its output `C x + D u` is real without taking the real part. The norms of a system as an
    operator on real signals are the norms of its real system.
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
    """Outputs for a unit impulse in each input.

    Args:
        system: the system.
        length: number of steps `L`.
        position: step of the impulse. The output of a bidirectional system starts before it.

    Returns:
        The outputs, shape `(L, H, H)`. Axes are step, output and input.
    """
    inputs = system.B.shape[1]
    impulses = jnp.zeros((inputs, length, inputs), system.D.dtype)
    impulses = impulses.at[jnp.arange(inputs), position, jnp.arange(inputs)].set(1)
    return jnp.moveaxis(jax.vmap(system)(impulses), 0, -1)


def replace_arrays(system: SystemT, **arrays: np.ndarray | None) -> SystemT:
    """A copy of a system with some of its arrays replaced by NumPy arrays."""
    # The annotations of the fields name JAX arrays for static checkers, see `_typing`.
    changes: dict[str, Any] = dict(arrays)
    return dataclasses.replace(system, **changes)


def squares(array: Shaped[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`|a|^2`, which has a derivative at zero, unlike `abs(a) ** 2`."""
    return array.real**2 + array.imag**2


def safe_sqrt(values: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The square root, with derivative zero at zero."""
    xp = values.__array_namespace__()
    is_zero = values == 0
    return xp.where(is_zero, xp.zeros_like(values), xp.where(is_zero, 1, values) ** 0.5)


def safe_abs(array: Shaped[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`|a|`, with derivative zero at zero."""
    xp = array.__array_namespace__()
    is_zero = array == 0
    modulus = abs(xp.where(is_zero, xp.ones_like(array), array))
    return xp.where(is_zero, xp.zeros_like(modulus), modulus)


def kept_indices(mask: Bool[np.ndarray, " _"], states: int) -> Int[np.ndarray, " K"]:
    """Positions of the states that `mask` keeps, for methods and functions that take `keep`.

    Raises:
        ValueError: unless `mask` is a boolean array of shape `(states,)`.
    """
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.shape != (states,):
        raise ValueError(
            f"keep: mask must be a boolean array of shape ({states},), one value per state; got "
            f"{mask.dtype} of shape {mask.shape}"
        )
    return np.flatnonzero(mask)


def take_states(
    array: Shaped[Array, ...], index: Int[np.ndarray, " K"], *, axis: int = 0
) -> Shaped[Array, ...]:
    """Entries of an array at the positions `index` of an axis, also if the axis is sharded."""
    place = (slice(None),) * axis + (index,)
    if not hasattr(array, "sharding"):
        return array[place]
    # Any number of states can remain, so the result is not sharded along this axis. On meshes with
    # explicit axes, JAX requires the sharding of the result.
    mesh, spec = jax.typeof(array).sharding.mesh, jax.typeof(array).sharding.spec
    if not any(spec):
        return array[place]
    rest = NamedSharding(mesh, PartitionSpec(*spec[:axis], None, *spec[axis + 1 :]))
    return jax.sharding.reshard(array, rest).at[place].get(out_sharding=rest)


def _drive(B: Complex[Array, "P H"], u: Float[Array, "L H"]) -> Complex[Array, "L P"]:
    return jax.lax.complex(u @ B.real.T, u @ B.imag.T)
