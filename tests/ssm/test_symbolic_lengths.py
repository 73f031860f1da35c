"""With a symbolic length, as in `jax.export`, systems compute the same outputs."""

import jax
import jax.export
import numpy as np
import pytest

from lastax.ssm._products import precise_total

from ..systems import mimo, random_channels, random_system

pytestmark = pytest.mark.usefixtures("x64")

# One piece of 128 steps, and more than two.
LENGTHS = (100, 300)


def exported(function, channels):
    batch, length = jax.export.symbolic_shape("batch, length")
    shape = jax.ShapeDtypeStruct((batch, length, channels), float)
    return jax.export.export(jax.jit(jax.vmap(function)))(shape)


@pytest.mark.parametrize(
    "system",
    [
        random_system(0, bidirectional=True, dense_feedthrough=True),
        random_channels(1, bidirectional=True, conj_sym=False),
        random_channels(2, (0, 0)),
    ],
    ids=["system", "channels", "no states"],
)
def test_outputs_are_those_of_a_known_length(system):
    channels = system.D.shape[0]
    found = exported(system, channels)
    for length in LENGTHS:
        u = np.random.default_rng(length).normal(size=(2, length, channels))
        wanted = np.stack([convolved(system, x) for x in u])
        np.testing.assert_allclose(found.call(u), wanted, rtol=0, atol=1e-11 * abs(wanted).max())


def convolved(system, u):
    """The definition of a system as a sum over all steps."""
    system, steps = mimo(system), np.arange(u.shape[0])
    powers = system.lam[None, None] ** np.abs(steps[:, None] - steps)[..., None]
    y = u @ system.D.T if system.D.ndim == 2 else u * system.D[None]
    scale = 2 if system.conj_sym else 1
    for C, inside in ((system.C, np.tri(len(u))), (system.C_reverse, np.tri(len(u)).T)):
        if C is not None:
            states = np.einsum("klp,kl,lp->kp", powers, inside, u @ system.B.T)
            y = y + scale * (states @ C.T).real
    return y


def test_a_precise_total_of_any_length():
    found = exported(precise_total, 2)
    for length in LENGTHS:
        u = np.random.default_rng(length).normal(size=(1, length, 2))
        np.testing.assert_allclose(found.call(u), u.sum(axis=1), atol=1e-12)
