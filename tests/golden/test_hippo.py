"""HiPPO matrices, their normal part, and the maps into its eigenbasis, against published values."""

import jax
import jax.numpy as jnp
import numpy as np

import lastax

from .adapters import assert_within
from .reading import Case, Declaration, Kind, assert_all_known

KIND = "hippo_dplr"
DECLARATION = Declaration(
    consumed=(
        "A", "P_lowrank", "B_orig", "Lambda", "V", "VH_B", "VH_P", "Lambda64", "normal_part64",
        "V_diagLambda_VH", "abs_VH_B64", "abs_VH_P64", "half_projector64", "half_operator64",
        "init_B_real", "init_VinvB", "init_C_real", "init_CV",
    ),
    facts=("N", "init_std_measured_formula_value"),
)  # fmt: skip

# The published eigenvectors are float32. For 64 real states their errors exceed 2e-5.
EIGENVECTORS = 1e-4


def parameters(kind: Kind) -> dict[str, dict[str, Case]]:
    cases = [kind.case(f"N{size}", {"name": f"N{size}"}, DECLARATION) for size in kind.facts["N"]]
    return {
        "case": {case.name: case for case in cases},
        "half_case": {case.name: case for case in cases if "half_projector64" in case},
        "initializer": {name: name for name in kind.facts["init_std_measured_formula_value"]},
    }


def size_of(case: Case) -> int:
    return int(case.name[1:])


def test_every_array_is_known(kind):
    assert_all_known(kind, parameters(kind)["case"].values(), DECLARATION)


def test_matrix_input_and_low_rank_term(case):
    A, B = lastax.nn.hippo_legs(size_of(case))
    np.testing.assert_allclose(A, case["A"], rtol=1e-6)
    np.testing.assert_allclose(B, case["B_orig"], rtol=1e-6)
    np.testing.assert_allclose(
        lastax.nn.hippo_low_rank(size_of(case)), case["P_lowrank"], rtol=1e-6
    )


def test_eigenvalues(case):
    part = lastax.nn.hippo_normal_part(size_of(case))
    assert_within(part.Lambda, case["Lambda64"], 1e-9)
    assert_within(part.Lambda, case["Lambda"], 2e-5)


def test_eigenbasis_rebuilds_the_normal_part(case):
    part = lastax.nn.hippo_normal_part(size_of(case))
    operator = part.V @ np.diag(part.Lambda) @ part.V.conj().T
    assert_within(operator, case["normal_part64"], 1e-9)
    assert_within(operator, case["V_diagLambda_VH"], 2e-5)


def test_vectors_in_the_eigenbasis(case):
    part = lastax.nn.hippo_normal_part(size_of(case))
    assert_within(np.abs(part.B), case["abs_VH_B64"], 1e-9)
    assert_within(np.abs(part.p), case["abs_VH_P64"], 1e-9)
    # The phase of each column is arbitrary; align it with that of the published basis.
    phase = np.diag(case["V"].conj().T @ part.V)
    np.testing.assert_allclose(np.abs(phase), 1, rtol=1e-4)
    phase = phase / np.abs(phase)
    assert_within(part.B * phase, case["VH_B"], 2e-5)
    assert_within(part.p * phase, case["VH_P"], 2e-5)


def test_half_of_negative_imaginary_parts(half_case):
    size = size_of(half_case)
    basis = lastax.nn.hippo_block_basis(size // 2)
    assert np.all(basis.Lambda.imag < 0)
    assert_within(basis.V @ basis.V_inverse, half_case["half_projector64"], 1e-9)
    operator = basis.V @ np.diag(basis.Lambda) @ basis.V_inverse
    assert_within(operator, half_case["half_operator64"], 1e-9)


def test_maps_into_the_half_basis(case):
    """`B` and `C` in the eigenbasis, up to the phase of each column."""
    basis = lastax.nn.hippo_block_basis(size_of(case) // 2)
    half = case["V"][:, : size_of(case) // 2]
    phase = np.sum(half.conj() * basis.V, axis=0)
    phase = phase / np.abs(phase)
    C = lastax.nn.as_complex(jnp.asarray(case["init_C_real"]))
    assert_within(
        lastax.nn.as_pair(jnp.asarray((np.asarray(C) @ basis.V) / phase, jnp.complex64)),
        case["init_CV"],
        EIGENVECTORS,
    )
    B = (basis.V_inverse @ case["init_B_real"]) * phase[:, None]
    assert_within(
        lastax.nn.as_pair(jnp.asarray(B, jnp.complex64)), case["init_VinvB"], EIGENVECTORS
    )


def test_initial_deviations(kind, initializer, getkey):
    """Standard deviations are those measured on the published initializers, and their formulas."""
    listed = kind.facts["init_std_measured_formula_value"]
    measured, *values = [entry for entry in listed[initializer] if not isinstance(entry, str)]
    # Formulas of the files: B has 1/sqrt(n) for n real states, C has 1/sqrt(n H) for H channels.
    size = round(listed["B_lecun_normal_real"][-1] ** -2)
    channels = round(listed["C_lecun_normal"][-1] ** -2 / size)
    plain = np.eye(size, dtype=complex)
    if initializer == "log_step":
        largest, low, high = values
        draw = lastax.nn.initialize_log_step(
            4000, minimum=np.exp(low), maximum=np.exp(high), key=getkey()
        )
        got = (float(draw.min()), float(draw.max()))
        np.testing.assert_allclose(got, (measured, largest), rtol=0, atol=2e-2)
        assert low <= got[0]
        assert got[1] <= high
        return
    draw = {
        "B_lecun_normal_real": lastax.nn.initialize_B,
        "C_lecun_normal": lastax.nn.lecun_normal_C,
        "C_trunc_standard_normal": lastax.nn.truncated_standard_normal_C,
        "C_complex_normal": lastax.nn.complex_normal_C,
    }[initializer](plain, channels, key=getkey())
    parts = draw[..., 0] if initializer == "B_lecun_normal_real" else draw
    np.testing.assert_allclose(float(parts.std()), [measured, *values], rtol=2e-2)


def test_initialized_matrices_lie_in_the_eigenbasis(case, getkey):
    """In a half basis, initializers return the same draw as in the identity basis, transformed."""
    size = size_of(case)
    basis = lastax.nn.hippo_block_basis(size // 2)
    key = getkey()
    plain = lastax.nn.initialize_B(np.eye(size, dtype=complex), 5, key=key)
    rotated = lastax.nn.initialize_B(basis.V_inverse, 5, key=key)
    expected = basis.V_inverse @ np.asarray(plain[..., 0])
    assert_within(jax.device_get(lastax.nn.as_complex(rotated)), expected, 1e-5)
    assert np.all(np.asarray(plain[..., 1]) == 0)
    plain = np.asarray(
        lastax.nn.as_complex(lastax.nn.lecun_normal_C(np.eye(size, dtype=complex), 5, key=key))
    )
    rotated = lastax.nn.as_complex(lastax.nn.lecun_normal_C(basis.V, 5, key=key))
    assert_within(jax.device_get(rotated), plain @ basis.V, 1e-5)
