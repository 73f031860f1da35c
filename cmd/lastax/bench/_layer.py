"""`lastax bench layer`: one bidirectional S5 layer."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

import lastax
from lastax.cmd.bench._comparison import Suite, comparison_command
from lastax.cmd.bench._programs import LASTAX, METHODS, REFERENCE, Program, Shape, layer_work
from lastax.cmd.bench._reference import ReferenceS5


def layer_programs(shape: Shape) -> dict[str, Program]:
    """Forward pass, and gradient with respect to all parameters and the input."""
    layer = lastax.S5.initialize(
        shape.channels, shape.states, bidirectional=True, key=jax.random.key(0)
    )
    u = jax.random.normal(jax.random.key(1), (shape.batch, shape.length, shape.channels))

    def energy(layer_and_input: tuple[Any, jax.Array]) -> jax.Array:
        layer, u = layer_and_input
        return jnp.sum(jax.vmap(layer)(u) ** 2)

    layers: dict[str, eqx.Module] = {REFERENCE: ReferenceS5.of(layer), LASTAX: layer}
    for method in METHODS:
        layers[method] = dataclasses.replace(layer, scan_method=method)
    work = layer_work(shape, shape.states)
    programs = {}
    for name, one in layers.items():
        programs[f"forward/{name}"] = Program(lambda layer, u: jax.vmap(layer)(u), (one, u), work)
        programs[f"gradient/{name}"] = Program(eqx.filter_grad(energy), ((one, u),), work * 3)
    return programs


SUITE = Suite("layer", "Time one bidirectional S5 layer.", layer_programs)
layer = comparison_command(SUITE)
