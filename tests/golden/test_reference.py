"""The reference implementation that benchmarks compare with, against the published layer."""

import jax.numpy as jnp

from lastax.cmd.bench._reference import ReferenceS5

from .adapters import assert_within, compiled, layer
from .test_s5_ssm import KIND as KIND
from .test_s5_ssm import parameters as parameters


@compiled
def apply(applied, u, step_rescale):
    return applied(u, step_rescale=step_rescale)


def test_output_of_the_published_layer(case):
    reference = ReferenceS5.of(layer(case, case.options))
    got = apply(reference, jnp.asarray(case["u"]), case.options["step_rescale"])
    assert_within(got, case["y"], 2e-5)
