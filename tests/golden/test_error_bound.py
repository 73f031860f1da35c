"""Errors of a system after removing states, in exact norms, and their bounds."""

import dataclasses

import numpy as np

import lastax

from .adapters import system64
from .reading import Case, Declaration, Kind, assert_all_known

KIND = "error_bound"
DECLARATION = Declaration(
    consumed=(
        "lam", "B", "C", "C_backward", "k", "hinf_state", "hinf_state_bidir_bound",
        "removal_order", "removal_order_bidir",
        "full_hinf", "full_hinf_pair", "full_h2", "full_h2_pair",
        "err_hinf(_pair)?", "err_hinf(_pair)?_peak_w", "bound_hinf(_pair)?",
        "err_hinf_pair_control",
        "err_h2(_pair)?", "err_h2_pair_control", "err_hinf_bidir(_pair)?",
        "bound_hinf_bidir(_pair)?", "err_h2_bidir", "hsv64", "hsv_pair64",
        "bt_order", "bt_err_hinf_pair", "bt_lower_bound", "bt_upper_bound",
    ),
    unconsumed={
        "certificate_gap_.*": "distances of eigenvalues from the unit circle, with which the truth "
        "checks itself",
    },
    options=("P", "H", "ks"),
)  # fmt: skip


def parameters(kind: Kind) -> dict[str, dict]:
    cases = {case.name: case for case in kind.listed(DECLARATION)}
    cuts = {
        f"{name}-{count}": (case, index, int(count))
        for name, case in cases.items()
        for index, count in enumerate(case["k"])
    }
    return {"case": cases, "cut": cuts}


def forward(case: Case) -> lastax.System:
    return system64(case["lam"], case["B"], case["C"])


def both(case: Case) -> lastax.System:
    return system64(case["lam"], case["B"], case["C"], case["C_backward"])


def without_first(order: np.ndarray, count: int) -> np.ndarray:
    keep = np.ones(len(order), bool)
    keep[order[:count]] = False
    return keep


def close(got: float, wanted: np.ndarray, rtol: float = 1e-9) -> None:
    np.testing.assert_allclose(got, wanted, rtol=rtol)


def test_every_array_is_known(kind):
    assert_all_known(kind, parameters(kind)["case"].values(), DECLARATION)


def test_counts_are_those_listed(case):
    np.testing.assert_array_equal(case["k"], case.options["ks"])


def test_norms_of_states(case):
    np.testing.assert_allclose(lastax.hinf_norms(forward(case)), case["hinf_state"], rtol=1e-9)
    np.testing.assert_allclose(
        lastax.hinf_norms(both(case)), case["hinf_state_bidir_bound"], rtol=1e-9
    )


def test_order_of_removal(case):
    ascending = np.argsort(lastax.hinf_norms(forward(case)))
    np.testing.assert_array_equal(ascending, case["removal_order"])
    ascending = np.argsort(lastax.hinf_norms(both(case)))
    np.testing.assert_array_equal(ascending, case["removal_order_bidir"])


def test_norms_of_the_full_system(case):
    system = forward(case)
    close(lastax.analysis.hinf_norm(system, pairs=False), case["full_hinf"])
    close(lastax.analysis.hinf_norm(system), case["full_hinf_pair"])
    close(lastax.analysis.h2_norm(system, pairs=False), case["full_h2"])
    close(lastax.analysis.h2_norm(system), case["full_h2_pair"])


def test_hinf_error_and_bound(cut):
    case, index, count = cut
    system, keep = forward(case), without_first(case["removal_order"], count)
    for pairs, name in ((False, "hinf"), (True, "hinf_pair")):
        error = lastax.analysis.error_hinf(system, keep, pairs=pairs)
        bound = lastax.error_bound(system, keep, pairs=pairs)
        close(error, case[f"err_{name}"][index])
        close(bound, case[f"bound_{name}"][index])
        assert error <= bound * (1 + 1e-12)


def test_hinf_error_of_python_control(cut):
    case, index, count = cut
    error = lastax.analysis.error_hinf(forward(case), without_first(case["removal_order"], count))
    close(error, case["err_hinf_pair_control"][index])


def test_gain_at_the_peak(cut):
    case, index, count = cut
    removed = forward(case).keep(~without_first(case["removal_order"], count))
    for name, system in (("hinf", removed), ("hinf_pair", lastax.ssm.real_system(removed))):
        peak = case[f"err_{name}_peak_w"][index : index + 1]
        gain = np.linalg.norm(lastax.ssm.transfer_function(system, peak)[0], ord=2)
        close(gain, case[f"err_{name}"][index])


def test_h2_error(cut):
    case, index, count = cut
    system, keep = forward(case), without_first(case["removal_order"], count)
    close(lastax.analysis.error_h2(system, keep, pairs=False), case["err_h2"][index])
    close(lastax.analysis.error_h2(system, keep), case["err_h2_pair"][index])
    close(lastax.analysis.error_h2(system, keep), case["err_h2_pair_control"][index])


def test_bidirectional_error_and_bound(cut):
    case, index, count = cut
    system, keep = both(case), without_first(case["removal_order_bidir"], count)
    for pairs, name in ((False, "hinf_bidir"), (True, "hinf_bidir_pair")):
        error = lastax.analysis.error_hinf(system, keep, pairs=pairs)
        bound = lastax.error_bound(system, keep, pairs=pairs)
        close(error, case[f"err_{name}"][index])
        close(bound, case[f"bound_{name}"][index])
        assert error <= bound * (1 + 1e-12)
    close(lastax.analysis.error_h2(system, keep, pairs=False), case["err_h2_bidir"][index])


def test_hankel_singular_values(case):
    values = lastax.hankel_singular_values(forward(case))
    wanted = case["hsv_pair64"]
    np.testing.assert_allclose(values, wanted, rtol=1e-7, atol=1e-11 * wanted[0])
    # The real system on real and imaginary parts has every value of the complex system twice.
    lam, B, C = case["lam"], case["B"], case["C"]
    both_parts = system64(lam, np.concatenate([B, 1j * B], 1), np.concatenate([C, -1j * C]))
    both_parts = dataclasses.replace(both_parts, conj_sym=False)
    twice, wanted = lastax.hankel_singular_values(both_parts), case["hsv64"]
    np.testing.assert_allclose(twice[::2], wanted, rtol=1e-7, atol=1e-11 * wanted[0])


def test_balanced_truncation(case):
    if "bt_order" not in case:
        return
    system, values = forward(case), lastax.hankel_singular_values(forward(case))
    reached = 0
    for order, error, low, high in zip(
        case["bt_order"], case["bt_err_hinf_pair"], case["bt_lower_bound"], case["bt_upper_bound"],
        strict=True,
    ):  # fmt: skip
        close(values[order], low)
        close(2 * values[order:].sum(), high)
        # `order` counts real dimensions: two per conjugate pair of poles, one per real pole.
        for states in range(int(order) // 2, int(order) + 1):
            small = lastax.balanced_truncation(system, np.arange(case.options["P"]) < states)
            dimensions = 2 * small.states - int(np.sum(small.lam.imag == 0))
            if dimensions == order:
                close(lastax.analysis.hinf_norm(difference(system, small)), error, 1e-8)
                assert low * (1 - 1e-9) <= error <= high
                reached += 1
                break
    assert reached > 0


def difference(one: lastax.System, other: lastax.System) -> lastax.System:
    return system64(
        np.concatenate([one.lam, other.lam]),
        np.concatenate([one.B, other.B]),
        np.concatenate([one.C, -other.C], axis=1),
    )
