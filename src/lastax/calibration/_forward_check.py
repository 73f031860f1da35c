"""Comparison of a block-wise forward pass with the model that it describes."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from lastax._typing import Array
from lastax.calibration._blockwise_pass import AnyArray, BlockwisePass, layer_input, layer_of
from lastax.nn._blockwise import BlockwiseForward
from lastax.ssm._precision import exact_products
from lastax.surgery._layers import find_layers, replace_layers

# Largest difference that counts as rounding, as a share of the largest value. Half precision gets
# some units in the last place instead.
_TOLERANCE = 1e-3
_ROUNDING_UNITS = 8


class UncheckedForwardWarning(UserWarning):
    """A block-wise forward pass could not be compared with the model."""


def check_forward(function: str, data: BlockwisePass) -> None:
    """Compare the outputs of a block-wise forward pass with those of the model itself.

    The first records are used, without their lengths. If the outputs differ, the inputs of the
    layers show in which block the difference begins.

    Args:
        function: name of the function that the user called, for error messages.
        data: the model, its block-wise forward pass and the data.

    Raises:
        ValueError: if the outputs differ by more than rounding.
    """
    # Without lengths, since models take them in different ways. Padding then counts as data.
    chunk = dataclasses.replace(data.chunks[0], length=None)
    first = BlockwisePass(data.model, data.forward, [chunk])
    name = type(data.forward).__name__
    try:
        own = _model_outputs(data.forward, data.model, chunk.x)
    except Exception as error:
        warnings.warn(
            f"{function}: {name} is not compared with the model, because the call of the model "
            f"fails ({_first_line(error)}); define model_outputs in {name}",
            UncheckedForwardWarning,
            stacklevel=4,
        )
        return
    if own is None:
        return
    wanted = np.asarray(own)[chunk.real]
    states, layer_inputs = first.enter(), []
    for block in first.blocks:
        layer_inputs.append(np.asarray(layer_input(data.forward, block, states[0]))[0])
        states = first.block_outputs(block, states)
    found = first.outputs(states)
    if wanted.shape != found.shape:
        raise ValueError(
            f"{function}: the outputs of {name} have shape {found.shape}, those of the model "
            f"{wanted.shape}; compare features and head with the end of the model"
        )
    if (difference := _difference(found, wanted)) == 0:
        return
    raise ValueError(
        f"{function}: the outputs of {name} differ from those of the model by {difference:.2g} of "
        f"the largest output; {_where(data, layer_inputs)}"
    )


def _where(data: BlockwisePass, found: list[np.ndarray]) -> str:
    try:
        wanted = _recorded_inputs(data)
    except Exception:
        return f"compare the methods of {type(data.forward).__name__} with the model"
    layers = [id(layer) for layer in find_layers(data.model)]
    for index, block in enumerate(data.blocks):
        inputs = wanted.get(layers.index(id(layer_of(block))))
        if inputs is None:
            return f"the model does not call the layer of block {index}"
        if inputs.shape != found[index].shape or _difference(found[index], inputs):
            earlier = "enter" if index == 0 else f"after (block {index - 1})"
            return (
                f"the difference begins at the input of the layer of block {index}; correct "
                f"{earlier} or before (block {index})"
            )
    last = len(data.blocks) - 1
    return (
        f"the difference begins behind the layer of block {last}, the last one; correct after, "
        "features or head"
    )


def _difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference as a share of the largest value; 0 if it is rounding."""
    precise = found.astype(float), wanted.astype(float)
    scale = max(float(np.max(np.abs(precise[1]), initial=0.0)), np.finfo(float).tiny)
    difference = float(np.max(np.abs(precise[0] - precise[1]), initial=0.0)) / scale
    dtype = wanted.dtype if jnp.issubdtype(wanted.dtype, jnp.inexact) else np.dtype(np.float32)
    tolerance = max(_TOLERANCE, _ROUNDING_UNITS * float(jnp.finfo(dtype).eps))
    return 0.0 if difference <= tolerance else difference


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


class _Recorder:
    """Calls a layer and records its input, also inside `jit`, `vmap` and `scan`."""

    def __init__(self, layer: Any, index: int, inputs: dict[int, np.ndarray]) -> None:
        self._layer, self._index, self._inputs = layer, index, inputs

    def __call__(self, u: Array, *args: Any, **kwargs: Any) -> Any:
        jax.debug.callback(lambda u: self._inputs.update({self._index: np.asarray(u)}), u)
        return self._layer(u, *args, **kwargs)

    # Protocols of Python 3.12 and newer do not see these two by way of `__getattr__`.
    def system(self) -> Any:
        return self._layer.system()

    def keep(self, mask: Any) -> Any:
        return self._layer.keep(mask)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


@eqx.filter_jit
@exact_products
def _model_outputs(forward: BlockwiseForward, model: PyTree, x: AnyArray) -> Array | None:
    return forward.model_outputs(model, jnp.asarray(x))


def _recorded_inputs(data: BlockwisePass) -> dict[int, np.ndarray]:
    """Inputs of the layers, by their number, when the model itself processes the first record."""
    inputs: dict[int, np.ndarray] = {}
    recorders: list[Any] = [
        _Recorder(layer, index, inputs) for index, layer in enumerate(find_layers(data.model))
    ]
    data.forward.model_outputs(
        replace_layers(data.model, recorders), jnp.asarray(data.chunks[0].x[:1])
    )
    jax.effects_barrier()
    return inputs
