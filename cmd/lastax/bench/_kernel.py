"""`lastax bench kernel`: convolution kernels of S4D."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import lastax
from lastax.cmd.bench._comparison import Suite, comparison_command
from lastax.cmd.bench._programs import LASTAX, REFERENCE, Program, Shape, Work
from lastax.cmd.bench._reference import reference_kernels

_STATES_PER_CHANNEL = 32


def kernel_programs(shape: Shape) -> dict[str, Program]:
    """Kernels as products of powers, and with one exponential per state and step.

    Every channel has 32 states, independent of `shape.states`. A second set of programs has half of
    the states removed, with unequal numbers per channel.
    """
    layer = lastax.S4D.initialize(shape.channels, _STATES_PER_CHANNEL, key=jax.random.key(0))
    system = layer.system()
    keep = np.random.default_rng(0).random(system.states) < np.repeat(
        np.linspace(0, 1, shape.channels), _STATES_PER_CHANNEL
    )
    programs = {}
    for name, one in (("", system), (" 50 %", system.keep(keep))):
        arguments = one.lam, one.B * one.C
        counts = one.counts
        # Real and imaginary part of two products; one element of the kernel at a time.
        work = Work(4 * one.states * shape.length, 4 * shape.channels * shape.length)
        for implementation, kernels in (
            (REFERENCE, reference_kernels),
            (LASTAX, lastax.ssm.channel_kernels),
        ):
            forward = functools.partial(_kernels, kernels, counts, shape.length)
            programs[f"forward{name}/{implementation}"] = Program(forward, arguments, work)
            gradient = jax.grad(functools.partial(_energy, forward), argnums=(0, 1))
            programs[f"gradient{name}/{implementation}"] = Program(gradient, arguments, work * 3)
    return programs


def _kernels(
    kernels: Callable, counts: tuple[int, ...], length: int, lam: jax.Array, weight: jax.Array
) -> jax.Array:
    return kernels(lam, weight, counts, length)


def _energy(forward: Callable, lam: jax.Array, weight: jax.Array) -> jax.Array:
    return jnp.sum(forward(lam, weight) ** 2)


SUITE = Suite("kernel", "Time the convolution kernels of an S4D layer.", kernel_programs)
kernel = comparison_command(SUITE)
