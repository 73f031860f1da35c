"""Products and sums over time against plain `jnp` operations and their gradients."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lastax.ssm import _products
from lastax.ssm._products import add_row, multiply_row, product, scale_and_add, total

from ..systems import compiled

LENGTH = 7

# The operation, its plain version, and the shapes of its arguments.
OPERATIONS = {
    "widening product": (product, jnp.matmul, [(LENGTH, 2), (2, 5)]),
    "narrowing product": (product, jnp.matmul, [(LENGTH, 5), (5, 2)]),
    "total": (total, lambda x: jnp.sum(x, axis=0), [(LENGTH, 3)]),
    "add_row": (add_row, lambda x, row: x + row[None], [(LENGTH, 3), (3,)]),
    "multiply_row": (multiply_row, lambda x, row: x * row[None], [(LENGTH, 3), (3,)]),
    "scale_and_add": (
        lambda x, rows: scale_and_add(x, *rows),
        lambda x, rows: x * rows[:1] + rows[1:],
        [(LENGTH, 3), (2, 3)],
    ),
}
operations = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)

# For each `vmap`, outer one first: its size, and which of the two arguments have the batch axis.
BATCHES = {
    "single": [],
    "batch": [(4, True, False)],
    "batch of one": [(1, True, False)],
    "batch of both": [(4, True, True)],
    "batch of the second": [(4, False, True)],
    "nested": [(2, True, False), (4, True, False)],
    "nested, second inside": [(2, True, False), (4, False, True)],
    "nested, second outside": [(2, False, True), (4, True, False)],
    "nested, inner of one": [(4, True, False), (1, True, False)],
}


def draw(shapes, batch, dtype):
    rng = np.random.default_rng(0)
    leads = [[size for size, *has in batch if has[number]] for number in range(len(shapes))]
    drawn = [rng.normal(size=(*lead, *shape)) for lead, shape in zip(leads, shapes, strict=True)]
    return [jnp.asarray(a, dtype) for a in drawn]


def mapped(function, arguments, batch):
    for _, *has in reversed(batch):
        axes = tuple(0 if one else None for one in has[: len(arguments)])
        function = jax.vmap(function, in_axes=axes)
    return function


def values_and_gradients(function, arguments, batch):
    """Gradients of each example's loss, and gradients of the sum of all losses, as in training.

    The loss of an example is linear, so its cotangent has no batch axis.
    """

    def linear(*arguments):
        value = function(*arguments)
        return jnp.sum(value * jnp.cos(jnp.arange(value.size).reshape(value.shape))), value

    def energy(*arguments):
        return jnp.sum(jnp.sin(function(*arguments)))

    numbers = tuple(range(len(arguments)))
    own = mapped(jax.value_and_grad(linear, numbers, has_aux=True), arguments, batch)
    summed = jax.grad(lambda *a: jnp.sum(mapped(energy, arguments, batch)(*a)), numbers)
    return own(*arguments), summed(*arguments)


@operations
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_values_and_gradients_equal_plain_operations(operation, batch, x64):
    function, plain, shapes = operation
    if len(shapes) == 1 and not all(first for _, first, _ in batch):
        pytest.skip("there is no second argument")
    arguments = draw(shapes, batch, jnp.float64)

    @compiled
    def both(arguments):
        return [values_and_gradients(f, arguments, batch) for f in (function, plain)]

    got, expected = both(arguments)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert one.dtype == jnp.float64
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)


@operations
def test_float32_stays_float32(operation):
    function, plain, shapes = operation
    arguments = draw(shapes, [], jnp.float32)
    value = function(*arguments)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, plain(*arguments), rtol=1e-5, atol=1e-6)
    assert {bar.dtype for bar in jax.vjp(function, *arguments)[1](value)} == {jnp.dtype("float32")}


@operations
def test_derivatives_are_one_matrix_product_per_sequence(operation):
    """On a CPU, no product contracts batch and time together, and no sum over time can be fused."""
    function, _, shapes = operation
    arguments = draw(shapes, BATCHES["batch"], jnp.float32)

    @jax.jit
    def derivatives(arguments):
        values, pullback = jax.vjp(mapped(function, arguments, BATCHES["batch"]), *arguments)
        return values, pullback(jnp.sin(values))

    program = derivatives.trace(arguments).lower(lowering_platforms=("cpu",)).as_text()
    contracted = re.findall(r"contracting_dims = \[(.*?)\]", program)
    assert contracted
    assert not [axes for axes in contracted if "," in axes]
    assert set(re.findall(r"across dimensions = \[(.*?)\]", program)) <= {"0"}
    # The sum over the batch comes after the sum over time.
    summed = re.findall(r"stablehlo.reduce\(.*\((tensor<.*?>)", program)
    assert not [shape for shape in summed if f"x{LENGTH}x" in shape]


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_joint_sums_are_correct(batch, x64, monkeypatch):
    """A GPU computes two sums as one complex sum. So does the CPU here."""
    monkeypatch.setattr(_products, "sums_jointly", lambda target: True)
    test_values_and_gradients_equal_plain_operations(OPERATIONS["scale_and_add"], batch, None)


@pytest.mark.parametrize(("platform", "joint"), [("cpu", False), ("cuda", True)])
def test_sums_are_joint_on_a_gpu_only(platform, joint):
    x, row = jnp.ones((4, LENGTH, 3)), jnp.ones(3)
    apply = jax.vmap(scale_and_add, in_axes=(0, None, None))
    gradient = jax.jit(jax.grad(lambda *a: jnp.sum(apply(*a) ** 2), (1, 2)))
    program = gradient.trace(x, row, row).lower(lowering_platforms=(platform,)).as_text()
    assert ("complex" in program) == joint
