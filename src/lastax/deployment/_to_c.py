"""From a network to C99."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from lastax._errors import RunError
from lastax._typing import Array
from lastax.calibration._chunks import CalibrationBatches
from lastax.deployment._constants import cell_of, float32_cell
from lastax.deployment._footprint import Footprint
from lastax.deployment._parts import make_parts
from lastax.deployment._program import Golden, header_file, make_program, source_file, test_file
from lastax.deployment._rounded_inputs import rounds_inputs, with_offset
from lastax.deployment._rounding import Quantization, rounded_cell
from lastax.nn._networks import Network
from lastax.nn._streaming_cell import StreamingCell, StreamingState
from lastax.serialization._files import folder_written_at_once

_STEPS = 64
# Largest difference that the written test accepts, relative to the largest logit.
_TOLERANCE = 1e-5
# Float32 arithmetic may round an input that is nearer to the middle between two integers to either
# of them. The test does without such inputs: it draws each step from several.
_MARGIN = 3e-4
_CANDIDATES = 16
# Headers that the written files include.
_RESERVED = {"features", "float", "math", "stdint", "stdio"}


def to_c(
    model: Network | StreamingCell,
    folder: str | Path,
    *,
    name: str = "model",
    compensated: bool | None = None,
    quantize: Quantization | None = None,
    calibration: CalibrationBatches | None = None,
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
            linear maps, `B` and `C`. States and `lam` keep float32.
        calibration: unlabeled sequences, as `refit` takes them, for activations in 8 bits. Each
            input of a linear map and of `B` has one scale: its largest absolute value on these
            sequences becomes 127. Products are then those of integers, with sums of 32 bits.
            Without `calibration`, and where `C` reads the states, activations keep float32.
        example: sequence for the test, features `(L, d)` or tokens `(L,)`; noise by default. With
            activations in 8 bits, the test allows larger differences for an `example`, because
            float32 arithmetic may round an input to a neighboring integer.

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
    given = None if example is None else _checked(cell, example)
    cell = rounded_cell("to_c", cell, quantize, calibration)
    program = make_program(name, cell, make_parts(cell, quantize))
    texts = {
        f"{name}.h": header_file(program),
        f"{name}.c": source_file(program),
        f"{name}_test.c": test_file(program, _golden(cell, given)),
    }
    with folder_written_at_once(folder) as fresh:
        for file, text in texts.items():
            try:
                (fresh / file).write_text(text)
            except OSError as error:
                raise RunError(f"cannot write {folder}: {error.strerror}") from error
    return program.footprint


def _checked(cell: StreamingCell, example: Array) -> np.ndarray:
    given, size = np.asarray(example), len(cell.embed.weight)
    expected = "tokens of shape (L,)" if cell.tokens else f"features of shape (L, {size})"
    fits = given.ndim == 1 if cell.tokens else given.shape[1:] == (size,)
    kinds = "iu" if cell.tokens else "iuf"
    if not fits or not len(given) or given.dtype.kind not in kinds:
        raise ValueError(
            f"to_c: example must be {expected} with L >= 1, got {given.dtype} of shape "
            f"{given.shape}"
        )
    with np.errstate(over="ignore"):  # overflow to infinity is detected below
        values = given.astype(np.int32 if cell.tokens else np.float32)
    if not np.isfinite(values).all():
        raise ValueError("to_c: example has values that are not finite in float32")
    return values


def _noise(cell: StreamingCell, candidates: int) -> np.ndarray:
    """Several inputs for each step."""
    size, rng = len(cell.embed.weight), np.random.default_rng(0)
    if cell.tokens:
        return rng.integers(0, size, (_STEPS, candidates)).astype(np.int32)
    return rng.standard_normal((_STEPS, candidates, size)).astype(np.float32)


def _golden(cell: StreamingCell, example: np.ndarray | None) -> Golden:
    """The outputs of a cell in float64."""
    rounds = rounds_inputs(cell)
    inputs = _noise(cell, _CANDIDATES if rounds else 1) if example is None else example[:, None]
    offsets = np.array([0, _MARGIN, -_MARGIN] if rounds else [0.0])
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), cell)
        chosen, logits, spread = map(np.asarray, jax.jit(_clearest_steps)(wide, offsets, inputs))
    tolerance = _TOLERANCE * float(np.abs(logits).max()) + float(spread.max())
    return Golden(chosen, logits.astype(np.float32), tolerance)


def _clearest_steps(
    cell: StreamingCell, offsets: Float[Array, " O"], inputs: Shaped[Array, "L K ..."]
) -> tuple[Shaped[Array, "L ..."], Float[Array, "L classes"], Float[Array, " L"]]:
    """Of each step, the input whose outputs depend least on how numbers are rounded.

    Args:
        cell: the cell.
        offsets: offsets before rounding. The first one is 0.
        inputs: `K` inputs for each step.

    Returns:
        One input per step, the logits, and the largest change of a logit by the offsets.
    """

    def one(offset: Array, state: StreamingState, x: Array) -> tuple[StreamingState, Array]:
        return with_offset(cell, offset).step(state, x)

    all_inputs = jax.vmap(one, in_axes=(None, None, 0))
    all_offsets = jax.vmap(all_inputs, in_axes=(0, 0, None))

    def step(states: StreamingState, xs: Array) -> tuple[StreamingState, tuple[Array, ...]]:
        states, logits = all_offsets(offsets, states, xs)
        spread = jnp.zeros(len(xs))
        for leaf in jax.tree.leaves((states, logits)):
            change = jnp.abs(leaf - leaf[:1]).reshape(len(offsets), len(xs), -1)
            spread = jnp.maximum(spread, change.max(axis=(0, 2), initial=0))
        best = jnp.argmin(spread)
        states, logits = jax.tree.map(lambda leaf: leaf[:, best], (states, logits))
        return states, (xs[best], logits[0], jnp.abs(logits - logits[:1]).max())

    start = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(offsets)), cell.init())
    _, (chosen, logits, changes) = jax.lax.scan(step, start, inputs)
    return chosen, logits, changes
