"""Products in ONNX.

Weights are constants in float32, or integers that the runtime multiplies by scales. With rounded
inputs, the runtime multiplies integers.
"""

from __future__ import annotations

import numpy as np
import onnx

from lastax._typing import Array
from lastax.deployment._onnx_graph import Graph, Operand
from lastax.deployment._rounded_inputs import input_scale
from lastax.deployment._rounding import channels_to_int8, to_int8
from lastax.nn._blocks import Linear
from lastax.nn._recurrence import Recurrence

FLOAT = int(onnx.TensorProto.FLOAT)


def product(graph: Graph, x: str, weights: Array, reader: Linear | Recurrence) -> str:
    """The product of `x` and a matrix whose columns are outputs.

    Args:
        graph: where nodes are appended.
        x: rows of inputs.
        weights: the matrix.
        reader: the part of the cell that it belongs to. If that part rounds its inputs, the product
            is one of integers.
    """
    scale = input_scale(reader)
    if scale is None:
        return graph.add("MatMul", x, matrix(graph, weights))
    integers, scales = to_int8(np.asarray(weights).T)
    rounded = graph.add("QuantizeLinear", x, np.asarray(scale), np.zeros((), np.int8))
    sums = graph.add("MatMulInteger", rounded, integers.T)
    return graph.add("Mul", graph.add("Cast", sums, to=FLOAT), scales * scale)


def matrix(graph: Graph, weights: Array) -> Operand:
    """A matrix whose columns are outputs."""
    if graph.quantize is None:
        return weights
    integers, scales = to_int8(np.asarray(weights).T)
    # Outside of a loop, weights are converted only once.
    return graph.outermost.add("DequantizeLinear", integers.T, scales, axis=1)


def rows(graph: Graph, weights: np.ndarray, index: str) -> str:
    """The rows of such a matrix at these places."""
    if graph.quantize is None:
        return graph.add("Gather", weights, index)
    integers, scales = to_int8(weights.T)
    return graph.add("DequantizeLinear", graph.add("Gather", integers.T, index), scales, axis=-1)


def channel_weights(graph: Graph, weights: Array, channel: np.ndarray) -> Operand:
    """Weights of states, whose real parts come before the imaginary parts.

    Args:
        graph: where nodes are appended.
        weights: the weights, shape `(2 P,)`.
        channel: the channel of each state, shape `(P,)`. Each channel has a scale.
    """
    if graph.quantize is None:
        return weights
    integers, scales = channels_to_int8(np.asarray(weights), channel)
    graph = graph.outermost
    scale = graph.add("Gather", scales, channel)
    scale = graph.add("Concat", scale, scale, axis=0)
    return graph.add("Mul", graph.add("Cast", integers, to=FLOAT), scale)
