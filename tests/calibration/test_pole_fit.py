"""Poles of scalar channels that are fitted to targets."""

import dataclasses

import numpy as np
import pytest

import lastax
from lastax.calibration._features import state_slots
from lastax.calibration._pole_fit import fitted_poles


def channels(lam, C):
    """A system of `H` channels with as many states each, in float64."""
    lam, C = np.asarray(lam, complex), np.asarray(C, complex)
    ones = np.ones(lam.size, complex)
    return lastax.MultiSISO(
        lam.ravel(), ones, C.ravel(), None, np.zeros(len(lam)), (lam.shape[1],) * len(lam)
    )


def responses(system, u):
    """Outputs by the recurrence, step by step."""
    slots, lam = state_slots(system), np.asarray(system.lam)
    x, y = np.zeros((len(u), system.states), complex), np.empty(u.shape)
    for k in range(u.shape[1]):
        x = lam * x + np.asarray(system.B) * u[:, k][:, np.asarray(system.channel)]
        parts = np.where(slots >= 0, 2 * (np.asarray(system.C) * x).real[:, slots], 0)
        y[:, k] = parts.sum(axis=-1) + np.asarray(system.D) * u[:, k]
    return y


def least_error(system, u, y, valid):
    """Squared error of each channel after a fit of its output weights and `D`, by states."""
    lam, B = np.asarray(system.lam), np.asarray(system.B)
    errors = []
    for channel in range(u.shape[2]):
        mine = np.asarray(system.channel) == channel
        x, rows = np.zeros((len(u), mine.sum()), complex), []
        for k in range(u.shape[1]):
            x = lam[mine] * x + B[mine] * u[:, k, channel, None]
            rows.append(np.concatenate([x.real, x.imag, u[:, k, channel, None]], axis=1))
        columns, targets = np.stack(rows, axis=1)[valid], y[..., channel][valid]
        fit = np.linalg.lstsq(columns, targets, rcond=None)[0]
        errors.append(np.sum((columns @ fit - targets) ** 2))
    return np.array(errors)


def test_the_poles_that_made_the_targets_are_found():
    rng = np.random.default_rng(0)
    lam = np.exp([[-0.02 + 0.3j, -0.1 + 1.1j], [-0.004 + 0.05j, -0.3 + 2.0j]])
    target = channels(lam, rng.normal(size=(2, 2)) + 1j * rng.normal(size=(2, 2)))
    u = rng.normal(size=(5, 120, 2)).cumsum(axis=1) * 0.1
    valid = np.arange(120) < np.array([120, 100, 120, 60, 120])[:, None]
    y = responses(target, u)
    theta = np.log(lam)
    start = dataclasses.replace(
        target, lam=np.exp(1.4 * theta.real + 1j * (1.2 * theta.imag + 0.02)).ravel()
    )
    found = fitted_poles(start, u, y, valid)
    energy = np.sum(y**2 * valid[..., None], axis=(0, 1))
    assert np.all(least_error(start, u, y, valid) > 1e-4 * energy)
    assert np.all(least_error(found, u, y, valid) < 1e-7 * energy)
    np.testing.assert_allclose(found.lam, lam.ravel(), atol=1e-4)


def test_no_channel_gets_a_larger_error_and_other_channels_keep_their_poles():
    rng = np.random.default_rng(1)
    counts = (2, 9, 0, 1, *[2] * 20)
    theta = -np.exp(rng.uniform(-5, 0, 52)) + 1j * rng.uniform(0, 3, 52)
    ones = np.ones(52, complex)
    system = lastax.MultiSISO(np.exp(theta), ones, ones, None, np.zeros(24), counts)
    u, y = rng.normal(size=(2, 3, 50, 24))
    valid = np.ones((3, 50), bool)
    found = fitted_poles(system, u, y, valid)
    moved = found.lam != system.lam
    assert not moved[2:11].any()
    assert moved[:2].any()
    assert moved[11:].mean() > 0.9
    assert np.all(np.abs(found.lam) < 1)
    before, after = (least_error(one, u, y, valid) for one in (system, found))
    assert np.all(after <= before * (1 + 1e-6))
    assert np.mean(after < 0.999 * before) > 0.8


def test_channels_without_input_or_target_and_states_without_memory():
    system = channels([[0.9, 0.5j], [0.9, 0.0], [0.0, 0.8]], np.ones((3, 2)))
    u, y = np.random.default_rng(3).normal(size=(2, 2, 20, 3))
    u[..., 0], y[..., 1] = 0, 0
    found = fitted_poles(system, u, y, np.ones((2, 20), bool))
    assert np.isfinite(found.lam).all()
    assert np.all(np.abs(found.lam) < 1)


@pytest.mark.parametrize("change", ["bidirectional", "unstable"])
def test_poles_stay_without_a_closed_form(change):
    system = channels([[0.5, 0.9]], [[1, 1]])
    if change == "bidirectional":
        system = dataclasses.replace(system, C_reverse=system.C)
    else:
        system = dataclasses.replace(system, lam=np.array([0.5, 1.01], complex))
    u, y = np.random.default_rng(2).normal(size=(2, 1, 9, 1))
    assert fitted_poles(system, u, y, np.ones((1, 9), bool)) is system
