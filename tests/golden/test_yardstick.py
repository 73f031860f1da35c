"""What the benchmark compares with, against the public layer that it stands for."""

import jax.numpy as jnp

from lastax.cmd._public import PublicS5

from .adapters import assert_within, compiled, layer
from .test_s5_ssm import KIND as KIND
from .test_s5_ssm import parameters as parameters


@compiled
def apply(applied, u, step_rescale):
    return applied(u, step_rescale=step_rescale)


def test_the_yardstick_is_the_public_layer(case):
    yardstick = PublicS5.of(layer(case, case.options))
    got = apply(yardstick, jnp.asarray(case["u"]), case.options["step_rescale"])
    assert_within(got, case["y"], 2e-5)
