"""The recurrence of real states in ONNX, as in `lastax.ssm._compensated`."""

from __future__ import annotations

import numpy as np

from lastax._typing import Array
from lastax.deployment._onnx_graph import Graph

# Splits a float32 into two parts of 12 bits. Dekker, Numerische Mathematik 18, 1971.
_SPLITTER = np.array([2**12 + 1], np.float32)


def advance(
    graph: Graph,
    lam: tuple[Array, Array],
    value: str,
    error: str | None,
    driven: str,
) -> tuple[str, str | None]:
    """One step of `lam * state + driven`.

    Args:
        graph: where nodes are appended.
        lam: real and imaginary parts of the eigenvalues, each shape `(P,)`.
        value: real, then imaginary parts of the states, shape `(batch, 2 P)`.
        error: rounding errors of `value`; None if the state is not compensated.
        driven: driving input, in the layout of `value`.

    Returns:
        The new value and its error.
    """
    # (re, im) lam = (re, im) * (lam_re, lam_re) + (im, re) * (-lam_im, lam_im).
    own = np.concatenate([lam[0], lam[0]])
    cross = np.concatenate([-lam[1], lam[1]])
    swapped = _swapped(graph, value)
    p, q = graph.add("Mul", value, own), graph.add("Mul", swapped, cross)
    total = graph.add("Add", p, q)
    if error is None:
        return graph.add("Add", total, driven), None
    q_added = graph.add("Sub", total, p)
    p_added = graph.add("Sub", total, q_added)
    terms = [
        graph.add("Sub", p, p_added),
        graph.add("Sub", q, q_added),
        _product_error(graph, value, own, p),
        _product_error(graph, swapped, cross, q),
        graph.add("Mul", error, own),
        graph.add("Mul", _swapped(graph, error), cross),
    ]
    rounding = graph.add("Sum", *terms)
    product = graph.add("Add", total, rounding)
    remainder = graph.add("Sub", rounding, graph.add("Sub", product, total))
    return add_compensated(graph, product, remainder, driven)


def add_compensated(graph: Graph, value: str, error: str, b: str) -> tuple[str, str]:
    """Add `b` to a sum of `value` and `error`. Knuth, TAOCP volume 2, section 4.2.2."""
    total = graph.add("Add", value, b)
    b_added = graph.add("Sub", total, value)
    value_added = graph.add("Sub", total, b_added)
    terms = [graph.add("Sub", value, value_added), graph.add("Sub", b, b_added), error]
    rounding = graph.add("Sum", *terms)
    result = graph.add("Add", total, rounding)
    return result, graph.add("Sub", rounding, graph.add("Sub", result, total))


def _product_error(graph: Graph, x: str, factor: np.ndarray, product: str) -> str:
    """The rounding error of `product`, which is `x * factor`."""
    scaled = graph.add("Mul", x, _SPLITTER)
    high = graph.add("Sub", scaled, graph.add("Sub", scaled, x))
    low = graph.add("Sub", x, high)
    scaled_factor = factor * _SPLITTER
    factor_high = scaled_factor - (scaled_factor - factor)
    factor_low = factor - factor_high
    error = graph.add("Sub", graph.add("Mul", high, factor_high), product)
    error = graph.add("Add", error, graph.add("Mul", high, factor_low))
    error = graph.add("Add", error, graph.add("Mul", low, factor_high))
    return graph.add("Add", error, graph.add("Mul", low, factor_low))


def _swapped(graph: Graph, x: str) -> str:
    """Exchange the real and the imaginary parts."""
    re, im = graph.add_many("Split", x, outputs=2, axis=-1, num_outputs=2)
    return graph.add("Concat", im, re, axis=-1)
