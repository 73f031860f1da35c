"""A check of an adapter: whether a layer does what the functions of lastax take for granted."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from lastax.nn._layer import Layer, WritableLayer
from lastax.ssm._multi_siso import AnySystem, MultiSISO
from lastax.ssm._precision import exact_products
from lastax.ssm._system import System
from lastax.surgery._adoption import adopted
from lastax.surgery._reading import host_system, write_system

# Largest differences relative to the largest value. The recurrences are computed in float32.
_TOLERANCE = 1e-3
_METHODS = ("system", "__call__", "keep")


class LayerCheck(NamedTuple):
    """What `check_layer` found in a layer that passes.

    Attributes:
        states: number of states.
        channels: number of channels.
        call_error: largest difference of the output from that of `system()`, relative to the
            largest value. The larger one of the step sizes of the layer and of twice these.
        keep_error: largest difference of the system after `keep` from the same states of the
            original system, relative to the largest value of each array.
        writable: whether the layer has `with_system`, which refits and balanced truncation need.
    """

    states: int
    channels: int
    call_error: float
    keep_error: float
    writable: bool


@exact_products
def check_layer(layer: PyTree, *, length: int = 32, seed: int = 0) -> LayerCheck:
    """Check an adapter of your own, on random inputs and a random mask.

    A call must give the output of `system()`, also with twice the step sizes. `keep(mask)` must
    keep these states in their order and change nothing else. Gradients must be finite. If there is
    a `with_system`, `system()` must return what it was given.

    Args:
        layer: one layer with concrete arrays; also a layer of discretax.
        length: number of steps of the input.
        seed: seed of the input and of the mask.

    Returns:
        The sizes of the layer, and the largest differences.

    Raises:
        ValueError: naming the first method that is missing or wrong, and how.
    """
    layer = adopted(layer)
    missing = [name for name in _METHODS if not callable(getattr(layer, name, None))]
    if missing or isinstance(layer, type):
        listed = ", ".join(missing) or "everything, since it is a class; pass an instance"
        raise ValueError(f"check_layer: {type(layer).__name__} lacks {listed}")
    system = _system(layer)
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(length, system.D.shape[-1])).astype(np.float32)
    call_error = max(_call_error(layer, u, step_rescale) for step_rescale in (1.0, 2.0))
    keep_error = _keep_error(layer, system, rng)
    _check_gradients(layer, u)
    writable = isinstance(layer, WritableLayer)
    if writable:
        _check_write(layer, system)
    return LayerCheck(system.states, u.shape[1], call_error, keep_error, writable)


def _system(layer: Layer) -> AnySystem:
    system = host_system("check_layer", 0, layer)
    if not isinstance(system, System | MultiSISO):
        raise ValueError(
            f"check_layer: system() returned {type(system).__name__}; return a lastax.System or a "
            "lastax.MultiSISO"
        )
    for name, array in _arrays(system).items():
        if not np.isfinite(array).all():
            raise ValueError(f"check_layer: system().{name} is not finite")
    return system


def _arrays(system: AnySystem) -> dict[str, np.ndarray]:
    names = ("lam", "B", "C", "C_reverse", "D")
    values = {name: getattr(system, name) for name in names}
    return {name: np.asarray(value) for name, value in values.items() if value is not None}


def _call_error(layer: Layer, u: np.ndarray, step_rescale: float) -> float:
    what = f"layer(u, step_rescale={step_rescale:g})"
    try:
        expected = np.asarray(layer.system(step_rescale)(jnp.asarray(u)))
        output = np.asarray(layer(jnp.asarray(u), step_rescale=step_rescale))
    except TypeError as error:
        raise ValueError(
            f"check_layer: system and __call__ must accept step_rescale: {error}"
        ) from error
    if output.shape != u.shape:
        raise ValueError(f"check_layer: {what} has shape {output.shape}; u has shape {u.shape}")
    difference = _difference(output, expected)
    if not difference <= _TOLERANCE:
        raise ValueError(
            f"check_layer: {what} differs from system({step_rescale:g})(u) by {difference:.2g} of "
            "the largest value; return the discrete system that the call applies, with its "
            "conj_sym"
        )
    return difference


def _keep_error(layer: Layer, system: AnySystem, rng: np.random.Generator) -> float:
    mask = rng.random(system.states) < 0.5
    # At least one of each.
    mask[:1], mask[1:2] = True, False
    small: Any = layer.keep(mask)
    if not isinstance(small, type(layer)):
        raise ValueError(
            f"check_layer: keep returned {type(small).__name__}; return a {type(layer).__name__}"
        )
    kept = host_system("check_layer", 0, small)
    remedy = "select the states of every array by the mask, in their order"
    error = _system_error("keep(mask).system()", kept, system.keep(mask), remedy)
    after = host_system("check_layer", 0, layer)
    _system_error("system() after keep", after, system, "keep must return a new layer")
    return error


def _check_write(layer: WritableLayer, system: AnySystem) -> None:
    """Write half of `C` and `D`, which every refit changes."""
    half = eqx.tree_at(lambda one: (one.C, one.D), system, (system.C / 2, system.D / 2))
    written = host_system("check_layer", 0, write_system(layer, half))
    remedy = "set the parameters such that system() returns the given system"
    _system_error("with_system(system).system()", written, half, remedy)


def _system_error(what: str, given: AnySystem, expected: AnySystem, remedy: str) -> float:
    one, other = _arrays(given), _arrays(expected)
    errors = [0.0]
    for name, array in other.items():
        shape = one[name].shape if name in one else None
        if shape != array.shape:
            raise ValueError(
                f"check_layer: {what}.{name} has shape {shape}, not {array.shape}: {remedy}"
            )
        errors.append(_difference(one[name], array))
        if not errors[-1] <= _TOLERANCE:
            raise ValueError(
                f"check_layer: {what}.{name} is wrong by {errors[-1]:.2g} of the largest value: "
                f"{remedy}"
            )
    return max(errors)


def _check_gradients(layer: Layer, u: np.ndarray) -> None:
    def loss(one: Any) -> jax.Array:
        return jnp.sum(one(jnp.asarray(u)) ** 2)

    gradients = eqx.filter_grad(loss)(layer)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        if not np.isfinite(np.asarray(gradient)).all():
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise ValueError(f"check_layer: the gradient of {name} is not finite")


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    if not other.size:
        return 0.0
    difference = np.abs(one - other).max()
    return float(difference / max(float(np.abs(other).max()), np.finfo(np.float32).tiny))
