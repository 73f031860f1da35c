"""Removing states gives the outputs of the published code, which masks them."""

import jax
import numpy as np

import lastax

from .adapters import (
    NETWORK_OPTIONS,
    assert_within,
    batch_of,
    compiled,
    evaluated,
    network,
    widened,
)
from .reading import Case, Declaration, Kind, assert_all_known

KIND = "pruned"
DECLARATION = Declaration(
    consumed=(
        "params/.+", "batch_stats/.+", "x", "lengths", "logp_full", "logp64_full", "ref_LAST",
        r"threshold_\d+", r"mask_\d+", r"logp_\d+", r"layer\d+_out_\d+", r"logp64_removed_\d+",
    ),
    unconsumed={
        r"threshold_eval_\d+": "thresholds between two scores; lastax selects by index",
    },
    facts=("cases", "ratios"),
    options=(*NETWORK_OPTIONS, "remaining", "logp_shift_from_unpruned"),
)  # fmt: skip


def parameters(kind: Kind) -> dict[str, dict]:
    cases = {case.name: case for case in kind.listed(DECLARATION)}
    return {
        "case": cases,
        "cut": {
            f"{name}-{ratio}": (case, ratio)
            for name, case in cases.items()
            for ratio in kind.facts["ratios"]
        },
    }


def model_of(case: Case) -> lastax.Classifier | lastax.nn.Retrieval:
    return network(case.below("params"), case.below("batch_stats"), case.options)


@compiled
def log_probabilities(model, batch, rescale=1.0):
    return jax.nn.log_softmax(lastax.predict(model, batch, step_rescale=rescale))


def test_every_array_is_known(kind):
    assert_all_known(kind, parameters(kind)["case"].values(), DECLARATION)


def test_full_model(case):
    log_p, _ = evaluated(model_of(case), case)
    assert_within(log_p, case["logp_full"], 2e-5)


def test_full_model_in_float64(case, x64):
    model, batch = widened(model_of(case)), widened(batch_of(case))
    log_p = log_probabilities(model, batch, case.options["step_rescale"])
    assert_within(log_p, case["logp64_full"], 1e-9)


def test_removed_states_are_gone(cut):
    case, ratio = cut
    model = model_of(case)
    mask = case[f"mask_{ratio}"]
    small = lastax.keep_states(model, list(mask))
    remaining = case.options["remaining"][str(ratio)]
    assert lastax.state_counts(small) == remaining
    for layer, count in zip(lastax.find_layers(small), remaining, strict=True):
        channels = case.options["H"]
        assert layer.Lambda_re.shape == layer.Lambda_im.shape == layer.log_step.shape == (count,)
        assert layer.B.shape == (count, channels, 2)
        assert layer.C.shape == (channels, count, 2)
        assert layer.C_reverse is None or layer.C_reverse.shape == (channels, count, 2)


def test_outputs_of_the_masked_model(cut):
    case, ratio = cut
    small = lastax.keep_states(model_of(case), list(case[f"mask_{ratio}"]))
    log_p, outputs = evaluated(small, case)
    assert_within(log_p, case[f"logp_{ratio}"], 2e-5)
    for index, output in enumerate(outputs[1:]):
        assert_within(output, case[f"layer{index}_out_{ratio}"], 2e-5)
    shift = np.abs(np.asarray(log_p) - case["logp_full"]).max()
    expected = case.options["logp_shift_from_unpruned"][str(ratio)]
    np.testing.assert_allclose(shift, expected, rtol=1e-2)


def test_outputs_after_removal_in_float64(cut, x64):
    case, ratio = cut
    small = lastax.keep_states(widened(model_of(case)), list(case[f"mask_{ratio}"]))
    log_p = log_probabilities(small, widened(batch_of(case)), case.options["step_rescale"])
    assert_within(log_p, case[f"logp64_removed_{ratio}"], 1e-9)


def test_published_scores(case):
    model = model_of(case)
    scores = lastax.score_states(lastax.systems(model), "last-published")
    np.testing.assert_allclose(np.stack(scores), case["ref_LAST"], rtol=1e-3)


def test_published_selection(cut):
    """The published score selects the published states, unless ties with the threshold add some."""
    case, ratio = cut
    model = model_of(case)
    total = sum(lastax.state_counts(model))
    count = total * (100 - ratio) // 100
    threshold = np.sort(case["ref_LAST"].ravel())[-count]
    np.testing.assert_array_equal(threshold, case[f"threshold_{ratio}"])
    plan = lastax.plan_pruning(model, ratio=ratio / 100, method="last-published")
    scores = np.concatenate(plan.scores)
    np.testing.assert_allclose(np.sort(scores)[-count], threshold, rtol=1e-3)
    if case[f"mask_{ratio}"].sum() == count:
        np.testing.assert_array_equal(np.stack(plan.keep), case[f"mask_{ratio}"])
