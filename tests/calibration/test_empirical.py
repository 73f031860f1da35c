"""Scores and balancing from moments of calibration data."""

import jax
import numpy as np
import pytest

import lastax
from lastax.ssm._multi_siso import subsystems

from ..calibration_helpers import calibrated, data, logits, network
from ..systems import compiled, loop


@pytest.mark.parametrize("layer", ["s5", "s4d", "lru"])
def test_empirical_energy_is_the_output_energy_of_each_state(layer):
    """The definition: the mean square of the first layer's output with all other states removed."""
    model, batch = network(layer=layer), data()
    moments = calibrated(layer=layer).moments
    systems = lastax.systems(model)
    scores = lastax.score_states(systems, "empirical-energy", moments=moments)[0]
    block = model.encoder.blocks[0]
    hidden = compiled(jax.vmap(lambda x: block.norm(model.encoder.embed(x))[0]))(batch["x"])
    # Each state of a MultiSISO is a single-channel system.
    single = subsystems(systems[0])
    energies = np.zeros(systems[0].states)
    for u in np.asarray(hidden, np.float64):
        for state in range(len(energies)):
            inputs = u[:, [systems[0].channel[state]]] if layer == "s4d" else u
            alone = single.keep(np.arange(len(energies)) == state)
            energies[state] += np.sum((loop(alone, inputs) - inputs * alone.D) ** 2)
    np.testing.assert_allclose(scores, lastax.pruning.layer_adaptive(energies), rtol=1e-3)


@pytest.mark.parametrize("layer", ["s5", "s4d", "lru"])
def test_empirical_balancing_has_a_smaller_error_on_the_data(layer):
    """Without a refit, the outputs are closer to the original ones than with white inputs."""
    model, batch = network(layer=layer), data(records=12)
    moved = {}
    for method in ("balanced", "empirical-balanced"):
        small = lastax.prune(model, ratio=0.6, method=method, calibration=batch)
        assert 2 <= sum(lastax.state_counts(small)) <= 0.4 * sum(lastax.state_counts(model))
        assert all(np.all(np.abs(system.lam) < 1) for system in lastax.systems(small))
        moved[method] = lastax.calibration.mean_kl_divergence(
            logits(model, batch), logits(small, batch)
        )
    assert moved["empirical-balanced"] < moved["balanced"]
