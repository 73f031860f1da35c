"""Intervals of the paired bootstrap, compared with the sampling distribution itself."""

import numpy as np
import pytest

from lastax.experiments import PairedDifference, paired_bootstrap
from lastax.experiments._cells import pack_correct, unpack_correct


def outcomes(rng, runs=1, examples=1000, gain=0.05, spread=0.0):
    """Correctness of two networks per run, which mostly fail on the same examples.

    The second network is better by `gain`, which varies between runs by `spread`.
    """
    difficulty = rng.uniform(size=examples)
    noise = rng.normal(0, 0.1, (2, runs, examples))
    first = difficulty + noise[0] < 0.6
    second = difficulty + noise[1] < 0.6 + gain + rng.normal(0, spread, (runs, 1))
    return first, second


def test_one_run_gives_the_normal_interval_of_paired_differences():
    first, second = outcomes(np.random.default_rng(0), examples=5000)
    found = paired_bootstrap(first, second)
    difference = second[0].astype(float) - first[0]
    error = 1.96 * difference.std() / np.sqrt(5000)
    assert found.difference == pytest.approx(difference.mean(), abs=1e-12)
    assert found.low == pytest.approx(difference.mean() - error, abs=0.05 * error)
    assert found.high == pytest.approx(difference.mean() + error, abs=0.05 * error)
    assert (found.examples, found.runs) == (5000, 1)
    assert not found.within_noise
    # Unpaired accuracies are much less certain.
    assert error < 0.7 * 1.96 * np.sqrt((first.var() + second.var()) / 5000)


@pytest.mark.parametrize(("runs", "spread"), [(12, 0.05), (6, 0.0)])
def test_coverage_on_simulated_data(runs, spread):
    """Intervals contain the true difference about as often as they should."""
    rng = np.random.default_rng(1)
    sizes = {"runs": runs, "examples": 200, "spread": spread}
    truth = np.mean([np.subtract(*outcomes(rng, **sizes)[::-1], dtype=float) for _ in range(1000)])
    found = [paired_bootstrap(*outcomes(rng, **sizes), resamples=200) for _ in range(200)]
    covered = np.mean([one.low <= truth <= one.high for one in found])
    assert 0.91 < covered < 0.995
    width = np.mean([one.high - one.low for one in found])
    needed = 2 * 1.96 * np.std([one.difference for one in found])
    assert 0.9 < width / needed < 1.6


def test_equal_networks_are_within_noise():
    first, _ = outcomes(np.random.default_rng(2), runs=2)
    found = paired_bootstrap(first, first)
    assert found[:3] == (0, 0, 0)
    assert found.within_noise
    with pytest.raises(ValueError, match="no examples"):
        paired_bootstrap(first[:, :0], first[:, :0])


def test_text_is_in_percentage_points():
    assert str(PairedDifference(-0.0004, -0.012, 0.0234, 1000, 3)) == "0.0 (-1.2 to 2.3)"
    # Ends near 0 show on which side of it they are.
    assert str(PairedDifference(-0.01, -0.02, 0.0002, 1000, 3)) == "-1.0 (-2.0 to 0.0)"
    assert str(PairedDifference(-0.01, -0.02, -0.0002, 1000, 3)) == "-1.0 (-2.0 to -0.02)"
    assert str(PairedDifference(0.01, 0.0004, 0.02, 1000, 3)) == "1.0 (0.04 to 2.0)"
    assert str(PairedDifference(0.01, 0.0, 0.02, 1000, 3)) == "1.0 (0.0 to 2.0)"


@pytest.mark.parametrize("examples", [1, 8, 13])
def test_correct_examples_are_kept_in_a_cell(examples):
    correct = np.random.default_rng(examples).uniform(size=examples) < 0.5
    np.testing.assert_array_equal(unpack_correct(pack_correct(correct)), correct)
