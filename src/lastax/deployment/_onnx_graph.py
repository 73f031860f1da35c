"""A small builder of ONNX graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

import lastax
from lastax._typing import Array
from lastax.deployment._rounding import Quantization

OPSET = 20
# The version of the file format that belongs to the operator set.
IR_VERSION = 9

# A constant, or the name of a value.
Operand = Array | np.ndarray | str
Size = int | str


class Graph:
    """Nodes and constants under construction. Values are known by their names.

    Attributes:
        outermost: the graph that is not the body of a loop.
        quantize: how weights are stored; None for float32.
    """

    def __init__(self, parent: Graph | None = None, quantize: Quantization | None = None) -> None:
        """An empty graph. The body of a loop keeps its constants in the `parent`."""
        self.outermost: Graph = self if parent is None else parent.outermost
        self.quantize: Quantization | None = quantize if parent is None else parent.quantize
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple, onnx.TensorProto] = {} if parent is None else parent._constants
        self._counter: list[int] = [0] if parent is None else parent._counter

    def add(self, operator: str, *inputs: Operand, **attributes: Any) -> str:
        """Append a node with one output. Returns the name of the output."""
        return self.add_many(operator, *inputs, outputs=1, **attributes)[0]

    def add_many(
        self, operator: str, *inputs: Operand, outputs: int, **attributes: Any
    ) -> list[str]:
        """Append a node with several outputs. Returns their names."""
        self._counter[0] += 1
        names = [f"{operator}_{self._counter[0]}"]
        names = names if outputs == 1 else [f"{names[0]}_{number}" for number in range(outputs)]
        operands = [x if isinstance(x, str) else self._constant(x) for x in inputs]
        self._nodes.append(helper.make_node(operator, operands, names, **attributes))
        return names

    def rename(self, value: str, name: str) -> None:
        """Give an output of the graph the value under another name."""
        self._nodes.append(helper.make_node("Identity", [value], [name]))

    def finished(
        self,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
    ) -> onnx.GraphProto:
        """The graph, without the constants of a parent."""
        return helper.make_graph(self._nodes, name, list(inputs), list(outputs))

    def model(
        self,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        metadata: Mapping[str, str],
    ) -> bytes:
        """The checked model with its constants, as the content of a file."""
        graph = self.finished(name, inputs, outputs)
        graph.initializer.extend(self._constants.values())
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="lastax",
            producer_version=lastax.__version__,
        )
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()

    def _constant(self, array: Array | np.ndarray) -> str:
        """The name of a constant. Equal constants are stored once."""
        array = np.ascontiguousarray(array)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self._constants[key] = numpy_helper.from_array(array, name)
        return self._constants[key].name


def value_info(name: str, dtype: type[np.generic], shape: Sequence[Size]) -> onnx.ValueInfoProto:
    """An input or output. Sizes that are names are free."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, list(shape))
