"""StableHLO: a network as a file that JAX alone loads and runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp

from lastax._errors import MissingPackageError
from lastax._typing import Array
from lastax.nn._networks import Network, Retrieval, with_precision
from lastax.nn._precision import FULL_PRECISION
from lastax.nn._prediction import predict
from lastax.nn._streaming_cell import StreamingCell
from lastax.serialization._arrays import named_arrays
from lastax.serialization._files import write_atomically

# The platforms of `jax.export`.
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def to_stablehlo(
    model: Network | StreamingCell,
    file: str | Path,
    *,
    platforms: Sequence[str] = ("cpu", "cuda"),
) -> None:
    """Write a network in evaluation mode, with its weights, as StableHLO.

    `jax.export.deserialize(bytearray(content))` reads the file, with JAX and flatbuffers only.
    `call` of the result is one of these functions, for any size of the batch:

    - of a network: `call(x)` gives the logits, shape `(batch, classes)`. `x` is
      `(batch, length, d)`, or `(batch, length)` of tokens, and `(batch, 2, length)` of a
      `Retrieval`. The length is free too.
    - of a streaming cell: `call(x, state)` gives the logits and the next state. `x` is one step,
      `(batch, d)` or `(batch,)`. `state` is a dictionary of arrays, all zero at first.

    Recurrences and convolutions run in pieces of 128 steps, since the length is not known when the
    file is written. Networks may be bidirectional.

    Args:
        model: the network, or a cell from `lastax.streaming`.
        file: the file; replaced if it exists.
        platforms: where the file can run: `cpu`, `cuda`, `rocm` or `tpu`.

    Raises:
        MissingPackageError: if flatbuffers is not installed.
        RunError: if the file cannot be written.
        ValueError: if a platform is unknown, or there is none.
    """
    if isinstance(platforms, str) or not platforms or not set(platforms) <= set(PLATFORMS):
        raise ValueError(
            f"to_stablehlo: platforms must be some of {', '.join(PLATFORMS)}, got {platforms!r}"
        )
    function, arguments = _program(model)
    with _no_source_lines():
        exported = jax.export.export(jax.jit(function), platforms=tuple(platforms))(*arguments)
    try:
        import flatbuffers  # type: ignore[import-untyped, unused-ignore] # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingPackageError("to_stablehlo", error) from error
    write_atomically(file, bytes(exported.serialize()))


@contextlib.contextmanager
def _no_source_lines() -> Iterator[None]:
    """Leave the lines and files of the source code out of the program."""
    name = "jax_traceback_in_locations_limit"
    limit = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, limit)


def _program(
    model: Network | StreamingCell,
) -> tuple[Callable[..., object], tuple[object, ...]]:
    """The exported function, and the shapes of its arguments."""
    batch, length = jax.export.symbolic_shape("batch, length")
    if isinstance(model, StreamingCell):
        cell = model
        state = {
            name: jax.ShapeDtypeStruct((batch, *leaf.shape), leaf.dtype)
            for name, leaf in named_arrays(cell.init()).items()
        }

        def step(x: Array, state: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
            structure = jax.tree.structure(cell.init())
            values = jax.tree.unflatten(structure, [state[name] for name in names])
            new, logits = jax.vmap(lambda state, x: cell.step(state, x))(values, x)
            return logits, named_arrays(new)

        names = tuple(state)
        return step, (_input(cell.embed.weight, cell.tokens, (batch,)), state)
    network, encoder = with_precision(model, FULL_PRECISION), model.encoder
    leading = (batch, 2, length) if isinstance(model, Retrieval) else (batch, length)

    def whole(x: Array) -> Array:
        return predict(network, {"x": x})

    return whole, (_input(encoder.embed.weight, encoder.tokens, leading),)


def _input(weight: Array, tokens: bool, leading: tuple[object, ...]) -> jax.ShapeDtypeStruct:
    if tokens:
        return jax.ShapeDtypeStruct(leading, jnp.int32)
    return jax.ShapeDtypeStruct((*leading, weight.shape[0]), weight.dtype)
