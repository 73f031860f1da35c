"""Parts that several formats share."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from lastax.interop._scope import NotRepresentableError, Scope
from lastax.nn._blocks import Linear
from lastax.nn._networks import Classifier, Network
from lastax.nn._normalization import BatchNorm, LayerNorm, RunningStatistics

Norm = BatchNorm | LayerNorm


def to_jax(array: np.ndarray) -> Any:
    """A JAX array, in double precision only if JAX uses it."""
    return jnp.asarray(np.ascontiguousarray(array).reshape(array.shape))


def to_numpy(array: Any) -> np.ndarray:
    """A NumPy array on the host."""
    return np.asarray(array)


def linear(scope: Scope, inputs: str, outputs: str, *, torch: bool) -> Linear:
    """A linear map, without a bias or with one.

    Args:
        scope: where the map is.
        inputs: name of the axis of inputs.
        outputs: name of the axis of outputs.
        torch: `weight` is (outputs, inputs), else `kernel` is (inputs, outputs).
    """
    if torch:
        weight = scope.take("weight", outputs, inputs).T
    else:
        weight = scope.take("kernel", inputs, outputs)
    bias = scope.optional("bias", outputs)
    return Linear(to_jax(weight), to_jax(np.zeros(weight.shape[1]) if bias is None else bias))


def linear_arrays(
    linear: Linear, path: str, like: Mapping[str, np.ndarray], *, torch: bool
) -> dict[str, np.ndarray]:
    """The arrays of a linear map. A bias that the original file lacks must be zero."""
    weight, bias = to_numpy(linear.weight), to_numpy(linear.bias)
    name = "weight" if torch else "kernel"
    arrays = {f"{path}.{name}": weight.T if torch else weight}
    if f"{path}.bias" in like or f"{path}.{name}" not in like:
        return arrays | {f"{path}.bias": bias}
    if np.any(bias):
        raise NotRepresentableError(f"{path} has no bias in the original file, but now needs one")
    return arrays


def batch_norm(
    scope: Scope, names: tuple[str, str, str, str], *, momentum: float, epsilon: float | None
) -> BatchNorm:
    """A batch norm with the given names of scale, bias, mean and variance."""
    scale, bias, mean, variance = names
    running = RunningStatistics(to_jax(scope.take(mean, "H")), to_jax(scope.take(variance, "H")))
    return BatchNorm(
        *_affine(scope, scale, bias), running, momentum, 1e-5 if epsilon is None else epsilon
    )


def layer_norm(scope: Scope, scale: str, bias: str, *, epsilon: float | None) -> LayerNorm:
    """A layer norm with the given names."""
    return LayerNorm(*_affine(scope, scale, bias), 1e-6 if epsilon is None else epsilon)


def _affine(scope: Scope, scale: str, bias: str) -> tuple[Any, Any]:
    size = scope.sizes["H"]
    found = scope.optional(scale, "H"), scope.optional(bias, "H")
    return (
        to_jax(np.ones(size) if found[0] is None else found[0]),
        to_jax(np.zeros(size) if found[1] is None else found[1]),
    )


def check_classifier(model: object, gates: tuple[str, ...]) -> Classifier:
    """The model, if it is a classifier with such gates.

    Raises:
        NotRepresentableError: if it is not.
    """
    if not isinstance(model, Classifier):
        raise NotRepresentableError(f"the model is a {type(model).__name__}, not a Classifier")
    check_gates(model, gates)
    return model


def check_gates(model: Network, gates: tuple[str, ...]) -> None:
    """Check that all gates of a network have one of the given activations.

    Raises:
        NotRepresentableError: if one has not.
    """
    for block in model.encoder.blocks:
        if block.gate.activation not in gates:
            raise NotRepresentableError(
                f"its activation is {block.gate.activation}, the format has {', '.join(gates)}"
            )


def check_layer(layer: object, kind: type, *, bidirectional: bool = False) -> Any:
    """The layer, if it is of the right class, direction and feedthrough.

    Raises:
        NotRepresentableError: if it is not.
    """
    if not isinstance(layer, kind):
        raise NotRepresentableError(
            f"the layer is a {type(layer).__name__}, the format has {kind.__name__}"
        )
    fields: Any = layer
    if fields.C_reverse is not None and not bidirectional:
        raise NotRepresentableError("the layer is bidirectional, the format is not")
    return fields
