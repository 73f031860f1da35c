"""The GPU kernels of the recurrence, interpreted on a CPU, and their lowering for a GPU."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import lastax
from lastax.ssm import _device_table
from lastax.ssm._device_table import kernels_for, scan_method_for
from lastax.ssm._pallas_layout import Kernels, Tile
from lastax.ssm._pallas_scan import kernel_adjoint, kernel_scan
from lastax.ssm._primitive import Target
from lastax.ssm._recurrence import scan_output, scan_split

from ..systems import compiled, lowered_for

DIRECTIONS = (False, True)
# Several chunks of a short sequence, with several steps per group of loads.
SMALL = Kernels(
    Tile(steps=8, lanes=4, unroll=2, warps=1),
    Tile(steps=4, lanes=4, unroll=2, warps=1),
    interpret=True,
)
TRITON_CALL = "xla.gpu.triton"


def draw(seed, batch, length, states, lam_batch=()):
    rng = np.random.default_rng(seed)
    lam = rng.uniform(0.5, 1, (*lam_batch, states)) * np.exp(1j * rng.normal(size=states))
    return lam, rng.normal(size=(*batch, length, 2 * states))


def split(x):
    return np.concatenate([x.real, x.imag], axis=-1)


def loop(lam, b, reverse):
    """The recurrence in the dtype of NumPy, for split sequences."""
    half = b.shape[-1] // 2
    b = b[..., :half] + 1j * b[..., half:]
    states, state = np.empty_like(b), np.zeros_like(b[..., 0, :])
    for k in reversed(range(b.shape[-2])) if reverse else range(b.shape[-2]):
        state = states[..., k, :] = lam * state + b[..., k, :]
    return split(states)


def earlier(x, reverse):
    """The state before each step."""
    x = np.roll(x, -1 if reverse else 1, axis=-2)
    x[..., -1 if reverse else 0, :] = 0
    return x


# A batch of one program and a part of one; states likewise; one chunk, or several with a part.
CASES = {
    "parts of tiles": ((3,), 19, 5, (1,), DIRECTIONS),
    "one chunk, lam per sequence": ((3, 2), 5, 2, (3, 1), DIRECTIONS),
    "one direction": ((3,), 19, 5, (1,), (True,)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_kernels_equal_a_loop(case, x64):
    """States, and the adjoint with the gradient of `lam`, for all directions at once."""
    batch, length, states, lam_batch, directions = case
    lam, b = draw(0, batch, length, states, lam_batch)
    bars = tuple(draw(1 + i, batch, length, states)[1] for i in range(len(directions)))
    scan = compiled(functools.partial(kernel_scan, directions, kernels=SMALL))
    found = scan(jnp.asarray(lam), (jnp.asarray(b),))
    wanted = [loop(lam, b, reverse) for reverse in directions]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)

    adjoints = [
        loop(lam.conj(), bar, not reverse) for bar, reverse in zip(bars, directions, strict=True)
    ]
    lam_bar = 0
    for x, adjoint, reverse in zip(wanted, adjoints, directions, strict=True):
        x, g = earlier(x, reverse), adjoint
        x, g = (a[..., :states] + 1j * a[..., states:] for a in (x, g))
        lam_bar = lam_bar + (x.conj() * g).sum(axis=-2).conj()
    shared = length > SMALL.forward.steps
    run = functools.partial(kernel_adjoint, directions, kernels=SMALL, shared=shared)
    got_bar, got = compiled(run)(jnp.asarray(lam), found, bars)
    np.testing.assert_allclose(got, [sum(adjoints)] if shared else adjoints, rtol=0, atol=1e-12)
    np.testing.assert_allclose(got_bar, lam_bar, rtol=0, atol=1e-11)


def test_states_of_16_bit_sequences_are_in_float32():
    """Only what is read and written is rounded to bfloat16."""
    lam, b = draw(0, (1,), 64, 3)
    lam, b = np.asarray(lam[None] / abs(lam) * 0.999, np.complex64), jnp.asarray(b, jnp.bfloat16)
    (found,) = kernel_scan((False,), jnp.asarray(lam), (b,), kernels=SMALL)
    assert found.dtype == jnp.bfloat16
    wanted = loop(lam, np.asarray(b, float), False)
    np.testing.assert_allclose(np.asarray(found, float), wanted, rtol=2**-8, atol=1e-4)


def energy(method, lam, b, initial):
    """A function of states and last states, given by real and imaginary parts."""
    lam, b, initial = (jax.lax.complex(*part) for part in (lam, b, initial))
    states, last = lastax.diagonal_scan(lam, b, initial=initial, reverse=True, method=method)
    return jnp.sum(jnp.sin(states.real) * states.imag) + jnp.sum(last.imag**3)


@pytest.fixture
def small_tiles(monkeypatch):
    """Several chunks and programs."""
    monkeypatch.setattr(_device_table, "_TILES", ((None, (SMALL.forward, SMALL.adjoint)),))


def test_initial_and_last_states_and_derivatives_of_a_batch(small_tiles, x64):
    """Value, forward-mode derivative and gradient equal those of `sequential`."""
    rng = np.random.default_rng(0)
    lam = 0.6 * rng.uniform(-1, 1, (2, 3))
    b, initial = rng.normal(size=(2, 2, 11, 3)), rng.normal(size=(2, 3))
    dots = jax.tree.map(lambda x: rng.normal(size=x.shape), (lam, b, initial))

    @compiled
    def derivatives(method, *arguments):
        def total(lam, b, initial):
            one = functools.partial(energy, method)
            return jnp.sum(jax.vmap(one, in_axes=(None, 1, None))(lam, b, initial))

        slope = jax.jvp(total, arguments, dots)[1]
        return slope, jax.value_and_grad(total, argnums=(0, 1, 2))(*arguments)

    wanted = derivatives("sequential", lam, b, initial)
    got = derivatives("pallas", lam, b, initial)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)


def test_float32_is_precise_for_long_sequences():
    """With the tile of the table, at `1 - |lam| = 1e-6` and 16,384 steps."""
    length, angle = 16_384, np.array([0, 0.3, 2, np.pi])
    lam = ((1 - 1e-6) * np.exp(1j * angle)).astype(np.complex64)
    assert np.abs(lam.astype(complex)).max() < 1
    noise = np.random.default_rng(0).normal(size=(length, 8))
    resonant = split(np.exp(1j * angle * np.arange(length)[:, None]))
    b = np.stack([noise, resonant]).astype(np.float32)
    scan = functools.partial(scan_split, directions=DIRECTIONS, method="pallas")
    for found, reverse in zip(
        compiled(jax.vmap(scan, in_axes=(None, 0)))(lam, b), DIRECTIONS, strict=True
    ):
        wanted = loop(lam.astype(complex), b.astype(float), reverse)
        error = np.abs(np.asarray(found) - wanted).max(axis=1)
        largest = np.abs(wanted).reshape(2, length, 2, 4).max(axis=(1, 2))
        assert np.all(error.reshape(2, 2, 4).max(axis=1) <= 1e-4 * largest)


def both_directions(lam, b):
    scan = functools.partial(scan_split, directions=DIRECTIONS)
    return jax.vmap(scan, in_axes=(None, 0))(lam, b)


SHAPE_TYPES = (
    jax.ShapeDtypeStruct((5,), np.complex64),
    jax.ShapeDtypeStruct((3, 200, 10), np.float32),
)


def test_the_default_is_chosen_for_the_platform_of_the_program():
    """Lowering for a GPU needs no GPU, and fails if a kernel uses what Triton cannot do."""

    def gradient(lam, b):
        return jax.grad(lambda *x: sum(map(jnp.sum, both_directions(*x))), argnums=(0, 1))(lam, b)

    def gradient_of_output(lam, b, weights):
        def energy(lam, b, weights):
            one = functools.partial(scan_output, directions=DIRECTIONS)
            return jnp.sum(jax.vmap(one, in_axes=(None, 0, None))(lam, b, weights) ** 2)

        return jax.grad(energy, argnums=(0, 1, 2))(lam, b, weights)

    weights = [jax.ShapeDtypeStruct((10, 7), np.float32)] * 2
    for platform, kernels in (("cpu", 0), ("cuda", 6)):
        for function, operands in ((gradient, ()), (gradient_of_output, (weights,))):
            text = lowered_for(platform, function, *SHAPE_TYPES, *operands)
            assert text.count(f"@__gpu${TRITON_CALL}") == kernels


def test_exported_programs_have_no_kernels():
    """JAX does not keep the format of kernels stable."""
    platforms = ("cpu", "cuda")
    found = jax.export.export(jax.jit(both_directions), platforms=platforms)(*SHAPE_TYPES)
    assert TRITON_CALL not in found.mlir_module()
    lam, b = draw(0, (3,), 200, 5)
    lam, b = lam.astype(np.complex64), b.astype(np.float32)
    for x, reverse in zip(found.call(lam, b), DIRECTIONS, strict=True):
        np.testing.assert_allclose(x, loop(lam, b, reverse), rtol=1e-4, atol=1e-4)


def test_the_table():
    rules = {
        Target("cpu"): {1: "sequential", 128: "sequential", 129: "chunked"},
        Target("cuda"): dict.fromkeys((1, 129), "pallas"),
        Target("cuda", portable=True): dict.fromkeys((1, 129), "associative"),
        Target("cuda", divided=True): dict.fromkeys((1, 129), "associative"),
        Target("rocm"): dict.fromkeys((1, 129), "associative"),
        Target("tpu"): dict.fromkeys((1, 129), "associative"),
    }
    for target, rule in rules.items():
        for length, method in rule.items():
            assert scan_method_for(target, (3, length, 8)) == method
        compiles = target.platform in ("cuda", "rocm") and not target.portable
        assert kernels_for(target, 8).interpret == (not compiles)
    (batch,) = jax.export.symbolic_shape("batch")
    assert scan_method_for(Target("cuda"), (batch, 129, 8)) == "associative"


@pytest.mark.parametrize("directions", [DIRECTIONS, (False,)], ids=["both", "one"])
def test_outputs_and_their_derivatives(directions, small_tiles, x64):
    """Of a batch: value, gradient and its derivative. With kernels, the states are joined."""
    rng = np.random.default_rng(0)
    lam = 0.6 * rng.uniform(-1, 1, (2, 3))
    b, weights = rng.normal(size=(2, 11, 6)), rng.normal(size=(len(directions), 6, 5))
    dots = jax.tree.map(lambda x: rng.normal(size=x.shape), (lam, b, weights))

    @compiled
    def derivatives(method, *arguments):
        def energy(lam, b, weights):
            lam = jax.lax.complex(*lam)
            if method is None:
                states = scan_split(lam, b, directions, method="sequential")
                y = sum(x @ W for x, W in zip(states, weights, strict=True))
            else:
                y = scan_output(lam, b, list(weights), directions, method=method)
            return jnp.sum(jnp.sin(y) * y)

        def total(lam, b, weights):
            return jnp.sum(jax.vmap(energy, in_axes=(None, 0, None))(lam, b, weights))

        gradient = jax.grad(total, argnums=(0, 1, 2))
        if method == "pallas":
            return total(*arguments), gradient(*arguments)
        return total(*arguments), *jax.jvp(gradient, arguments, dots)

    wanted = jax.tree.leaves(derivatives(None, lam, b, weights))
    for method in ("sequential", "pallas"):
        got = jax.tree.leaves(derivatives(method, lam, b, weights))
        for one, other in zip(got, wanted, strict=method == "sequential"):
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)
