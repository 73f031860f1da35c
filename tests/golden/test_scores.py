"""Norms, scores and masks of single layers and of stacks of layers."""

import dataclasses
from fractions import Fraction

import jax
import numpy as np
import pytest

import lastax

from .adapters import LAYER_PARAMETERS, layer, system64
from .reading import Case, Declaration, Kind, assert_all_known

KIND = "scores"
DECLARATION = Declaration(
    consumed=(
        r"(layer\d+/)?(" + "|".join(LAYER_PARAMETERS) + ")",
        r"(layer\d+/)?(Lambda_bar|B_bar|C_tilde|ref_hinf_raw|ref_LAST|lamp_ref_magnitude"
        r"|lamp_ref_hinf|hinf_closed|LAST64|magnitude64|hinf_sum_bound|hinf_bidir_exact"
        r"|LAST64_sum_bound|LAST64_square_of_mean|LAST64_mean_of_squares|LAST64_bidir_exact)",
        "lam64", "B_bar64", "C64", "hinf_sweep", "hinf_pair_exact", "hinf_control_slycot",
        "hinf_control_scipy", "hinf_pair_control_slycot", "hinf_eps_raw64", "LAST64_with_eps",
        "norm_C1", "norm_C2", "norm_B", "hinf_forward_closed", "hinf_backward_closed",
        "hinf_stack_bound", "hinf_stack_exact", "hinf_bidir_pair_exact", "ref_formula_raw64",
        "raw64_square_of_mean", "raw64_mean_of_squares", "LAST64_ref_formula",
        "ratios", "layer_edges", "ref_LAST_all", "ref_K_target", "ref_threshold", "ref_mask",
        "ref_counts", "(topk_mask|topk_counts|uniform_mask)/.+",
        r"(layer\d+/)?(ref_aire_raw|ref_AIRE|AIRE64|AIRE64_mean_of_squares)",
        "aire_raw64", "aire_raw64_mean_of_squares", "aire_raw64_square_of_mean",
        "AIRE64_square_of_mean", "hsv64", "hsv64_forward", "hsv64_backward", "hsv_pair64",
        "hsv_scipy",
    ),
    unconsumed={
        "hsv_compressm": "unsorted float32 values of the same system as hsv64",
        "gram_[co]64": "Gramians of the complex system; lastax has no function for them",
        "hinf_bidir_exact_strictly_proper": "a system with one more delay in each direction than "
        "that of a layer",
    },
    facts=(
        "layers", "stacks", "unstable", "control_errors",
        "keep_count_total_ratio_reference_naivefloat",
    ),
    options=(
        "P", "H", "bidirectional", "regime", "conj_sym", "discretization", "note", "max_abs_lam",
        "ref_raw", "hinf_control_slycot_finite", "hinf_control_slycot_max_rel",
        "hinf_control_scipy_finite", "hinf_control_scipy_max_rel", "hsv_compressm_nan",
        "ref_raw_vs_f64_same_formula_rel", "ref_raw_vs_paper_formula_rel",
        "ref_LAST_vs_paper_max_abs", "ref_order_equals_paper_order", "ref_AIRE_vs_f64_max_abs",
        "ref_order_equals_LAST64_square_of_mean", "ref_LAST_vs_LAST64_square_of_mean_max_abs",
        "ref_order_equals_LAST64_mean_of_squares", "ref_LAST_vs_LAST64_mean_of_squares_max_abs",
        "ref_order_equals_LAST64_bidir_exact", "ref_LAST_vs_LAST64_bidir_exact_max_abs",
        "ref_kept_vs_target", "ref_mask_equals_float64_topk",
    ),
)  # fmt: skip
UNSTABLE = "unstable"


def parameters(kind: Kind) -> dict[str, dict]:
    layers = {case.name: case for case in kind.listed(DECLARATION, "layers")}
    stacks = {
        f"stack_{options['name']}": kind.case(f"stack_{options['name']}", options, DECLARATION)
        for options in kind.facts["stacks"]
    }
    return {
        "case": layers,
        "uni": {name: case for name, case in layers.items() if not case.options["bidirectional"]},
        "bi": {name: case for name, case in layers.items() if case.options["bidirectional"]},
        "stack": stacks,
        "ranking": {
            f"{name}-{array.removeprefix('topk_mask/')}": (stack, array.removeprefix("topk_mask/"))
            for name, stack in stacks.items()
            for array in stack
            if array.startswith("topk_mask/") and DECLARATION.consumes(array)
        },
        "share": {
            f"{name}-{array.removeprefix('uniform_mask/')}": (
                stack,
                array.removeprefix("uniform_mask/"),
            )
            for name, stack in stacks.items()
            for array in stack
            if array.startswith("uniform_mask/") and DECLARATION.consumes(array)
        },
        "unstable": {UNSTABLE: kind.case(UNSTABLE, kind.facts["unstable"], DECLARATION)},
        "count": {
            f"{total}-{percent}": (total, percent, kept)
            for total, percent, kept, _ in kind.facts["keep_count_total_ratio_reference_naivefloat"]
        },
    }


def test_every_array_is_known(kind):
    known = parameters(kind)
    cases = [case for fixture in ("case", "stack", "unstable") for case in known[fixture].values()]
    assert_all_known(kind, cases, DECLARATION)


# Single layers


def system_of(case: Case) -> lastax.System:
    C = case["C64"]
    if not case.options["bidirectional"]:
        return system64(case["lam64"], case["B_bar64"], C)
    return system64(case["lam64"], case["B_bar64"], *np.split(C, 2, axis=1))


def stacked(system: lastax.System) -> lastax.System:
    """Forward system with the output maps of both directions stacked: norm sqrt(a^2 + b^2)."""
    C = np.concatenate([system.C, system.C_reverse])
    return system64(system.lam, np.repeat(system.B, 2, axis=1) / np.sqrt(2), C)


def public_layer(case: Case, bidirectional: bool) -> lastax.S5:
    options = {"bidirectional": bidirectional, "conj_sym": True, "discretization": "zoh"}
    return layer(case, options)


def float32_tolerance(case: Case) -> float:
    """Relative tolerance of float32 scores."""
    return 5e-2 if case.options["regime"] == "slow" else 1e-3


def close(got, wanted, rtol: float = 1e-9) -> None:
    np.testing.assert_allclose(got, wanted, rtol=rtol)


def test_float64_system_of_the_published_layer(case):
    (found,) = lastax.systems([public_layer(case, case.options["bidirectional"])])
    system = system_of(case)
    close(found.lam, system.lam)
    close(found.B, system.B)
    np.testing.assert_array_equal(found.C, system.C)
    if case.options["bidirectional"]:
        np.testing.assert_array_equal(found.C_reverse, system.C_reverse)


def test_system_in_float32(case):
    found = public_layer(case, case.options["bidirectional"]).system()
    close(found.lam, case["Lambda_bar"], 1e-6)
    # The relative tolerance of B is that of the published expression, which cancels.
    size = np.abs(np.log(case["lam64"]))[:, None]
    tolerance = np.maximum(3e-7 / size, 1e-6)
    if jax.default_backend() != "cpu":
        # Other devices do not round as the CPU of the published numbers does: neither the step size
        # nor its product with Lambda. An ulp of each changes lam - 1 by this share.
        Lambda = case["Lambda_re"].astype(float) + 1j * case["Lambda_im"]
        z = Lambda * np.exp(case["log_step"][:, 0].astype(float))
        tolerance = tolerance + 2**-22 * np.abs(z / np.expm1(-z))[:, None]
    assert np.all(np.abs(found.B - case["B_bar"]) <= tolerance * np.abs(case["B_bar"]))
    both = [found.C] if found.C_reverse is None else [found.C, found.C_reverse]
    close(np.concatenate(both, axis=1), case["C_tilde"], 1e-6)


def test_published_score_in_float32(case):
    system = public_layer(case, case.options["bidirectional"]).system()
    rtol = float32_tolerance(case)
    close(lastax.analysis.published_squared_hinf_norms(system), case["ref_hinf_raw"], rtol)
    close(lastax.pruning.published_last_scores(system), case["ref_LAST"], rtol)


def test_lamp(case):
    system = system_of(case)
    close(lastax.analysis.magnitudes(system), case["magnitude64"])
    rtol = float32_tolerance(case)
    close(lastax.pruning.lamp_scores(system), case["lamp_ref_magnitude"], rtol)


def test_closed_norm(uni):
    system = system_of(uni)
    close(lastax.hinf_norms(system), uni["hinf_closed"])
    close(lastax.hinf_norms(system), uni["hinf_sweep"])


def test_swept_norm(uni):
    system = system_of(uni)
    close(lastax.analysis.swept_hinf_norms(system, pairs=False), uni["hinf_sweep"])
    close(lastax.analysis.swept_hinf_norms(system, pairs=True), uni["hinf_pair_exact"])


@pytest.mark.parametrize("tool", ["slycot", "scipy"])
def test_norm_by_python_control(uni, tool):
    witness = uni[f"hinf_control_{tool}"]
    finite = np.isfinite(witness)
    assert finite.sum() == uni.options[f"hinf_control_{tool}_finite"]
    # Without slycot, the bisection of python-control is less precise.
    rtol = max(1e-9, 1.01 * uni.options[f"hinf_control_{tool}_max_rel"])
    close(lastax.hinf_norms(system_of(uni))[finite], witness[finite], rtol)


def test_pair_norm_by_python_control(uni):
    witness = uni["hinf_pair_control_slycot"]
    finite = np.isfinite(witness)
    assert finite.any()
    close(lastax.analysis.swept_hinf_norms(system_of(uni), pairs=True)[finite], witness[finite])


def test_last_of_one_direction(uni):
    system = system_of(uni)
    close(lastax.last_scores(system), uni["LAST64"])
    close(lastax.pruning.layer_adaptive(lastax.hinf_norms(system) ** 2), uni["LAST64"])


def test_lamp_normalization_of_norms_is_last(uni):
    close(lastax.last_scores(system_of(uni)), uni["lamp_ref_hinf"], float32_tolerance(uni))


def test_published_formula_of_one_direction(uni):
    system = system_of(uni)
    close(lastax.analysis.published_squared_hinf_norms(system), uni["hinf_eps_raw64"])
    close(lastax.pruning.published_last_scores(system), uni["LAST64_with_eps"])


def test_norms_of_both_directions(bi):
    system = system_of(bi)
    lam, B = system.lam, system.B
    close(lastax.hinf_norms(system), bi["hinf_sum_bound"])
    close(
        (bi["norm_C1"] + bi["norm_C2"]) * bi["norm_B"] / (1 - np.abs(lam)),
        lastax.hinf_norms(system),
    )
    close(lastax.hinf_norms(system64(lam, B, system.C)), bi["hinf_forward_closed"])
    close(lastax.hinf_norms(system64(lam, B, system.C_reverse)), bi["hinf_backward_closed"])
    close(lastax.hinf_norms(stacked(system)), bi["hinf_stack_bound"])


def test_exact_norms_of_both_directions(bi):
    system = system_of(bi)
    close(lastax.analysis.swept_hinf_norms(system, pairs=False), bi["hinf_bidir_exact"])
    close(lastax.analysis.swept_hinf_norms(system, pairs=True), bi["hinf_bidir_pair_exact"])


def test_exact_norm_of_separate_outputs(bi):
    system = system_of(bi)
    blank = np.zeros_like(system.C)
    separate = system64(
        system.lam,
        np.concatenate([system.B, np.zeros_like(system.B)], axis=1),
        np.concatenate([system.C, blank]),
        np.concatenate([blank, system.C_reverse]),
    )
    close(lastax.analysis.swept_hinf_norms(separate, pairs=False), bi["hinf_stack_exact"])


def test_last_of_both_directions(bi):
    system = system_of(bi)
    close(lastax.last_scores(system), bi["LAST64_sum_bound"])
    # The square of the mean is a quarter of the squared sum, which gives the same score.
    close(lastax.last_scores(system), bi["LAST64_square_of_mean"])
    close(lastax.last_scores(stacked(system)), bi["LAST64_mean_of_squares"])
    exact = lastax.analysis.swept_hinf_norms(system, pairs=False)
    close(lastax.pruning.layer_adaptive(exact**2), bi["LAST64_bidir_exact"])
    close(lastax.last_scores(system), bi["lamp_ref_hinf"], float32_tolerance(bi))


def test_published_formula_of_both_directions(bi):
    system = system_of(bi)
    published = lastax.analysis.published_squared_hinf_norms(system)
    close(published, bi["ref_formula_raw64"])
    close(lastax.pruning.published_last_scores(system), bi["LAST64_ref_formula"])
    # The published code computes (a + b) / 4; the paper defines ((a + b) / 2)^2.
    close(published * (bi["norm_C1"] + bi["norm_C2"]), bi["raw64_square_of_mean"])
    close(
        lastax.analysis.published_squared_hinf_norms(stacked(system)) / 2,
        bi["raw64_mean_of_squares"],
    )


def test_unstable_state_has_no_finite_norm(unstable):
    lam = unstable["lam64"]
    outside = np.abs(lam) > 1
    assert outside.any()
    (system,) = lastax.systems([public_layer(unstable, bidirectional=False)])
    close(system.lam, lam)
    for norms in (
        lastax.hinf_norms(system),
        lastax.analysis.swept_hinf_norms(system, pairs=False),
        lastax.analysis.swept_hinf_norms(system, pairs=True),
        lastax.last_scores(system),
    ):
        np.testing.assert_array_equal(np.isinf(norms), outside)
    single = public_layer(unstable, bidirectional=False).system()
    published = lastax.analysis.published_squared_hinf_norms(single)
    close(published, unstable["ref_hinf_raw"], 1e-3)
    close(lastax.pruning.published_last_scores(single), unstable["ref_LAST"], 1e-3)
    assert np.isfinite(published).all()
    close(single.lam, unstable["Lambda_bar"], 1e-6)
    close(single.B, unstable["B_bar"], 1e-5)
    close(single.C, unstable["C_tilde"], 1e-6)


def test_impulse_energies_of_one_direction(uni):
    system = system_of(uni)
    close(lastax.analysis.impulse_energies(system), uni["aire_raw64"])
    close(lastax.pruning.aire_scores(system), uni["AIRE64"])
    rtol = float32_tolerance(uni)
    close(lastax.analysis.impulse_energies(system), uni["ref_aire_raw"], rtol)
    close(lastax.pruning.aire_scores(system), uni["ref_AIRE"], rtol)


def test_impulse_energies_of_both_directions(bi):
    system = system_of(bi)
    # The mean over both directions is half the sum, which gives the same score.
    close(lastax.analysis.impulse_energies(system) / 2, bi["aire_raw64_mean_of_squares"])
    close(lastax.pruning.aire_scores(system), bi["AIRE64_mean_of_squares"])
    a, b, B = bi["norm_C1"], bi["norm_C2"], bi["norm_B"]
    lost = 1 - np.abs(system.lam) ** 2
    meant = ((a + b) / 2) ** 2 * B**2 / lost
    close(meant, bi["aire_raw64_square_of_mean"])
    close(lastax.pruning.layer_adaptive(meant), bi["AIRE64_square_of_mean"])
    # What was published.
    rtol = float32_tolerance(bi)
    close((a + b) / 4 * B**2 / lost, bi["ref_aire_raw"], rtol)
    close(lastax.pruning.layer_adaptive((a + b) / 4 * B**2 / lost), bi["ref_AIRE"], rtol)


def test_hankel_singular_values(case):
    """Values of the complex system of `P` states, and of the real system with conjugates."""
    system = system_of(case)
    if case.options["bidirectional"]:
        parts = {"hsv64_forward": system.C, "hsv64_backward": system.C_reverse}
    else:
        parts = {"hsv64": system.C, "hsv_scipy": system.C}
        found = lastax.hankel_singular_values(system)
        close_to_largest(found, case["hsv_pair64"])
    for name, C in parts.items():
        if name not in case:
            continue
        close_to_largest(complex_hankel(system.lam, system.B, C), case[name])


def complex_hankel(lam: np.ndarray, B: np.ndarray, C: np.ndarray) -> np.ndarray:
    """Hankel singular values of the complex map.

    A complex map is a real map with twice the inputs and outputs, which has every value twice.
    """
    inputs = np.concatenate([B, 1j * B], axis=1)
    outputs = np.concatenate([C, -1j * C])
    real = system64(lam, inputs, outputs)
    real = dataclasses.replace(real, conj_sym=False)
    return lastax.hankel_singular_values(real)[::2]


def close_to_largest(got: np.ndarray, wanted: np.ndarray) -> None:
    wanted = np.sort(wanted)[::-1]
    np.testing.assert_allclose(got, wanted, rtol=1e-7, atol=1e-11 * wanted.max())


# Stacks of layers


SCORES = {
    "hinf_closed": lastax.hinf_norms,
    "hinf_sum_bound": lastax.hinf_norms,
    "hinf_bidir_exact": lambda system: lastax.analysis.swept_hinf_norms(system, pairs=False),
    "LAST64": lastax.last_scores,
    "LAST64_sum_bound": lastax.last_scores,
    "LAST64_square_of_mean": lastax.last_scores,
    "LAST64_mean_of_squares": lambda system: lastax.last_scores(stacked(system)),
    "LAST64_bidir_exact": lambda system: lastax.pruning.layer_adaptive(
        lastax.analysis.swept_hinf_norms(system, pairs=False) ** 2
    ),
    "magnitude64": lastax.analysis.magnitudes,
    "lamp_magnitude": lastax.pruning.lamp_scores,
    "AIRE64": lastax.pruning.aire_scores,
    "AIRE64_mean_of_squares": lastax.pruning.aire_scores,
}


def layers_of(stack: Case) -> list[Case]:
    return [stack.below(f"layer{index}") for index in range(len(stack.options["P"]))]


def systems_of(stack: Case) -> list[lastax.System]:
    bidirectional = stack.options["bidirectional"]
    return lastax.systems([public_layer(part, bidirectional) for part in layers_of(stack)])


def stored_score(part: Case, score: str) -> np.ndarray:
    return part["lamp_ref_magnitude" if score == "lamp_magnitude" else score]


def published_energies(system: lastax.System) -> np.ndarray:
    """The published AIRE-Prune has (a + b) / 4 instead of a square for both directions, as LAST."""
    if system.C_reverse is None:
        return lastax.analysis.impulse_energies(system)
    squared_C = sum(system.output_norms) / 4
    return squared_C * system.input_norms**2 / (1 - abs(system.lam) ** 2)


def kept_counts(stack: Case) -> list[tuple[int, int, int]]:
    """Row, ratio in percent and number of kept states, for every ratio below 100 %."""
    total = sum(stack.options["P"])
    return [
        (row, int(percent), lastax.keep_count(total, Fraction(int(percent), 100)))
        for row, percent in enumerate(stack["ratios"])
        if percent < 100
    ]


def test_edges_of_layers(stack):
    np.testing.assert_array_equal(np.cumsum([0, *stack.options["P"]]), stack["layer_edges"])
    assert [system.states for system in systems_of(stack)] == stack.options["P"]


def test_scores_of_layers(stack):
    for part, system in zip(layers_of(stack), systems_of(stack), strict=True):
        for score, compute in SCORES.items():
            if score in part:
                close(compute(system), part[score])
        close(lastax.pruning.lamp_scores(system), part["lamp_ref_magnitude"], 1e-3)
        close(lastax.last_scores(system), part["lamp_ref_hinf"], 1e-3)


def test_published_scores_of_layers(stack):
    everywhere = []
    for part in layers_of(stack):
        system = public_layer(part, stack.options["bidirectional"]).system()
        close(lastax.analysis.published_squared_hinf_norms(system), part["ref_hinf_raw"], 1e-3)
        close(lastax.pruning.published_last_scores(system), part["ref_LAST"], 1e-3)
        energies = published_energies(system)
        close(energies, part["ref_aire_raw"], 1e-3)
        close(lastax.pruning.layer_adaptive(energies), part["ref_AIRE"], 1e-3)
        close(system.lam, part["Lambda_bar"], 1e-6)
        everywhere.append(jax.device_get(lastax.pruning.published_last_scores(system)))
        np.testing.assert_allclose(system.B, part["B_bar"], rtol=0, atol=1e-5)
        both = [system.C] if system.C_reverse is None else [system.C, system.C_reverse]
        close(np.concatenate(both, axis=1), part["C_tilde"], 1e-6)
    everywhere = np.concatenate(everywhere)
    close(everywhere, stack["ref_LAST_all"], 1e-3)
    for row, _, count in kept_counts(stack):
        close(np.sort(everywhere)[-count], stack["ref_threshold"][row], 1e-3)


def test_target_counts(stack):
    total = sum(stack.options["P"])
    for row, _, count in kept_counts(stack):
        assert count == stack["ref_K_target"][row]
    for row in np.flatnonzero(stack["ratios"] == 100):
        assert stack["ref_K_target"][row] == 1
        with pytest.raises(ValueError, match=r"ratio must be in \[0, 1\)"):
            lastax.keep_count(total, Fraction(1))


def test_count_is_exact_where_binary_fractions_are_not(count):
    total, percent, kept = count
    assert lastax.keep_count(total, percent / 100) == kept
    assert lastax.keep_count(total, Fraction(percent, 100)) == kept


def test_highest_scores_of_all_layers(ranking):
    """Selection by the stored scores and by computed scores."""
    stack, score = ranking
    mask, counts = stack[f"topk_mask/{score}"], stack[f"topk_counts/{score}"]
    stored = [stored_score(part, score) for part in layers_of(stack)]
    computed = [SCORES[score](system) for system in systems_of(stack)]
    descending = np.sort(np.concatenate(stored))[::-1]
    for row, count in enumerate(stack["ref_K_target"]):
        candidates = [stored, computed]
        # Only LAMP scores are stored in float32, whose rounding separates scores of 1.
        tied = score == "lamp_magnitude" and count < len(descending)
        if tied and np.isclose(descending[count - 1], descending[count], rtol=1e-5):
            candidates = [stored]
        for scores in candidates:
            selected = lastax.select_global(scores, int(count), minimum=0)
            np.testing.assert_array_equal(np.concatenate(selected), mask[row])
            assert [part.sum() for part in selected] == counts[row].tolist()


def test_highest_scores_of_each_layer(share):
    stack, score = share
    for scores in (
        [stored_score(part, score) for part in layers_of(stack)],
        [SCORES[score](system) for system in systems_of(stack)],
    ):
        for row, percent, _ in kept_counts(stack):
            ratio = Fraction(percent, 100)
            selected = [
                lastax.pruning.select_top(s, lastax.keep_count(len(s), ratio)) for s in scores
            ]
            np.testing.assert_array_equal(
                np.concatenate(selected), stack[f"uniform_mask/{score}"][row]
            )


def test_published_masks(stack):
    """Published masks are the selected states and all states tied with the threshold."""
    edges = stack["layer_edges"][1:-1]
    scores = np.split(stack["ref_LAST_all"], edges)
    listed = stack.options["ref_kept_vs_target"]
    for row, (percent, target, kept) in enumerate(listed):
        mask, counts = stack["ref_mask"][row], stack["ref_counts"][row]
        assert [part.sum() for part in np.split(mask, edges)] == counts.tolist()
        assert (stack["ratios"][row], stack["ref_K_target"][row]) == (percent, target)
        selected = np.concatenate(lastax.select_global(scores, target, minimum=0))
        assert selected.sum() == target
        assert mask.sum() == kept
        assert np.all(mask[selected])
        if kept == target:
            np.testing.assert_array_equal(selected, mask)


def test_published_masks_are_those_of_last(stack):
    """Masks agree where the published float32 score ranks states as in float64."""
    agrees = stack.options.get("ref_mask_equals_float64_topk")
    if agrees is None:
        pytest.skip("the published bidirectional score has another formula")
    scores = [lastax.last_scores(system) for system in systems_of(stack)]
    for row in np.flatnonzero(agrees):
        selected = lastax.select_global(scores, int(stack["ref_K_target"][row]), minimum=0)
        np.testing.assert_array_equal(np.concatenate(selected), stack["ref_mask"][row])
