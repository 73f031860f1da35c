"""`lastax bench recurrence`: the recurrence in one direction."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

import lastax
from lastax.cmd.bench._comparison import Suite, comparison_command
from lastax.cmd.bench._programs import METHODS, REFERENCE, Program, Shape, Work
from lastax.cmd.bench._reference import reference_scan
from lastax.ssm import ScanMethod
from lastax.ssm._recurrence import scan_split


def recurrence_programs(
    shape: Shape, methods: Sequence[ScanMethod] | None = None
) -> dict[str, Program]:
    """Forward pass and gradient of each scan method."""

    def lastax_scan(method: ScanMethod, lam: jax.Array, b: jax.Array) -> jax.Array:
        return lastax.diagonal_scan(lam, b, method=method)[0]

    scans: dict[str, Callable] = {REFERENCE: reference_scan} | {
        method: functools.partial(lastax_scan, method) for method in methods or METHODS
    }
    states = shape.steps * shape.states
    lam, b = _complex_operands(shape)
    return {
        f"{operation}/{name}": program
        for name, scan in scans.items()
        for operation, program in _forward_and_gradient(
            scan, (lam, b), (Work(8 * states, 16 * states), Work(24 * states, 56 * states))
        ).items()
    }


def layer_recurrence_programs(
    shape: Shape, methods: Sequence[ScanMethod] | None = None
) -> dict[str, Program]:
    """The recurrence as layers use it, in one and in both directions.

    Layers split real and imaginary parts, and both directions read the same input.
    """
    states = shape.steps * shape.states
    lam, b = _complex_operands(shape)
    split = _split(b)

    def of_reference(directions: tuple[bool, ...], lam: jax.Array, b: jax.Array) -> list[jax.Array]:
        return [reference_scan(lam, b, reverse=reverse) for reverse in directions]

    def of_layers(method: ScanMethod, directions: tuple[bool, ...]) -> Callable:
        return functools.partial(scan_split, directions=directions, method=method)

    programs = {}
    for label, directions in (("", (False,)), (", both directions", (False, True))):
        count = len(directions)
        work = (
            Work(8 * count * states, 8 * (1 + count) * states),
            Work(24 * count * states, 8 * (2 + 5 * count) * states),
        )
        scans: list[tuple[str, Callable, jax.Array]]
        scans = [(REFERENCE, functools.partial(of_reference, directions), b)]
        scans += [(method, of_layers(method, directions), split) for method in methods or METHODS]
        for name, scan, driving in scans:
            for operation, program in _forward_and_gradient(scan, (lam, driving), work).items():
                programs[f"{operation}{label}/{name}"] = program
    return programs


def _split(b: jax.Array) -> jax.Array:
    return jnp.concatenate([b.real, b.imag], axis=-1)


def _complex_operands(shape: Shape) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    radius, angle = rng.uniform(0.9, 0.999, shape.states), rng.uniform(-3, 3, shape.states)
    lam = jnp.asarray(radius * np.exp(1j * angle), jnp.complex64)
    size = (shape.batch, shape.length, shape.states)
    b = jnp.asarray(rng.normal(size=size) + 1j * rng.normal(size=size), jnp.complex64)
    return lam, b


def _forward_and_gradient(
    scan: Callable, operands: tuple[jax.Array, jax.Array], work: tuple[Work, Work]
) -> dict[str, Program]:
    batched = jax.vmap(scan, in_axes=(None, 0))

    def energy(lam: jax.Array, b: jax.Array) -> jax.Array:
        states = jax.tree.leaves(batched(lam, b))
        return sum((jnp.sum(jnp.abs(x) ** 2) for x in states), jnp.zeros(()))

    return {
        "forward": Program(batched, operands, work[0]),
        "gradient": Program(jax.grad(energy, argnums=(0, 1)), operands, work[1]),
    }


SUITE = Suite(
    "recurrence",
    "Time the recurrence in one direction, with complex inputs and outputs.",
    recurrence_programs,
)
recurrence = comparison_command(SUITE)
