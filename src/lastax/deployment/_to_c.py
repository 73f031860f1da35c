"""From a network to C99."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from lastax._errors import RunError
from lastax._typing import Array
from lastax.deployment._constants import cell_of, float32_cell
from lastax.deployment._footprint import Footprint
from lastax.deployment._parts import make_parts
from lastax.deployment._program import Golden, header_file, make_program, source_file, test_file
from lastax.deployment._rounding import Quantization, rounded_cell
from lastax.nn._networks import Network
from lastax.nn._streaming_cell import StreamingCell
from lastax.serialization._files import folder_written_at_once

_STEPS = 64
# Largest difference that the written test accepts, relative to the largest logit.
_TOLERANCE = 1e-5
# Headers that the written files include.
_RESERVED = {"float", "math", "stdint", "stdio"}


def to_c(
    model: Network | StreamingCell,
    folder: str | Path,
    *,
    name: str = "model",
    compensated: bool | None = None,
    quantize: Quantization | None = None,
    example: Shaped[Array, "*shape"] | None = None,
) -> Footprint:
    """Write a network as C99 code that reads one step at a time in float32.

    `NAME.h` and `NAME.c` need a C99 compiler and its mathematical library. They allocate nothing
    and have no variable data outside of the state that the caller passes, so that one program can
    read any number of streams. `NAME_test.c` is a program that compares the code with JAX.

    Args:
        model: a unidirectional classifier, or its cell.
        folder: the folder to write. It must not exist.
        name: prefix of the files and of all public names.
        compensated: carry the rounding errors of the states along, as in `streaming`. It doubles
            the size of the states and triples the work of the recurrence. By default a cell stays
            as it is. In a model, a layer is compensated if the rounding errors of a state can add
            up to more than 0.1 % of its value, which needs a state with `1 - |lam| < 6e-5`.
        quantize: `int8` for weights in 8 bits, with one scale per output channel. These are the
            linear maps, `B` and `C`. States, `lam` and activations keep float32.
        example: sequence for the test, features `(L, d)` or tokens `(L,)`; noise by default.

    Returns:
        The size of the program, and its work per step.

    Raises:
        ValueError: if the model cannot stream, has an unstable state or values that are not finite,
            or if an argument has a wrong value.
        RunError: if the folder exists or cannot be written. Nothing is left behind.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or name in _RESERVED:
        raise ValueError(
            f"to_c: name must consist of letters, digits and _, begin with a letter and be no "
            f"header of C, got {name!r}"
        )
    cell = float32_cell("to_c", cell_of(model, compensated))
    inputs = _inputs(cell, example)
    cell = rounded_cell("to_c", cell, quantize)
    program = make_program(name, cell, make_parts(cell, quantize))
    texts = {
        f"{name}.h": header_file(program),
        f"{name}.c": source_file(program),
        f"{name}_test.c": test_file(program, _golden(cell, inputs)),
    }
    with folder_written_at_once(folder) as fresh:
        for file, text in texts.items():
            try:
                (fresh / file).write_text(text)
            except OSError as error:
                raise RunError(f"cannot write {folder}: {error.strerror}") from error
    return program.footprint


def _inputs(cell: StreamingCell, example: Array | None) -> np.ndarray:
    size, rng = cell.embed.weight.shape[0], np.random.default_rng(0)
    dtype = np.int32 if cell.tokens else np.float32
    if example is None:
        if cell.tokens:
            return rng.integers(0, size, _STEPS).astype(dtype)
        return rng.standard_normal((_STEPS, size)).astype(dtype)
    given = np.asarray(example)
    expected = "tokens of shape (L,)" if cell.tokens else f"features of shape (L, {size})"
    fits = given.ndim == 1 if cell.tokens else given.shape[1:] == (size,)
    kind = np.integer if cell.tokens else np.number
    if not fits or not len(given) or not np.issubdtype(given.dtype, kind):
        raise ValueError(
            f"to_c: example must be {expected} with L >= 1, got {given.dtype} of shape "
            f"{given.shape}"
        )
    return given.astype(dtype)


def _golden(cell: StreamingCell, inputs: np.ndarray) -> Golden:
    """The outputs of a cell in float64."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), cell)
        run = jax.jit(
            lambda cell, xs: jax.lax.scan(lambda state, x: cell.step(state, x), cell.init(), xs)[1]
        )
        logits = np.asarray(run(wide, inputs))
    tolerance = _TOLERANCE * float(np.abs(logits).max())
    return Golden(inputs, logits.astype(np.float32), tolerance)
