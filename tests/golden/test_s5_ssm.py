"""One layer against the published layer and a sequential float64 loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lastax

from .adapters import (
    LAYER_OPTIONS,
    LAYER_PARAMETERS,
    SCAN_METHODS,
    assert_within,
    compiled,
    layer,
    scanned,
    widened,
)
from .reading import Case, Declaration, Kind, assert_all_known

KIND = "s5_ssm"
DECLARATION = Declaration(
    consumed=(
        *LAYER_PARAMETERS, "u", "y", "Lambda_bar", "B_bar", "C_tilde", "y64", "x_final64",
    ),
    unconsumed={"max_abs_diff": "difference between the published y and y64"},
    options=(
        *LAYER_OPTIONS, "clip_eigs", "max_abs_diff_f32_vs_f64", "max_abs_y", "max_abs_lam",
    ),
)  # fmt: skip


def parameters(kind: Kind) -> dict[str, dict[str, Case]]:
    return {"case": {case_id(case): case for case in kind.listed(DECLARATION)}}


def case_id(case: Case) -> str:
    o = case.options
    direction = "bi" if o["bidirectional"] else "uni"
    clip = "-clip" if o["clip_eigs"] else ""
    return f"{case.name}-{direction}-{o['discretization']}-{o['C_init']}-L{o['L']}{clip}"


def test_every_array_is_known(kind):
    assert_all_known(kind, parameters(kind)["case"].values(), DECLARATION)


def test_output_of_the_published_layer(case):
    got = apply(layer(case, case.options), case["u"], case.options["step_rescale"])
    assert_within(got, case["y"], 2e-5)


# Interpreted GPU kernels take seconds to compile; `tests/ssm/test_pallas_scan.py` tests them fast.
METHODS = [
    pytest.param(method, marks=pytest.mark.slow) if method == "pallas" else method
    for method in SCAN_METHODS
]


@pytest.mark.parametrize("method", METHODS)
def test_sequential_loop(case, method, x64):
    """Every scan method gives the output and the final forward state of the loop."""

    @compiled
    def run(applied, u, step_rescale):
        return applied(u, step_rescale=step_rescale), applied.system(step_rescale).run(u)[1]

    wide = widened(scanned(layer(case, case.options), method))
    u = jnp.asarray(case["u"], jnp.float64)
    y, last = run(wide, u, case.options["step_rescale"])
    assert_within(y, case["y64"], 1e-9)
    assert_within(last, case["x_final64"], 1e-9)


def test_discretized_system(case):
    system = layer(case, case.options).system(case.options["step_rescale"])
    real = case["Lambda_re"].astype(float)
    if case.options["clip_eigs"]:
        real = np.minimum(real, -1e-4)
    step = case.options["step_rescale"] * np.exp(case["log_step"][:, 0].astype(float))
    size = np.abs(real + 1j * case["Lambda_im"]) * step
    published = case["Lambda_bar"]
    error = np.abs(np.asarray(system.lam) - published)
    assert np.all(error <= 1e-6 * (1 + size) * np.abs(published))
    share = 1e-6 * np.ones_like(size)
    if case.options["discretization"] == "zoh":
        share = np.maximum(share, 3e-7 / size)
    published = case["B_bar"]
    assert np.all(np.abs(np.asarray(system.B) - published) <= share[:, None] * np.abs(published))


def test_output_maps(case):
    system = layer(case, case.options).system()
    both = [system.C] if system.C_reverse is None else [system.C, system.C_reverse]
    assert (system.C_reverse is not None) == case.options["bidirectional"]
    # With conjugate symmetry the published layer doubles C or the output; both give s Re(C x).
    np.testing.assert_allclose(np.concatenate(both, axis=1), case["C_tilde"], rtol=1e-6)


def test_system_in_float64(case):
    """`systems` finds the layer and discretizes it in float64, as numpy arrays."""
    (found,) = lastax.systems([layer(case, case.options)])
    assert isinstance(found.lam, np.ndarray)
    with jax.enable_x64(True):
        wide = compiled(lambda one: one.system())(widened(layer(case, case.options)))
    for got, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(wide), strict=True):
        assert got.dtype in (np.float64, np.complex128)
        np.testing.assert_array_equal(got, wanted)


@compiled
def apply(applied, u, step_rescale):
    return applied(jnp.asarray(u), step_rescale=step_rescale)
