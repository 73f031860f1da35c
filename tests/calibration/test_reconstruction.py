"""Block-wise reconstruction: the blocks of a pruned network approach the original outputs."""

import dataclasses

import equinox as eqx
import jax
import numpy as np
import pytest

import lastax
from lastax.calibration import _reconstruction

from ..calibration_helpers import KINDS, LENGTHS, data, kind_of, logits, network
from ..systems import compiled

FORWARD = lastax.nn.NetworkForward()
enter = compiled(FORWARD.enter)


@compiled
def block_output(block, states):
    return FORWARD.after(block, states, jax.vmap(block.layer)(FORWARD.before(block, states)))


def block_errors(model, small, batch):
    """Of each block of `small`, on what the blocks below it give, by plain forward passes."""
    length = batch.get("length")
    original, reduced = (enter(one, batch["x"], length) for one in (model, small))
    errors = []
    for before, after in zip(FORWARD.blocks(model), FORWARD.blocks(small), strict=True):
        original, reduced = (
            block_output(block, states) for block, states in ((before, original), (after, reduced))
        )
        left = np.asarray(original.hidden - reduced.hidden)[np.asarray(original.valid)]
        errors.append(float(np.mean(left**2)))
    return errors


def test_a_negative_number_of_steps_is_refused():
    model = network()
    with pytest.raises(ValueError, match="reconstruct: steps must not be negative, got -1"):
        lastax.reconstruct(model, model, data(), steps=-1)


@pytest.mark.slow
@KINDS
def test_reconstruction_reduces_the_error_of_each_block(settings):
    model, batch = network(**settings), data(**kind_of(settings))
    # The same share of each layer: blocks of equal shapes are compiled once.
    pruned = lastax.prune(model, ratio=0.5, method="uniform-magnitude")
    small = lastax.reconstruct(model, pruned, batch, steps=30)
    assert lastax.state_counts(small) == lastax.state_counts(pruned)
    before, after = (block_errors(model, one, batch) for one in (pruned, small))
    assert after[0] < 0.5 * before[0]
    assert after[-1] < 0.5 * before[-1]
    wanted = logits(model, batch)
    moved = [
        lastax.calibration.mean_kl_divergence(wanted, logits(one, batch)) for one in (pruned, small)
    ]
    assert moved[1] < 0.5 * moved[0]


def test_removing_a_duplicate_state_is_compensated():
    """Of two states with one pole one is enough, if its input or output map becomes their sum."""
    model = network(layers=1, states=4)
    layer = model.encoder.blocks[0].layer
    twins = {
        name: getattr(layer, name).at[2:].set(getattr(layer, name)[:2])
        for name in ("Lambda_re", "Lambda_im", "log_step", "B")
    }
    model = eqx.tree_at(
        lambda m: m.encoder.blocks[0].layer, model, dataclasses.replace(layer, **twins)
    )
    pruned = lastax.keep_states(model, [np.array([True, True, False, False])])
    (before,), (after,) = (
        block_errors(model, one, data())
        for one in (pruned, lastax.reconstruct(model, pruned, data(), steps=100))
    )
    assert after < 0.01 * before


def test_an_unpruned_network_is_unchanged():
    model = network()
    same = lastax.reconstruct(model, model, data(), steps=5)
    assert eqx.tree_equal(same.encoder, model.encoder)
    np.testing.assert_allclose(same.head.weight, model.head.weight, rtol=1e-6)
    np.testing.assert_allclose(same.head.bias, model.head.bias, rtol=1e-5, atol=1e-6)


def test_running_statistics_and_the_embedding_are_unchanged():
    model = network()
    messages = []
    pruned = lastax.prune(model, ratio=0.5)
    small = lastax.reconstruct(model, pruned, data(), steps=5, on_progress=messages.append)
    assert "reconstructing block 0, of 2, step 1" in messages
    assert messages[-1].startswith("reconstructing block 1, of 2")
    assert eqx.tree_equal(small.encoder.embed, model.encoder.embed)
    for old, new in zip(model.encoder.blocks, small.encoder.blocks, strict=True):
        assert eqx.tree_equal(old.norm.running, new.norm.running)


@pytest.mark.parametrize("mask_padding", [False, True])
def test_padding_does_not_affect_the_reconstruction(mask_padding):
    model = network(mask_padding=mask_padding, bidirectional=False)
    pruned, batch = lastax.prune(model, ratio=0.5), data(lengths=LENGTHS)
    other = batch["x"].copy()
    for record, length in zip(other, LENGTHS, strict=True):
        record[length:] = 7
    reconstructed = [
        lastax.reconstruct(model, pruned, {**batch, "x": x}, steps=5) for x in (batch["x"], other)
    ]
    assert eqx.tree_equal(*reconstructed, rtol=1e-4, atol=1e-5)


def test_error_and_gradient_do_not_depend_on_chunks():
    model = network(layers=1)
    (block,) = FORWARD.blocks(lastax.prune(model, ratio=0.5))
    x = data(records=8)["x"]

    def pair(x):
        states = FORWARD.enter(model, x, None)
        return states, states._replace(hidden=2 * states.hidden)

    def stacked(*parts):
        return [jax.tree.map(lambda *parts: np.stack(parts), *parts)]

    whole = _reconstruction.squared_error(FORWARD, block, stacked(pair(x)))
    parts = [pair(x[:4]), pair(x[4:])]
    for pieces in (stacked(*parts), [*stacked(parts[0]), *stacked(parts[1])]):
        error, slope = _reconstruction.squared_error(FORWARD, block, pieces)
        np.testing.assert_allclose(error, whole[0], rtol=1e-5)
        np.testing.assert_allclose(slope, whole[1], rtol=1e-4, atol=1e-4)


def test_networks_of_other_depth_and_unknown_models_are_rejected():
    with pytest.raises(ValueError, match="same number of blocks, got 2 and 1"):
        lastax.reconstruct(network(), network(layers=1), data())
    with pytest.raises(ValueError, match="no block-wise forward pass is known for dict"):
        lastax.reconstruct({}, {}, data())


def test_data_that_are_not_finite_are_rejected():
    batch = data()
    batch["x"][3, 5, 1] = np.nan
    with pytest.raises(ValueError, match=r"records \[3\] hold values that are not finite"):
        lastax.reconstruct(network(), network(), batch)


def test_some_batches_may_be_padded():
    model = network(bidirectional=False)
    pruned = lastax.prune(model, ratio=0.5)
    batches = [{"x": data()["x"]}, {**data(lengths=LENGTHS)}]
    small = lastax.reconstruct(model, pruned, batches, steps=1)
    assert lastax.state_counts(small) == lastax.state_counts(pruned)
