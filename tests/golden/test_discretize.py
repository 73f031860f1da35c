"""Discretization and its inverse against the published code and float64 truth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lastax

from .adapters import DISCRETIZATIONS
from .reading import Case, Declaration, Kind, assert_all_known

KIND = "discretize"
DECLARATION = Declaration(
    consumed=(
        "Lambda", "B", "Delta", "(zoh|bilinear)_(Lambda|B)_bar(64)?", "zoh_principal_branch",
        "limit_(Lambda|B)_bar64", "ref_zoh_(Lambda|B)_bar",
    ),
    options=("P", "H"),
)  # fmt: skip
INVERSES = {"zoh": lastax.ssm.invert_zoh, "bilinear": lastax.ssm.invert_bilinear}

rules = pytest.mark.parametrize("rule", DISCRETIZATIONS)


def parameters(kind: Kind) -> dict[str, dict[str, Case]]:
    listed = {case.name: case for case in kind.listed(DECLARATION)}
    # Cases that are stored but not listed have an eigenvalue of 0, where the published formula is
    # not defined.
    unlisted = [name for name in kind.stored if name not in listed]
    return {
        "case": listed,
        "limit": {name: kind.case(name, {}, DECLARATION) for name in unlisted},
    }


def inputs(case: Case, real=jnp.float32) -> tuple[jax.Array, jax.Array, jax.Array]:
    dtype = jnp.complex64 if real == jnp.float32 else jnp.complex128
    return (
        jnp.asarray(case["Lambda"], dtype),
        jnp.asarray(case["B"], dtype),
        jnp.asarray(case["Delta"], real),
    )


def test_every_array_is_known(kind):
    known = parameters(kind)
    assert_all_known(kind, [*known["case"].values(), *known["limit"].values()], DECLARATION)
    assert all(known.values()), "the files have no case for some tests"


@rules
def test_float64_matches_the_truth(case, rule, x64):
    lam, B = DISCRETIZATIONS[rule](*inputs(case, jnp.float64))
    np.testing.assert_allclose(lam, case[f"{rule}_Lambda_bar64"], rtol=1e-9)
    np.testing.assert_allclose(B, case[f"{rule}_B_bar64"], rtol=1e-9)


@rules
def test_float32_is_close_to_the_truth(case, rule):
    """Without cancellation, also where `Lambda Delta` is tiny."""
    lam, B = DISCRETIZATIONS[rule](*inputs(case))
    rounding = 1e-6 * (1 + np.abs(case["Lambda"] * case["Delta"]))
    for got, wanted in ((lam, case[f"{rule}_Lambda_bar64"]), (B, case[f"{rule}_B_bar64"])):
        factor = rounding if wanted.ndim == 1 else rounding[:, None]
        assert np.all(np.abs(np.asarray(got) - wanted) <= factor * np.abs(wanted))


@rules
def test_float32_is_close_to_the_published_code(case, rule):
    lam, B = DISCRETIZATIONS[rule](*inputs(case))
    size = np.abs(case["Lambda"] * case["Delta"])
    published = case[f"{rule}_Lambda_bar"]
    assert np.all(np.abs(np.asarray(lam) - published) <= 1e-6 * (1 + size) * np.abs(published))
    share = 3e-7 / size if rule == "zoh" else np.full(size.shape, 1e-6)
    # The published quotient cancels. For large |Lambda Delta| the bound is a few float32 roundings.
    share = np.maximum(share, 5e-7)[:, None]
    published = case[f"{rule}_B_bar"]
    assert np.all(np.abs(np.asarray(B) - published) <= share * np.abs(published))


@rules
def test_inverse_recovers_the_continuous_system(case, rule, x64):
    Lambda, B, Delta = inputs(case, jnp.float64)
    discrete = (
        jnp.asarray(case[f"{rule}_Lambda_bar64"]),
        jnp.asarray(case[f"{rule}_B_bar64"]),
    )
    Lambda_back, B_back = INVERSES[rule](*discrete, Delta)
    invertible = case["zoh_principal_branch"] if rule == "zoh" else np.full(Lambda.shape, True)
    # The discrete system has lost digits near lam = 1 (tiny steps), near 0 and near -1 (stiff).
    lam = np.asarray(discrete[0])
    loss = np.where(
        rule == "zoh",
        (1 + 1 / np.abs(Lambda * Delta)) * (1 + np.abs(Lambda * Delta)),
        (1 + 1 / np.abs(lam - 1)) * (1 + 1 / np.abs(lam + 1)),
    )
    close = np.abs(np.asarray(Lambda_back - Lambda)) <= 1e-14 * loss * np.abs(Lambda)
    assert np.all(close[invertible])
    error = np.max(np.abs(np.asarray(B_back - B)), axis=1) / np.max(np.abs(np.asarray(B)), axis=1)
    assert np.all((error <= 1e-14 * loss)[invertible])


def test_inverse_outside_the_principal_branch_discretizes_to_the_same_system(case, x64):
    discrete = (jnp.asarray(case["zoh_Lambda_bar64"]), jnp.asarray(case["zoh_B_bar64"]))
    Delta = jnp.asarray(case["Delta"], jnp.float64)
    again = lastax.discretize_zoh(*lastax.ssm.invert_zoh(*discrete, Delta), Delta)
    for got, wanted in zip(again, discrete, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-9)


def test_zero_eigenvalue_gives_the_limit(limit, x64):
    # The published formula divides by the eigenvalue.
    assert np.all(np.isnan(limit["ref_zoh_B_bar"]))
    lam, B = lastax.discretize_zoh(*inputs(limit, jnp.float64))
    np.testing.assert_allclose(lam, limit["limit_Lambda_bar64"], rtol=1e-9)
    np.testing.assert_allclose(lam, limit["ref_zoh_Lambda_bar"], rtol=1e-6)
    np.testing.assert_allclose(B, limit["limit_B_bar64"], rtol=1e-9)
