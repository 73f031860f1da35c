"""The streaming cell as an ONNX graph. Values have a leading axis for the batch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import jax
import numpy as np
import onnx

from lastax.deployment._onnx_compensated import add_compensated, advance
from lastax.deployment._onnx_graph import Graph, value_info
from lastax.deployment._onnx_weights import FLOAT, channel_weights, matrix, product, rows
from lastax.deployment._rounding import Quantization
from lastax.nn._blocks import Gate, Linear
from lastax.nn._cell_block import CellBlock, CellNorm
from lastax.nn._channel_recurrence import ChannelRecurrence
from lastax.nn._recurrence import Recurrence
from lastax.nn._streaming_cell import StreamingCell
from lastax.serialization._arrays import named_arrays

FORMAT_VERSION = "1"


def step_model(
    cell: StreamingCell, classes: Sequence[str], quantize: Quantization | None = None
) -> bytes:
    """The file of one step. With `quantize`, the cell must be one of `rounded_cell`."""
    cell, states = _on_host(cell), _states(cell)
    graph = Graph(quantize=quantize)
    values = {name: f"state.{name}" for name in states}
    h = _embed(graph, cell, "x")
    h, new = _blocks(graph, cell, h, values)
    if cell.pooling == "mean":
        total, error = add_compensated(graph, values["pooled.value"], values["pooled.error"], h)
        steps = graph.add("Add", values["pooled.steps"], np.ones(1, np.int32))
        h = _mean(graph, total, graph.add("Unsqueeze", steps, np.array([1])))
        new |= {"pooled.value": total, "pooled.error": error, "pooled.steps": steps}
    graph.rename(_linear(graph, cell.head, h), "logits")
    for name in states:
        graph.rename(new[name], f"next.{name}")

    inputs = [_input(cell, ("batch",)), *_infos("state", states)]
    logits = value_info("logits", np.float32, ("batch", len(cell.head.bias)))
    outputs = [logits, *_infos("next", states)]
    return graph.model("step", inputs, outputs, _metadata(cell, classes))


def sequence_model(
    cell: StreamingCell, classes: Sequence[str], quantize: Quantization | None = None
) -> bytes:
    """The file of a whole sequence: a `Scan` over the blocks, and the head once at the end."""
    cell, states = _on_host(cell), _states(cell)
    states.pop("pooled.steps", None)
    if cell.pooling == "last":
        # The output of the last block takes the place of the sum.
        states["pooled.value"] = np.zeros(len(cell.embed.bias), np.float32)
    graph = Graph(quantize=quantize)
    embedded = _embed(graph, cell, "x")
    sizes = graph.add("Shape", "x")
    batch, length = (graph.add("Gather", sizes, np.array([axis])) for axis in (0, 1))
    shapes = (np.array(state.shape, np.int64) for state in states.values())
    zeros = [
        graph.add("ConstantOfShape", graph.add("Concat", batch, shape, axis=0)) for shape in shapes
    ]
    options = {"body": _scanned(graph, cell, states), "num_scan_inputs": 1, "scan_input_axes": [1]}
    final = graph.add_many("Scan", *zeros, embedded, outputs=len(zeros), **options)
    h = dict(zip(states, final, strict=True))["pooled.value"]
    if cell.pooling == "mean":
        h = _mean(graph, h, length)
    graph.rename(_linear(graph, cell.head, h), "logits")
    inputs = [_input(cell, ("batch", "length"))]
    outputs = [value_info("logits", np.float32, ("batch", len(cell.head.bias)))]
    return graph.model("sequence", inputs, outputs, _metadata(cell, classes))


def _scanned(
    parent: Graph, cell: StreamingCell, states: Mapping[str, np.ndarray]
) -> onnx.GraphProto:
    """The loop body: the new states, given the states and one embedded step."""
    graph = Graph(parent)
    values = {name: f"state.{name}" for name in states}
    h, new = _blocks(graph, cell, "h", values)
    if cell.pooling == "mean":
        total, error = add_compensated(graph, values["pooled.value"], values["pooled.error"], h)
        new |= {"pooled.value": total, "pooled.error": error}
    else:
        new["pooled.value"] = h
    for name in states:
        graph.rename(new[name], f"next.{name}")
    step = value_info("h", np.float32, ("batch", len(cell.embed.bias)))
    return graph.finished("body", [*_infos("state", states), step], _infos("next", states))


def _infos(kind: str, states: Mapping[str, np.ndarray]) -> list[onnx.ValueInfoProto]:
    return [
        value_info(f"{kind}.{name}", state.dtype.type, ("batch", *state.shape))
        for name, state in states.items()
    ]


def _on_host(cell: StreamingCell) -> StreamingCell:
    """The cell with NumPy arrays in float32."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), cell)


def _states(cell: StreamingCell) -> dict[str, np.ndarray]:
    """The states before the first step by name. Layers without states have none."""
    states = {name: np.asarray(leaf) for name, leaf in named_arrays(cell.init()).items()}
    return {
        name: leaf if leaf.dtype == np.int32 else leaf.astype(np.float32)
        for name, leaf in states.items()
        if leaf.size
    }


def _input(cell: StreamingCell, leading: tuple[str, ...]) -> onnx.ValueInfoProto:
    if cell.tokens:
        return value_info("x", np.int32, leading)
    return value_info("x", np.float32, (*leading, cell.embed.weight.shape[0]))


def _metadata(cell: StreamingCell, classes: Sequence[str]) -> dict[str, str]:
    counts = [len(block.recurrence.lam_re) for block in cell.blocks]
    return {
        "lastax.format": FORMAT_VERSION,
        "lastax.classes": json.dumps(list(classes)),
        "lastax.pooling": cell.pooling,
        "lastax.states": json.dumps(counts),
    }


def _linear(graph: Graph, linear: Linear, x: str) -> str:
    return graph.add("Add", product(graph, x, linear.weight, linear), linear.bias)


def _embed(graph: Graph, cell: StreamingCell, x: str) -> str:
    if not cell.tokens:
        return _linear(graph, cell.embed, x)
    # Tokens outside of the table stand for zero, the last row.
    size = len(cell.embed.weight)
    table = np.concatenate([cell.embed.weight, np.zeros_like(cell.embed.weight[:1])])
    limit = np.array(size, np.int32)
    below = graph.add("Less", x, np.array(0, np.int32))
    outside = graph.add("Or", below, graph.add("GreaterOrEqual", x, limit))
    row = rows(graph, table, graph.add("Where", outside, limit, x))
    return graph.add("Add", row, cell.embed.bias)


def _blocks(
    graph: Graph, cell: StreamingCell, h: str, values: Mapping[str, str]
) -> tuple[str, dict[str, str]]:
    """The output of the last block, and the new states by name."""
    new: dict[str, str] = {}
    for number, block in enumerate(cell.blocks):
        names = [f"layers.{number}.{part}" for part in ("value", "error")]
        state, h = _block(graph, block, h, [values.get(name) for name in names])
        new |= {name: part for name, part in zip(names, state, strict=True) if part is not None}
    return h, new


def _block(
    graph: Graph, block: CellBlock, h: str, state: Sequence[str | None]
) -> tuple[Sequence[str | None], str]:
    u = _norm(graph, block.norm, h) if block.prenorm else h
    value, error = state
    y = _feedthrough(graph, block.recurrence, u)
    if value is not None:
        recurrence = block.recurrence
        lam = (recurrence.lam_re, recurrence.lam_im)
        value, error = advance(graph, lam, value, error, _drive(graph, recurrence, u))
        y = _observe(graph, recurrence, value, y)
    h = graph.add("Add", h, _gate(graph, block.gate, y))
    return (value, error), h if block.prenorm else _norm(graph, block.norm, h)


def _norm(graph: Graph, norm: CellNorm, x: str) -> str:
    if norm.epsilon is not None:
        options = {"axis": -1, "epsilon": norm.epsilon}
        return graph.add("LayerNormalization", x, norm.scale, norm.bias, **options)
    return graph.add("Add", graph.add("Mul", x, norm.scale), norm.bias)


def _feedthrough(graph: Graph, recurrence: Recurrence, u: str) -> str:
    if recurrence.D.ndim == 2:
        return product(graph, u, recurrence.D, recurrence)
    return graph.add("Mul", u, recurrence.D)


def _drive(graph: Graph, recurrence: Recurrence, u: str) -> str:
    """The driving input of the states."""
    if not isinstance(recurrence, ChannelRecurrence):
        return product(graph, u, recurrence.B, recurrence)
    own = graph.add("Gather", u, _channel(recurrence), axis=1)
    return graph.add("Mul", graph.add("Concat", own, own, axis=1), recurrence.B)


def _observe(graph: Graph, recurrence: Recurrence, x: str, feedthrough: str) -> str:
    """The output: that of the states, and the feedthrough."""
    if not isinstance(recurrence, ChannelRecurrence):
        return graph.add("Add", graph.add("MatMul", x, matrix(graph, recurrence.C)), feedthrough)
    weights = channel_weights(graph, recurrence.C, _channel(recurrence))
    weighted = graph.add("Mul", x, weights)
    parts = graph.add("Add", *graph.add_many("Split", weighted, outputs=2, axis=1, num_outputs=2))
    index = graph.add("Expand", _channel(recurrence)[None], graph.add("Shape", parts))
    options = {"axis": 1, "reduction": "add"}
    return graph.add("ScatterElements", feedthrough, index, parts, **options)


def _channel(recurrence: ChannelRecurrence) -> np.ndarray:
    """The channel of each state."""
    return np.repeat(np.arange(len(recurrence.counts), dtype=np.int32), recurrence.counts)


def _gate(graph: Graph, gate: Gate, y: str) -> str:
    approximate = "tanh" if gate.gelu == "tanh" else "none"
    g = graph.add("Gelu", y, approximate=approximate)
    if gate.gate is None:
        return g
    passed = y if gate.activation == "half_glu2" else g
    if gate.value is not None:
        passed = _linear(graph, gate.value, g)
    return graph.add("Mul", passed, graph.add("Sigmoid", _linear(graph, gate.gate, g)))


def _mean(graph: Graph, total: str, steps: str) -> str:
    return graph.add("Div", total, graph.add("Cast", steps, to=FLOAT))
