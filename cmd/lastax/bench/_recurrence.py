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


def recurrence_programs(
    shape: Shape, methods: Sequence[ScanMethod] | None = None
) -> dict[str, Program]:
    """Forward pass and gradient of each scan method."""
    rng = np.random.default_rng(0)
    radius, angle = rng.uniform(0.9, 0.999, shape.states), rng.uniform(-3, 3, shape.states)
    lam = jnp.asarray(radius * np.exp(1j * angle), jnp.complex64)
    size = (shape.batch, shape.length, shape.states)
    b = jnp.asarray(rng.normal(size=size) + 1j * rng.normal(size=size), jnp.complex64)

    def energy(scan: Callable, lam: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.sum(jnp.abs(jax.vmap(lambda b: scan(lam, b))(b)) ** 2)

    def lastax_scan(method: ScanMethod, lam: jax.Array, b: jax.Array) -> jax.Array:
        return lastax.diagonal_scan(lam, b, method=method)[0]

    scans: dict[str, Callable] = {REFERENCE: reference_scan} | {
        method: functools.partial(lastax_scan, method) for method in methods or METHODS
    }
    states = shape.steps * shape.states
    forward, gradient = Work(8 * states, 16 * states), Work(24 * states, 56 * states)
    programs = {}
    for name, scan in scans.items():
        batched = jax.vmap(scan, in_axes=(None, 0))
        differentiated = jax.grad(functools.partial(energy, scan), argnums=(0, 1))
        programs[f"forward/{name}"] = Program(batched, (lam, b), forward)
        programs[f"gradient/{name}"] = Program(differentiated, (lam, b), gradient)
    return programs


SUITE = Suite(
    "recurrence",
    "Time the recurrence in one direction, with complex inputs and outputs.",
    recurrence_programs,
)
recurrence = comparison_command(SUITE)
