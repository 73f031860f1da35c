"""What S5, S4D and LRU share: calls, checks of their parameters, and new parameters."""

import abc
import dataclasses
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Complex, Float, Shaped

from lastax._typing import Array, PRNGKeyArray, Scalar, StepRescale
from lastax.nn._checks import check_complete
from lastax.nn._initialization import as_pair
from lastax.nn._per_step import apply_per_step
from lastax.ssm._discretization import Discretization, discretize_zoh, inverse_of
from lastax.ssm._multi_siso import AnySystem
from lastax.ssm._precision import at_least_float32, in_dtype_of, in_float64
from lastax.ssm._step_sizes import StepSizes, check_step_rescale

# Stands for an eigenvalue of zero, which no continuous eigenvalue has.
SMALLEST_LAM = 1e-30
# An eigenvalue that moved by less than this is that of the same state.
_SMALL_MOVE = 0.1

LayerT = TypeVar("LayerT", bound="DiagonalLayer")


class DiagonalLayer(eqx.Module):
    """Base class of S5, S4D and LRU: how they are called.

    The first field of a subclass has one value per state.

    Attributes:
        C: output map, as real pairs on the last axis.
        C_reverse: output map of the backward recurrence; None if the layer is unidirectional.
        D: feedthrough, shape `(H,)` for a diagonal matrix or `(H, H)`.
    """

    C: eqx.AbstractVar[Array]
    C_reverse: eqx.AbstractVar[Array | None]
    D: eqx.AbstractVar[Array]

    def step_sizes(self, step_rescale: Scalar = 1.0) -> StepSizes | None:
        """How the system depends on the step size, for `step_rescale` of shape `(L,)`.

        Args:
            step_rescale: factor on all step sizes, as in `system`.

        Returns:
            The step sizes of all states; None if the layer does not know them.
        """
        del step_rescale
        return None

    @abc.abstractmethod
    def system(self, step_rescale: Scalar = 1.0) -> AnySystem:
        """Discretize the layer.

        Norms and scores are those of this system. The nominal step size is that of
        `step_rescale=1`.

        Args:
            step_rescale: factor on all step sizes. 2 runs the layer on data of half the sampling
                rate.

        Returns:
            The discrete system that the layer applies. Its dtype is at least float32.

        Raises:
            ValueError: if parameters are missing, or if the layer is a stack of layers.
        """

    def __call__(
        self,
        u: Shaped[Array, "..."],
        *,
        initial: Shaped[Array, "..."] | None = None,
        mask: Shaped[Array, "..."] | None = None,
        step_rescale: StepRescale = 1.0,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "L H"]:
        """Apply the layer to one sequence. For a batch, use `jax.vmap`.

        The recurrence is computed in float32 at least. 16-bit inputs give outputs of their dtype.

        Args:
            u: input, shape `(L, H)` with `L >= 1`.
            initial: state before the first step, complex of shape `(P,)`; zero by default. Only
                for unidirectional layers.
            mask: true for each valid step, false for padding, shape `(L,)`. Inputs of masked steps
                count as zero, whatever they are.
            step_rescale: factor on all step sizes, or one factor per step, shape `(L,)`, for data
                that are sampled at irregular times.
            key: ignored; `equinox.nn.Sequential` passes it.

        Returns:
            Output, shape `(L, H)`.

        Raises:
            ValueError: if an argument has another shape, or if `initial` is given to a
                bidirectional layer.
        """
        del key
        if initial is not None and jnp.ndim(step_rescale) > 0:
            raise ValueError(
                f"{type(self).__name__}: initial and one step_rescale per step cannot be combined; "
                "use lastax.streaming"
            )
        if initial is not None:
            return self.run(u, initial=initial, mask=mask, step_rescale=step_rescale)[0]
        if jnp.ndim(step_rescale) > 0:
            system, sizes = self.system(), self.step_sizes()
            driving = self._input(system, u, mask)
            check_step_rescale(type(self).__name__, step_rescale, driving.shape[:1], sizes)
            y = apply_per_step(system, sizes, driving, jnp.asarray(step_rescale))
            return in_dtype_of(y, jnp.asarray(u))
        system = self.system(step_rescale)
        driving = self._input(system, u, mask)
        return in_dtype_of(system(driving), jnp.asarray(u))

    def run(
        self,
        u: Shaped[Array, "..."],
        *,
        initial: Shaped[Array, "..."] | None = None,
        mask: Shaped[Array, "..."] | None = None,
        step_rescale: Scalar = 1.0,
    ) -> tuple[Float[Array, "L H"], Complex[Array, " P"]]:
        """Apply the layer to one sequence, and return the last state.

        To process a long sequence in pieces, pass the last state of each piece as `initial` to the
        next one.

        Args:
            u: input, shape `(L, H)` with `L >= 1`.
            initial: state before the first step, complex of shape `(P,)`; zero by default.
            mask: true for each valid step, false for padding, shape `(L,)`.
            step_rescale: factor on all step sizes.

        Returns:
            The output, shape `(L, H)`, and the state after the last valid step, shape `(P,)`.

        Raises:
            ValueError: if an argument has another shape, or if the layer is bidirectional.
        """
        system, name = self.system(step_rescale), type(self).__name__
        driving = self._input(system, u, mask)
        if self.C_reverse is not None:
            raise ValueError(
                f"{name}: initial and last states need a unidirectional layer, since the output of "
                "a bidirectional layer depends on later inputs; call it on the full sequence"
            )
        if initial is not None:
            initial = jnp.asarray(initial, system.lam.dtype)
            if initial.shape != (system.states,):
                raise ValueError(
                    f"{name}: initial must have shape ({system.states},), one value per state, got "
                    f"shape {initial.shape}"
                )
        steps = None
        if mask is not None:
            steps = jnp.max(jnp.where(jnp.asarray(mask), jnp.arange(1, len(driving) + 1), 0))
        y, last = system.run(driving, initial, steps=steps)
        return in_dtype_of(y, jnp.asarray(u)), last

    def _input(self, system: AnySystem, u: Array, mask: Array | None) -> Float[Array, "L H"]:
        """Check the input, and set masked steps to zero."""
        name, channels, u = type(self).__name__, system.D.shape[0], jnp.asarray(u)
        if u.ndim != 2 or u.shape[1] != channels:
            hint = "; for a batch use jax.vmap(layer)" if u.ndim > 2 else ""
            raise ValueError(
                f"{name}: u must be one sequence of shape (L, {channels}), got shape {u.shape}"
                + hint
            )
        if u.shape[0] == 0:
            raise ValueError(f"{name}: u must have at least one step, got shape {u.shape}")
        if jnp.issubdtype(u.dtype, jnp.complexfloating):
            raise ValueError(f"{name}: u must be real, got {u.dtype}")
        if mask is None:
            return at_least_float32(u)
        if mask.shape != u.shape[:1] or mask.dtype != bool:
            raise ValueError(
                f"{name}: mask must be boolean of shape ({u.shape[0]},), one value per step, got "
                f"{mask.dtype} of shape {mask.shape}"
            )
        return at_least_float32(jnp.where(jnp.asarray(mask)[:, None], u, 0))

    def _checked(self: LayerT, step_rescale: Scalar = 1.0) -> LayerT:
        """Check the arguments of `system`, and convert the parameters to float32 at least."""
        name = type(self).__name__
        # Arrays may be traced, so their values are not checked.
        if isinstance(step_rescale, int | float) and not step_rescale > 0:
            raise ValueError(f"{name}: step_rescale must be positive, got {step_rescale}")
        check_complete(self)
        first = dataclasses.fields(self)[0].name
        shape = getattr(self, first).shape
        if len(shape) != 1:
            raise ValueError(
                f"{name}: {first} has shape {shape} instead of one axis, so this is a stack of "
                "layers; apply it by equinox.filter_vmap or jax.lax.scan, and prune its layers "
                f"[jax.tree.map(lambda a: a[i], stack) for i in range({shape[0]})]"
            )
        return jax.tree.map(
            lambda leaf: at_least_float32(leaf) if eqx.is_inexact_array(leaf) else leaf, self
        )

    def _exact_system(self) -> AnySystem:
        """`system()`, discretized in float64, as NumPy arrays."""
        with jax.enable_x64(True):
            exact: Any = in_float64(self)
            return jax.tree.map(np.asarray, exact.system())

    def _pair(self, z: Complex[np.ndarray, "..."]) -> Float[Array, "..."]:
        """A complex parameter as real pairs of the dtype of the layer."""
        pair = as_pair(jnp.asarray(z, jnp.result_type(self.C, 1j)))
        return pair.astype(self.C.dtype)

    # Parameters have no common type.
    def _with_outputs(self: LayerT, system: AnySystem, factor: Any = 1, **changes: Any) -> LayerT:
        """Set `C`, `C_reverse` and `D` to those of a system, and other parameters.

        Args:
            system: the system.
            factor: factor on both output maps.
            **changes: other fields of the layer.
        """
        maps = {"C": system.C, "C_reverse": system.C_reverse}
        pairs: dict[str, Any] = {
            name: None if C is None else self._pair(factor * np.asarray(C, complex))
            for name, C in maps.items()
        }
        D = jnp.asarray(np.asarray(system.D), self.D.dtype)
        return dataclasses.replace(self, D=D, **pairs, **changes)


def check_stable(function: str, lam: Complex[np.ndarray, " P"]) -> None:
    """Check that eigenvalues are inside the unit circle.

    Raises:
        ValueError: if a state has `|lam| >= 1`.
    """
    if np.any(np.abs(lam) >= 1):
        raise ValueError(
            f"{function}: every state needs |lam| < 1, got |lam| = {np.abs(lam).max()}"
        )


def continuous_parameters(
    discretize: Discretization,
    lam: Complex[np.ndarray, " P"],
    B: Complex[np.ndarray, "P H"],
    step: Float[np.ndarray, " P"],
    *,
    own: Complex[Array, " P"],
    own_step: Float[np.ndarray, " P"],
    same: Bool[np.ndarray, " P"],
) -> tuple[Complex[np.ndarray, " P"], Complex[np.ndarray, "P H"]]:
    """The continuous `Lambda` and `B` that `discretize` maps to `lam` and `B`, in float64.

    With zero-order hold, `lam` does not determine `Lambda` if a state may turn by more than half a
    circle per step. States with an unchanged `lam` therefore keep their own `Lambda`, and get the
    `B` that belongs to it. A state whose `lam` moved little keeps its number of turns per step, and
    any other state turns by less than half a circle.

    Args:
        discretize: the discretization rule.
        lam: eigenvalues of the discrete system.
        B: its input matrix.
        step: the new step sizes.
        own: the continuous eigenvalues of the layer.
        own_step: its present step sizes.
        same: mask of the states with an unchanged `lam`.
    """
    kept = np.asarray(own, complex)
    column = np.ones_like(B[:, :1])
    with jax.enable_x64(True):
        if discretize is discretize_zoh:
            # Zero has no logarithm.
            lam = np.where(lam == 0, SMALLEST_LAM, lam)
        inverse = inverse_of(discretize)(*map(jnp.asarray, (lam, B, step)))
        Lambda, continuous_B = map(np.asarray, inverse)
        own_lam = np.asarray(discretize(*map(jnp.asarray, (kept, column, own_step)))[0])
        turns = np.zeros(len(lam))
        if discretize is discretize_zoh:
            near = np.abs(lam - own_lam) < _SMALL_MOVE
            turns = np.where(
                near, np.round((kept * own_step - Lambda * step).imag / (2 * np.pi)), 0
            )
        Lambda = np.where(same, kept, Lambda + 2j * np.pi * turns / step)
        gain = np.asarray(discretize(*map(jnp.asarray, (Lambda, column, step)))[1])
    by_gain = same | (turns != 0)
    # The gains of other states are not used, and may be zero.
    own_B = B / np.where(by_gain[:, None], gain, 1)
    return Lambda, np.where(by_gain[:, None], own_B, continuous_B)
