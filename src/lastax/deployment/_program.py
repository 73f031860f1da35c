"""The files of a C program: header, source and test."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from lastax.deployment._footprint import Footprint, footprint_of
from lastax.deployment._functions import definitions
from lastax.deployment._parts import STEPS, Constant, Part, literal
from lastax.nn._streaming_cell import StreamingCell

_WIDTH = 96
_TYPES = {"float32": "float", "int8": "int8_t", "uint16": "uint16_t", "int32": "int32_t"}


class Golden(NamedTuple):
    """What the test of a program compares.

    Attributes:
        inputs: features `(L, d)` in float32, or tokens `(L,)` in int32.
        logits: outputs after each step in float32, shape `(L, classes)`.
        tolerance: largest allowed difference.
    """

    inputs: np.ndarray
    logits: np.ndarray
    tolerance: float


class Program(NamedTuple):
    """A step of a cell, in the terms of C.

    Attributes:
        name: prefix of all public names.
        summary: what the program is, in one line.
        sizes: name and value of each public size.
        input: declaration of the input of a step.
        parts: the parts of a step.
        scratch: name and number of elements of each array on the stack. Elements of `q` are
            integers of 8 bits, and others float32.
    """

    name: str
    summary: str
    sizes: tuple[tuple[str, int], ...]
    input: str
    parts: tuple[Part, ...]
    scratch: tuple[tuple[str, int], ...]

    @property
    def footprint(self) -> Footprint:
        """The size of the program, and its work per step."""
        return footprint_of(self.parts)

    @property
    def statements(self) -> str:
        """All statements of a step."""
        lines = []
        for part in self.parts:
            lines += [f"    /* {part.title} */", *(f"    {line}" for line in part.statements)]
        return "\n".join(lines)


def make_program(name: str, cell: StreamingCell, parts: Sequence[Part]) -> Program:
    """The program of a cell.

    Args:
        name: prefix of all public names.
        cell: the cell.
        parts: its parts, from `make_parts`.
    """
    inputs, channels = cell.embed.weight.shape
    states = [len(block.recurrence.lam_re) for block in cell.blocks]
    used = set(re.findall(r"\w+", "\n".join(line for part in parts for line in part.statements)))
    sizes = {"h": channels, "u": channels, "b": 2 * max(states, default=0), "y": channels}
    sizes["g"] = channels
    sizes["q"] = channels if cell.tokens else max(inputs, channels)
    kind = "tokens" if cell.tokens else "features"
    return Program(
        name=name,
        summary=f"{name}: a state-space network of {len(states)} layers, {channels} channels and "
        f"{sum(states)} states",
        sizes=(
            (f"{name.upper()}_{kind.upper()}", inputs),
            (f"{name.upper()}_CLASSES", cell.head.weight.shape[1]),
        ),
        input="int32_t token" if cell.tokens else "const float *input",
        parts=tuple(parts),
        scratch=tuple((buffer, size) for buffer, size in sizes.items() if buffer in used),
    )


def header_file(program: Program) -> str:
    """`NAME.h`."""
    name, sizes = program.name, program.footprint
    macros = "\n".join(f"#define {macro} {value}" for macro, value in program.sizes)
    members = "\n".join(
        f"    uint32_t {STEPS};" if member == STEPS else f"    float {member}[{size}];"
        for part in program.parts
        for member, size in part.state
    )
    stack = sum((1 if buffer == "q" else 4) * size for buffer, size in program.scratch)
    features = program.sizes[0][0]
    takes = (
        f"Read one token, 0 to {features} - 1"
        if "token" in program.input
        else f"Read one step of {features} features"
    )
    return f"""\
/* {program.summary}.
   Written by lastax.

   constants: {sizes.flash_bytes:,} bytes in {sizes.parameters:,} numbers
   state: {sizes.state_bytes:,} bytes per stream
   stack: {stack:,} bytes of arrays
   work: {sizes.multiply_adds:,} multiply-adds per step

   Nothing is allocated, and all variable data are in the state. */
#ifndef {name.upper()}_H
#define {name.upper()}_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

{macros}

/* What the network remembers of one stream. */
typedef struct {{
{members or "    char unused;"}
}} {name}_state;

/* Begin a stream. */
void {name}_init({name}_state *state);

/* {takes}, and write {program.sizes[1][0]} logits. */
void {name}_step({name}_state *state, {program.input}, float *logits);

#ifdef __cplusplus
}}
#endif

#endif
"""


def source_file(program: Program) -> str:
    """`NAME.c`."""
    name = program.name
    constants = "\n\n".join(
        array(constant) for part in program.parts for constant in part.constants
    )
    scratch = "\n".join(
        f"    {'int8_t' if buffer == 'q' else 'float'} {buffer}[{size}];"
        for buffer, size in program.scratch
    )
    clearing = "\n".join(
        f"    state->{STEPS} = 0;" if member == STEPS else f"    clear({size}, state->{member});"
        for part in program.parts
        for member, size in part.state
    )
    functions = definitions(program.statements + clearing)
    exact = any(name in functions for name in ("add_compensated", "to_integers"))
    strict = _STRICT if exact else ""
    strict += _PRODUCT_ERROR if "PRODUCT_ERROR" in functions else ""
    strict += _UNROLLED if "UNROLLED" in functions else ""
    unused = "" if clearing else "    (void)state;\n"
    return f"""\
/* {program.summary}.
   Written by lastax. */
#include "{name}.h"

#include <float.h>
#include <math.h>
{strict}
{functions}
{constants}

void {name}_init({name}_state *state)
{{
{clearing or "    state->unused = 0;"}
}}

void {name}_step({name}_state *state, {program.input}, float *logits)
{{
{scratch}

{unused}{program.statements}
}}
"""


_STRICT = """
/* Some sums rely on how numbers are rounded, which needs exact rules of float arithmetic. */
#if defined(__FAST_MATH__)
#error "compile without -ffast-math and -Ofast"
#endif
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0
#error "compile for float arithmetic in 32 bits, for example with -mfpmath=sse on x86"
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif
"""

_PRODUCT_ERROR = """
/* What rounding takes from the product p of a and b. In software, fmaf is slow. */
#if defined(FP_FAST_FMAF) || DBL_MANT_DIG < 48
#define PRODUCT_ERROR(a, b, p) fmaf(a, b, -(p))
#else
#define PRODUCT_ERROR(a, b, p) ((float)((double)(a) * (b) - (p)))
#endif
"""

_UNROLLED = """
/* A short loop of constant length. GCC does not unroll it with -O2. */
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 8
#define UNROLLED _Pragma("GCC unroll 16")
#else
#define UNROLLED
#endif
"""


def test_file(program: Program, golden: Golden) -> str:
    """`NAME_test.c`."""
    name = program.name
    tokens = golden.inputs.ndim == 1
    steps, (inputs, classes) = len(golden.inputs), (macro for macro, _ in program.sizes)
    argument = "input[step]" if tokens else f"input + step * {inputs}"
    arrays = "\n\n".join(
        array(Constant(label, values))
        for label, values in (("input", golden.inputs), ("expected", golden.logits))
    )
    return f"""\
/* Compare {name}.c with outputs that JAX computed in float64 from the same constants.
   cc -std=c99 -O2 {name}.c {name}_test.c -lm -o {name}_test && ./{name}_test */
#include <math.h>
#include <stdio.h>

#include "{name}.h"

#define STEPS {steps}
#define TOLERANCE {literal(golden.tolerance)}

{arrays}

int main(void)
{{
    static {name}_state state;
    float logits[{classes}], largest = 0.0f;
    int step, i, failed = 0;

    {name}_init(&state);
    for (step = 0; step < STEPS; step++) {{
        {name}_step(&state, {argument}, logits);
        for (i = 0; i < {classes}; i++) {{
            float difference = fabsf(logits[i] - expected[step * {classes} + i]);
            if (!(difference <= TOLERANCE))
                failed = 1;
            if (difference > largest)
                largest = difference;
        }}
    }}
    printf("{name}: %s, largest difference %g, tolerance %g, %d steps, %lu bytes of state\\n",
           failed ? "FAILED" : "passed", (double)largest, (double)TOLERANCE, STEPS,
           (unsigned long)sizeof state);
    return failed;
}}
"""


def array(constant: Constant) -> str:
    """The definition of a constant array."""
    values = np.asarray(constant.values).reshape(-1)
    to_text = literal if values.dtype == np.float32 else str
    kind = _TYPES[str(values.dtype)]
    lines = "\n".join(_lines(map(to_text, values)))
    return f"static const {kind} {constant.name}[{len(values)}] = {{\n{lines}\n}};"


def _lines(words: Iterable[str]) -> Iterable[str]:
    line = "   "
    for word in words:
        if len(line) + len(word) + 2 > _WIDTH:
            yield line
            line = "   "
        line += f" {word},"
    yield line
